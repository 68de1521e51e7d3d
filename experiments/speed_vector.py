"""Requests drawn anew in each replication, and the calls that serve them in lockstep.

The workload of ``bench/w10k.csv`` as laws: Poisson 6/s, lognormal prompts (mean 500, sigma 0.9,
clipped to 4..2048) and outputs (mean 260, sigma 0.8, clipped to 4..1024), affine law, token budget
512, 128 slots; R replications of 500 requests. RAD serves the same requests under a law with tiles
of 128 tokens. :mod:`experiments.speed` times the calls.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

import llmq
from experiments.plain_loop import BUDGET, KV, LAW, SLOTS
from llmq.policies import Policy
from llmq.policies.rad import RAD
from llmq.sim._fast.vector.engine import Lanes, run_lanes

RATE = 6.0
TILE = 128  # tokens: a decode batch and a chunk of a prompt fill one
CHIP = llmq.Engine(llmq.BatchTime.affine(**LAW), token_budget=BUDGET, max_seqs=SLOTS)
TILED = CHIP.with_(
    law=llmq.BatchTime.tiled(base=0.011, per_tile=TILE * LAW["per_token"], tile=TILE),
    conventions=llmq.THEORY,
)
STEPS = np.arange(8, BUDGET + 1, 8)
STAIRS = CHIP.with_(  # the affine law and a step of 0.5 ms at every tile, measured every 8 tokens
    law=llmq.BatchTime.table(
        tokens=STEPS,
        seconds=LAW["base"] + LAW["per_token"] * STEPS + 5e-4 * np.ceil(STEPS / TILE),
        per_kv=LAW["per_kv"],
    )
)


def lengths(
    rng: np.random.Generator, shape: tuple[int, int], mean: float, sigma: float, most: int
) -> np.ndarray:
    """Lognormal token counts, of the given mean before they are clipped to 4..most."""
    drawn = rng.lognormal(np.log(mean) - sigma**2 / 2, sigma, shape)
    np.clip(np.rint(drawn, out=drawn), 4, most, out=drawn)
    return drawn


def draw(replications: int, requests: int, seed: int = 7) -> Lanes:
    """Draw the requests of all replications."""
    rng, shape = np.random.default_rng(seed), (replications, requests)
    arrival = rng.exponential(1 / RATE, shape)
    return Lanes(
        np.cumsum(arrival, axis=1, out=arrival),
        lengths(rng, shape, 500, 0.9, 2048),
        lengths(rng, shape, 260, 0.8, 1024),
    )


def vector(chip: llmq.Engine, policy: Policy, lanes: Lanes) -> Callable[[], object]:
    """Return a run of all lanes, which must not need another engine."""

    def call() -> None:
        log = run_lanes(chip, policy, lanes)
        assert not log.undone.any()

    return call


def cases() -> dict[str, tuple[int, Callable[[], object]]]:
    """List the calls to be timed, with their requests, as in :mod:`experiments.speed`."""
    many, some = draw(1024, 500), draw(256, 500)
    sarathi, rad = llmq.policies.Sarathi(), RAD(tile=TILE)
    return {
        "vector, Sarathi, R = 1024": (512_000, vector(CHIP, sarathi, many)),
        "vector, Sarathi, R = 1024, KV blocks": (
            512_000,
            vector(CHIP.with_(kv_tokens=KV), sarathi, many),
        ),
        "vector, Sarathi, R = 1024, table law": (512_000, vector(STAIRS, sarathi, many)),
        "vector, Sarathi, R = 256": (128_000, vector(CHIP, sarathi, some)),
        "vector, RAD, R = 1024": (512_000, vector(TILED, rad, many)),
    }
