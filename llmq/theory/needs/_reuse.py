r"""What is left of a request whose prompt is found again in a prefix cache.

With a share ``h`` of the prompt tokens of a class found (``hits``), a request computes
:math:`r = (1 - h) s` prompt tokens on average, however the hits are spread over the requests. Every
other need is bounded from below, so the load stays a bound for every policy that finds no more:

* *chunks*: each holds at most ``ch`` of the ``r`` tokens;
* *KV area*: what is found may be held for several requests at once and is not counted. A computed
  token is held in the iteration that computes it and in all decodes of its request, so the area is
  at least :math:`r + d_{min} r + E[d (d + 1)] / 2`. Its memory is counted in tokens, not in whole
  blocks: the block in which the tokens that were found end may belong to several requests;
* *attention*: :math:`E[r_i^2] / 2 \ge r^2 / 2`, by Jensen's inequality; what is found is only read.

Explicit schedules (the inner bound) use no cache. A region of an engine with ``prefix_cache=True``
needs the share: 0 for traffic whose prompts share nothing, or what a cache that never forgets would
find, counted from the names of the blocks of a trace (:func:`llmq.model.prefix.endless_hits`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from typing import TypeAlias

from llmq.errors import InputError, nearest
from llmq.model.engine import Engine
from llmq.model.fleet import Fleet
from llmq.model.request import RequestClass
from llmq.theory.needs.demand import Demand
from llmq.units import as_fraction

__all__ = ["Hits", "check_hits", "reused", "said_of_hits"]

Hits: TypeAlias = float | Fraction | Mapping[str, float | Fraction] | None


def check_hits(
    system: Engine | Fleet, mix: Mapping[str, RequestClass], hits: Hits
) -> dict[str, Fraction]:
    """Return the share of the prompt tokens of each class that is found again."""
    engines = [system] if isinstance(system, Engine) else [one for one, _ in system.pools.values()]
    cached = any(one.prefix_cache for one in engines)
    if hits is None and cached:
        raise InputError(
            "the engine has prefix_cache=True, and what it carries depends on how much of the "
            "prompts is found again: pass hits=, the share of prompt tokens (by class: "
            "llmq.model.prefix.endless_hits(trace); 0 where prompts share nothing), or leave "
            "prefix_cache out",
            field="hits",
            value=None,
        )
    given = hits if isinstance(hits, Mapping) else dict.fromkeys(mix, 0 if hits is None else hits)
    for name, share in given.items():
        if name not in mix:
            raise InputError(f"hits of unknown class {name!r}{nearest(str(name), mix)}", value=name)
        if (
            isinstance(share, bool)
            or not isinstance(share, int | float | Fraction)
            or not (0 <= share <= 1)
        ):
            raise InputError(
                f"hits of class {name!r} must be a share of its prompt tokens, from 0 to 1, got "
                f"{share!r}",
                field="hits",
                value=share,
            )
    if any(given.values()) and not cached:
        raise InputError(
            "hits= is for engines with prefix_cache=True, and none has it", field="hits"
        )
    return {name: as_fraction(given.get(name, 0)) for name in mix}


def reused(need: Demand, request: RequestClass, share: Fraction, lag: int, area: str) -> Demand:
    """Return the least that is left of a request.

    Examples
    --------
    >>> from llmq.model.time.batchtime import BatchTime
    >>> from llmq.theory.needs.demand import demand
    >>> request = RequestClass(1000, 11)
    >>> need = demand(request, Engine(BatchTime.affine(base=1, per_token=1), 500))
    >>> left = reused(need, request, Fraction(1, 2), 0, "chunked")
    >>> left.prompt, left.least_area
    (Fraction(500, 1), Fraction(5555, 1))
    """
    if not share:
        return need
    rest = (1 - share) * need.prompt
    steps = request.output.values.astype(object) - 1 + lag
    square = steps * (steps + 1)
    law = request.output
    if law.weights is None or len(steps) == 1:
        tail = Fraction(int(square.sum()), 2 * len(steps))
    else:
        tail = as_fraction(float(square.astype(float) @ law.weights)) / 2
    first, then = rest * (area != "decode_only"), int(steps.min()) * rest + tail
    return replace(
        need,
        prompt=rest,
        chunks=rest / need.chunk,
        area=first + then,
        prefill_area=first,
        decode_area=then,
        prefill_memory=first,
        decode_memory=then,
        work=rest**2 / 2,
    )


def said_of_hits(hits: Mapping[str, Fraction]) -> str:
    """Say how much is found again.

    Examples
    --------
    >>> said_of_hits({"chat": Fraction(3, 4), "code": Fraction(0)})
    'prefix reuse: at most 0.75 of the prompt tokens of chat are found again'
    >>> said_of_hits({"chat": Fraction(0)})
    'no prefix reuse'
    """
    some = {name: share for name, share in hits.items() if share}
    if not some:
        return "no prefix reuse"
    words = ", ".join(
        f"{float(share):.4g} of the prompt tokens of {n}" for n, share in some.items()
    )
    return f"prefix reuse: at most {words} are found again"
