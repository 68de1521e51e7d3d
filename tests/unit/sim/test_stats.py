"""Intervals against their formulas, written out observation by observation (faults F)."""

from __future__ import annotations

import math
import random
from itertools import pairwise
from statistics import NormalDist

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import gamma, poisson
from scipy.stats import t as student_t

from llmq.errors import InputError
from llmq.sim.results import _clusters as clusters
from llmq.sim.results import _stats as stats
from llmq.sim.results._clusters import company, quantile_of_t, ratio_error, ratio_half, tails, wider
from llmq.sim.results._stats import Metric, batch_means, half_width, mser5, share, student, warm_up

Z = NormalDist().inv_cdf(0.975)


def error_of(totals: list[float], counts: list[float], path: bool) -> float:
    k, n = len(totals), sum(counts)
    mean = sum(totals) / n
    off = [y - mean * m for y, m in zip(totals, counts, strict=True)]
    power = sum(d * d for d in off)
    found = math.sqrt(k / (k - 1) * power / n**2)
    if path and k >= 3 and power:
        r = sum(a * b for a, b in pairwise(off)) / power + 1 / k
        r = min(max(r, 0.0), 0.9)
        found *= math.sqrt((1 + r) / (1 - r))
    return found


def wider_of(values: list[float]) -> float:
    n, mean = len(values), sum(values) / len(values)
    second = sum((v - mean) ** 2 for v in values) / n
    third = sum((v - mean) ** 3 for v in values) / n
    beta = third / second**1.5 / 6 / math.sqrt(n) if second else 0.0
    t = float(student_t.ppf(0.975, n - 1))
    if abs(beta) < 1e-6:
        return 1.0

    def g(z: float) -> float:
        inside = 1 + 6 * beta * (z - beta)
        return (math.copysign(abs(inside) ** (1 / 3), inside) - 1) / (2 * beta)

    return max(1.0, abs(g(t)) / t, abs(g(-t)) / t)


def clusters_of(draw: random.Random) -> tuple[list[float], list[float]]:
    k = draw.randint(2, 12)
    level, totals = 0.0, []
    for _ in range(k):
        level = draw.choice([0.0, 0.9]) * level + draw.expovariate(1) ** 2
        totals.append(level)
    return totals, [float(draw.randint(1, 5)) for _ in range(k)]


def test_f_errors_of_ratios() -> None:
    draw, seen = random.Random(1), [0, 0, 0]
    for _ in range(120):
        totals, counts = clusters_of(draw)
        a, b = np.array(totals), np.array(counts)
        off = [y - sum(totals) / sum(counts) * m for y, m in zip(totals, counts, strict=True)]
        for path in (False, True):
            error = error_of(totals, counts, path)
            assert ratio_error(a, b, path=path) == pytest.approx(error, rel=1e-9)
            t = float(student_t.ppf(0.975, len(a) - 1))
            half = error * t * wider_of(off)
            assert ratio_half(a, b, path=path) == pytest.approx(half, rel=1e-8)
        grown = wider_of(off)
        seen[0] += grown == 1.0
        seen[1] += grown > 1.05
        seen[2] += ratio_error(a, b, path=True) > 1.2 * ratio_error(a, b, path=False)
    assert min(seen[1:]) > 5
    two = np.array([1.0, 3.0])
    assert ratio_error(two, np.ones(2), path=True) == ratio_error(two, np.ones(2), path=False) == 1
    for path in (False, True):
        assert ratio_error(two[:1], np.ones(1), path=path) == math.inf
        assert ratio_half(two[:1], np.ones(1), path=path) == math.inf
        assert ratio_half(np.ones(4), np.ones(4), path=path) == 0.0
    assert wider(np.array([1.0, 2.0, 3.0])) == 1.0
    assert quantile_of_t(4, 0.9) == pytest.approx(float(student_t.ppf(0.95, 4)))


def test_f_correlation_is_taken_up_to_nine_tenths() -> None:
    """A path that only climbs: the correlation of its batches is near 1, the factor 19."""
    off = np.array([-1.0] * 40 + [1.0] * 40)
    one = ratio_error(off + 5, np.ones(80), path=True) / ratio_error(
        off + 5, np.ones(80), path=False
    )
    assert one == pytest.approx(math.sqrt(1.9 / 0.1))
    # Four batches that rise and fall: r = (1 - 1 + 1) / 4 + 1 / 4.
    back = np.array([1.0, 1.0, -1.0, -1.0])
    ratio = ratio_error(back, np.ones(4), path=True) / ratio_error(back, np.ones(4), path=False)
    assert ratio == pytest.approx(math.sqrt(1.5 / 0.5))
    # Batches that alternate are not believed to be better than independent ones.
    turn = np.array([1.0, -1.0] * 4)
    assert ratio_error(turn, np.ones(8), path=True) == ratio_error(turn, np.ones(8), path=False)


def in_bursts(cases: float, mean: float, burst: float) -> float:
    """Probability of at most so many cases in exponential bursts, term by term."""
    count = np.arange(1, 2000)
    sums = gamma.cdf(cases, count, scale=burst)
    return math.exp(-mean / burst) + float(np.sum(poisson.pmf(count, mean / burst) * sums))


def spread_of(p: float, look: float) -> float:
    """Variance of a share where a look is half as long again, relative to independent cases."""
    part = 1 if p == 0 else 0 if p == 1 else 1 - p * math.log(1 / p) / (1 - p)
    return max(1.0, 2 * 1.5 * look * part)


def cases_in_bursts(mean: float, burst: float) -> list[float]:
    """Most and fewest cases in 95 %; 0 where none at all is seen that often."""
    far = 20 * (mean + burst)
    most = brentq(lambda x: in_bursts(x, mean, burst) - 0.975, mean, far)
    if in_bursts(0.0, mean, burst) >= 0.025:
        return [most, 0.0]
    return [most, brentq(lambda x: in_bursts(x, mean, burst) - 0.025, 0.0, far)]


def test_f_shares_beyond_a_quantile() -> None:
    draw, seen = random.Random(2), [0, 0, 0]
    for _ in range(150):
        k = draw.randint(3, 9)
        count = [float(draw.randint(200, 600)) for _ in range(k)]
        beyond = [float(draw.randint(0, 19)) for _ in range(k)]
        p, look = (
            draw.choice([0.5, 0.2, 0.05, 0.01, 0.9, 0.6]),
            draw.choice([0.0, 0.5, 3.0, 40.0, 90.0]),
        )
        path, n = draw.random() < 0.5, sum(count)
        own = float(student_t.ppf(0.975, k - 1)) * error_of(beyond, count, path) / (p * (1 - p))
        seen_ends = [1 / (1 + (1 - p) / p * math.exp(-s)) for s in (own, -own)]
        spread = spread_of(p, look)
        burst = spread * (1 - p) / 2
        if burst <= 1 or p > 0.5 or n * p > 400 * burst:
            step = Z * math.sqrt(spread / (p * (1 - p) * n))
            ends = [1 / (1 + (1 - p) / p * math.exp(-s)) for s in (step, -step)]
        else:
            ends = cases_in_bursts(n * p, burst)
            ends = [ends[0] / n, ends[1] / n]
            seen[ends[1] == 0] += 1
        ends = [min(1.0, max(ends[0], seen_ends[0])), min(ends[1], seen_ends[1])]
        found = tails(p, np.array(beyond), np.array(count), path=path, look=look)
        assert found == pytest.approx(ends, rel=1e-6, abs=1e-12)
        seen[2] += ends[1] == seen_ends[1]
    assert min(seen) > 10
    assert tails(0.1, np.ones(2), np.full(2, 9.0), path=False) == (1.0, 0.0)
    wide = tails(1e-4, np.array([0.0, 0, 9]), np.full(3, 10.0), path=False)
    assert wide == (1.0, 0.0)


def test_f_student_and_batches() -> None:
    draw = random.Random(3)
    values = [draw.random() for _ in range(47)]
    sample = np.array([*values[:20], math.nan, *values[20:]])
    for pieces in (1, 4, 10, 40):
        found = batch_means(sample, pieces)
        used = min(pieces, 23)
        parts = np.array_split(np.array(values), used)
        assert found.tolist() == pytest.approx([float(sum(p) / len(p)) for p in parts])
    assert batch_means(sample).shape == (10,)
    assert batch_means(np.array([1.0])).tolist() == [1.0]
    assert batch_means(np.array([math.nan])).tolist() == []
    mean = sum(values) / 47
    deviation = math.sqrt(sum((v - mean) ** 2 for v in values) / 46)
    for level in (0.9, 0.95):
        t = float(student_t.ppf((1 + level) / 2, 46))
        assert student(np.array(values), level) == pytest.approx(t * deviation / math.sqrt(47))
    assert student(np.array(values[:1])) == math.inf
    assert math.isfinite(student(np.array(values[:2])))
    for path in (False, True):
        assert half_width(np.array(values), path=path) == pytest.approx(
            error_of(values, [1.0] * 47, path)
            * float(student_t.ppf(0.975, 46))
            * wider_of([v - mean for v in values])
        )


def test_f_mser5_against_its_definition() -> None:
    draw = random.Random(4)
    for n in (19, 20, 21, 60, 203):
        for _ in range(8):
            path = [draw.random() + max(0.0, 2 - i / 12) * draw.choice([0, 1]) for i in range(n)]
            fives = [sum(path[5 * i : 5 * i + 5]) / 5 for i in range(n // 5)]
            m = len(fives)
            best, at = math.inf, 0
            for d in range(m // 2 + 1 if m >= 4 else 0):
                rest = fives[d:]
                mean = sum(rest) / len(rest)
                value = sum((v - mean) ** 2 for v in rest) / len(rest) ** 2
                if value < best * (1 - 1e-12):
                    best, at = value, d
            assert mser5(np.array(path)) == 5 * at, n


def test_f_a_start_is_dropped_where_it_is_surely_different() -> None:
    draw, seen = random.Random(5), [0, 0]
    for _ in range(80):
        high = draw.choice([0.0, 0.6, 1.0, 3.0])
        path = np.array([draw.gauss(0, 1) + high * (i < 60) for i in range(draw.randint(200, 320))])
        least, found = len(path) // 10, mser5(path)
        expected = least
        if found > least:
            window = max(5, found // 4)
            k = (len(path) - found) // window
            later = [
                path[len(path) - (i + 1) * window : len(path) - i * window].mean() for i in range(k)
            ]
            mean = sum(later) / k
            spread = math.sqrt(sum((v - mean) ** 2 for v in later) / (k - 1) * (1 + 1 / k))
            off = abs(path[:window].mean() - mean)
            strange = off > float(student_t.ppf(0.995, k - 1)) * spread
            expected = found if strange else least
            seen[int(strange)] += 1
        assert warm_up(path) == expected
    assert min(seen) > 3


def metric(draw: random.Random, rows: int, n: int) -> Metric:
    values = np.array([[draw.expovariate(1) for _ in range(n)] for _ in range(rows)])
    values[0, :3] = math.nan
    return Metric("x", values, look=draw.choice([0.0, 4.0]), crowd=draw.choice([0.0, 2.0]))


@pytest.mark.parametrize("rows", [1, 6])
def test_f_a_metric_is_pooled(rows: int) -> None:
    draw = random.Random(rows)
    for _ in range(6):
        found = metric(draw, rows, 240)
        kept = [[v for v in row if not math.isnan(v)] for row in found.values.tolist()]
        every = sorted(flat(kept))
        assert found.observations == len(every) == 240 * rows - 3
        assert found.mean == pytest.approx(sum(every) / len(every))

        def parts(pieces: int, kept: list[list[float]] = kept) -> list[list[float]]:
            if len(kept) > 1:
                return kept
            return [p.tolist() for p in np.array_split(np.array(kept[0]), pieces)]

        groups = parts(10)
        totals, counts = [sum(g) for g in groups], [float(len(g)) for g in groups]
        half = ratio_half(np.array(totals), np.array(counts), path=rows == 1)
        assert found.half_width == pytest.approx(half)
        assert (found.low, found.high) == pytest.approx((found.mean - half, found.mean + half))
        assert found.n == found.estimate.n == len(groups)
        assert found.method == ("batch means" if rows == 1 else "replications")
        for q in (0.5, 0.9):
            groups, part = parts(20), len(every) / (240 * rows)
            point = float(np.quantile(every, q))
            ends = tails(
                1 - q,
                np.array([float(sum(v > point for v in g)) for g in groups]),
                np.array([float(len(g)) for g in groups]),
                path=rows == 1,
                look=max(
                    found.look * part,
                    company([np.array(g) for g in groups], found.crowd * part) / 2,
                ),
            )
            low, high = (float(np.quantile(every, 1 - e)) for e in ends)
            one = found.quantile(q)
            assert one.mean == pytest.approx(point)
            assert one.half_width == pytest.approx(max(point - low, high - point))
            assert one.n == len(groups)
            assert one.observations == len(every)
    short = Metric("x", found.values, short=True)
    assert short.half_width == short.quantile(0.5).half_width == math.inf
    assert short.quantile(0.5).mean == found.quantile(0.5).mean
    for q in (0.0, 1.0):
        with pytest.raises(InputError, match="between 0 and 1"):
            found.quantile(q)
    # An end beyond all that was seen is no end.
    assert found.quantile(0.9999).half_width == math.inf
    # Nor is there one where fewer than log(40) bursts of a look are expected beyond it.
    many = np.random.default_rng(1).exponential(size=(8, 500))
    for look, known in ((5.0, True), (10.0, False)):  # 40 / 7.5 and 40 / 15 bursts
        one = Metric("x", many, look=look).quantile(0.99)
        assert math.isfinite(one.half_width) is known
    nothing = Metric("x", np.full((1, 4), math.nan))
    assert (nothing.half_width, nothing.n, nothing.observations) == (math.inf, 0, 0)
    assert math.isnan(nothing.mean)


def flat(rows: list[list[float]]) -> list[float]:
    return [v for row in rows for v in row]


def bursts_of(hits: int, n: int, look: float) -> tuple[float, float]:
    """Interval of a share of cases in exponential bursts; Wilson's for single ones."""
    p = hits / n
    spread = spread_of(p, look)
    burst = spread * (1 - p) / 2
    if burst <= 1 or p > 0.5 or hits > 400 * burst:
        m = n / (spread if hits else max(1.0, burst))
        centre = (p + Z**2 / (2 * m)) / (1 + Z**2 / m)
        half = Z * math.sqrt(p * (1 - p) / m + Z**2 / (4 * m**2)) / (1 + Z**2 / m)
        return max(0.0, centre - half), min(1.0, centre + half)

    far = 20 * (hits + burst)
    high = brentq(lambda mean: in_bursts(hits, mean, burst) - 0.025, hits + 1e-9, far)
    if not hits:
        return 0.0, min(1.0, high / n)
    low = brentq(lambda mean: in_bursts(hits, mean, burst) - 0.975, 1e-9 * hits, hits)
    return low / n, min(1.0, high / n)


def test_f_shares_are_the_wider_of_two_intervals() -> None:
    draw, seen = random.Random(7), [0, 0]
    for _ in range(60):
        rows, n = draw.choice([1, 5]), 100
        good = np.array(
            [[draw.random() < draw.choice([0.5, 0.97]) for _ in range(n)] for _ in range(rows)]
        )
        if draw.random() < 0.5:
            good[-1, 60:] = False
        look = draw.choice([0.0, 1.0, 30.0])
        counted = np.array([[draw.random() < 0.9 for _ in range(n)] for _ in range(rows)])
        found = share(good, counted, look=look)
        kept = [g[c].astype(float) for g, c in zip(good, counted, strict=True)]
        groups = kept if rows > 1 else np.array_split(kept[0], 10)
        m = sum(len(g) for g in groups)
        p = sum(float(g.sum()) for g in groups) / m
        half = ratio_half(
            np.array([g.sum() for g in groups]),
            np.array([float(len(g)) for g in groups]),
            path=rows == 1,
        )
        least, most = bursts_of(round(m * (1 - p)), m, look * m / (rows * n))
        low, high = min(p - half, 1 - most), max(p + half, 1 - least)
        seen[p - half < 1 - most] += 1
        assert (found.value, found.n) == (pytest.approx(p), m)
        assert (found.low, found.high) == pytest.approx((max(0.0, low), min(1.0, high)), rel=1e-6)
    assert min(seen) > 5
    few = share(np.array([[True, False, True]]))
    assert (few.low, few.high, few.n) == (0.0, 1.0, 3)
    none = share(np.array([[True]]), np.array([[False]]))
    assert (none.low, none.high, none.n) == (0.0, 1.0, 0)
    assert (stats.BATCHES, stats.PIECES, clusters.MOST) == (10, 20, 0.9)


def test_f_short_paths() -> None:
    """At least two observations in a batch; windows of five; a start of which nothing is known."""
    path = np.linspace(0, 1, 45)
    assert Metric("x", path[None, :9]).n == 4
    assert Metric("x", path[None, :45]).quantile(0.5).n == 20
    assert Metric("x", path[None, :30]).quantile(0.5).n == 15
    assert Metric("x", np.stack((path, path))).method == "replications"
    assert Metric("x", path[None]).look == 0.0
    none = Metric("x", np.full((1, 4), math.nan)).quantile(0.5)
    assert (none.n, none.observations, none.method) == (0, 0, "none")
    start = np.array([9.0] * 10 + [0.0, 1.0, 0.5, 1.0, 0.0] * 2)
    assert mser5(start) == warm_up(start) == 10
    # Two later windows do not say what is usual.
    assert warm_up(np.array([3.0] * 10 + [0.0] * 5 + [0.1] * 5)) == 10
    # Windows of five: of nine later means the first ten differ as little as they do.
    draw, seen = random.Random(8), [0, 0]
    for _ in range(80):
        n = draw.randint(45, 90)
        path = np.array([draw.gauss(0, 1) + 1.2 * (i < 10) for i in range(n)])
        found, least = mser5(path), n // 10
        if least < found < 20:
            k = (n - found) // 5
            later = path[n - 5 * k :].reshape(k, 5).mean(axis=1)
            off = abs(path[:5].mean() - later.mean())
            limit = float(student_t.ppf(0.995, k - 1)) * math.sqrt(1 + 1 / k)
            strange = off > limit * float(later.std(ddof=1))
            assert warm_up(path) == (found if strange else least)
            seen[int(strange)] += 1
    assert min(seen) > 2
