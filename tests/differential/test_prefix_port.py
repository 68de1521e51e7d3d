"""The prefix cache against vLLM's scheduler and block pool, written again as vLLM writes them.

One loop for the running, one for the waiting, an ordered dictionary for the queue of free blocks:
no line is shared with the simulator. Compared are every finish, all tokens found, all evictions.
"""

from __future__ import annotations

from collections import OrderedDict, deque

import numpy as np
import pytest

import llmq
from llmq.model.prefix import Prefix
from llmq.policies import VLLM

BASE, SLOPE = 2.0, 1.0


class Blocks:
    """Blocks by reference count; free ones keep their name until they are taken."""

    def __init__(self, total: int) -> None:
        self.free = OrderedDict((block, None) for block in range(total))
        self.users, self.name = [0] * total, [None] * total
        self.known: dict[object, dict[int, None]] = {}

    def find(self, name: object) -> int | None:
        return next(iter(self.known[name])) if self.known.get(name) else None

    def touch(self, block: int) -> None:
        if not self.users[block]:
            del self.free[block]
        self.users[block] += 1

    def pop(self) -> int:
        block, _ = self.free.popitem(last=False)
        if self.name[block] is not None:
            del self.known[self.name[block]][block]
            self.name[block] = None
        self.users[block] = 1
        return block

    def call(self, block: int, name: object) -> None:
        self.name[block] = name
        self.known.setdefault(name, {})[block] = None

    def give_back(self, block: int) -> None:
        self.users[block] -= 1
        if not self.users[block]:
            self.free[block] = None


class Request:
    def __init__(self, number: int, prompt: int, output: int, names: list[int]) -> None:
        self.number, self.prompt, self.output, self.names = number, prompt, output, names
        self.computed = self.said = self.named = 0
        self.table: list[int] = []

    @property
    def tokens(self) -> int:
        return self.prompt + self.said


class Scheduler:
    def __init__(self, engine: llmq.Engine, per: int) -> None:
        self.size, self.per = engine.kv_block, per
        self.blocks = Blocks(int(engine.kv_blocks))
        self.budget, self.chunk, self.most = engine.token_budget, engine.chunk, engine.max_seqs
        self.running: list[Request] = []
        self.waiting: deque[Request] = deque()
        self.hits = self.evictions = 0

    def name(self, one: Request, j: int) -> object:
        if j < one.prompt // self.size and j // self.per < len(one.names):
            return one.names[j // self.per], j % self.per
        return "own", one.number, j

    def grow(self, one: Request, tokens: int) -> None:
        while len(one.table) * self.size < tokens:
            one.table.append(self.blocks.pop())
        for j in range(one.named, tokens // self.size):
            self.blocks.call(one.table[j], self.name(one, j))
        one.named = max(one.named, tokens // self.size)

    def release(self, one: Request) -> None:
        for block in reversed(one.table):
            self.blocks.give_back(block)
        one.table, one.named = [], 0

    def fits(self, one: Request, tokens: int) -> bool:
        """Preempt the last of the running until it does, itself at last."""
        while -(-tokens // self.size) - len(one.table) > len(self.blocks.free):
            victim = self.running.pop()
            self.release(victim)
            victim.computed = 0
            self.waiting.appendleft(victim)
            self.evictions += 1
            if victim is one:
                return False
        return True

    def lookup(self, one: Request) -> list[int]:
        found = []
        for j in range((one.tokens - 1) // self.size):
            if (block := self.blocks.find(self.name(one, j))) is None:
                break
            found.append(block)
        return found

    def schedule(self) -> list[tuple[Request, int]]:
        batch, left, before, k = [], self.budget, self.evictions, 0
        # --long-prefill-token-threshold holds where somebody else runs or waits (since 0.30).
        chunk = self.chunk if len(self.running) + len(self.waiting) > 1 else self.budget
        while k < len(self.running) and left:
            one = self.running[k]
            new = min(one.tokens - one.computed, chunk, left)
            if not self.fits(one, one.computed + new):
                break
            self.grow(one, one.computed + new)
            batch.append((one, new))
            left, k = left - new, k + 1
        while self.evictions == before and self.waiting and left and len(self.running) < self.most:
            one = self.waiting[0]
            found = self.lookup(one)
            idle = sum(not self.blocks.users[block] for block in found)
            if -(-one.tokens // self.size) - len(found) + idle > len(self.blocks.free):
                break
            for block in found:
                self.blocks.touch(block)
            one.table, one.named, one.computed = found, len(found), len(found) * self.size
            self.hits += one.computed
            new = min(one.tokens - one.computed, chunk, left)
            self.grow(one, one.computed + new)
            self.running.append(self.waiting.popleft())
            batch.append((one, new))
            left -= new
        return batch

    def serve(self, arrival: list[float], requests: list[Request]) -> list[float]:
        ends, clock, came = [0.0] * len(requests), 0.0, 0
        while came < len(requests) or self.running or self.waiting:
            if not self.running and not self.waiting:
                clock = max(clock, arrival[came])
            while came < len(requests) and arrival[came] <= clock:
                self.waiting.append(requests[came])
                came += 1
            batch = self.schedule()
            clock += BASE + SLOPE * sum(new for _, new in batch)
            for one, new in batch:
                one.computed += new
                one.said += one.computed == one.tokens
                if one.said == one.output:
                    ends[one.number] = clock
                    self.release(one)
                    self.running.remove(one)
        return ends


def drawn_names(rng: np.random.Generator, prompt: np.ndarray, block: int) -> list[list[int]]:
    """Walk down one tree: equal names where all before are equal."""
    tree: dict[tuple[int, ...], int] = {}
    rows = []
    for size in prompt.tolist():
        path = tuple(rng.integers(0, 2, rng.integers(0, size // block + 1)).tolist())
        rows.append([tree.setdefault(path[: j + 1], len(tree)) for j in range(len(path))])
    return rows


@pytest.mark.parametrize("seed", range(60))
def test_prefix_cache_is_that_of_vllm(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, size, per = int(rng.integers(2, 25)), int(rng.choice([1, 2, 4])), int(rng.integers(1, 4))
    prompt, output = rng.integers(1, 40, n), rng.integers(1, 16, n)
    arrival = np.cumsum(rng.exponential(rng.choice([1.0, 10.0, 60.0]), n)).round(2)
    names = drawn_names(rng, prompt, size * per)
    budget = int(rng.integers(3, 40))
    blocks = -(-int(max(prompt + output)) // size) + int(rng.integers(1, 20))
    engine = llmq.Engine(
        llmq.BatchTime.affine(base=BASE, per_token=SLOPE),
        budget,
        prefill_chunk=int(rng.integers(1, budget + 1)),
        max_seqs=int(rng.integers(1, 8)),
        kv_tokens=blocks * size,
        kv_block=size,
        prefix_cache=True,
    )
    columns = zip(prompt.tolist(), output.tolist(), names, strict=True)
    requests = [Request(i, p, o, ids) for i, (p, o, ids) in enumerate(columns)]
    port = Scheduler(engine, per)
    ends = port.serve(arrival.tolist(), requests)
    trace = llmq.Trace(arrival, prompt, output, prefix=Prefix.of(names, block=size * per))
    run = llmq.simulate(engine, trace, VLLM(), check=True)
    assert run.requests.finish[0] == pytest.approx(ends, abs=1e-6)
    assert (run.tallies[0][0].hits, run.evictions) == (port.hits, port.evictions)
