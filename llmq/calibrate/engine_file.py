"""Engines as TOML files: the form of the catalogue's entries and of one's own.

A file names the engine, its budgets and its source, and holds a law for each tensor-parallel
degree, with a source of its own and more assumptions where they differ. The KV capacity is stated,
or follows from a ``[memory]`` table. Unknown keys are errors that name the nearest known key. Times
are in seconds, sizes in tokens or bytes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmq.calibrate.fit import Fit
from llmq.calibrate.geometry import kv_capacity
from llmq.errors import FormatError, InputError, nearest
from llmq.model.batchtime import BatchTime
from llmq.model.conventions import ENGINE, THEORY, Conventions
from llmq.model.engine import Engine

__all__ = ["load_table", "read_engine", "write_engine"]

_CONVENTIONS: dict[str, Conventions] = {ENGINE.name: ENGINE, THEORY.name: THEORY}
_ATTENTION = ("per_kv", "per_kv_mixed", "per_work")
_LAW_KEYS = {
    "affine": ("base", "per_token", *_ATTENTION),
    "tiled": ("base", "per_tile", "tile", "per_token", *_ATTENTION),
    "roofline": ("floor", "floor_per_token", "base", "per_token", "tile", *_ATTENTION),
    "table": ("tokens", "seconds", *_ATTENTION),
}
_TOP_KEYS = (
    "name", "gpu", "model", "token_budget", "max_seqs", "kv_block", "prefill_chunk",
    "conventions", "source", "assumptions", "memory", "default_tp", "tp",
)  # fmt: skip
_TP_KEYS = ("kv_tokens", "source", "assumptions", "law", "fit")
_MEMORY_KEYS = ("gpu_bytes", "utilisation", "weight_bytes", "kv_bytes")
_FIT_KEYS = ("in_sample", "out_of_sample")
# vLLM V1's scheduler defaults (max_num_batched_tokens, max_num_seqs; vLLM 0.19 engine arguments).
_BUDGET, _SEQS, _BLOCK = 2048, 256, 16


def read_engine(path: str | Path, tp: int | None = None) -> Engine:
    """Read an engine from a TOML file.

    Parameters
    ----------
    path : str or Path
        The file.
    tp : int, optional
        GPUs of one engine; ``default_tp`` of the file, or its smallest, if not given.

    Returns
    -------
    Engine
        The engine.

    Raises
    ------
    FormatError
        Not TOML, or an unknown or missing key; names the nearest.
    InputError
        A value that makes no engine, or a degree the file lacks.
    """
    file = Path(path)
    raw = load_table(file)
    degrees = sorted(raw["tp"], key=int)
    degree = str(raw.get("default_tp", degrees[0])) if tp is None else str(tp)
    if degree not in degrees:
        raise InputError(
            f"{raw['name']} is known with tp {', '.join(degrees)}, not with tp={degree}", value=tp
        )
    part = raw["tp"][degree]
    block = raw.get("kv_block", _BLOCK)
    kv = part.get("kv_tokens", _kv_tokens(raw.get("memory"), int(degree), block))
    return Engine(
        _law(part["law"], file),
        token_budget=raw.get("token_budget", _BUDGET),
        max_seqs=raw.get("max_seqs"),
        kv_tokens=kv,
        kv_block=block,
        prefill_chunk=raw.get("prefill_chunk"),
        conventions=_CONVENTIONS[raw.get("conventions", ENGINE.name)],
        name=raw["name"],
        gpus=int(degree),
        source=part.get("source", raw["source"]) + _fit_words(part.get("fit")),
        assumptions=(*raw.get("assumptions", ()), *part.get("assumptions", ())),
    )


def write_engine(
    engine: Engine | Fit,
    path: str | Path,
    *,
    name: str = "",
    gpu: str = "",
    model: str = "",
    token_budget: int = _BUDGET,
    max_seqs: int | None = _SEQS,
    kv_tokens: int | None = None,
) -> Path:
    """Save an engine, or a fitted law as one, as TOML.

    Parameters
    ----------
    engine : Engine or Fit
        What to save.
    path : str or Path
        The file to write; replaced only when the new one is complete.
    name, gpu, model : str
        What it is; taken from ``engine`` where empty.
    token_budget, max_seqs, kv_tokens : int or None
        Budgets of the engine made from a fit (for its KV capacity see
        :func:`llmq.calibrate.geometry.kv_capacity`); an Engine keeps its own.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    InputError
        The name does not end in ``.toml``, or the folder does not exist.

    Examples
    --------
    >>> import tempfile
    >>> engine = Engine(BatchTime.affine(base=0.01, per_token=1e-5), name="mine", max_seqs=64)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     read_engine(write_engine(engine, f"{folder}/mine.toml")) == engine
    True
    """
    file = Path(path)
    if file.suffix != ".toml":
        raise InputError(f"{path}: an engine file ends in .toml", value=str(path))
    if not file.parent.is_dir():
        raise InputError(f"{path}: there is no folder {file.parent}", value=str(path))
    errors: tuple[float, float] | None = None
    if isinstance(engine, Fit):
        errors = (engine.in_sample.mape, engine.out_of_sample.mape)
        gpu, model = gpu or engine.gpu, model or engine.model
        more = [] if kv_tokens else ["KV capacity was not given: memory does not limit this engine"]
        if beyond := engine.extrapolation(token_budget, kv_tokens or 0):
            more.append(f"extrapolated: a full engine has {beyond}")
        engine = Engine(
            engine.law, token_budget=token_budget, max_seqs=max_seqs, kv_tokens=kv_tokens,
            name=name or file.stem, gpus=engine.tp, source=engine.source,
            assumptions=(*engine.assumptions, *more),
        )  # fmt: skip
    if engine.conventions not in _CONVENTIONS.values():
        raise InputError(
            f"an engine file can say {' or '.join(_CONVENTIONS)} conventions, not "
            f"{engine.conventions.name!r}"
        )
    text = _to_toml(engine, name or engine.name or file.stem, gpu, model, errors)
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)
    return file


def load_table(path: Path) -> dict[str, Any]:
    """Read an engine file as checked tables.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    dict
        Its keys, known and complete.

    Raises
    ------
    FormatError
        Not TOML, or an unknown or missing key.
    """
    import tomllib

    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise FormatError("no such file: check the path", path=path) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise FormatError(f"not TOML: {error}", path=path) from error
    _check(raw, _TOP_KEYS, ("name", "gpu", "model", "source", "tp"), path, "")
    for key in ("name", "gpu", "model", "source"):
        if not isinstance(raw[key], str):
            raise FormatError(f"expected text, found {raw[key]!r}", path=path, column=key)
    if "memory" in raw:
        _check_numbers(raw["memory"], _MEMORY_KEYS, path, "memory.")
    if not isinstance(raw["tp"], dict) or not all(str(k).isdecimal() for k in raw["tp"]):
        raise FormatError("expected tables [tp.1], [tp.2], ...", path=path, column="tp")
    for degree, part in raw["tp"].items():
        _check(part, _TP_KEYS, ("law",), path, f"tp.{degree}.")
        if "fit" in part:
            _check_numbers(part["fit"], _FIT_KEYS, path, f"tp.{degree}.fit.")
    if raw.get("conventions", ENGINE.name) not in _CONVENTIONS:
        known = nearest(str(raw["conventions"]), _CONVENTIONS)
        raise FormatError(f"unknown {raw['conventions']!r}{known}", path=path, column="conventions")
    return raw


def _check(
    raw: object, known: tuple[str, ...], needed: tuple[str, ...], path: Path, where: str
) -> None:
    if not isinstance(raw, Mapping):
        raise FormatError("expected a table", path=path, column=where.rstrip("."))
    for key in raw:
        if key not in known:
            raise FormatError(f"unknown key{nearest(key, known)}", path=path, column=where + key)
    for key in needed:
        if key not in raw:
            raise FormatError("this key is needed", path=path, column=where + key)


def _check_numbers(raw: object, keys: tuple[str, ...], path: Path, where: str) -> None:
    _check(raw, keys, keys, path, where)
    for key in keys:
        value = raw[key]  # type: ignore[index]
        if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
            raise FormatError(
                f"expected a number >= 0, found {value!r}", path=path, column=where + key
            )


def _law(raw: Mapping[str, Any], path: Path) -> BatchTime:
    form = raw.get("form")
    if form not in _LAW_KEYS:
        raise FormatError(
            f"expected one of {', '.join(_LAW_KEYS)}, found {form!r}", path=path, column="law.form"
        )
    _check(raw, ("form", *_LAW_KEYS[form]), (), path, "law.")
    values = {key: value for key, value in raw.items() if key != "form"}
    try:
        law: BatchTime = getattr(BatchTime, form)(**values)
    except (TypeError, ValueError) as error:
        raise FormatError(f"no {form} law: {error}", path=path, column="law") from error
    return law


def _kv_tokens(memory: Mapping[str, Any] | None, gpus: int, block: int) -> int | None:
    if memory is None:
        return None
    return kv_capacity(**memory, gpus=gpus, block=block)


def _fit_words(fit: Mapping[str, float] | None) -> str:
    if fit is None:
        return ""
    inside, outside = (100 * fit[key] for key in _FIT_KEYS)
    return f"; MAPE {inside:.1f} % in sample, {outside:.1f} % out of sample"


def _to_toml(
    engine: Engine, name: str, gpu: str, model: str, errors: tuple[float, float] | None
) -> str:
    top: dict[str, Any] = {"name": name, "gpu": gpu, "model": model}
    top["token_budget"] = engine.token_budget
    for key in ("max_seqs", "kv_block", "prefill_chunk"):
        if (value := getattr(engine, key)) is not None:
            top[key] = value
    top |= {"conventions": engine.conventions.name, "source": engine.source}
    top["assumptions"] = list(engine.assumptions)
    law = engine.law
    lines = ["# Times in seconds, sizes in tokens.", *_pairs(top)]
    lines += ["", f"[tp.{engine.gpus}]"]
    lines += [] if engine.kv_tokens is None else [f"kv_tokens = {engine.kv_tokens}"]
    if errors is not None:
        lines += ["", f"[tp.{engine.gpus}.fit]", *_pairs(dict(zip(_FIT_KEYS, errors, strict=True)))]
    fields = {key: getattr(law, key) for key in _LAW_KEYS[law.form]}
    lines += ["", f"[tp.{engine.gpus}.law]", *_pairs({"form": law.form, **fields})]
    return "\n".join(lines) + "\n"


def _pairs(values: Mapping[str, Any]) -> list[str]:
    return [f"{key} = {_toml(value)}" for key, value in values.items()]


def _toml(value: object) -> str:
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, list | tuple):
        return f"[{', '.join(_toml(item) for item in value)}]"
    return str(value) if isinstance(value, int) else repr(float(value))  # type: ignore[arg-type]
