r"""A polytope that is known through its prices only: facets and vertices, exactly.

Let ``load`` be a gauge (convex, homogeneous, increasing) and let every point have prices ``w`` with
:math:`w \cdot x = load(x)` and :math:`w \cdot y \le load(y)` for all ``y``. Then
:math:`\{x \ge 0: load(x) \le 1\}` lies in every half-space :math:`w \cdot x \le 1`. Start with the
prices of the axes. A corner of the bounds with a load above 1 is cut off by its own prices; a
corner with load 1 is a vertex. There are finitely many price lists, so this ends, with the region.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from fractions import Fraction
from typing import TypeAlias

from llmq.theory.facets import corner_points

__all__ = ["Vector", "polytope"]

Vector: TypeAlias = tuple[Fraction, ...]


def polytope(
    n: int, price: Callable[[Vector], tuple[Fraction, Vector]]
) -> tuple[list[Vector], list[Vector]]:
    """Return the facets and the vertices of ``{x >= 0 : load(x) <= 1}``.

    Parameters
    ----------
    n : int
        Dimension.
    price : callable
        Load and prices at a point.

    Returns
    -------
    tuple of list of tuple of Fraction
        Prices ``w`` of the facets ``w . x <= 1``, and vertices but the origin, ascending.

    Raises
    ------
    InputError
        Too many dimensions and facets to enumerate.

    Examples
    --------
    >>> one, half = Fraction(1), Fraction(1, 2)
    >>> polytope(2, lambda x: max((x[0] + half * x[1], (one, half)), (x[1], (Fraction(0), one))))[1]
    [(Fraction(0, 1), Fraction(1, 1)), (Fraction(1, 2), Fraction(1, 1)),
     (Fraction(1, 1), Fraction(0, 1))]
    """
    inside: set[Vector] = set()
    axes = [tuple(Fraction(i == j) for j in range(n)) for i in range(n)]
    rows = dict.fromkeys(price(axis)[1] for axis in axes)
    while True:
        points = corner_points(list(rows))
        for point in points:
            if point not in inside:
                load, prices = price(point)
                if load > 1:
                    rows[prices] = None
                else:
                    inside.add(point)
        if inside.issuperset(points):
            return [w for w in rows if _rank([p for p in points if _dot(w, p) == 1]) == n], points


def _rank(points: Iterable[Vector]) -> int:
    """Linear rank; a bound away from the origin is a facet if it is tight at a basis."""
    basis: list[tuple[int, Vector]] = []
    for point in points:
        rest = point
        for j, row in basis:
            rest = tuple(a - rest[j] * b for a, b in zip(rest, row, strict=True))
        if pivot := next((j for j, a in enumerate(rest) if a), -1) + 1:
            basis.append((pivot - 1, tuple(a / rest[pivot - 1] for a in rest)))
    return len(basis)


def _dot(w: Vector, x: Vector) -> Fraction:
    return sum((a * b for a, b in zip(w, x, strict=True)), Fraction(0))
