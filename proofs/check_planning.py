r"""C1-C3: the least load of a static planning problem.

A problem has pools of equal engines that run batches, and classes of requests with rates and
routes. Its least load is the part of every pool's time that is needed.

``unstable`` (C1): prices ``p`` of a token of each buffer, ``m`` of each limit and ``q`` of an
    engine-second of each pool, ``sum_h engines_h q_h = 1``. If every batch ``x`` that a pool can
    run has ``p . x + m . C <= q t(x)``, and no class costs more than any of its routes asks for,
    then ``sum_j rate_j price_j`` is at most the load. Above 1, priced backlog grows: ``q t`` is all
    that an iteration can remove.
``stable_rate`` (C2): flows over routes and iterations per second of batches that serve all rates
    in a load below 1. ``optimal_load`` (C3): both, with equal loads: this is the least load.

Inequalities over batches hold for *every* batch. With two phases: for every total a linear price is
largest at the fewest or the most decodes beside a prefill, or at decodes alone. A knapsack is
enumerated. Where lengths of requests are listed, needs are computed again from them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction
from math import lcm
from typing import Any

from proofs.check_reading import (
    MOST,
    ZERO,
    Rejected,
    attention,
    items,
    rational,
    rationals,
    require,
    table,
    token_times,
    whole,
)


class Pool:
    """Equal engines that run batches, or a link that only takes time."""

    def __init__(self, name: str, raw: Any) -> None:
        self.name = what = f"pool {name}"
        self.raw = table(raw, what, ["engines", "law", "batches", "limits", "needs", "rules"])
        self.engines = whole(self.raw["engines"], f"{what}, engines", 1)
        limits = table(self.raw["limits"], f"{what}, limits")
        self.limits = {k: whole(c, f"{what}, limit {k}", 1) for k, c in limits.items()}
        self.buffers, self.times = list[str](), list[Fraction]()
        if self.raw["batches"] is None:
            require(self.raw["law"] is None and not limits, f"{what}: a link has no law or limit")
        else:
            self.read_batches(self.raw["batches"], f"{what}, batches")
            self.read_law(f"{what}, law")
        needs = table(self.raw["needs"], f"{what}, needs")
        self.needs = {j: self.read_need(n, f"{what}, needs of {j}") for j, n in needs.items()}

    def read_batches(self, raw: Any, what: str) -> None:
        """Read which batches an iteration may hold."""
        self.kind, self.slots, self.rows = table(raw, what).get("kind"), None, []
        if self.kind == "two_phase":
            table(raw, what, ("kind", "token_budget", "slots"))
            self.buffers, self.steps = ["prefill", "decode"], [1, 1]
            self.slots = None if raw["slots"] is None else whole(raw["slots"], f"{what}, slots", 1)
        else:
            require(self.kind == "knapsack", f"{what}: unknown kind {self.kind!r}")
            table(raw, what, ["kind", "token_budget", "buffers", "steps", "rows"])
            self.buffers = items(raw["buffers"], f"{what}, buffers")
            self.steps = [whole(s, f"{what}, steps", 1) for s in items(raw["steps"], what)]
            for row in items(raw["rows"], what):
                table(row, what, ("weights", "capacity"))
                weights = [whole(w, f"{what}, weights") for w in items(row["weights"], what)]
                require(len(weights) == len(self.buffers), f"{what}: one weight for each buffer")
                self.rows.append((weights, whole(row["capacity"], f"{what}, capacity")))
            named = {b for b in self.buffers if isinstance(b, str)}
            good = 0 < len(named) == len(self.buffers) == len(self.steps)
            require(good, f"{what}: a name and a step for each buffer")
        self.budget = whole(raw["token_budget"], f"{what}, token_budget", 1)

    def read_law(self, what: str) -> None:
        """Read the time of a batch by its tokens, and what attention takes."""
        self.times = token_times(self.raw["law"], self.budget, what)
        self.attention = attention(self.raw["law"], what)

    def read_need(self, raw: Any, what: str) -> dict[str, Any]:
        """Read what a request asks of this pool."""
        need = table(raw, what, ("tokens", "seconds", "limits"))
        tokens = rationals(need["tokens"], what)
        require(set(tokens) <= set(self.buffers), f"{what}: tokens of an unknown buffer")
        return {"tokens": tokens, "seconds": rational(need["seconds"], f"{what}, seconds"),
                "limits": rationals(need["limits"], what, self.limits)}  # fmt: skip

    def fits(self, batch: Iterable[int]) -> bool:
        """Say whether the rows of a knapsack hold the first entries of a batch."""
        return all(sum(w * x for w, x in zip(ws, batch, strict=False)) <= c for ws, c in self.rows)

    def allows(self, batch: list[int]) -> bool:
        """Say whether an iteration may hold this batch."""
        if len(batch) != len(self.buffers) or not 1 <= sum(batch) <= self.budget:
            return False
        slots = self.slots is None or batch[1] + (batch[0] > 0) <= self.slots
        return slots and self.fits(batch) and not any(map(int.__mod__, batch, self.steps))

    def extreme_batches(self) -> Iterator[tuple[int, ...]]:
        """Yield batches among which any linear price is largest, for each total of tokens."""
        if self.kind == "knapsack":
            yield from self.every((), self.budget)
            return
        for n in range(1, self.budget + 1):
            # Beside a prefill token: from no decode to the most that the slots leave.
            most = n - 1 if self.slots is None else min(n - 1, self.slots - 1)
            yield from ((n, 0), (n - most, most))
            if self.slots is None or n <= self.slots:
                yield 0, n

    def every(self, head: tuple[int, ...], room: int) -> Iterator[tuple[int, ...]]:
        """Yield all configurations of a knapsack, the empty one too."""
        if len(head) == len(self.buffers):
            yield head
            return
        for x in range(0, room + 1, self.steps[len(head)]):
            if self.fits((*head, x)):
                yield from self.every((*head, x), room - x)

    def needs_by_length(self, raw: Any, what: str) -> dict[str, Any]:
        """Compute what a request needs on average from the lists of its lengths."""
        rules = table(self.raw["rules"], f"{self.name}, rules", ["chunk", "lag", "area", "phases"])
        lengths = table(raw, what, ("prompt", "output", "paired"))
        chunk, lag = whole(rules["chunk"], "chunk", 1), whole(rules["lag"], "lag")
        s = [whole(x, f"{what}, prompt", 1) for x in items(lengths["prompt"], what)]
        d = [whole(x, f"{what}, output", 1) - 1 + lag for x in items(lengths["output"], what)]
        phases, area, paired = rules["phases"], rules["area"], lengths["paired"]
        require(type(paired) is bool and lag < 2, f"{what}: bad lag or 'paired'")
        require(not paired or len(s) == len(d), f"{what}: paired lists of different length")

        def mean(values: list[int]) -> Fraction:
            return Fraction(sum(values), len(values))

        prefill, decode = phases != "decode", phases != "prefill"
        cross = mean([x * y for x, y in zip(s, d, strict=True)]) if paired else mean(s) * mean(d)
        held = (cross + mean([y * (y + 1) for y in d]) / 2) * decode
        # The remainder of a prompt first: no order of chunks holds less.
        least = {"chunked": [sum(range(x, 0, -chunk)) for x in s], "wait": s, "decode_only": [0]}
        per_kv, per_kv_mixed, per_work = self.attention
        read = {"prefill": per_kv_mixed, "decode": per_kv, "both": min(per_kv, per_kv_mixed)}
        require(phases in read and area in least, f"{what}: unknown {phases!r} or {area!r}")
        held += mean(least[area]) * prefill
        work = per_work * mean([x * x for x in s]) / 2 * prefill
        slots = mean([-(-x // chunk) for x in s]) * prefill + mean(d) * decode
        known = {"memory": held, "slots": slots}
        require(set(self.limits) <= set(known), f"{self.name}: lengths do not tell all limits")
        return {
            "tokens": {"prefill": mean(s) * prefill, "decode": mean(d) * decode},
            "seconds": read[phases] * held + work,
            "limits": {k: known[k] for k in self.limits},
        }


class Problem:
    """Pools, and classes with rates and routes."""

    def __init__(self, raw: Any) -> None:
        problem = table(raw, "problem", ("classes", "pools"))
        self.pools = {h: Pool(h, p) for h, p in table(problem["pools"], "pools").items()}
        self.rates: dict[str, Fraction] = {}
        self.routes: dict[str, list[list[str]]] = {}
        for j, value in table(problem["classes"], "classes").items():
            one = table(value, f"class {j}", ("rate", "routes"), may="lengths")
            self.rates[j] = rational(one["rate"], f"class {j}, rate")
            self.routes[j] = [items(r, f"class {j}") for r in items(one["routes"], f"class {j}")]
            require(all([self.routes[j], *self.routes[j]]), f"class {j}: no route or an empty one")
            for h in (h for route in self.routes[j] for h in route):
                require(h in self.pools and j in self.pools[h].needs, f"class {j}: no pool {h!r}")
            for pool in self.pools.values() if "lengths" in one else ():
                if j in pool.needs and pool.raw["rules"] is not None:
                    again = pool.needs_by_length(one["lengths"], f"class {j}, lengths")
                    require(again == pool.needs[j], f"{pool.name}: not the needs of class {j}")


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
        check_batches(pool, [p[h][b] for b in pool.buffers], m[h], q[h])
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


def check_batches(pool: Pool, p: list[Fraction], m: dict[str, Fraction], q: Fraction) -> None:
    """Check that no batch is worth more than its time."""
    fixed = sum((c * m[k] for k, c in pool.limits.items()), ZERO)
    # The same inequality in whole numbers: times the common denominator.
    scale = lcm(*(v.denominator for v in (*p, fixed, q, *pool.times))) ** 2
    price, base = [int(v * scale) for v in p], int(fixed * scale)
    time = [int(q * t * scale) for t in pool.times]
    for count, batch in enumerate(pool.extreme_batches() if pool.buffers else ()):
        require(count <= 3 * MOST, f"{pool.name}: too many configurations to check")
        if any(batch) and sum(map(int.__mul__, price, batch)) + base > time[sum(batch)]:
            raise Rejected(f"{pool.name}: batch {batch} is worth more than its time")


def check_primal(problem: Problem, raw: Any, load: Fraction) -> None:
    """Check that flows and batches serve all rates in exactly the load."""
    primal, pools = table(raw, "primal", ("flows", "batches")), problem.pools
    served, time = dict.fromkeys(problem.rates, ZERO), dict.fromkeys(pools, ZERO)
    # What the batches offer minus what the flows ask for.
    spare = {(h, "tokens", b): ZERO for h, pool in pools.items() for b in pool.buffers}
    spare |= {(h, "limits", k): ZERO for h, pool in pools.items() for k in pool.limits}
    for value in items(primal["flows"], "flows"):
        flow = table(value, "flow", ("class", "route", "rate"))
        j, route = flow["class"], flow["route"]
        require(j in served and route in problem.routes[j], f"flow of {j!r}: no route {route!r}")
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
        require(h in pools and pools[h].allows(batch), f"pool {h!r}: no batch {batch}")
        rate = rational(run["rate"], "rate of a batch")
        time[h] += rate * pools[h].times[sum(batch)]
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
    if "dual" in body:
        check_dual(problem, body["dual"], load)
    if "primal" in body:
        check_primal(problem, body["primal"], load)
    return f"load {load}"
