"""The experiments that exist: found by their ``TITLE``, no registry; and the page of claims.

A module of this folder with a top-level ``TITLE`` is an experiment. It is found by reading the
source, so listing needs no import and a broken module disturbs no other.
"""

from __future__ import annotations

import ast
import importlib
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

import llmq
from experiments.claim import Band, Claim, Finding, Status, grade
from experiments.runner import Runner, Scale
from experiments.table import TABLES, Table, read_table, write_table
from llmq.errors import InputError, nearest

__all__ = ["claims_page", "compute", "experiment", "experiments", "modules_with", "text_of"]

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
* **observation**: the same, but the band was set with results at hand. It guards against change
  and is no test that the number could have failed.
* **equal in band**, **not equal in band**: of claims that two things are the same.
* **direction only**: the sign or the order, not the number.
* **not reproduced**: neither, or contradicted. **refuted**: a conjecture of this project that
  failed.

"band" says where the numbers of a judge come from: *source*, the statement itself (what is allowed
around its number is ours, set with first results at hand); *notes*, acceptance bands of the
project's notes, which are older than the code of the experiments (first committed on 2026-11-22);
*results*, set with results at hand; nothing where a claim is exact or tested at four standard
errors. "at small scale" is what the tests demand of a run of seconds; "full scale only" says that
nothing is tested but the judge itself, on doctored tables.
"""
_ROW = (
    "| {id} | {text} | {measured} | {status} | {band} | {source} | {figure} | {test} | {least} |\n"
)


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
        text = text_of(path, name)
        if text is not None:
            found[path.stem] = text
    return found


def text_of(path: Path, name: str) -> str | None:
    """Read a text that a module defines at its top level.

    Parameters
    ----------
    path : Path
        Of the module.
    name : str
        Such as ``"TITLE"``.

    Returns
    -------
    str or None
        Nothing if there is no such module or text.
    """
    source = path.read_text(encoding="utf-8") if path.is_file() else ""
    if f"\n{name} = " not in source:
        return None  # most modules: parsing them takes most of the time
    try:
        body = ast.parse(source).body
    except SyntaxError:
        return None  # somebody is writing it: the others can be computed and drawn
    for node in body:
        if not isinstance(node, ast.Assign) or not isinstance(node.value, ast.Constant):
            continue
        if any(isinstance(t, ast.Name) and t.id == name for t in node.targets):
            return str(node.value.value)
    return None


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
    if text_of(HERE / f"{name}.py", "TITLE") is None:
        raise InputError(f"no experiment {name!r}{nearest(name, experiments())}", value=name)
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
        command=f"python -m experiments {name} --scale {scale}",
        seed=seed,
        scale=scale,
        llmq=llmq.__version__,
        numpy=np.__version__,
    )


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
        found += [(claim, finding.status) for claim, finding in judged]
        links = f"[`{name}.py`]({name}.py), [table](tables/{name}.csv)"
        rows = "".join(_row(claim, finding) for claim, finding in judged)
        parts.append(f"\n## {title}\n\n{links}\n\n{_TOP}{rows}")
    counted = Counter(grade(claim, status) for claim, status in found)
    counts = ", ".join(f"{n} {words}" for words, n in counted.most_common())
    full = sum(claim.least is Status.NOT for claim, _ in found)
    less = sum(
        not claim.least.reaches(status) and claim.least is not Status.NOT for claim, status in found
    )
    tests = (
        f"At the small scale {len(found) - full} are tested, {less} of them for less than the full "
        f"table shows; {full} are tested at full scale only."
    )
    return f"{_HEAD}\n{len(found)} claims: {counts or 'none'}. {tests}\n{''.join(parts)}"


_BANDS = {Band.NONE: "", Band.SOURCE: "source", Band.NOTES: "notes", Band.RESULTS: "results"}
_TOP = (
    "| id | claim | found | status | band | source | figure | test | at small scale |\n"
    "|---|---|---|---|---|---|---|---|---|\n"
)


def _row(claim: Claim, finding: Finding) -> str:
    figure = f"[{claim.figure}](../docs/img/{claim.figure}.svg)" if claim.figure else ""
    file, _, test = claim.test.partition("::")
    cells: Mapping[str, str] = {
        "id": claim.id,
        "text": claim.text,
        "measured": finding.measured,
        "status": f"**{grade(claim, finding.status)}**",
        "band": _BANDS[claim.band],
        "source": claim.source,
        "figure": figure,
        "test": f"[{test or file}](../tests/experiments/{file})" if file else "generic",
        "least": "full scale only" if claim.least is Status.NOT else str(claim.least),
    }
    return _ROW.format(**{key: _cell(value) for key, value in cells.items()})


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
