"""The checker alone on chains, tiles, networks, fluid paths and drifts: every condition refuses.

Certificates are made here by formulas of this file; nothing of llmq is imported (faults F).
"""

from __future__ import annotations

import itertools
import json
import random
from fractions import Fraction as F
from math import ceil, gcd
from pathlib import Path
from typing import Any

import pytest

from proofs import check, check_drift
from proofs.check_reading import Rejected
from tests.unit.proofs.certificates import (
    changed,
    law,
    random_law,
    ratio,
    refused,
    said,
    sealed,
    seconds_of,
)

SHIPPED = Path(check.__file__).parent / "certificates"
Refusals = list[tuple[tuple[Any, ...], Any, str]]


def shipped(name: str) -> dict[str, Any]:
    body: dict[str, Any] = json.loads((SHIPPED / f"{name}.json").read_text(encoding="utf-8"))
    return body


def without(body: dict[str, Any], *path: Any) -> dict[str, Any]:
    """Drop one entry and seal again."""
    place = body
    for key in path[:-1]:
        place = place[key]
    return changed(body, *path[:-1], value={k: v for k, v in place.items() if k != path[-1]})


# Finite chains (C7). -----------------------------------------------------------------------------


def chain(rows: list[dict[int, F]], pi: list[F], **functions: list[F]) -> dict[str, Any]:
    problem = {
        "rows": [{str(j): ratio(p) for j, p in row.items()} for row in rows],
        "functions": {k: list(map(ratio, v)) for k, v in functions.items()},
    }
    means = {
        k: ratio(sum((p * x for p, x in zip(pi, v, strict=True)), F(0)))
        for k, v in functions.items()
    }
    return sealed("finite_chain", problem, stationary=list(map(ratio, pi)), means=means)


def two(p: F = F(1, 3), q: F = F(1, 2)) -> dict[str, Any]:
    """0 to 1 with p, back with q; a third state that leads to 0."""
    law_of = [q / (p + q), p / (p + q), F(0)]
    rows = [{0: 1 - p, 1: p}, {0: q, 1: 1 - q}, {0: F(1)}]
    return chain(rows, law_of, state=[F(0), F(1), F(2)], one=[F(1)] * 3)


def test_f_chains_are_accepted() -> None:
    text = said(two())
    assert "3 states, E[state] = 0.4, E[one] = 1" in text
    assert "1 states" in said(chain([{0: F(1)}], [F(1)], f=[F(3, 2)]))


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("problem", "rows"), [], "no states"),
        (("problem", "rows", 0), {"0": "2/3", "1": "1/4"}, "row 0 sums to 11/12, not 1"),
        (("problem", "rows", 0), {"0": "2/3", "1": "1/2"}, "row 0 sums to 7/6, not 1"),
        (("problem", "rows", 2), {"3": "1/1"}, "row 2: there are 3 states, no 3"),
        (("problem", "rows", 2), {"00": "1/1"}, "row 2: '00' is no state"),
        (("problem", "rows", 2), {"x": "1/1"}, "row 2: 'x' is no state"),
        (("problem", "rows", 2), {"-1": "1/1"}, "row 2: '-1' is no state"),
        (("problem", "rows", 2), {"\u0660": "1/1"}, "is no state"),
        (("problem", "rows", 2), {"0": "1/1", "1": "0/1"}, "a probability of 0 is left out"),
        (("problem", "rows", 2), {"2": "1/1"}, "state 2 never leads to state 0"),
        (("problem", "rows", 2), [1], "expected an object"),
        (("problem", "functions", "state"), ["0/1", "1/1"], "2 values for 3 states"),
        (("problem", "functions", "state", 1), "2/1", "the mean of state is 4/5, not 2/5"),
        (("problem", "functions"), [], "expected an object"),
        (("problem", "more"), 1, "unknown 'more'"),
        (("stationary",), ["3/5", "2/5"], "2 values for 3 states"),
        (("stationary",), ["3/5", "2/5", "1/5"], "the law sums to 6/5, not 1"),
        (("stationary",), ["0/1", "0/1", "0/1"], "the law sums to 0, not 1"),
        (("stationary",), ["2/5", "3/5", "0/1"], "state 0 has 2/5, but 17/30 one step later"),
        (("stationary",), ["3/5", "1/5", "1/5"], "one step later"),
        (("stationary",), "x", "expected a list"),
        (("means", "state"), "1/2", "the mean of state is 2/5, not 1/2"),
        (("means", "one"), "1/2", "the mean of one is 1, not 1/2"),
        (("means", "more"), "1/2", "unknown 'more'"),
        (("more",), 1, "unknown 'more'"),
    ],
)
def test_f_every_condition_of_chains_refuses(path: Any, value: Any, words: str) -> None:
    assert words in refused(changed(two(), *path, value=value))


def test_f_a_chain_of_two_classes_has_more_than_one_law() -> None:
    rows = [{0: F(1)}, {1: F(1)}]
    assert "state 1 never leads to state 0" in refused(chain(rows, [F(1, 2), F(1, 2)]))
    assert "state 0 never leads to state 1" in refused(chain(rows, [F(0), F(1)]))
    # All states behind one another, each of which leads on only.
    line = [{max(0, i - 1): F(1)} for i in range(5)]
    assert "5 states" in said(chain(line, [F(1), *[F(0)] * 4]))
    for part in ("rows", "functions"):
        assert f"'{part}' is missing" in refused(without(two(), "problem", part))


# Tiles (C8). -------------------------------------------------------------------------------------


def tiles(time: dict[str, Any], budget: int, best: int | None = None) -> dict[str, Any]:
    parts: dict[str, Any] = {"full": {"rate": ratio(budget / seconds_of(time, budget))}}
    if best:
        parts["best"] = {"batch": best, "rate": ratio(best / seconds_of(time, best))}
    claim = "tile_counterexample" if best else "tile_inequality"
    return sealed(claim, {"law": time, "token_budget": budget}, **parts)


def test_f_tiles_say_which_batch_is_best() -> None:
    """Against every batch size of random laws."""
    draw, found = random.Random(8), [0, 0]
    for _ in range(90):
        time, budget = random_law(draw), draw.randint(1, 14)
        if seconds_of(time, 1) == 0:
            assert "takes no time" in refused(tiles(time, budget))
            continue
        rates = {n: n / seconds_of(time, n) for n in range(1, budget + 1)}
        best = min(n for n in rates if rates[n] == max(rates.values()))
        good = rates[best] == rates[budget]
        found[good] += 1
        assert (
            (
                f"rate {rates[budget]} tokens per second of {budget} tokens"
                in said(tiles(time, budget))
            )
            if good
            else ("higher rate" in refused(tiles(time, budget)))
        )
        for n in range(1, budget + 2):
            body = tiles(time, budget, n)
            if n == best and not good:
                assert f"{n} tokens have {rates[n]} tokens per second, {budget} only" in said(body)
            else:
                assert refused(body)
    assert min(found) > 20


def test_f_every_condition_of_tiles_refuses() -> None:
    time = law("tiled", base=2, per_tile=10, tile=64)
    body = tiles(time, 100, 64)
    assert "64 tokens have 16/3 tokens per second, 100 only 50/11" in said(body)
    for path, value, words in (
        (("full", "rate"), "5/1", "a full batch has 50/11, not 5"),
        (("best", "rate"), "5/1", "64 tokens have 16/3, not 5"),
        (("best", "rate"), "17/3", "64 tokens have 16/3, not 17/3"),
        (("best", "batch"), 0, "below 1"),
        (("best", "batch"), 100, "100 tokens are not fewer than the budget of 100"),
        (("best", "more"), 1, "unknown 'more'"),
        (("full", "more"), 1, "unknown 'more'"),
        (("problem", "more"), 1, "unknown 'more'"),
        (("problem", "token_budget"), 0, "below 1"),
        (("problem", "law", "per_kv"), "1/1", "attention time depends on more than tokens"),
        (("problem", "law", "per_kv_mixed"), "1/1", "attention time depends on more"),
        (("problem", "law", "per_work"), "1/1", "attention time depends on more"),
    ):
        assert words in refused(changed(body, *path, value=value))
    # One token is a batch too.
    first = law("table", tokens=[1, 2], seconds=["1/1", "4/1"])
    assert "a batch of 1 tokens has a higher rate" in refused(tiles(first, 2))
    second = law("table", tokens=[1, 2, 3], seconds=["1/1", "2/1", "9/1"])
    assert "a batch of 1 tokens has the same rate" in refused(tiles(second, 3, 2))
    # The same rate as a full batch is not higher; of two best ones it is the smaller.
    flat = law(per_token=1)
    assert "have no higher rate" in refused(tiles(flat, 9, 4))
    steps = law("table", tokens=[1, 2, 3, 4, 5], seconds=["2/1", "2/1", "4/1", "4/1", "6/1"])
    assert "not the smallest" in refused(tiles(steps, 5, 4))
    assert "2 tokens have 1" in said(tiles(steps, 5, 2))
    assert "has a higher rate than one of 3" in refused(
        tiles(law("table", tokens=[1, 2, 3, 4], seconds=["2/1", "2/1", "7/2", "8/1"]), 4, 3)
    )


# Networks (C5). ----------------------------------------------------------------------------------


def test_f_networks_are_checked_on_every_mix_of_services() -> None:
    """Weights at random; the drift by trying all services of both stations."""
    draw, found = random.Random(2), [0, 0]
    for _ in range(200):
        n = draw.randint(2, 4)
        names, stations = "abcd"[:n], ["s", "t"]
        classes = {
            k: {
                "station": stations[i] if i < 2 else draw.choice(stations),
                "service": ratio(F(draw.randint(1, 3), 8)),
                "next": draw.choice([None, *names[i + 1 :]]),
                "arrivals": ratio(draw.randint(0, 1)),
            }
            for i, k in enumerate(names)
        }
        h = {i: {k: F(draw.randint(1, 3), 24) for k in names} for i in stations}
        for k in names:
            mine = classes[k]["station"]
            other = "t" if mine == "s" else "s"
            if draw.random() < 0.9:
                h[other][k] = min(h[other][k], h[mine][k])
        drifts, fits = [], True
        for i, j in (("s", "t"), ("t", "s")):
            at = {x: [k for k in names if classes[k]["station"] == x] for x in stations}
            fits &= all(h[i][k] <= h[j][k] for k in at[j])
            for served in itertools.product(at[i], [None, *at[j]]):
                change = {k: F(classes[k]["arrivals"]) for k in names}
                for k in filter(None, served):
                    change[k] -= 1 / F(classes[k]["service"])
                    if (after := classes[k]["next"]) is not None:
                        change[after] += 1 / F(classes[k]["service"])
                drifts.append(sum((h[i][k] * change[k] for k in names), F(0)))
        epsilon = -max(drifts)
        proof = {
            "epsilon": ratio(abs(epsilon)),
            "weights": {i: {k: ratio(v) for k, v in row.items()} for i, row in h.items()},
        }
        body = sealed("pl_lyapunov", {"stations": stations, "classes": classes}, lyapunov=proof)
        good = fits and epsilon > 0
        found[good] += 1
        if good:
            assert f"epsilon {epsilon}" in said(body)
            for value in (epsilon * F(9, 10), epsilon * F(11, 10)):
                assert refused(changed(body, "lyapunov", "epsilon", value=ratio(value)))
        else:
            assert refused(body)
    assert min(found) > 10


A15 = "o15-agents-a"


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("problem", "stations"), ["s1"], "expected two names"),
        (("problem", "stations"), ["s1", "s2", "s3"], "expected two names"),
        (("problem", "stations"), ["s1", "s1"], "expected two names"),
        (("problem", "stations"), ["s1", "s2", 3], "stations: expected names"),
        (("problem", "stations"), "s1", "expected a list"),
        (("problem", "classes", "0", "station"), "s3", "class 0: no station 's3'"),
        (("problem", "classes", "0", "next"), "9", "class 0: no next class '9'"),
        (("problem", "classes", "0", "next"), "0", "class 0: requests never leave"),
        (("problem", "classes", "1", "next"), "0", "requests never leave"),
        (("problem", "classes", "0", "service"), "0/1", "class 0: a service takes no time"),
        (("problem", "classes", "0", "arrivals"), "2/1", "the function may change by"),
        (("problem", "classes", "0", "more"), 1, "unknown 'more'"),
        (("problem", "more"), 1, "unknown 'more'"),
        (("problem", "classes", "0", "station"), "s2", "the function may change by"),
        (("lyapunov", "epsilon"), "0/1", "epsilon is 0"),
        (("lyapunov", "epsilon"), "1/13", "epsilon is 1/12, not 1/13"),
        (("lyapunov", "epsilon"), "1/11", "the function may change by -1/12, not -1/11"),
        (("lyapunov", "more"), 1, "unknown 'more'"),
        (("lyapunov", "weights", "s3"), {}, "unknown 's3'"),
        (("lyapunov", "weights", "s1", "9"), "0/1", "unknown '9'"),
        (("lyapunov", "weights", "s1", "1"), "1/1", "the weights sum to 2, above 1"),
        (("lyapunov", "weights", "s1", "1"), "1/6", "the weights sum to 7/6, above 1"),
        (("lyapunov", "weights", "s1", "0"), "1/7", "class 0 weighs more at s2"),
        (("lyapunov", "weights", "s2", "2"), "1/7", "class 2 weighs more at s1"),
    ],
)
def test_f_every_condition_of_networks_refuses(path: Any, value: Any, words: str) -> None:
    assert "epsilon 1/12" in said(shipped(A15))
    assert words in refused(changed(shipped(A15), *path, value=value))


def test_f_a_network_has_classes_at_both_stations() -> None:
    classes = {"a": {"station": "s", "service": "1/4", "next": None, "arrivals": "1/1"}}
    proof = {"epsilon": "3/2", "weights": {"s": {"a": "1/2"}, "t": {"a": "1/2"}}}
    body = sealed("pl_lyapunov", {"stations": ["s", "t"], "classes": classes}, lyapunov=proof)
    assert "a station without classes" in refused(body)
    classes["b"] = {"station": "t", "service": "1/4", "next": None, "arrivals": "0/1"}
    rows = {"s": {"a": "1/2", "b": "0/1"}, "t": {"a": "0/1", "b": "1/2"}}
    proof = {"epsilon": "3/2", "weights": rows}
    body = sealed("pl_lyapunov", {"stations": ["s", "t"], "classes": classes}, lyapunov=proof)
    # Weights of just 1 are the largest allowed.
    assert "epsilon 3/2" in said(body)


# Fluid paths. ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("fluid", "growth"), "1/1", "growth is 1, not above 1"),
        (("fluid", "growth"), "28/23", "class class 1 ends with 27/23, not 28/23 times 1"),
        (("fluid", "growth"), "26/23", "ends with 27/23, not 26/23 times 1"),
        (("fluid", "start", "class 1"), "0/1", "the path starts empty"),
        (("fluid", "start", "class 2"), "1/1", "ends with"),
        (("fluid", "start", "class 5"), "1/1", "unknown 'class 5'"),
        (("fluid", "times", 0), "0/1", "piece 0 takes no time"),
        (("fluid", "times", 0), "26/8", "not in lowest terms"),
        (("fluid", "times", 0), "13/4", "piece 0 is too long: class class 1 has emptied before"),
        (("fluid", "times", 3), "2/1", "ends with"),
        (("fluid", "times"), [], "class class 1 ends with 1, not 27/23 times 1"),
        (("fluid", "times"), "1/1", "expected a list"),
        (("fluid", "more"), 1, "unknown 'more'"),
        (("problem", "more"), 1, "unknown 'more'"),
        (("problem", "order"), ["class 4", "class 2", "class 1"], "every class once"),
        (("problem", "order", 3), "class 1", "every class once"),
        (("problem", "order", 3), 1, "order: expected names"),
        (("problem", "order"), ["class 1", "class 2", "class 3", "class 4"], ""),
        (("problem", "classes", "class 1", "station"), 1, "a station is a name"),
        (("problem", "classes", "class 1", "next"), "x", "class class 1: no next class 'x'"),
        (("problem", "classes", "class 1", "next"), "class 1", "requests never leave"),
        (("problem", "classes", "class 1", "service"), "0/1", "a service takes no time"),
        (("problem", "classes", "class 1", "arrivals"), "1/5", "has load 1: nothing is proved"),
        (("problem", "classes", "class 1", "arrivals"), "1/4", "has load 5/4: nothing is proved"),
        (("problem", "classes", "class 1", "more"), 1, "unknown 'more'"),
    ],
)
def test_f_every_condition_of_fluid_paths_refuses(path: Any, value: Any, words: str) -> None:
    assert "growth 27/23 in" in said(shipped("fluid-one-type"))
    assert words in refused(changed(shipped("fluid-one-type"), *path, value=value))


def test_f_a_path_is_the_same_in_any_unit_of_time() -> None:
    body = shipped("fluid-one-type")
    for k, one in body["problem"]["classes"].items():
        one["service"], one["arrivals"] = (
            ratio(F(one["service"]) / 10),
            ratio(F(one["arrivals"]) * 10),
        )
        assert k in body["fluid"]["start"]
    times = [ratio(F(t) / 10) for t in body["fluid"]["times"]]
    assert "growth 27/23" in said(changed(body, "fluid", "times", value=times))


def test_f_flows_that_feed_on_each_other_need_not_settle() -> None:
    """Two types of two calls: what leaves the first call of one slows that of the other."""
    calls = (("a", "s", "b", 1), ("b", "t", None, 2), ("c", "t", "d", 1), ("d", "s", None, 2))
    classes = {
        k: {
            "station": at,
            "service": ratio(F(1, n)),
            "next": after,
            "arrivals": ratio(F(after is not None, 4)),
        }
        for k, at, after, n in calls
    }
    fluid = {
        "start": {"a": "1/1", "b": "0/1", "c": "1/1", "d": "0/1"},
        "times": ["1/1"],
        "growth": "2/1",
    }
    problem = {"classes": classes, "order": ["b", "d", "a", "c"]}
    assert "the flows do not settle" in refused(sealed("fluid_cycle", problem, fluid=fluid))


def test_f_a_queue_that_just_empties_is_no_less_than_zero() -> None:
    """The path of two types too; its load is that of the busiest station."""
    text = said(shipped("fluid-two-types"))
    assert "growth" in text
    body = shipped("fluid-one-type")
    for name in body["fluid"]["start"]:
        assert refused(without(body, "fluid", "start", name))


# Drift (C4). -------------------------------------------------------------------------------------


def drifting(
    classes: dict[str, tuple[F, list[int], list[int], bool]],
    *,
    policy: str = "sarathi",
    batch: int = 8,
    chunk: int | None = None,
    lag: int = 0,
    slots: int | None = None,
    memory: tuple[int, int] | None = None,
    time: Any = None,
    lengths: bool = True,
) -> dict[str, Any]:
    """The certificate of a Poisson stream, by its definition."""
    time, chunk = time or law(per_token=1), chunk or batch
    found, rows, worst = {}, [], 0
    for j, (rate, s, o, paired) in classes.items():
        pairs = list(zip(s, o, strict=True)) if paired else list(itertools.product(s, o))
        total = [x + y - 1 + lag for x, y in pairs]
        mean, square = F(sum(total), len(total)), F(sum(v * v for v in total), len(total))
        d = max(o) - 1 + lag
        found[j] = {
            "rate": ratio(rate),
            "tokens": ratio(mean),
            "tokens_squared": ratio(square),
            "prompt_most": max(s),
            "prompt_unit": gcd(*s),
            "decodes_most": d,
            **({"lengths": {"prompt": s, "output": o, "paired": paired}} if lengths else {}),
        }
        rows.append((rate, mean, square, max(s), d))
    s, d = max(r[3] for r in rows), max(r[4] for r in rows)
    # Most tokens left for each token on offer: any part of the prompt, all decodes.
    worst = max([ceil(F(left + d, min(left, chunk))) for left in range(1, s + 1)] + [d])
    level = max((batch - 1) * (d if policy == "rad" else worst), s + d)
    c = {k: F(time[k]) for k in ("per_kv", "per_kv_mixed", "per_work")}
    peak = max(r[3] + r[4] for r in rows)
    t = seconds_of(time, batch) + batch * (
        max(c["per_kv"], c["per_kv_mixed"]) * peak + c["per_work"] * s
    )
    a = t * sum((r[0] * r[1] for r in rows), F(0))
    v = t * sum((r[0] * r[2] for r in rows), F(0))
    e = batch - a
    problem = {
        "policy": policy,
        "law": time,
        "batch": batch,
        "chunk": chunk,
        "slots": slots,
        "memory": memory and {"tokens": memory[0], "block": memory[1]},
        "lag": lag,
        "classes": found,
    }
    safe = e or F(1)
    numbers = {
        "batch_time": t,
        "arrivals": a,
        "variance": v,
        "drift": abs(e),
        "mean_backlog": abs(level + 2 * a + v / (2 * safe)),
    }
    foster = {k: ratio(x) for k, x in numbers.items()} | {
        "level": level,
        "return": {"above": max(0, level + 1 - batch), "seconds_per_token": ratio(abs(t / safe))},
    }
    return sealed("linear_foster", problem, a / batch, foster=foster)


def test_f_drifts_against_their_definition() -> None:
    draw, found = random.Random(4), [0, 0]
    for _ in range(300):
        policy = draw.choice(["sarathi", "sarathi", "rad"])
        batch, lag = draw.randint(1, 9), draw.randint(0, 1)
        chunk = batch if policy == "rad" else draw.randint(1, batch)
        unit = batch if policy == "rad" else draw.randint(1, 3)
        classes = {}
        for j in "ab"[: draw.randint(1, 2)]:
            paired = draw.random() < 0.5
            s = [unit * draw.randint(1, 6) for _ in range(draw.randint(1, 3))]
            o = [draw.randint(1, 9) for _ in range(len(s) if paired else draw.randint(1, 3))]
            classes[j] = F(draw.randint(0, 9), 900), s, o, paired
        numbers = {k: F(draw.randint(0, 2), 64) for k in ("per_kv", "per_kv_mixed", "per_work")}
        time = random_law(draw)
        if draw.random() < 0.4:
            time |= {k: ratio(x) for k, x in numbers.items()}
        if seconds_of(time, 1) == 0:
            continue
        body = drifting(
            classes,
            policy=policy,
            batch=batch,
            chunk=chunk,
            lag=lag,
            time=time,
            lengths=draw.random() < 0.7,
        )
        good = F(body["foster"]["arrivals"]) < batch
        found[good] += 1
        if good:
            above = f"tokens per full batch above {body['foster']['level']} tokens"
            text = said(body)
            assert f"load {F(body['load'])}, drift -{F(body['foster']['drift'])} {above}" in text
        else:
            assert f"a full batch removes {batch} tokens while" in refused(body)
    assert min(found) > 30


ONE = {"x": (F(1, 20), [4, 6], [1, 3], False)}
CLASS = ("problem", "classes", "x")


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("foster", "batch_time"), "9/1", "batch_time is 8, not 9"),
        (("foster", "arrivals"), "9/1", "arrivals is 12/5, not 9"),
        (("foster", "variance"), "9/1", "variance is"),
        (("foster", "drift"), "9/1", "drift is 28/5, not 9"),
        (("foster", "mean_backlog"), "9/1", "mean_backlog is"),
        (("foster", "level"), 9, "the level is"),
        (("foster", "level"), 22, "the level is 21"),
        (("foster", "return", "above"), 9, "the return ends above 14 tokens"),
        (("foster", "return", "seconds_per_token"), "9/1", "the return takes 10/7 s"),
        (("foster", "return", "more"), 1, "unknown 'more'"),
        (("foster", "more"), 1, "unknown 'more'"),
        (("load",), "1/2", "the load is 3/10, not 1/2"),
        (("problem", "more"), 1, "unknown 'more'"),
        (("problem", "lag"), 2, "lag: 0 or 1"),
        (("problem", "lag"), 1, "not the moments and sizes of its lengths"),
        (("problem", "classes"), {}, "no class"),
        (("problem", "policy"), "vllm", "unknown policy 'vllm'"),
        (("problem", "policy"), "rad", "rad: prompts are not multiples of 8 tokens"),
        (("problem", "batch"), 0, "below 1"),
        (("problem", "batch"), 7, "a chunk exceeds the batch"),
        (("problem", "chunk"), 9, "a chunk exceeds the batch"),
        (("problem", "chunk"), 0, "below 1"),
        (("problem", "slots"), 7, "7 slots may bind before a batch of 8 tokens is full"),
        (("problem", "slots"), 0, "below 1"),
        (("problem", "memory"), {"tokens": 80, "block": 0}, "below 1"),
        (("problem", "memory"), {"tokens": 0, "block": 1}, "below 1"),
        (("problem", "memory"), {"tokens": 72, "block": 9}, "no room for 8 requests of 9 tokens"),
        (("problem", "memory"), {"tokens": 80}, "'block' is missing"),
        ((*CLASS, "tokens"), "11/2", "not the moments and sizes"),
        ((*CLASS, "tokens"), "0/1", "no law has these two moments"),
        ((*CLASS, "tokens"), "1/1", "the mean is out of range"),
        ((*CLASS, "tokens_squared"), "35/1", "no law has these two moments"),
        ((*CLASS, "tokens_squared"), "37/1", "not the moments and sizes"),
        ((*CLASS, "tokens_squared"), "49/1", "the second moment is out of range"),
        ((*CLASS, "prompt_most"), 7, "2 does not divide the largest prompt"),
        ((*CLASS, "prompt_most"), 8, "not the moments and sizes"),
        ((*CLASS, "prompt_most"), 2, "the mean is out of range"),
        ((*CLASS, "prompt_most"), 0, "below 1"),
        ((*CLASS, "prompt_unit"), 0, "below 1"),
        ((*CLASS, "prompt_unit"), 1, "not the moments and sizes"),
        ((*CLASS, "decodes_most"), 3, "not the moments and sizes"),
        ((*CLASS, "decodes_most"), -1, "below 0"),
        ((*CLASS, "more"), 3, "unknown 'more'"),
        ((*CLASS, "lengths", "prompt"), [], "no lengths"),
        ((*CLASS, "lengths", "output"), [], "no lengths"),
        ((*CLASS, "lengths", "prompt"), [0, 6], "below 1"),
        ((*CLASS, "lengths", "output"), [0, 3], "below 1"),
        ((*CLASS, "lengths", "paired"), 1, "bad 'paired'"),
        ((*CLASS, "lengths", "paired"), True, "not the moments and sizes"),
        ((*CLASS, "lengths", "more"), True, "unknown 'more'"),
        (
            (*CLASS, "lengths"),
            {"prompt": [4, 6, 6], "output": [1, 3], "paired": True},
            "paired lists of different length",
        ),
    ],
)
def test_f_every_condition_of_drifts_refuses(path: Any, value: Any, words: str) -> None:
    assert "load 3/10" in said(drifting(ONE))
    assert words in refused(changed(drifting(ONE), *path, value=value))


def test_f_what_just_fits_a_drift_is_accepted() -> None:
    """Slots for a batch; one block in a hundred kept free; one token more than the largest."""
    assert "load" in said(drifting(ONE, slots=8))
    # 8 requests of 9 tokens in 8 blocks: 99 of 100 blocks hold them from 9 blocks on.
    assert "load" in said(drifting(ONE, memory=(81, 9)))
    assert "may bind" in refused(drifting(ONE, memory=(80, 9)))
    # In blocks of 8 each takes two.
    assert "load" in said(drifting(ONE, memory=(8 * 17, 8)))
    assert "may bind" in refused(drifting(ONE, memory=(8 * 17 - 1, 8)))
    many = {"x": (F(1, 20000), [4, 6], [1, 3], False)}
    assert "load" in said(drifting(many, batch=99, memory=(900, 9)))
    assert "may bind" in refused(drifting(many, batch=99, memory=(899, 9)))
    # Just critical: nothing is left to drift.
    assert "removes 8 tokens while 8 arrive" in refused(
        drifting({"x": (F(1, 6), [4, 6], [1, 3], False)})
    )
    # Equal lengths: the second moment is the square of the first, the mean is the largest.
    assert "load" in said(drifting({"x": (F(1, 20), [4], [3], True)}))
    assert "load" in said(drifting({"x": (F(1, 20), [4], [1], False)}))
    assert "load" in said(drifting({"x": (F(1, 20), [1], [1], False)}))
    # A chunk of one token; a chunk of a whole batch.
    assert "load" in said(drifting(ONE, chunk=1))
    # Full tiles need chunks of a whole batch, and lengths that are not listed are believed.
    rad = {"x": (F(1, 40), [8, 16], [1, 3], False)}
    assert "load" in said(drifting(rad, policy="rad", lengths=False))
    assert "a chunk is one full batch" in refused(drifting(rad, policy="rad", chunk=4))
    # The prompts of every class are whole tiles.
    for s, good in (([16], True), ([12], False)):
        both = rad | {"y": (F(1, 40), s, [1, 3], False)}
        body = drifting(both, policy="rad")
        assert "load" in said(body) if good else "are not multiples of 8" in refused(body)


def test_f_lists_of_drifts_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_drift, "MOST", 6)
    for s, o, paired, good in (
        ([1] * 2, [1] * 3, False, True),
        ([1] * 7, [1], False, False),
        ([1] * 4, [1] * 3, False, False),
        ([1] * 7, [1] * 7, True, True),
    ):
        raw = {"prompt": s, "output": o, "paired": paired}
        if good:
            assert check_drift.listed(raw, 0, "x")["tokens"] == 1
        else:
            with pytest.raises(Rejected, match="too many lengths"):
                check_drift.listed(raw, 0, "x")


# MaxWeight (C6). ---------------------------------------------------------------------------------


def weighed(
    budget: int,
    steps: list[int],
    rows: list[tuple[list[int], int]],
    arrivals: list[tuple[F, F, F]],
    runs: list[tuple[tuple[int, ...], F]],
    time: Any,
) -> tuple[dict[str, Any], F]:
    names = [f"b{i}" for i in range(len(steps))]
    batches = [
        x
        for x in itertools.product(*(range(0, budget + 1, k) for k in steps))
        if 0 < sum(x) <= budget
        and all(sum(a * v for a, v in zip(w, x, strict=True)) <= c for w, c in rows)
    ]
    rates = [r * m for r, m, _ in arrivals]
    slack = min(sum((u * x[i] for x, u in runs), F(0)) - rate for i, rate in enumerate(rates))
    squares = sum((r * r for r in rates), F(0))
    b = max(
        sum(n * n for n in x) / seconds_of(time, sum(x)) + seconds_of(time, sum(x)) * squares
        for x in batches
    ) + sum((r * q for r, _, q in arrivals), F(0))
    longest = max(seconds_of(time, sum(x)) for x in batches)
    safe = slack or F(1)
    said_of = {
        "slack": ratio(abs(slack)),
        "second_moment": ratio(b),
        "at_decisions": ratio(abs(b / safe / 2)),
        "backlog": ratio(abs(b / safe / 2) + longest * sum(rates, F(0)) / 2),
        "batches": [{"tokens": list(x), "rate": ratio(u)} for x, u in runs],
    }
    problem = {
        "law": time,
        "batches": {
            "kind": "knapsack",
            "token_budget": budget,
            "buffers": names,
            "steps": steps,
            "rows": [{"weights": w, "capacity": c} for w, c in rows],
        },
        "arrivals": {
            n: {"rate": ratio(r), "tokens": ratio(m), "tokens_squared": ratio(q)}
            for n, (r, m, q) in zip(names, arrivals, strict=True)
        },
    }
    return sealed("quadratic_maxweight", problem, maxweight=said_of), slack


def test_f_maxweight_against_its_definition() -> None:
    draw, found = random.Random(6), [0, 0]
    for _ in range(200):
        n, budget = draw.randint(1, 3), draw.randint(3, 7)
        steps = [draw.randint(1, 2) for _ in range(n)]
        rows = [([draw.randint(0, 2) for _ in range(n)], draw.randint(6, 9))]
        time = random_law(draw)
        if seconds_of(time, 1) == 0:
            continue
        arrivals = [
            (F(draw.randint(0, 4), 900), F(m := draw.randint(1, 4)), F(m * m + draw.randint(0, 3)))
            for _ in range(n)
        ]
        runs = []
        for i, k in enumerate(steps):
            x = tuple(k if j == i else 0 for j in range(n))
            fits = all(sum(a * v for a, v in zip(w, x, strict=True)) <= c for w, c in rows)
            assert fits
            runs.append((x, draw.choice([F(1), F(1), F(1, 2)]) / n / seconds_of(time, k)))
        body, slack = weighed(budget, steps, rows, arrivals, runs, time)
        found[slack > 0] += 1
        if slack > 0:
            assert f"slack {slack}, mean backlog at most {F(body['maxweight']['backlog'])}" in said(
                body
            )
        else:
            assert "leave no slack" in refused(body)
    assert min(found) > 10


def weight() -> dict[str, Any]:
    half = [((2, 0), F(1, 4)), ((0, 2), F(1, 4))]
    arrivals = [(F(1, 8), F(2), F(4)), (F(1, 8), F(2), F(5))]
    return weighed(3, [1, 2], [([1, 2], 4)], arrivals, half, law(per_token=1))[0]


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("maxweight", "slack"), "1/3", "slack is 1/4, not 1/3"),
        (("maxweight", "second_moment"), "1/3", "second_moment is"),
        (("maxweight", "at_decisions"), "1/3", "at_decisions is"),
        (("maxweight", "backlog"), "1/3", "backlog is"),
        (("maxweight", "more"), "1/3", "unknown 'more'"),
        (("maxweight", "batches"), [], "leave no slack"),
        (("maxweight", "batches", 0, "rate"), "1/8", "leave no slack"),
        (("maxweight", "batches", 0, "rate"), "1/3", "the batches take 7/6 of the time"),
        (("maxweight", "batches", 0, "tokens"), [4, 0], "no batch [4, 0]"),
        (("maxweight", "batches", 0, "tokens"), [0, 1], "no batch [0, 1]"),
        (("maxweight", "batches", 0, "tokens"), [0, 0], "no batch [0, 0]"),
        (("maxweight", "batches", 0, "more"), 1, "unknown 'more'"),
        (("problem", "more"), 1, "unknown 'more'"),
        (("problem", "batches"), None, "a link has no law or limit"),
        (
            ("problem", "batches"),
            {"kind": "two_phase", "token_budget": 3, "slots": None},
            "expected a knapsack",
        ),
        (("problem", "law", "per_kv"), "1/1", "attention time depends on more than tokens"),
        (("problem", "law", "per_work"), "1/1", "attention time depends on more than tokens"),
        (("problem", "arrivals", "b2"), {}, "unknown 'b2'"),
        (("problem", "arrivals", "b0", "more"), 1, "unknown 'more'"),
        (("problem", "arrivals", "b0", "tokens"), "0/1", "no law has these two moments"),
        (("problem", "arrivals", "b0", "tokens_squared"), "3/1", "no law has these two moments"),
        (("problem", "arrivals", "b0", "rate"), "1/7", "is"),
    ],
)
def test_f_every_condition_of_maxweight_refuses(path: Any, value: Any, words: str) -> None:
    assert "slack 1/4" in said(weight())
    assert words in refused(changed(weight(), *path, value=value))
