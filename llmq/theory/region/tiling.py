r"""The batch size with the highest token rate; tiles, waves, and phases that do not mix.

If nothing but the token budget binds, an engine serves at most :math:`\max_n n / f(n)` tokens per
second, ``n`` over the budget. "Fill the budget" reaches it where the tile divides the budget
(Dai et al.; RAD tiles); otherwise the last, cut tile may cost more than it brings: with
``f = 2 + 10 ceil(n / 64)`` and a budget of 100 tokens, batches of 64 serve 17 % more than full
ones.

*Proof that the best batch is a vertex of the lower convex envelope*
(:mod:`llmq.theory.needs._envelope`). Let ``n`` be the smallest batch with the least time per token
:math:`q = f(n) / n`. The line ``q x`` lies below ``f``, so below the envelope, and touches both at
``n``. Were ``n`` inside a segment of the envelope, the line would touch all of it, so also its left
end, which is a vertex, hence a batch: smaller than ``n`` and as good. Only vertices are compared.

**Tiles and waves of one matrix product.** An output of ``m x n`` entries is cut into tiles of
``T_m x T_n``, each computed by one of ``P`` processors, so it takes

.. math:: w = \lceil \lceil m / T_m \rceil \lceil n / T_n \rceil / P \rceil

waves of equal time. The part of the work that is not padding is :math:`m n / (w P\,T_m T_n)`: it
falls at once where a token more starts a tile, or a tile more starts a wave. What exclusive phases
cost is in
:mod:`llmq.theory.region._exclusive`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction

from llmq._input.checked import checked
from llmq.errors import InputError
from llmq.model.time.batchtime import BatchTime
from llmq.result import Kind
from llmq.theory.needs._envelope import envelope
from llmq.theory.region._exclusive import ExclusiveCycle, exclusive_cycle

__all__ = ["BestBatch", "ExclusiveCycle", "Waves", "best_batch", "exclusive_cycle", "waves"]


@checked(record=True)
@dataclass(frozen=True, slots=True)
class BestBatch:
    """The most productive batch size.

    Parameters
    ----------
    tokens : int
        Tokens in the batch; the smallest if several are best.
    exact_time : fractions.Fraction
        Time of such an iteration, seconds.
    kind, assumptions, source
        As in every result.
    """

    tokens: int
    exact_time: Fraction
    kind: Kind = field(repr=False)
    assumptions: tuple[str, ...] = field(repr=False)
    source: str = field(repr=False)

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


@checked
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
    tokens, time = envelope(law, token_budget).best
    return BestBatch(
        tokens,
        time,
        kind=Kind.EXACT,
        assumptions=("nothing but the token budget binds", "attention takes no time"),
        source="vertex of the lower convex envelope [BB]",
    )


@checked(record=True)
@dataclass(frozen=True, slots=True)
class Waves:
    """Tiles and waves of a matrix product.

    Parameters
    ----------
    tiles : int
        Tiles of the output.
    waves : int
        Rounds in which the processors compute them.
    exact_efficiency : fractions.Fraction
        Part of the computed entries that are wanted.
    kind, assumptions, source
        As in every result.
    """

    tiles: int
    waves: int
    exact_efficiency: Fraction
    kind: Kind = field(repr=False)
    assumptions: tuple[str, ...] = field(repr=False)
    source: str = field(repr=False)

    @property
    def efficiency(self) -> float:
        """Part of the computed entries that are wanted."""
        return float(self.exact_efficiency)


@checked
def waves(rows: int, columns: int, tile: tuple[int, int], processors: int) -> Waves:
    """Count the tiles and waves of a matrix product.

    Parameters
    ----------
    rows, columns : int
        Size of the output; rows are tokens.
    tile : tuple of int
        Rows and columns of a tile.
    processors : int
        Tiles that are computed at a time (multiprocessors of a GPU).

    Returns
    -------
    Waves
        Tiles, waves and efficiency.

    Raises
    ------
    InputError
        A size below 1.

    Examples
    --------
    >>> waves(1792, 1792, tile=(256, 128), processors=108)
    Waves(tiles=98, waves=1, exact_efficiency=Fraction(49, 54))
    """
    high, wide = tile
    sizes = {"rows": rows, "columns": columns, "tile rows": high, "tile columns": wide}
    for name, value in {**sizes, "processors": processors}.items():
        if value < 1:
            raise InputError(f"{name} must be at least 1, got {value}", value=value)
    tiles = -(-rows // high) * -(-columns // wide)
    rounds = -(-tiles // processors)
    wanted = Fraction(rows * columns, rounds * processors * high * wide)
    return Waves(
        tiles,
        rounds,
        wanted,
        kind=Kind.EXACT,
        assumptions=("all tiles take the same time", "a wave starts when the one before has ended"),
        source="NVIDIA, matrix multiplication background [WV]",
    )
