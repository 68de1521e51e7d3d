"""AIConfigurator's kernel tables in a folder: GEMM, attention, all-reduce, experts.

``latency`` is in milliseconds for one kernel call; the tables are ``.csv``, ``.csv.gz`` or
``.parquet``, all in one folder. How they make an iteration is told in
:mod:`llmq.calibrate.catalogue._kernel_tables`; the package with all GPU types is read by
:mod:`llmq.calibrate.catalogue._package`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from llmq.calibrate._compose import Kernels, compose
from llmq.calibrate._geometry import Geometry
from llmq.calibrate.catalogue._kernel_tables import MISSING, KernelTable, kernels_of
from llmq.calibrate.catalogue._package import package_profile
from llmq.calibrate.catalogue._parquet import read_parquet
from llmq.calibrate.profile import Profile
from llmq.errors import FormatError, InputError
from llmq.io.profiles._format import Asked, ProfileFormat, bounded
from llmq.io.profiles._table import find_file, header, read_columns
from llmq.rng import RngLike
from llmq.units import MILLISECOND

__all__ = ["FORMAT", "aiconfigurator_kernels", "read_aiconfigurator"]

_WHAT = "Is this an AIConfigurator table?"
_ATTENTION = ("batch_size", "isl", "step", "num_heads", "num_key_value_heads")
_COUNTS = {
    "gemm": ("m", "n", "k"),
    "context_attention": _ATTENTION,
    "generation_attention": _ATTENTION,
    "custom_allreduce": ("num_gpus", "message_size"),
    "moe": (
        "num_tokens",
        "hidden_size",
        "inter_size",
        "topk",
        "num_experts",
        "moe_tp_size",
        "moe_ep_size",
    ),
}
_WORDS = {"custom_allreduce": ("backend",), "moe": ("distribution",)}
# Columns that only some releases have; all rows of a table without them are meant.
_SOMETIMES = {
    "gemm_dtype": "text",
    "attn_dtype": "text",
    "kv_cache_dtype": "text",
    "moe_dtype": "text",
    "head_dim": "count",
    "window_size": "count",
}


def read_aiconfigurator(
    folder: Path,
    *,
    shape: Geometry,
    tp: int,
    all_reduce: str,
    steps: int,
    rng: RngLike,
    **facts: Any,
) -> Profile:
    """Compose whole iterations of a model from AIConfigurator tables."""
    kernels = aiconfigurator_kernels(folder, shape=shape, tp=tp, all_reduce=all_reduce)
    return compose(
        kernels,
        steps=steps,
        rng=rng,
        cached=False,
        format="aiconfigurator",
        tp=tp,
        units=f"milliseconds of one kernel call, {shape.layers} layers",
        missing=MISSING,
        **facts,
    )


def aiconfigurator_kernels(folder: Path, *, shape: Geometry, tp: int, all_reduce: str) -> Kernels:
    """Read AIConfigurator tables as functions."""
    # A prefill on cached tokens, which was not measured, takes what the whole prompt takes
    # beyond its cached part (the triangle of the attention less a smaller triangle), and no
    # less than alone.
    return kernels_of(lambda op: _table(folder, op), shape, tp, all_reduce)


def _table(folder: Path, op: str) -> KernelTable:
    path = find_file(folder, op)
    if path.suffix == ".parquet":
        table = read_parquet(path)
        if absent := sorted({*_COUNTS[op], *_WORDS.get(op, ())} - set(table.columns)):
            raise FormatError(f"no such column. {_WHAT}", path=path, column=absent[0])
        return table
    names = header(path)
    kinds = dict.fromkeys(_COUNTS[op], "count") | dict.fromkeys(_WORDS.get(op, ()), "text")
    kinds |= {name: kind for name, kind in _SOMETIMES.items() if name in names}
    columns: dict[str, Any] = read_columns(path, kinds | {"latency": "time"}, _WHAT)
    seconds = columns.pop("latency") * MILLISECOND
    if np.any(zero := seconds == 0.0):
        raise FormatError(
            "expected a finite time > 0, found 0: remove the row",
            path=path,
            line=int(columns["line"][np.argmax(zero)]),
            column="latency",
        )
    return KernelTable(str(path), columns | {"seconds": seconds})


def _is_package(folder: Path) -> bool:
    """Whether it is a GPU type in the layout of aiconfigurator-core."""
    return (folder / "gemm" / "vllm").is_dir()


def _read(file: Path, asked: Asked) -> Profile:
    shape = asked.shape
    if shape is None:
        raise InputError("this profile holds kernels of any model: say model=, e.g. Llama-3.1-8B")
    drawn: dict[str, Any] = {"tp": asked.tp, "steps": asked.steps, "rng": asked.rng}
    if _is_package(file) or not file.exists():
        # A GPU type that is not there: the reader of the package names those that are. Its rows
        # are compared with the hardware where their lines are known.
        return package_profile(
            shape, file.name, folder=file.parent, all_reduce=asked.all_reduce, **drawn
        )
    profile = read_aiconfigurator(
        file.parent,
        shape=shape,
        all_reduce=asked.all_reduce,
        source=asked.source,
        gpu=asked.gpu or file.parent.name,
        model=shape.name,
        **drawn,
    )
    return bounded(profile, shape, file)


FORMAT = ProfileFormat(
    name="aiconfigurator",
    known_by="gemm*.csv or .parquet (m, n, k, latency), the package",
    number="ms, one kernel call",
    columns=lambda names: bool({"gemm_dtype", "latency"} & set(names)),
    read=_read,
    tables=("gemm",),
    folder=_is_package,
    suffixes=(".parquet",),
)
