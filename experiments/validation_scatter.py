"""Predicted against measured: every public run with iteration times, nothing fitted to the runs.

The runs, laws and errors are those of :mod:`experiments.validation`, which tells them apart run by
run; here each mean is one point. Kinds: ``vllm_bench`` (open arrivals, every request recorded),
``silicon`` (closed loops, H100), ``blis_guidellm`` (rate sweeps and spans), ``blis means``,
``llmpilot`` (TGIS, bound by its CPU). Splitwise's single steps have no such means. Needs
``LLMQ_DATA``.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from experiments import validation
from experiments.claim import Band, Claim, Finding, Status
from experiments.runner import PLAIN, Point, Row, Runner, Scale
from experiments.table import Table
from experiments.tile_staircase import data
from experiments.validation_runs import Row as Compared
from llmq.rng import RngLike

TITLE = "Predicted against measured runs"
SEED = 7
NEEDS_DATA = True
SOURCE = "vLLM, TensorRT-LLM and TGIS runs named in experiments/validation.py"
METRICS = ("ttft mean", "tpot mean", "e2e mean")
UNITS = {"measured": "s", "predicted": "s"}


def one(point: Point, _: np.random.SeedSequence) -> list[Row]:
    """Compare all runs of one kind."""
    return [
        row
        for found in validation.compute(data(), point["kind"])
        if isinstance(found, Compared)
        for row in _rows(found)
    ]


def _rows(found: Compared) -> Iterator[Row]:
    law = "table" if "table" in found.errors else next(iter(found.errors))
    settings = found.settings
    for metric in METRICS:
        true, error = found.measured.get(metric), found.errors[law].get(metric)
        if true is not None and error is not None and np.isfinite([true, error]).all():
            yield {
                "kind": "measured",
                "runs": found.kind,
                # Stages of a sweep have names; the other runs are told apart by what follows.
                "run": found.run if found.kind == "blis_guidellm" else "",
                "server": settings.server or "vLLM",
                "model": settings.model.split("/")[-1],
                "gpu": settings.gpu,
                "tp": settings.tp,
                "adjusted": int(any(note.startswith("ADJUSTED") for note in found.notes)),
                "metric": metric.removesuffix(" mean"),
                "measured": true,
                "predicted": true * (1 + error),
            }


def compute(*, scale: Scale = "small", rng: RngLike = SEED, runner: Runner = PLAIN) -> Table:
    """Compare predicted and measured means.

    Parameters
    ----------
    scale : {"small", "full"}
        One kind of runs or all.
    rng : Generator, SeedSequence, int or None
        Not used: the simulations have their own seeds.
    runner : Runner
        How points are computed.

    Returns
    -------
    Table
        A row for each run and metric.
    """
    kinds = ("vllm_bench",) if scale == "small" else validation.KINDS
    rows = runner.run(one, [{"kind": kind} for kind in kinds], rng)
    return Table.of("validation_scatter", rows, units=UNITS, about={"source": SOURCE})


def _error(rows: Table) -> float:
    return float(np.abs(rows["predicted"] / rows["measured"] - 1).mean())


def bench(table: Table) -> Finding:
    """Judge: the run with everything recorded, within 5 % (TTFT) and 3 % (TPOT, E2E)."""
    rows = table.where(runs="vllm_bench")
    found = {name: _error(rows.where(metric=name)) for name in ("ttft", "tpot", "e2e")}
    good = found["ttft"] <= 0.05 and max(found["tpot"], found["e2e"]) <= 0.03
    words = ", ".join(f"{name.upper()} {100 * error:.1f} %" for name, error in found.items())
    return Finding(Status.BAND if good else Status.NOT, words)


def loops(table: Table) -> Finding:
    """Judge: TPOT of Llama-3.1-8B closed loops, 6 % on one GPU and 12 % on two and on four."""
    rows = table.where(runs="silicon", metric="tpot", model="Llama-3.1-8B-Instruct")
    if not len(rows):
        return Finding(Status.NOT, "these runs are compared at full scale only")
    found = {tp: _error(rows.where(tp=tp)) for tp in (1, 2, 4)}
    good = found[1] <= 0.06 and max(found[2], found[4]) <= 0.12
    words = ", ".join(f"TP{tp} {100 * error:.1f} %" for tp, error in found.items())
    return Finding(Status.BAND if good else Status.NOT, words)


def eight(table: Table) -> Finding:
    """Judge: TPOT of closed loops on eight GPUs, 12 % as on two and four."""
    rows = table.where(runs="silicon", metric="tpot", tp=8)
    if not len(rows):
        return Finding(Status.NOT, "these runs are compared at full scale only")
    models = dict.fromkeys(rows["model"].tolist())
    found = {model: _error(rows.where(model=model)) for model in models}
    words = ", ".join(f"{model} {100 * error:.1f} %" for model, error in found.items())
    return Finding(Status.BAND if max(found.values()) <= 0.12 else Status.NOT, words)


def modern(table: Table) -> Table:
    """Return the runs of servers of 2025 and 2026."""
    return table.where(runs=["vllm_bench", "silicon", "blis_guidellm", "blis means"])


def within(rows: Table, metric: str, band: float = 0.12) -> tuple[int, int]:
    """Count the runs whose mean lies within a band, and all."""
    mine = rows.where(metric=metric)
    off = np.abs(mine["predicted"] / mine["measured"] - 1)
    return int((off <= band).sum()), len(mine)


def shares(table: Table) -> Finding:
    """Judge: half of the modern runs within 12 %, in TPOT and in TTFT (TPOT alone: direction)."""
    rows = modern(table)
    counts = {metric: within(rows, metric) for metric in ("tpot", "ttft")}
    words = ", ".join(
        f"{metric.upper()} {near} of {n} runs ({near / max(n, 1):.0%})"
        for metric, (near, n) in counts.items()
    )
    good = {metric: 2 * near >= n > 0 for metric, (near, n) in counts.items()}
    both = Status.BAND if good["ttft"] else Status.DIRECTION
    return Finding(both if good["tpot"] else Status.NOT, words)


CLAIMS = (
    Claim(
        id="OURS-VALID-1",
        band=Band.NOTES,
        text="Means of a measured vLLM run follow from kernel tables alone within 5 % (TTFT) "
        "and 3 % (TPOT, E2E).",
        source="LLMServingSim's public run on an RTX PRO 6000",
        judge=bench,
        figure="validation_scatter",
        least=Status.BAND,
        test="test_ours.py::test_runs_can_fail",
    ),
    Claim(
        id="OURS-VALID-2",
        band=Band.NOTES,
        text="TPOT of closed loops of Llama-3.1-8B on H100: 6 % on one GPU, 12 % on two and four.",
        source="AIConfigurator's silicon samples",
        judge=loops,
        figure="validation_scatter",
        least=Status.NOT,
        test="test_ours.py::test_runs_can_fail",
    ),
    Claim(
        id="OURS-VALID-3",
        band=Band.NOTES,
        text="TPOT of closed loops on eight H100s: 12 %, as on two and four.",
        source="AIConfigurator's silicon samples",
        judge=eight,
        figure="validation_scatter",
        least=Status.NOT,
        test="test_ours.py::test_runs_can_fail",
    ),
    Claim(
        id="OURS-VALID-4",
        band=Band.RESULTS,
        text="Half of the runs on servers of 2025 and 2026 are within 12 % in TPOT and in TTFT.",
        source="all public runs with iteration times",
        judge=shares,
        figure="validation_scatter",
        least=Status.DIRECTION,
        test="test_ours.py::test_runs_can_fail",
    ),
)
