r"""Certificates of planning problems: the answer with everything that is needed to check it.

The problem, a claim, and the dual or primal solution (or both) in rationals, as JSON
(:mod:`llmq.theory.region._certificate_record`; the other claims are listed there).

* ``unstable`` (C1): prices under which the rates are worth more than all engine time. No policy is
  stable.
* ``stable_rate`` (C2): flows and batches that serve the rates in less than all engine time.
* ``optimal_load`` (C3): both with the same value: the least load of the planning problem.

Where the planning problem is only a bound (KV memory, slots for each prompt chunk, KV reads that
depend on the order of chunks) a primal solution says nothing about real schedules: ``stable_rate``
is refused there, by this module and by the checker, and the checker calls ``optimal_load`` a lower
bound of the load.

The problem has a ``scope``: the claim holds at the ``settings`` of the engines (token budget,
slots, chunk), or of the ``hardware``, whatever they are. Where several pools do both phases each
request is served whole by one of them; the checker says so beside the claim.

Each closed-form facet is such a dual vector: with the piece ``c + a n <= f(n)`` of the token curve
the price of a token is ``a`` and the limit of the facet costs ``c`` per iteration. So one kind of
certificate covers regions by formula and by configurations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any, Literal, Protocol, TypeAlias

from llmq.errors import InputError
from llmq.model.fleet import Fleet
from llmq.model.request import RequestClass
from llmq.result import Kind
from llmq.theory.needs._rates import Rates
from llmq.theory.needs._reuse import said_of_hits
from llmq.theory.planning_lp._configurations import Configuration
from llmq.theory.planning_lp._static import (
    LinkRules,
    Optimum,
    PlanningProblem,
    Pool,
    Rules,
    optimise,
)
from llmq.theory.region._certificate_record import (
    Certificate,
    batches_record,
    canonical_digest,
    law_record,
    load_certificate,
    ratio,
    ratios,
    seal,
)
from llmq.theory.region._pools import routing_said

__all__ = [
    "Certificate",
    "canonical_digest",
    "certify_problem",
    "certify_region",
    "load_certificate",
    "problem_record",
]

Claim: TypeAlias = Literal["auto", "unstable", "stable_rate", "optimal_load"]
_PARTS = {"unstable": ("dual",), "stable_rate": ("primal",), "optimal_load": ("dual", "primal")}


class Planned(Protocol):
    """A region that knows its planning problem, as that of a fleet does."""

    @property
    def kind(self) -> Kind:
        """Whether the problem is the truth or a bound."""

    @property
    def fleet(self) -> Fleet:
        """Who serves."""

    @property
    def mix(self) -> Mapping[str, RequestClass]:
        """The classes."""

    @property
    def hits(self) -> Mapping[str, Fraction]:
        """Share of the prompt that a cache finds, by class."""

    @property
    def columns(self) -> Mapping[str, tuple[tuple[Configuration, Fraction], ...]]:
        """Batches of each pool that the optimum may use."""

    def at(self, rates: Rates) -> PlanningProblem:
        """Return the planning problem at some rates."""


def certify_region(region: Planned, rates: Rates, claim: Claim = "auto") -> Certificate:
    """Certify what rates mean for a region; :func:`llmq.theory.region._certify.certify` says
    more.
    """
    if claim == "stable_rate" and region.kind is not Kind.EXACT:
        raise InputError(
            "a stable rate cannot be certified here: the planning problem is only a bound "
            "(memory or slots in whole requests); certify 'optimal_load', or ask contains()"
        )
    _check_reuse(region)
    problem = region.at(rates)
    says = routing_said(region.fleet, region.mix)
    says += [said_of_hits(region.hits)] if any(region.hits.values()) else []
    return certify_problem(problem, claim, optimum=optimise(problem, region.columns), says=says)


def _check_reuse(region: Planned) -> None:
    """Refuse hits that no checker can take for a request that is computed once."""
    some = [name for name, share in region.hits.items() if share]
    cached = {one.prefix_cache for one, _ in region.fleet.pools.values()}
    if some and (len(cached) > 1 or any(region.hits[name] == 1 for name in some)):
        raise InputError(
            f"class {some[0]!r}: a certificate needs the same tokens on every route, and some: "
            "give all pools a prefix cache or none, and hits below 1",
            klass=some[0],
        )


def certify_problem(
    problem: PlanningProblem,
    claim: Claim = "auto",
    *,
    optimum: Optimum | None = None,
    says: Sequence[str] = (),
) -> Certificate:
    """Certify the optimum of a planning problem."""
    found = optimise(problem) if optimum is None else optimum
    if not found.load:
        raise InputError("all rates are 0: there is nothing to certify")
    said = ("unstable" if found.load > 1 else "optimal_load") if claim == "auto" else claim
    if said not in _PARTS:
        raise InputError(f"unknown claim {claim!r}; known: auto, {', '.join(_PARTS)}", value=claim)
    if (said == "unstable" and found.load <= 1) or (said == "stable_rate" and found.load >= 1):
        raise InputError(
            f"the rates have a load of {float(found.load):.6g}: they are not {said}",
            load=float(found.load),
        )
    if said == "stable_rate" and (why := _relaxed(problem)):
        raise InputError(
            f"a stable rate cannot be certified here: the planning problem is only a bound "
            f"({why}); certify 'optimal_load', or ask a region's contains()"
        )
    parts = {"dual": _dual, "primal": _primal}
    proof: dict[str, Any] = {part: parts[part](problem, found) for part in _PARTS[said]}
    if says:
        proof["says"] = [text[:400] for text in says][:40]
    return seal(said, problem_record(problem), found.load, **proof)


def _relaxed(problem: PlanningProblem) -> str:
    """Say why the problem is only a bound; empty if it is none."""
    for name, pool in problem.pools.items():
        if pool.limits:
            return f"pool {name}: {' and '.join(pool.limits)} on average over iterations"
        law, rules = pool.law, pool.rules
        if law is None or not isinstance(rules, Rules) or not max(law.per_kv, law.per_kv_mixed):
            continue
        if rules.area == "chunked" or law.per_kv != law.per_kv_mixed:
            return f"pool {name}: KV reads at the least that any order of chunks has"
    return "" if problem.scope == "settings" else "token budgets, slots and chunks are free"


def problem_record(problem: PlanningProblem) -> dict[str, Any]:
    """Write a planning problem as certificates do."""
    classes: dict[str, Any] = {}
    for name, rate in problem.rates.items():
        routes = [list(route) for route in problem.routes[name]]
        classes[name] = {"rate": ratio(rate), "routes": routes}
        if name in problem.lengths:
            classes[name]["lengths"] = _lengths(problem.lengths[name])
    pools = {h: _pool(pool) for h, pool in problem.pools.items()}
    return {"scope": problem.scope, "classes": classes, "pools": pools}


def _lengths(request: RequestClass) -> dict[str, Any]:
    prompt, output = (law.values.tolist() for law in (request.prompt, request.output))
    return {"prompt": prompt, "output": output, "paired": request.paired}


def _pool(pool: Pool) -> dict[str, Any]:
    rules = pool.rules
    return {
        "engines": pool.engines,
        "law": None if pool.law is None else law_record(pool.law),
        "batches": None if pool.batches is None else batches_record(pool.batches),
        "limits": dict(pool.limits),
        "needs": {
            name: {
                "tokens": ratios(need.tokens),
                "seconds": ratio(need.seconds),
                "limits": ratios(need.limits),
            }
            for name, need in pool.needs.items()
        },
        "rules": None if rules is None else _rules(rules),
    }


def _rules(rules: Rules | LinkRules) -> dict[str, Any]:
    if isinstance(rules, LinkRules):
        return {"seconds_per_token": ratio(rules.per_token), "lag": rules.lag}
    found = {"chunk": rules.chunk, "lag": rules.lag, "area": rules.area, "phases": rules.phases}
    return found | ({"block": rules.block} if rules.block > 1 else {})


def _dual(problem: PlanningProblem, found: Optimum) -> dict[str, Any]:
    tokens: dict[str, dict[str, str]] = {name: {} for name in problem.pools}
    limits: dict[str, dict[str, str]] = {name: {} for name in problem.pools}
    for (pool, buffer), price in found.token_prices.items():
        tokens[pool][buffer] = ratio(price)
    for (pool, limit), price in found.limit_prices.items():
        limits[pool][limit] = ratio(price)
    return {
        "prices": ratios(found.prices),
        "weights": ratios(found.weights),
        "tokens": tokens,
        "limits": limits,
    }


def _primal(problem: PlanningProblem, found: Optimum) -> dict[str, Any]:
    flows = [
        {"class": name, "route": list(route), "rate": ratio(rate)}
        for (name, route), rate in found.flows.items()
    ]
    batches = [
        {"pool": pool, "tokens": list(batch), "rate": ratio(rate)}
        for (pool, batch), rate in found.batches.items()
    ]
    return {"flows": flows, "batches": batches}
