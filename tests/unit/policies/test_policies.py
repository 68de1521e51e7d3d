"""Policies from the command line, routers, and the blocks one by one."""

from __future__ import annotations

import math

import numpy as np
import pytest

from llmq import policies
from llmq.errors import InputError
from llmq.model.time.batchtime import BatchTime
from llmq.policies import VLLM, LeastWork, Random, RoundRobin, Sarathi, parse
from llmq.policies.contract.blocks import (
    Admit,
    Budget,
    View,
    arrival_order,
    decodes_first,
    everyone,
    last_in_key,
    queue_order,
    until_next_event,
)
from llmq.policies.contract.routers import ROUTERS, Signals
from llmq.policies.vllm import OneKind

KNOWN = ", ".join(sorted(policy.name for policy in policies.ALL))


def view(*, rem=(1, 700, 300, 64), decoding=(1, 0, 0, 0), resident=(1, 1, 0, 0), **changes):
    """Four rows: a decode, a started prefill, two new rows."""
    n = len(rem)
    arrays = {
        "row": np.arange(n),
        "arrival": np.arange(n) / 2,
        "queued": np.array([9, 2, 3, 4])[:n],
        "prompt": np.array([100, 900, 300, 64])[:n],
        "klass": np.zeros(n, int),
        "kv": np.array([100, 200, 0, 0])[:n],
        "host": np.zeros(n, int),
        "generated": np.array(decoding),
        "rem": np.array(rem),
        "held": np.array([7, 13, 0, 0])[:n],
        "decoding": np.array(decoding, bool),
        "resident": np.array(resident, bool),
        "thought": np.zeros(n, int),
        "answering": np.array(decoding, bool),
        "mark": np.arange(n) / 2,
        "boundary": np.full(n, np.nan),
        "first": np.full(n, np.nan),
    }
    scalars = {
        "time": 3.0,
        "output": None,
        "free": 20.0,
        "total": 40.0,
        "block": 16,
        "tokens": 512,
        "slots": math.inf,
        "one_prefill_slot": False,
        "classes": ("chat",),
        "iterations": 1,
        "law": BatchTime.affine(base=1.0, per_token=0.0),
        "busy": 1.0,
        "started": 2,
        "prefilled": True,
        "present": np.ones(n, bool),
    }
    return View(**{**arrays, **scalars, **changes})


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("sarathi", Sarathi()),
        ("sarathi:", Sarathi()),
        ("sarathi:token_budget=512", Sarathi(token_budget=512)),
        ("sarathi: token_budget = 512 , watermark=0", Sarathi(token_budget=512, watermark=0.0)),
        ("sarathi:order=queue", Sarathi(order="queue")),
        ("sarathi:route=least-work", Sarathi(route=LeastWork())),
        ("vllm:watermark=5e-2,route=random", VLLM(watermark=0.05, route=Random())),
        ("vllm:token_budget=4096", VLLM(token_budget=4096)),
    ],
)
def test_policies_from_the_command_line(text, policy):
    made = parse(text)
    assert made == policy
    assert type(made.token_budget) is type(policy.token_budget)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sarath", "unknown policy 'sarath'; did you mean 'sarathi'?"),
        ("xyz", f"unknown policy 'xyz'; known: {KNOWN}"),
        ("", f"unknown policy ''; known: {KNOWN}"),
        (
            "sarathi:tokenbudget=5",
            "policy sarathi: no field 'tokenbudget'; did you mean 'token_budget'?",
        ),
        (
            "sarathi:name=x",
            "policy sarathi: no field 'name'; known: order, route, token_budget, watermark",
        ),
        ("sarathi:token_budget", "policy sarathi: token_budget needs a value: token_budget=..."),
        (
            "sarathi:token_budget=many",
            "policy sarathi: token_budget must be a whole number >= 0, got 'many'",
        ),
        (
            "sarathi:token_budget=1.5",
            "policy sarathi: token_budget must be a whole number >= 0, got '1.5'",
        ),
        (
            "sarathi:order=decode_first",
            "policy sarathi: order is 'decode_first'; did you mean 'decodes_first'?",
        ),
        ("vllm:route=randm", "unknown router 'randm'; did you mean 'random'?"),
        ("vllm:watermark=2", "watermark is a share of the KV blocks, from 0 to below 1, got 2.0"),
    ],
)
def test_bad_policies(text, words):
    if "known: sarathi" in words:
        words = words.replace("sarathi, vllm", ", ".join(sorted(p.name for p in policies.ALL)))
    with pytest.raises(InputError) as caught:
        parse(text)
    assert str(caught.value) == words


def test_an_order_that_does_not_exist():
    with pytest.raises(InputError) as caught:
        Sarathi(order="fifo")
    assert str(caught.value) == "Sarathi: order must be 'decodes_first' or 'queue', got 'fifo'"


def test_every_policy_is_found_by_its_name():
    names = [policy.name for policy in policies.ALL]
    assert len(set(names)) == len(names)
    for policy in policies.ALL:
        assert parse(policy.name) == policy()


def test_round_robin_deals_in_turn():
    rng = np.random.default_rng(0)
    assert RoundRobin().split(7, 3, rng).tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert rng.random() == np.random.default_rng(0).random()  # nothing was drawn


def test_random_split_is_uniform():
    n, k = 12_000, 3
    split = Random().split(n, k, np.random.default_rng(5))
    share = np.bincount(split, minlength=k) / n
    assert np.all(np.abs(share - 1 / k) <= 4 * math.sqrt((1 / k) * (1 - 1 / k) / n))


def signals(*numbers: float) -> Signals:
    column = np.array(numbers)
    return Signals("x", 0.0, column, column, column, {"x": column}, ())


def test_least_work_takes_the_first_of_equals():
    assert LeastWork().split(5, 2, np.random.default_rng(0)) is None
    assert LeastWork().pick(signals(3.0, 1.0, 2.0)) == 1
    assert LeastWork().pick(signals(2.0, 1.0, 1.0)) == 1
    assert LeastWork().pick(signals(0.0)) == 0


@pytest.mark.parametrize("router", ROUTERS, ids=lambda router: router.name)
def test_a_router_splits_or_picks(router):
    split = router().split(10, 3, np.random.default_rng(1))
    if split is None:
        assert router().pick(signals(5.0, 0.0)) == 1
    else:
        assert set(split.tolist()) <= {0, 1, 2}
        with pytest.raises(TypeError, match="splits beforehand"):
            router().pick(signals(5.0, 0.0))


def order(key, seen):
    return np.lexsort(tuple(reversed(tuple(key(seen))))).tolist()


def test_keys():
    seen = view(rem=(64, 1, 300, 700), decoding=(0, 1, 0, 0), resident=(0, 1, 0, 1))
    assert order(decodes_first, seen) == [1, 3, 0, 2]
    assert order(arrival_order, seen) == [0, 1, 2, 3]
    assert order(queue_order, seen) == [1, 2, 3, 0]


def test_defaults_hold_nobody():
    eligible, wake = everyone(view())
    assert eligible.tolist() == [True] * 4
    assert wake is None
    assert until_next_event(view()) == math.inf


def test_victim_is_the_last_resident_that_was_not_served():
    seen = view(decoding=(1, 1, 1, 0), resident=(1, 1, 1, 0))
    assert last_in_key(seen, [0, 1, 2, 3], 0, [False] * 4) == 2
    assert last_in_key(seen, [0, 1, 2, 3], 0, [False, False, True, False]) == 1
    assert last_in_key(seen, [0, 1, 2, 3], 2, [True, True, False, False]) == 2  # itself
    assert last_in_key(seen, [2, 1, 0], 2, [False] * 4) == 0
    assert last_in_key(seen, [0, 1], 2, [True] * 4) is None


def test_admission_counts_whole_blocks_and_the_watermark():
    admit = Admit(watermark=0.05)
    assert admit.margin(40) == 2
    assert admit.margin(39) == 1  # rounded down
    assert admit.margin(math.inf) == 0
    seen = view()  # row 2 needs ceil(300 / 16) = 19 blocks
    assert admit.fits(seen, 2, free=21)
    assert not admit.fits(seen, 2, free=20)
    assert Admit(watermark=0).fits(seen, 2, free=19)
    assert admit.fits(view(total=math.inf), 2, free=math.inf)


@pytest.mark.parametrize("watermark", [-0.1, 1, math.nan, math.inf])
def test_bad_watermarks(watermark):
    words = f"watermark is a share of the KV blocks, from 0 to below 1, got {watermark}"
    for make in (Admit, Sarathi, VLLM):
        with pytest.raises(InputError) as caught:
            make(watermark=watermark)
        assert str(caught.value) == words


def test_vllm_runs_prefills_while_the_first_can_be_admitted():
    gate = OneKind(Admit(watermark=0.0))
    new = {"rem": (1, 300, 64), "decoding": (1, 0, 0), "resident": (1, 0, 0)}
    assert gate(view(**new))[0].tolist() == [False, True, True]
    assert gate(view(**new, free=18.0))[0].tolist() == [True, False, False]  # memory
    assert gate(view(**new, tokens=299))[0].tolist() == [True, False, False]  # budget
    assert gate(view(**new, slots=1))[0].tolist() == [True, False, False]  # slots
    assert gate(view(**new, slots=2))[0].tolist() == [False, True, True]
    idle = view(rem=(1, 1), decoding=(1, 1), resident=(1, 1))
    assert gate(idle)[0].tolist() == [True, True]
    assert gate(view(**new))[1] is None


def test_compositions():
    assert Sarathi().blocks.budget == Budget()
    assert Sarathi().blocks.key is decodes_first
    assert Sarathi(order="queue").blocks.key is queue_order
    assert Sarathi(order="queue").blocks.together.queue
    assert Sarathi(watermark=0.2).blocks.admit.watermark == 0.2
    assert VLLM(version="v0").blocks.budget.whole
    assert not VLLM(version="v0").blocks.together.mixed
    v0 = VLLM(version="v0", watermark=0.2).blocks
    assert v0.gate.admit == v0.admit
    for policy in (Sarathi(route=Random()), VLLM(route=Random())):
        assert policy.blocks.route == Random()
