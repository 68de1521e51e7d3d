r"""Service in batches: slots, exponential batches, and batches that take all who wait.

**Bailey** (M/D^[b]/1 in slots; Bailey 1954; Dong and Cao's flow control decouples into it):
:math:`Q' = (Q + A - b)^+`, ``A`` Poisson with mean ``m < b``. With
:math:`z_1, \ldots, z_{b-1}` the roots of :math:`z^b = e^{m(z-1)}` inside the unit disc,

.. math:: E[Q] = \sum_k \frac{1}{1 - z_k} - \frac{b(b-1) - m^2}{2(b-m)}, \qquad
          P(Q = 0) = (b - m) e^m \prod_k \frac{z_k}{z_k - 1}.

The roots are fixed points of :math:`z = w_k e^{m(z-1)/b}`, :math:`w_k = e^{2 \pi i k / b}`, a
contraction by ``m / b``; Newton steps finish.

**Bulk service** M/M^[1,b]/1: a batch takes an exponential time of rate :math:`\mu` whatever its
size. ``r`` in (0, 1) solves :math:`\mu (r + \cdots + r^b) = \lambda`. If arrivals may join the
batch in service (accessible), :math:`p_n = (1 - r) r^n`. Otherwise
:math:`P(\text{busy}, q \text{ wait}) = C r^q`, :math:`P(\text{idle}) = C \mu / \lambda` with
:math:`1/C = \mu / \lambda + 1 / (1 - r)`.

**Inoue** (arXiv 1912.06322): the server takes all who wait, ``b`` requests take
:math:`\alpha b + \tau_0`. :math:`B' \sim \text{Poisson}(\lambda (\alpha B + \tau_0))`, 1 in place
of 0, and ``E[W] = alpha + tau0 + (1 + 2 lambda alpha)(E[B^2] - E[B]) / (2 lambda E[B])`` (his
eq. 36; ``W`` includes the service). Both moments follow from ``P0 = P(Poisson = 0)`` by the balance
of means, and iterating the generating function from 0 along
:math:`u_{k+1} = 1 - e^{-\lambda \alpha u_k}`, :math:`u_0 = 1`, gives it without truncation:

.. math:: P_0 = \Pi_\infty / \sum_{k \ge 0} u_k \Pi_k, \qquad
          \Pi_k = \exp\Bigl(-\lambda \tau_0 \sum_{i < k} u_i\Bigr).

Not covered: a largest batch in Inoue's model, batch times that depend on the longest output.
"""

from __future__ import annotations

import cmath
import math
from dataclasses import dataclass

import numpy as np

from llmq._input.checked import checked
from llmq.result import Kind
from llmq.theory.latency._base import Law, check_number, check_stable, check_whole

__all__ = ["Bailey", "Bulk", "Inoue", "bailey", "bulk", "inoue"]


@checked(record=True)
@dataclass(frozen=True, slots=True, kw_only=True)
class Bailey(Law):
    """Queue left at the end of a slot that serves at most ``batch`` requests.

    Parameters
    ----------
    mean_arrivals : float
        Mean arrivals per slot.
    batch : int
        Most requests served in a slot.
    queue_mean : float
        Mean number left.
    p_empty : float
        Probability that nobody is left.
    kind, assumptions, source
        As in every result.
    """

    mean_arrivals: float
    batch: int
    queue_mean: float
    p_empty: float

    @property
    def utilisation(self) -> float:
        """Fraction of the places that are used."""
        return self.mean_arrivals / self.batch

    @property
    def wait(self) -> float:
        """Mean number of slots that a request is left over (Little)."""
        return self.queue_mean / self.mean_arrivals


@checked
def bailey(mean_arrivals: float, batch: int) -> Bailey:
    """Return the queue of a slotted server with Poisson arrivals.

    Parameters
    ----------
    mean_arrivals : float
        Mean arrivals per slot, below ``batch``.
    batch : int
        Most requests served in a slot.

    Returns
    -------
    Bailey
        Exact.

    Raises
    ------
    InputError
        A number that is out of its domain.
    UnstableError
        As many arrivals as places, or more.

    Examples
    --------
    >>> law = bailey(mean_arrivals=3.0, batch=4)
    >>> law.queue_mean, law.p_empty
    (0.80088348, 0.67801105)
    """
    m, b = check_number("mean_arrivals", mean_arrivals), check_whole("batch", batch, most=2**17)
    check_stable("the queue", m / b, "lower the rate or serve more in a slot")
    roots = [_unit_root(m, b, k) for k in range(1, b)]
    mean = sum(1 / (1 - z) for z in roots).real if roots else 0.0
    log_empty = math.log(b - m) + m + sum(cmath.log(z / (z - 1)).real for z in roots)
    return Bailey(
        mean_arrivals=m,
        batch=b,
        queue_mean=max(0.0, mean - (b * (b - 1) - m * m) / (2 * (b - m))),
        p_empty=math.exp(log_empty),
        kind=Kind.EXACT,
        assumptions=("Poisson arrivals, independent between slots", "equal slots"),
        source="Bailey 1954; theory core 1.8 [B1]",
    )


def _unit_root(m: float, b: int, k: int) -> complex:
    turn = cmath.exp(2j * math.pi * k / b)
    z = turn * math.exp(-m / b)
    for step in range(200):
        image = turn * cmath.exp(m * (z - 1) / b)
        # Newton after a few contractions: at m near b the contraction alone is slow.
        new = image if step < 20 else z - (z - image) / (1 - m / b * image)
        if abs(new - z) <= 1e-16 * b:
            break
        z = new
    return z


@checked(record=True)
@dataclass(frozen=True, slots=True, kw_only=True)
class Bulk(Law):
    """Number and delay with exponential batches of at most ``batch``.

    Parameters
    ----------
    rate : float
        Arrivals per unit of time.
    service_rate : float
        Batches per unit of time while busy.
    batch : int
        Most requests in a batch.
    accessible : bool
        Whether arrivals may join the batch in service.
    root : float
        Ratio of the geometric law.
    mean : float
        Mean number of requests present.
    queue_mean : float
        Mean number of them outside the batch.
    p_idle : float
        Probability that nobody is present.
    kind, assumptions, source
        As in every result.
    """

    rate: float
    service_rate: float
    batch: int
    accessible: bool
    root: float
    mean: float
    queue_mean: float
    p_idle: float

    @property
    def sojourn(self) -> float:
        """Mean time from arrival to the end of the batch."""
        return self.mean / self.rate

    @property
    def wait(self) -> float:
        """Mean time outside the batch."""
        return self.queue_mean / self.rate


@checked
def bulk(rate: float, service_rate: float, batch: int, accessible: bool) -> Bulk:
    """Return the law of a server of exponential batches, whose time does not grow with the size.

    Parameters
    ----------
    rate : float
        Poisson arrivals per unit of time.
    service_rate : float
        Batches per unit of time while busy.
    batch : int
        Most requests in a batch; a single one is served alone rather than wait.
    accessible : bool
        Whether arrivals may join the batch in service (continuous batching) or wait for the next.

    Returns
    -------
    Bulk
        Exact.

    Raises
    ------
    InputError
        A number that is out of its domain.
    UnstableError
        The rate is not below ``batch * service_rate``.

    Examples
    --------
    >>> bulk(rate=3.0, service_rate=1.0, batch=4, accessible=True).sojourn
    2.64763914
    >>> bulk(rate=3.0, service_rate=1.0, batch=4, accessible=False).queue_mean
    7.65749618
    """
    from scipy.optimize import brentq

    lam, mu = check_number("rate", rate), check_number("service_rate", service_rate)
    b = check_whole("batch", batch, most=2**20)
    check_stable("the delay", lam / (b * mu), "lower the rate, or serve larger or faster batches")
    powers = np.arange(1, b + 1)
    r = float(brentq(lambda x: mu * float(np.sum(x**powers)) - lam, 0.0, 1.0, xtol=1e-16))
    if accessible:
        mean, waiting, idle = r / (1 - r), r ** (b + 1) / (1 - r), 1 - r
    else:
        c = 1 / (mu / lam + 1 / (1 - r))
        waiting, idle = c * r / (1 - r) ** 2, c * mu / lam
        mean = waiting + lam / mu
    return Bulk(
        rate=lam,
        service_rate=mu,
        batch=b,
        accessible=bool(accessible),
        root=r,
        mean=mean,
        queue_mean=waiting,
        p_idle=idle,
        kind=Kind.EXACT,
        assumptions=("Poisson arrivals", "exponential batch time, the same for every size"),
        source="Bailey; Medhi; theory core 1.8 [BK]",
    )


@checked(record=True)
@dataclass(frozen=True, slots=True, kw_only=True)
class Inoue(Law):
    """Delay of a server that takes all who wait, in time linear in their number.

    Parameters
    ----------
    rate : float
        Arrivals per unit of time.
    per_item : float
        Time of one request more in the batch.
    base : float
        Time of a batch beside its requests.
    load : float
        ``rate * per_item``.
    wait : float
        Mean time from arrival to the end of the batch (``W`` of the paper, service included).
    batch_mean : float
        Mean size of a batch.
    batch_second_moment : float
        Mean square of the size.
    utilisation : float
        Fraction of time the server is busy.
    bound : float
        Inoue's closed upper bound of ``wait``.
    kind, assumptions, source
        As in every result.
    """

    rate: float
    per_item: float
    base: float
    load: float
    wait: float
    batch_mean: float
    batch_second_moment: float
    utilisation: float
    bound: float


@checked
def inoue(rate: float, per_item: float, base: float) -> Inoue:
    """Return the delay of dynamic batching without a largest batch.

    Parameters
    ----------
    rate : float
        Poisson arrivals per unit of time.
    per_item : float
        Time of one request more in the batch.
    base : float
        Time of a batch beside its requests.

    Returns
    -------
    Inoue
        Exact.

    Raises
    ------
    InputError
        A number that is not positive.
    UnstableError
        ``rate * per_item`` is 1 or more.

    Examples
    --------
    >>> law = inoue(rate=0.5 / 0.1438, per_item=0.1438, base=1.8874)
    >>> law.wait, law.bound
    (5.90186457, 5.90186667)
    """
    lam = check_number("rate", rate)
    alpha, tau0 = check_number("per_item", per_item), check_number("base", base, zero=True)
    rho, x = lam * alpha, lam * tau0
    check_stable("the delay", rho, "lower the rate: batching does not shorten per_item")
    p0 = _chance_of_none(rho, x)
    mean = (x + p0) / (1 - rho)
    # E[B'^2] = E[T + T^2] + P0 with T = rho B + x.
    square = (rho * mean + x + 2 * rho * x * mean + x * x + p0) / (1 - rho**2)
    busy = alpha * mean + tau0
    return Inoue(
        rate=lam,
        per_item=alpha,
        base=tau0,
        load=rho,
        wait=alpha + tau0 + (1 + 2 * rho) * (square - mean) / (2 * lam * mean),
        batch_mean=mean,
        batch_second_moment=square,
        utilisation=busy / (busy + p0 / lam),
        bound=min(_first_bound(lam, alpha, tau0), _second_bound(lam, alpha, tau0)),
        kind=Kind.EXACT,
        assumptions=("Poisson arrivals", "the server takes all who wait", "no largest batch"),
        source="Inoue, arXiv 1912.06322, eq. 36; theory core 1.8 [Q1]",
    )


def _first_bound(lam: float, alpha: float, tau0: float) -> float:
    more = 1 + 2 * lam * tau0 + (1 - lam * tau0) / (1 + lam * alpha)
    return (alpha + tau0) / (2 * (1 - lam * alpha)) * more


def _second_bound(lam: float, alpha: float, tau0: float) -> float:
    rho = lam * alpha
    return 1.5 * tau0 / (1 - rho) + alpha / 2 * (rho + 2) / (1 - rho**2)


def _chance_of_none(rho: float, x: float) -> float:
    """P(no arrival during a batch); ``u`` falls by the factor ``rho`` at each step, in the end."""
    u, spent, total = 1.0, 0.0, 0.0
    while u > 1e-9 * (1 - rho):
        total += u * math.exp(-x * spent)
        spent += u
        u = -math.expm1(-rho * u)
    rest = u / (1 - rho)  # of the geometric end; what it neglects is of the order of its square
    none = math.exp(-x * (spent + rest))
    return none / (total + rest * none)
