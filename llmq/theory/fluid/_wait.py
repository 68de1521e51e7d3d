r"""WAIT and Nested WAIT: fluid equilibrium, and the memory that keeps overflow rare.

Model (Ao, Luo, Simchi-Levi and Wang, 2504.11320): an iteration lasts :math:`d_0 + d_1 M` with ``M``
the KV tokens of the batch; a request with prompt ``l`` and output ``l'`` passes ``l' + 1`` stages,
stage ``s`` holding ``l + s`` tokens, so its area is :math:`g = (l' + 1)(l + l'/2)`. With
:math:`\Lambda = \sum_j \lambda_j g_j`, flow balance :math:`n_j = \lambda_j (d_0 + d_1 M)` gives

.. math::

   M^* = \frac{d_0 \Lambda}{1 - d_1 \Lambda}, \qquad
   \Delta T^* = \frac{d_0}{1 - d_1 \Lambda}, \qquad n_j^* = \lambda_j \Delta T^*,

and throughput :math:`\sum_j \lambda_j l'_j`. There is none if :math:`d_1 \Lambda \ge 1`.

**Nested WAIT** does not know the output of a request. Outputs :math:`l'_1 < \dots < l'_m` share a
prompt ``l``; segment ``k`` covers the stages after :math:`l'_{k-1}` up to :math:`l'_k` (the first
one also stage 0) and starts a batch when :math:`n_k` requests wait before it. It needs
:math:`\Delta T(n) < n_1 / \sum \lambda` and :math:`p_k < n_k / n_{k-1} < 1` with :math:`p_k` the
share of the requests that go on. Its memory is enough, with probability :math:`1 - \delta` over a
horizon ``T``, if it holds the full batch and

.. math:: \sum_{k \ge 2} (l + l'_{k-1})
   \Big(n_k + \frac{1}{\theta_k} \ln\frac{m (1 + T / d_0)}{\delta}\Big),

where :math:`\theta_k > 0` solves :math:`e^{-\theta n_k} (1 - p_k + p_k e^\theta)^{n_{k-1}} = 1`;
Hoeffding's lemma bounds it from below by :math:`8 (n_k - n_{k-1} p_k) / n_{k-1}`.

The horizon scaling of the paper is at a fixed load, not heavy traffic. Not covered: its thresholds
as a policy, and evictions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

from llmq._input.checked import checked
from llmq.errors import InputError, UnstableError
from llmq.model.conventions import Conventions
from llmq.model.engine import Engine
from llmq.model.request import RequestClass
from llmq.model.time.batchtime import BatchTime
from llmq.result import Kind
from llmq.theory.needs._rates import Rates, rate_vector
from llmq.theory.needs.demand import demand
from llmq.units import as_fraction

__all__ = [
    "NestedWait",
    "WaitEquilibrium",
    "hoeffding_exponent",
    "nested_wait",
    "nested_wait_exponent",
    "wait_equilibrium",
]

_WAIT = Conventions("wait", first_token="next_iteration", prefill_slots="one", area="wait")
# Only the conventions matter: areas do not depend on the law.
_COUNTER = Engine(BatchTime.affine(base=1, per_token=0), conventions=_WAIT)


@checked(record=True)
@dataclass(frozen=True, slots=True, kw_only=True)
class WaitEquilibrium:
    """Fluid equilibrium of WAIT.

    Parameters
    ----------
    memory : fractions.Fraction
        KV tokens of the batch.
    interval : fractions.Fraction
        Length of an iteration, seconds.
    counts : mapping of str to fractions.Fraction
        Requests in each stage, by class.
    throughput : fractions.Fraction
        Output tokens per second.
    area_rate : fractions.Fraction
        KV tokens times iterations that arrive in a second.
    kind, assumptions, source
        As in every result.
    """

    memory: Fraction
    interval: Fraction
    counts: Mapping[str, Fraction]
    throughput: Fraction
    area_rate: Fraction
    kind: Kind
    assumptions: tuple[str, ...]
    source: str


@checked(record=True)
@dataclass(frozen=True, slots=True, kw_only=True)
class NestedWait:
    """Memory with which Nested WAIT does not overflow.

    Parameters
    ----------
    memory : float
        Sufficient KV tokens: ``batch`` and ``stock`` together.
    batch : fractions.Fraction
        KV tokens of the full batch.
    stock : float
        KV tokens for those that wait before a segment.
    interval : fractions.Fraction
        Longest iteration, seconds.
    shares : tuple of fractions.Fraction
        Share of the requests that go on, from the second segment on.
    exponents : tuple of float
        Decay of the queue before each segment, from the second on.
    kind, assumptions, source
        As in every result.
    """

    memory: float
    batch: Fraction
    stock: float
    interval: Fraction
    shares: tuple[Fraction, ...]
    exponents: tuple[float, ...]
    kind: Kind
    assumptions: tuple[str, ...]
    source: str


@checked
def wait_equilibrium(
    mix: Mapping[str, RequestClass], rates: Rates, d0: float, d1: float
) -> WaitEquilibrium:
    """Return the fluid equilibrium of WAIT.

    Parameters
    ----------
    mix : mapping of str to RequestClass
        The classes.
    rates : mapping of str to float or Fraction
        Requests per second.
    d0, d1 : float
        Seconds of an iteration, and seconds per KV token in it.

    Returns
    -------
    WaitEquilibrium
        Exact rationals of the decimals given.

    Raises
    ------
    InputError
        Empty mix, unknown class, bad rate, ``d0 <= 0`` or ``d1 < 0``.
    UnstableError
        Reading KV alone takes all the time.

    Examples
    --------
    >>> mix = {"a": RequestClass(100, 50), "b": RequestClass(200, 100)}
    >>> rest = wait_equilibrium(mix, {"a": 8, "b": 4}, d0=0.01, d1=1e-7)
    >>> rest.memory, rest.interval
    (Fraction(1900000, 1231), Fraction(25, 2462))
    """
    if not isinstance(mix, Mapping) or not mix:
        raise InputError(f"the mix must name at least one request class, got {mix!r}", value=mix)
    rate_vector(rates, tuple(mix))
    base, read = _positive("d0", d0), _positive("d1", d1, zero=True)
    exact = {name: as_fraction(rates.get(name, 0)) for name in mix}
    needs = {name: demand(kind, _COUNTER) for name, kind in mix.items()}
    area_rate = sum((exact[name] * need.area for name, need in needs.items()), Fraction(0))
    if read * area_rate >= 1:
        raise UnstableError(
            f"reading KV takes {float(read * area_rate):.4g} of the time (d1 * sum rate * area): "
            "no equilibrium below 1; lower the rates",
            load=float(read * area_rate),
        )
    interval = base / (1 - read * area_rate)
    rational = all(need.exact for need in needs.values())
    return WaitEquilibrium(
        memory=interval * area_rate,
        interval=interval,
        counts={name: rate * interval for name, rate in exact.items()},
        throughput=sum((exact[n] * need.decodes for n, need in needs.items()), Fraction(0)),
        area_rate=area_rate,
        kind=Kind.EXACT if rational else Kind.APPROXIMATION,
        assumptions=(
            "fluid equations of WAIT: prefill is one stage",
            *(() if rational else ("means of weighted lengths are floats",)),
        ),
        source="WAIT, 2504.11320 (theory core 1.5) [W1]",
    )


@checked
def nested_wait_exponent(n1: float, n2: float, p: float) -> float:
    """Return the decay exponent of the queue before a segment of Nested WAIT.

    Parameters
    ----------
    n1, n2 : float
        Thresholds of the segment before and of this one.
    p : float
        Share of the requests that go on.

    Returns
    -------
    float
        The positive root of ``n1 ln(1 - p + p e^theta) = theta n2``.

    Raises
    ------
    InputError
        Not ``0 < p < n2 / n1 < 1``: no positive root.

    Examples
    --------
    >>> nested_wait_exponent(40, 20, 0.4)
    0.81093021621633
    """
    from scipy.optimize import brentq

    low = float(hoeffding_exponent(n1, n2, p))
    # Convex, negative up to the root; positive beyond theta = n1 ln(1/p) / (n1 - n2).
    high = n1 * math.log(1 / p) / (n1 - n2)
    root = brentq(
        lambda x: n1 * (x + math.log(p + (1 - p) * math.exp(-x))) - n2 * x,
        low * (1 - 1e-12),
        high * (1 + 1e-12),
        xtol=1e-14,
        rtol=1e-14,
    )
    return float(root)


@checked
def hoeffding_exponent(n1: float, n2: float, p: float) -> Fraction:
    """Return Hoeffding's lower bound of :func:`nested_wait_exponent`.

    Parameters
    ----------
    n1, n2 : float
        Thresholds of the segment before and of this one.
    p : float
        Share of the requests that go on.

    Returns
    -------
    fractions.Fraction
        ``8 (n2 - n1 p) / n1``.

    Raises
    ------
    InputError
        Not ``0 < p < n2 / n1 < 1``.

    Examples
    --------
    >>> hoeffding_exponent(40, 20, 0.4)
    Fraction(4, 5)
    """
    before, here = _positive("n1", n1), _positive("n2", n2)
    share = _positive("p", p)
    if not share < here / before < 1:
        raise InputError(
            f"Nested WAIT needs p < n2 / n1 < 1, got p = {float(share):.6g} and n2 / n1 = "
            f"{float(here / before):.6g}: choose the threshold between n1 p and n1",
            value=n2,
        )
    return 8 * (here - before * share) / before


@checked
def nested_wait(
    mix: Mapping[str, RequestClass],
    rates: Rates,
    thresholds: Sequence[float],
    d0: float,
    d1: float,
    *,
    horizon: float,
    overflow: float,
) -> NestedWait:
    """Return the memory with which Nested WAIT does not overflow.

    Parameters
    ----------
    mix : mapping of str to RequestClass
        Classes of fixed lengths with one prompt and different outputs.
    rates : mapping of str to float or Fraction
        Requests per second, all positive.
    thresholds : sequence of float, shape (n_classes,)
        Requests that start a segment, shortest outputs first.
    d0, d1 : float
        Seconds of an iteration, and seconds per KV token in it.
    horizon : float
        Seconds of operation.
    overflow : float
        Probability of an overflow that is accepted.

    Returns
    -------
    NestedWait
        Memory, safety stock and exponents.

    Raises
    ------
    InputError
        Lengths or thresholds that Nested WAIT cannot use.
    UnstableError
        The first threshold is passed by the arrivals of one iteration.

    Examples
    --------
    >>> mix = {"a": RequestClass(20, 10), "b": RequestClass(20, 40)}
    >>> plan = nested_wait(mix, {"a": 3, "b": 2}, (8, 5), 0.1, 1e-6, horizon=3600, overflow=0.01)
    >>> plan.shares, plan.batch
    ((Fraction(2, 5),), Fraction(9025, 1))
    """
    lengths = _nested_lengths(mix)
    rate_vector(rates, tuple(mix))
    order = sorted(lengths, key=lambda name: lengths[name][1])
    exact = [_positive(f"rate of class {name!r}", rates.get(name, 0)) for name in order]
    counts = [_positive(f"threshold {i}", n) for i, n in enumerate(thresholds)]
    if len(counts) != len(order):
        raise InputError(f"{len(order)} classes need as many thresholds, got {len(counts)}")
    base, read = _positive("d0", d0), _positive("d1", d1, zero=True)
    seconds, delta = float(_positive("horizon", horizon)), float(_positive("overflow", overflow))
    if delta >= 1:
        raise InputError(f"overflow is a probability below 1, got {overflow}", value=overflow)
    outputs = [lengths[name][1] for name in order]
    prompt = lengths[order[0]][0]
    batch = sum(
        (
            n * _held(prompt, first, last)
            for n, first, last in zip(counts, [-1, *outputs], outputs, strict=False)
        ),
        Fraction(0),
    )
    interval = base + read * batch
    if interval * sum(exact) >= counts[0]:
        raise UnstableError(
            f"{float(interval * sum(exact)):.4g} requests arrive in the longest iteration, the "
            f"first threshold is {float(counts[0]):.4g}: raise it",
            load=float(interval * sum(exact) / counts[0]),
        )
    going = [sum(exact[k:], Fraction(0)) for k in range(len(order))]
    shares = tuple(b / a for a, b in pairwise(going))
    thetas = tuple(
        nested_wait_exponent(float(a), float(b), float(p))
        for a, b, p in zip(counts, counts[1:], shares, strict=False)
    )
    tail = math.log(len(order) * (1 + seconds / float(base)) / delta)
    stock = sum(
        (prompt + before) * (float(n) + tail / theta)
        for before, n, theta in zip(outputs, counts[1:], thetas, strict=False)
    )
    return NestedWait(
        memory=float(batch) + stock,
        batch=batch,
        stock=float(stock),
        interval=interval,
        shares=shares,
        exponents=thetas,
        kind=Kind.INNER_BOUND,
        assumptions=("requests go on independently", "sufficient, not necessary"),
        source="Nested WAIT, 2504.11320 (theory core 1.5)",
    )


def _held(prompt: int, after: int, last: int) -> int:
    """KV tokens of one request in each stage ``after + 1, ..., last``."""
    return (last - after) * prompt + (last * (last + 1) - after * (after + 1)) // 2


def _nested_lengths(mix: Mapping[str, RequestClass]) -> dict[str, tuple[int, int]]:
    if not isinstance(mix, Mapping) or not mix:
        raise InputError(f"the mix must name at least one request class, got {mix!r}", value=mix)
    found = {}
    for name, kind in mix.items():
        if not (kind.prompt.is_fixed and kind.output.is_fixed):
            raise InputError(f"Nested WAIT needs fixed lengths; those of class {name!r} vary")
        found[name] = (int(kind.prompt.low), int(kind.output.low))
    if len({prompt for prompt, _ in found.values()}) > 1:
        raise InputError(f"Nested WAIT needs one prompt length, got {found}", value=found)
    if len({output for _, output in found.values()}) < len(found):
        raise InputError(f"merge classes of equal output into one: {found}", value=found)
    return found


def _positive(name: str, value: object, *, zero: bool = False) -> Fraction:
    if (
        not isinstance(value, int | float | Fraction)
        or not 0 <= value < math.inf
        or (value == 0 and not zero)
    ):
        least = ">= 0" if zero else "> 0"
        raise InputError(f"{name} must be a finite number {least}, got {value!r}", value=value)
    return as_fraction(value)
