r"""C1-C3: the least load of a static planning problem.

A problem has pools of equal engines that run batches, and classes of requests with rates and
routes. Its least load is the part of every pool's time that is needed.

``unstable`` (C1): prices ``p`` of a token of each buffer, ``m`` of each limit and ``q`` of an
    engine-second of each pool, ``sum_h engines_h q_h = 1``. If every batch ``x`` that a pool can
    run has ``p . x + m . C <= q t(x)``, and no class costs more than any of its routes asks for,
    then ``sum_j rate_j price_j`` is at most the load. Above 1, priced backlog grows: ``q t`` is all
    that an iteration can remove.
``stable_rate`` (C2): flows over routes and iterations per second of batches that serve all rates
    in a load below 1. Refused where the problem is only a relaxation: memory or slots as limits
    that hold on average, KV reads at the least rate and area. ``optimal_load`` (C3): both, with
    equal loads; of a relaxation it is a lower bound of the load, and is called so.

*Scope*. ``settings`` (or nothing): token budgets, slots and chunks are those of the problem.
``hardware``: they are free; no slots bind, no chunk is shorter than a batch, and a budget holds all
KV tokens (or no batch has less time per token than one of a tile, so that no budget matters).

*Needs* are computed again where lengths are listed (:mod:`proofs.check_lengths`); otherwise the
claim is about needs as they are stated, and says so. *Routes*: a request goes through the pools of
one of its routes; where several pools do both phases, no request moves between these.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from proofs.check_lengths import Lengths, check_needs, check_route, check_stated, read_rules
from proofs.check_pool import Pool
from proofs.check_reading import ZERO, items, rational, rationals, require, table, whole


class Problem:
    """Pools, and classes with rates and routes."""

    def __init__(self, raw: Any) -> None:
        problem = table(raw, "problem", ("classes", "pools"), may="scope")
        self.scope = problem.get("scope", "settings")
        require(self.scope in ("settings", "hardware"), f"unknown scope {self.scope!r:.40}")
        self.pools = {h: Pool(h, p) for h, p in table(problem["pools"], "pools").items()}
        self.rates: dict[str, Fraction] = {}
        self.routes: dict[str, list[list[str]]] = {}
        self.lengths: dict[str, Lengths] = {}
        for j, value in table(problem["classes"], "classes").items():
            one = table(value, f"class {j}", ("rate", "routes"), may="lengths")
            self.rates[j] = rational(one["rate"], f"class {j}, rate")
            self.routes[j] = [items(r, f"class {j}") for r in items(one["routes"], f"class {j}")]
            require(all([self.routes[j], *self.routes[j]]), f"class {j}: no route or an empty one")
            for h in (h for route in self.routes[j] for h in route):
                known = isinstance(h, str) and h in self.pools and j in self.pools[h].needs
                require(known, f"class {j}: no pool {h!r:.40}")
            self.read_needs(j, one.get("lengths"))
        if self.scope == "hardware":
            longest = [max(one.s) for one in self.lengths.values()]
            for pool in self.pools.values():
                check_free(pool, max(longest) if self.rates.keys() == self.lengths.keys() else None)

    def read_needs(self, j: str, lengths: Any) -> None:
        """Check what a class needs, and where."""
        one = None if lengths is None else Lengths(lengths, f"class {j}")
        routes = [[self.pools[h] for h in route] for route in self.routes[j]]
        for route in routes:
            check_route(route, one, f"class {j}")
        if one is None:
            check_stated(routes, j)
            return
        self.lengths[j] = one
        for pool in {pool.name: pool for route in routes for pool in route}.values():
            check_needs(pool, pool.needs[j], one)

    def relaxed(self) -> str:
        """Say why the least load is only a lower bound of what engines need; empty if it is not."""
        for pool in self.pools.values():
            if pool.limits:
                return f"{pool.name}: {' and '.join(pool.limits)} on average over iterations"
            rules = {} if pool.raw["rules"] is None else read_rules(pool)
            per_kv, mixed, _ = pool.attention if pool.buffers else (ZERO, ZERO, ZERO)
            fixed = rules.get("area") != "chunked" and per_kv == mixed
            if rules and pool.buffers and max(per_kv, mixed) > 0 and not fixed:
                return f"{pool.name}: KV reads at the least that any order of chunks has"
        return ""


def check_free(pool: Pool, longest: int | None) -> None:
    """Check that neither budget nor slots nor chunk of a pool can bind."""
    if pool.kind == "link":
        return
    rules = read_rules(pool) if pool.raw["rules"] is not None else {}
    free = pool.kind == "two_phase" and pool.slots is None and "slots" not in pool.limits
    require(free, f"{pool.name}: slots bind, this is no bound of the hardware")
    chunk = rules.get("chunk", 0)
    whole_prompt = chunk >= pool.budget or (longest is not None and chunk >= longest)
    require(whole_prompt, f"{pool.name}: a chunk of {chunk} may bind: no bound of the hardware")
    # Every token of a batch is held in the memory.
    counted = "memory" in pool.limits and rules["area"] != "decode_only"
    full = pool.time.is_free(pool.budget) or (counted and pool.limits["memory"] <= pool.budget)
    require(full, f"{pool.name}: a budget of {pool.budget} may bind: no bound of the hardware")


def check_dual(problem: Problem, raw: Any, load: Fraction) -> None:
    """Check that the prices are feasible and worth the load."""
    dual, pools = table(raw, "dual", ["prices", "weights", "tokens", "limits"]), problem.pools
    price = rationals(dual["prices"], "prices", problem.rates)
    q = rationals(dual["weights"], "weights", pools)
    tokens, limits = table(dual["tokens"], "tokens", pools), table(dual["limits"], "limits", pools)
    p = {h: rationals(tokens[h], f"token prices of {h}", pools[h].buffers) for h in pools}
    m = {h: rationals(limits[h], f"limit prices of {h}", pools[h].limits) for h in pools}
    require(sum(q[h] * pools[h].engines for h in pools) == 1, "engines times weights are not 1")
    for h, pool in pools.items():
        pool.check_prices([p[h][b] for b in pool.buffers], m[h], q[h])
    choices = [(j, route) for j in problem.rates for route in problem.routes[j]]
    for j, route in choices:
        asked = ZERO
        for h in route:
            need = pools[h].needs[j]
            asked += q[h] * need["seconds"] + sum(v * p[h][b] for b, v in need["tokens"].items())
            asked += sum(v * m[h][k] for k, v in need["limits"].items())
        require(price[j] <= asked, f"class {j}, route {route}: price {price[j]} exceeds {asked}")
    worth = sum((rate * price[j] for j, rate in problem.rates.items()), ZERO)
    require(worth == load, f"the prices are worth {worth}, not {load}")


def check_primal(problem: Problem, raw: Any, load: Fraction) -> None:
    """Check that flows and batches serve all rates in exactly the load."""
    primal, pools = table(raw, "primal", ("flows", "batches")), problem.pools
    served, time = dict.fromkeys(problem.rates, ZERO), dict.fromkeys(pools, ZERO)
    # What the batches offer minus what the flows ask for.
    spare = {(h, "tokens", b): ZERO for h, pool in pools.items() for b in pool.buffers}
    spare |= {(h, "limits", k): ZERO for h, pool in pools.items() for k in pool.limits}
    routes = {(j, *route) for j in problem.rates for route in problem.routes[j]}
    for value in items(primal["flows"], "flows"):
        flow = table(value, "flow", ("class", "route", "rate"))
        j, route = flow["class"], items(flow["route"], "flow")
        known = isinstance(j, str) and (j, *map(str, route)) in routes
        require(known, f"flow of {j!r:.40}: no route {route!r:.80}")
        rate = rational(flow["rate"], f"flow of {j}")
        served[j] += rate
        for h in route:
            need = pools[h].needs[j]
            time[h] += rate * need["seconds"]
            for kind in ("tokens", "limits"):
                for k, v in need[kind].items():
                    spare[h, kind, k] -= rate * v
    for value in items(primal["batches"], "batches"):
        run = table(value, "batch", ("pool", "tokens", "rate"))
        h, batch = run["pool"], [whole(x, "batch") for x in items(run["tokens"], "batch")]
        known = isinstance(h, str) and h in pools
        require(known and pools[h].allows(batch), f"pool {h!r:.40}: no batch {batch!r:.80}")
        rate = rational(run["rate"], "rate of a batch")
        time[h] += rate * pools[h].time(sum(batch))
        for b, x in zip(pools[h].buffers, batch, strict=True):
            spare[h, "tokens", b] += rate * x
        for k, c in pools[h].limits.items():
            spare[h, "limits", k] += rate * c
    for j, rate in problem.rates.items():
        require(served[j] >= rate, f"class {j}: {served[j]} of {rate} requests are routed")
    for (h, kind, k), rest in spare.items():
        require(rest >= 0, f"pool {h}: {-rest} too little for the {kind} {k}")
    used = max(time[h] / pools[h].engines for h in pools)
    require(used == load, f"the batches take a load of {used}, not {load}")


def check_load(body: dict[str, Any]) -> str:
    """Check a claim about the least load."""
    claim, load, problem = body["claim"], rational(body["load"], "load"), Problem(body["problem"])
    require(claim != "unstable" or load > 1, f"a load of {load} is not above 1")
    require(claim != "stable_rate" or load < 1, f"a load of {load} is not below 1")
    relaxed = problem.relaxed()
    if claim == "stable_rate":
        require(not relaxed, f"this problem is a relaxation, no stable rate follows: {relaxed}")
        free = problem.scope == "settings"
        require(free, "a bound of the hardware says nothing about a stable rate")
    if "dual" in body:
        check_dual(problem, body["dual"], load)
    if "primal" in body:
        check_primal(problem, body["primal"], load)
    return sentence(claim, problem, load, relaxed) + author(body.get("says", []))


def author(raw: Any) -> str:
    """Repeat what the certificate says of itself: read with it, but not proved."""
    said = items(raw, "says")
    good = len(said) <= 40 and all(isinstance(x, str) and len(x) <= 400 for x in said)
    require(good, "says: expected at most 40 texts of at most 400 characters")
    return f"; by its author, not checked: {'; '.join(said)}" if said else ""


def sentence(claim: str, problem: Problem, load: Fraction, relaxed: str) -> str:
    """Say what is proved, and on what it rests."""
    where = {
        "settings": "at these settings",
        "hardware": "on this hardware, whatever the token budget, slots and chunk",
    }[problem.scope]
    said = {
        "unstable": f"no policy is stable {where}",
        "stable_rate": f"batches serve these rates {where}",
        "optimal_load": f"the least load of any policy {where}",
    }[claim]
    if claim == "optimal_load" and relaxed:
        said = f"a lower bound of the load of any policy {where} ({relaxed})"
    both = [h for h, p in problem.pools.items() if p.buffers and phases_of(p) == "both"]
    if len(both) > 1:
        said += "; each request is served whole by one of these pools or along one of its routes"
    stated = [j for j in problem.rates if j not in problem.lengths]
    if stated:
        said += f"; needs as stated, not computed from lengths: {', '.join(stated)}"
    return f"load {load}: {said}"


def phases_of(pool: Pool) -> str:
    """Say which phases a pool does."""
    return "both" if pool.raw["rules"] is None else str(read_rules(pool)["phases"])
