r"""The time of one iteration straight from kernel tables, without a fitted law.

A law of tokens, KV and attention work is a summary of the tables; near saturation its 2-3 % become
7 % of a queue. Here an iteration with prefill chunks ``(p_i, c_i)`` (tokens, cached tokens) and
decodes with contexts ``x_1 .. x_d`` takes

.. math:: t = \mathrm{dense}(\textstyle\sum p_i + d) + \mathrm{head}(r)
    + A(p_1, c_1, d, \bar x) + \alpha\,[A(p_1, c_1, d, x_{max}) - A(p_1, c_1, d, \bar x)]
    + \textstyle\sum_{i>1} A(p_i, c_i, 0, 0)

with the largest chunk first: tables hold one chunk beside the decodes, further chunks are added as
if alone. ``alpha`` is what the profile measured of batches whose contexts differ, 0 if it did not.
Not covered: launch gaps, CPU time, kernels that overlap.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from llmq.calibrate._compose import Kernels, Steps

__all__ = ["KernelTime"]


@dataclass(frozen=True, slots=True)
class KernelTime:
    """Kernel tables as a function of one iteration.

    Examples
    --------
    >>> flat = Kernels(lambda n: 0.01 + 1e-4 * n, lambda r: 0.0 * r, lambda s: 1e-8 * s.kv)
    >>> KernelTime(flat)([(100, 0)], [500, 700], 3)
    0.020213
    """

    kernels: Kernels  # the tables
    # seconds added to every iteration: an assumption about what kernels do not show
    overhead: float = 0.0
    tokens: int = 8192  # largest iteration whose token part is kept ready
    dense: list[float] = field(init=False, repr=False, compare=False)
    head: list[float] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        n = np.arange(self.tokens + 1)
        # An iteration may emit nothing: then neither head nor sampler runs.
        head = np.where(n > 0, self.kernels.head(np.maximum(n, 1)), 0.0)
        object.__setattr__(self, "dense", self.kernels.dense(np.maximum(n, 1)).tolist())
        object.__setattr__(self, "head", head.tolist())

    def __call__(
        self, chunks: Sequence[tuple[int, int]], contexts: Sequence[int], emitting: int
    ) -> float:
        """Time of one iteration."""
        decodes = len(contexts)
        n = decodes + sum(tokens for tokens, _ in chunks)
        if n > self.tokens:
            return math.nan
        first, *rest = sorted(chunks, key=_work, reverse=True) or [(0, 0)]
        time = self.dense[n] + self.head[emitting] + self.overhead
        time += self._attention(*first, contexts)
        return time + sum(self._alone(*chunk) for chunk in rest)

    def _attention(self, chunk: int, cached: int, contexts: Sequence[int]) -> float:
        decodes = len(contexts)
        mean = sum(contexts) / decodes if decodes else 0.0
        share, longest = 0.0, mean
        if self.kernels.spread is not None and decodes > 1:
            longest = max(contexts)
            share = self.kernels.spread(chunk, decodes, min(contexts), mean, longest)
        points = np.array([mean, longest] if share > 0 else [mean])
        same = (np.full(len(points), value) for value in (chunk, cached, decodes))
        # Tables are interpolated, so a mean context need not be a whole number.
        steps = Steps(*same, context=points)  # type: ignore[misc]
        times = self.kernels.attention(steps).tolist()
        return float(times[0] + share * (times[-1] - times[0]))

    def _alone(self, chunk: int, cached: int) -> float:
        return self._attention(chunk, cached, ())


def _work(chunk: tuple[int, int]) -> float:
    tokens, cached = chunk
    return tokens * (cached + tokens / 2)
