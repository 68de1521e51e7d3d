"""Own steps: a CSV of whole iterations, with the columns tokens and seconds, and what else."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from llmq.calibrate.catalogue._plausible import check_bound, check_units
from llmq.calibrate.catalogue.gpus import find_gpu
from llmq.calibrate.profile import Profile
from llmq.errors import FormatError
from llmq.io.profiles._format import Asked, ProfileFormat
from llmq.io.profiles._table import header, read_columns
from llmq.units import format_seconds

__all__ = ["FORMAT"]

Floats: TypeAlias = npt.NDArray[np.float64]

_SHORT, _LONG = 1e-6, 5.0  # seconds of an iteration, without knowing model and GPU


def _read(path: Path, asked: Asked) -> Profile:
    shape, gpu = asked.shape, asked.gpu or ""
    kinds = {"tokens": "count", "seconds": "time"}
    optional = {"kv": "count", "work": "time", "prefill": "count"}
    names = header(path)
    if kinds.keys() <= set(names):
        _check_names(names, [*kinds, *optional], path)
    kinds |= {name: kind for name, kind in optional.items() if name in names}
    if "work" in kinds and "prefill" not in kinds:
        raise FormatError(
            "attention work without prompt tokens: add the column prefill",
            path=path,
            line=1,
            column="work",
        )
    table = read_columns(path, kinds, "Own steps need the columns tokens and seconds.")
    for name in ("tokens", "seconds"):
        if np.any(table[name] <= 0):
            row = int(np.argmax(table[name] <= 0))
            raise FormatError(
                f"must be positive, found {table[name][row]}: remove idle iterations",
                path=path,
                line=int(table["line"][row]),
                column=name,
            )
    kind = find_gpu(gpu)
    if not (shape and kind):
        _check_seconds(table["seconds"], path)
    columns: dict[str, Any] = {name: table[name] for name in kinds}
    alone = np.zeros(len(table["line"]), dtype=np.int64)
    check_units(alone, table["tokens"], table["seconds"], table["line"], path, "seconds")
    unchecked = "times were not compared with the memory bandwidth: say model and GPU"
    profile = Profile(
        **columns,
        tp=asked.tp,
        model=shape.name if shape else "",
        gpu=gpu,
        format="steps",
        source=asked.source,
        notes=() if shape and kind else (unchecked,),
    )
    if shape and kind:
        check_bound(profile, shape, kind, path, table["line"])
    return profile


def _check_names(names: list[str], known: list[str], path: Path) -> None:
    """Ask about a column that looks like one of ours: without it the law would lose a term."""
    from difflib import get_close_matches

    for name in names:
        if name in known or not name:
            continue
        word = name.strip().lower()
        like = [own for own in known if word.startswith((f"{own}_", f"{own} ")) or word == own]
        like += get_close_matches(word, known, n=1, cutoff=0.75)
        if like and like[0] not in names:
            raise FormatError(
                f"the column is not known; did you mean {like[0]!r}? rename it, or remove it",
                path=path,
                line=1,
                column=name[:60],
            )


def _check_seconds(seconds: Floats, path: Path) -> None:
    """Ask about times that no iteration takes; with model and GPU the hardware tells."""
    if float(seconds.min()) > _SHORT and float(seconds.max()) < _LONG:
        return
    least, most = format_seconds(float(seconds.min())), format_seconds(float(seconds.max()))
    raise FormatError(
        f"iterations of {least} to {most}: are the times in another unit? the column is in seconds "
        "(0.0058 for 5.8 ms); if it is right, say model= and gpu=, so that it can be checked",
        path=path,
        column="seconds",
    )


FORMAT = ProfileFormat(
    name="steps",
    known_by="columns tokens, seconds",
    number="s, one whole iteration",
    columns=lambda names: bool({"tokens", "seconds"} & set(names)),
    read=_read,
)
