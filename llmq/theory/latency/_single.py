r"""One server, one request at a time: M/G/1 and M/D/1.

**M/G/1, first come first served** (Pollaczek-Khinchine): with :math:`\rho = \lambda E[S] < 1`

.. math:: E[W] = \frac{\lambda E[S^2]}{2 (1 - \rho)}.

It is the whole-request view of a model that serves one request at a time with
:math:`S = a n + c` for ``n`` tokens (Yang, Jiao and Xu, arXiv 2407.05347): cutting ``n`` at a limit
shortens the wait twice, by the mean and by the second moment.

**M/D/1**: the alternating series
:math:`P(W \le x) = (1-\rho) \sum_{k \le x/D} (\lambda (kD - x))^k e^{-\lambda (kD - x)} / k!`
loses all digits beyond a few ``D``. Summed instead is an identity without cancellation: for
:math:`x = kD - y`, :math:`0 < y \le D`,

.. math:: P(W \le x) = \sum_{j < k} P(N \le k - j)\, e^{-\lambda y} (\lambda y)^j / j!

where ``N`` is the number in the system, whose law follows from balance across levels, also without
subtraction (Franx, Oper. Res. Lett. 29, 2001, for several servers). Far out the law is
:math:`P(W > x) \sim C e^{-\eta x}` with
:math:`\lambda (e^{\eta D} - 1) = \eta` and :math:`C = (1 - \rho) / (\lambda D e^{\eta D} - 1)`;
beyond ``30 D`` the other terms are below rounding.

Not covered: priorities, other orders of service (:mod:`llmq.theory.latency._sizes`), batches.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from llmq._input.checked import checked
from llmq.errors import InputError
from llmq.model.lengths import Lengths
from llmq.result import Kind
from llmq.theory.latency._base import Law, check_number, check_share, check_stable, check_whole

__all__ = ["MD1", "MG1", "md1", "mg1", "mg1_tokens"]

_FAR = 30  # service times; beyond, one exponential is the law to the last digit
_LOWER = "lower the rate or shorten the service"


@checked(record=True)
@dataclass(frozen=True, slots=True, kw_only=True)
class MG1(Law):
    """Mean delay of an M/G/1 queue, first come first served.

    Parameters
    ----------
    rate : float
        Arrivals per unit of time.
    mean : float
        Mean service time.
    second_moment : float
        Mean square of the service time.
    utilisation : float
        Fraction of time the server is busy.
    wait : float
        Mean time before service starts.
    kind, assumptions, source
        As in every result.
    """

    rate: float
    mean: float
    second_moment: float
    utilisation: float
    wait: float

    @property
    def sojourn(self) -> float:
        """Mean time from arrival to the end of service."""
        return self.wait + self.mean

    @property
    def queue_mean(self) -> float:
        """Mean number waiting."""
        return self.rate * self.wait


@checked
def mg1(rate: float, mean: float, second_moment: float) -> MG1:
    """Return the mean wait of an M/G/1 queue.

    Parameters
    ----------
    rate : float
        Poisson arrivals per unit of time.
    mean : float
        Mean service time.
    second_moment : float
        Mean square of the service time, at least ``mean**2``.

    Returns
    -------
    MG1
        Exact.

    Raises
    ------
    InputError
        A number that is not positive, or a second moment below the square of the mean.
    UnstableError
        The utilisation is 1 or more.

    Examples
    --------
    >>> mg1(rate=0.5, mean=1.0, second_moment=2.0).wait
    1.0
    """
    rate, mean = check_number("rate", rate), check_number("mean", mean)
    second_moment = check_number("second_moment", second_moment)
    if second_moment < mean**2 * (1 - 1e-9):
        raise InputError(
            f"second_moment must be at least mean**2 = {mean**2:g}, got {second_moment:g}: "
            "it is E[S**2], not the variance",
            field="second_moment",
            value=second_moment,
        )
    load = rate * mean
    check_stable("the mean wait", load, _LOWER)
    return MG1(
        rate=rate,
        mean=mean,
        second_moment=second_moment,
        utilisation=load,
        wait=rate * second_moment / (2 * (1 - load)),
        kind=Kind.EXACT,
        assumptions=(
            "Poisson arrivals",
            "independent service times",
            "one server, first come first served",
        ),
        source="Pollaczek-Khinchine; theory core 1.8 [MG1]",
    )


@checked
def mg1_tokens(
    rate: float, tokens: Lengths, per_token: float, base: float = 0.0, limit: int | None = None
) -> MG1:
    """Return the mean wait if requests are served alone, in time linear in their tokens.

    Parameters
    ----------
    rate : float
        Poisson arrivals per unit of time.
    tokens : Lengths
        Output tokens.
    per_token : float
        Time of one token.
    base : float
        Time of a request beside its tokens.
    limit : int, optional
        Most tokens that are generated (the max-token limit); longer outputs are cut there.

    Returns
    -------
    MG1
        Exact.

    Raises
    ------
    InputError
        A number out of its domain, or ``tokens`` is no Lengths.
    UnstableError
        The utilisation is 1 or more.

    Examples
    --------
    >>> mg1_tokens(rate=1.0, tokens=Lengths.uniform(1, 3), per_token=0.1, limit=2).utilisation
    0.16666667
    """
    if not isinstance(tokens, Lengths):
        raise InputError(f"tokens must be an llmq.Lengths, got {tokens!r}", value=tokens)
    base, per_token = check_number("base", base, zero=True), check_number("per_token", per_token)
    most = tokens.high if limit is None else check_whole("limit", limit)

    def service(n: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return base + per_token * np.minimum(n, most)

    return mg1(rate, tokens.expect(service), tokens.expect(lambda n: service(n) ** 2))


@checked(record=True)
@dataclass(frozen=True, slots=True, kw_only=True)
class MD1(Law):
    """Waiting-time law of an M/D/1 queue, first come first served.

    Parameters
    ----------
    rate : float
        Arrivals per unit of time.
    duration : float
        Service time of every request.
    utilisation : float
        Fraction of time the server is busy.
    wait : float
        Mean time before service starts.
    decay : float
        The rate at which the tail of the wait falls.
    kind, assumptions, source
        As in every result.
    """

    rate: float
    duration: float
    utilisation: float
    wait: float
    decay: float

    @property
    def sojourn(self) -> float:
        """Mean time from arrival to the end of service."""
        return self.wait + self.duration

    @checked
    def tail(self, x: float) -> float:
        """Probability of a wait longer than ``x``.

        Parameters
        ----------
        x : float
            A time, at least 0.

        Returns
        -------
        float
            Accurate relative to itself beyond ``30 * duration``, absolutely before.

        Raises
        ------
        InputError
            ``x`` is negative or no number.
        """
        x = check_number("x", x, zero=True) / self.duration
        if x >= _FAR:
            return self._far * math.exp(-self.decay * self.duration * x)
        k = math.floor(x) + 1
        y = self.utilisation * (k - x)
        poisson = _poisson(y, k)
        return max(0.0, float(1 - poisson @ _number_cdf(self.utilisation)[k:0:-1]))

    @checked
    def cdf(self, x: float) -> float:
        """Probability of a wait of at most ``x``.

        Parameters
        ----------
        x : float
            A time, at least 0.

        Returns
        -------
        float
            ``1 - tail(x)``; at 0 the probability of no wait.
        """
        return 1 - self.tail(x)

    @checked
    def quantile(self, q: float) -> float:
        """Shortest time that a share ``q`` of the waits does not exceed.

        Parameters
        ----------
        q : float
            Strictly between 0 and 1.

        Returns
        -------
        float
            0 where at least a share ``q`` does not wait.

        Raises
        ------
        InputError
            ``q`` is not a share.
        """
        from scipy.optimize import brentq

        p = 1 - check_share("q", q)
        if self.tail(0) <= p:
            return 0.0
        far = _FAR * self.duration
        if self.tail(far) > p:
            return math.log(self._far / p) / self.decay
        return float(brentq(lambda x: self.tail(x) - p, 0, far, xtol=1e-13 * far, rtol=1e-14))

    @property
    def _far(self) -> float:
        rho = self.utilisation
        return (1 - rho) / (rho * math.exp(self.decay * self.duration) - 1)


@checked
def md1(rate: float, duration: float) -> MD1:
    """Return the waiting-time law of an M/D/1 queue.

    Parameters
    ----------
    rate : float
        Poisson arrivals per unit of time.
    duration : float
        Service time of every request.

    Returns
    -------
    MD1
        Exact.

    Raises
    ------
    InputError
        A number that is not positive.
    UnstableError
        The utilisation is 1 or more.

    Examples
    --------
    >>> law = md1(rate=0.8, duration=1.0)
    >>> law.wait, law.tail(2.0), law.quantile(0.99)
    (2.0, 0.36548006, 10.35588679)
    """
    rate, duration = check_number("rate", rate), check_number("duration", duration)
    load = rate * duration
    check_stable("the wait", load, _LOWER)
    return MD1(
        rate=rate,
        duration=duration,
        utilisation=load,
        wait=load * duration / (2 * (1 - load)),
        decay=_decay(load) / duration,
        kind=Kind.EXACT,
        assumptions=(
            "Poisson arrivals",
            "equal service times",
            "one server, first come first served",
        ),
        source="Erlang; Franx 2001; theory core 1.8 [MD1]",
    )


def _decay(rho: float) -> float:
    """Positive root of ``rho (e^z - 1) = z``."""
    from scipy.optimize import brentq

    # The minimum of the difference lies at log(1 / rho), the root beyond it.
    low = -math.log(rho)
    high = low + 1
    while rho * math.expm1(high) < high:
        high += 1
    return float(brentq(lambda z: rho * math.expm1(z) - z, low, high, xtol=1e-300, rtol=1e-14))


def _poisson(mean: float, n: int) -> npt.NDArray[np.float64]:
    """Probabilities of 0 .. n - 1."""
    steps = np.concatenate(([math.exp(-mean)], mean / np.arange(1, n)))
    return np.asarray(np.cumprod(steps), dtype=np.float64)


def _number_cdf(rho: float) -> npt.NDArray[np.float64]:
    """P(number in system <= n) of M/D/1 for n = 0 .. _FAR + 1, by balance across levels."""
    from scipy.special import pdtrc

    more = pdtrc(np.arange(_FAR + 2), rho)  # P(arrivals during a service > n)
    p = np.zeros(_FAR + 2)
    p[0] = 1 - rho
    for j in range(_FAR + 1):
        up = p[0] * more[j] + p[1 : j + 1] @ more[j:0:-1]
        p[j + 1] = up / math.exp(-rho)
    return np.cumsum(p)
