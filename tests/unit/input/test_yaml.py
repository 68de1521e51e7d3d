"""YAML files: every scalar a text, nothing given twice, and every mistake has its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmq._input.yaml_text import read_yaml
from llmq.errors import FormatError


def put(folder: Path, text: str) -> Path:
    path = folder / "meta.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_scalars_stay_the_texts_they_are(tmp_path: Path) -> None:
    text = "version: 0.10\ngpu: no\nsince: 2026-04-24\nnone: null\nname: 'two words'  # said\n"
    found = {"version": "0.10", "gpu": "no", "since": "2026-04-24", "none": "null"}
    assert read_yaml(put(tmp_path, text)) == found | {"name": "two words"}


def test_tables_and_lists(tmp_path: Path) -> None:
    text = "node:\n  gpus: 8\ntp: [1, 2]\nmodel: m\n"
    assert read_yaml(put(tmp_path, text)) == {"node": {"gpus": "8"}, "tp": ["1", "2"], "model": "m"}


def test_a_tag_makes_no_object(tmp_path: Path) -> None:
    text = "a: !!python/name:os.system\nb: !!python/object/apply:os.getcwd []\n"
    assert read_yaml(put(tmp_path, text)) == {"a": "", "b": []}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\na: 2\n", "line 2: not YAML: a key must be a text, given once (at column 1)"),
        ("[a]: 1\n", "line 1: not YAML: a key must be a text, given once (at column 1)"),
        ("a: &x [1]\nb: *x\n", "line 1: not YAML: a value that is referred to: write it out (at"),
        ("a: &x [*x]\n", "line 1: not YAML: a value that is referred to: write it out (at"),
        ("a: 1\n b: 2\n", "line 2: not YAML: mapping values are not allowed here"),
        ("a: 1\n---\nb: 2\n", "line 2: not YAML: but found another document"),
        ("a: \x07\n", "not YAML: unacceptable character #x0007"),
        ('a: "\\e[31m"\n', "column a: the text '\\x1b[31m' holds control characters"),
        ("- a\n", "line 1: expected lines 'key: value'"),
        ("", "line 1: expected lines 'key: value'"),
        ("a: " + "[" * 5000 + "\n", "nested more than 32 deep: flatten them"),
        ("a: " + "[" * 150 + "]" * 150 + "\n", "nested more than 32 deep: flatten them"),
    ],
)
def test_mistakes_have_their_place(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(FormatError) as caught:
        read_yaml(put(tmp_path, text))
    assert str(caught.value).startswith(str(tmp_path / "meta.yaml"))
    assert message in str(caught.value)
