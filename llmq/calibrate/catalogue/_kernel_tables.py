r"""From kernel tables and the shape of a model to the kernels of an iteration.

A table lists measured times of one kernel: matrix products by tokens x width x depth, attention by
batch and length, all-reduce by values, experts by tokens. One iteration of a dense model is

.. math:: L\,(\text{QKV} + \text{attention} + \text{output} + \text{gate, up} + \text{down}
          + 2\,\text{all-reduce}) + \text{LM head};

with experts, a router and the fused expert kernel take the place of the feed-forward products.
Products are interpolated bilinearly in width and depth (beyond the grid in proportion; below it
the smallest product takes its place) and without smearing tile edges in tokens. A model whose KV
heads do not suffice for all GPUs keeps copies. The experts are those of a random but uneven routing
(AIConfigurator's ``power_law_1.01``). Context attention was measured without cached
tokens, so the composed prefills are first chunks; a prefill on cached tokens takes what the
whole prompt takes beyond its cached part (the triangle of the attention less a smaller one), no
less than alone. Norms, activations, embedding and sampler are not in such tables, nor is what the
engine adds on the CPU.

Reference: AIConfigurator (NVIDIA), whose tables have this form.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from llmq.calibrate._compose import Kernels, Steps, grid_time, token_time
from llmq.calibrate._geometry import Geometry
from llmq.calibrate.catalogue._plausible import check_units
from llmq.errors import FormatError, InputError

__all__ = ["MISSING", "ROUTING", "KernelTable", "as_grid", "averaged", "kernels_of"]

Ints: TypeAlias = npt.NDArray[np.int64]
Floats: TypeAlias = npt.NDArray[np.float64]

MISSING = ("norms and activations", "embedding", "sampler", "engine overhead")
ROUTING = "power_law_1.01"
_SIXTEEN_BITS = ("bfloat16", "bf16", "float16", "fp16")
_ALIKE = 2.0  # repeats of a measurement differ by a few per cent


@dataclass(frozen=True, slots=True)
class KernelTable:
    """Measured times of one kernel.

    Examples
    --------
    >>> table = KernelTable("t.csv", {"m": np.array([1, 2]), "line": np.array([2, 3])})
    >>> table.where(table.columns["m"] > 1).columns["line"]
    array([3])
    """

    path: str  # where they come from, for messages
    # one array for each column, ``"seconds"`` and ``"line"`` among them
    columns: Mapping[str, npt.NDArray[Any]]

    def where(self, rows: npt.NDArray[np.bool_]) -> KernelTable:
        """Return some of the rows."""
        return KernelTable(self.path, {name: part[rows] for name, part in self.columns.items()})

    def matching(self, **wanted: object) -> KernelTable:
        """Return the rows with some values, as far as the table has those columns."""
        rows = np.ones(len(self.columns["line"]), dtype=bool)
        for name, value in wanted.items():
            if name in self.columns:
                rows &= np.isin(self.columns[name], value)  # type: ignore[arg-type]
        return self.where(rows)


def averaged(
    keys: Ints, seconds: Floats, lines: Ints, path: object, column: str = "latency"
) -> tuple[Any, Any]:
    """Average repeated measurements, and refuse those that contradict each other.

    Examples
    --------
    >>> averaged(np.array([8, 8, 1]), np.array([1.0, 1.1, 0.5]), np.array([2, 3, 4]), "x.csv")
    (array([1, 8]), array([0.5 , 1.05]))
    """
    distinct, where, count = np.unique(keys, axis=0, return_inverse=True, return_counts=True)
    where = where.ravel()
    mean = np.bincount(where, weights=seconds) / count
    if len(distinct) < len(seconds):
        low, high = np.full(len(distinct), np.inf), np.zeros(len(distinct))
        np.minimum.at(low, where, seconds)
        np.maximum.at(high, where, seconds)
        if np.any(bad := high > _ALIKE * low):
            point = int(np.argmax(bad))
            first, last = np.flatnonzero(where == point)[[0, -1]]
            raise FormatError(
                f"the grid point {distinct[point].tolist()} is there {count[point]} times (first "
                f"in line {lines[first]}) and takes {low[point]:.3g} s to {high[point]:.3g} s: "
                "keep one measurement, or name the table it belongs to",
                path=str(path),
                line=int(lines[last]),
                column=column,
            )
    return distinct, mean


def as_grid(
    keys: Ints, seconds: Floats, path: object, axes: tuple[str, str]
) -> tuple[Floats, tuple[Ints, Ints]]:
    """Arrange times of pairs as a grid.

    Examples
    --------
    >>> pairs = np.array([[1, 5], [1, 6], [2, 5], [2, 6]])
    >>> as_grid(pairs, np.array([1.0, 2.0, 3.0, 4.0]), "x.csv", ("batch", "length"))[0]
    array([[1., 2.],
           [3., 4.]])
    """
    first, second = np.unique(keys[:, 0]), np.unique(keys[:, 1])
    for name, values in zip(axes, (first, second), strict=True):
        if len(values) < 2:
            raise FormatError(
                f"one-sided grid: {name} is {values[0]} in all usable rows, so nothing can be "
                f"interpolated along it; measure a second {name}",
                path=str(path),
                column=name,
            )
    grid = np.full((len(first), len(second)), np.nan)
    grid[np.searchsorted(first, keys[:, 0]), np.searchsorted(second, keys[:, 1])] = seconds
    return grid, (first, second)


def kernels_of(
    table: Callable[[str], KernelTable], shape: Geometry, tp: int, all_reduce: str = "graph"
) -> Kernels:
    """Compose the kernels of a model."""
    kv_heads = shape.kv_heads_of(tp)
    source = table("gemm").matching(gemm_dtype=_SIXTEEN_BITS)
    gemm = _gemm(source)
    width = shape.heads * shape.head_dim // tp
    products = [
        (width + 2 * kv_heads * shape.head_dim, shape.hidden),
        (shape.hidden, width),
    ]
    if shape.experts:
        products += [(shape.experts, shape.hidden)]
    else:
        products += [(2 * shape.ffn // tp, shape.hidden), (shape.hidden, shape.ffn // tp)]
    tokens, layer = _sum_products(gemm, tuple(products), source.path)
    if shape.experts:
        counts, times = _experts(table("moe"), shape, tp)
        tokens, layer = _add(tokens, layer, counts, times)
    dense = shape.layers * layer
    if tp > 1:
        sizes, times = _all_reduce(table("custom_allreduce"), tp, all_reduce)
        # The size of a message is its number of values, not of bytes: docs/decisions/0020.
        dense = dense + 2 * shape.layers * np.interp(tokens * shape.hidden, sizes, times)
    rows, head = _sum_products(gemm, ((shape.vocabulary // tp, shape.hidden),), source.path)
    return Kernels(
        dense=lambda n: token_time(n, tokens, dense),
        head=lambda r: token_time(r, rows, head),
        attention=_attention(table, shape, tp),
    )


def _gemm(table: KernelTable) -> dict[tuple[int, int], tuple[Ints, Floats]]:
    part = table.columns
    if not len(part["line"]):
        raise FormatError("no 16-bit matrix products", path=table.path, column="gemm_dtype")
    keys = np.column_stack([part["n"], part["k"], part["m"]])
    check_units(keys[:, :2], part["m"], part["seconds"], part["line"], table.path)
    distinct, seconds = averaged(keys, part["seconds"], part["line"], table.path)
    starts = np.flatnonzero(np.any(np.diff(distinct[:, :2], axis=0), axis=1)) + 1
    pieces = zip(np.split(distinct, starts), np.split(seconds, starts), strict=True)
    return {(int(k[0, 0]), int(k[0, 1])): (k[:, 2], t) for k, t in pieces}


def _sum_products(
    gemm: dict[tuple[int, int], tuple[Ints, Floats]],
    products: tuple[tuple[int, int], ...],
    path: str,
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
    if len(tokens) < 2:
        raise FormatError(
            f"one-sided grid: products were measured at {tokens.tolist()} tokens only",
            path=path,
            column="m",
        )
    time = np.zeros(len(tokens))
    for ns, ks in corners:
        for n, a in ns:
            for k, b in ks:
                time += a * b * np.interp(tokens, *gemm[n, k])
    return tokens, time


def _neighbours(grid: Ints, value: int) -> tuple[tuple[int, float], ...]:
    """Grid points around a matrix dimension with their weights."""
    if value > grid[-1]:
        return ((int(grid[-1]), value / int(grid[-1])),)
    right = int(np.searchsorted(grid, value))
    if grid[right] == value or right == 0:
        return ((int(grid[right]), 1.0),)
    low, high = int(grid[right - 1]), int(grid[right])
    share = (value - low) / (high - low)
    return ((low, 1 - share), (high, share))


def _add(tokens: Ints, first: Floats, counts: Ints, second: Floats) -> tuple[Ints, Floats]:
    """Add two times over token counts on the points of both, as far as both go."""
    both = np.union1d(tokens, counts)
    both = both[both <= min(tokens[-1], counts[-1])]
    return both, token_time(both, tokens, first) + token_time(both, counts, second)


def _experts(table: KernelTable, shape: Geometry, tp: int) -> tuple[Ints, Floats]:
    # Expert weights are cut like the others (tensor parallelism), none is moved as a whole.
    rows = table.matching(
        moe_dtype=_SIXTEEN_BITS,
        hidden_size=shape.hidden,
        inter_size=shape.ffn,
        topk=shape.active,
        num_experts=shape.experts,
        moe_ep_size=1,
    )
    known = np.unique(rows.columns["moe_tp_size"])
    rows = rows.matching(moe_tp_size=tp, distribution=ROUTING)
    if not len(rows.columns["line"]):
        found = f"measured on {', '.join(map(str, known))} GPUs" if len(known) else "not measured"
        raise InputError(
            f"{table.path}: experts of {shape.name} on {tp} GPUs in 16 bits: {found}", value=tp
        )
    part = rows.columns
    alone = np.zeros(len(part["line"]), dtype=np.int64)
    check_units(alone, part["num_tokens"], part["seconds"], part["line"], table.path)
    # Where several kernels were measured, the engine takes the faster one.
    counts, where = np.unique(part["num_tokens"], return_inverse=True)
    seconds = np.full(len(counts), np.inf)
    np.minimum.at(seconds, where, part["seconds"])
    if len(counts) < 2:
        raise FormatError(
            f"one-sided grid: experts were measured at {counts.tolist()} tokens only",
            path=table.path,
            column="num_tokens",
        )
    return counts, seconds


def _all_reduce(table: KernelTable, tp: int, backend: str) -> tuple[Ints, Floats]:
    launched = table.matching(backend=f"vllm_{backend}")
    rows = launched.matching(num_gpus=tp).columns
    if not len(rows["line"]):
        known = ", ".join(str(g) for g in np.unique(launched.columns["num_gpus"])) or "none"
        raise InputError(
            f"{table.path}: no {backend} all-reduce of {tp} GPUs (measured: {known})", value=tp
        )
    size, alone = rows["message_size"], np.zeros(len(rows["line"]), dtype=np.int64)
    check_units(alone, size, rows["seconds"], rows["line"], table.path)
    sizes, seconds = averaged(rows["message_size"], rows["seconds"], rows["line"], table.path)
    return sizes, seconds


def _attention(
    table: Callable[[str], KernelTable], shape: Geometry, tp: int
) -> Callable[[Steps], Floats]:
    decode, decode_axes = _attention_grid(table("generation_attention"), shape, tp)
    prefill, prefill_axes = _attention_grid(table("context_attention"), shape, tp)
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
    table: KernelTable, shape: Geometry, tp: int
) -> tuple[Floats, tuple[Ints, Ints]]:
    heads, kv_heads = shape.heads // tp, shape.kv_heads_of(tp)
    rows = table.matching(
        attn_dtype=_SIXTEEN_BITS,
        kv_cache_dtype=_SIXTEEN_BITS,
        head_dim=shape.head_dim,
        window_size=0,
        num_heads=heads,
        num_key_value_heads=kv_heads,
    )
    part = rows.columns
    if not len(part["line"]):
        raise InputError(
            f"{table.path}: no attention with {heads} query and {kv_heads} key-value heads for "
            "each GPU"
        )
    keys = np.column_stack([part["batch_size"], part["isl"] + part["step"]])
    check_units(keys[:, 0], keys[:, 1], part["seconds"], part["line"], table.path)
    keys, seconds = averaged(keys, part["seconds"] * shape.layers, part["line"], table.path)
    return as_grid(keys, seconds, table.path, ("batch_size", "isl + step"))
