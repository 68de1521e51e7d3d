"""The simulator against exact laws, within four standard errors.

Every comparison is between the means of independent paths and a number that no simulation made: a
closed form of theory core section 6 (O9, O11, O16, O19, O22), or the stationary law of a Markov
chain at iteration boundaries, solved here by linear algebra. Where theory core has only a limit
(O12: processor sharing; Erlang C: iterations of no length), the chain is exact for the system that
is simulated, and the limit is held against the chain.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

import llmq
from llmq import policies
from llmq.policies.contract.blocks import Blocks, Policy
from llmq.policies.contract.view import View
from llmq.sim._fast.calendar.engine import CalendarEngine
from llmq.sim._fast.vector.engine import Lanes, run_lanes
from llmq.sim._reference.engine import ReferenceEngine
from llmq.sim.results._log import Job, Log
from llmq.sim.results.run import Run
from llmq.theory import latency

Seconds = Callable[[np.ndarray], np.ndarray]


def agree(name: str, paths: np.ndarray, exact: float, precision: float) -> None:
    """Means of independent paths against the exact value, no coarser than ``precision`` of it."""
    mean, error = float(paths.mean()), float(paths.std(ddof=1)) / math.sqrt(len(paths))
    z = (mean - exact) / error
    words = f"{name}: simulated {mean:.6g}, exact {exact:.10g}, standard error {error:.2g}"
    assert abs(z) <= 4, f"{words}: z = {z:+.2f}"
    assert error <= precision * exact, f"{words}: too coarse to tell"
    print(f"{words}: z = {z:+.2f}")


def poisson_run(
    engine: llmq.Engine, rate: float, shape: llmq.RequestClass, paths: int, n: int, cut: int
) -> Run:
    """Poisson arrivals from an empty start, without the first ``cut`` requests."""
    work = llmq.Workload.poisson(rate, {"x": shape})
    return llmq.simulate(
        engine,
        work,
        policies.Sarathi(),
        simulator="vector",
        replications=paths,
        requests=n,
        warmup=cut,
        rng=16,
    )


def means(run: Run, name: str) -> np.ndarray:
    return run.metric(name).values.mean(axis=1)


def seen(run: Run) -> np.ndarray:
    """How many requests each measured arrival finds: by PASTA what a random time finds."""
    found = np.array(
        [
            np.arange(len(came)) - np.searchsorted(np.sort(left), came, side="right")
            for came, left in zip(run.requests.arrival, run.requests.finish, strict=True)
        ]
    )
    return found[:, slice(*run.measured)]


def geometric(mean: float, longest: int) -> llmq.Lengths:
    n = np.arange(1, longest + 1)
    return llmq.Lengths(n, (1 - 1 / mean) ** (n - 1) / mean)


# ------------------------------------------------------------------- one request at a time

ALONE = llmq.Engine(
    llmq.BatchTime.affine(base=0.01, per_token=0.01), token_budget=8, max_seqs=1
)  # 0.02 s an iteration


def test_md1() -> None:
    law = latency.md1(3.5, 0.2)
    run = poisson_run(ALONE, 3.5, llmq.RequestClass(1, 10), paths=200, n=1200, cut=200)
    waits = run.metric("ttft").values - 0.02
    agree("M/D/1 mean wait", waits.mean(axis=1), law.wait, 0.02)
    for x in (0.0, 0.1, 0.2, 0.5, 0.7, 1.0):
        # Waits at the jump of the law are exact up to rounding.
        share = (waits > x + 1e-9).mean(axis=1)
        agree(f"M/D/1 P(W > {x})", share, law.tail(x), 0.06 if x > 0.5 else 0.03)


def test_mg1() -> None:
    output = llmq.Lengths(np.array([5, 40]), np.array([0.8, 0.2]))
    law = latency.mg1_tokens(2.5, output, 0.02)
    run = poisson_run(ALONE, 2.5, llmq.RequestClass(1, output), paths=200, n=1200, cut=200)
    agree("M/G/1 mean wait", means(run, "ttft") - 0.02, law.wait, 0.02)
    agree("M/G/1 mean sojourn", means(run, "e2e"), law.sojourn, 0.02)
    agree("M/G/1 P(W = 0)", (seen(run) == 0).mean(axis=1), 1 - law.utilisation, 0.01)


def test_mg1_of_lognormal_tokens() -> None:
    # O11: clipped lognormal outputs, 0.0225 s a token, a request every 40 s.
    from scipy.special import ndtr

    n = np.arange(1, 1600)
    below = ndtr((np.log(n) - 7) / 0.7)
    output = llmq.Lengths(np.arange(1, 1601), np.diff(np.r_[0.0, below, 1.0]))
    engine = ALONE.with_(law=llmq.BatchTime.affine(base=0.0225, per_token=0.0))
    run = poisson_run(engine, 1 / 40, llmq.RequestClass(1, output), paths=200, n=800, cut=100)
    agree("O11 mean wait", means(run, "ttft") - 0.0225, 22.34004317, 0.02)


# --------------------------------------------------------------------------- slots of a batch


@pytest.mark.parametrize(
    ("m", "b", "mean", "empty"),
    [
        (3.0, 4, 0.8008834797806, 0.678011052186),
        (14.0, 16, 1.877222879022, 0.601997162991),
        (1.8, 2, 3.864461786488, 0.284984631228),
    ],
)
def test_bailey(m: float, b: int, mean: float, empty: float) -> None:
    # Arrivals at the ticks, one second an iteration: everything stays on the ticks.
    rng, paths = np.random.default_rng(9), 128
    slots, cut = {2: (1500, 700), 4: (600, 200), 16: (200, 80)}[b]
    counts = rng.poisson(m, (paths, slots))
    n = int(counts.sum(axis=1).max())
    arrival = np.zeros((paths, n))
    for row, count in zip(arrival, counts, strict=True):
        row[: count.sum()] = np.repeat(np.arange(slots), count)
    ones = np.ones((paths, n), dtype=np.int64)
    engine = llmq.Engine(llmq.BatchTime.affine(base=1.0, per_token=0.0), max_seqs=b)
    log = run_lanes(
        engine, policies.Sarathi(), Lanes(arrival, ones, ones, count=counts.sum(axis=1))
    )
    assert not log.undone.any()
    left = np.zeros((paths, slots))
    for row, count, finish in zip(left, counts, log.finish, strict=True):
        # Who came by tick k and has not finished when its iteration ends, at k + 1.
        gone = np.bincount(np.rint(finish[: count.sum()]).astype(int), minlength=slots + 1)
        row[:] = np.cumsum(count) - np.cumsum(gone)[1 : slots + 1]
    assert (left >= 0).all()
    assert left.max() > b
    agree(f"Bailey m = {m}, b = {b}: E[Q]", left[:, cut:].mean(axis=1), mean, 0.05)
    agree("P(Q = 0)", (left[:, cut:] == 0).mean(axis=1), empty, 0.03)


# ------------------------------------------------------------------- chains of iterations


@dataclass(frozen=True)
class Chain:
    """Stationary law of an engine of one-token prompts and geometric outputs.

    At the start of an iteration ``n >= 1`` requests are present; ``k = min(n, slots)`` of them run
    for ``seconds(k)``, each ends with probability ``end``, Poisson arrivals join at its end. If
    nobody is there then, the next arrival starts an iteration of its own.
    """

    rate: float
    end: float
    seconds: Seconds
    slots: int = 10**9
    most: int = 120

    def solve(self) -> tuple[np.ndarray, np.ndarray, float]:
        """Probabilities of 1 .. most at the start, seconds of each, seconds of a cycle."""
        n = np.arange(1, self.most + 1)
        k = np.minimum(n, self.slots)
        time = np.broadcast_to(self.seconds(k), n.shape).astype(float)
        p = np.zeros((self.most, self.most + 1))
        came = np.arange(self.most + 1)
        logs = np.array([math.lgamma(j + 1) for j in came])
        for i in range(self.most):
            x = self.rate * time[i]
            arrivals = np.exp(came * math.log(x) - x - logs)
            ended = np.array(
                [
                    math.comb(int(k[i]), d) * self.end**d * (1 - self.end) ** int(k[i] - d)
                    for d in range(int(k[i]) + 1)
                ]
            )
            stay = np.zeros(self.most + 1)
            stay[n[i] - np.arange(k[i] + 1)] = ended
            p[i] = np.convolve(stay, arrivals)[: self.most + 1]
        empty = p[:, 0].copy()
        full = p[:, 1:]
        full[:, 0] += empty
        full[:, -1] += 1 - full.sum(axis=1)
        a = full.T - np.eye(self.most)
        a[-1] = 1.0
        pi = np.linalg.solve(a, np.eye(self.most)[-1])
        return pi, time, float(pi @ time + pi @ empty / self.rate)

    @property
    def number(self) -> float:
        """Mean number present at a random time."""
        pi, time, cycle = self.solve()
        n = np.arange(1, self.most + 1)
        return float(pi @ (n * time + self.rate * time**2 / 2)) / cycle

    def occupancy(self, top: int) -> np.ndarray:
        """Probabilities of 0 .. top present at a random time."""
        from scipy.special import gammainc

        pi, time, cycle = self.solve()
        found = np.zeros(top + 1)
        for j in range(top):
            # n at the start and j arrivals since: the time this lasts in an iteration.
            lasts = gammainc(j + 1, self.rate * time) / self.rate
            found[1 + j :] += (pi * lasts)[: top - j]
        found[0] = cycle - float(pi @ time)
        return found / cycle


def test_decode_occupancy() -> None:
    # O12: 2 requests/s, 200 tokens, 0.012 + 0.0005 n seconds an iteration.
    def chain(fine: int) -> Chain:
        return Chain(2.0, 1 / (200 * fine), lambda n: (0.012 + 0.0005 * n) / fine)

    exact, law = chain(1), latency.decode_occupancy(2.0, 200, 0.012, 0.0005)
    # The law is the limit of short iterations: 0.3 % away here, ten times less for a tenth.
    gaps = [abs(chain(fine).number / law.mean - 1) for fine in (1, 10, 100)]
    assert 0.002 < gaps[0] < 0.004
    assert gaps[1] == pytest.approx(gaps[0] / 10, rel=0.05)
    assert gaps[2] == pytest.approx(gaps[0] / 100, rel=0.05)

    engine = llmq.Engine(llmq.BatchTime.affine(base=0.012, per_token=0.0005), token_budget=4096)
    shape = llmq.RequestClass(1, geometric(200, 5000))
    run = poisson_run(engine, 2.0, shape, paths=128, n=700, cut=100)
    agree("O12 time in system", means(run, "e2e"), exact.number / 2.0, 0.005)
    present, where = seen(run), exact.occupancy(40)
    assert where.sum() == pytest.approx(1.0, abs=1e-9)
    for n in (0, 2, 4, 6, 8, 12):
        agree(f"O12 P(N = {n})", (present == n).mean(axis=1), float(where[n]), 0.2)
    # And the negative binomial itself, point by point: no further away than 1 % in all.
    binomial = np.diff([0.0, *(law.cdf(n) for n in range(41))])
    assert np.abs(binomial - where).sum() / 2 < 0.01


def test_decode_occupancy_with_slots() -> None:
    exact = Chain(1.8, 1 / 200, lambda n: 0.012 + 0.0005 * n, slots=8, most=160)
    law = latency.decode_occupancy(1.8, 200, 0.012, 0.0005, max_seqs=8)
    assert exact.number == pytest.approx(law.mean, rel=0.01)
    engine = llmq.Engine(llmq.BatchTime.affine(base=0.012, per_token=0.0005), max_seqs=8)
    shape = llmq.RequestClass(1, geometric(200, 5000))
    run = poisson_run(engine, 1.8, shape, paths=128, n=900, cut=200)
    agree("O12 with 8 slots, time in system", means(run, "e2e"), exact.number / 1.8, 0.01)


def test_erlang_c() -> None:
    # Slots are servers where an iteration takes the same time for any batch. A request lasts 1 s
    # on average, in whole iterations: the chain is exact, Erlang C its limit.
    rate, slots, steps = 9.0, 12, 20
    number = latency.erlang_c(slots, rate).wait * rate + rate

    def chain(steps: int) -> Chain:
        return Chain(rate, 1 / steps, lambda n: np.full(n.shape, 1 / steps), slots)

    gaps = [chain(n).number - number for n in (steps, 10 * steps)]
    assert gaps[1] == pytest.approx(gaps[0] / 10, rel=0.1)
    engine = llmq.Engine(
        llmq.BatchTime.affine(base=1 / steps, per_token=0.0), token_budget=64, max_seqs=slots
    )
    shape = llmq.RequestClass(1, geometric(steps, 1000))
    run = poisson_run(engine, rate, shape, paths=128, n=1500, cut=300)
    agree("12 slots, time in system", means(run, "e2e"), chain(steps).number / rate, 0.005)
    assert abs(gaps[0] / number) > 0.02  # sharp enough to tell the chain from its limit


# ------------------------------------------------------------------------ all who wait at once


@pytest.mark.parametrize(
    ("rho", "wait"), [(0.3, 4.2248004130), (0.5, 5.9018645690), (0.7, 9.8176470586)]
)
def test_inoue(rho: float, wait: float) -> None:
    law = latency.inoue(rho / 0.1438, 0.1438, 1.8874)
    engine = llmq.Engine(llmq.BatchTime.affine(base=1.8874, per_token=0.1438), token_budget=100_000)
    run = poisson_run(engine, law.rate, llmq.RequestClass(1, 1), paths=128, n=1500, cut=300)
    agree(f"Inoue {rho}: W", means(run, "e2e"), wait, 0.01)
    # Batches are requests that end together; a fixed number of them, or long ones would be missed.
    sizes = [np.unique(row, return_counts=True)[1][8:40] for row in run.requests.finish]
    assert {len(row) for row in sizes} == {32}
    agree("batch", np.array([row.mean() for row in sizes]), law.batch_mean, 0.02)


# ------------------------------------------------------------------------- a decision process


@dataclass(frozen=True)
class PrefillFirst:
    """Prompts that were begun, then new ones, then decodes."""

    token_budget: int | None = 2
    name: ClassVar[str] = "prefill_first"
    sees: ClassVar[frozenset[str]] = frozenset({"prompt"})

    @property
    def blocks(self) -> Blocks:
        def key(view: View):
            return view.decoding, ~view.resident, view.row

        return Blocks(key=key)


CHIP = llmq.Engine(
    llmq.BatchTime.affine(base=1.0, per_token=0.0), token_budget=2, conventions=llmq.THEORY
)


def tiny(
    policy: Policy,
    simulator: type[CalendarEngine] | type[ReferenceEngine],
    p: float,
    seed: int,
    slots: int,
    cut: int,
) -> tuple[float, float]:
    """O16: at each tick a request of 2 + 2 tokens comes with probability ``p``, if fewer than 8
    are present. Mean number present and share of empty slots after the first ``cut``.
    """
    came = np.flatnonzero(np.random.default_rng(seed).random(slots) < p)
    n = len(came)
    log, arrival = Log.empty(n), came.astype(float).tolist()
    server = simulator(Job(CHIP, policy, arrival, [2] * n, [2] * n, [0] * n, [0] * n, ("x",)), log)
    live: list[int] = []
    for i, tick in enumerate(arrival):
        server.advance(tick)
        live = [j for j in live if not log.finish[j] <= tick]
        if len(live) < 8:
            server.queue.append(i)
            live.append(i)
    server.advance(math.inf)
    present = np.zeros(slots + 100)
    for i in server.queue:
        assert log.finish[i] == int(log.finish[i])
        present[int(arrival[i]) : int(log.finish[i])] += 1
    assert present.max() <= 8
    kept = present[cut:slots]
    return float(kept.mean()), float((kept == 0).mean())


def test_decision_process() -> None:
    first = policies.Sarathi(token_budget=2)
    for p, paths, optimal, exact in (
        (0.3, 60, 1.1915686271, 1.2122500379),
        (0.4, 60, 2.0062871873, 2.1260155685),
    ):
        found = np.array([tiny(first, CalendarEngine, p, s, 3000, 200) for s in range(paths)])
        agree(f"O16 p = {p}: decode-first", found[:, 0], exact, 0.02)
        if p == 0.3:
            agree("O16: empty", found[:, 1], 0.2539746593, 0.02)
        error = found[:, 0].std(ddof=1) / math.sqrt(paths)
        assert found[:, 0].mean() > optimal - 4 * error
    for seed in range(2):  # the other simulator, on the same requests
        both = [tiny(first, kind, 0.4, seed, 400, 0) for kind in (CalendarEngine, ReferenceEngine)]
        assert both[0] == both[1]


def test_decision_process_prefill_first() -> None:
    found = np.array(
        [tiny(PrefillFirst(), ReferenceEngine, 0.3, s, 1200, 100)[0] for s in range(24)]
    )
    agree("O16 p = 0.3: prefill-first", found, 1.3806464714, 0.03)
    # Tells it from decode-first.
    assert found.mean() - 1.2122500379 > 4 * found.std(ddof=1) / math.sqrt(len(found))


@pytest.mark.slow
def test_decision_process_prefill_first_at_length() -> None:
    for p, exact in ((0.3, 1.3806464714), (0.4, 2.5392414447)):
        found = np.array(
            [tiny(PrefillFirst(), ReferenceEngine, p, s, 3000, 300)[0] for s in range(40)]
        )
        agree(f"O16 p = {p}: prefill-first", found, exact, 0.02)
