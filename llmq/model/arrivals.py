r"""When requests come: arrival processes with a rate and an index of dispersion.

``dispersion`` is the limit of variance over mean of the number of arrivals in a long window: 1 for
Poisson, the squared coefficient of variation for a renewal process, 0 for a clock. Heavy-traffic
waiting is proportional to it, so it says at a glance how bursty a workload is. For the two-state
MMPP with rates :math:`r_1, r_2` and switching rates :math:`q_1` (out of state 1), :math:`q_2`:
:math:`1 + 2 q_1 q_2 (r_1 - r_2)^2 / ((q_1 + q_2)^2 (r_1 q_2 + r_2 q_1))` (Heffes and Lucantoni).
"""

from __future__ import annotations

import abc
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self, TypeAlias

import numpy as np
import numpy.typing as npt

from llmq._input.checked import checked
from llmq.errors import InputError
from llmq.rng import RngLike, generator

__all__ = ["MMPP", "Arrivals", "Batch", "CappedPoisson", "Deterministic", "Poisson", "Renewal"]

Floats: TypeAlias = npt.NDArray[np.float64]


class Arrivals(abc.ABC):
    """An arrival process, with a field or property ``rate``: requests per second in the long run.

    A new one says its ``rate``, its ``dispersion``, how it draws (``_times``) and, unless its rate
    is a field, how it scales (``at_rate``).
    """

    __slots__ = ()

    if TYPE_CHECKING:  # at run time a field of that name would take the property for its default

        @property
        def rate(self) -> float: ...  # noqa: D102 (said above)

    @property
    @abc.abstractmethod
    def dispersion(self) -> float:
        """Index of dispersion for counts."""

    @checked
    def times(self, n: int, rng: RngLike = None) -> Floats:
        """Draw the first arrival times.

        Parameters
        ----------
        n : int
            How many.
        rng : Generator, SeedSequence, int or None
            Source of randomness.

        Returns
        -------
        ndarray, shape (n,)
            Seconds, ascending.
        """
        return self._times(n, generator(rng))

    @checked
    def at_rate(self, rate: float) -> Self:
        """Return the process with its time scaled to another rate.

        Parameters
        ----------
        rate : float
            Requests per second, in the long run.

        Returns
        -------
        Arrivals
            A process of the same kind and the same dispersion.
        """
        return replace(self, rate=rate)  # type: ignore[type-var]

    @abc.abstractmethod
    def _times(self, n: int, rng: np.random.Generator) -> Floats: ...


def _positive(name: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise InputError(f"{name} must be positive and finite, got {value}", value=value)


@checked
@dataclass(frozen=True, slots=True)
class Poisson(Arrivals):
    """Poisson arrivals.

    Parameters
    ----------
    rate : float
        Requests per second.

    Examples
    --------
    >>> Poisson(6.0).times(2, rng=1).shape
    (2,)
    """

    rate: float

    def __post_init__(self) -> None:
        _positive("rate", self.rate)

    @property
    def dispersion(self) -> float:
        """Index of dispersion for counts."""
        return 1.0

    def _times(self, n: int, rng: np.random.Generator) -> Floats:
        return np.cumsum(rng.exponential(1 / self.rate, n))


@checked
@dataclass(frozen=True, slots=True)
class Renewal(Arrivals):
    """Independent gamma gaps with a given coefficient of variation.

    Parameters
    ----------
    rate : float
        Requests per second.
    cv : float
        Standard deviation of a gap over its mean; 0 is a clock, 1 is Poisson.

    Examples
    --------
    >>> Renewal(2.0, cv=3.0).dispersion
    9.0
    """

    rate: float
    cv: float

    def __post_init__(self) -> None:
        _positive("rate", self.rate)
        if not 0 <= self.cv < math.inf:
            raise InputError(f"cv must be >= 0 and finite, got {self.cv}", value=self.cv)

    @property
    def dispersion(self) -> float:
        """Index of dispersion for counts."""
        return self.cv**2

    def _times(self, n: int, rng: np.random.Generator) -> Floats:
        if self.cv < 1e-100:  # below any digit of a gap, and its square would vanish
            return Deterministic(self.rate).times(n)
        shape = self.cv**-2
        return np.cumsum(rng.gamma(shape, 1 / (shape * self.rate), n))


@checked
@dataclass(frozen=True, slots=True)
class Deterministic(Arrivals):
    """A clock: the k-th request (k = 1, 2, ...) comes at ``k / rate``.

    Parameters
    ----------
    rate : float
        Requests per second.

    Examples
    --------
    >>> Deterministic(2.0).times(3, rng=None)
    array([0.5, 1. , 1.5])
    """

    rate: float

    def __post_init__(self) -> None:
        _positive("rate", self.rate)

    @property
    def dispersion(self) -> float:
        """Index of dispersion for counts."""
        return 0.0

    def _times(self, n: int, rng: np.random.Generator) -> Floats:
        return np.arange(1, n + 1) / self.rate


@checked
@dataclass(frozen=True, slots=True)
class Batch(Arrivals):
    """Requests come ``size`` at a time, the groups as a Poisson process.

    Parameters
    ----------
    rate : float
        Requests (not groups) per second; infinite means that all come at time 0.
    size : int
        Requests in a group.

    Examples
    --------
    >>> Batch(math.inf).times(2, rng=None)
    array([0., 0.])
    """

    rate: float
    size: int = 1

    def __post_init__(self) -> None:
        if not self.rate > 0 or not self.size >= 1:
            raise InputError(
                f"batch arrivals need rate > 0 and whole size >= 1, got {self.rate}, {self.size}"
            )

    @property
    def dispersion(self) -> float:
        """Index of dispersion for counts."""
        return float(self.size)

    def _times(self, n: int, rng: np.random.Generator) -> Floats:
        if math.isinf(self.rate):
            return np.zeros(n)
        groups = Poisson(self.rate / self.size).times(-(-n // self.size), rng)
        return np.repeat(groups, self.size)[:n]


@checked
@dataclass(frozen=True, slots=True)
class MMPP(Arrivals):
    """Poisson arrivals whose rate switches between two values (MMPP-2).

    Parameters
    ----------
    rates : tuple of float
        Requests per second in the two states; one may be 0.
    switch : tuple of float
        Rate of leaving each state, per second.

    Examples
    --------
    >>> MMPP(rates=(0.4, 2.0), switch=(0.1, 0.3)).rate
    0.8
    """

    rates: tuple[float, float]
    switch: tuple[float, float]

    def __post_init__(self) -> None:
        finite = all(math.isfinite(x) for x in (*self.rates, *self.switch))
        if not finite or min(self.rates) < 0 or max(self.rates) == 0 or min(self.switch) <= 0:
            raise InputError(
                f"MMPP needs finite rates >= 0, not both 0, and finite switching rates > 0, "
                f"got {self.rates} and {self.switch}"
            )

    @property
    def rate(self) -> float:
        """Requests per second, in the long run."""
        (r1, r2), (q1, q2) = self.rates, self.switch
        return (r1 * q2 + r2 * q1) / (q1 + q2)

    @property
    def dispersion(self) -> float:
        """Index of dispersion for counts."""
        (r1, r2), (q1, q2) = self.rates, self.switch
        return 1 + 2 * q1 * q2 * (r1 - r2) ** 2 / ((q1 + q2) ** 2 * (r1 * q2 + r2 * q1))

    def _times(self, n: int, rng: np.random.Generator) -> Floats:
        operational = np.cumsum(rng.exponential(1.0, n))
        state = int(rng.random() * sum(self.switch) < self.switch[0])
        clock, mass = [0.0], [0.0]
        # Invert the integrated rate, which is linear between switches.
        while n > 0 and mass[-1] <= operational[-1]:
            stays = rng.exponential(1.0, (256, 2)) / np.asarray(self.switch)
            for stay in stays:
                for part in (state, 1 - state):
                    clock.append(clock[-1] + stay[part])
                    mass.append(mass[-1] + stay[part] * self.rates[part])
        return np.interp(operational, mass, clock)

    @checked
    def at_rate(self, rate: float) -> MMPP:  # noqa: D102 (said by the base class)
        factor = rate / self.rate
        (r1, r2), (q1, q2) = self.rates, self.switch
        return MMPP((r1 * factor, r2 * factor), (q1 * factor, q2 * factor))


@checked
@dataclass(frozen=True, slots=True)
class CappedPoisson(Arrivals):
    r"""Poisson arrivals as some load generators make them: with no gap above a cap.

    Gaps :math:`\min(X, c / \lambda)` with :math:`X` exponential of rate :math:`\lambda`
    (``nominal``) have mean :math:`(1 - e^{-c}) / \lambda`, so that requests come faster than asked
    for: by 5.24 % at the cap of 3 mean gaps of the trace generator behind the experiments of SLAI
    (2508.01002). Here to reproduce such experiments; :class:`Poisson` has no cap.

    Parameters
    ----------
    nominal : float
        Requests per second before the cut.
    cap : float
        Longest gap, in nominal mean gaps.

    Examples
    --------
    >>> CappedPoisson(1.0).rate
    1.052396
    """

    nominal: float
    cap: float = 3.0

    def __post_init__(self) -> None:
        for name in ("nominal", "cap"):
            _positive(name, getattr(self, name))

    @property
    def rate(self) -> float:
        """Requests per second, in the long run."""
        return self.nominal / -math.expm1(-self.cap)

    @property
    def dispersion(self) -> float:
        """Index of dispersion for counts: the squared coefficient of variation of a gap."""
        mean, tail = -math.expm1(-self.cap), math.exp(-self.cap)
        return 2 * (mean - self.cap * tail) / mean**2 - 1

    def _times(self, n: int, rng: np.random.Generator) -> Floats:
        gaps = rng.exponential(1 / self.nominal, n)
        return np.cumsum(np.minimum(gaps, self.cap / self.nominal))

    @checked
    def at_rate(self, rate: float) -> CappedPoisson:  # noqa: D102 (the base says it)
        return replace(self, nominal=self.nominal * rate / self.rate)
