"""Exact schedules of an independent simulator (serQ 0.1.4) and an independent loop.

Cases 6, 9 and 10 serve one queue in order, 6d, 9d and 10d decodes first; times are integers (in
10 us), so every digit counts. Source: the project's cross-check dossier, sections 5a and 5b.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest

import llmq
from llmq import policies

LAW = llmq.BatchTime.tiled(base=1128, per_tile=3547, tile=128)
CHIP = llmq.Engine(LAW, token_budget=128, conventions=llmq.THEORY)


@dataclass(frozen=True)
class Case:
    name: str
    order: str
    gap: int
    n: int
    iterations: int
    mean_response: float
    max_response: int
    mean_ttft: float
    last_finish: int


CASES = (
    Case("6", "queue", 46750, 500, 5990, 4704106.55, 4717075, 41944.1, 28050000),
    Case("9", "queue", 50000, 500, 6336, 4668739.25, 4674975, 40489.25, 29670800),
    Case("10", "queue", 0, 64, 1135, 5306125.0, 5306125, 346534.375, 5306125),
    Case("6d", "decodes_first", 46750, 500, 5990, 4670194.1, 4675000, 41944.1, 28050000),
    Case("9d", "decodes_first", 50000, 500, 6336, 4668739.25, 4674975, 40489.25, 29670800),
    Case("10d", "decodes_first", 0, 64, 1190, 5050972.265625, 5563250, 422722.265625, 5563250),
)


@pytest.mark.parametrize("engine", ["reference", "calendar"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_crosscheck_to_the_last_digit(case: Case, engine: str) -> None:
    arrival = [case.gap * k for k in range(1, case.n + 1)] if case.gap else [0] * case.n
    trace = llmq.Trace(arrival, [290] * case.n, [990] * case.n)
    run = llmq.simulate(CHIP, trace, policies.Sarathi(order=case.order), engine=engine)
    response = run.requests.finish[0] - run.requests.arrival[0]
    ttft = run.requests.prefill_end[0] - run.requests.arrival[0]
    assert run.n_iterations[0] == case.iterations
    assert math.fsum(response) / case.n == case.mean_response
    assert response.max() == case.max_response
    assert math.fsum(ttft) / case.n == case.mean_ttft
    assert run.requests.finish.max() == case.last_finish
    run.check()


@pytest.mark.parametrize("order", ["queue", "decodes_first"])
def test_below_the_critical_rate_the_fastest_response_is_993_iterations(order: str) -> None:
    # 3 prefill and 990 decode iterations of 4675 units: stated for cases 6 and 9.
    trace = llmq.Trace([50000 * k for k in range(1, 501)], [290] * 500, [990] * 500)
    run = llmq.simulate(CHIP, trace, policies.Sarathi(order=order))
    assert (run.requests.finish - run.requests.arrival).min() == 993 * 4675


@pytest.mark.parametrize("case", [c for c in CASES if c.gap], ids=lambda case: case.name)
def test_one_output_token_more_in_the_engine_convention_is_the_theory_convention(
    case: Case,
) -> None:
    # Convention F (first token at the end of the prefill) with vd + 1 equals D with vd.
    arrival = [case.gap * k for k in range(1, case.n + 1)]
    policy = policies.Sarathi(order=case.order)
    theory = llmq.simulate(CHIP, llmq.Trace(arrival, [290] * case.n, [990] * case.n), policy)
    engine = llmq.simulate(
        CHIP.with_(conventions=llmq.ENGINE),
        llmq.Trace(arrival, [290] * case.n, [991] * case.n),
        policy,
    )
    assert (theory.requests.finish == engine.requests.finish).all()
    assert (theory.requests.prefill_end == engine.requests.prefill_end).all()
    assert (engine.requests.first_token == engine.requests.prefill_end).all()
    assert theory.n_iterations[0] == engine.n_iterations[0]
