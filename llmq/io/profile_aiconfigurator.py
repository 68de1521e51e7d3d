"""AIConfigurator's kernel tables: GEMM, context and generation attention, all-reduce.

``latency`` is in milliseconds for one kernel call. A matrix product is looked up by its shape
(tokens x width x depth), bilinearly in width and depth and without smearing tile edges in tokens.
Context attention was measured without cached tokens, so the composed prefills are first chunks.
Norms, activations and the embedding are not in the tables.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from llmq.calibrate.compose import Kernels, Steps, compose, grid_time, token_time
from llmq.calibrate.geometry import Geometry
from llmq.calibrate.profile import Profile
from llmq.errors import FormatError, InputError
from llmq.io.profile_table import averaged, find_file, read_columns
from llmq.rng import RngLike
from llmq.units import MILLISECOND

__all__ = ["aiconfigurator_kernels", "read_aiconfigurator"]

Ints: TypeAlias = npt.NDArray[np.int64]
Floats: TypeAlias = npt.NDArray[np.float64]

_BYTES = 2
_WHAT = "Is this an AIConfigurator table?"


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
    """Compose whole iterations of a model from AIConfigurator tables.

    Parameters
    ----------
    folder : Path
        Folder with the tables of one GPU type.
    shape : Geometry
        The model.
    tp : int
        GPUs that share it.
    all_reduce : {"eager", "graph"}
        Which measurement of the custom all-reduce.
    steps : int
        Random iterations to compose.
    rng : Generator, SeedSequence, int or None
        Randomness of these.
    **facts
        Further fields of the profile.

    Returns
    -------
    Profile
        Whole iterations.

    Raises
    ------
    FormatError
        A table is malformed.
    InputError
        The tables do not hold this shape.
    """
    kernels = aiconfigurator_kernels(folder, shape=shape, tp=tp, all_reduce=all_reduce)
    return compose(
        kernels, steps=steps, rng=rng, cached=False, format="aiconfigurator", tp=tp,
        units=f"milliseconds of one kernel call, {shape.layers} layers",
        missing=("norms and activations", "embedding", "sampler"), **facts,
    )  # fmt: skip


def aiconfigurator_kernels(folder: Path, *, shape: Geometry, tp: int, all_reduce: str) -> Kernels:
    """Read AIConfigurator tables as functions.

    A prefill on cached tokens, which was not measured, takes what the whole prompt takes beyond its
    cached part (the triangle of the attention less a smaller triangle), and no less than alone.

    Parameters
    ----------
    folder : Path
        Folder with the tables of one GPU type.
    shape : Geometry
        The model.
    tp : int
        GPUs that share it.
    all_reduce : {"eager", "graph"}
        Which measurement of the custom all-reduce.

    Returns
    -------
    Kernels
        Kernel times.

    Raises
    ------
    FormatError
        A table is malformed.
    InputError
        The tables do not hold this shape.
    """
    if shape.kv_heads % tp or shape.ffn % tp:
        raise InputError(f"{shape.name} cannot be shared by {tp} GPUs", value=tp)
    path = find_file(folder, "gemm")
    gemm = _gemm(path)
    heads = shape.heads * shape.head_dim // tp
    products = (
        (shape.qkv_width // tp, shape.hidden),
        (shape.hidden, heads),
        (2 * shape.ffn // tp, shape.hidden),
        (shape.hidden, shape.ffn // tp),
    )
    tokens, layer = _sum_products(gemm, products, path)
    dense = shape.layers * layer
    if tp > 1:
        sizes, times = _all_reduce(find_file(folder, "custom_allreduce"), tp, all_reduce)
        message = tokens * shape.hidden * _BYTES
        dense = dense + 2 * shape.layers * np.interp(message, sizes, times)
    rows, head = _sum_products(gemm, ((shape.vocabulary // tp, shape.hidden),), path)
    return Kernels(
        dense=lambda n: token_time(n, tokens, dense),
        head=lambda r: token_time(r, rows, head),
        attention=_attention(folder, shape, tp),
    )


def _gemm(path: Path) -> dict[tuple[int, int], tuple[Ints, Floats]]:
    kinds = dict.fromkeys(("m", "n", "k"), "count") | {"latency": "time"}
    table = read_columns(path, kinds, _WHAT)
    keys = np.column_stack([table["n"], table["k"], table["m"]])
    distinct, seconds = averaged(keys, table["latency"] * MILLISECOND)
    starts = np.flatnonzero(np.any(np.diff(distinct[:, :2], axis=0), axis=1)) + 1
    pieces = zip(np.split(distinct, starts), np.split(seconds, starts), strict=True)
    return {(int(k[0, 0]), int(k[0, 1])): (k[:, 2], t) for k, t in pieces}


def _sum_products(
    gemm: dict[tuple[int, int], tuple[Ints, Floats]],
    products: tuple[tuple[int, int], ...],
    path: Path,
) -> tuple[Ints, Floats]:
    widths = np.array(sorted({n for n, _ in gemm}))
    depths = np.array(sorted({k for _, k in gemm}))
    corners = [(_neighbours(widths, n), _neighbours(depths, k)) for n, k in products]
    used = {(n, k) for ns, ks in corners for n, _ in ns for k, _ in ks}
    if absent := sorted(used - set(gemm)):
        raise FormatError(f"no product of width and depth {absent[0]}", path=path, column="n")
    last = min(int(gemm[key][0][-1]) for key in used)
    tokens = np.unique(np.concatenate([gemm[key][0] for key in used]))
    tokens = tokens[tokens <= last]
    time = np.zeros(len(tokens))
    for ns, ks in corners:
        for n, a in ns:
            for k, b in ks:
                time += a * b * np.interp(tokens, *gemm[n, k])
    return tokens, time


def _neighbours(grid: Ints, value: int) -> tuple[tuple[int, float], ...]:
    """Grid points around a matrix dimension with their weights; beyond the grid, in proportion."""
    if value > grid[-1]:
        return ((int(grid[-1]), value / int(grid[-1])),)
    right = int(np.searchsorted(grid, value))
    if grid[right] == value or right == 0:
        return ((int(grid[right]), value / int(grid[right])),)
    low, high = int(grid[right - 1]), int(grid[right])
    share = (value - low) / (high - low)
    return ((low, 1 - share), (high, share))


def _all_reduce(path: Path, tp: int, backend: str) -> tuple[Ints, Floats]:
    kinds = {"num_gpus": "count", "message_size": "count", "latency": "time", "backend": "text"}
    table = read_columns(path, kinds, _WHAT)
    rows = (table["num_gpus"] == tp) & (table["backend"] == f"vllm_{backend}")
    if not rows.any():
        raise InputError(f"{path}: no {backend} all-reduce of {tp} GPUs", value=tp)
    sizes, seconds = averaged(table["message_size"][rows], table["latency"][rows] * MILLISECOND)
    return sizes, seconds


def _attention(folder: Path, shape: Geometry, tp: int) -> Callable[[Steps], Floats]:
    heads, kv_heads = shape.heads // tp, shape.kv_heads // tp
    decode, decode_axes = _attention_grid(
        find_file(folder, "generation_attention"), heads, kv_heads, shape.layers
    )
    prefill, prefill_axes = _attention_grid(
        find_file(folder, "context_attention"), heads, kv_heads, shape.layers
    )
    alone, lengths = prefill[0], (prefill_axes[1],)

    def attention(steps: Steps) -> Floats:
        d, p = steps.decodes, steps.chunk
        decode_time = grid_time(decode, decode_axes, np.maximum(d, 1), steps.context)
        prefill_time = grid_time(alone, lengths, p)
        if np.any(steps.cached):
            whole = grid_time(alone, lengths, steps.cached + p)
            prefill_time = np.maximum(prefill_time, whole - grid_time(alone, lengths, steps.cached))
        return np.where(d > 0, decode_time, 0.0) + np.where(p > 0, prefill_time, 0.0)

    return attention


def _attention_grid(
    path: Path, heads: int, kv_heads: int, layers: int
) -> tuple[Floats, tuple[Ints, Ints]]:
    names = ("batch_size", "isl", "step", "num_heads", "num_key_value_heads")
    table = read_columns(path, dict.fromkeys(names, "count") | {"latency": "time"}, _WHAT)
    rows = (table["num_heads"] == heads) & (table["num_key_value_heads"] == kv_heads)
    if not rows.any():
        raise InputError(
            f"{path}: no attention with {heads} query and {kv_heads} key-value heads for each GPU"
        )
    keys = np.column_stack([table["batch_size"], table["isl"] + table["step"]])[rows]
    keys, seconds = averaged(keys, table["latency"][rows] * MILLISECOND * layers)
    batch, length = np.unique(keys[:, 0]), np.unique(keys[:, 1])
    values = np.full((len(batch), len(length)), np.nan)
    values[np.searchsorted(batch, keys[:, 0]), np.searchsorted(length, keys[:, 1])] = seconds
    return values, (batch, length)
