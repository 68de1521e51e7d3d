"""Hindsight schedules against exhaustive search, and refusals."""

from __future__ import annotations

import itertools
import random
from fractions import Fraction as F

import pytest

from llmq.errors import InputError, UndecidedError
from llmq.theory.hindsight import Job, heuristic, solve, volume_bound

Jobs = list[tuple[int, int, int]]


def held(jobs: Jobs, starts: tuple[int, ...], t: int) -> int:
    """KV tokens at time t, step by step as the model is stated."""
    return sum(s + t - x for (s, o, _), x in zip(jobs, starts, strict=True) if x < t <= x + o)


def is_feasible(jobs: Jobs, starts: tuple[int, ...], memory: int) -> bool:
    end = max(x + o for (_, o, _), x in zip(jobs, starts, strict=True))
    on_time = all(x >= a for (_, _, a), x in zip(jobs, starts, strict=True))
    return on_time and all(held(jobs, starts, t) <= memory for t in range(end + 1))


def exhaustive(jobs: Jobs, memory: int) -> int:
    """Least latency over all starts up to the end of a schedule one by one."""
    last = max(a for _, _, a in jobs) + sum(o for _, o, _ in jobs)
    ranges = [range(a, last - o + 1) for _, o, a in jobs]
    return min(
        sum(x + o - a for (_, o, a), x in zip(jobs, starts, strict=True))
        for starts in itertools.product(*ranges)
        if is_feasible(jobs, starts, memory)
    )


def draw(seed: int) -> tuple[Jobs, int]:
    rng = random.Random(seed)
    jobs = [
        (rng.randint(0, 4), rng.randint(1, 4), rng.choice((0, 0, rng.randint(0, 4))))
        for _ in range(rng.randint(1, 4))
    ]
    return jobs, max(s + o for s, o, _ in jobs) + rng.randint(0, 5)


@pytest.mark.parametrize("seed", range(30))
def test_optimum_by_exhaustive_search(seed: int) -> None:
    jobs, memory = draw(seed)
    best = solve(jobs, memory)
    assert is_feasible(jobs, best.starts, memory)
    assert best.latency == exhaustive(jobs, memory)


@pytest.mark.parametrize("key", ["output", "volume", "arrival", lambda job: -job.prompt])
@pytest.mark.parametrize("seed", range(30))
def test_bounds_enclose_the_optimum(seed: int, key: object) -> None:
    jobs, memory = draw(seed)
    greedy = heuristic(jobs, memory, key)  # type: ignore[arg-type]
    assert is_feasible(jobs, greedy.starts, memory)
    best = solve(jobs, memory).latency
    assert volume_bound(jobs, memory) <= best <= greedy.latency
    assert best >= sum(o for _, o, _ in jobs)


def test_a_greedy_start_looks_at_the_whole_future() -> None:
    """Both fit now (2 + 2), but not when they end together (5 + 5): the second waits until, at the
    end of the first (5), it holds little enough."""
    jobs = [(1, 4), (1, 4)]
    assert heuristic(jobs, memory=10).starts == (0, 0)
    assert heuristic(jobs, memory=9).starts == (0, 1)  # 5 + 4
    assert heuristic(jobs, memory=8).starts == (0, 2)  # 5 + 3
    assert heuristic(jobs, memory=5).starts == (0, 4)


def test_greedy_stops_at_the_first_that_does_not_fit() -> None:
    """The small third job could start at 0, but stands behind the second."""
    assert heuristic([(1, 4), (4, 4), (0, 1)], memory=8, key="arrival").starts == (0, 4, 4)


def test_ties_go_to_the_first() -> None:
    assert heuristic([(2, 2), (2, 2)], memory=4).starts == (0, 2)
    assert heuristic([Job(2, 2), Job(2, 2)], memory=4, key=lambda job: 0).starts == (0, 2)


def test_volume_is_the_sum_of_what_is_held() -> None:
    assert Job(3, 4).volume == sum(3 + k for k in range(1, 5))


def test_volume_bound_of_late_jobs() -> None:
    """Ends are counted from the first arrival, latencies from each one."""
    assert volume_bound([(1, 1), (1, 1, 3)], memory=2) == F(2 + 4, 2) - 3
    assert volume_bound([(1, 1, 5), (1, 1, 5)], memory=2) == F(2 + 4, 2)


def test_all_fit_at_once() -> None:
    best = solve([(1, 2)] * 5, memory=15)
    assert best.starts == (0,) * 5
    assert best.latency == 10


def test_time_limit_gives_a_bracket() -> None:
    jobs = [(i % 7 + 1, i % 5 + 3, 2 * (i % 4)) for i in range(24)]
    with pytest.raises(UndecidedError, match="leaves the best latency between") as stopped:
        solve(jobs, memory=30, time_limit=1e-9)
    assert sum(o for _, o, _ in jobs) <= stopped.value.low < stopped.value.high
    assert stopped.value.high <= heuristic(jobs, 30, "volume").latency


@pytest.mark.parametrize(
    ("jobs", "memory", "words"),
    [
        ([], 12, "at least one job, got none"),
        ([(2, 3), (5, 8)], 12, "job 1 never fits: it ends with 13 tokens, the memory has 12"),
        ([(2, 0)], 12, "output of job 0 must be a whole number, at least 1, got 0"),
        ([(2, 1.5)], 12, r"output of job 0 must be a whole number, at least 1, got 1\.5"),
        ([(2, 1, -1)], 12, "arrival of job 0"),
        ([(2,)], 12, r"job 0 must be \(prompt, output"),
        ([(2, 1)], 0, "memory must be whole KV tokens"),
    ],
)
def test_refuses(jobs: Jobs, memory: int, words: str) -> None:
    for verb in (solve, heuristic, volume_bound):
        with pytest.raises(InputError, match=words):
            verb(jobs, memory)


def test_refuses_keys_and_limits() -> None:
    with pytest.raises(InputError, match="no key 'outputs'; did you mean 'output'"):
        heuristic([(1, 1)], 4, "outputs")
    with pytest.raises(InputError, match="time_limit must be seconds > 0, got 0"):
        solve([(1, 1)], 4, time_limit=0)


def test_c_a_key_that_fails_is_named() -> None:
    with pytest.raises(InputError, match=r"key\(Job\(.*failed with TypeError: .*returns a number"):
        heuristic([(2, 3)], 12, int)
