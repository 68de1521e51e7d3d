"""Runner: maps a function over points, keeps what is done, resumes.

Each point has its own child of the seed sequence, by its place in the list, so results do not
depend on the number of workers, on the executor, or on interruptions. With a keep-file each
finished point is a line of JSON; a later run with the same function, point and seed takes it from
there. Change the source of the function's module, and its points are computed again.

Not covered: changes in the library below the function; ``--fresh`` forgets what was kept.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np

import llmq
from llmq.rng import RngLike, seed_sequence
from llmq.sim._parallel.workers import Workers, completed

__all__ = ["PLAIN", "Point", "Row", "Runner", "Scale"]

Scale: TypeAlias = Literal["small", "full"]
Point: TypeAlias = Mapping[str, Any]
Row: TypeAlias = dict[str, Any]
Work: TypeAlias = Callable[[Any, np.random.SeedSequence], Sequence[Row]]


@dataclass(frozen=True, slots=True)
class Runner:
    """How points are computed.

    Parameters
    ----------
    workers : int, map-like or dask.distributed.Client
        Who computes.
    keep : Path, optional
        File of finished points; nothing is kept if not given.
    progress : bool
        Whether a line on stderr counts the points, where that is a terminal.

    Examples
    --------
    >>> def double(point, rng):
    ...     return [{"x": point["x"], "y": 2 * point["x"]}]
    >>> Runner().run(double, [{"x": 1}, {"x": 2}], rng=7)
    [{'x': 1, 'y': 2}, {'x': 2, 'y': 4}]
    """

    workers: Workers = 1
    keep: Path | None = None
    progress: bool = False

    def run(self, function: Work, points: Sequence[Point], rng: RngLike) -> list[Row]:
        """Compute all points.

        Parameters
        ----------
        function : callable
            From a point and a seed sequence to rows; at the top level of a module, so that other
            processes find it.
        points : sequence of mapping
            Numbers and texts by name.
        rng : Generator, SeedSequence, int or None
            Source of randomness; point i draws from child i.

        Returns
        -------
        list of dict
            Rows of all points, in their order. An interruption (Ctrl-C, or the end of the process)
            loses only what was not finished.
        """
        seeds = seed_sequence(rng).spawn(len(points))
        keys = [_key(function, point, seed) for point, seed in zip(points, seeds, strict=True)]
        done = _read(self.keep)
        missing = [i for i, key in enumerate(keys) if key not in done]
        # Who computes on this machine writes down what is done: whoever ends this process then
        # loses no point that another one has finished.
        own = self.keep if isinstance(self.workers, int) else None
        tasks = [(function, points[i], seeds[i], own, keys[i]) for i in missing]
        self._say(function, len(points) - len(missing), len(points))
        # Who computes need not exist where nothing is missing: a pool of no workers is an error.
        for place, rows in completed(self.workers, _work, tasks) if tasks else ():
            done[keys[missing[place]]] = rows
            if own is None:
                _append(self.keep, keys[missing[place]], rows)
            self._say(function, sum(key in done for key in keys), len(points))
        return [dict(row) for key in keys for row in done[key]]

    def has(self, function: Work, point: Point, rng: RngLike) -> bool:
        """Say whether a point that is run by itself is in the keep-file.

        Parameters
        ----------
        function, point, rng
            As in :meth:`run`, with this point alone.

        Returns
        -------
        bool
            True where :meth:`run` would compute nothing.
        """
        return _key(function, point, seed_sequence(rng).spawn(1)[0]) in _read(self.keep)

    def _say(self, function: Work, done: int, points: int) -> None:
        if self.progress and sys.stderr.isatty():
            end = "\n" if done == points else ""
            sys.stderr.write(f"\r\x1b[2K{_name(function)}: {done} of {points} points{end}")
            sys.stderr.flush()


PLAIN = Runner()


def _work(task: tuple[Work, Point, np.random.SeedSequence, Path | None, str]) -> list[Row]:
    function, point, seed, keep, key = task
    # Through JSON, so that a row is the same whether it was kept or not.
    rows: list[Row] = json.loads(json.dumps(list(function(point, seed)), default=_plain))
    _append(keep, key, rows)
    return rows


def _plain(value: object) -> object:
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise TypeError(f"a row holds numbers and texts, not a {type(value).__name__}: {value!r}")


def _name(function: Work) -> str:
    inner = getattr(function, "func", function)  # of a functools.partial
    return f"{inner.__module__}.{inner.__qualname__}"


def _key(function: Work, point: Point, seed: np.random.SeedSequence) -> str:
    inner = getattr(function, "func", function)
    file = getattr(sys.modules.get(inner.__module__), "__file__", None)
    source = Path(file).read_bytes() if file else b""
    fixed = [getattr(function, "args", ()), getattr(function, "keywords", {})]
    what = [_name(function), dict(point), fixed, str(seed.entropy), seed.spawn_key]
    words = json.dumps([*what, llmq.__version__], default=str, sort_keys=True)
    return hashlib.sha256(source + words.encode()).hexdigest()[:24]


def _read(keep: Path | None) -> dict[str, list[Row]]:
    if keep is None or not keep.exists():
        return {}
    return dict(_entries(keep))


def _entries(keep: Path) -> Iterator[tuple[str, list[Row]]]:
    text = keep.read_text(encoding="utf-8")
    if not text.endswith("\n"):
        with keep.open("a", encoding="utf-8") as file:
            file.write("\n")  # or the next point would stand on the torn line
    for line in text.splitlines():
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            continue  # the machine went down in the middle of a line: that point is not done
        yield entry["key"], entry["rows"]


def _append(keep: Path | None, key: str, rows: list[Row]) -> None:
    if keep is None:
        return
    keep.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps({"key": key, "rows": rows}) + "\n"
    # One write at the end of the file: lines of several processes do not mix.
    with keep.open("ab", buffering=0) as file:
        file.write(line.encode())
