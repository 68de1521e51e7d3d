"""Tables: what experiments compute and figures draw.

A :class:`Table` holds columns of equal length in the long format (one observation a row), a unit
for each, and what is needed to make it again. Its file is CSV: ``# key: value`` lines, a heading
of ``name [unit]``, then the rows. Numbers are kept to six significant digits, in memory too, so
that a table read back is the table that was written, and files are small and stable. Columns of
text have the unit ``text``.

Not covered: columns of mixed kinds, dates, and cells that are missing in a column of whole
numbers (it becomes one of floats, with NaN).
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from llmq._input.files import PathLike, read_text, write_text
from llmq.errors import FormatError, InputError, nearest

__all__ = ["TABLES", "Table", "read_table", "write_table"]

TABLES = Path(__file__).parent / "tables"
TEXT = "text"
_DIGITS = 6


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """Columns of equal length, with units and origin.

    Parameters
    ----------
    name : str
        Of the experiment that made it.
    columns : mapping of str to sequence
        Numbers or texts; truth values become 0 and 1.
    units : mapping of str to str
        Of the columns of numbers; a column without one is a pure number, ``"1"``.
    about : mapping of str to str
        Source, seed and settings.

    Raises
    ------
    InputError
        Columns differ in length, mix numbers and texts, or a unit names no column.

    Examples
    --------
    >>> table = Table("waits", {"policy": ["a", "b"], "wait": [1.5, 2.25]}, {"wait": "s"})
    >>> table["wait"]
    array([1.5 , 2.25])
    >>> table.where(policy="b")["wait"].tolist()
    [2.25]
    """

    name: str
    columns: Mapping[str, npt.NDArray[Any]]
    units: Mapping[str, str] = field(default_factory=dict)
    about: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        made = {key: _column(key, values) for key, values in self.columns.items()}
        if len({len(column) for column in made.values()}) > 1:
            lengths = ", ".join(f"{key} {len(column)}" for key, column in made.items())
            raise InputError(f"columns of table {self.name} differ in length: {lengths}")
        for key in self.units:
            if key not in made:
                raise InputError(
                    f"table {self.name} has a unit for {key!r}, which is no column"
                    f"{nearest(key, made)}"
                )
        units = {
            k: TEXT if c.dtype.kind == "U" else self.units.get(k, "1") for k, c in made.items()
        }
        about = {str(key): " ".join(str(value).split()) for key, value in self.about.items()}
        for name, value in (("columns", made), ("units", units), ("about", about)):
            object.__setattr__(self, name, MappingProxyType(value))

    @classmethod
    def of(
        cls,
        name: str,
        rows: Sequence[Mapping[str, object]],
        *,
        units: Mapping[str, str] | None = None,
        about: Mapping[str, str] | None = None,
    ) -> Table:
        """Make a table from rows.

        Parameters
        ----------
        name : str
            Of the experiment.
        rows : sequence of mapping
            Column to value; a row may leave out columns (NaN, or an empty text).
        units : mapping of str to str, optional
            Of the columns of numbers.
        about : mapping of str to str, optional
            Source and settings.

        Returns
        -------
        Table
            Columns in the order in which rows first name them.

        Examples
        --------
        >>> Table.of("t", [{"n": 1, "kind": "theory"}, {"n": 2}])["kind"].tolist()
        ['theory', '']
        """
        keys = dict.fromkeys(key for row in rows for key in row)
        columns = {}
        for key in keys:
            text = any(isinstance(row.get(key), str) for row in rows)
            columns[key] = [row.get(key, "" if text else math.nan) for row in rows]
        return cls(name, columns, units or {}, about or {})  # type: ignore[arg-type]

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))

    def __getitem__(self, key: str) -> npt.NDArray[Any]:
        if key not in self.columns:
            raise InputError(f"table {self.name} has no column {key!r}{nearest(key, self.columns)}")
        return self.columns[key]

    def where(self, **conditions: object) -> Table:
        """Keep the rows in which columns have these values.

        Parameters
        ----------
        **conditions
            Column to value, or to a list, tuple or set of values. Numbers agree when they do to
            six digits.

        Returns
        -------
        Table
            May be empty.
        """
        keep = np.ones(len(self), dtype=bool)
        for key, value in conditions.items():
            many = list(value) if isinstance(value, list | tuple | set | frozenset) else [value]
            keep &= np.any([_equal(self[key], one) for one in many] or [keep & False], axis=0)
        columns = {key: column[keep] for key, column in self.columns.items()}
        units = {key: unit for key, unit in self.units.items() if unit != TEXT}
        return Table(self.name, columns, units, self.about)

    def rows(self) -> Iterator[dict[str, Any]]:
        """Walk over the rows.

        Yields
        ------
        dict
            Column to Python value.
        """
        columns = [column.tolist() for column in self.columns.values()]
        for values in zip(*columns, strict=True):
            yield dict(zip(self.columns, values, strict=True))

    def with_about(self, **facts: object) -> Table:
        """Add facts about the origin.

        Parameters
        ----------
        **facts
            Replace those of the same name; underscores become spaces.

        Returns
        -------
        Table
            Same columns.
        """
        more = {key.replace("_", " "): str(value) for key, value in facts.items()}
        units = {key: unit for key, unit in self.units.items() if unit != TEXT}
        return Table(self.name, self.columns, units, {**self.about, **more})


def _column(key: str, values: Sequence[Any] | npt.NDArray[Any]) -> npt.NDArray[Any]:
    if not key.isidentifier():
        raise InputError(f"a column is named like a variable, got {key!r}", value=key)
    many = values.tolist() if isinstance(values, np.ndarray) else list(values)
    texts = sum(isinstance(value, str) for value in many)
    if texts and texts < len(many):
        raise InputError(f"column {key} mixes texts and numbers")
    made = np.array(many, dtype=np.str_ if texts else None)
    if not texts:
        if made.dtype.kind not in "bif" or made.ndim != 1:
            raise InputError(f"column {key} must hold numbers or texts, one a row")
        whole = made.dtype.kind in "bi" and len(many)
        made = (
            made.astype(np.int64) if whole else np.array([_rounded(v) for v in many], dtype=float)
        )
    made.setflags(write=False)
    return made


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")


def _equal(column: npt.NDArray[Any], value: object) -> npt.NDArray[np.bool_]:
    if isinstance(value, str) or column.dtype.kind == "U":
        return np.asarray(column == value, dtype=bool) & (column.dtype.kind == "U")
    return np.isclose(column.astype(float), float(value), rtol=2e-6, atol=0.0, equal_nan=True)  # type: ignore[arg-type]


def write_table(table: Table, path: PathLike) -> None:
    """Write a table as CSV.

    Parameters
    ----------
    table : Table
        What was computed.
    path : str or path
        Usually ``experiments/tables/<name>.csv``.
    """
    text = io.StringIO()
    text.write(f"# table: {table.name}\n")
    text.writelines(f"# {key}: {value}\n" for key, value in table.about.items())
    out = csv.writer(text, lineterminator="\n")
    out.writerow(f"{key} [{unit}]" for key, unit in table.units.items())
    out.writerows([_written(value) for value in row.values()] for row in table.rows())
    write_text(path, text.getvalue())


def _written(value: object) -> str:
    return f"{value:.{_DIGITS}g}" if isinstance(value, float) else str(value)


def read_table(path: PathLike) -> Table:
    """Read a table.

    Parameters
    ----------
    path : str or path
        A file of :func:`write_table`.

    Returns
    -------
    Table
        Equal to what was written.

    Raises
    ------
    FormatError
        A heading without unit, a row of another length, or a cell that is no number.
    """
    lines = read_text(path).splitlines()
    notes = [line for line in lines if line.startswith("#")]
    about = dict(_note(line) for line in notes)
    name = about.pop("table", Path(path).stem)
    body = list(csv.reader(lines[len(notes) :]))
    if not body:
        raise FormatError("no heading: expected columns such as 'load [1]'", path=path)
    units = dict(_heading(cell, path, len(notes) + 1) for cell in body[0])
    for number, row in enumerate(body[1:], len(notes) + 2):
        if len(row) != len(units):
            raise FormatError(f"{len(row)} cells for {len(units)} columns", path=path, line=number)
    cells = list(zip(*body[1:], strict=True)) or [()] * len(units)
    columns = {
        key: _parsed(values, unit, path, key, len(notes) + 2)
        for (key, unit), values in zip(units.items(), cells, strict=True)
    }
    return Table(name, columns, {k: u for k, u in units.items() if u != TEXT}, about)


def _note(line: str) -> tuple[str, str]:
    key, _, value = line.lstrip("# ").partition(": ")
    return key, value


def _heading(cell: str, path: PathLike, line: int) -> tuple[str, str]:
    key, gap, rest = cell.partition(" [")
    if not gap or not rest.endswith("]"):
        raise FormatError(f"column {cell!r} has no unit", path=path, line=line)
    return key, rest[:-1]


def _parsed(
    values: Sequence[str], unit: str, path: PathLike, key: str, first: int
) -> npt.NDArray[Any]:
    if unit == TEXT:
        return np.array(values, dtype=np.str_)
    numbers: list[float] = []
    for line, value in enumerate(values, first):
        try:
            numbers.append(int(value) if value.lstrip("-").isdigit() else float(value))
        except ValueError:
            message = f"expected a number, found {value!r}"
            raise FormatError(message, path=path, line=line, column=key) from None
    return np.array(numbers, dtype=float if not numbers else None)
