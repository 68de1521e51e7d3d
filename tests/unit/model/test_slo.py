"""Latency targets: what they say and what is refused."""

from __future__ import annotations

import math

import pytest

from llmq.errors import InputError
from llmq.model.slo import SLO


@pytest.mark.parametrize(
    ("slo", "text"),
    [
        (SLO(ttft=0.5), "TTFT <= 500 ms"),
        (SLO(ttft=0.5, tpot=0.05), "TTFT <= 500 ms and TPOT <= 50 ms"),
        (SLO(e2e=30, quantile=0.9), "p90 E2E <= 30 s"),
        (
            SLO(ttft=1, tpot=0.025, e2e=150, quantile=0.999),
            "p99.9 TTFT <= 1 s and p99.9 TPOT <= 25 ms and p99.9 E2E <= 2.5 min",
        ),
        (SLO(tpot=0.05, quantile=0.57), "p57 TPOT <= 50 ms"),
    ],
)
def test_targets_for_people(slo, text):
    assert str(slo) == text


def test_targets_that_are_set():
    assert SLO(tpot=0.05, ttft=1).targets == {"ttft": 1, "tpot": 0.05}


@pytest.mark.parametrize("name", ["ttft", "tpot", "e2e"])
@pytest.mark.parametrize("value", [0, -1, math.inf, math.nan])
def test_bad_targets(name, value):
    with pytest.raises(InputError) as caught:
        SLO(**{name: value})
    assert str(caught.value) == f"SLO: {name} must be positive and finite (seconds), got {value}"
    assert caught.value.field == name


@pytest.mark.parametrize("quantile", [0, 1, 99, -0.5, math.nan])
def test_bad_quantiles(quantile):
    with pytest.raises(InputError) as caught:
        SLO(ttft=1, quantile=quantile)
    assert str(caught.value) == (
        f"SLO: quantile must lie between 0 and 1 (0.99 for p99), got {quantile}"
    )


def test_no_target():
    with pytest.raises(InputError) as caught:
        SLO(quantile=0.99)
    assert str(caught.value) == "an SLO needs at least one target: ttft=, tpot= or e2e= (seconds)"
