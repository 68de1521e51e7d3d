r"""The most valuable knapsack: pricing of configurations of many buffers, with a bound.

Wanted is the largest :math:`p \cdot x + F - q\,t(n)`, ``n`` the total of ``x``, over counts ``x``
in steps, :math:`\sum_j x_j \le b` and rows :math:`w_r \cdot x \le C_r`. Time depends on the total
only, so fix ``n``, one for each value of ``t``, and fill a knapsack of ``n`` tokens:

* a buffer never pays if another one has at least its price, no larger weights, and a step that
  divides its step;
* the fractional bound is :math:`\min_\mu \mu_0 n + \mu \cdot C` over the vertices of
  :math:`\{\mu \ge 0 : \mu_0 + \mu \cdot w_j \ge p_j\}`, a polyhedron of few dimensions that is
  enumerated once (:func:`~llmq.theory.linear._polytope.blocker`). The same vertices bound every
  branch;
* totals in order of their bound, buffers in order of what they lose against the best vertex, counts
  from the most downwards; the last buffer takes what is left. Everything is in integers.

The search stops after a number of steps that the caller chooses. Then the best configuration found
may not be the best, but the fractional bounds still hold for all: ``ratio`` is an upper bound of
:math:`(p \cdot x + F) / (q\,t)`, and with it Farley's bound of the whole programme.

Reference: Martello and Toth, *Knapsack Problems* (1990), for bounds and branching.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from operator import mul

from llmq.model.time.batchtime import BatchTime
from llmq.theory.linear._polytope import blocker, integers
from llmq.theory.planning_lp._configurations import Configuration, Knapsack, time_of

__all__ = ["Priced", "price_knapsack"]

_ZERO = Fraction(0)
# Configurations of different totals that one search returns.
_MOST_FOUND = 6
Ints = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Priced:
    """Answer of a pricing problem."""

    # configurations with their seconds and reduced values, the most valuable first;
    # (configuration, Fraction, Fraction)
    found: tuple[tuple[Configuration, Fraction, Fraction], ...]
    # value over price of time is at most this for every configuration; None if time is free
    ratio: Fraction | None
    complete: bool  # whether the first configuration is surely the best


def price_knapsack(
    batches: Knapsack,
    law: BatchTime,
    prices: Sequence[Fraction],
    weight: Fraction,
    fixed: Fraction = _ZERO,
    most_steps: int = 50_000,
) -> Priced:
    """Return configurations with large reduced values.

    Examples
    --------
    >>> law = BatchTime.tiled(base=2, per_tile=10, tile=64)
    >>> one = price_knapsack(Knapsack(100, ("a",), (1,)), law, [Fraction(1)], Fraction(4))
    >>> one.found, one.complete
    ((((64,), Fraction(12, 1), Fraction(16, 1)),), True)
    """
    times, ends = _times(law, batches.token_budget)
    search = _Search(batches, prices, most_steps, min(len(ends), 8))
    bounds = {n: search.bound(n) - weight * times[n] for n in ends}
    order = sorted(bounds, key=lambda n: -bounds[n])
    found: dict[Configuration, Fraction] = {}
    best: Fraction | None = None
    open_ends: list[int] = []
    for i, n in enumerate(order):
        if best is not None and bounds[n] <= best:
            break
        if search.steps >= most_steps and found:
            open_ends += order[i:]
            break
        batch, whole = search.fill(n, None if best is None else best + weight * times[n])
        if batch is not None:
            value = search.value(batch) - weight * times[sum(batch)]
            found[batch] = value
            best = value if best is None else max(best, value)
        if not whole:
            open_ends.append(n)
    top = sorted(found, key=lambda batch: -found[batch])[:_MOST_FOUND]
    surely = best is not None and all(bounds[n] <= best for n in open_ends)
    ratio = None
    if weight:
        # Where the search was complete no value exceeds the best one found.
        capped = (bounds[n] if n in open_ends else min(bounds[n], best or _ZERO) for n in ends)
        ratio = max(
            1 + (value + fixed) / (weight * times[n]) for n, value in zip(ends, capped, strict=True)
        )
    return Priced(tuple((b, times[sum(b)], found[b] + fixed) for b in top), ratio, surely)


@functools.lru_cache(maxsize=32)
def _times(law: BatchTime, budget: int) -> tuple[tuple[Fraction, ...], tuple[int, ...]]:
    """Seconds by total, 0 first; the largest total of each time, but for the budget ascending."""
    times = (_ZERO, *(time_of(law, n) for n in range(1, budget + 1)))
    return times, tuple(n for n in range(1, budget + 1) if n == budget or times[n + 1] > times[n])


class _Search:
    """Branch and bound in integers; prices are multiplied by ``unit``."""

    def __init__(
        self, batches: Knapsack, prices: Sequence[Fraction], most_steps: int, share: int
    ) -> None:
        self.batches, self.prices, self.most_steps, self.steps = batches, prices, most_steps, 0
        # Part of the steps that one total may take.
        self.share = share
        self.whole, self.unit = integers(tuple(prices))
        # Every budget as a row: the tokens, then the others.
        self.rows = [(1,) * len(prices), *(tuple(w) for w, _ in batches.rows)]
        self.weights = list(zip(*self.rows, strict=True))
        kept = [j for j in range(len(prices)) if not self._is_beaten(j)]
        exact = blocker([self.weights[j] for j in kept], [self.whole[j] for j in kept])
        # One denominator for all vertices, so that a bound is a sum of integers.
        self.size = math.lcm(*(x.denominator for vertex in exact for x in vertex))
        self.vertices = [tuple(int(x * self.size) for x in vertex) for vertex in exact]
        self.order = kept

    def _is_beaten(self, j: int) -> bool:
        """Whether another buffer is always at least as good."""
        for i, price in enumerate(self.whole):
            same = (price, self.weights[i], self.batches.steps[i]) == (
                self.whole[j],
                self.weights[j],
                self.batches.steps[j],
            )
            if (
                i != j
                and not (same and i > j)
                and price >= self.whole[j]
                and all(a <= b for a, b in zip(self.weights[i], self.weights[j], strict=True))
                and self.batches.steps[j] % self.batches.steps[i] == 0
            ):
                return True
        return False

    def room(self, tokens: int) -> Ints:
        return (tokens, *(c for _, c in self.batches.rows))

    def least(self, room: Ints) -> int:
        """Fractional bound of the value, times ``unit`` and ``size``."""
        return min(int(sum(map(mul, vertex, room))) for vertex in self.vertices)

    def bound(self, tokens: int) -> Fraction:
        """Fractional bound of the value with so many tokens."""
        return Fraction(self.least(self.room(tokens)), self.unit * self.size)

    def value(self, batch: Configuration) -> Fraction:
        return Fraction(sum(map(mul, self.whole, batch)), self.unit)

    def fill(self, tokens: int, floor: Fraction | None) -> tuple[Configuration | None, bool]:
        """Most valuable configuration above ``floor``, and whether the search was complete."""
        room = self.room(tokens)
        vertex = min(self.vertices, key=lambda v: sum(map(mul, v, room)))
        # What a token loses against the best vertex: none for those that the fractions use.
        loss = {
            j: sum(map(mul, vertex, self.weights[j])) - self.size * self.whole[j]
            for j in self.order
        }
        self.order.sort(key=lambda j: (loss[j], -self.whole[j]))
        self.best: list[int] | None = None
        # Integers above the floor.
        self.floor = -1 if floor is None else math.floor(floor * self.unit)
        self.stop = self.steps + max(self.most_steps // self.share, 50)
        batch = [0] * len(self.prices)
        whole = self._extend(batch, 0, 0, room)
        return (None if self.best is None else tuple(self.best)), whole

    def _extend(self, batch: list[int], depth: int, value: int, room: Ints) -> bool:
        j = self.order[depth]
        step, weights = self.batches.steps[j], self.weights[j]
        most = min(free // w for w, free in zip(weights, room, strict=True) if w) // step * step
        if depth == len(self.order) - 1:
            self.steps += 1
            batch[j] = most
            if (now := value + self.whole[j] * most) > self.floor and any(batch):
                self.floor, self.best = now, list(batch)
            batch[j] = 0
            return True
        before = None
        for x in range(most, -1, -step):
            self.steps += 1
            if self.steps >= self.stop and self.floor >= 0:
                batch[j] = 0
                return False
            left = tuple(free - w * x for w, free in zip(weights, room, strict=True))
            now = value + self.whole[j] * x
            most_worth = self.size * now + self.least(left)
            if most_worth <= self.size * self.floor:
                # The bound is concave in x: once it falls it falls for good.
                if before is not None and most_worth <= before:
                    break
                before = most_worth
                continue
            before = most_worth
            batch[j] = x
            if not self._extend(batch, depth + 1, now, left):
                batch[j] = 0
                return False
        batch[j] = 0
        return True
