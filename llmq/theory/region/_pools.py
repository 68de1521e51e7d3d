r"""From engines and fleets to a static planning problem: pools, needs and routes.

A pool that does both phases serves whole requests. A prefill pool is charged the prompt tokens,
their area and attention work; a decode pool the decodes and their area. A request then takes one
prefill pool and one decode pool, and its prompt's KV crosses the link, a station that needs
``prompt / link`` seconds of a request (its mean). A request without decodes (one output token, made
by the prefill) ends in the prefill pool and crosses no link. An engine must hold what a request
holds there: a prefill pool the prompt, the others prompt and decodes.

Prompts that share one slot (conventions "one") enter the configurations exactly; otherwise slots
are a limit per iteration, like KV memory. KV memory is counted in whole blocks, and KV is read at
the least rates of the pool's phases (:mod:`llmq.theory.needs._held`): lower bounds of what is
needed.

Not covered, and said in the assumptions: prefix reuse; KV that waits between the pools or is on its
way; a request that is prefilled in one pool of both phases and decoded in another; a router that
looks at lengths, so that pools get different shares of the long requests of a class.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from typing import TypeAlias

import numpy as np

from llmq.errors import InputError
from llmq.model.engine import Engine
from llmq.model.fleet import Fleet
from llmq.model.request import RequestClass
from llmq.theory.needs._hardware import Limits, counted, has_no_bound, scope
from llmq.theory.needs._reuse import Hits, check_hits, reused, said_of_hits
from llmq.theory.needs.demand import demand, has_exact_mean, moved_tokens, phase_peak
from llmq.theory.planning_lp._configurations import TwoPhase
from llmq.theory.planning_lp._static import LinkRules, Need, PlanningProblem, Pool, Route, Rules
from llmq.theory.region._bounds import check_fits, is_exact, shares_slot
from llmq.units import as_fraction

__all__ = [
    "LINK",
    "ONE_POOL",
    "engine_pool",
    "fleet_assumptions",
    "need_of",
    "planning_problem",
    "routing_said",
]

Mix: TypeAlias = Mapping[str, RequestClass]
LINK = "link"
# Name of the pool where a single engine was given.
ONE_POOL = "engine"
# Longer lists of lengths are not repeated in a certificate: their means are. Nor are lists of which
# the checker would have to try more pairs of a broken block and a number of decodes.
_MOST_LENGTHS, _MOST_PAIRS = 4096, 200_000
_NOTHING = Fraction(0)


def need_of(
    request: RequestClass, engine: Engine, phases: str = "both", hits: Fraction = _NOTHING
) -> Need:
    """Return what one request asks of an engine.

    Examples
    --------
    >>> from llmq.model.time.batchtime import BatchTime
    >>> engine = Engine(BatchTime.affine(base=1, per_token=1), 512, kv_tokens=9600)
    >>> need_of(RequestClass(512, 2), engine).limits["memory"]
    Fraction(1040, 1)
    """
    rules, need = engine.conventions, demand(request, engine)
    if hits and engine.prefix_cache:
        need = reused(need, request, hits, rules.lag, rules.area)
    need = need.of(phases)
    limits = {}
    if engine.max_seqs is not None and not shares_slot(engine):
        limits["slots"] = need.slots
    if engine.kv_tokens is not None:
        limits["memory"] = need.memory
    tokens = {"prefill": need.prompt, "decode": need.decodes}
    return Need(tokens, need.attention(engine.law, phases), limits)


def engine_pool(
    engine: Engine, needs: Mapping[str, Need], engines: int = 1, phases: str = "both"
) -> Pool:
    """Return the pool of equal engines."""
    shared = shares_slot(engine)
    limits = {}
    if engine.max_seqs is not None and not shared:
        limits["slots"] = engine.max_seqs
    if engine.kv_tokens is not None:
        limits["memory"] = int(engine.kv_room)
    batches = TwoPhase(engine.token_budget, engine.max_seqs if shared else None)
    block = 1 if engine.kv_tokens is None else engine.kv_block
    rules = Rules(engine.chunk, engine.conventions.lag, engine.conventions.area, phases, block)
    return Pool(engines, engine.law, batches, limits, needs, rules)


def planning_problem(
    system: Engine | Fleet,
    mix: Mix,
    rates: Mapping[str, Fraction] | None = None,
    *,
    limits: Limits = "settings",
    hits: Hits = None,
) -> PlanningProblem:
    """Return the planning problem of an engine or a fleet."""
    if not isinstance(mix, Mapping) or not mix:
        raise InputError(
            "a planning problem needs at least one request class: pass {name: RequestClass(...)}"
        )
    fleet = Fleet({ONE_POOL: (system, 1)}) if isinstance(system, Engine) else system
    if not isinstance(fleet, Fleet):
        raise InputError(
            f"expected an llmq.Engine or llmq.Fleet, got {type(system).__name__}", value=system
        )
    _check_names(fleet)
    shares = check_hits(fleet, mix, hits)
    usable = {name: _usable(fleet, name, request) for name, request in mix.items()}
    pools = {}
    for pool, (given, count) in fleet.pools.items():
        if has_no_bound(given, limits):
            raise InputError(
                f"pool {pool!r}: the hardware has no bound, as a token takes no time in large "
                "batches and no KV limit ends them: give kv_tokens, or use limits='settings'",
                pool=pool,
            )
        engine = counted(given, mix, limits)
        phases = fleet.roles.get(pool, "both")
        needs = {n: need_of(mix[n], engine, phases, shares[n]) for n in mix if pool in usable[n]}
        pools[pool] = engine_pool(engine, needs, count, phases)
    routes = {name: _routes(fleet, mix[name], names) for name, names in usable.items()}
    for name, found in routes.items():
        if not found:
            raise InputError(
                f"class {name!r} may be prefilled but not decoded, or the reverse: pools "
                f"{', '.join(usable[name])} do only {_roles(fleet, usable[name])}",
                klass=name,
            )
    if math.isfinite(fleet.link) and any(LINK in route for r in routes.values() for route in r):
        moved = {n: (1 - shares[n]) * moved_tokens(mix[n], _first(fleet)) for n in mix}
        link = as_fraction(fleet.link)
        needs = {n: Need({}, v / link) for n, v in moved.items()}
        rules = LinkRules(1 / link, _first(fleet).conventions.lag)
        pools[LINK] = Pool(1, None, None, {}, needs, rules)
    return PlanningProblem(
        pools,
        dict.fromkeys(mix, Fraction(1)) if rates is None else dict(rates),
        routes,
        {
            n: request
            for n, request in mix.items()
            if not shares[n] and _is_listed(request, max(_blocks(pools)))
        },
        limits,
    )


def _check_names(fleet: Fleet) -> None:
    if LINK in fleet.pools:
        raise InputError(f"a pool cannot be called {LINK!r}: that is the link between pools")


def _usable(fleet: Fleet, name: str, request: RequestClass) -> tuple[str, ...]:
    """Pools that may serve a class and can hold it; the reason where there is none."""
    allowed = fleet.eligible.get(name, tuple(fleet.pools))
    fits, refused = [], None
    for pool in allowed:
        engine, phases = fleet.pools[pool][0], fleet.roles.get(pool, "both")
        peak = phase_peak(request, engine, phases)
        try:
            check_fits(engine, name, replace(demand(request, engine), peak=peak))
        except InputError as error:
            refused = error
        else:
            fits.append(pool)
    if not fits:
        raise InputError(
            f"no pool can serve class {name!r} (eligible: {', '.join(allowed)}); {refused}",
            klass=name,
        ) from refused
    return tuple(fits)


def _routes(fleet: Fleet, request: RequestClass, pools: tuple[str, ...]) -> tuple[Route, ...]:
    by_role: dict[str, list[str]] = {"both": [], "prefill": [], "decode": []}
    for pool in pools:
        by_role[fleet.roles.get(pool, "both")].append(pool)
    if not moved_tokens(request, _first(fleet)):
        return tuple((pool,) for role in ("both", "prefill") for pool in by_role[role])
    link = (LINK,) if math.isfinite(fleet.link) else ()
    pairs = [(p, d, *link) for p in by_role["prefill"] for d in by_role["decode"]]
    return (*((pool,) for pool in by_role["both"]), *pairs)


def routing_said(fleet: Fleet, mix: Mix) -> list[str]:
    """Say what routes the planning problem leaves out."""
    roles = [fleet.roles.get(pool, "both") for pool in fleet.pools]
    said = []
    if len(roles) > 1 and "both" in roles:
        said.append(
            "a request is served whole by the pool of both phases that it starts in: no prompt is "
            "computed in one such pool and decoded in another"
        )
    if len(roles) > 1 and not all(
        one.prompt.is_fixed and one.output.is_fixed for one in mix.values()
    ):
        said.append(
            "no router looks at lengths: each pool gets the same lengths of a class (make a class "
            "of each length where one does)"
        )
    if "decode" in roles:
        said.append("KV that waits between prefill and decode, or is on its way, takes no memory")
    return said


def _roles(fleet: Fleet, pools: tuple[str, ...]) -> str:
    return ", ".join(dict.fromkeys(fleet.roles.get(pool, "both") for pool in pools))


def _first(fleet: Fleet) -> Engine:
    return next(iter(fleet.pools.values()))[0]


def _is_listed(request: RequestClass, block: int) -> bool:
    laws = (request.prompt, request.output)
    if not has_exact_mean(request) or any(len(law.values) > _MOST_LENGTHS for law in laws):
        return False
    pairs = np.unique(laws[0].values % block).size * np.unique(laws[1].values).size
    return request.paired or block == 1 or pairs <= _MOST_PAIRS


def _blocks(pools: Mapping[str, Pool]) -> list[int]:
    return [pool.rules.block for pool in pools.values() if isinstance(pool.rules, Rules)]


def fleet_assumptions(
    fleet: Fleet,
    mix: Mix,
    problem: PlanningProblem,
    limits: str,
    hits: Mapping[str, Fraction],
) -> tuple[str, ...]:
    """Return what the region of a fleet rests on, in words."""
    names = dict.fromkeys(engine.conventions.name for engine, _ in fleet.pools.values())
    said = [
        f"conventions {', '.join(names)}; {said_of_hits(hits)}",
        *(f"pool {name}: {scope(one, limits)}" for name, (one, _) in fleet.pools.items()),
        "any split of the classes over the pools, known rates",
        *routing_said(fleet, mix),
    ]
    for name in mix:
        allowed = fleet.eligible.get(name, tuple(fleet.pools))
        reached = {pool for route in problem.routes[name] for pool in route}
        if small := [pool for pool in allowed if pool not in reached]:
            said.append(
                f"class {name} cannot use {', '.join(small)}: too little memory, or no partner "
                "for the other phase"
            )
    if strange := [name for name in fleet.eligible if name not in mix]:
        said.append(f"eligible= names classes that do not come: {', '.join(strange)}")
    if not all(has_exact_mean(request) for request in mix.values()):
        said.append("means of weighted lengths are floats")
    if not all(is_exact(counted(one, mix, limits)) for one, _ in fleet.pools.values()):
        said.append(
            "inner bound: in each pool schedules that know the output lengths "
            "(llmq.theory.region._inner), with the split that is best by the outer bound"
        )
    own = dict.fromkeys(a for engine, _ in fleet.pools.values() for a in engine.assumptions)
    return (*said, *own)
