"""vLLM's two schedulers; v1, that of today, is the default.

**v0**: whole prompts first, in iterations of their own. If the first waiting prompt can be
admitted, one iteration processes whole prompts in arrival order up to the token budget and no
decode; otherwise one iteration gives every decode a token. Newest resident evicted by recompute.
Not throughput-optimal: a steady trickle of prompts starves the decodes, and phases never share an
iteration (Dai et al. 2504.07347, section 4).

**v1** (``vllm/v1/core/sched/scheduler.py``): one token budget. First those that run, in the order
of their admission, which is that of arrival: a decode takes one token, a started prompt what the
budget and the engine's ``prefill_chunk`` (``--long-prefill-token-threshold``) leave; a request that
is alone, nobody else runs or waits, is not cut to the chunk (since about 0.30; read in the
scheduler of 0.32, which can also raise the threshold to a fair share: not covered). Who finds no KV
block evicts the newest resident, itself at last; then nobody is admitted. Otherwise those that
wait, first come first served, until one does not fit: its tokens so far must fit beside the
watermark (``--watermark``, 0 by default), but only the blocks of its first chunk are taken. Before
vLLM 0.19 (pull request 37307 of 2026) only the first chunk had to fit: ``whole_must_fit=False``.
:class:`llmq.policies.Sarathi` with ``watermark=0`` differs only in that it takes the blocks of the
whole prompt at once.

Not covered: priorities, speculative tokens, encoders, LoRA, remote KV.

:class:`OneKind` is the gate of every policy whose iterations hold one kind: vLLM, FasterTransformer
and RAD differ in how many decodes make prefill wait.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt

from llmq._input.checked import checked
from llmq.errors import InputError
from llmq.policies.contract.blocks import (
    Admit,
    Blocks,
    Budget,
    Together,
    came,
    until_somebody_changes,
)
from llmq.policies.contract.routers import RoundRobin, Router
from llmq.policies.contract.view import Bools, View

__all__ = ["VLLM", "OneKind", "running_first"]


@dataclass(frozen=True, slots=True)
class OneKind:
    """Gate: prefills while there are few decodes and one can run, else decodes.

    Parameters
    ----------
    admit : Admit
        The admission rule of the policy.
    whole : bool
        A prompt is processed in one piece.
    together : Together
        How many decodes are few, how many prefills an iteration may hold and a cycle may start.
    """

    admit: Admit
    whole: bool = True
    together: Together = field(default_factory=lambda: Together(mixed=False))

    def __call__(self, view: View) -> tuple[Bools, float | None]:
        """Return who may run.

        Parameters
        ----------
        view : View
            The engine.

        Returns
        -------
        tuple
            Mask of the rows, and no wake-up time: one of the two groups can always run.
        """
        rule = self.together
        decodes = view.decoding.sum(axis=-1, keepdims=True)
        # More decodes than tokens could not all run.
        enough = rule.until if rule.until == np.inf else min(rule.until, view.tokens)
        waiting = view.present & ~view.decoding
        started, new = waiting & view.resident, waiting & ~view.resident
        if rule.cycle < np.inf:
            new = new & (came(view, new) <= rule.cycle - view.started)
        able = started.any(axis=-1, keepdims=True) | self._admissible(view, new)
        prefill = able & (decodes < enough)
        if view.one_prefill_slot:
            prefill = prefill & (decodes < view.slots)
        may = started | new
        if rule.rows < np.inf:
            ahead = started.sum(axis=-1, keepdims=True) + came(view, new)
            may = may & (np.where(started, came(view, started), ahead) <= rule.rows)
        return np.where(prefill, may, view.decoding), None

    def _admissible(self, view: View, new: Bools) -> Bools:
        """Whether the first new prompt can run now; one answer for each run."""
        able = new
        if self.whole:
            able = able & (view.rem <= view.tokens)
        if view.total < np.inf:
            able = able & (self.admit.room(view) <= view.free)
        if not view.one_prefill_slot:
            able = able & (view.resident.sum(axis=-1, keepdims=True) < view.slots)
        head = np.where(new, view.row, np.iinfo(np.int64).max).argmin(axis=-1)
        return np.take_along_axis(able, head[..., None], -1)


def running_first(view: View) -> Sequence[npt.NDArray[np.generic]]:
    """Key: residents in the order of arrival, then new rows.

    Parameters
    ----------
    view : View
        The engine.

    Returns
    -------
    sequence of ndarray
        Columns, the most significant first.
    """
    return np.where(view.resident, 0, 1), view.row


@checked
@dataclass(frozen=True, slots=True)
class VLLM:
    """vLLM's scheduler: prefill before decode (v0), or one budget for both (v1).

    Parameters
    ----------
    token_budget : int, optional
        Tokens per iteration; the engine's if not given. In v0 prompt tokens of a prefill iteration:
        it must hold the longest prompt, which servers of that time made sure of.
    watermark : float, optional
        Share of the KV blocks that an admission must leave free; 0.01 in v0 and 0 in v1 if not
        given.
    route : Router
        How a fleet splits the arrivals.
    version : {"v1", "v0"}
        Which scheduler: that of today, or that of 2023.
    whole_must_fit : bool
        v1: a request is admitted only if all its tokens so far fit, not just the first chunk
        (``--scheduler-reserve-full-isl``, the default since 0.19).

    Examples
    --------
    >>> VLLM().blocks.budget.whole, VLLM(version="v0").blocks.budget.whole
    (False, True)
    """

    token_budget: int | None = None
    watermark: float | None = None
    route: Router = field(default_factory=RoundRobin)
    version: Literal["v0", "v1"] = "v1"
    whole_must_fit: bool = True
    name: ClassVar[str] = "vllm"
    sees: ClassVar[frozenset[str]] = frozenset({"prompt"})

    def __post_init__(self) -> None:
        if self.version not in ("v0", "v1"):
            raise InputError(f"version must be 'v0' or 'v1', got {self.version!r}")
        if self.version == "v0" and not self.whole_must_fit:
            raise InputError("whole_must_fit=False is a choice of version='v1': v0 cuts no prompt")
        Admit(watermark=self.margin)  # checks it

    @property
    def margin(self) -> float:
        """Share of the KV blocks that an admission must leave free."""
        if self.watermark is not None:
            return self.watermark
        return 0.01 if self.version == "v0" else 0.0

    @property
    def blocks(self) -> Blocks:
        """The composition."""
        if self.version == "v1":
            return Blocks(
                key=running_first,
                budget=Budget(alone=True),
                admit=Admit(self.margin, reserve="chunk", all_fit=self.whole_must_fit),
                route=self.route,
                together=Together(arrival=True),
            )
        admit = Admit(watermark=self.margin)
        return Blocks(
            gate=OneKind(admit),
            trigger=until_somebody_changes,
            budget=Budget(whole=True),
            admit=admit,
            route=self.route,
            together=Together(mixed=False),
        )
