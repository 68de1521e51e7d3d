r"""What one request asks of an engine, whatever the scheduling policy.

For a request with prompt ``s``, output ``o``, chunk ``ch`` and ``d`` decode iterations (``o`` or
``o - 1``, see :mod:`llmq.model.conventions`):

* tokens :math:`v = s + d`;
* slot-iterations :math:`k = \lceil s / ch \rceil + d`;
* KV area :math:`g`, the KV tokens it holds summed over the iterations that serve it, apart for
  prompt and decodes; and the memory that they take in whole blocks
  (:mod:`llmq.theory.needs._held`). A bound for *every* policy is charged the least of any order of
  chunks; an achievable schedule is charged ``area``, full chunks first;
* attention work :math:`W = s^2 / 2`, however the prompt is chunked;
* peak, the most KV it ever holds, ``s + d``.

Means over the laws of a class: independent prompt and output factorise
(:math:`E[\sum_{j \le d} (s + j)] = E[s] E[d] + E[d (d+1)] / 2`), paired ones are averaged row by
row. They are exact where all rows weigh the same; float weights give the decimal of a float mean
and ``exact=False``.

Not covered: prefix reuse (every prompt token is computed and held) and requests that are evicted,
which ask for more.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np

from llmq.errors import InputError
from llmq.model.engine import Engine
from llmq.model.lengths import Lengths
from llmq.model.request import RequestClass
from llmq.model.time.batchtime import BatchTime
from llmq.theory.needs._held import (
    Ints,
    decode_area,
    decode_blocks,
    parts_of_blocks,
    prefill_area,
    prefill_blocks,
    read_rates,
)
from llmq.units import as_fraction

__all__ = ["Demand", "demand", "has_exact_mean", "moved_tokens", "phase_peak"]

_ZERO = Fraction(0)


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
    prefill_area, decode_area : fractions.Fraction
        The same for prompt and decodes, with the remainder of the prompt first: no policy holds
        less.
    prefill_memory, decode_memory : fractions.Fraction
        The same in whole blocks of the engine; without a memory limit in tokens.
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
    prefill_area: Fraction
    decode_area: Fraction
    prefill_memory: Fraction
    decode_memory: Fraction
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

    @property
    def least_area(self) -> Fraction:
        """KV tokens that it holds, summed over its iterations, at the least."""
        return self.prefill_area + self.decode_area

    @property
    def memory(self) -> Fraction:
        """The same in the tokens of whole blocks."""
        return self.prefill_memory + self.decode_memory

    def of(self, phases: str) -> Demand:
        """Return what an engine of some phases has to do of it.

        Parameters
        ----------
        phases : {"both", "prefill", "decode"}
            What the engine does.

        Returns
        -------
        Demand
            Nothing of the other phase; ``area`` and ``peak`` are those of both.
        """
        if phases == "prefill":
            return replace(self, decodes=_ZERO, decode_area=_ZERO, decode_memory=_ZERO)
        if phases == "decode":
            return replace(
                self,
                prompt=_ZERO,
                chunks=_ZERO,
                prefill_area=_ZERO,
                prefill_memory=_ZERO,
                work=_ZERO,
            )
        return self

    def attention(self, law: BatchTime, phases: str = "both") -> Fraction:
        """Return the least seconds of attention that it takes.

        Parameters
        ----------
        law : BatchTime
            The law.
        phases : {"both", "prefill", "decode"}
            What the engine does.

        Returns
        -------
        fractions.Fraction
            Reading KV, and the work of its prompt.

        Examples
        --------
        >>> law = BatchTime.affine(base=1, per_token=1, per_kv=1, per_kv_mixed=3)
        >>> demand(RequestClass(4, 3), Engine(law)).attention(law)  # 3 times 4, and 5 + 6
        Fraction(23, 1)
        """
        first, then = map(as_fraction, read_rates(law, phases))
        reads = first * self.prefill_area + then * self.decode_area
        return reads + as_fraction(law.per_work) * self.work


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
    >>> from llmq.model.time.batchtime import BatchTime
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
    rules = engine.conventions.area
    area, least = prefill_area(prompt, size, rules)
    s, d = request.prompt, request.output
    if request.paired:
        cross = _mean(decode_area(prompt, steps), s)
    else:
        cross = _mean(prompt, s) * _mean(steps, d) + _mean(steps * (steps + 1), d) / 2
    first, then = _mean(least, s), cross
    # Without a limit nobody asks for memory, and blocks of one token are tokens.
    if engine.kv_tokens is not None and engine.kv_block > 1:
        block = engine.kv_block
        first = block * _mean(prefill_blocks(prompt, size, rules, block), s)
        then = block * _mean_blocks(request, prompt, steps, block)
    return Demand(
        prompt=_mean(prompt, s),
        decodes=_mean(steps, d),
        chunks=_mean(-(-prompt // size), s),
        area=_mean(area, s) + cross,
        prefill_area=_mean(least, s),
        decode_area=cross,
        prefill_memory=first,
        decode_memory=then,
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
    >>> from llmq.model.time.batchtime import BatchTime
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
    >>> from llmq.model.time.batchtime import BatchTime
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


def _mean_blocks(request: RequestClass, prompt: Ints, steps: Ints, block: int) -> Fraction:
    """Mean of the blocks that the decodes hold."""
    s, d = request.prompt, request.output
    if request.paired:
        return _mean(decode_blocks(prompt, steps, block), s)
    (full, rest), (rounds, some, alone) = parts_of_blocks(prompt, steps, block)
    apart = _mean(full, s) * _mean(steps, d) + _mean(rest, s) * _mean(rounds, d) + _mean(alone, d)
    return apart + _mean_excess(block - rest, some, s, d)


def _mean_excess(least: Ints, value: Ints, first: Lengths, second: Lengths) -> Fraction:
    """Mean of how far the second value of an independent pair lies above the first, or 0."""
    order = np.argsort(value, kind="stable")
    value = value[order]
    exact = all(law.weights is None or len(law.values) == 1 for law in (first, second))
    if exact:
        weight = np.ones_like(value)
    else:
        value, weight = value.astype(np.float64), second.probabilities[order]
    # Of the values from each place on: how many, and their sum.
    count, total = (np.append(np.cumsum(x[::-1])[::-1], 0) for x in (weight, weight * value))
    place = np.searchsorted(value, least, side="right")
    excess = total[place] - least * count[place]
    if exact:
        return Fraction(int(excess.sum()), len(value) * len(least))
    return as_fraction(float(excess @ first.probabilities))
