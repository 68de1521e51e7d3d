"""How fast: requests per CPU-second of each simulator, as multiples of a naive loop in one run.

    LLMQ_DATA=... python -m experiments.speed [--repeat 5]

One path is ``bench/w10k.csv`` (10,000 requests, Poisson 6/s): affine law, token budget 512, 128
slots. Many replications draw requests of the same laws (:mod:`experiments.speed_vector`), for SLAI
OpenChat's, for PASCAL a reasoning workload on eight engines. The yardstick is
:mod:`experiments.naive`, timed in turn with the others, so that a machine that slows down slows
them all. Also: memory per live request, and what an import costs.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np

import llmq
from experiments import speed_pascal, speed_slots, speed_vector
from experiments.naive import BUDGET, KV, LAW, SLOTS, cpu, simulate_naive
from llmq.search import MaxRate
from llmq.sim.calendar import CalendarEngine
from llmq.sim.log import Job, Log
from llmq.sim.slots import run_slots

# Requests per CPU-second, and as a multiple of the yardstick.
SARATHI = llmq.policies.Sarathi()
TARGETS = {
    "simulate, calendar, no KV limit": "200,000, 3",
    "vector, Sarathi, R = 1024": "600,000, 8",
    "vector, Sarathi, R = 256": "350,000, 5",
    "vector, RAD, R = 1024": "600,000, 8",
    "slots, SLAI, OpenChat, R = 256": "30,000, 0.4",
    "ranked, PASCAL, 8 engines, 10/s, R = 64": "20,000, 0.3",
}


def calendar(chip: llmq.Engine, trace: llmq.Trace) -> CalendarEngine:
    """Return the calendar engine with all requests queued, not yet run."""
    lists = [x.tolist() for x in (trace.arrival, trace.prompt, trace.output, trace.reasoning)]
    server = CalendarEngine(Job(chip, llmq.policies.Sarathi(), *lists), Log.empty(len(trace)))
    server.queue.extend(range(len(trace)))
    return server


def run_calendar(chip: llmq.Engine, trace: llmq.Trace) -> None:
    """Run the engine without what ``simulate`` adds: verdict, statistics, result."""
    calendar(chip, trace).advance(float("inf"))


def cases(data: Path) -> dict[str, tuple[int, Callable[[], object]]]:
    """List the calls to be timed, with their requests."""
    trace = llmq.read_trace(data / "bench" / "w10k.csv")
    short = trace.head(500)
    chip = llmq.Engine(
        llmq.BatchTime.affine(**LAW), token_budget=BUDGET, max_seqs=SLOTS, kv_tokens=KV
    )
    columns = trace.arrival.tolist(), trace.prompt.tolist(), trace.output.tolist()
    n = len(trace)
    return {
        "naive per-slot loop": (
            n, lambda: simulate_naive(*columns, **LAW, token_budget=BUDGET, max_seqs=SLOTS)
        ),
        "simulate, calendar, no KV limit": (
            n, lambda: llmq.simulate(chip.with_(kv_tokens=None), trace, SARATHI, engine="calendar")
        ),
        "simulate, calendar, KV blocks": (
            n, lambda: llmq.simulate(chip, trace, SARATHI, engine="calendar")
        ),
        "calendar engine alone, KV blocks": (n, lambda: run_calendar(chip, trace)),
        "simulate, reference (500 requests)": (
            500, lambda: llmq.simulate(chip, short, SARATHI, engine="reference")
        ),
    }  # fmt: skip


def many(data: Path) -> dict[str, tuple[int, Callable[[], object]]]:
    """List the calls that run many replications, with their requests."""
    table = speed_vector.cases()
    work, chip = capacity_case()
    table["simulate, Sarathi, R = 1024, all of it"] = (
        512_000, lambda: llmq.simulate(chip, work, SARATHI, replications=1024, requests=500, rng=7)
    )  # fmt: skip
    lanes = speed_slots.openchat(
        data / "traces" / "openchat_sharegpt4_lengths.csv", 256, 400, speed_slots.RATE
    )
    paying = np.random.default_rng(2).random(lanes.arrival.shape) < speed_slots.PAYING
    ada, names = llmq.load_engine("mistral-7b/rtx6000ada"), ("free", "paying")
    table["slots, SLAI, OpenChat, R = 256"] = (
        lanes.arrival.size,
        lambda: run_slots(ada, speed_slots.POLICY, lanes, paying.astype(np.int64), names),
    )
    pascal = llmq.policies.PASCAL()
    for rate in (10.0, 15.0):
        table[f"ranked, PASCAL, 8 engines, {rate:g}/s, R = 64"] = (
            64 * 1000, speed_pascal.lockstep(pascal, rate, 64, 1000)
        )  # fmt: skip
    return table


def capacity_case() -> tuple[llmq.Workload, llmq.Engine]:
    """Return the workload of w10k as laws of lengths, and its engine."""
    law = llmq.RequestClass(
        llmq.Lengths.lognormal(mean=500, sigma=0.9, low=4, high=2048),
        llmq.Lengths.lognormal(mean=260, sigma=0.8, low=4, high=1024),
    )
    chip = llmq.Engine(llmq.BatchTime.affine(**LAW), token_budget=BUDGET, max_seqs=SLOTS)
    return llmq.Workload.poisson(6.0, {"chat": law}), chip


def capacity_search() -> MaxRate:
    """Find the highest rate with p99 TTFT <= 1 s and p99 TPOT <= 50 ms."""
    work, chip = capacity_case()
    return llmq.max_rate(chip, work, llmq.SLO(ttft=1.0, tpot=0.05, quantile=0.99), rng=1)


def process_cost(code: str, repeat: int = 5) -> float:
    """CPU-seconds of a fresh interpreter that runs some code, the best of several."""
    best = float("inf")
    for _ in range(repeat):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        best = min(best, used)
    return best


def import_cost(repeat: int = 5) -> float:
    """CPU-seconds of ``import llmq`` in a process that has NumPy already, the best of several."""
    code = (
        "import numpy, time; start = time.process_time(); import llmq; "
        "print(time.process_time() - start)"
    )
    runs = [
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
        for _ in range(repeat)
    ]
    return min(float(run.stdout) for run in runs)


def peak_memory(data: Path, requests: int) -> float:
    """Peak bytes while the calendar runs, beyond the times that it keeps of each request."""
    base = llmq.read_trace(data / "bench" / "w1k.csv")
    copies = -(-requests // len(base))
    shift = np.repeat(np.arange(copies) * (base.span + 1), len(base))
    trace = llmq.Trace(
        np.tile(base.arrival, copies) + shift, np.tile(base.prompt, copies),
        np.tile(base.output, copies),
    )  # fmt: skip
    chip = llmq.Engine(
        llmq.BatchTime.affine(**LAW), token_budget=BUDGET, max_seqs=SLOTS, kv_tokens=KV
    )
    server = calendar(chip, trace)
    tracemalloc.start()
    server.advance(float("inf"))
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return float(peak - kept)


def plan_azure(path: Path) -> None:
    """Plan the Azure conversation trace for p99 targets, from the file to the answer."""
    slo = llmq.SLO(ttft=0.5, tpot=0.05, quantile=0.99)
    trace = llmq.read_trace(path).scaled(factor=10)
    llmq.plan_capacity(trace, slo, llmq.load_engine("llama-3.1-8b/h100"))


def rates(data: Path, repeat: int) -> dict[str, float]:
    """Time every case in turn.

    Parameters
    ----------
    data : Path
        Folder with ``bench/w10k.csv``.
    repeat : int
        Rounds; the best of each case counts.

    Returns
    -------
    dict of str to float
        Requests per CPU-second, the yardstick first.
    """
    table = cases(data) | many(data)
    best = dict.fromkeys(table, float("inf"))
    for _ in range(repeat):
        for name, (_, call) in table.items():
            best[name] = min(best[name], cpu(call))
    return {name: n / best[name] for name, (n, _) in table.items()}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--repeat", type=int, default=5, help="rounds; the best of each counts")
    parser.add_argument("--data", default=os.environ.get("LLMQ_DATA"), help="folder of the data")
    args = parser.parse_args()
    if not args.data:
        parser.exit(2, "speed: set LLMQ_DATA or give --data: the folder with bench/w10k.csv\n")
    data = Path(args.data)
    azure = data / "traces" / "azure_llm_2023_conv.csv"
    found = rates(data, args.repeat)
    yardstick = found["naive per-slot loop"]
    print(f"{'':42s} {'req/CPU-s':>10s} {'x naive':>8s}   target")
    for name, rate in found.items():
        print(f"{name:42s} {rate:10,.0f} {rate / yardstick:8.2f}   {TARGETS.get(name, '')}")
    search = min(cpu(capacity_search) for _ in range(args.repeat))
    print(f"capacity search, 8 probes x 2000 requests with an interval: {search:.2f} CPU-s (0.3)")
    small, large = peak_memory(data, 1_000), peak_memory(data, 20_000)
    print(f"calendar's own peak memory: {small / 1e3:.0f} kB for 1,000 requests, "
          f"{large / 1e3:.0f} kB for 20,000")  # fmt: skip
    seconds = min(cpu(lambda: llmq.read_trace(azure)) for _ in range(args.repeat))
    plan = min(cpu(lambda: plan_azure(azure)) for _ in range(2))
    print(f"read the Azure trace: {seconds:.2f} CPU-s; plan it: {plan:.2f} CPU-s")
    helped = process_cost("from llmq.cli import main; main(['--help'])")
    print(f"import llmq beyond NumPy: {1e3 * import_cost():.1f} ms CPU; "
          f"llmq --help: {helped:.2f} CPU-s")  # fmt: skip


if __name__ == "__main__":
    main()
