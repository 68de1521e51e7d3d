r"""From an engine and the demand of its classes to the facets of its region, and what they rest on.

The formulas are those of :mod:`llmq.theory.needs._facets`; here is decided what each resource
counts.

**Slots.** A request takes ``ceil(s / chunk) + d`` slot-iterations. Where the conventions give all
requests in prefill one slot together (``prefill_slots="one"``) it may do with less: an iteration
holds ``x`` prompt tokens and ``y`` decodes with ``y <= k_max - [x > 0]``, ``x + y <= b_max``. A
bound for every policy then is a price ``p`` of a prompt token, ``q`` of a decode and ``m`` of a KV
token-iteration with

.. math:: p x + q y + m M \le f(x + y) \quad \text{for all such batches},

and the vertices of this set of two or three dimensions are all the bounds there are: they give
the least load of :mod:`llmq.theory.planning_lp._static`, without solving it. For an affine law they
are Theorem U with :math:`(d + s / (b_{max} - k_{max} + 1)) / k_{max}` iterations for the slots.
Theorem U as it is printed, with a slot for each chunk, is then no bound for policies that share the
slot (:func:`outer_facets` has it for comparison).

KV memory is counted in whole blocks, and prompts read KV at the rate of mixed iterations
(:mod:`llmq.theory.needs._held`); peaks enter the inner bound.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from llmq.errors import InputError
from llmq.model.engine import Engine
from llmq.model.fleet import Fleet
from llmq.model.request import RequestClass
from llmq.theory.linear._polytope import corner_points
from llmq.theory.needs._envelope import envelope
from llmq.theory.needs._facets import Facet, Prices, Weights, build_facets, facet
from llmq.theory.needs._hardware import scope
from llmq.theory.needs._held import (
    decode_area,
    decode_blocks,
    prefill_area,
    prefill_blocks,
    read_rates,
)
from llmq.theory.needs._reuse import said_of_hits
from llmq.theory.needs.demand import Demand, demand
from llmq.theory.planning_lp._configurations import TwoPhase
from llmq.units import format_count

__all__ = [
    "assumptions",
    "check_fits",
    "has_one_pool",
    "is_exact",
    "no_bound",
    "one_pool",
    "outer_facets",
    "request_prices",
    "shared_facets",
    "shares_slot",
]

_ZERO = Fraction(0)
# Vertices of three prices: beyond so many batches the bound for an affine law has to do.
_MOST_BATCHES = 150


def shares_slot(engine: Engine) -> bool:
    """Say whether all prompts of an engine together take one of a limited number of slots."""
    return engine.max_seqs is not None and engine.conventions.prefill_slots == "one"


def outer_facets(engine: Engine, demands: Sequence[Demand]) -> tuple[Facet, ...]:
    """Return the bounds of Theorem U: every chunk of a prompt takes a slot."""
    slot = None if engine.max_seqs is None else Fraction(1, engine.max_seqs)
    each = None if slot is None else Prices(_ZERO, slot, chunk=slot)
    return _by_iterations(engine, demands, each)


def _by_iterations(
    engine: Engine, demands: Sequence[Demand], slots: Prices | None
) -> tuple[Facet, ...]:
    token = Fraction(1, engine.token_budget)
    iterations = {"tokens": Prices(token, token)}
    if slots is not None:
        iterations["slots"] = slots
    if engine.kv_tokens is not None:
        iterations["memory"] = Prices(_ZERO, _ZERO, area=Fraction(1, int(engine.kv_room)))
    curve = envelope(engine.law, engine.token_budget)
    return build_facets(curve, _needs(demands), _attention(engine, demands), iterations)


def no_bound(engine: Engine, demands: Sequence[Demand]) -> Facet:
    """Return the only bound where tokens take no time: attention."""
    free = Prices(_ZERO, _ZERO)
    return facet("compute", free, free, _needs(demands), _attention(engine, demands))


def shared_facets(engine: Engine, demands: Sequence[Demand]) -> tuple[Facet, ...]:
    """Return the bounds where all prompts share one slot."""
    budget, slots = engine.token_budget, engine.max_seqs or 1
    memory = 0 if engine.kv_tokens is None else int(engine.kv_room)
    batches = TwoPhase(budget, slots).columns(engine.law)
    if memory and len(batches) > _MOST_BATCHES:
        slot = Fraction(1, slots)
        return _by_iterations(engine, demands, Prices(slot / max(budget - slots + 1, 1), slot))
    rows = [(*(x / t for x in batch), *([memory / t] if memory else [])) for batch, t in batches]
    needs, attention = _needs(demands), _attention(engine, demands)
    return tuple(facet(*_dual(engine, *vertex), needs, attention) for vertex in corner_points(rows))


def _dual(
    engine: Engine, prompt: Fraction, decode: Fraction, area: Fraction = _ZERO
) -> tuple[str, Prices, Prices]:
    """Say what prices of the batches pay for, and which part of them does."""
    prices = Prices(prompt, decode, area=area)
    if area:
        return "memory", prices, Prices(_ZERO, _ZERO, area=area)
    if decode > prompt:
        # As if an iteration cost c and a token a: p = a + c beside / slots, q = a + c / slots.
        beside = Fraction(1, max(engine.token_budget - (engine.max_seqs or 1) + 1, 2))
        slot = (decode - prompt) / (1 - beside)
        return "slots", prices, Prices(slot * beside, slot)
    curve = envelope(engine.law, engine.token_budget)
    if curve.best[0] < engine.token_budget:
        return "compute", prices, prices
    token = curve.pieces[-1][0] / engine.token_budget
    return "tokens", prices, Prices(token, token)


def _needs(demands: Sequence[Demand]) -> list[Prices]:
    return [Prices(d.prompt, d.decodes, d.chunks, d.memory) for d in demands]


def _attention(engine: Engine, demands: Sequence[Demand]) -> Weights:
    return tuple(d.attention(engine.law) for d in demands)


def request_prices(
    engine: Engine, prompt: npt.NDArray[np.int64], output: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """Return what single requests cost under each bound of an engine.

    Examples
    --------
    >>> from llmq.model.time.batchtime import BatchTime
    >>> chip = Engine(BatchTime.affine(base=1.0, per_token=0.0), token_budget=8)
    >>> request_prices(chip, np.array([8, 8]), np.array([1, 9]))
    array([[1., 2.]])
    """
    # Prices do not depend on the classes: any will do to find them.
    any_class = [demand(RequestClass(1, 1), engine)]
    bounds = (shared_facets if shares_slot(engine) else outer_facets)(engine, any_class)
    found = bounds or (no_bound(engine, any_class),)
    rules, law, block = engine.conventions, engine.law, engine.kv_block
    steps = rules.decode_iterations(output)
    first, then = read_rates(law)
    least, later = prefill_area(prompt, engine.chunk, rules.area)[1], decode_area(prompt, steps)
    attention = first * least + then * later + law.per_work * prompt.astype(np.float64) ** 2 / 2
    held = least + later
    if engine.kv_tokens is not None and block > 1:
        blocks = prefill_blocks(prompt, engine.chunk, rules.area, block)
        held = float(block) * (blocks + decode_blocks(prompt, steps, block))
    brings = np.array([prompt, steps, -(-prompt // engine.chunk), held], dtype=np.float64)
    prices = np.array(
        [[float(getattr(f.prices, name)) for name in Prices.__slots__] for f in found]
    )
    return np.asarray(prices @ brings + attention, dtype=np.float64)


def has_one_pool(system: Engine | Fleet) -> bool:
    """Say whether all engines are alike and do both phases."""
    return isinstance(system, Engine) or (
        len(system.pools) == 1 and set(system.roles.values()) <= {"both"}
    )


def one_pool(system: Engine | Fleet) -> tuple[Engine, int]:
    """Return the engine of a fleet with one pool, and how many of it."""
    if isinstance(system, Engine):
        return system, 1
    if not has_one_pool(system):
        what = (
            f"has {len(system.pools)} pools"
            if len(system.pools) > 1
            else f"has a pool that only does {next(iter(system.roles.values()))}"
        )
        raise InputError(
            f"the fleet {what}, and the closed form is for one pool of equal engines: use "
            "method='auto' or 'configurations'",
            value=system,
        )
    (pool,) = system.pools.values()
    return pool


def is_exact(engine: Engine) -> bool:
    """Say whether the outer bound is reached."""
    law = engine.law
    free_reads = max(law.per_kv, law.per_kv_mixed) == 0
    fixed_reads = engine.conventions.area != "chunked" and law.per_kv == law.per_kv_mixed
    no_slots = engine.max_seqs is None or shares_slot(engine)
    return no_slots and engine.kv_tokens is None and (free_reads or fixed_reads)


def check_fits(engine: Engine, name: str, need: Demand) -> None:
    """Refuse a class whose largest request cannot be held."""
    blocks = -(-need.peak // engine.kv_block)
    if blocks > engine.kv_blocks:
        raise InputError(
            f"class {name!r} does not fit: a request holds up to {format_count(need.peak)} KV "
            f"tokens ({blocks} blocks of {engine.kv_block}), the engine has "
            f"{format_count(engine.kv_tokens or 0)} ({engine.kv_blocks} blocks); raise kv_tokens "
            "(more GPUs per engine, quantised KV) or bound the lengths",
            klass=name,
            peak=need.peak,
            capacity=engine.kv_tokens,
        )


def assumptions(
    engine: Engine,
    limits: str,
    hits: Mapping[str, Fraction],
    demands: Sequence[Demand],
    engines: int,
) -> tuple[str, ...]:
    """Return what the bounds rest on, in words."""
    rules, law = engine.conventions, engine.law
    slots = engine.max_seqs if limits == "settings" else None
    first = "at the end of the prefill" if rules.lag == 0 else "one iteration after the prefill"
    said = [
        f"conventions {rules.name}: first token {first}, KV area {rules.area}, "
        f"prefill slots {rules.prefill_slots}",
        f"{scope(engine, limits)}; {said_of_hits(hits)}",
    ]
    if slots is not None and shares_slot(engine):
        said.append("all prompts of an iteration share one slot; a decode takes one each")
    if law.per_kv != law.per_kv_mixed:
        said.append(
            "prompts read KV at the rate of mixed iterations, decodes at the smaller of the two; "
            "the inner bound at the larger"
        )
    if engine.kv_tokens is not None:
        said.append("KV counted in whole blocks; peaks enter the inner bound")
    if any(hits.values()) or not is_exact(engine.with_(max_seqs=slots)):
        said.append(
            "inner bound: schedules that know the output lengths and leave room for a chunk, a "
            "slot and a peak of each class that runs (prose proof in llmq.theory.region._inner)"
        )
    if not all(d.exact for d in demands):
        said.append("means of weighted lengths are floats")
    if engines > 1:
        said.append(f"{engines} equal engines, requests split evenly at random")
    return (*said, *engine.assumptions)
