"""Exact schedules of an independent simulator (serQ 0.1.4) and an independent loop.

Cases 6, 9 and 10 serve one queue in order, 6d, 9d and 10d decodes first; times are integers (in
10 us), so every digit counts. Source: the project's cross-check dossier, sections 5a and 5b.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest

import llmq
from llmq import policies
from llmq.policies.fastertransformer import FasterTransformer
from llmq.policies.rad import RAD

LAW = llmq.BatchTime.tiled(base=1128, per_tile=3547, tile=128)
CHIP = llmq.Engine(LAW, token_budget=128, conventions=llmq.THEORY)
TILES = llmq.BatchTime.tiled(base=0, per_tile=4000, tile=128, per_token=5)
TILED = CHIP.with_(law=TILES)
# The RAD list: mean 576 prompt and 255.46 output tokens.
PROMPTS = [128 * (1 + 5 * i % 8) for i in range(400)]
OUTPUTS = [1 + 37 * i % 512 for i in range(400)]
BOTH = ("reference", "calendar")


@dataclass(frozen=True)
class Case:
    name: str
    policy: policies.Policy
    gap: int
    n: int
    iterations: int
    mean_response: float
    max_response: int
    mean_ttft: float
    last_finish: int
    prompt: int = 290
    output: int = 990

    @property
    def trace(self) -> llmq.Trace:
        """All at time 0, or the k-th (from 1) at k gaps."""
        prompt = PROMPTS if self.prompt == 0 else [self.prompt] * self.n
        output = OUTPUTS if self.prompt == 0 else [self.output] * self.n
        return llmq.Trace([self.gap * k for k in range(1, self.n + 1)], prompt, output)


QUEUE, FIRST, FT = policies.Sarathi(order="queue"), policies.Sarathi(), FasterTransformer()
SARATHI = (
    Case("6", QUEUE, 46750, 500, 5990, 4704106.55, 4717075, 41944.1, 28050000),
    Case("9", QUEUE, 50000, 500, 6336, 4668739.25, 4674975, 40489.25, 29670800),
    Case("10", QUEUE, 0, 64, 1135, 5306125.0, 5306125, 346534.375, 5306125),
    Case("6d", FIRST, 46750, 500, 5990, 4670194.1, 4675000, 41944.1, 28050000),
    Case("9d", FIRST, 50000, 500, 6336, 4668739.25, 4674975, 40489.25, 29670800),
    Case("10d", FIRST, 0, 64, 1190, 5050972.265625, 5563250, 422722.265625, 5563250),
)
FASTER = (
    Case("12", FT, 4700000, 60, 59580, 4642275, 4642275, 14025, 286642275),
    Case("14", FT, 0, 20, 19846, 48710227.5, 92780050, 44081977.5, 92780050),
)
TILING = (
    Case("1", RAD(), 0, 400, 2897, 8673772.175, 13250920, 5275227.6, 13250920, 0),
    Case("2", RAD(), 50000, 400, 5003, 1794840.3875, 3720415, 22896.8375, 21766275, 0),
    Case("5", RAD(), 0, 200, 1200, 4098675.2, 5512000, 2199360, 5512000, 512, 200),
)
CASES = (*SARATHI, *FASTER, *TILING)
# Long in the reference, which is timed in seconds per 10,000 iterations.
LONG = ("6", "9", "9d", "12")
RUNS = [
    pytest.param(case, how, marks=pytest.mark.slow if how == BOTH[0] and case.name in LONG else ())
    for case in CASES
    for how in (*BOTH, "vector")
    if how != "vector" or case.policy is not QUEUE  # the lockstep has no queue order
]


def _simulate(case: Case, how: str) -> llmq.Run:
    chip = TILED if case in TILING else CHIP
    return llmq.simulate(chip, case.trace, case.policy, simulator=how)


@pytest.mark.parametrize(("case", "how"), RUNS, ids=lambda x: getattr(x, "name", x))
def test_crosscheck_to_the_last_digit(case: Case, how: str) -> None:
    run = _simulate(case, how)
    response = run.requests.finish[0] - run.requests.arrival[0]
    ttft = run.requests.prefill_end[0] - run.requests.arrival[0]
    assert run.n_iterations[0] == case.iterations
    assert math.fsum(response) / case.n == case.mean_response
    assert response.max() == case.max_response
    assert math.fsum(ttft) / case.n == case.mean_ttft
    assert run.requests.finish.max() == case.last_finish
    run.check()


@pytest.mark.parametrize("case", FASTER, ids=lambda case: case.name)
def test_the_fastest_response_is_993_iterations(case: Case) -> None:
    # 3 prefill and 990 decode iterations of 4675 units.
    run = _simulate(case, "calendar")
    assert (run.requests.finish - run.requests.arrival).min() == 993 * 4675


@pytest.mark.parametrize("order", ["queue", "decodes_first"])
def test_below_the_critical_rate_the_fastest_response_is_993_iterations(order: str) -> None:
    # 3 prefill and 990 decode iterations of 4675 units: stated for cases 6 and 9.
    trace = llmq.Trace([50000 * k for k in range(1, 501)], [290] * 500, [990] * 500)
    run = llmq.simulate(CHIP, trace, policies.Sarathi(order=order))
    assert (run.requests.finish - run.requests.arrival).min() == 993 * 4675


@pytest.mark.parametrize("how", [pytest.param("reference", marks=pytest.mark.slow), "calendar"])
@pytest.mark.parametrize(
    "case", [c for c in (*SARATHI, *TILING) if c.gap or c in TILING], ids=lambda case: case.name
)
def test_one_output_token_more_in_the_engine_convention_is_the_theory_convention(
    case: Case, how: str
) -> None:
    # Convention F (first token at the end of the prefill) with vd + 1 equals D with vd.
    chip, trace = TILED if case in TILING else CHIP, case.trace
    theory = llmq.simulate(chip, trace, case.policy, simulator=how)
    more = llmq.Trace(trace.arrival, trace.prompt, trace.output + 1)
    engine = llmq.simulate(chip.with_(conventions=llmq.ENGINE), more, case.policy, simulator=how)
    assert (theory.requests.finish == engine.requests.finish).all()
    assert (theory.requests.prefill_end == engine.requests.prefill_end).all()
    assert (engine.requests.first_token == engine.requests.prefill_end).all()
    assert theory.n_iterations[0] == engine.n_iterations[0]


# --------------------------------------------------------------- 5c: critical rates, and beyond


@pytest.mark.parametrize("policy", [QUEUE, FIRST], ids=["queue", "decodes_first"])
def test_sarathi_keeps_up_at_its_critical_rate_and_not_above(policy: policies.Policy) -> None:
    # 128 tokens in 4675 units against 1280 per request: one in 46,750 units.
    def last_ttfts(gap: int) -> np.ndarray:
        trace = llmq.Trace([gap * k for k in range(1, 2001)], [290] * 2000, [990] * 2000)
        times = llmq.simulate(CHIP, trace, policy, simulator="calendar").requests
        return times.prefill_end[0] - times.arrival[0]

    assert last_ttfts(46750).max() == 46750
    assert last_ttfts(50000).max() == 46725
    growing = last_ttfts(46000)
    assert growing[1000:].min() > 46750 + 500 * 700
    assert growing[-1] > growing[1000]


def test_fastertransformer_keeps_up_to_its_critical_rate() -> None:
    # One request alone: 290 / 128 prefill and 990 decode iterations, the last chunk shared.
    gap = (290 / 128 + 990) * 4675
    assert 1 / gap == pytest.approx(1 / 4638842, rel=1e-7)

    def growth(factor: float) -> float:
        trace = llmq.Trace(np.arange(400) * gap * factor, [290] * 400, [990] * 400)
        times = llmq.simulate(CHIP, trace, FT, simulator="calendar").requests
        response = times.finish[0] - times.arrival[0]
        return float(response[399] - response[200]) / 199 / gap

    assert abs(growth(1.001)) < 1e-4
    assert growth(0.95) == pytest.approx(0.05, abs=2e-3)
    assert LAW(1) * 1280 / 128 == 46750  # Sarathi: 99 times as much
    assert 99 < gap / 46750 < 100


def _poisson(rate: float, n: int, seed: int) -> llmq.Trace:
    """RAD's stochastic list: 128 floor(U[1, 9)) and min(floor(Exp(200)) + 1, 512) tokens."""
    rng = np.random.default_rng([seed, 53])
    arrival = np.concatenate([[0.0], np.cumsum(rng.exponential(1 / rate, n - 1))])
    prompt = 128 * rng.integers(1, 9, n)
    output = np.minimum(np.floor(rng.exponential(200, n)).astype(int) + 1, 512)
    return llmq.Trace(arrival, prompt, output)


MICRO = llmq.Engine(
    llmq.BatchTime.tiled(base=0, per_tile=4000e-6, tile=128, per_token=5e-6), token_budget=128
)


def test_rad_saturates_at_its_critical_rate() -> None:
    # E vd - 1 = 184.0008 decodes and 576 prompt tokens at 128 in 4640 us: 36.298 requests/s.
    decodes = (1 - math.exp(-2.56)) / (1 - math.exp(-0.005)) - 1
    critical = 128 / 4640e-6 / (576 + decodes)
    assert critical == pytest.approx(36.298, abs=5e-4)
    rates, gaps = [], []
    for seed in range(4):
        trace = _poisson(50, 5000, seed)
        times = llmq.simulate(MICRO, trace, RAD(), simulator="calendar").requests
        finish = times.finish[0]
        rates.append(np.sum((finish > 20) & (finish <= 100)) / 80)
        inside = (times.prefill_end[0] > 20) & (finish <= 100) & (trace.output > 1)
        span = (finish - times.prefill_end[0])[inside]
        gaps.append(span.sum() / (trace.output[inside] - 1).sum())
    # Work per request varies by 47 % of its mean: 4 standard errors over 4 x 2900 requests.
    assert np.mean(rates) == pytest.approx(critical, rel=4 * 0.47 / math.sqrt(4 * 2900))
    # Prefill iterations between the decodes: 4640 (1 + 576 / 184) us.
    assert np.mean(gaps) == pytest.approx(4640e-6 * (1 + 576 / decodes), rel=0.03)


# ------------------------------------------------- 5d: stochastic cases, mean +- sd of five seeds

FIGURES = ("iterations", "mean", "p50", "p99", "mean_ttft", "p99_ttft", "mean_tpot", "live")
SPREADS = {
    10: (
        (96526, 0.9695, 0.7345, 2.840, 0.026413, 0.0687, 0.005267, 9.66),
        (758, 0.0050, 0.0069, 0.019, 0.000223, 0.0013, 0.000028, 0.09),
    ),
    20: (
        (46645, 1.349, 1.024, 4.10, 0.032667, 0.1035, 0.007617, 26.8),
        (382, 0.012, 0.012, 0.09, 0.000337, 0.011, 0.000099, 0.4),
    ),
    30: (
        (30033, 2.221, 1.677, 7.12, 0.045747, 0.171, 0.013252, 65.7),
        (268, 0.058, 0.043, 0.31, 0.000810, 0.018, 0.000461, 2.2),
    ),
    34: (
        (26131, 2.99, 2.26, 9.58, 0.098, 0.553, 0.017291, 100),
        (244, 0.14, 0.11, 0.40, 0.040, 0.178, 0.000604, 5),
    ),
}


def _figures(rate: float, seed: int, n: int = 4000) -> list[float]:
    trace = _poisson(rate, n, seed)
    run = llmq.simulate(MICRO, trace, RAD(), simulator="calendar")
    finish, ready = run.requests.finish[0], run.requests.prefill_end[0]
    response, ttft, more = finish - trace.arrival, ready - trace.arrival, trace.output > 1
    tpot = (finish - ready)[more] / (trace.output[more] - 1)
    return [
        run.n_iterations[0],
        response.mean(),
        *np.quantile(response, [0.5, 0.99]),
        ttft.mean(),
        np.quantile(ttft, 0.99),
        tpot.mean(),
        response.sum() / finish.max(),
    ]


@pytest.mark.parametrize("rate", SPREADS)
def test_rad_on_poisson_arrivals(rate: int) -> None:
    # Two samples of different random numbers: means within 4 standard errors of the difference.
    mine = np.array([_figures(rate, seed) for seed in range(1, 11)])
    mean, sd = (np.array(row) for row in SPREADS[rate])
    error = np.sqrt(sd**2 / 5 + mine.var(axis=0, ddof=1) / len(mine))
    # What the print rounds away: half a unit of the last digit.
    rounding = np.array([0.5, 5e-4, 5e-4, 5e-3, 5e-7, 5e-4, 5e-7, 0.05 if rate < 34 else 0.5])
    gap = np.abs(mine.mean(axis=0) - mean)
    late = [FIGURES[i] for i in np.flatnonzero(gap > 4 * error + rounding)]
    assert not late


def test_rad_on_a_long_run() -> None:
    # At 20/s: mean response 1.3626 s +- 4.4 ms, the standard error of 30 runs of 4,000 requests.
    found = dict(zip(FIGURES, _figures(20, seed=1, n=100_000), strict=True))
    error = 0.0044 * math.sqrt(1 + 30 * 4000 / 100_000)
    assert found["mean"] == pytest.approx(1.3626, abs=4 * error)
    # And one other run of 100,000; the same runs say that the sd of five seeds is half the truth.
    spread = dict(zip(FIGURES, SPREADS[20][1], strict=True))
    wide = 0.0044 * math.sqrt(30) / spread["mean"] * math.sqrt(2 * 4000 / 100_000)
    for name, value in (
        ("mean", 1.349855),
        ("mean_ttft", 0.032250),
        ("mean_tpot", 0.007618),
        ("live", 26.79),
    ):
        assert found[name] == pytest.approx(value, abs=4 * wide * spread[name]), name
