r"""Exclusive batching: prefill and decode never share an iteration. What that costs.

The rule of FasterTransformer (and of early vLLM): while any request decodes, an iteration is one
token of each of them; else prompts are computed first come first served, up to the budget. With
requests all alike (prompt ``s``, ``d`` decodes) and a queue that never empties this is a
deterministic cycle. A prefill iteration takes the rest of a prompt that was cut, then further
prompts; when ``n`` of them are complete, ``d`` iterations of ``n`` tokens follow, and nobody joins.
The only state that survives is how much of the cut prompt is left, one of ``s`` numbers, so the
path repeats, and over a period

.. math:: \text{rate} = \frac{\sum_i n_i}{\sum_i \big(t(x_i) + \sum_{j=1}^{d} t(n_i, \kappa =
          n_i (s + j))\big)}

over its prefill iterations of ``x`` tokens (decodes only where ``n > 0``). The queue is stable if
and only if arrivals are slower: below that rate it drains whenever it is long, above it grows.
Decodes then run in small batches although the law rewards large ones; a rule that mixes phases
carries the region of :mod:`llmq.theory.region`.

Reference: Dai, Deng, Li and Peng, arXiv 2504.07347, section 4. Not covered: several classes or
random lengths (the cycle is then a chain); arrivals that come in groups change delays, not the
rate.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction

from llmq._input.checked import checked
from llmq.errors import InputError
from llmq.model.engine import Engine
from llmq.model.request import RequestClass
from llmq.result import Kind
from llmq.theory.needs.demand import demand
from llmq.theory.region._bounds import check_fits
from llmq.units import as_fraction

__all__ = ["ExclusiveCycle", "exclusive_cycle"]

_ZERO = Fraction(0)


@checked(record=True)
@dataclass(frozen=True, slots=True)
class ExclusiveCycle:
    """One period of a saturated engine with exclusive phases.

    Parameters
    ----------
    exact_time : fractions.Fraction
        Its length, in the unit of the law.
    requests : int
        Requests that it serves.
    batches : tuple of (int, int)
        For each prefill iteration its tokens and the requests that then decode together.
    kind, assumptions, source
        As in every result.
    """

    exact_time: Fraction
    requests: int
    batches: tuple[tuple[int, int], ...]
    kind: Kind = field(repr=False)
    assumptions: tuple[str, ...] = field(repr=False)
    source: str = field(repr=False)

    @property
    def time(self) -> float:
        """Length of the period, in the unit of the law."""
        return float(self.exact_time)

    @property
    def exact_rate(self) -> Fraction:
        """Requests per unit of time, exactly: the queue is stable below it."""
        return self.requests / self.exact_time

    @property
    def rate(self) -> float:
        """Requests per unit of time: the queue is stable below it."""
        return float(self.exact_rate)


@checked
def exclusive_cycle(engine: Engine, request: RequestClass) -> ExclusiveCycle:
    """Return the cycle of a saturated engine that never mixes phases, exactly.

    Parameters
    ----------
    engine : Engine
        Its token budget, slots, KV memory, chunk and conventions count.
    request : RequestClass
        One class of fixed lengths.

    Returns
    -------
    ExclusiveCycle
        Time and requests of a period.

    Raises
    ------
    InputError
        Lengths that vary, or a request that does not fit the memory.

    Examples
    --------
    >>> from llmq.model.time.batchtime import BatchTime
    >>> from llmq.model.conventions import THEORY
    >>> law = BatchTime.tiled(base=11.28, per_tile=35.47, tile=128)
    >>> cycle = exclusive_cycle(Engine(law, 512, conventions=THEORY), RequestClass(128, 112))
    >>> cycle.exact_time, cycle.requests
    (Fraction(134729, 25), 4)
    """
    need = demand(request, engine)
    check_fits(engine, "request", need)
    if request.prompt.low != request.prompt.high or request.output.low != request.output.high:
        raise InputError(
            "exclusive batching is a cycle only for requests of one prompt and one output length; "
            f"these lie between {request.prompt.low} and {request.prompt.high}, and "
            f"{request.output.low} and {request.output.high}: take the class apart, or simulate",
            value=request,
        )
    s, d = request.prompt.low, int(need.decodes)
    blocks = -(-need.peak // engine.kv_block)
    most = min(engine.max_seqs or engine.token_budget, engine.token_budget)
    if engine.kv_tokens is not None:
        most = min(most, int(engine.kv_blocks // blocks))
    seen: dict[int, int] = {}
    times: list[Fraction] = []
    batches: list[tuple[int, int]] = []
    cut = 0  # tokens of a started prompt that are done
    while cut not in seen:
        seen[cut] = len(batches)
        done = cut
        parts: list[int] = []
        while len(parts) < most and (room := engine.token_budget - sum(parts)):
            parts.append(min(s - done, room, engine.chunk))
            done = (done + parts[-1]) % s
            if done:  # a chunk, or the budget, ends inside this prompt
                break
        complete = len(parts) - bool(done)
        times.append(_prefill(engine, s, cut, parts) + _decodes(engine, s, d, complete))
        batches.append((sum(parts), complete))
        cut = done
    start = seen[cut]
    return ExclusiveCycle(
        sum(times[start:], _ZERO),
        sum(n for _, n in batches[start:]),
        tuple(batches[start:]),
        kind=Kind.EXACT,
        assumptions=(
            f"conventions {engine.conventions.name}; no prefix reuse",
            "one class of fixed lengths, room kept for whole requests, a queue that never empties",
        ),
        source="arXiv 2504.07347, section 4 [XC]",
    )


def _prefill(engine: Engine, s: int, cut: int, parts: list[int]) -> Fraction:
    """Time of a prefill iteration that goes on with a prompt of which ``cut`` tokens are done."""
    before = [cut, *[0] * (len(parts) - 1)]
    held = sum(b + x for b, x in zip(before, parts, strict=True))
    work = sum(Fraction(x * (2 * b + x), 2) for b, x in zip(before, parts, strict=True))
    return engine.law.exact()(sum(parts), held, work, mixed=True)


def _decodes(engine: Engine, s: int, d: int, n: int) -> Fraction:
    """Time of all decodes of ``n`` requests."""
    held = n * (d * s + d * (d + 1) // 2)
    return d * engine.law.exact().curve(n) + as_fraction(engine.law.per_kv) * held if n else _ZERO
