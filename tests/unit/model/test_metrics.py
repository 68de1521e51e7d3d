"""Latency definitions and the dialects of other tools, on a log of five requests done by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmq.errors import InputError
from llmq.model.dialects import summary
from llmq.model.metrics import RequestTimes, e2e, itl, prefill_latency, tpot, ttft

# arrival  tokens                         visible n   TTFT  E2E   TPOT  gaps
# 0        1, 1.5, 2, 3                   4           1     3     2/3   .5 .5 1
# 1        1.5                            1           0.5   0.5   -
# 2        4, 4.25                        2           2     2.25  .25   .25
# 3        (3.5, 3.75) 5, 5.5, 6.5        3           2     3.5   .75   .5 1
# 4        4.25, 4.75, 5.25, 5.75, 6.25   5           0.25  2.25  .5    .5 .5 .5 .5
LOG = RequestTimes.from_tokens(
    arrival=[0, 1, 2, 3, 4],
    token_times=[
        [1, 1.5, 2, 3],
        [1.5],
        [4, 4.25],
        [3.5, 3.75, 5, 5.5, 6.5],
        [4.25, 4.75, 5.25, 5.75, 6.25],
    ],
    reasoning=[0, 0, 0, 2, 0],
)


def without_tokens(times):
    names = ("arrival", "prefill_end", "first_token", "finish", "output", "reasoning")
    return RequestTimes(**{name: getattr(times, name) for name in names})


def test_definitions():
    assert ttft(LOG).tolist() == [1, 0.5, 2, 2, 0.25]
    assert prefill_latency(LOG).tolist() == [1, 0.5, 2, 0.5, 0.25]
    assert e2e(LOG).tolist() == [3, 0.5, 2.25, 3.5, 2.25]
    np.testing.assert_array_equal(tpot(LOG), [2 / 3, np.nan, 0.25, 0.75, 0.5])
    assert itl(LOG).tolist() == [0.5, 0.5, 1, 0.25, 0.5, 1, 0.5, 0.5, 0.5, 0.5]
    assert LOG.visible.tolist() == [4, 1, 2, 3, 5]


def check(dialect, expected):
    found = summary(LOG, dialect)
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-12)
    assert all(type(value) is float for value in found.values())


def test_llmq_dialect():
    check(
        "llmq",
        {
            "arrived": 5,
            "completed": 5,
            "duration_s": 6.5,
            "ttft_mean_s": 1.15,
            "ttft_p50_s": 1,
            "ttft_p90_s": 2,
            "ttft_n": 5,
            "tpot_mean_s": (2 / 3 + 1.5) / 4,
            "tpot_p50_s": 7 / 12,
            "tpot_n": 4,
            "itl_mean_s": 0.575,
            "itl_p99_s": 1,
            "itl_n": 10,
            "e2e_mean_s": 2.3,
            "e2e_p90_s": 3.3,
            "e2e_p99_s": 3.48,
            "throughput_requests_per_s": 5 / 6.5,
            "throughput_tokens_per_s": 15 / 6.5,
        },
    )


def test_vllm_dialect():
    check(
        "vllm",
        {
            "completed": 5,
            "duration_s": 6.5,
            "total_output_tokens": 15,
            "request_throughput_per_s": 5 / 6.5,
            "output_throughput_tokens_per_s": 15 / 6.5,
            "mean_ttft_ms": 1150,
            "median_ttft_ms": 1000,
            "std_ttft_ms": 1000 * math.sqrt(0.54),
            "p90_ttft_ms": 2000,
            # the request with one token is left out of the mean
            "mean_tpot_ms": 1000 * (2 / 3 + 1.5) / 4,
            "median_tpot_ms": 1000 * 7 / 12,
            "mean_itl_ms": 575,
            "median_itl_ms": 500,
            "p99_itl_ms": 1000,
            "mean_e2el_ms": 2300,
            "median_e2el_ms": 2250,
            "p90_e2el_ms": 3300,
            "p99_e2el_ms": 3480,
        },
    )


def test_guidellm_dialect():
    check(
        "guidellm",
        {
            "request_totals.successful": 5,
            "request_latency_s.mean": 2.3,
            "request_latency_s.percentiles.p90": 3.5,
            "time_to_first_token_ms.mean": 1150,
            "time_to_first_token_ms.median": 1000,
            "time_to_first_token_ms.std_dev": 1000 * math.sqrt(0.54),
            "time_to_first_token_ms.percentiles.p10": 250,  # no interpolation
            # (l - a)/n: 0.75, 0.5, 1.125, 7/6, 0.45 with weights 4, 1, 2, 3, 5
            "time_per_output_token_ms.mean": 1000 * 11.5 / 15,
            "time_per_output_token_ms.percentiles.p25": 450,
            "time_per_output_token_ms.median": 750,
            "time_per_output_token_ms.percentiles.p75": 1125,
            "time_per_output_token_ms.percentiles.p90": 1000 * 7 / 6,
            # 2/3, -, 0.25, 0.75, 0.5 with weights 3, 0, 1, 2, 4
            "inter_token_latency_ms.mean": 575,
            "inter_token_latency_ms.percentiles.p05": 250,
            "inter_token_latency_ms.percentiles.p25": 500,
            "inter_token_latency_ms.percentiles.p75": 2000 / 3,
            "inter_token_latency_ms.percentiles.p90": 750,
        },
    )


def test_inference_perf_dialect():
    check(
        "inference-perf",
        {
            "count": 5,
            "benchmark_time_s": 6.5,
            "requests_per_sec": 5 / 6.5,
            "output_tokens_per_sec": 15 / 6.5,
            "request_latency_s.mean": 2.3,
            "request_latency_s.median": 2.25,
            "request_latency_s.min": 0.5,
            "request_latency_s.max": 3.5,
            "request_latency_s.p90": 3.3,
            # the request with one token has no TTFT: 1, 2, 2, 0.25
            "time_to_first_token_s.mean": 1.3125,
            "time_to_first_token_s.median": 1.5,
            "time_per_output_token_s.mean": (2 / 3 + 1.5) / 4,
            "normalized_time_per_output_token_s.mean": (0.75 + 0.5 + 1.125 + 7 / 6 + 0.45) / 5,
            "inter_token_latency_s.mean": 0.575,
        },
    )


def test_aiperf_dialect():
    check(
        "aiperf",
        {
            "request_count": 5,
            "request_latency_ms.avg": 2300,
            "request_latency_ms.p90": 3300,
            "time_to_first_token_ms.avg": 1150,
            "time_to_first_token_ms.p10": 350,
            "time_to_first_token_ms.std": 1000 * math.sqrt(0.54),
            "inter_token_latency_ms.avg": 1000 * (2 / 3 + 1.5) / 4,  # TPOT elsewhere
            "inter_token_latency_ms.p50": 1000 * 7 / 12,
            "inter_chunk_latency_ms.avg": 575,  # ITL elsewhere
        },
    )
    assert not any("per_output_token" in name for name in summary(LOG, "aiperf"))


@pytest.mark.parametrize(
    ("dialect", "word"),
    [("llmq", "itl"), ("vllm", "itl"), ("inference-perf", "inter_token"), ("aiperf", "chunk")],
)
def test_gaps_are_left_out_without_token_times(dialect, word):
    bare, full = summary(without_tokens(LOG), dialect), summary(LOG, dialect)
    assert [name for name in full if name not in bare] == [name for name in full if word in name]
    assert bare == {name: full[name] for name in bare}


def test_one_token_requests_have_no_tpot():
    times = RequestTimes.from_tokens(arrival=[0, 1], token_times=[[1], [3]])
    assert "tpot_mean_s" not in summary(times)
    assert summary(times)["tpot_n"] == 0
    assert summary(times, "vllm")["mean_tpot_ms"] == 0  # what the tool prints
    assert summary(times, "guidellm")["inter_token_latency_ms.mean"] == 0
    assert "time_to_first_token_s.mean" not in summary(times, "inference-perf")
    assert "inter_token_latency_ms.avg" not in summary(times, "aiperf")


def unfinished():
    """Two replications of two requests; the last request stops after one of three tokens."""
    return RequestTimes(
        arrival=np.array([[0.0, 1.0], [0.0, 2.0]]),
        prefill_end=np.array([[1.0, 2.0], [1.0, 3.0]]),
        first_token=np.array([[1.0, 2.0], [1.0, 3.0]]),
        finish=np.array([[2.0, 4.0], [2.5, np.nan]]),
        output=np.array([[2, 2], [2, 3]]),
        token_times=np.array([1.0, 2.0, 2.0, 4.0, 1.0, 2.5, 3.0]),
        token_offsets=np.array([0, 2, 4, 6, 7]),
    )


def test_unfinished_requests_are_counted_not_averaged():
    times = unfinished()
    assert ttft(times).shape == (2, 2)
    np.testing.assert_array_equal(e2e(times), [[2, 3], [2.5, np.nan]])
    np.testing.assert_array_equal(tpot(times), [[1, 2], [1.5, np.nan]])
    assert itl(times).tolist() == [1, 2, 1.5]
    found = summary(times)
    assert (found["arrived"], found["completed"]) == (4, 3)
    assert found["e2e_mean_s"] == 2.5
    assert found["duration_s"] == 4 + 2.5  # replications add up
    assert summary(times, "vllm")["completed"] == 3


def test_what_cannot_be_summarised():
    with pytest.raises(InputError, match="unknown dialect 'vlm'; did you mean 'vllm'"):
        summary(LOG, "vlm")
    none = np.array([np.nan])
    nothing = RequestTimes(
        arrival=np.zeros(1), prefill_end=none, first_token=none, finish=none, output=np.ones(1)
    )
    with pytest.raises(InputError, match="no request has finished"):
        summary(nothing)
    with pytest.raises(InputError, match=r"record='tokens'"):
        itl(nothing)


def test_shapes_and_counts_are_checked():
    base = {name: np.zeros(2) for name in ("arrival", "prefill_end", "first_token", "finish")}
    with pytest.raises(InputError, match=r"output has shape \(3,\), arrival has \(2,\)"):
        RequestTimes(**base, output=np.ones(3))
    with pytest.raises(InputError, match="belong together"):
        RequestTimes(**base, output=np.ones(2), token_times=np.zeros(2))
    with pytest.raises(InputError, match="must run from 0 to 2 in 3 entries"):
        RequestTimes(
            **base, output=np.ones(2), token_times=np.zeros(2), token_offsets=np.array([0, 2])
        )
    with pytest.raises(InputError, match="request 1 finished with 1 output tokens, but has 2"):
        RequestTimes(
            **base, output=np.ones(2), token_times=np.zeros(3), token_offsets=np.array([0, 1, 3])
        )
    with pytest.raises(InputError, match=r"shape \(n,\) or \(replications, n\)"):
        RequestTimes(**dict.fromkeys(base, np.zeros(())), output=np.ones(()))
    with pytest.raises(InputError, match="at least one token that is not hidden"):
        RequestTimes.from_tokens(arrival=[0], token_times=[[1, 2]], reasoning=[2])


@st.composite
def logs(draw):
    n = draw(st.integers(1, 5))
    seconds = st.integers(0, 2**20).map(lambda ticks: ticks / 1024)  # dyadic: sums are exact
    arrival = [draw(seconds) for _ in range(n)]
    rows = []
    for a in arrival:
        gaps = draw(st.lists(seconds, min_size=1, max_size=6))
        rows.append(a + np.cumsum(gaps))
    hidden = [draw(st.integers(0, len(row) - 1)) for row in rows]
    return RequestTimes.from_tokens(arrival=arrival, token_times=rows, reasoning=hidden)


@given(logs())
def test_gaps_add_up(times):
    gaps = np.split(itl(times), np.cumsum(times.visible - 1)[:-1])
    for i, mine in enumerate(gaps):
        assert len(mine) == times.visible[i] - 1
        assert ttft(times)[i] + mine.sum() == e2e(times)[i]
        if len(mine):
            assert tpot(times)[i] == mine.sum() / len(mine)


@given(logs())
def test_the_dialects_agree_where_they_should(times):
    ours, vllm, guide, perf, ai = (
        summary(times, name) for name in ("llmq", "vllm", "guidellm", "inference-perf", "aiperf")
    )
    assert vllm["mean_ttft_ms"] == pytest.approx(1000 * ours["ttft_mean_s"])
    assert guide["time_to_first_token_ms.mean"] == pytest.approx(vllm["mean_ttft_ms"])
    assert ai["time_to_first_token_ms.p90"] == pytest.approx(vllm["p90_ttft_ms"])
    assert perf["request_latency_s.mean"] == pytest.approx(ours["e2e_mean_s"])
    if "tpot_mean_s" in ours:
        assert ai["inter_token_latency_ms.avg"] == pytest.approx(vllm["mean_tpot_ms"])
        # token-weighted means of means are means over tokens
        assert guide["inter_token_latency_ms.mean"] == pytest.approx(vllm["mean_itl_ms"])
