"""Invariants on a great many random runs: ``python -m experiments.soak [--runs N] [--start K]``.

Every system is drawn from its number alone: an engine (law, budgets, conventions), a workload, a
fleet and a policy. It is simulated in as many replications as make a batch and ``run.check()`` must
hold on all of them; where the memory binds, requests are evicted or swapped. A failure names the
system's number, which repeats it: ``--start NUMBER --runs 1``.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

import numpy as np

import llmq
from llmq import policies

BATCH = 50


def system(number: int) -> tuple[llmq.Fleet, llmq.Workload, policies.Policy, int]:
    """Draw a system.

    Parameters
    ----------
    number : int
        Which one.

    Returns
    -------
    tuple
        Fleet, workload, policy, requests of a path.
    """
    rng = np.random.default_rng(number)
    kind = policies.ALL[rng.integers(len(policies.ALL))]
    attention = {"per_kv": rng.choice([0.0, 1e-7]), "per_work": rng.choice([0.0, 1e-8])}
    base, slope = rng.uniform(0.002, 0.02), rng.uniform(0, 2e-4)
    laws = (
        llmq.BatchTime.affine(base=base, per_token=slope, **attention),
        llmq.BatchTime.tiled(base=base, per_tile=base, tile=int(rng.choice([8, 32])), **attention),
        llmq.BatchTime.roofline(floor=base, base=base / 2, per_token=slope + 1e-6, **attention),
    )
    longest = int(rng.integers(2, 60))
    chip = llmq.Engine(
        laws[rng.integers(3)],
        token_budget=int(rng.choice([64, 256])),
        max_seqs=[None, 4, 16][rng.integers(3)],
        kv_tokens=[None, 160, 320][rng.integers(3)],
        kv_block=int(rng.choice([1, 16])),
        per_swap=float(rng.choice([0.0, 1e-5])),
        conventions=(llmq.ENGINE, llmq.THEORY)[rng.integers(2)],
    )
    output = int(rng.integers(1, 13))
    law = llmq.RequestClass(
        llmq.Lengths.uniform(1, longest),
        llmq.Lengths.uniform(output, output + int(rng.integers(0, 20))),
        int(rng.integers(0, output)) if rng.random() < 0.5 else 0,
    )
    rate = float(rng.choice([1.0, 10.0, 100.0]))
    fields: dict[str, Any] = {"quantum": 8} if "quantum" in kind.__slots__ else {}
    policy = kind(**{"token_budget": 256, **fields})
    fleet = llmq.Fleet({"all": (chip, int(rng.integers(1, 4)))}, link=float(rng.choice([1e3, 1e6])))
    return fleet, llmq.Workload.poisson(rate, {"x": law}), policy, int(rng.integers(1, 13))


def main() -> int:
    """Run and count.

    Returns
    -------
    int
        Exit code: 4 if an invariant broke.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1_000_000)
    parser.add_argument("--start", type=int, default=0, help="number of the first system")
    args = parser.parse_args()
    done, number, busy, counts = 0, args.start, time.process_time(), dict.fromkeys(
        ("evictions", "swapped", "moved", "refused"), 0
    )  # fmt: skip
    while done < args.runs:
        fleet, work, policy, requests = system(number)
        try:
            run = llmq.simulate(
                fleet, work, policy, requests=requests, rng=number,
                replications=min(BATCH, args.runs - done),
            )  # fmt: skip
            run.check()
        except llmq.InputError:
            counts["refused"] += 1  # a request that can never fit
            number += 1
            continue
        except llmq.LlmqError as error:
            print(f"\nsystem {number}: {policies.text(policy)}: {error}")
            return 4
        done += len(run.requests.arrival)
        for row in run.tallies:
            for tally in row:
                counts["evictions"] += tally.evictions
                counts["swapped"] += tally.swapped
                counts["moved"] += tally.moved
        number += 1
        if sys.stderr.isatty() or number % 200 == 0:
            print(f"\r{done} of {args.runs} runs", end="", file=sys.stderr, flush=True)
    words = ", ".join(f"{name} {count}" for name, count in counts.items())
    print(f"\n{done} runs of {number - args.start} systems hold every invariant; {words}; "
          f"{time.process_time() - busy:.0f} CPU-s; next system {number}")  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
