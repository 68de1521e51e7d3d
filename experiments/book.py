"""The experiments that exist: found by their ``TITLE``, no registry; and the page of claims.

A module of this folder with a top-level ``TITLE`` is an experiment. It is found by reading the
source, so listing needs no import and a broken module disturbs no other.
"""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

import llmq
from experiments.claim import Claim, Finding, Status
from experiments.runner import Runner, Scale
from experiments.table import TABLES, Table, read_table, write_table
from llmq.errors import InputError, nearest

__all__ = ["claims_page", "compute", "experiment", "experiments", "modules_with"]

HERE = Path(__file__).parent
_HEAD = """\
# Claims

What the papers state and what llmq finds. The status is computed by the judge of each claim from
the committed table (`python -m experiments --claims` writes this page); the tests compute every
experiment again at its small scale and demand at least the status in the last column.

* **proved**: exact; nothing is random, and the table repeats the identity to its six digits.
* **verified at 4 SE**: simulated within four standard errors of an exact value, or on the right
  side of an exact bound by four (of two simulations: their difference); where nothing is random, at
  every point computed. What a judge allows beyond (a finite path, a law of means) stands in the
  claim or in its module.
* **reproduced in band**: within the band that the claim, its judge or its source names; where two
  simulations are compared, with 95 % intervals apart.
* **direction only**: the sign or the order, not the number.
* **not reproduced**: neither, or refuted; at the small scale also what cannot be judged there.

Bands of the PASCAL, SLAI and validation claims were laid down before these runs, after an earlier
simulation with other code. Those that no source names (brackets, tiles, the toy of the recompute
losses, WAIT, Inoue, agents) are ours and were set with first results at hand: they guard
against change and are no blind tests.
"""
_ROW = "| {id} | {text} | {measured} | {status} | {source} | {figure} | {test} | {least} |\n"


def modules_with(folder: Path, name: str) -> dict[str, str]:
    """Find modules that define a text at their top level.

    Parameters
    ----------
    folder : Path
        Where.
    name : str
        Such as ``"TITLE"``.

    Returns
    -------
    dict of str to str
        Module to that text, in the order of the names.
    """
    found = {}
    for path in sorted(folder.glob("*.py")):
        try:
            body = ast.parse(path.read_text(encoding="utf-8")).body
        except SyntaxError:
            continue  # somebody is writing it: the others can be computed and drawn
        for node in body:
            if not isinstance(node, ast.Assign) or not isinstance(node.value, ast.Constant):
                continue
            if any(isinstance(t, ast.Name) and t.id == name for t in node.targets):
                found[path.stem] = str(node.value.value)
    return found


def experiments() -> dict[str, str]:
    """List the experiments.

    Returns
    -------
    dict of str to str
        Name to title.
    """
    return modules_with(HERE, "TITLE")


def experiment(name: str) -> Any:
    """Load an experiment.

    Parameters
    ----------
    name : str
        Of its module.

    Returns
    -------
    module
        With ``TITLE``, ``SEED``, ``compute`` and ``CLAIMS``.

    Raises
    ------
    InputError
        No such experiment; names the nearest.
    """
    known = experiments()
    if name not in known:
        raise InputError(f"no experiment {name!r}{nearest(name, known)}", value=name)
    return importlib.import_module(f"experiments.{name}")


def compute(name: str, scale: Scale, runner: Runner | None = None) -> Table:
    """Run an experiment.

    Parameters
    ----------
    name : str
        Of its module.
    scale : {"small", "full"}
        Seconds, or minutes and more.
    runner : Runner, optional
        One worker that keeps nothing, if not given.

    Returns
    -------
    Table
        With command, seed, scale and versions among what it says about itself.

    Raises
    ------
    InputError
        No such experiment, or its table has another name.
    """
    module = experiment(name)
    seed = getattr(module, "SEED", 7)
    table: Table = module.compute(scale=scale, rng=seed, runner=runner or Runner())
    if table.name != name:
        raise InputError(f"experiment {name} made a table named {table.name!r}; name it {name!r}")
    return table.with_about(
        command=f"python -m experiments {name} --scale {scale}", seed=seed, scale=scale,
        llmq=llmq.__version__, numpy=np.__version__,
    )  # fmt: skip


def save(table: Table, folder: Path = TABLES) -> Path:
    """Write a table into a folder.

    Parameters
    ----------
    table : Table
        What was computed.
    folder : Path
        Made if missing.

    Returns
    -------
    Path
        The file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{table.name}.csv"
    write_table(table, path)
    return path


def claims_page(folder: Path = TABLES) -> str:
    """Judge every claim on the tables of a folder.

    Parameters
    ----------
    folder : Path
        Of the committed tables.

    Returns
    -------
    str
        Markdown.
    """
    parts, found = [], []
    for name, title in experiments().items():
        claims: Iterable[Claim] = getattr(experiment(name), "CLAIMS", ())
        path = folder / f"{name}.csv"
        if not claims or not path.exists():
            continue
        table = read_table(path)
        judged = [(claim, claim.judge(table)) for claim in claims]
        found += [finding.status for _, finding in judged]
        links = f"[`{name}.py`]({name}.py), [table](tables/{name}.csv)"
        rows = "".join(_row(claim, finding) for claim, finding in judged)
        parts.append(f"\n## {title}\n\n{links}\n\n{_TOP}{rows}")
    counts = ", ".join(f"{found.count(status)} {status}" for status in Status if status in found)
    return f"{_HEAD}\n{len(found)} claims: {counts or 'none'}.\n{''.join(parts)}"


_TOP = (
    "| id | claim | found | status | source | figure | test | at small scale |\n"
    "|---|---|---|---|---|---|---|---|\n"
)


def _row(claim: Claim, finding: Finding) -> str:
    figure = f"[{claim.figure}](../docs/img/{claim.figure}.svg)" if claim.figure else ""
    file, _, test = claim.test.partition("::")
    cells: Mapping[str, str] = {
        "id": claim.id, "text": claim.text, "measured": finding.measured,
        "status": f"**{finding.status}**", "source": claim.source, "figure": figure,
        "test": f"[{test or file}](../tests/experiments/{file})" if file else "generic",
        "least": claim.least,
    }  # fmt: skip
    return _ROW.format(**{key: _cell(value) for key, value in cells.items()})


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
