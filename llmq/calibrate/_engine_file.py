"""Engines as TOML files: the form of the catalogue's entries and of one's own.

A file names the engine, its budgets and its source, and holds a law for each tensor-parallel
degree, with a source of its own and more assumptions where they differ. The KV capacity is stated,
or follows from a ``[memory]`` table. Unknown keys are errors that name the nearest known key. Times
are in seconds, sizes in tokens or bytes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

from llmq._input.checked import checked
from llmq._input.config import read_table
from llmq._input.files import write_text
from llmq._input.tables import Table
from llmq.calibrate._geometry import kv_capacity
from llmq.calibrate.fit import Fit
from llmq.errors import InputError, nearest, shown
from llmq.model.conventions import ENGINE, THEORY, Conventions
from llmq.model.engine import Engine
from llmq.model.time.batchtime import BatchTime

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
    "name",
    "gpu",
    "model",
    "token_budget",
    "max_seqs",
    "kv_block",
    "prefill_chunk",
    "conventions",
    "source",
    "assumptions",
    "memory",
    "default_tp",
    "tp",
)
_TP_KEYS = ("kv_tokens", "source", "assumptions", "law", "fit")
_MEMORY_KEYS = ("gpu_bytes", "utilisation", "weight_bytes", "kv_bytes")
_FIT_KEYS = ("in_sample", "out_of_sample")
# vLLM's defaults for a GPU of less than 70 GiB, as in gpus.server_defaults.
_BUDGET, _SEQS, _BLOCK = 2048, 256, 16


@checked
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
    raw = load_table(path)
    degrees = sorted(raw["tp"], key=int)
    degree = str(raw.get("default_tp", degrees[0])) if tp is None else str(tp)
    if degree not in degrees:
        raise InputError(
            f"{raw['name']} is known with tp {', '.join(degrees)}, not with tp={degree[:12]}",
            value=tp,
        )
    part = raw["tp"][degree]
    block = raw.get("kv_block", _BLOCK)
    with Table(str(path), f"tp.{degree}", {}).located():
        kv = part.get("kv_tokens", _kv_tokens(raw.get("memory"), int(degree), block))
        return Engine(
            part["law"],
            token_budget=raw.get("token_budget", _BUDGET),
            max_seqs=raw.get("max_seqs"),
            kv_tokens=kv,
            kv_block=block,
            prefill_chunk=raw.get("prefill_chunk"),
            conventions=_CONVENTIONS[raw.get("conventions", ENGINE.name)],
            name=raw["name"],
            gpus=int(degree),
            source=part.get("source", raw["source"]) + _fit_words(part.get("fit")),
            assumptions=(*raw["assumptions"], *part["assumptions"]),
        )


@checked
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
        :func:`llmq.calibrate._geometry.kv_capacity`); an Engine keeps its own.

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
            engine.law,
            token_budget=token_budget,
            max_seqs=max_seqs,
            kv_tokens=kv_tokens,
            name=name or file.stem,
            gpus=engine.tp,
            source=engine.source,
            assumptions=(*engine.assumptions, *more),
        )
    if engine.conventions not in _CONVENTIONS.values():
        raise InputError(
            f"an engine file can say {' or '.join(_CONVENTIONS)} conventions, not "
            f"{engine.conventions.name!r}"
        )
    text = _to_toml(engine, name or engine.name or file.stem, gpu, model, errors)
    write_text(file, text)
    return file


@checked
def load_table(path: str | Path) -> dict[str, Any]:
    """Read an engine file as checked tables."""
    whole = read_table(path)
    whole.only(_TOP_KEYS)
    found: dict[str, Any] = {key: whole.text(key) for key in ("name", "gpu", "model", "source")}
    for key in ("token_budget", "max_seqs", "kv_block", "prefill_chunk", "default_tp"):
        if key in whole:
            found[key] = whole.whole(key)
    if "conventions" in whole:
        found["conventions"] = name = whole.text("conventions")
        if name not in _CONVENTIONS:
            hint = nearest(name, _CONVENTIONS)
            raise whole.mistake(f"unknown conventions {shown(name)}{hint}", "conventions")
    found["assumptions"] = whole.texts("assumptions")
    if "memory" in whole:
        found["memory"] = _memory(whole.table("memory"))
    degrees = whole.table("tp")
    for key in degrees.raw:
        if not (key.isascii() and key.isdigit() and 1 <= len(key) <= 4 and key[0] != "0"):
            raise degrees.mistake(
                f"{shown(key)} is no number of GPUs: write tables [tp.1], [tp.2], ..., [tp.8]", key
            )
    if not degrees.raw:
        raise degrees.mistake("no law: write a table [tp.1.law]")
    found["tp"] = {key: _degree(degrees.table(key)) for key in degrees.raw}
    return found


def _memory(table: Table) -> dict[str, float]:
    table.only(_MEMORY_KEYS)
    found = {key: table.real(key, least=0.0) for key in _MEMORY_KEYS}
    if not 0 < found["utilisation"] <= 1:
        raise table.error(
            "utilisation", "a share of the memory above 0, at most 1 (0.9 for 90 per cent)"
        )
    for key in ("gpu_bytes", "kv_bytes"):
        if not found[key] > 0:
            raise table.error(key, "a number of bytes above 0")
    return found


def _degree(table: Table) -> dict[str, Any]:
    table.only(_TP_KEYS)
    found: dict[str, Any] = {"assumptions": table.texts("assumptions")}
    if "kv_tokens" in table:
        found["kv_tokens"] = table.whole("kv_tokens")
    if "source" in table:
        found["source"] = table.text("source")
    if "fit" in table:
        fit = table.table("fit")
        fit.only(_FIT_KEYS)
        found["fit"] = {key: fit.real(key, least=0.0) for key in _FIT_KEYS}
    found["law"] = _law(table.table("law"))
    return found


def _law(table: Table) -> BatchTime:
    form = table.text("form")
    if form not in _LAW_KEYS:
        raise table.error("form", f"one of {', '.join(_LAW_KEYS)}")
    table.only(["form", *_LAW_KEYS[form]])
    values: dict[str, Any] = {}
    for key in table.raw:
        if key in ("tokens", "seconds"):
            values[key] = _numbers(table, key)
        elif key == "tile":
            values[key] = table.whole(key)
        elif key != "form":
            values[key] = table.real(key, least=0.0)
    with table.located():
        try:
            law: BatchTime = getattr(BatchTime, form)(**values)
        except TypeError as error:  # a coefficient that the form needs
            missing = re.findall(r"'(\w+)'", str(error))
            raise table.error(missing[0], "a finite number >= 0") from None
        return law


def _numbers(table: Table, key: str) -> list[float]:
    values = table.raw[key]
    if not isinstance(values, list) or not values:
        raise table.error(key, "a list of numbers")
    rows = [Table(table.path, table.name, {key: value}) for value in values]
    return [row.whole(key) if key == "tokens" else row.real(key, least=0.0) for row in rows]


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
    import tomli_w

    law = engine.law
    degree: dict[str, Any] = {} if engine.kv_tokens is None else {"kv_tokens": engine.kv_tokens}
    if errors is not None:
        degree["fit"] = dict(zip(_FIT_KEYS, errors, strict=True))
    values = {key: getattr(law, key) for key in _LAW_KEYS[law.form]}
    # TOML has no fractions: one is written as the nearest float.
    plain = {key: float(v) if isinstance(v, Fraction) else v for key, v in values.items()}
    degree["law"] = {"form": law.form, **plain}
    whole = {
        "name": name,
        "gpu": gpu,
        "model": model,
        "token_budget": engine.token_budget,
        "max_seqs": engine.max_seqs,
        "kv_block": engine.kv_block,
        "prefill_chunk": engine.prefill_chunk,
        "conventions": engine.conventions.name,
        "source": engine.source,
        "assumptions": engine.assumptions,
        "tp": {str(engine.gpus): degree},
    }
    text = tomli_w.dumps({key: value for key, value in whole.items() if value is not None})
    return f"# Times in seconds, sizes in tokens.\n{text}"
