"""The Lyapunov programme re-checked by hand, growth along a path, and refusals."""

from __future__ import annotations

import random
from fractions import Fraction as F
from typing import Any

import pytest

from llmq.errors import InputError, InvariantError
from llmq.theory.stability import _lyapunov_lp as lyapunov_lp
from llmq.theory.stability.lyapunov import CyclicAgents, TwoStation, cyclic_agents, two_station

NETWORKS: dict[str, dict[str, Any]] = {
    "agents": {
        "station": (1, 2, 2, 1),
        "mean_service": (F(1, 10), F(2, 5), F(1, 10), F(2, 5)),
        "successor": (1, None, 3, None),
        "arrivals": (1, 0, 1, 0),
    },
    "three hops": {
        "station": (1, 2, 1, 2, 1),
        "mean_service": (F(1, 8), F(1, 5), F(1, 7), F(1, 4), F(1, 3)),
        "successor": (1, 2, 3, None, None),
        "arrivals": (1, 0, 0, F(1, 3), F(1, 2)),
    },
    "tandem": {
        "station": (1, 2),
        "mean_service": (F(1, 2), F(9, 10)),
        "successor": (1, None),
        "arrivals": (1, 0),
    },
}


def rows_of(net: dict[str, Any], h: Any, epsilon: F) -> list[F]:
    """Left minus right of every inequality of the LP, written out again; all must be <= 0."""
    station, service = net["station"], net["mean_service"]
    after, arrivals = net["successor"], net["arrivals"]
    n, labels = len(station), list(dict.fromkeys(station))
    found = [sum(map(sum, h)) - F(1), *(-w for row in h for w in row), -epsilon]

    def served(i: int, k: int) -> F:
        gain = h[i][after[k]] if after[k] is not None else F(0)
        return F(gain - h[i][k]) / service[k]

    for i, j in ((0, 1), (1, 0)):
        here = [k for k in range(n) if station[k] == labels[i]]
        there = [k for k in range(n) if station[k] == labels[j]]
        inflow = sum(h[i][k] * F(arrivals[k]) for k in range(n))
        for k in here:
            for rest in (F(0), *(served(i, other) for other in there)):
                found.append(inflow + served(i, k) + rest + epsilon)
        found += [h[i][k] - h[j][k] for k in there]
    return found


@pytest.mark.parametrize("name", NETWORKS)
def test_inequalities_hold_exactly(name: str) -> None:
    found = two_station(**NETWORKS[name])
    assert found.epsilon > 0
    assert max(rows_of(NETWORKS[name], found.weights, found.epsilon)) == 0


@pytest.mark.parametrize("seed", range(12))
def test_optimum_is_that_of_the_float_solver(seed: int) -> None:
    """A programme written out for scipy, independently of the rational one."""
    from scipy.optimize import linprog

    rng = random.Random(seed)
    n = rng.randint(3, 6)
    net = {
        "station": (1, 2, *(rng.choice((1, 2)) for _ in range(n - 2))),
        "mean_service": tuple(F(rng.randint(1, 12), 40) for _ in range(n)),
        "successor": (*(rng.choice((k + 1, None)) for k in range(n - 1)), None),
        "arrivals": (1, *(F(rng.randint(0, 3), 4) for _ in range(n - 1))),
    }
    zero = [F(0)] * n
    units = [[zero] * 2 for _ in range(2 * n)]
    for c in range(2 * n):
        units[c] = [[F(int(c == i * n + k)) for k in range(n)] for i in (0, 1)]
    base = rows_of(net, [zero, zero], F(0))
    columns = [
        [a - b for a, b in zip(rows_of(net, unit, F(0)), base, strict=True)] for unit in units
    ]
    columns.append([a - b for a, b in zip(rows_of(net, [zero, zero], F(1)), base, strict=True)])
    matrix = [[float(column[r]) for column in columns] for r in range(len(base))]
    best = linprog([0.0] * (2 * n) + [-1.0], A_ub=matrix, b_ub=[-float(b) for b in base])
    assert float(two_station(**net).epsilon) == pytest.approx(-best.fun, abs=1e-9)


def test_falls_along_a_random_work_conserving_path() -> None:
    """V(q) after small steps of a fluid path whose allocations are drawn at random."""
    net, step = NETWORKS["agents"], F(1, 10_000)
    found = two_station(**net)
    rng = random.Random(1)
    q = [F(rng.randint(1, 9)) for _ in range(4)]

    def value() -> F:
        return max(sum(w * x for w, x in zip(row, q, strict=True)) for row in found.weights)

    for _ in range(300):
        before, change = value(), [F(a) for a in net["arrivals"]]
        for label in (1, 2):
            share = F(rng.randint(0, 4), 4)
            first, second = (k for k in range(4) if net["station"][k] == label)
            for k, part in ((first, share), (second, 1 - share)):
                rate = part / net["mean_service"][k]
                change[k] -= rate
                if net["successor"][k] is not None:
                    change[net["successor"][k]] += rate
        q = [x + step * d for x, d in zip(q, change, strict=True)]
        assert min(q) > 0  # both stations work all the time
        assert value() - before <= -step * found.epsilon


def test_scaling_time_scales_the_drift() -> None:
    net = NETWORKS["three hops"]
    faster = net | {
        "mean_service": tuple(m / 3 for m in net["mean_service"]),
        "arrivals": tuple(3 * a for a in net["arrivals"]),
    }
    assert two_station(**faster).epsilon == 3 * two_station(**net).epsilon


def test_classes_by_name() -> None:
    found = two_station(
        station={"plan": "a", "code": "b"},
        mean_service={"code": 0.9, "plan": 0.5},
        successor={"plan": "code", "code": None},
        arrivals={"plan": 1, "code": 0},
    )
    assert (found.classes, found.stations) == (("plan", "code"), ("a", "b"))
    assert found.epsilon == two_station(**NETWORKS["tandem"]).epsilon
    assert found.loads == (F(1, 2), F(9, 10))


# Growth of the peak, on a fluid path that knows nothing of the formula.


def half_cycle(agents: CyclicAgents, rate: F) -> F:
    """First hops of the other type when the second hops of these 1000 end; exact events.

    Queues: first and second hop of type A, first and second hop of type B. Engine 1 serves A1 and
    B2, engine 2 serves B1 and A2, second hops first.
    """
    m1, m2 = agents.first_work, agents.second_work
    a1, a2, b1, b2 = q = [F(1000), F(0), F(0), F(0)]
    for _ in range(10):
        a1, a2, b1, b2 = q
        out = [F(0)] * 4
        for _ in range(4):  # engines feed each other: repeat until the rates agree
            out[3] = 1 / m2 if b2 > 0 else min(1 / m2, out[2])
            room = 1 - out[3] * m2
            out[0] = room / m1 if a1 > 0 else min(room / m1, rate)
            out[1] = 1 / m2 if a2 > 0 else min(1 / m2, out[0])
            room = 1 - out[1] * m2
            out[2] = room / m1 if b1 > 0 else min(room / m1, rate)
        slope = [rate - out[0], out[0] - out[1], rate - out[2], out[2] - out[3]]
        falls = [-x / d for x, d in zip(q, slope, strict=True) if d < 0 and x > 0]
        step = min(falls)
        q = [x + step * d for x, d in zip(q, slope, strict=True)]
        if q[0] == q[1] == q[3] == 0:
            return q[2] / 1000
    raise AssertionError("the cycle did not close")


@pytest.mark.parametrize("load", [F(3, 10), F(1, 2), F(19, 34), F(9, 10)])
@pytest.mark.parametrize("hops", [((32, 32), (512, 32)), ((100, 28), (128, 64))])
def test_growth_is_that_of_a_path(load: F, hops: Any) -> None:
    agents = cyclic_agents(768, *hops)
    assert half_cycle(agents, agents.rate(load)) == agents.growth(load)


def test_a_short_second_hop_is_harmless() -> None:
    agents = cyclic_agents(768, (512, 32), (32, 32))
    assert agents.critical_load == 1
    assert agents.lyapunov(F(99, 100)).is_stable
    with pytest.raises(InputError, match="second hop at least as long"):
        agents.growth(0.9)


# Refusals


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"station": (1, 2, 3, 1)}, "is for two stations, got 3"),
        ({"station": (1, 1, 1, 1)}, "is for two stations, got 1"),
        ({"mean_service": (1, 1, 1)}, "mean_service needs one value for each of the 4 classes"),
        ({"mean_service": (1, 1, 1, 0)}, "mean_service must be a number > 0, got 0"),
        ({"arrivals": (1, 0, -1, 0)}, "arrivals must be a number >= 0, got -1"),
        ({"arrivals": (1, 0, "1", 0)}, "arrivals must be a number >= 0, got '1'"),
        ({"successor": (1, None, 7, None)}, "class 2 turns into unknown class 7"),
        ({"successor": (1, 0, 3, None)}, "class 0 never leave"),
        ({"arrivals": {0: 1, 1: 0, 2: 1, 3: 0}}, "arguments by class name or all as sequences"),
    ],
)
def test_two_station_refuses(change: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        two_station(**(NETWORKS["agents"] | change))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: cyclic_agents(0, (1, 1), (1, 1)), "token_budget must be whole tokens"),
        (lambda: cyclic_agents(768, (1.5, 1), (1, 1)), "first_hop\\[0\\] must be a whole number"),
        (lambda: cyclic_agents(768, (1, 1), (1,)), r"second_hop must be a tuple of 2"),
        (lambda: cyclic_agents(768, (32, 32), (512, 32)).growth(1), "load must lie between 0"),
        (lambda: cyclic_agents(768, (32, 32), (512, 32)).growth(0.0), "load must lie between 0"),
    ],
)
def test_cyclic_agents_refuses(call: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        call()


def test_a_wrong_solution_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    solve = lyapunov_lp.solve_exact

    class Wrong:
        def __init__(self, program: Any) -> None:
            right = solve(program).primal
            self.primal = (*right[:-1], right[-1] + F(1, 10**9))

    monkeypatch.setattr(lyapunov_lp, "solve_exact", Wrong)
    with pytest.raises(InvariantError, match="does not meet its own inequalities"):
        two_station(**NETWORKS["agents"])


def test_results_are_values() -> None:
    one, two = (two_station(**NETWORKS["tandem"]) for _ in range(2))
    assert isinstance(one, TwoStation)
    assert one == two
