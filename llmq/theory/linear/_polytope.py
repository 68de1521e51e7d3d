r"""Polytopes in rationals: vertices from bounds, and regions that are known through prices only.

**Double description.** The vertices of :math:`\{x \ge 0 : w_i \cdot x \le 1\}` are the rays of the
cone :math:`\{(x, t) \ge 0 : t - w_i \cdot x \ge 0\}` with ``t > 0``. Bounds are added one by one:
rays that violate the new bound go, and each pair of neighbours, one on either side of it, gives the
ray between them. Two rays are neighbours if no third one lies on all bounds on which both lie. Rays
are vectors of coprime integers, so ties are seen as ties (Motzkin et al., 1953; Fukuda and Prodon,
1996).

**Prices.** Let ``load`` be a gauge (convex, homogeneous, increasing) and let every point have
prices ``w`` with :math:`w \cdot x = load(x)` and :math:`w \cdot y \le load(y)` for all ``y``. Then
:math:`\{x \ge 0: load(x) \le 1\}` lies in every half-space :math:`w \cdot x \le 1`. Start with the
prices of the axes. A corner of the bounds with a load above 1 is cut off by its own prices; a
corner with load 1 is a vertex. There are finitely many price lists, so this ends, with the region.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from itertools import product
from operator import mul
from typing import TypeAlias

from llmq.errors import InputError

__all__ = ["Vector", "blocker", "corner_points", "enclose", "essential", "integers", "polytope"]

Vector: TypeAlias = tuple[Fraction, ...]
Ray: TypeAlias = tuple[int, ...]
# Vertices, and rays on the way: beyond this a person would wait too long.
_MOST_SYSTEMS, _MOST_RAYS = 2_000_000, 2000


def corner_points(rows: Sequence[Vector]) -> list[Vector]:
    r"""Return the vertices of ``{x >= 0 : row . x <= 1 for each row}`` but the origin.

    Examples
    --------
    >>> corner_points([(Fraction(1), Fraction(2)), (Fraction(2), Fraction(1))])
    [(Fraction(0, 1), Fraction(1, 2)), (Fraction(1, 3), Fraction(1, 3)),
     (Fraction(1, 2), Fraction(0, 1))]
    """
    n = len(rows[0])
    if (systems := math.comb(n + len(rows), n) - 1) > _MOST_SYSTEMS:
        raise _too_many(n, len(rows), systems)
    # A bit for each bound on which a ray lies; the first n + 1 are the coordinate planes.
    every = (1 << n + 1) - 1
    rays = {tuple(int(i == j) for j in range(n + 1)): every ^ (1 << i) for i in range(n + 1)}
    for i, row in enumerate(dict.fromkeys(rows), start=n + 1):
        weights, unit = integers(row)
        plane = (*(-w for w in weights), unit)
        rays = _cut(rays, plane, 1 << i, n)
        if len(rays) > _MOST_RAYS:
            raise _too_many(n, len(rows), systems)
    points = (tuple(Fraction(x, ray[-1]) for x in ray[:-1]) for ray in rays if ray[-1])
    return sorted(point for point in points if any(point))


def _cut(rays: dict[Ray, int], plane: Ray, bit: int, n: int) -> dict[Ray, int]:
    """Rays of the cone where ``plane . ray >= 0``, ``bit`` for those with equality."""
    above, below, found = [], [], {}
    for ray, tight in rays.items():
        value = sum(map(mul, plane, ray))
        if value < 0:
            below.append((ray, tight, -value))
        else:
            found[ray] = tight if value else tight | bit
            if value:
                above.append((ray, tight, value))
    masks = list(rays.values())
    for (one, tight, up), (two, other, down) in product(above, below):
        common = tight & other
        # Neighbours: at least n - 1 common bounds, and these two alone lie on all of them.
        if common.bit_count() >= n - 1 and sum(common & m == common for m in masks) == 2:
            between = [down * x + up * y for x, y in zip(one, two, strict=True)]
            size = math.gcd(*between)
            found[tuple(x // size for x in between)] = common | bit
    return found


def blocker(rows: Sequence[Sequence[int]], right: Sequence[int]) -> list[Vector]:
    r"""Return the vertices of ``{x >= 0 : row . x >= right for each row}``.

    Examples
    --------
    >>> blocker([(1, 1), (1, 3)], [2, 3])
    [(Fraction(0, 1), Fraction(2, 1)), (Fraction(3, 2), Fraction(1, 2)),
     (Fraction(3, 1), Fraction(0, 1))]
    """
    n = len(rows[0])
    every = (1 << n + 1) - 1
    rays = {tuple(int(i == j) for j in range(n + 1)): every ^ (1 << i) for i in range(n + 1)}
    for i, (row, value) in enumerate(zip(rows, right, strict=True), start=n + 1):
        rays = _cut(rays, (*row, -value), 1 << i, n)
    return sorted(tuple(Fraction(x, ray[-1]) for x in ray[:-1]) for ray in rays if ray[-1])


def _too_many(n: int, m: int, systems: int) -> InputError:
    return InputError(
        f"{n} classes and {m} facets give up to {systems:,} vertices, more than are enumerated: "
        "use boundary(direction) for single points, or merge classes",
        classes=n,
        facets=m,
    )


def polytope(
    n: int, price: Callable[[Vector], tuple[Fraction, Vector]]
) -> tuple[list[Vector], list[Vector]]:
    """Return the facets and the vertices of ``{x >= 0 : load(x) <= 1}``.

    Examples
    --------
    >>> one, half = Fraction(1), Fraction(1, 2)
    >>> polytope(2, lambda x: max((x[0] + half * x[1], (one, half)), (x[1], (Fraction(0), one))))[1]
    [(Fraction(0, 1), Fraction(1, 1)), (Fraction(1, 2), Fraction(1, 1)),
     (Fraction(1, 1), Fraction(0, 1))]
    """
    rows, points = enclose(n, price)
    return essential(rows, points), points


def enclose(
    n: int, price: Callable[[Vector], tuple[Fraction, Vector]]
) -> tuple[list[Vector], list[Vector]]:
    """Return bounds that make up ``{x >= 0 : load(x) <= 1}``, and its vertices."""
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
            return list(rows), points


def essential(rows: Iterable[Vector], points: Sequence[Vector]) -> list[Vector]:
    """Return the bounds that are facets: tight at as many independent vertices as dimensions."""
    whole = [(point, *integers(point)) for point in points]
    found = []
    for row in rows:
        weights, unit = integers(row)
        tight = [p for p, xs, size in whole if sum(map(mul, weights, xs)) == unit * size]
        if _rank(tight) == len(row):
            found.append(row)
    return found


def integers(vector: Vector) -> tuple[list[int], int]:
    """Write a vector as integers over one denominator: faster than Fractions in long sums.

    Examples
    --------
    >>> integers((Fraction(1, 2), Fraction(1, 3)))
    ([3, 2], 6)
    """
    unit = math.lcm(*(x.denominator for x in vector))
    return [x.numerator * (unit // x.denominator) for x in vector], unit


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
