r"""Batch configurations: what one iteration may hold, and which of them matter.

A configuration ``x`` counts the tokens of each *buffer* (class and phase) in one iteration; the
iteration lasts ``t(x)``. Two sets are known.

**Two phases.** Time depends on the total only, so a pool of engines needs two buffers, ``prefill``
and ``decode``: ``x + y <= b_max``, and where all prompts share one slot (Dai et al., section 6)
``y + [x > 0] <= k_max``. A price vector ``(p, q)`` is linear, so for a total ``n`` the best batch
is ``(n, 0)``, ``(0, n)`` or has as many decodes as fit beside a prompt, ``(n - k + 1, k - 1)``.
Along each of these three lines :math:`p \cdot x - q\,t(n)` is linear minus ``t``, so its maximum is
at a vertex of the lower convex hull of the time over the totals of that line. These few
configurations carry the whole polytope, exactly.

**Knapsack.** Any buffers; counts are multiples of a step, the total is at most the budget, and
rows ``weights . x <= capacity`` hold (a context weight for each buffer makes a memory row). All
configurations are enumerated; :mod:`llmq.theory.planning_lp._pricing` generates them one by one
instead.

Reference: theory core 2.2, 2.3; Dai, Deng, Li and Peng, arXiv 2504.07347.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from llmq.errors import InputError
from llmq.model.time.batchtime import BatchTime
from llmq.theory.needs._envelope import corners
from llmq.units import as_fraction

__all__ = ["Configuration", "Knapsack", "TwoPhase", "lower_hull", "time_of"]

Configuration: TypeAlias = tuple[int, ...]
Timed: TypeAlias = tuple[Configuration, Fraction]
_MOST = 200_000  # configurations that are enumerated


@dataclass(frozen=True, slots=True)
class TwoPhase:
    """Batches of prefill and decode tokens.

    Examples
    --------
    >>> TwoPhase(8, slots=3).fault((5, 3))
    '3 decodes and a prefill need 4 slots of 3'
    """

    token_budget: int  # most tokens
    slots: int | None = None  # most decodes, one less beside prefill tokens; no limit if not given

    def __post_init__(self) -> None:
        _check_budget(self.token_budget)
        if self.slots is not None and self.slots < 1:
            raise InputError(f"slots must be at least 1, got {self.slots}", value=self.slots)

    @property
    def buffers(self) -> tuple[str, ...]:
        """Names of the entries of a configuration."""
        return ("prefill", "decode")

    def fault(self, batch: Configuration) -> str:
        """Say why a configuration is not allowed."""
        x, y = batch
        if min(x, y) < 0 or x + y < 1:
            return f"{batch} is not a batch of at least one token"
        if x + y > self.token_budget:
            return f"{x + y} tokens exceed the budget of {self.token_budget}"
        if self.slots is not None and y + (x > 0) > self.slots:
            return (
                f"{y} decodes{' and a prefill' * (x > 0)} need {y + (x > 0)} slots of {self.slots}"
            )
        return ""

    def columns(self, law: BatchTime) -> tuple[Timed, ...]:
        """Return the configurations that can be optimal, with their times.

        Examples
        --------
        >>> law = BatchTime.tiled(base=11.28, per_tile=35.47, tile=128)
        >>> [x for x, _ in TwoPhase(1024, slots=100).columns(law)]
        [(1, 0), (128, 0), (1024, 0), (1, 99), (29, 99), (925, 99), (0, 1), (0, 100)]
        """
        budget, k = self.token_budget, self.slots or self.token_budget
        found = [((n, 0), t) for n, t in lower_hull(law, 1, budget)]
        if 1 < k <= budget and self.slots is not None:
            found += [((n - k + 1, k - 1), t) for n, t in lower_hull(law, k, budget)]
        found += [((0, n), t) for n, t in lower_hull(law, 1, min(k, budget))]
        return tuple(found)


@dataclass(frozen=True, slots=True)
class Knapsack:
    """Batches of named buffers under linear budgets.

    Examples
    --------
    >>> small = Knapsack(4, ("prefill", "decode"), (2, 1), (((1, 3), 6),))
    >>> list(small.enumerate())
    [(0, 1), (0, 2), (2, 0), (2, 1), (4, 0)]
    """

    token_budget: int  # most tokens in all
    buffers: tuple[str, ...]  # names of the entries
    steps: tuple[int, ...]  # each count is a multiple of its step
    # further budgets: weights of a token of each buffer, at least 0, and the capacity; (tuple
    # of int, int)
    rows: tuple[tuple[tuple[int, ...], int], ...] = ()
    # what each of these budgets is of; ``memory`` for all if not given
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_budget(self.token_budget)
        if not self.labels:
            object.__setattr__(self, "labels", ("memory",) * len(self.rows))
        if len(self.labels) != len(self.rows):
            raise InputError(f"{len(self.rows)} budgets, but {len(self.labels)} labels")
        n = len(self.buffers)
        if not n or len(set(self.buffers)) != n:
            raise InputError("a configuration needs buffers of different names")
        if len(self.steps) != n or min(self.steps) < 1:
            raise InputError(f"each of the {n} buffers needs a step of at least 1 token")
        for weights, capacity in self.rows:
            if len(weights) != n or min(weights) < 0 or capacity < 0:
                raise InputError(f"a budget needs {n} weights >= 0 and a capacity >= 0")
        for j, name in enumerate(self.buffers):
            single = tuple(step * (i == j) for i, step in enumerate(self.steps))
            if reason := self.fault(single):
                raise InputError(
                    f"no configuration holds a token of {name!r}: {reason}; "
                    "raise the budget or take a smaller step",
                    buffer=name,
                )

    def fault(self, batch: Configuration) -> str:
        """Say why a configuration is not allowed."""
        if min(batch) < 0 or sum(batch) < 1:
            return f"{batch} is not a batch of at least one token"
        if sum(batch) > self.token_budget:
            return f"{sum(batch)} tokens exceed the budget of {self.token_budget}"
        if any(x % step for x, step in zip(batch, self.steps, strict=True)):
            return f"{batch} is not in steps of {self.steps}"
        for weights, capacity in self.rows:
            if (used := _dot(weights, batch)) > capacity:
                return f"{batch} uses {used} of a budget of {capacity}"
        return ""

    def enumerate(self) -> Iterator[Configuration]:
        """Yield every configuration but the empty one, in lexicographic order."""
        every = self._extend((), self.token_budget, [c for _, c in self.rows])
        for i, batch in enumerate(itertools.islice(every, 1, None)):
            if i >= _MOST:
                raise InputError(
                    f"more than {_MOST:,} configurations: generate them instead "
                    "(method='columns'), or merge classes"
                )
            yield batch

    def _extend(self, head: Configuration, tokens: int, room: list[int]) -> Iterator[Configuration]:
        j = len(head)
        if j == len(self.buffers):
            yield head
            return
        for x in range(0, tokens + 1, self.steps[j]):
            left = [c - w[j] * x for (w, _), c in zip(self.rows, room, strict=True)]
            if min(left, default=0) < 0:
                return
            yield from self._extend((*head, x), tokens - x, left)

    def columns(self, law: BatchTime) -> tuple[Timed, ...]:
        """Return all configurations with their times."""
        time = {n: time_of(law, n) for n in range(1, self.token_budget + 1)}
        return tuple((batch, time[sum(batch)]) for batch in self.enumerate())


def lower_hull(law: BatchTime, low: int, high: int) -> list[tuple[int, Fraction]]:
    """Return the vertices of the largest convex function below the times of ``low, ..., high``.

    Examples
    --------
    >>> law = BatchTime.tiled(base=2, per_tile=10, tile=64)
    >>> [n for n, _ in lower_hull(law, 70, 300)]
    [70, 128, 256, 300]
    """
    sizes = corners(law, high)
    if law.tile > 1:
        ends = np.arange(-(-low // law.tile) * law.tile, high + 1, law.tile)
        # Tile ends lie on one line unless a second branch cuts it.
        sizes = np.concatenate(
            (sizes, ends[[0, -1]] if law.form == "tiled" and len(ends) else ends)
        )
    sizes = np.unique(np.append(sizes[(sizes >= low) & (sizes <= high)], (low, high)))
    stack: list[tuple[int, Fraction]] = []
    for n in _near(law, sizes):
        point = n, time_of(law, n)
        while len(stack) > 1 and _turn(stack[-2], stack[-1], point) <= 0:
            stack.pop()
        stack.append(point)
    return stack


def _near(law: BatchTime, sizes: npt.NDArray[np.int64]) -> list[int]:
    """Drop sizes that lie clearly above the hull, in floats: Fractions are slow."""
    if len(sizes) < 8:
        return [int(n) for n in sizes]
    stack: list[tuple[int, float]] = []
    seconds = law.curve(sizes).tolist()
    for point in zip(sizes.tolist(), seconds, strict=True):
        while len(stack) > 1 and _turn(stack[-2], stack[-1], point) <= 0:
            stack.pop()
        stack.append(point)
    x, y = zip(*stack, strict=True)
    keep = np.asarray(seconds) <= np.interp(sizes, x, y) * (1 + 1e-10)
    return [int(n) for n in sizes[keep]]


def _turn(a: tuple[int, Any], b: tuple[int, Any], c: tuple[int, Any]) -> Any:
    """Positive where ``a, b, c`` turn left (floats or Fractions)."""
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])


def time_of(law: BatchTime, tokens: int) -> Fraction:
    """Return the token time of a batch, exactly.

    Examples
    --------
    >>> time_of(BatchTime.table(tokens=[1, 3], seconds=[1.0, 2.0]), 2)
    Fraction(3, 2)
    """
    if law.form != "table":
        return law.exact().curve(tokens)
    x = law.tokens
    if tokens <= x[0]:
        return as_fraction(law.seconds[0])
    i = min(int(np.searchsorted(x, tokens)), len(x) - 1)
    before, after = as_fraction(law.seconds[i - 1]), as_fraction(law.seconds[i])
    return before + (after - before) * Fraction(tokens - x[i - 1], x[i] - x[i - 1])


def _check_budget(budget: int) -> None:
    if budget < 1:
        raise InputError(f"token_budget must be at least 1 token, got {budget}", value=budget)


def _dot(weights: Sequence[int], batch: Sequence[int]) -> int:
    return sum(w * x for w, x in zip(weights, batch, strict=True))
