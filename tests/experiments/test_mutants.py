"""The mutation run: what is changed, and that survivors are told from killed mutants."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.mutants import ROOT, argued, table
from experiments.mutate import KINDS, mutants

SOURCE = '''"""Text."""
from math import pi

__all__ = ["f"]


def f(n: int = 3) -> int:
    """Double."""
    assert n >= 0, f"got {n + 1}"
    if n and not n % 2:
        return -n
    total = sum(x for x in range(n) if x)
    return min(n * 2.5, total)
'''


def test_f_every_kind_of_mutant_is_made_once() -> None:
    found = mutants(SOURCE)
    assert {m.kind for m in found} == set(KINDS)
    assert len({ast.dump(ast.parse(m.source)) for m in found}) == len(found)
    for m in found:
        changed = [
            i
            for i, (a, b) in enumerate(
                zip(SOURCE.splitlines(), m.source.splitlines(), strict=True), 1
            )
            if a != b
        ]
        assert changed == [m.line]
        shown = [text.splitlines()[m.line - 1].strip() for text in (SOURCE, m.source)]
        assert shown == [m.old, m.new]
    new = {m.new for m in found}
    assert {
        "def f(n: int = 4) -> int:",
        "if n or not n % 2:",
        "if n and (n % 2):",
        "return (n)",
        "return None",
        "return max(n * 2.5, total)",
        "return min(n * 5.0, total)",
        "total = sum(x for x in range(n) if (not (x)))",
        "pass",
    } <= new
    assert not any("import" in m.old or "__all__" in m.old or '"""' in m.old for m in found)


def test_f_rows_of_the_page_are_read(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("| `a.py` | `x = y \\| 1` | `x = y & 1` | why |\n| a | b | c | d |\n")
    known = argued(page)
    assert known == {("a.py", "x = y | 1", "x = y & 1")}
    one = {"file": "a.py", "line": 1, "kind": "arithmetic", "old": "x = y | 1", "new": "x = y & 1"}
    text = table([{**one, "result": "survived"}, {**one, "result": "killed"}], known)
    assert "| `a.py` | 2 | 1 | 0 | 1 | 1 |" in text
    assert "a.py:1: arithmetic (argued)" in text


@pytest.mark.slow
def test_f_a_weak_test_lets_a_mutant_live(tmp_path: Path) -> None:
    """The whole run, on the tree itself: ``F. Numbers without a test``."""
    out = tmp_path / "out.jsonl"
    lines = (ROOT / "proofs/check_reading.py").read_text(encoding="utf-8").splitlines()
    line = next(i for i, text in enumerate(lines, 1) if "value >= least" in text)
    command = [
        *(sys.executable, "-m", "experiments.mutants", "proofs/check_reading.py"),
        *("--kinds", "compare", "--lines", str(line), "--preload", "pytest", "--out", str(out)),
    ]
    weak = tmp_path / "test_weak.py"
    text = "from proofs.check_reading import whole\ndef test_w(): assert whole(5, 'x') == 5\n"
    found = []
    for body in (text, text + "def test_z(): assert whole(1, 'x', 1) == 1\n"):
        weak.write_text(body)
        done = subprocess.run(
            [*command, "--again", "--tests", str(weak)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode in (0, 1), done.stderr
        found.append((done.returncode, out.read_text().count('"survived"')))
    assert found == [(1, 1), (0, 1)]
