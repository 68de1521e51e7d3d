"""The requests of many engines at once: one lane for each engine, one column for each request.

All arrays of rows are stored column by column (Fortran order): what is summed over the rows of a
lane, a dozen times in each step, is then a sum of contiguous vectors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import numpy as np
import numpy.typing as npt

from llmq.model.engine import Engine
from llmq.policies.contract.checks import sealed
from llmq.policies.contract.view import Bools, Floats, Ints, View

__all__ = ["FAR", "Requests", "State"]

FAR = 1 << 40  # tokens that nobody will ever take
ROWS = 16  # of a lane, to begin with
# Lanes that are done are carried along until they are this share of all.
CROWD = 1 / 8


@dataclass(frozen=True, slots=True, eq=False)
class Requests:
    """The requests of all lanes, lane after lane, and where their event times go."""

    n: int  # requests of a lane, padding included
    # arrival, prompt, output, hidden, klass: seconds, tokens, class codes; shape (lanes * n,)
    arrival: Floats
    prompt: Ints
    output: Ints
    hidden: Ints
    klass: Ints
    count: Ints  # requests of each lane without the padding; shape (lanes,)
    classes: tuple[str, ...]  # class names by code
    times: dict[str, Floats]  # event times by name, NaN before; shape (lanes * n,)


class State:
    """Lanes that are not done; those that are leave in groups."""

    # What is known of a row, and of a lane.
    WHOLE: ClassVar[tuple[str, ...]] = (
        *("row", "klass", "prompt", "output", "hidden", "kv", "host", "generated", "held"),
        *("queued", "missing", "left"),
    )
    REAL: ClassVar[tuple[str, ...]] = ("arrival", "mark", "boundary", "first")
    FLAG: ClassVar[tuple[str, ...]] = ("present", "served", "opens")
    LANE: ClassVar[tuple[str, ...]] = (
        *("lane", "clock", "wake", "next", "coming", "busy", "iterations", "tokens", "area"),
        *("stamp", "started", "prefilled", "evictions", "recomputed", "swapped", "waits"),
    )

    def __init__(
        self,
        data: Requests,
        engine: Engine,
        sees: frozenset[str],
        one_run_only: frozenset[str] = frozenset(),
    ) -> None:
        self.one_run_only = one_run_only  # blocks that are asked lane by lane
        self.data, self.engine, self.sees = data, engine, sees
        size = len(data.count)
        self.total = engine.kv_blocks
        self.lag = engine.conventions.lag
        self.thinks = bool(data.hidden.any())
        for name in self.WHOLE:
            setattr(self, name, np.zeros((size, ROWS), np.int64, order="F"))
        for name in self.REAL:
            setattr(self, name, np.full((size, ROWS), np.nan, order="F"))
        for name in self.FLAG:
            setattr(self, name, np.zeros((size, ROWS), bool, order="F"))
        self.row: Ints
        self.left[:] = FAR
        self.lane = np.arange(size)
        for name in ("stamp", "started", "evictions", "recomputed", "swapped", "waits"):
            setattr(self, name, np.zeros(size, np.int64))
        self.iterations, self.tokens = np.zeros(size, np.int64), np.zeros(size, np.int64)
        self.clock, self.busy, self.area = np.zeros((3, size))
        self.wake = np.full(size, -np.inf)
        self.prefilled = np.zeros(size, bool)
        self.next = self.lane * data.n
        self.coming = self._arrival_of(self.next)
        self.sums = {
            name: np.zeros(size, getattr(self, name).dtype)
            for name in (
                "iterations",
                "tokens",
                "area",
                "busy",
                "clock",
                "evictions",
                "recomputed",
                "swapped",
            )
        }
        self.undone = np.zeros(size, bool)
        self.steps = 0
        self._shown_of: View | None = None
        self._singles: list[tuple[int, View, Ints]] = []

    # Columns are made by name in one place; these lines tell the type checker of them.
    klass: Ints
    prompt: Ints
    output: Ints
    hidden: Ints
    kv: Ints
    host: Ints
    generated: Ints
    held: Ints
    queued: Ints
    missing: Ints  # tokens of prompt and output so far that have no KV
    left: Ints  # output tokens until the row ends or leaves its reasoning
    arrival: Floats
    mark: Floats
    boundary: Floats
    first: Floats
    present: Bools
    served: Bools  # in the last iteration
    opens: Bools  # has ended its reasoning and was not served since
    stamp: Ints
    started: Ints
    evictions: Ints
    recomputed: Ints
    swapped: Ints
    waits: Ints  # boundaries in a row at which nobody was served

    @property
    def width(self) -> int:
        """Lanes."""
        return len(self.lane)

    def _arrival_of(self, places: Ints) -> Floats:
        """When requests come; never beyond the last of their lane."""
        some = places < self.lane * self.data.n + self.data.count[self.lane]
        found = self.data.arrival[np.where(some, places, 0)] if len(self.data.arrival) else 0.0
        return np.where(some, found, np.inf)

    # --------------------------------------------------------------------------- who is here

    def arrive(self) -> None:
        """Take in the requests that have come by the clock of their lane."""
        due = self.coming <= self.clock
        if not due.any():
            return
        lanes = np.flatnonzero(due)
        first, ends = self.next[lanes], self._by_clock(lanes)
        many = ends - first
        slots = self._free_slots(lanes, many)
        at = np.repeat(lanes, many)
        nth = np.arange(len(at)) - np.repeat(np.cumsum(many) - many, many)
        place = np.repeat(first, many) + nth
        data = self.data
        prompt, output, hidden = data.prompt[place], data.output[place], data.hidden[place]
        self.row[at, slots] = place % data.n
        self.klass[at, slots] = data.klass[place]
        self.prompt[at, slots] = self.missing[at, slots] = prompt
        self.output[at, slots], self.hidden[at, slots] = output, hidden
        self.left[at, slots] = np.where(hidden > 0, hidden, 1)
        self.arrival[at, slots] = self.mark[at, slots] = data.arrival[place]
        self.boundary[at, slots] = self.first[at, slots] = np.nan
        self.queued[at, slots] = self.stamp[at] + nth + 1
        self.present[at, slots] = True
        self.stamp[lanes] += many
        self.next[lanes] = ends
        self.coming = self._arrival_of(self.next)

    def _by_clock(self, lanes: Ints) -> Ints:
        """First request of each lane that has not come yet."""
        data, ends = self.data, self.next[lanes] + 1
        stop = self.lane[lanes] * data.n + data.count[self.lane[lanes]]
        todo = np.arange(len(lanes))
        while todo.size:
            todo = todo[ends[todo] < stop[todo]]
            todo = todo[data.arrival[ends[todo]] <= self.clock[lanes[todo]]]
            ends[todo] += 1
        return ends

    def _free_slots(self, lanes: Ints, many: Ints) -> Ints:
        """Choose a free slot for each newcomer; more are made where they do not go round."""
        free = ~self.present[lanes]
        while (free.sum(axis=1) < many).any():
            self._widen()
            free = ~self.present[lanes]
        nth = np.cumsum(free, axis=1)
        return np.nonzero(free & (nth <= many[:, None]))[1]

    def _widen(self) -> None:
        for name in (*self.WHOLE, *self.REAL, *self.FLAG):
            old = getattr(self, name)
            new = np.zeros((old.shape[0], 2 * old.shape[1]), old.dtype, order="F")
            new[:, : old.shape[1]] = old
            setattr(self, name, new)
        self.left[:, self.left.shape[1] // 2 :] = FAR

    def clear(self, lanes: Ints, slots: Ints) -> None:
        """Let rows leave."""
        for name in ("prompt", "output", "hidden", "kv", "host", "generated", "held", "missing"):
            getattr(self, name)[lanes, slots] = 0
        self.left[lanes, slots] = FAR
        for name in self.FLAG:
            getattr(self, name)[lanes, slots] = False

    # --------------------------------------------------------------------------- who is done

    def retire(self) -> bool:
        """Drop lanes that are done, where they are many; whether some are left."""
        done = np.isinf(self.coming) & ~self.present.any(axis=1)
        done |= self.undone[self.lane]
        if np.count_nonzero(done) > CROWD * (self.width - 1):
            self._book(done)
            stay = ~done
            for name in (*self.WHOLE, *self.REAL, *self.FLAG):
                setattr(self, name, np.asfortranarray(getattr(self, name)[stay]))
            for name in self.LANE:
                setattr(self, name, getattr(self, name)[stay])
        return self.width > 0

    def _book(self, done: Bools) -> None:
        """Write down the sums of lanes."""
        for name, column in self.sums.items():
            column[self.lane[done]] = getattr(self, name)[done]

    def give_up(self, lanes: Ints) -> None:
        """Leave lanes to the reference, which knows what is wrong with them."""
        self.undone[self.lane[lanes]] = True
        at, slots = np.nonzero(self.present[lanes])
        self.clear(lanes[at], slots)
        self.coming[lanes] = np.inf
        # Nobody of theirs comes any more.
        self.next[lanes] = (self.lane[lanes] + 1) * self.data.n

    # --------------------------------------------------------------------------- what is seen

    def view(self) -> View:
        """Show all rows of all lanes; what belongs to a lane has the shape (lanes, 1)."""
        rem = np.maximum(self.missing, self.present) if self.lag else self.missing
        resident = self.held > 0
        if self.lag:
            decoding = (self.missing == 0) & self.present
        else:
            decoding = (self.missing == 1) & (self.generated > 0)
        used = self.held.sum(axis=1)
        one = self.engine
        # What belongs to a lane is one number of a run, here a column of them.
        lanes: dict[str, Any] = {
            "time": self.clock[:, None],
            "free": (self.total - used)[:, None],
            "iterations": self.iterations[:, None],
            "busy": self.busy[:, None],
            "started": self.started[:, None],
            "prefilled": self.prefilled[:, None],
        }
        return View(
            **lanes,
            row=_shown(self.row),
            arrival=_shown(self.arrival),
            queued=_shown(self.queued),
            prompt=_shown(self.prompt),
            klass=_shown(self.klass),
            kv=_shown(self.kv),
            host=_shown(self.host),
            generated=_shown(self.generated),
            thought=np.minimum(self.generated, self.hidden) if self.thinks else np.zeros_like(rem),
            rem=_shown(rem),
            held=_shown(self.held),
            decoding=_shown(decoding),
            resident=_shown(resident),
            answering=_shown((self.generated >= self.hidden) & self.present),
            mark=_shown(self.mark),
            boundary=_shown(self.boundary),
            first=_shown(self.first),
            output=_shown(self.output) if "output" in self.sees else None,
            classes=self.data.classes,
            total=self.total,
            block=one.kv_block,
            tokens=one.token_budget,
            slots=one.max_seqs or np.inf,
            one_prefill_slot=one.conventions.prefill_slots == "one",
            law=one.law,
            present=_shown(self.present),
        )

    def each(self, view: View) -> list[tuple[int, View, Ints]]:
        """Show the lanes in which somebody is, one by one; the same objects for the same view."""
        if self._shown_of is not view:
            self._shown_of = view
            lanes = np.flatnonzero(self.present.any(axis=1)).tolist()
            self._singles = [(lane, *self.one(view, lane)) for lane in lanes]
        return self._singles

    def one(self, view: View, lane: int) -> tuple[View, Ints]:
        """Show one lane as a run shows itself, rows in order of arrival; and their slots."""
        slots = np.flatnonzero(self.present[lane])
        slots = slots[np.argsort(self.row[lane, slots])]
        fields = {}
        for name, value in view._asdict().items():
            if isinstance(value, np.ndarray):
                short = value.shape[-1] == 1 and name in LANES
                fields[name] = value[lane, 0].item() if short else value[lane, slots]
        return sealed(view._replace(**fields)), slots


_Number = TypeVar("_Number", bound=np.generic)
LANES = frozenset({"time", "free", "iterations", "busy", "started", "prefilled"})


def _shown(column: npt.NDArray[_Number]) -> npt.NDArray[_Number]:
    """Let a policy read an array, not write it."""
    seen = column.view()
    seen.flags.writeable = False
    return seen
