r"""Facets and vertices of the capacity polytope of one engine (Theorem U, general token curves).

Let one second of the engine hold ``N`` iterations and let ``B = sum rate_j v_j``. With the pieces
:math:`(c_i, a_i)` of the token curve (:mod:`llmq.theory.envelope`) the engine time is at least

.. math:: \rho = \min_N \max_i (c_i N + a_i B) + \sum_j \lambda_j (e\,g_j + w\,W_j),
          \qquad N \ge \sum_j \lambda_j n_j^f \ \text{ for each resource } f,

where a request needs so many iterations because an iteration has so many tokens, slots and KV:
:math:`n^{tokens} = v / b_{max}`, :math:`n^{slots} = k / k_{max}`, :math:`n^{memory} = g / M`. The
maximum over ``i`` is convex in ``N``, so the minimum is explicit, and :math:`\rho(\lambda)` is the
largest of :math:`\sum_j \lambda_j w_j` over

* a piece with :math:`c_i > 0` and a resource: :math:`w_j = a_i v_j + e g_j + w W_j + c_i n_j^f`;
* "compute", where batches below the budget are the most productive: no iteration count binds,
  :math:`w_j = a^* v_j + e g_j + w W_j` with :math:`a^* = \min_n f(n) / n`.

Affine laws have one piece: these are the three facets of Theorem U. Its special cases: tokens with
``e = 0`` is Dai et al.; compute is RAD; memory with ``a = e = w = 0`` is Nie et al. (``c`` the mean
batch time) and Dong-Cao (``c = 1``); memory with ``a = 0`` and area "wait" is WAIT.

References: theory core 2.4; Dai, Deng, Li and Peng, arXiv 2504.07347; Nie, Si and Zhou, arXiv
2605.04595; Ao et al., arXiv 2504.11320; Bari, Hegde and de Veciana, arXiv 2508.01002.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations
from operator import mul

from llmq.errors import InputError
from llmq.theory.envelope import Envelope

__all__ = [
    "Facet",
    "Weights",
    "bottleneck",
    "build_facets",
    "corner_points",
    "heaviest",
    "split_dominated",
    "weigh",
]

Weights = tuple[Fraction, ...]
# Exact solves beyond this would take longer than a person waits.
_MOST_SYSTEMS = 20_000

_WORDS = {
    "memory": (
        "KV memory binds",
        "more KV memory, quantised KV or shorter requests raise the capacity",
    ),
    "slots": ("the slots bind", "a larger max_seqs raises the capacity"),
    "tokens": ("the token budget binds", "a larger token_budget or a faster GPU raises it"),
    "compute": ("compute binds", "no budget limits it: only a faster GPU raises the capacity"),
}


@dataclass(frozen=True, slots=True)
class Facet:
    """One linear bound ``sum_j rate_j * weights_j <= 1``.

    Parameters
    ----------
    resource : {"compute", "tokens", "slots", "memory"}
        What the bound prices beside the work itself.
    weights : tuple of float
        Engine-seconds per request, classes in the order of the region.
    exact : tuple of fractions.Fraction
        The same, exactly.
    share : tuple of float
        Part of each weight that pays for the resource: iterations that only the resource makes
        necessary, or token time for "compute".
    intercept, slope : fractions.Fraction
        Piece of the token curve: seconds, seconds per token.
    """

    resource: str
    weights: tuple[float, ...]
    exact: Weights
    share: tuple[float, ...]
    intercept: Fraction
    slope: Fraction

    def exactly(self, rates: Sequence[Fraction]) -> Fraction:
        """Weigh rates in rationals.

        Parameters
        ----------
        rates : sequence of fractions.Fraction
            Requests per second of each class.

        Returns
        -------
        fractions.Fraction
            Engine-seconds per second.
        """
        return sum(map(mul, self.exact, rates), Fraction(0))


def build_facets(
    curve: Envelope, tokens: Weights, attention: Weights, iterations: Mapping[str, Weights]
) -> tuple[Facet, ...]:
    """Return the bounds of an engine.

    Parameters
    ----------
    curve : Envelope
        Token curve.
    tokens : tuple of Fraction
        Tokens of a request of each class.
    attention : tuple of Fraction
        Seconds of attention of a request: KV read and prefill work.
    iterations : mapping of str to tuple of Fraction
        For each resource the iterations that a request needs.

    Returns
    -------
    tuple of Facet
        Dominated ones included.
    """
    n, time = curve.best
    pieces = curve.pieces
    found = []
    if n < curve.tokens[-1]:
        slope = time / n
        part = tuple(slope * v for v in tokens)
        found.append(_facet("compute", (Fraction(0), slope), part, attention))
    for c, a in pieces:
        if c > 0:
            rest = tuple(a * v + t for v, t in zip(tokens, attention, strict=True))
            found += [
                _facet(resource, (c, a), tuple(c * n for n in counts), rest)
                for resource, counts in iterations.items()
                # At full batches the last piece is the highest.
                if resource != "tokens" or (c, a) == pieces[-1]
            ]
    return tuple(found)


def _facet(resource: str, piece: tuple[Fraction, Fraction], part: Weights, rest: Weights) -> Facet:
    exact = tuple(map(Fraction.__add__, part, rest))
    weights = tuple(map(float, exact))
    share = tuple(float(p) / w if w else 0.0 for p, w in zip(part, weights, strict=True))
    return Facet(resource, weights, exact, share, *piece)


def split_dominated(facets: Sequence[Facet]) -> tuple[tuple[Facet, ...], tuple[Facet, ...]]:
    """Separate the bounds that another one implies class by class.

    Parameters
    ----------
    facets : sequence of Facet
        Bounds; of equal ones the first is kept.

    Returns
    -------
    tuple of tuple of Facet
        Those kept, in order, and those dominated.
    """
    kept: list[Facet] = []
    dropped: list[Facet] = []
    # A heavier facet cannot be dominated by a lighter one; the sort is stable.
    for facet in sorted(facets, key=lambda f: -sum(f.exact)):
        implied = any(all(map(Fraction.__le__, facet.exact, other.exact)) for other in kept)
        (dropped if implied else kept).append(facet)
    order = {id(facet): i for i, facet in enumerate(facets)}
    return (
        tuple(sorted(kept, key=lambda f: order[id(f)])),
        tuple(sorted(dropped, key=lambda f: order[id(f)])),
    )


def corner_points(rows: Sequence[Weights]) -> list[Weights]:
    r"""Return the vertices of ``{x >= 0 : row . x <= 1 for each row}`` but the origin.

    Every vertex has as many positive coordinates as bounds that hold with equality and determine
    it, so all square subsystems are solved, in rationals.

    Parameters
    ----------
    rows : sequence of tuple of Fraction
        Weights >= 0 of each bound.

    Returns
    -------
    list of tuple of Fraction
        Ascending in the first coordinate, then the next.

    Raises
    ------
    InputError
        Too many classes and bounds to enumerate.

    Examples
    --------
    >>> corner_points([(Fraction(1), Fraction(2)), (Fraction(2), Fraction(1))])
    [(Fraction(0, 1), Fraction(1, 2)), (Fraction(1, 3), Fraction(1, 3)),
     (Fraction(1, 2), Fraction(0, 1))]
    """
    n = len(rows[0])
    systems = math.comb(n + len(rows), n) - 1
    if systems > _MOST_SYSTEMS:
        raise InputError(
            f"{n} classes and {len(rows)} facets give up to {systems:,} vertices, more than the "
            f"{_MOST_SYSTEMS:,} that are enumerated: use boundary(direction) for single points, "
            "or merge classes",
            classes=n, facets=len(rows),
        )  # fmt: skip
    points = {
        point
        for support, tight in _systems(n, len(rows))
        if (point := _solve([[rows[i][j] for j in support] for i in tight], support, n))
        and all(sum(map(Fraction.__mul__, row, point), Fraction(0)) <= 1 for row in rows)
    }
    return sorted(points)


def _systems(n: int, m: int) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    for size in range(1, min(n, m) + 1):
        for support in combinations(range(n), size):
            for tight in combinations(range(m), size):
                yield support, tight


def _solve(matrix: list[list[Fraction]], support: tuple[int, ...], n: int) -> Weights | None:
    """Solve ``matrix x = 1`` by Gauss-Jordan; None unless the solution is unique and positive."""
    rows = [[*row, Fraction(1)] for row in matrix]
    for col in range(len(rows)):
        pivot = next((i for i in range(col, len(rows)) if rows[i][col]), None)
        if pivot is None:
            return None
        rows[col], rows[pivot] = rows[pivot], rows[col]
        rows[col] = [x / rows[col][col] for x in rows[col]]
        for i, row in enumerate(rows):
            if i != col and row[col]:
                rows[i] = [x - row[col] * y for x, y in zip(row, rows[col], strict=True)]
    values = [row[-1] for row in rows]
    if min(values) <= 0:
        return None
    point = [Fraction(0)] * n
    for j, value in zip(support, values, strict=True):
        point[j] = value
    return tuple(point)


def bottleneck(resource: str, share: float, kind: str = "") -> str:
    """Say in words what binds and what to buy.

    Parameters
    ----------
    resource : {"memory", "slots", "tokens", "compute"}
        What binds.
    share : float
        Its share of the price of a request.
    kind : str
        Class of that request, where there are several.

    Returns
    -------
    str
        One sentence.

    Examples
    --------
    >>> bottleneck("slots", 0.85, "chat")
    'the slots bind: 85 % of the price of a chat request; a larger max_seqs raises the capacity'
    """
    what, then = _WORDS[resource]
    whose = f"{kind} request" if kind else "request"
    return f"{what}: {100 * share:.0f} % of the price of a {whose}; {then}"


def weigh(weights: Sequence[float], vector: Sequence[float]) -> float:
    """Sum of products.

    Parameters
    ----------
    weights, vector : sequence of float
        One number for each class.

    Returns
    -------
    float
        ``sum_j weights_j * vector_j``.
    """
    return float(sum(map(mul, weights, vector)))


def heaviest(facets: Sequence[Facet], vector: Sequence[float]) -> float:
    """Load of some rates: the largest facet.

    Parameters
    ----------
    facets : sequence of Facet
        Bounds of one engine.
    vector : sequence of float
        Requests per second of each class.

    Returns
    -------
    float
        Engine-seconds per second.
    """
    return max(weigh(facet.weights, vector) for facet in facets)
