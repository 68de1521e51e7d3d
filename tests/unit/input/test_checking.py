"""Arguments: what each test lets pass, and what the refusal says."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pytest

from llmq._input import checking
from llmq._input.checked import checked
from llmq.errors import InputError, nearest, printable, shown
from llmq.model.engine import Engine
from llmq.model.time.batchtime import BatchTime
from llmq.policies import Policy, Sarathi

NAN = math.nan


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("a\x1b[31m\nb", r"'a\x1b[31m\nb'"),
        ("\udc80", r"'\udc80'"),
        (3, "3"),
        (10**5000, "a whole number of about 5000 digits"),
        (-(10**5000), "a whole number of about 5000 digits"),
        ([[[[[[[1]]]]]]], "[[[[[...]]]]]"),
        (list(range(10**5)), "[0, 1, 2, 3, ...]"),
        (NAN, "nan"),
    ],
    ids=range(8),
)
def test_c_what_is_echoed_is_short_and_harmless(value, words):
    assert shown(value) == words


@pytest.mark.parametrize(
    "value", ["x" * 10**6, b"x" * 10**6, {"a" * 999: "b" * 999}, [["y" * 99]]], ids=range(4)
)
def test_c_echoes_have_a_bound(value):
    assert len(shown(value)) <= 60
    assert len(shown(value, 30)) <= 30


def test_a_repr_that_fails_is_echoed_by_its_class():
    class Bad:
        def __repr__(self) -> str:
            raise RuntimeError

    assert "Bad" in shown(Bad())


def test_c_names_are_printed_without_control_characters():
    assert printable("GPU\x1b]0;title\x07\r\n\u202e") == r"GPU\x1b]0;title\x07\r\n\u202e"
    assert printable("a\nb\x1b", keep="\n") == "a\nb\\x1b"
    assert printable("Zürich µs ≤ 5") == "Zürich µs ≤ 5"
    assert nearest("x\x1b", ["\x1bx"]) in (r"; did you mean '\x1bx'?", r"; known: \x1bx")


@pytest.mark.parametrize("value", [3, 3.0, np.int32(3), np.float32(3), Fraction(3)])
def test_whole_numbers(value):
    found = checking.whole("n", value)
    assert (found, type(found)) == (3, int)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (True, "n must be a whole number, got True"),
        ("3", "n must be a whole number, got '3': write 3 without quotes"),
        (Decimal(3), "n must be a whole number, got Decimal('3'): write float(Decimal('3'))"),
        (None, "n must be a whole number, got None"),
        (NAN, "n must be a whole number, got nan"),
        (math.inf, "n must be a whole number, got inf"),
        (2.5, "n must be a whole number, got 2.5"),
        (2**63, f"n must be a whole number of at most 64 bits, got {2**63}"),
        (0, "n must be at least 1, got 0"),
        (10, "n must be at most 9, got 10"),
        ([3], "n must be a whole number, got [3]"),
    ],
)
def test_no_whole_number(value, words):
    with pytest.raises(InputError) as caught:
        checking.whole("n", value, least=1, most=9)
    assert str(caught.value) == words
    assert caught.value.field == "n"


@pytest.mark.parametrize(
    ("test", "value", "words"),
    [
        (checking.number, NAN, "x must be a number, got nan"),
        (checking.finite, math.inf, "x must be finite, got inf"),
        (checking.finite, 10**400, "x must be a number that fits a float (up to 1.8e308), got a"),
        (checking.positive, 0, "x must be positive and finite, got 0"),
        (checking.positive, "2", "x must be a number, got '2': write 2 without quotes"),
        (checking.positive, np.bool_(True), "x must be a number, got "),
        (checking.share, 1.0, "x must be between 0 and 1, got 1.0"),
        (checking.share, 99, "x must be between 0 and 1, got 99: write 0.99 for 99 %"),
        (checking.text, 3, "x must be a text, got 3"),
    ],
)
def test_refused(test, value, words):
    with pytest.raises(InputError) as caught:
        test("x", value)
    assert str(caught.value).startswith(words)


def test_let_pass():
    assert checking.number("x", np.float64(math.inf)) == math.inf
    assert checking.finite("x", Fraction(1, 2), least=0, most=1) == 0.5
    assert checking.share("x", 1, ends=True) == 1.0
    assert checking.text("x", "chat") == "chat"
    assert checking.choice("x", "spf", ["spf"]) == "spf"


def test_b18_a_missing_class_is_no_rate_of_zero():
    assert checking.rates("rates", {"a": Fraction(1, 3), "b": 0}, ["b", "a"])["a"] == Fraction(1, 3)
    for given, words in (
        ({"a": 1}, "rates: class 'b' has no rate; write 'b': 0 if none of it comes"),
        ({"a": 1, "b": 1, "bb": 2}, "rates: no class 'bb'; did you mean 'b'?"),
        ({"a": 1, "b": -1}, "rates['b'] must be a finite number >= 0, got -1"),
        ({"a": 1, "b": NAN}, "rates['b'] must be a finite number >= 0, got nan"),
        ({"a": 1, "b": "2"}, "rates['b'] must be a number, got '2': write 2 without quotes"),
        (3, "rates must be a mapping (a dict), got 3"),
    ):
        with pytest.raises(InputError) as caught:
            checking.rates("rates", given, ["a", "b"])
        assert str(caught.value) == words


def test_a_word_that_is_not_known():
    with pytest.raises(
        InputError, match=r"^order must be 'spf' or 'fcfs', got 'fsf'; did you mean"
    ):
        checking.choice("order", "fsf", ("spf", "fcfs"))
    with pytest.raises(InputError, match=r"^order must be 'spf', got None$"):
        checking.choice("order", None, ("spf",))


@checked
def verb(
    engine: Engine | None = None,
    policy: Policy | None = None,
    rates: float | Mapping[str, float] = 1.0,
    names: tuple[str, ...] = (),
    pair: tuple[int, float] = (1, 1.0),
    some: Sequence[int] = (),
    values: npt.ArrayLike = 0,
    column: npt.NDArray[np.float64] | None = None,
    kind: Literal["a", "b"] = "a",
    flag: bool = False,
    call: Callable[[int], int] | None = None,
    exact: float | Fraction = 0,
    *rest: int,
    **more: float,
) -> dict[str, Any]:
    return dict(locals())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            {"engine": "h100"},
            "engine must be an Engine, got 'h100': write llmq.load_engine('h100')",
        ),
        (
            {"policy": "sarathi"},
            "policy must be a Policy, got 'sarathi': write llmq.policies.parse('sarathi')",
        ),
        (
            {"policy": Sarathi},
            "policy must be a Policy, got <class 'llmq.policies.sarathi.Sarathi'>"
            ": write Sarathi(...), not the class itself",
        ),
        ({"policy": {}}, "policy must be a Policy, got {}: llmq.policies.parse(text) makes one"),
        (
            {"rates": {"chat": "3"}},
            "rates['chat'] must be a number, got '3': write 3 without quotes",
        ),
        ({"rates": {3: 3}}, "rates keys must be a text, got 3"),
        ({"rates": True}, "rates must be a number or a mapping (a dict), got True"),
        ({"names": "chat"}, "names must be a tuple, got 'chat': write ('chat',)"),
        ({"names": ("chat", 3)}, "names[1] must be a text, got 3"),
        ({"pair": (1,)}, "pair must be a tuple of 2, got (1,)"),
        ({"pair": (1, None)}, "pair[1] must be a number, got None"),
        ({"some": {1: 2}}, "some must be a list or tuple, got {1: 2}"),
        ({"some": [1, 2.5]}, "some[1] must be a whole number, got 2.5"),
        ({"values": [[1], [1, 2]]}, "values must be "),
        ({"column": ["a"]}, "column must be an array or list of numbers, got ['a']"),
        ({"kind": "c"}, "kind must be 'a' or 'b', got 'c'"),
        ({"flag": 1}, "flag must be True or False, got 1"),
        ({"call": 3}, "call must be a function, got 3"),
        ({"x": "3"}, "more['x'] must be a number, got '3': write 3 without quotes"),
    ],
)
def test_c_every_argument_is_tested_against_its_annotation(arguments, words):
    with pytest.raises(InputError) as caught:
        verb(**arguments)
    assert str(caught.value).startswith(f"verb: {words}"), str(caught.value)
    if "x" not in arguments:
        assert caught.value.field in arguments


def test_what_arrives():
    engine = Engine(BatchTime.affine(base=1, per_token=1))
    found = verb(
        engine,
        Sarathi(),
        {"chat": np.float64(2)},
        ["a"],
        (1.0, 2),
        np.array([1, 2]),
        [1, 2],
        np.ones(2),
        "b",
        np.bool_(True),
        abs,
        Fraction(1, 3),
        7,
        x=1,
    )
    assert found["engine"] is engine
    assert type(found["rates"]["chat"]) is float
    assert (found["names"], found["pair"]) == (("a",), (1, 2))
    assert found["some"] in ([1, 2], (1, 2))
    assert found["exact"] == Fraction(1, 3)
    assert found["flag"] is True
    assert (found["rest"], found["more"]) == ((7,), {"x": 1})


def test_a_constructor_is_tested():
    @checked
    @dataclass(frozen=True, slots=True)
    class Pair:
        left: int
        right: float = 0.0

    assert Pair(3.0).left == 3
    with pytest.raises(InputError, match=r"^Pair: right must be a number, got None$"):
        Pair(1, None)
    with pytest.raises(TypeError, match="unexpected keyword"):
        Pair(1, up=2)
    with pytest.raises(InputError, match="of at most 64 bits"):
        Pair(10**30)

    @checked(record=True)
    @dataclass(frozen=True)
    class Found:
        count: int

    assert Found(10**30).count == 10**30
