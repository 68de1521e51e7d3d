"""How fast PASCAL's fleet is simulated: requests per CPU-second of the lockstep of ranked policies.

    python -m experiments.speed_pascal [--repeat 3] [--replications 64]

The reconstructed workload ``reasoning-alpaca`` on eight engines of PASCAL's substitute model with
90,000 KV tokens each, 1,000 requests of a path, at 10/s (0.75 of the capacity) and 15/s (1.13 of
it). The yardstick (:mod:`experiments.naive`) serves one path of its own workload, in turn with the
others.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np

import llmq
from experiments.naive import cpu
from experiments.speed_vector import naive
from llmq import policies
from llmq.io.workloads import load_workload
from llmq.policies import Policy
from llmq.sim.ranked import run_ranked

__all__ = ["chip", "draw", "main", "rows"]

LINK = 12.5e9 / 262_144


def chip(kv_tokens: int = 90_000) -> llmq.Engine:
    """Return the engine of PASCAL's cluster, its memory counted by the token.

    Parameters
    ----------
    kv_tokens : int
        KV budget.

    Returns
    -------
    Engine
        With the time of swaps.
    """
    engine = llmq.load_engine("deepseek-r1-distill-qwen-32b/h100")
    return engine.with_(
        kv_tokens=kv_tokens, kv_block=1, max_seqs=256, token_budget=2**20, per_swap=5.24e-6
    )


def draw(
    name: str, rate: float, replications: int, requests: int, seed: int
) -> dict[str, np.ndarray]:
    """Draw the requests of all replications.

    Parameters
    ----------
    name : str
        A named workload.
    rate : float
        Requests per second.
    replications, requests : int
        Paths and requests of each.
    seed : int
        For the traces.

    Returns
    -------
    dict of str to ndarray
        Columns of :func:`llmq.sim.ranked.run_ranked`.
    """
    work = load_workload(name, rate)
    seeds = np.random.SeedSequence(seed).spawn(replications)
    traces = [work.sample(requests, one) for one in seeds]
    return {
        name: np.stack([getattr(trace, column) for trace in traces])
        for name, column in (
            ("arrival", "arrival"), ("prompt", "prompt"), ("output", "output"),
            ("hidden", "reasoning"),
        )
    }  # fmt: skip


def lockstep(policy: Policy, rate: float, replications: int, requests: int) -> Callable[[], object]:
    """Return a run of all replications, none of which may need the reference."""
    columns: dict[str, Any] = draw("reasoning-alpaca", rate, replications, requests, seed=7)
    fleet = [chip()] * 8

    def call() -> None:
        log = run_ranked(fleet, policy, **columns, link=LINK)
        assert not log.undone.any()

    return call


def rows(repeat: int = 3, replications: int = 64, requests: int = 1000) -> dict[str, float]:
    """Time every case: requests per CPU-second, the best of several rounds.

    Parameters
    ----------
    repeat : int
        Rounds; in each all cases are timed in turn.
    replications, requests : int
        Size of the runs.

    Returns
    -------
    dict of str to float
        The yardstick first.
    """
    table = {"naive per-slot loop": (10_000, naive())}
    for rate in (10.0, 15.0):
        for policy in (policies.PASCAL(), policies.RR(), policies.FCFS()):
            table[f"{policy.name}, {rate:g}/s, R = {replications}"] = (
                replications * requests, lockstep(policy, rate, replications, requests)
            )  # fmt: skip
    best = dict.fromkeys(table, float("inf"))
    for _ in range(repeat):
        for name, (_, call) in table.items():
            best[name] = min(best[name], cpu(call))
    return {name: n / best[name] for name, (n, _) in table.items()}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--repeat", type=int, default=3, help="rounds; the best of each counts")
    parser.add_argument("--replications", type=int, default=64)
    args = parser.parse_args()
    speeds = rows(args.repeat, args.replications)
    yardstick = next(iter(speeds.values()))
    print(f"{'':38s} {'req/CPU-s':>10s} {'x naive':>8s}")
    for name, speed in speeds.items():
        print(f"{name:38s} {speed:10,.0f} {speed / yardstick:8.2f}")


if __name__ == "__main__":
    main()
