"""Closed loops: NVIDIA's silicon samples (means) and IBM's LLM-Pilot runs (every token).

``silicon_*.csv``: one steady-state run a row; ``batch_size`` is the number of clients, ``isl`` and
``osl`` are tokens, TTFT and TPOT are means in milliseconds.

LLM-Pilot: requests of ``num_users`` clients for 120 s; times are epoch milliseconds. The first
entry of ``timestamps_per_token`` is the server acknowledging the request, the second one the first
token. Requests that failed or were unfinished at the end are not in the files.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from llmq.errors import FormatError
from llmq.io.measured._measured import ClosedMeans, OpenRun, Settings
from llmq.io.profiles._table import read_columns
from llmq.units import MILLISECOND

__all__ = ["read_llmpilot", "read_silicon"]


def read_silicon(path: Path) -> tuple[ClosedMeans, ...]:
    """Read a table of closed loops."""
    text = (
        "backend",
        "backend_version",
        "model_path",
        "system",
        "precision",
        "mode",
        "gemm_quant_mode",
        "pp_size",
        "attention_dp_size",
    )
    numbers = ("isl", "osl", "batch_size", "tp_size", "silicon_ttft_ms", "silicon_tpot_ms")
    kinds = dict.fromkeys(text, "text") | dict.fromkeys(numbers, "time?")
    table = read_columns(path, kinds, "Is this a silicon_*.csv?")
    runs = []
    for i, line in enumerate(table["line"].tolist()):
        if table["mode"][i] != "agg":
            continue
        row = {name: float(table[name][i]) for name in numbers}
        if not all(value > 0 for value in row.values()):
            bad = next(name for name, value in row.items() if not value > 0)
            raise FormatError("must be positive", path=path, line=line, column=bad)
        word = {name: str(table[name][i]) for name in text}
        wide = [name for name in ("pp_size", "attention_dp_size") if word[name] not in _ONE]
        parallel = f", {wide[0].removesuffix('_size')} {float(word[wide[0]]):g}" if wide else ""
        runs.append(
            ClosedMeans(
                name=f"{path.stem} line {line}",
                settings=Settings(
                    gpu=word["system"],
                    model=word["model_path"],
                    tp=int(row["tp_size"]),
                    server=f"{word['backend']} {word['backend_version']}".strip() + parallel,
                    precision=word["precision"] or word["gemm_quant_mode"],
                ),
                users=int(row["batch_size"]),
                prompt=int(row["isl"]),
                output=int(row["osl"]),
                ttft=row["silicon_ttft_ms"] * MILLISECOND,
                tpot=row["silicon_tpot_ms"] * MILLISECOND,
            )
        )
    return tuple(runs)


_ONE = ("", "1", "1.0")


def read_llmpilot(path: Path) -> tuple[OpenRun, ...]:
    """Read the runs of one model on one GPU type."""
    text = ("model", "gpu_type", "timestamps_per_token")
    numbers = ("num_users", "n_gpus", "start_timestamp", "n_input_tokens", "n_output_tokens")
    kinds = dict.fromkeys(text, "text") | dict.fromkeys(numbers, "time?")
    table = read_columns(path, kinds, "Is this an LLM-Pilot file?")
    bounds = np.array(
        [
            _first_and_last(cell, path, line)
            for cell, line in zip(
                table["timestamps_per_token"], table["line"].tolist(), strict=True
            )
        ]
    )
    known = (bounds[:, 0] > 0) & (table["n_input_tokens"] >= 1) & (table["n_output_tokens"] >= 1)
    runs = []
    for users in np.unique(table["num_users"][known]):
        rows = np.flatnonzero(known & (table["num_users"] == users))
        rows = rows[np.argsort(table["start_timestamp"][rows], kind="stable")]
        start = table["start_timestamp"][rows]
        first = rows[0]
        runs.append(
            OpenRun(
                name=f"{path.name.split('.')[0]} {int(users)} users",
                settings=Settings(
                    gpu=str(table["gpu_type"][first]),
                    model=str(table["model"][first]),
                    tp=int(table["n_gpus"][first]),
                    server="TGIS",
                ),
                arrival=(start - start[0]) * MILLISECOND,
                first_token=(bounds[rows, 0] - start[0]) * MILLISECOND,
                finish=(bounds[rows, 1] - start[0]) * MILLISECOND,
                prompt=table["n_input_tokens"][rows].astype(np.int64),
                output=table["n_output_tokens"][rows].astype(np.int64),
                users=int(users),
            )
        )
    return tuple(runs)


def _first_and_last(cell: str, path: Path, line: int) -> tuple[float, float]:
    """Epoch times (ms) of first and last token; zeros where there is no token."""
    _, _, rest = cell.strip("[] ").partition(",")  # without the acknowledgement
    if not rest:
        return 0.0, 0.0
    try:
        return float(rest.partition(",")[0]), float(rest.rpartition(",")[2])
    except ValueError:
        raise FormatError(
            f"expected a list of epoch milliseconds, found {cell[:30]!r}",
            path=path,
            line=line,
            column="timestamps_per_token",
        ) from None
