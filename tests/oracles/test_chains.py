"""Exact chains against theory core O16 and O21, and by other methods."""

from __future__ import annotations

import math
from fractions import Fraction as F

import numpy as np
import pytest

from llmq.errors import InputError, UndecidedError, UnstableError
from llmq.result import Kind
from llmq.theory import chains, latency


def near(value: float, rel: float = 1e-9) -> object:
    return pytest.approx(value, rel=rel)


# Stationary laws.


def test_gamblers_ruin_in_rationals() -> None:
    up, n = F(2, 5), 7
    rows = [[F(0)] * n for _ in range(n)]
    for i in range(n):
        rows[i][min(i + 1, n - 1)] += up
        rows[i][max(i - 1, 0)] += 1 - up
    law = chains.stationary(rows)
    ratio = F(2, 3)
    total = sum(ratio**i for i in range(n))
    assert law.kind is Kind.EXACT
    assert law.probabilities == tuple(ratio**i / total for i in range(n))
    assert isinstance(law.mean(range(n)), F)


def test_floats_and_rationals_agree() -> None:
    rng = np.random.default_rng(3)
    counts = rng.integers(0, 6, (12, 12)) + np.eye(12, dtype=int)
    exact = [[F(int(x), int(row.sum())) for x in row] for row in counts]
    law = chains.stationary(exact)
    rounded = chains.stationary(np.array(exact, dtype=float))
    assert rounded.kind is Kind.APPROXIMATION
    assert rounded.probabilities == near([float(p) for p in law.probabilities], 1e-13)
    # pi P = pi and sum 1, without rounding.
    pi = law.probabilities
    assert sum(pi) == 1
    assert all(sum(pi[i] * exact[i][j] for i in range(12)) == pi[j] for j in range(12))


def test_transient_states_have_probability_0() -> None:
    law = chains.stationary([[0, 1, 0], [0, 0, 1], [0, F(1, 2), F(1, 2)]])
    assert law.probabilities == (0, F(1, 3), F(2, 3))
    absorbed = chains.stationary([{0: F(1, 2), 1: F(1, 2)}, {1: 1}])
    assert absorbed.probabilities == (0, 1)


def test_small_probabilities_keep_their_digits() -> None:
    # Elimination by subtraction loses these altogether.
    e = 1e-14
    law = chains.stationary([[1 - e, e, 0], [1 - e, 0, e], [1, 0, 0]])
    assert law.probabilities[2] == near(e * law.probabilities[1], 1e-14)
    assert law.probabilities[1] == near(e, 1e-12)
    # 1 - 1e-20 is 1 in floats: only the chance of leaving is to be trusted.
    assert chains.stationary([[0.5, 0.5], [1e-20, 1.0]]).probabilities[0] == near(2e-20, 1e-14)


def test_stationary_laws_of_queues_agree_with_their_formulas() -> None:
    # M/M/1/4 in rationals, uniformised, against the Erlang and bulk formulas.
    lam, mu, n = F(3), F(4), 60
    rows: list[dict[int, F]] = []
    for k in range(n):
        row = {min(k + 1, n - 1): lam / 7}
        row[max(k - 1, 0)] = row.get(max(k - 1, 0), F(0)) + mu / 7
        rows.append(row)
    law = chains.stationary(rows)
    assert float(law.mean(range(n))) == near(latency.bulk(3, 4, 1, accessible=True).mean, 1e-5)
    assert law.probabilities[1] / law.probabilities[0] == F(3, 4)
    wait = latency.erlang_c(1, 0.75).wait
    assert float(law.mean(range(n))) == near(0.75 * (wait + 1), 1e-5)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([], "at least one state"),
        ([[1, 0]], "row 0 has 2 entries, there are 1 rows"),
        ([[F(1, 2), F(1, 3)], [1, 0]], "row 0 of P must sum to 1, got 5/6"),
        ([[0.5, 0.4], [1.0, 0.0]], "row 0 of P must sum to 1, got 0.9"),
        ([[F(3, 2), F(-1, 2)], [1, 0]], r"P\[0, 1\] must be a probability >= 0, got Fraction"),
        ([[1.0, math.nan], [1, 0]], r"P\[0, 1\] must be a probability"),
        ([{0: 1}, {2: 1}], "row 1 leads to state 2: there are 2 states"),
        ([[1, 0], [0, 1]], "2 recurrent classes"),
    ],
)
def test_stationary_refuses(rows: list, words: str) -> None:
    with pytest.raises(InputError, match=words):
        chains.stationary(rows)


def test_mean_needs_a_value_for_each_state() -> None:
    with pytest.raises(InputError, match="each of the 2 states, got 3"):
        chains.stationary([[0, 1], [1, 0]]).mean([1, 2, 3])


# O16: the slotted engine.

O16 = {
    0.3: (1.1915686271, 1.2122500379, 1.3806464714),
    0.4: (2.0062871873, 2.1260155685, 2.5392414447),
}


@pytest.mark.parametrize("arrival", O16)
def test_o16_optimal_and_two_rules(arrival: float) -> None:
    engine = chains.slot_engine(arrival)
    assert len(engine.states) == 495
    best = chains.optimal_cost(engine.choices())
    rules = [
        chains.stationary(engine.chain(rule))
        for rule in (chains.decode_first, chains.prefill_first)
    ]
    means = [law.mean(engine.present) for law in rules]
    assert (best.cost, *means) == near(O16[arrival], 1e-10)
    assert best.cost < means[0] < means[1]
    if arrival == 0.3:
        assert rules[0].probabilities[0] == near(0.2539746593, 1e-10)


def test_o16_in_rationals() -> None:
    engine = chains.slot_engine(F(3, 10))
    law = chains.stationary(engine.chain(chains.decode_first))
    mean = law.mean(engine.present)
    assert law.kind is Kind.EXACT
    assert isinstance(mean, F)
    assert float(mean) == near(1.2122500379, 1e-10)
    assert float(law.probabilities[0]) == near(0.2539746593, 1e-10)
    # The policy of the value iteration, evaluated without rounding, has the bracketed cost.
    best = chains.optimal_cost(engine.choices())
    rows = [here[a][1] for here, a in zip(engine.choices(), best.policy, strict=True)]
    exact = chains.stationary(rows).mean(engine.present)
    assert best.low - 1e-9 <= exact <= best.high + 1e-9
    assert best.high - best.low <= 1e-11


def test_o16_and_simulation_agree() -> None:
    # The same slots, played with a list of requests instead of counts.
    rng, n, rounds = np.random.default_rng(16), 20_000, 10
    means = []
    for _ in range(rounds):
        coins, total = rng.random(n) < 0.4, 0
        left: list[list[int]] = []
        for coin in coins:
            total += len(left)
            budget = 2
            # Outputs first, those that end a request before the others; then prompts begun.
            for job in sorted(left, key=lambda job: (job[0] > 0, job[0] == 2, job[1])):
                take = min(budget, job[0]) if job[0] else min(budget, 1)
                job[0 if job[0] else 1] -= take
                budget -= take
            left = [job for job in left if job[1]]
            if coin and len(left) < 8:
                left.append([2, 2])
        means.append(total / n)
    error = np.std(means, ddof=1) / math.sqrt(rounds)
    assert abs(np.mean(means) - O16[0.4][1]) <= 4 * error
    assert error < 0.04  # prefill-first is ten of these away


# O21: quasi-birth-death chains.

SWITCH = [[0.0, 0.1], [0.3, 0.0]]
UP = [[0.4, 0.0], [0.0, 2.0]]
NONE = np.zeros((2, 2))


def two_slots() -> chains.QBD:
    one, two = np.eye(2), 1.5 * np.eye(2)
    return chains.qbd(UP, SWITCH, two, boundary=[(UP, SWITCH, NONE), (UP, SWITCH, one)])


def test_o21_two_slots_in_a_random_environment() -> None:
    law = two_slots()
    assert law.mean == near(2.4156708844, 1e-10)
    assert law.p0 == near(0.3959038694, 1e-10)
    assert law.spectral_radius == near(0.8, 1e-12)
    assert law.sojourn == near(3.0195886055, 1e-10)
    assert law.rate == near(0.8, 1e-13)
    assert law.residual < 1e-14
    assert law.steps < 12


def test_o21_against_a_truncated_chain() -> None:
    law, n = two_slots(), 60
    rows: list[dict[int, float]] = []
    for k in range(n):
        for phase in range(2):
            rates = {2 * k + 1 - phase: SWITCH[phase][1 - phase]}
            if k < n - 1:
                rates[2 * (k + 1) + phase] = UP[phase][phase]
            if k:
                rates[2 * (k - 1) + phase] = 1.0 if k == 1 else 1.5
            row = {j: rate / 4 for j, rate in rates.items()}
            row[2 * k + phase] = 1 - sum(row.values())
            rows.append(row)
    pi = np.array(chains.stationary(rows).probabilities).reshape(n, 2)
    for k in (0, 1, 2, 3, 10):
        assert law.level(k) == near(pi[k], 1e-4)
    total = sum(law.level(k).sum() for k in range(200))
    assert total == near(1.0, 1e-12)
    assert law.mean == near(sum(k * law.level(k).sum() for k in range(400)), 1e-12)


def test_o21_phases_that_mix_across_levels() -> None:
    # Erlang-2 service as two phases: M/E2/1, mean by Pollaczek-Khinchine.
    lam, mu = 0.7, 2.0
    up, local = lam * np.eye(2), [[0.0, mu], [0.0, 0.0]]
    down = [[0.0, 0.0], [mu, 0.0]]
    # Level 0 waits in phase 0: the other phase of it returns there at once.
    law = chains.qbd(up, local, down, boundary=[(up, [[0, 0], [100.0, 0]], NONE)])
    queue = latency.mg1(lam, 1.0, 1.5)
    assert law.p0 == near(0.3)
    assert law.mean == near(lam * queue.sojourn)
    assert law.boundary[0][1] == pytest.approx(0.0, abs=1e-15)


def test_o21_mm1_and_mmc() -> None:
    law = chains.qbd([[0.5]], [[0]], [[1.0]])
    assert (law.mean, law.p0, law.spectral_radius) == near((1.0, 0.5, 0.5), 1e-12)
    servers = [([[2.5]], [[0]], [[float(k)]]) for k in range(4)]
    pool = chains.qbd([[2.5]], [[0]], [[4.0]], boundary=servers)
    assert pool.mean == near(2.5 * (latency.erlang_c(4, 2.5).wait + 1), 1e-12)


def test_o21_near_saturation() -> None:
    law = chains.qbd([[0.99999]], [[0]], [[1.0]])
    assert law.mean == near(99999.0, 1e-10)
    assert law.steps < 30


def test_qbd_refuses() -> None:
    with pytest.raises(UnstableError, match=r"rises at rate 2 and falls at 1 \(margin 0.5") as info:
        chains.qbd([[2.0]], [[0.0]], [[1.0]])
    assert info.value.margin == 0.5
    with pytest.raises(UnstableError, match="margin 1,"):
        chains.qbd([[1.0]], [[0.0]], [[1.0]])
    with pytest.raises(InputError, match=r"local of the repeating levels must have shape \(1, 1\)"):
        chains.qbd([[1.0]], SWITCH, [[2.0]])
    with pytest.raises(InputError, match=r"up of level 1 must hold rates >= 0, got -1"):
        chains.qbd(
            [[1.0]], [[0]], [[2.0]], boundary=[([[1]], [[0]], [[0]]), ([[-1]], [[0]], [[1]])]
        )
    with pytest.raises(InputError, match="three matrices of rates"):
        chains.qbd("up", [[0]], [[2.0]])
    with pytest.raises(InputError, match="2 recurrent classes"):
        chains.qbd(0.1 * np.eye(2), NONE, np.eye(2))
    with pytest.raises(InputError, match="n must be a whole number, at least 0"):
        two_slots().level(-1)


# Optimal cost.


def test_optimal_cost_against_all_policies() -> None:
    from itertools import product

    rng = np.random.default_rng(21)
    for _ in range(5):
        n, m = 4, 3
        shares = rng.dirichlet(np.ones(n), (n, m))
        costs = rng.integers(0, 10, (n, m))
        choices = [
            [(float(costs[i, a]), dict(enumerate(shares[i, a]))) for a in range(m)]
            for i in range(n)
        ]
        means = {
            policy: chains.stationary([shares[i, a].tolist() for i, a in enumerate(policy)]).mean(
                [float(costs[i, a]) for i, a in enumerate(policy)]
            )
            for policy in product(range(m), repeat=n)
        }
        best = chains.optimal_cost(choices)
        assert best.cost == near(min(means.values()), 1e-10)
        assert means[best.policy] == near(best.cost, 1e-10)


def test_optimal_cost_of_a_cycle() -> None:
    # Periodic: plain value iteration never settles.
    best = chains.optimal_cost([[(0.0, {1: 1})], [(1.0, {2: 1})], [(5.0, {0: 1})]])
    assert best.cost == near(2.0)
    assert best.values.tolist() == pytest.approx([0.0, 2.0, 3.0], abs=1e-9)


def test_optimal_cost_refuses() -> None:
    with pytest.raises(InputError, match="at least one state"):
        chains.optimal_cost([])
    with pytest.raises(InputError, match="state 1 has no choice"):
        chains.optimal_cost([[(1.0, {0: 1})], []])
    with pytest.raises(InputError, match="choice in state 0 must be >= 0 and sum to 1"):
        chains.optimal_cost([[(1.0, {0: 0.5})]])
    with pytest.raises(InputError, match="choice in state 1 must be >= 0 and sum to 1"):
        chains.optimal_cost([[(1.0, {0: 1})], [(1.0, {0: 1.5, 1: -0.5})]])
    with pytest.raises(InputError, match="not one of the 1"):
        chains.optimal_cost([[(1.0, {1: 1})]])
    # Two states that never meet: no one least cost.
    with pytest.raises(UndecidedError, match="does not close where the cost depends") as info:
        chains.optimal_cost([[(1.0, {0: 1})], [(2.0, {1: 1})]], sweeps=50)
    assert (info.value.low, info.value.high) == near((1.0, 2.0))


def test_rules_break_ties_as_stated() -> None:
    # Most of these ties do not occur in the long run, so the means of O16 do not see them.
    engine = chains.slot_engine(0.3)

    def served(rule: object, *state: int) -> chains.Slot:
        slots = engine.slots[engine.states.index(chains.State(*state))]
        return max(slots, key=rule)  # type: ignore[type-var, arg-type]

    assert served(chains.decode_first, 1, 1, 1, 2) == chains.Slot(0, 0, 0, 0, 2)
    assert served(chains.decode_first, 1, 1, 1, 0) == chains.Slot(0, 0, 1, 1, 0)
    assert served(chains.decode_first, 2, 0, 0, 0) == chains.Slot(1, 0, 0, 0, 0)
    assert served(chains.prefill_first, 1, 1, 1, 2) == chains.Slot(0, 1, 1, 0, 0)
    assert served(chains.prefill_first, 2, 0, 1, 2) == chains.Slot(1, 0, 0, 0, 0)
    assert served(chains.prefill_first, 0, 1, 1, 2) == chains.Slot(0, 0, 1, 0, 1)
    assert served(chains.prefill_first, 0, 0, 0, 0) == chains.Slot(0, 0, 0, 0, 0)


def test_slot_engine_refuses() -> None:
    with pytest.raises(InputError, match=r"arrival must lie strictly between 0 and 1, got 1\.5"):
        chains.slot_engine(1.5)
    with pytest.raises(InputError, match="capacity must be a whole number, at least 1"):
        chains.slot_engine(0.5, capacity=0)
