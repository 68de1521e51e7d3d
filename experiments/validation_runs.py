"""Measured runs against simulated ones: what was sent is replayed, what came out is compared.

The scheduler is that of vLLM v1 as :class:`llmq.policies.Sarathi` has it: decodes first, started
prefills next, then new requests in order of arrival, chunked into what the budget leaves; no
watermark, and KV for a whole prompt at admission. TGIS processes whole prompts in iterations of
their own, as :class:`llmq.policies.VLLM` does. Errors are fractions: simulated over measured less
1.

Assumed where a source does not say: the token budget is the default of the server (8192 tokens for
TensorRT-LLM, and for vLLM v1 on GPUs of 70 GB and more except A100; else 2048), with no limit on
resident requests. Equal clients of a closed loop are out of phase: the first request of client
``i`` of ``c`` is cut to ``(i + 1) / c`` of its output, and only later ones are measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

import llmq
from experiments.validation_profiles import Source, plain
from llmq import policies
from llmq.io.measured import ClosedMeans, OpenRun, PublishedMeans, Settings
from llmq.io.measured._splitwise import StepTimes
from llmq.model.trace import Trace
from llmq.sim._closed import follow
from llmq.sim._dispatch import serve
from llmq.sim._reference.kernel import KernelEngine, Timer
from llmq.sim.results._log import Job, Log

OVERHEAD = 0.0005  # seconds of an iteration outside its kernels, in the variant that assumes some
VARIANT = "table + 0.5 ms"
BUDGET, BUDGET_LARGE = 2048, 8192
LARGE = ("h100", "h200", "b200", "b300", "gb200", "gb300", "rtxpro6000")
WAITED = "ttft mean with a completion waited for"
# Beyond this many iterations the law fitted to the tables stands for the tables themselves.
MOST_ITERATIONS = 20_000
PILOT_REQUESTS = 600
MEANS_REQUESTS, SEED = 1500, 20_260_424

Errors = dict[str, dict[str, float]]


@dataclass(frozen=True, slots=True)
class Row:
    """One compared run.

    Parameters
    ----------
    kind, run : str
        Sort of data and name.
    settings : Settings
        What served it.
    source : str
        Where the iteration times come from.
    measured : mapping of str to float
        Seconds, or tokens or requests per second.
    errors : mapping of str to mapping
        By law and metric, fractions.
    published : mapping of str to float
        Errors of other simulators on the run.
    notes : tuple of str
        What the comparison rests on.
    """

    kind: str
    run: str
    settings: Settings
    source: str
    measured: Mapping[str, float]
    errors: Mapping[str, Mapping[str, float]]
    published: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def summary(
    arrival: np.ndarray, first: np.ndarray, finish: np.ndarray, output: np.ndarray
) -> dict[str, float]:
    """Return mean, median and p99 of TTFT, TPOT and E2E, and output tokens per second."""
    many = output > 1
    values = {
        "ttft": first - arrival,
        "tpot": (finish - first)[many] / (output[many] - 1),
        "e2e": finish - arrival,
    }
    found: dict[str, float] = {}
    for name, x in values.items():
        if x.size:
            found |= {
                f"{name} mean": float(x.mean()),
                f"{name} p50": float(np.median(x)),
                f"{name} p99": float(np.quantile(x, 0.99)),
            }
    span = float(finish.max() - arrival.min())
    return found | {"throughput": float(output.sum()) / span}


def relative(found: Mapping[str, float], truth: Mapping[str, float]) -> dict[str, float]:
    """Return the errors of the metrics that were measured."""
    return {name: found[name] / truth[name] - 1 for name in truth if name in found}


def engine_of(settings: Settings, law: llmq.BatchTime, kv_tokens: int | None) -> llmq.Engine:
    """Compose the engine of a run."""
    large = settings.server.lower().startswith("vllm") and plain(settings.gpu) in LARGE
    default = BUDGET_LARGE if large or settings.server.startswith("trtllm") else BUDGET
    return llmq.Engine(
        law,
        token_budget=settings.token_budget or default,
        max_seqs=settings.max_seqs,
        kv_tokens=kv_tokens,
        kv_block=settings.kv_block,
    )


def timer_of(law: llmq.BatchTime) -> Timer:
    """Make a law of sums a function of the whole iteration."""

    def time(chunks: Sequence[tuple[int, int]], contexts: Sequence[int], emitting: int) -> float:
        tokens = sum(p for p, _ in chunks) + len(contexts)
        kv = sum(p + c for p, c in chunks) + sum(contexts)
        work = sum(p * (c + p / 2) for p, c in chunks)
        return float(law(tokens, kv, work, mixed=bool(chunks)))

    return time


def behind(timer: Timer, prefix: int) -> Timer:
    """Time requests that stand behind a cached prefix."""
    return lambda chunks, contexts, emitting: timer(
        [(p, c + prefix) for p, c in chunks], [x + prefix for x in contexts], emitting
    )


def replay(
    trace: Trace, engine: llmq.Engine, timer: Timer, *, hits: bool
) -> tuple[Log, KernelEngine]:
    """Serve a trace with iterations timed from their whole composition."""
    names = ("arrival", "prompt", "output", "reasoning", "klass")
    arrival, prompt, output, hidden, klass = (getattr(trace, name).tolist() for name in names)
    policy = policies.Sarathi(watermark=0.0)
    log = Log.empty(len(trace))
    server = KernelEngine(
        Job(engine, policy, arrival, prompt, output, hidden, klass, trace.classes),
        log,
        timer,
        prefix_hits=hits,
    )
    server.queue.extend(range(len(trace)))
    server.advance(math.inf)
    return log, server


# --- open arrivals ------------------------------------------------------------------------------


def compare_open(run: OpenRun, source: Source, kind: str) -> list[Row]:
    """Replay a run by its timestamps; one row, or one for each of its stages."""
    prompt = np.maximum(run.prompt - run.shared_prefix, 1)
    trace = Trace(run.arrival, prompt, run.output)
    present = np.sum(run.finish - run.arrival) / run.finish.max()
    detailed = run.output.sum() / max(present, 1.0) <= MOST_ITERATIONS
    hits = run.settings.prefix_caching
    engines = {f: engine_of(run.settings, law, source.kv_tokens) for f, law in source.laws.items()}
    timers: dict[str, Timer | None] = dict.fromkeys(source.laws)
    notes = list(source.notes)
    if source.timer is not None and detailed:
        timers |= {"table": source.timer, VARIANT: source.slower(OVERHEAD).timer}
        engines[VARIANT] = engines["table"]
    elif source.timer is not None:
        notes.append("long run: the law fitted to the tables, not the tables")
    logs = {}
    for name, timer in timers.items():
        engine = engines[name]
        if run.shared_prefix:
            timer = behind(timer or timer_of(engine.law), run.shared_prefix)
        evicted = False
        if timer is None:
            policy = policies.Sarathi(watermark=0.0)
            path = serve(trace, (engine,), policy, rng=np.random.default_rng(0))
            log, evicted = path.log, path.tallies[0].evictions > 0
        if timer is not None or (hits and evicted):
            log, server = replay(trace, engine, timer or timer_of(engine.law), hits=hits)
            notes += _remarks(name, server)
        logs[name] = np.array([log.first_token, log.finish])
    notes += _agreement(run, logs)
    stage = np.zeros(len(trace), dtype=np.int64) if run.stage is None else run.stage
    rows = []
    for code, label in enumerate(run.stages or ("",)):
        mine = stage == code
        if not mine.any():
            continue
        few = run.arrival[mine], run.output[mine]
        truth = summary(few[0], run.first_token[mine], run.finish[mine], few[1])
        if label.startswith("synchronous"):
            truth.pop("throughput")  # its requests are sent as slowly as one likes
        errors = {
            name: relative(summary(few[0], times[0, mine], times[1, mine], few[1]), truth)
            for name, times in logs.items()
        }
        name = f"{run.name} {label}".strip()
        rows.append(
            Row(
                kind,
                name,
                run.settings,
                source.label,
                truth,
                errors,
                run.published,
                (*run.notes, *notes),
            )
        )
    return rows


def _remarks(name: str, server: KernelEngine) -> list[str]:
    said = []
    if server.outside:
        share = server.outside / server.tally.iterations
        said.append(f"{name}: {100 * share:.2g} % of the iterations lie outside the tables")
    if server.tally.evictions:
        said.append(f"{name}: {server.tally.evictions} evictions")
    return said


def _agreement(run: OpenRun, logs: Mapping[str, np.ndarray]) -> list[str]:
    """Compare how many requests were present with the server's own count, each second."""
    if "table" not in logs or not {"t", "running", "waiting"} <= set(run.series):
        return []
    t = run.series["t"]
    truth = run.series["running"] + run.series["waiting"]
    finish = np.sort(logs["table"][1])
    here = np.searchsorted(run.arrival, t, "right") - np.searchsorted(finish, t, "right")
    gap = float(np.mean(np.abs(here - truth)))
    return [f"requests present differ by {gap:.1f} of {truth.mean():.1f} in the mean of seconds"]


# --- closed loops ---------------------------------------------------------------------------------


def compare_means(run: ClosedMeans, source: Source) -> Row:
    """Simulate equal clients out of phase and compare the means."""
    users, output = run.users, run.output
    first = [max(1, math.ceil(output * (i + 1) / users)) for i in range(users)]
    n = 3 * users
    lengths = Trace([0.0] * n, [run.prompt] * n, first + [output] * (2 * users))
    truth = {"ttft mean": run.ttft, "tpot mean": run.tpot, WAITED: run.ttft}
    errors = {}
    for name, law in source.laws.items():
        engine = engine_of(run.settings, law, source.kv_tokens)
        sent, path = follow(lengths, users, (engine,), policies.Sarathi(watermark=0.0))
        mine = slice(users, 2 * users)
        begun, ended = (np.array(x)[mine] for x in (path.log.first_token, path.log.finish))
        found = {
            "ttft mean": float(np.mean(begun - sent.arrival[mine])),
            "tpot mean": float(np.mean(ended - begun)) / max(output - 1, 1),
        }
        # Servers that free a slot one completion late let every request wait for one completion.
        found[WAITED] = found["ttft mean"] + float(np.mean(ended - sent.arrival[mine])) / users
        errors[name] = relative(found, truth)
    return Row("silicon", run.name, run.settings, source.label, truth, errors, {}, source.notes)


def compare_pilot(run: OpenRun, source: Source) -> Row:
    """Let as many clients send the recorded requests in their order."""
    n, users = min(len(run.arrival), PILOT_REQUESTS), run.users or 1
    some = slice(0, n)
    lengths = Trace(np.zeros(n), run.prompt[some], run.output[some])
    skip = slice(min(users, n // 2), n)

    def means(arrival: np.ndarray, first: np.ndarray, finish: np.ndarray) -> dict[str, float]:
        found = summary(arrival[skip], first[skip], finish[skip], run.output[some][skip])
        span = arrival[n - 1] - arrival[skip.start]
        kept = {key: found[key] for key in ("ttft mean", "tpot mean", "e2e mean") if key in found}
        return kept | {"requests per second": (n - 1 - skip.start) / span if span > 0 else math.nan}

    truth = means(run.arrival[some], run.first_token[some], run.finish[some])
    errors = {}
    for name, law in source.laws.items():
        engine = engine_of(run.settings, law, source.kv_tokens).with_(token_budget=8192)
        sent, path = follow(lengths, users, (engine,), policies.VLLM(version="v0"))
        log = path.log
        found = means(sent.arrival, np.array(log.first_token), np.array(log.finish))
        errors[name] = relative(found, truth)
    return Row("llmpilot", run.name, run.settings, source.label, truth, errors, {}, source.notes)


# --- means and steps ------------------------------------------------------------------------------


def compare_published(run: PublishedMeans, source: Source) -> Row | str:
    """Simulate Poisson arrivals of equal requests at the rates of the stages."""
    if run.prompt is None or run.output is None or not run.rates:
        return "lengths and rates of this workload are not in the folder"
    truth = {"e2e mean": run.e2e, "ttft mean": run.ttft}
    if run.tpot is not None:
        truth["tpot mean"] = run.tpot
    cached = run.cached // 16 * 16
    mix = {"all": llmq.RequestClass(max(round(run.prompt) - cached, 1), round(run.output))}
    share = np.array(run.rates) / sum(run.rates)
    errors: Errors = {}
    for name, law in source.laws.items():
        engine = engine_of(run.settings, reading(law, cached), source.kv_tokens)
        total = dict.fromkeys(truth, 0.0)
        for rate, weight in zip(run.rates, share, strict=True):
            work = llmq.Workload.poisson(rate, mix)
            done = llmq.simulate(
                engine, work, policies.Sarathi(watermark=0.0), requests=MEANS_REQUESTS, rng=SEED
            )
            for key in total:
                total[key] += (
                    weight * done.metric(key.split()[0], allow_unstable=True).estimate.mean
                )
        errors[name] = relative(total, truth)
    note = (
        f"preset of the workload: Poisson arrivals, equal lengths, one turn, {cached} of "
        f"{run.prompt:g} prompt tokens cached (few distinct prompts, sent again and again)"
    )
    return Row(
        "blis means",
        run.name,
        run.settings,
        source.label,
        truth,
        errors,
        run.published,
        (note, *source.notes),
    )


def reading(law: llmq.BatchTime, cached: int) -> llmq.BatchTime:
    """Charge each row for reading so many cached tokens: a decode is one token of a row."""
    if not cached:
        return law
    each = law.per_kv * cached
    if law.form == "table":
        return replace(
            law, seconds=tuple(t + each * n for n, t in zip(law.tokens, law.seconds, strict=True))
        )
    more: dict[str, Any] = {"per_token": law.per_token + each}
    if law.form == "roofline":
        more["floor_per_token"] = law.floor_per_token + each
    return replace(law, **more)


def compare_steps(steps: StepTimes, settings: Settings, source: Source) -> Row:
    """Time the measured prefills and decode steps; the mean absolute error of each sort."""
    timers: dict[str, Callable[..., float]] = {
        name: timer_of(law) for name, law in source.laws.items()
    }
    if source.timer is not None:
        timers["table"] = source.timer
    errors: Errors = {}
    for name, timer in timers.items():
        gaps: dict[str, list[float]] = {"prefill": [], "decode": []}
        for p, b, o, prefill, decode in zip(
            steps.prompt.tolist(),
            steps.batch.tolist(),
            steps.output.tolist(),
            steps.prefill.tolist(),
            steps.decode.tolist(),
            strict=True,
        ):
            gaps["prefill"].append(timer([(p, 0)] * b, [], b) / prefill - 1)
            gaps["decode"].append(timer([], [p + o // 2] * b, b) / decode - 1)
        errors[name] = {}
        for sort, values in gaps.items():
            inside = np.array(values)[np.isfinite(values)]
            if inside.size:
                errors[name] |= {
                    f"{sort} MAPE": float(np.abs(inside).mean()),
                    f"{sort} bias": float(inside.mean()),
                }
    return Row("splitwise", steps.name, settings, source.label, {}, errors, {}, source.notes)
