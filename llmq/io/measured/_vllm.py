"""Runs of LLMServingSim's vLLM benchmark: one folder with requests, settings and time series.

``requests.jsonl`` holds one request a line: ``input_toks``, ``output_toks``, and ``queued_ts``,
``first_token_ts``, ``last_token_ts`` on the server's monotonic clock, in seconds. Arrivals are the
times at which requests entered the server's queue. ``meta.json`` holds the settings,
``timeseries.csv`` samples of the engine, ``summary.txt`` the source's own comparison with its
simulator (ms, and differences in per cent). The GPU is the part of the folder's name before ``_``.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from llmq._input.files import read_text
from llmq.errors import FormatError
from llmq.io.measured._measured import OpenRun, Settings, read_object
from llmq.io.profiles._table import header, read_columns

__all__ = ["read_vllm_bench"]

_COLUMNS = ("input_toks", "output_toks", "queued_ts", "first_token_ts", "last_token_ts")
_SUMMARY = re.compile(r"(TTFT|TPOT|Latency)\s+(Mean|Median|P99)\s+\S+\s+\S+\s+([-+.\d]+)%")
_NAMES = {
    "TTFT": "ttft",
    "TPOT": "tpot",
    "Latency": "e2e",
    "Mean": "mean",
    "Median": "p50",
    "P99": "p99",
}


def read_vllm_bench(folder: Path) -> OpenRun:
    """Read a folder of the benchmark."""
    settings = _settings(folder / "meta.json", folder.name.split("_")[0])
    rows = _requests(folder / "requests.jsonl")
    rows = rows[np.argsort(rows[:, 2], kind="stable")]
    times = rows[:, 2:] - rows[0, 2]
    prompt, output = rows[:, :2].astype(np.int64).T
    return OpenRun(
        name=f"vllm_bench/{folder.name}",
        settings=settings,
        arrival=times[:, 0],
        first_token=times[:, 1],
        finish=times[:, 2],
        prompt=prompt,
        output=output,
        published=_published(folder / "summary.txt"),
        series=_series(folder / "timeseries.csv"),
    )


def _requests(path: Path) -> Any:
    rows = []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise FormatError(f"not JSON: {error.msg}", path=path, line=number) from None
        rows.append([_number(record, key, path, number) for key in _COLUMNS])
        tokens, times = rows[-1][:2], rows[-1][2:]
        if min(tokens) < 1 or any(value % 1 for value in tokens):
            raise FormatError("token counts must be whole and >= 1", path=path, line=number)
        if sorted(times) != times:
            raise FormatError(
                f"queued, first and last token must ascend, found {times}: remove the request",
                path=path,
                line=number,
            )
    if not rows:
        raise FormatError("the file holds no request", path=path)
    return np.array(rows)


def _number(record: object, key: str, path: Path, line: int) -> float:
    value = record.get(key) if isinstance(record, dict) else None
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise FormatError(f"expected a number, found {value!r}", path=path, line=line, column=key)
    return float(value)


def _settings(path: Path, gpu: str) -> Settings:
    raw = read_object(path)
    if not isinstance(raw, dict) or not isinstance(raw.get("engine_kwargs", {}), dict):
        raise FormatError("expected an object with the key engine_kwargs", path=path, line=1)
    options = {**raw, **raw.get("engine_kwargs", {})}
    model = options.get("model")
    if not isinstance(model, str):
        raise FormatError("expected the model's name", path=path, column="model")
    block = _whole(options, ("block_size",), path) or 16
    blocks = _whole(options, ("num_gpu_blocks_override", "num_gpu_blocks"), path)
    tokens = _whole(options, ("kv_cache_tokens", "kv_tokens"), path)
    share = options.get("gpu_memory_utilization")
    copies = _whole(options, ("data_parallel_size",), path) or 1
    if copies > 1:
        raise FormatError(
            f"{copies} data-parallel engines, but not which request went to which: not covered",
            path=path,
            column="data_parallel_size",
        )
    cache = str(options.get("kv_cache_dtype") or "auto")
    narrow = f"KV in {cache}" if cache.startswith(("fp8", "int8")) else ""
    precision = options.get("quantization") or narrow or options.get("dtype") or ""
    return Settings(
        gpu=str(options.get("hardware") or options.get("gpu") or gpu),
        model=model,
        tp=_whole(options, ("tensor_parallel_size", "tp"), path) or 1,
        server=f"vLLM {options.get('vllm_version', '')}".strip(),
        token_budget=_whole(options, ("max_num_batched_tokens",), path),
        max_seqs=_whole(options, ("max_num_seqs",), path),
        kv_tokens=tokens or (blocks * block if blocks else None),
        kv_block=block,
        utilisation=float(share) if isinstance(share, int | float) and 0 < share <= 1 else 0.9,
        prefix_caching=options.get("enable_prefix_caching") is not False,
        precision=str(precision),
    )


def _whole(options: Mapping[str, object], keys: tuple[str, ...], path: Path) -> int | None:
    for key in keys:
        value = options.get(key)
        if value is None:
            continue
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise FormatError(
                f"expected a whole number >= 1 or null, found {value!r}", path=path, column=key
            )
        return value
    return None


def _published(path: Path) -> dict[str, float]:
    if not path.is_file():
        return {}
    found = _SUMMARY.findall(read_text(path))
    if not found:
        raise FormatError("no line such as 'TTFT Mean 7097.2 6815.7 -4.0%'", path=path)
    return {
        f"LLMServingSim {_NAMES[what]} {_NAMES[of]}": float(value) / 100
        for what, of, value in found
    }


def _series(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    table = read_columns(path, dict.fromkeys(header(path), "time"), "Is this timeseries.csv?")
    return {name: values for name, values in table.items() if name != "line"}
