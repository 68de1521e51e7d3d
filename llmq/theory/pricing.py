r"""Column generation: configurations are made when their price says so.

Over few configurations the planning problem (HiGHS, then rationals) gives prices ``p`` (a token of
each buffer), ``m`` (limits) and ``q`` (an engine-second). A configuration is worth adding to pool
``h`` if its reduced value :math:`p \cdot x + m \cdot C - q\,t(x)` is positive; the largest is the
*pricing problem*:

* two phases: the three lines of :class:`~llmq.theory.configurations.TwoPhase`, each on a convex
  hull, so a few evaluations, exactly;
* knapsack: ``t`` depends on the total only, so fix a total ``n`` (one for each value of ``t``) and
  maximise :math:`p \cdot x` under the budgets: branch and bound, buffers in order of price, with
  the fractional bound of each budget alone. Totals whose bound cannot beat the best are skipped.

If no reduced value is positive the optimum over few configurations is the optimum over all: the
same fraction that enumeration gives. Stopped early, with a largest reduced value ``v``, no
iteration is worth more than :math:`q\,t + v \le (1 + \epsilon)\,q\,t` with
:math:`\epsilon = v / (q\,t(1))`; prices divided by :math:`1 + \epsilon` are feasible, and
:math:`\rho / (1 + \epsilon) \le \rho^* \le \rho` (Farley).

Knapsacks with many buffers and a large budget are refused after a fixed number of steps; an engine
of any size is two phases. References: theory core 2.3; Farley, Operations Research 38(5), 1990.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from llmq.errors import InputError
from llmq.model.batchtime import BatchTime
from llmq.theory.configurations import Configuration, Knapsack, TwoPhase, time_of
from llmq.theory.static_planning import Optimum, PlanningProblem, optimise

__all__ = ["Generation", "generate_columns", "price_batch"]

_ZERO = Fraction(0)
# Branch and bound is exponential in the buffers; a few seconds are the limit.
_MOST_NODES = 50_000
Timed = tuple[Configuration, Fraction]


@dataclass(frozen=True, slots=True)
class Generation:
    """Result of column generation.

    Parameters
    ----------
    optimum : Optimum
        Optimal over the configurations that were made.
    bound : fractions.Fraction
        The least load over all configurations is at least this; equal to the load if complete.
    rounds : int
        Restricted problems that were solved.
    columns : int
        Configurations that were made.
    """

    optimum: Optimum
    bound: Fraction
    rounds: int
    columns: int

    @property
    def complete(self) -> bool:
        """Whether no further configuration can improve the load."""
        return self.bound == self.optimum.load


def generate_columns(problem: PlanningProblem, most_rounds: int = 200) -> Generation:
    """Solve a planning problem without listing its configurations.

    Parameters
    ----------
    problem : PlanningProblem
        The problem.
    most_rounds : int
        Stop after so many restricted problems, with a bound.

    Returns
    -------
    Generation
        Exact if complete.

    Raises
    ------
    InputError
        ``most_rounds`` is below 1.

    Examples
    --------
    >>> from llmq.theory.static_planning import Need, Pool
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
    bound, rounds, added = _ZERO, 0, True
    while added and rounds < most_rounds:
        rounds += 1
        found = optimise(problem, known, solver="highs")
        added, worst = _price_all(problem, found, known)
        if worst is not None:
            bound = max(bound, found.load / worst)
    return Generation(found, bound, rounds, sum(map(len, known.values())))


def _price_all(
    problem: PlanningProblem, found: Optimum, known: dict[str, list[Timed]]
) -> tuple[bool, Fraction | None]:
    """Add the best configuration of each pool; the worst ratio, None if it has no bound."""
    added, worst = False, Fraction(1)
    unbounded = False
    for name, columns in known.items():
        pool = problem.pools[name]
        if pool.batches is None or pool.law is None:
            continue
        prices = [found.token_prices[name, buffer] for buffer in pool.buffers]
        fixed = sum((c * found.limit_prices[name, k] for k, c in pool.limits.items()), _ZERO)
        weight = found.weights[name]
        batch, seconds, value = price_batch(pool.batches, pool.law, prices, weight, fixed)
        if value > 0:
            columns.append((batch, seconds))
            added = True
            # The ratio is at most that of the shortest iteration with the largest value.
            least = weight * time_of(pool.law, 1)
            unbounded = unbounded or not least
            worst = max(worst, 1 + value / least) if least else worst
    return added, None if unbounded else worst


def price_batch(
    batches: TwoPhase | Knapsack,
    law: BatchTime,
    prices: Sequence[Fraction],
    weight: Fraction,
    fixed: Fraction = _ZERO,
) -> tuple[Configuration, Fraction, Fraction]:
    """Return the configuration with the largest reduced value.

    Parameters
    ----------
    batches : TwoPhase or Knapsack
        The set.
    law : BatchTime
        Time by total tokens.
    prices : sequence of Fraction
        Of a token of each buffer, at least 0.
    weight : fractions.Fraction
        Of a second.
    fixed : fractions.Fraction
        Value of any iteration: the limits.

    Returns
    -------
    tuple of configuration, Fraction, Fraction
        Tokens, seconds and reduced value.

    Examples
    --------
    >>> law = BatchTime.tiled(base=2, per_tile=10, tile=64)
    >>> price_batch(TwoPhase(100), law, (Fraction(1), Fraction(1)), Fraction(4))
    ((64, 0), Fraction(12, 1), Fraction(16, 1))
    """
    if isinstance(batches, TwoPhase):
        batch, seconds = max(batches.columns(law), key=lambda c: _dot(prices, c[0]) - weight * c[1])
        return batch, seconds, _dot(prices, batch) + fixed - weight * seconds
    return _price_knapsack(batches, law, prices, weight, fixed)


def _price_knapsack(
    batches: Knapsack, law: BatchTime, prices: Sequence[Fraction], weight: Fraction, fixed: Fraction
) -> tuple[Configuration, Fraction, Fraction]:
    times = [time_of(law, n) for n in range(1, batches.token_budget + 1)]
    # Of all totals that take the same time only the last one matters.
    ends = [n for n, t in enumerate(times, 1) if n == len(times) or times[n] > t]
    search = _Search(batches, prices)
    bounds = sorted(((search.bound(n) - weight * times[n - 1], n) for n in ends), reverse=True)
    best: tuple[Fraction, Configuration] | None = None
    for bound, n in bounds:
        if best is not None and bound <= best[0]:
            break
        floor = None if best is None else best[0] + weight * times[n - 1]
        if (batch := search.best(n, floor)) is not None:
            value = _dot(prices, batch) - weight * times[sum(batch) - 1]
            if best is None or value > best[0]:
                best = value, batch
    if best is None:
        raise InputError("a knapsack without any configuration cannot be priced")
    value, batch = best
    return batch, times[sum(batch) - 1], value + fixed


class _Search:
    """Branch and bound for one knapsack; buffers in order of price for a token."""

    def __init__(self, batches: Knapsack, prices: Sequence[Fraction]) -> None:
        self.batches, self.prices = batches, prices
        self.found: Configuration | None = None
        self.floor: Fraction | None = None
        self.nodes = 0
        self.order = sorted(range(len(prices)), key=lambda j: -prices[j])
        # Every budget as a row: the tokens, then the others.
        self.rows = [[1] * len(prices), *(list(w) for w, _ in batches.rows)]

    def bound(self, tokens: int, depth: int = 0, room: Sequence[int] | None = None) -> Fraction:
        """Largest value if one budget alone held, in fractions; the least of these."""
        left = [tokens, *(c for _, c in self.batches.rows)] if room is None else room
        rest = self.order[depth:]
        found = []
        for row, free in zip(self.rows, left, strict=True):
            if all(row[j] or not self.prices[j] for j in rest):
                ratios = (self.prices[j] / row[j] for j in rest if row[j])
                found.append(free * max(ratios, default=_ZERO))
        return min(found)

    def best(self, tokens: int, floor: Fraction | None) -> Configuration | None:
        """Most valuable configuration of at most ``tokens``; None if none beats ``floor``."""
        self.floor, self.found = floor, None
        batch = [0] * len(self.prices)
        self._extend(batch, 0, _ZERO, [tokens, *(c for _, c in self.batches.rows)])
        return self.found

    def _extend(self, batch: list[int], depth: int, value: Fraction, room: list[int]) -> None:
        self.nodes += 1
        if self.nodes > _MOST_NODES:
            raise InputError(
                f"pricing this knapsack takes more than {_MOST_NODES:,} steps: merge "
                "classes, take larger steps, or use two phases with limits"
            )
        if depth == len(self.order):
            if any(batch) and (self.floor is None or value > self.floor):
                self.floor, self.found = value, tuple(batch)
            return
        if self.floor is not None and value + self.bound(0, depth, room) <= self.floor:
            return
        j = self.order[depth]
        step = self.batches.steps[j]
        most = min(free // row[j] for row, free in zip(self.rows, room, strict=True) if row[j])
        for x in range(most // step * step, -1, -step):
            batch[j] = x
            left = [free - row[j] * x for row, free in zip(self.rows, room, strict=True)]
            self._extend(batch, depth + 1, value + self.prices[j] * x, left)
        batch[j] = 0


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
