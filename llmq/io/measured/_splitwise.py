"""Splitwise's measured steps: one prompt batch and one decode step a row, times in milliseconds.

``prompt_time`` is the time of a prefill of ``batch_size`` prompts of ``prompt_size`` tokens,
``token_time`` the mean time of a decode step while ``token_size`` tokens were generated.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from llmq.io.profiles._table import read_columns
from llmq.units import MILLISECOND

__all__ = ["StepTimes", "read_splitwise"]

Floats: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StepTimes:
    """Measured steps of one model on one GPU type."""

    # name, gpu, model: what was measured
    name: str
    gpu: str
    model: str
    tp: int  # GPUs that share the model
    # prompt, batch, output: tokens of a prompt, prompts, tokens generated; shape (n,)
    prompt: Ints
    batch: Ints
    output: Ints
    # prefill, decode: seconds of the prefill and of a decode step, medians of the repeats;
    # shape (n,)
    prefill: Floats
    decode: Floats


def read_splitwise(path: Path) -> tuple[StepTimes, ...]:
    """Read the table."""
    counts = ("prompt_size", "batch_size", "token_size", "tensor_parallel")
    kinds = dict.fromkeys(("model", "hardware"), "text") | dict.fromkeys(counts, "count")
    table = read_columns(
        path, kinds | dict.fromkeys(("prompt_time", "token_time"), "time"), "Is this Splitwise's?"
    )
    found = []
    cases = zip(*(table[n].tolist() for n in ("model", "hardware", "tensor_parallel")), strict=True)
    for model, gpu, tp in sorted(set(cases)):
        mine = (table["model"] == model) & (table["hardware"] == gpu)
        mine &= table["tensor_parallel"] == tp
        points = np.column_stack([table[name][mine] for name in counts[:3]])
        distinct, where = np.unique(points, axis=0, return_inverse=True)
        prefill, decode = (
            np.array([np.median(times[where.ravel() == i]) for i in range(len(distinct))])
            for times in (table["prompt_time"][mine], table["token_time"][mine])
        )
        found.append(
            StepTimes(
                name=f"{path.stem} {gpu} TP{tp}",
                gpu=gpu,
                model=model,
                tp=tp,
                prompt=distinct[:, 0],
                batch=distinct[:, 1],
                output=distinct[:, 2],
                prefill=prefill * MILLISECOND,
                decode=decode * MILLISECOND,
            )
        )
    return tuple(found)
