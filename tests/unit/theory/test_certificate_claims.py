"""Certificates C4-C8: random true ones are accepted, every mutation is rejected or still true.

Mutations change a number, a text or a key, drop or repeat an entry, with the old seal (always
rejected) and with a new digest and seal (rejected, or true by a computation that shares nothing
with the checker).
"""

from __future__ import annotations

import copy
import importlib.util
import itertools
import json
import math
import random
import re
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction as F
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import llmq
from llmq.errors import InputError, UnstableError
from llmq.model.conventions import ENGINE, THEORY
from llmq.model.engine import Engine
from llmq.model.lengths import Lengths
from llmq.model.request import RequestClass
from llmq.model.time.batchtime import BatchTime
from llmq.theory.chains._stationary import stationary
from llmq.theory.planning_lp._configurations import Knapsack
from llmq.theory.region._certificate_record import Certificate, canonical_digest
from llmq.theory.stability.drift import constants, maxweight
from llmq.theory.stability.finite import certify_chain, certify_network, certify_tiles

PROOFS = Path(llmq.__file__).parent.parent / "proofs"
NEW = (
    "linear_foster",
    "pl_lyapunov",
    "quadratic_maxweight",
    "finite_chain",
    "tile_inequality",
    "tile_counterexample",
)
SHIPPED = {
    path.stem: body
    for path in sorted((PROOFS / "certificates").glob("*.json"))
    if (body := json.loads(path.read_text(encoding="utf-8")))["claim"] in NEW
}
FEW = settings(max_examples=150, deadline=None)
MANY = settings(max_examples=1000, deadline=None)


def load_checker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("checker", PROOFS / "check.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


CHECK = load_checker()


def rejection(body: object) -> str:
    """Why the checker rejects; empty if it accepts."""
    try:
        CHECK.check(json.dumps(body))
    except CHECK.Rejected as error:
        return str(error)
    except Exception as error:
        return repr(error)
    return ""


def sealed(body: dict[str, Any]) -> dict[str, Any]:
    """The body with a fresh digest and seal: a careful forger."""
    fresh = {key: value for key, value in body.items() if key != "seal"}
    if "problem" in fresh:
        fresh["digest"] = canonical_digest(fresh["problem"])
    return {**fresh, "seal": canonical_digest(fresh)}


def changed(body: dict[str, Any], path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    copied = copy.deepcopy(body)
    place: Any = copied
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return copied


# Is it true? By formulas and loops of this file, or by making the certificate again.


def law_of(raw: dict[str, Any]) -> BatchTime:
    numbers = {k: float(F(v)) for k, v in raw.items() if isinstance(v, str) and k != "form"}
    times = tuple(float(F(t)) for t in raw["seconds"])
    return BatchTime(
        raw["form"], tile=raw["tile"], tokens=tuple(raw["tokens"]), seconds=times, **numbers
    )


def time_of(raw: dict[str, Any], n: int) -> F:
    """Seconds of n tokens, from the formulas of the model's documentation."""
    c = {k: F(v) for k, v in raw.items() if isinstance(v, str) and k != "form"}
    tiles = math.ceil(F(n, raw["tile"]))
    if raw["form"] == "tiled":
        return c["base"] + c["per_tile"] * tiles + c["per_token"] * n
    if raw["form"] == "table":
        points = list(zip(raw["tokens"], map(F, raw["seconds"]), strict=True))
        below = [p for p in points if p[0] <= n]
        if not below:
            return points[0][1]
        i = min(len(below) - 1, len(points) - 2)
        (x, y), (u, v) = points[i : i + 2]
        return y + (v - y) * F(n - x, u - x)
    compute = c["base"] + c["per_token"] * tiles * raw["tile"]
    return (
        max(compute, c["floor"] + c["floor_per_token"] * n)
        if raw["form"] == "roofline"
        else (compute)
    )


def foster_is_true(body: dict[str, Any]) -> bool:
    p, said = body["problem"], body["foster"]
    b, rad = p["batch"], p["policy"] == "rad"
    t = time_of(p["law"], b)
    mean = square = F(0)
    s_most = d_most = peak = 0
    for one in p["classes"].values():
        sizes = one["prompt_most"], one["decodes_most"]
        moments = F(one["tokens"]), F(one["tokens_squared"])
        if "lengths" in one:
            s, o = one["lengths"]["prompt"], one["lengths"]["output"]
            pairs = list(
                zip(s, o, strict=True) if one["lengths"]["paired"] else itertools.product(s, o)
            )
            total = [x + y - 1 + p["lag"] for x, y in pairs]
            moments = F(sum(total), len(total)), F(sum(v * v for v in total), len(total))
            sizes = max(s), max(o) - 1 + p["lag"]
            if (one["prompt_most"], one["decodes_most"]) != sizes:
                return False
            if rad and any(x % b for x in s):
                return False
        if (F(one["tokens"]), F(one["tokens_squared"])) != moments:
            return False
        mean += F(one["rate"]) * moments[0]
        square += F(one["rate"]) * moments[1]
        s_most, d_most = max(s_most, sizes[0]), max(d_most, sizes[1])
        peak = max(peak, sum(sizes))
    cost = {k: F(p["law"][k]) for k in ("per_kv", "per_kv_mixed", "per_work")}
    rows = max(cost["per_kv"], cost["per_kv_mixed"]) * peak
    t += b * (rows + cost["per_work"] * s_most)
    # Most tokens that a request has left for each token it offers, by trying every state.
    chunk = p["chunk"]
    worst = max([F(left + d_most, min(left, chunk)) for left in range(1, s_most + 1)] + [F(d_most)])
    level = (b - 1) * (d_most if rad else math.ceil(worst))
    level = max(level, s_most + d_most)
    drift = b - t * mean
    room = p["memory"] is None or p["memory"]["tokens"] // p["memory"]["block"] >= F(100, 99) * (
        b * math.ceil(F(peak + 1, p["memory"]["block"]))
    )
    return (
        drift > 0
        and room
        and (p["slots"] is None or p["slots"] >= b)
        and F(body["load"]) == t * mean / b
        and F(said["drift"]) == drift
        and F(said["batch_time"]) == t
        and said["level"] == level
        and F(said["arrivals"]) == t * mean
        and F(said["variance"]) == t * square
        and F(said["mean_backlog"]) == level + 2 * t * mean + t * square / (2 * drift)
        and said["return"]["above"] == max(0, level + 1 - b)
        and F(said["return"]["seconds_per_token"]) == t / drift
    )


def network_is_true(body: dict[str, Any]) -> bool:
    """Every allocation of both stations, by the drift of the queues."""
    p, h = body["problem"], body["lyapunov"]["weights"]
    classes, epsilon = p["classes"], F(body["lyapunov"]["epsilon"])
    drifts = []
    for i in p["stations"]:
        (j,) = set(p["stations"]) - {i}
        mine = [k for k in classes if classes[k]["station"] == i]
        others = [k for k in classes if classes[k]["station"] == j]
        for served in itertools.product(mine, [None, *others]):
            change = {k: F(classes[k]["arrivals"]) for k in classes}
            for k in filter(None, served):
                change[k] -= 1 / F(classes[k]["service"])
                if (after := classes[k]["next"]) is not None:
                    change[after] += 1 / F(classes[k]["service"])
            drifts.append(sum(F(h[i][k]) * change[k] for k in classes))
        if any(F(h[i][k]) > F(h[j][k]) for k in others):
            return False
    total = sum(F(w) for row in h.values() for w in row.values())
    return max(drifts) == -epsilon < 0 and total <= 1


def maxweight_is_true(body: dict[str, Any]) -> bool:
    p, said = body["problem"], body["maxweight"]
    kind, law = p["batches"], p["law"]
    grids = [range(0, kind["token_budget"] + 1, step) for step in kind["steps"]]
    batches = {
        x: time_of(law, sum(x))
        for x in itertools.product(*grids)
        if 0 < sum(x) <= kind["token_budget"]
        and all(sum(map(int.__mul__, row["weights"], x)) <= row["capacity"] for row in kind["rows"])
    }
    streams = [p["arrivals"][name] for name in kind["buffers"]]
    rates = [F(one["rate"]) * F(one["tokens"]) for one in streams]
    runs = [(tuple(run["tokens"]), F(run["rate"])) for run in said["batches"]]
    if any(x not in batches for x, _ in runs) or sum(u * batches[x] for x, u in runs) > 1:
        return False
    slack = min(sum(u * x[i] for x, u in runs) - rate for i, rate in enumerate(rates))
    b = max(sum(n * n for n in x) / t + t * sum(r * r for r in rates) for x, t in batches.items())
    b += sum(F(one["rate"]) * F(one["tokens_squared"]) for one in streams)
    more = max(batches.values()) * sum(rates) / 2
    return (
        slack > 0
        and F(said["slack"]) == slack
        and F(said["second_moment"]) == b
        and F(said["at_decisions"]) == b / slack / 2
        and F(said["backlog"]) == b / slack / 2 + more
    )


def chain_is_true(body: dict[str, Any]) -> bool:
    rows = [{int(j): F(p) for j, p in row.items()} for row in body["problem"]["rows"]]
    try:
        law = stationary(rows)
    except InputError:
        return False
    means = {k: law.mean([F(v) for v in vs]) for k, vs in body["problem"]["functions"].items()}
    return (
        tuple(map(F, body["stationary"])) == law.probabilities
        and {k: F(v) for k, v in body["means"].items()} == means
    )


def tiles_are_true(body: dict[str, Any]) -> bool:
    law, budget = body["problem"]["law"], body["problem"]["token_budget"]
    rate = {n: n / time_of(law, n) for n in range(1, budget + 1)}
    best = max(rate.values())
    if F(body["full"]["rate"]) != rate[budget]:
        return False
    if body["claim"] == "tile_inequality":
        return best == rate[budget]
    first = min(n for n in rate if rate[n] == best)
    return (body["best"]["batch"], F(body["best"]["rate"])) == (first, best) and best > rate[budget]


TRUTH = {
    "linear_foster": foster_is_true,
    "pl_lyapunov": network_is_true,
    "quadratic_maxweight": maxweight_is_true,
    "finite_chain": chain_is_true,
    "tile_inequality": tiles_are_true,
    "tile_counterexample": tiles_are_true,
}


def is_true(body: dict[str, Any]) -> bool:
    return TRUTH[body["claim"]](body)


# Random certificates.

sixteenths = st.integers(0, 40).map(lambda n: n / 16)
positive = st.integers(1, 40).map(lambda n: n / 16)


@st.composite
def laws(draw: st.DrawFn) -> BatchTime:
    form = draw(st.sampled_from(["affine", "tiled", "roofline", "table"]))
    if form == "affine":
        return BatchTime.affine(base=draw(sixteenths), per_token=draw(positive))
    if form == "tiled":
        return BatchTime.tiled(
            base=draw(sixteenths),
            per_tile=draw(positive),
            tile=draw(st.integers(1, 9)),
            per_token=draw(sixteenths),
        )
    if form == "roofline":
        return BatchTime.roofline(
            floor=draw(positive),
            base=draw(sixteenths),
            per_token=draw(sixteenths),
            tile=draw(st.sampled_from([1, 4])),
        )
    tokens = sorted(draw(st.sets(st.integers(1, 40), min_size=2, max_size=6)))
    seconds = sorted(draw(st.lists(positive, min_size=len(tokens), max_size=len(tokens))))
    return BatchTime.table(tokens=tokens, seconds=seconds)


def lengths(least: int, unit: int = 1) -> st.SearchStrategy[Lengths]:
    size = st.integers(least, 12).map(lambda n: n * unit)
    return size.map(Lengths.fixed) | st.lists(size, min_size=2, max_size=3).map(Lengths.empirical)


@st.composite
def drifts(draw: st.DrawFn) -> Certificate:
    policy = draw(st.sampled_from(["sarathi", "rad"]))
    budget = draw(st.integers(1, 24))
    tile = draw(st.integers(1, budget)) if policy == "rad" else None
    batch = tile or budget
    peak = 30 + 12 * batch
    engine = Engine(
        draw(laws()),
        token_budget=budget,
        conventions=draw(st.sampled_from([ENGINE, THEORY])),
        max_seqs=draw(st.sampled_from([None, batch, batch + 3])),
        kv_block=16,
        kv_tokens=draw(st.sampled_from([None, 2 * batch * (peak + 16)])),
        prefill_chunk=draw(st.sampled_from([None, 1, max(1, budget // 2)])),
    )
    if draw(st.booleans()):
        per_kv, per_work = draw(sixteenths) / 512, draw(sixteenths) / 512
        law = replace(
            engine.law, per_kv=per_kv, per_kv_mixed=draw(sixteenths) / 512, per_work=per_work
        )
        engine = engine.with_(law=law)
    unit = tile or 1
    mix = {
        name: RequestClass(draw(lengths(1, unit)), draw(lengths(1)))
        for name in ("a", "b")[: draw(st.integers(1, 2))]
    }
    # At most 7/16 of the capacity for each class.
    sizes = [m.prompt.high + m.output.high for m in mix.values()]
    attention = 3 * max(engine.law.per_kv, engine.law.per_kv_mixed, engine.law.per_work)
    time = engine.law.exact().curve(batch) + F(batch * attention * max(sizes))
    rates = {
        name: F(draw(st.integers(1, 7)), 16) * batch / time / F(m.prompt.high + m.output.high)
        for name, m in mix.items()
    }
    return constants(engine, mix, rates, policy, tile=tile).certificate()  # type: ignore[arg-type]


@st.composite
def networks(draw: st.DrawFn) -> Certificate:
    n = draw(st.integers(2, 4))
    station = [
        *draw(st.permutations([1, 2])),
        *draw(st.lists(st.sampled_from([1, 2]), min_size=n - 2, max_size=n - 2)),
    ]
    service = draw(st.lists(st.integers(1, 9), min_size=n, max_size=n))
    follow = [draw(st.none() | st.integers(k + 1, n - 1)) if k < n - 1 else None for k in range(n)]
    rates = draw(st.lists(st.integers(0, 3), min_size=n, max_size=n))
    try:
        return certify_network(
            station, [F(x, 40) for x in service], follow, [F(r, 2) for r in rates]
        )
    except UnstableError:
        assume(False)
        raise


@st.composite
def weights(draw: st.DrawFn) -> Certificate:
    n = draw(st.integers(1, 3))
    names = tuple("abc"[:n])
    steps = tuple(draw(st.lists(st.integers(1, 3), min_size=n, max_size=n)))
    row = tuple(draw(st.lists(st.integers(0, 4), min_size=n, max_size=n))), 20
    batches = Knapsack(draw(st.integers(3, 8)), names, steps, (row,))
    streams = {name: (F(draw(st.integers(0, 9)), 64), draw(lengths(1))) for name in names}
    law = draw(laws())
    try:
        return maxweight(law, batches, streams).certificate()  # type: ignore[arg-type]
    except UnstableError:
        assume(False)
        raise


@st.composite
def chains(draw: st.DrawFn) -> Certificate:
    n = draw(st.integers(1, 5))
    rows = []
    for _ in range(n):
        row = draw(st.lists(st.integers(0, 3), min_size=n, max_size=n).filter(any))
        rows.append([F(x, sum(row)) for x in row])
    costs = [F(draw(st.integers(0, 9)), 2) for _ in range(n)]
    try:
        return certify_chain(rows, {"cost": costs, "state": list(range(n))})
    except InputError:
        assume(False)
        raise


tiles = st.builds(certify_tiles, laws(), st.integers(1, 40))
certificates = st.one_of(drifts(), networks(), weights(), chains(), tiles)


# Mutations.


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    inner = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else None
    )
    if inner is None:
        yield path
    else:
        for key, item in inner:
            yield from leaves(item, (*path, key))


def containers(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(value, dict | list) and value:
        yield path
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from containers(item, (*path, key))


def at(body: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        body = body[key]
    return body


def mutate(body: dict[str, Any], draw: random.Random) -> dict[str, Any]:
    """Change one number or text."""
    path = draw.choice(list(leaves(body)))
    value = at(body, path)
    if isinstance(value, str) and re.fullmatch(r"\d+/\d+", value):
        other = F(value) * draw.choice([F(1, 2), F(9, 10), F(99, 100), F(101, 100), F(2), F(0)])
        other += draw.choice([F(0), F(0), F(1, 10**6), F(1)])
        new: Any = f"{other.numerator}/{other.denominator}"
        new = f"{other.numerator + 1}/{other.denominator}" if new == value else new
        new = draw.choice([new, new, new, f"-{value}", f"{value}0", value.split("/")[0] + "/0"])
    elif isinstance(value, bool) or value is None:
        new = draw.choice([3, not value, "x"])
    elif isinstance(value, int):
        new = draw.choice([value + draw.choice([-1, 1, 2, 16]), float(value), str(value), None])
    else:
        new = draw.choice([value + "x", None])
    return changed(body, path, new)


def distort(body: dict[str, Any], draw: random.Random) -> dict[str, Any]:
    """Drop, add, repeat or swap an entry."""
    copied = copy.deepcopy(body)
    place = at(copied, draw.choice(list(containers(copied))))
    if isinstance(place, dict):
        key = draw.choice(list(place))
        how = draw.choice(["drop", "add", "rename"])
        value = place[key] if how == "add" else place.pop(key)
        if how != "drop":
            place[f"{key}x"] = value
    else:
        i = draw.randrange(len(place))
        how = draw.choice(["drop", "repeat", "swap"])
        if how == "repeat" or (how == "swap" and place[i] == place[-1]):
            place.insert(i, copy.deepcopy(place[i]))
        elif how == "drop":
            place.pop(i)
        else:
            place[i], place[-1] = place[-1], place[i]
    return copied


def check_forgery(body: dict[str, Any], forged: dict[str, Any]) -> bool:
    """A forgery is rejected, or, sealed again, still true; returns whether it was accepted."""
    assert json.dumps(forged) != json.dumps(body)  # 1 == 1.0 in Python, not in JSON
    assert rejection(forged), "the old seal was accepted"
    if rejection(resealed := sealed(forged)):
        return False
    assert is_true(resealed), [
        (path, at(resealed, path))
        for path in leaves(resealed)
        if path not in set(leaves(body)) or repr(at(body, path)) != repr(at(resealed, path))
    ]
    return True


def check_certificate(made: Certificate, seed: int) -> None:
    body = json.loads(made.text())
    assert rejection(body) == ""
    assert is_true(body)
    draw = random.Random(seed)
    check_forgery(body, mutate(body, draw))
    check_forgery(body, distort(body, draw))


@given(certificates, st.integers(0, 2**32))
@FEW
def test_mutations_are_rejected_or_true(made: Certificate, seed: int) -> None:
    check_certificate(made, seed)


@pytest.mark.slow
@given(certificates, st.integers(0, 2**32))
@MANY
def test_many_mutations_are_rejected_or_true(made: Certificate, seed: int) -> None:
    check_certificate(made, seed)


@pytest.mark.parametrize("name", SHIPPED)
def test_mutations_of_shipped_certificates(name: str) -> None:
    """Old seal: always rejected. New seal: only harmless fields may change."""
    body = SHIPPED[name]
    accepted = 0
    for seed in range(60):
        draw = random.Random(seed)
        accepted += check_forgery(body, mutate(body, draw))
        accepted += check_forgery(body, distort(body, draw))
    assert accepted <= 40


PROOF_PARTS = ("foster", "lyapunov", "maxweight", "stationary", "means", "full", "best", "load")


@pytest.mark.parametrize("name", SHIPPED)
def test_every_number_of_a_proof_is_bound(name: str) -> None:
    """A number of the claim or the proof cannot change alone, even with a new seal."""
    body = SHIPPED[name]
    for path in leaves(body):
        if path[0] in PROOF_PARTS:
            value = at(body, path)
            if isinstance(value, int):
                new: Any = value + 1
            else:
                other = F(value) * F(1001, 1000) + F(1, 10**9)
                new = f"{other.numerator}/{other.denominator}"
            assert rejection(sealed(changed(body, path, new))), path


@pytest.mark.parametrize("name", SHIPPED)
@pytest.mark.parametrize("bad", [1.5, "1/0", "2/4", "-1/2", "1", None, [], {}, True])
def test_bad_values_anywhere_are_rejected(name: str, bad: Any) -> None:
    """Text of the wrong kind in place of any rational of problem or proof."""
    body = SHIPPED[name]
    for path in leaves(body):
        if path[0] in ("problem", *PROOF_PARTS) and "/" in str(at(body, path)):
            assert rejection(sealed(changed(body, path, bad))), path


# Claims that fail for the reason named.


@pytest.mark.parametrize(
    ("name", "path", "value", "reason"),
    [
        ("drift-sarathi", ("problem", "policy"), "orca", "unknown policy"),
        ("drift-sarathi", ("problem", "policy"), "rad", "not multiples of 512"),
        ("drift-sarathi", ("problem", "chunk"), 513, "chunk exceeds"),
        ("drift-sarathi", ("problem", "slots"), 511, "may bind"),
        ("drift-sarathi", ("problem", "memory"), {"tokens": 9000, "block": 16}, "may bind"),
        ("drift-sarathi", ("problem", "lag"), 2, "lag: 0 or 1"),
        ("drift-sarathi", ("problem", "lag"), 1, "not the moments"),
        ("drift-sarathi", ("problem", "classes"), {}, "no class"),
        ("drift-sarathi", ("problem", "law", "per_kv"), "1/9", "arrive"),
        ("o1-tiles", ("problem", "law", "per_kv"), "1/9", "attention time"),
        ("maxweight", ("problem", "law", "per_kv"), "1/9", "attention time"),
        ("drift-sarathi", ("problem", "classes", "chat", "rate"), "17/1", "arrive"),
        ("drift-sarathi", ("problem", "classes", "chat", "rate"), "16/1", "arrivals is"),
        ("drift-sarathi", ("problem", "classes", "chat", "tokens"), "1000/1", "two moments"),
        (
            "drift-sarathi-weighted",
            ("problem", "classes", "x", "tokens_squared"),
            "999999999/1",
            "out of range",
        ),
        (
            "drift-sarathi-weighted",
            ("problem", "classes", "x", "prompt_unit"),
            3,
            "does not divide",
        ),
        ("drift-sarathi", ("foster", "drift"), "1/1", "drift is"),
        ("drift-sarathi", ("foster", "level"), 9, "the level is 61320"),
        ("o3-drift-rad", ("problem", "chunk"), 64, "one full batch"),
        ("o3-drift-rad", ("load",), "1/2", "the load is"),
        ("o15-agents-a", ("lyapunov", "epsilon"), "1/11", "may change by"),
        ("o15-agents-a", ("lyapunov", "epsilon"), "1/13", "epsilon is 1/12"),
        ("o15-agents-a", ("lyapunov", "epsilon"), "0/1", "proves nothing"),
        ("o15-agents-a", ("problem", "stations"), ["s1", "s1"], "two names"),
        ("o15-agents-a", ("problem", "classes", "0", "next"), "7", "no next class"),
        ("o15-agents-a", ("problem", "classes", "1", "next"), "0", "never leave"),
        ("o15-agents-a", ("problem", "classes", "0", "station"), "s3", "no station"),
        ("o15-agents-a", ("problem", "classes", "0", "service"), "0/1", "takes no time"),
        ("o15-agents-a", ("problem", "classes", "1", "service"), "3/5", "may change by"),
        ("maxweight", ("problem", "batches", "kind"), "magic", "unknown kind"),
        ("maxweight", ("problem", "arrivals", "short", "rate"), "900/1", "no slack"),
        ("maxweight", ("maxweight", "batches"), [], "no slack"),
        ("maxweight", ("maxweight", "batches", 0, "tokens"), [0, 15], "no batch"),
        ("maxweight", ("maxweight", "batches", 0, "rate"), "1000/1", "of the time"),
        ("maxweight", ("maxweight", "backlog"), "40/1", "backlog is"),
        ("o16-chain", ("problem", "rows", 0), {"0": "1/2"}, "sums to 1/2"),
        ("o16-chain", ("problem", "rows", 0), {"99": "1/1"}, "there are 70 states"),
        ("o16-chain", ("problem", "rows", 0), {"00": "1/1"}, "is no state"),
        ("o16-chain", ("problem", "rows", 0), {"0": "1/1"}, "one step later"),
        ("o16-chain", ("problem", "rows"), [], "no states"),
        ("o16-chain", ("means", "present"), "1/1", "the mean of present"),
        ("o4-tiles", ("best", "batch"), 100, "not fewer"),
        ("o4-tiles", ("best", "batch"), 63, "tokens have"),
        ("o4-tiles", ("claim",), "tile_inequality", "unknown 'best'"),
        ("o4-tiles", ("problem", "token_budget"), 128, "a full batch has"),
        ("o4-tiles", ("problem", "token_budget"), 10**9, "a full batch has"),
        ("o1-tiles", ("problem", "token_budget"), 500, "a full batch has"),
    ],
)
def test_false_claims_name_the_reason(
    name: str, path: tuple[Any, ...], value: Any, reason: str
) -> None:
    assert reason in rejection(sealed(changed(SHIPPED[name], path, value)))


def test_a_law_of_one_of_two_classes_is_not_the_only_one() -> None:
    body = json.loads(certify_chain([[1, 0], [F(1, 2), F(1, 2)]]).text())
    assert rejection(body) == ""
    split = changed(body, ("problem", "rows", 1), {"1": "1/1"})
    assert "other laws may exist" in rejection(sealed(split))


def test_a_full_batch_that_is_not_the_best_has_no_tile_inequality() -> None:
    body = json.loads(certify_tiles(BatchTime.tiled(base=2, per_tile=10, tile=50), 100).text())
    assert body["claim"] == "tile_inequality"
    law = changed(body, ("problem", "law", "tile"), 64)
    assert "a batch of 64 tokens has a higher rate" in rejection(sealed(law))


def test_the_best_batch_is_the_smallest_of_the_best() -> None:
    made = certify_tiles(BatchTime.tiled(base=0, per_tile=10, tile=32), 100)
    body = json.loads(made.text())
    assert body["best"] == {"batch": 32, "rate": "16/5"}
    assert "not the smallest" in rejection(sealed(changed(body, ("best", "batch"), 64)))


def test_mutations_that_stay_true_exist() -> None:
    """The property is not vacuous: a field that proves nothing may change."""
    law = changed(SHIPPED["o1-tiles"], ("problem", "law", "floor"), "1/1")
    assert check_forgery(SHIPPED["o1-tiles"], law)
    assert not is_true(changed(SHIPPED["o1-tiles"], ("full", "rate"), "1/1"))
    for name, body in SHIPPED.items():
        assert is_true(body), name
