r"""Calibration against real GPUs: every measured run of a folder, simulated with nothing fitted.

    python -m experiments.validation --data DIR [--only KIND] [--json]

``DIR`` has the layout of ``$LLMQ_DATA`` (the default): ``profiles/`` with kernel tables and
``measured/`` with runs. Each run is served by an engine composed from the profile of its GPU, model
and degree of tensor parallelism and replayed by its timestamps or with its clients; three laws are
compared: the kernel table, the roofline and the affine law of the theory. A run without a profile
is listed with the reason. No law, setting or overhead is chosen by looking at a run's times; the
variant with 0.5 ms an iteration is an assumption about the CPU, the same for every run. What the
files of a run do not say and the description of its data set does (a prefix that all prompts
share) is an adjustment: such a run is marked "adjusted", with what was set.

Beside the errors stand those that other simulators published about the same runs, read from the
folder or quoted here with their source.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from experiments.validation_profiles import Profiles, Source
from experiments.validation_report import as_text
from experiments.validation_runs import (
    Row,
    compare_means,
    compare_open,
    compare_pilot,
    compare_published,
    compare_steps,
)
from llmq.errors import InputError, LlmqError
from llmq.io.measured import OpenRun, Settings
from llmq.io.measured._blis import read_blis_means, read_guidellm, read_otel
from llmq.io.measured._closed import read_llmpilot, read_silicon
from llmq.io.measured._splitwise import read_splitwise
from llmq.io.measured._vllm import read_vllm_bench

KINDS = ("vllm_bench", "silicon", "blis_guidellm", "blis means", "llmpilot", "splitwise")
APART = 600.0  # seconds between requests that shall not meet
# Tokens that all prompts of a run share and its server had cached. No file of the run holds them:
# the data set's description says so, and a run that is served with them is marked as adjusted.
DESCRIBED_PREFIX = {"jan20-prefill-llama7b-tp1-1": 1024}
ADJUSTED = (
    "ADJUSTED: the first {} tokens of every prompt are taken as cached; the description of the "
    "data set says so, the files of the run do not"
)


@dataclass(frozen=True, slots=True)
class Skipped:
    """A run that was not compared, and why."""

    kind: str
    run: str
    reason: str


def compute(root: Path, only: str | None = None) -> list[Row | Skipped]:
    """Compare every run of a folder.

    Parameters
    ----------
    root : Path
        The folder.
    only : str, optional
        One of ``KINDS``.

    Returns
    -------
    list of Row or Skipped
        In the order of the kinds.
    """
    if not (root / "measured").is_dir():
        raise InputError(f"{root} has no folder measured/: expected the layout of $LLMQ_DATA")
    profiles = Profiles(root)
    walks = (vllm_bench, silicon, guidellm, blis_means, llmpilot, splitwise)
    found: list[Row | Skipped] = []
    for kind, walk in zip(KINDS, walks, strict=True):
        if only in (None, kind):
            found += walk(root / "measured", profiles)
    return found


def _compared(
    kind: str, run: str, compare: Callable[..., Row | str | list[Row]], *arguments: object
) -> list[Row | Skipped]:
    """Compare, or say what a run asks that cannot be simulated."""
    try:
        found = compare(*arguments)
    except LlmqError as error:
        found = f"cannot be simulated: {error}"
    if isinstance(found, str):
        return [Skipped(kind, run, found)]
    return [*found] if isinstance(found, list) else [found]


def _source(profiles: Profiles, settings: Settings, kind: str, run: str) -> Source | Skipped:
    found = profiles.find(settings)
    return found if isinstance(found, Source) else Skipped(kind, run, found)


def vllm_bench(measured: Path, profiles: Profiles) -> Iterator[Row | Skipped]:
    """Walk the folders of LLMServingSim's benchmark."""
    for file in sorted(measured.glob("vllm_bench/**/requests.jsonl")):
        try:
            run = read_vllm_bench(file.parent)
        except InputError as error:
            yield Skipped("vllm_bench", file.parent.name, str(error))
            continue
        source = _source(profiles, run.settings, "vllm_bench", run.name)
        if isinstance(source, Skipped):
            yield source
        else:
            yield from _compared("vllm_bench", run.name, compare_open, run, source, "vllm_bench")


def silicon(measured: Path, profiles: Profiles) -> Iterator[Row | Skipped]:
    """Walk the closed loops of equal requests."""
    for file in sorted(measured.glob("silicon_*.csv*")):
        for run in read_silicon(file):
            what = f"{run.settings.model} TP{run.settings.tp} {run.settings.server}"
            if run.settings.server.startswith("sglang"):
                reason = "TTFT of seconds: its clients wait outside the batch (data set's README)"
                yield Skipped("silicon", what, reason)
                continue
            source = _source(profiles, run.settings, "silicon", what)
            if isinstance(source, Skipped):
                yield source
            else:
                yield from _compared("silicon", what, compare_means, run, source)


def guidellm(measured: Path, profiles: Profiles) -> Iterator[Row | Skipped]:
    """Walk the stages of guidellm and the spans of vLLM."""
    for file in sorted(measured.glob("blis_guidellm/*_*.csv*")):
        run = (read_otel if "_otel" in file.name else read_guidellm)(file)
        prefix = next((n for key, n in DESCRIBED_PREFIX.items() if key in run.name), 0)
        source = _source(profiles, run.settings, "blis_guidellm", run.name)
        if isinstance(source, Skipped):
            yield source
        else:
            if prefix:
                said = (*run.notes, ADJUSTED.format(f"{prefix:,}"))
                run = replace(run.behind(prefix), notes=said)
            for part in one_by_one(run):
                yield from _compared(
                    "blis_guidellm", run.name, compare_open, part, source, "blis_guidellm"
                )


def one_by_one(run: OpenRun) -> Iterator[OpenRun]:
    """Take apart the stages in which a request waits for the answer to the last one.

    Replayed by its timestamps, a client that is a little slower would meet itself; so these
    requests are sent far apart, which is what they met.
    """
    stage = np.zeros(len(run.arrival), dtype=np.int64) if run.stage is None else run.stage
    alone = np.isin(stage, [i for i, s in enumerate(run.stages) if s.startswith("synchronous")])
    for rows, apart in ((alone, True), (~alone, False)):
        if rows.any():
            arrival = run.arrival[rows]
            shift = APART * np.arange(len(arrival)) - arrival if apart else -arrival.min()
            yield replace(
                run,
                arrival=arrival + shift,
                first_token=run.first_token[rows] + shift,
                finish=run.finish[rows] + shift,
                prompt=run.prompt[rows],
                output=run.output[rows],
                stage=stage[rows],
            )


def blis_means(measured: Path, profiles: Profiles) -> Iterator[Row | Skipped]:
    """Walk the published means."""
    for file in sorted(measured.glob("blis_*_means.csv")):
        for run in read_blis_means(file):
            source = _source(profiles, run.settings, "blis means", run.name)
            if isinstance(source, Skipped):
                yield source
            else:
                yield from _compared("blis means", run.name, compare_published, run, source)


def llmpilot(measured: Path, profiles: Profiles) -> Iterator[Row | Skipped]:
    """Walk the closed loops with the time of every token."""
    for file in sorted(measured.glob("llmpilot/*.csv*")):
        for run in read_llmpilot(file):
            source = _source(profiles, run.settings, "llmpilot", run.name)
            if isinstance(source, Skipped):
                yield source
            else:
                yield from _compared("llmpilot", run.name, compare_pilot, run, source)


def splitwise(measured: Path, profiles: Profiles) -> Iterator[Row | Skipped]:
    """Walk the prefills and decode steps."""
    for file in sorted(measured.glob("splitwise_*.csv")):
        for steps in read_splitwise(file):
            settings = Settings(gpu=steps.gpu, model=steps.model, tp=steps.tp, server="vLLM 2023")
            source = _source(profiles, settings, "splitwise", steps.name)
            if isinstance(source, Skipped):
                yield source
            else:
                yield from _compared(
                    "splitwise", steps.name, compare_steps, steps, settings, source
                )


def _finite(value: object) -> object:
    """Put null where a number is not one: JSON knows no NaN."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def main(argv: list[str] | None = None) -> int:
    """Run the comparison and print it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    place = os.environ.get("LLMQ_DATA")
    parser.add_argument("--data", type=Path, default=place, required=place is None)
    parser.add_argument("--only", choices=KINDS)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(argv)
    try:
        rows = compute(Path(options.data), options.only)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if options.json:
        done = [asdict(row) for row in rows if isinstance(row, Row)]
        left = [asdict(row) for row in rows if isinstance(row, Skipped)]
        print(json.dumps(_finite({"runs": done, "skipped": left}), indent=1, allow_nan=False))
    else:
        print(as_text(rows))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
