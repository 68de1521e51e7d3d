"""Public names are a promise; some words never appear."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from pathlib import Path

import pytest

import llmq

ROOT = Path(llmq.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

# Adding a name is a line here; taking one away breaks somebody's script.
PUBLIC = (
    "Agent",
    "AgentTrace",
    "AgentWorkload",
    "BatchTime",
    "Call",
    "Candidate",
    "Conventions",
    "ENGINE",
    "Engine",
    "Estimate",
    "Fleet",
    "FormatError",
    "InfeasibleError",
    "InputError",
    "Kind",
    "Lengths",
    "LlmqError",
    "PolicyError",
    "Prefix",
    "RequestClass",
    "SLO",
    "THEORY",
    "Trace",
    "UndecidedError",
    "UnstableError",
    "Workload",
    "__version__",
    "agent_load",
    "calibrate",
    "chains",
    "compare",
    "drift",
    "engines",
    "find_instability",
    "fluid",
    "fluid_model",
    "hindsight",
    "latency",
    "load_engine",
    "load_workload",
    "lyapunov",
    "max_rate",
    "plan_capacity",
    "plot",
    "policies",
    "read_profile",
    "read_trace",
    "routing",
    "simulate",
    "simulate_agents",
    "stability_region",
    "symbolic",
    "tiling",
    "tiling_lp",
    "workloads",
    "write_engine",
    "write_trace",
)


def test_public_names():
    assert sorted(llmq.__all__) == sorted(PUBLIC)
    assert len(set(llmq.__all__)) == len(llmq.__all__)
    assert dir(llmq) == sorted(PUBLIC)


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_is_there(name):
    value = getattr(llmq, name)
    assert value is getattr(llmq, name)
    home = getattr(value, "__module__", "llmq")
    assert home == "llmq" or home.startswith("llmq.") or name == "__version__"


def test_type_checkers_see_the_same_names():
    stub = ast.parse((ROOT / "__init__.pyi").read_text(encoding="utf-8"))
    imports = [node for node in stub.body if isinstance(node, ast.ImportFrom)]
    assert sorted(alias.asname or "" for node in imports for alias in node.names) == sorted(PUBLIC)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match=r"^module 'llmq' has no attribute 'Engin'$"):
        _ = llmq.Engin


def test_every_module_lists_names_that_it_has():
    import importlib
    import pkgutil

    missing = []
    for found in pkgutil.walk_packages(llmq.__path__, "llmq."):
        if found.name.endswith("__main__"):
            continue
        module = importlib.import_module(found.name)
        missing += [
            f"{found.name}.{name}"
            for name in getattr(module, "__all__", ())
            if not hasattr(module, name)
        ]
    assert not missing


def parameters(node: ast.FunctionDef) -> list[str]:
    a = node.args
    return [arg.arg for arg in (*a.posonlyargs, *a.args, *a.kwonlyargs)]


def faults(source: str) -> list[str]:
    """What style.md 3.2 and 6 rule out, found in code rather than in words."""
    found = []
    for node in ast.walk(ast.parse(source)):
        where = f"line {getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Global):
            found.append(f"{where}: global {', '.join(node.names)}")
        elif isinstance(node, ast.ImportFrom) and node.names[0].name == "*":
            found.append(f"{where}: import *")
        elif isinstance(node, ast.Attribute) and (
            node.attr == "RandomState" or ast.unparse(node).endswith("random.seed")
        ):
            found.append(f"{where}: {ast.unparse(node)}")
        elif isinstance(node, ast.Name) and node.id in ("NotImplementedError", "RandomState"):
            found.append(f"{where}: {node.id}")
        elif isinstance(node, ast.FunctionDef) and not re.match(r"_[^_]", node.name):
            bad = {"seed", "random_state"} & set(parameters(node))
            found += [f"{where}: parameter {name}; randomness comes as rng" for name in bad]
        if isinstance(node, ast.FunctionDef) and node.name.startswith("get_"):
            found.append(f"{where}: {node.name}; verbs without get_")
        empty_word = r"Manager|Handler|Helper|Utils?$"
        if isinstance(node, ast.ClassDef) and re.search(empty_word, node.name):
            found.append(f"{where}: class {node.name}; say what it is")
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT and re.search(r"\b(TODO|FIXME|XXX|HACK)\b", token.string):
            found.append(f"line {token.start[0]}: {token.string}")
    return found


def test_words_that_never_appear():
    found = [
        f"{path.relative_to(ROOT.parent)} {fault}"
        for path in FILES
        for fault in faults(path.read_text(encoding="utf-8"))
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "source",
    [
        "def f():\n    global x\n    x = 1",
        "from numpy import *",
        "import numpy as np\nnp.random.seed(1)",
        "import numpy\nnumpy.random.RandomState(1)",
        "def f(x, *, seed=0): ...",
        "def f(random_state): ...",
        "raise NotImplementedError('later')",
        "x = 1  # TODO: later",
        "def get_rate(): ...",
        "class FleetManager: ...",
    ],
)
def test_the_audit_sees(source):
    assert len(faults(source)) == 1


def test_the_audit_lets_words_pass():
    assert faults('"""TODO global import * np.random.seed"""\nrng = 7  # no seed=') == []
