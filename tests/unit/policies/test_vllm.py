"""vLLM v1 as a policy: against its rules written out once more, and schedules by hand."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import llmq
from llmq import policies
from llmq.model.prefix import Prefix

BASE, TOKEN = 2.0, 1.0
LAW = llmq.BatchTime.affine(base=BASE, per_token=TOKEN)
V1 = policies.VLLM()
FIRST_CHUNK = policies.VLLM(whole_must_fit=False)


class Block:
    def __init__(self):
        self.users, self.name = 0, None


class Server:
    """The loop of vLLM v1's scheduler and its block pool, with plain lists and no shortcuts."""

    def __init__(self, chip, trace, *, whole):
        self.size, self.chip, self.trace, self.whole = chip.kv_block, chip, trace, whole
        self.queue = [Block() for _ in range(chip.kv_tokens // chip.kv_block)]
        self.cache: dict[object, list[Block]] = {}
        n = len(trace)
        self.tokens, self.computed = trace.prompt.tolist(), [0] * n
        self.blocks: list[list[Block]] = [[] for _ in range(n)]
        self.first, self.finish = [math.nan] * n, [math.nan] * n
        self.hits = self.preemptions = 0

    def name(self, i, j):
        prefix = self.trace.prefix
        if prefix is not None and (j + 1) * self.size <= self.trace.prompt[i]:
            ids, (k, part) = prefix.row(i), divmod(j, prefix.block // self.size)
            if k < len(ids):
                return int(ids[k]), part
        return "own", i, j

    def cached(self, i):
        found = []
        if self.chip.prefix_cache:
            for j in range((self.tokens[i] - 1) // self.size):
                if not self.cache.get(self.name(i, j)):
                    break
                found.append(self.cache[self.name(i, j)][0])
        return found

    def allocate(self, i, new, found=(), whole=False):
        """Blocks for the tokens of the next step, or False."""
        computed = self.computed[i] + len(found) * self.size
        idle = sum(block.users == 0 for block in found)
        have = len(self.blocks[i]) + len(found)
        need = -(-(computed + new) // self.size) - have
        full = -(-self.tokens[i] // self.size) - have
        if max(need, full if whole else 0) + idle > len(self.queue):
            return False
        for block in found:
            if block.users == 0:
                self.queue.remove(block)
            block.users += 1
            self.blocks[i].append(block)
        for _ in range(need):
            block = self.queue.pop(0)
            if block.name is not None:
                self.cache[block.name].remove(block)
            block.name, block.users = None, 1
            self.blocks[i].append(block)
        self.computed[i] = computed
        for j in range((computed + new) // self.size):
            block = self.blocks[i][j]
            if self.chip.prefix_cache and block.name is None:
                block.name = self.name(i, j)
                self.cache.setdefault(block.name, []).append(block)
        return True

    def give_back(self, i):
        for block in reversed(self.blocks[i]):
            block.users -= 1
            if block.users == 0:
                self.queue.append(block)
        self.blocks[i] = []

    def share(self, i, left, computed):
        most = self.chip.prefill_chunk or left
        if self.lone:
            most = left
        return min(self.tokens[i] - computed, most, left)

    def step(self, running, waiting):
        left, scheduled, preempted = self.chip.token_budget, {}, False
        self.lone = len(running) + len(waiting) == 1
        at = 0
        while at < len(running) and left > 0:
            i = running[at]
            new = self.share(i, left, self.computed[i])
            while not self.allocate(i, new):
                last = running.pop()
                self.give_back(last)
                self.computed[last], preempted = 0, True
                self.preemptions += 1
                waiting.insert(0, last)
                if last == i:
                    break
            else:
                scheduled[i] = new
                left -= new
                at += 1
                continue
            break
        while waiting and left > 0 and not preempted:
            if len(running) == (self.chip.max_seqs or math.inf):
                break
            i = waiting[0]
            found = self.cached(i)
            new = self.share(i, left, len(found) * self.size)
            if not self.allocate(i, new, found, self.whole):
                break
            self.hits += len(found) * self.size
            running.append(waiting.pop(0))
            scheduled[i] = new
            left -= new
        return scheduled

    def run(self):
        running, waiting, clock, come = [], [], 0.0, 0
        arrival, output = self.trace.arrival.tolist(), self.trace.output.tolist()
        while come < len(arrival) or running or waiting:
            if not running and not waiting:
                clock = max(clock, arrival[come])
            while come < len(arrival) and arrival[come] <= clock:
                waiting.append(come)
                come += 1
            scheduled = self.step(running, waiting)
            clock += BASE + TOKEN * sum(scheduled.values()) if scheduled else 0.0
            for i, new in scheduled.items():
                self.computed[i] += new
                if self.computed[i] < self.tokens[i]:
                    continue
                self.tokens[i] += 1
                made = self.tokens[i] - self.trace.prompt[i]
                if made == 1:
                    self.first[i] = clock
                if made == output[i]:
                    self.finish[i] = clock
                    running.remove(i)
                    self.give_back(i)
        return self


@st.composite
def systems(draw):
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    n = draw(st.integers(1, 12))
    size = draw(st.sampled_from([1, 2, 4]))
    per = draw(st.sampled_from([1, 2]))
    prompt, output = rng.integers(1, 30, n), rng.integers(1, 20, n)
    arrival = np.sort(rng.integers(0, draw(st.sampled_from([1, 60, 400])), n)).astype(float)
    least = int((-(-(prompt + output) // size)).max())
    names: list[list[int]] = []
    fresh = iter(range(1000))
    for p in prompt.tolist():
        old = names[rng.integers(len(names))] if names else []
        some = old[: rng.integers(len(old) + 1)]
        whole = some + [next(fresh) for _ in range(30)]
        names.append(whole[: -(-p // (size * per))])
    trace = llmq.Trace(arrival, prompt, output, prefix=Prefix.of(names, block=size * per))
    chip = llmq.Engine(
        LAW,
        token_budget=draw(st.integers(1, 40)),
        kv_block=size,
        max_seqs=draw(st.sampled_from([None, 1, 3])),
        prefix_cache=draw(st.booleans()),
        prefill_chunk=draw(st.sampled_from([None, 3, 8])),
        kv_tokens=size * (least + draw(st.integers(0, 12))),
    )
    return chip, trace


def agrees(chip, trace, policy, *, whole):
    want = Server(chip, trace, whole=whole).run()
    done = llmq.simulate(chip, trace, policy, simulator="reference")
    assert done.requests.finish[0].tolist() == want.finish
    assert done.requests.first_token[0].tolist() == want.first
    assert done.evictions == want.preemptions
    assert done.tallies[0][0].hits == want.hits


@given(systems())
@settings(max_examples=120, deadline=None)
def test_v1_is_the_scheduler_of_vllm(system):
    agrees(*system, V1, whole=True)


@given(systems())
@settings(max_examples=60, deadline=None)
def test_before_0_19_only_the_first_chunk_had_to_fit(system):
    agrees(*system, FIRST_CHUNK, whole=False)


def simulated(chip, trace, policy):
    return llmq.simulate(chip, trace, policy, simulator="reference", check=True)


def test_a_started_prompt_keeps_its_place_before_later_decodes():
    # Chunks of 4 of a budget of 7. The first prompt (13) and the second (2) start together; from
    # then on the second decodes beside chunks of the first, which comes first. Sarathi would give
    # the decode its token first: with room for both that is the same.
    chip = llmq.Engine(LAW, token_budget=7, prefill_chunk=4)
    trace = llmq.Trace([0.0, 0.0], [13, 2], [1, 3])
    done = simulated(chip, trace, V1)
    # 4 + 2, 4 + 1, 4 + 1, 1 tokens, and 2 s each.
    assert done.requests.finish[0].tolist() == [25.0, 22.0]
    # A budget of 4: the chunk takes all of it while the prompt lasts, whatever decodes.
    short = simulated(chip.with_(token_budget=4), llmq.Trace([0.0, 1.0], [2, 13], [9, 1]), V1)
    other = simulated(
        chip.with_(token_budget=4), llmq.Trace([0.0, 1.0], [2, 13], [9, 1]), policies.Sarathi()
    )
    assert short.requests.finish[0].tolist() == other.requests.finish[0].tolist()


def test_only_the_blocks_of_the_first_chunk_are_taken():
    # Eight blocks of one token. The first (2 + 3) decodes its third token when the second (5)
    # begins, in chunks of 2: 3 + 5 fit. v1 takes blocks as the chunks need them, at most 4 + 4, and
    # the first has ended before the last chunk. Sarathi takes 5 at once and evicts for the fourth.
    chip = llmq.Engine(LAW, token_budget=4, prefill_chunk=2, kv_block=1, kv_tokens=8)
    trace = llmq.Trace([0.0, 1.0], [2, 5], [3, 1])
    v1, sarathi = (simulated(chip, trace, p) for p in (V1, policies.Sarathi(watermark=0.0)))
    assert (v1.evictions, v1.requests.finish[0].tolist()) == (0, [14.0, 17.0])
    assert (sarathi.evictions, sarathi.requests.finish[0].tolist()) == (1, [12.0, 23.0])


def test_admitting_on_the_first_chunk_costs_evictions():
    # Two prompts of 12 in 20 blocks: they cannot both be there.
    chip = llmq.Engine(LAW, token_budget=8, kv_block=1, kv_tokens=20)
    trace = llmq.Trace([0.0, 0.0, 0.0], [12, 12, 12], [2, 2, 2])
    careful, careless = (simulated(chip, trace, policy) for policy in (V1, FIRST_CHUNK))
    assert careful.evictions == 0 < careless.evictions
    assert careful.tallies[0][0].tokens < careless.tallies[0][0].tokens


def test_with_room_for_all_v1_is_sarathi():
    rng = np.random.default_rng(11)
    trace = llmq.Trace(
        np.sort(rng.random(60)) * 900, rng.integers(1, 200, 60), rng.integers(1, 40, 60)
    )
    chip = llmq.Engine(LAW, token_budget=64, max_seqs=16)
    runs = [simulated(chip, trace, p) for p in (V1, policies.Sarathi())]
    assert runs[0].requests.finish.tolist() == runs[1].requests.finish.tolist()


def test_versions_and_margins():
    assert policies.VLLM(version="v0").margin == 0.01
    assert policies.VLLM() == policies.VLLM(version="v1", token_budget=None)
    assert policies.VLLM().margin == 0.0
    assert policies.VLLM(watermark=0.05).blocks.admit.watermark == 0.05
    made = policies.parse("vllm:version=v1,whole_must_fit=false")
    assert made == policies.VLLM(whole_must_fit=False)
    assert policies.text(made) == "vllm:whole_must_fit=false"
    assert policies.text(policies.VLLM(version="v0")) == "vllm:version=v0"
    with pytest.raises(llmq.InputError, match="'v0' or 'v1', got 'v2'"):
        policies.VLLM(version="v2")
    with pytest.raises(llmq.InputError, match="a choice of version='v1'"):
        policies.VLLM(version="v0", whole_must_fit=False)


def test_the_guide_names_what_exists():
    text = (Path(__file__).parents[3] / "docs" / "from-vllm.md").read_text(encoding="utf-8")
    rows = [row.split("|")[2] for row in text.splitlines() if row.startswith("| ")]
    fields = [name for row in rows for name in re.findall(r"`Engine\((\w+)=", row)]
    assert len(fields) == 6
    assert all(name in llmq.Engine.__dataclass_fields__ for name in fields)
    options = [name for row in rows for name in re.findall(r"VLLM\(([^)]*)\)", row)]
    words = {word.split("=")[0].strip() for one in options for word in one.split(",") if word}
    assert {"version", "whole_must_fit", "watermark"} <= words
    assert words <= {*policies.VLLM.__dataclass_fields__}
    for name in ("poisson", "renewal", "closed"):
        assert f"`Workload.{name}(" in text
        assert hasattr(llmq.Workload, name)
