"""Iteration times: numbers by hand, and the float law against its exact twin."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmq.errors import InputError
from llmq.model.time._curve import check_table, token_curve
from llmq.model.time.batchtime import BatchTime
from llmq.units import as_fraction

# Coefficients as people write them: few digits, so that the exact twin has small fractions.
coefficient = st.integers(0, 10**6).map(lambda k: k / 10**9)
positive = st.integers(1, 10**6).map(lambda k: k / 10**9)
attention = {
    "per_kv": coefficient,
    "per_kv_mixed": st.none() | coefficient,
    "per_work": coefficient,
}
tiles = st.integers(1, 300)
affine = st.builds(BatchTime.affine, base=positive, per_token=coefficient, **attention)
tiled = st.builds(
    BatchTime.tiled,
    base=positive,
    per_tile=coefficient,
    tile=tiles,
    per_token=coefficient,
    **attention,
)
roofline = st.builds(
    BatchTime.roofline,
    floor=positive,
    base=coefficient,
    per_token=coefficient,
    floor_per_token=coefficient,
    tile=tiles,
    **attention,
)


@st.composite
def tables(draw):
    tokens = sorted(draw(st.sets(st.integers(1, 4000), min_size=2, max_size=8)))
    steps = draw(st.lists(coefficient, min_size=len(tokens), max_size=len(tokens)))
    seconds = np.round(draw(positive) + np.cumsum(steps), 9)
    return BatchTime.table(tokens=tokens, seconds=seconds, **draw(st.fixed_dictionaries(attention)))


laws = st.one_of(affine, tiled, roofline, tables())


def by_hand(law: BatchTime, n: int) -> Fraction:
    """The curves of the module docstring, written once more, from the definition."""
    value = {
        name: as_fraction(getattr(law, name))
        for name in ("base", "per_token", "per_tile", "floor", "floor_per_token")
    }
    started = math.ceil(Fraction(n, law.tile))
    if law.form == "affine":
        return value["base"] + value["per_token"] * n
    if law.form == "tiled":
        return value["base"] + value["per_tile"] * started + value["per_token"] * n
    compute = value["base"] + value["per_token"] * started * law.tile
    return max(compute, value["floor"] + value["floor_per_token"] * n)


@given(st.one_of(affine, tiled, roofline), st.integers(1, 10_000))
def test_exact_curves_are_the_definition(law, n):
    assert law.exact().curve(n) == by_hand(law, n)


@given(
    laws,
    st.integers(0, 10_000),
    st.integers(0, 10**6),
    st.integers(0, 10**7).map(lambda k: Fraction(k, 2)),
    st.booleans(),
)
def test_the_float_law_is_the_exact_one_rounded(law, n, kv, work, mixed):
    exact = law.exact()(n, kv, work, mixed=mixed)
    assert isinstance(exact, Fraction)
    assert law(n, kv, float(work), mixed=mixed) == pytest.approx(float(exact), rel=1e-13)


@given(laws, st.integers(1, 5000), st.integers(0, 10**5), st.integers(0, 1000))
def test_more_tokens_never_take_less_time(law, n, kv, more):
    assert law(n + more, kv) >= law(n, kv) > 0
    assert law(n, kv + more) >= law(n, kv)
    assert law(n, kv, 1.0 + more) >= law(n, kv, 1.0)


@given(laws, st.integers(1, 64).map(lambda k: k / 8))
def test_scaled_multiplies_every_time(law, factor):
    slow = law.scaled(factor)
    n = np.arange(0, 700, 13)
    for arguments in ((n,), (n, 1000), (n, 1000, 50.0)):
        np.testing.assert_allclose(slow(*arguments), factor * law(*arguments), rtol=1e-13)
    assert slow.form == law.form
    assert slow.tile == law.tile


@given(tables(), st.lists(st.integers(1, 6000), min_size=1, max_size=20))
def test_a_table_is_linear_interpolation(law, n):
    x, y = np.array(law.tokens, float), np.array(law.seconds)
    inside = np.minimum(n, x[-1])
    slope = (y[-1] - y[-2]) / (x[-1] - x[-2])
    beyond = np.maximum(0, np.array(n) - x[-1]) * slope
    np.testing.assert_allclose(law(n), np.interp(inside, x, y) + beyond, rtol=1e-12)


def test_a_table_by_hand():
    law = BatchTime.table(tokens=[4, 8, 9, 16], seconds=[1.0, 2.0, 3.0, 10.0])
    assert law([0, 1, 4, 6, 8, 9, 10, 16, 20]).tolist() == [0, 1, 1, 1.5, 2, 3, 4, 10, 14]
    assert law.exact()(6) == Fraction(3, 2)
    assert law.exact()(20) == 14
    assert law.exact()(1) == 1


def test_attention_by_hand():
    law = BatchTime.affine(base=1.0, per_token=0.5, per_kv=0.25, per_kv_mixed=0.75, per_work=2.0)
    assert law(2, kv=4) == 1 + 1 + 1
    assert law(2, kv=4, mixed=True) == 1 + 1 + 3
    assert law(2, kv=4, work=1.5) == 1 + 1 + 3 + 3  # attention work implies prefill tokens
    assert law.exact()(2, 4, Fraction(3, 2)) == 8
    assert law([1, 2], [0, 4], mixed=[False, True]).tolist() == [1.5, 5]
    assert law(0, kv=4, work=3) == 0  # an empty batch takes no time
    assert law.exact()(0, 4) == law.exact().curve(0) == 0
    same = BatchTime.affine(base=1.0, per_token=0.5, per_kv=0.25)
    assert same(2, kv=4, mixed=True) == same(2, kv=4) == 3


def test_the_oracle_of_the_nonlinear_tile():
    """RAD's example: 46.75 ms for one tile of 128, one token more costs a whole tile."""
    law = BatchTime.tiled(base=11.28, per_tile=35.47, tile=128)
    assert (law(1), law(128), law(129)) == (46.75, 46.75, 82.22)
    assert law.exact()(512) == Fraction(3829, 25)


def test_shapes():
    law = BatchTime.affine(base=1.0, per_token=1.0)
    assert type(law(3)) is float
    assert law(np.ones((2, 3))).shape == (2, 3)
    assert law(np.ones((2, 1)), np.ones(3)).shape == (2, 3)
    assert law.token_time(3) == 4.0
    assert token_curve(law, np.array([0.0, 3.0])).tolist() == [0, 4]


def test_whole_floats_and_numpy_integers_are_counts():
    law = BatchTime.tiled(base=1, per_tile=1, tile=128.0)
    assert type(law.tile) is int
    assert isinstance(law.exact()(5), Fraction)
    table = BatchTime.table(tokens=np.array([1.0, 4.0]), seconds=[1, 2])
    assert table.tokens == (1, 4)
    assert all(type(n) is int for n in table.tokens)


def test_laws_for_people():
    assert str(BatchTime.tiled(base=0.01, per_tile=0.035, tile=128)) == (
        "tiled(base=0.01, per_tile=0.035, tile=128)"
    )
    assert str(BatchTime.affine(base=Fraction(1, 4), per_token=0)) == "affine(base=0.25)"
    assert str(BatchTime.table(tokens=[1, 9], seconds=[1, 2])) == "table(2 points to 9 tokens)"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: BatchTime("cubic"), "unknown form of batch time 'cubic'"),
        (
            lambda: BatchTime.affine(base=-1, per_token=0),
            "batch time: base must be a finite number >= 0 (seconds), got -1",
        ),
        (
            # A hinge of 10 up to 256 tokens, then 0.05 a token.
            lambda: BatchTime.roofline(floor=10, base=-2.8, per_token=0.05),
            "batch time: base must be a finite number >= 0 (seconds), got -2.8; a curve that "
            "is flat up to 256 tokens and then rises is BatchTime.table("
            "tokens=[1, 256, 512], seconds=[10, 10, 22.8])",
        ),
        (
            lambda: BatchTime.affine(base=1, per_token=0, per_kv_mixed=math.nan),
            "batch time: per_kv_mixed must be a finite number >= 0 (seconds), got nan",
        ),
        (
            lambda: BatchTime.affine(base=0, per_token=0, per_kv=1),
            "batch time: an iteration with one token must take time, got 0 s",
        ),
        (
            lambda: BatchTime.tiled(base=1, per_tile=1, tile=0),
            "batch time: tile must be at least 1 token, got 0",
        ),
        (
            lambda: BatchTime.tiled(base=1, per_tile=1, tile=1.5),
            "BatchTime.tiled: tile must be a whole number, got 1.5",
        ),
        (
            lambda: BatchTime.tiled(base=1, per_tile=1, tile=math.nan),
            "BatchTime.tiled: tile must be a whole number, got nan",
        ),
        (
            lambda: BatchTime.table(tokens=[1], seconds=[1]),
            "batch time table: needs at least 2 points, one time for each token count; "
            "got 1 token counts and 1 times",
        ),
        (
            lambda: BatchTime.table(tokens=[1, 2], seconds=[1]),
            "batch time table: needs at least 2 points, one time for each token count; "
            "got 2 token counts and 1 times",
        ),
        (
            lambda: BatchTime.table(tokens=[2, 2], seconds=[1, 2]),
            "batch time table: tokens must ascend from 1, got 2, 2",
        ),
        (
            lambda: BatchTime.table(tokens=[0, 2], seconds=[1, 2]),
            "batch time table: tokens must ascend from 1, got 0, 2",
        ),
        (
            lambda: BatchTime.table(tokens=[1.5, 3], seconds=[1, 2]),
            "BatchTime: tokens[0] must be a whole number, got 1.5",
        ),
        (
            lambda: BatchTime.table(tokens=[1, 3], seconds=[0.5, 0.25]),
            "batch time table: time must be positive and must not decrease, got 500 ms at 1 "
            "tokens and 250 ms at 3; smooth the profile first",
        ),
        (
            lambda: BatchTime.table(tokens=[1, 3], seconds=[0, 1]),
            "batch time table: time must be positive and must not decrease, got 0 s at 1 "
            "tokens and 1 s at 3; smooth the profile first",
        ),
    ],
)
def test_refusals(make, words):
    with pytest.raises(InputError) as caught:
        make()
    assert str(caught.value) == words


def test_a_good_grid_passes():
    check_table([1, 128, 129], [0.5, 0.5, 1.0])


def test_an_engine_infinitely_fast_is_refused():
    with pytest.raises(InputError, match="must take time"):
        BatchTime.affine(base=1, per_token=1).scaled(0)
