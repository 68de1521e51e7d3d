r"""KV memory: the law of what residents hold, and the rate a memory can carry.

**Occupancy.** Requests arrive at every iteration in a Poisson number of mean ``rate`` (arrivals per
second times the iteration time) and decode at once: during its ``j``-th of ``o`` iterations a
request holds ``s + j`` tokens. The residents of age ``j`` are independent Poisson numbers, so the
memory in use is compound Poisson with mean :math:`\lambda \sum_j (s + j)` and variance
:math:`\lambda \sum_j (s + j)^2`. Its law is the Fourier inverse of
:math:`\exp(\Lambda (\varphi - 1))` on a grid whose end Bernstein's inequality puts beyond
probability 1e-17. The safety stock over the mean is about ``z`` standard deviations: a square-root
rule for memory.

**Nie, Si and Zhou** (arXiv 2605.04595): with mean KV area ``E[g]`` in token-iterations and a
representative iteration time ``b``, no policy is stable above :math:`\mu = M / (b E[g])`, every
memory-filling one is below :math:`\mu (1 - \delta)`, ``delta`` the largest share of the memory one
request can take. ``b`` is given from outside although it depends on the load: the stability region
(:mod:`llmq.theory.region`) needs no such number.

Not covered: a memory that is full (occupancy is that of an unlimited one), prefix reuse.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from llmq._input.checked import checked
from llmq.errors import InputError
from llmq.model.conventions import THEORY
from llmq.model.engine import Engine
from llmq.model.lengths import Lengths
from llmq.model.request import RequestClass
from llmq.model.time.batchtime import BatchTime
from llmq.result import Kind
from llmq.theory.latency._base import Law, check_number, check_share, check_whole
from llmq.theory.needs._rates import Rates, rate_vector
from llmq.theory.needs.demand import demand

__all__ = ["KVOccupancy", "MemoryRate", "kv_occupancy", "nie"]

Floats: TypeAlias = npt.NDArray[np.float64]
_LOG_BEYOND = 39.2  # -log(1e-17)
_MOST_TOKENS = 2**26  # half a gigabyte of doubles


@checked(record=True)
@dataclass(frozen=True, slots=True, kw_only=True)
class KVOccupancy(Law):
    """KV tokens in use, in stationarity, with unlimited memory.

    Parameters
    ----------
    rate : float
        Requests per iteration.
    mean : float
        Mean KV tokens.
    variance : float
        Their variance.
    probabilities : ndarray, shape (n,)
        Probability of 0, 1, .. tokens; what lies beyond has less than 1e-16.
    kind, assumptions, source
        As in every result.
    """

    rate: float
    mean: float
    variance: float
    probabilities: Floats = field(repr=False, compare=False)

    @checked
    def tail(self, x: float) -> float:
        """Probability of more than ``x`` tokens.

        Parameters
        ----------
        x : float
            KV tokens, at least 0.

        Returns
        -------
        float
            Accurate to about 1e-15.
        """
        n = math.floor(check_number("x", x, zero=True))
        return min(1.0, float(self.probabilities[n + 1 :].sum()))

    @checked
    def quantile(self, q: float) -> int:
        """Fewest KV tokens that suffice with probability ``q``.

        Parameters
        ----------
        q : float
            Strictly between 0 and 1.

        Returns
        -------
        int
            Tokens.

        Raises
        ------
        InputError
            ``q`` is not a share.
        """
        q = check_share("q", q)
        # Summed from the small end: a quantile of 1 - 1e-12 would drown in the rounding of 1.
        beyond = np.cumsum(self.probabilities[::-1])[::-1]
        return int(np.count_nonzero(beyond[1:] > 1 - q))

    @checked
    def normal_quantile(self, q: float) -> float:
        """Square-root rule for the same: mean plus ``z`` standard deviations.

        Parameters
        ----------
        q : float
            Strictly between 0 and 1.

        Returns
        -------
        float
            Tokens; close where many requests are resident.
        """
        from scipy.special import ndtri

        return self.mean + float(ndtri(check_share("q", q))) * math.sqrt(self.variance)


@checked
def kv_occupancy(rate: float, prompt: Lengths | int, output: Lengths | int) -> KVOccupancy:
    """Return the law of the KV memory that independent decodes hold.

    Parameters
    ----------
    rate : float
        Mean arrivals *per iteration*, not per unit of time as in the other laws: the rate of
        arrival times the time of an iteration.
    prompt : Lengths or int
        Prompt tokens, held from the start.
    output : Lengths or int
        Output tokens, one each iteration; independent of the prompt.

    Returns
    -------
    KVOccupancy
        Exact.

    Raises
    ------
    InputError
        A number that is out of its domain.

    Examples
    --------
    >>> law = kv_occupancy(rate=0.5, prompt=4, output=6)
    >>> law.mean, law.variance, law.quantile(0.99), law.tail(60)
    (22.5, 177.5, 59, 0.00810634)
    """
    rate = check_number("rate", rate)
    sizes = _held(prompt, output)
    n = np.arange(len(sizes))
    mean, variance = rate * float(n @ sizes), rate * float(n**2 @ sizes)
    probabilities = _compound_poisson(rate * sizes, mean, variance)
    probabilities.flags.writeable = False
    return KVOccupancy(
        rate=rate,
        mean=mean,
        variance=variance,
        probabilities=probabilities,
        kind=Kind.EXACT,
        assumptions=(
            "Poisson arrivals per iteration, served at once",
            "prompt and output independent",
            "unlimited memory, no prefix reuse",
            "decode j holds prompt + j tokens",
        ),
        source="compound Poisson; theory core 5.3 [KV]",
    )


def _held(prompt: Lengths | int, output: Lengths | int) -> Floats:
    """Mean number of iterations in which a request holds 0, 1, .. tokens."""
    request = RequestClass(prompt, output)
    held, age = np.zeros(request.prompt.high + 1), np.zeros(request.output.high + 1)
    for law, array in ((request.prompt, held), (request.output, age)):
        np.add.at(array, law.values, law.probabilities)
    # Iteration j takes place with probability P(o >= j).
    age = np.cumsum(age[::-1])[::-1].copy()
    age[0] = 0.0
    if request.prompt.is_fixed:
        return np.concatenate((np.zeros(request.prompt.high), age))
    return np.maximum(_convolve(held, age), 0.0)


def _convolve(a: Floats, b: Floats) -> Floats:
    n = len(a) + len(b) - 1
    size = 1 << n.bit_length()
    return np.fft.irfft(np.fft.rfft(a, size) * np.fft.rfft(b, size), size)[:n]


def _compound_poisson(rates: Floats, mean: float, variance: float) -> Floats:
    """Law of the sum of ``k * Poisson(rates[k])``."""
    largest = len(rates) - 1
    # Bernstein: P(X - mean >= t) <= exp(-t^2 / (2 (variance + largest t / 3))).
    third = _LOG_BEYOND * largest / 3
    end = mean + third + math.sqrt(third**2 + 2 * _LOG_BEYOND * variance)
    if end > _MOST_TOKENS:
        raise InputError(
            f"the law would need {end:.3g} values, more than {_MOST_TOKENS:,}: divide prompt, "
            "output and memory by a block size, or use the mean and the variance",
            value=mean,
        )
    size = 1 << (math.ceil(end) + 1).bit_length()
    spectrum = np.exp(np.fft.rfft(rates, size) - rates.sum())
    return np.maximum(np.fft.irfft(spectrum, size), 0.0)


@checked(record=True)
@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryRate(Law):
    """Rates that a KV memory can carry at a given iteration time.

    Parameters
    ----------
    rate : float
        Requests per unit of time beyond which no policy is stable.
    stable_rate : float
        Below it every memory-filling policy is.
    area : float
        Mean KV area of a request, token-iterations.
    largest_share : float
        Most of the memory that one request takes.
    kind, assumptions, source
        As in every result.
    """

    rate: float
    stable_rate: float
    area: float
    largest_share: float

    @checked
    def replicas(self, rate: float) -> int:
        """Engines with which a rate is stable under every memory-filling policy.

        Parameters
        ----------
        rate : float
            Requests per unit of time, split evenly.

        Returns
        -------
        int
            Engines; the rate of each lies strictly below ``stable_rate``.
        """
        return math.floor(check_number("rate", rate) / self.stable_rate) + 1


@checked
def nie(
    mix: Mapping[str, RequestClass],
    shares: Rates,
    *,
    kv_tokens: int,
    batch_time: float,
    chunk: int,
) -> MemoryRate:
    """Return the rates that memory alone allows, at a representative iteration time.

    Parameters
    ----------
    mix : mapping of str to RequestClass
        Request classes.
    shares : mapping of str to float or Fraction
        Their proportions; normalised here.
    kv_tokens : int
        KV memory, tokens.
    batch_time : float
        Representative time of an iteration.
    chunk : int
        Prompt tokens of a request in one iteration.

    Returns
    -------
    MemoryRate
        An approximation: the iteration time depends on the load.

    Raises
    ------
    InputError
        A number that is out of its domain, no positive share, or a request larger than the memory.

    Examples
    --------
    >>> mix = {"short": RequestClass(1024, 256), "long": RequestClass(2048, 512)}
    >>> law = nie(mix, {"short": 0.7, "long": 0.3}, kv_tokens=60000, batch_time=0.03, chunk=512)
    >>> law.area, law.rate, law.stable_rate, law.replicas(40.0)
    (563110.4, 3.5517014, 3.4001621, 12)
    """
    memory, time = check_whole("kv_tokens", kv_tokens), check_number("batch_time", batch_time)
    size = check_whole("chunk", chunk)
    engine = Engine(BatchTime.affine(base=1, per_token=0), size, conventions=THEORY)
    if not mix:
        raise InputError("nie needs at least one request class in its mix", value=mix)
    weights = np.asarray(rate_vector(shares, tuple(mix), partial=True))
    if not weights.sum() > 0:
        raise InputError("shares must hold at least one positive proportion", value=shares)
    served = [request for request, w in zip(mix.values(), weights, strict=True) if w > 0]
    share = max(request.peak for request in served) / memory
    if not share < 1:
        raise InputError(
            f"the largest request takes {share:.4g} of the {memory} KV tokens: it must fit with "
            "room to spare, raise kv_tokens or drop such requests",
            field="kv_tokens",
            value=kv_tokens,
        )
    areas = [float(demand(request, engine).area) for request in mix.values()]
    area = float(weights @ areas / weights.sum())
    rate = memory / (time * area)
    return MemoryRate(
        rate=rate,
        stable_rate=rate * (1 - share),
        area=area,
        largest_share=share,
        kind=Kind.APPROXIMATION,
        assumptions=(
            "one representative iteration time",
            "no prefix reuse",
            "full chunks first",
            "conventions: theory",
        ),
        source="Nie, Si and Zhou, arXiv 2605.04595, Theorems 4.1 and 4.2",
    )
