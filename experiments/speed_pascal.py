"""PASCAL's fleet in many replications; :mod:`experiments.speed` times it.

The reconstructed workload ``reasoning-alpaca`` on eight engines of PASCAL's substitute model with
90,000 KV tokens each, 1,000 requests of a path, at 10/s (0.75 of the capacity) and 15/s (1.13 of
it).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import llmq
from llmq.io.workloads import load_workload
from llmq.policies import Policy
from llmq.sim._fast.ranked.engine import run_ranked

__all__ = ["chip", "draw", "lockstep"]

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
        Columns of :func:`llmq.sim._fast.ranked.engine.run_ranked`.
    """
    work = load_workload(name, rate)
    seeds = np.random.SeedSequence(seed).spawn(replications)
    traces = [work.sample(requests, one) for one in seeds]
    return {
        name: np.stack([getattr(trace, column) for trace in traces])
        for name, column in (
            ("arrival", "arrival"),
            ("prompt", "prompt"),
            ("output", "output"),
            ("hidden", "reasoning"),
        )
    }


def lockstep(policy: Policy, rate: float, replications: int, requests: int) -> Callable[[], object]:
    """Return a run of all replications, none of which may need the reference."""
    columns: dict[str, Any] = draw("reasoning-alpaca", rate, replications, requests, seed=7)
    fleet = [chip()] * 8

    def call() -> None:
        log = run_ranked(fleet, policy, **columns, link=LINK)
        assert not log.undone.any()

    return call
