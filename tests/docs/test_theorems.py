"""The ledger of theorems is complete, and every exact result points into it."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

import llmq
from llmq import chains, fluid, hindsight, latency, lyapunov
from llmq.result import Kind
from llmq.theory.planning_lp._static import optimise
from llmq.theory.region._certify import certify
from proofs import ledger

ROOT = Path(llmq.__file__).parent
THEOREMS = ledger.load()
LEVELS = {theorem.id: theorem.level for theorem in THEOREMS}
# Where `Kind.EXACT` is no claim of a result: it defines, reads or prints the kind.
READS = {"llmq/report/_plan.py"}


def pointers(source: str) -> list[str]:
    """Entries of the ledger that a source names: in brackets, or as a whole."""
    return [source] if source in LEVELS else re.findall(r"\[([A-Z0-9-]+)\]", source)


def faults(source: str) -> list[str]:
    """Why a source does not carry the word exact."""
    named = pointers(source)
    if not named:
        return [f"{source!r} names no entry of proofs/THEOREMS.md"]
    return [
        f"{source!r}: {name} is {LEVELS.get(name, 'not in proofs/THEOREMS.md')}"
        for name in named
        if LEVELS.get(name) not in ledger.EXACT
    ]


# Results that functions return. ---------------------------------------------------------------

HALF = Fraction(1, 2)
LAW = llmq.BatchTime.affine(base=0.012, per_token=2.5e-5)
ENGINE = llmq.Engine(LAW, token_budget=512, conventions=llmq.THEORY)
MIX = {"chat": llmq.RequestClass(prompt=512, output=128)}
FLEET = llmq.Fleet({"a": (ENGINE, 2), "b": (ENGINE.with_(token_budget=256), 3)})
CALLS: dict[str, Callable[[], Any]] = {
    "stability_region": lambda: llmq.stability_region(ENGINE, MIX),
    "fleet_region": lambda: llmq.routing.fleet_region(FLEET, MIX),
    "fleet_region, slots": lambda: llmq.routing.fleet_region(ENGINE.with_(max_seqs=100), MIX),
    "tiling_lp": lambda: llmq.tiling_lp(ENGINE, MIX, {"chat": 1.0}),
    "optimum": lambda: llmq.routing.fleet_region(FLEET, MIX).optimum({"chat": 1.0}),
    "optimise": lambda: optimise(llmq.routing.fleet_region(FLEET, MIX).at({"chat": 1.0})),
    "one slot for all prompts": lambda: llmq.stability_region(ENGINE.with_(max_seqs=100), MIX),
    "best_batch": lambda: llmq.tiling.best_batch(LAW, 512),
    "waves": lambda: llmq.tiling.waves(129, 512, (128, 128), 108),
    "exclusive_cycle": lambda: llmq.tiling.exclusive_cycle(ENGINE, MIX["chat"]),
    "disaggregate": lambda: llmq.routing.disaggregate(ENGINE, ENGINE, MIX, gpus=4),
    "wait_equilibrium": lambda: fluid.wait_equilibrium(MIX, {"chat": 1.0}, d0=0.01, d1=1e-8),
    "two_station": lambda: lyapunov.cyclic_agents(768, (32, 32), (512, 32)).lyapunov(HALF),
    "cyclic_agents": lambda: lyapunov.cyclic_agents(768, (32, 32), (512, 32)),
    "stationary": lambda: chains.stationary([[HALF, HALF], [1, 0]]),
    "hindsight": lambda: hindsight.solve([(2, 3), (1, 5)], memory=12),
    "bailey": lambda: latency.bailey(3.0, 4),
    "bulk": lambda: latency.bulk(3.0, 1.0, 4, accessible=True),
    "inoue": lambda: latency.inoue(1.0, 0.5, 1.0),
    "mg1": lambda: latency.mg1(0.5, 1.0, 2.0),
    "md1": lambda: latency.md1(0.5, 1.0),
    "erlang_c": lambda: latency.erlang_c(12, 10.0),
    "limited_preemption": lambda: latency.limited_preemption(0.5, 0.8),
    "kv_occupancy": lambda: latency.kv_occupancy(0.5, 4, 6),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_an_exact_result_points_to_an_entry(call: Callable[[], Any]) -> None:
    result = call()
    assert result.kind is Kind.EXACT
    assert not faults(result.source)
    assert result.assumptions


def test_an_exact_region_is_certified() -> None:
    certificate = certify(FLEET, MIX, {"chat": 1.0})
    assert certificate.claim == "optimal_load"


# Where the code says exact. ---------------------------------------------------------------------


def is_exact(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Attribute)
        and node.attr == "EXACT"
        and isinstance(node.value, ast.Name)
        and node.value.id == "Kind"
    )


def constants(tree: ast.Module) -> dict[str, str]:
    """Strings that a module gives a name."""
    return {
        target.id: node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        for target in node.targets
        if isinstance(target, ast.Name) and isinstance(node.value.value, str)
    }


def claims(source: str) -> Iterator[tuple[int, str | None]]:
    """Line of each ``Kind.EXACT`` that is not compared with, and the source given beside it."""
    tree = ast.parse(source)
    named, explained = constants(tree), set[int]()
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            explained |= {id(inner) for inner in ast.walk(node)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        given = {word.arg: word.value for word in node.keywords}
        exact = [n for n in ast.walk(given["kind"]) if is_exact(n)] if "kind" in given else []
        for inner in exact:
            explained.add(id(inner))
            text = given.get("source")
            if isinstance(text, ast.Name):
                yield inner.lineno, named.get(text.id)
            else:
                yield inner.lineno, text.value if isinstance(text, ast.Constant) else None
    for node in ast.walk(tree):
        if is_exact(node) and id(node) not in explained:
            yield node.lineno, None


def test_every_exact_in_the_code_points_to_an_entry() -> None:
    said, found = [], 0
    for path in sorted(ROOT.rglob("*.py")):
        name = str(path.relative_to(ROOT.parent))
        for line, source in claims(path.read_text(encoding="utf-8")):
            if name in READS:
                continue
            found += 1
            where = f"{name}:{line}"
            said += [f"{where}: no source beside it"] if source is None else []
            said += [f"{where}: {fault}" for fault in (faults(source) if source else [])]
    assert not said
    assert found >= len(CALLS) - 2  # two calls share a constructor with another


@pytest.mark.parametrize(
    ("code", "sources"),
    [
        ("Law(kind=Kind.EXACT, source='x [B1]')", ["x [B1]"]),
        ("S = 'y'\nLaw(kind=Kind.EXACT if a else Kind.INNER_BOUND, source=S)", ["y"]),
        ("Law(kind=Kind.EXACT)", [None]),
        ("kind = Kind.EXACT", [None]),
        ("a.kind is Kind.EXACT", []),
        ("Law(kind=Kind.OUTER_BOUND)", []),
    ],
)
def test_claims_are_found(code: str, sources: list[str | None]) -> None:
    assert [source for _, source in claims(code)] == sources


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("Bailey 1954", "names no entry"),
        ("Bailey 1954 [B2]", "not in proofs/THEOREMS.md"),
        ("theory core 2.4 [U2]", "U2 is tested"),
    ],
)
def test_sources_that_carry_nothing(source: str, words: str) -> None:
    assert words in faults(source)[0]


# The ledger itself. -----------------------------------------------------------------------------


def test_the_ledger_has_no_fault() -> None:
    assert ledger.faults(THEOREMS) == []


def test_the_ledger_has_what_was_asked_for() -> None:
    wanted = """
        T1 S1 D1 theorem-r theorem-u U1 U2 P1 CLP DIS JSQ W1 H1 N1 BD B1 Q1 INB K1 SVF G1 PL DW
        C4 C5 C6 C7 C8 DAI-A DAI-B RAD1 RAD2 T2 NIE DC MG1 MD1 SOAP EC HW BK KV
        FCFS XB BL O4 NOT IP MC
    """
    assert set(wanted.split()) <= set(LEVELS)


GOOD = """### X1. An entry
- level: cited
- statement: s
- hypotheses: h
- command: `python -m proofs.lemmas.tile_rate`
- trusted base: t
- source: s [C]
"""


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("level: cited", "level: proved", "unknown level 'proved'"),
        ("- level: cited\n", "", "no level"),
        ("tile_rate", "no_such_lemma", "proofs/lemmas/no_such_lemma.py does not exist"),
        (
            "python -m proofs.lemmas.tile_rate",
            "python -I -S proofs/check.py proofs/certificates/x.json",
            "proofs/certificates/x.json does not exist",
        ),
        (
            "python -m proofs.lemmas.tile_rate",
            "python -m pytest tests/nowhere.py::test_x",
            "tests/nowhere.py does not exist",
        ),
        (
            "python -m proofs.lemmas.tile_rate",
            "python -m pytest tests/docs/test_theorems.py::test_x",
            "has no test test_x",
        ),
        ("python -m proofs.lemmas.tile_rate", "make it so", "unknown kind of command"),
        ("level: cited", "level: tested", "'tested' needs a command that starts with"),
        ("level: cited", "level: instance-certified", "needs a command that starts with"),
        ("level: cited", "level: prose proof", "must say where it is"),
        (
            "- statement: s",
            "- proof: docstring of nowhere.py\n- statement: s",
            "no proof at nowhere.py",
        ),
        ("[C]", "", "the source has no grade"),
        ("- statement: s", "- claim: s", "unknown field 'claim'"),
        ("### X1", "### T1", "T1: entered twice"),
    ],
)
def test_faults_are_found(old: str, new: str, words: str) -> None:
    changed = ledger.read(GOOD.replace(old, new))
    assert any(words in fault for fault in ledger.faults((*THEOREMS, *changed)))


def test_a_good_entry_has_no_fault() -> None:
    assert ledger.faults((*THEOREMS, *ledger.read(GOOD))) == []


@pytest.mark.parametrize("folder", ["certificates/extra.json", "lemmas/extra.py"])
def test_what_no_entry_points_to_is_found(tmp_path: Path, folder: str) -> None:
    shutil.copytree(ROOT.parent / "proofs", tmp_path / "proofs")
    (tmp_path / "tests").symlink_to(ROOT.parent / "tests")
    (tmp_path / "llmq").symlink_to(ROOT)
    assert ledger.faults(THEOREMS, tmp_path) == []
    (tmp_path / "proofs" / folder).write_text("")
    (fault,) = ledger.faults(THEOREMS, tmp_path)
    assert "extra: no entry" in fault or "extra.json: no entry" in fault


def test_e8_the_ledger_runs_every_command_of_every_entry(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Once, the pytest ones too; what fails, is skipped or is missing is counted."""
    ran: list[str] = []
    said = {"text": "3 passed", "code": 0}

    def run(words: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        ran.append(" ".join(["python", *words[1:]]))
        tests = "pytest" in words
        code = int(said["code"]) if tests else 0
        return subprocess.CompletedProcess(words, code, str(said["text"]) * tests, "")

    monkeypatch.setattr(subprocess, "run", run)
    assert ledger.run(THEOREMS) == 0
    lines = " ".join(ran).split()
    for theorem in THEOREMS:
        assert theorem.commands
        for command in theorem.commands:
            kind = next(k for k in (ledger.LEMMA, ledger.CHECK, ledger.TEST) if k in command)
            for part in command.removeprefix(kind).split():
                whole = f"proofs.lemmas.{part}" if kind == ledger.LEMMA else part
                assert lines.count(whole) == 1, command
    count = len({c for theorem in THEOREMS for c in theorem.commands})
    assert f"ran {count} commands of {len(THEOREMS)} entries: 0 failed" in capsys.readouterr().out
    said["text"] = "2 passed, 1 skipped"
    assert ledger.run(THEOREMS) == 1
    said.update(text="1 failed", code=1)
    assert ledger.run(THEOREMS) == 1


def test_the_table_counts_levels(capsys: pytest.CaptureFixture[str]) -> None:
    assert ledger.main([]) == 0
    said = capsys.readouterr().out
    assert all(f"\n{theorem.id} " in said for theorem in THEOREMS)
    counts = [int(n) for n in re.findall(rf"^ *(\d+)  (?:{'|'.join(ledger.LEVELS)})$", said, re.M)]
    assert sum(counts) == len(THEOREMS)
