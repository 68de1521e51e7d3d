r"""RAD: full tiles only, prefill and decode in iterations of their own.

With ``tile`` decodes, or when no prefill can run, an iteration gives every decode a token; else it
processes one chunk of the oldest prompt. ``chunk`` is the lcm of the three tile sizes of a matrix
product. At most ``cycle`` prompts start before all residents must have ended. A fleet splits the
arrivals at random (Bari, Hegde & de Veciana 2508.01002).

Theorem (there, reconstructed from secondary sources): where an iteration of ``n`` tokens takes
``a ceil(n / tile) + c n``, prompts are multiples of ``chunk``, memory holds ``tile`` of the largest
requests and ``cycle`` is unlimited, every iteration is a full tile unless fewer than ``tile``
decodes are all there is, and the engine is stable up to the outer bound of the region. With a
small ``cycle`` it is not. With a constant term one tile is no longer best:
:meth:`RAD.at_operating_size` takes :math:`n^* = \arg\max_n n / f(n)` instead. Short memory is not
in the theorem: a prompt that does not fit waits, decodes go on.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from llmq._input.checked import checked
from llmq.errors import InputError
from llmq.model.engine import Engine
from llmq.policies.contract.blocks import Admit, Blocks, Budget, Together, until_somebody_changes
from llmq.policies.contract.routers import Random, Router
from llmq.policies.vllm import OneKind

__all__ = ["RAD"]


@checked
@dataclass(frozen=True, slots=True)
class RAD:
    """Decode iterations of exactly one tile, prefill iterations of one chunk.

    Parameters
    ----------
    tile : int
        Decodes of a full decode iteration.
    chunk : int, optional
        Prompt tokens of a prefill iteration, a multiple of the tile; the tile if not given.
    cycle : int, optional
        Prompts that may start before all residents must have ended; no limit if not given.
    token_budget : int, optional
        Tokens per iteration; the engine's if not given. Cuts tile and chunk where it is smaller.
    watermark : float
        Share of the KV blocks that an admission must leave free.
    route : Router
        How a fleet splits the arrivals.

    Examples
    --------
    >>> RAD(tile=64, chunk=128).blocks.budget.chunk
    128
    """

    tile: int = 128
    chunk: int | None = None
    cycle: int | None = None
    token_budget: int | None = None
    watermark: float = 0.01
    route: Router = field(default_factory=Random)
    name: ClassVar[str] = "rad"
    sees: ClassVar[frozenset[str]] = frozenset({"prompt"})

    def __post_init__(self) -> None:
        for name in ("tile", "chunk", "cycle"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not value >= 1 or value % 1):
                raise InputError(
                    f"{name} must be a whole number, at least 1, got {value!r}",
                    field=name,
                    value=value,
                )
        if self.chunk is not None and self.chunk % self.tile:
            raise InputError(
                f"chunk must be a multiple of the tile ({self.tile}), got {self.chunk}: it is the "
                "lcm of the three tile sizes",
                field="chunk",
                value=self.chunk,
            )
        Admit(watermark=self.watermark)  # checks it

    @classmethod
    @checked
    def at_operating_size(cls, engine: Engine, **fields: Any) -> RAD:
        """Return the policy with the most productive batch size as its tile.

        Parameters
        ----------
        engine : Engine
            Its law and token budget decide; attention aside.
        **fields
            Other fields of the policy.

        Returns
        -------
        RAD
            The policy; the smallest size if several are best.

        Examples
        --------
        >>> from llmq.model.time.batchtime import BatchTime
        >>> RAD.at_operating_size(Engine(BatchTime.tiled(base=2, per_tile=10, tile=64), 100)).tile
        64
        """
        law = engine.law.exact()
        tile = max(range(1, engine.token_budget + 1), key=lambda n: n / law.curve(n))
        return cls(tile=tile, **fields)

    @property
    def blocks(self) -> Blocks:
        """The composition."""
        admit = Admit(watermark=self.watermark)
        cycle = float("inf") if self.cycle is None else self.cycle
        together = Together(mixed=False, until=self.tile, rows=1, cycle=cycle)
        return Blocks(
            gate=OneKind(admit, False, together),
            trigger=until_somebody_changes,
            budget=Budget(chunk=self.chunk or self.tile),
            admit=admit,
            route=self.route,
            together=together,
        )
