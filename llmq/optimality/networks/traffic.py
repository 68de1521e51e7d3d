"""What arrives at a small network: its classes at a load, perhaps with a queue to begin with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from llmq.errors import InputError
from llmq.model.arrivals import Arrivals, Deterministic, Poisson
from llmq.model.request import RequestClass
from llmq.model.workload import Workload

__all__ = ["Burst", "Offered", "check_classes"]


@dataclass(frozen=True, slots=True)
class Burst(Arrivals):
    """Arrivals of which the first all come at time 0.

    Parameters
    ----------
    process : Poisson or Deterministic
        The others.
    first : int
        How many come at time 0.

    Examples
    --------
    >>> Burst(Deterministic(2.0), 2).times(4, rng=1)
    array([0. , 0. , 0.5, 1. ])
    """

    process: Poisson | Deterministic
    first: int

    @property
    def rate(self) -> float:
        """Requests per second, in the long run."""
        return self.process.rate

    @property
    def dispersion(self) -> float:
        """Index of dispersion for counts."""
        return self.process.dispersion

    def _times(self, n: int, rng: np.random.Generator) -> npt.NDArray[np.float64]:
        first = min(self.first, n)
        return np.concatenate((np.zeros(first), self.process.times(n - first, rng)))

    def at_rate(self, rate: float) -> Burst:  # noqa: D102 (said by the base class)
        return Burst(self.process.at_rate(rate), self.first)


def check_classes(mix: Mapping[str, RequestClass], rates: Mapping[str, float]) -> None:
    """Refuse rates of other classes than those of the mix.

    Parameters
    ----------
    mix : mapping of str to RequestClass
        The classes.
    rates : mapping of str to float
        Requests per second.

    Raises
    ------
    InputError
        They differ.
    """
    if set(rates) != set(mix):
        raise InputError(f"a network has a rate for each class: {sorted(mix)}, got {sorted(rates)}")


class Offered:
    """What a network is offered: classes and a direction of rates, at load 1."""

    __slots__ = ()
    mix: Mapping[str, RequestClass]
    rates: Mapping[str, float]

    def at(self, load: float, *, deterministic: bool = False, first: int = 0) -> Workload:
        """Return the traffic at a load.

        Parameters
        ----------
        load : float
            Share of the capacity that is offered, between 0 and 2.
        deterministic : bool
            Equal gaps between arrivals instead of exponential ones.
        first : int
            So many requests more come at time 0.

        Returns
        -------
        Workload
            The traffic.

        Raises
        ------
        InputError
            A load outside (0, 2).
        """
        if not 0 < load < 2:
            raise InputError(f"load must lie between 0 and 2, got {load}", value=load)
        total = load * sum(self.rates.values())
        process = Deterministic(total) if deterministic else Poisson(total)
        return Workload(Burst(process, first) if first else process, self.mix, self.rates)
