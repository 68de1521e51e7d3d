"""QoE, blocking and reasoning latency: the table of PASCAL's dossier, and a run with phases."""

from __future__ import annotations

import numpy as np
import pytest

import llmq
from llmq import policies
from llmq.model.metrics import RequestTimes
from llmq.sim.results._reading import blocking, qoe, qoe_of, reasoning


@pytest.mark.parametrize(
    ("tokens", "tau", "start", "value"),
    [
        ([0, 1, 2, 6, 7], 1, None, 19 / 25),
        ([0, 1, 2, 6, 7], 2, None, 1.0),
        ([5], 1, None, 1.0),
        ([2, 3, 4, 5, 9, 10, 11, 12, 13], 1, None, 48 / 63),
        ([2, 3, 4, 5, 9, 10, 11, 12, 13], 2, None, 1.0),
        (1.25 + 0.04 * np.arange(50), 0.1, 0.25, 0.710144928),
        (1.25 + 0.04 * np.arange(824), 0.1, 0.25, 0.976275),
    ],
)
def test_table(tokens, tau, start, value):
    tolerance = 1e-6 if value == 0.976275 else 1e-9
    assert qoe_of(tokens, tau, start) == pytest.approx(value, abs=tolerance)


def test_the_recursion_is_the_definition():
    rng = np.random.default_rng(5)
    for _ in range(50):
        came = np.sort(rng.random(20) * 8)
        tau, start = 0.3, came[0] - 0.4
        digested = [max(came[0], start)]
        for g in came[1:]:
            digested.append(max(g, digested[-1] + tau))
        end = digested[-1]
        expected = sum(end - start - n * tau for n in range(20))
        assert qoe_of(came, tau, start) == pytest.approx(
            sum(end - d for d in digested) / expected, rel=1e-12
        )


def test_hidden_tokens_are_not_read():
    times = RequestTimes.from_tokens(arrival=[0], token_times=[[0, 1, 2, 6, 7]], reasoning=[2])
    assert qoe(times, tau=1.0)[0] == qoe_of([2, 6, 7], 1.0)
    # Expected half a second after the last hidden token at 1.
    assert qoe(times, tau=1.0, grace=0.5)[0] == qoe_of([2, 6, 7], 1.0, 1.5)


def test_qoe_needs_tokens_and_a_reader():
    times = RequestTimes.from_tokens(arrival=[0], token_times=[[0, 1]])
    with pytest.raises(llmq.InputError, match="tau must be positive"):
        qoe(times, tau=0)
    bare = RequestTimes(
        arrival=np.zeros(1),
        prefill_end=np.ones(1),
        first_token=np.ones(1),
        finish=np.ones(1),
        output=np.ones(1, int),
    )
    with pytest.raises(llmq.InputError, match="record='tokens'"):
        qoe(bare)


def test_phases_of_a_run():
    # One slot, one second an iteration: L reasons 6 tokens, S 1; quantum 2 (schedule S3).
    chip = llmq.Engine(llmq.BatchTime.affine(base=1.0, per_token=0.0), max_seqs=1)
    trace = llmq.Trace([0.0, 1.0], [1, 1], [8, 6], [6, 1])
    policy = policies.PASCAL(quantum=2, tau=100.0, token_budget=None)
    run = llmq.simulate(chip, trace, policy, record="tokens")
    # L: rr.rrrr..aa...   S: ..r....aa..aaa
    assert reasoning(run.requests)[0].tolist() == [7.0, 2.0]
    assert blocking(run.requests)[0].tolist() == [2.0, 4.0]
    assert run.metric("qoe").mean <= 1.0
    gaps = run.metric("itl")
    assert np.sort(gaps.values[~np.isnan(gaps.values)]).tolist() == [1, 1, 1, 1, 3]
    assert run.metric("itl", klass="all").observations == 5
