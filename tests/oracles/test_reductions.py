"""Policies that must coincide: the event times of both are compared to the last bit.

"Free": memory does not bind; "tight": it does, with evictions. The cases are those of the study of
scheduling policies (section 6, item 11) that concern the policies shipped.
"""

from __future__ import annotations

import numpy as np
import pytest

import llmq
from llmq import policies

LAW = llmq.BatchTime.affine(base=0.008, per_token=6e-5, per_kv=2.5e-8)
WIDE = 2**20
MANY = 10**9
EVENTS = ("prefill_end", "first_token", "finish")


def trace(hidden=0):
    rng = np.random.default_rng(11)
    n = 80
    arrival = np.cumsum(rng.exponential(1 / 12.0, n))
    prompt = np.clip(rng.lognormal(5.5, 0.8, n), 4, 800).astype(int)
    output = np.clip(rng.lognormal(4.5, 0.7, n), 2, 300).astype(int)
    return llmq.Trace(arrival, prompt, output, np.minimum(output - 1, hidden))


def events(chip, policy, requests=None):
    run = llmq.simulate(
        chip, trace() if requests is None else requests, policy, simulator="reference"
    )
    return run, [getattr(run.requests, event).tolist() for event in EVENTS]


FREE = llmq.Engine(LAW, token_budget=WIDE)
TIGHT = llmq.Engine(LAW, token_budget=WIDE, kv_tokens=2000)
SARATHI = policies.Sarathi(watermark=0.0)
PAIRS = {
    "SLAI with infinite offset, FCFS = Sarathi (free)": (
        FREE.with_(token_budget=512),
        policies.SLAI(order="fcfs", below=np.inf, above=np.inf),
        policies.Sarathi(),
    ),
    "PASCAL with one engine, no reasoning, endless quantum = Sarathi (free)": (
        FREE,
        policies.PASCAL(quantum=MANY, demote=MANY, token_budget=None),
        SARATHI,
    ),
    "FCFS with swap = Sarathi (free)": (FREE, policies.FCFS(token_budget=None), SARATHI),
    "round robin with an endless quantum = FCFS (tight)": (
        TIGHT,
        policies.RR(quantum=MANY),
        policies.FCFS(),
    ),
    "PASCAL without reasoning = round robin (tight)": (
        TIGHT,
        policies.PASCAL(quantum=20, demote=MANY),
        policies.RR(quantum=20),
    ),
    "Orca with room for every output = Sarathi with whole prompts (free)": (
        FREE,
        policies.Orca(max_output=500, watermark=0.0),
        SARATHI,
    ),
    "RAD with one-request tiles = FasterTransformer with one slot (free)": (
        FREE.with_(max_seqs=1, token_budget=512),
        policies.RAD(tile=1, chunk=512, route=policies.RoundRobin()),
        policies.FasterTransformer(),
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_reduction(name):
    chip, first, second = PAIRS[name]
    (mine, times), (theirs, others) = events(chip, first), events(chip, second)
    assert times == others
    assert mine.n_iterations == theirs.n_iterations
    if "tight" in name:
        assert mine.evictions == theirs.evictions > 20


def test_pascal_is_not_round_robin_where_there_is_reasoning():
    # The comparison above would be empty if reasoning made no difference.
    thinking = trace(hidden=100)
    _, mine = events(TIGHT, policies.PASCAL(quantum=20, demote=MANY), thinking)
    _, theirs = events(TIGHT, policies.RR(quantum=20), thinking)
    assert mine != theirs


def test_swapping_by_rank_is_not_recomputing_the_newest():
    # On purpose: FCFS ranks swapped rows by arrival, Sarathi computes the newest again (tight).
    one, first = events(TIGHT, policies.FCFS())
    two, second = events(TIGHT, policies.Sarathi(watermark=0.0))
    assert one.evictions > 0
    assert two.evictions > 0
    assert first != second
