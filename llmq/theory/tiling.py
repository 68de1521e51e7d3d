r"""The batch size with the highest token rate.

If nothing but the token budget binds, an engine serves at most :math:`\max_n n / f(n)` tokens per
second, ``n`` over the budget. "Fill the budget" reaches it where the tile divides the budget
(Dai et al.; RAD tiles); otherwise the last, cut tile may cost more than it brings: with
``f = 2 + 10 ceil(n / 64)`` and a budget of 100 tokens, batches of 64 serve 17 % more than full
ones.

The maximiser is a vertex of the lower convex envelope (:mod:`llmq.theory.envelope`): the line
through the origin and the best point lies below the curve.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from llmq.errors import InputError
from llmq.model.batchtime import BatchTime
from llmq.theory.envelope import envelope

__all__ = ["BestBatch", "best_batch"]


@dataclass(frozen=True, slots=True)
class BestBatch:
    """The most productive batch size.

    Parameters
    ----------
    tokens : int
        Tokens in the batch; the smallest if several are best.
    exact_time : fractions.Fraction
        Time of such an iteration, seconds.
    """

    tokens: int
    exact_time: Fraction

    @property
    def time(self) -> float:
        """Time of such an iteration, seconds."""
        return float(self.exact_time)

    @property
    def exact_rate(self) -> Fraction:
        """Tokens per second, exactly."""
        return self.tokens / self.exact_time

    @property
    def rate(self) -> float:
        """Tokens per second."""
        return float(self.exact_rate)


def best_batch(law: BatchTime, token_budget: int) -> BestBatch:
    """Return the batch size that serves most tokens per second, attention aside.

    Parameters
    ----------
    law : BatchTime
        The law; its token part counts.
    token_budget : int
        Most tokens in one iteration.

    Returns
    -------
    BestBatch
        Size, rate and time.

    Raises
    ------
    InputError
        ``law`` is no BatchTime, or the budget is below 1.

    Examples
    --------
    >>> best_batch(BatchTime.tiled(base=2, per_tile=10, tile=64), token_budget=100)
    BestBatch(tokens=64, exact_time=Fraction(12, 1))
    >>> best_batch(BatchTime.tiled(base=2, per_tile=10, tile=64), token_budget=100).exact_rate
    Fraction(16, 3)
    """
    if not isinstance(law, BatchTime):
        raise InputError(f"best_batch needs a BatchTime, got {type(law).__name__}", value=law)
    return BestBatch(*envelope(law, token_budget).best)
