r"""What a policy loses of the region: recomputed tokens, swapped KV, slots of held decodes.

**Recompute** [RC]. A policy under which a request of class ``j`` loses ``R_j`` KV tokens on average
computes ``v_j + R_j`` tokens for it, whatever its order and whatever the engine. So it is unstable
where the load of Theorem U with these tokens added exceeds 1:

.. math:: \rho_R(\lambda) = \max_f \sum_j \lambda_j (w_j^f + p^f R_j)
          + \sigma \sum_j \lambda_j X_j > 1,

``p^f`` the price of a prompt token on facet ``f``; KV that moves to the host and back, ``X_j``
tokens, takes ``sigma`` seconds each. How much is lost follows from the rule: exactly for equal
requests (:mod:`llmq.theory.stability._losses_cycle`); otherwise it is measured.

**Thrashing.** With full memory and a rule that passes who does not fit, each token that residents
grow pushes out somebody whose room is taken at once. The iterations of a request stay
``n = g / M``; what is computed again fills at most the budget:
:math:`1 / (n\,t(b)) \le \mu \le 1 / \rho(1)` (:func:`thrash_rates`).

**Holding decodes** [PACE]. SLAI gives prefill the budget while a decode may wait. Without a slot
limit nobody is hurt: batches are as full as ever [WC]. With ``k`` slots, prompts that are multiples
of the budget ``b`` and long deadlines (``(k m + 1 + theta) f(b)``, prompts of at most ``m`` chunks,
are enough) an iteration is either a whole chunk or
``k`` decodes, so

.. math:: \rho(\lambda) = \sum_j \lambda_j \Big(\frac{s_j}{b} f(b) + \frac{d_j}{k} f(k) + e g_j
          + w W_j\Big)

is the load, above and below 1: phases that exclude one another, as under RAD with tile ``k``.

**Ranked policies with swap** [RANK]. FCFS, round robin and PASCAL deal memory out anew in each
iteration and leave less than one peak ``P`` free while anybody waits, whatever the rank. With
``t = c + a B + e KV`` they carry every load below 1 of
:math:`\sum_j \lambda_j (a v_j + e g_j + w W_j + (c + 2 \sigma M) h_j / (M - P))`, where
:math:`h = \sum_{i=1}^{o} (s + i)` is the room a request holds while served. With free swap that is
the memory facet but for one peak. Where the budget ``b`` is below ``M`` it may leave somebody out
too, with more than ``b - s`` tokens in the iteration (``s`` the longest prompt):
:math:`(c + 2 \sigma M)\,v_j / (b - s + 1)` on top.

Proofs: ``proofs/lemmas/recompute.py`` and ``proofs/lemmas/holding.py``. Not covered: fleets with
migration, finite deadlines, tiles in [RANK], slots beside memory.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from llmq.errors import InputError
from llmq.model.engine import Engine
from llmq.model.request import RequestClass
from llmq.result import Kind
from llmq.theory.needs._rates import Rates, rate_vector
from llmq.theory.needs.demand import Demand, demand
from llmq.theory.region import stability_region
from llmq.theory.region._bounds import shares_slot
from llmq.theory.stability._losses_cycle import FullMemoryCycle, full_memory_cycle

__all__ = [
    "FullMemoryCycle",
    "PolicyLoad",
    "ThrashRates",
    "full_memory_cycle",
    "holding_load",
    "ranked_load",
    "recompute_load",
    "thrash_rates",
]

Mix = Mapping[str, RequestClass]


@dataclass(frozen=True, slots=True)
class PolicyLoad:
    """The load of an engine under a policy, beside the least load of any.

    Parameters
    ----------
    load : float
        Under the policy.
    least : float
        Of the region: no policy has less.
    kind : Kind
        ``exact``: stable below 1, not above; ``inner_bound``: stable below 1; ``outer_bound``: not
        stable above 1.
    assumptions, source
        As in every result.
    """

    load: float
    least: float
    kind: Kind
    assumptions: tuple[str, ...] = field(repr=False)
    source: str = field(repr=False)

    @property
    def reach(self) -> float:
        """Part of the region in this direction that is left: ``least / load``."""
        return self.least / self.load


@dataclass(frozen=True, slots=True)
class ThrashRates:
    """Rates between which an engine with full memory works, however much it computes again.

    Parameters
    ----------
    worst, best : float
        Requests per second: recomputation fills the budget of every iteration; there is none.
    iterations : float
        Iterations per request at full memory.
    kind, assumptions, source
        As in every result.
    """

    worst: float
    best: float
    iterations: float
    kind: Kind = field(repr=False)
    assumptions: tuple[str, ...] = field(repr=False)
    source: str = field(repr=False)


def recompute_load(
    engine: Engine,
    mix: Mix,
    rates: Rates,
    recomputed: Rates,
    swapped: Rates | None = None,
) -> PolicyLoad:
    """Return the load with recomputed and swapped tokens: above 1 the policy is unstable.

    Parameters
    ----------
    engine : Engine
        The engine.
    mix : mapping of str to RequestClass
        The classes.
    rates : mapping of str to float
        Requests per second.
    recomputed : mapping of str to float
        KV tokens that a request loses and that are computed again.
    swapped : mapping of str to float, optional
        KV tokens of a request that move to the host or back.

    Returns
    -------
    PolicyLoad
        An outer bound for every policy that loses as much.

    Raises
    ------
    InputError
        Unknown classes, or negative numbers.

    Examples
    --------
    >>> from llmq.model.time.batchtime import BatchTime
    >>> engine = Engine(BatchTime.affine(base=0.008, per_token=60e-6), 512, kv_tokens=20_000)
    >>> mix = {"chat": RequestClass(490, 268)}
    >>> found = recompute_load(engine, mix, {"chat": 5.0}, {"chat": 2300.0})
    >>> found.load, found.least
    (1.255..., 0.565...)
    """
    region = stability_region(engine, mix)
    rate, again = (
        rate_vector(rates, region.classes),
        rate_vector(recomputed, region.classes, partial=True),
    )
    moved = rate_vector(swapped or {}, region.classes, partial=True)
    tokens = sum(x * y for x, y in zip(rate, again, strict=True))
    # A bound that others imply may bind once tokens are added; the last one is none, see bounds.py.
    facets = region.facets(dominated=not shares_slot(engine))
    load = max(
        sum(x * w for x, w in zip(rate, facet.weights, strict=True))
        + tokens * float(min(facet.prices.prompt, facet.prices.decode))
        for facet in facets
    ) + engine.per_swap * sum(x * y for x, y in zip(rate, moved, strict=True))
    return PolicyLoad(
        load,
        region.load(rates),
        Kind.OUTER_BOUND,
        ("every lost KV token is computed again", *region.assumptions),
        "recompute [RC]",
    )


def thrash_rates(engine: Engine, request: RequestClass) -> ThrashRates:
    """Return between which rates an engine with full memory works.

    Parameters
    ----------
    engine : Engine
        With a KV limit.
    request : RequestClass
        The only class.

    Returns
    -------
    ThrashRates
        An approximation: memory is full of requests that advance.

    Raises
    ------
    InputError
        No memory limit.

    Examples
    --------
    >>> from llmq.model.time.batchtime import BatchTime
    >>> engine = Engine(BatchTime.affine(base=0.008, per_token=60e-6), 512, kv_tokens=20_000)
    >>> found = thrash_rates(engine, RequestClass(490, 268))
    >>> found.worst, found.best
    (3.09..., 8.84...)
    """
    if engine.kv_tokens is None:
        raise InputError("thrashing needs a memory limit: give the engine kv_tokens")
    need = demand(request, engine)
    count = float(need.area) / engine.kv_tokens
    worst = count * float(engine.law.exact().curve(engine.token_budget)) + _reading(engine, need)
    best = stability_region(engine, {"request": request}).load({"request": 1.0})
    return ThrashRates(
        min(1 / worst, 1 / best),
        1 / best,
        count,
        Kind.APPROXIMATION,
        ("memory is full, and full of requests that advance in every iteration",),
        "full memory, budget filled with recomputation",
    )


def holding_load(engine: Engine, mix: Mix, rates: Rates) -> PolicyLoad:
    """Return the load under SLAI where decodes can wait for prefill as long as it takes.

    Parameters
    ----------
    engine : Engine
        With ``max_seqs`` at most the token budget, no memory limit, no chunk below the budget.
    mix : mapping of str to RequestClass
        Classes whose prompts are multiples of the token budget.
    rates : mapping of str to float
        Requests per second.

    Returns
    -------
    PolicyLoad
        Exact.

    Raises
    ------
    InputError
        Outside these conditions.

    Examples
    --------
    >>> from llmq.model.time.batchtime import BatchTime
    >>> engine = Engine(BatchTime.affine(base=0.02, per_token=2e-5), 512, max_seqs=64)
    >>> found = holding_load(engine, {"chat": RequestClass(512, 65)}, {"chat": 10.0})
    >>> found.load, found.reach
    (0.5152, 0.66...)
    """
    budget, slots = engine.token_budget, engine.max_seqs
    if slots is None or slots > budget or engine.kv_tokens is not None or engine.chunk < budget:
        raise InputError(
            "holding_load needs max_seqs up to the token budget, chunks of the whole budget and no "
            f"kv_tokens, got max_seqs={slots}, chunk {engine.chunk} and {engine.kv_tokens}"
        )
    if shares_slot(engine) or engine.law.per_kv != engine.law.per_kv_mixed:
        raise InputError("holding_load needs a slot for each resident (ENGINE) and one per_kv")
    curve = engine.law.exact().curve
    if any(curve(n) * slots < curve(slots) * n for n in range(1, slots)):
        raise InputError(
            "holding_load needs a law under which full slots are the best decode batch"
        )
    weights = []
    for name, kind in mix.items():
        if (kind.prompt.values % budget).any() or kind.prompt.low < budget:
            raise InputError(f"prompts of {name!r} must be multiples of the budget {budget}")
        need = demand(kind, engine)
        decodes = need.decodes / slots
        time = need.chunks * curve(budget) + decodes * curve(slots)
        weights.append(float(time) + _reading(engine, need))
    region = stability_region(engine, mix)
    rate = rate_vector(rates, region.classes)
    return PolicyLoad(
        sum(x * w for x, w in zip(rate, weights, strict=True)),
        region.load(rates),
        kind=Kind.EXACT,
        assumptions=(
            f"conventions {engine.conventions.name}; no decode is ever critical",
            "Poisson arrivals, bounded lengths",
        ),
        source="held decodes [PACE]",
    )


def ranked_load(engine: Engine, mix: Mix, rates: Rates) -> PolicyLoad:
    """Return a load below which every ranked policy with swap is stable: FCFS, round robin, PASCAL.

    Parameters
    ----------
    engine : Engine
        With a KV limit, an affine law, no slot limit, a token budget of the longest prompt at
        least; ``per_swap`` counts.
    mix : mapping of str to RequestClass
        The classes.
    rates : mapping of str to float
        Requests per second.

    Returns
    -------
    PolicyLoad
        An inner bound, whatever the rank. With a price of swaps it is far from tight.

    Raises
    ------
    InputError
        Outside these conditions, or a request as large as the memory.

    Examples
    --------
    >>> from llmq.model.time.batchtime import BatchTime
    >>> engine = Engine(BatchTime.affine(base=0.02, per_token=1e-4), 20_000, kv_tokens=20_000,
    ...                 kv_block=1)
    >>> found = ranked_load(engine, {"chat": RequestClass(128, 600)}, {"chat": 2.0})
    >>> found.load, found.least
    (0.679..., 0.658...)
    """
    law, memory = engine.law, engine.kv_tokens
    if memory is None or engine.max_seqs is not None or law.form != "affine" or law.tile != 1:
        raise InputError("ranked_load needs kv_tokens, an affine law and no max_seqs")
    needs = [demand(kind, engine, chunk=kind.prompt.high) for kind in mix.values()]
    # A row that is served asks for all its tokens, the next one too, in whole blocks.
    peak = max(kind.prompt.high + kind.output.high for kind in mix.values()) + engine.kv_block - 1
    room = engine.kv_room - peak
    if room <= 0:
        raise InputError(f"a request of {peak} tokens fills the memory of {memory}")
    spare = _spare(engine, max(kind.prompt.high for kind in mix.values()))
    base = law.base + 2 * engine.per_swap * memory
    weights = [
        law.per_token * float(need.tokens)
        + _reading(engine, need)
        + base * (float(need.area) + engine.kv_block * float(need.slots)) / room
        + base * float(need.tokens) / spare
        for need in needs
    ]
    region = stability_region(engine, mix)
    rate = rate_vector(rates, region.classes)
    return PolicyLoad(
        sum(x * w for x, w in zip(rate, weights, strict=True)),
        region.load(rates),
        Kind.INNER_BOUND,
        (
            "memory is dealt out anew in each iteration, in order of a rank",
            "KV goes to the host",
            "whole prompts in one iteration; Poisson arrivals, bounded lengths",
        ),
        "ranked policies with swap [RANK]",
    )


def _spare(engine: Engine, prompt: int) -> float:
    """Fewest tokens of an iteration in which somebody finds too few of the budget left."""
    budget = engine.token_budget
    if prompt > budget:
        raise InputError(
            f"ranked_load is for whole prompts: one of {prompt} tokens exceeds token_budget "
            f"{budget}; raise the budget",
            field="token_budget",
            value=budget,
        )
    # No iteration has more tokens than the memory holds.
    return math.inf if budget >= engine.kv_room else budget - prompt + 1


def _reading(engine: Engine, need: Demand) -> float:
    """Seconds of attention of a request, KV read at the larger of the two rates."""
    law = engine.law
    return max(law.per_kv, law.per_kv_mixed) * float(need.area) + law.per_work * float(need.work)
