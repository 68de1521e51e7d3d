"""Invariants on a great many random runs: ``python -m experiments.soak [--runs N] [--start K]``.

Every system is drawn from its number alone: an engine (law, budgets, slots, chunk, prefix cache,
conventions), a workload or a trace that names its prompt blocks, a fleet and a policy. It is
simulated in as many replications as make a batch (``--batch``) and what ``run.check()`` looks at
must hold on all of them; where the memory binds, requests are evicted or swapped. A failure names
the system's number, which repeats it: ``--start NUMBER --runs 1``.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from typing import Any

import numpy as np

import llmq
from llmq import policies
from llmq.model.prefix import Prefix
from llmq.sim.results._checks import check_run

# One system in so many is also looked at in every iteration, which is slower.
BATCH, CHECKED = 50, 8


def system(
    number: int,
) -> tuple[llmq.Fleet, llmq.Workload | llmq.Trace, policies.Policy, int | None]:
    """Draw a system.

    Parameters
    ----------
    number : int
        Which one.

    Returns
    -------
    tuple
        Fleet, workload, policy, requests of a path (none where a trace is served).
    """
    rng = np.random.default_rng(number)
    kind = policies.ALL[rng.integers(len(policies.ALL))]
    read = rng.choice([0.0, 1e-7])
    attention = {
        "per_kv": read,
        "per_kv_mixed": rng.choice([read, 5e-6]),
        "per_work": rng.choice([0, 1e-8]),
    }
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
        kv_block=int(rng.choice([1, 3, 16])),
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
    if "max_output" in kind.__slots__:
        fields["max_output"] = 40
    if "version" in kind.__slots__:
        fields["version"] = str(rng.choice(["v0", "v1"]))
    # Some obey the engine's own budget, as the default does.
    policy = kind(**{"token_budget": [None, 256, 256][rng.integers(3)], **fields})
    chip = chip.with_(
        prefill_chunk=[None, None, 8, 48][rng.integers(4)],
        prefix_cache=bool(rng.random() < 0.25),
    )
    fleet = llmq.Fleet({"all": (chip, int(rng.integers(1, 4)))}, link=float(rng.choice([1e3, 1e6])))
    work, requests = llmq.Workload.poisson(rate, {"x": law}), int(rng.integers(1, 13))
    if rng.random() < 0.1:
        requests *= 10
    if chip.prefix_cache and rng.random() < 0.7:
        return fleet, named(work.sample(requests, rng=rng), rng), policy, None
    return fleet, work, policy, requests


def named(trace: llmq.Trace, rng: np.random.Generator) -> llmq.Trace:
    """Name the prompt blocks: every prompt goes on with one of three texts or leaves it early."""
    block, rows = 16, list[list[int]]()
    for prompt in trace.prompt.tolist():
        blocks = -(-prompt // block)
        text, shared = int(rng.integers(3)), int(rng.integers(blocks + 1))
        own = 1000 + 100 * len(rows)
        rows.append([100 * text + j if j < shared else own + j for j in range(blocks)])
    return llmq.Trace(
        trace.arrival,
        trace.prompt,
        trace.output,
        trace.reasoning,
        trace.klass,
        trace.classes,
        prefix=Prefix.of(rows, block=block),
    )


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
    parser.add_argument("--systems", type=int, default=1_000_000, help="systems that are served")
    parser.add_argument("--batch", type=int, default=BATCH, help="runs of a system")
    args = parser.parse_args()
    done, number, busy, counts = (
        0,
        args.start,
        time.process_time(),
        dict.fromkeys(("evictions", "swapped", "moved", "chunked", "cached", "hits", "refused"), 0),
    )
    while done < args.runs and number - args.start - counts["refused"] < args.systems:
        fleet, work, policy, requests = system(number)
        try:
            run = llmq.simulate(
                fleet,
                work,
                policy,
                requests=requests or 1,
                rng=number,
                replications=min(args.batch, args.runs - done) if requests else 1,
                check=number % CHECKED == 0,
            )
            check_run(run, policy)
        except llmq.InputError:
            counts["refused"] += 1  # a request that can never fit, or a pair that is not covered
            number += 1
            continue
        except llmq.LlmqError as error:
            print(f"\nsystem {number}: {policies.text(policy)}: {error}")
            return 4
        done += len(run.requests.arrival)
        counts["chunked"] += any(engine.prefill_chunk is not None for engine in run.engines)
        counts["cached"] += any(engine.prefix_cache for engine in run.engines)
        for tally in itertools.chain.from_iterable(run.tallies):
            for name in ("evictions", "swapped", "moved", "hits"):
                counts[name] += getattr(tally, name)
        number += 1
        if sys.stderr.isatty() or number % 200 == 0:
            print(f"\r{done} of {args.runs} runs", end="", file=sys.stderr, flush=True)
    words = ", ".join(f"{name} {count}" for name, count in counts.items())
    ran = number - args.start - counts["refused"]
    print(
        f"\n{done} runs of {ran} systems hold every invariant; {words}; "
        f"{time.process_time() - busy:.0f} CPU-s; next system {number}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
