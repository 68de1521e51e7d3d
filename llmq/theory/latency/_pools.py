r"""Many equal servers: one common queue (Erlang C), or the shortest of a few (JSQ).

**Erlang C**: ``c`` servers, offered load ``a`` (arrival rate times mean service time). Blocking by
the recursion :math:`B_k = a B_{k-1} / (k + a B_{k-1})`, then
:math:`P(\text{wait}) = B_c / (1 - (a/c)(1 - B_c))`, :math:`E[W] = P(\text{wait}) / (c - a)` and
:math:`P(W > x) = P(\text{wait}) e^{-(c - a) x}` in units of the mean service time.

**Square-root staffing** (Halfin and Whitt, Oper. Res. 29, 1981): with
:math:`c = a + \beta \sqrt a` and :math:`a \to \infty`,
:math:`P(\text{wait}) \to [1 + \beta \Phi(\beta) / \varphi(\beta)]^{-1}`.

**Join the shortest of d** (Mitzenmacher; Vvedenskaya et al.): as the number of servers grows, the
share of servers with at least ``k`` requests tends to :math:`\rho^{(d^k - 1)/(d - 1)}`, so
:math:`E[T] = \sum_{i \ge 1} \rho^{(d^i - d)/(d - 1)}` mean service times.

A server here is a replica, or one slot of an engine; tokens are no servers: an engine gets slower
as its batch grows, which :mod:`llmq.theory.latency._decode` covers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from llmq._input.checked import checked
from llmq._limits import SERVERS
from llmq.errors import InputError
from llmq.result import Kind
from llmq.theory.latency._base import Law, check_number, check_share, check_stable, check_whole

__all__ = ["ErlangC", "HalfinWhitt", "ShortestOf", "erlang_c", "halfin_whitt", "jsq"]


@checked(record=True)
@dataclass(frozen=True, slots=True, kw_only=True)
class ErlangC(Law):
    """Delay of M/M/c; times in units of the mean service time.

    Parameters
    ----------
    servers : int
        Equal servers.
    load : float
        Arrival rate times mean service time, in servers.
    blocking : float
        Erlang B: share lost if nobody could wait.
    p_wait : float
        Probability that a request waits.
    wait : float
        Mean wait, over all requests.
    kind, assumptions, source
        As in every result.
    """

    servers: int
    load: float
    blocking: float
    p_wait: float
    wait: float

    @property
    def utilisation(self) -> float:
        """Fraction of time a server is busy."""
        return self.load / self.servers

    @checked
    def tail(self, x: float) -> float:
        """Probability of a wait longer than ``x``.

        Parameters
        ----------
        x : float
            A time in mean service times, at least 0.

        Returns
        -------
        float
            An exponential tail.
        """
        x = check_number("x", x, zero=True)
        return self.p_wait * math.exp(-(self.servers - self.load) * x)

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
            In mean service times; 0 where at least a share ``q`` does not wait.
        """
        p = 1 - check_share("q", q)
        return max(0.0, math.log(self.p_wait / p) / (self.servers - self.load))

    @checked
    def staff(self, p_wait: float) -> int:
        """Fewest servers with which at most a share ``p_wait`` waits, at this load.

        Parameters
        ----------
        p_wait : float
            Strictly between 0 and 1.

        Returns
        -------
        int
            Servers.

        Raises
        ------
        InputError
            ``p_wait`` is not a share.
        """
        target = check_share("p_wait", p_wait)
        lost, c = 1.0, 0
        while True:
            c += 1
            lost = self.load * lost / (c + self.load * lost)
            if c > self.load and _waits(c, self.load, lost) <= target:
                return c


@checked
def erlang_c(servers: int, load: float) -> ErlangC:
    """Return the delay of a common queue in front of equal exponential servers.

    Parameters
    ----------
    servers : int
        How many.
    load : float
        Arrival rate times mean service time; below ``servers``.

    Returns
    -------
    ErlangC
        Exact.

    Raises
    ------
    InputError
        A number that is out of its domain.
    UnstableError
        The load is not below the number of servers.

    Examples
    --------
    >>> erlang_c(servers=12, load=10.0).p_wait
    0.44938822
    >>> erlang_c(servers=12, load=10.0).staff(p_wait=0.2)
    14
    """
    c, a = check_whole("servers", servers, most=SERVERS), check_number("load", load)
    check_stable("the wait", a / c, f"use at least {math.floor(a) + 1} servers")
    lost = 1.0
    for k in range(1, c + 1):
        lost = a * lost / (k + a * lost)
    waits = _waits(c, a, lost)
    return ErlangC(
        servers=c,
        load=a,
        blocking=lost,
        p_wait=waits,
        wait=waits / (c - a),
        kind=Kind.EXACT,
        assumptions=("Poisson arrivals", "exponential service", "one queue, equal servers"),
        source="Erlang; theory core 1.8 [EC]",
    )


def _waits(c: int, a: float, lost: float) -> float:
    return lost / (1 - a / c * (1 - lost))


@checked(record=True)
@dataclass(frozen=True, slots=True, kw_only=True)
class HalfinWhitt(Law):
    """Square-root staffing.

    Parameters
    ----------
    load : float
        Arrival rate times mean service time, in servers.
    servers : float
        ``load + slack * sqrt(load)``.
    slack : float
        Servers beyond the load, in square roots of the load.
    p_wait : float
        Probability that a request waits.
    kind, assumptions, source
        As in every result.
    """

    load: float
    servers: float
    slack: float
    p_wait: float


@checked
def halfin_whitt(
    load: float, *, servers: float | None = None, p_wait: float | None = None
) -> HalfinWhitt:
    """Return the square-root staffing rule, from the servers or from the probability of a wait.

    Parameters
    ----------
    load : float
        Arrival rate times mean service time.
    servers : float, optional
        Servers; more than ``load``.
    p_wait : float, optional
        Probability that a request waits. Give this or ``servers``.

    Returns
    -------
    HalfinWhitt
        Asymptotic: exact as the load grows.

    Raises
    ------
    InputError
        Both or neither of ``servers`` and ``p_wait``, or a number out of its domain.
    UnstableError
        The load is not below the number of servers.

    Examples
    --------
    >>> halfin_whitt(100.0, p_wait=0.2).servers
    110.615163
    """
    from scipy.optimize import brentq

    a = check_number("load", load)
    if (servers is None) == (p_wait is None):
        raise InputError("give either servers or p_wait: the rule turns one into the other")
    if servers is not None:
        count = check_number("servers", servers)
        check_stable("the wait", a / count, f"use more than {a:g} servers")
        slack = (count - a) / math.sqrt(a)
        waits = _many_server_wait(slack)
    else:
        assert p_wait is not None
        waits = check_share("p_wait", p_wait)
        high = 1.0
        while _many_server_wait(high) > waits:
            high *= 2
        slack = float(brentq(lambda b: _many_server_wait(b) - waits, 0.0, high, xtol=1e-14))
    return HalfinWhitt(
        load=a,
        servers=a + slack * math.sqrt(a),
        slack=slack,
        p_wait=waits,
        kind=Kind.ASYMPTOTIC,
        assumptions=("Poisson arrivals", "exponential service", "load -> infinity, slack fixed"),
        source="Halfin and Whitt 1981; theory core 1.8",
    )


def _many_server_wait(slack: float) -> float:
    from scipy.special import log_ndtr

    if slack > 37:
        return 0.0  # the chance is below 1e-300, its inverse soon beyond floats
    log_density = -(slack**2) / 2 - math.log(2 * math.pi) / 2
    log_ratio = float(log_ndtr(slack)) - log_density
    return 1 / (1 + slack * math.exp(log_ratio))


@checked(record=True)
@dataclass(frozen=True, slots=True, kw_only=True)
class ShortestOf(Law):
    """Delay if each request joins the shortest of ``d`` random queues.

    Parameters
    ----------
    d : int
        Queues that are compared.
    load : float
        Arrival rate per server times mean service time.
    sojourn : float
        Mean time in the system, in mean service times.
    kind, assumptions, source
        As in every result.
    """

    d: int
    load: float
    sojourn: float

    @checked
    def tail(self, k: int) -> float:
        """Share of the servers with at least ``k`` requests.

        Parameters
        ----------
        k : int
            Requests, at least 0.

        Returns
        -------
        float
            Doubly exponential in ``k`` for ``d >= 2``.
        """
        k, d = check_whole("k", k, 0), self.d
        # 1 + d + ... + d^(k-1), which is beyond any float long before it is beyond memory.
        steps = k if d == 1 else (d**k - 1) // (d - 1) if k * math.log2(d) < 2**10 else math.inf
        return _power(self.load, steps)


@checked
def jsq(d: int, load: float) -> ShortestOf:
    """Return the delay of joining the shortest of ``d`` queues, for many servers.

    Parameters
    ----------
    d : int
        Queues that are compared; 1 is random routing.
    load : float
        Arrival rate per server times mean service time, below 1.

    Returns
    -------
    ShortestOf
        Asymptotic: exact as the number of servers grows.

    Raises
    ------
    InputError
        A number that is out of its domain.
    UnstableError
        The load is 1 or more.

    Examples
    --------
    >>> jsq(d=2, load=0.9).sojourn, jsq(d=1, load=0.9).sojourn
    (2.61405738, 10.0)
    """
    d, rho = check_whole("d", d), check_number("load", load)
    check_stable("the mean delay", rho, "lower the rate or add servers")
    if d == 1:
        total = 1 / (1 - rho)
    else:
        total, power, step = 0.0, 1.0, 0
        while power > 0:
            total += power
            step = d if step == 0 else step * d
            power *= _power(rho, step)
    return ShortestOf(
        d=d,
        load=rho,
        sojourn=total,
        kind=Kind.ASYMPTOTIC,
        assumptions=(
            "Poisson arrivals",
            "exponential service, equal servers, first come first served",
            "number of servers -> infinity",
        ),
        source="Mitzenmacher; Vvedenskaya, Dobrushin and Karpelevich; theory core 1.9",
    )


def _power(base: float, exponent: float) -> float:
    # Exponents grow as d^k: beyond floats the power is 0.
    return math.exp(max(-745.2, exponent * math.log(base))) if exponent < 2**900 else 0.0
