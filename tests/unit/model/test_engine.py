"""Engines and conventions: budgets, derived counts, refusals word by word."""

from __future__ import annotations

import math

import numpy as np
import pytest

from llmq.errors import InputError
from llmq.model.conventions import ENGINE, THEORY, Conventions
from llmq.model.engine import Engine
from llmq.model.time.batchtime import BatchTime

LAW = BatchTime.affine(base=0.012, per_token=2.5e-5)


def test_chunk_is_bounded_by_the_budget():
    assert Engine(LAW, token_budget=512).chunk == 512
    assert Engine(LAW, token_budget=512, prefill_chunk=128).chunk == 128
    assert Engine(LAW, token_budget=512, prefill_chunk=2048).chunk == 512


def test_memory_is_whole_blocks():
    assert Engine(LAW).kv_blocks == math.inf
    assert Engine(LAW, kv_tokens=47, kv_block=16).kv_blocks == 2
    assert Engine(LAW, kv_tokens=48, kv_block=16).kv_blocks == 3


@pytest.mark.parametrize("number", [64, 64.0, np.int64(64), np.float64(64)])
def test_counts_from_any_number_type_become_ints(number):
    engine = Engine(LAW, token_budget=number, max_seqs=number, kv_tokens=number, gpus=number)
    for name in ("token_budget", "max_seqs", "kv_tokens", "gpus"):
        assert type(getattr(engine, name)) is int
    assert engine == Engine(LAW, token_budget=64, max_seqs=64, kv_tokens=64, gpus=64)


@pytest.mark.parametrize(
    ("field", "unit"),
    [
        ("token_budget", "token"),
        ("max_seqs", "request"),
        ("kv_tokens", "token"),
        ("kv_block", "token"),
        ("prefill_chunk", "token"),
        ("gpus", "GPU"),
    ],
)
@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0, "{} must be at least 1 {}, got 0"),
        (-3, "{} must be at least 1 {}, got -3"),
        (0.5, "Engine: {} must be a whole number, got 0.5"),
        (math.inf, "Engine: {} must be a whole number, got inf"),
        (math.nan, "Engine: {} must be a whole number, got nan"),
        ("512", "Engine: {} must be a whole number, got '512': write 512 without quotes"),
        (True, "Engine: {} must be a whole number, got True"),
        (2**63, f"Engine: {{}} must be a whole number of at most 64 bits, got {2**63}"),
    ],
)
def test_bad_counts(field, unit, value, words):
    with pytest.raises(InputError) as caught:
        Engine(LAW, **{field: value})
    assert str(caught.value) == words.format(field, unit)
    assert (caught.value.field, caught.value.value) == (field, pytest.approx(value, nan_ok=True))


@pytest.mark.parametrize("field", ["token_budget", "kv_block", "gpus"])
def test_what_has_no_meaning_unset(field):
    with pytest.raises(InputError, match=rf"^Engine: {field} must be a whole number, got None$"):
        Engine(LAW, **{field: None})


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            {"law": 0.012},
            "Engine: law must be a BatchTime, got 0.012: "
            "make one with BatchTime.affine, .tiled, .roofline or .table",
        ),
        (
            {"kv_tokens": 15, "kv_block": 16},
            "kv_tokens (15) must hold at least one block of 16",
        ),
        (
            {"conventions": "theory"},
            "Engine: conventions must be a Conventions, got 'theory': "
            "llmq.ENGINE and llmq.THEORY are two",
        ),
    ],
)
def test_refusals(arguments, words):
    with pytest.raises(InputError) as caught:
        Engine(**{"law": LAW, **arguments})
    assert str(caught.value) == words


def test_a_changed_copy():
    engine = Engine(LAW, token_budget=512, name="h100")
    small = engine.with_(token_budget=64, max_seqs=None)
    assert (small.token_budget, small.name, engine.token_budget) == (64, "h100", 512)
    with pytest.raises(InputError) as caught:
        engine.with_(tokn_budget=64)
    assert str(caught.value) == "an engine has no 'tokn_budget'; did you mean 'token_budget'?"
    with pytest.raises(InputError, match="at least 1 token, got 0"):
        engine.with_(token_budget=0)


def test_an_engine_for_people():
    assert str(Engine(LAW, token_budget=512)) == (
        "engine: affine(base=0.012, per_token=2.5e-05); budget 512 tokens, no slot limit, "
        "no KV limit"
    )
    assert str(Engine(LAW, name="x", max_seqs=8, kv_tokens=235_728)).endswith(
        "8 slots, 235,728 KV tokens"
    )


@pytest.mark.parametrize(
    ("conventions", "lag", "decodes"), [(ENGINE, 0, [0, 127]), (THEORY, 1, [1, 128])]
)
def test_conventions(conventions, lag, decodes):
    assert conventions.lag == lag
    assert [conventions.decode_iterations(n) for n in (1, 128)] == decodes
    assert conventions.decode_iterations(np.array([1, 128])).tolist() == decodes


@pytest.mark.parametrize(
    ("field", "known"),
    [
        ("first_token", ("prefill_end", "next_iteration")),
        ("prefill_slots", ("per_request", "one")),
        ("area", ("chunked", "wait", "decode_only")),
    ],
)
def test_unknown_conventions(field, known):
    with pytest.raises(InputError) as caught:
        Conventions("mine", **{field: "never"})
    words = " or ".join(map(repr, known))
    assert str(caught.value).startswith(f"Conventions: {field} must be {words}, got 'never'")
    for word in known:
        assert getattr(Conventions("mine", **{field: word}), field) == word
