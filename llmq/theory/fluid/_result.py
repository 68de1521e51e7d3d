"""What the fluid model answers: a point of rest, a path, and the slope of an overload."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from llmq._input.checked import checked
from llmq.result import Kind

__all__ = ["Equilibrium", "OverloadSlope", "Trajectory"]

Floats: TypeAlias = npt.NDArray[np.float64]


@checked(record=True)
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Equilibrium:
    """Where the flow of a stable engine rests.

    Parameters
    ----------
    iteration : float
        Length of an iteration, seconds.
    decoding : mapping of str to float
        Requests in decode, by class.
    prefill : mapping of str to float
        Prompt tokens in an iteration, by class.
    tokens, kv, slots : float
        Tokens in an iteration, KV tokens held and slots taken.
    state : ndarray, shape (n_classes * (2 + stages),)
        Waiting, prefill and stages: a start for ``trajectory``.
    kind, assumptions, source
        As in every result.
    """

    iteration: float
    decoding: Mapping[str, float]
    prefill: Mapping[str, float]
    tokens: float
    kv: float
    slots: float
    state: Floats
    kind: Kind
    assumptions: tuple[str, ...]
    source: str


@checked(record=True)
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trajectory:
    """A solution of the fluid equations.

    Parameters
    ----------
    time : ndarray, shape (n_times,)
        Seconds.
    waiting : ndarray, shape (n_times, n_classes)
        Requests not admitted.
    prefill : ndarray, shape (n_times, n_classes)
        Prompt tokens admitted and not processed.
    decoding : ndarray, shape (n_times, n_classes, stages)
        Requests in each decode stage.
    iteration, kv : ndarray, shape (n_times,)
        Seconds of an iteration and KV tokens held.
    kind, assumptions, source
        As in every result.
    """

    time: Floats
    waiting: Floats
    prefill: Floats
    decoding: Floats
    iteration: Floats
    kv: Floats
    kind: Kind
    assumptions: tuple[str, ...]
    source: str

    @property
    def state(self) -> Floats:
        """The last state: a start for another trajectory."""
        return np.concatenate((self.waiting[-1], self.prefill[-1], self.decoding[-1].ravel()))


@checked(record=True)
@dataclass(frozen=True, slots=True, kw_only=True)
class OverloadSlope:
    """How fast the backlog grows, served in order of arrival; zero inside the region.

    Parameters
    ----------
    load : float
        Fraction of the capacity asked for.
    requests : mapping of str to float
        Requests per second, by class.
    tokens : float
        Tokens of work per second.
    kind, assumptions, source
        As in every result.
    """

    load: float
    requests: Mapping[str, float]
    tokens: float
    kind: Kind
    assumptions: tuple[str, ...]
    source: str
