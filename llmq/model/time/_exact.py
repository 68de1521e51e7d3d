"""Iteration times in exact arithmetic: the Fraction-valued twin of a batch-time law."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from llmq.model.time._curve import Coefficients
from llmq.units import as_fraction

__all__ = ["ExactBatchTime"]


@dataclass(frozen=True, slots=True)
class ExactBatchTime:
    """Fraction-valued twin of a :class:`~llmq.model.time.batchtime.BatchTime`.

    Examples
    --------
    >>> from llmq.model.time.batchtime import BatchTime
    >>> BatchTime.tiled(base=11.28, per_tile=35.47, tile=128).exact()(512)
    Fraction(3829, 25)
    """

    law: Coefficients  # the law in floats

    def curve(self, tokens: int) -> Fraction:
        """Token part of the law."""
        law, n = self.law, int(tokens)
        if n <= 0:
            return Fraction(0)
        if law.form == "table":
            return self._table(n)
        rounded = -(-n // law.tile) * law.tile
        if law.form == "tiled":
            return (
                as_fraction(law.base)
                + as_fraction(law.per_tile) * (rounded // law.tile)
                + as_fraction(law.per_token) * n
            )
        compute = as_fraction(law.base) + as_fraction(law.per_token) * rounded
        if law.form == "affine":
            return compute
        return max(compute, as_fraction(law.floor) + as_fraction(law.floor_per_token) * n)

    def _table(self, n: int) -> Fraction:
        x, y = self.law.tokens, [as_fraction(t) for t in self.law.seconds]
        if n <= x[0]:
            return y[0]
        i = next((i for i in range(1, len(x)) if x[i] >= n), len(x) - 1)
        return y[i - 1] + (y[i] - y[i - 1]) * Fraction(n - x[i - 1], x[i] - x[i - 1])

    def __call__(
        self, tokens: int, kv: int = 0, work: Fraction | int = 0, *, mixed: bool = False
    ) -> Fraction:
        """Time of one iteration, exactly."""
        if tokens <= 0:
            return Fraction(0)
        law = self.law
        rate = law.per_kv_mixed if mixed or work > 0 else law.per_kv
        return self.curve(tokens) + as_fraction(rate) * kv + as_fraction(law.per_work) * work
