r"""LLMServingSim's ``skew.csv``: decode attention when contexts differ inside a batch.

``n`` decodes were timed with ``kvs`` tokens of context each except for ``nb`` with ``kv_big``
(``t_skew_us``), and with equal contexts at the mean and at the largest one (``t_mean_us``,
``t_max_us``); microseconds, one layer. What counts is the share of the way from mean to largest,

.. math:: \alpha = \sum (t_{skew} - t_{mean})(t_{max} - t_{mean}) / \sum (t_{max} - t_{mean})^2,

by least squares over the rows of a bucket: prefill tokens, decodes and largest context rounded to
the measured powers of two, and the place of the mean between shortest and longest context in five
classes (the profile's own). An empty bucket takes the value of all its decodes and prefill tokens,
then of its kind (with or without prefill). Not covered: contexts with more than two values, taken
as if they had two.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from llmq.io.profiles._table import read_columns

__all__ = ["read_spread"]

Key: TypeAlias = tuple[int, ...]
PLACES = (0.05, 0.15, 0.4, 0.7)


def read_spread(path: Path) -> Callable[[int, int, float, float, float], float]:
    """Read the skew table as a function."""
    counts = ("n", "pc", "kvs", "kv_big", "kv_mean")
    times = ("t_mean_us", "t_max_us", "t_skew_us")
    kinds = dict.fromkeys(counts, "count") | dict.fromkeys(times, "time")
    table = read_columns(path, kinds, "Is this LLMServingSim's skew.csv?")
    way = table["t_max_us"] - table["t_mean_us"]
    part = (table["t_skew_us"] - table["t_mean_us"]) * way
    grids = {name: np.unique(table[name]) for name in ("pc", "n", "kv_big")}
    sums: dict[Key, list[float]] = defaultdict(lambda: [0.0, 0.0])
    columns = zip(*(table[name].tolist() for name in counts), strict=True)
    for (n, pc, low, high, mean), x, y in zip(columns, part.tolist(), way.tolist(), strict=True):
        for key in _keys(grids, pc, n, low, mean, high):
            sums[key][0] += x
            sums[key][1] += y * y
    known = {key: max(0.0, x / y) for key, (x, y) in sums.items() if y > 0}

    def spread(chunk: int, decodes: int, short: float, mean: float, longest: float) -> float:
        if not longest > short:
            return 0.0
        keys = _keys(grids, chunk, decodes, short, mean, longest)
        return next((known[key] for key in keys if key in known), 0.0)

    return spread


def _keys(
    grids: dict[str, npt.NDArray[np.int64]],
    chunk: float,
    decodes: float,
    short: float,
    mean: float,
    longest: float,
) -> Iterator[Key]:
    """Buckets of a batch, the finest first."""
    pc, n, big = (
        _nearest(grids[name], value)
        for name, value in (("pc", chunk), ("n", decodes), ("kv_big", longest))
    )
    place = int(np.searchsorted(PLACES, (mean - short) / max(longest - short, 1)))
    yield pc, n, big, place
    yield pc, n
    yield (int(pc > 0),)


def _nearest(grid: npt.NDArray[np.int64], value: float) -> int:
    """Nearest grid value by ratio; 0 is only near itself."""
    some = grid[grid > 0]
    if value <= 0 or not some.size:
        return 0
    return int(some[np.argmin(np.abs(np.log2(some) - math.log2(value)))])
