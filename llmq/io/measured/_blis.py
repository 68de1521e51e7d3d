"""Runs published with the BLIS simulator: guidellm stages, OpenTelemetry spans, and means.

``*_requests.csv``: one request a row with its benchmark stage; ``start_s``, ``end_s`` in epoch
seconds, ``ttft_ms``. ``*_otel.csv``: vLLM's own spans, latencies in seconds and epoch nanoseconds.
``*_exp-config.yaml`` beside them: model, tensor parallelism, engine limits.
``blis_h100_means.csv``: means over thousands of requests, and the errors of that project's
calibrated simulator; ``blis_h100_configs.json``: settings of such runs. The GPU is an H100 SXM in
all of them. ``gt_itl_ms`` counts two stream events a token and is not read: the time per token
follows from E2E, TTFT and the output length.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from llmq._input.yaml_text import read_yaml
from llmq.errors import FormatError
from llmq.io.measured._measured import (
    OpenRun,
    PublishedMeans,
    Settings,
    read_object,
)
from llmq.io.profiles._table import read_columns
from llmq.units import MILLISECOND

__all__ = ["read_blis_means", "read_guidellm", "read_otel"]

GPU = "h100_sxm"
_NANOSECOND = 1e-9
_OFTEN = 20


class _Preset(NamedTuple):
    """A workload: lengths, rates, limits of the engine, prompt tokens in the cache."""

    prompt: float | None = None
    output: float | None = None
    rates: tuple[float, ...] = ()
    options: Mapping[str, Any] = {}
    cached: int = 0


def read_guidellm(path: Path) -> OpenRun:
    """Read the stages of a guidellm benchmark."""
    text, counts = ("strategy", "status"), ("bench", "input_tokens")
    times = ("rate", "start_s", "end_s", "output_tokens", "ttft_ms")
    kinds = dict.fromkeys(text, "text") | dict.fromkeys(counts, "count")
    table = read_columns(path, kinds | dict.fromkeys(times, "time?"), "Is this a guidellm table?")
    good = (table["status"] == "successful") & (table["output_tokens"] >= 1)
    rows = np.flatnonzero(good & np.isfinite(table["ttft_ms"]))
    if not rows.size:
        raise FormatError("no successful request", path=path)
    rows = rows[np.argsort(table["start_s"][rows], kind="stable")]
    start = table["start_s"][rows]
    arrival = start - start[0]
    stages = {}
    for i in rows.tolist():
        rate = table["rate"][i]
        label = str(table["strategy"][i]) + (f" {rate:.2f}/s" if np.isfinite(rate) else "")
        stages[int(table["bench"][i])] = label
    order = sorted(stages)
    failed = int((table["status"] != "successful").sum())
    prompt = table["input_tokens"][rows]
    return OpenRun(
        name=f"blis_guidellm/{path.name.removesuffix('_requests.csv')}",
        settings=_settings(path, "_requests.csv"),
        arrival=arrival,
        first_token=arrival + table["ttft_ms"][rows] * MILLISECOND,
        finish=table["end_s"][rows] - start[0],
        prompt=prompt,
        output=table["output_tokens"][rows].astype(np.int64),
        stage=np.searchsorted(order, table["bench"][rows]),
        stages=tuple(stages[k] for k in order),
        notes=(f"{failed} requests failed and are left out",) if failed else (),
    )


def read_otel(path: Path) -> OpenRun:
    """Read the spans of a run."""
    latencies = ("latency.time_to_first_token", "latency.e2e")
    counts = ("usage.prompt_tokens", "usage.completion_tokens", "start_ns")
    kinds = dict.fromkeys(latencies, "time") | dict.fromkeys(counts, "count")
    table = read_columns(path, kinds, "Is this a table of spans?")
    order = np.argsort(table["start_ns"], kind="stable")
    order = order[table["usage.completion_tokens"][order] >= 1]
    arrival = (table["start_ns"][order] - table["start_ns"].min()) * _NANOSECOND
    return OpenRun(
        name=f"blis_guidellm/{path.name.removesuffix('_otel.csv')}",
        settings=_settings(path, "_otel.csv"),
        arrival=arrival,
        first_token=arrival + table["latency.time_to_first_token"][order],
        finish=arrival + table["latency.e2e"][order],
        prompt=table["usage.prompt_tokens"][order],
        output=table["usage.completion_tokens"][order],
    )


def _settings(path: Path, ending: str) -> Settings:
    file = path.with_name(path.name.removesuffix(ending) + "_exp-config.yaml")
    raw = read_yaml(file)

    def whole(key: str) -> int:
        if not str(raw.get(key, "")).isdigit():
            raise FormatError(
                f"expected a whole number, found {raw.get(key)!r}", path=file, column=key
            )
        return int(raw[key])

    if not isinstance(raw.get("model"), str):
        raise FormatError("the model is missing", path=file, column="model")
    return Settings(
        gpu=raw.get("gpu", GPU),
        model=raw["model"],
        tp=whole("tensor_parallelism"),
        server="vLLM",
        token_budget=whole("max_num_batched_tokens"),
        max_seqs=whole("max_num_seqs"),
    )


def read_blis_means(path: Path) -> tuple[PublishedMeans, ...]:
    """Read the table of means and the settings beside it."""
    text, times = ("experiment", "model", "workload"), ("gt_e2e_ms", "gt_ttft_ms")
    errors = ("e2e_error", "ttft_error")
    kinds = dict.fromkeys(text, "text") | dict.fromkeys((*times, *errors), "time") | {"tp": "count"}
    table = read_columns(path, kinds, "Is this the table of BLIS means?")
    presets = _presets(path.with_name(path.name.replace("_means.csv", "_configs.json")))
    runs = []
    for i in range(len(table["line"])):
        workload = str(table["workload"][i])
        preset = presets.get(workload, _Preset())
        e2e, ttft = (float(table[name][i]) * MILLISECOND for name in times)
        runs.append(
            PublishedMeans(
                name=f"blis {table['model'][i]} TP{table['tp'][i]} {workload}",
                settings=Settings(
                    gpu=GPU,
                    model=str(table["model"][i]),
                    tp=int(table["tp"][i]),
                    server="vLLM",
                    token_budget=preset.options.get("max_num_batched_tokens"),
                    max_seqs=preset.options.get("max_num_seqs"),
                ),
                workload=workload,
                prompt=preset.prompt,
                output=preset.output,
                rates=preset.rates,
                e2e=e2e,
                ttft=ttft,
                cached=preset.cached,
                tpot=(e2e - ttft) / (preset.output - 1) if preset.output else None,
                published={
                    "BLIS e2e mean": float(table["e2e_error"][i]),
                    "BLIS ttft mean": float(table["ttft_error"][i]),
                },
            )
        )
    return tuple(runs)


def _presets(path: Path) -> dict[str, _Preset]:
    """Read the presets by workload: the first run is general, the second codegen."""
    if not path.is_file():
        return {}
    found: dict[str, _Preset] = {}
    for name, run in zip(("general", "codegen"), read_object(path), strict=False):
        try:
            load = run["workload"]["inference_perf"]
            text, stages = load["shared_prefix"], load["stages"]
            prompt = text["system_prompt_len"] + text["question_len"]
            distinct = text["num_unique_system_prompts"] * text["num_users_per_system_prompt"]
            # Few prompts, sent again and again: nearly every request finds the whole prompt.
            again = run["workload"]["num_requests"] >= _OFTEN * distinct
            cached = prompt - 1 if again else text["system_prompt_len"]
            rates = tuple(float(stage["rate"]) for stage in stages)
            found[name] = _Preset(prompt, text["output_len"], rates, run, cached)
        except (KeyError, TypeError) as error:
            raise FormatError(f"a run without {error}", path=path) from None
    return found
