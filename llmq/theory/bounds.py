r"""From an engine and the demand of its classes to the facets of its region, and what they rest on.

The formulas are those of :mod:`llmq.theory.facets`; here is decided what each resource counts.

Slots: a request takes ``ceil(s / chunk) + d`` slot-iterations, also where the conventions give
all requests in prefill one slot together (``prefill_slots="one"``): that is Theorem U as it is
printed, and Dai's rule read literally (one request in prefill per iteration). If prompts do share
the slot, an iteration holds ``x`` prompt tokens and ``y`` decodes with ``y <= k_max - [x > 0]``,
``x + y <= b_max``, whose convex hull is :math:`y + x / (b_{max} - k_{max} + 1) \le k_{max}`;
``contains`` and ``load_bracket`` use this count, so a "no" holds for every policy.

KV is counted in tokens against ``kv_tokens``; whole blocks cost more and enter the inner bound.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from llmq.errors import InputError
from llmq.model.engine import Engine
from llmq.model.fleet import Fleet
from llmq.theory.demand import Demand
from llmq.theory.envelope import envelope
from llmq.theory.facets import Facet, Weights, build_facets
from llmq.units import as_fraction, format_count

__all__ = [
    "assumptions", "check_fits", "has_one_pool", "is_exact", "one_pool", "outer_facets",
    "with_shared_slot",
]  # fmt: skip


def outer_facets(engine: Engine, demands: Sequence[Demand]) -> tuple[Facet, ...]:
    """Return the bounds that every policy obeys.

    Parameters
    ----------
    engine : Engine
        The engine.
    demands : sequence of Demand
        What a request of each class costs.

    Returns
    -------
    tuple of Facet
        Dominated ones included.
    """
    iterations: dict[str, Weights] = {
        "tokens": tuple(d.tokens / engine.token_budget for d in demands)
    }
    if engine.max_seqs is not None:
        iterations["slots"] = tuple(d.slots / engine.max_seqs for d in demands)
    if engine.kv_tokens is not None:
        iterations["memory"] = tuple(d.least_area / engine.kv_tokens for d in demands)
    return _priced(engine, demands, iterations)


def with_shared_slot(
    engine: Engine, demands: Sequence[Demand], facets: Sequence[Facet]
) -> tuple[Facet, ...]:
    """Return the bounds that hold also where all prompts share one slot.

    Parameters
    ----------
    engine : Engine
        The engine; its conventions and slot limit decide whether anything changes.
    demands : sequence of Demand
        What a request of each class costs.
    facets : sequence of Facet
        All bounds by :func:`outer_facets`.

    Returns
    -------
    tuple of Facet
        Dominated ones included; slot bounds are replaced where prompts may share a slot.
    """
    slots, budget = engine.max_seqs, engine.token_budget
    if slots is None or engine.conventions.prefill_slots != "one":
        return tuple(facets)
    others = tuple(facet for facet in facets if facet.resource != "slots")
    if budget < slots:  # a batch cannot have more rows than tokens
        return others
    beside = Fraction(1, budget - slots + 1)
    counts = tuple((d.decodes + d.prompt * beside) / slots for d in demands)
    shared = _priced(engine, demands, {"slots": counts})
    return others + tuple(facet for facet in shared if facet.resource == "slots")


def _priced(
    engine: Engine, demands: Sequence[Demand], iterations: dict[str, Weights]
) -> tuple[Facet, ...]:
    law = engine.law
    read = as_fraction(min(law.per_kv, law.per_kv_mixed))
    work = as_fraction(law.per_work)
    attention = tuple(read * d.least_area + work * d.work for d in demands)
    curve = envelope(law, engine.token_budget)
    return build_facets(curve, tuple(d.tokens for d in demands), attention, iterations)


def has_one_pool(system: Engine | Fleet) -> bool:
    """Say whether all engines are alike and do both phases.

    Parameters
    ----------
    system : Engine or Fleet
        What serves.

    Returns
    -------
    bool
        True for an engine, and for one pool without a role.
    """
    return isinstance(system, Engine) or (
        len(system.pools) == 1 and set(system.roles.values()) <= {"both"}
    )


def one_pool(system: Engine | Fleet) -> tuple[Engine, int]:
    """Return the engine of a fleet with one pool, and how many of it.

    Parameters
    ----------
    system : Engine or Fleet
        One engine counts as a pool of one.

    Returns
    -------
    tuple of Engine and int
        The engine and its number.

    Raises
    ------
    InputError
        Several pools, or a pool that does only prefill or decode: they need a routing problem.
    """
    if isinstance(system, Engine):
        return system, 1
    if not has_one_pool(system):
        what = (
            f"has {len(system.pools)} pools" if len(system.pools) > 1
            else f"has a pool that only does {next(iter(system.roles.values()))}"
        )  # fmt: skip
        raise InputError(
            f"the fleet {what}, and the closed form is for one pool of equal engines: use "
            "method='auto' or 'configurations'",
            value=system,
        )
    (pool,) = system.pools.values()
    return pool


def is_exact(engine: Engine) -> bool:
    """Say whether the outer bound is reached.

    Parameters
    ----------
    engine : Engine
        The engine.

    Returns
    -------
    bool
        No slot and no memory limit, and KV reads that cost nothing or do not depend on how prompts
        are chunked and mixed.
    """
    law = engine.law
    free_reads = max(law.per_kv, law.per_kv_mixed) == 0
    fixed_reads = engine.conventions.area != "chunked" and law.per_kv == law.per_kv_mixed
    return engine.max_seqs is None and engine.kv_tokens is None and (free_reads or fixed_reads)


def check_fits(engine: Engine, name: str, need: Demand) -> None:
    """Refuse a class whose largest request cannot be held.

    Parameters
    ----------
    engine : Engine
        The engine.
    name : str
        The class.
    need : Demand
        Its demand.

    Raises
    ------
    InputError
        The peak exceeds the KV memory.
    """
    blocks = -(-need.peak // engine.kv_block)
    if blocks > engine.kv_blocks:
        raise InputError(
            f"class {name!r} does not fit: a request holds up to {format_count(need.peak)} KV "
            f"tokens ({blocks} blocks of {engine.kv_block}), the engine has "
            f"{format_count(engine.kv_tokens or 0)} ({engine.kv_blocks} blocks); raise kv_tokens "
            "(more GPUs per engine, quantised KV) or bound the lengths",
            klass=name, peak=need.peak, capacity=engine.kv_tokens,
        )  # fmt: skip


def assumptions(engine: Engine, demands: Sequence[Demand], engines: int) -> tuple[str, ...]:
    """Return what the bounds rest on, in words.

    Parameters
    ----------
    engine : Engine
        The engine.
    demands : sequence of Demand
        What a request of each class costs.
    engines : int
        How many engines.

    Returns
    -------
    tuple of str
        Sentences.
    """
    rules, law = engine.conventions, engine.law
    first = "at the end of the prefill" if rules.lag == 0 else "one iteration after the prefill"
    said = [
        f"conventions {rules.name}: first token {first}, KV area {rules.area}, "
        f"prefill slots {rules.prefill_slots}",
        f"prompts in chunks of at most {engine.chunk} tokens, no prefix reuse",
    ]
    if engine.max_seqs is not None and rules.prefill_slots == "one":
        said.append(
            "a chunk takes a slot-iteration (one request in prefill per iteration); contains and "
            "load_bracket hold also where prompts share the slot"
        )
    if law.per_kv != law.per_kv_mixed:
        said.append("KV reads at the smaller of the two rates; the inner bound at the larger")
    if engine.kv_tokens is not None:
        said.append("KV counted in tokens; whole blocks and peaks enter the inner bound")
    if not is_exact(engine):
        said.append(
            "inner bound: schedules that know the output lengths and leave room for a chunk, a "
            "slot and a peak of each class that runs (prose proof in llmq.theory.inner)"
        )
    if not all(d.exact for d in demands):
        said.append("means of weighted lengths are floats")
    if engines > 1:
        said.append(f"{engines} equal engines, requests split evenly at random")
    return (*said, *engine.assumptions)
