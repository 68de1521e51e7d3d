r"""C7 and C8: finite chains, and the best batch of one engine.

``finite_chain`` (C7): rows of transition probabilities, a vector ``pi`` and functions of the state.
Rows and ``pi`` sum to 1, ``pi P = pi``, and one state with ``pi > 0`` is reached from every state:
there is only one closed class, so ``pi`` is the only stationary law. Means are ``sum pi f``.

``tile_inequality`` (C8): a full batch of ``b`` tokens has the highest token rate, ``n t(b) <= b
t(n)`` for every whole ``n`` up to ``b``. With ``t = c + a ceil(n / tile)`` and ``b = K tile`` this
is ``n (c + a K) <= K tile (c + a ceil(n / tile))``. ``tile_counterexample``: it has not; the best
batch is the smallest with the highest rate. Both by the bends of the law: ``t`` is straight between
them, so it is below a line somewhere if it is there.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from proofs.check_reading import (
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


def read_rows(raw: Any) -> list[dict[int, Fraction]]:
    """Read the positive entries of a transition matrix."""
    found: list[dict[int, Fraction]] = []
    count = len(items(raw, "rows"))
    require(count > 0, "no states")
    for i, value in enumerate(raw):
        row = {}
        for name, p in rationals(value, f"row {i}").items():
            require(name.isdecimal() and name == str(int(name)), f"row {i}: {name!r} is no state")
            require(int(name) < count, f"row {i}: there are {count} states, no {name}")
            require(p > 0, f"row {i}: a probability of 0 is left out")
            row[int(name)] = p
        require(sum(row.values()) == 1, f"row {i} sums to {sum(row.values())}, not 1")
        found.append(row)
    return found


def check_one_class(rows: list[dict[int, Fraction]], goal: int) -> None:
    """Check that every state leads to one state."""
    before: list[list[int]] = [[] for _ in rows]
    for i, row in enumerate(rows):
        for j in row:
            before[j].append(i)
    reached, new = {goal}, [goal]
    while new:
        for i in before[new.pop()]:
            if i not in reached:
                reached.add(i)
                new.append(i)
    far = sorted(set(range(len(rows))) - reached)
    require(not far, f"state {(far or [0])[0]} never leads to state {goal}: other laws may exist")


def vector(raw: Any, count: int, what: str) -> list[Fraction]:
    """Read one rational for each state."""
    values = [rational(v, f"{what}, {i}") for i, v in enumerate(items(raw, what))]
    require(len(values) == count, f"{what}: {len(values)} values for {count} states")
    return values


def check_chain(body: dict[str, Any]) -> str:
    """Check the stationary law of a finite chain and means under it."""
    problem = table(body["problem"], "problem", ("rows", "functions"))
    rows = read_rows(problem["rows"])
    functions = table(problem["functions"], "functions")
    pi = vector(body["stationary"], len(rows), "stationary")
    require(sum(pi) == 1, f"the law sums to {sum(pi)}, not 1")
    after = [ZERO] * len(rows)
    for p, row in zip(pi, rows, strict=True):
        for j, q in row.items():
            after[j] += p * q
    for j, (was, now) in enumerate(zip(pi, after, strict=True)):
        require(was == now, f"state {j} has {was}, but {now} one step later")
    check_one_class(rows, pi.index(max(pi)))
    means = rationals(body["means"], "means", functions)
    for name, raw in functions.items():
        values = vector(raw, len(rows), f"function {name}")
        mean = sum((p * v for p, v in zip(pi, values, strict=True)), ZERO)
        require(mean == means[name], f"the mean of {name} is {mean}, not {means[name]}")
    return f"{len(rows)} states, " + ", ".join(f"E[{k}] = {float(v):.9g}" for k, v in means.items())


def check_tiles(body: dict[str, Any]) -> str:
    """Check whether a full batch has the highest token rate."""
    problem = table(body["problem"], "problem", ("law", "token_budget"))
    budget = whole(problem["token_budget"], "token_budget", 1)
    time = read_law(problem["law"], "law")
    require(not any(attention(problem["law"], "law")), "attention time depends on more than tokens")
    full, most = table(body["full"], "full", ("rate",)), time(budget)
    rate = rational(full["rate"], "rate of a full batch")
    require(rate * most == budget, f"a full batch has {budget / most}, not {rate}")
    if body["claim"] == "tile_inequality":
        for n in time.bends(1, budget):
            better = n * most > budget * time(n)
            require(not better, f"a batch of {n} tokens has a higher rate than a full one")
        return f"rate {rate} tokens per second of {budget} tokens"
    best = table(body["best"], "best", ("batch", "rate"))
    batch, top = whole(best["batch"], "batch", 1), rational(best["rate"], "rate of the best batch")
    require(batch < budget, f"{batch} tokens are not fewer than the budget of {budget}")
    require(top * time(batch) == batch, f"{batch} tokens have {batch / time(batch)}, not {top}")
    require(top > rate, f"{batch} tokens have no higher rate than {budget}")
    # Smaller batches on their own: at one of their bends they gain the most.
    for n in (*time.bends(1, batch - 1), *time.bends(batch, budget)):
        gain = n * time(batch) - batch * time(n)
        require(gain <= 0, f"a batch of {n} tokens has a higher rate than one of {batch}")
        smallest = gain < 0 or n >= batch
        require(smallest, f"a batch of {n} tokens has the same rate: not the smallest")
    return f"{batch} tokens have {top} tokens per second, {budget} only {rate}"
