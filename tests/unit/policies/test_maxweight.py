"""MaxWeight: the batch is the best of all batches, and a full one where much work waits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import llmq
from llmq.model.time.batchtime import BatchTime
from llmq.optimality.networks import draw_network
from llmq.policies import MaxWeight
from llmq.policies.contract.blocks import Admit
from llmq.policies.contract.fill import plan
from llmq.policies.contract.view import View
from llmq.policies.maxweight import heaviest
from llmq.theory.region.tiling import best_batch

LAWS = (
    BatchTime.affine(base=1.0, per_token=0.1),
    BatchTime.tiled(base=1.0, per_tile=2.0, tile=4),
    BatchTime.roofline(floor=3.0, base=1.0, per_token=0.5),
    BatchTime.roofline(floor=3.0, base=1.0, per_token=0.5, tile=4),
    BatchTime.table(tokens=[1, 6, 7, 20], seconds=[1.0, 1.0, 4.0, 9.0]),
    BatchTime.affine(base=0.0, per_token=1.0),
)


def make_view(
    prompts: list[tuple[int, int]],
    decodes: list[int],
    *,
    law: BatchTime = LAWS[0],
    tokens: int = 12,
    **changes: object,
) -> View:
    """Rows in arrival order: decodes with tokens to come, then prompts with their outputs."""
    n, some = len(decodes) + len(prompts), len(decodes)
    rem = np.array([1] * some + [prompt for prompt, _ in prompts])
    generated = np.array([1] * some + [0] * len(prompts))
    decoding = np.arange(n) < some
    kv = np.where(decoding, 10 + np.arange(n), 0)
    arrays = {
        "row": np.arange(n),
        "arrival": np.zeros(n),
        "queued": np.arange(n),
        "prompt": rem,
        "klass": np.zeros(n, int),
        "kv": kv,
        "host": np.zeros(n, int),
        "generated": generated,
        "rem": rem,
        "held": kv,
        "decoding": decoding,
        "resident": decoding,
        "thought": np.zeros(n, int),
        "answering": decoding,
        "mark": np.zeros(n),
        "boundary": np.zeros(n),
        "first": np.zeros(n),
        "output": generated + np.array(decodes + [output for _, output in prompts]),
    }
    arrays["output"][some:] = [output for _, output in prompts]
    scalars = {
        "time": 0.0,
        "free": np.inf,
        "total": np.inf,
        "block": 1,
        "tokens": tokens,
        "slots": np.inf,
        "one_prefill_slot": False,
        "classes": ("a",),
        "iterations": 1,
        "law": law,
        "busy": 1.0,
        "started": 1,
        "prefilled": False,
        "present": np.ones(n, bool),
    }
    return View(**{**arrays, **scalars, **changes})


def worth_of_all(view: View, prompts: list[tuple[int, int]], decodes: list[int]) -> float:
    """Highest worth per second of any number of prompt tokens and decodes, by trying all."""
    tokens, later, answers = sum(p for p, _ in prompts), sum(o for _, o in prompts), sum(decodes)
    brings = later / tokens if tokens else 0.0
    worth = (1 + brings) * (tokens + later) - brings * answers
    return max(
        (
            (x * worth + y * answers) / view.law(x + y)
            for x in range(min(tokens, view.tokens) + 1)
            for y in range(min(len(decodes), view.tokens - x) + 1)
            if x + y
        ),
        default=0.0,
    )


@settings(max_examples=150)
@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 30)), max_size=6),
    st.lists(st.integers(1, 30), max_size=9),
    st.sampled_from(LAWS),
    st.integers(1, 20),
)
def test_no_batch_is_worth_more_per_second(prompts, decodes, law, tokens):
    # Against every number of prompt tokens and decodes, not only the sizes that the policy tries.
    if not prompts and not decodes:
        return
    view = make_view(prompts, decodes, law=law, tokens=tokens)
    batch = plan(view, MaxWeight().blocks, tokens)
    y = int(view.decoding[list(batch.rows)].sum())
    x = sum(batch.tokens) - y
    total, later = sum(p for p, _ in prompts), sum(o for _, o in prompts)
    brings = later / total if total else 0.0
    worth = (1 + brings) * (total + later) - brings * sum(decodes)
    found = (x * worth + y * sum(decodes)) / law(x + y)
    assert found == pytest.approx(worth_of_all(view, prompts, decodes), rel=1e-9)


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=60),
    st.lists(st.integers(1, 9), max_size=60),
    st.sampled_from(LAWS),
    st.integers(1, 12),
)
def test_beyond_a_bounded_backlog_every_batch_is_the_most_productive(prompts, decodes, law, tokens):
    # The theorem of the module: work above twice the budget times the largest request.
    largest = max([p + o for p, o in prompts] + decodes)
    view = make_view(prompts, decodes, law=law, tokens=tokens)
    if sum(p + o for p, o in prompts) + sum(decodes) <= 2 * tokens * largest:
        return
    n = heaviest(view, Admit()).tokens
    best = best_batch(law, tokens)
    assert n / law(n) == pytest.approx(float(best.exact_rate), rel=1e-12)


def test_by_hand():
    # 2 + 3 tokens in prompts with 10 outputs: A = 15, r = 2; decodes: D = 4.
    view = make_view([(2, 6), (3, 4)], [1, 3], law=BatchTime.affine(base=9.0, per_token=1e-9))
    chosen = heaviest(view, Admit())
    assert chosen.tokens == 7  # (3 * 15 - 2 * 4) > 0: all prompts, all decodes
    assert chosen.group.tolist() == [2, 2, 1, 1]
    # D = 23 > 3 * 15 / 2: a prompt token would add more than it takes.
    chosen = heaviest(make_view([(2, 6), (3, 4)], [20, 3]), Admit())
    assert (chosen.tokens, chosen.rows.tolist()) == (2, [True, True, False, False])
    assert chosen.group.tolist() == [-1, -1, 1, 1]


def test_decodes_alone_stop_at_the_most_productive_batch():
    # Tiles of 4 and a budget of 5: five decodes take 5 s, four take 3 s.
    view = make_view([], [3] * 5, law=LAWS[1], tokens=5)
    assert plan(view, MaxWeight().blocks, 5).rows == (0, 1, 2, 3)


def test_kv_that_rows_hold_counts():
    # The second decode would double what is read: 2 / 3 tokens a second against 1 / 1.2.
    law = BatchTime.affine(base=0.2, per_token=0.0, per_kv=0.1)
    view = make_view([], [5, 5], law=law)._replace(kv=np.array([9, 17]))
    assert heaviest(view, Admit()).tokens == 1
    assert heaviest(view._replace(kv=np.array([9, 10])), Admit()).tokens == 2


@pytest.mark.parametrize(
    ("changes", "tokens"),
    [
        ({}, 12),
        ({"slots": 2}, 2),
        ({"slots": 3}, 7),
        ({"free": 8.0, "total": 100.0}, 7),
        ({"slots": 2, "one_prefill_slot": True}, 11),
        ({"slots": 1, "one_prefill_slot": True}, 10),
        ({"tokens": 4}, 4),
    ],
)
def test_limits(changes, tokens):
    # Two decodes, two prompts of 5; prompts weigh more; a constant iteration time.
    law = BatchTime.affine(base=1.0, per_token=1e-9)
    view = make_view([(5, 9), (5, 9)], [1, 2], law=law, **changes)
    assert heaviest(view, Admit()).tokens == tokens
    batch = plan(view, MaxWeight(watermark=0.0).blocks, 12)
    assert sum(batch.tokens) == tokens


def test_nothing_to_run():
    view = make_view([(5, 9)], [], free=2.0, total=100.0)
    assert heaviest(view, Admit()).tokens == 0
    assert plan(view, MaxWeight().blocks, 12).rows == ()


def test_prompts_in_chunks_go_on_with_the_next():
    law = BatchTime.affine(base=1.0, per_token=1e-9)
    batch = plan(make_view([(5, 9), (5, 9)], [], law=law), MaxWeight().blocks, 3)
    assert (batch.rows, batch.tokens) == ((0, 1), (3, 3))


@pytest.mark.parametrize("number", range(3))
def test_full_batches_where_the_budget_is_too_large(number):
    # The case in which decoding all or none would lose: decodes alone exceed the best batch.
    network = draw_network(number, mismatched=True)
    run = llmq.simulate(
        network.engine, network.at(0.9, first=200), MaxWeight(), requests=400, rng=1
    )
    best = best_batch(network.engine.law, network.engine.token_budget)
    share = run.tallies[0][0].tokens / run.tallies[0][0].busy / float(best.exact_rate)
    assert 0.95 < share <= 1 + 1e-9
