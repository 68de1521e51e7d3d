"""Random serving systems, with times that floating point adds exactly."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import strategies as st

import llmq
from llmq import policies
from llmq.policies.fastertransformer import FasterTransformer
from llmq.policies.orca import Orca
from llmq.policies.rad import RAD

# All times are multiples of 2**-20 s: sums below 2**33 of them are exact.
TICK = 2.0**-20
# Every policy whose decodes advance together; Sarathi-Serve with one queue is "queue".
NAMES = ("sarathi", "queue", "v1", "v0", "orca", "fastertransformer", "rad")


@dataclass(frozen=True)
class System:
    engine: llmq.Engine
    trace: llmq.Trace
    policy: policies.Policy


def _law(draw: st.DrawFn) -> llmq.BatchTime:
    unit = TICK * 1024
    attention = {
        "per_kv": draw(st.integers(0, 8)) * TICK,
        "per_kv_mixed": draw(st.integers(0, 8)) * TICK,
        "per_work": draw(st.sampled_from([0, 2])) * TICK,
    }
    base = draw(st.integers(1, 64)) * unit
    form = draw(st.sampled_from(["affine", "tiled", "roofline", "table"]))
    if form == "affine":
        slope = draw(st.integers(0, 64)) * TICK * 16
        return llmq.BatchTime.affine(base=base, per_token=slope, **attention)
    if form == "tiled":
        tile, step = draw(st.sampled_from([4, 8, 16])), draw(st.integers(1, 30)) * unit
        return llmq.BatchTime.tiled(base=base, per_tile=step, tile=tile, **attention)
    if form == "roofline":
        slope = draw(st.integers(1, 64)) * TICK * 16
        return llmq.BatchTime.roofline(floor=base, base=base / 2, per_token=slope, **attention)
    # Grid steps are powers of two, so that interpolation is exact too.
    seconds = [base]
    for _ in range(4):
        seconds.append(seconds[-1] + draw(st.integers(0, 64)) * unit)
    return llmq.BatchTime.table(tokens=[1, 5, 21, 85, 341], seconds=seconds, **attention)


@st.composite
def systems(draw: st.DrawFn, max_requests: int = 25) -> System:
    """An engine, a trace that fits it and a policy."""
    n = draw(st.integers(1, max_requests))
    prompt = draw(st.lists(st.integers(1, 40), min_size=n, max_size=n))
    output = draw(st.lists(st.integers(1, 40), min_size=n, max_size=n))
    hidden = [draw(st.integers(0, o - 1)) if draw(st.booleans()) else 0 for o in output]
    gaps = draw(st.lists(st.integers(0, 400), min_size=n, max_size=n))
    arrival, clock = [], 0.0
    for gap in gaps:
        clock += gap * TICK * 1024
        arrival.append(clock)
    name = draw(st.sampled_from(NAMES))
    policy = _policy(draw, name, max(output))
    whole, queue = name in ("v0", "orca"), name == "queue"
    # Blocks for any request, with its recompute and the room that Orca keeps.
    memory = [None] if queue else [None, 128, 160, 320]
    engine = llmq.Engine(
        _law(draw),
        token_budget=draw(st.sampled_from([100, 200] if whole else [16, 32, 64])),
        max_seqs=draw(st.sampled_from([None, 4, 8, 16])),
        kv_tokens=draw(st.sampled_from(memory)),
        kv_block=draw(st.sampled_from([1, 4, 16])),
        prefill_chunk=None if whole or queue else draw(st.sampled_from([None, 8])),
        conventions=draw(st.sampled_from([llmq.ENGINE, llmq.THEORY])),
    )
    return System(engine, llmq.Trace(arrival, prompt, output, hidden), policy)


def _policy(draw: st.DrawFn, name: str, longest: int) -> policies.Policy:
    route = draw(st.sampled_from([policies.RoundRobin(), policies.LeastWork()]))
    mark = draw(st.sampled_from([0.0, 0.01, 0.1]))
    most = draw(st.sampled_from([longest, longest, 50, 20]))
    if name == "v0":
        return policies.VLLM(version="v0", watermark=mark, route=route)
    if name == "v1":
        return policies.VLLM(watermark=mark, route=route, whole_must_fit=draw(st.booleans()))
    if name == "orca":
        return Orca(max_output=most, watermark=mark, route=route)
    if name == "fastertransformer":
        kept = draw(st.sampled_from([None, most]))
        return FasterTransformer(max_output=kept, watermark=mark, route=route)
    if name == "rad":
        tile = draw(st.sampled_from([1, 2, 4, 16, 100]))
        chunk = draw(st.sampled_from([None, 2 * tile]))
        cycle = draw(st.sampled_from([None, 1, 2, 5]))
        return RAD(tile=tile, chunk=chunk, cycle=cycle, watermark=mark, route=route)
    order = "queue" if name == "queue" else "decodes_first"
    return policies.Sarathi(order=order, watermark=mark, route=route)
