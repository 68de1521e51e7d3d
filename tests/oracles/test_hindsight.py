"""Scheduling in hindsight with known values: theory core O14."""

from __future__ import annotations

from fractions import Fraction as F

import pytest

from llmq.result import Kind
from llmq.theory.hindsight import heuristic, solve, volume_bound

JOBS = [(2, 3), (1, 5), (4, 2), (3, 4), (2, 2), (1, 1)]


def test_o14_optimum() -> None:
    best = solve(JOBS, memory=12)
    assert best.latency == 23
    assert sum(x + o for x, (_, o) in zip(best.starts, JOBS, strict=True)) == 23
    assert best.kind is Kind.EXACT


@pytest.mark.parametrize(("key", "latency"), [("output", 26), ("volume", 26), ("arrival", 35)])
def test_o14_heuristics(key: str, latency: int) -> None:
    found = heuristic(JOBS, 12, key)
    assert found.latency == latency
    assert found.kind is Kind.INNER_BOUND


def test_o14_volume_bound() -> None:
    assert volume_bound(JOBS, 12) == F(63, 4)
