"""What the experiments on PASCAL share: cluster, workloads, policies, and what is read off runs.

Cluster: engines of the substitute latency model (23.5 ms, 0.16 ms a sequence, 97.8 ns a KV token,
swaps 5.24 us a token), 90,000 KV tokens each unless said otherwise, link 100 Gbit/s. The law has
one slope: a prompt token takes 0.16 ms, 0.03 ms more than in the model, 2 to 7 ms a request;
decodes are exact.

Load: ``rho`` is the rate over what a fluid model carries whose batches fill the memory,

    per_row = E[p n + n^2 / 2] / E[n],   batch = min(slots, M / per_row),
    capacity = engines / (E[n] dt(batch) / batch + E[p] per_token).

Above 1 everything grows with the number of requests; the paper publishes neither.

Tail by bins of 256 reasoning tokens: of fewer than 5 requests none, the maximum of 5 to 9, P90 of
10 to 19, P95 of 20 to 99, P99 of more; all seeds pooled. Intervals: Student over seeds, for pooled
tails by leaving out one seed at a time (jackknife).

Workloads: ``alpaca`` and ``arena`` reconstruct the o4-mini lengths of AlpacaEval 2.0 and
Arena-Hard; ``heavy-4``, ``heavy-6`` and ``heavy-8`` stand for MATH-500, GPQA and LiveCodeBench,
whose means are not published, only that reasoning over answer reaches 8.48: the answers (350
tokens) and the ratios 4, 6 and 8.48 are chosen; ``mix`` is half ``alpaca``, half those three.

Cho et al., PASCAL, arXiv 2602.11530, sections III and V.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from experiments.runner import Row
from experiments.speed_pascal import LINK, chip
from llmq import policies
from llmq.io.workloads import load_workload
from llmq.model.arrivals import Poisson
from llmq.model.engine import Engine
from llmq.model.lengths import Lengths
from llmq.model.request import RequestClass
from llmq.model.workload import Workload
from llmq.policies import Policy
from llmq.sim._fast.ranked.engine import RankedLog, run_ranked
from llmq.sim.results._stats import student

__all__ = [
    "BIN",
    "HEAVY",
    "POLICIES",
    "SOURCE",
    "Paths",
    "Runs",
    "capacity",
    "chip",
    "contrast",
    "interval",
    "jackknife",
    "percent",
    "serve",
    "tail_by_bin",
    "workload",
]

Floats: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.int64]

SOURCE = "Cho et al., PASCAL, arXiv 2602.11530"
BIN = 256
POLICIES: dict[str, Policy] = {
    "FCFS": policies.FCFS(),
    "RR": policies.RR(),
    "PASCAL": policies.PASCAL(),
    "NonAdaptive": policies.PASCAL(adaptive=False),
    "NoMigration": policies.PASCAL(migrate=False),
}
# Reasoning over answer tokens.
HEAVY = {"heavy-4": 4.0, "heavy-6": 6.0, "heavy-8": 8.48}
ANSWER = 350


def _heavy(ratio: float) -> RequestClass:
    return RequestClass.with_reasoning(
        prompt=Lengths.lognormal(mean=220.34, sigma=0.8, low=4, high=4096),
        reasoning=Lengths.lognormal(mean=ratio * ANSWER, sigma=1.0, low=16, high=15000),
        answer=Lengths.lognormal(mean=ANSWER, sigma=0.7, low=8, high=6000),
        correlation=0.3,
    )


def workload(name: str, rate: float = 1.0) -> Workload:
    """Return the traffic of a name.

    Parameters
    ----------
    name : str
        ``alpaca``, ``arena``, one of HEAVY, or ``mix``.
    rate : float
        Requests per second.

    Returns
    -------
    Workload
        Poisson arrivals.

    Examples
    --------
    >>> workload("alpaca", 2.0).rate
    2.0
    """
    if name in HEAVY:
        return Workload(Poisson(rate), {name: _heavy(HEAVY[name])}, {name: 1.0})
    if name != "mix":
        return load_workload(f"reasoning-{name}", rate)
    (light,) = load_workload("reasoning-alpaca", rate).mix.values()
    kinds = {"alpaca": light, **{name: _heavy(ratio) for name, ratio in HEAVY.items()}}
    return Workload(Poisson(rate), kinds, {"alpaca": 3.0, **dict.fromkeys(HEAVY, 1.0)})


def capacity(work: Workload, engine: Engine, engines: int) -> float:
    """Return the requests per second of the fluid model whose batches fill the memory.

    Parameters
    ----------
    work : Workload
        The lengths.
    engine : Engine
        With a KV budget.
    engines : int
        How many.

    Returns
    -------
    float
        Requests per second.
    """
    p = n = area = 0.0
    for name, kind in work.mix.items():
        share = work.weights[name]
        prompt, output = kind.prompt.values.astype(float), kind.output.values.astype(float)
        p, n = p + share * float(prompt.mean()), n + share * float(output.mean())
        area += share * float(np.mean(prompt * output + output**2 / 2))
    per_row, room = area / n, float(engine.kv_tokens or np.inf)
    batch = min(float(engine.max_seqs or np.inf), room / per_row)
    seconds = engine.law.token_time(1) + engine.law.per_token * (batch - 1)
    seconds += engine.law.per_kv * batch * per_row
    return float(engines / (n * seconds / batch + engine.law.per_token * p))


@dataclass(frozen=True)
class Paths:
    """Requests of all replications; arrays of shape (replications, requests)."""

    arrival: Floats
    prompt: Ints
    output: Ints
    hidden: Ints

    @classmethod
    def draw(cls, name: str, rates: Sequence[float], requests: int, seeds: int, rng: Any) -> Paths:
        """Draw the requests, rate after rate; all rates see the same lengths."""
        children = np.random.SeedSequence(rng.entropy, spawn_key=rng.spawn_key).spawn(seeds)
        traces = [workload(name, rate).sample(requests, one) for rate in rates for one in children]
        columns = ("arrival", "prompt", "output", "reasoning")
        return cls(*(np.stack([getattr(t, c) for t in traces]) for c in columns))

    def run(self, engines: list[Engine], policy: Policy, link: float = LINK) -> RankedLog:
        """Serve them."""
        log = run_ranked(engines, policy, self.arrival, self.prompt, self.output, self.hidden, link)
        assert not log.undone.any()
        return log


@dataclass(frozen=True)
class Runs:
    """All policies on one path after another at one rate; arrays of shape (seeds, requests)."""

    rho: float
    rate: float
    paths: Paths
    logs: Mapping[str, RankedLog]

    def ttft(self, policy: str) -> Floats:
        """Seconds from the submission to the first answer token."""
        return self.logs[policy].first_token - self.paths.arrival

    def reasoning(self, policy: str) -> Floats:
        """Seconds from the submission to the last reasoning token."""
        return self.logs[policy].boundary - self.paths.arrival

    def e2e(self, policy: str) -> Floats:
        """Seconds from the submission to the last token."""
        return self.logs[policy].finish - self.paths.arrival

    def labels(self, work: str) -> Row:
        """First columns of a row."""
        return {"work": work, "rho": self.rho, "rate": self.rate}


def serve(
    work: str,
    rhos: Sequence[float],
    rng: Any,
    *,
    requests: int,
    seeds: int,
    engines: int = 8,
    kv_tokens: int = 90_000,
    link: float = LINK,
    titles: Sequence[str] = tuple(POLICIES),
    chosen: Mapping[str, Policy] | None = None,
) -> list[Runs]:
    """Run policies on the same requests at several loads.

    Parameters
    ----------
    work : str
        Of :func:`workload`.
    rhos : sequence of float
        Rates over the capacity.
    rng : SeedSequence
        Of the requests.
    requests, seeds : int
        Requests of a path, paths at each load.
    engines, kv_tokens : int
        The cluster.
    link : float
        KV tokens per second.
    titles : sequence of str
        Of POLICIES, or of ``chosen``.
    chosen : mapping of str to Policy, optional
        Other policies.

    Returns
    -------
    list of Runs
        One for each load.
    """
    engine, known = chip(kv_tokens), chosen or POLICIES
    limit = capacity(workload(work), engine, engines)
    rates = [rho * limit for rho in rhos]
    paths = Paths.draw(work, rates, requests, seeds, rng)
    logs = {title: paths.run([engine] * engines, known[title], link) for title in titles}
    return [
        Runs(
            rho, rate, _part(paths, i, seeds), {t: _part(log, i, seeds) for t, log in logs.items()}
        )
        for i, (rho, rate) in enumerate(zip(rhos, rates, strict=True))
    ]


def _part(whole: Any, i: int, seeds: int) -> Any:
    some = slice(i * seeds, (i + 1) * seeds)
    return type(whole)(**{k: getattr(whole, k)[some] for k in whole.__dataclass_fields__})


# ------------------------------------------------------------------------------------- reading


def percent(n: int) -> int | None:
    """Return which percentile of n requests is their tail.

    Parameters
    ----------
    n : int
        Requests of a bin.

    Returns
    -------
    int or None
        100 is the maximum; None if there are too few.

    Examples
    --------
    >>> [percent(n) for n in (4, 9, 10, 19, 20, 99, 100)]
    [None, 100, 90, 90, 95, 95, 99]
    """
    if n < 5:
        return None
    return 100 if n < 10 else 90 if n < 20 else 95 if n < 100 else 99


def interval(values: npt.ArrayLike) -> Row:
    """Return mean, 95 % interval and number of values of independent seeds.

    Parameters
    ----------
    values : array_like
        One for each seed.

    Returns
    -------
    dict
        ``value``, ``low``, ``high``, ``n``.

    Examples
    --------
    >>> interval([1.0, 2.0, 3.0])
    {'value': 2.0, 'low': -0.484, 'high': 4.484, 'n': 3}
    """
    known = np.asarray(values, dtype=float)
    known = known[~np.isnan(known)]
    mean = float(known.mean()) if known.size else np.nan
    return _around(mean, student(known), known.size)


def _around(value: float, half: float, n: int) -> Row:
    half = half if np.isfinite(half) else np.nan
    return {"value": float(value), "low": float(value - half), "high": float(value + half), "n": n}


def jackknife(statistic: Callable[[Ints], Floats], seeds: int) -> tuple[Floats, Floats]:
    """Return statistics of all seeds and the half widths of their 95 % intervals.

    Parameters
    ----------
    statistic : callable
        From the numbers of the seeds that count to values.
    seeds : int
        How many there are.

    Returns
    -------
    tuple of ndarray
        Values, half widths.

    Examples
    --------
    >>> x = np.array([1.0, 2.0, 3.0])
    >>> jackknife(lambda some: x[some].mean(keepdims=True), 3)
    (array([2.]), array([2.484]))
    """
    everything = np.arange(seeds)
    whole = statistic(everything)
    if seeds < 2:
        return whole, np.full_like(whole, np.nan)
    without = np.array([statistic(np.delete(everything, i)) for i in range(seeds)])
    # Pseudo-values spread (seeds - 1) times as much.
    halves = [(seeds - 1) * student(column) for column in without.T]
    return whole, np.array(halves)


def _tails(hidden: Ints, values: Floats, rule: Mapping[int, int]) -> Floats:
    bins, flat = (hidden // BIN).ravel(), values.ravel()
    found = [(flat[bins == one], q) for one, q in rule.items()]
    return np.array([np.percentile(v, q) if v.size else np.nan for v, q in found])


def _rule(hidden: Ints) -> tuple[dict[int, int], Ints]:
    bins, counts = np.unique(hidden // BIN, return_counts=True)
    known = [(int(b), percent(int(n)), int(n)) for b, n in zip(bins, counts, strict=True)]
    kept = [(b, q, n) for b, q, n in known if q is not None]
    return {b: q for b, q, _ in kept}, np.array([n for *_, n in kept], dtype=np.int64)


def tail_by_bin(hidden: Ints, values: Floats) -> list[Row]:
    """Tail of each bin of reasoning tokens that holds enough requests.

    Parameters
    ----------
    hidden : ndarray of int, shape (seeds, requests)
        Reasoning tokens.
    values : ndarray, shape (seeds, requests)
        Seconds.

    Returns
    -------
    list of dict
        ``bin`` (its first number of tokens), ``value``, ``low``, ``high``, ``n``.

    Examples
    --------
    >>> rows = tail_by_bin(np.array([[0, 1, 2, 3, 255, 256]]), np.arange(6.0)[None])
    >>> [(row["bin"], row["value"], row["n"]) for row in rows]
    [(0, 4.0, 5)]
    """
    rule, counts = _rule(hidden)
    tails, halves = jackknife(lambda some: _tails(hidden[some], values[some], rule), len(hidden))
    rows = zip(rule, tails, halves, counts.tolist(), strict=True)
    return [{"bin": b * BIN, **_around(tail, half, n)} for b, tail, half, n in rows]


CONTRASTS = ("cut", "saved", "loss", "lost", "loss_100")


def contrast(hidden: Ints, mine: Floats, theirs: Floats) -> dict[str, Row]:
    """Compare the tails of two policies on the same requests over all bins.

    Parameters
    ----------
    hidden : ndarray of int, shape (seeds, requests)
        Reasoning tokens.
    mine, theirs : ndarray, shape (seeds, requests)
        Seconds.

    Returns
    -------
    dict of str to dict
        Largest ``cut`` (share) and ``saved`` (seconds), largest ``loss`` and ``lost``, and
        ``loss_100``, the largest loss of bins of 100 requests or more.

    Examples
    --------
    >>> ones = np.ones((2, 5))
    >>> contrast(ones.astype(int), ones, 4 * ones)["cut"]["value"]
    0.75
    """
    rule, counts = _rule(hidden)
    full = counts >= 100 if (counts >= 100).any() else counts > 0

    def statistic(some: Ints) -> Floats:
        a, b = (_tails(hidden[some], x[some], rule) for x in (mine, theirs))
        share = 1 - a / b
        worst = [-np.nanmin(share), np.nanmax(a - b), -np.nanmin(share[full])]
        return np.array([np.nanmax(share), np.nanmax(b - a), *worst])

    values, halves = jackknife(statistic, len(hidden))
    n = int(counts.sum())
    return {k: _around(v, h, n) for k, v, h in zip(CONTRASTS, values, halves, strict=True)}
