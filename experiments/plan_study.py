"""Are plans of the default length large enough? ``python -m experiments.plan_study``.

Each case is planned with the defaults. Then the planned count, and one engine fewer, are simulated
with 30,000 requests on each of four paths. A plan is *too small* if the long run of its count is
overloaded or misses the target, *too large* if one engine fewer is stable and meets it. Prints one
line for each case; exit code 1 if a plan was too small.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace

import llmq
from llmq import policies
from llmq.model.thinning import Thinned
from llmq.sim.stats import Share

GOAL = 0.99
SLO = llmq.SLO(ttft=0.5, tpot=0.05, quantile=GOAL)
ENGINES = (("llama-3.1-8b/h100", 1), ("llama-3.1-8b/h100", 4), ("llama-3.1-8b/a100", 1))
CASES = [
    (workload, rate, engine, seed)
    for workload, rate in (
        ("azure-conv", 60.0),
        ("azure-conv", 200.0),
        ("openchat-sharegpt4", 20.0),
    )
    for engine in ENGINES
    for seed in (0, 1)
]


def long_run(
    engine: llmq.Engine, work: llmq.Workload, engines: int, requests: int
) -> tuple[str, Share]:
    """Simulate one of so many equal engines behind a round-robin router, for long.

    Parameters
    ----------
    engine : Engine
        The engine.
    work : Workload
        Traffic of all engines.
    engines : int
        How many there are.
    requests : int
        Of each of four paths.

    Returns
    -------
    tuple of str and Share
        Verdict and attainment.
    """
    thin = replace(work, arrivals=Thinned(work.arrivals, engines))
    run = llmq.simulate(engine, thin, policies.Sarathi(), requests=requests, replications=4,
                        rng=12345)  # fmt: skip
    return run.verdict.status, run.attainment(SLO)


def main() -> int:
    """Plan, simulate for long, and count.

    Returns
    -------
    int
        1 if a plan was too small.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=30_000)
    parser.add_argument("--cases", type=int, default=len(CASES))
    args = parser.parse_args()
    small = large = 0
    print("| workload | rate | engine | seed | bound | GPUs | long run | one fewer | plan takes |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name, rate, (model, tp), seed in CASES[: args.cases]:
        work, engine = llmq.load_workload(name, rate), llmq.load_engine(model, tp)
        begun = time.process_time()
        best = llmq.plan_capacity(work, SLO, engine, policy=policies.Sarathi(), rng=seed).chosen
        took = time.process_time() - begun
        label = f"| {name} | {rate:g} | {model} TP{tp} | {seed} |"
        if best is None or best.engines is None:
            print(f"{label} | none | | | {took:.1f} s |", flush=True)
            continue
        status, share = long_run(engine, work, best.engines, args.requests)
        less = "below the bound"
        if (best.engines - 1) * tp >= best.gpus_lower_bound:
            under, part = long_run(engine, work, best.engines - 1, args.requests)
            less = f"{under}, {100 * part.value:.2f} %"
            large += under == "stable" and part.value >= GOAL
        small += status == "overloaded" or share.value < GOAL
        print(
            f"{label} {best.gpus_lower_bound} | {best.gpus} | {status}, "
            f"{100 * share.value:.2f} % | {less} | {took:.1f} s |", flush=True,
        )  # fmt: skip
    print(f"\n{small} plans too small, {large} too large, of {args.cases}")
    return int(small > 0)


if __name__ == "__main__":
    sys.exit(main())
