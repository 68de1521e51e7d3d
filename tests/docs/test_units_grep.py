"""Milliseconds live in ``units.py`` and ``io/``: no thousand is multiplied or divided elsewhere."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import llmq

ROOT = Path(llmq.__file__).parent
BORDER = (ROOT / "units.py", ROOT / "io")
# Values and not spellings: 1e3, 1000, 1_000 and 1000.0 are the same conversion.
SUSPECT = {1e3, 1e-3, 1e6}


def literals(source: str) -> list[str]:
    """Number tokens of the code (not of comments or strings) that look like a conversion."""
    found = []
    for node in ast.walk(ast.parse(source)):
        number = isinstance(node, ast.Constant) and type(node.value) in (int, float)
        if number and node.value in SUSPECT:
            found.append(f"line {node.lineno}: {node.value!r}")
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
            ends = node.left, node.right
            if all(isinstance(x, ast.Constant) for x in ends) and ends[0].value == 10:
                found.append(f"line {node.lineno}: {ast.unparse(node)}")
    return found


def test_no_thousands_outside_the_border():
    found = [
        f"{path.relative_to(ROOT.parent)} {literal}: use llmq.units, or name the constant there"
        for path in sorted(ROOT.rglob("*.py"))
        if not any(path == place or place in path.parents for place in BORDER)
        for literal in literals(path.read_text(encoding="utf-8"))
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "source",
    [
        "x * 1e3",
        "x / 1000",
        "x * 1_000",
        "y = 1e-3",
        "f'{x * 1e3:.1f} ms'",
        "x * 10**3",
        "0.001",
        "1e6",
    ],
)
def test_the_audit_sees(source):
    assert len(literals(source)) == 1


@pytest.mark.parametrize(
    "source", ["1024", "1e-6  # 1e3", "'1000 tokens'", "x1000 = 1", "100_000", "10**n", "1e-9"]
)
def test_the_audit_lets_pass(source):
    assert literals(source) == []
