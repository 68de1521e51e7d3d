"""Kinds, estimates, provenance, and JSON that comes back equal."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

import llmq
from llmq.errors import InputError
from llmq.model.arrivals import Poisson
from llmq.model.request import RequestClass
from llmq.model.workload import Workload
from llmq.result import Estimate, Kind, Provenance, from_json, provenance, to_json


@dataclasses.dataclass(frozen=True)
class Inner:
    share: Fraction
    kind: Kind = Kind.EXACT


@dataclasses.dataclass(frozen=True, eq=False)
class Outer:
    times: npt.NDArray[np.float64]
    counts: npt.NDArray[np.int64]
    flags: npt.NDArray[np.bool_]
    maybe: npt.NDArray[np.float64] | None
    inner: Inner | None
    by_class: Mapping[str, Inner]
    pairs: tuple[tuple[str, float], ...]
    point: tuple[int, float]
    label: str | None = None


def test_kinds_are_their_words():
    assert [str(kind) for kind in Kind] == [
        "exact",
        "outer_bound",
        "inner_bound",
        "asymptotic",
        "approximation",
        "simulated",
        "fitted",
    ]


def test_estimate():
    one = Estimate(0.25, 0.125, n=30, method="replications", observations=600)
    assert (one.low, one.high) == (0.125, 0.375)
    assert str(one) == "0.25 ± 0.12 (n = 30)"
    assert str(Estimate(1.0, math.inf, n=1)) == "1 ± inf (n = 1)"


def test_provenance_keeps_arguments_as_text():
    made = provenance(7, load=0.5, rates={"chat": 1.0})
    assert made.version == llmq.__version__
    assert made.entropy == "7"
    assert made.arguments == {"load": "0.5", "rates": "{'chat': 1.0}"}
    assert np.__version__ in made.platform
    assert provenance().entropy == ""


def test_literal_json():
    value = Inner(Fraction(-3, 40), Kind.INNER_BOUND)
    assert to_json(value) == '{"share": "-3/40", "kind": "inner_bound"}'
    assert to_json(Estimate(math.nan, math.inf, n=1)) == (
        '{"mean": "nan", "half_width": "inf", "n": 1, "method": "", "observations": 0}'
    )
    assert json.loads(to_json(value, indent=1)) == json.loads(to_json(value))
    assert to_json(Estimate(1.0, 1.0, 2, method="±")).count("±") == 1


def test_arrays_and_nested_values_come_back():
    value = Outer(
        times=np.array([0.1, math.inf, -math.inf]),
        counts=np.array([1, 2**53 + 1]),
        flags=np.array([True, False]),
        maybe=None,
        inner=Inner(Fraction(1, 3)),
        by_class={"chat": Inner(Fraction(2), Kind.FITTED)},
        pairs=(("a", 1.0), ("b", math.inf)),
        point=(3, 0.5),
    )
    twin = from_json(Outer, to_json(value))
    for field in dataclasses.fields(Outer):
        ours, theirs = getattr(value, field.name), getattr(twin, field.name)
        if isinstance(ours, np.ndarray):
            np.testing.assert_array_equal(theirs, ours)
            assert theirs.dtype == ours.dtype
        else:
            assert theirs == ours
            assert type(theirs) is type(ours)


def test_empty_arrays_keep_their_type():
    empty = Outer(
        np.zeros(0), np.zeros(0, int), np.zeros(0, bool), np.zeros(0), None, {}, (), (0, 0.0)
    )
    twin = from_json(Outer, to_json(empty))
    assert (twin.times.dtype, twin.counts.dtype, twin.flags.dtype) == (float, int, bool)
    assert twin.maybe.shape == (0,)
    assert twin.inner is None


floats = st.floats(allow_nan=False)


@given(floats, floats, st.integers(0, 10**6), st.text(max_size=20))
def test_estimates_round_trip(mean, half, n, method):
    one = Estimate(mean, half, n=n, method=method)
    assert from_json(Estimate, to_json(one)) == one


@given(st.fractions(), st.sampled_from(Kind))
def test_fractions_and_kinds_round_trip(share, kind):
    twin = from_json(Inner, to_json(Inner(share, kind)))
    assert twin == Inner(share, kind)
    assert type(twin.share) is Fraction
    assert type(twin.kind) is Kind


@given(st.dictionaries(st.text(max_size=5), st.text(max_size=5)))
def test_provenance_round_trips(arguments):
    made = Provenance("0", arguments, entropy="7")
    assert from_json(Provenance, to_json(made)) == made


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"mean": 1', "not JSON: Expecting ',' delimiter: line 1 column 11 (char 10)"),
        ("[1]", "expected an object for Estimate, found [1]"),
        (
            '{"mean": 1.0, "half_width": 0.0, "n": 2, "sd": 1.0}',
            "Estimate has no field 'sd'",
        ),
    ],
)
def test_bad_json(text, words):
    with pytest.raises(InputError) as caught:
        from_json(Estimate, text)
    assert str(caught.value) == words


def test_a_missing_field_is_named():
    with pytest.raises(InputError, match=r"^Estimate: .*missing 1 required .* 'n'$"):
        from_json(Estimate, '{"mean": 1.0, "half_width": 0.0}')


def test_what_cannot_be_written_is_refused():
    with pytest.raises(InputError, match=r"^cannot write a function as JSON$"):
        to_json([lambda: 0])


def test_an_abstract_class_is_refused_and_not_read_as_a_dict():
    work = Workload(Poisson(6.0), {"chat": RequestClass(8, 8)}, {"chat": 1.0})
    with pytest.raises(InputError, match="Arrivals'> from JSON: many types could have been meant"):
        from_json(Workload, to_json(work))
