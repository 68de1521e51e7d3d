"""The engine's state second by second: simulated against what a vLLM server wrote of itself.

LLMServingSim's public run on an RTX PRO 6000 (vLLM 0.19, Llama-3.1-8B, 300 ShareGPT requests at
10 req/s, ``max_num_seqs`` 128, 2048 tokens an iteration) holds the engine's own samples, one a
second: requests running and waiting, prompt and generated tokens per second. Here the requests are
replayed by their arrival times through vLLM v1's rules, with iterations timed from the kernel
tables of that GPU (as in :mod:`experiments.validation`; nothing is fitted to the run) and, beside
it, from the affine law of the theory.

A sample of the simulated engine is its state after the last iteration that has ended: who came
during the next one is not counted as waiting, because a request reaches vLLM's scheduler between
two iterations (counting them brings the mean of the waiting 1.2 points closer). A prompt is counted
when its first token comes, as vLLM's statistics do. The server's column of KV use is 0 throughout:
it was not recorded, so that the simulated one stands alone. Errors are of the mean over the seconds
of the run, of the peak, and the correlation of the two series; the means of tokens per second agree
by themselves, since all tokens come within the run. Needs ``LLMQ_DATA``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from experiments.claim import Band, Claim, Finding, Status
from experiments.runner import PLAIN, Point, Row, Runner, Scale
from experiments.table import Table
from experiments.tile_staircase import data
from experiments.validation_profiles import Profiles, Source
from experiments.validation_runs import engine_of, timer_of
from llmq import policies
from llmq.errors import InputError
from llmq.io.measured import OpenRun
from llmq.io.measured._vllm import read_vllm_bench
from llmq.rng import RngLike
from llmq.sim._reference.kernel import KernelEngine, Timer
from llmq.sim.results._log import Job, Log

TITLE = "State of a measured vLLM server, second by second"
SEED = 7
NEEDS_DATA = True
SOURCE = "LLMServingSim's vLLM 0.19 run on an RTX PRO 6000 (casys-kaist/LLMServingSim 5daddb21a545)"
RUN = "measured/vllm_bench/RTXPRO6000_Llama-3.1-8B"
STATES = ("running", "waiting")
RATES = ("gen_throughput", "prompt_throughput")
LAWS = ("table", "affine")
# Set before the first comparison: as for the means of the same run, and a shape that agrees.
MEAN, PEAK, ALIKE = 0.05, 0.05, 0.98

Floats = npt.NDArray[np.float64]


class Watched(KernelEngine):
    """An engine that writes down its state when an iteration has ended."""

    def __init__(self, job: Job, log: Log, timer: Timer, *, prefix_hits: bool = False) -> None:
        super().__init__(job, log, timer, prefix_hits=prefix_hits)
        self.states: list[tuple[float, int, int, float]] = [(-math.inf, 0, 0, 0.0)]

    def complete(self) -> None:
        """End the iteration."""
        super().complete()
        total = self.engine.kv_blocks
        used = self.occupied() / total if math.isfinite(total) else math.nan
        running = sum(row.held > 0 for row in self.rows)
        # Who came since the iteration began has not reached the scheduler.
        self.states.append((self.clock, running, len(self.rows) - running, used))


def states_of(run: OpenRun, source: Source, law: str) -> dict[str, Floats]:
    """Replay a run and sample the engine at the server's seconds.

    Parameters
    ----------
    run : OpenRun
        With samples of the server.
    source : Source
        Iteration times of its GPU and model.
    law : {"table", "roofline", "affine"}
        Which of them.

    Returns
    -------
    dict of str to ndarray
        Running, waiting, share of the KV memory, and tokens per second.
    """
    closed = source.laws[law]
    timer = source.timer if law == "table" and source.timer is not None else timer_of(closed)
    engine = engine_of(run.settings, closed, source.kv_tokens)
    policy = policies.VLLM()
    n = len(run.arrival)
    log = Log.empty(n, tokens=True)
    arrival, prompt, output = (x.tolist() for x in (run.arrival, run.prompt, run.output))
    job = Job(engine, policy, arrival, prompt, output, [0] * n, [0] * n)
    server = Watched(job, log, timer, prefix_hits=run.settings.prefix_caching)
    server.queue.extend(range(n))
    server.advance(math.inf)
    t = run.series["t"]
    columns = (np.array(column) for column in zip(*server.states, strict=True))
    time, running, waiting, used = columns
    now = np.searchsorted(time, t, "right") - 1
    tokens = np.concatenate([np.array(one) for one in log.tokens or []])
    edges = np.concatenate(([0.0], t))
    return {
        "running": running[now].astype(float),
        "waiting": waiting[now].astype(float),
        "kv_cache_pct": 100.0 * used[now],
        "gen_throughput": np.histogram(tokens, edges)[0] / np.diff(edges),
        "prompt_throughput": np.histogram(log.first_token, edges, weights=run.prompt)[0]
        / np.diff(edges),
    }


def one(point: Point, _: np.random.SeedSequence) -> list[Row]:
    """Compare one law with the server."""
    run, source = found(data())
    rows = []
    simulated = states_of(run, source, point["law"])
    for name in (*STATES, *RATES, "kv_cache_pct"):
        for t, value in zip(run.series["t"].tolist(), simulated[name].tolist(), strict=True):
            rows.append(
                {"kind": "simulated", "law": point["law"], "series": name, "t": t, "value": value}
            )
    return rows


def found(root: Path) -> tuple[OpenRun, Source]:
    """Read the run and the tables of its GPU.

    Parameters
    ----------
    root : Path
        A folder with the layout of ``$LLMQ_DATA``.

    Returns
    -------
    tuple of OpenRun and Source
        Run and iteration times.
    """
    run = read_vllm_bench(root / RUN)
    source = Profiles(root).find(run.settings)
    if not isinstance(source, Source):
        raise InputError(f"{run.name}: {source}")
    if not {"t", *STATES} <= set(run.series):
        raise InputError(f"{run.name} holds no samples of running and waiting requests")
    return run, source


def measured(run: OpenRun) -> Iterator[Row]:
    """Say what the server wrote; a column of zeros was not recorded."""
    for name in (*STATES, *RATES, "kv_cache_pct"):
        values = run.series.get(name)
        if values is not None and values.any():
            for t, value in zip(run.series["t"].tolist(), values.tolist(), strict=True):
                yield {"kind": "measured", "law": "", "series": name, "t": t, "value": value}


def compute(*, scale: Scale = "small", rng: RngLike = SEED, runner: Runner = PLAIN) -> Table:
    """Sample the simulated and the measured engine.

    Parameters
    ----------
    scale : {"small", "full"}
        The kernel tables alone, or the affine law as well.
    rng : Generator, SeedSequence, int or None
        Not used: nothing is random.
    runner : Runner
        How points are computed.

    Returns
    -------
    Table
        A row for each second, series and law.
    """
    run, _ = found(data())
    laws = LAWS[:1] if scale == "small" else LAWS
    rows = [*measured(run), *runner.run(one, [{"law": law} for law in laws], rng)]
    return Table.of(
        "validation_timeseries",
        rows,
        units={"t": "s", "value": "as series"},
        about={"source": SOURCE},
    )


def compared(table: Table, series: str, law: str = "table") -> tuple[float, float, float]:
    """Compare a simulated series with the measured one.

    Parameters
    ----------
    table : Table
        From :func:`compute`.
    series, law : str
        Which.

    Returns
    -------
    tuple of float
        Error of the time mean, correlation, and error of the peak.
    """
    true = table.where(kind="measured", series=series)["value"]
    ours = table.where(kind="simulated", series=series, law=law)["value"]
    alike = float(np.corrcoef(true, ours)[0, 1])
    return float(ours.mean() / true.mean() - 1), alike, float(ours.max() / true.max() - 1)


def states(table: Table) -> Finding:
    """Judge: requests running and waiting, mean and peak within 5 %, correlation 0.98 and more."""
    words, good = [], True
    for name in STATES:
        mean, alike, peak = compared(table, name)
        good = good and abs(mean) <= MEAN and abs(peak) <= PEAK and alike >= ALIKE
        words.append(
            f"{name}: mean {100 * mean:+.1f} %, peak {100 * peak:+.1f} %, correlation {alike:.3f}"
        )
    return Finding(Status.BAND if good else Status.NOT, "; ".join(words))


def tokens(table: Table) -> Finding:
    """Judge: generated tokens per second, correlation 0.98 and more."""
    _, alike, _ = compared(table, RATES[0])
    words = f"correlation {alike:.3f} of single seconds"
    return Finding(Status.BAND if alike >= ALIKE else Status.NOT, words)


CLAIMS = (
    Claim(
        id="OURS-SERIES-1",
        band=Band.RESULTS,
        text="Requests running and waiting in a measured vLLM server follow second by second from "
        "kernel tables alone: means and peaks within 5 %, correlation of 0.98 and more.",
        source=SOURCE,
        judge=states,
        figure="vllm_timeseries",
        least=Status.BAND,
        test="../validation/test_timeseries.py::test_judges_can_fail",
    ),
    Claim(
        id="OURS-SERIES-2",
        band=Band.RESULTS,
        text="So do its generated tokens per second, of which a second holds some 30 iterations: "
        "correlation of 0.98 and more.",
        source=SOURCE,
        judge=tokens,
        figure="vllm_timeseries",
        least=Status.NOT,
        test="../validation/test_timeseries.py::test_judges_can_fail",
    ),
)
