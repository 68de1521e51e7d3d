"""Certificates that are no certificates: each is refused with the reason, by reader and checker."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import llmq
from llmq.errors import FormatError
from llmq.theory.region._certificate_record import canonical_digest, load_certificate

PROOFS = Path(llmq.__file__).parent.parent / "proofs"
GOOD = json.loads((PROOFS / "certificates" / "o2-optimal.json").read_text(encoding="utf-8"))
OTHER = json.loads((PROOFS / "certificates" / "o6-optimal.json").read_text(encoding="utf-8"))


def sealed(body: dict[str, Any], *, digest: bool = True) -> str:
    fresh = {key: value for key, value in body.items() if key != "seal"}
    if digest and "problem" in fresh:
        fresh["digest"] = canonical_digest(fresh["problem"])
    return json.dumps({**fresh, "seal": canonical_digest(fresh)})


def without(key: str) -> str:
    return sealed({name: value for name, value in GOOD.items() if name != key})


TEXT = json.dumps(GOOD)
CASES: dict[str, tuple[str | Callable[[], str], str, str, int]] = {
    # name: text, what the reader says, what the checker says, its exit code
    "empty": ("", "not JSON", "not JSON", 2),
    "cut": (TEXT[:-30], "not JSON", "not JSON", 2),
    "deep": ("[" * 100_000, "not JSON", "not JSON", 2),
    "list": ("[]", "not a certificate of format", "expected an object", 4),
    "other format": (
        sealed({**GOOD, "format": "x"}),
        "not a certificate of format",
        "not of format",
        4,
    ),
    "no problem": (without("problem"), "'problem' is missing", "'problem' is missing", 4),
    "no claim": (without("claim"), "'claim' is missing", "unknown claim", 4),
    "another problem": (
        sealed({**GOOD, "problem": OTHER["problem"]}, digest=False),
        "certificate of another problem",
        "the digest does not match",
        4,
    ),
    "changed": (
        TEXT.replace('"optimal_load"', '"stable_rate"'),
        "the seal does not match",
        "unknown 'dual'",
        4,
    ),
    "zero denominator": (
        sealed({**GOOD, "load": "1/0"}),
        "zero denominator in '1/0'",
        "zero denominator in '1/0'",
        4,
    ),
    "float": (
        TEXT.replace(f'"{GOOD["load"]}"', "0.795"),
        "number 0.795 is a float",
        "number 0.795 is a float",
        4,
    ),
    "infinity": (
        TEXT.replace(f'"{GOOD["load"]}"', "Infinity"),
        "number Infinity is a float",
        "number Infinity is a float",
        4,
    ),
    "whole load": (sealed({**GOOD, "load": 1}), "load: 1 is not a rational", "string 'p/q'", 4),
    "word for a load": (
        sealed({**GOOD, "load": "half"}),
        "'half' is not a rational",
        "not a rational",
        4,
    ),
    "negative load": (sealed({**GOOD, "load": "-1/2"}), "'-1/2' is not a rational", "negative", 4),
}


@pytest.mark.parametrize("name", CASES)
def test_the_reader_refuses(name: str, tmp_path: Path) -> None:
    text, said, _, _ = CASES[name]
    path = tmp_path / "bad.json"
    path.write_text(str(text), encoding="utf-8")
    with pytest.raises(FormatError) as info:
        load_certificate(path)
    assert said in str(info.value)
    assert str(path) in str(info.value)


@pytest.mark.parametrize("name", CASES)
def test_the_checker_refuses(name: str, tmp_path: Path) -> None:
    text, _, said, code = CASES[name]
    path = tmp_path / "bad.json"
    path.write_text(str(text), encoding="utf-8")
    command = [sys.executable, "-I", "-S", str(PROOFS / "check.py"), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert said in done.stdout
    assert (done.returncode, "accepted" in done.stdout) == (code, False)


def test_a_key_named_twice_is_refused_by_the_checker(tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    path.write_text('{"load": "1/2", ' + TEXT[1:], encoding="utf-8")
    command = [sys.executable, "-I", "-S", str(PROOFS / "check.py"), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert "names a key twice" in done.stdout
    assert done.returncode == 4


def test_a_missing_file_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_certificate(tmp_path / "none.json")


@pytest.mark.parametrize(
    "path", sorted((PROOFS / "certificates").glob("*.json")), ids=lambda p: p.stem
)
def test_good_ones_are_read(path: Path) -> None:
    made = load_certificate(path)
    assert made.text() == path.read_text(encoding="utf-8")
