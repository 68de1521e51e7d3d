r"""What requests need of a pool, computed again from the lists of their lengths.

A class lists prompts and outputs, as pairs or independent. In a pool with *rules* a request of
``s`` prompt tokens and ``d`` decodes (``output - 1 + lag``) needs, as its phases say,

* ``s`` prompt tokens and ``d`` decodes;
* slots: one for each chunk of its prompt, and one for each decode;
* memory: the KV tokens it holds, summed over its iterations. Decode ``j`` holds ``s + j``, the
  prefill the remainder of the prompt first (``chunked``: no order of chunks holds less), ``s`` once
  (``wait``) or nothing (``decode_only``); in whole blocks where the rules name a block;
* seconds: KV reads of what it holds, in tokens, at the least rate that its iterations may have (a
  prefill pool reads at ``per_kv_mixed``, a decode pool at ``per_kv``; a pool for both at the
  smaller, or its prefill at ``per_kv_mixed``), and ``s^2 / 2`` units of work.

A request goes through a pool for both phases, or through one for its prompt and one for its
decodes, with links between these two. Those without decodes end after their prompt. The most that
a request holds in a phase fits into the memory.
"""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from typing import Any

from proofs.check_pool import Pool
from proofs.check_reading import MOST, items, rational, require, table, whole

RULES = ("chunk", "lag", "area", "phases")
LINK_RULES = ("seconds_per_token", "lag")
PHASES = ("both", "prefill", "decode")
AREAS = ("chunked", "wait", "decode_only")


class Lengths:
    """Prompts and outputs of a class."""

    def __init__(self, raw: Any, what: str) -> None:
        self.what = what
        lists = table(raw, what, ("prompt", "output", "paired"))
        self.s = [whole(x, f"{what}, prompt", 1) for x in items(lists["prompt"], what)]
        self.o = [whole(x, f"{what}, output", 1) for x in items(lists["output"], what)]
        self.paired = lists["paired"]
        require(type(self.paired) is bool, f"{what}: bad 'paired'")
        require(0 < len(self.s) <= MOST and 0 < len(self.o) <= MOST, f"{what}: none or too many")
        same = not self.paired or len(self.s) == len(self.o)
        require(same, f"{what}: paired lists of different length")

    def decodes(self, lag: int) -> list[int]:
        """Return the decodes of each output."""
        return [x - 1 + lag for x in self.o]

    def decode_blocks(self, lag: int, block: int) -> Fraction:
        """Mean tokens in whole blocks that the decodes hold, summed over these."""
        d = self.decodes(lag)
        if self.paired:
            pairs = zip(self.s, d, strict=True)
            return average([blocks_to(x + y, block) - blocks_to(x, block) for x, y in pairs])
        # Each decode holds the full blocks of the prompt, and those of its broken block and on.
        full = average([x - x % block for x in self.s]) * average(d)
        s, t = Counter(x % block for x in self.s), Counter(d)
        require(len(s) * len(t) <= MOST, f"{self.what}: too many different lengths for blocks")
        total = sum(
            n * m * (blocks_to(x + y, block) - blocks_to(x, block))
            for x, n in s.items()
            for y, m in t.items()
        )
        return full + Fraction(total, len(self.s) * len(d))

    def moved(self, lag: int) -> Fraction:
        """Mean prompt tokens of requests that decode, 0 for the others."""
        d = self.decodes(lag)
        if self.paired:
            return Fraction(sum(x for x, y in zip(self.s, d, strict=True) if y), len(d))
        return average(self.s) * Fraction(sum(y > 0 for y in d), len(d))

    def peak(self, phases: str, lag: int) -> int:
        """Most KV tokens that a request holds in a pool."""
        d = self.decodes(lag)
        if phases == "prefill":
            return max(self.s)
        pairs = list(zip(self.s, d, strict=True)) if self.paired else [(max(self.s), max(d))]
        return max((x + y for x, y in pairs if y or phases == "both"), default=0)


def average(values: list[int]) -> Fraction:
    """Mean of whole numbers."""
    return Fraction(sum(values), len(values))


def steps_down(x: int, chunk: int, block: int) -> int:
    """Sum of ``x``, ``x - chunk``, ... while positive, each rounded up to whole blocks."""
    n = -(-x // chunk)
    # Upwards from the last one, r: ceil((r + i chunk) / block).
    r = x - (n - 1) * chunk
    return block * floor_sum(n, block, chunk, r + block - 1)


def floor_sum(n: int, m: int, a: int, b: int) -> int:
    """Sum of ``floor((a i + b) / m)`` over ``i = 0, ..., n - 1``."""
    total = 0
    while n > 0:
        total += n * (n - 1) // 2 * (a // m) + n * (b // m)
        a, b = a % m, b % m
        most = a * n + b
        n, b, m, a = most // m, most % m, a, m
    return total


def blocks_to(x: int, block: int) -> int:
    """Sum of ``1, ..., x``, each rounded up to whole blocks."""
    q, r = divmod(x, block)
    return block * (block * (q * (q + 1) // 2) + r * (q + 1))


def read_rules(pool: Pool) -> dict[str, Any]:
    """Read how needs follow from lengths in a pool with batches, or in a link."""
    found: dict[str, Any]
    if pool.kind == "link":
        rules = table(pool.raw["rules"], f"{pool.name}, rules", LINK_RULES)
        rate = rational(rules["seconds_per_token"], f"{pool.name}, seconds_per_token")
        found = {"phases": "link", "rate": rate}
    else:
        rules = table(pool.raw["rules"], f"{pool.name}, rules", RULES, may="block")
        chunk = whole(rules["chunk"], f"{pool.name}, chunk", 1)
        block = whole(rules.get("block", 1), f"{pool.name}, block", 1)
        phases, area = rules["phases"], rules["area"]
        known = phases in PHASES and area in AREAS
        require(known, f"{pool.name}: unknown {phases!r:.20} or {area!r:.20}")
        found = {"phases": phases, "area": area, "chunk": chunk, "block": block}
        memory = pool.limits.get("memory", 0)
        require(memory % block == 0, f"{pool.name}: memory is not in whole blocks of {block}")
    found["lag"] = whole(rules["lag"], f"{pool.name}, lag")
    require(found["lag"] < 2, f"{pool.name}: bad lag")
    return found


def held(pool: Pool, rules: dict[str, Any], one: Lengths, block: int) -> tuple[Fraction, Fraction]:
    """Return the KV area of prompt and decodes."""
    d, chunk = one.decodes(rules["lag"]), rules["chunk"]
    in_blocks = [-(-x // block) * block for x in one.s]
    first = {
        "chunked": lambda: average([steps_down(x, chunk, block) for x in one.s]),
        "wait": lambda: average(in_blocks),
        "decode_only": lambda: Fraction(0),
    }[rules["area"]]()
    if block > 1:
        second = one.decode_blocks(rules["lag"], block)
    else:
        triangle = average([y * (y + 1) for y in d]) / 2
        cross = one.paired and average([x * y for x, y in zip(one.s, d, strict=True)])
        second = (cross if one.paired else average(one.s) * average(d)) + triangle
    both = rules["phases"]
    return first * (both != "decode"), second * (both != "prefill")


def check_needs(pool: Pool, stated: dict[str, Any], one: Lengths) -> None:
    """Check what a request needs of a pool on average, and that it fits."""
    rules = read_rules(pool)
    lag, phases = rules["lag"], rules["phases"]
    wrong = f"{pool.name}: not the needs of {one.what}"
    if phases == "link":
        require(stated["seconds"] == rules["rate"] * one.moved(lag), f"{wrong}: seconds")
        return
    d = one.decodes(lag)
    prefill, decode = phases != "decode", phases != "prefill"
    tokens = {"prefill": average(one.s) * prefill, "decode": average(d) * decode}
    require(stated["tokens"] == tokens, f"{wrong}: tokens")
    chunks = average([-(-x // rules["chunk"]) for x in one.s])
    known = {
        "memory": sum(held(pool, rules, one, rules["block"])),
        "slots": chunks * prefill + average(d) * decode,
    }
    require(set(pool.limits) <= set(known), f"{pool.name}: lengths do not tell all limits")
    for k in pool.limits:
        require(stated["limits"][k] == known[k], f"{wrong}: {k}")
    first, second = held(pool, rules, one, 1)
    per_kv, mixed, per_work = pool.attention
    work = per_work * average([x * x for x in one.s]) / 2 * prefill
    least = min(per_kv, mixed) if phases == "both" else per_kv
    # A chunk of a prompt makes its iteration a mixed one; the smaller rate is a bound too.
    choices = {mixed * first + least * second + work}
    if phases == "both":
        choices.add(least * (first + second) + work)
    require(stated["seconds"] in choices, f"{wrong}: seconds")
    most = -(-one.peak(phases, lag) // rules["block"]) * rules["block"]
    room = pool.limits.get("memory")
    fits = room is None or most <= room
    require(fits, f"{pool.name}: a request of {one.what} holds {most} KV tokens, there are {room}")


def check_route(pools: list[Pool], one: Lengths | None, what: str) -> None:
    """Check that prompt and decodes are computed exactly once along a route."""
    require(len({p.name for p in pools}) == len(pools), f"{what}: a pool is visited twice")
    found = [read_rules(pool) for pool in pools if pool.raw["rules"] is not None]
    if len(found) < len(pools):
        require(one is None, f"{what}: lengths, but no rules in a pool of its route")
        return
    phases = sorted(rules["phases"] for rules in found)
    links = phases.count("link")
    work = [x for x in phases if x != "link"]
    short = one is not None and max(one.decodes(found[0]["lag"])) == 0
    good = work == ["decode", "prefill"] or (not links and work == ["both"])
    good = good or (short and not links and work == ["prefill"])
    require(good, f"{what}: prompt and decodes must each be computed once, these pools do {work}")


def check_stated(routes: list[list[Pool]], klass: str) -> None:
    """Check needs that no lengths explain: each phase where it is done, the same on every route."""
    totals = []
    for route in routes:
        total = {"prefill": Fraction(0), "decode": Fraction(0)}
        for pool in route:
            tokens = pool.needs[klass]["tokens"]
            for buffer in tokens.keys() & total.keys():
                total[buffer] += tokens[buffer]
            rules = read_rules(pool) if pool.raw["rules"] is not None else {"phases": "both"}
            idle = {"prefill": "decode", "decode": "prefill"}.get(rules["phases"], "")
            done = tokens.get(idle, Fraction(0)) == 0
            require(done, f"{pool.name}: {klass} needs {idle} tokens of a {rules['phases']} pool")
        totals.append(total)
    if all(pool.kind != "knapsack" for route in routes for pool in route):
        require(all(t == totals[0] for t in totals), f"class {klass}: routes differ in tokens")
        require(totals[0]["prefill"] > 0, f"class {klass}: its prompt is never computed")
