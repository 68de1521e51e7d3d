"""Vidur's profiles: ``mlp.csv``, ``attention.csv`` and the network's ``all_reduce.csv``.

``time_stats.<op>.median`` is in milliseconds, for one layer on one GPU. A layer is the four
projections, two norms, rotary embedding, activation and one residual addition; the token embedding
runs once. Attention was measured for equal decodes (batch size x context) and for one prefill
chunk on cached tokens. All-reduce rows count only where the workers share a node
(``devices_per_node = num_workers``): the others cross nodes and are 10-25 times slower. The LM
head was not profiled.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from llmq.calibrate._compose import Kernels, Steps, compose, grid_time, token_time
from llmq.calibrate._geometry import Geometry
from llmq.calibrate.catalogue._kernel_tables import as_grid, averaged
from llmq.calibrate.catalogue._plausible import check_units
from llmq.calibrate.profile import Profile
from llmq.errors import FormatError, InputError
from llmq.io.profiles._format import Asked, ProfileFormat, bounded, layers_of
from llmq.io.profiles._table import read_columns
from llmq.rng import RngLike
from llmq.units import MILLISECOND

__all__ = ["FORMAT", "read_vidur"]

Ints: TypeAlias = npt.NDArray[np.int64]
Floats: TypeAlias = npt.NDArray[np.float64]

LAYER_OPS = (
    "input_layernorm",
    "attn_pre_proj",
    "attn_rope",
    "attn_post_proj",
    "post_attention_layernorm",
    "mlp_up_proj",
    "mlp_act",
    "mlp_down_proj",
    "add",
)
_SHAPE = {"n_head": "heads", "n_kv_head": "kv_heads", "n_embd": "hidden", "n_expanded_embd": "ffn"}
_TP = "num_tensor_parallel_workers"
_BYTES = 2


def read_vidur(
    mlp: Path,
    *,
    layers: int,
    tp: int,
    shape: Geometry | None,
    attention: Path | None,
    network: Path | None,
    steps: int,
    rng: RngLike,
    **facts: Any,
) -> Profile:
    """Read Vidur tables as a profile."""
    tokens, seconds, hidden = _dense(mlp, layers, tp, shape)
    missing, notes = ["LM head", "engine overhead"], list(facts.pop("notes", ()))
    if tp > 1 and network is None:
        missing.insert(0, "all-reduce")
    if tp > 1 and network is not None:
        sizes, times, aside = _all_reduce(network, tp)
        notes += aside
        seconds = seconds + 2 * layers * np.interp(tokens * hidden * _BYTES, sizes, times)
    units = f"milliseconds of one layer x {layers} layers, token embedding once"
    if attention is None:
        return Profile(
            tokens=tokens,
            seconds=seconds,
            scope="layers",
            format="vidur",
            units=units,
            tp=tp,
            missing=("attention", *missing),
            notes=tuple(notes),
            **facts,
        )
    kernels = Kernels(
        dense=lambda n: token_time(n, tokens, seconds),
        head=lambda rows: np.zeros(len(rows)),
        attention=_attention(attention, layers, tp, hidden),
    )
    return compose(
        kernels,
        steps=steps,
        rng=rng,
        format="vidur",
        units=units,
        tp=tp,
        missing=tuple(missing),
        notes=tuple(notes),
        **facts,
    )


def _dense(path: Path, layers: int, tp: int, shape: Geometry | None) -> tuple[Ints, Floats, int]:
    ops = [f"time_stats.{op}.median" for op in (*LAYER_OPS, "emb")]
    kinds = dict.fromkeys(ops, "time") | dict.fromkeys(["num_tokens", _TP, *_SHAPE], "count")
    table = read_columns(path, kinds, "Is this Vidur's mlp.csv?")
    if shape is not None:
        for column, name in _SHAPE.items():
            if table[column][0] != getattr(shape, name):
                raise FormatError(
                    f"this is a model with {name} = {table[column][0]}, but {shape.name} has "
                    f"{getattr(shape, name)}: name the model that was profiled",
                    path=path,
                    line=int(table["line"][0]),
                    column=column,
                )
    rows = _rows_of(table, tp, path)
    for op in ops:
        check_units(
            table["num_tokens"][rows] * 0,
            table["num_tokens"][rows],
            table[op][rows],
            table["line"][rows],
            path,
            op,
        )
    time = layers * sum(table[op][rows] for op in ops[:-1]) + table[ops[-1]][rows]
    tokens, seconds = averaged(
        table["num_tokens"][rows], time * MILLISECOND, table["line"][rows], path, ops[0]
    )
    return tokens, seconds, int(table["n_embd"][0])


def _rows_of(table: dict[str, npt.NDArray[Any]], tp: int, path: Path) -> npt.NDArray[np.bool_]:
    rows = np.asarray(table[_TP] == tp)
    if not rows.any():
        known = ", ".join(str(k) for k in np.unique(table[_TP]))
        raise InputError(f"{path}: no rows for tp={tp}; profiled: {known}", value=tp)
    return rows


def _all_reduce(path: Path, tp: int) -> tuple[Ints, Floats, tuple[str, ...]]:
    time = "time_stats.all_reduce.median"
    kinds = {time: "time", "num_workers": "count", "devices_per_node": "count", "size": "count"}
    table = read_columns(path, kinds, "Is this Vidur's all_reduce.csv?")
    rows = (table["num_workers"] == tp) & (table["devices_per_node"] == tp)
    if not rows.any():
        raise InputError(f"{path}: no rows for {tp} workers on one node", value=tp)
    sizes, seconds = averaged(
        table["size"][rows], table[time][rows] * MILLISECOND, table["line"][rows], path, time
    )
    return sizes, seconds, _set_aside(table, tp, path)


def _set_aside(table: dict[str, npt.NDArray[Any]], tp: int, path: Path) -> tuple[str, ...]:
    """Say which rows do not count, and why."""
    across = (table["num_workers"] == tp) & (table["devices_per_node"] < tp)
    if not across.any():
        return ()
    line = int(table["line"][np.argmax(across)])
    return (
        f"set aside: {across.sum()} rows of {path.name} whose {tp} workers span nodes (first in "
        f"line {line})",
    )


def _attention(path: Path, layers: int, tp: int, hidden: int) -> Any:
    stats = [f"time_stats.attn_{part}.median" for part in ("input_reshape", "output_reshape")]
    decode, prefill = (f"time_stats.attn_{part}.median" for part in ("decode", "prefill"))
    kinds = dict.fromkeys(stats, "time") | {decode: "time?", prefill: "time?"}
    counts = ("n_embd", _TP, "batch_size", "prefill_chunk_size", "kv_cache_size")
    table = read_columns(path, kinds | dict.fromkeys(counts, "count"), "Is this attention.csv?")
    if table["n_embd"][0] != hidden:
        raise FormatError(
            f"attention of width {table['n_embd'][0]}, but the layers are {hidden} wide: "
            "the files are of different models",
            path=path,
            line=int(table["line"][0]),
            column="n_embd",
        )
    rows = _rows_of(table, tp, path)
    shuffle = sum(table[name] for name in stats)
    scale = layers * MILLISECOND

    def points(time: str, first: str, second: str) -> tuple[Floats, tuple[Ints, Ints]]:
        some = rows & np.isfinite(table[time])
        axes = (first, second)
        keys = np.column_stack([table[axis][some] for axis in axes])
        seconds = (table[time] + shuffle)[some] * scale
        distinct, seconds = averaged(keys, seconds, table["line"][some], path, time)
        if not len(distinct):
            raise FormatError("one-sided grid: no times at all", path=path, column=time)
        return as_grid(distinct, seconds, path, axes)

    decodes = points(decode, "batch_size", "kv_cache_size")
    prefills = points(prefill, "prefill_chunk_size", "kv_cache_size")

    def attention(steps: Steps) -> Floats:
        d, c = steps.decodes, steps.chunk
        decode_time = grid_time(*decodes, np.maximum(d, 1), steps.context)
        prefill_time = grid_time(*prefills, np.maximum(c, 1), steps.cached)
        return np.where(d > 0, decode_time, 0.0) + np.where(c > 0, prefill_time, 0.0)

    return attention


def _beside(mlp: Path, stem: str, given: str | Path | None) -> Path | None:
    """Return the table that was named, or the one that lies beside ``mlp.csv``."""
    if given is not None:
        return Path(given)
    return mlp.parent / stem if (mlp.parent / stem).is_file() else None


def _read(file: Path, asked: Asked) -> Profile:
    shape, model = asked.shape, file.parent.name
    profile = read_vidur(
        file,
        layers=layers_of(asked, model),
        shape=shape,
        attention=_beside(file, "attention.csv", asked.attention),
        network=_beside(file, "all_reduce.csv", asked.network),
        tp=asked.tp,
        steps=asked.steps,
        rng=asked.rng,
        source=asked.source,
        gpu=asked.gpu or file.parent.parent.name,
        model=shape.name if shape else model,
    )
    return bounded(profile, shape, file)


FORMAT = ProfileFormat(
    name="vidur",
    known_by="``time_stats.`` columns, mlp.csv",
    number="ms, one layer, one GPU",
    columns=lambda names: any(name.startswith("time_stats.") for name in names),
    read=_read,
    tables=("mlp",),
    all_reduce="network='all_reduce.csv', or its time in an iteration with ",
)
