"""``import llmq`` loads NumPy only, and every module can be imported by itself."""

from __future__ import annotations

import pkgutil
import subprocess
import sys

import llmq

HEAVY = (
    "scipy",
    "matplotlib",
    "cvxpy",
    "sympy",
    "pandas",
    "jinja2",
    "yaml",
    "hypothesis",
    "pytest",
)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 0, done.stderr
    return done


def test_import_loads_nothing_heavy():
    trace = run("-X", "importtime", "-c", "import llmq").stderr
    modules = {line.rpartition("|")[2].strip().split(".")[0] for line in trace.splitlines()}
    assert "llmq" in modules  # the trace was understood
    assert not modules & set(HEAVY)


EACH_ALONE = """
import importlib, sys
for name in sys.argv[1].split(","):
    for loaded in [m for m in sys.modules if m == "llmq" or m.startswith("llmq.")]:
        del sys.modules[loaded]
    try:
        importlib.import_module(name)
    except Exception as error:
        print(f"{name}: {type(error).__name__}: {error}")
    heavy = {m.split(".")[0] for m in sys.modules} & set(sys.argv[2].split(","))
    if heavy:
        print(f"{name}: loads {', '.join(sorted(heavy))}")
        break
"""


def test_every_module_can_be_imported_first():
    """One process that forgets llmq before each import: a cycle shows as in a fresh process."""
    names = [found.name for found in pkgutil.walk_packages(llmq.__path__, "llmq.")]
    assert len(names) > 50
    done = run("-W", "error", "-c", EACH_ALONE, ",".join(names), ",".join(HEAVY))
    assert done.stdout == ""
