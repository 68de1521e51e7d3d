r"""C4 and C6: drift of a backlog on one engine, and the bounds that follow.

Requests of each class arrive as a Poisson stream, with independent numbers of tokens whose first
two moments are stated (where lengths are listed, they are computed again from them).

``linear_foster`` (C4). Let ``V`` be the tokens left of all requests present, ``b`` the tokens of a
full batch and ``t`` its time, the longest one where attention takes time: every request of the
batch at its largest (a row reads at most the KV of a whole request, a chunk of ``n`` tokens does at
most ``n s`` of attention work). *Level*: while ``V`` exceeds it, batches are full.

* Work-conserving with a budget ``b`` (``sarathi``): a batch falls short of ``b`` only if all that
  requests can offer does. A request offers ``n >= 1`` tokens, a chunk of its prompt or one decode,
  and has at most ``n m`` left, ``m = max(1 + d, ceil((s + d) / chunk))`` with ``s`` and ``d`` the
  most prompt tokens and decodes of a request: then ``V <= (b - 1) m``.
* Full tiles (``rad``): chunks of ``b`` prompt tokens that divide every prompt, decodes when ``b``
  requests decode or no prompt is left. A batch falls short only if all of fewer than ``b`` requests
  decode: ``V <= (b - 1) d``.

At most ``b`` requests are present in the engine, so ``b`` slots and memory for ``b`` requests of
the largest size never bind. The level is also at least ``s + d``, one request that ends an idle
time. An iteration above the level removes ``b`` and lasts at most ``t``; the work that arrives in
``t`` has mean ``A`` and variance ``S``: the drift is at most ``-e``, ``e = b - A > 0``.

* *Return*: ``V + e n`` stopped at the level is a supermartingale and ends above ``level - b``, so
  from ``V0`` above the level it takes at most ``(V0 - max(0, level + 1 - b)) t / e`` on average.
* *Mean*: ``V(T)`` is at most the level plus what came since the last iteration that started at or
  below it, minus the full batches since. That iteration and the one that runs bring at most
  ``2 A`` on average; the rest is a random walk with steps of mean ``-e`` and variance ``S``, whose
  maximum has mean at most ``S / (2 e)`` (Kingman). So the long-run mean of ``V`` is at most
  ``level + 2 A + S / (2 e)``.

``quadratic_maxweight`` (C6). Each buffer has its own arrivals and each token is served once. At
each decision MaxWeight runs a batch ``x`` with the largest ``Q . x / t(x)``; missing tokens are
padding. Batches at rates ``u`` with ``sum u t <= 1`` serve every mean rate ``l_i`` plus a slack
``d > 0``, so ``Q . x / t(x) >= Q . (l + d)``. With ``T = t(x)`` and ``A`` the work that arrives
meanwhile, ``(max(Q - x, 0) + A)^2 <= (Q - x)^2 + 2 A Q + A^2`` gives the mean change of ``|Q|^2``
over a batch: at most ``- 2 T d sum Q + |x|^2 + E|A|^2 <= T (B - 2 d sum Q)`` with
``B = max_x (|x|^2 / t(x) + t(x) sum l_i^2) + sum r_i E[v_i^2]``, ``r_i`` arrivals per second. At
``Q = 0`` the engine may also wait for an arrival. Summed up, the mean of ``sum Q`` at decisions,
weighted by the length of the batches, is at most ``B / (2 d)``; within a batch ``t(x) sum l / 2``
more arrives on average.
"""

from __future__ import annotations

from fractions import Fraction
from itertools import product
from math import gcd
from typing import Any

from proofs.check_pool import Pool
from proofs.check_reading import (
    MOST,
    ZERO,
    attention,
    items,
    rational,
    rationals,
    read_law,
    require,
    table,
    whole,
)

MOMENTS = ("rate", "tokens", "tokens_squared")
SIZES = ("prompt_most", "prompt_unit", "decodes_most")


def moments(raw: dict[str, Any], what: str) -> tuple[Fraction, Fraction, Fraction]:
    """Read rate, mean and second moment of the tokens."""
    rate, mean, square = (rational(raw[k], f"{what}, {k}") for k in MOMENTS)
    require(mean > 0 and square >= mean * mean, f"{what}: no law has these two moments")
    return rate, mean, square


def listed(raw: Any, lag: int, what: str) -> dict[str, Any]:
    """Compute moments and sizes from lists of lengths."""
    table(raw, what, ("prompt", "output", "paired"))
    s = [whole(x, f"{what}, prompt", 1) for x in items(raw["prompt"], what)]
    d = [whole(x, f"{what}, output", 1) - 1 + lag for x in items(raw["output"], what)]
    require(type(raw["paired"]) is bool, f"{what}: bad 'paired'")
    require(len(s) * len(d) > 0, f"{what}: no lengths")
    require(not raw["paired"] or len(s) == len(d), f"{what}: paired lists of different length")
    require(len(s) * len(d) <= MOST or raw["paired"], f"{what}: too many lengths")
    pairs = zip(s, d, strict=True) if raw["paired"] else product(s, d)
    total = [x + y for x, y in pairs]
    return {
        "tokens": Fraction(sum(total), len(total)),
        "tokens_squared": Fraction(sum(v * v for v in total), len(total)),
        "prompt_most": max(s),
        "prompt_unit": gcd(*s),
        "decodes_most": max(d),
    }


def read_class(raw: Any, lag: int, what: str) -> tuple[Fraction, Fraction, Fraction, list[int]]:
    """Read a class: rate, moments, most prompt tokens, their common divisor, most decodes."""
    one = table(raw, what, (*MOMENTS, *SIZES), may="lengths")
    rate, mean, square = moments(one, what)
    most, unit, decodes = sizes = [
        whole(one[k], f"{what}, {k}", 0 if k == "decodes_most" else 1) for k in SIZES
    ]
    require(most % unit == 0, f"{what}: {unit} does not divide the largest prompt")
    require(unit <= mean <= most + decodes, f"{what}: the mean is out of range")
    require(square <= mean * (most + decodes), f"{what}: the second moment is out of range")
    if "lengths" in one:
        again = listed(one["lengths"], lag, f"{what}, lengths")
        stated = dict(
            zip(("tokens", "tokens_squared", *SIZES), (mean, square, *sizes), strict=True)
        )
        require(again == stated, f"{what}: not the moments and sizes of its lengths")
    return rate, mean, square, sizes


def check_room(problem: dict[str, Any], batch: int, most: int) -> None:
    """Check that a batch's worth of requests of the largest size always fits."""
    if problem["slots"] is not None:
        slots = whole(problem["slots"], "slots", 1)
        require(slots >= batch, f"{slots} slots may bind before a batch of {batch} tokens is full")
    if problem["memory"] is not None:
        memory = table(problem["memory"], "memory", ("tokens", "block"))
        size, block = (whole(memory[k], f"memory, {k}", 1) for k in ("tokens", "block"))
        # One block in a hundred may be kept free by an admission rule.
        fits = size // block * 99 >= batch * -(-(most + 1) // block) * 100
        require(fits, f"memory may bind: no room for {batch} requests of {most + 1} tokens")


def level_of(problem: dict[str, Any], batch: int, sizes: list[list[int]]) -> int:
    """Return the backlog above which batches are full."""
    policy, chunk = problem["policy"], whole(problem["chunk"], "chunk", 1)
    s, d = max(size[0] for size in sizes), max(size[2] for size in sizes)
    require(chunk <= batch, "a chunk exceeds the batch")
    if policy == "sarathi":
        short = (batch - 1) * max(1 + d, -(-(s + d) // chunk))
    else:
        require(policy == "rad", f"unknown policy {policy!r}")
        require(chunk == batch, "rad: a chunk is one full batch")
        divides = all(size[1] % batch == 0 for size in sizes)
        require(divides, f"rad: prompts are not multiples of {batch} tokens")
        short = (batch - 1) * d
    return max(short, s + d)


def check_foster(body: dict[str, Any]) -> str:
    """Check drift, level and bounds of a backlog (C4)."""
    names = ("policy", "law", "batch", "chunk", "slots", "memory", "lag", "classes")
    problem = table(body["problem"], "problem", names)
    batch, lag = whole(problem["batch"], "batch", 1), whole(problem["lag"], "lag")
    require(lag < 2, "lag: 0 or 1")
    full = read_law(problem["law"], "law")(batch)
    classes = table(problem["classes"], "classes")
    read = [read_class(raw, lag, f"class {j}") for j, raw in classes.items()]
    require(len(read) > 0, "no class")
    sizes = [size for *_, size in read]
    level = level_of(problem, batch, sizes)
    most = max(size[0] + size[2] for size in sizes)
    check_room(problem, batch, most)
    per_kv, per_kv_mixed, per_work = attention(problem["law"], "law")
    prompt = max(size[0] for size in sizes)
    time = full + batch * (max(per_kv, per_kv_mixed) * most + per_work * prompt)
    arrivals = time * sum((rate * mean for rate, mean, *_ in read), ZERO)
    variance = time * sum((rate * square for rate, _, square, _ in read), ZERO)
    drift = batch - arrivals
    require(drift > 0, f"a full batch removes {batch} tokens while {arrivals} arrive")
    foster = table(
        body["foster"],
        "foster",
        ("batch_time", "level", "arrivals", "variance", "drift", "mean_backlog", "return"),
    )
    back = table(foster["return"], "return", ("above", "seconds_per_token"))
    true = {
        "batch_time": time,
        "arrivals": arrivals,
        "variance": variance,
        "drift": drift,
        "mean_backlog": level + 2 * arrivals + variance / (2 * drift),
    }
    stated = rationals({k: foster[k] for k in true}, "foster")
    for name, value in true.items():
        require(stated[name] == value, f"{name} is {value}, not {stated[name]}")
    require(whole(foster["level"], "level") == level, f"the level is {level}")
    above = max(0, level + 1 - batch)
    require(whole(back["above"], "above") == above, f"the return ends above {above} tokens")
    slope = rational(back["seconds_per_token"], "seconds_per_token")
    require(slope == time / drift, f"the return takes {time / drift} s for each token, not {slope}")
    load = rational(body["load"], "load")
    require(load == arrivals / batch, f"the load is {arrivals / batch}, not {load}")
    return f"load {load}, drift -{drift} tokens per full batch above {level} tokens"


def check_slack(pool: Pool, raw: Any, rates: list[Fraction]) -> Fraction:
    """Return by how much batches in all engine time exceed every rate."""
    served, used = [ZERO] * len(rates), ZERO
    for value in items(raw, "batches"):
        run = table(value, "batch", ("tokens", "rate"))
        tokens = [whole(x, "batch") for x in items(run["tokens"], "batch")]
        require(pool.allows(tokens), f"no batch {tokens}")
        rate = rational(run["rate"], "rate of a batch")
        used += rate * pool.time(sum(tokens))
        served = [have + rate * x for have, x in zip(served, tokens, strict=True)]
    require(used <= 1, f"the batches take {used} of the time")
    return min(have - rate for have, rate in zip(served, rates, strict=True))


def check_maxweight(body: dict[str, Any]) -> str:
    """Check the bound of the mean backlog under MaxWeight (C6)."""
    problem = table(body["problem"], "problem", ("law", "batches", "arrivals"))
    alone = {"engines": 1, "limits": {}, "needs": {}, "rules": None}
    pool = Pool("engine", {**alone, "law": problem["law"], "batches": problem["batches"]})
    require(pool.buffers != [] and pool.kind == "knapsack", "batches: expected a knapsack")
    require(not any(pool.attention), "attention time depends on more than tokens")
    raw = table(problem["arrivals"], "arrivals", pool.buffers)
    read = [moments(table(raw[b], b, MOMENTS), f"arrivals of {b}") for b in pool.buffers]
    rates = [rate * mean for rate, mean, _ in read]
    stated = table(
        body["maxweight"],
        "maxweight",
        ("batches", "slack", "second_moment", "at_decisions", "backlog"),
    )
    slack = check_slack(pool, stated["batches"], rates)
    require(slack > 0, "the batches leave no slack")
    squares = sum((rate * rate for rate in rates), ZERO)
    worst, longest = ZERO, ZERO
    for batch in pool.every():
        if any(batch):
            time = pool.time(sum(batch))
            worst = max(worst, sum(x * x for x in batch) / time + time * squares)
            longest = max(longest, time)
    second = worst + sum((rate * square for rate, _, square in read), ZERO)
    true = {
        "slack": slack,
        "second_moment": second,
        "at_decisions": second / (2 * slack),
        "backlog": second / (2 * slack) + longest * sum(rates, ZERO) / 2,
    }
    for name, value in rationals({k: stated[k] for k in true}, "maxweight").items():
        require(value == true[name], f"{name} is {true[name]}, not {value}")
    return f"slack {slack}, mean backlog at most {true['backlog']} tokens"
