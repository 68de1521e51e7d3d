"""A policy and a router that exist only here: command line, files, verdict, compare, plan."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pytest

import llmq
from llmq import policies
from llmq.cli import main
from llmq.errors import InputError
from llmq.optimality.networks import draw_network
from llmq.optimality.saturation.blind import is_blind
from llmq.optimality.verdict import stability_test
from llmq.policies import (
    Blocks,
    LeastWork,
    RoundRobin,
    Router,
    Sarathi,
    parse,
    register_policy,
    register_router,
    text,
)
from llmq.policies._registry import POLICIES, ROUTERS
from llmq.policies.contract.blocks import Budget, Together, View
from llmq.policies.contract.routers import Signals

CHIP = llmq.Engine(
    llmq.BatchTime.affine(base=0.01, per_token=1e-4), token_budget=64, max_seqs=8, kv_tokens=640
)
MIX = {"x": llmq.RequestClass(20, 5)}
WORK = llmq.Workload.poisson(10.0, MIX)


@dataclass(frozen=True)
class Longest:
    """The longest prompt first."""

    token_budget: int | None = None
    weight: float = 1.0
    side: Literal["long", "short"] = "long"
    route: Router = field(default_factory=RoundRobin)
    name: ClassVar[str] = "longest"
    sees: ClassVar[frozenset[str]] = frozenset({"prompt"})

    def key(self, view: View):
        sign = -1 if self.side == "long" else 1
        group = np.where(view.decoding, 0, np.where(view.resident, 1, 2))
        return group, sign * self.weight * view.prompt, view.row

    @property
    def blocks(self) -> Blocks:
        return Blocks(key=self.key, route=self.route)


@dataclass(frozen=True)
class Twin:
    """The blocks of Sarathi, which says that decodes advance together."""

    token_budget: int | None = None
    name: ClassVar[str] = "twin"
    sees: ClassVar[frozenset[str]] = frozenset({"prompt"})

    @property
    def blocks(self) -> Blocks:
        return Blocks(together=Together())


@dataclass(frozen=True)
class Nearly(Router):
    """The engine with the fewest requests, where a difference of ``slack`` does not count."""

    slack: int = 0
    name: ClassVar[str] = "nearly"
    sees: ClassVar[frozenset[str]] = frozenset({"requests"})

    def pick(self, signals: Signals) -> int:
        return int(np.argmax(signals.requests <= signals.requests.min() + self.slack))


@pytest.fixture(autouse=True)
def _registered(monkeypatch):
    monkeypatch.setattr(POLICIES, "registered", {})
    monkeypatch.setattr(ROUTERS, "registered", {})
    register_policy(Longest)
    register_policy(Twin)
    register_router(Nearly)


# ------------------------------------------------------------------------------------- by name


@pytest.mark.parametrize(
    "one",
    [
        Longest(),
        Longest(token_budget=32, weight=2.5, side="short"),
        Longest(route=Nearly(slack=3)),
        Sarathi(route=Nearly()),
        Sarathi(route=policies.PowerOfD(3)),
    ],
    ids=text,
)
def test_text_and_back(one):
    assert parse(text(one)) == one


def test_names_are_listed_and_near_ones_found():
    assert next(iter(policies.policy_kinds())) == "longest"
    assert next(iter(policies.router_kinds())) == "nearly"
    with pytest.raises(InputError, match="unknown policy 'longst'; did you mean 'longest'"):
        parse("longst")
    with pytest.raises(InputError, match="unknown router 'nearli'; did you mean 'nearly'"):
        parse("sarathi:route=nearli")
    with pytest.raises(InputError, match="router nearly: no field 'slak'; did you mean 'slack'"):
        parse("sarathi:route=nearly:slak=1")


ENGINE = ["--engine", "llama-3.1-8b/h100"]
TRAFFIC = ["--prompt", "300", "--output", "8", "--rate", "10"]


def test_every_command_knows_them(capsys, tmp_path):
    def said(*words: str, code: int = 0) -> Any:
        assert main([*words, "--json"]) == code
        return json.loads(capsys.readouterr().out)

    asked = "longest:token_budget=256,route=nearly:slack=1"
    short = ["--requests", "60", "--replications", "2"]
    found = said("simulate", "--policy", asked, *ENGINE, *TRAFFIC, *short, "--engines", "2")
    assert found["policy"] == asked
    found = said("compare", "longest", "vllm", "twin", *ENGINE, *TRAFFIC, *short)
    assert {row["policy"] for row in found["policies"]} == {"longest", "vllm", "twin"}
    targets = ["--ttft", "1s", "--quantile", "0.9", *short]
    found = said("plan", "--policy", "longest", *ENGINE, *TRAFFIC, *targets)
    assert found["chosen"]["policy"] == "longest"
    assert said("region", "--policy", "longest:token_budget=256", *ENGINE, *TRAFFIC)
    assert said("verdict", "longest", "--networks", "1")["policy"] == "longest"
    found = said("policies", "lon")
    (row,) = found["policies"]
    assert row["title"] == "The longest prompt first."
    assert row["fields"]["side"] == "long"
    assert said("policies", "nearly")["routers"][0]["fields"] == {"slack": "0"}
    file = tmp_path / "plan.toml"
    file.write_text(
        '[traffic]\nrate = 5.0\n[classes.x]\nprompt = 300\noutput = 8\n[slo]\nttft = "1s"\n'
        "quantile = 0.9\n[simulation]\nrequests = 60\nreplications = 2\n"
        f'[[candidates]]\nengine = "llama-3.1-8b/h100"\npolicy = "{asked}"\n',
        encoding="utf-8",
    )
    assert said("simulate", str(file))["policy"] == asked
    assert said("plan", str(file))["chosen"]["policy"] == asked


def test_the_library_runs_them():
    run = llmq.simulate(CHIP, WORK, Longest(), replications=2, requests=50, rng=1, check=True)
    assert run.checks > 0
    both = llmq.compare(CHIP, WORK, [Longest(), Twin()], replications=3, requests=60, rng=1)
    assert math.isfinite(both.difference("twin", "ttft").mean)
    network = draw_network(1)
    assert stability_test(Longest(), network, 0.8, rng=1).status == "stable"
    fleet = llmq.Fleet({"a": (CHIP, 3)})
    busy = WORK.at_rate(200.0)
    run = llmq.simulate(fleet, busy, Sarathi(route=Nearly(1)), requests=50, rng=1, check=True)
    assert all(tally.iterations for tally in run.tallies[0])


def test_a_promise_opens_the_fast_simulators():
    """Decodes advance together: calendar and lockstep run it, and agree with the reference."""
    runs = [
        llmq.simulate(CHIP, WORK, Twin(), replications=4, requests=80, rng=3, simulator=engine)
        for engine in ("reference", "calendar", "vector")
    ]
    for other in runs[1:]:
        np.testing.assert_allclose(other.requests.finish, runs[0].requests.finish, rtol=1e-12)


def test_a_router_that_does_not_list_the_class_is_not_shown_it():
    seen = set()

    @dataclass(frozen=True)
    class Curious(Router):
        name: ClassVar[str] = "curious"
        sees: ClassVar[frozenset[str]] = frozenset({"work"})

        def pick(self, signals: Signals) -> int:
            seen.add(signals.klass)
            return 0

    fleet = llmq.Fleet({"a": (CHIP, 2)})
    llmq.simulate(fleet, WORK, Sarathi(route=Curious()), requests=10, rng=1)
    assert seen == {""}
    assert is_blind(Curious())
    assert is_blind(Nearly())
    assert is_blind(LeastWork())
    assert not is_blind(policies.PriceWeighted({"x": (1.0, 1.0)}))
    assert not is_blind(policies.PASCAL().blocks.route)


# ------------------------------------------------------------------------------ from a shell

MODULE = '''
from dataclasses import dataclass
from typing import ClassVar
from llmq.policies import Blocks, register_policy

@register_policy
@dataclass(frozen=True)
class Mine:
    """By arrival."""
    token_budget: int | None = None
    name: ClassVar[str] = "mine"
    sees: ClassVar[frozenset[str]] = frozenset()

    @property
    def blocks(self):
        return Blocks(key=lambda view: (view.row,))
'''


def shell(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "llmq", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_a_module_of_ones_own_from_a_shell(tmp_path):
    (tmp_path / "mine.py").write_text(MODULE, encoding="utf-8")
    found = shell(tmp_path, "policies", "mine", "--import", "mine")
    assert "mine               By arrival." in found.stdout
    short = ["--requests", "50", "--replications", "2", "--workers", "2"]
    asked = ["simulate", "--import=mine", "--policy", "mine", *ENGINE, *TRAFFIC, *short]
    found = shell(tmp_path, *asked)
    assert (found.returncode, found.stderr) == (0, "")
    assert "STABLE" in found.stdout or "UNDECIDED" in found.stdout


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("absent", "--import 'absent': no module of this name; is absent.py in the folder"),
        ("mine.py", "write the name of the module, not of its file"),
        ("broken", "the module cannot be imported (ZeroDivisionError: 'division by zero')"),
        ("needs", "the module cannot be imported (ModuleNotFoundError: "),
        ("taken", "another policy is called 'sarathi': choose another name"),
    ],
)
def test_a_module_that_cannot_be_imported(tmp_path, name, words):
    (tmp_path / "broken.py").write_text("1 / 0\n", encoding="utf-8")
    (tmp_path / "needs.py").write_text("import no_such_module\n", encoding="utf-8")
    (tmp_path / "taken.py").write_text(MODULE.replace('"mine"', '"sarathi"'), encoding="utf-8")
    found = shell(tmp_path, "policies", "--import", name)
    assert found.returncode == 2
    assert words in found.stderr


# -------------------------------------------------------------------------- what is no policy


def changed(base: type, **names: object) -> type:
    return dataclass(frozen=True)(type(base.__name__, (base,), {"__module__": "x", **names}))


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (Longest(), "register the class of a policy, not Longest"),
        (dataclass(type("Thawed", (), {})), "Thawed is no frozen dataclass"),
        (changed(Longest, name="two words"), "name must be a word of the command line"),
        (changed(Longest, name="a:b"), "name must be a word of the command line"),
        (changed(Longest, name=None), "name must be a word of the command line"),
        (changed(Longest, name="vllm"), "another policy is called 'vllm': choose another name"),
        (changed(Longest), "another policy is called 'longest': choose another name"),
        (changed(Longest, name="m", sees="prompt"), "sees must be a set of names"),
        (
            changed(Longest, name="m", sees=frozenset({"outputs"})),
            "sees lists 'outputs', which nobody shows; did you mean 'output'",
        ),
        (changed(Longest, name="m", blocks=3), "blocks must be Blocks, got int"),
        (
            dataclass(frozen=True)(type("Bare", (), {"name": "m", "sees": frozenset()})),
            "Bare has no token_budget: write token_budget: int | None = None",
        ),
    ],
)
def test_what_is_no_policy_is_not_registered(kind, words):
    before = dict(POLICIES.registered)
    with pytest.raises(InputError, match="(?s)" + words.replace("|", r"\|")) as caught:
        register_policy(kind)
    assert POLICIES.registered == before
    assert "docs/policies.md" in str(caught.value) or "choose another name" in words


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (Nearly(), "register the class of a router, not Nearly"),
        (changed(Longest, name="m"), "a router is derived from llmq.policies.Router"),
        (changed(Router, name="m"), "chooses nothing: write split .* or pick"),
        (changed(Nearly, name="random"), "another router is called 'random'"),
        (changed(Nearly, name="m", sees={"load"}), "sees lists 'load', which nobody shows"),
    ],
)
def test_what_is_no_router_is_not_registered(kind, words):
    with pytest.raises(InputError, match=words):
        register_router(kind)
    assert list(ROUTERS.registered) == ["nearly"]


def test_a_class_that_is_defined_again_replaces_itself():
    again = dataclass(frozen=True)(type("Longest", (Longest,), {"__module__": Longest.__module__}))
    assert register_policy(again) is again
    assert type(parse("longest")) is again


def test_fields_that_text_cannot_hold():
    @register_policy
    @dataclass(frozen=True)
    class Needy:
        least: int
        table: dict = field(default_factory=dict)
        token_budget: int | None = None
        name: ClassVar[str] = "needy"
        sees: ClassVar[frozenset[str]] = frozenset()

        @property
        def blocks(self) -> Blocks:
            return Blocks()

    assert parse("needy:least=3") == Needy(3)
    with pytest.raises(InputError, match="policy needy needs least: write needy:least="):
        parse("needy")
    with pytest.raises(InputError, match="table cannot be written as text: make the policy in"):
        parse("needy:least=3,table=4")


# -------------------------------------------------------------- rules that a policy may break


@dataclass(frozen=True)
class Rigged:
    """Blocks with one fault."""

    made: Blocks
    token_budget: int | None = None
    name: ClassVar[str] = "rigged"
    sees: ClassVar[frozenset[str]] = frozenset()

    @property
    def blocks(self) -> Blocks:
        return self.made


def branches(view: View):
    return (view.prompt if view.prompt > 30 else view.row,)


def writes(view: View):
    view.decoding[:] = False
    return (view.row,)


def adds(view: View):
    rem = view.rem
    rem += 1
    return (rem,)


ROWS = llmq.Trace([0.0, 0.0, 0.1], [40, 60, 20], [10, 3, 30])
FAULTS: Mapping[str, tuple[Blocks, str]] = {
    "branch": (Blocks(key=branches), "its key is no array formula .* write np.where"),
    "loop": (
        Blocks(key=lambda v: ([-p for p in v.prompt.tolist()],)),
        "column 0 of its key is .* .list., not an array: no array formula",
    ),
    "float": (
        Blocks(key=lambda v: (v.row, math.floor(v.prompt))),
        "its key is no array formula .* such as np.floor",
    ),
    "names": (
        Blocks(key=lambda v: (v.row.astype(str),)),
        "column 0 of its key holds <U21, it must",
    ),
    "one array": (
        Blocks(key=lambda v: v.row),
        "its key returned an array of shape .*write .column,",
    ),
    "no columns": (Blocks(key=lambda v: ()), "its key returned .. .tuple."),
    "writes": (Blocks(key=writes), "its key writes to its view, which is read-only"),
    "adds": (Blocks(key=adds), "its key writes to its view, which is read-only"),
    "gate writes": (
        Blocks(gate=lambda v: (v.resident.__setitem__(0, True), None)),
        "its gate writes to its view",
    ),
    "mark writes": (Blocks(mark=lambda v: v.mark.fill(0)), "its mark writes to its view"),
    "key shape": (
        Blocks(key=lambda v: (v.row[:1],)),
        r"column 0 of its key has the shape \(1,\), the rows have \(2,\)",
    ),
    "key scalar": (
        Blocks(key=lambda v: (v.row, 1)),
        "column 1 of its key is 1 .int., not an array",
    ),
    "mask shape": (
        Blocks(gate=lambda v: (np.ones(5, bool), None)),
        r"the mask of its gate has the shape \(5,\), the rows have \(2,\)",
    ),
    "mask kind": (
        Blocks(gate=lambda v: (v.row, None)),
        "the mask of its gate holds int64, it must hold true or false",
    ),
    "no pair": (Blocks(gate=lambda v: v.decoding), "its gate returned an array .*, not a pair"),
    "wake": (
        Blocks(gate=lambda v: (v.decoding, "soon")),
        "its gate names the wake-up time 'soon': it must be seconds",
    ),
    "mark shape": (
        Blocks(mark=lambda v: np.zeros(9)),
        r"what its mark returned has the shape \(9,\), the rows have \(2,\)",
    ),
    "mark scalar": (Blocks(mark=lambda v: 1.5), r"what its mark returned is 1.5 \(float\)"),
    "nobody": (
        Blocks(gate=lambda v: (np.zeros(v.row.shape, bool), None)),
        "lets none of the 2 requests present run and names no wake-up time",
    ),
    "no tokens": (
        Blocks(budget=Budget(tokens=lambda v: 0)),
        "lets none of the 2 requests present run and names no wake-up time",
    ),
    "part of a token": (
        Blocks(budget=Budget(tokens=lambda v: 12.5)),
        "its budget of tokens is 12.5: it must be a whole number",
    ),
    "negative": (Blocks(budget=Budget(tokens=lambda v: -3)), "its budget of tokens is -3"),
}


@pytest.mark.parametrize(("blocks", "rule"), FAULTS.values(), ids=FAULTS)
def test_a_rule_that_is_broken_is_named_at_the_first_step(blocks, rule):
    with pytest.raises(llmq.PolicyError, match=rule) as caught:
        llmq.simulate(CHIP, ROWS, Rigged(blocks))
    error = caught.value
    assert str(error).startswith("rigged, iteration 0 (t = 0 s): ")
    assert "(docs/policies.md)" in str(error)
    assert (error.policy, error.iteration, error.time) == ("rigged", 0, 0.0)
    assert str(error.rule) in str(error)


def over(view, blocks, chunk):
    from llmq.policies.contract.fill import plan

    return plan(view._replace(tokens=100), blocks, 100)


def test_a_plan_over_the_budget(monkeypatch):
    from llmq.sim._reference import engine

    monkeypatch.setattr(engine, "plan", over)
    with pytest.raises(
        llmq.PolicyError,
        match=r"rigged, iteration 0 .*: 100 tokens exceed token_budget 64: .*docs/policies.md",
    ):
        llmq.simulate(CHIP, ROWS, Rigged(Blocks()), simulator="reference")


@pytest.mark.parametrize(
    ("victim", "rule"),
    [
        (lambda view, order, row, served: 99, "its victim is 99, none of the 3 rows present"),
        (lambda view, order, row, served: "last", "its victim is 'last', none of the"),
        (
            lambda view, order, row, served: int(np.argmin(view.resident)),
            "its victim is row 2, which is not in memory: return a resident",
        ),
    ],
)
def test_a_victim_that_cannot_leave(victim, rule):
    chip = CHIP.with_(kv_tokens=96, token_budget=128)
    rows = llmq.Trace([0.0, 0.0, 0.0], [30, 30, 60], [40, 40, 3])
    with pytest.raises(llmq.PolicyError, match=rule):
        llmq.simulate(chip, rows, Rigged(Blocks(victim=victim)))


@pytest.mark.parametrize("chosen", [2, -1, 0.0, None, True])
def test_a_router_that_names_no_engine(chosen):
    fixed = changed(Nearly, name="fixed", pick=lambda self, signals: chosen)
    fleet = llmq.Fleet({"a": (CHIP, 2)})
    with pytest.raises(
        llmq.PolicyError,
        match=r"router fixed: pick returned .*, which is no engine: .* from 0 to 1 "
        r"\(docs/routers.md\), asked for request 0 at t = 0 s",
    ):
        llmq.simulate(fleet, ROWS, Sarathi(route=fixed()))


@pytest.mark.parametrize(
    ("chosen", "rule"),
    [
        ([0, 1, 2], "split returned .* .list. for 3 arrivals"),
        (np.zeros(2, int), r"split returned an array of shape \(2,\) for 3 arrivals"),
        (np.zeros(3), "return an array of 3 whole numbers"),
        (np.array([0, 1, 2]), "split returned 2, which is no engine: .* from 0 to 1"),
        (np.array([0, -1, 0]), "split returned -1, which is no engine"),
    ],
)
def test_a_router_that_splits_badly(chosen, rule):
    fixed = changed(Nearly, name="fixed", split=lambda self, n, engines, rng: chosen)
    with pytest.raises(llmq.PolicyError, match=rule):
        llmq.simulate(llmq.Fleet({"a": (CHIP, 2)}), ROWS, Sarathi(route=fixed()))


def test_one_line_serves_a_run_and_many_lanes():
    """The checks take arrays whose last axis is the row, as a simulator of many lanes has them."""
    from llmq.policies.contract import checks

    views = []

    def spy(view: View):
        views.append(view)
        return Longest().key(view)

    rows = llmq.Trace([0.0] * 3, [40, 60, 20], [10, 3, 30])
    llmq.simulate(CHIP, rows, Rigged(Blocks(key=spy)))
    one = next(view for view in views if len(view.row) == 3)
    lanes = View(*(np.stack([c, c[::-1]]) if isinstance(c, np.ndarray) else c for c in one))
    columns = checks.key_of(Longest().blocks, lanes)
    for column, alone in zip(columns, checks.key_of(Longest().blocks, one), strict=True):
        np.testing.assert_array_equal(column, [alone, alone[::-1]])
    mask, wake = checks.gate_of(Blocks(), lanes)
    assert (mask.shape, wake) == ((2, 3), None)
    with pytest.raises(llmq.PolicyError, match=r"the rows have \(2, 3\)"):
        checks.key_of(Blocks(key=lambda v: (v.row[0],)), lanes)
    assert checks.over_budget(np.full((2, 3), 30), 64).startswith("90 tokens exceed")
