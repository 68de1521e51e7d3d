"""Sizes of files and policies, and of the median function; ruff counts the rest."""

from __future__ import annotations

import ast
import inspect
import statistics
from pathlib import Path

import llmq
from llmq import policies

ROOT = Path(llmq.__file__).parent
PROOFS = ROOT.parent / "proofs"
FILES = [*sorted(ROOT.rglob("*.py")), *sorted(PROOFS.rglob("*.py"))]
FILE, MEDIAN, POLICY = 500, 10, 60


def lines_of(node: ast.AST) -> int:
    """Lines without docstrings (its own and those of what it contains)."""
    length = node.end_lineno - node.lineno + 1
    for inner in ast.walk(node):
        if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            first = inner.body[0]
            if ast.get_docstring(inner, clean=False) is not None:
                length -= first.end_lineno - first.lineno + 1
    return length


def functions(tree: ast.Module) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    kinds = ast.FunctionDef | ast.AsyncFunctionDef
    return [node for node in ast.walk(tree) if isinstance(node, kinds)]


def name(path: Path) -> str:
    return str(path.relative_to(ROOT.parent))


def test_files_are_short():
    count = {name(path): len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    long = {path: lines for path, lines in count.items() if lines > FILE}
    assert not long


def test_the_median_function_is_ten_lines():
    lengths = [
        lines_of(node)
        for path in FILES
        for node in functions(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert statistics.median(lengths) <= MEDIAN


def test_policies_are_short():
    long = {}
    for policy in policies.ALL:
        tree = ast.parse(Path(inspect.getfile(policy)).read_text(encoding="utf-8"))
        (node,) = [
            c for c in tree.body if isinstance(c, ast.ClassDef) and c.name == policy.__name__
        ]
        if lines_of(node) > POLICY:
            long[policy.name] = lines_of(node)
    assert not long


def test_docstrings_do_not_count():
    tree = ast.parse('def f():\n    """One.\n\n    Two.\n    """\n    return 1\n')
    assert lines_of(tree.body[0]) == 2
    tree = ast.parse(
        'class C:\n    """One."""\n\n    def f(self):\n        """Two."""\n        return 1'
    )
    assert lines_of(tree.body[0]) == 4
