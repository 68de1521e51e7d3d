r"""Facets and vertices of a fleet from those of its pools.

**A pool.** An engine of pool ``h`` carries the flows ``f`` of its classes if some iterations do:
by duality, if :math:`\sum_j f_j w_j \le 1` for every vertex ``(p, m)`` of

.. math:: \{p, m \ge 0 : p \cdot x + m \cdot C \le t(x) \text{ for all configurations } x\},
          \qquad w_j = p \cdot a_j + m \cdot g_j + s_j ,

prices of a token of each buffer and of each limit (KV memory, slots). That is a polytope of two to
four dimensions, so its vertices are found at once
(:func:`~llmq.theory.linear._polytope.corner_points`), and with them the polytope :math:`P_h` of one
engine: the closed form of :mod:`llmq.theory.needs._facets`, for any set of configurations.

**A fleet** whose requests each stay in one pool carries the sum :math:`\bigoplus_h N_h P_h`. Its
support function is :math:`h(w) = \sum_h N_h \max_{v \in P_h} w \cdot v`, no linear programme
needed. The price lists ``w`` with :math:`h(w) \le 1` are a polytope of the kind that
:func:`~llmq.theory.linear._polytope.enclose` enumerates: its "prices" are the points that attain
``h``. Its heaviest vertices are the facets of the fleet, and :math:`\max_v w \cdot v` is what an
engine-second of each pool is worth under ``w``.

Requests that pass two pools (prefill, decode, link) are not covered: see
:mod:`llmq.theory.region.routing`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from operator import mul

from llmq.theory.linear._polytope import Vector, corner_points, enclose, essential, integers
from llmq.theory.needs._envelope import envelope
from llmq.theory.planning_lp._configurations import Configuration, TwoPhase
from llmq.theory.planning_lp._static import PlanningProblem, Pool

__all__ = ["PoolPolytope", "fleet_polytope", "pool_polytope", "scarce", "single_stops"]

_ZERO = Fraction(0)
Priced = tuple[Vector, str]


@dataclass(frozen=True, slots=True)
class PoolPolytope:
    """Rates that one engine of a pool carries."""

    engines: int  # how many there are
    # engine-seconds per request of each class of the problem, 0 for those it does not serve,
    # and the resource that the bound prices; (tuple of Fraction, str)
    bounds: tuple[Priced, ...]
    corners: tuple[Vector, ...]  # vertices that no other exceeds class by class
    whole: tuple[tuple[int, ...], ...]  # the corners times ``unit``
    unit: int  # their common denominator

    def worth(self, prices: Vector) -> tuple[Fraction, Vector]:
        """Value of an engine-second and the rates that attain it."""
        whole, unit = integers(prices)
        value, best = max((sum(map(mul, whole, xs)), i) for i, xs in enumerate(self.whole))
        return Fraction(value, unit * self.unit), self.corners[best]

    def resource(self, prices: Vector) -> str:
        """Resource that binds where an engine serves what the prices favour."""
        whole, _ = integers(prices)
        values = [sum(map(mul, whole, xs)) for xs in self.whole]
        ties = [c for c, value in zip(self.corners, values, strict=True) if value == max(values)]
        middle = tuple(sum(xs, _ZERO) for xs in zip(*ties, strict=True))
        return max(self.bounds, key=lambda bound: _dot(bound[0], middle))[1]


def single_stops(problem: PlanningProblem) -> bool:
    """Say whether every request stays in one pool."""
    return all(len(route) == 1 for routes in problem.routes.values() for route in routes)


def pool_polytope(
    pool: Pool, served: Sequence[bool], columns: Sequence[tuple[Configuration, Fraction]]
) -> PoolPolytope:
    """Return the rates that one engine of a pool carries."""
    sizes = [Fraction(c) for c in pool.limits.values()]
    rows = [(*(x / t for x in batch), *(c / t for c in sizes)) for batch, t in columns]
    found: dict[Vector, str] = {}
    for dual in corner_points(rows):
        tokens = dict(zip(pool.buffers, dual, strict=False))
        limits = dict(zip(pool.limits, dual[len(tokens) :], strict=True))
        weights = tuple(
            sum((v * tokens[k] for k, v in need.tokens.items()), need.seconds)
            + sum((v * limits[k] for k, v in need.limits.items()), _ZERO)
            for need in pool.needs.values()
        )
        found.setdefault(weights, scarce(pool, tokens, limits))
    heavy = _heaviest(list(found))
    corners = _heaviest(corner_points(heavy))
    spread = tuple(_spread(corner, served) for corner in corners)
    unit = math.lcm(*(x.denominator for corner in spread for x in corner))
    return PoolPolytope(
        pool.engines,
        tuple((_spread(w, served), found[w]) for w in heavy),
        spread,
        tuple(tuple(int(x * unit) for x in corner) for corner in spread),
        unit,
    )


def _heaviest(lists: list[Vector]) -> list[Vector]:
    """Those that no other one exceeds in every entry."""
    return [w for w in lists if not any(w != o and all(map(Fraction.__le__, w, o)) for o in lists)]


def _spread(values: Vector, served: Sequence[bool]) -> Vector:
    """Values of the classes that are served, among all."""
    each = iter(values)
    return tuple(next(each) if yes else _ZERO for yes in served)


def scarce(pool: Pool, tokens: Mapping[str, Fraction], limits: Mapping[str, Fraction]) -> str:
    """Name the resource that prices of a pool pay for."""
    if pool.law is None or pool.batches is None:
        return "link"
    paid = {name: pool.limits[name] * price for name, price in limits.items() if price}
    if paid:
        return max(paid, key=lambda name: paid[name])
    if isinstance(pool.batches, TwoPhase):
        shared = pool.batches.slots is not None
        if shared and tokens["decode"] > tokens["prefill"]:
            return "slots"
    budget = pool.batches.token_budget
    return "tokens" if envelope(pool.law, budget).best[0] == budget else "compute"


def fleet_polytope(
    problem: PlanningProblem, pools: Sequence[PoolPolytope]
) -> tuple[list[Vector], list[Vector]]:
    """Return the facets and the vertices of a fleet."""
    n = len(problem.rates)

    def support(prices: Vector) -> tuple[Fraction, Vector]:
        value, point = _ZERO, [_ZERO] * n
        for pool in pools:
            worth, corner = pool.worth(prices)
            value += pool.engines * worth
            point = [x + pool.engines * y for x, y in zip(point, corner, strict=True)]
        return value, tuple(point)

    lists = enclose(n, support)[1]
    heavy = _heaviest(lists)
    corners = corner_points(heavy)
    return essential(heavy, corners), corners


def _dot(prices: Vector, point: Vector) -> Fraction:
    return sum(map(mul, prices, point), _ZERO)
