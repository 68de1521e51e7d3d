"""How a policy fills an iteration when all its decodes advance together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["Together"]


@dataclass(frozen=True, slots=True)
class Together:
    """How a policy fills an iteration when all its decodes advance together.

    Declaring it lets the fast engines run the policy; the tests compare them with the reference.

    Parameters
    ----------
    mixed : bool
        Prefill shares the iteration with the decodes; otherwise an iteration holds one kind.
    queue : bool
        One queue (:func:`llmq.policies.contract.blocks.queue_order`) instead of decodes first.
    until : float
        Where an iteration holds one kind: prefill goes first while there are fewer decodes than
        this (infinite: always; 1: only when there is no decode).
    rows : float
        Prefills that one iteration may hold.
    cycle : float
        Prefills that may start before all residents must have ended.
    arrival : bool
        Residents are served in the order of arrival. While a prompt is cut only where the tokens
        end, the one that is cut is the last resident, so this is decodes first.

    Examples
    --------
    >>> Together().mixed, Together(mixed=False).until
    (True, inf)
    """

    mixed: bool = True
    queue: bool = False
    until: float = np.inf
    rows: float = np.inf
    cycle: float = np.inf
    arrival: bool = False
