"""The core gives the trajectory of the reference, to the last bit where times are dyadic."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest

import llmq
from llmq import policies
from llmq.policies.contract.blocks import Blocks, one_run_only
from llmq.policies.contract.view import View
from llmq.policies.fastertransformer import FasterTransformer
from llmq.policies.orca import Orca
from llmq.policies.rad import RAD
from llmq.sim._core.asked import OneRunOnlyError
from llmq.sim._core.engine import CoreLog, requests_of, run_core
from llmq.sim._core.state import State
from llmq.sim._core.step import run as step
from llmq.sim._dispatch import serve
from llmq.sim._fast.vector.engine import Lanes

TICK = 2.0**-20  # sums below 2**33 of them are exact
UNIT = TICK * 1024
NAMES = ("free", "paying", "other")
TIMES = ("prefill_end", "first_token", "finish", "boundary", "resumed")
SUMS = ("iterations", "tokens", "kv_area", "busy", "clock", "evictions", "recomputed", "swapped")
WHOLE = {"orca", "v0", "fcfs", "rr", "pascal"}  # prompts are not cut
RANKED = {"fcfs", "rr", "pascal"}
STATES = ("no KV limit", "KV blocks", "evictions", "swap", "reasoning")


def policy_of(name: str, rng: np.random.Generator) -> policies.Policy:
    """Draw the parameters of a policy."""

    def one(*choices: Any) -> Any:
        return choices[rng.integers(len(choices))]

    mark, route = one(0.0, 0.01, 0.1), policies.RoundRobin()
    make = {
        "sarathi": lambda: policies.Sarathi(watermark=mark),
        "queue": lambda: policies.Sarathi(order="queue", watermark=mark),
        "v1": lambda: policies.VLLM(watermark=mark, whole_must_fit=one(True, False)),
        "v0": lambda: policies.VLLM(version="v0", watermark=mark),
        "orca": lambda: Orca(max_output=one(50, 20), watermark=mark),
        "fastertransformer": lambda: FasterTransformer(watermark=mark),
        "rad": lambda: RAD(tile=one(1, 2, 4, 16), cycle=one(None, 1, 2), watermark=mark),
        "simple-chunking": lambda: policies.SimpleChunking(watermark=mark),
        "priority": lambda: policies.Priority(one((), ("paying",), ("other", "free"))),
        "trail": lambda: policies.TRAIL(one(0, 0.5, 0.8, 1), one("backfill", "head")),
        "trail, future": lambda: policies.TRAIL(one(0, 0.8), admission="future"),
        "slai": lambda: policies.SLAI(
            order=one("spf", "fcfs", "paying"),
            tbt=one(0.05, 0.2, 0.5),
            deadlines={"free": one(0.02, 0.1, 0.5), "paying": one(0.1, 0.2, 1.0)},
            below=one(0.0, 1.0, 5.0, math.inf),
            above=one(0.0, 2.0, 10.0),
            limit=one(0.0, 0.5, 0.8, 0.96, 1.0),
            decodes=one(1, 2, 4, 8, 128),
            watermark=mark,
        ),
        "fcfs": lambda: policies.FCFS(route=route),
        "rr": lambda: policies.RR(quantum=one(1, 3, 10), route=route),
        "pascal": lambda: policies.PASCAL(quantum=one(1, 3, 10), demote=one(5, 20, 100)),
        "maxweight": lambda: policies.MaxWeight(watermark=mark),
    }
    return make[name]()


POLICIES = (
    *("sarathi", "queue", "v1", "v0", "orca", "fastertransformer", "rad", "simple-chunking"),
    *("priority", "trail", "trail, future", "slai", "fcfs", "rr", "pascal", "maxweight"),
)


@dataclass
class System:
    """Some lanes of one engine, with room for the longest request."""

    engine: llmq.Engine
    policy: policies.Policy
    lanes: Lanes
    klass: np.ndarray


def system(name: str, seed: int) -> System:
    """Draw a system."""
    rng = np.random.default_rng(seed)

    def one(*choices: Any) -> Any:
        return choices[rng.integers(len(choices))]

    shape = int(rng.integers(1, 6)), int(rng.integers(1, 26))
    arrival = rng.integers(0, one(20, 100, 400, 1500), shape).cumsum(axis=1) * UNIT
    prompt, output = rng.integers(1, 41, shape), rng.integers(1, 41, shape)
    hidden = (rng.random(shape) * output).astype(int) * (rng.random(shape) < 0.5)
    law = llmq.BatchTime.roofline(
        floor=int(rng.integers(0, 64)) * UNIT,
        base=int(rng.integers(1, 64)) * UNIT,
        per_token=int(rng.integers(0, 64)) * TICK * 16,
        per_kv=int(rng.integers(0, 8)) * TICK,
        per_kv_mixed=int(rng.integers(0, 8)) * TICK,
        per_work=one(0, 2) * TICK,
    )
    conventions = one(llmq.ENGINE, llmq.THEORY) if name not in RANKED else llmq.ENGINE
    engine = llmq.Engine(
        law,
        token_budget=one(100, 200) if name in WHOLE else one(4, 16, 32, 64),
        max_seqs=one(None, 2, 4, 8, 16),
        kv_tokens=one(None, 128, 160, 320, 640),
        kv_block=one(1, 4, 16),
        prefill_chunk=None if name in WHOLE else one(None, 8, 3),
        per_swap=one(0, 1) * TICK * 64,
        conventions=conventions,
    )
    count = rng.integers(1, shape[1] + 1, shape[0]) if rng.random() < 0.3 else None
    lanes = Lanes(arrival, prompt, output, hidden if rng.random() < 0.6 else None, count)
    return System(engine, policy_of(name, rng), lanes, rng.integers(0, 3, shape))


def run(one: System) -> CoreLog:
    return run_core(one.engine, one.policy, one.lanes, one.klass, NAMES)


def check(one: System) -> Counter[str]:
    """Compare all lanes; how many lanes there were of each kind."""
    log, seen = run(one), Counter[str]()
    for lane in range(len(one.klass)):
        n = one.klass.shape[1] if one.lanes.count is None else int(one.lanes.count[lane])
        fields = (one.lanes.arrival, one.lanes.prompt, one.lanes.output, one.lanes.hidden)
        columns = [None if x is None else x[lane, :n] for x in fields]
        trace = llmq.Trace(*columns, one.klass[lane, :n], NAMES)
        rng = np.random.default_rng(0)
        try:
            path = serve(trace, (one.engine,), one.policy, choice="reference", rng=rng)
        except llmq.PolicyError:
            assert log.undone[lane]
            seen["refused"] += 1
            continue
        assert not log.undone[lane]
        tally = path.tallies[0]
        for name in TIMES:
            mine = getattr(log, name)[lane]
            np.testing.assert_array_equal(mine[:n], getattr(path.log, name), err_msg=name)
            assert np.isnan(mine[n:]).all()
        for name in SUMS:
            assert getattr(log, name)[lane] == getattr(tally, name), name
        seen["no KV limit" if one.engine.kv_tokens is None else "KV blocks"] += 1
        seen["evictions"] += tally.evictions > 0
        seen["swap"] += tally.swapped > 0
        seen["reasoning"] += bool(trace.reasoning.any())
    return seen


@pytest.mark.parametrize("name", POLICIES)
def test_core_equals_reference(name: str) -> None:
    seen = Counter[str]()
    for seed in range(8 if name == "maxweight" else 12):
        seen += check(system(name, seed))
    assert seen["KV blocks"] + seen["no KV limit"] > 0


# Why a policy never does something: what the empty cells of the matrix stand for.
NEVER = {(name, "swap"): "drops the KV of a victim" for name in POLICIES if name not in RANKED}


@pytest.mark.slow
def test_the_matrix_of_policies_and_memory(capsys: pytest.CaptureFixture[str]) -> None:
    table = {}
    for name in POLICIES:
        seen = Counter[str]()
        wanted = [state for state in STATES if (name, state) not in NEVER]
        for seed in range(1000, 1060):
            seen += check(system(name, seed))
            # Orca and RAD evict only where a request outgrows the room that is kept for it.
            if seed > 1010 and all(seen[state] for state in wanted):
                break
        table[name] = seen
    lines = [f"{'lanes compared':<20}" + "".join(f"{state:>14}" for state in STATES)]
    for name, seen in table.items():
        lines.append(f"{name:<20}" + "".join(f"{seen[state]:>14}" for state in STATES))
        for state in STATES:
            assert bool(seen[state]) != ((name, state) in NEVER), (name, state)
    lines += [f"{name}, {state}: {why}" for (name, state), why in NEVER.items()]
    with capsys.disabled():
        print("", *lines, sep="\n")


# ------------------------------------------------------------------------ a policy of one's own


@dataclass(frozen=True)
class LongestFirst:
    """New requests by prompt, the longest first; written as a newcomer would."""

    token_budget: int | None = None
    name: ClassVar[str] = "longest-first"
    sees: ClassVar[frozenset[str]] = frozenset({"prompt"})

    def key(self, view: View) -> tuple[np.ndarray, ...]:
        return np.where(view.resident, 0, 1), -view.prompt, view.row

    @property
    def blocks(self) -> Blocks:
        return Blocks(key=self.key)


@dataclass(frozen=True)
class OneRun(LongestFirst):
    """A rule that is right for one run, and wrong where ``any`` means any of all runs."""

    name: ClassVar[str] = "one-run"

    def key(self, view: View) -> tuple[np.ndarray, ...]:
        if view.decoding.any():
            return np.where(view.resident, 0, 1), view.row
        return np.where(view.resident, 0, 1), -view.prompt, view.row


@dataclass(frozen=True)
class Marked(OneRun):
    """The same, and it says so."""

    name: ClassVar[str] = "marked"

    @one_run_only
    def key(self, view: View) -> tuple[np.ndarray, ...]:
        assert view.row.ndim == 1
        return OneRun.key(self, view)


@pytest.mark.parametrize("kind", [LongestFirst, OneRun, Marked])
def test_a_policy_of_ones_own_equals_reference(kind: type[LongestFirst]) -> None:
    for seed in range(12):
        one = system("sarathi", seed)
        one.policy = kind()
        check(one)


def test_a_formula_of_one_run_is_found_out() -> None:
    found = 0
    for seed in range(12):
        one = system("sarathi", seed)
        data = requests_of(one.lanes, one.klass, NAMES)
        try:
            step(State(data, one.engine, OneRun.sees), OneRun().blocks)
        except OneRunOnlyError as error:
            found += str(error) == "key"
    assert found > 2


def test_a_lane_that_waits_for_ever_is_left_to_the_reference() -> None:
    @dataclass(frozen=True)
    class Closed(LongestFirst):
        name: ClassVar[str] = "closed"

        @property
        def blocks(self) -> Blocks:
            return Blocks(gate=lambda view: (np.zeros(view.row.shape, bool), None))

    one = system("sarathi", 3)
    one.policy = Closed()
    assert run(one).undone.all()
    with pytest.raises(llmq.PolicyError, match="closed"):
        llmq.simulate(
            one.engine,
            llmq.Workload.poisson(1.0, {"all": llmq.RequestClass(8, 8)}),
            Closed(),
            requests=10,
            replications=2,
            rng=1,
        )


@pytest.mark.parametrize("name", ["priority", "trail", "slai", "rr"])
def test_a_lane_does_not_depend_on_the_others(name: str) -> None:
    one = system(name, 5)
    law = llmq.BatchTime.affine(base=0.0123, per_token=3.1e-5, per_kv=1.7e-7, per_work=1.3e-9)
    one.engine = one.engine.with_(law=law)  # times that do not add up exactly
    assert len(one.klass) > 1
    log = run(one)
    for lane in range(len(one.klass)):
        columns = (one.lanes.arrival, one.lanes.prompt, one.lanes.output)
        hidden = None if one.lanes.hidden is None else one.lanes.hidden[[lane]]
        count = None if one.lanes.count is None else one.lanes.count[[lane]]
        single = Lanes(*(x[[lane]] for x in columns), hidden, count)
        alone = run_core(one.engine, one.policy, single, one.klass[[lane]], NAMES)
        for field in (*TIMES, *SUMS):
            mine, theirs = getattr(log, field)[lane], getattr(alone, field)[0]
            np.testing.assert_array_equal(mine, theirs, err_msg=field)
