"""Fleets: who is in them, who may use which pool."""

from __future__ import annotations

import math

import numpy as np
import pytest

from llmq.errors import InputError, shown
from llmq.model.engine import Engine
from llmq.model.fleet import Fleet
from llmq.model.time.batchtime import BatchTime

FAST = Engine(BatchTime.affine(base=0.01, per_token=1e-5), name="fast", gpus=2)
SLOW = Engine(BatchTime.affine(base=0.03, per_token=1e-5), name="slow")


def test_engines_and_gpus():
    fleet = Fleet({"a": (FAST, 2), "b": (SLOW, 3)}, eligible={"rag": ("a",)})
    assert fleet.engines == (FAST, FAST, SLOW, SLOW, SLOW)
    assert fleet.gpus == 2 * 2 + 3
    assert fleet.link == math.inf


def test_the_callers_dicts_are_copied():
    pools, roles, names = {"a": (FAST, 1)}, {"a": "prefill"}, ["a"]
    fleet = Fleet(pools, eligible={"rag": names}, roles=roles)
    pools["b"], roles["a"] = (SLOW, 1), "decode"
    names.append("b")
    assert list(fleet.pools) == ["a"]
    assert fleet.roles == {"a": "prefill"}
    assert fleet.eligible == {"rag": ("a",)}


def test_numpy_counts():
    assert Fleet({"a": (FAST, np.int64(2))}) == Fleet({"a": (FAST, 2)})


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"pools": {}}, "a fleet needs at least one pool"),
        ({"pools": {"a": (FAST, 0)}}, "pool 'a' needs at least 1 engine, got 0"),
        ({"pools": {"a": (FAST, 1.5)}}, "Fleet: pools['a'][1] must be a whole number, got 1.5"),
        (
            {"pools": {"a": (3, FAST)}},
            "Fleet: pools['a'][0] must be an Engine, got 3: llmq.load_engine(name) or "
            "llmq.Engine(law, ...) makes one",
        ),
        ({"pools": {"a": FAST}}, f"Fleet: pools['a'] must be a tuple, got {shown(FAST)}"),
        ({"eligible": {"rag": ()}}, "class 'rag' may be served by no pool"),
        ({"eligible": {"rag": ("fats",)}}, "no pool 'fats'; did you mean 'fast'?"),
        (
            {"eligible": {"rag": "fast"}},
            "Fleet: eligible['rag'] must be a tuple, got 'fast': write ('fast',)",
        ),
        ({"roles": {"slwo": "both"}}, "no pool 'slwo'; did you mean 'slow'?"),
        (
            {"roles": {"slow": "train"}},
            "role of pool 'slow' must be one of ('both', 'prefill', 'decode'), got 'train'",
        ),
        ({"link": 0}, "link must be positive (KV tokens per second), got 0"),
        ({"link": math.nan}, "link must be positive (KV tokens per second), got nan"),
    ],
)
def test_refusals(arguments, words):
    with pytest.raises(InputError) as caught:
        Fleet(**{"pools": {"fast": (FAST, 1), "slow": (SLOW, 1)}, **arguments})
    assert str(caught.value) == words
