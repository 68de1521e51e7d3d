"""Errors carry words for people and facts for programs, and survive a trip between processes."""

from __future__ import annotations

import copy
import inspect
import pickle

import pytest

from llmq import errors
from llmq.errors import FormatError, InputError, LlmqError, UnstableError, nearest

ERRORS = [
    cls
    for name in errors.__all__
    if inspect.isclass(cls := getattr(errors, name)) and issubclass(cls, LlmqError)
]


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [
        (errors.InputError, ValueError),
        (errors.FormatError, ValueError),
        (errors.UnstableError, ArithmeticError),
        (errors.UndecidedError, ArithmeticError),
        (errors.InfeasibleError, ValueError),
        (errors.PolicyError, RuntimeError),
        (errors.InvariantError, AssertionError),
        (errors.MissingDependencyError, ImportError),
        (errors.ExtrapolationWarning, UserWarning),
        (errors.ApproximationWarning, UserWarning),
        (errors.TraceWarning, UserWarning),
    ],
)
def test_each_is_also_the_nearest_builtin(kind, builtin):
    assert issubclass(kind, builtin)
    assert issubclass(kind, errors.LlmqWarning if builtin is UserWarning else LlmqError)


def test_facts_are_attributes():
    error = UnstableError("margin 0.93 < 1 (binding: tokens)", margin=0.93, binding="tokens")
    assert str(error) == "margin 0.93 < 1 (binding: tokens)"
    assert (error.margin, error.binding) == (0.93, "tokens")
    assert error.fields == {"margin": 0.93, "binding": "tokens"}
    with pytest.raises(AttributeError, match=r"^price$"):
        _ = error.price


@pytest.mark.parametrize(
    ("place", "text"),
    [
        ({"path": "t.csv"}, "t.csv: bad"),
        ({"path": "t.csv", "line": 17}, "t.csv line 17: bad"),
        ({"path": "t.csv", "column": "P"}, "t.csv, column P: bad"),
        ({"path": "t.csv", "line": 17, "column": "P"}, "t.csv line 17, column P: bad"),
    ],
)
def test_a_format_error_says_where(place, text):
    error = FormatError("bad", **place)
    assert str(error) == text
    assert (error.path, error.line, error.column) == (
        "t.csv",
        place.get("line"),
        place.get("column"),
    )
    assert error.fields["path"] == "t.csv"


@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("again", [copy.copy, lambda e: pickle.loads(pickle.dumps(e))])
def test_errors_come_back_from_a_worker_process(kind, again):
    where = {"path": "t.csv", "line": 3, "column": "P"}
    fields = where if kind is FormatError else {"margin": 0.5, "line": 3}
    error = kind("what happened", **fields)
    twin = again(error)
    assert type(twin) is kind
    assert str(twin) == str(error)
    assert twin.fields == error.fields
    assert all(getattr(twin, name) == value for name, value in fields.items())


@pytest.mark.parametrize(
    ("word", "known", "text"),
    [
        ("tokn_budget", ["token_budget", "max_seqs"], "; did you mean 'token_budget'?"),
        ("zzz", ["b", "a"], "; known: a, b"),
        ("zzz", [], ""),
        ("caht", {"chat": 1, "code": 2}, "; did you mean 'chat'?"),
        (7, {"chat": 1}, "; known: chat"),
    ],
)
def test_nearest(word, known, text):
    assert nearest(word, known) == text


def test_input_error_is_caught_as_value_error():
    with pytest.raises(ValueError, match=r"^no$"):
        raise InputError("no")
