"""What one of n equal engines sees of an arrival process.

Dealt out in turn an engine gets every n-th arrival; at random, each arrival with probability 1/n.
Classes and lengths are independent of the arrival times, so the law of one engine is the law of
all of them, and a fleet of any size costs one engine to simulate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from llmq._input.checked import checked
from llmq.errors import InputError
from llmq.model.arrivals import Arrivals

__all__ = ["Thinned"]

Floats: TypeAlias = npt.NDArray[np.float64]


@checked
@dataclass(frozen=True, slots=True)
class Thinned(Arrivals):
    """One engine's share of a process.

    Examples
    --------
    >>> from llmq.model.arrivals import Deterministic
    >>> Thinned(Deterministic(4.0), engines=2).times(2, rng=1)
    array([0.5, 1. ])
    """

    process: Arrivals  # the arrivals of the fleet
    engines: int  # engines in the fleet
    in_turn: bool = True  # every n-th arrival; otherwise at random

    def __post_init__(self) -> None:
        if self.engines < 1:
            raise InputError(f"thinning needs at least 1 engine, got {self.engines}")

    @property
    def rate(self) -> float:
        """Requests per second, in the long run."""
        return self.process.rate / self.engines

    @property
    def dispersion(self) -> float:
        """Index of dispersion for counts."""
        kept = self.process.dispersion / self.engines
        return kept if self.in_turn else 1 - 1 / self.engines + kept

    def _times(self, n: int, rng: np.random.Generator) -> Floats:
        if self.engines == 1:
            return self.process.times(n, rng)
        if self.in_turn:
            return self.process.times(n * self.engines, rng)[self.engines - 1 :: self.engines]
        # Gaps between kept arrivals are geometric.
        last = np.cumsum(rng.geometric(1 / self.engines, n))
        return self.process.times(int(last[-1]) if n else 0, rng)[last - 1]

    @checked
    def at_rate(self, rate: float) -> Thinned:
        if not 0 < rate < math.inf:
            raise InputError(f"rate must be positive and finite, got {rate}")
        return replace(self, process=self.process.at_rate(rate * self.engines))
