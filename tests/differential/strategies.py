"""Random serving systems, with times that floating point adds exactly."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import strategies as st

import llmq
from llmq import policies

# All times are multiples of 2**-20 s: sums below 2**33 of them are exact.
TICK = 2.0**-20


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
    name = draw(st.sampled_from(["sarathi", "queue", "vllm"]))
    whole, queue = name == "vllm", name == "queue"
    budget = draw(st.sampled_from([100, 200] if whole else [16, 32, 64]))
    kv_tokens = None if queue else draw(st.sampled_from([None, 128, 160, 320]))
    engine = llmq.Engine(
        _law(draw),
        token_budget=budget,
        max_seqs=draw(st.sampled_from([None, 4, 8, 16])),
        kv_tokens=kv_tokens,
        kv_block=draw(st.sampled_from([1, 4, 16])),
        prefill_chunk=draw(st.sampled_from([None, 8])) if name == "sarathi" else None,
        conventions=draw(st.sampled_from([llmq.ENGINE, llmq.THEORY])),
    )
    route = draw(st.sampled_from([policies.RoundRobin(), policies.LeastWork()]))
    policy: policies.Policy
    if whole:
        policy = policies.VLLM(token_budget=None, route=route)
    else:
        order = "queue" if queue else "decodes_first"
        mark = draw(st.sampled_from([0.0, 0.01, 0.1]))
        policy = policies.Sarathi(order=order, watermark=mark, route=route)
    return System(engine, llmq.Trace(arrival, prompt, output, hidden), policy)
