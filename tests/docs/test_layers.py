"""A file imports only from its own layer or from layers below (``design.md`` section 1)."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

import llmq

ROOT = Path(llmq.__file__).parent
LAYERS = (
    ("errors", "_limits", "_version", "units", "rng", "result", "_starting", "_input"),
    ("model",),
    ("theory", "policies"),
    ("sim", "calibrate"),
    ("io", "planning", "optimality"),
    ("plot", "report", "cli", "__main__"),
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
# What is possible never depends on how work is ordered, nor the other way round.
STRANGERS = {("theory", "policies"), ("policies", "theory")}
# `import llmq` reaches everything, so only the top layer may write it.


def module_of(path: Path, root: Path = ROOT) -> str:
    parts = path.relative_to(root.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(tree: ast.Module, module: str, *, is_package: bool = False) -> list[tuple[str, int]]:
    """Dotted names of everything imported, wherever it stands, with the line."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                here = module.split(".")
                here = here[: len(here) - node.level + is_package]
                base = ".".join([*here, *filter(None, [node.module])])
            found += [(f"{base}.{alias.name}", node.lineno) for alias in node.names]
    return found


def top(name: str) -> str | None:
    """First part below ``llmq``: the unit that belongs to a layer."""
    if not name.startswith("llmq."):
        return None
    first = name.split(".")[1]
    # A public name imported from the package itself: the layer of the module that defines it.
    return llmq._HOME[first].split(".")[1] if first not in LEVEL and first in llmq._HOME else first


def violations(source: str, module: str, *, is_package: bool = False) -> list[str]:
    mine = top(module)
    if mine not in LEVEL:
        return [f"{module} has no layer: give it one in LAYERS"]
    faults = []
    for name, line in imported(ast.parse(source), module, is_package=is_package):
        place = f"{module} line {line}: imports {name}"
        other = top(name)
        if name == "llmq" or other in ("__version__", "*"):
            if LEVEL[mine] < len(LAYERS) - 1:
                faults.append(f"{place}, the whole package: import the module that is meant")
        elif other is None:
            continue
        elif other not in LEVEL:
            faults.append(f"{place}, which has no layer: give it one in LAYERS")
        elif LEVEL[other] > LEVEL[mine]:
            faults.append(f"{place}: layer {LEVEL[mine]} may not use layer {LEVEL[other]}")
        elif (mine, other) in STRANGERS:
            faults.append(f"{place}: {mine} never imports {other}")
    return faults


FILES = [path for path in sorted(ROOT.rglob("*.py")) if path != ROOT / "__init__.py"]


def test_every_file_has_a_layer():
    unknown = {top(module_of(path)) for path in FILES} - set(LEVEL)
    assert not unknown


def test_imports_go_downwards():
    faults = [
        fault
        for path in FILES
        for fault in violations(
            path.read_text(encoding="utf-8"), module_of(path), is_package=path.stem == "__init__"
        )
    ]
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize(
    ("module", "source", "fault"),
    [
        ("llmq.units", "import llmq.model.engine", "layer 0 may not use layer 1"),
        ("llmq.model.lengths", "def f():\n    from llmq.sim import run", "line 2"),
        ("llmq.model.lengths", "from llmq import simulate", "layer 1 may not use layer 3"),
        ("llmq.model.lengths", "from ..io import traces", "layer 1 may not use layer 4"),
        (
            "llmq.theory.region",
            "import typing as t\nif t.TYPE_CHECKING:\n    from llmq.policies import vllm",
            "theory never imports policies",
        ),
        ("llmq.policies.rad", "from llmq.theory.region import Region", "policies never imports"),
        ("llmq.sim.simulate", "import llmq", "the whole package"),
        ("llmq.sim.simulate", "from llmq.gpu import x", "has no layer"),
        ("llmq.gpu.cuda", "import math", "llmq.gpu.cuda has no layer"),
    ],
)
def test_the_audit_sees(module, source, fault):
    (found,) = violations(source, module)
    assert fault in found


@pytest.mark.parametrize(
    ("module", "source"),
    [
        (
            "llmq.sim.simulate",
            "from llmq.sim import log\nfrom llmq.calibrate import fit\nimport numpy",
        ),
        ("llmq.theory.region", "from llmq.theory import demand\nfrom llmq.model import engine"),
        ("llmq.cli.commands.plan", "import llmq\nfrom llmq import policies"),
        ("llmq.model.trace", "from .lengths import Lengths\nfrom ..errors import InputError"),
    ],
)
def test_the_audit_lets_pass(module, source):
    assert violations(source, module) == []


def eager(tree: ast.Module) -> list[tuple[str, int]]:
    """Imports that run when the module is imported."""
    found: list[tuple[str, int]] = []

    def walk(node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                continue
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
                continue
            if isinstance(child, ast.Import):
                found.extend((alias.name, child.lineno) for alias in child.names)
            elif isinstance(child, ast.ImportFrom) and not child.level:
                found.append((child.module or "", child.lineno))
            walk(child)

    walk(tree)
    return found


def test_only_numpy_is_imported_eagerly():
    allowed = {*sys.stdlib_module_names, "numpy", "llmq"}
    faults = [
        f"{module_of(path)} line {line}: {name} must be imported inside the function that uses it"
        for path in FILES
        for name, line in eager(ast.parse(path.read_text(encoding="utf-8")))
        if name.split(".")[0] not in allowed
    ]
    assert not faults, "\n".join(faults)
    assert eager(ast.parse("import scipy\ndef f():\n    import sympy")) == [("scipy", 1)]
