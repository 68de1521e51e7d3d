"""Requests that came: arrival times and token counts, row by row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from llmq._input.annotations import Numbers
from llmq._input.checked import checked
from llmq._input.columns import floats
from llmq._limits import TOKENS
from llmq.errors import InputError, printable
from llmq.model.prefix import Prefix

if TYPE_CHECKING:
    from llmq.model.request import RequestClass

__all__ = ["Trace"]

Ints: TypeAlias = npt.NDArray[np.int64]
Floats: TypeAlias = npt.NDArray[np.float64]


@checked
@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """A finite list of requests in arrival order.

    Parameters
    ----------
    arrival : array_like of float, shape (n,)
        Seconds, ascending; equal times are allowed.
    prompt, output : array_like of int, shape (n,)
        Tokens, at least 1.
    reasoning : array_like of int, shape (n,), optional
        How many of the first output tokens are hidden.
    klass : array_like of str or int, shape (n,), optional
        Class of each request: names, or codes into ``classes``.
    classes : sequence of str, optional
        Names of the classes.
    source : str
        Where it comes from.
    notes : tuple of str
        What was changed on the way (sorted, jittered).
    prefix : Prefix, optional
        Names of the prompt blocks that requests share.

    Examples
    --------
    >>> trace = Trace(arrival=[0.0, 0.4], prompt=[512, 2048], output=[128, 256])
    >>> trace.rate, len(trace)
    (2.5, 2)
    """

    arrival: Floats
    prompt: Ints
    output: Ints
    reasoning: Ints
    klass: Ints
    classes: tuple[str, ...]
    source: str
    notes: tuple[str, ...]
    prefix: Prefix | None

    def __init__(
        self,
        arrival: Numbers,
        prompt: Numbers,
        output: Numbers,
        reasoning: Numbers | None = None,
        klass: npt.ArrayLike | None = None,
        classes: Sequence[str] | None = None,
        source: str = "",
        notes: tuple[str, ...] = (),
        prefix: Prefix | None = None,
    ) -> None:
        time = floats("arrival", arrival).ravel()
        if not len(time):
            raise InputError("a trace needs at least one request, got none")
        columns = {
            "prompt": _tokens("prompt", prompt, len(time), 1),
            "output": _tokens("output", output, len(time), 1),
            "reasoning": _tokens("reasoning", 0 if reasoning is None else reasoning, len(time), 0),
        }
        if not np.all(np.isfinite(time)):
            row = int(np.flatnonzero(~np.isfinite(time))[0])
            raise InputError(f"arrival of request {row} is {time[row]}: must be finite", row=row)
        if np.any(np.diff(time) < 0):
            row = int(np.flatnonzero(np.diff(time) < 0)[0]) + 1
            raise InputError(
                f"arrivals must ascend: request {row} comes at {time[row]} s, before "
                f"{time[row - 1]} s; sort the rows (llmq.read_trace does, with a warning)",
                row=row,
            )
        if np.any(columns["reasoning"] >= columns["output"]):
            row = int(np.flatnonzero(columns["reasoning"] >= columns["output"])[0])
            raise InputError(
                f"request {row} has {columns['reasoning'][row]} reasoning tokens in an output of "
                f"{columns['output'][row]}: at least one output token must be an answer",
                row=row,
            )
        codes, names = _classes(klass, classes, len(time))
        for name, value in {"arrival": time, **columns, "klass": codes}.items():
            value.flags.writeable = False
            object.__setattr__(self, name, value)
        object.__setattr__(self, "classes", names)
        object.__setattr__(self, "source", source)
        object.__setattr__(self, "notes", tuple(notes))
        if prefix is not None:
            prefix.fit(self.prompt)
        object.__setattr__(self, "prefix", prefix)

    def __len__(self) -> int:
        return len(self.arrival)

    @property
    def span(self) -> float:
        """Seconds from the first to the last arrival."""
        return float(self.arrival[-1] - self.arrival[0])

    @property
    def rate(self) -> float:
        """Requests per second: gaps over span; infinite where all come at once."""
        return (len(self) - 1) / self.span if self.span > 0 else float("inf")

    @property
    def rates(self) -> dict[str, float]:
        """Requests per second of each class."""
        counts = np.bincount(self.klass, minlength=len(self.classes))
        return {
            name: self.rate * float(count) / len(self) if count else 0.0
            for name, count in zip(self.classes, counts, strict=True)
        }

    def mix(self) -> dict[str, RequestClass]:
        """Return the classes that occur, each with the joint law of its requests.

        Returns
        -------
        dict of str to RequestClass
            Paired empirical lengths.
        """
        from llmq.model.lengths import Lengths
        from llmq.model.request import RequestClass

        found = {}
        for code, name in enumerate(self.classes):
            mine = self.klass == code
            if mine.any():
                laws = [
                    Lengths.empirical(x[mine]) for x in (self.prompt, self.output, self.reasoning)
                ]
                found[name] = RequestClass(*laws, paired=True)
        return found

    @checked
    def take(self, rows: Any) -> Trace:
        """Return some of the requests.

        Parameters
        ----------
        rows : slice, array of bool or array of int
            Which rows; arrival times stay.

        Returns
        -------
        Trace
            Those requests.
        """
        return Trace(
            self.arrival[rows],
            self.prompt[rows],
            self.output[rows],
            self.reasoning[rows],
            self.klass[rows],
            self.classes,
            self.source,
            self.notes,
            None if self.prefix is None else self.prefix.take(rows),
        )

    @checked
    def head(self, n: int) -> Trace:
        """Return the first requests.

        Parameters
        ----------
        n : int
            How many, at least 1.

        Returns
        -------
        Trace
            All of them where there are fewer than ``n``.

        Examples
        --------
        >>> len(Trace([0, 1, 2], [8, 8, 8], [4, 4, 4]).head(2))
        2
        """
        if n < 1:
            raise InputError(f"head needs at least 1 request, got {n}", value=n)
        return self.take(slice(0, n))

    @checked
    def scaled(self, *, rate: float | None = None, factor: float | None = None) -> Trace:
        """Return the same requests, faster or slower.

        Parameters
        ----------
        rate : float, optional
            Mean rate to reach, requests per second.
        factor : float, optional
            Multiplies the rate.

        Returns
        -------
        Trace
            Starts at time 0; order, lengths and relative gaps stay.

        Raises
        ------
        InputError
            Unless exactly one is given and positive, or if all requests come at once.

        Examples
        --------
        >>> Trace([0, 1, 2], [8, 8, 8], [4, 4, 4]).scaled(rate=4.0).arrival
        array([0.  , 0.25, 0.5 ])
        """
        if (rate is None) == (factor is None):
            raise InputError("scaled needs either rate= or factor=")
        if rate is not None and not self.span > 0:
            raise InputError("all requests come at the same time: a rate cannot be reached")
        ratio = factor if factor is not None else float(rate or 0) / self.rate
        if not 0 < ratio < float("inf"):
            asked = factor if rate is None else rate
            raise InputError(f"rate and factor must be positive and finite, got {asked}")
        return Trace(
            (self.arrival - self.arrival[0]) / ratio,
            self.prompt,
            self.output,
            self.reasoning,
            self.klass,
            self.classes,
            self.source,
            (*self.notes, f"rate scaled by {ratio:.6g}"),
            self.prefix,
        )

    def __reduce__(self) -> tuple[object, ...]:
        # Through the constructor: arrays come out of a pickle unlocked.
        return Trace, tuple(getattr(self, name) for name in self.__slots__)

    def __repr__(self) -> str:
        where = f" from {printable(self.source)}" if self.source else ""
        where += "".join(f", {note}" for note in self.notes if note.startswith("read as "))
        return (
            f"Trace({len(self)} requests{where}: {self.rate:.4g} req/s for {self.span:.4g} s, "
            f"prompt mean {self.prompt.mean():.4g}, output mean {self.output.mean():.4g} tokens)"
        )


def _tokens(name: str, value: npt.ArrayLike, n: int, least: int) -> Ints:
    raw = np.asarray(value)
    if raw.ndim == 0:
        raw = np.full(n, raw)
    if raw.shape != (n,):
        raise InputError(f"{name} needs one value for each of the {n} arrivals, got {raw.shape}")
    number = floats(name, raw)
    bad = ~np.isfinite(number) | (number < least) | (number != np.floor(number))
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise InputError(
            f"{name} of request {row} is {raw[row]}: must be a whole number of tokens >= {least}",
            row=row,
            field=name,
            value=raw[row],
        )
    if number.max() > TOKENS:
        row = int(number.argmax())
        raise InputError(
            f"{name} of request {row} is {raw[row]}: at most {TOKENS} tokens",
            row=row,
            field=name,
        )
    return np.array(raw, dtype=np.int64)


def _classes(
    klass: npt.ArrayLike | None, classes: Sequence[str] | None, n: int
) -> tuple[Ints, tuple[str, ...]]:
    raw = np.zeros(n, dtype=np.int64) if klass is None else np.asarray(klass)
    if raw.shape != (n,):
        raise InputError(f"klass needs one value for each of the {n} arrivals, got {raw.shape}")
    if classes is not None and len(set(classes)) < len(classes):
        twice = next(name for name in classes if list(classes).count(name) > 1)
        raise InputError(f"class {twice!r} is named twice", value=twice)
    if raw.dtype.kind == "S":
        raw = raw.astype(str)
    if raw.dtype.kind in "UTO" and all(isinstance(name, str) for name in raw):
        names, codes = np.unique(np.array(raw.tolist(), dtype=str), return_inverse=True)
        if classes is None:
            return codes.astype(np.int64), tuple(str(name) for name in names)
        order: Mapping[str, int] = {name: i for i, name in enumerate(classes)}
        if missing := [str(name) for name in names if str(name) not in order]:
            raise InputError(f"class {missing[0]!r} is not among the classes {tuple(classes)}")
        return np.array([order[str(x)] for x in raw], dtype=np.int64), tuple(classes)
    names_ = tuple(classes) if classes else ("all",)
    number = floats("klass", raw)
    if (bad := number[~((number >= 0) & (number < len(names_)) & (number % 1 == 0))]).size:
        raise InputError(
            f"class codes must be whole and lie in 0..{len(names_) - 1}, got {bad[0]:g}; "
            f"give the names of all classes as classes=",
            value=float(bad[0]),
        )
    return np.array(raw, dtype=np.int64), names_
