"""LLMServingSim's profiles: ``dense.csv``, ``per_sequence.csv`` and ``attention.csv``.

Times are in microseconds, for one layer. Norms run twice in a layer; embedding and final norm once
in an iteration, LM head and sampler once for all rows that emit a token. Attention was measured
for mixed batches: one chunk on cached tokens plus equal decodes. Two grids overlap in that file;
only the complete one of powers of two is used (values filled in across both biased a simulated run
by 6 % in its first token time). All-reduce was not profiled.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from llmq._input.yaml_text import read_yaml
from llmq.calibrate._compose import Kernels, Steps, compose, grid_time, token_time
from llmq.calibrate._geometry import Geometry, geometry
from llmq.calibrate.catalogue._kernel_tables import averaged
from llmq.calibrate.catalogue._plausible import check_units
from llmq.calibrate.profile import Profile
from llmq.errors import FormatError, InputError
from llmq.io.profiles._format import Asked, ProfileFormat, bounded, layers_of
from llmq.io.profiles._skew import read_spread
from llmq.io.profiles._table import find_file, read_columns
from llmq.rng import RngLike
from llmq.units import MICROSECOND

__all__ = ["FORMAT", "llmservingsim_kernels", "read_llmservingsim", "read_meta"]

Ints: TypeAlias = npt.NDArray[np.int64]
Floats: TypeAlias = npt.NDArray[np.float64]

_CALLS = {
    "layernorm": 2,
    "qkv_proj": 1,
    "rotary_emb": 1,
    "o_proj": 1,
    "gate_up_proj": 1,
    "act_fn": 1,
    "down_proj": 1,
}
_ONCE = ("embedding", "final_layernorm")
_AXES = ("prefill_chunk", "kv_prefill", "n_decode", "kv_decode")


def read_meta(folder: Path) -> dict[str, str]:
    """Read model, GPU and version from ``meta.yaml`` beside or above the tables."""
    for place in (folder, folder.parent):
        if (path := place / "meta.yaml").is_file():
            return {key: v for key, v in read_yaml(path).items() if isinstance(v, str)}
    return {}


def read_llmservingsim(
    folder: Path, *, layers: int, tp: int, steps: int, rng: RngLike, **facts: Any
) -> Profile:
    """Compose whole iterations from LLMServingSim tables."""
    kernels, last = llmservingsim_kernels(folder, layers=layers)
    return compose(
        kernels,
        steps=steps,
        rng=rng,
        max_chunk=last,
        format="llmservingsim",
        tp=tp,
        units=f"microseconds of one layer x {layers} layers, head and embedding once",
        missing=(*(("all-reduce",) if tp > 1 else ()), "engine overhead"),
        **facts,
    )


def llmservingsim_kernels(folder: Path, *, layers: int) -> tuple[Kernels, int]:
    """Read LLMServingSim tables as functions."""
    tokens, dense = _dense(find_file(folder, "dense"), layers)
    rows, head = _per_sequence(find_file(folder, "per_sequence"))
    skewed = any(folder.glob("skew.csv*"))
    kernels = Kernels(
        dense=lambda n: token_time(n, tokens, dense),
        head=lambda r: token_time(r, rows, head),
        attention=_attention(find_file(folder, "attention"), layers),
        spread=read_spread(next(folder.glob("skew.csv*"))) if skewed else None,
    )
    return kernels, int(tokens[-1])


def _by_layer(path: Path, count: str, names: tuple[str, ...]) -> dict[str, tuple[Ints, Floats]]:
    table = read_columns(
        path, {"layer": "text", count: "count", "time_us": "time"}, f"Is this {path.name}?"
    )
    found = {}
    for name in names:
        rows = table["layer"] == name
        if not rows.any():
            raise FormatError(f"no rows for the kernel {name!r}", path=path, column="layer")
        seconds = table["time_us"][rows] * MICROSECOND
        size = table[count][rows]
        check_units(size * 0, size, seconds, table["line"][rows], path, "time_us")
        found[name] = averaged(table[count][rows], seconds, table["line"][rows], path, "time_us")
        if len(found[name][0]) < 2:
            raise FormatError(
                f"one-sided grid: {name} was measured at {found[name][0].tolist()} {count} only",
                path=path,
                column=count,
            )
    counts = found[names[0]][0]
    for name, (own, _) in found.items():
        if not np.array_equal(own, counts):
            raise FormatError(
                f"{name} and {names[0]} were measured at different {count}: profile them alike",
                path=path,
                column=count,
            )
    return found


def _dense(path: Path, layers: int) -> tuple[Ints, Floats]:
    found = _by_layer(path, "tokens", (*_CALLS, *_ONCE))
    tokens = found[_ONCE[0]][0]
    time = np.zeros(len(tokens))
    for name, calls in (*((n, layers * c) for n, c in _CALLS.items()), *((n, 1) for n in _ONCE)):
        time += calls * found[name][1]
    return tokens, time


def _per_sequence(path: Path) -> tuple[Ints, Floats]:
    found = _by_layer(path, "sequences", ("lm_head", "sampler"))
    return found["lm_head"][0], found["lm_head"][1] + found["sampler"][1]


def _attention(path: Path, layers: int) -> Any:
    kinds = dict.fromkeys(_AXES, "count") | {"time_us": "time"}
    table = read_columns(path, kinds, "Is this LLMServingSim's attention.csv?")
    keys = np.column_stack([table[axis] for axis in _AXES])
    doubling = np.all((keys & (keys - 1)) == 0, axis=1)
    if not doubling.any():
        raise FormatError("no row lies on the grid of powers of two", path=path)
    times = table["time_us"][doubling] * MICROSECOND * layers
    keys, times = averaged(keys[doubling], times, table["line"][doubling], path, "time_us")
    axes = tuple(np.unique(keys[:, i]) for i in range(len(_AXES)))
    for name, axis in zip(_AXES, axes, strict=True):
        if len(axis) < 2:
            raise FormatError(
                f"one-sided grid: {name} is {axis[0]} in all rows of the grid of powers of two; "
                f"measure a second {name}",
                path=path,
                column=name,
            )
    values = np.full([len(axis) for axis in axes], np.nan)
    values[tuple(np.searchsorted(axis, keys[:, i]) for i, axis in enumerate(axes))] = times
    # Without a chunk nothing is cached, without decodes no context is held: time is constant.
    values[0, 1:] = values[0, :1]
    values[:, :, 0, 1:] = values[:, :, 0, :1]

    def attention(steps: Steps) -> Floats:
        return grid_time(values, axes, steps.chunk, steps.cached, steps.decodes, steps.context)

    return attention


def _meta_shape(meta: dict[str, str]) -> Geometry | None:
    """Return the model that ``meta.yaml`` names, where we know its shape."""
    try:
        return geometry(meta["model"])
    except (KeyError, InputError):
        return None


def _read(file: Path, asked: Asked) -> Profile:
    meta = read_meta(file.parent)
    shape = asked.shape or _meta_shape(meta)
    facts: dict[str, Any] = {"gpu": asked.gpu or meta.get("gpu", ""), "source": asked.source}
    if version := meta.get("vllm_version"):
        facts["notes"] = (f"vLLM {version} kernels",)
    profile = read_llmservingsim(
        file.parent,
        layers=layers_of(replace(asked, shape=shape), file.parent.name),
        tp=asked.tp,
        steps=asked.steps,
        rng=asked.rng,
        model=shape.name if shape else "",
        **facts,
    )
    return bounded(profile, shape, file)


FORMAT = ProfileFormat(
    name="llmservingsim",
    known_by="dense.csv (layer, tokens, time_us)",
    number="us, one layer, one GPU",
    columns=lambda names: {"layer", "tokens"} <= set(names),
    read=_read,
    tables=("dense",),
)
