"""Read a GPU profile of any known format as a :class:`~llmq.calibrate.profile.Profile`.

========================  ==================================  ==========================
format                    recognised by                       one number is
========================  ==================================  ==========================
``vidur``                 ``time_stats.`` columns, mlp.csv    ms, one layer, one GPU
``llmservingsim``         dense.csv (layer, tokens, time_us)  us, one layer, one GPU
``aiconfigurator``        gemm*.csv or .parquet (m, n, k,     ms, one kernel call
                          latency), the package
``steps``                 columns tokens, seconds             s, one whole iteration
========================  ==================================  ==========================

The three foreign formats use three units and three scopes, so the number of layers or the model
must be said; what a profile lacks (LM head, all-reduce, attention) is recorded in its ``missing``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from llmq._input.checked import checked
from llmq.calibrate._compose import DEFAULT_SEED
from llmq.calibrate._geometry import Geometry, geometry
from llmq.calibrate.catalogue._package import package_folder, package_profile
from llmq.calibrate.catalogue._plausible import check_bound, check_units
from llmq.calibrate.catalogue.gpus import find_gpu
from llmq.calibrate.profile import Profile
from llmq.errors import FormatError, InputError, nearest
from llmq.io.profiles._aiconfigurator import read_aiconfigurator
from llmq.io.profiles._llmservingsim import read_llmservingsim, read_meta
from llmq.io.profiles._table import header, read_columns
from llmq.io.profiles._vidur import read_vidur
from llmq.rng import RngLike
from llmq.units import format_seconds

__all__ = ["FORMATS", "read_profile"]

Floats: TypeAlias = npt.NDArray[np.float64]

FORMATS = ("vidur", "llmservingsim", "aiconfigurator", "steps")
_FEWEST = 4
_SHORT, _LONG = 1e-6, 5.0  # seconds of an iteration, without knowing model and GPU
_PACKAGE = "aiconfigurator-core/"


@checked
def read_profile(
    path: str | Path,
    *,
    format: str | None = None,  # noqa: A002
    layers: int | None = None,
    model: str | Geometry | None = None,
    tp: int = 1,
    gpu: str | None = None,
    assume: Mapping[str, float] | None = None,
    attention: str | Path | None = None,
    network: str | Path | None = None,
    all_reduce: str = "graph",
    steps: int = 6000,
    rng: RngLike = DEFAULT_SEED,
) -> Profile:
    r"""Read measured kernel or iteration times.

    Parameters
    ----------
    path : str or Path
        A file (``mlp.csv``, ``dense.csv``, ``gemm*.csv``, a CSV of own steps with the columns
        tokens, seconds and optionally kv, work, prefill) or the folder that holds it; ``.gz`` is
        accepted. ``aiconfigurator-core/h100_sxm`` means that GPU type in the installed package
        (extra ``profiles``).
    format : str, optional
        One of ``vidur``, ``llmservingsim``, ``aiconfigurator``, ``steps``; recognised if not given.
    layers : int, optional
        Layers of the model; needed where neither ``model`` nor the profile tells.
    model : str or Geometry, optional
        A model llmq knows the shape of, or a shape. Needed for ``aiconfigurator``.
    tp : int
        GPUs that share the model.
    gpu : str, optional
        Name of the GPU; taken from the folder or the file if not given.
    assume : mapping of str to float, optional
        Seconds per iteration for parts the profile lacks (see ``missing`` of the result).
    attention : str or Path, optional
        Vidur's ``attention.csv``; with it whole iterations are composed.
    network : str or Path, optional
        Vidur's ``all_reduce.csv``; needed for whole times at ``tp > 1``.
    all_reduce : {"eager", "graph"}
        AIConfigurator: custom all-reduce launched one by one, or inside a CUDA graph.
    steps : int
        Random iterations to compose from kernel tables.
    rng : Generator, SeedSequence, int or None
        Randomness of these; the default is a fixed seed, recorded in the profile.

    Returns
    -------
    Profile
        Rows of iterations or of layers alone, in seconds.

    Raises
    ------
    FormatError
        The file is malformed; says file, line, column, value and remedy.
    InputError
        An argument is missing or does not fit the file.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder) / "own.csv"
    ...     rows = "1,0.010\n64,0.011\n128,0.012\n256,0.018\n"
    ...     _ = file.write_text("tokens,seconds\n" + rows)
    ...     print(read_profile(file, gpu="mine"))
    mine TP1: 4 layers points (steps)
    """
    place, packed = _place(path)
    _check_arguments(tp, layers, all_reduce)
    kind, file = ("package", place) if packed else _recognise(place, format, tp)
    if packed and format not in (None, "aiconfigurator"):
        raise FormatError(f"these are aiconfigurator tables, not {format!r}", path=place)
    shape = geometry(model) if isinstance(model, str) else model
    if shape is not None and layers is not None:
        shape = replace(shape, layers=layers)
    drawn: dict[str, Any] = {"tp": tp, "steps": steps, "rng": rng}
    facts: dict[str, Any] = {"source": place.name}
    if kind == "steps":
        profile = _read_steps(file, tp, shape, gpu or "", place.name)
    elif kind == "vidur":
        facts |= {"gpu": gpu or file.parent.parent.name}
        facts["model"] = shape.name if shape else file.parent.name
        extra = {"attention": attention, "network": network}
        files: dict[str, Any] = {n: _beside(file, n, given) for n, given in extra.items()}
        count = _layers(layers, shape, file.parent.name)
        profile = read_vidur(file, layers=count, shape=shape, **files, **drawn, **facts)
    elif kind == "llmservingsim":
        meta = read_meta(file.parent)
        shape = shape or _meta_shape(meta)
        facts |= {"gpu": gpu or meta.get("gpu", ""), "model": shape.name if shape else ""}
        if version := meta.get("vllm_version"):
            facts["notes"] = (f"vLLM {version} kernels",)
        count = _layers(layers, shape, file.parent.name)
        profile = read_llmservingsim(file.parent, layers=count, **drawn, **facts)
    else:
        if shape is None:
            raise InputError(
                "this profile holds kernels of any model: say model=, e.g. Llama-3.1-8B"
            )
        facts |= {"gpu": gpu or file.parent.name, "model": shape.name}
        if packed:
            profile = package_profile(
                shape, file.name, folder=file.parent, all_reduce=all_reduce, **drawn
            )
        else:
            profile = read_aiconfigurator(
                file.parent, shape=shape, all_reduce=all_reduce, **drawn, **facts
            )
    return _completed(profile, kind, shape, file, assume)


def _check_arguments(tp: int, layers: int | None, all_reduce: str) -> None:
    if tp < 1:
        raise InputError(f"tp must be at least 1 GPU, got {tp}", value=tp)
    if layers is not None and layers < 1:
        raise InputError(f"layers must be at least 1, got {layers}", value=layers)
    if all_reduce not in ("eager", "graph"):
        raise InputError(f"all_reduce must be 'eager' or 'graph', got {all_reduce!r}")


def _place(path: str | Path) -> tuple[Path, bool]:
    """Path, and whether it is a GPU type in the layout of aiconfigurator-core."""
    place = Path(path)
    if not place.exists() and str(path).startswith(_PACKAGE):
        return package_folder() / str(path).removeprefix(_PACKAGE), True
    return place, (place / "gemm" / "vllm").is_dir()


def _recognise(place: Path, format: str | None, tp: int) -> tuple[str, Path]:  # noqa: A002
    if format is not None and format not in FORMATS:
        raise InputError(f"unknown profile format {format!r}{nearest(format, FORMATS)}")
    if not place.exists():
        raise FormatError("no such file or folder: check the path", path=place)
    file = _table_of(place, tp) if place.is_dir() else place
    if file.suffix == ".parquet":
        if format not in (None, "aiconfigurator"):
            raise FormatError(
                f"parquet files hold aiconfigurator tables, not {format!r}", path=file
            )
        return "aiconfigurator", file
    names = header(file)
    found = _format_of(names)
    if found is None or format not in (None, found):
        wanted = f"columns of the format {format!r}" if format else "a known profile"
        raise FormatError(
            f"expected {wanted}, found the columns {', '.join(names[:6])}; known formats: "
            f"{', '.join(FORMATS)}",
            path=file, line=1,
        )  # fmt: skip
    return found, file


def _format_of(names: list[str]) -> str | None:
    if any(name.startswith("time_stats.") for name in names):
        return "vidur"
    if {"layer", "tokens"} <= set(names):
        return "llmservingsim"
    if {"gemm_dtype", "latency"} & set(names):
        return "aiconfigurator"
    return "steps" if {"tokens", "seconds"} & set(names) else None


def _table_of(folder: Path, tp: int) -> Path:
    places = (folder, folder / f"tp{tp}")
    for stem in ("mlp", "dense", "gemm"):
        for place in places:
            found = sorted([*place.glob(f"{stem}*.csv*"), *place.glob(f"{stem}*.parquet")])
            if found:
                return found[0]
    ranks = sorted(p.name for p in folder.glob("tp*"))
    hint = f"; it has {', '.join(ranks)}, tp={tp} was asked for" if ranks else ""
    raise FormatError(f"no mlp.csv, dense.csv or gemm*.csv in this folder{hint}", path=folder)


def _beside(mlp: Path, name: str, given: str | Path | None) -> Path | None:
    """Return the table that was named, or the one that lies beside ``mlp.csv``."""
    if given is not None:
        return Path(given)
    stem = "attention.csv" if name == "attention" else "all_reduce.csv"
    return mlp.parent / stem if (mlp.parent / stem).is_file() else None


def _layers(layers: int | None, shape: Geometry | None, name: str) -> int:
    if layers is not None:
        return layers
    if shape is not None:
        return shape.layers
    try:
        hint = f"{name} looks like layers={geometry(name).layers}"
    except InputError:
        hint = "e.g. layers=32"
    raise InputError(f"the profile holds times of one layer: say layers= or model= ({hint})")


def _meta_shape(meta: dict[str, str]) -> Geometry | None:
    try:
        return geometry(meta["model"])
    except (KeyError, InputError):
        return None


def _read_steps(path: Path, tp: int, shape: Geometry | None, gpu: str, source: str) -> Profile:
    kinds = {"tokens": "count", "seconds": "time"}
    optional = {"kv": "count", "work": "time", "prefill": "count"}
    names = header(path)
    if kinds.keys() <= set(names):
        _check_names(names, [*kinds, *optional], path)
    kinds |= {name: kind for name, kind in optional.items() if name in names}
    if "work" in kinds and "prefill" not in kinds:
        raise FormatError(
            "attention work without prompt tokens: add the column prefill",
            path=path, line=1, column="work",
        )  # fmt: skip
    table = read_columns(path, kinds, "Own steps need the columns tokens and seconds.")
    for name in ("tokens", "seconds"):
        if np.any(table[name] <= 0):
            row = int(np.argmax(table[name] <= 0))
            raise FormatError(
                f"must be positive, found {table[name][row]}: remove idle iterations",
                path=path, line=int(table["line"][row]), column=name,
            )  # fmt: skip
    kind = find_gpu(gpu)
    if not (shape and kind):
        _check_seconds(table["seconds"], path)
    columns: dict[str, Any] = {name: table[name] for name in kinds}
    alone = np.zeros(len(table["line"]), dtype=np.int64)
    check_units(alone, table["tokens"], table["seconds"], table["line"], path, "seconds")
    unchecked = "times were not compared with the memory bandwidth: say model and GPU"
    profile = Profile(
        **columns, tp=tp, model=shape.name if shape else "", gpu=gpu, format="steps",
        source=source, notes=() if shape and kind else (unchecked,),
    )  # fmt: skip
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
                path=path, line=1, column=name[:60],
            )  # fmt: skip


def _check_seconds(seconds: Floats, path: Path) -> None:
    """Ask about times that no iteration takes; with model and GPU the hardware tells."""
    if float(seconds.min()) > _SHORT and float(seconds.max()) < _LONG:
        return
    least, most = format_seconds(float(seconds.min())), format_seconds(float(seconds.max()))
    raise FormatError(
        f"iterations of {least} to {most}: are the times in another unit? the column is in seconds "
        "(0.0058 for 5.8 ms); if it is right, say model= and gpu=, so that it can be checked",
        path=path, column="seconds",
    )  # fmt: skip


def _check_bound(profile: Profile, shape: Geometry | None, file: Path) -> None:
    kind = find_gpu(profile.gpu)
    if shape is not None and kind is not None:
        check_bound(profile, shape, kind, file)


def _completed(
    profile: Profile, kind: str, shape: Geometry | None, file: Path,
    assume: Mapping[str, float] | None,
) -> Profile:  # fmt: skip
    """Check the rows, and add what the caller assumes."""
    _check_spread(profile, file)
    if kind not in ("steps", "package"):  # these were compared where their lines are known
        _check_bound(profile, shape, file)
    profile = profile.assuming(assume)
    _check_all_reduce(profile, kind, file)
    return profile


def _check_all_reduce(profile: Profile, kind: str, file: Path) -> None:
    # Counted as zero it would make two GPUs without a fast link a quarter too fast.
    if profile.tp > 1 and "all-reduce" in profile.missing:
        table = (
            "network='all_reduce.csv', or its time in an iteration with " if kind == "vidur" else ""
        )
        raise InputError(
            f"{file.parent}: {profile.tp} GPUs reduce twice in each layer, and no table holds the "
            f"time of it: give {table}assume={{'all-reduce': 0.002}} (seconds of an iteration)",
            value=profile.tp,
        )


def _check_spread(profile: Profile, file: Path) -> None:
    counts = np.unique(profile.tokens)
    if len(counts) < _FEWEST:
        found = ", ".join(str(n) for n in counts)
        raise FormatError(
            f"only {len(counts)} different token counts ({found}): a law needs at least {_FEWEST}, "
            "from 1 token to the token budget",
            path=file,
        )  # fmt: skip
