"""Certificates: the independent checker accepts what is true and nothing else.

Random engines, fleets and knapsacks; mutations with the old seal (always rejected) and with a new
one (rejected, or still true by a fresh solution of the changed problem).
"""

from __future__ import annotations

import ast
import contextlib
import copy
import importlib.util
import json
import random
import re
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction as F
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import llmq
from llmq.errors import FormatError, InfeasibleError, InputError
from llmq.model.conventions import ENGINE, THEORY
from llmq.model.engine import Engine
from llmq.model.fleet import Fleet
from llmq.model.lengths import Lengths
from llmq.model.request import RequestClass
from llmq.model.time.batchtime import BatchTime
from llmq.theory.planning_lp._configurations import Knapsack, TwoPhase
from llmq.theory.planning_lp._pricing import generate_columns, price_batch
from llmq.theory.planning_lp._static import Need, PlanningProblem, Pool, Rules, optimise
from llmq.theory.region import stability_region
from llmq.theory.region._certificate import (
    canonical_digest,
    certify_problem,
    load_certificate,
)
from llmq.theory.region._certify import certify
from llmq.theory.region._pools import need_of, planning_problem
from llmq.theory.region.routing import fleet_region

PROOFS = Path(llmq.__file__).parent.parent / "proofs"
SHIPPED = sorted((PROOFS / "certificates").glob("*.json"))
FEW = settings(max_examples=100)
MANY = settings(max_examples=1000)


def load_checker() -> ModuleType:
    """The file itself: it is no part of the package."""
    spec = importlib.util.spec_from_file_location("checker", PROOFS / "check.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


CHECK = load_checker()


def rejection(body: dict[str, Any] | str) -> str:
    """Why the checker rejects; empty if it accepts."""
    try:
        CHECK.check(body if isinstance(body, str) else json.dumps(body))
    except CHECK.Rejected as error:
        return str(error)
    except Exception as error:
        return repr(error)
    return ""


def sealed(body: dict[str, Any]) -> dict[str, Any]:
    """The body with a fresh digest and seal: a careful forger."""
    fresh = {key: value for key, value in body.items() if key != "seal"}
    fresh["digest"] = canonical_digest(fresh["problem"])
    return {**fresh, "seal": canonical_digest(fresh)}


def run(*files: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", "-S", str(PROOFS / "check.py"), *map(str, files)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


# Shipped certificates.


def test_shipped_certificates_are_accepted_by_plain_python() -> None:
    assert len(SHIPPED) == 28
    done = run(*SHIPPED)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(": accepted: ") == len(SHIPPED)
    claims = {json.loads(path.read_text(encoding="utf-8"))["claim"] for path in SHIPPED}
    assert claims == set(CHECK.CLAIMS)


def test_shipped_certificates_can_be_made_again() -> None:
    from proofs.make_certificates import certificates

    made = dict(certificates())
    assert sorted(made) == sorted(path.stem for path in SHIPPED)
    for path in SHIPPED:
        kept, again = load_certificate(path), made[path.stem]
        assert (kept.claim, kept.load, kept.digest) == (again.claim, again.load, again.digest)


def test_checker_needs_nothing_but_the_standard_library() -> None:
    beside = {path.stem: path for path in PROOFS.glob("check*.py")}
    assert len(beside) == 9
    for path in beside.values():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        modules = {str(n.module) for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
        modules |= {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
        own = {name for name in modules if name.removeprefix("proofs.") in beside}
        assert {name.split(".")[0] for name in modules - own} <= set(sys.stdlib_module_names)


def test_the_package_ships_every_file_of_the_checker() -> None:
    text = (PROOFS.parent / "pyproject.toml").read_text(encoding="utf-8")
    for path in (*PROOFS.glob("check*.py"), PROOFS / "__init__.py"):
        assert f'"proofs/{path.name}" = "llmq/_check/{path.name}"' in text


def test_checker_works_from_another_folder_and_name(tmp_path: Path) -> None:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    for path in (*PROOFS.glob("check*.py"), PROOFS / "__init__.py"):
        (folder / path.name).write_bytes(path.read_bytes())
    command = [sys.executable, "-I", "-S", str(folder / "check.py"), *map(str, SHIPPED)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout.count(": accepted: ")) == (0, len(SHIPPED)), done.stderr


def test_command_line(tmp_path: Path) -> None:
    good = SHIPPED[0]
    bad = tmp_path / "bad.json"
    bad.write_text("{", encoding="utf-8")
    done = run(good, bad)
    assert done.returncode == 2
    assert "accepted" in done.stdout
    assert "bad.json: rejected: not JSON" in done.stdout
    false = tmp_path / "false.json"
    false.write_text(good.read_text(encoding="utf-8").replace("3", "4"), encoding="utf-8")
    done = run(bad, false, good)
    assert done.returncode == 4
    assert "false.json: rejected: " in done.stdout
    missing = run(tmp_path / "missing.json")
    assert missing.returncode == 2
    assert "cannot be read" in missing.stdout
    assert run().returncode == 2


# What a reader must refuse.

O2 = json.loads((PROOFS / "certificates" / "o2-optimal.json").read_text(encoding="utf-8"))
O6 = json.loads((PROOFS / "certificates" / "o6-optimal.json").read_text(encoding="utf-8"))
ENGINE_POOL = ("problem", "pools", "engine")
MALFORMED: list[tuple[tuple[Any, ...], Any, str]] = [
    (("load",), "1/0", "zero denominator"),
    (("load",), "2/4", "not in lowest terms"),
    (("load",), "-1/2", "is negative"),
    (("load",), "0.5", "is not a rational"),
    (("load",), "1/2 ", "is not a rational"),
    (("load",), 1, "expected a string"),
    (("load",), 0.5, "is a float"),
    (("load",), float("nan"), "is a float"),
    (("load",), "1/2", "the prices are worth"),
    (("claim",), "certain", "unknown claim"),
    (("claim",), "unstable", "unknown 'primal'"),
    (("format",), "llmq-certificate-0", "not of format"),
    (("dual",), [], "expected an object"),
    (("dual", "weights", "engine"), "1/2", "engines times weights"),
    (("dual", "prices", "x"), "1000/1", "exceeds"),
    (("dual", "tokens", "engine", "decode"), "1/1", "is worth more than its time"),
    (("dual", "tokens", "engine", "other"), "1/1", "unknown 'other'"),
    (("primal", "flows"), [], "of 1/100 requests are routed"),
    (("primal", "batches"), [], "too little for the tokens"),
    (("primal", "batches", 0, "tokens"), [413, 100], "no batch"),
    (("primal", "batches", 0, "tokens"), [513, 0], "no batch"),
    (("primal", "batches", 0, "tokens"), [-1, 5], "is below 0"),
    (("primal", "batches", 0, "tokens"), [True, 5], "expected a whole number"),
    (("primal", "batches", 0, "pool"), "other", "no batch"),
    (("primal", "flows", 0, "route"), ["other"], "no route"),
    ((*ENGINE_POOL, "engines"), 0, "is below 1"),
    ((*ENGINE_POOL, "law", "form"), "magic", "unknown form"),
    ((*ENGINE_POOL, "law", "base"), "-1/1", "is negative"),
    ((*ENGINE_POOL, "law", "base"), 11.28, "is a float"),
    ((*ENGINE_POOL, "batches", "kind"), "magic", "unknown kind"),
    ((*ENGINE_POOL, "batches", "token_budget"), 10**4100, "more than 4000 digits"),
    ((*ENGINE_POOL, "batches", "token_budget"), 100, "no batch"),
    ((*ENGINE_POOL, "needs", "x", "tokens", "decode"), "1/1", "not the needs of class x"),
    ((*ENGINE_POOL, "rules", "lag"), 2, "bad lag"),
    ((*ENGINE_POOL, "rules", "phases"), "none", "unknown 'none'"),
    (("problem", "classes", "x", "lengths", "output"), [113], "not the needs of class x"),
    (("problem", "classes", "x", "lengths", "output"), [], "none or too many"),
    (("problem", "classes", "x", "routes"), [], "no route"),
    (("problem", "classes", "x", "routes"), [[]], "empty one"),
    (("problem", "classes", "x", "rate"), "1/99", "the prices are worth"),
]


def changed(body: dict[str, Any], path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    copied = copy.deepcopy(body)
    place: Any = copied
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return copied


@pytest.mark.parametrize(("path", "value", "reason"), MALFORMED)
def test_malformed_certificates_are_rejected(path: Any, value: Any, reason: str) -> None:
    forged = changed(O2, path, value)
    assert rejection(forged)
    assert reason in rejection(sealed(forged))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not JSON"),
        ("[1, 2]", "expected an object"),
        ("[" * 100_000, "not JSON"),
        ('{"format": "a", "format": "b"}', "names a key twice"),
        ('{"load": 1e3}', "is a float"),
        ('{"load": Infinity}', "is a float"),
        ("{}", "not of format"),
    ],
    ids=["empty", "list", "deep", "twice", "float", "infinity", "nothing"],
)
def test_text_that_is_no_certificate(text: str, reason: str) -> None:
    assert reason in rejection(text)


@pytest.mark.parametrize("key", sorted(O2))
def test_missing_fields_are_rejected(key: str) -> None:
    assert rejection({name: value for name, value in O2.items() if name != key})
    assert "unknown 'more'" in rejection(sealed({**O2, "more": 1}))


def test_digest_and_seal_must_match() -> None:
    forged = changed(O2, ("problem", "classes", "x", "rate"), "1/200")
    assert rejection(forged) == "the digest does not match the problem"
    forged["digest"] = canonical_digest(forged["problem"])
    assert rejection(forged) == "the seal does not match the certificate"


def test_a_law_that_decreases_is_rejected() -> None:
    law = {
        **O2["problem"]["pools"]["engine"]["law"],
        "form": "table",
        "tokens": [1, 512],
        "seconds": ["2/1", "1/1"],
    }
    forged = sealed(changed(O2, (*ENGINE_POOL, "law"), law))
    assert "more tokens take less time in the table" in rejection(forged)


def test_a_wrong_claim_is_rejected() -> None:
    for claim, part, reason in (
        ("unstable", "primal", "is not above 1"),
        ("stable_rate", "dual", "is not below 1"),
    ):
        body = {**O2, "claim": claim}
        del body[part]
        if claim == "stable_rate":
            body["load"] = "3/2"
        assert reason in rejection(sealed(body))


# Random problems.

# Sixteenths are exact decimals, so floats and rationals say the same.
sixteenths = st.integers(0, 40).map(lambda n: n / 16)
positive = st.integers(1, 40).map(lambda n: n / 16)


@st.composite
def laws(draw: st.DrawFn) -> BatchTime:
    attention = {"per_kv": draw(sixteenths) / 64, "per_work": draw(sixteenths) / 64}
    form = draw(st.sampled_from(["affine", "tiled", "roofline", "table"]))
    if form == "affine":
        return BatchTime.affine(base=draw(sixteenths), per_token=draw(positive), **attention)
    if form == "tiled":
        return BatchTime.tiled(
            base=draw(sixteenths),
            per_tile=draw(positive),
            tile=draw(st.integers(1, 9)),
            per_token=draw(sixteenths),
            **attention,
        )
    if form == "roofline":
        return BatchTime.roofline(
            floor=draw(positive) * 3,
            floor_per_token=draw(sixteenths) / 8,
            base=draw(sixteenths),
            per_token=draw(positive) / 8,
            tile=draw(st.sampled_from([1, 4, 7])),
            **attention,
        )
    tokens = sorted(draw(st.sets(st.integers(1, 40), min_size=2, max_size=8)))
    seconds = sorted(draw(st.lists(positive, min_size=len(tokens), max_size=len(tokens))))
    return BatchTime.table(tokens=tokens, seconds=seconds, **attention)


@st.composite
def engines(draw: st.DrawFn) -> Engine:
    return Engine(
        draw(laws()),
        token_budget=draw(st.integers(1, 48)),
        max_seqs=draw(st.none() | st.integers(1, 12)),
        kv_tokens=draw(st.none() | st.integers(64, 400)),
        kv_block=draw(st.sampled_from([1, 3, 16])),
        prefill_chunk=draw(st.none() | st.integers(1, 16)),
        conventions=draw(st.sampled_from([ENGINE, THEORY, replace(THEORY, area="wait")])),
    )


lengths = st.integers(1, 24).map(Lengths.fixed) | st.lists(
    st.integers(1, 24), min_size=1, max_size=3
).map(Lengths.empirical)


@st.composite
def systems(draw: st.DrawFn) -> PlanningProblem:
    pools = {
        f"p{i}": (draw(engines()), draw(st.integers(1, 3))) for i in range(draw(st.integers(1, 3)))
    }
    roles = {}
    if len(pools) > 1 and draw(st.booleans()):
        roles = {"p0": "prefill", "p1": "decode"}
    link = draw(st.sampled_from([float("inf"), 50.0]))
    mix = {
        f"c{j}": RequestClass(draw(lengths), draw(lengths)) for j in range(draw(st.integers(1, 3)))
    }
    rates = {name: F(draw(st.integers(1, 20)), 8) for name in mix}
    return planning_problem(Fleet(pools, roles=roles, link=link), mix, rates)


@st.composite
def knapsacks(draw: st.DrawFn) -> PlanningProblem:
    n = draw(st.integers(1, 3))
    buffers = tuple(f"b{i}" for i in range(n))
    steps = tuple(draw(st.lists(st.integers(1, 3), min_size=n, max_size=n)))
    weights = tuple(draw(st.lists(st.integers(0, 5), min_size=n, max_size=n)))
    batches = Knapsack(
        draw(st.integers(3, 9)), buffers, steps, ((weights, draw(st.integers(15, 40))),)
    )
    needs = {f"c{i}": Need({b: F(draw(st.integers(1, 9)), 2)}) for i, b in enumerate(buffers)}
    pool = Pool(draw(st.integers(1, 2)), draw(laws()), batches, {}, needs)
    rates = {name: F(draw(st.integers(1, 9)), 4) for name in needs}
    return PlanningProblem({"k": pool}, rates, dict.fromkeys(needs, (("k",),)))


problems = systems() | knapsacks()


def scaled(problem: PlanningProblem, load: F, to: F) -> PlanningProblem:
    return replace(problem, rates={n: r * to / load for n, r in problem.rates.items()})


def is_relaxed(problem: PlanningProblem) -> bool:
    """Memory and slots as rows, or KV reads that depend on how prompts are cut and mixed."""
    for pool in problem.pools.values():
        law = pool.law
        if law is not None and (law.per_kv or law.per_kv_mixed) and pool.rules is not None:
            assert isinstance(pool.rules, Rules)
            if pool.rules.area == "chunked" or law.per_kv != law.per_kv_mixed:
                return True
    return any(pool.limits for pool in problem.pools.values())


def check_stable(problem: PlanningProblem) -> None:
    """A5: a relaxation is never called stable, by the library or by the checker."""
    if not is_relaxed(problem):
        stable = certify_problem(problem, "stable_rate")
        assert (stable.load, rejection(stable.text())) == (F(2, 3), "")
        return
    with pytest.raises(InputError, match="only a bound"):
        certify_problem(problem, "stable_rate")
    body = json.loads(certify_problem(problem, "optimal_load").text())
    assert "a lower bound of the load" in CHECK.check(json.dumps(body))
    forged = {**body, "claim": "stable_rate"}
    del forged["dual"]
    assert "no stable rate follows" in rejection(sealed(forged))


def check_agrees(problem: PlanningProblem) -> None:
    found = optimise(problem)
    # Primal = dual, exactly.
    assert sum(found.prices[n] * rate for n, rate in problem.rates.items()) == found.load
    optimal = certify_problem(problem, "optimal_load", optimum=found)
    assert rejection(optimal.text()) == ""
    inside, outside = (scaled(problem, found.load, to) for to in (F(2, 3), F(5, 4)))
    assert optimise(inside).load == F(2, 3)
    check_stable(inside)
    unstable = certify_problem(outside)
    assert (unstable.claim, unstable.load, rejection(unstable.text())) == ("unstable", F(5, 4), "")
    with pytest.raises(InputError, match="they are not unstable"):
        certify_problem(inside, "unstable")
    with pytest.raises(InputError, match="they are not stable_rate"):
        certify_problem(outside, "stable_rate")


@given(problems)
@FEW
def test_checker_agrees_on_random_problems(problem: PlanningProblem) -> None:
    check_agrees(problem)


@pytest.mark.slow
@given(problems)
@MANY
def test_checker_agrees_on_many_random_problems(problem: PlanningProblem) -> None:
    check_agrees(problem)


# Column generation.


@given(problems)
@FEW
def test_column_generation_equals_enumeration(problem: PlanningProblem) -> None:
    found, whole = generate_columns(problem), optimise(problem)
    assert found.complete
    assert found.optimum.load == whole.load
    early = generate_columns(problem, most_rounds=2)
    assert early.bound <= whole.load <= early.optimum.load


@given(knapsacks(), st.lists(sixteenths, min_size=3, max_size=3), positive)
@FEW
def test_pricing_finds_the_best_configuration(
    problem: PlanningProblem, prices: list[float], weight: float
) -> None:
    pool = problem.pools["k"]
    assert isinstance(pool.batches, Knapsack)
    assert pool.law is not None
    p, q = [F(x) for x in prices[: len(pool.buffers)]], F(weight)
    batch, seconds, value = price_batch(pool.batches, pool.law, p, q, F(3))
    assert pool.batches.fault(batch) == ""
    values = [
        sum(map(F.__mul__, p, map(F, x))) + 3 - q * t for x, t in pool.batches.columns(pool.law)
    ]
    assert value == max(values)
    assert value == sum(map(F.__mul__, p, map(F, batch))) + 3 - q * seconds


# Mutations.


def leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of every number and string."""
    if isinstance(value, dict):
        return [leaf for key in value for leaf in leaves(value[key], (*path, key))]
    if isinstance(value, list):
        return [leaf for i, item in enumerate(value) for leaf in leaves(item, (*path, i))]
    return [path]


def mutate(body: dict[str, Any], seed: int) -> dict[str, Any]:
    """Change one number, text, key or entry."""
    draw = random.Random(seed)
    path = draw.choice(leaves(body))
    value: Any = body
    for key in path:
        value = value[key]
    if isinstance(value, str) and re.fullmatch(r"\d+/\d+", value):
        other = F(value) * draw.choice([F(1, 2), F(9, 10), F(99, 100), F(101, 100), F(2)])
        other += draw.choice([F(0), F(0), F(1, 10**6), F(1)])
        new: Any = f"{other.numerator}/{other.denominator}"
        new = f"{value[:-1]}{(int(value[-1]) + 1) % 10}" if new == value else new
    elif isinstance(value, bool) or value is None:
        new = 3
    elif isinstance(value, int):
        new = value + draw.choice([-1, 1, 2, 16])
    else:
        new = value + "x"
    return changed(body, path, new)


def rebuilt(raw: dict[str, Any]) -> PlanningProblem:
    """The planning problem of a certificate's data.

    Times of a table are short decimals here (sixteenths, and what mutations make of them), so their
    floats mean the same number.
    """

    def pool(one: dict[str, Any]) -> Pool:
        law, kind, batches = None, one["batches"], None
        if kind is not None:
            numbers = {k: F(v) for k, v in one["law"].items() if isinstance(v, str) and k != "form"}
            law = BatchTime(
                one["law"]["form"],
                tile=one["law"]["tile"],
                tokens=tuple(one["law"]["tokens"]),
                seconds=tuple(float(F(t)) for t in one["law"]["seconds"]),
                **numbers,  # type: ignore[arg-type]
            )
            if kind["kind"] == "two_phase":
                batches = TwoPhase(kind["token_budget"], kind["slots"])
            else:
                rows = tuple((tuple(r["weights"]), r["capacity"]) for r in kind["rows"])
                batches = Knapsack(
                    kind["token_budget"], tuple(kind["buffers"]), tuple(kind["steps"]), rows
                )
        needs = {
            j: Need(
                {b: F(v) for b, v in need["tokens"].items()},
                F(need["seconds"]),
                {k: F(v) for k, v in need["limits"].items()},
            )
            for j, need in one["needs"].items()
        }
        return Pool(one["engines"], law, batches, one["limits"], needs)

    classes = raw["classes"]
    return PlanningProblem(
        {h: pool(one) for h, one in raw["pools"].items()},
        {j: F(one["rate"]) for j, one in classes.items()},
        {j: tuple(tuple(route) for route in one["routes"]) for j, one in classes.items()},
    )


def is_true(body: dict[str, Any]) -> bool:
    """Solve the stated problem afresh and compare."""
    load, true = F(body["load"]), F(10**9)
    # A problem without any feasible batch has no finite load.
    with contextlib.suppress(InputError, InfeasibleError):
        true = optimise(rebuilt(body["problem"])).load
    return {
        "unstable": true >= load > 1,
        "stable_rate": true <= load < 1,
        "optimal_load": true == load,
    }[body["claim"]]


def check_mutations(problem: PlanningProblem, seed: int) -> None:
    claim = ("unstable", "stable_rate", "optimal_load")[seed % 3]
    load = optimise(problem).load
    at = scaled(problem, load, F(5, 4) if claim == "unstable" else F(2, 3))
    if claim == "stable_rate" and is_relaxed(problem):
        claim = "optimal_load"
    body = json.loads(certify_problem(at, claim).text())  # type: ignore[arg-type]
    assert rejection(body) == ""
    assert is_true(body)
    forged = mutate(body, seed)
    assert rejection(forged)  # the old seal
    if not rejection(resealed := sealed(forged)):
        assert is_true(resealed)
    # These numbers cannot change without making the claim false.
    other = F(body["load"]) * F(101, 100)
    assert rejection(sealed(changed(body, ("load",), f"{other.numerator}/{other.denominator}")))
    if "dual" in body:
        for name in body["dual"]["weights"]:
            assert rejection(sealed(changed(body, ("dual", "weights", name), "7/3")))


@given(problems, st.integers(0, 2**32))
@FEW
def test_mutations_are_rejected(problem: PlanningProblem, seed: int) -> None:
    check_mutations(problem, seed)


@pytest.mark.slow
@given(problems, st.integers(0, 2**32))
@MANY
def test_many_mutations_are_rejected(problem: PlanningProblem, seed: int) -> None:
    check_mutations(problem, seed)


def test_mutations_of_shipped_certificates_are_rejected() -> None:
    for path in SHIPPED:
        body = json.loads(path.read_text(encoding="utf-8"))
        if "dual" not in body and "primal" not in body:
            continue  # test_certificate_claims.py
        for seed in range(20):
            forged = mutate(body, seed)
            assert rejection(forged), (path.name, seed)
            if not rejection(resealed := sealed(forged)):
                assert is_true(resealed), (path.name, seed)


# Engines and regions.


ONE = {"chat": 1.0, "code": 0}


def test_region_and_certificate_agree() -> None:
    law = BatchTime.affine(base=0.012, per_token=2.5e-5, per_kv=1e-8)
    engine = Engine(law, token_budget=512, max_seqs=128, kv_tokens=235_728)
    mix = {"chat": RequestClass(512, 128), "code": RequestClass(2048, 256)}
    for rates, claim in (
        ({"chat": 10.0, "code": 2.0}, "optimal_load"),
        ({"chat": 60.0, "code": 0}, "unstable"),
    ):
        made = certify(engine, mix, rates)
        assert made.claim == claim
        assert made.load == stability_region(engine, mix).load(rates, exact=True)
        assert rejection(made.text()) == ""
    with pytest.raises(InputError, match="only a bound"):
        certify(engine, mix, ONE, "stable_rate")
    with pytest.raises(InputError, match="all rates are 0"):
        certify(engine, mix, dict.fromkeys(mix, 0))
    with pytest.raises(InputError, match="unknown claim 'maybe'"):
        certify(engine, mix, ONE, "maybe")  # type: ignore[arg-type]


@given(engines(), st.lists(st.tuples(lengths, lengths), min_size=1, max_size=2))
@FEW
def test_configurations_and_the_closed_bound(
    engine: Engine, pairs: list[tuple[Lengths, Lengths]]
) -> None:
    """The load of a region is the value of its planning problem."""
    mix = {f"c{j}": RequestClass(s, o) for j, (s, o) in enumerate(pairs)}
    rates = dict.fromkeys(mix, 0.25)
    closed, found = stability_region(engine, mix), fleet_region(engine, mix).optimum(rates)
    load = closed.load(rates, exact=True)
    runs = sum(found.batches.values(), F(0))
    tokens = sum((sum(x) * u for (_, x), u in found.batches.items()), F(0))
    asked = sum(n.tokens[b] for n in (need_of(m, engine) for m in mix.values()) for b in n.tokens)
    if tokens > asked / 4:
        # Memory asks for more iterations than there are tokens: each still takes a token's time.
        assert found.load >= load
    else:
        assert found.load == load
    assert tokens >= runs


def test_weighted_lengths_state_their_needs() -> None:
    """Means of float weights are decimals: the certificate gives the needs, not the lengths."""
    chat = RequestClass(Lengths.lognormal(mean=500, sigma=0.9, low=4, high=2048), 128)
    engine = Engine(BatchTime.affine(base=0.012, per_token=2.5e-5), token_budget=512)
    made = certify(engine, {"chat": chat}, {"chat": 40.0})
    assert "lengths" not in made.body["problem"]["classes"]["chat"]
    assert rejection(made.text()) == ""


def test_save_and_load(tmp_path: Path) -> None:
    region = fleet_region(
        Engine(BatchTime.affine(base=1, per_token=1), 8), {"x": RequestClass(3, 3)}
    )
    made = certify(region, None, {"x": 0.01})
    path = tmp_path / "c.json"
    made.save(path)
    assert load_certificate(path) == made
    assert [p.name for p in tmp_path.iterdir()] == ["c.json"]
    path.write_text(made.text().replace('"1/100"', '"1/99"'), encoding="utf-8")
    with pytest.raises(FormatError, match="certificate of another problem"):
        load_certificate(path)
    path.write_text("{", encoding="utf-8")
    with pytest.raises(FormatError, match="not JSON"):
        load_certificate(path)
    path.write_text("{}", encoding="utf-8")
    with pytest.raises(FormatError, match="not a certificate"):
        load_certificate(path)
