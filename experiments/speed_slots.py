"""How fast SLAI runs in many replications: requests per CPU-second beside the naive loop.

    LLMQ_DATA=... python -m experiments.speed_slots [--lanes 256] [--requests 400] [--profile]

Lengths of OpenChat conversations (mean prompt 2340, mean output 439), Mistral-7B on an RTX 6000
Ada, 1.4 requests/s, one request in twenty pays for a deadline of 0.1 s, the others have 0.5 s. The
yardstick :mod:`experiments.naive` (its own workload, ``bench/w10k.csv``) is timed in turn.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np

import llmq
from experiments.naive import BUDGET, LAW, SLOTS, cpu, simulate_naive
from llmq.sim.slots import run_slots
from llmq.sim.vector import Lanes

RATE, PAYING = 1.4, 0.05
POLICY = llmq.policies.SLAI(deadlines={"paying": 0.1, "free": 0.5})


def openchat(path: Path, lanes: int, requests: int, rate: float, seed: int = 1) -> Lanes:
    """Draw requests with the lengths of the file."""
    rng = np.random.default_rng(seed)
    lengths = np.loadtxt(path, delimiter=",", skiprows=1, usecols=(0, 1), dtype=np.int64)
    rows = lengths[rng.integers(0, len(lengths), (lanes, requests))]
    arrival = rng.exponential(1 / rate, (lanes, requests)).cumsum(axis=1)
    return Lanes(arrival, rows[..., 0], rows[..., 1])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--lanes", type=int, default=256)
    parser.add_argument("--requests", type=int, default=400, help="of each lane")
    parser.add_argument("--rate", type=float, default=RATE, help="requests/s")
    parser.add_argument("--repeat", type=int, default=3, help="rounds; the best of each counts")
    parser.add_argument("--profile", action="store_true", help="where the time goes")
    parser.add_argument("--data", default=os.environ.get("LLMQ_DATA"), help="folder of the data")
    args = parser.parse_args()
    if not args.data:
        parser.exit(2, "speed_slots: set LLMQ_DATA or give --data: the folder with traces/\n")
    data = Path(args.data)
    lanes = openchat(
        data / "traces" / "openchat_sharegpt4_lengths.csv", args.lanes, args.requests, args.rate
    )
    klass = (np.random.default_rng(2).random(lanes.arrival.shape) < PAYING).astype(np.int64)
    chip = llmq.load_engine("mistral-7b/rtx6000ada")
    trace = llmq.read_trace(data / "bench" / "w10k.csv")
    columns = trace.arrival.tolist(), trace.prompt.tolist(), trace.output.tolist()
    names = ("free", "paying")
    calls = {
        "naive per-slot loop": (
            len(trace),
            lambda: simulate_naive(*columns, **LAW, token_budget=BUDGET, max_seqs=SLOTS),
        ),
        f"SLAI, {args.lanes} replications": (
            lanes.arrival.size, lambda: run_slots(chip, POLICY, lanes, klass, names)
        ),
    }  # fmt: skip
    best = dict.fromkeys(calls, float("inf"))
    for _ in range(args.repeat):
        for name, (_, call) in calls.items():
            best[name] = min(best[name], cpu(call))
    yardstick = len(trace) / best["naive per-slot loop"]
    print(f"{'':38s} {'req/CPU-s':>10s} {'x naive':>8s}")
    for name, (requests, _) in calls.items():
        rate = requests / best[name]
        print(f"{name:38s} {rate:10,.0f} {rate / yardstick:8.2f}")
    log = run_slots(chip, POLICY, lanes, klass, names)
    print(f"{log.undone.sum()} lanes undone (they evict); "
          f"{log.iterations.sum() / lanes.arrival.size:.1f} iterations per request")  # fmt: skip
    if args.profile:
        import cProfile
        import pstats

        with cProfile.Profile() as profile:
            run_slots(chip, POLICY, lanes, klass, names)
        pstats.Stats(profile).sort_stats("tottime").print_stats(18)


if __name__ == "__main__":
    main()
