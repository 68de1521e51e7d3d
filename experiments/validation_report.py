"""The comparison as text, with what other simulators published about the same runs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from llmq.units import format_rate, format_seconds

# Published accuracy of other simulators, by sort of run, with the source.
PUBLISHED = {
    "vllm_bench": "LLMServingSim: from each run's summary.txt.",
    "silicon": "No simulator published errors on these runs. Over 18 vLLM runs AIConfigurator 0.9, "
    "which the tables come from, has 15.4 % mean error in ITL and 22.2 % in E2E "
    "(inference-sim/sim-to-real-accuracy-validation, results_iter36).",
    "blis_guidellm": "BLIS, coefficients trained on H100 runs: over 38 vLLM runs 9.1 % mean and "
    "6.8 % median error in mean E2E, 19.5 % in TTFT, 9.8 % in ITL (same source).",
    "blis means": "BLIS, calibrated to each run: from the data's own columns.",
    "llmpilot": "BLIS reports vLLM runs only (9.1 % mean error in E2E over 38 of them); no "
    "simulator published errors on TGIS.",
    "splitwise": "Forms fitted to these very steps: affine decode 2.1-2.7 % (TP4), roofline "
    "prefill 6.6-9.9 % out of sample.",
}
# What the errors are made of: only what a variant here or a column of the data measures.
WHY = {
    "vllm_bench": "Half a millisecond an iteration (the variant) takes away most of what is left "
    "here; on the guidellm runs it does not, so it is no general explanation.",
    "silicon": "The measured TTFT of these closed loops holds the wait for a slot. Adding the time "
    "of one completion (the third line) lowers the error on TensorRT-LLM from 71-83 to 29-55 % and "
    "raises it on vLLM; what the rest is was not measured. TPOT is too small, and the more so the "
    "more GPUs share an iteration; the cause was not measured.",
    "blis means": "Lengths and rates are the presets of the Llama-2-7B runs; how turns grow the "
    "prompts and how arrivals are spread was not published.",
    "llmpilot": "Steps fitted by their token times: TGIS spends 0.56 ms (A100) and 0.41 ms (H100) "
    "of every decode step on each sequence, 10-50 times what kernels need; failed and unfinished "
    "requests are not in the files.",
    "splitwise": "On A100 a measured decode step takes 44 ms on 4 GPUs and on 8, though each reads "
    "half the weights; kernel tables, made with CUDA graphs, know no such floor.",
}
LAWS = ("table", "table + 0.5 ms", "roofline", "affine")


def percent(value: float) -> str:
    """Write a signed error."""
    return f"{100 * value:+.1f}"


def as_text(rows: Sequence[Any]) -> str:
    """Write tables by sort of run, then what was left out."""
    kinds = list(dict.fromkeys(row.kind for row in rows))
    lines: list[str] = []
    for kind in kinds:
        mine = [row for row in rows if row.kind == kind]
        done = [row for row in mine if hasattr(row, "errors")]
        lines += [f"== {kind}", *_bodies[kind](done)] if done else [f"== {kind}: none compared"]
        lines += [f"   published  {PUBLISHED[kind]}"] if done else []
        lines += [f"   why        {WHY[kind]}"] if done and kind in WHY else []
        lines += _left_out(row for row in mine if not hasattr(row, "errors"))
        lines.append("")
    return "\n".join(lines).rstrip()


def _left_out(rows: Iterable[Any]) -> Iterator[str]:
    groups: dict[tuple[str, str], int] = defaultdict(int)
    for row in rows:
        groups[row.run, row.reason] += 1
    for (run, reason), count in groups.items():
        yield f"   left out: {run}{f' ({count} runs)' if count > 1 else ''}: {reason}"


def _value(name: str, value: float) -> str:
    if name == "throughput":
        return f"{value:,.0f} tokens/s"
    return format_rate(value) if name == "requests per second" else format_seconds(value)


def one_by_one(rows: Sequence[Any]) -> Iterator[str]:
    """Write every run with every metric."""
    for row in rows:
        yield f"{row.run}: {row.settings.model} on {row.settings.gpu}, TP{row.settings.tp}"
        yield f"   times from {row.source}"
        laws = [law for law in LAWS if law in row.errors]
        others = sorted({key.split()[0] for key in row.published})
        heads = "".join(f"{head:>16}" for head in ("measured", *laws, *others))
        yield f"   {'error, %':<20}{heads}"
        for name, truth in row.measured.items():
            cells = [percent(row.errors[law][name]) for law in laws if name in row.errors[law]]
            theirs = [row.published.get(f"{other} {name}") for other in others]
            cells += ["" if value is None else percent(value) for value in theirs]
            shown = "".join(f"{cell:>16}" for cell in (_value(name, truth), *cells))
            yield f"   {name:<20}{shown}"
        yield from (f"   note: {note}" for note in dict.fromkeys(row.notes) if note)


def grouped(rows: Sequence[Any]) -> Iterator[str]:
    """Write mean absolute error and bias over the runs of one model, degree and server."""
    groups: dict[tuple[str, int, str], list[Any]] = defaultdict(list)
    for row in rows:
        groups[row.settings.model, row.settings.tp, row.settings.server].append(row)
    for (model, tp, server), mine in groups.items():
        yield f"{model} TP{tp} {server}, {mine[0].settings.gpu}: {len(mine)} runs, {mine[0].source}"
        for metric in mine[0].measured:
            cells = []
            for law in (law for law in LAWS if law in mine[0].errors):
                errors = np.array([row.errors[law][metric] for row in mine])
                size, bias = 100 * np.abs(errors).mean(), 100 * errors.mean()
                cells.append(f"{law} {size:.1f} (bias {bias:+.1f})")
            yield f"   {metric} MAPE %: {', '.join(cells)}"
        yield from (f"   note: {note}" for note in dict.fromkeys(mine[0].notes) if note)


def steps(rows: Sequence[Any]) -> Iterator[str]:
    """Write the errors of single iterations."""
    for row in rows:
        yield f"{row.run}: {row.source}"
        for law in (law for law in LAWS if law in row.errors):
            cells = ", ".join(f"{name} {percent(x)}" for name, x in row.errors[law].items())
            yield f"   {law:<10} {cells}"
        yield from (f"   note: {note}" for note in dict.fromkeys(row.notes) if note)


_bodies = {
    "vllm_bench": one_by_one,
    "silicon": grouped,
    "blis_guidellm": one_by_one,
    "blis means": one_by_one,
    "llmpilot": one_by_one,
    "splitwise": steps,
}
