r"""Column generation: configurations are made when their price says so.

Over few configurations the planning problem (HiGHS, then rationals) gives prices ``p`` (a token of
each buffer), ``m`` (limits) and ``q`` (an engine-second). A configuration is worth adding to pool
``h`` if its reduced value :math:`p \cdot x + m \cdot C - q\,t(x)` is positive; the largest is the
*pricing problem*:

* two phases: the three lines of :class:`~llmq.theory.planning_lp._configurations.TwoPhase`, each on
  a convex
  hull, so a few evaluations, exactly;
* knapsack: branch and bound with a fractional bound, :mod:`llmq.theory.planning_lp._knapsack`.

Rounds are in floats until no configuration is clearly worth adding, then in rationals. If no
reduced value is positive the optimum over few configurations is the optimum over all: the same
fraction that enumeration gives. Otherwise let no configuration be worth more than
:math:`r \ge 1` times its time, :math:`p \cdot x + m \cdot C \le r\,q\,t(x)`; prices over ``r`` are
feasible, and :math:`\rho / r \le \rho^* \le \rho` (Farley). So a search that was stopped early,
in its rounds or in its branches, still gives a bracket. Knapsacks of many buffers with budgets of
thousands may end like that; an engine of any size is two phases.

References: theory core 2.3; Farley, Operations Research 38(5), 1990.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from llmq.errors import InputError
from llmq.model.time.batchtime import BatchTime
from llmq.theory.linear._lp import LPStatus, solve
from llmq.theory.planning_lp._configurations import Configuration, Knapsack, TwoPhase, time_of
from llmq.theory.planning_lp._knapsack import Priced, price_knapsack
from llmq.theory.planning_lp._static import Optimum, PlanningProblem, build_program, optimise

__all__ = ["Generation", "generate_columns", "price_batch"]

_ZERO, _ONE = Fraction(0), Fraction(1)
# Branches of a pricing problem: while columns are found, and to prove that there is none.
_EFFORT = (4000, 12_000)
# Part of its time by which a configuration must pay in floats.
_CLEARLY = 1e-9
Timed = tuple[Configuration, Fraction]


@dataclass(frozen=True, slots=True)
class Generation:
    """Result of column generation."""

    optimum: Optimum  # optimal over the configurations that were made
    # the least load over all configurations is at least this; equal to the load if complete
    bound: Fraction
    rounds: int  # restricted problems that were solved
    columns: int  # configurations that were made

    @property
    def complete(self) -> bool:
        """Whether no further configuration can improve the load."""
        return self.bound == self.optimum.load


def generate_columns(problem: PlanningProblem, most_rounds: int = 200) -> Generation:
    """Solve a planning problem without listing its configurations.

    Examples
    --------
    >>> from llmq.theory.planning_lp._static import Need, Pool
    >>> law = BatchTime.tiled(base=3, per_tile=2, tile=4)
    >>> batches = Knapsack(16, ("prefill", "decode"), (4, 1), (((1, 10), 96),))
    >>> need = Need({"prefill": Fraction(8), "decode": Fraction(6)})
    >>> one = PlanningProblem({"e": Pool(1, law, batches, {}, {"x": need})}, {"x": Fraction(1)},
    ...                       {"x": (("e",),)})
    >>> found = generate_columns(one)
    >>> found.complete, found.optimum.load == optimise(one).load
    (True, True)
    """
    if most_rounds < 1:
        raise InputError(f"most_rounds must be at least 1, got {most_rounds}", value=most_rounds)
    known = {
        name: _singletons(pool.batches, pool.law)
        for name, pool in problem.pools.items()
        if pool.batches is not None and pool.law is not None
    }
    rounds = _roughly(problem, known, most_rounds)
    bound, effort = _ZERO, 0
    while True:
        rounds += 1
        found = optimise(problem, known, solver="highs")
        duals = found.token_prices, found.limit_prices, found.weights
        added, ratio, complete = _price_all(problem, known, *duals, _EFFORT[effort])
        if ratio is not None:
            bound = max(bound, found.load / max(ratio, _ONE))
        if rounds >= most_rounds or (not added and (complete or effort + 1 == len(_EFFORT))):
            break
        effort += not added
    return Generation(found, bound, rounds, sum(map(len, known.values())))


def _roughly(problem: PlanningProblem, known: dict[str, list[Timed]], most_rounds: int) -> int:
    """Add configurations by the prices of HiGHS, until these ask for none; count the rounds."""
    for done in range(most_rounds - 1):
        program, _, rows = build_program(problem, known)
        near = solve(program, "highs")
        if near.status is not LPStatus.OPTIMAL:
            return done
        dual = dict(zip(rows, map(Fraction, near.dual.tolist()), strict=True))
        tokens = {key[1:]: value for key, value in dual.items() if key[0] == "tokens"}
        limits = {key[1:]: value for key, value in dual.items() if key[0] == "limit"}
        weights = {name: dual["time", name] for name in problem.pools}
        if not _price_all(problem, known, tokens, limits, weights, _EFFORT[0], _CLEARLY)[0]:
            return done + 1
    return max(most_rounds - 1, 0)


def _price_all(
    problem: PlanningProblem,
    known: dict[str, list[Timed]],
    tokens: Mapping[Any, Fraction],
    limits: Mapping[Any, Fraction],
    weights: Mapping[str, Fraction],
    steps: int,
    least: float = 0.0,
) -> tuple[bool, Fraction | None, bool]:
    """Add the best configurations of each pool; also the largest ratio, and if it is the truth."""
    added, ratio, complete = False, Fraction(0), True
    unbounded = False
    for name, columns in known.items():
        pool = problem.pools[name]
        assert pool.batches is not None
        assert pool.law is not None
        prices = [tokens[name, buffer] for buffer in pool.buffers]
        fixed = sum((c * limits[name, k] for k, c in pool.limits.items()), _ZERO)
        weight = weights[name]
        priced = _price(pool.batches, pool.law, prices, weight, fixed, steps)
        here = {batch for batch, _ in columns}
        new = [
            (batch, seconds)
            for batch, seconds, value in priced.found
            if value > least * (weight * seconds) and batch not in here
        ]
        columns += new
        added, complete = added or bool(new), complete and priced.complete
        if priced.ratio is not None:
            ratio = max(ratio, priced.ratio)
        else:  # time is free here: nothing bounds the value unless it is 0
            unbounded = unbounded or any(prices) or bool(fixed)
    return added, None if unbounded else ratio, complete


def price_batch(
    batches: TwoPhase | Knapsack,
    law: BatchTime,
    prices: Sequence[Fraction],
    weight: Fraction,
    fixed: Fraction = _ZERO,
) -> tuple[Configuration, Fraction, Fraction]:
    """Return the configuration with the largest reduced value.

    Examples
    --------
    >>> law = BatchTime.tiled(base=2, per_tile=10, tile=64)
    >>> price_batch(TwoPhase(100), law, (Fraction(1), Fraction(1)), Fraction(4))
    ((64, 0), Fraction(12, 1), Fraction(16, 1))
    """
    return _price(batches, law, prices, weight, fixed, _EFFORT[-1]).found[0]


def _price(
    batches: TwoPhase | Knapsack,
    law: BatchTime,
    prices: Sequence[Fraction],
    weight: Fraction,
    fixed: Fraction,
    steps: int,
) -> Priced:
    if isinstance(batches, Knapsack):
        return price_knapsack(batches, law, prices, weight, fixed, steps)
    values = [(b, t, _dot(prices, b) + fixed - weight * t) for b, t in batches.columns(law)]
    ratio = max(1 + value / (weight * t) for _, t, value in values) if weight else None
    return Priced((max(values, key=lambda item: item[2]),), ratio, complete=True)


def _singletons(batches: TwoPhase | Knapsack, law: BatchTime) -> list[Timed]:
    """One configuration for each buffer, as full as it can be."""
    if isinstance(batches, TwoPhase):
        most = min(batches.token_budget, batches.slots or batches.token_budget)
        found: list[Configuration] = [(batches.token_budget, 0), (0, most)]
    else:
        found = []
        for j, step in enumerate(batches.steps):
            caps = [c // w[j] for w, c in batches.rows if w[j]]
            full = min([batches.token_budget, *caps]) // step * step
            found.append(tuple(full * (i == j) for i in range(len(batches.steps))))
    return [(batch, time_of(law, sum(batch))) for batch in found]


def _dot(prices: Sequence[Fraction], batch: Sequence[int]) -> Fraction:
    return sum((p * x for p, x in zip(prices, batch, strict=True) if x), _ZERO)
