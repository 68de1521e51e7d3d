"""How much of a trace's shared prompts a cache of a given size finds.

The Mooncake conversation trace (Kimi, 2024; blocks of 512 tokens with hashes) at 0.4 of its rate
through one H100 with Llama-3.1-8B under vLLM v1's rules, equal times spread evenly. Memory is
varied far beyond the GPU's own: a larger one stands for a faster tier at no cost, so that latencies
there are optimistic. Beside the simulated hits stands what a cache that never forgets would find,
counted from the trace. Answers have no hashes, so a later turn's prompt computes them once more: a
server that hashes what it generates finds more. Needs ``LLMQ_DATA``.
"""

from __future__ import annotations

import math
import warnings

import numpy as np

import llmq
from experiments.claim import Band, Claim, Finding, Status
from experiments.runner import PLAIN, Point, Row, Runner, Scale
from experiments.table import Table
from experiments.tile_staircase import data
from llmq import policies
from llmq.errors import TraceWarning
from llmq.model.reuse import found
from llmq.rng import RngLike

TITLE = "Hits of a prefix cache by memory"
SEED = 7
NEEDS_DATA = True
SOURCE = "kvcache-ai/Mooncake conversation trace; llama-3.1-8b/h100 of the catalogue"
BLOCK, SLOWER, JITTER = 64, 0.4, 1
SIZES = {"small": (0.5e6, math.inf), "full": (0.0, 1e6, 2e6, 4e6, 8e6, math.inf)}
REQUESTS = {"small": 150, "full": 2500}
UNITS = {
    "memory": "KV tokens",
    "hits": "share of prompt tokens",
    "low": "as hits",
    "high": "as hits",
    "ttft": "s",
}


def trace_of(requests: int) -> llmq.Trace:
    """Read the trace.

    Parameters
    ----------
    requests : int
        How many.

    Returns
    -------
    Trace
        Slower than it was.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TraceWarning)
        whole = llmq.read_trace(
            data() / "traces" / "mooncake_conversation.jsonl.gz", jitter="uniform", rng=JITTER
        )
    return whole.head(requests).scaled(factor=SLOWER)


def one(point: Point, _: np.random.SeedSequence) -> list[Row]:
    """Serve the trace with one size of memory; 0 stands for the GPU's own."""
    engine = llmq.load_engine("llama-3.1-8b/h100").with_(kv_block=BLOCK, prefix_cache=True)
    if math.isinf(point["memory"]):
        engine = engine.with_(kv_tokens=None)
    elif point["memory"]:
        engine = engine.with_(kv_tokens=int(point["memory"]))
    policy = policies.VLLM(token_budget=8192)
    run = llmq.simulate(engine, trace_of(point["requests"]), policy)
    hits, memory = run.hit_rate, engine.kv_tokens or math.inf
    return [
        {
            "kind": "simulated",
            "memory": float(memory),
            "hits": hits,
            "low": hits,
            "high": hits,
            "ttft": run.ttft.estimate.mean,
            "n": 1,
        }
    ]


def compute(*, scale: Scale = "small", rng: RngLike = SEED, runner: Runner = PLAIN) -> Table:
    """Serve the trace with memories of several sizes.

    Parameters
    ----------
    scale : {"small", "full"}
        150 requests and two sizes, or 2500 and six.
    rng : Generator, SeedSequence, int or None
        Not used: a trace is served, its times are spread with a seed of their own.
    runner : Runner
        How points are computed.

    Returns
    -------
    Table
        Hits and mean TTFT by memory, and what an endless cache finds.
    """
    requests = REQUESTS[scale]
    rows = runner.run(one, [{"memory": m, "requests": requests} for m in SIZES[scale]], rng)
    trace = trace_of(requests)
    share = float(found(trace, kv_block=BLOCK).sum() / trace.prompt.sum())
    rows.append(
        {
            "kind": "theory",
            "memory": math.inf,
            "hits": share,
            "low": share,
            "high": share,
            "ttft": math.nan,
            "n": 1,
        }
    )
    about = {"source": SOURCE, "requests": str(requests)}
    return Table.of("prefix_memory", rows, units=UNITS, about=about)


def endless(table: Table) -> Finding:
    """Judge: with endless memory the simulated hits are those of the trace, to six digits."""
    want = float(table.where(kind="theory")["hits"][0])
    rows = table.where(kind="simulated")
    mine = rows["hits"][np.isinf(rows["memory"])]
    good = mine.size == 1 and math.isclose(mine[0], want, rel_tol=2e-6)
    words = f"simulated {mine[0]:.6g}, counted {want:.6g}" if mine.size else "not simulated"
    return Finding(Status.PROVED if good else Status.NOT, words)


def rising(table: Table) -> Finding:
    """Judge: more memory finds more and answers sooner, without exception."""
    rows = table.where(kind="simulated")
    order = np.argsort(rows["memory"])
    hits, ttft = rows["hits"][order], rows["ttft"][order]
    good = len(hits) > 1 and np.all(np.diff(hits) >= 0) and np.all(np.diff(ttft) <= 0)
    words = f"hits {hits[0]:.3f} to {hits[-1]:.3f}, mean TTFT {ttft[0]:.3g} to {ttft[-1]:.3g} s"
    return Finding(Status.DIRECTION if good else Status.NOT, words)


CLAIMS = (
    Claim(
        id="OURS-PREFIX-1",
        text="With endless memory the simulated prefix cache finds exactly the blocks that the "
        "trace repeats.",
        source="count over the trace, independent of the simulator",
        judge=endless,
        figure="prefix_memory",
        least=Status.PROVED,
        test="test_prefix_memory.py::test_judges",
    ),
    Claim(
        id="OURS-PREFIX-2",
        band=Band.RESULTS,
        text="More memory finds more of the shared prompts and answers sooner.",
        source="ours",
        judge=rising,
        figure="prefix_memory",
        least=Status.NOT,
        test="test_prefix_memory.py::test_judges",
    ),
)
