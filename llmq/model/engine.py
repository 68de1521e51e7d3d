"""What serves: one engine (a model on one GPU or a tensor-parallel group of them)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from llmq._input.checked import checked
from llmq.errors import InputError
from llmq.model.conventions import ENGINE, Conventions
from llmq.model.time.batchtime import BatchTime

__all__ = ["Engine"]


@checked
@dataclass(frozen=True, slots=True)
class Engine:
    """A serving engine: a law of iteration time and three budgets.

    Parameters
    ----------
    law : BatchTime
        Seconds of one iteration.
    token_budget : int
        Most tokens in one iteration (vLLM ``--max-num-batched-tokens``).
    max_seqs : int, optional
        Most requests resident at a time (vLLM ``--max-num-seqs``); no limit if not given.
    kv_tokens : int, optional
        KV capacity, tokens; no limit if not given.
    kv_block : int
        Tokens in a KV block; memory is taken in whole blocks.
    prefill_chunk : int, optional
        Most prompt tokens of one request in one iteration; the budget if not given.
    per_swap : float
        Seconds per KV token moved to the host or back; added to the iteration.
    conventions : Conventions
        Where tokens, memory and slots are counted, see :mod:`llmq.model.conventions`.
    name : str
        For reports.
    gpus : int
        GPUs of one engine (tensor parallelism).
    source : str
        Where the numbers come from.
    assumptions : tuple of str
        What they rest on.
    prefix_cache : bool
        KV blocks of earlier requests are found again (vLLM ``--enable-prefix-caching``) where a
        trace names its prompt blocks, and by requests that were evicted. Reference simulator only.

    Examples
    --------
    >>> law = BatchTime.affine(base=0.012, per_token=2.5e-5, per_kv=1e-8)
    >>> Engine(law, token_budget=512, max_seqs=128, kv_tokens=235_728).chunk
    512
    """

    law: BatchTime
    token_budget: int = 512
    max_seqs: int | None = None
    kv_tokens: int | None = None
    kv_block: int = 16
    prefill_chunk: int | None = None
    per_swap: float = 0.0
    conventions: Conventions = ENGINE
    name: str = ""
    gpus: int = 1
    source: str = ""
    assumptions: tuple[str, ...] = ()
    prefix_cache: bool = False

    def __post_init__(self) -> None:
        for name, unit in (
            ("token_budget", "token"),
            ("max_seqs", "request"),
            ("kv_tokens", "token"),
            ("kv_block", "token"),
            ("prefill_chunk", "token"),
            ("gpus", "GPU"),
        ):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(
                    f"{name} must be at least 1 {unit}, got {value}", field=name, value=value
                )
        if not 0 <= self.per_swap < math.inf:
            raise InputError(
                f"per_swap must be a finite number >= 0 (seconds per token), got {self.per_swap}",
                field="per_swap",
                value=self.per_swap,
            )
        if self.kv_tokens is not None and self.kv_tokens < self.kv_block:
            raise InputError(
                f"kv_tokens ({self.kv_tokens}) must hold at least one block of {self.kv_block}",
                field="kv_tokens",
                value=self.kv_tokens,
            )

    @property
    def chunk(self) -> int:
        """Most prompt tokens of one request in one iteration."""
        return min(self.token_budget, self.prefill_chunk or self.token_budget)

    @property
    def kv_blocks(self) -> float:
        """Whole KV blocks; infinite without a limit."""
        return math.inf if self.kv_tokens is None else self.kv_tokens // self.kv_block

    @property
    def kv_room(self) -> float:
        """Tokens in the whole KV blocks; infinite without a limit."""
        return self.kv_blocks * self.kv_block

    @checked
    def with_(self, **changes: Any) -> Engine:
        """Return the engine with some fields changed.

        Parameters
        ----------
        **changes
            Fields and their new values.

        Returns
        -------
        Engine
            The changed copy.

        Raises
        ------
        InputError
            Unknown field.

        Examples
        --------
        >>> Engine(BatchTime.affine(base=1, per_token=1)).with_(token_budget=64).token_budget
        64
        """
        from llmq.errors import nearest

        for name in changes:
            if name not in self.__dataclass_fields__:
                raise InputError(
                    f"an engine has no {name!r}{nearest(name, self.__dataclass_fields__)}"
                )
        return replace(self, **changes)

    def __str__(self) -> str:
        kv = "no KV limit" if self.kv_tokens is None else f"{self.kv_tokens:,} KV tokens"
        seqs = "no slot limit" if self.max_seqs is None else f"{self.max_seqs} slots"
        return (
            f"{self.name or 'engine'}: {self.law}; budget {self.token_budget} tokens, {seqs}, {kv}"
        )
