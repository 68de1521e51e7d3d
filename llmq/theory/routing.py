r"""Fleets: which rates several kinds of engine carry together, and who should serve whom.

The static planning problem (:mod:`llmq.theory.static_planning`) is solved in rationals for each
question. Its dual is a price list: ``price_j`` is the load that one more request per second of
class ``j`` adds, ``weight_h`` the value of an engine-second of pool ``h``. A class uses the route
whose priced work is least; a router that follows backlogs weighted like this (MaxWeight) carries
every load below 1, while joining the shortest queue may not where relative speeds differ by class.

The region is a polytope; its facets are price lists (:mod:`llmq.theory.polytope`).

Exact at the level of tokens if nothing but token and shared-slot budgets limit a pool and its KV
area costs no time; otherwise an outer bound, and ``contains`` asks the explicit schedules of
:mod:`llmq.theory.inner` with the optimal split before it says yes.

References: theory core 2.3, 2.5; Dai and Lin, Operations Research 53(2), 2005.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from llmq.errors import InputError, UndecidedError
from llmq.model.engine import Engine
from llmq.model.fleet import Fleet
from llmq.model.request import RequestClass
from llmq.result import Kind, Provenance, provenance
from llmq.theory.configurations import Configuration
from llmq.theory.disaggregation import Disaggregation, disaggregate
from llmq.theory.inner import inner_bound
from llmq.theory.polytope import Vector, polytope
from llmq.theory.pools import fleet_assumptions, planning_problem, reaches_bound
from llmq.theory.rates import rate_vector
from llmq.theory.static_planning import Optimum, PlanningProblem, Route, optimise
from llmq.units import as_fraction

__all__ = ["Disaggregation", "FleetRegion", "disaggregate", "fleet_region"]

Mix: TypeAlias = Mapping[str, RequestClass]
Rates: TypeAlias = Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class FleetRegion:
    """Rates that a fleet can serve.

    Parameters
    ----------
    classes : tuple of str
        Request classes, in the order of every vector.
    fleet : Fleet
        The fleet.
    mix : mapping of str to RequestClass
        The classes.
    problem : PlanningProblem
        The planning problem at rate 1 of each class.
    columns : mapping of str to tuple
        Configurations of each pool that can be optimal, with their seconds.
    kind : Kind
        ``exact`` or ``outer_bound``.
    assumptions : tuple of str
        What the region rests on.
    source : str
        Catalogue id.
    provenance : Provenance
        How to make it again.
    """

    classes: tuple[str, ...]
    fleet: Fleet
    mix: Mix
    problem: PlanningProblem
    columns: Mapping[str, tuple[tuple[Configuration, Fraction], ...]]
    kind: Kind
    assumptions: tuple[str, ...]
    source: str
    provenance: Provenance

    def optimum(self, rates: Rates) -> Optimum:
        """Return flows, batches and prices at these rates, exactly.

        Parameters
        ----------
        rates : mapping of str to float
            Requests per second by class; a rate of 0.1 is 1/10.

        Returns
        -------
        Optimum
            Everything in Fractions.

        Raises
        ------
        InputError
            Unknown class, or a rate that is negative or no number.
        """
        return optimise(self.at(rates), self.columns)

    def at(self, rates: Rates) -> PlanningProblem:
        """Return the planning problem at these rates.

        Parameters
        ----------
        rates : mapping of str to float
            Requests per second by class.

        Returns
        -------
        PlanningProblem
            For :func:`llmq.theory.certificate.certify_problem`.
        """
        rate_vector(rates, self.classes)
        return replace(self.problem, rates={n: as_fraction(rates.get(n, 0)) for n in self.classes})

    def load(self, rates: Rates) -> float:
        """Return the fraction of the fleet's time that the rates need.

        Parameters
        ----------
        rates : mapping of str to float
            Requests per second by class.

        Returns
        -------
        float
            Above 1 is unstable under every policy.
        """
        return float(self.optimum(rates).load)

    def margin(self, rates: Rates) -> float:
        """Return the factor by which all rates may grow.

        Parameters
        ----------
        rates : mapping of str to float
            Requests per second by class.

        Returns
        -------
        float
            ``1 / load``; infinite where all rates are 0.
        """
        load = self.load(rates)
        return 1 / load if load > 0 else math.inf

    def prices(self, rates: Rates) -> dict[str, float]:
        """Return the load that one more request per second of each class adds.

        Parameters
        ----------
        rates : mapping of str to float
            Requests per second by class, not all 0.

        Returns
        -------
        dict of str to float
            Rates times prices sum to the load.
        """
        return {name: float(price) for name, price in self._priced(rates).prices.items()}

    def weights(self, rates: Rates) -> dict[str, float]:
        """Return the value of an engine-second of each pool; 0 where it has time to spare.

        Parameters
        ----------
        rates : mapping of str to float
            Requests per second by class, not all 0.

        Returns
        -------
        dict of str to float
            Weights times engines sum to 1.
        """
        return {name: float(weight) for name, weight in self._priced(rates).weights.items()}

    def flows(self, rates: Rates) -> dict[str, dict[Route, float]]:
        """Return an optimal split of each class over its routes.

        Parameters
        ----------
        rates : mapping of str to float
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

    def contains(self, rates: Rates) -> bool:
        """Say whether the rates can be served.

        Parameters
        ----------
        rates : mapping of str to float
            Requests per second by class.

        Returns
        -------
        bool
            True strictly inside; False on the boundary and outside, for every policy.

        Raises
        ------
        UndecidedError
            The bound allows the rates, but no schedule that was tried carries them.
        """
        found = self.optimum(rates)
        low = float(found.load)
        if found.load >= 1 or self.kind is Kind.EXACT:
            return found.load < 1
        if (high := self._inner_load(found)) < 1:
            return True
        raise UndecidedError(
            f"only a bound is known here: these rates use at least {low:.4g} of the capacity, and "
            f"the schedules that were tried need {high:.4g}; lower the rates or simulate a policy",
            low=low, high=high,
        )  # fmt: skip

    def _inner_load(self, found: Optimum) -> float:
        """Load of the fullest pool under explicit schedules with the optimal split."""
        if any(len(route) > 1 for _, route in found.flows):
            return math.inf  # no explicit schedule is known for pools of one phase
        loads = [0.0]
        for pool, (engine, count) in self.fleet.pools.items():
            served = {n: r for (n, (h,)), r in found.flows.items() if h == pool}
            if served:
                inner = inner_bound(engine, {name: self.mix[name] for name in served})
                loads.append(inner.load([float(rate / count) for rate in served.values()]))
        return max(loads)

    def binding(self, rates: Rates) -> tuple[str, str]:
        """Say which pool binds, and what in it.

        Parameters
        ----------
        rates : mapping of str to float
            Requests per second by class, not all 0.

        Returns
        -------
        tuple of str
            The pool with the largest part of the price, and a sentence.
        """
        found = self._priced(rates)
        part = {name: found.weights[name] * p.engines for name, p in self.problem.pools.items()}
        pool = max(part, key=lambda name: part[name])
        limits = {k: v for (h, k), v in found.limit_prices.items() if h == pool and v}
        full = {name for name, weight in found.weights.items() if weight}
        what = f"{' and '.join(limits)} and time" if limits else "time"
        idle = [name for name in self.problem.pools if name not in full]
        spare = f"; {', '.join(idle)} has time to spare" if idle else ""
        share = f"{100 * float(part[pool]):.0f} % of the price"
        return pool, f"{what} of pool {pool} binds: {share}{spare}"

    def boundary(self, direction: Rates) -> dict[str, float]:
        """Return the rates at which the region ends in a direction.

        Parameters
        ----------
        direction : mapping of str to float
            Proportions of the classes, not all 0.

        Returns
        -------
        dict of str to float
            Requests per second; load 1.
        """
        load = self._priced(direction).load
        return {n: float(as_fraction(direction.get(n, 0)) / load) for n in self.classes}

    def facets(self) -> list[Vector]:
        """Return the bounds ``sum_j rate_j * price_j <= 1`` of the polytope.

        Returns
        -------
        list of tuple of Fraction
            Prices, classes in order; each holds with equality at some vertex.

        Raises
        ------
        InputError
            Too many classes and facets to enumerate.
        """
        return self._polytope()[0]

    def vertices(self) -> npt.NDArray[np.float64]:
        """Return the vertices of the region but the origin.

        Returns
        -------
        ndarray, shape (n_vertices, n_classes)
            Requests per second, ascending in the first class; each has load 1.

        Raises
        ------
        InputError
            Too many classes and facets to enumerate.
        """
        return np.asarray([[float(x) for x in point] for point in self.exact_vertices()])

    def exact_vertices(self) -> list[Vector]:
        """Return the vertices in rationals.

        Returns
        -------
        list of tuple of Fraction
            As :meth:`vertices`.
        """
        return self._polytope()[1]

    def _polytope(self) -> tuple[list[Vector], list[Vector]]:
        return polytope(len(self.classes), self._row)

    def _row(self, point: Vector) -> tuple[Fraction, Vector]:
        rates = dict(zip(self.classes, point, strict=True))
        found = optimise(replace(self.problem, rates=rates), self.columns)
        return found.load, tuple(found.prices[name] for name in self.classes)

    def _priced(self, rates: Rates) -> Optimum:
        found = self.optimum(rates)
        if not found.load:
            raise InputError("all rates are 0: nothing binds and nothing has a price")
        return found

    def __repr__(self) -> str:
        alone = ", ".join(f"{n} < {self.boundary({n: 1.0})[n]:.4g}" for n in self.classes[:4])
        pools = ", ".join(f"{p.engines} {name}" for name, p in self.problem.pools.items())
        return f"FleetRegion({self.kind}: alone {alone} req/s; {pools})"


def fleet_region(system: Engine | Fleet, mix: Mix) -> FleetRegion:
    """Return the rates that a fleet can serve under the best routing and scheduling.

    Parameters
    ----------
    system : Engine or Fleet
        Pools that may differ, with roles, eligible classes and a link; or one engine.
    mix : mapping of str to RequestClass
        The classes.

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
    >>> from llmq.model.batchtime import BatchTime
    >>> big = Engine(BatchTime.affine(base=0.010, per_token=1 / 20480), token_budget=2048)
    >>> small = Engine(BatchTime.affine(base=0.016, per_token=1 / 8192), token_budget=512)
    >>> fleet = Fleet({"big": (big, 2), "small": (small, 3)}, eligible={"rag": ("big",)})
    >>> mix = {"chat": RequestClass(200, 201), "rag": RequestClass(2000, 101)}
    >>> region = fleet_region(fleet, mix)
    >>> region.load({"chat": 30.0, "rag": 5.0})
    0.3961
    >>> region.binding({"chat": 30.0, "rag": 5.0})
    ('big', 'time of pool big binds: 66 % of the price')
    """
    problem = planning_problem(system, mix)
    fleet = Fleet({"engine": (system, 1)}) if isinstance(system, Engine) else system
    exact = all(reaches_bound(engine) for engine, _ in fleet.pools.values())
    return FleetRegion(
        classes=tuple(mix),
        fleet=fleet,
        mix=dict(mix),
        problem=problem,
        columns=problem.columns(),
        kind=Kind.EXACT if exact else Kind.OUTER_BOUND,
        assumptions=fleet_assumptions(fleet, mix, problem),
        source="theorem-r",
        provenance=provenance(pools=", ".join(fleet.pools), classes=", ".join(mix)),
    )
