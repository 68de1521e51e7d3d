"""SLAI's rules: the worked batch and the last schedulable times of its dossier."""

from __future__ import annotations

import numpy as np
import pytest

import llmq
from llmq import policies
from llmq.policies.contract.fill import plan
from llmq.policies.contract.view import View

LAW = llmq.BatchTime.affine(base=1.0, per_token=0.0)


def view(rows, *, time=1.0, classes=("free", "paying"), budget=10, busy=0.047, **changes):
    """Rows are (state, prompt, rem, class, mark), state d(ecode), p(artial) or n(ew)."""
    state, prompt, rem, klass, mark = zip(*rows, strict=True)
    n, state = len(rows), np.array(state)
    whole = {name: np.zeros(n, dtype=int) for name in ("host", "thought")}
    prompt, rem = np.array(prompt), np.array(rem)
    decode, new = state == "d", state == "n"
    made = View(
        time=time,
        row=np.arange(n),
        arrival=np.zeros(n),
        queued=np.arange(n),
        prompt=prompt,
        klass=np.array([classes.index(k) for k in klass]),
        kv=prompt + decode - rem,
        generated=decode.astype(int),
        rem=rem,
        held=np.where(new, 0, 1000),
        decoding=decode,
        resident=~new,
        answering=decode,
        mark=np.array(mark, float),
        boundary=np.full(n, np.nan),
        first=np.full(n, np.nan),
        output=None,
        classes=classes,
        free=np.inf,
        total=np.inf,
        block=16,
        tokens=budget,
        slots=128.0,
        one_prefill_slot=False,
        law=LAW,
        iterations=1,
        busy=busy,
        started=n,
        prefilled=False,
        present=np.ones(n, bool),
        **whole,
    )
    return made._replace(**changes)


DECODES = [("d", 8, 1, "free", y) for y in (0.9, 1.0, 1.2, 1.5)]
# A B C D decode, X is started (4 left), Y pays (6 tokens, came earlier), Z is free (2 tokens).
ROWS = [*DECODES, ("p", 8, 4, "free", 0), ("n", 6, 6, "paying", 0), ("n", 2, 2, "free", 0)]
NAMES = "ABCDXYZ"


def served(policy, rows=ROWS):
    batch = plan(view(rows), policy.blocks, 10)
    return {NAMES[i]: x for i, x in zip(batch.rows, batch.tokens, strict=True)}


def slai(**fields):
    return policies.SLAI(deadlines={"paying": 0.1}, decodes=4, **fields)


def test_batch_of_slai():
    assert served(slai(order="paying")) == {"A": 1, "B": 1, "X": 4, "Y": 4}
    assert served(slai(order="spf")) == {"A": 1, "B": 1, "X": 4, "Z": 2, "Y": 2}
    fcfs = {"A": 1, "B": 1, "C": 1, "D": 1, "X": 4, "Y": 2}
    assert served(policies.Sarathi()) == fcfs
    assert served(slai(), DECODES) == dict.fromkeys("ABCD", 1)


def test_limit_of_decodes():
    policy = policies.SLAI(decodes=2)
    assert served(policy, DECODES) == {"A": 1, "B": 1}


@pytest.mark.parametrize(("used", "paying", "free"), [(0.5, 4.865, 5.265), (0.97, 4.63, 5.03)])
def test_last_schedulable_time(used, paying, free):
    rows = [("d", 8, 1, "paying", 0), ("d", 8, 1, "free", 0)]
    policy = policies.SLAI(deadlines={"paying": 0.1, "free": 0.5})
    marks = policy.mark(view(rows, time=5.0, total=100.0, free=100 * (1 - used)))
    np.testing.assert_allclose(marks, [paying, free], rtol=1e-12)


def test_fixed_offset_does_not_look_at_memory():
    policy = policies.SLAI(below=10, above=10)
    assert policy.theta([0.0, 0.99]).tolist() == [10, 10]


def test_infinite_offset_is_sarathi():
    # Every decode is critical: bit for bit the same events where memory does not bind.
    law = llmq.BatchTime.affine(base=0.01, per_token=1e-4, per_kv=1e-7)
    chip = llmq.Engine(law, token_budget=64, max_seqs=8)
    rng = np.random.default_rng(3)
    trace = llmq.Trace(
        np.sort(rng.random(300) * 60), rng.integers(1, 200, 300), rng.integers(1, 60, 300)
    )
    always = policies.SLAI(order="fcfs", below=np.inf, above=np.inf)
    mine = llmq.simulate(chip, trace, always, simulator="reference")
    theirs = llmq.simulate(chip, trace, policies.Sarathi(), simulator="reference")
    for event in ("prefill_end", "first_token", "finish"):
        a, b = getattr(mine.requests, event), getattr(theirs.requests, event)
        assert a.tolist() == b.tolist()
