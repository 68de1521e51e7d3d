r"""Queues in symbols: one server, equal servers, the shortest of some, priced requests.

Numeric twins of the same names in :mod:`llmq.theory.latency`. The decay of the M/D/1 wait,
the root of :math:`\lambda (e^{\eta D} - 1) = \eta`, is closed by Lambert's W:
:math:`\eta = -(\rho + W_{-1}(-\rho e^{-\rho})) / D`.

Sums are as in the textbooks: the alternating M/D/1 series loses digits beyond a few ``D``, and
Erlang's sum overflows beyond 140 servers; the numeric laws have neither limit. Not covered: size
laws (SRPT and its kin are integrals), quantiles.
"""

from __future__ import annotations

from llmq.result import Kind
from llmq.theory.symbolic._family import Formulas, family
from llmq.theory.symbolic._names import symbols

__all__ = ["erlang_c", "halfin_whitt", "jsq", "md1", "mg1", "priced_workload"]

_FCFS = ("Poisson arrivals", "one server, first come first served")


def mg1() -> Formulas:
    r"""Return the mean delay of an M/G/1 queue.

    Examples
    --------
    >>> print(mg1().wait.latex())
    E[W] = \frac{\lambda E[S^{2}]}{2 - 2 E[S] \lambda}
    """
    lam, mean, second = symbols("rate", "mean", "second_moment")
    rho = lam * mean
    wait = lam * second / (2 * (1 - rho))
    return family(
        "mg1",
        {
            "utilisation": (r"\rho", rho),
            "wait": ("E[W]", wait),
            "sojourn": ("E[T]", wait + mean),
            "queue_mean": ("E[Q]", lam * wait),
        },
        kind=Kind.EXACT,
        assumptions=(*_FCFS, "independent service times"),
        source="Pollaczek-Khinchine; theory core 1.8 [MG1]",
        load=rho,
    )


def md1() -> Formulas:
    """Return the waiting-time law of an M/D/1 queue.

    Examples
    --------
    >>> 1 - md1().cdf(rate=0.8, duration=1.0, x=2.0)
    0.36548006
    """
    import sympy

    lam, duration, x = symbols("rate", "duration", "x")
    k = sympy.Symbol("k", integer=True, nonnegative=True)
    rho = lam * duration
    step = lam * (k * duration - x)
    series = sympy.Sum(
        step**k * sympy.exp(-step) / sympy.factorial(k), (k, 0, sympy.floor(x / duration))
    )
    decay = -(rho + sympy.LambertW(-rho * sympy.exp(-rho), -1)) / duration
    far = (1 - rho) / (rho * sympy.exp(decay * duration) - 1) * sympy.exp(-decay * x)
    return family(
        "md1",
        {
            "utilisation": (r"\rho", rho),
            "wait": ("E[W]", rho * duration / (2 * (1 - rho))),
            "sojourn": ("E[T]", rho * duration / (2 * (1 - rho)) + duration),
            "cdf": (r"P(W \leq x)", (1 - rho) * series),
            "decay": (r"\eta", decay),
            "far_tail": ("P(W > x)", far, Kind.ASYMPTOTIC),
        },
        kind=Kind.EXACT,
        assumptions=(*_FCFS, "equal service times"),
        source="Erlang; theory core 1.8 [MD1]",
        load=rho,
    )


def erlang_c() -> Formulas:
    """Return the delay of a common queue; times in mean service times.

    Examples
    --------
    >>> erlang_c().p_wait(servers=12, load=10.0)
    0.44938822
    """
    import sympy

    c, a, x = symbols("servers", "load", "x")
    k = sympy.Symbol("k", integer=True, nonnegative=True)
    terms = sympy.Sum(a**k / sympy.factorial(k), (k, 0, c))
    lost = a**c / sympy.factorial(c) / terms
    waits = lost / (1 - a / c * (1 - lost))
    return family(
        "erlang_c",
        {
            "utilisation": (r"\rho", a / c),
            "blocking": ("B", lost),
            "p_wait": ("P(W > 0)", waits),
            "wait": ("E[W]", waits / (c - a)),
            "tail": ("P(W > x)", waits * sympy.exp(-(c - a) * x)),
        },
        kind=Kind.EXACT,
        assumptions=("Poisson arrivals", "exponential service", "one queue, equal servers"),
        source="Erlang; theory core 1.8 [EC]",
        load=a / c,
    )


def halfin_whitt() -> Formulas:
    """Return square-root staffing.

    Examples
    --------
    >>> halfin_whitt().p_wait(slack=1)
    0.22336128
    """
    import sympy

    a, slack = symbols("load", "slack")
    below = (1 + sympy.erf(slack / sympy.sqrt(2))) / 2
    density = sympy.exp(-(slack**2) / 2) / sympy.sqrt(2 * sympy.pi)
    return family(
        "halfin_whitt",
        {
            "servers": ("c", a + slack * sympy.sqrt(a)),
            "p_wait": ("P(W > 0)", 1 / (1 + slack * below / density)),
        },
        kind=Kind.ASYMPTOTIC,
        assumptions=("Poisson arrivals", "exponential service", "load -> infinity, slack fixed"),
        source="Halfin and Whitt 1981; theory core 1.8",
    )


def jsq() -> Formulas:
    """Return the delay of joining the shortest of ``d >= 2`` queues, for many servers.

    Examples
    --------
    >>> jsq().sojourn(d=2, load=0.9)
    2.61405738
    """
    import sympy

    d, rho, n = symbols("d", "load", "n")
    i = sympy.Symbol("i", integer=True, positive=True)
    total = sympy.Sum(rho ** ((d**i - d) / (d - 1)), (i, 1, sympy.oo))
    return family(
        "jsq",
        {"sojourn": ("E[T]", total), "tail": ("P(N \\geq n)", rho ** ((d**n - 1) / (d - 1)))},
        kind=Kind.ASYMPTOTIC,
        assumptions=(
            "Poisson arrivals",
            "exponential service, equal servers",
            "number of servers -> infinity",
            "d >= 2",
        ),
        source="Mitzenmacher; Vvedenskaya et al.; theory core 1.9",
        load=rho,
    )


def priced_workload(classes: tuple[str, ...]) -> Formulas:
    """Return the delay near saturation from the prices of the binding facet.

    Examples
    --------
    >>> priced_workload(("chat",)).wait(
    ...     rate_chat=32.0, price_chat=0.025, square_chat=0.025**2, engines=1)
    0.05
    """
    import sympy

    engines, x = symbols("engines", "x")
    columns = [symbols(f"rate_{k}", f"price_{k}", f"square_{k}") for k in classes]
    load = sum(rate * price for rate, price, _ in columns) / engines
    wait = sum(rate * square for rate, _, square in columns) / (2 * engines * (1 - load))
    return family(
        "priced_workload",
        {
            "load": (r"\rho", load),
            "wait": ("E[W]", wait),
            "tail": ("P(W > x)", load * sympy.exp(-load * x / wait)),
        },
        kind=Kind.ASYMPTOTIC,
        assumptions=(
            "Poisson arrivals",
            "one resource binds (complete resource pooling)",
            "load -> 1",
            "first come first served by work",
        ),
        source="theory core 5.1",
        load=load,
    )
