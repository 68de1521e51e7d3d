"""Prefix cache: schedules by hand, an independent count, conservation, and what is refused."""

from __future__ import annotations

import gzip
import json
import math
from collections import OrderedDict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import llmq
from llmq import policies
from llmq.errors import TraceWarning
from llmq.model.prefix import Prefix
from llmq.model.reuse import found, unshared
from llmq.sim._reference.prefix import PrefixEngine
from llmq.sim._reference.prefix_pool import Pool
from llmq.sim.results._log import Job, Log

# Two seconds an iteration and one a token: every time is a whole number.
LAW = llmq.BatchTime.affine(base=2.0, per_token=1.0)
CHIP = llmq.Engine(LAW, token_budget=64, kv_block=4, prefix_cache=True)
PLAIN = policies.Sarathi(watermark=0.0)


def trace_of(arrival, prompt, output, names, block=8):
    return llmq.Trace(arrival, prompt, output, prefix=Prefix.of(names, block=block))


def run(chip, trace, policy=PLAIN, **options):
    return llmq.simulate(chip, trace, policy, check=True, **options)


def first(done):
    return (done.requests.first_token - done.requests.arrival)[0].tolist()


# --- by hand --------------------------------------------------------------------------------------


def test_the_second_request_computes_what_the_first_did_not():
    # 16 tokens shared of 20: the first takes 2 + 20 s; the second, later, 2 + 4 s.
    trace = trace_of([0.0, 100.0], [20, 20], [1, 1], [[1, 2, 3], [1, 2, 4]])
    done = run(CHIP, trace)
    assert first(done) == [22.0, 6.0]
    tally = done.tallies[0][0]
    assert (tally.hits, tally.tokens, tally.asked, tally.shared) == (16, 24, 40, 16)
    assert done.hit_rate == 16 / 40
    assert first(run(CHIP.with_(prefix_cache=False), trace)) == [22.0, 22.0]


def test_only_whole_blocks_and_never_the_last_token():
    # The same 16 tokens again: 12 are found, the last block is computed for its last token.
    trace = trace_of([0.0, 100.0], [16, 16], [1, 1], [[1, 2], [1, 2]])
    assert first(run(CHIP, trace)) == [18.0, 6.0]
    # Eleven tokens of one name: two blocks of four are full.
    trace = trace_of([0.0, 100.0], [11, 11], [1, 1], [[1, 2], [1, 2]])
    assert first(run(CHIP, trace)) == [13.0, 5.0]


def test_blocks_are_known_to_who_is_admitted_in_the_same_iteration():
    # 16 + (16 - 12) tokens in one iteration.
    trace = trace_of([0.0, 0.0], [16, 16], [1, 1], [[1, 2], [1, 2]])
    assert first(run(CHIP, trace)) == [22.0, 22.0]
    assert first(run(CHIP.with_(prefix_cache=False), trace)) == [34.0, 34.0]


def test_a_shared_block_is_held_once():
    # Eight blocks. Both need 7 for prompt and tokens, 6 of them shared: together 8.
    trace = trace_of([0.0, 30.0], [24, 25], [4, 3], [[1, 2, 3], [1, 2, 3, 4]])
    chip = CHIP.with_(kv_tokens=32)
    done = run(chip, trace)
    # The first runs 26 s, then 3 s a token; the second joins at 32 s: 2 + 1 (decode) + 1 token.
    assert first(done) == [26.0, 36.0 - 30.0]
    assert done.requests.finish[0].tolist() == [36.0, 42.0]
    assert done.evictions == 0
    # Without sharing there is no room before the first has ended, at 35 s.
    alone = llmq.simulate(chip.with_(prefix_cache=False), trace, PLAIN, check=True)
    assert first(alone) == [26.0, 35.0 + 27.0 - 30.0]


def test_the_ends_of_prompts_are_forgotten_first():
    # Four blocks of memory. The first fills three; the second takes the one that was never used
    # and the last of the first; so the third finds two blocks.
    trace = trace_of([0.0, 100.0, 200.0], [12, 8, 12], [1, 1, 1], [[1, 2], [9], [1, 2]])
    done = run(CHIP.with_(kv_tokens=16), trace)
    assert first(done) == [14.0, 10.0, 6.0]
    # A third block taken leaves one.
    trace = trace_of([0.0, 100.0, 200.0], [12, 12, 12], [1, 1, 1], [[1, 2], [8, 9], [1, 2]])
    assert first(run(CHIP.with_(kv_tokens=16), trace)) == [14.0, 14.0, 10.0]


def test_what_was_used_last_is_forgotten_last():
    # Each holds a named block and one for its fifth token, of six. 1 and 2 come, then 1 again with
    # the fifth block, 3 with the sixth and the oldest without a name; 4 takes one without a name
    # and that of 2, which has been free the longest. So 1 is still known and 2 is not.
    names = [[1], [2], [1], [3], [4], [1], [2]]
    trace = trace_of(100.0 * np.arange(7), [5] * 7, [1] * 7, names, block=4)
    assert first(run(CHIP.with_(kv_tokens=24), trace)) == [7, 7, 3, 7, 7, 3, 7]


def test_an_evicted_request_finds_its_own_blocks():
    # Four blocks of four tokens, two prompts of seven tokens: at 8 tokens each holds two blocks,
    # and the older one's ninth token evicts the newer.
    trace = llmq.Trace([0.0, 0.0], [7, 7], [4, 4])
    chip = CHIP.with_(kv_tokens=16)
    done = run(chip, trace)
    # 2 + 14 s, then 2 + 2; the third iteration takes the end of the evicted one's blocks: it has 8
    # tokens and one generated that was not computed. The first decodes alone twice, 3 s each, and
    # ends at 26 s with one block of the other still known: 9 - 4 tokens in 2 + 5 s, then 3 s.
    assert done.requests.finish[0].tolist() == [26.0, 36.0]
    tally = done.tallies[0][0]
    assert (done.evictions, tally.recomputed, tally.hits) == (1, 8, 4)
    lost = run(chip.with_(prefix_cache=False), trace)
    assert lost.requests.finish[0].tolist() == [26.0, 40.0]


# --- independent counts ---------------------------------------------------------------------------


def one_by_one(names, prompt, block, size):
    """Hits of requests that never meet, by a dictionary in the order of last use."""
    kept: OrderedDict[object, None] = OrderedDict((("never used", i), None) for i in range(size))
    hits = []
    for i, (row, tokens) in enumerate(zip(names, prompt, strict=True)):
        full = row[: tokens // block]
        hit = 0
        while hit < min(len(full), (tokens - 1) // block) and full[hit] in kept:
            hit += 1
        mine = [*full[:hit]]
        for name in mine:
            del kept[name]
        for j in range(hit, -(-tokens // block)):
            kept.popitem(last=False)
            # A block computed again beside a known one of its name is another block.
            fresh = j < len(full) and full[j] not in kept
            mine.append(full[j] if fresh else ("own", i, j))
        for name in reversed(mine):
            kept[name] = None
        hits.append(hit * block)
    return hits


@st.composite
def conversations(draw):
    """Prompts that begin like earlier ones, with names that tell the whole prefix."""
    count = draw(st.integers(2, 12))
    texts: list[list[int]] = []
    fresh = iter(range(10_000))
    for _ in range(count):
        old = draw(st.sampled_from([[], *texts])) if texts else []
        keep = draw(st.integers(0, len(old)))
        texts.append(old[:keep] + [next(fresh) for _ in range(draw(st.integers(1, 5)))])
    cut = [draw(st.integers(0, 3)) for _ in texts]
    prompt = [max(4 * len(text) - c, 1) for text, c in zip(texts, cut, strict=True)]
    return texts, prompt


@given(conversations(), st.integers(0, 12))
@settings(max_examples=25, deadline=None)
def test_requests_that_never_meet_against_a_dictionary(made, more):
    texts, prompt = made
    size = max(-(-(p + 1) // 4) for p in prompt) + more
    trace = trace_of(1000.0 * np.arange(len(prompt)), prompt, [1] * len(prompt), texts, block=4)
    done = run(CHIP.with_(kv_tokens=4 * size), trace)
    spent = np.array(first(done))
    hits = one_by_one(texts, prompt, 4, size)
    # A prompt below the budget takes one iteration: 2 s and one a computed token.
    assert spent.tolist() == [2.0 + p - h for p, h in zip(prompt, hits, strict=True)]


@given(conversations(), st.integers(1, 40), st.sampled_from([1, 2, 4]))
@settings(max_examples=20, deadline=None)
def test_endless_memory_finds_what_the_trace_repeats(made, budget, kv_block):
    texts, prompt = made
    rng = np.random.default_rng(len(texts))
    arrival = np.sort(rng.integers(0, 60, len(texts)))
    trace = trace_of(arrival, prompt, rng.integers(1, 9, len(texts)), texts, block=4)
    done = run(CHIP.with_(token_budget=budget, kv_block=kv_block), trace)
    want = found(trace, kv_block=kv_block)
    assert done.tallies[0][0].shared == want.sum()
    assert unshared(trace, kv_block=kv_block).prompt.tolist() == (trace.prompt - want).tolist()


@given(conversations(), st.integers(0, 8), st.integers(1, 20), st.sampled_from([None, 2, 5]))
@settings(max_examples=12, deadline=None)
def test_blocks_and_tokens_are_conserved(made, more, budget, seqs):
    texts, prompt = made
    rng = np.random.default_rng(len(texts) + more)
    output = rng.integers(1, 12, len(texts))
    arrival = np.sort(rng.integers(0, 40, len(texts)))
    size = max(-(-(p + o) // 4) for p, o in zip(prompt, output.tolist(), strict=True)) + more
    trace = trace_of(arrival, prompt, output, texts, block=4)
    chip = CHIP.with_(kv_tokens=4 * size, token_budget=budget, max_seqs=seqs)
    rules = [
        PLAIN,
        policies.Sarathi(order="queue", watermark=0.0),
        policies.SimpleChunking(token_budget=None, watermark=0.0),
        policies.VLLM(),
        # Whole prompts: an iteration must hold the longest, with all its tokens again.
        policies.VLLM(version="v0", token_budget=64, watermark=0.0),
    ]
    for policy in rules:
        run(chip, trace, policy).check()
    if size * 4 >= max(prompt) + 12:
        run(chip, trace, policies.Orca(token_budget=64, max_output=12)).check()


@given(st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_a_trial_leaves_no_trace(seed):
    rng = np.random.default_rng(seed)

    def steps(pool, n):
        for _ in range(n):
            row = int(rng.integers(4))
            if row in pool.tables and rng.random() < 0.4:
                pool.release(row)
                continue
            names = [int(x) for x in rng.integers(0, 6, 3)]
            if row not in pool.tables:
                pool.enter(row, pool.found(names))
            if pool.free:
                pool.grow(row, len(pool.tables[row]) + 1)
            few = len(pool.tables[row]) - pool.named[row]
            pool.call(row, names[:few])

    def state(pool):
        queue, block = [], pool.after[0]
        while block:
            queue.append(block)
            block = pool.after[block]
        known = {name: list(here) for name, here in pool.known.items()}
        return (
            queue,
            known,
            pool.users[:],
            pool.name[:],
            pool.free,
            pool.fresh,
            pool.named,
            {row: table[:] for row, table in pool.tables.items()},
        )

    pool = Pool(9)
    for _ in range(4):
        steps(pool, 8)
        assert pool.faults() is None
        before = state(pool)
        with pool.trial():
            steps(pool, 8)
        assert state(pool) == before
        assert pool.faults() is None


def test_without_names_and_evictions_nothing_changes():
    rng = np.random.default_rng(5)
    trace = llmq.Trace(
        np.sort(rng.random(40)) * 300, rng.integers(1, 90, 40), rng.integers(1, 30, 40)
    )
    with_, without = (run(CHIP.with_(prefix_cache=on), trace) for on in (True, False))
    assert with_.requests.finish.tolist() == without.requests.finish.tolist()
    assert with_.hit_rate == 0
    assert math.isnan(without.hit_rate)


# --- a real trace ---------------------------------------------------------------------------------


def test_mooncake_conversation(data_dir):
    file = data_dir / "traces" / "mooncake_conversation.jsonl.gz"
    with pytest.warns(TraceWarning):
        trace = llmq.read_trace(file)
    # Counted from the file, block by block of 512 tokens.
    seen: set[int] = set()
    hits = []
    with gzip.open(file, "rt") as lines:
        for line in map(json.loads, lines):
            full = line["hash_ids"][: line["input_length"] // 512]
            hit = next((i for i, name in enumerate(full) if name not in seen), len(full))
            hits.append(512 * min(hit, (line["input_length"] - 1) // 512))
            seen.update(full)
    assert found(trace, kv_block=512).tolist() == hits
    assert sum(hits) / trace.prompt.sum() == pytest.approx(0.3734, abs=1e-4)
    # A smaller block finds the beginnings of last blocks as well, hardly more here.
    assert found(trace).sum() / trace.prompt.sum() == pytest.approx(0.3736, abs=1e-4)
    law = llmq.BatchTime.affine(base=0.01, per_token=2e-5)
    chip = llmq.Engine(law, token_budget=8192, kv_block=512, prefix_cache=True)
    few = trace.head(300)
    done = llmq.simulate(chip, few, PLAIN)
    assert done.tallies[0][0].shared == sum(hits[:300])
    some = llmq.simulate(chip.with_(kv_tokens=1_000_000), few, PLAIN)
    assert 0 < some.hit_rate < done.hit_rate
    some.check()


# --- what it says, and what it refuses ------------------------------------------------------------


def test_a_run_says_what_its_hits_rest_on():
    trace = trace_of([0.0, 100.0], [20, 20], [1, 1], [[1, 2, 3], [1, 2, 4]])
    assert any("longest unused forgotten first" in line for line in run(CHIP, trace).assumptions)
    off = run(CHIP.with_(prefix_cache=False), trace)
    assert any("computed again" in line for line in off.assumptions)
    work = llmq.Workload.poisson(0.001, {"a": llmq.RequestClass(8, 2)})
    done = llmq.simulate(CHIP, work, requests=20, rng=1)
    assert any("names no shared prompt blocks" in line for line in done.assumptions)


def test_load_is_bounded_from_below_by_what_an_endless_cache_leaves():
    names = [[1, 2, 3, 100 + i] for i in range(60)]
    trace = trace_of(10.0 * np.arange(60), [32] * 60, [1] * 60, names)
    full, found_ = (run(CHIP.with_(prefix_cache=on), trace) for on in (False, True))
    assert full.verdict.status == "overloaded"
    assert found_.verdict.status != "overloaded"
    assert found_.verdict.load < 0.5 * full.verdict.load


def test_one_cache_in_a_fleet_counts_wherever_it_stands():
    names = [[1, 2, 3, 100 + i] for i in range(60)]
    trace = trace_of(10.0 * np.arange(60), [32] * 60, [1] * 60, names)
    with_, without = (CHIP, 1), (CHIP.with_(prefix_cache=False), 1)
    fleets = [
        llmq.Fleet(pools) for pools in ({"x": with_, "y": without}, {"x": without, "y": with_})
    ]
    first_, second = (run(fleet, trace) for fleet in fleets)
    assert first_.verdict.load == second.verdict.load
    for done in (first_, second):
        assert any("longest unused forgotten first" in line for line in done.assumptions)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda t: llmq.simulate(CHIP, t, simulator="calendar"),
            "'calendar' knows no prefix cache",
        ),
        (lambda t: llmq.simulate(CHIP, t, simulator="vector"), "a prefix cache"),
        (lambda t: llmq.simulate(CHIP, t, policies.PASCAL()), "policy 'pascal' swaps its victims"),
        (lambda t: llmq.simulate(CHIP, t, policies.FCFS()), "policy 'fcfs' "),
        (lambda t: llmq.simulate(CHIP.with_(kv_block=3), t), "kv_block that does"),
        (lambda t: Prefix.of([[-1]], block=8), "names of prefix blocks must be >= 0"),
        (lambda t: Prefix(np.array([1]), np.array([0, 2]), 8), "ascend from 0 to 1"),
        (lambda t: Prefix.of([[1]], block=0), "at least 1 token"),
        (lambda t: trace_of([0.0], [8], [1], [[1, 2]]), "request 0 has 2 prefix blocks"),
        (lambda t: trace_of([0.0], [8], [1], [[1], [2]]), "prefix names 2 requests"),
    ],
)
def test_refusals(call, words):
    trace = trace_of([0.0, 100.0], [20, 20], [1, 1], [[1, 2, 3], [1, 2, 4]])
    with pytest.raises(llmq.InputError, match=words):
        call(trace)


def test_names_follow_their_requests():
    trace = trace_of([0, 1, 2], [20, 8, 20], [1, 1, 1], [[1, 2, 3], [], [1, 2, 4]])
    assert trace.take([0, 2]).prefix.row(1).tolist() == [1, 2, 4]
    assert trace.scaled(factor=2).prefix.row(0).tolist() == [1, 2, 3]
    assert trace.head(2).prefix.row(1).tolist() == []
    with pytest.raises(llmq.InputError, match="do not divide"):
        PrefixEngine(
            Job(CHIP.with_(kv_block=16), PLAIN, [0.0], [20], [1], [0], prefix=trace.prefix),
            Log.empty(1),
        )


# --- files ----------------------------------------------------------------------------------------


def record(**changes):
    row = {"timestamp": 0, "input_length": 1030, "output_length": 4, "hash_ids": [7, 8, 9]}
    return json.dumps({**row, **changes}) + "\n"


def test_hash_ids_are_read_sorted_with_their_requests_and_written_again(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text(record(timestamp=5) + record(hash_ids=[7, 11]) + record(timestamp=9))
    with pytest.warns(TraceWarning, match="out of time order"):
        trace = llmq.read_trace(path, hash_block=512)
    assert trace.prefix.block == 512
    assert [trace.prefix.row(i).tolist() for i in range(3)] == [[7, 11], [7, 8, 9], [7, 8, 9]]
    llmq.write_trace(trace, path)
    again = llmq.read_trace(path)
    # A block without a name gets one that nobody has.
    assert [again.prefix.row(i).tolist() for i in range(3)] == [[7, 11, 12], [7, 8, 9], [7, 8, 9]]
    assert found(again).tolist() == found(trace).tolist() == [0, 512, 1024]
    with pytest.warns(TraceWarning, match="names of the prefix blocks of 512 tokens"):
        llmq.write_trace(trace, tmp_path / "t.csv")


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        ([1, 2, 3, 4], "4 ids for 1030 tokens are not blocks of 512"),
        ([-1], "expected ids from 0 to"),
        ([2**62], "expected ids from 0 to"),
        (5, "expected a list of whole numbers"),
        (["a"], "1 ids for 1030 tokens are not blocks"),
    ],
)
def test_bad_hash_ids_name_their_line(tmp_path, ids, words):
    (tmp_path / "t.jsonl").write_text(record() + record(hash_ids=ids))
    with pytest.raises(llmq.FormatError, match=f"line 2, column hash_ids: {words}"):
        llmq.read_trace(tmp_path / "t.jsonl")


def test_a_plan_does_not_count_on_the_cache() -> None:
    from llmq.planning.plans import Candidate

    with pytest.raises(llmq.InputError, match="bounds are for whole prompts"):
        Candidate(CHIP, PLAIN)
