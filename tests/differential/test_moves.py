"""Requests that move between engines: reference and lockstep agree to the last bit (B27).

A row keeps nothing of what its old engine gave it: its quantum at the new one begins when its KV is
there, also if that is in the middle of an iteration.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

import llmq
from llmq import policies
from llmq.policies._pascal_route import PascalRoute
from llmq.policies.contract.view import View
from llmq.sim._fast.ranked.engine import run_ranked

TICK = 2.0**-20  # seconds: multiples add exactly
UNIT = 1024 * TICK


def first_edition(_: PascalRoute, view: View) -> float:
    """The footprint of a router that does not see a request in its first iteration (B26)."""
    return float(np.sum((view.prompt + view.generated)[view.kv + view.host > 0]))


def test_b27_nine_requests_on_two_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Finish times of an independently written PASCAL, made when routers counted otherwise."""
    monkeypatch.setattr(PascalRoute, "footprint", first_edition)
    law = llmq.BatchTime.affine(base=1.0, per_token=1 / 4, per_kv=1 / 64, per_work=1 / 128)
    chip = llmq.Engine(law, max_seqs=3, per_swap=1 / 32, token_budget=2**20)
    arrival = [5, 7, 10.5, 12.5, 16.5, 17, 19, 26.5, 29]
    prompt, output = [4, 9, 6, 3, 2, 8, 7, 9, 9], [1, 10, 5, 6, 5, 8, 5, 8, 3]
    trace = llmq.Trace(arrival, prompt, output, [0, 4, 4, 5, 4, 3, 0, 0, 0])
    policy = policies.PASCAL(quantum=2, tau=1.0)
    run = llmq.simulate(llmq.Fleet({"all": (chip, 2)}), trace, policy, simulator="reference")
    # The fifth, sixth, eighth and ninth were 35.480, 46.152, 47.652 and 40.340 once.
    assert run.requests.finish[0].tolist() == [
        7.125,
        27.31640625,
        21.28515625,
        30.9609375,
        33.1953125,
        44.35546875,
        33.7890625,
        47.33984375,
        42.40234375,
    ]


def agree(seed: int) -> bool:
    """Run one random fleet both ways; False if the lockstep leaves it to the reference."""
    draw = np.random.default_rng(seed)

    def pick(*values: float) -> float:
        return float(draw.choice(np.array(values, float)))

    n, engines = int(draw.integers(6, 22)), int(draw.integers(2, 5))
    law = llmq.BatchTime.affine(
        base=pick(8, 16) * UNIT,
        per_token=pick(0, 16, 256) * TICK,
        per_kv=pick(0, 1, 8) * TICK,
        per_kv_mixed=pick(0, 1, 8) * TICK,
        per_work=pick(0, 2) * TICK,
    )
    policy = policies.PASCAL(
        quantum=int(pick(1, 2, 4, 8, 500)),
        demote=int(pick(3, 12, 30, 5000)),
        adaptive=seed % 4 == 3,
        tau=pick(8, 16, 64, 4096) * UNIT,
    )
    chip = llmq.Engine(
        law,
        token_budget=policy.token_budget,
        max_seqs=int(pick(0, 1, 2, 3, 5)) or None,
        kv_tokens=int(pick(0, 64, 96, 160)) or None,
        kv_block=int(pick(1, 1, 4, 16)),
        per_swap=pick(0, 1, 64) * TICK,
    )
    prompt, output, share = (draw.integers(*x, n) for x in ((1, 13), (1, 31), (0, 5)))
    hidden = np.where(share == 0, 0, (output - 1) * share // 4)
    arrival = np.cumsum(draw.choice([0, 0, 8, 16, 17, 40, 130], n)) * UNIT
    link = pick(math.inf, 32, 512)
    columns = (x[None] for x in (arrival, prompt, output, hidden))
    log = run_ranked([chip] * engines, policy, *columns, link, tau=1.0)
    if log.undone[0]:
        return False
    fleet = llmq.Fleet({"all": (chip, engines)}, link=link)
    trace = llmq.Trace(arrival, prompt, output, hidden)
    run = llmq.simulate(fleet, trace, policy, simulator="reference")
    for name in ("prefill_end", "first_token", "finish"):
        theirs = getattr(run.requests, name)[0]
        np.testing.assert_array_equal(getattr(log, name)[0], theirs, f"{name}, seed {seed}")
    assert log.moved[0].tolist() == [tally.moved for tally in run.tallies[0]]
    return True


def test_b27_moves_agree_to_the_last_bit() -> None:
    """In the last of these the instant at which a row lands decides between two rows."""
    assert sum(agree(seed) for seed in (*range(2), 32)) == 3


@pytest.mark.slow
def test_b27_moves_agree_in_four_hundred_random_fleets() -> None:
    assert sum(agree(seed) for seed in range(420)) >= 400
