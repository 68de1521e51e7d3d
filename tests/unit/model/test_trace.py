"""Traces: columns, classes, rates, and every refusal word by word."""

from __future__ import annotations

import math

import numpy as np
import pytest

from llmq.errors import InputError
from llmq.model.request import RequestClass
from llmq.model.trace import Trace


def example(**changes):
    columns = {
        "arrival": [1.0, 1.0, 2.0, 5.0],
        "prompt": [10, 20, 30, 40],
        "output": [1, 2, 3, 4],
        "reasoning": [0, 1, 2, 0],
        "klass": ["chat", "code", "chat", "chat"],
        "source": "by hand",
    }
    return Trace(**{**columns, **changes})


def test_columns():
    trace = example()
    assert (len(trace), trace.span, trace.rate) == (4, 4.0, 0.75)
    assert trace.classes == ("chat", "code")
    assert trace.klass.tolist() == [0, 1, 0, 0]
    assert trace.prompt.dtype == trace.klass.dtype == np.int64
    assert trace.arrival.dtype == np.float64
    assert repr(trace) == (
        "Trace(4 requests from by hand: 0.75 req/s for 4 s, prompt mean 25, output mean 2.5 tokens)"
    )


def test_rates_add_up():
    assert example().rates == {"chat": 0.75 * 3 / 4, "code": 0.75 / 4}
    assert sum(example().rates.values()) == pytest.approx(example().rate)


def test_one_request_has_no_rate_but_its_class_has():
    one = Trace([3.0], [8], [4], klass=[1], classes=("idle", "chat"))
    assert (one.rate, one.span) == (math.inf, 0)
    assert one.rates == {"idle": 0.0, "chat": math.inf}


def test_one_number_serves_every_row():
    trace = Trace([0, 1], prompt=8, output=[1, 2])
    assert trace.prompt.tolist() == [8, 8]
    assert trace.reasoning.tolist() == [0, 0]
    assert trace.classes == ("all",)


def test_arrays_are_copied_and_locked():
    mine = np.array([0.0, 1.0])
    tokens = np.array([8, 8])
    trace = Trace(mine, tokens, tokens)
    mine[0], tokens[0] = -5, 9
    assert trace.arrival.tolist() == [0, 1]
    assert trace.prompt.tolist() == trace.output.tolist() == [8, 8]
    for name in ("arrival", "prompt", "output", "reasoning", "klass"):
        with pytest.raises(ValueError, match="read-only"):
            getattr(trace, name)[0] = 7


@pytest.mark.parametrize(
    "klass",
    [
        ["b", "a", "b"],
        np.array(["b", "a", "b"]),
        np.array([b"b", b"a", b"b"]),
        np.array(["b", "a", "b"], dtype=object),  # a pandas column
        np.array(["b", "a", "b"], dtype=np.dtypes.StringDType()),
    ],
)
def test_class_names_of_any_string_type(klass):
    trace = Trace([0, 1, 2], 8, 4, klass=klass)
    assert trace.classes == ("a", "b")
    assert trace.klass.tolist() == [1, 0, 1]
    assert all(type(name) is str for name in trace.classes)
    ordered = Trace([0, 1, 2], 8, 4, klass=klass, classes=("b", "a", "c"))
    assert ordered.klass.tolist() == [0, 1, 0]
    assert ordered.rates["c"] == 0


def test_class_codes():
    trace = Trace([0, 1], 8, 4, klass=np.array([1.0, 0.0]), classes=("a", "b"))
    assert trace.klass.tolist() == [1, 0]
    assert Trace([0, 1], 8, 4, klass=np.array([1, 0], object), classes=("a", "b")).klass[0] == 1


def test_mix_keeps_the_joint_law():
    mix = example(classes=("idle", "chat", "code")).mix()
    assert list(mix) == ["chat", "code"]
    chat = mix["chat"]
    assert isinstance(chat, RequestClass)
    assert chat.paired
    assert chat.prompt.values.tolist() == [10, 30, 40]
    assert chat.output.values.tolist() == [1, 3, 4]
    assert chat.reasoning.values.tolist() == [0, 2, 0]
    assert chat.peak == 44


def test_some_rows():
    trace = example()
    assert trace.head(2).prompt.tolist() == [10, 20]
    assert trace.head(2).classes == ("chat", "code")
    assert trace.head(99).prompt.tolist() == trace.prompt.tolist()
    for rows in ([0, 2], slice(0, 3, 2), trace.prompt % 20 == 10):
        assert trace.take(rows).prompt.tolist() == [10, 30]
        assert trace.take(rows).source == "by hand"
    with pytest.raises(InputError, match=r"^head needs at least 1 request, got 0$"):
        trace.head(0)
    with pytest.raises(InputError, match=r"^a trace needs at least one request, got none$"):
        trace.take(trace.prompt > 99)
    with pytest.raises(
        InputError, match=r"^arrivals must ascend: request 1 comes at 1.0 s, before"
    ):
        trace.take([3, 0])


def test_faster_and_slower():
    trace = example()
    fast = trace.scaled(rate=7.5)
    assert fast.rate == pytest.approx(7.5)
    np.testing.assert_allclose(fast.arrival, [0, 0, 0.1, 0.4])
    assert fast.notes == ("rate scaled by 10",)
    slow = fast.scaled(factor=0.1)
    np.testing.assert_allclose(slow.arrival, [0, 0, 1, 4])
    assert slow.notes == ("rate scaled by 10", "rate scaled by 0.1")
    for name in ("prompt", "output", "reasoning", "klass"):
        assert np.array_equal(getattr(fast, name), getattr(trace, name))
    assert Trace([2, 2], 8, 4).scaled(factor=3).arrival.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "scaled needs either rate= or factor="),
        ({"rate": 1, "factor": 1}, "scaled needs either rate= or factor="),
        ({"rate": 0}, "rate and factor must be positive and finite, got 0"),
        ({"rate": -1}, "rate and factor must be positive and finite, got -1"),
        ({"factor": 0}, "rate and factor must be positive and finite, got 0"),
        ({"factor": math.inf}, "rate and factor must be positive and finite, got inf"),
        ({"rate": math.nan}, "rate and factor must be positive and finite, got nan"),
    ],
)
def test_bad_scaling(arguments, words):
    with pytest.raises(InputError) as caught:
        example().scaled(**arguments)
    assert str(caught.value) == words


def test_no_rate_can_be_reached_at_one_instant():
    with pytest.raises(InputError, match="all requests come at the same time"):
        Trace([2, 2], 8, 4).scaled(rate=3)


@pytest.mark.parametrize(
    ("changes", "words", "row"),
    [
        ({"arrival": []}, "a trace needs at least one request, got none", None),
        (
            {"arrival": [1, 2, 1.5, 3]},
            "arrivals must ascend: request 2 comes at 1.5 s, before 2.0 "
            "s; sort the rows (llmq.read_trace does, with a warning)",
            2,
        ),
        ({"arrival": [1, math.nan, 2, 3]}, "arrival of request 1 is nan: must be finite", 1),
        (
            {"arrival": ["soon"] * 4},
            "Trace: arrival must be an array or list of numbers, got ['soon', "
            "'soon', 'soon', 'soon']",
            None,
        ),
        (
            {"prompt": [10, 20, 30]},
            "prompt needs one value for each of the 4 arrivals, got (3,)",
            None,
        ),
        (
            {"prompt": [10, 0, 30, 40]},
            "prompt of request 1 is 0: must be a whole number of tokens >= 1",
            1,
        ),
        (
            {"output": [1, 2, 2.5, 4]},
            "output of request 2 is 2.5: must be a whole number of tokens >= 1",
            2,
        ),
        (
            {"output": [1, 2, 3, math.nan]},
            "output of request 3 is nan: must be a whole number of tokens >= 1",
            3,
        ),
        (
            {"reasoning": [0, -1, 0, 0]},
            "reasoning of request 1 is -1: must be a whole number of tokens >= 0",
            1,
        ),
        (
            {"reasoning": [0, 0, 3, 0]},
            "request 2 has 3 reasoning tokens in an output of 3: at "
            "least one output token must be an answer",
            2,
        ),
        ({"klass": ["chat"]}, "klass needs one value for each of the 4 arrivals, got (1,)", None),
        ({"classes": ("chat",)}, "class 'code' is not among the classes ('chat',)", None),
        ({"classes": ("chat", "code", "chat")}, "class 'chat' is named twice", None),
        ({"klass": [0, 1, 0, 0], "classes": ("a", "a")}, "class 'a' is named twice", None),
        (
            {"klass": [0, 1, 2, 0], "classes": ("a", "b")},
            "class codes must be whole and lie in "
            "0..1, got 2; give the names of all classes as classes=",
            None,
        ),
        (
            {"klass": [0, -1, 0, 0], "classes": ("a", "b")},
            "class codes must be whole and lie in "
            "0..1, got -1; give the names of all classes as classes=",
            None,
        ),
        (
            {"klass": [0, 0.5, 0, 0], "classes": ("a", "b")},
            "class codes must be whole and lie in "
            "0..1, got 0.5; give the names of all classes as classes=",
            None,
        ),
        (
            {"klass": [0, 1, 0, 0]},
            "class codes must be whole and lie in 0..0, got 1; give the "
            "names of all classes as classes=",
            None,
        ),
    ],
)
def test_refusals(changes, words, row):
    with pytest.raises(InputError) as caught:
        example(**changes)
    assert str(caught.value) == words
    assert caught.value.fields.get("row") == row


def test_words_are_no_tokens():
    with pytest.raises(InputError, match=r"^Trace: prompt must be an array or list of numbers"):
        Trace([0], ["many"], [1])
