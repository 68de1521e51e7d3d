r"""Short requests first, on predicted sizes, with limited preemption.

M/M/1 with mean service 1 (scaled by ``mean``). A request of size ``X`` has a prediction ``Y``; its
rank is ``Y`` minus its age, and it may be preempted only while its age is below ``c Y`` (TRAIL,
arXiv 2410.01035: late in its life its KV cache is large and preemption dear). With
:math:`\rho'_r = \lambda E[X; Y \le r]` the analysis of ranks (SOAP; Scully, Harchol-Balter and
Scheller-Wolf 2018) gives

.. math:: E[T(x, r)] = \lambda \frac{E[X^2; Y \le r] + E[((X - \min(Y - r, c Y))^+)^2; Y > r]}
          {2 (1 - \rho'_r)^2}
          + \int_0^{\min(x, c r)} \frac{da}{1 - \rho'_{(r - a)^+}} + (x - c r)^+ .

``c = 0`` never preempts (SJF, SPJF); ``c >= 1`` always may (SRPT, SPRPT): a request past its
prediction has a rank that no new one beats, so nothing changes beyond 1.

*Perfect* predictions, ``Y = X``: all expectations are elementary and
:math:`E \int = \int (e^{-u} - e^{-u/(1-c)}) / (1 - \rho'_u) du`.

*Exponential* predictions, ``Y`` exponential with mean ``X``: with
:math:`E[X^k e^{-r/X}] = 2 r^{(k+1)/2} K_{k+1}(2 \sqrt r)` the density of ``Y`` is
:math:`2 K_0(2 \sqrt y)`. Everything else is integrated over panels that end at the kink
``Y = X / c``; Gauss-Laguerre rules do not see it and lose all but four digits.

Not covered: other size laws, the cost of a preemption, many requests at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from llmq._input.checked import checked
from llmq.errors import InputError, nearest
from llmq.result import Kind
from llmq.theory.latency._base import Law, check_number, check_stable

__all__ = ["LimitedPreemption", "limited_preemption"]

Floats: TypeAlias = npt.NDArray[np.float64]
Prediction: TypeAlias = Literal["perfect", "exponential"]

_END = 60.0  # exp(-60) of all sizes are longer
_ROOT_END = 20.0  # Y = u^2 has a tail of exp(-2 u)


@checked(record=True)
@dataclass(frozen=True, slots=True, kw_only=True)
class LimitedPreemption(Law):
    """Mean delay of shortest-predicted-first with limited preemption.

    Parameters
    ----------
    rate : float
        Requests per unit of time.
    c : float
        Share of its prediction up to which a request may be preempted.
    prediction : {"perfect", "exponential"}
        How good the predictions are.
    mean : float
        Mean service time.
    utilisation : float
        Fraction of time the server is busy.
    sojourn : float
        Mean time from arrival to the end of service.
    kind, assumptions, source
        As in every result.
    """

    rate: float
    c: float
    prediction: Prediction
    mean: float
    utilisation: float
    sojourn: float

    @property
    def wait(self) -> float:
        """Mean time spent not in service."""
        return self.sojourn - self.mean


@checked
def limited_preemption(
    rate: float, c: float, prediction: Prediction = "perfect", mean: float = 1.0
) -> LimitedPreemption:
    """Return the mean delay if the shortest predicted remainder is served first.

    Parameters
    ----------
    rate : float
        Poisson arrivals per unit of time.
    c : float
        A request may be preempted while its age is below ``c`` times its prediction: 0 never, 1 or
        more always.
    prediction : {"perfect", "exponential"}
        Predictions equal the sizes, or are exponential with the size as their mean.
    mean : float
        Mean of the exponential service time.

    Returns
    -------
    LimitedPreemption
        Exact.

    Raises
    ------
    InputError
        A number that is out of its domain, or an unknown prediction.
    UnstableError
        The utilisation is 1 or more.

    Examples
    --------
    >>> limited_preemption(rate=0.7, c=0.8).sojourn
    1.87938098
    >>> limited_preemption(rate=0.7, c=0.8, prediction="exponential").sojourn
    2.373533
    """
    rate, mean = check_number("rate", rate), check_number("mean", mean)
    share = min(check_number("c", c, zero=True), 1.0)
    laws = {"perfect": _perfect, "exponential": _exponential}
    if prediction not in laws:
        raise InputError(
            f"unknown prediction {prediction!r}{nearest(str(prediction), laws)}",
            field="prediction",
            value=prediction,
        )
    load = rate * mean
    check_stable("the mean delay", load, "lower the rate or shorten the service")
    return LimitedPreemption(
        rate=rate,
        c=c,
        prediction=prediction,
        mean=mean,
        utilisation=load,
        sojourn=mean * laws[prediction](load, share),
        kind=Kind.EXACT,
        assumptions=(
            "Poisson arrivals",
            "exponential service times, one server",
            "preemption is free",
            f"{prediction} predictions",
        ),
        source="SOAP; TRAIL, arXiv 2410.01035; theory core 1.8 [SOAP]",
    )


def _panels(edges: list[float] | Floats, order: int = 24) -> tuple[Floats, Floats]:
    """Nodes and weights of Gauss-Legendre rules between consecutive edges."""
    x, w = np.polynomial.legendre.leggauss(order)
    ends = np.asarray(edges, dtype=np.float64)
    half = np.diff(ends)[:, None] / 2
    return (ends[:-1, None] + half * (1 + x)).ravel(), (half * w).ravel()


def _perfect(rate: float, c: float) -> float:
    edges = [0.0, 0.25, 0.5, 1, 1.5, 2, 3, 4, 6, 8, 12, 16, 24, 40, _END]
    # Near c = 1 the survivor exp(-u / (1 - c)) dies within a short layer.
    x, w = _panels([0.0, *(2.0**-k for k in range(20, 2, -1)), *edges[1:]])
    idle = 1 - rate * (1 - np.exp(-x) * (1 + x))
    below = 2 - np.exp(-x) * (x * x + 2 * x + 2)
    if c < 1:
        t = x / (1 - c)
        above = x * x * (np.exp(-x) - np.exp(-t)) + (1 - c) ** 2 * np.exp(-t) * (t * t + 2 * t + 2)
        survivor = np.exp(-t)
    else:
        above, survivor = x * x * np.exp(-x), np.zeros_like(x)
    queued = np.exp(-x) * rate * (below + above) / (2 * idle**2)
    return float(w @ (queued + (np.exp(-x) - survivor) / idle)) + 1 - c


def _idle(rate: float, r: Floats) -> Floats:
    """``1 - rate * E[X; Y <= r]`` for exponential predictions."""
    return 1 - rate * (1 - _bessel(1, r))


def _bessel(k: int, r: Floats) -> Floats:
    """``E[X^k e^{-r / X}]`` for ``X`` exponential with mean 1."""
    from scipy.special import kv

    return np.asarray(2 * r ** ((k + 1) / 2) * kv(k + 1, 2 * np.sqrt(r)), dtype=np.float64)


def _exponential(rate: float, c: float) -> float:
    late = 1 + c * math.expm1(-1 / c) if c > 0 else 1.0  # E[(X - c Y)^+]
    return _queued(rate, c) + _preemptible(rate, c) + late


def _queued(rate: float, c: float) -> float:
    """Mean of the first term over the predictions, in ``u = sqrt(r)``."""
    from scipy.special import kv

    # Graded towards 0: the density of the predictions has a logarithm there.
    u, w = _panels([0.0, *(4.0**-k for k in range(9, 0, -1)), 0.5, 1, 2, 3, 4, 6, 8, 12, _ROOT_END])
    r = u * u
    squares = 2 - _bessel(2, r) + _above(c, r)
    return float(w @ (4 * u * kv(0, 2 * u) * rate * squares / (2 * _idle(rate, r) ** 2)))


def _above(c: float, r: Floats) -> Floats:
    """``E[((X - min(Y - r, c Y))^+)^2; Y > r]``: inner integrals closed, the outer in panels."""
    kink = np.minimum(r * c / (1 - c), _END) if c < 1 else np.full_like(r, _END)
    t, w = _panels([0.0, 0.05, 0.15, 0.4, 1, 2, 4, 8, 16, 32, _END], order=16)
    r, kink = r[:, None], kink[:, None]
    total = np.zeros(len(r))
    if c > 0:  # sizes below the kink end before the rank stops falling
        x = kink / _END * t
        total += (1 - 2 / math.e) * ((x * x * np.exp(-x - r / x)) @ w) * kink[:, 0] / _END
    if c < 1:
        x = kink + t
        s, m = r / x, r / x * c / (1 - c)
        first = np.exp(-s) * (1 - (1 + m * m) * np.exp(-m))
        rest = 1 - c * (s + m)
        second = np.exp(-s - m) * (rest**2 - 2 * c * rest + 2 * c * c)
        second -= 2 * c * c * math.exp(-1 / c) if c else 0.0
        # Where the kink lies at the end of the grid nothing is left beyond it.
        total += np.where(kink[:, 0] < _END, (x * x * np.exp(-x) * (first + second)) @ w, 0.0)
    return np.asarray(total, dtype=np.float64)


def _preemptible(rate: float, c: float) -> float:
    """Mean time to serve the preemptible part: over ``X = x`` and ``Y = x v``, kink at 1 / c."""
    if c == 0:
        return 0.0
    busy = _primitive(rate)
    steps = np.array([0.0, 0.02, 0.1, 0.3, 0.7, 1.5, 3, 6, 12, 24, 40])
    x, wx = _panels(steps, order=16)
    total = 0.0
    kink = min(1 / c, 40.0)
    for edges, factor in ((kink / 40 * steps, None), (kink + steps, 1.0)):
        v, wv = _panels(edges, order=16)
        y = np.outer(v, x)
        start = (1 - c) * y if factor is None else y - x
        values = busy(np.sqrt(y)) - busy(np.sqrt(np.maximum(start, 0.0)))
        total += float((wv * np.exp(-v)) @ values @ (wx * np.exp(-x)))
    return total


def _primitive(rate: float) -> Callable[[Floats], Floats]:
    """Integral of ``1 / (1 - rho'_r)`` from 0 to ``u^2``, as a spline in ``u``."""
    from scipy.interpolate import make_interp_spline

    u = np.linspace(0.0, 60.0, 3001)
    slope = np.zeros_like(u)
    slope[1:] = 2 * u[1:] / _idle(rate, u[1:] ** 2)
    spline = make_interp_spline(u, slope, k=5).antiderivative()
    return lambda x: np.asarray(spline(x), dtype=np.float64)
