"""Columns of a CSV file with checks that name file, line, column, value and remedy.

A cell is a ``count`` (whole number >= 0), a ``time`` (finite number
>= 0), a ``time?`` (may be blank: NaN) or a ``text``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from llmq._input.cells import Cells, position, split_csv, transposed
from llmq._input.files import read_text
from llmq.errors import FormatError, nearest

__all__ = ["Columns", "find_file", "header", "read_columns"]

Columns: TypeAlias = dict[str, npt.NDArray[Any]]

_KINDS: dict[str, Callable[[Cells], npt.NDArray[Any]]] = {
    "count": Cells.counts,
    "time": Cells.times,
    "time?": partial(Cells.times, or_blank=True),
    "text": lambda cells: np.array(cells.values),
}


def find_file(folder: Path, stem: str) -> Path:
    """Find a table by the start of its name: CSV, compressed CSV or parquet."""
    found = sorted(p for p in folder.glob(f"{stem}*") if _is_table(p))
    if len(found) == 1:
        return found[0]
    names = ", ".join(p.name for p in found) or "none"
    raise FormatError(
        f"expected one table {stem}*.csv, .csv.gz or .parquet, found {names}", path=folder
    )


def _is_table(path: Path) -> bool:
    return path.suffix in (".csv", ".parquet") or path.suffixes[-2:] == [".csv", ".gz"]


def header(path: Path) -> list[str]:
    """Read the column names."""
    return split_csv(read_text(path).split("\n", 1)[0], str(path))[0]


def read_columns(path: Path, kinds: Mapping[str, str], remedy: str) -> Columns:
    """Read some columns of a CSV file."""
    names, rows, lines = split_csv(read_text(path), str(path))
    for name in kinds:
        if name not in names:
            hint = nearest(name, [n for n in names if n])
            end = "" if hint.endswith("?") else "."
            raise FormatError(f"no such column{hint}{end} {remedy}", path=path, line=1, column=name)
    places = {name: position(name, names, str(path)) for name in kinds}
    if not rows:
        raise FormatError(f"a header but no rows. {remedy}", path=path, line=1)
    table: Columns = {"line": np.array(lines, dtype=np.int64)}
    columns = transposed(names, rows, lines, str(path))
    for name, kind in kinds.items():
        table[name] = _KINDS[kind](Cells(str(path), name, columns[places[name]], lines))
    return table
