"""The contract of a policy: every shipped one keeps it, every rigged one is refused by name."""

from __future__ import annotations

import dataclasses
import pickle
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import pytest

import llmq
from llmq import policies
from llmq.policies.contract.blocks import Admit, Blocks, Budget
from llmq.policies.contract.fill import plan
from llmq.policies.contract.view import Batch, View
from llmq.sim._reference import engine as reference

LAW = llmq.BatchTime.affine(base=0.01, per_token=1e-4)
CHIP = llmq.Engine(LAW, token_budget=64, max_seqs=8, kv_tokens=640, kv_block=16)
TRACE = llmq.Trace([0.0, 0.0, 0.1, 0.2, 0.2], [40, 60, 20, 33, 5], [10, 3, 30, 8, 1])
# Those that give every decode a token, or evict it, in each iteration.
WORK_CONSERVING = {"sarathi", "orca", "priority"}


@pytest.fixture(params=policies.ALL, ids=lambda kind: kind.name)
def policy(request: pytest.FixtureRequest) -> policies.Policy:
    # Small quanta and short deadlines, so that a small run meets every rule.
    small = {"quantum": 4, "tbt": 0.2, "max_output": 32, "tile": 8}
    fields = {name: x for name, x in small.items() if name in request.param.__slots__}
    return request.param(token_budget=None, **fields)


def watch(monkeypatch: pytest.MonkeyPatch, chip, trace, policy) -> list[View]:
    """Every view that the policy was shown."""
    seen: list[View] = []

    def spy(view: View, blocks: Blocks, chunk: int) -> Batch:
        seen.append(view)
        return plan(view, blocks, chunk)

    monkeypatch.setattr(reference, "plan", spy)
    llmq.simulate(chip, trace, policy, simulator="reference")
    return seen


@pytest.fixture
def views(policy: policies.Policy, monkeypatch: pytest.MonkeyPatch) -> list[View]:
    return watch(monkeypatch, CHIP, TRACE, policy)


def test_a_policy_is_a_frozen_picklable_value(policy) -> None:
    assert dataclasses.is_dataclass(policy)
    assert pickle.loads(pickle.dumps(policy)) == policy
    with pytest.raises(dataclasses.FrozenInstanceError):
        policy.token_budget = 5
    assert policies.parse(policy.name) == type(policy)()


def test_a_policy_is_a_pure_function_of_the_view(policy, views) -> None:
    assert len(views) > 20
    for view in views:
        first = plan(view, policy.blocks, CHIP.chunk)
        again = plan(view, pickle.loads(pickle.dumps(policy)).blocks, CHIP.chunk)
        assert first == again


def test_the_view_is_read_only_and_hides_the_output(policy, views) -> None:
    for view in views:
        assert (view.output is None) == ("output" not in policy.sees)
        for column in ("kv", "rem", "held", "generated", "queued", "prompt"):
            with pytest.raises(ValueError, match="read-only"):
                getattr(view, column)[0] = 1


def test_every_row_either_runs_or_somebody_else_does(policy, views) -> None:
    for view in views:
        assert plan(view, policy.blocks, CHIP.chunk).rows


def left_out(view: View, batch: Batch) -> bool:
    """Whether a decode waits, or a prefill that fits although tokens are left."""
    if set(np.flatnonzero(view.decoding)) - set(batch.rows):
        return True
    fits = ~view.decoding & (-(-view.rem // view.block) <= view.free)
    return sum(batch.tokens) < view.tokens and bool(set(np.flatnonzero(fits)) - set(batch.rows))


def test_work_conserving_policies_leave_no_decode_out(policy, views, monkeypatch) -> None:
    if policy.name not in WORK_CONSERVING:
        # Memory for two of the requests, and a last one whose prefill takes the whole budget.
        trace = llmq.Trace([0.0, 0.0, 0.0, 0.2], [20, 30, 30, 63], [30, 30, 30, 1])
        views = watch(monkeypatch, CHIP.with_(kv_tokens=160), trace, policy)
        wasted = [view for view in views if left_out(view, plan(view, policy.blocks, CHIP.chunk))]
        assert wasted, "never wasted a place in a batch: add it to WORK_CONSERVING"
        return
    for view in views:
        batch = plan(view, policy.blocks, CHIP.chunk)
        assert set(np.flatnonzero(view.decoding)) <= set(batch.rows) | set(batch.evict)


def test_runs_hold_their_invariants(policy) -> None:
    simulators = ("reference", "calendar") if policy.blocks.together else ("reference",)
    for conventions in (llmq.ENGINE, llmq.THEORY):
        for simulator in simulators:
            chip = CHIP.with_(conventions=conventions)
            llmq.simulate(chip, TRACE, policy, simulator=simulator).check()


# ------------------------------------------------------------------------------------ rigged ones


@dataclass(frozen=True)
class Rigged:
    """A policy whose plans break a rule."""

    spoil: object
    token_budget: int | None = None
    name: ClassVar[str] = "rigged"
    sees: ClassVar[frozenset[str]] = frozenset({"prompt"})

    @property
    def blocks(self) -> Blocks:
        return Blocks()


def _spoilt(monkeypatch: pytest.MonkeyPatch, change) -> pytest.ExceptionInfo:
    def bad(view: View, blocks: Blocks, chunk: int) -> Batch:
        return change(view, plan(view, blocks, chunk))

    monkeypatch.setattr(reference, "plan", bad)
    with pytest.raises(llmq.PolicyError) as caught:
        llmq.simulate(CHIP, TRACE, Rigged(None), simulator="reference")
    return caught


RULES = (
    (
        lambda v, b: b._replace(tokens=(65, *b.tokens[1:])),
        r"rigged, iteration 0 \(t = 0 s\): \d+ tokens exceed token_budget 64",
    ),
    (
        lambda v, b: b._replace(rows=(b.rows[0], b.rows[0]), tokens=(1, 1), reserve=(3, 3)),
        "a row is served twice in one iteration",
    ),
    (lambda v, b: b._replace(evict=b.rows[:1]), "a row is served and evicted in one iteration"),
    (
        lambda v, b: b._replace(rows=b.rows[:1], tokens=(41,), reserve=(3,)),
        "request 0 gets 41 tokens, it can take 1 to 40",
    ),
    (
        lambda v, b: b._replace(rows=b.rows[:1], tokens=(0,), reserve=(3,)),
        "request 0 gets 0 tokens, it can take 1 to 40",
    ),
    (
        lambda v, b: b._replace(rows=b.rows[:1], tokens=(40,), reserve=(2,)),
        "request 0 holds too few KV blocks for its tokens",
    ),
    (
        lambda v, b: b._replace(rows=b.rows[:1], tokens=(40,), reserve=(41,)),
        "the plan needs 1 KV blocks more than there are",
    ),
    (
        lambda v, b: Batch((), (), ()),
        "lets none of the 2 requests present run and names no wake-up time",
    ),
)


@pytest.mark.parametrize(("change", "rule"), RULES, ids=[rule[:40] for _, rule in RULES])
def test_a_plan_that_breaks_a_rule_is_refused_by_name(monkeypatch, change, rule) -> None:
    caught = _spoilt(monkeypatch, change)
    assert caught.match(rule)
    assert caught.value.policy == "rigged"
    assert caught.value.iteration == 0


def test_two_tokens_for_a_decode_are_refused(monkeypatch) -> None:
    def change(view: View, batch: Batch) -> Batch:
        tokens = tuple(
            2 if view.decoding[i] else x for i, x in zip(batch.rows, batch.tokens, strict=True)
        )
        return batch._replace(tokens=tokens)

    assert _spoilt(monkeypatch, change).match(r"gets 2 tokens, it can take 1 to 1")


def test_too_many_residents_are_refused(monkeypatch) -> None:
    chip = CHIP.with_(max_seqs=1)

    def bad(view: View, blocks: Blocks, chunk: int) -> Batch:
        return plan(view._replace(slots=8), blocks, chunk)

    monkeypatch.setattr(reference, "plan", bad)
    with pytest.raises(llmq.PolicyError, match="2 requests exceed max_seqs 1"):
        llmq.simulate(chip, TRACE, Rigged(None), simulator="reference")


@dataclass(frozen=True)
class Sleeper:
    """Waits until a given time with work present: allowed, because it names the time."""

    until: float
    token_budget: int | None = None
    name: ClassVar[str] = "sleeper"
    sees: ClassVar[frozenset[str]] = frozenset()

    @property
    def blocks(self) -> Blocks:
        def gate(view: View):
            awake = view.time >= self.until
            return np.full(view.row.shape, awake), None if awake else self.until

        return Blocks(gate=gate)


def test_a_gate_that_names_its_wake_up_is_obeyed() -> None:
    run = llmq.simulate(CHIP, llmq.Trace([0.0], [8], [1]), Sleeper(5.0))
    assert run.requests.finish[0, 0] == 5.0 + LAW(8, 8, mixed=True)
    run.check()


@dataclass(frozen=True)
class Backfill:
    """Sarathi that lets small prompts pass a large one that does not fit."""

    head_of_line: bool
    token_budget: int | None = None
    admit: Admit = field(default_factory=lambda: Admit(watermark=0.0))
    name: ClassVar[str] = "backfill"
    sees: ClassVar[frozenset[str]] = frozenset({"prompt"})

    @property
    def blocks(self) -> Blocks:
        return Blocks(budget=Budget(head_of_line=self.head_of_line), admit=self.admit)


def test_head_of_line_and_backfill_differ_where_memory_is_short() -> None:
    chip = llmq.Engine(LAW, token_budget=512, kv_tokens=320, kv_block=16)
    trace = llmq.Trace([0.0, 0.0, 0.0], [160, 300, 16], [100, 2, 2])
    strict = llmq.simulate(chip, trace, Backfill(head_of_line=True)).requests.finish[0]
    loose = llmq.simulate(chip, trace, Backfill(head_of_line=False)).requests.finish[0]
    assert strict[2] > strict[1]  # the small one waits behind the large one
    assert loose[2] < loose[0] < loose[1]  # or passes it


@dataclass(frozen=True)
class ShortestPrompt:
    """Preemptive: a shorter prompt may push out longer residents."""

    bump: bool
    reserve: str = "prompt"
    token_budget: int | None = None
    name: ClassVar[str] = "shortest"
    sees: ClassVar[frozenset[str]] = frozenset({"prompt"})

    @property
    def blocks(self) -> Blocks:
        return Blocks(
            key=lambda view: (view.prompt, view.row),
            admit=Admit(watermark=0.0, bump=self.bump, reserve=self.reserve),
        )


def test_bump_pushes_out_residents_that_come_later_in_the_order() -> None:
    # One second an iteration; 20 blocks of 16: the long request (18) leaves no room for 4 more.
    chip = llmq.Engine(
        llmq.BatchTime.affine(base=1.0, per_token=0.0), token_budget=512, kv_tokens=320
    )
    trace = llmq.Trace([0.0, 1.5], [280, 60], [5, 3])
    waits = llmq.simulate(chip, trace, ShortestPrompt(bump=False))
    bumps = llmq.simulate(chip, trace, ShortestPrompt(bump=True))
    assert waits.requests.finish[0].tolist() == [5.0, 8.0]
    # Pushed out at 2.0 with two tokens made; comes back at 5.0, recomputes 282 tokens, three more.
    assert bumps.requests.finish[0].tolist() == [8.0, 5.0]
    assert bumps.evictions == 1
    assert bumps.tallies[0][0].recomputed == 281
    bumps.check()


def test_bump_frees_slots_too() -> None:
    chip = llmq.Engine(llmq.BatchTime.affine(base=1.0, per_token=0.0), max_seqs=1)
    trace = llmq.Trace([0.0, 1.5], [280, 60], [5, 3])
    bumps = llmq.simulate(chip, trace, ShortestPrompt(bump=True))
    assert bumps.requests.finish[0].tolist() == [8.0, 5.0]


def test_reserving_a_chunk_admits_what_reserving_the_prompt_does_not() -> None:
    chip = llmq.Engine(
        llmq.BatchTime.affine(base=1.0, per_token=0.0),
        token_budget=512,
        prefill_chunk=32,
        kv_tokens=448,
    )
    trace = llmq.Trace([0.0, 0.0], [160, 320], [2, 2])
    prompt = llmq.simulate(chip, trace, ShortestPrompt(bump=False))
    chunk = llmq.simulate(chip, trace, ShortestPrompt(bump=False, reserve="chunk"))
    assert prompt.requests.prefill_end[0].tolist() == [5.0, 16.0]
    assert chunk.requests.prefill_end[0].tolist() == [5.0, 10.0]
    chunk.check()


def test_exact_schedule_of_vllm_v0() -> None:
    # t = 1 whatever the batch. Prompts first, alone; decodes wait while prompts can be admitted.
    chip = llmq.Engine(llmq.BatchTime.affine(base=1.0, per_token=0.0), token_budget=100)
    trace = llmq.Trace([0.0, 0.5, 3.0], [80, 60, 100], [3, 2, 1])
    for simulator in ("reference", "calendar"):
        run = llmq.simulate(chip, trace, policies.VLLM(version="v0"), simulator=simulator)
        assert run.requests.prefill_end[0].tolist() == [1.0, 2.0, 4.0]
        assert run.requests.finish[0].tolist() == [5.0, 3.0, 4.0]
        assert run.n_iterations[0] == 5


def test_exact_schedule_of_sarathi() -> None:
    # The same requests, mixed: the third prompt shares its iterations with the decodes.
    chip = llmq.Engine(llmq.BatchTime.affine(base=1.0, per_token=0.0), token_budget=100)
    trace = llmq.Trace([0.0, 0.5, 3.0], [80, 60, 100], [3, 2, 1])
    for simulator in ("reference", "calendar"):
        run = llmq.simulate(chip, trace, policies.Sarathi(), simulator=simulator)
        assert run.requests.prefill_end[0].tolist() == [1.0, 2.0, 4.0]
        assert run.requests.finish[0].tolist() == [3.0, 3.0, 4.0]
        assert run.n_iterations[0] == 4
