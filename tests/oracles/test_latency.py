"""Latency laws against theory core O9 - O12, O17 - O20, O22, O26, each also by another method."""

from __future__ import annotations

import heapq
import math

import numpy as np
import pytest

import llmq
from llmq import policies
from llmq.result import Kind
from llmq.sim.results.run import Run
from llmq.theory import latency


def near(value: float, rel: float = 1e-9) -> object:
    return pytest.approx(value, rel=rel)


def poisson(mean: float, n: int) -> np.ndarray:
    """Probabilities of 0 .. n - 1, in logarithms."""
    logs = np.array([k * math.log(mean) - mean - math.lgamma(k + 1) for k in range(n)])
    return np.exp(logs)


def solve_chain(p: np.ndarray) -> np.ndarray:
    """Stationary law by linear algebra; the code has no chain that could share a fault."""
    a = p.T - np.eye(len(p))
    a[-1] = 1.0  # one balance equation follows from the others
    return np.linalg.solve(a, np.eye(len(p))[-1])


# O9: Bailey's slots.


@pytest.mark.parametrize(
    ("m", "b", "mean", "empty"),
    [
        (3, 4, 0.8008834797806, 0.678011052186),
        (14, 16, 1.877222879022, 0.601997162991),
        (1.8, 2, 3.864461786488, 0.284984631228),
    ],
)
def test_o9_bailey(m: float, b: int, mean: float, empty: float) -> None:
    law = latency.bailey(m, b)
    assert law.kind is Kind.EXACT
    assert law.queue_mean == near(mean, 1e-11)
    assert law.p_empty == near(empty, 1e-10)
    assert law.wait == near(mean / m)


@pytest.mark.parametrize(("m", "b"), [(3.0, 4), (14.0, 16), (0.5, 1), (1.6, 2)])
def test_o9_bailey_against_a_truncated_chain(m: float, b: int) -> None:
    n = 300
    law, arrivals = latency.bailey(m, b), poisson(m, n + b)
    p = np.zeros((n, n))
    for q in range(n):
        for a, chance in enumerate(arrivals):
            p[q, min(max(q + a - b, 0), n - 1)] += chance
    pi = solve_chain(p)
    assert law.queue_mean == near(float(pi @ np.arange(n)))
    assert law.p_empty == near(float(pi[0]))


def test_o9_bailey_with_one_place_is_a_slotted_single_server() -> None:
    assert latency.bailey(0.5, 1).queue_mean == near(0.25)  # m^2 / (2 (1 - m))
    assert latency.bailey(0.5, 1).p_empty == near(0.5 * math.exp(0.5))


def test_o9_the_heavy_traffic_value_is_near() -> None:
    # Theory core 5.1: m / (2 (b - m)) = 4.5 and 24.5.
    assert latency.bailey(1.96, 2).queue_mean == near(23.798754, 1e-7)


# O10: Erlang C and staffing.


def test_o10_erlang_c() -> None:
    law = latency.erlang_c(110, 100)
    assert law.blocking == near(0.02746344845)
    assert law.p_wait == near(0.23700750029)
    assert law.wait == near(0.0237007500, 1e-8)
    assert law.tail(0.1) == near(0.0871901868)
    assert law.tail(law.quantile(0.9)) == near(0.1)
    assert law.quantile(0.5) == 0.0
    assert law.staff(0.2) == 111
    assert latency.erlang_c(12, 10).p_wait == near(0.4493882243)


def test_o10_erlang_c_by_summing_the_series() -> None:
    c, a = 7, 5.5
    terms = [a**k / math.factorial(k) for k in range(c)]
    last = a**c / math.factorial(c) * c / (c - a)
    law = latency.erlang_c(c, a)
    assert law.p_wait == near(last / (sum(terms) + last))
    assert latency.erlang_c(law.staff(0.1), a).p_wait <= 0.1
    assert latency.erlang_c(law.staff(0.1) - 1, a).p_wait > 0.1


def test_o10_halfin_whitt() -> None:
    by_servers = latency.halfin_whitt(100, servers=110)
    assert by_servers.slack == 1.0
    assert by_servers.p_wait == near(0.2233612748)
    by_wait = latency.halfin_whitt(100, p_wait=0.2)
    assert by_wait.slack == near(1.0615162754)
    assert by_wait.servers == near(110.6152, 1e-6)
    assert by_wait.kind is Kind.ASYMPTOTIC
    # The limit: Erlang C at growing load and the same slack.
    gaps = [
        abs(latency.erlang_c(round(a + math.sqrt(a)), a).p_wait - by_servers.p_wait)
        for a in (100.0, 10_000.0)
    ]
    assert gaps[1] < gaps[0] / 5


# O11: one request at a time, clipped lognormal tokens.


def yang(limit: int) -> llmq.Lengths:
    from scipy.special import ndtr

    n = np.arange(1, limit)
    below = ndtr((np.log(n) - 7) / 0.7)  # ceil(X) <= n
    return llmq.Lengths(np.arange(1, limit + 1), np.diff(np.r_[0.0, below, 1.0]))


def test_o11_clipped_lognormal() -> None:
    short, long = (latency.mg1_tokens(1 / 40, yang(n), 0.0225) for n in (1600, 3000))
    assert yang(1600).mean == near(1083.199153944)
    assert yang(1600).weights[-1] == near(0.295025389, 1e-8)
    assert short.utilisation == near(0.609299524)
    assert short.wait == near(22.34004317)
    assert long.wait == near(55.36513473)
    assert 1 - short.wait / long.wait == pytest.approx(0.5965, abs=5e-5)
    assert latency.mg1_tokens(1 / 40, yang(3000), 0.0225, limit=1600).wait == near(short.wait)


def alone(output: llmq.Lengths, rate: float, replications: int, requests: int) -> Run:
    """One slot: each request holds the engine for as long as its output."""
    engine = llmq.Engine(
        llmq.BatchTime.affine(base=0.01, per_token=0.01), token_budget=8, max_seqs=1
    )
    work = llmq.Workload.poisson(rate, {"x": llmq.RequestClass(1, output)})
    return llmq.simulate(
        engine, work, policies.Sarathi(), replications=replications, requests=requests, rng=11
    )


def test_mg1_and_simulation_agree() -> None:
    output = llmq.Lengths(np.array([5, 40]), np.array([0.8, 0.2]))
    law = latency.mg1_tokens(2.0, output, 0.02)
    assert law.utilisation == near(0.48)
    run = alone(output, 2.0, replications=16, requests=3000)
    assert abs(run.e2e.mean - law.sojourn) <= 2 * run.e2e.half_width  # about 4 SE
    assert run.e2e.half_width < 0.05 * law.sojourn


def test_md1_and_simulation_agree() -> None:
    law = latency.md1(3.5, 0.2)
    run = alone(llmq.Lengths.fixed(10), 3.5, replications=24, requests=1200)
    waits = (run.requests.finish - run.requests.arrival)[:, 100:] - 0.2
    for x in (0.0, 0.1, 0.2, 0.5, 1.0):
        shares = (waits > x + 1e-9).mean(axis=1)
        error = shares.std(ddof=1) / math.sqrt(len(shares))
        assert abs(shares.mean() - law.tail(x)) <= 4 * error
        assert error < 0.02


# O12: the decode engine.


def test_o12_negative_binomial() -> None:
    law = latency.decode_occupancy(2.0, 200, 0.012, 0.0005)
    assert law.kind is Kind.APPROXIMATION
    assert law.load == near(0.2)
    assert law.mean == near(6.25, 1e-14)
    assert law.variance == near(7.8125, 1e-13)
    assert law.p_empty == near(0.8**25, 1e-12)
    assert law.p_empty == near(0.003777893186)
    assert law.sojourn == near(3.125, 1e-14)
    assert law.tbt_mean == near(0.015625, 1e-14)
    assert law.quantile(0.99) == 14
    assert law.tbt_quantile(0.99) == near(0.0195)
    assert law.fluid_mean == near(6.0)
    assert law.relaxation == near(3.75)
    assert law.capacity == near(10.0)
    assert law.mean - law.fluid_mean == near(0.2 / 0.8, 1e-12)


def test_o12_slots() -> None:
    law = latency.decode_occupancy(2.0, 200, 0.012, 0.0005, max_seqs=8)
    assert law.mean == near(7.830431734)
    assert law.sojourn == near(3.915215867)
    assert law.slot_wait == near(0.842896925)
    assert law.capacity == near(2.5)
    assert latency.decode_occupancy(2.0, 200, 0.012, 0.0005, 16).mean == near(6.252333803)


@pytest.mark.parametrize("slots", [None, 1, 8, 16])
@pytest.mark.parametrize(("base", "per_token"), [(0.002, 0.0005), (0.0, 0.001), (0.0024, 0.0)])
def test_o12_against_a_birth_death_recursion(
    base: float, per_token: float, slots: int | None
) -> None:
    rate, output, n = 1.9, 200, 4000
    law = latency.decode_occupancy(rate, output, base, per_token, slots)
    p = [1.0]
    for k in range(1, n):
        m = k if slots is None else min(k, slots)
        p.append(p[-1] * rate * output * (base + per_token * m) / m)
    pi, k = np.array(p) / math.fsum(p), np.arange(n)
    batch = k if slots is None else np.minimum(k, slots)
    assert law.mean == near(float(pi @ k))
    assert law.variance == near(float(pi @ k**2 - (pi @ k) ** 2), 1e-8)
    assert law.cdf(11) == near(float(pi[:12].sum()))
    assert law.slot_wait * rate == pytest.approx(float(pi @ (k - batch)), abs=1e-9)
    # Tokens: an iteration of state n makes n of them, n / (c + a n) in a unit of time.
    gaps = base + per_token * batch
    made = np.where(batch > 0, pi * batch / np.where(batch > 0, gaps, 1.0), 0.0)
    assert law.tbt_mean == near(float(made @ gaps) / made.sum())
    reached = np.cumsum(made[1:]) / made.sum()
    assert law.tbt_quantile(0.9) == near(float(gaps[1 + np.searchsorted(reached, 0.9)]))


@pytest.mark.parametrize("output", [llmq.Lengths.fixed(200), llmq.Lengths.uniform(20, 380)])
def test_o12_and_simulation_agree(output: llmq.Lengths) -> None:
    law = latency.decode_occupancy(2.0, 200, 0.012, 0.0005)
    engine = llmq.Engine(llmq.BatchTime.affine(base=0.012, per_token=0.0005), token_budget=512)
    work = llmq.Workload.poisson(2.0, {"x": llmq.RequestClass(1, output)})
    run = llmq.simulate(engine, work, replications=16, requests=500, rng=5)
    assert abs(run.e2e.mean - law.sojourn) <= 2 * run.e2e.half_width  # about 4 SE
    assert run.e2e.mean == near(law.sojourn, 0.03)
    assert run.e2e.half_width < 0.03 * law.sojourn


def test_o12_slots_and_simulation_agree() -> None:
    # With a queue in front only geometric outputs are covered.
    n = np.arange(1, 4001)
    output = llmq.Lengths(n, 0.005 * 0.995 ** (n - 1))
    law = latency.decode_occupancy(1.8, output.mean, 0.012, 0.0005, max_seqs=8)
    engine = llmq.Engine(llmq.BatchTime.affine(base=0.012, per_token=0.0005), max_seqs=8)
    work = llmq.Workload.poisson(1.8, {"x": llmq.RequestClass(1, output)})
    run = llmq.simulate(engine, work, replications=24, requests=1200, rng=8)
    assert abs(run.e2e.mean - law.sojourn) <= 2 * run.e2e.half_width  # about 4 SE
    free = latency.decode_occupancy(1.8, output.mean, 0.012, 0.0005)
    assert run.e2e.half_width < (law.sojourn - free.sojourn) / 2


# O17: short requests first.

PERFECT = {
    0.0: (1.7126863319, 2.3121966827, 4.1969125897),
    1.0: (1.4253726639, 1.8745666896, 3.5521250996),
    0.5: (1.4701728854, 1.9396881595, 3.6399620472),
    0.8: (1.4287789535, 1.8793809808, 3.5583778341),
}
EXPONENTIAL = {
    0.0: (1.794814, 2.572583, 5.361018),
    0.8: (1.661573, 2.373533, 5.104712),
    1.0: (1.658283, 2.368830, 5.098534),
}


@pytest.mark.parametrize("c", PERFECT)
def test_o17_perfect_predictions(c: float) -> None:
    for rate, value in zip((0.5, 0.7, 0.9), PERFECT[c], strict=True):
        assert latency.limited_preemption(rate, c).sojourn == near(value, 1e-10)


@pytest.mark.parametrize("c", EXPONENTIAL)
def test_o17_exponential_predictions(c: float) -> None:
    for rate, value in zip((0.5, 0.7, 0.9), EXPONENTIAL[c], strict=True):
        law = latency.limited_preemption(rate, c, prediction="exponential")
        assert law.sojourn == pytest.approx(value, abs=6e-7)


def test_o17_srpt_by_schrage_and_miller() -> None:
    from scipy.integrate import quad

    rate = 0.7

    def idle(x: float) -> float:
        return 1 - rate * (1 - math.exp(-x) * (1 + x))

    def given(x: float) -> float:
        squares = 2 - math.exp(-x) * (x * x + 2 * x + 2) + x * x * math.exp(-x)
        return rate * squares / (2 * idle(x) ** 2) + quad(lambda t: 1 / idle(t), 0, x)[0]

    direct = quad(lambda x: math.exp(-x) * given(x), 0, 40, epsrel=1e-11)[0]
    assert latency.limited_preemption(rate, 1.0).sojourn == near(direct)


def preemptive_run(rate: float, c: float, n: int, rng: np.random.Generator) -> float:
    """Mean response of n requests, event by event; ranks as the policy states them."""
    arrival = np.cumsum(rng.exponential(1 / rate, n))
    size = rng.exponential(1.0, n)
    guess = rng.exponential(size)
    age = np.zeros(n)
    waiting: list[tuple[float, int]] = []
    total, now, nxt, serving = 0.0, 0.0, 0, -1
    while nxt < n or serving >= 0 or waiting:
        if serving < 0 and not waiting:
            now = max(now, arrival[nxt])
            heapq.heappush(waiting, (guess[nxt], nxt))
            nxt += 1
        if serving < 0:
            serving = heapq.heappop(waiting)[1]
        end = now + size[serving] - age[serving]
        if nxt < n and arrival[nxt] < end:
            age[serving] += arrival[nxt] - now
            now = arrival[nxt]
            rank = guess[serving] - age[serving]
            if age[serving] < c * guess[serving] and guess[nxt] < rank:
                heapq.heappush(waiting, (rank, serving))
                serving = nxt
            else:
                heapq.heappush(waiting, (guess[nxt], nxt))
            nxt += 1
        else:
            total += end - arrival[serving]
            now, serving = end, -1
    return total / n


@pytest.mark.parametrize("c", [0.3, 0.8])
def test_o17_and_event_simulation_agree(c: float) -> None:
    rng = np.random.default_rng(17)
    means = np.array([preemptive_run(0.6, c, 6000, rng) for _ in range(12)])
    error = means.std(ddof=1) / math.sqrt(len(means))
    law = latency.limited_preemption(0.6, c, prediction="exponential")
    assert abs(means.mean() - law.sojourn) <= 4 * error
    # Sharp enough to tell it from never and from always preempting.
    never = latency.limited_preemption(0.6, 0.0, prediction="exponential").sojourn
    assert error < (never - law.sojourn) / 4


# O18: KV memory.


def test_o18_kv_occupancy() -> None:
    law = latency.kv_occupancy(0.5, 4, 6)
    assert law.mean == near(22.5, 1e-14)
    assert law.variance == near(177.5, 1e-14)
    assert law.tail(60) == near(0.008106341062)
    assert (law.quantile(0.99), law.quantile(0.999)) == (59, 74)


def test_o18_by_panjers_recursion() -> None:
    lengths = llmq.Lengths(np.array([1, 3, 4]), np.array([0.2, 0.5, 0.3]))
    prompts = llmq.Lengths.uniform(2, 5)
    law = latency.kv_occupancy(0.8, prompts, lengths)
    sizes: dict[int, float] = {}
    for s in prompts.values:
        for o, w in zip(lengths.values, lengths.weights, strict=True):
            for j in range(1, o + 1):
                sizes[s + j] = sizes.get(s + j, 0.0) + 0.8 * w / 4
    p = [math.exp(-sum(sizes.values()))]
    for n in range(1, 200):
        p.append(sum(k * x * p[n - k] for k, x in sizes.items() if k <= n) / n)
    assert law.probabilities[:200] == pytest.approx(p, abs=1e-15)
    assert law.mean == near(sum(n * x for n, x in enumerate(p)))
    assert law.tail(40) == pytest.approx(1 - math.fsum(p[:41]), abs=1e-13)


# O19: Inoue.


@pytest.mark.parametrize(
    ("rho", "wait"), [(0.3, 4.2248004130), (0.5, 5.9018645690), (0.7, 9.8176470586)]
)
def test_o19_inoue(rho: float, wait: float) -> None:
    law = latency.inoue(rho / 0.1438, 0.1438, 1.8874)
    assert law.wait == near(wait, 1e-10)
    assert law.wait <= law.bound


def test_o19_inoue_details() -> None:
    assert latency.inoue(0.3 / 0.1438, 0.1438, 1.8874).batch_mean == near(5.6316368807, 1e-10)
    law = latency.inoue(0.5 / 0.1438, 0.1438, 1.8874)
    assert law.bound == near(5.9018666667, 1e-10)
    assert law.utilisation == near(0.9999991664, 1e-10)
    from llmq.theory.latency._batches import _first_bound

    assert _first_bound(law.rate, law.per_item, law.base) == near(21.1585687529, 1e-10)


@pytest.mark.parametrize(("rate", "alpha", "tau0"), [(0.4, 0.5, 1.0), (1.2, 0.5, 0.3), (0.2, 2, 0)])
def test_o19_against_the_chain_of_batches(rate: float, alpha: float, tau0: float) -> None:
    n = 160
    p = np.zeros((n, n))
    for b in range(1, n + 1):
        row = poisson(rate * (alpha * b + tau0), n + 1)
        p[b - 1] = row[1:]
        p[b - 1, 0] += row[0]
        p[b - 1, -1] += 1 - row.sum()
    pi, b = solve_chain(p), np.arange(1, n + 1)
    law = latency.inoue(rate, alpha, tau0)
    time = alpha * b + tau0
    none = float(pi @ np.exp(-rate * time))
    assert law.batch_mean == near(float(pi @ b))
    assert law.batch_second_moment == near(float(pi @ b**2))
    assert law.utilisation == near(float(pi @ time / (pi @ time + none / rate)))
    # Renewal reward: who arrives during a batch waits half of it on average, then a whole one.
    later = float(pi @ (time**2 / 2)) * rate
    own = float(pi @ (b * time))
    assert law.wait == near((later + own) / float(pi @ b))


# O20: bulk service.


def test_o20_bulk() -> None:
    joined = latency.bulk(3, 1, 4, accessible=True)
    assert joined.root == near(0.8881796675853, 1e-12)
    assert joined.mean == near(7.942917431970, 1e-12)
    assert joined.sojourn == near(2.647639143990, 1e-12)
    apart = latency.bulk(3, 1, 4, accessible=False)
    assert apart.queue_mean == near(7.657496176015, 1e-12)
    assert apart.p_idle == near(0.0359340580)


@pytest.mark.parametrize("accessible", [True, False])
def test_o20_against_a_truncated_chain(accessible: bool) -> None:
    lam, mu, b, n = 2.2, 1.0, 3, 300
    law = latency.bulk(lam, mu, b, accessible)
    # States: 0 idle, 1 + q busy; q waiting, or present but one where arrivals may join.
    rates = np.zeros((n, n))
    rates[0, 1] = lam
    for q in range(n - 1):
        here = 1 + q
        if q < n - 2:
            rates[here, here + 1] += lam
        if accessible:
            left = max(q + 1 - b, 0)
            rates[here, left] += mu
        else:
            rates[here, 0 if q == 0 else 1 + max(q - b, 0)] += mu
    step = 1 / (lam + mu)
    p = rates * step
    np.fill_diagonal(p, p.diagonal() + 1 - p.sum(axis=1))
    pi, k = solve_chain(p), np.arange(n)
    assert law.p_idle == near(float(pi[0]))
    if accessible:
        assert law.mean == near(float(pi @ k))
        assert law.queue_mean == near(float(pi @ np.maximum(k - b, 0)))
    else:
        assert law.queue_mean == near(float(pi[1:] @ k[:-1]))
        assert law.mean == near(law.queue_mean + lam / mu)


# O22: M/D/1 and the shortest of d.


def test_o22_md1() -> None:
    law = latency.md1(0.8, 1.0)
    assert law.tail(2.0) == near(0.3654800637)
    assert law.quantile(0.99) == near(10.3558867920, 1e-11)
    assert latency.md1(0.9, 1.0).quantile(0.95) == near(14.1286738302, 1e-11)


@pytest.mark.parametrize("rho", [0.05, 0.5, 0.8, 0.97])
def test_o22_md1_against_the_alternating_series(rho: float) -> None:
    from fractions import Fraction

    law, exact = latency.md1(rho, 1.0), Fraction(rho)

    def series(x: float) -> float:
        """P(W <= x) with 60 more digits than the terms cancel."""
        from decimal import Decimal, localcontext

        with localcontext(prec=90):
            total = Decimal(0)
            for k in range(math.floor(x) + 1):
                z = exact * (k - Fraction(x))
                decimal = Decimal(z.numerator) / Decimal(z.denominator)
                power = decimal**k if k else Decimal(1)
                total += power * (-decimal).exp() / math.factorial(k)
            return float((1 - Decimal(rho)) * total)

    for x in (0.0, 0.4, 1.0, 2.5, 7.9, 25.0):
        assert law.cdf(x) == pytest.approx(series(x), abs=2e-14)


@pytest.mark.parametrize("rho", [0.3, 0.9, 0.99])
def test_o22_md1_is_continuous_where_the_exponential_takes_over(rho: float) -> None:
    law = latency.md1(rho, 1.0)
    assert law.tail(30 - 1e-9) == pytest.approx(law.tail(30.0), rel=1e-8, abs=1e-15)
    area = sum((law.tail(x / 50) + law.tail((x + 1) / 50)) / 100 for x in range(50 * 30))
    jump = law.tail(30.0) / law.decay
    # Kinks at multiples of D lie on the grid; the trapezes err by their curvature alone.
    assert area + jump == near(law.wait, 1e-3)


@pytest.mark.parametrize(("d", "value"), [(2, 2.6140573773), (3, 2.0278559690)])
def test_o22_jsq(d: int, value: float) -> None:
    law = latency.jsq(d, 0.9)
    assert law.sojourn == near(value, 1e-10)
    assert law.kind is Kind.ASYMPTOTIC
    # Little: mean number per server is the sum of the tails.
    assert 0.9 * law.sojourn == near(sum(law.tail(k) for k in range(1, 60)))


# O26: llm-inferno.


def test_o26_birth_death() -> None:
    law = latency.birth_death(
        0.003, 128, 512, base=12, per_token=0.05, per_kv=0.0005, max_seqs=48, queue=128
    )
    assert law.kind is Kind.APPROXIMATION
    assert law.step == near(0.2543781676)
    assert law.sojourn == near(10348.36747787, 1e-12)
    assert law.wait == near(21.40538716)
    assert law.in_service == near(30.98088627)


def test_o26_against_detailed_balance_in_rationals() -> None:
    from fractions import Fraction as F

    rate, s, o, slots, places = F(1, 2), 3, 4, 2, 3
    delta = F(1, 10) * F(s + o, o + 1) + F(1, 100) * (s + F(o, 2))
    p = [F(1)]
    for n in range(1, slots + places + 1):
        k = min(n, slots)
        p.append(p[-1] * rate * (1 + o) * (F(1, 5) + k * delta) / k)
    total = sum(p)
    law = latency.birth_death(
        0.5, s, o, base=0.2, per_token=0.1, per_kv=0.01, max_seqs=slots, queue=places
    )
    assert law.p_loss == near(float(p[-1] / total), 1e-13)
    assert law.throughput == near(float(rate * (1 - p[-1] / total)), 1e-13)
    assert law.mean == near(float(sum(n * x for n, x in enumerate(p)) / total), 1e-13)
    queue = sum(max(n - slots, 0) * x for n, x in enumerate(p)) / total
    assert law.wait * law.throughput == near(float(queue), 1e-12)
