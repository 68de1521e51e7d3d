r"""Fleets: which rates several kinds of engine carry together, and who should serve whom.

The static planning problem (:mod:`llmq.theory.planning_lp._static`) is solved in rationals for each
question. Its dual is a price list: ``price_j`` is the load that one more request per second of
class ``j`` adds, ``weight_h`` the value of an engine-second of pool ``h``. A class uses the route
whose priced work is least; a router that follows backlogs weighted like this (MaxWeight) carries
every load below 1, while joining the shortest queue may not where relative speeds differ by class.

The region is a polytope; its facets are price lists (:mod:`llmq.theory.planning_lp._minkowski`;
from the prices of many points, :mod:`llmq.theory.linear._polytope`, where requests pass two pools).

Exact at the level of tokens if nothing but token and shared-slot budgets limit a pool and its KV
area costs no time; otherwise an outer bound, and ``contains`` asks the explicit schedules of
:mod:`llmq.theory.region._inner` with the optimal split before it says yes.

References: theory core 2.3, 2.5; Dai and Lin, Operations Research 53(2), 2005.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import ClassVar, TypeAlias

from llmq._input.checked import checked
from llmq.model.engine import Engine
from llmq.model.fleet import Fleet
from llmq.model.request import RequestClass
from llmq.result import Kind, Provenance, provenance
from llmq.theory.linear._polytope import Vector, polytope
from llmq.theory.needs._facets import Bound, bottleneck_of_pool
from llmq.theory.needs._hardware import Limits, counted
from llmq.theory.needs._rates import Rates, rate_vector
from llmq.theory.needs._reuse import Hits, check_hits
from llmq.theory.needs.demand import has_exact_mean
from llmq.theory.planning_lp._configurations import Configuration
from llmq.theory.planning_lp._minkowski import (
    PoolPolytope,
    fleet_polytope,
    pool_polytope,
    scarce,
    single_stops,
)
from llmq.theory.planning_lp._static import Optimum, PlanningProblem, Route, optimise
from llmq.theory.region._bounds import is_exact
from llmq.theory.region._disaggregation import Disaggregation, disaggregate
from llmq.theory.region._gauge import StabilityRegion
from llmq.theory.region._inner import inner_bound
from llmq.theory.region._pools import LINK, ONE_POOL, fleet_assumptions, planning_problem
from llmq.units import as_fraction

__all__ = ["Disaggregation", "FleetRegion", "disaggregate", "fleet_region"]

Mix: TypeAlias = Mapping[str, RequestClass]


@checked(record=True)
@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class FleetRegion(StabilityRegion):
    """Rates that a fleet can serve.

    Parameters
    ----------
    mix : mapping of str to RequestClass
        The classes, in the order of every vector.
    fleet : Fleet
        The fleet.
    engines : int
        Engines of all pools.
    limits : {"settings", "hardware"}
        Whether token budgets, slots and chunks count as given, or are free.
    hits : mapping of str to Fraction
        Share of the prompt tokens of each class that is found again.
    problem : PlanningProblem
        The planning problem at rate 1 of each class.
    columns : mapping of str to tuple
        Configurations of each pool that can be optimal, with their seconds.
    rational : bool
        Whether the mean demands, hence loads and prices, are exact.
    kind : Kind
        ``exact`` or ``outer_bound``.
    assumptions : tuple of str
        What the region rests on.
    source : str
        Catalogue id.
    provenance : Provenance
        How to make it again.
    """

    mix: Mix
    fleet: Fleet
    engines: int
    limits: Limits
    hits: Mapping[str, Fraction]
    problem: PlanningProblem
    columns: Mapping[str, tuple[tuple[Configuration, Fraction], ...]]
    rational: bool
    kind: Kind
    assumptions: tuple[str, ...]
    source: str
    provenance: Provenance

    method: ClassVar[str] = "configurations"

    @checked
    def optimum(self, rates: Rates) -> Optimum:
        """Return flows, batches and prices at these rates, exactly.

        Parameters
        ----------
        rates : mapping of str to float or Fraction
            Requests per second by class; a rate of 0.1 is 1/10.

        Returns
        -------
        Optimum
            Everything in Fractions; its kind is that of the region.

        Raises
        ------
        InputError
            Unknown class, or a rate that is negative or no number.
        """
        found = optimise(self.at(rates), self.columns)
        return replace(found, kind=self.kind, assumptions=self.assumptions, source=self.source)

    @checked
    def at(self, rates: Rates) -> PlanningProblem:
        """Return the planning problem at these rates.

        Parameters
        ----------
        rates : mapping of str to float or Fraction
            Requests per second by class.

        Returns
        -------
        PlanningProblem
            For :func:`llmq.theory.region._certificate.certify_problem`.
        """
        rate_vector(rates, self.classes)
        return replace(self.problem, rates={n: as_fraction(rates.get(n, 0)) for n in self.classes})

    def _bracket(self, rates: Rates, vector: Sequence[float]) -> tuple[float, float]:
        found = self.optimum(rates)
        low = float(found.load)
        return low, low if self.kind is Kind.EXACT else max(low, self._inner_load(found))

    def _prices(self, rates: Rates) -> dict[str, float]:
        return {name: float(price) for name, price in self.optimum(rates).prices.items()}

    @checked
    def weights(self, rates: Rates) -> dict[str, float]:
        """Return the value of an engine-second of each pool; 0 where it has time to spare.

        Parameters
        ----------
        rates : mapping of str to float or Fraction
            Requests per second by class, not all 0.

        Returns
        -------
        dict of str to float
            Weights times engines sum to 1.
        """
        self._check_some(rates)
        return {name: float(weight) for name, weight in self.optimum(rates).weights.items()}

    @checked
    def flows(self, rates: Rates) -> dict[str, dict[Route, float]]:
        """Return an optimal split of each class over its routes.

        Parameters
        ----------
        rates : mapping of str to float or Fraction
            Requests per second by class.

        Returns
        -------
        dict of str to dict
            Requests per second by route, a tuple of one pool, or of a prefill and a decode pool.
        """
        found: dict[str, dict[Route, float]] = {name: {} for name in self.classes}
        for (name, route), rate in self.optimum(rates).flows.items():
            found[name][route] = float(rate)
        return found

    def _inner_load(self, found: Optimum) -> float:
        """Load of the fullest pool under explicit schedules with the optimal split."""
        visits: dict[str, dict[str, Fraction]] = {pool: {} for pool in self.problem.pools}
        for (name, route), rate in found.flows.items():
            for pool in route:
                visits[pool][name] = visits[pool].get(name, Fraction(0)) + rate
        loads = [0.0]
        for pool, served in visits.items():
            if pool == LINK:
                needs = self.problem.pools[pool].needs
                loads.append(float(sum(rate * needs[n].seconds for n, rate in served.items())))
            elif served:
                engine, count = self.fleet.pools[pool]
                mix = {name: self.mix[name] for name in served}
                phases = self.fleet.roles.get(pool, "both")
                inner = inner_bound(engine, mix, self.limits, phases)
                loads.append(inner.load([float(rate / count) for rate in served.values()]))
        return max(loads)

    def _binding(self, rates: Rates) -> tuple[str, str]:
        found = self.optimum(rates)
        pool, resource = self._scarce(found)
        idle = [name for name in self.problem.pools if not found.weights[name]]
        share = float(found.weights[pool] * self.problem.pools[pool].engines)
        where = f" in pool {pool}" * (resource != "link" and len(self.problem.pools) > 1)
        return resource, bottleneck_of_pool(resource, share, where, idle)

    def _scarce(self, found: Optimum) -> tuple[str, str]:
        """Pool with the largest part of the price, and what is scarce there."""
        pools = self.problem.pools
        pool = max(pools, key=lambda name: found.weights[name] * pools[name].engines)
        tokens = {k: v for (h, k), v in found.token_prices.items() if h == pool}
        limits = {k: v for (h, k), v in found.limit_prices.items() if h == pool}
        return pool, scarce(pools[pool], tokens, limits)

    def _facets(self) -> tuple[Bound, ...]:
        pools = self._pools()
        bounds = []
        for prices in self._polytope(pools)[0]:
            if pools:
                widest = max(pools, key=lambda pool: pool.engines * pool.worth(prices)[0])
                resource = widest.resource(prices)
            else:
                resource = self._scarce(self._solve(prices))[1]
            exact = tuple(self.engines * price for price in prices)
            bounds.append(Bound(resource, tuple(map(float, exact)), exact))
        return tuple(bounds)

    def _corners(self) -> list[Vector]:
        return self._polytope(self._pools())[1]

    def _system(self) -> Fleet:
        return self.fleet

    def _planned(self) -> FleetRegion:
        return self

    def _pools(self) -> list[PoolPolytope]:
        """Polytopes of the pools; none where requests pass two of them."""
        if not single_stops(self.problem):
            return []
        found = []
        for name, pool in self.problem.pools.items():
            if pool.needs:
                served = [klass in pool.needs for klass in self.classes]
                found.append(pool_polytope(pool, served, self.columns[name]))
        return found

    def _polytope(self, pools: list[PoolPolytope]) -> tuple[list[Vector], list[Vector]]:
        if pools:
            return fleet_polytope(self.problem, pools)

        def price(point: Vector) -> tuple[Fraction, Vector]:
            found = self._solve(point)
            return found.load, tuple(found.prices[name] for name in self.classes)

        return polytope(len(self.classes), price)

    def _solve(self, point: Sequence[Fraction]) -> Optimum:
        rates = dict(zip(self.classes, point, strict=True))
        return optimise(replace(self.problem, rates=rates), self.columns)

    def _load(self, rates: Rates, vector: Sequence[float]) -> float:
        return float(self.optimum(rates).load)

    def _exact_load(self, rates: Sequence[Fraction]) -> Fraction:
        return self._solve(rates).load

    def __repr__(self) -> str:
        pools = ", ".join(f"{p.engines} {name}" for name, p in self.problem.pools.items())
        return f"FleetRegion({self.kind}, {self.limits}: {self._ends()}; {pools})"


@checked
def fleet_region(
    system: Engine | Fleet, mix: Mix, limits: Limits = "settings", hits: Hits = None
) -> FleetRegion:
    """Return the rates that a fleet can serve under the best routing and scheduling.

    Parameters
    ----------
    system : Engine or Fleet
        Pools that may differ, with roles, eligible classes and a link; or one engine.
    mix : mapping of str to RequestClass
        The classes.
    limits : {"settings", "hardware"}
        As in :func:`llmq.stability_region`.
    hits : float, mapping of str to float, optional
        As in :func:`llmq.stability_region`.

    Returns
    -------
    FleetRegion
        With exact load, flows, prices and weights.

    Raises
    ------
    InputError
        Empty mix, or a class that no pool can serve.

    Examples
    --------
    >>> from llmq.model.time.batchtime import BatchTime
    >>> big = Engine(BatchTime.affine(base=0.010, per_token=1 / 20480), token_budget=2048)
    >>> small = Engine(BatchTime.affine(base=0.016, per_token=1 / 8192), token_budget=512)
    >>> fleet = Fleet({"big": (big, 2), "small": (small, 3)}, eligible={"rag": ("big",)})
    >>> mix = {"chat": RequestClass(200, 201), "rag": RequestClass(2000, 101)}
    >>> region = fleet_region(fleet, mix)
    >>> region.load({"chat": 30.0, "rag": 5.0})
    0.3961
    >>> region.binding({"chat": 30.0, "rag": 5.0})
    ('tokens', 'the token budget binds in pool big: 66 % of the price; a larger token_budget or a
     faster GPU raises it')
    """
    problem = planning_problem(system, mix, limits=limits, hits=hits)
    shares = check_hits(system, mix, hits)
    fleet = Fleet({ONE_POOL: (system, 1)}) if isinstance(system, Engine) else system
    exact = not any(shares.values()) and all(
        is_exact(counted(one, mix, limits)) for one, _ in fleet.pools.values()
    )
    return FleetRegion(
        mix=dict(mix),
        fleet=fleet,
        engines=len(fleet.engines),
        limits=limits,
        hits=shares,
        problem=problem,
        columns=problem.columns(),
        rational=all(has_exact_mean(request) for request in mix.values()),
        kind=Kind.EXACT if exact else Kind.OUTER_BOUND,
        assumptions=fleet_assumptions(fleet, mix, problem, limits, shares),
        source="theorem-r",
        provenance=provenance(pools=", ".join(fleet.pools), classes=", ".join(mix), limits=limits),
    )
