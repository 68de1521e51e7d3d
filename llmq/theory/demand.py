r"""What one request asks of an engine, whatever the scheduling policy.

For a request with prompt ``s``, output ``o``, chunk ``ch`` and ``d`` decode iterations (``o`` or
``o - 1``, see :mod:`llmq.model.conventions`):

* tokens :math:`v = s + d`;
* slot-iterations :math:`k = \lceil s / ch \rceil + d`;
* KV area :math:`g`, the KV tokens it holds summed over the iterations that serve it. Decode ``j``
  holds ``s + j``; the prefill adds :math:`\sum_{i=1}^{\lceil s/ch \rceil} \min(i\,ch, s)` (area
  "chunked"), ``s`` ("wait": one stage) or nothing ("decode_only");
* attention work :math:`W = s^2 / 2`, however the prompt is chunked;
* peak, the most KV it ever holds, ``s + d``.

Full chunks first (what engines do) are not the least area: a policy may start with the remainder
and then holds :math:`\sum_{i \ge 0} (s - i\,ch)^+`, less where ``ch`` does not divide ``s``. A
bound for *every* policy needs that ``least_area``; an achievable schedule is charged ``area``.

Means over the laws of a class: independent prompt and output factorise
(:math:`E[\sum_{j \le d} (s + j)] = E[s] E[d] + E[d (d+1)] / 2`), paired ones are averaged row by
row. They are exact where all rows weigh the same; float weights give the decimal of a float mean
and ``exact=False``.

Not covered: prefix reuse (every prompt token is computed and held) and requests that are evicted,
which ask for more.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from llmq.errors import InputError
from llmq.model.engine import Engine
from llmq.model.lengths import Lengths
from llmq.model.request import RequestClass
from llmq.units import as_fraction

__all__ = ["Demand", "demand", "has_exact_mean", "moved_tokens", "phase_peak", "prefill_area"]

# Object arrays where int64 could overflow: same expressions, Python integers inside.
Ints: TypeAlias = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Demand:
    """Mean demand of one request of a class.

    Parameters
    ----------
    prompt : fractions.Fraction
        Prompt tokens.
    decodes : fractions.Fraction
        Decode iterations (one token and one slot each).
    chunks : fractions.Fraction
        Prefill iterations.
    area : fractions.Fraction
        KV tokens held, summed over its iterations; full chunks first.
    least_area : fractions.Fraction
        The same with the remainder of the prompt first: no policy holds less.
    work : fractions.Fraction
        Prefill attention, tokens^2.
    peak : int
        Most KV tokens that a request of the class ever holds.
    chunk : int
        Most prompt tokens in one iteration.
    exact : bool
        Whether the means are exact; otherwise they are decimals of float means.
    """

    prompt: Fraction
    decodes: Fraction
    chunks: Fraction
    area: Fraction
    least_area: Fraction
    work: Fraction
    peak: int
    chunk: int
    exact: bool = True

    @property
    def tokens(self) -> Fraction:
        """Tokens computed, prompt and decodes."""
        return self.prompt + self.decodes

    @property
    def slots(self) -> Fraction:
        """Iterations in which the request takes a slot."""
        return self.chunks + self.decodes


def demand(request: RequestClass, engine: Engine, *, chunk: int | None = None) -> Demand:
    """Return what one request costs an engine, before any time is known.

    Parameters
    ----------
    request : RequestClass
        The class.
    engine : Engine
        Its conventions and its chunk count; its law and budgets do not.
    chunk : int, optional
        Most prompt tokens in one iteration; the engine's if not given.

    Returns
    -------
    Demand
        Means over the laws of the class.

    Raises
    ------
    InputError
        ``request`` is no RequestClass, or ``chunk`` is below 1.

    Examples
    --------
    >>> from llmq.model.batchtime import BatchTime
    >>> from llmq.model.conventions import THEORY
    >>> engine = Engine(BatchTime.affine(base=1, per_token=1), 2048, prefill_chunk=512,
    ...                 conventions=THEORY)
    >>> one = demand(RequestClass(prompt=2048, output=256), engine)
    >>> one.tokens, one.slots, one.area
    (Fraction(2304, 1), Fraction(260, 1), Fraction(562304, 1))
    """
    if not isinstance(request, RequestClass):
        raise InputError(
            f"a class must be an llmq.RequestClass(prompt=..., output=...), "
            f"got {type(request).__name__}",
            value=request,
        )
    size = engine.chunk if chunk is None else chunk
    if size < 1:
        raise InputError(f"chunk must be at least 1 token, got {size}", value=size)
    lag = engine.conventions.lag
    prompt, steps = _columns(request, lag)
    area, least = prefill_area(prompt, size, engine.conventions.area)
    square = steps * (steps + 1)
    s, d = request.prompt, request.output
    if request.paired:
        cross = _mean(prompt * steps, s) + _mean(square, s) / 2
    else:
        cross = _mean(prompt, s) * _mean(steps, d) + _mean(square, d) / 2
    return Demand(
        prompt=_mean(prompt, s),
        decodes=_mean(steps, d),
        chunks=_mean(-(-prompt // size), s),
        area=_mean(area, s) + cross,
        least_area=_mean(least, s) + cross,
        work=_mean(prompt * prompt, s) / 2,
        peak=request.peak - 1 + lag,
        chunk=size,
        exact=has_exact_mean(request),
    )


def phase_peak(request: RequestClass, engine: Engine, phases: str) -> int:
    """Return the most KV tokens that a request holds on an engine of some phases.

    Parameters
    ----------
    request : RequestClass
        The class.
    engine : Engine
        Its conventions count.
    phases : {"both", "prefill", "decode"}
        What the engine does of it.

    Returns
    -------
    int
        The longest prompt where it is only prefilled; prompt and decodes otherwise. 0 on an engine
        that only decodes, if no request of the class has a decode.

    Examples
    --------
    >>> from llmq.model.batchtime import BatchTime
    >>> engine = Engine(BatchTime.affine(base=1, per_token=1))
    >>> [phase_peak(RequestClass(4000, 1500), engine, p) for p in ("prefill", "decode")]
    [4000, 5499]
    """
    if phases == "prefill":
        return request.prompt.high
    prompt, steps = _columns(request, engine.conventions.lag)
    if phases == "decode" and request.paired:
        return int(np.max((prompt + steps) * (steps > 0)))
    if phases == "decode" and not steps.max() > 0:
        return 0
    return request.peak - 1 + engine.conventions.lag


def moved_tokens(request: RequestClass, engine: Engine) -> Fraction:
    """Return the mean prompt tokens whose KV a decode pool needs.

    Parameters
    ----------
    request : RequestClass
        The class.
    engine : Engine
        Its conventions count.

    Returns
    -------
    fractions.Fraction
        Of a request; one that has no decode moves nothing.

    Examples
    --------
    >>> from llmq.model.batchtime import BatchTime
    >>> engine = Engine(BatchTime.affine(base=1, per_token=1))
    >>> moved_tokens(RequestClass(400, 1), engine), moved_tokens(RequestClass(400, 2), engine)
    (Fraction(0, 1), Fraction(400, 1))
    """
    prompt, steps = _columns(request, engine.conventions.lag)
    decodes = (steps > 0).astype(prompt.dtype)
    if request.paired:
        return _mean(prompt * decodes, request.prompt)
    return _mean(prompt, request.prompt) * _mean(decodes, request.output)


def _columns(request: RequestClass, lag: int) -> tuple[Ints, Ints]:
    prompt, output = request.prompt.values, request.output.values
    # Sums of squares of token counts stay below this; else fall back to unbounded integers.
    largest = (request.prompt.high + request.output.high + 1) ** 2
    if largest * max(len(prompt), len(output)) >= 2**62:
        prompt, output = prompt.astype(object), output.astype(object)
    return prompt, output - 1 + lag


def prefill_area(prompt: Ints, chunk: int, area: str) -> tuple[Ints, Ints]:
    """Return the KV area of the prefill iterations.

    Parameters
    ----------
    prompt : ndarray of int
        Prompt tokens.
    chunk : int
        Most prompt tokens in one iteration.
    area : {"chunked", "wait", "decode_only"}
        Convention.

    Returns
    -------
    tuple of ndarray of int
        With full chunks first, and with the remainder first.

    Examples
    --------
    >>> full, least = prefill_area(np.asarray([600]), 512, "chunked")
    >>> int(full[0]), int(least[0])
    (1112, 688)
    """
    if area != "chunked":
        once = prompt if area == "wait" else prompt * 0
        return once, once
    full, n = prompt // chunk, -(-prompt // chunk)
    return (
        chunk * (full * (full + 1) // 2) + prompt * (n - full),
        n * prompt - chunk * (n * (n - 1) // 2),
    )


def has_exact_mean(request: RequestClass) -> bool:
    """Say whether the means of a class are exact.

    Parameters
    ----------
    request : RequestClass
        The class.

    Returns
    -------
    bool
        False where lengths have float weights.
    """
    laws = (request.prompt, request.output)
    return all(law.weights is None or len(law.values) == 1 for law in laws)


def _mean(values: Ints, law: Lengths) -> Fraction:
    if law.weights is None or len(values) == 1:
        return Fraction(int(values.sum()), len(values))
    return as_fraction(float(values.astype(np.float64) @ law.weights))
