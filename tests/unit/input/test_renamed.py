"""An old word is accepted, with a warning that says the new one."""

from __future__ import annotations

import inspect

import pytest

import llmq
from llmq.errors import InputError

CHIP = llmq.Engine(llmq.BatchTime.affine(base=1.0, per_token=0.0))
ONE = llmq.Trace([0.0], [5], [3])
HOP = llmq.Agent({"x": llmq.Call("a", llmq.RequestClass(5, 3))})
AGENTS = llmq.AgentTrace.draw({"t": HOP}, [0.0], ["t"])

WORK = llmq.Workload.poisson(0.1, {"x": llmq.RequestClass(5, 3)})
RUN = llmq.simulate(CHIP, WORK, requests=50, rng=1)
SUMMARY = llmq.simulate(CHIP, WORK, requests=50, rng=1, record="summary")
STAGES = llmq.simulate_agents({"a": CHIP}, AGENTS)

# What is called, its old and new word, a value.
CASES = [
    (lambda **how: llmq.simulate(CHIP, ONE, **how), "simulate", "engine", "simulator", "calendar"),
    (
        lambda **how: llmq.simulate_agents({"a": CHIP}, AGENTS, **how),
        "simulate_agents",
        "engine",
        "simulator",
        "calendar",
    ),
    (lambda **how: RUN.metric("ttft", **how), "metric", "anyway", "allow_unstable", True),
    (lambda **how: SUMMARY.metric("ttft", **how), "metric", "anyway", "allow_unstable", True),
    (
        lambda **how: llmq.simulate(CHIP, WORK, requests=50, rng=1, precision=0.5, **how),
        "simulate",
        "most",
        "maximum",
        400,
    ),
    (lambda **how: STAGES.metric("e2e", **how), "metric", "anyway", "allow_unstable", True),
]


@pytest.mark.parametrize(("call", "name", "old", "new", "value"), CASES)
def test_the_old_word_still_works_and_says_so(call, name, old, new, value):
    want = call(**{new: value})
    words = f"^{name}: {old}= is called {new}= now; the old name will go$"
    with pytest.warns(DeprecationWarning, match=words) as said:
        found = call(**{old: value})
    assert said[0].filename == __file__  # the caller's line
    assert str(found) == str(want)
    with pytest.raises(InputError, match=f"{old}= is the old name of {new}=: give one of them"):
        call(**{old: value, new: value})


def test_the_signature_has_the_new_word_only():
    names = inspect.signature(llmq.simulate).parameters
    assert "simulator" in names
    assert "engine" not in names
