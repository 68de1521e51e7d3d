r"""Do the tests notice small changes? ``python -m experiments.mutants FILE ... --tests TEST ...``.

The tree is copied to a temporary folder. There each mutant of :mod:`experiments.mutate` is put in
place and the tests run, until the first fails. A mutant is *killed* by a failed test, by an error
while tests are collected or by the time limit; it *survived* if all tests pass. The tests must pass
on the unchanged copy first.

Tests are collected once and each mutant of a function runs in a fork (:mod:`experiments.forked`),
with the tests that call this function; a change outside of functions runs in a child that starts
with the libraries imported (``--preload``), but nothing of this repository. Results are appended to
``--out`` and taken from there when the same file and change come again: a run can be stopped and
goes on. ``--again`` runs survivors once more, with all tests, after a test was added.
``--argued docs/mutants.md`` reads the rows of that page, ``| file | line before | line after | why
|``, as mutants that change nothing.

Exit code 1: a mutant survived that is not argued. Examples::

    python -m experiments.mutants proofs/check_chain.py --tests tests/unit/proofs/test_checker.py
    python -m experiments.mutants llmq/theory/region/_inner.py --limit 100 --seed 1 --timeout 60 \
        --tests tests/unit/theory/test_inner.py --out out/mutants.jsonl
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from experiments.forked import enter, serve
from experiments.mutate import KINDS, Mutant, mutants

ROOT = Path(__file__).resolve().parent.parent
LEFT_OUT = shutil.ignore_patterns(
    ".git",
    ".venv",
    ".mypy_cache",
    ".ruff_cache",
    ".pytest_cache",
    "__pycache__",
    "node_modules",
    "*.jsonl",
)
PRELOAD = (
    "pytest _pytest.doctest hypothesis hypothesis.strategies numpy numpy.random scipy.optimize"
)
OPTIONS = (
    "-x",
    "-q",
    "-p",
    "no:cacheprovider",
    "-n",
    "0",
    "--no-header",
    "--tb=line",
    "-W",
    "ignore::pytest.PytestAssertRewriteWarning",
)


@contextlib.contextmanager
def copied(root: Path = ROOT) -> Iterator[Path]:
    """Copy the tree into a folder that is deleted afterwards.

    Parameters
    ----------
    root : Path
        The tree.

    Yields
    ------
    Path
        The copy.
    """
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copy = Path(folder) / "tree"
        shutil.copytree(root, copy, ignore=LEFT_OUT, symlinks=True)
        yield copy


def run_tests(copy: Path, tests: Sequence[str], limit: float, log: Path) -> str:
    """Run tests in a child.

    Parameters
    ----------
    copy : Path
        The tree to run in.
    tests : sequence of str
        What pytest takes.
    limit : float
        Seconds.
    log : Path
        Where the output goes.

    Returns
    -------
    str
        ``passed``, ``failed`` or ``timeout``.
    """
    child = os.fork()
    if not child:
        _child(copy, tests, log)
    end = time.monotonic() + limit
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return "passed" if os.waitstatus_to_exitcode(status) == 0 else "failed"
        time.sleep(0.02)
    # The child leads a session of its own: what it started ends with it.
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "timeout"


def _child(copy: Path, tests: Sequence[str], log: Path) -> None:
    code = 1
    try:
        enter(copy, log)
        code = int(pytest.main([*OPTIONS, f"--rootdir={copy}", *tests]))
        sys.stdout.flush()
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


def judge(
    copy: Path, name: str, todo: Sequence[Mutant], args: argparse.Namespace, known: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """Run the tests on each mutant of a file.

    Parameters
    ----------
    copy : Path
        The copied tree.
    name : str
        The file, relative to the tree.
    todo : sequence of Mutant
        Its mutants.
    args : argparse.Namespace
        The options.
    known : dict
        Earlier results by key.

    Yields
    ------
    dict
        One result.
    """
    new = []
    for mutant in todo:
        found = known.get(_key(name, mutant))
        if found is None or (args.again and found["result"] == "survived"):
            new.append(mutant)
        else:
            yield {**found, "line": mutant.line}
    kills = Counter(one["by"] for one in known.values() if "by" in one)
    log, elsewhere = copy.parent / "log", []
    options = (*OPTIONS, f"--basetemp={copy.parent / 'tmp'}", "--capture=no")
    done = 0
    if new:
        for said in serve(
            copy, name, new, args.tests, options, log, kills, args.timeout, args.again
        ):
            if "broken" in said:
                raise SystemExit(f"{said['broken']}\n{log.read_text(encoding='utf-8')[-4000:]}")
            mutant = new[said["index"]]
            done += 1
            if said["result"] == "elsewhere":
                elsewhere.append(mutant)
                continue
            yield _keep(name, mutant, args, said)
            _tell(f"{name} {done}/{len(new)}")
        if done < len(new):
            raise SystemExit(f"the run ended\n{log.read_text(encoding='utf-8')[-4000:]}")
    target = copy / name
    plain, stamp = target.read_bytes(), target.stat().st_mtime_ns
    for i, mutant in enumerate(elsewhere, len(new) + 1):
        target.write_text(mutant.source, encoding="utf-8")
        # A compiled file is known by its time and size: no two mutants share the time.
        os.utime(target, ns=(stamp, stamp + i * 10**9))
        start = time.monotonic()
        result = run_tests(copy, args.tests, args.timeout or 120, log)
        target.write_bytes(plain)
        os.utime(target, ns=(stamp, stamp))
        seconds = round(time.monotonic() - start, 2)
        yield _keep(name, mutant, args, {"result": result, "seconds": seconds, "index": 0})
        _tell(f"{name} {i - len(new)}/{len(elsewhere)} outside of functions")


def _keep(
    name: str, mutant: Mutant, args: argparse.Namespace, said: Mapping[str, Any]
) -> dict[str, Any]:
    rest = {k: v for k, v in said.items() if k not in ("index", "result")}
    found = {
        "key": _key(name, mutant),
        "file": name,
        "line": mutant.line,
        "kind": mutant.kind,
        "old": mutant.old,
        "new": mutant.new,
        "result": {"passed": "survived", "failed": "killed"}.get(said["result"], said["result"]),
        **rest,
    }
    with args.out.open("a", encoding="utf-8") as file:
        file.write(json.dumps(found) + "\n")
    return found


def _tell(text: str) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[2K{text}")
        sys.stderr.flush()


def _key(name: str, mutant: Mutant) -> str:
    text = "\0".join((name, mutant.source))
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def argued(page: Path | None) -> set[tuple[str, str, str]]:
    """Read the mutants that change nothing.

    Parameters
    ----------
    page : Path or None
        A Markdown page with rows ``| file | line before | line after | why |``; code in backticks.

    Returns
    -------
    set of (str, str, str)
        File, line before, line after.
    """
    found = set()
    for line in [] if page is None else page.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.replace("\\|", "\0").strip("| ").split(" | ")]
        if len(cells) == 4 and all(cell.startswith("`") for cell in cells[:3]):
            name, old, new = (cell.strip("`").replace("\0", "|") for cell in cells[:3])
            found.add((name, old, new))
    return found


def table(results: Sequence[Mapping[str, Any]], known: set[tuple[str, str, str]]) -> str:
    """Write the counts by file and kind, and every survivor.

    Parameters
    ----------
    results : sequence of mapping
        What :func:`judge` yields.
    known : set of (str, str, str)
        Survivors that are argued.

    Returns
    -------
    str
        Markdown.
    """
    lines = ["| file | mutants | killed | by time | survived | of these argued |", "|---|" * 6]
    lines[1] = "|---|---:|---:|---:|---:|---:|"
    for name in dict.fromkeys(r["file"] for r in results):
        own = [r for r in results if r["file"] == name]
        count = Counter(r["result"] for r in own)
        said = sum(_is_argued(r, known) for r in own if r["result"] == "survived")
        numbers = (len(own), count["killed"], count["timeout"], count["survived"], said)
        lines.append(f"| `{name}` | " + " | ".join(map(str, numbers)) + " |")
    for r in results:
        if r["result"] == "survived":
            mark = " (argued)" if _is_argued(r, known) else ""
            lines += ["", f"{r['file']}:{r['line']}: {r['kind']}{mark}"]
            lines += [f"  - {r['old']}", f"  + {r['new']}"]
    return "\n".join(lines) + "\n"


def _is_argued(result: Mapping[str, Any], known: set[tuple[str, str, str]]) -> bool:
    return (result["file"], result["old"], result["new"]) in known


def parser() -> argparse.ArgumentParser:
    """Return the reader of the options.

    Returns
    -------
    argparse.ArgumentParser
        With all defaults.
    """
    made = argparse.ArgumentParser(
        prog="python -m experiments.mutants",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = made.add_argument
    add("files", nargs="+", help="source files, relative to the tree")
    add("--tests", nargs="+", required=True, help="what pytest takes; quick ones first")
    add("--limit", type=int, help="at most so many mutants of a file, drawn at random")
    add("--seed", type=int, default=0, help="of the draw")
    add("--timeout", type=float, help="seconds for a mutant; default: thrice the tests, and ten")
    add("--kinds", nargs="+", choices=KINDS, default=KINDS)
    add("--lines", help="only these lines, e.g. 10-40")
    add("--out", type=Path, default=Path("mutants.jsonl"), help="results, appended")
    add("--again", action="store_true", help="run known survivors once more, all tests")
    add("--argued", type=Path, help="page of mutants that change nothing")
    add("--preload", default=PRELOAD, help="modules imported once, before all children")
    return made


def _chosen(name: str, args: argparse.Namespace) -> list[Mutant]:
    found = mutants((ROOT / name).read_text(encoding="utf-8"))
    first, _, last = (args.lines or f"1-{10**9}").partition("-")
    found = [
        m for m in found if m.kind in args.kinds and int(first) <= m.line <= int(last or first)
    ]
    if args.limit is not None and len(found) > args.limit:
        kept = sorted(random.Random(args.seed).sample(range(len(found)), args.limit))
        found = [found[i] for i in kept]
    return found


def main(arguments: list[str] | None = None) -> int:
    """Run the mutants and print the table.

    Parameters
    ----------
    arguments : list of str, optional
        Options; those of the command line if not given.

    Returns
    -------
    int
        0: none survived unexplained; 1: some did, or the tests fail without a change.
    """
    args = parser().parse_args(arguments)
    for module in args.preload.split():
        importlib.import_module(module)
    lines = args.out.read_text(encoding="utf-8").splitlines() if args.out.exists() else []
    known = {one["key"]: one for one in map(json.loads, lines)}
    results = []
    with copied() as copy:
        for name in args.files:
            results += list(judge(copy, name, _chosen(name, args), args, known))
    page = argued(args.argued)
    _tell("")
    sys.stdout.write(table(results, page))
    alive = [r for r in results if r["result"] == "survived" and not _is_argued(r, page)]
    return int(bool(alive))


if __name__ == "__main__":
    sys.exit(main())
