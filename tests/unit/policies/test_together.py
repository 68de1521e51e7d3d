"""Policies whose decodes advance together: RAD, FasterTransformer, Orca, simple chunking.

Exact schedules by hand, in both simulators; random systems are in tests/differential.
"""

from __future__ import annotations

import math
from fractions import Fraction as F

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import llmq
from llmq import policies
from llmq.errors import InputError
from llmq.policies.contract import blocks
from llmq.policies.contract.fill import plan
from llmq.policies.fastertransformer import FasterTransformer
from llmq.policies.orca import Orca
from llmq.policies.rad import RAD
from llmq.policies.simple_chunking import SimpleChunking
from llmq.policies.vllm import OneKind
from llmq.sim._fast.calendar.jump import NotTogetherError
from llmq.sim._reference import engine as reference
from llmq.theory.planning_lp._configurations import TwoPhase
from llmq.theory.planning_lp._static import Need, PlanningProblem, Pool, optimise
from llmq.theory.region.tiling import best_batch, exclusive_cycle

BOTH = pytest.mark.parametrize("how", ["reference", "calendar"])
# One second an iteration, whatever the batch.
SECOND = llmq.BatchTime.affine(base=1.0, per_token=0.0)
TILES = llmq.BatchTime.tiled(base=0, per_tile=4000e-6, tile=128, per_token=5e-6)


def served(monkeypatch: pytest.MonkeyPatch, chip, trace, policy):
    """Every view with the plan that was made of it."""
    seen = []

    def spy(view, blocks, chunk):
        batch = plan(view, blocks, chunk)
        seen.append((view, batch))
        return batch

    monkeypatch.setattr(reference, "plan", spy)
    llmq.simulate(chip, trace, policy, simulator="reference")
    return seen


# ------------------------------------------------------------------------------------------- RAD


@BOTH
@pytest.mark.parametrize(
    ("cycle", "iterations", "ready", "finish"),
    [
        (None, 6, [1, 3, 5], [6, 4, 6]),
        (2, 7, [1, 3, 6], [5, 4, 7]),
        (1, 8, [1, 5, 7], [3, 6, 8]),
    ],
)
def test_rad_by_hand(cycle, iterations, ready, finish, how) -> None:
    # P1, P2, P2, D{1,2}, P3, D{1,3}; with cycles the residents end first, in batches of one.
    chip = llmq.Engine(SECOND, token_budget=2, conventions=llmq.THEORY)
    trace = llmq.Trace([0.0] * 3, [2, 4, 2], [2, 1, 1])
    run = llmq.simulate(chip, trace, RAD(tile=2, cycle=cycle), simulator=how)
    assert run.n_iterations[0] == iterations
    assert run.requests.prefill_end[0].tolist() == ready
    assert run.requests.finish[0].tolist() == finish
    assert run.tallies[0][0].tokens == 12


def test_tiles_by_hand() -> None:
    assert TILES(128) == pytest.approx(4640e-6)
    assert TILES(129) == pytest.approx(8645e-6)
    assert 129 / TILES(129) / (128 / TILES(128)) == pytest.approx(0.54092, abs=5e-6)
    chip = llmq.Engine(TILES, token_budget=128, conventions=llmq.THEORY)
    region = llmq.stability_region(chip, {"x": llmq.RequestClass(256, 128)})
    assert region.boundary({"x": 1})["x"] == pytest.approx(71.8391, abs=5e-5)
    assert region.load({"x": 1}) == pytest.approx(13_920e-6)


def test_a_cap_on_the_decodes_prices_a_decode_at_five_prompt_tokens() -> None:
    # T = 20 + 0.1 n, 500 tokens, 50 decodes, requests (100, 100): one in 60; without the cap in 28.
    law = llmq.BatchTime.affine(base=20, per_token=0.1)

    def best(limits):
        tokens = {"prefill": F(100), "decode": F(100)}
        need = Need(tokens, limits=dict.fromkeys(limits, F(100)))
        pool = Pool(1, law, TwoPhase(500), limits, {"x": need})
        return optimise(PlanningProblem({"e": pool}, {"x": F(1)}, {"x": (("e",),)}))

    assert best({}).load == 28
    capped = best({"slots": 50})
    assert capped.load == 60
    prefill = capped.token_prices["e", "prefill"]
    assert prefill == F(1, 10)
    # Of the 60 units a request takes, 100 prompt tokens pay 10 and 100 decodes 50.
    assert (capped.load - 100 * prefill) / 100 / prefill == 5


def test_every_batch_of_rad_is_a_full_tile_unless_only_decodes_are_left(monkeypatch) -> None:
    rng = np.random.default_rng(7)
    n, tile = 60, 8
    trace = llmq.Trace(
        np.cumsum(rng.integers(0, 5, n)), tile * rng.integers(1, 5, n), rng.integers(1, 30, n)
    )
    chip = llmq.Engine(SECOND, token_budget=tile, conventions=llmq.THEORY)
    seen = served(monkeypatch, chip, trace, RAD(tile=tile))
    drained = 0
    for view, batch in seen:
        decodes = np.count_nonzero(view.decoding)
        assert decodes <= tile
        if sum(batch.tokens) < tile:
            drained += 1
            assert decodes == len(view.row)
            assert set(batch.rows) == set(range(len(view.row)))
        phases = {bool(view.decoding[i]) for i in batch.rows}
        assert len(phases) == 1
        assert phases == {True} or len(batch.rows) == 1
    assert 0 < drained < len(seen) // 2


@BOTH
def test_short_cycles_are_unstable_inside_the_region(how) -> None:
    # (2, 2) in tiles of 2 needs two full batches; alone it takes three.
    chip = llmq.Engine(SECOND, token_budget=2, conventions=llmq.THEORY)
    trace = llmq.Trace(2.5 * np.arange(40), [2] * 40, [2] * 40)
    alone = llmq.simulate(chip, trace, RAD(tile=2, cycle=1), simulator=how).requests
    assert (alone.finish - alone.arrival)[0].tolist() == [3 + 0.5 * k for k in range(40)]
    pairs = llmq.simulate(chip, trace, RAD(tile=2, cycle=2), simulator=how).requests
    assert (pairs.finish - pairs.arrival)[0].max() <= 5


@BOTH
def test_a_prompt_that_does_not_fit_lets_the_decodes_go_on(how) -> None:
    # Ten tokens of memory: the second prompt waits for the first to end, though a tile is two.
    chip = llmq.Engine(SECOND, token_budget=4, kv_tokens=10, kv_block=1)
    trace = llmq.Trace([0.0, 0.0, 1.0], [4, 8, 1], [4, 1, 1])
    run = llmq.simulate(chip, trace, RAD(tile=2, chunk=4, watermark=0.0), simulator=how)
    assert run.requests.prefill_end[0].tolist() == [1, 6, 7]
    assert run.requests.finish[0].tolist() == [4, 6, 7]
    assert run.evictions == 0


@BOTH
def test_rad_serves_one_prompt_a_chunk_at_a_time(how) -> None:
    # Two short prompts do not share a chunk, and a long one takes two, whatever the budget.
    chip = llmq.Engine(SECOND, token_budget=64)
    trace = llmq.Trace([0.0] * 3, [2, 2, 8], [1, 1, 1])
    run = llmq.simulate(chip, trace, RAD(tile=2, chunk=4), simulator=how)
    assert run.requests.prefill_end[0].tolist() == [1, 2, 4]


@BOTH
def test_a_tile_beyond_the_token_budget_is_cut(how) -> None:
    chip = llmq.Engine(SECOND, token_budget=2)
    trace = llmq.Trace([0.0] * 3, [2] * 3, [3] * 3)
    wide = llmq.simulate(chip, trace, RAD(tile=100), simulator=how).requests
    tight = llmq.simulate(chip, trace, RAD(tile=2), simulator=how).requests
    assert wide.finish.tolist() == tight.finish.tolist() == [[4, 4, 7]]


@given(
    base=st.integers(0, 50),
    step=st.integers(1, 50),
    tile=st.integers(1, 12),
    slope=st.integers(0, 3),
    budget=st.integers(1, 60),
)
@settings(max_examples=60)
def test_the_operating_size_is_the_most_productive_batch(base, step, tile, slope, budget) -> None:
    law = llmq.BatchTime.tiled(base=base, per_tile=step, tile=tile, per_token=slope)
    chip = llmq.Engine(law, token_budget=budget)
    policy = RAD.at_operating_size(chip, cycle=3)
    assert (policy.tile, policy.cycle) == (best_batch(law, budget).tokens, 3)
    # Without per-token cost: a cut last tile pays iff its share beats what the full ones cost.
    full, cut = divmod(budget, tile)
    if slope == 0 and full and cut and base:
        pays = F(cut, tile) > F(step * full, base + step * full)
        assert policy.tile == (budget if pays else full * tile)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: RAD(tile=0), "tile must be a whole number, at least 1, got 0"),
        (lambda: RAD(cycle=1.5), "cycle must be a whole number, got 1.5"),
        (lambda: RAD(chunk=math.nan), "chunk must be a whole number, got nan"),
        (lambda: RAD(tile=64, chunk=96), r"chunk must be a multiple of the tile \(64\), got 96"),
        (lambda: RAD(watermark=1.0), "watermark is a share of the KV blocks"),
        (lambda: Orca(max_output=0), "max_output must be a whole number of tokens, at least 1"),
        (lambda: Orca(max_output=True), "max_output must be a whole number, got True"),
        (lambda: FasterTransformer(max_output=2.5), "max_output must be a whole number"),
        (lambda: FasterTransformer(watermark=-1), "watermark is a share of the KV blocks"),
        (lambda: SimpleChunking(watermark=-1), "watermark is a share of the KV blocks"),
    ],
)
def test_bad_parameters(make, words) -> None:
    with pytest.raises(InputError, match=words):
        make()


# ----------------------------------------------------------------------------- FasterTransformer


@BOTH
def test_exclusive_batching_is_as_slow_as_its_cycle(how) -> None:
    # O5: 512 prompt tokens of four requests, then 112 decodes of four: 5389.16 ms.
    law = llmq.BatchTime.tiled(base=1128, per_tile=3547, tile=128)
    chip = llmq.Engine(law, token_budget=512, conventions=llmq.THEORY)
    cycle = exclusive_cycle(chip, llmq.RequestClass(128, 112)).exact_time
    assert cycle == 538_916
    groups = 3 if how == "reference" else 200

    def responses(gap: int) -> list[float]:
        arrival = np.repeat(np.arange(groups) * gap, 4)
        trace = llmq.Trace(arrival, [128] * len(arrival), [112] * len(arrival))
        times = llmq.simulate(chip, trace, FasterTransformer(), simulator=how).requests
        return (times.finish - times.arrival)[0].tolist()

    assert responses(538_916) == [538_916.0] * 4 * groups
    assert responses(538_816) == [538_916.0 + 100 * (k // 4) for k in range(4 * groups)]


@BOTH
def test_fastertransformer_keeps_room_if_told_to(how) -> None:
    chip = llmq.Engine(SECOND, token_budget=16, kv_tokens=20, kv_block=1)
    trace = llmq.Trace([0.0, 0.0], [6, 6], [6, 6])
    tight = llmq.simulate(chip, trace, FasterTransformer(watermark=0.0), simulator=how)
    assert tight.evictions == 1  # 12 prompt tokens and 2 for each iteration: full after the fourth
    roomy = FasterTransformer(max_output=6, watermark=0.0)
    run = llmq.simulate(chip, trace, roomy, simulator=how)
    assert run.evictions == 0
    assert run.requests.prefill_end[0].tolist() == [1, 7]
    assert run.requests.finish[0].tolist() == [6, 12]


# ------------------------------------------------------------------------------------------ Orca


@BOTH
def test_orca_reserves_for_the_longest_output(how) -> None:
    # Blocks of one token: each request is given 6 + 6 of 20, so the second waits for the first.
    chip = llmq.Engine(SECOND, token_budget=16, kv_tokens=20, kv_block=1)
    trace = llmq.Trace([0.0, 0.0], [6, 6], [3, 2])
    run = llmq.simulate(chip, trace, Orca(max_output=6), simulator=how)
    assert run.requests.prefill_end[0].tolist() == [1, 4]
    assert run.requests.finish[0].tolist() == [3, 5]
    beside = llmq.simulate(chip, trace, policies.Sarathi(), simulator=how)
    assert beside.requests.finish[0].tolist() == [3, 2]
    enough = llmq.simulate(chip.with_(kv_tokens=24), trace, Orca(max_output=6), simulator=how)
    assert enough.requests.finish[0].tolist() == [3, 2]


@BOTH
def test_orca_does_not_cut_prompts(how) -> None:
    # Ten tokens do not fit beside a decode: the second prompt starts when the first has ended.
    chip = llmq.Engine(SECOND, token_budget=10)
    trace = llmq.Trace([0.0, 0.0, 0.0], [8, 10, 1], [3, 1, 1])
    run = llmq.simulate(chip, trace, Orca(), simulator=how)
    assert run.requests.finish[0].tolist() == [3, 4, 5]
    cut = llmq.simulate(chip, trace, policies.Sarathi(), simulator=how)
    assert cut.requests.finish[0].tolist() == [3, 2, 2]


@BOTH
def test_orca_is_sarathi_where_neither_memory_nor_budget_binds(how) -> None:
    rng = np.random.default_rng(3)
    n = 120
    trace = llmq.Trace(
        np.cumsum(rng.exponential(0.5, n)), rng.integers(1, 90, n), rng.integers(1, 60, n)
    )
    chip = llmq.Engine(llmq.BatchTime.affine(base=0.01, per_token=1e-4), token_budget=100_000)
    one, other = (
        llmq.simulate(chip, trace, policy, simulator=how).requests
        for policy in (Orca(), policies.Sarathi())
    )
    assert one.finish.tolist() == other.finish.tolist()
    assert one.first_token.tolist() == other.first_token.tolist()


def test_an_output_beyond_the_room_kept_goes_to_the_reference() -> None:
    chip = llmq.Engine(SECOND, token_budget=18, kv_tokens=40, kv_block=4)
    trace = llmq.Trace([0.0] * 3, [6] * 3, [12] * 3)
    with pytest.raises(NotTogetherError, match="an output of 12 tokens outgrows the room kept"):
        llmq.simulate(chip, trace, Orca(max_output=4), simulator="calendar")
    auto = llmq.simulate(chip, trace, Orca(max_output=4))
    slow = llmq.simulate(chip, trace, Orca(max_output=4), simulator="reference")
    assert auto.requests.finish.tolist() == slow.requests.finish.tolist()
    # Two more than the room for it: the first token too much needs a block.
    chip, trace = chip.with_(kv_block=1), llmq.Trace([0.0] * 3, [6] * 3, [6] * 3)
    with pytest.raises(NotTogetherError, match="an output of 6 tokens outgrows the room kept"):
        llmq.simulate(chip, trace, Orca(max_output=4), simulator="calendar")
    # One more than the room for it is still inside: the last token needs no memory.
    trace = llmq.Trace([0.0] * 3, [6] * 3, [5] * 3)
    assert llmq.simulate(chip, trace, Orca(max_output=4), simulator="calendar").evictions == 0


# ------------------------------------------------------------------------------- simple chunking


def test_simple_chunking_by_hand() -> None:
    # Decodes and chunks of the late prompt take turns; Sarathi serves both in each iteration.
    chip = llmq.Engine(SECOND, token_budget=4)
    trace = llmq.Trace([0.0, 0.0, 1.5], [6, 2, 8], [3, 2, 1])
    run = llmq.simulate(chip, trace, SimpleChunking())
    assert run.requests.prefill_end[0].tolist() == [2, 2, 6]
    assert run.requests.finish[0].tolist() == [5, 3, 6]
    mixed = llmq.simulate(chip, trace, policies.Sarathi())
    assert mixed.requests.finish[0].tolist() == [4, 3, 5]
    with pytest.raises(InputError, match="cannot run policy 'simple-chunking'"):
        llmq.simulate(chip, trace, SimpleChunking(), simulator="calendar")


def test_simple_chunking_never_serves_both_and_never_prefills_twice_beside_decodes(
    monkeypatch,
) -> None:
    rng = np.random.default_rng(11)
    trace = llmq.Trace(
        np.cumsum(rng.integers(0, 4, 40)), rng.integers(1, 60, 40), rng.integers(1, 20, 40)
    )
    chip = llmq.Engine(SECOND, token_budget=16, kv_tokens=320, max_seqs=6)
    before = False
    for view, batch in served(monkeypatch, chip, trace, SimpleChunking()):
        decoding = {bool(view.decoding[i]) for i in batch.rows}
        assert len(decoding) == 1
        if before and view.decoding.any():
            assert decoding == {True}
        before = decoding == {False}


# ------------------------------------------------------------------------------------- the rules


def test_the_gate_counts_decodes_rows_and_starts(monkeypatch) -> None:
    chip = llmq.Engine(SECOND, token_budget=100)
    trace = llmq.Trace([0.0, 1.0, 1.0, 1.0], [8, 100, 8, 8], [20, 1, 1, 1])
    seen = served(monkeypatch, chip, trace, policies.VLLM(version="v0"))
    view = seen[1][0]
    assert view.decoding.tolist() == [True, False, False, False]
    assert view.started == 1

    def runs(**rule) -> list[int]:
        gate = OneKind(blocks.Admit(), False, blocks.Together(**rule))
        return np.flatnonzero(gate(view)[0]).tolist()

    assert runs() == [1, 2, 3]
    assert runs(rows=2) == [1, 2]
    assert runs(cycle=3) == [1, 2]
    assert runs(cycle=1) == [0]  # nobody may start: the decode goes on
    assert runs(until=1) == [0]
    assert runs(until=2, rows=1) == [1]
    gate = OneKind(blocks.Admit())
    assert gate(view._replace(tokens=99))[0].tolist() == [True, False, False, False]  # whole
    started = view._replace(resident=np.array([True, False, True, False]))
    assert np.flatnonzero(
        OneKind(blocks.Admit(), False, blocks.Together(rows=1))(started)[0]
    ).tolist() == [2]  # one that has started comes first


@BOTH
def test_reasoning_ends_and_goes_on_when_the_policy_lets_it(how) -> None:
    # The third token is the first visible one; a prompt that comes in between delays it under vLLM.
    chip = llmq.Engine(SECOND, token_budget=16)
    trace = llmq.Trace([0.0, 1.5], [4, 4], [4, 1], [2, 0])
    for policy, resumed, finish in (
        (policies.VLLM(version="v0"), 3.0, 5.0),
        (policies.Sarathi(), 2.0, 4.0),
        (policies.Sarathi(order="queue"), 2.0, 4.0),
    ):
        times = llmq.simulate(chip, trace, policy, simulator=how).requests
        assert times.boundary[0, 0] == 2.0
        assert times.resumed[0, 0] == resumed
        assert times.first_token[0, 0] == resumed + 1
        assert times.finish[0, 0] == finish
        assert np.isnan([times.boundary[0, 1], times.resumed[0, 1]]).all()


@BOTH
def test_reasoning_that_ends_with_the_prefill(how) -> None:
    chip = llmq.Engine(SECOND, token_budget=16)
    trace = llmq.Trace([0.0, 0.5], [4, 4], [3, 1], [1, 0])
    for policy, resumed in (
        (policies.VLLM(version="v0"), 2.0),
        (policies.Sarathi(), 1.0),
        (policies.Sarathi(order="queue"), 1.0),
    ):
        times = llmq.simulate(chip, trace, policy, simulator=how).requests
        assert times.prefill_end[0, 0] == times.boundary[0, 0] == 1.0
        assert times.resumed[0, 0] == resumed
        assert times.first_token[0].tolist() == [resumed + 1, 2.0]


def test_one_queue_with_limited_memory_goes_to_the_reference() -> None:
    chip = llmq.Engine(SECOND, kv_tokens=160, kv_block=4, max_seqs=16)
    trace = llmq.Trace([0.0] * 8, [20] * 8, [40] * 8)
    policy = policies.Sarathi(order="queue")
    with pytest.raises(NotTogetherError, match="memory and chunks"):
        llmq.simulate(chip, trace, policy, simulator="calendar")
    run = llmq.simulate(chip, trace, policy)
    assert run.evictions > 5
    chunked = llmq.Engine(SECOND, token_budget=16, prefill_chunk=8)
    with pytest.raises(NotTogetherError, match="memory and chunks"):
        llmq.simulate(chunked, trace, policy, simulator="calendar")


def test_rules_that_only_the_kernel_knows_go_to_the_reference():
    # A budget of the policy's own, beside decodes that advance together: the calendar ignored it.
    from dataclasses import dataclass
    from typing import ClassVar

    from llmq.policies.contract.blocks import Blocks, Budget, Together

    @dataclass(frozen=True)
    class Capped:
        token_budget: int | None = None
        name: ClassVar[str] = "capped"
        sees: ClassVar[frozenset[str]] = frozenset({"prompt"})

        @property
        def blocks(self) -> Blocks:
            return Blocks(budget=Budget(tokens=10), together=Together())

    chip = llmq.Engine(llmq.BatchTime.affine(base=1.0, per_token=0.0), token_budget=64)
    trace = llmq.Trace([0.0, 0.0], [40, 40], [3, 3])
    slow = llmq.simulate(chip, trace, Capped(), simulator="reference")
    assert slow.n_iterations[0] == 11
    assert llmq.simulate(chip, trace, Capped()).n_iterations[0] == 11
    with pytest.raises(llmq.InputError, match="cannot run policy 'capped'"):
        llmq.simulate(chip, trace, Capped(), simulator="calendar")
