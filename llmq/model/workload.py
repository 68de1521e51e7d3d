"""Who arrives: a mix of request classes and an arrival process."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np

from llmq._input.checked import checked
from llmq.errors import InputError, nearest, shown
from llmq.model.arrivals import MMPP, Arrivals, Poisson, Renewal
from llmq.model.closed import Closed
from llmq.model.request import RequestClass
from llmq.model.trace import Trace
from llmq.rng import RngLike, generator, seed_sequence

__all__ = ["Workload"]

Rates: TypeAlias = Mapping[str, float]


@checked
@dataclass(frozen=True, slots=True)
class Workload:
    """A stochastic stream of requests; make one with a classmethod.

    Parameters
    ----------
    arrivals : Arrivals
        The arrival process of all classes together.
    mix : mapping of str to RequestClass
        The classes.
    weights : mapping of str to float
        Share of each class in the arrivals (normalised here).

    Examples
    --------
    >>> mix = {"chat": RequestClass(512, 128), "code": RequestClass(2048, 256)}
    >>> Workload.poisson({"chat": 10.0, "code": 2.0}, mix).rates
    {'chat': 10.0, 'code': 2.0}
    """

    arrivals: Arrivals
    mix: Mapping[str, RequestClass]
    weights: Mapping[str, float]

    def __post_init__(self) -> None:
        if not self.mix:
            raise InputError("a workload needs at least one request class; the mix is empty")
        for name in self.weights:
            if name not in self.mix:
                raise InputError(f"weight for unknown class {name!r}{nearest(name, self.mix)}")
        weights = {name: float(self.weights.get(name, 0.0)) for name in self.mix}
        for name, value in weights.items():
            if not 0 <= value < math.inf:
                raise InputError(f"weight of class {name!r} must be >= 0 and finite, got {value}")
        total = sum(weights.values())
        if not total > 0:
            raise InputError("at least one class must have a positive weight")
        object.__setattr__(self, "mix", dict(self.mix))
        if not math.isclose(total, 1.0, rel_tol=1e-12):  # or a copy would differ in a last bit
            weights = {name: value / total for name, value in weights.items()}
        object.__setattr__(self, "weights", weights)

    @classmethod
    @checked
    def poisson(
        cls,
        rate: float | Rates,
        mix: Mapping[str, RequestClass],
        weights: Mapping[str, float] | None = None,
    ) -> Workload:
        """Return Poisson arrivals.

        Parameters
        ----------
        rate : float or mapping of str to float
            Requests per second: in total, or of each class.
        mix : mapping of str to RequestClass
            The classes.
        weights : mapping of str to float, optional
            Shares of the classes where ``rate`` is a total; equal if not given.

        Returns
        -------
        Workload
            The stream.

        Raises
        ------
        InputError
            Empty mix, unknown class, rate not positive.
        """
        total, shares = _shares(rate, mix, weights)
        return cls(Poisson(total), mix, shares)

    @classmethod
    @checked
    def renewal(
        cls,
        rate: float | Rates,
        mix: Mapping[str, RequestClass],
        weights: Mapping[str, float] | None = None,
        *,
        cv: float,
    ) -> Workload:
        """Return renewal arrivals with gamma gaps.

        Parameters
        ----------
        rate, mix, weights
            As in :meth:`poisson`.
        cv : float
            Coefficient of variation of a gap.

        Returns
        -------
        Workload
            The stream.
        """
        total, shares = _shares(rate, mix, weights)
        return cls(Renewal(total, cv), mix, shares)

    @classmethod
    @checked
    def mmpp(
        cls,
        rates: tuple[float, float],
        switch: tuple[float, float],
        mix: Mapping[str, RequestClass],
        weights: Mapping[str, float] | None = None,
    ) -> Workload:
        """Return arrivals whose rate switches between two values.

        Parameters
        ----------
        rates : tuple of float
            Requests per second in the two states.
        switch : tuple of float
            Rate of leaving each state, per second.
        mix, weights
            As in :meth:`poisson`.

        Returns
        -------
        Workload
            The stream.
        """
        process = MMPP(rates, switch)
        return cls(process, mix, _shares(process.rate, mix, weights)[1])

    @classmethod
    @checked
    def closed(
        cls,
        users: int,
        mix: Mapping[str, RequestClass],
        weights: Mapping[str, float] | None = None,
        *,
        think: float = 0.0,
        think_cv: float = 1.0,
    ) -> Workload:
        """Return users that send their next request when the last one has been answered.

        Parameters
        ----------
        users : int
            How many; each has at most one request in the system.
        mix, weights
            As in :meth:`poisson`: the class of each request is drawn anew.
        think : float
            Mean time from an answer to the next request, seconds.
        think_cv : float
            Coefficient of variation of that time: 1 is exponential; 0 is always the same, and then
            equal users stay in step.

        Returns
        -------
        Workload
            The users. It has no rate of its own: the throughput is an outcome.

        Examples
        --------
        >>> Workload.closed(8, {"chat": RequestClass(512, 128)}).is_closed
        True
        """
        shares = dict.fromkeys(mix, 1.0) if weights is None else weights
        return cls(Closed(users, think, think_cv), mix, shares)

    @property
    def is_closed(self) -> bool:
        """Whether arrivals follow completions, so that there is no rate."""
        return isinstance(self.arrivals, Closed)

    @property
    def rate(self) -> float:
        """Requests per second of all classes."""
        return self.arrivals.rate

    @property
    def rates(self) -> dict[str, float]:
        """Requests per second of each class."""
        return {name: share * self.rate for name, share in self.weights.items()}

    @checked
    def at_rate(self, rate: float) -> Workload:
        """Return the same stream at another rate.

        Parameters
        ----------
        rate : float
            Requests per second of all classes.

        Returns
        -------
        Workload
            The stream.
        """
        return replace(self, arrivals=self.arrivals.at_rate(rate))

    @checked
    def sample(self, requests: int, rng: RngLike = None) -> Trace:
        """Draw a trace.

        Parameters
        ----------
        requests : int
            How many requests.
        rng : Generator, SeedSequence, int or None
            Arrivals, classes and lengths draw from separate children, so the arrival times do
            not change with the mix.

        Returns
        -------
        Trace
            The requests.

        Examples
        --------
        >>> work = Workload.poisson(6.0, {"chat": RequestClass(512, 128)})
        >>> work.sample(3, rng=1).prompt
        array([512, 512, 512])
        """
        if requests < 1:
            raise InputError(f"requests must be at least 1, got {requests}", value=requests)
        time, kind, size = seed_sequence(rng).spawn(3)
        names = tuple(self.mix)
        shares = np.cumsum([self.weights[name] for name in names])
        codes = np.searchsorted(shares, generator(kind).random(requests), side="right")
        codes = np.minimum(codes, len(names) - 1)
        table = np.zeros((3, requests), dtype=np.int64)
        for code, (name, child) in enumerate(zip(names, size.spawn(len(names)), strict=True)):
            mine = codes == code
            table[:, mine] = np.stack(self.mix[name].sample(int(mine.sum()), child))
        return Trace(
            arrival=self.arrivals.times(requests, generator(time)),
            prompt=table[0],
            output=table[1],
            reasoning=table[2],
            klass=codes,
            classes=names,
        )


def _shares(
    rate: float | Rates, mix: Mapping[str, RequestClass], weights: Mapping[str, float] | None
) -> tuple[float, Mapping[str, float]]:
    if not isinstance(rate, Mapping):
        return float(rate), dict.fromkeys(mix, 1.0) if weights is None else weights
    if weights is not None:
        raise InputError("give either a rate for each class or one rate and weights, not both")
    for name, value in rate.items():
        if name not in mix:
            raise InputError(f"rate for unknown class {shown(name)}{nearest(name, mix)}")
        if not 0 <= value < math.inf:
            raise InputError(f"rate of class {name!r} must be >= 0 and finite, got {value}")
    if absent := [name for name in mix if name not in rate]:
        raise InputError(
            f"the class {absent[0]!r} has no rate: give one for each class, 0 for a class that "
            "does not arrive",
            value=absent[0],
        )
    return float(sum(rate.values())), rate
