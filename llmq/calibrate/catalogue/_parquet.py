"""Kernel tables in parquet files: the 16-bit rows, checked, times in seconds.

AIConfigurator writes milliseconds of one kernel call. A file is read once, until it changes.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from llmq._input.cells import bad_cell
from llmq.calibrate.catalogue._kernel_tables import KernelTable
from llmq.errors import FormatError, MissingDependencyError
from llmq.units import MILLISECOND

__all__ = ["read_parquet"]

_COLUMNS = (
    "gemm_dtype",
    "attn_dtype",
    "kv_cache_dtype",
    "moe_dtype",
    "m",
    "n",
    "k",
    "batch_size",
    "isl",
    "step",
    "num_heads",
    "num_key_value_heads",
    "head_dim",
    "window_size",
    "num_gpus",
    "backend",
    "message_size",
    "num_tokens",
    "hidden_size",
    "inter_size",
    "topk",
    "num_experts",
    "moe_tp_size",
    "moe_ep_size",
    "distribution",
    "latency",
)
_TYPES = ("gemm_dtype", "attn_dtype", "kv_cache_dtype", "moe_dtype")
_WORDS = (*_TYPES, "backend", "distribution")


def read_parquet(path: Path) -> KernelTable:
    """Read the 16-bit rows of a kernel table."""
    try:
        about = path.stat()
    except OSError as error:
        raise FormatError(f"cannot be read: {error.strerror}", path=str(path)) from error
    return _read(path, about.st_mtime_ns, about.st_size)


@lru_cache(maxsize=10)
def _read(path: Path, _changed: int, _size: int) -> KernelTable:
    """Read a file once, until it changes."""
    try:
        import pyarrow as pa
        import pyarrow.compute as pc
        import pyarrow.parquet as pq
    except ImportError as error:
        raise MissingDependencyError(
            "parquet files need pyarrow: pip install 'llmq-toolkit[profiles]'"
        ) from error
    try:
        names = [name for name in pq.read_schema(path).names if name in _COLUMNS]
        raw = pq.read_table(path, columns=names)
    except (OSError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0]
        raise FormatError(f"not a parquet file: {reason}", path=str(path)) from error
    if "latency" not in names:
        raise FormatError("no such column", path=str(path), column="latency")
    raw = raw.append_column("line", pa.array(np.arange(1, raw.num_rows + 1)))
    for name in set(_TYPES) & set(names):
        raw = raw.filter(pc.is_in(raw[name], pa.array(["bfloat16", "float16"], raw[name].type)))
    columns = {name: _column(raw[name], name, path, raw["line"]) for name in [*names, "line"]}
    columns["seconds"] = columns.pop("latency") * MILLISECOND
    return KernelTable(str(path), columns)


def _column(raw: Any, name: str, path: Path, lines: Any) -> Any:
    if name in _WORDS:
        return np.array(raw.to_pylist(), dtype=np.str_)
    try:
        kind = np.float64 if name == "latency" else np.int64
        values = np.asarray(raw.to_numpy(), dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise FormatError(f"expected numbers: {error}", path=str(path), column=name) from error
    bad = ~(np.isfinite(values) & (values >= 0))
    if name == "latency":
        bad |= values == 0
    if kind is np.int64:
        bad |= values != np.floor(values)
    if bad.any():
        row = int(np.argmax(bad))
        what = "a finite time > 0" if name == "latency" else "a whole number >= 0"
        raise bad_cell(float(values[row]), what, str(path), int(lines[row].as_py()), name)
    return values.astype(kind)
