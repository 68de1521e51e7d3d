"""Estimates from runs: cycles, classes, warm-up, batches; and what is refused."""

from __future__ import annotations

import importlib.util
import math
import re
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import llmq
from llmq import policies
from llmq.model.arrivals import MMPP
from llmq.sim.results._regenerative import cycles, ratio
from llmq.sim.results._stats import batch_means, half_width, mser5, share, student, warm_up
from llmq.sim.results._targets import rate_of
from llmq.theory import latency

ONE = llmq.Engine(llmq.BatchTime.affine(base=1.0, per_token=0.0), max_seqs=1)
CHIP = llmq.Engine(llmq.BatchTime.affine(base=0.01, per_token=1e-4), max_seqs=128)


def queue(load: float) -> llmq.Workload:
    """M/D/1 on ``ONE``: an iteration of one second a request."""
    return llmq.Workload.poisson(load, {"x": llmq.RequestClass(1, 1)})


# ------------------------------------------------------------------------------------- cycles


def test_cycles_by_hand() -> None:
    # The second request comes while the first is here, the fourth just as the third leaves.
    arrival = np.array([[0.0, 1.0, 4.0, 5.0, 7.0, 9.0], [0.0, 2.0, 3.0, 8.0, 8.5, 9.0]])
    finish = np.array([[2.0, 3.0, 5.0, 6.0, 7.5, 9.5], [1.0, 9.9, 4.0, 8.2, 9.0, 9.4]])
    found = cycles(arrival, finish)
    assert found.of.tolist() == [[0, 0, 1, 2, 3, 4], [5, 6, 6, 6, 6, 6]]
    assert found.path.tolist() == [0, 0, 0, 0, 0, 1, 1]
    # Of the first path the last begins too late to count; of the second the last has no end.
    assert found.counted.tolist() == [True, True, True, True, False, True, False]
    assert found.cut == 1


def test_the_ratio_by_hand() -> None:
    # Cycles of 1, 1, 3 and 3 requests in turn, whose latencies sum to 1 and to 6.
    length = np.tile([1, 1, 3, 3], 20)
    first = np.repeat(np.cumsum(length) - length, length)
    arrival = np.arange(160.0)[None]
    start = (np.arange(160) == first)[None]
    # Everybody stays until just before the next cycle begins.
    finish = arrival + np.repeat(length, length)[None] - (np.arange(160) - first) - 0.5
    total = np.where(np.repeat(length, length) == 1, 1.0, 2.0)[None]
    found = cycles(arrival, finish)
    assert (np.diff(found.of, axis=1) == start[:, 1:]).all()
    estimate = ratio(found, total, np.ones((1, 160)))
    # 72 cycles begin before request 144: 36 of each.
    assert (estimate.n, estimate.observations) == (72, 144)
    assert estimate.mean == pytest.approx(7 / 4)
    # Y - r N is 1 - 7/4 = -3/4 and 6 - 21/4 = 3/4: no skewness; Student's t of 71 is 1.99394.
    spread = 0.75 * math.sqrt(72 / 71)
    assert estimate.half_width == pytest.approx(1.993943 * spread / 2 / math.sqrt(72), rel=1e-6)


def test_skewed_cycles_are_given_more_room() -> None:
    # 99 cycles of 0, one of 100: skewness 98/sqrt(99) = 9.849; beta = 0.16416.
    arrival = 10 * np.arange(112.0)[None]
    total = np.zeros((1, 112))
    total[0, 50] = 100.0
    estimate = ratio(cycles(arrival, arrival + 1), total, np.ones((1, 112)))
    assert estimate.n == 100
    beta, t = 98 / math.sqrt(99) / 60, 1.9842169516
    ends = [(np.cbrt(1 + 6 * beta * (z - beta)) - 1) / (2 * beta) for z in (t, -t)]
    # The wider side counts: the interval is symmetric.
    assert student(total[0, :100]) * max(np.abs(ends)) / t == pytest.approx(
        estimate.half_width, rel=1e-6
    )


def test_cycles_and_replications_agree_with_the_law() -> None:
    exact = latency.md1(0.7, 1.0).sojourn
    run = llmq.simulate(ONE, queue(0.7), replications=64, requests=1500, rng=4)
    for estimate in (run.regenerative("ttft"), run.ttft.estimate):
        assert estimate.half_width < 0.04 * exact
        assert abs(estimate.mean - exact) < 2 * estimate.half_width  # about 4 SE
    assert run.regenerative("ttft").n > 20_000
    # Cycles of M/G/1 hold 1 / (1 - rho) requests on average.
    cycle = run.regenerative("ttft")
    assert cycle.observations / cycle.n == pytest.approx(1 / 0.3, rel=0.03)


def test_cycles_that_end_in_time_would_be_too_short() -> None:
    # Many short paths: the bias of dropping what is unfinished does not average out.
    exact = latency.md1(0.7, 1.0).sojourn
    run = llmq.simulate(ONE, queue(0.7), replications=1500, requests=250, rng=5)
    found, stay = cycles(run.requests.arrival, run.requests.finish), run.requests.finish
    stay = stay - run.requests.arrival
    last = np.r_[np.diff(found.path) > 0, True]
    ended = ~last[found.of]
    naive = float(stay[ended].mean())
    whole = ratio(found, stay, np.ones(stay.shape))
    assert 0 < found.cut < 75
    assert naive < 0.99 * exact
    assert abs(whole.mean - exact) < 2 * whole.half_width
    assert whole.half_width < 0.02 * exact


def test_cycles_of_a_class_and_of_gaps() -> None:
    mix = {"short": llmq.RequestClass(8, 2), "long": llmq.RequestClass(64, 12)}
    work = llmq.Workload.poisson({"short": 3.0, "long": 2.0}, mix)
    run = llmq.simulate(
        CHIP, work, replications=2, requests=1500, rng=6, simulator="reference", record="tokens"
    )
    for name in ("ttft", "e2e", "tpot", "itl"):
        for klass in (None, "short", "long"):
            cycle, whole = run.regenerative(name, klass=klass), run.metric(name, klass=klass)
            slack = cycle.half_width + 0.03 * whole.mean
            assert abs(cycle.mean - whole.mean) < slack, (name, klass)
    both = [run.regenerative("e2e", klass=klass) for klass in mix]
    assert sum(one.observations for one in both) == run.regenerative("e2e").observations
    assert both[0].mean < both[1].mean / 2


def test_cycles_of_a_fleet() -> None:
    fleet = llmq.Fleet({"a": (ONE, 2)})
    run = llmq.simulate(
        fleet,
        queue(0.8),
        policies.Sarathi(route=policies.Random()),
        replications=64,
        requests=1500,
        rng=7,
    )
    estimate = run.regenerative("ttft")
    exact = latency.md1(0.4, 1.0).sojourn  # a Poisson stream is split at random
    assert abs(estimate.mean - exact) < 2 * estimate.half_width
    assert estimate.half_width < 0.02 * exact


def phases() -> llmq.Workload:
    busy = MMPP(rates=(0.9, 0.05), switch=(0.002, 0.002))
    return llmq.Workload(busy, {"x": llmq.RequestClass(1, 1)}, {"x": 1.0})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: llmq.simulate(ONE, queue(0.5), requests=50, rng=1).regenerative("ttft"),
            r"only \d+ regenerative cycles in 1 x 50 requests, an interval needs 30",
        ),
        (
            lambda: llmq.simulate(
                ONE, queue(0.95), replications=9, requests=300, rng=1
            ).regenerative("ttft"),
            r"in \d of 9 paths the system never empties after request 270 of 300",
        ),
        (
            lambda: llmq.simulate(ONE, phases(), requests=20_000, rng=1).regenerative("ttft"),
            r"successive cycles are correlated \(rank correlation 0\.\d+ over \d+ pairs\)",
        ),
        (
            lambda: llmq.simulate(ONE, queue(0.5), requests=500, rng=1).regenerative("latency"),
            "no metric 'latency'; known: ttft",
        ),
        (
            lambda: llmq.simulate(ONE, queue(0.5), requests=500).regenerative("ttft", klass="y"),
            "no class 'y'; known: x",
        ),
        (
            lambda: llmq.simulate(ONE, queue(0.5), requests=500, rng=1).regenerative("tpot"),
            "no request of the cycles has this metric",
        ),
        (
            lambda: llmq.simulate(
                llmq.Fleet({"a": (ONE, 2)}),
                llmq.Trace(np.arange(9.0), [1] * 9, [1] * 9),
                policies.Sarathi(route=policies.Random()),
                replications=2,
            ).regenerative("ttft"),
            "replications of one trace share its arrivals",
        ),
    ],
)
def test_no_estimate_from_cycles(make, message: str) -> None:
    with pytest.raises(llmq.InputError, match=message):
        make()


def test_no_estimate_from_cycles_in_overload() -> None:
    run = llmq.simulate(ONE, queue(1.5), requests=500, rng=1)
    with pytest.raises(llmq.UnstableError, match="mean TTFT does not exist: load"):
        run.regenerative("ttft")


# ---------------------------------------------------------------------------- targets by class


def two_classes() -> llmq.sim.results.run.Run:
    """Alone on the engine: TTFT 0.0612 s and 0.02 s, TPOT 0.0101 s; every fourth is short."""
    klass = np.array([0, 0, 0, 1] * 25)
    prompt, output = np.where(klass, 100, 512), np.where(klass, 1, 64)
    trace = llmq.Trace(np.arange(100) * 10.0, prompt, output, klass=klass, classes=("chat", "code"))
    return llmq.simulate(CHIP, trace)


LOOSE, TIGHT = llmq.SLO(ttft=0.1, tpot=0.02), llmq.SLO(ttft=0.03)


def test_attainment_of_a_class() -> None:
    run = two_classes()
    assert run.attainment(LOOSE).value == 1.0
    assert run.attainment(TIGHT).value == 0.25
    chat, code = (run.attainment(TIGHT, klass=one) for one in ("chat", "code"))
    assert (chat.value, chat.n) == (0.0, 75)
    assert (code.value, code.n) == (1.0, 25)
    # Wilson for 25 of 25: n / (n + z^2).
    assert code.low == pytest.approx(25 / (25 + 1.959964**2), rel=1e-6)


def test_targets_of_each_class() -> None:
    run = two_classes()
    both = run.attainment({"chat": LOOSE, "code": TIGHT})
    assert (both.value, both.n) == (1.0, 100)
    assert dict(both.by_metric) == {"chat ttft": 1.0, "chat tpot": 1.0, "code ttft": 1.0}
    swapped = run.attainment({"chat": TIGHT, "code": LOOSE})
    assert swapped.value == 0.25
    assert dict(swapped.by_metric) == {"chat ttft": 0.0, "code ttft": 1.0, "code tpot": 1.0}
    # Asked for one class, the others need no targets.
    assert run.attainment({"chat": TIGHT}, klass="chat").value == 0.0


def test_population_targets_of_each_class() -> None:
    run = two_classes()
    half = {"chat": llmq.SLO(ttft=0.03, quantile=0.9), "code": llmq.SLO(ttft=0.03, quantile=0.9)}
    worst = run.attainment(half)
    assert (worst.value, worst.n) == (0.0, 25)
    assert dict(worst.by_metric) == {"chat ttft": 0.0, "code ttft": 1.0}
    # One population: a quarter of it meets the target.
    assert run.attainment(llmq.SLO(ttft=0.03, quantile=0.9)).value == 0.25


def test_goodput_of_classes_adds_up() -> None:
    run = two_classes()
    assert run.goodput(LOOSE).mean == pytest.approx(0.1)
    chat, code = (run.goodput(LOOSE, klass=one).mean for one in ("chat", "code"))
    # 99 of the requests come after the first arrival, in 990 s: 74 of them chat.
    assert chat == pytest.approx(74 / 990)
    assert code == pytest.approx(25 / 990)
    each = run.goodput({"chat": TIGHT, "code": TIGHT})
    assert each.mean == pytest.approx(25 / 990)
    assert (each.n, each.method, each.observations) == (10, "batch means", 100)


def test_the_interval_of_a_rate_holds_it() -> None:
    rng = np.random.default_rng(8)
    held = 0
    for _ in range(400):
        arrival = np.cumsum(rng.exponential(0.5, 1000))[None]
        found = rate_of(rng.random((1, 1000)) < 0.7, arrival, arrival + 1.0)
        held += found.low <= 1.4 <= found.high
    # 95 % give or take four standard errors; the correction for correlation only widens.
    assert 0.91 <= held / 400 <= 0.995


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda run: run.attainment({"chat": LOOSE}),
            "no SLO for class 'code': a mapping needs one for each of chat, code; give a single",
        ),
        (lambda run: run.goodput({"code": LOOSE}), "no SLO for class 'chat'"),
        (
            lambda run: run.attainment({"chat": LOOSE}, klass="code"),
            "no SLO for class 'code': a mapping needs one for each of code",
        ),
        (
            lambda run: run.attainment({"chat": LOOSE, "code": LOOSE, "chats": LOOSE}),
            "an SLO for class 'chats'; did you mean 'chat'?",
        ),
        (lambda run: run.attainment(LOOSE, klass="cod"), "no class 'cod'; did you mean 'code'?"),
        (
            lambda run: run.attainment({"chat": LOOSE, "code": llmq.SLO(ttft=1.0, quantile=0.9)}),
            "the SLOs of the classes have different quantiles (0.9, None): ask for one class",
        ),
    ],
)
def test_targets_that_do_not_fit_the_classes(call, message: str) -> None:
    with pytest.raises(llmq.InputError, match=re.escape(message)) as caught:
        call(two_classes())
    if "no SLO" in message:
        assert len(caught.value.missing) == 1


def test_a_share_of_nobody() -> None:
    nobody = share(np.ones((1, 4), dtype=bool), np.zeros((1, 4), dtype=bool))
    assert math.isnan(nobody.value)
    assert (nobody.low, nobody.high, nobody.n) == (0.0, 1.0, 0)


# ------------------------------------------------------------------------- warm-up and batches


def autoregressive(rng: np.random.Generator, paths: int, n: int, r: float) -> np.ndarray:
    """Paths of ``x' = r x + noise``, from the stationary law on."""
    found = np.empty((paths, n))
    value = rng.normal(size=paths) / math.sqrt(1 - r * r)
    for column in found.T:
        column[:] = value
        value = r * value + rng.normal(size=paths)
    return found


def test_batches_of_a_short_correlated_path() -> None:
    # 400 observations, correlation time 33: batches of 40 are far from independent.
    held = np.zeros(2)
    for path in autoregressive(np.random.default_rng(9), 600, 400, 0.97):
        means = batch_means(path)
        halves = student(means), half_width(means, path=True)
        held += [abs(means.mean()) <= half for half in halves]
    plain, allowed = held / 600
    assert plain < 0.85
    assert allowed > plain + 0.04  # better, but such a path is too short for any interval


def test_half_width_by_hand() -> None:
    means = np.array([1.0, 2.0, 3.0, 4.0])
    # Lag-one correlation 0.25, plus 1/4 for its bias: sqrt(1.5 / 0.5).
    assert half_width(means, path=True) == pytest.approx(student(means) * math.sqrt(3.0))
    assert half_width(means[:2], path=True) == student(means[:2])
    assert half_width(np.ones(5), path=True) == 0.0


def test_warm_up_leaves_crowded_starts_in() -> None:
    # MSER-5 cuts off what is crowded by chance; a tenth goes in any case, no more without reason.
    paths = autoregressive(np.random.default_rng(10), 200, 1000, 0.98)
    often, seldom = (sum(cut(path) > 100 for path in paths) for cut in (mser5, warm_up))
    assert often > 30
    assert seldom < often / 2
    # A start that is surely different is cut.
    for path in paths[:20]:
        assert warm_up(path - 100 * np.exp(-np.arange(1000) / 80)) > 100


def test_the_intervals_of_an_empty_start_hold_the_mean() -> None:
    # What the study measures, on few runs: 4 standard errors below 94 % is 83 %.
    study = coverage().study(0.5, 10, 500, 80)["replications"]
    assert study.runs == 80
    assert 0.83 <= study.coverage < 1.0
    assert abs(np.mean(study.errors)) < 0.01
    single = coverage().study(0.5, 1, 3000, 60)
    for kind in ("batch means", "regenerative"):
        assert 0.82 <= single[kind].coverage <= 1.0
        assert single[kind].refused == 0
    assert np.mean(single["batch means"].widths) < 0.1


def coverage() -> ModuleType:
    place = Path(__file__).parents[3] / "experiments" / "coverage.py"
    spec = importlib.util.spec_from_file_location("coverage_study", place)
    assert spec is not None
    assert spec.loader is not None
    import sys

    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_a_wrong_mean_is_not_held() -> None:
    # The study can fail: 5 % beside the truth is outside intervals of 4 %, mostly.
    module = coverage()
    count, exact = module.Count(), latency.md1(0.5, 1.0).sojourn
    for seed in range(40):
        run = llmq.simulate(module.ENGINE, queue(0.5), replications=10, requests=500, rng=seed)
        count.add(run.ttft.estimate, 1.05 * exact)
    assert count.coverage < 0.6
    low, high = count.interval
    assert 0 <= low < count.coverage < high < 0.75


# ----------------------------------------------------------------------------------- bad input

TEN = llmq.Trace(np.arange(10.0), [8] * 10, [4] * 10)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: llmq.simulate(CHIP, TEN, warmup=10),
            "warmup must leave at least one of the 10 requests, got 10",
        ),
        (lambda: llmq.simulate(CHIP, TEN, warmup=500), "one of the 10 requests, got 500"),
        (lambda: llmq.simulate(CHIP, TEN, warmup=-1), "one of the 10 requests, got -1"),
        (lambda: llmq.simulate(CHIP, TEN, warmup="never"), "warmup must be a number of requests"),
        (
            lambda: llmq.simulate(CHIP, queue(0.5), requests=100, warmup=100, record="summary"),
            "one of the 100 requests, got 100",
        ),
        (lambda: CHIP.with_(max_seqs=0), "max_seqs must be at least 1 request, got 0"),
        (
            lambda: llmq.simulate(
                CHIP.with_(kv_tokens=96), llmq.Trace([0.0, 1.0], [8, 90], [4, 7])
            ),
            "a request of 97 tokens needs 7 KV blocks, more than the 6",
        ),
        (lambda: llmq.simulate(CHIP, queue(0.5), replications=0), "replications must be at least"),
        (lambda: llmq.simulate(CHIP, queue(0.5), replications=-4), "replications must be at least"),
    ],
)
def test_bad_input_is_refused(call, message: str) -> None:
    with pytest.raises(llmq.InputError, match=re.escape(message)):
        call()


def test_a_trace_just_longer_than_its_warm_up() -> None:
    run = llmq.simulate(CHIP, TEN, warmup=9)
    assert run.measured == (9, 10)
    assert run.ttft.observations == 1
    assert run.ttft.half_width == math.inf


def test_the_verdict_comes_before_any_mean() -> None:
    run = llmq.simulate(ONE, queue(1.2), requests=400, rng=1)
    assert run.verdict.status == "overloaded"
    for ask in (lambda: run.ttft, lambda: run.metric("e2e"), lambda: run.regenerative("e2e")):
        with pytest.raises(llmq.UnstableError, match=r"load 1\.2 > 1 under any policy"):
            ask()
