r"""Continuous batching of decodes: the batch is negative binomial.

An engine that only decodes, with iterations of :math:`c + a n` for ``n`` resident requests, serves
each of them at rate :math:`1 / (c + a n)` tokens per unit of time: processor sharing with a speed
that depends on the state. With :math:`\rho_a = \lambda E[o] a`, :math:`\rho_c = \lambda E[o] c` and
Poisson arrivals

.. math:: p_n = \binom{n + c/a}{n} \rho_a^n (1 - \rho_a)^{1 + c/a},

negative binomial, for *every* law of the output length (Cohen 1979: state-dependent processor
sharing is insensitive). Hence :math:`E[N] = (\rho_a + \rho_c) / (1 - \rho_a)`,
:math:`\mathrm{Var}[N] = (1 + c/a) \rho_a / (1 - \rho_a)^2`, and by Little
:math:`E[T] = E[o] (c + a) / (1 - \rho_a)`. Tokens made in state ``n`` have weight
:math:`p_{n-1}`, so a token sees ``N + 1``: the gap between tokens is :math:`c + a (1 + N)`.

With ``B`` slots and a queue in front, :math:`p_n / p_{n-1} = \lambda E[o] (c + a m) / m` with
:math:`m = \min(n, B)`; once requests queue, the law is that of geometric outputs only.

As :math:`a \to 0` the batch is Poisson with mean :math:`\rho_c`. The fluid point
:math:`\rho_c / (1 - \rho_a)` lies exactly :math:`\rho_a / (1 - \rho_a)` below the mean; a
disturbance of it dies out in :math:`E[o] c / (1 - \rho_a)^2`.

Real engines admit and release at iteration boundaries: simulated sojourns are 0.5 % (load 0.2) to
1.8 % (0.6) longer. Not covered: prefill in the same iterations, KV reads, memory.

Reference: theory core 5.2 and lemma N1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from llmq._input.checked import checked
from llmq._limits import SERVERS
from llmq.result import Kind
from llmq.theory.latency._base import Law, check_number, check_share, check_stable, check_whole

__all__ = ["DecodeOccupancy", "decode_occupancy"]

Floats: TypeAlias = npt.NDArray[np.float64]


@checked(record=True)
@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeOccupancy(Law):
    """Requests in a decoding engine, their stay, and the time between their tokens.

    Parameters
    ----------
    rate : float
        Requests per unit of time.
    mean_output : float
        Mean output tokens.
    base : float
        Time of an iteration beside its tokens.
    per_token : float
        Time of one token more in the iteration.
    max_seqs : int or None
        Slots; None for no limit.
    load : float
        Fraction of the capacity used.
    mean : float
        Mean requests present, those that wait for a slot included.
    variance : float
        Variance of that number.
    sojourn : float
        Mean time from arrival to the last token.
    slot_wait : float
        Part of it that is spent waiting for a slot.
    tbt_mean : float
        Mean time between tokens.
    head : ndarray, shape (max_seqs + 1,)
        Probabilities of 0 .. max_seqs requests; empty without a limit.
    ratio : float
        Factor by which they fall beyond ``max_seqs``.
    kind, assumptions, source
        As in every result.
    """

    rate: float
    mean_output: float
    base: float
    per_token: float
    max_seqs: int | None
    load: float
    mean: float
    variance: float
    sojourn: float
    slot_wait: float
    tbt_mean: float
    head: Floats = field(repr=False, compare=False)
    ratio: float = field(repr=False)

    @property
    def capacity(self) -> float:
        """Requests per unit of time at which the engine saturates."""
        return self.rate / self.load if self.load > 0 else math.inf

    @property
    def p_empty(self) -> float:
        """Probability that nobody is present."""
        return self.cdf(0)

    @property
    def fluid_mean(self) -> float:
        """Requests present at the fluid equilibrium without a slot limit."""
        return self.rate * self.mean_output * self.base / (1 - self._work)

    @property
    def relaxation(self) -> float:
        """Time constant with which the fluid returns to that equilibrium."""
        return self.mean_output * self.base / (1 - self._work) ** 2

    @property
    def _work(self) -> float:
        return self.rate * self.mean_output * self.per_token

    @checked
    def cdf(self, n: int) -> float:
        """Probability of at most ``n`` requests.

        Parameters
        ----------
        n : int
            A number of requests, at least 0.

        Returns
        -------
        float
            A probability.
        """
        n = check_whole("n", n, 0)
        if self.max_seqs is None:
            return self._unlimited_cdf(n)
        if n <= self.max_seqs:
            return float(self.head[: n + 1].sum())
        beyond = float(self.head[-1]) * self.ratio / (1 - self.ratio)
        return 1 - beyond * self.ratio ** (n - self.max_seqs)

    def _unlimited_cdf(self, n: int) -> float:
        from scipy.special import betainc, pdtr

        if self.per_token == 0:
            return float(pdtr(n, self.rate * self.mean_output * self.base))
        return float(betainc(1 + self.base / self.per_token, n + 1, 1 - self._work))

    @checked
    def quantile(self, q: float) -> int:
        """Smallest number of requests that is not exceeded with probability ``q``.

        Parameters
        ----------
        q : float
            Strictly between 0 and 1.

        Returns
        -------
        int
            Requests.

        Raises
        ------
        InputError
            ``q`` is not a share.
        """
        q = check_share("q", q)
        low, high = -1, 1
        while self.cdf(high) < q:
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self.cdf(middle) >= q else (middle, high)
        return high

    @checked
    def tbt_quantile(self, q: float) -> float:
        """Quantile of the time between tokens, over tokens.

        Parameters
        ----------
        q : float
            Strictly between 0 and 1.

        Returns
        -------
        float
            ``base + per_token * (1 + N)`` at the quantile of ``N``; slots limit the batch.
        """
        batch = 1 + self.quantile(q)
        if self.max_seqs is not None:
            batch = min(batch, self.max_seqs)
        return self.base + self.per_token * batch


@checked
def decode_occupancy(
    rate: float, mean_output: float, base: float, per_token: float, max_seqs: int | None = None
) -> DecodeOccupancy:
    """Return the law of the batch of an engine that decodes, with its delays.

    Parameters
    ----------
    rate : float
        Poisson arrivals per unit of time.
    mean_output : float
        Mean output tokens of a request.
    base : float
        Time of an iteration beside its tokens.
    per_token : float
        Time of one token more in the iteration.
    max_seqs : int, optional
        Slots; no limit if not given.

    Returns
    -------
    DecodeOccupancy
        An approximation: exact if requests could join and leave at any time.

    Raises
    ------
    InputError
        A number that is out of its domain, or an iteration that takes no time.
    UnstableError
        The rate reaches the capacity.

    Examples
    --------
    >>> law = decode_occupancy(rate=2.0, mean_output=200, base=0.012, per_token=0.0005)
    >>> law.mean, law.variance, law.sojourn, law.tbt_mean
    (6.25, 7.8125, 3.125, 0.015625)
    >>> law.quantile(0.99), law.tbt_quantile(0.99)
    (14, 0.0195)
    """
    rate, mean_output = check_number("rate", rate), check_number("mean_output", mean_output)
    base = check_number("base", base, zero=True)
    per_token = check_number("per_token", per_token, zero=base > 0)
    fields = {"rate": rate, "mean_output": mean_output, "base": base, "per_token": per_token}
    work, fixed = rate * mean_output * per_token, rate * mean_output * base
    remedy = "lower the rate" + (" or allow more slots" if max_seqs is not None else "")
    if max_seqs is None:
        check_stable("the occupancy", work, remedy)
        return _law(
            fields,
            None,
            load=work,
            mean=(work + fixed) / (1 - work),
            variance=(work + fixed) / (1 - work) ** 2,
            queue=0.0,
            tbt=(base + per_token) / (1 - work),
            head=np.empty(0),
            ratio=work,
        )
    slots = check_whole("max_seqs", max_seqs, most=SERVERS)
    ratio = fixed / slots + work
    check_stable("the occupancy", ratio, remedy)
    head = _head(work, fixed, slots, ratio)
    mean, square = _moments(head, ratio)
    batch = np.minimum(np.arange(1, slots + 2), slots)
    weight = np.concatenate((head[:-1], [head[-1] / (1 - ratio)]))
    return _law(
        fields,
        slots,
        load=ratio,
        mean=mean,
        variance=square - mean**2,
        queue=float(head[-1]) * ratio / (1 - ratio) ** 2,
        tbt=base + per_token * float(weight @ batch),
        head=head,
        ratio=ratio,
    )


def _law(
    fields: dict[str, float],
    slots: int | None,
    *,
    load: float,
    mean: float,
    variance: float,
    queue: float,
    tbt: float,
    head: Floats,
    ratio: float,
) -> DecodeOccupancy:
    head.flags.writeable = False
    rate = fields["rate"]
    lengths = "any law of the output length" if slots is None else "geometric output lengths"
    return DecodeOccupancy(
        **fields,
        max_seqs=slots,
        load=load,
        mean=mean,
        variance=variance,
        sojourn=mean / rate,
        slot_wait=queue / rate,
        tbt_mean=tbt,
        head=head,
        ratio=ratio,
        kind=Kind.APPROXIMATION,
        assumptions=(
            "Poisson arrivals",
            lengths,
            "decodes only, iterations linear in the batch",
            "exact for processor sharing: requests join and leave at any time",
        ),
        source="Cohen 1979; theory core 5.2",
    )


def _head(work: float, fixed: float, slots: int, ratio: float) -> Floats:
    """Probabilities of 0 .. slots requests, in logarithms so that many slots do not overflow."""
    n = np.arange(1, slots + 1)
    logs = np.concatenate(([0.0], np.cumsum(np.log(fixed / n + work))))
    weights = np.exp(logs - logs.max())
    total = weights[:-1].sum() + weights[-1] / (1 - ratio)
    return np.asarray(weights / total, dtype=np.float64)


def _moments(head: Floats, x: float) -> tuple[float, float]:
    """Mean and mean square with a geometric tail of ratio ``x`` behind ``head``."""
    b, last = len(head) - 1, float(head[-1])
    n = np.arange(b)
    s0, s1, s2 = 1 / (1 - x), x / (1 - x) ** 2, x * (1 + x) / (1 - x) ** 3
    mean = float(n @ head[:-1]) + last * (b * s0 + s1)
    square = float(n**2 @ head[:-1]) + last * (b * b * s0 + 2 * b * s1 + s2)
    return mean, square
