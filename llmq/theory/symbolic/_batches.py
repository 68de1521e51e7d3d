r"""Batches in symbols: the decoding engine, and servers of slots and batches.

Numeric twins of the same names in :mod:`llmq.theory.latency` and :mod:`llmq.theory.fluid`. Closed
here although the numeric code iterates: the roots of Bailey's :math:`z^b = e^{m (z - 1)}` inside
the unit disc are

.. math:: z_k = -\frac bm W_0\Bigl(-\frac mb e^{2 \pi i k / b - m / b}\Bigr), \qquad
          k = 1, \ldots, b - 1,

with the principal branch of Lambert's W, since :math:`|m z_k / b| < 1`. Sums over them are real.

Not closed: the root ``r`` of bulk service (``equation`` is 0 there) and Inoue's ``P_0``, an
infinite series; both stay symbols. Derivatives then hold with them fixed: use differences of the
numeric laws for total ones. Not covered: quantiles; the finite queue of llm-inferno beyond the
times of its iterations.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmq.result import Kind
from llmq.theory.symbolic._family import Formulas, family
from llmq.theory.symbolic._names import symbols

if TYPE_CHECKING:
    from sympy import Expr

__all__ = [
    "bailey",
    "birth_death",
    "bulk",
    "bulk_accessible",
    "decode_fluid",
    "decode_occupancy",
    "decode_slots",
    "inoue",
]

_DECODES = ("Poisson arrivals", "decodes only, iterations linear in the batch")


def decode_occupancy() -> Formulas:
    """Return the law of a decoding engine without a slot limit: negative binomial.

    Examples
    --------
    >>> law = decode_occupancy()
    >>> law.mean.exact(rate=2, mean_output=200, base=0.012, per_token=0.0005)
    Fraction(25, 4)
    """
    import sympy

    lam, o, c, a, n = symbols("rate", "mean_output", "base", "per_token", "n")
    work, fixed = lam * o * a, lam * o * c
    # Factorials of a real number: the generalised binomial coefficient over n + c/a.
    pmf = sympy.binomial(n + c / a, n) * work**n * (1 - work) ** (1 + c / a)
    return family(
        "decode_occupancy",
        {
            "load": (r"\rho_{a}", work),
            "mean": ("E[N]", (work + fixed) / (1 - work)),
            "variance": (r"\mathrm{Var}[N]", (work + fixed) / (1 - work) ** 2),
            "pmf": ("P(N = n)", pmf),
            "cdf": (r"P(N \leq n)", sympy.betainc_regularized(1 + c / a, n + 1, 0, 1 - work)),
            "p_empty": ("P(N = 0)", (1 - work) ** (1 + c / a)),
            "sojourn": ("E[T]", o * (c + a) / (1 - work)),
            "tbt_mean": ("E[TBT]", (c + a) / (1 - work)),
        },
        kind=Kind.APPROXIMATION,
        assumptions=(
            *_DECODES,
            "any law of the output length",
            "exact for processor sharing: requests join and leave at any time",
        ),
        source="Cohen 1979; theory core 5.2",
        load=work,
    )


def decode_slots() -> Formulas:
    """Return the law of a decoding engine with a slot limit and a queue.

    Examples
    --------
    >>> at = {"rate": 2, "mean_output": 200, "base": 0.012, "per_token": 0.0005, "max_seqs": 8}
    >>> law = decode_slots()
    >>> law.mean(**at), law.slot_wait(**at), law.capacity.exact(**at)
    (7.83043173, 0.84289693, Fraction(5, 2))
    """
    import sympy

    lam, o, c, a, slots = symbols("rate", "mean_output", "base", "per_token", "max_seqs")
    n = sympy.Symbol("n", integer=True, nonnegative=True)
    work, fixed = lam * o * a, lam * o * c
    ratio = fixed / slots + work

    def weight(count: Expr) -> Expr:
        return sympy.binomial(count + c / a, count) * work**count

    def below(factor: Expr) -> Expr:
        return sympy.Sum(factor * weight(n), (n, 0, slots - 1))

    last = weight(slots)
    total = below(sympy.Integer(1)) + last / (1 - ratio)
    mean = (below(n) + last * (slots / (1 - ratio) + ratio / (1 - ratio) ** 2)) / total
    queue = last * ratio / (1 - ratio) ** 2 / total
    batch = (below(n + 1) + slots * last / (1 - ratio)) / total
    return family(
        "decode_slots",
        {
            "load": (r"\rho", ratio),
            "capacity": (r"\lambda_{max}", slots / (o * (c + a * slots))),
            "p_empty": ("P(N = 0)", 1 / total),
            "mean": ("E[N]", mean),
            "sojourn": ("E[T]", mean / lam),
            "slot_wait": ("E[W]", queue / lam),
            "tbt_mean": ("E[TBT]", c + a * batch),
        },
        kind=Kind.APPROXIMATION,
        assumptions=(*_DECODES, "geometric output lengths"),
        source="theory core 5.2",
        load=ratio,
    )


def decode_fluid() -> Formulas:
    r"""Return the fluid point of an engine that only decodes.

    Examples
    --------
    >>> law = decode_fluid()
    >>> at = {"rate": 2, "mean_output": 200, "base": 0.012, "per_token": 0.0005}
    >>> law.mean.exact(**at), law.relaxation.exact(**at), law.excess.exact(**at)
    (Fraction(6, 1), Fraction(15, 4), Fraction(1, 4))
    """
    lam, o, c, a, n = symbols("rate", "mean_output", "base", "per_token", "n")
    work = lam * o * a
    return family(
        "decode_fluid",
        {
            "load": (r"\rho_{a}", work),
            "drift": (r"\dot{n}", lam - n / (o * (c + a * n))),
            "mean": ("n^{*}", lam * o * c / (1 - work)),
            "iteration": (r"\tau^{*}", c / (1 - work)),
            "relaxation": (r"\theta", o * c / (1 - work) ** 2),
            "excess": ("E[N] - n^{*}", work / (1 - work)),
        },
        kind=Kind.ASYMPTOTIC,
        assumptions=("decode only, no slot or memory limit", "fluid limit: many requests"),
        source="theory core 2.6",
        load=work,
    )


def inoue() -> Formulas:
    """Return the delay of a server that takes all who wait.

    Examples
    --------
    >>> inoue().bound(rate=0.5 / 0.1438, per_item=0.1438, base=1.8874)
    5.90186667
    """
    import sympy

    lam, alpha, tau, none = symbols("rate", "per_item", "base", "p_none")
    rho, x = lam * alpha, lam * tau
    mean = (x + none) / (1 - rho)
    square = (rho * mean + x + 2 * rho * x * mean + x**2 + none) / (1 - rho**2)
    wait = alpha + tau + (1 + 2 * rho) * (square - mean) / (2 * lam * mean)
    busy = alpha * mean + tau
    phi0 = (alpha + tau) / (2 * (1 - rho)) * (1 + 2 * x + (1 - x) / (1 + rho))
    phi1 = sympy.Rational(3, 2) * tau / (1 - rho) + alpha / 2 * (rho + 2) / (1 - rho**2)
    bounds = {
        "phi0": (r"\phi_{0}", phi0),
        "phi1": (r"\phi_{1}", phi1),
        "bound": (r"\phi", sympy.Min(phi0, phi1)),
    }
    return family(
        "inoue",
        {
            "load": (r"\rho", rho),
            "batch_mean": ("E[B]", mean),
            "batch_second_moment": ("E[B^{2}]", square),
            "wait": ("E[W]", wait),
            "utilisation": ("U", busy / (busy + none / lam)),
            **{name: (*field, Kind.OUTER_BOUND) for name, field in bounds.items()},
        },
        kind=Kind.EXACT,
        assumptions=("Poisson arrivals", "the server takes all who wait", "no largest batch"),
        source="Inoue, arXiv 1912.06322, eq. 36; theory core 1.8 [Q1]",
        load=rho,
    )


def _bulk_equation() -> tuple[Expr, ...]:
    import sympy

    lam, mu, b, r = symbols("rate", "service_rate", "batch", "root")
    k = sympy.Symbol("k", integer=True, positive=True)
    return lam, mu, b, r, mu * sympy.Sum(r**k, (k, 1, b)) - lam


def bulk() -> Formulas:
    """Return the law of exponential batches that arrivals may not join.

    Examples
    --------
    >>> bulk().queue_mean(rate=3, service_rate=1, batch=4, root=0.8881796675853)
    7.65749618
    """
    lam, mu, b, r, equation = _bulk_equation()
    c = 1 / (mu / lam + 1 / (1 - r))
    waiting = c * r / (1 - r) ** 2
    return _bulk("bulk", equation, waiting + lam / mu, waiting, c * mu / lam, lam / (b * mu))


def bulk_accessible() -> Formulas:
    """Return the law of exponential batches that arrivals may join.

    Examples
    --------
    >>> bulk_accessible().sojourn(rate=3, service_rate=1, batch=4, root=0.8881796675853)
    2.64763914
    """
    lam, mu, b, r, equation = _bulk_equation()
    waiting = r ** (b + 1) / (1 - r)
    return _bulk("bulk_accessible", equation, r / (1 - r), waiting, 1 - r, lam / (b * mu))


def _bulk(name: str, equation: Expr, mean: Expr, waiting: Expr, idle: Expr, load: Expr) -> Formulas:
    (lam,) = symbols("rate")
    return family(
        name,
        {
            "equation": ("0", equation),
            "p_idle": ("P_{idle}", idle),
            "queue_mean": ("E[Q]", waiting),
            "mean": ("E[N]", mean),
            "wait": ("E[W]", waiting / lam),
            "sojourn": ("E[T]", mean / lam),
        },
        kind=Kind.EXACT,
        assumptions=("Poisson arrivals", "exponential batch time, the same for every size"),
        source="Bailey; Medhi; theory core 1.8 [BK]",
        load=load,
    )


def bailey() -> Formulas:
    """Return the queue left at the end of a slot that serves at most ``batch`` requests.

    Examples
    --------
    >>> bailey().queue_mean(mean_arrivals=3, batch=4)
    0.80088348
    """
    import sympy

    m, b = symbols("mean_arrivals", "batch")
    k = sympy.Symbol("k", integer=True, positive=True)
    turn = sympy.exp(2 * sympy.pi * sympy.I * k / b - m / b)
    z = -b / m * sympy.LambertW(-m / b * turn)
    mean = sympy.Sum(1 / (1 - z), (k, 1, b - 1)) - (b * (b - 1) - m**2) / (2 * (b - m))
    logs = sympy.Sum(sympy.log(z / (z - 1)), (k, 1, b - 1))
    return family(
        "bailey",
        {"queue_mean": ("E[Q]", mean), "p_empty": ("P(Q = 0)", (b - m) * sympy.exp(m + logs))},
        kind=Kind.EXACT,
        assumptions=("Poisson arrivals, independent between slots", "equal slots"),
        source="Bailey 1954; theory core 1.8 [B1]",
        load=m / b,
    )


def birth_death() -> Formulas:
    """Return the times of llm-inferno's averaged engine with ``n`` requests in the batch.

    Examples
    --------
    >>> birth_death().step(prompt=128, output=512, per_token=0.05, per_kv=0.0005)
    0.2543781676
    """
    s, o, n = symbols("prompt", "output", "n")
    alpha, beta, gamma = symbols("base", "per_token", "per_kv")
    step = beta * (s + o) / (o + 1) + gamma * (s + o / 2)
    return family(
        "birth_death",
        {"step": (r"\Delta", step), "time": (r"\tau(n)", (1 + o) * (alpha + n * step))},
        kind=Kind.APPROXIMATION,
        assumptions=("every request of mean size", "prompt in one iteration"),
        source="llm-inferno queue-analysis (June 2026); theory core O26",
    )
