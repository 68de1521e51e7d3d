"""Run tests on mutants in forks of one process that has imported and collected them.

For :mod:`experiments.mutants`. pytest collects once. For each mutant a child is forked; there the
compiled functions of the changed source replace the ``__code__`` of the living ones, wherever they
were imported to, and the tests run until the first fails. The file on disk is changed too, for
tests that start Python. A change outside of functions (a constant, a default, a table) cannot be
put in place like that: it is handed back.

First the tests run unchanged, traced: a mutant is given those tests only that call its function, in
the order of what they killed before, quick ones first.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import resource
import select
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any, NoReturn

import pytest

from experiments.mutate import Mutant

MEMORY = 6 << 30  # bytes of address space of a child: a mutant may fill a list for ever
Place = tuple[str, int]  # qualified name and first line of a function


def functions(code: CodeType) -> dict[Place, CodeType]:
    """Return the code of all functions in a compiled source, nested ones too.

    Parameters
    ----------
    code : CodeType
        Of a module.

    Returns
    -------
    dict
        Code by qualified name and first line.
    """
    found = {}
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            if inner.co_flags & 0x1:  # optimised locals: a function, not the body of a class
                found[inner.co_qualname, inner.co_firstlineno] = inner
            found |= functions(inner)
    return found


def changed(plain: CodeType, mutant: CodeType) -> dict[Place, CodeType] | None:
    """Return the functions that differ; None if code outside of them does.

    Parameters
    ----------
    plain, mutant : CodeType
        Two modules.

    Returns
    -------
    dict or None
        The changed code, the outermost function only.
    """

    def outer(code: CodeType) -> tuple[Any, ...]:
        """All that is no function: instructions, and constants with classes taken apart."""
        consts = tuple(
            (outer(c) if not c.co_flags & 0x1 else (c.co_qualname, c.co_firstlineno))
            if isinstance(c, CodeType)
            else (type(c), c)
            for c in code.co_consts
        )
        return code.co_code, code.co_names, consts

    if outer(plain) != outer(mutant):
        return None
    old, new = functions(plain), functions(mutant)
    if old.keys() != new.keys():
        return None
    return {place: new[place] for place in old if old[place] != new[place]}


class Loop:
    """The pytest plug-in: it runs the mutants instead of the tests."""

    def __init__(
        self,
        name: str,
        todo: Sequence[Mutant],
        say: Callable[[Mapping[str, Any]], None],
        kills: Mapping[str, int],
        limit: float | None,
        thorough: bool,
    ) -> None:
        self.file, self.todo, self.say = Path.cwd() / name, todo, say
        self.module = name.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
        self.kills, self.limit, self.thorough = Counter(kills), limit, thorough
        self.pipe: int | None = None
        self.seconds: dict[str, float] = {}
        self.reached: dict[str, set[Place]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """End a child at its first failure."""
        if self.pipe is not None and report.failed:
            os.write(self.pipe, json.dumps({"by": report.nodeid}).encode() + b"\n")
            sys.stdout.flush()
            os._exit(1)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Run all mutants."""
        # An import error of the tests is an error of the whole run.
        if session.testsfailed or not session.items:
            self.say({"broken": "the tests cannot be collected"})
            return True
        __import__(self.module)
        source = self.file.read_text(encoding="utf-8")
        plain = compile(source, str(self.file), "exec", dont_inherit=True)
        start = time.monotonic()
        found = self.child(session.items, self.trace, 3600)
        for one in found:
            if "test" in one:
                self.seconds[one["test"]] = one["seconds"]
                self.reached[one["test"]] = {(q, n) for q, n in one["reached"]}
        if (last := found[-1])["result"] != "passed":
            self.say({"broken": f"unchanged, the tests end with {last}"})
            return True
        limit = self.limit or 10 + 3 * (time.monotonic() - start)
        living: dict[Place, list[FunctionType]] = {}
        for f in gc.get_objects():
            if isinstance(f, FunctionType) and f.__code__.co_filename == str(self.file):
                code = f.__code__
                living.setdefault((code.co_qualname, code.co_firstlineno), []).append(f)
        stamp = self.file.stat().st_mtime_ns
        for i, mutant in enumerate(self.todo):
            code = compile(mutant.source, str(self.file), "exec", dont_inherit=True)
            new = changed(plain, code)
            # Where free variables differ, code cannot be exchanged.
            if new is None or not _fits(new, living):
                self.say({"index": i, "result": "elsewhere"})
                continue
            items = self.chosen(session.items, new)
            self.file.write_text(mutant.source, encoding="utf-8")
            os.utime(self.file, ns=(stamp, stamp + (i + 1) * 10**9))
            start = time.monotonic()
            try:
                last = self.child(items, partial(_exchange, new, living), limit)[-1]
            finally:
                self.file.write_text(source, encoding="utf-8")
                os.utime(self.file, ns=(stamp, stamp))
            self.kills[last.get("by", "")] += 1
            self.say(
                {
                    "index": i,
                    "seconds": round(time.monotonic() - start, 2),
                    "tests": len(items),
                    **last,
                }
            )
        return True

    def chosen(self, items: list[pytest.Item], new: Mapping[Place, CodeType]) -> list[pytest.Item]:
        """Choose tests that call a changed function, the best first; if thorough the others too."""
        near = [t for t in items if self.thorough or self.reached.get(t.nodeid, set()) & new.keys()]
        far = {t.nodeid for t in near if not self.reached.get(t.nodeid, set()) & new.keys()}

        def rank(item: pytest.Item) -> tuple[Any, ...]:
            took = self.seconds.get(item.nodeid, 0.0)
            return item.nodeid in far, took > 0.5, -self.kills[item.nodeid], took

        return sorted(near, key=rank)

    def child(
        self, items: Sequence[pytest.Item], prepare: Callable[[], object], limit: float
    ) -> list[dict[str, Any]]:
        """Run tests in a fork; return what it said, and how it ended."""
        read, write = os.pipe()
        pid = os.fork()
        if not pid:
            os.close(read)
            self.run(items, prepare, write)
        os.close(write)
        end, text = time.monotonic() + limit, b""
        result = "timeout"
        while (left := end - time.monotonic()) > 0:
            if select.select([read], [], [], left)[0]:
                if not (piece := os.read(read, 1 << 16)):
                    result = ""
                    break
                text += piece
        if result:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
        os.close(read)
        status = os.waitpid(pid, 0)[1]
        said = [json.loads(line) for line in text.splitlines()]
        if not result:
            result = "passed" if os.waitstatus_to_exitcode(status) == 0 else "failed"
        by = {"by": said[-1]["by"]} if said and "by" in said[-1] else {}
        return [*said, {"result": result, **by}]

    def run(
        self, items: Sequence[pytest.Item], prepare: Callable[[], object], pipe: int
    ) -> NoReturn:
        """Run tests in this process, and end it."""
        code = 1
        try:
            os.setsid()
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
            self.pipe = pipe
            tracer = prepare()
            for item, after in zip(items, [*items[1:], None], strict=True):
                start = time.monotonic()
                seen: set[Place] = tracer(item, after) if callable(tracer) else set()
                if callable(tracer):
                    one = {
                        "test": item.nodeid,
                        "seconds": round(time.monotonic() - start, 3),
                        "reached": sorted(seen),
                    }
                    os.write(pipe, json.dumps(one).encode() + b"\n")
                else:
                    item.config.hook.pytest_runtest_protocol(item=item, nextitem=after)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(code)

    def trace(self) -> Callable[[pytest.Item, pytest.Item | None], set[Place]]:
        """Return what runs a test and tells the functions of the file that it calls."""
        file = str(self.file)

        def one(item: pytest.Item, after: pytest.Item | None) -> set[Place]:
            seen: set[Place] = set()

            def note(frame: Any, event: str, _: object) -> None:
                if event == "call" and frame.f_code.co_filename == file:
                    seen.add((frame.f_code.co_qualname, frame.f_code.co_firstlineno))

            sys.setprofile(note)
            try:
                item.config.hook.pytest_runtest_protocol(item=item, nextitem=after)
            finally:
                sys.setprofile(None)
            return seen

        return one


def _fits(new: Mapping[Place, CodeType], living: Mapping[Place, Sequence[FunctionType]]) -> bool:
    """Say whether the changed functions live and can be exchanged."""
    return any(living.get(place) for place in new) and all(
        f.__code__.co_freevars == code.co_freevars
        for place, code in new.items()
        for f in living.get(place, [])
    )


def _exchange(
    new: Mapping[Place, CodeType], living: Mapping[Place, Sequence[FunctionType]]
) -> None:
    """Put changed code in place."""
    for place, code in new.items():
        for f in living.get(place, []):
            f.__code__ = code


def serve(
    copy: Path,
    name: str,
    todo: Sequence[Mutant],
    tests: Sequence[str],
    options: Sequence[str],
    log: Path,
    kills: Mapping[str, int],
    limit: float | None,
    thorough: bool,
) -> Iterator[dict[str, Any]]:
    """Run the mutants of a file in forks of a child that has collected the tests.

    Parameters
    ----------
    copy : Path
        A copy of the tree.
    name : str
        The file, relative to it.
    todo : sequence of Mutant
        Its mutants.
    tests, options : sequence of str
        What pytest takes.
    log : Path
        Where the output goes.
    kills : mapping
        How often each test killed before.
    limit : float or None
        Seconds for a mutant; by default three times what all tests take, and ten.
    thorough : bool
        Whether tests that do not call the function run too.

    Yields
    ------
    dict
        ``index`` of the mutant, ``result`` (``passed``, ``failed``, ``timeout``, or ``elsewhere``
        for a change outside of functions), ``by`` the test that failed; or ``broken``.
    """
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(read)
        try:
            enter(copy, log)

            def say(one: Mapping[str, Any]) -> None:
                os.write(write, json.dumps(one).encode() + b"\n")

            loop = Loop(name, todo, say, kills, limit, thorough)
            pytest.main([*options, f"--rootdir={copy}", *tests], plugins=[loop])
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)
    os.close(write)
    try:
        with os.fdopen(read, encoding="utf-8") as file:
            yield from map(json.loads, file)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def enter(copy: Path, log: Path) -> None:
    """Make this child one that works in a copy of the tree and writes to a log.

    Parameters
    ----------
    copy : Path
        The copy.
    log : Path
        Where standard output and error go.
    """
    os.setsid()
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(out, 1)
    os.dup2(out, 2)
    here = {"", str(Path(__file__).resolve().parent.parent), str(Path.cwd())}
    os.chdir(copy)
    sys.path[:] = [str(copy), *(path for path in sys.path if path not in here)]
    os.environ["PYTHONPATH"] = str(copy)
    for name in [n for n in sys.modules if n.split(".")[0] in ("experiments", "llmq", "proofs")]:
        del sys.modules[name]
