"""One engine with half the memory it needs: where reasoning and answering latency comes from.

300 Poisson requests with prompts of 128 tokens on one engine with 45,000 KV tokens, against the
same engine with unlimited memory and slots (the oracle). Reasoning: 128 to 2,048 reasoning tokens
(five lengths, equally likely), latency from the submission to the last of them. Answering: as many
answer tokens and no reasoning; an answer attains its SLO if its QoE is at least 0.95 against a
reader who expects the first token 0.25 s after the submission and one every 0.1 s.

Latency is cut in three: *blocked* until the first iteration that holds the request starts,
*executed* while an iteration holds it, *preempted* in between. Every iteration gives a token to all
it holds, so iterations are read off the token times; one starts when the last ends, or when a
request comes to an idle engine.

What differs from the paper: real hardware there; its rate is not published (3.0 and 3.5 requests/s
here, 3.5 for answers); answers start with 128 tokens of KV in place there and with a prefill of
20 ms here; its cap of half the oracle's memory is read as 45,000 tokens.

Small scale: a third of memory and rate, 100 requests.

Cho et al., PASCAL, arXiv 2602.11530, section III, figures 4 and 5.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

import llmq
from experiments.claim import Band, Claim, Finding, Status
from experiments.pascal_cluster import POLICIES, SOURCE, chip, jackknife
from experiments.runner import PLAIN, Point, Row, Runner, Scale
from experiments.table import Table
from llmq.rng import RngLike, seed_sequence
from llmq.sim.results._reading import qoe

TITLE = "PASCAL: reasoning and answering latency on one engine short of memory"
SEED = 7
LENGTHS = (128, 256, 512, 1024, 2048)
PARTS = ("executed", "blocked", "preempted")
TITLES = ("oracle", "FCFS", "RR")
CASES: tuple[tuple[str, float], ...] = (("reasoning", 3.0), ("reasoning", 3.5), ("answering", 3.5))
Floats: TypeAlias = npt.NDArray[np.float64]


def compute(*, scale: Scale = "small", rng: RngLike = SEED, runner: Runner = PLAIN) -> Table:
    """Simulate both phases.

    Parameters
    ----------
    scale : {"small", "full"}
        One seed of 100 requests, or eight of 300.
    rng : Generator, SeedSequence, int or None
        Of the requests.
    runner : Runner
        One point is a case and a seed.

    Returns
    -------
    Table
        For each length and policy: parts of the mean latency over the oracle's, their sum, and the
        share of answers that attain the SLO.
    """
    size = {"requests": 300, "kv_tokens": 45_000, "slow": 1.0}
    seeds, cases = 8, CASES
    if scale == "small":
        size, seeds, cases = {"requests": 100, "kv_tokens": 15_000, "slow": 3.0}, 1, CASES[1:]
    # Both phases see the same requests: the seed is that of the replication, not of the point.
    children = seed_sequence(rng).spawn(seeds)
    points = [
        {
            "phase": phase,
            "rate": rate,
            "seed": i,
            "key": list(child.spawn_key),
            "entropy": str(child.entropy),
            **size,
        }
        for phase, rate in cases
        for i, child in enumerate(children)
    ]
    raw = runner.run(simulate, points, rng)
    rows: list[Row] = []
    for phase, rate in cases:
        mine = [row for row in raw if row["phase"] == phase and row["rate"] == rate]
        rows += _summed(mine, {"phase": phase, "rate": rate}, seeds)
    for policy, length, value in (("FCFS", 128, 5.14), ("RR", 2048, 1.75)):
        rows.append(
            {
                "phase": "reasoning",
                "rate": np.nan,
                "policy": policy,
                "length": length,
                "metric": "latency",
                "value": value,
                "low": value,
                "high": value,
                "n": 1,
                "kind": "printed",
            }
        )
    about = {
        "source": f"{SOURCE}, figures 4 and 5; the rates are not published",
        "setting": "small: 15,000 KV tokens, a third of the rate, 100 requests, 1 seed; "
        "full: 45,000 KV tokens, 300 requests, 8 seeds",
        "value": "mean seconds over the oracle's mean latency at that length; attained: a share",
    }
    units = {"rate": "req/s", "length": "tokens"}
    return Table.of("pascal_latency", rows, units=units, about=about)


def simulate(point: Point, rng: np.random.SeedSequence) -> Sequence[Row]:
    """Simulate one seed under the three policies; sums by length."""
    source = np.random.default_rng(
        np.random.SeedSequence(int(point["entropy"]), spawn_key=tuple(point["key"]))
    )
    n = int(point["requests"])
    lengths = source.choice(LENGTHS, n)
    arrival = np.cumsum(source.exponential(point["slow"] / point["rate"], n))
    thinks = point["phase"] == "reasoning"
    hidden = lengths if thinks else np.zeros(n, int)
    trace = llmq.Trace(arrival, [128] * n, lengths + thinks, hidden)
    rows: list[Row] = []
    for title in TITLES:
        parts, attained = _run(title, trace, point["kv_tokens"], lengths)
        for length in LENGTHS:
            some = lengths == length
            sums = {name: float(values[some].sum()) for name, values in parts.items()}
            rows.append(
                {
                    "phase": point["phase"],
                    "rate": point["rate"],
                    "seed": point["seed"],
                    "policy": title,
                    "length": length,
                    "count": int(some.sum()),
                    "attained": int(attained[some].sum()),
                    **sums,
                }
            )
    return rows


def _run(
    title: str, trace: llmq.Trace, kv_tokens: int, count: npt.NDArray[np.int64]
) -> tuple[dict[str, Floats], npt.NDArray[np.bool_]]:
    engine = chip(kv_tokens)
    if title == "oracle":
        engine = engine.with_(kv_tokens=None, max_seqs=None)
    policy = POLICIES["FCFS" if title == "oracle" else title]
    done = llmq.simulate(engine, trace, policy, record="tokens", simulator="reference")
    times = done.requests
    assert times.token_times is not None
    assert times.token_offsets is not None
    parts = breakdown(times.arrival[0], times.token_times, times.token_offsets, count)
    return parts, np.asarray(qoe(times, grace=0.25)[0] >= 0.95)


def breakdown(
    arrival: Floats,
    token_times: Floats,
    offsets: npt.NDArray[np.integer],
    count: npt.NDArray[np.integer],
) -> dict[str, Floats]:
    """Cut latencies on one engine into blocked, executed and preempted.

    Parameters
    ----------
    arrival : ndarray, shape (n,)
        Seconds, ascending.
    token_times : ndarray
        Seconds, request after request.
    offsets : ndarray of int, shape (n + 1,)
        Where the tokens of each request lie.
    count : ndarray of int, shape (n,)
        Up to which token of each the latency runs.

    Returns
    -------
    dict of str to ndarray
        Seconds; the three add up to the latency.

    Examples
    --------
    >>> times = np.array([1.0, 2.0, 4.0, 3.0])
    >>> parts = breakdown(np.array([0.0, 0.5]), times, np.array([0, 3, 4]), np.array([3, 1]))
    >>> parts["executed"].tolist(), parts["preempted"].tolist(), parts["blocked"].tolist()
    ([3.0, 1.0], [1.0, 0.0], [0.0, 1.5])
    """
    ends = np.unique(token_times)
    finished = np.sort(token_times[offsets[1:] - 1])
    # Who is there when an iteration ends, besides those who leave just then.
    here = np.searchsorted(arrival, ends, "right") - np.searchsorted(finished, ends, "right")
    following = np.append(arrival, np.inf)[np.searchsorted(arrival, ends, "right")]
    starts = np.append(arrival[0], np.where(here > 0, ends, following)[:-1])
    parts = {name: np.zeros(len(arrival)) for name in PARTS}
    for i, n in enumerate(count):
        own = token_times[offsets[i] : offsets[i] + n]
        begun = starts[np.searchsorted(ends, own)]
        parts["executed"][i] = np.sum(own - begun)
        parts["blocked"][i] = begun[0] - arrival[i]
        parts["preempted"][i] = np.sum(begun[1:] - own[:-1])
    return parts


def _summed(raw: list[Row], labels: Row, seeds: int) -> list[Row]:
    """Ratios of sums over all seeds, with intervals from leaving out seeds."""
    rows: list[Row] = []
    for title in TITLES:
        for length in LENGTHS:
            mine, best = (_columns(raw, p, length, seeds) for p in (title, "oracle"))
            values, halves = jackknife(partial(_ratios, mine, best), seeds)
            names = (*PARTS, "latency", "attained")
            for name, value, half in zip(names, values, halves, strict=True):
                rows.append(
                    {
                        **labels,
                        "policy": title,
                        "length": length,
                        "metric": name,
                        "value": value,
                        "low": value - half,
                        "high": value + half,
                        "n": int(mine["count"].sum()),
                        "kind": "simulated",
                    }
                )
    return rows if labels["phase"] == "answering" else [r for r in rows if r["metric"] != names[-1]]


def _columns(raw: list[Row], policy: str, length: int, seeds: int) -> dict[str, Floats]:
    mine = [r for r in raw if r["policy"] == policy and r["length"] == length]
    mine.sort(key=lambda row: row["seed"])
    assert len(mine) == seeds
    return {
        name: np.array([r[name] for r in mine], float) for name in (*PARTS, "count", "attained")
    }


def _ratios(mine: dict[str, Floats], best: dict[str, Floats], some: Any) -> Floats:
    # Counts are the same under both policies.
    whole = sum(best[name][some].sum() for name in PARTS)
    parts = [mine[name][some].sum() / whole for name in PARTS]
    return np.array([*parts, sum(parts), mine["attained"][some].sum() / mine["count"][some].sum()])


# ------------------------------------------------------------------------------------ judging


def _curve(table: Table, phase: str, rate: float, policy: str, metric: str = "latency") -> Floats:
    rows = table.where(phase=phase, rate=rate, policy=policy, metric=metric, kind="simulated")
    return np.asarray(rows["value"][np.argsort(rows["length"])])


def _rates(table: Table, phase: str) -> list[float]:
    rates = [float(rate) for rate in np.unique(table.where(phase=phase, kind="simulated")["rate"])]
    if not rates:  # a judge shall not accept what it does not see
        raise LookupError(f"no simulated rows of {phase} in table {table.name}")
    return rates


def reasoning_shape(table: Table) -> Finding:
    """Judge: FCFS hurts the short and RR the long by the printed factors, within bands."""
    band, shape, parts = True, True, []
    for rate in _rates(table, "reasoning"):
        fcfs, rr = (_curve(table, "reasoning", rate, p) for p in ("FCFS", "RR"))
        band &= bool(4 <= fcfs[0] <= 6.5 and 1.5 <= rr[-1] <= 2.1 and (rr[:3] <= 1.1).all())
        falls = bool((np.diff(fcfs) < 0).all())
        band &= falls
        shape &= falls and bool(fcfs[0] > 1.5 and rr[-1] > max(1.1, rr[0]))
        parts.append(
            f"{rate:g} req/s: FCFS {fcfs[0]:.2f} at 128 to {fcfs[-1]:.2f} at 2048 tokens, "
            f"RR {rr[0]:.2f} to {rr[-1]:.2f}"
        )
    status = Status.BAND if band else Status.DIRECTION if shape else Status.NOT
    return Finding(status, "; ".join(parts))


def answering_attained(table: Table) -> Finding:
    """Judge: RR attains at least what FCFS does at every length."""
    good, most, parts = True, True, []
    for rate in _rates(table, "answering"):
        fcfs, rr = (_curve(table, "answering", rate, p, "attained") for p in ("FCFS", "RR"))
        good &= bool((rr >= fcfs).all())
        most &= bool(np.mean(rr >= fcfs) > 0.5)
        words = (f"{p} {a.min():.0%} to {a.max():.0%}" for p, a in (("FCFS", fcfs), ("RR", rr)))
        parts.append(f"{rate:g} req/s: {', '.join(words)}")
    status = Status.BAND if good else Status.DIRECTION if most else Status.NOT
    return Finding(status, "; ".join(parts))


def answering_long(table: Table) -> Finding:
    """Judge: at 2,048 tokens RR is slower than FCFS and attains the oracle's share to 2 points."""
    slower, near, parts = True, True, []
    for rate in _rates(table, "answering"):
        fcfs, rr = (_curve(table, "answering", rate, p)[-1] for p in ("FCFS", "RR"))
        mine, best = (_curve(table, "answering", rate, p, "attained")[-1] for p in ("RR", "oracle"))
        slower &= bool(rr > fcfs)
        near &= bool(abs(mine - best) <= 0.02)
        parts.append(
            f"{rate:g} req/s: RR {rr:.2f}, FCFS {fcfs:.2f} of the oracle's latency; "
            f"attained {mine:.1%} against {best:.1%}"
        )
    status = Status.BAND if slower and near else Status.DIRECTION if slower else Status.NOT
    return Finding(status, "; ".join(parts))


CLAIMS = (
    Claim(
        id="PASCAL-4",
        band=Band.NOTES,
        text="With half the memory FCFS makes the reasoning of short requests up to 5.14 times as "
        "long (128 tokens), RR that of long ones up to 1.75 times (2048); bands 4 to 6.5, 1.5 to "
        "2.1, FCFS falling with length, RR at most 1.1 up to 512 tokens.",
        source=f"{SOURCE}, figure 4",
        judge=reasoning_shape,
        figure="pascal_fig4",
        test="test_pascal.py::test_judges_can_fail",
    ),
    Claim(
        id="PASCAL-5A",
        band=Band.NOTES,
        text="RR attains the SLO of answers at least as often as FCFS at every length.",
        source=f"{SOURCE}, figure 5",
        judge=answering_attained,
        figure="pascal_fig5",
        test="test_pascal.py::test_judges_can_fail",
    ),
    Claim(
        id="PASCAL-5B",
        band=Band.NOTES,
        text="Answers of 2048 tokens take longer under RR than under FCFS and attain the SLO as "
        "with unlimited memory; band: within 2 points.",
        source=f"{SOURCE}, figure 5",
        judge=answering_long,
        figure="pascal_fig5",
        test="test_pascal.py::test_judges_can_fail",
    ),
)
