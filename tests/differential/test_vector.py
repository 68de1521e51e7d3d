"""Lanes in lockstep give the trajectory of the reference, each as if it ran alone."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import util
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import llmq
from llmq import policies
from llmq.errors import InputError
from llmq.policies.contract.blocks import Admit, Blocks, Together
from llmq.policies.fastertransformer import FasterTransformer
from llmq.policies.orca import Orca
from llmq.policies.rad import RAD
from llmq.policies.vllm import OneKind
from llmq.sim._fast.calendar.jump import NotTogetherError
from llmq.sim._fast.vector.engine import LaneLog, Lanes, run_lanes, runs

_spec = util.spec_from_file_location("strategies", Path(__file__).with_name("strategies.py"))
assert _spec is not None
assert _spec.loader is not None
strategies = util.module_from_spec(_spec)
_spec.loader.exec_module(strategies)
systems = strategies.systems

TIMES = ("prefill_end", "first_token", "finish")
SUMS = ("iterations", "tokens", "kv_area", "busy", "clock")


@dataclass(frozen=True)
class Cycles:
    """Gate: at most so many prefills start before the engine is empty again."""

    cycle: int

    def __call__(self, view):
        new = ~view.decoding & ~view.resident
        return ~new | (np.cumsum(new) <= self.cycle - view.started), None


@dataclass(frozen=True)
class Free:
    """What ``Together`` can say and no policy of the toolkit does."""

    together: Together
    most: int = 0
    token_budget: int | None = None
    name: ClassVar[str] = "free"
    sees: ClassVar[frozenset[str]] = frozenset()

    @property
    def blocks(self) -> Blocks:
        admit = Admit(reserve="most" if self.most else "prompt", most=self.most)
        one_kind = OneKind(admit, whole=False, together=self.together)
        gate = Cycles(self.together.cycle) if self.together.mixed else one_kind
        return Blocks(gate=gate, admit=admit, together=self.together)


@st.composite
def stacks(draw: st.DrawFn):
    """An engine, a policy and traces of several lanes."""
    drawn = [draw(systems()) for _ in range(draw(st.integers(1, 4)))]
    engine, policy = drawn[0].engine, drawn[0].policy
    if policy.blocks.together.queue and draw(st.booleans()):
        memory, most = draw(st.sampled_from([None, 160, 320])), draw(st.sampled_from([0, 40]))
        engine = engine.with_(kv_tokens=memory)
        mixed, cycle = draw(st.booleans()), draw(st.integers(1, 6))
        rows, until = draw(st.integers(1, 3)), draw(st.integers(1, 6))
        together = Together(cycle=cycle) if mixed else Together(False, False, until, rows, cycle)
        policy = Free(together, most)
    return engine, policy, [one.trace for one in drawn]


def stack(traces) -> Lanes:
    """Put traces side by side; the padding is nonsense on purpose."""
    count = np.array([len(t) for t in traces])
    columns = []
    for name in ("arrival", "prompt", "output", "reasoning"):
        table = np.full((len(traces), count.max()), -7.0 if name == "arrival" else 999)
        for lane, trace in zip(table, traces, strict=True):
            lane[: len(trace)] = getattr(trace, name)
        columns.append(table)
    return Lanes(*columns, count)


def check_lanes(engine, policy, traces) -> LaneLog:
    """Compare each lane with a run of its own; the sums too."""
    log = run_lanes(engine, policy, stack(traces))
    for lane, trace in enumerate(traces):
        if log.undone[lane]:
            assert np.isnan(log.finish[lane]).all()
            continue
        slow = llmq.simulate(engine, trace, policy, simulator="reference")
        for name in TIMES:
            row = getattr(log, name)[lane]
            assert row[: len(trace)].tolist() == getattr(slow.requests, name)[0].tolist(), name
            assert np.isnan(row[len(trace) :]).all()
        for name in SUMS:
            assert getattr(log, name)[lane] == getattr(slow.tallies[0][0], name), name
        assert slow.evictions == 0
    return log


@given(stacks())
@settings(max_examples=60)
def test_lanes_equal_the_reference(drawn) -> None:
    check_lanes(*drawn)


@pytest.mark.slow
@given(stacks())
@settings(max_examples=1000)
def test_lanes_equal_the_reference_in_a_thousand_stacks(drawn) -> None:
    check_lanes(*drawn)


@given(stacks())
@settings(max_examples=60)
def test_lanes_are_given_up_only_where_the_calendar_evicts_or_refuses(drawn) -> None:
    engine, policy, traces = drawn
    # Two prompts may be cut, and outputs may be longer than the room that is kept: tested below.
    cut = engine.chunk < engine.token_budget
    if isinstance(policy, Free) or cut or policy.blocks.admit.most:
        return
    log = run_lanes(engine, policy, stack(traces))
    for lane, trace in enumerate(traces):
        # One queue, and memory for a chunk alone, are not for lanes.
        if not runs(policy):
            assert log.undone[lane]
            continue
        try:
            run = llmq.simulate(engine, trace, policy, simulator="calendar")
            assert log.undone[lane] == (run.evictions > 0)
        except NotTogetherError:
            pass  # it also counts decodes that end with the iteration: lanes may go on


def flat(**changes) -> llmq.Engine:
    """One second per iteration."""
    return llmq.Engine(llmq.BatchTime.affine(base=1.0, per_token=0.0), **changes)


def same(n: int, prompt: int, output: int, gap: float = 0.0) -> llmq.Trace:
    return llmq.Trace([gap * i for i in range(n)], [prompt] * n, [output] * n)


def test_slots_of_a_lane_grow_with_its_decodes() -> None:
    # 150 at once in one lane, 3 in the other: the slot matrix grows several times on the way.
    log = check_lanes(flat(), policies.Sarathi(), [same(150, 16, 200), same(3, 16, 40)])
    assert not log.undone.any()
    # Five iterations of 512, then fewer prompt tokens beside the decodes that have begun.
    assert log.finish[1, 0] == 40.0


def test_lanes_end_at_different_times_and_move_up() -> None:
    # Lane k has k + 1 requests, so lanes drop out one after the other.
    traces = [same(k + 1, 20, 30, gap=3.0) for k in range(40)]
    log = check_lanes(flat(token_budget=64), policies.Sarathi(), traces)
    assert not log.undone.any()
    assert log.clock.tolist() == [3.0 * k + 30.0 for k in range(40)]


def test_a_prompt_of_many_pieces_beside_decodes_that_end_meanwhile() -> None:
    # 400 tokens in pieces of 15 beside a decode that ends in the middle, then of 16.
    trace = llmq.Trace([0.0, 1.0, 2.0], [8, 400, 8], [12, 3, 2])
    log = check_lanes(flat(token_budget=16), policies.Sarathi(), [trace])
    # 11 decode iterations of the first leave 15 tokens each, the last of 16 pieces is ragged.
    assert log.prefill_end[0, 1] == 1.0 + 11 + -(-(400 - 11 * 15) // 16)


def test_lanes_without_requests_are_done_at_once() -> None:
    full = same(2, 8, 3)
    lanes = stack([full, full])
    none = Lanes(lanes.arrival, lanes.prompt, lanes.output, None, np.array([0, 2]))
    log = run_lanes(flat(), policies.Sarathi(), none)
    assert log.iterations.tolist() == [0, 3]
    assert np.isnan(log.finish[0]).all()
    assert log.finish[1].tolist() == [3.0, 3.0]


def test_a_cycle_starts_again_when_the_engine_is_empty() -> None:
    # Two may start; the others wait until both have ended, the shorter one too.
    trace = llmq.Trace([0.0] * 5, [4] * 5, [5, 3, 5, 3, 5])
    for together in (Together(cycle=2), Together(mixed=False, until=8, rows=1, cycle=2)):
        log = check_lanes(flat(), Free(together), [trace, trace])
        assert not log.undone.any()
    assert log.prefill_end[0].tolist() == [1.0, 2.0, 7.0, 8.0, 13.0]


def test_a_lane_that_evicts_is_given_up_and_its_neighbour_is_not() -> None:
    chip = flat(kv_tokens=128, kv_block=4, max_seqs=16)
    policy = policies.Sarathi(watermark=0.0)
    log = check_lanes(chip, policy, [same(8, 20, 40), same(3, 20, 20), same(8, 20, 40)])
    assert log.undone.tolist() == [True, False, True]


@pytest.mark.parametrize("conventions", [llmq.ENGINE, llmq.THEORY])
def test_memory_that_is_used_to_the_last_block_needs_no_scalar_engine(conventions) -> None:
    # Two rows of 20 + 12 tokens in eight blocks of eight: full in the last iterations.
    chip = flat(kv_tokens=64, kv_block=8, conventions=conventions)
    output = 13 - conventions.lag
    trace = same(2, 20, output)
    log = check_lanes(chip, policies.Sarathi(watermark=0.0), [trace, same(5, 20, output, gap=40)])
    assert not log.undone.any()


def test_a_decode_that_ends_needs_no_block_for_the_next_iteration() -> None:
    # The prefill of the second ends with the first, and then all four blocks are full.
    trace = llmq.Trace([0.0, 4.0], [4, 8], [5, 4])
    chip = flat(kv_tokens=16, kv_block=4)
    log = check_lanes(chip, policies.Sarathi(watermark=0.0), [trace])
    assert log.finish.tolist() == [[5.0, 8.0]]


def test_more_decodes_than_slots_are_given_up() -> None:
    # One slot for all prefills: they can end together and then need a slot each.
    chip = flat(token_budget=64, max_seqs=4, conventions=llmq.THEORY)
    log = check_lanes(chip, policies.Sarathi(), [same(12, 2, 30), same(3, 2, 30)])
    assert log.undone.tolist() == [True, False]


def test_two_prompts_that_are_cut_are_given_up_one_is_not() -> None:
    chip = flat(token_budget=32, prefill_chunk=8)
    log = check_lanes(chip, policies.Sarathi(), [same(3, 20, 9), same(3, 20, 9, gap=3.0)])
    assert log.undone.tolist() == [True, False]


def test_an_output_beyond_the_room_kept_is_given_up() -> None:
    chip = flat(kv_tokens=320)
    log = check_lanes(chip, Orca(max_output=10), [same(4, 20, 12), same(4, 20, 11)])
    assert log.undone.tolist() == [True, False]


def test_a_request_that_never_fits_is_given_up() -> None:
    log = run_lanes(flat(token_budget=16), policies.VLLM(version="v0"), stack([same(1, 17, 2)]))
    assert log.undone.tolist() == [True]


@pytest.mark.parametrize(
    "policy",
    [
        policies.Sarathi(order="queue"),
        policies.Sarathi(),
        policies.VLLM(version="v0"),
        policies.VLLM(),
        policies.SLAI(),
        Orca(),
        FasterTransformer(),
        FasterTransformer(max_output=9),
        RAD(tile=8),
    ],
)
def test_who_can_run(policy) -> None:
    log = run_lanes(flat(), policy, stack([same(1, 4, 2)]))
    together = policy.blocks.together
    assert runs(policy) == (together is not None and not together.queue)
    assert log.undone.all() == (not runs(policy))


def real_life(rng: np.random.Generator, kind: str, memory: int | None, lanes: int):
    """Draw an engine of everyday size, a policy and lanes of 150 requests for it."""
    conventions = llmq.ENGINE if rng.random() < 0.5 else llmq.THEORY
    attention = {
        "per_kv": rng.choice([0, 3e-7]),
        "per_kv_mixed": rng.choice([0, 5e-7]),
        "per_work": rng.choice([0, 1e-9]),
    }
    law = llmq.BatchTime.tiled(base=0.01, per_tile=0.004, tile=64, **attention)
    if rng.random() < 0.6:
        law = llmq.BatchTime.affine(base=0.01, per_token=4e-5, **attention)
    whole = kind in ("v0", "orca")
    chip = llmq.Engine(
        law,
        token_budget=4096 if whole else int(rng.choice([64, 256, 512])),
        kv_tokens=memory,
        kv_block=int(rng.choice([1, 16, 64])),
        conventions=conventions,
        max_seqs=None if rng.random() < 0.2 else int(rng.choice([16, 64, 256])),
    )
    policy = {
        "sarathi": policies.Sarathi(),
        "v0": policies.VLLM(version="v0"),
        "v1": policies.VLLM(),
        "orca": Orca(max_output=800),
        "fastertransformer": FasterTransformer(),
        "rad": RAD(tile=32, cycle=None if rng.random() < 0.5 else 50),
    }[kind]
    shape, traces = (lanes, 150), []
    arrival = np.cumsum(rng.exponential(1 / rng.choice([0.5, 3, 8, 20]), shape), axis=1)
    mean = rng.choice([30, 200, 1000]), rng.choice([5, 50, 200])
    prompt, output = (rng.lognormal(np.log(m) - 0.4, 0.9, shape).astype(int) + 1 for m in mean)
    prompt, output = np.minimum(prompt, 2000), np.minimum(output, 800)
    hidden = (output * rng.random(shape) * (rng.random(shape) < 0.3)).astype(int)
    for one in zip(arrival, prompt, output, hidden, strict=True):
        traces.append(llmq.Trace(*one))
    return chip, policy, traces


def check_against_the_calendar(chip, policy, traces) -> int:
    """Compare all lanes with the calendar; how many could be compared."""
    log, compared = run_lanes(chip, policy, stack(traces)), 0
    for lane, trace in enumerate(traces):
        run = llmq.simulate(chip, trace, policy, simulator="auto")
        if log.undone[lane]:
            # Under the other conventions prefills can end for which there is no slot; where blocks
            # are taken chunk by chunk, a lane is given up as if they were taken at once.
            early = policy.blocks.admit.reserve == "chunk" and chip.kv_tokens is not None
            assert run.evictions > 0 or chip.conventions is llmq.THEORY or early
            continue
        assert run.evictions == 0
        for name in TIMES:
            mine, theirs = getattr(log, name)[lane], getattr(run.requests, name)[0]
            np.testing.assert_allclose(mine, theirs, rtol=1e-9, atol=1e-9)
        tally = run.tallies[0][0]
        assert (log.iterations[lane], log.tokens[lane]) == (tally.iterations, tally.tokens)
        np.testing.assert_allclose(log.kv_area[lane], tally.kv_area, rtol=1e-12)
        np.testing.assert_allclose(log.busy[lane], tally.busy, rtol=1e-9)
        compared += 1
    return compared


KINDS = ("sarathi", "v0", "orca", "fastertransformer", "rad", "v1")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("memory", [None, 4000])
def test_long_lanes_with_little_memory_equal_the_calendar(kind, memory) -> None:
    rng = np.random.default_rng(KINDS.index(kind))
    drawn = [real_life(rng, kind, memory, lanes=10) for _ in range(2)]
    assert sum(check_against_the_calendar(*one) for one in drawn) > 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_many_long_lanes_equal_the_calendar(kind) -> None:
    rng = np.random.default_rng(100 + KINDS.index(kind))
    memory = [None, 4000, 4000, 10_000, 30_000]
    drawn = [real_life(rng, kind, memory[i % 5], lanes=30) for i in range(15)]
    assert sum(check_against_the_calendar(*one) for one in drawn) > 100


def test_general_times_agree_to_a_billionth(data_dir) -> None:
    # A calibrated law: rounding differs, the trajectory does not.
    trace = llmq.read_trace(data_dir / "bench" / "w1k.csv")
    chip = llmq.load_engine("llama-3.1-8b/h100")
    slow = llmq.simulate(chip, trace, simulator="reference")
    parts = [trace, trace.head(400)]
    log = run_lanes(chip, policies.Sarathi(), stack(parts))
    assert not log.undone.any()
    for name in TIMES:
        one = getattr(slow.requests, name)[0]
        np.testing.assert_allclose(getattr(log, name)[0], one, rtol=1e-9, atol=1e-9)
    assert log.iterations[0] == slow.n_iterations[0]
    np.testing.assert_allclose(log.busy[0], slow.tallies[0][0].busy, rtol=1e-9)


def test_shapes_that_do_not_agree_are_refused() -> None:
    two = np.zeros((2, 3))
    with pytest.raises(InputError, match="two axes"):
        Lanes(two[0], two[0], two[0])
    with pytest.raises(InputError, match=r"prompt has shape \(2, 2\)"):
        Lanes(two, two[:, :2], two)
    with pytest.raises(InputError, match="there are 2 lanes"):
        Lanes(two, two, two, count=np.array([1, 1, 1]))
