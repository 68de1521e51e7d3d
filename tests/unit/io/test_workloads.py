"""Named workloads against the traces they were counted from, and against published figures."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import llmq.io.workloads
from llmq.errors import InputError
from llmq.io.traces import read_trace
from llmq.io.workloads import load_workload, workload_facts, workloads
from llmq.model.arrivals import Deterministic, Poisson, Renewal

FOLDER = Path(llmq.io.workloads.__file__).with_name("workloads")


def cv(law):
    return (law.second_moment - law.mean**2) ** 0.5 / law.mean


def product(request):
    return float(np.mean(request.prompt.values.astype(float) * request.output.values))


def test_all_are_listed():
    assert sorted(workloads()) == sorted(file.stem for file in FOLDER.glob("*.toml"))
    assert len(workloads()) == 4


@pytest.mark.parametrize("name", workloads())
def test_every_workload_says_where_it_comes_from(name):
    facts = workload_facts(name)
    assert facts.kind in ("measured", "reconstructed")
    assert all((facts.title, facts.source, facts.licence, facts.made_by))
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", facts.date)
    work = load_workload(name, rate=2.0)
    assert work.rate == 2.0
    assert work.mix == {facts.klass: facts.request}
    assert len(work.sample(50, rng=1)) == 50


def test_the_measured_rate_is_the_default():
    work = load_workload("azure-conv")
    assert work.arrivals == Renewal(5.53, cv=1.094)
    assert load_workload("azure-conv", rate=20).arrivals == Renewal(20, cv=1.094)
    assert load_workload("openchat-sharegpt4", rate=3).arrivals == Poisson(3)


def test_what_is_not_known():
    with pytest.raises(InputError, match="unknown workload 'azure'; did you mean 'azure-conv'"):
        load_workload("azure")
    for name in ("openchat-sharegpt4", "reasoning-alpaca", "reasoning-arena"):
        with pytest.raises(InputError, match=f"workload '{name}' has lengths but no measured rate"):
            load_workload(name)


@pytest.mark.parametrize(
    ("name", "prompt", "output"),
    [
        # mean, median, p99, coefficient of variation (calibration notes, section 7)
        ("azure-conv", (1155, 1020, 4142, 0.96), (211, 129, 601, 0.77)),
        ("openchat-sharegpt4", (2340, 1730, 7434, 0.89), (439, 415, 998, 0.61)),
    ],
)
def test_published_figures(name, prompt, output):
    request = workload_facts(name).request
    for law, (mean, median, p99, spread) in ((request.prompt, prompt), (request.output, output)):
        assert law.mean == pytest.approx(mean, rel=0.01)
        assert law.quantile(0.5) == pytest.approx(median, rel=0.02)
        assert law.quantile(0.99) == pytest.approx(p99, rel=0.02)
        assert cv(law) == pytest.approx(spread, abs=0.01)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("azure-conv", "azure_llm_2023_conv.csv"),
        ("openchat-sharegpt4", "openchat_sharegpt4_lengths.csv"),
    ],
)
def test_the_traces_themselves(data_dir, name, file):
    timed = name == "azure-conv"
    trace = read_trace(data_dir / "traces" / file, arrivals=None if timed else Deterministic(1.0))
    facts = workload_facts(name)
    request = facts.request
    for law, seen in ((request.prompt, trace.prompt), (request.output, trace.output)):
        assert law.mean == pytest.approx(seen.mean(), rel=0.01)
        assert law.quantile(0.5) == pytest.approx(np.quantile(seen, 0.5), rel=0.02)
        assert law.quantile(0.99) == pytest.approx(np.quantile(seen, 0.99), rel=0.02)
        assert cv(law) == pytest.approx(seen.std() / seen.mean(), rel=0.01)
    seen = float(np.mean(trace.prompt.astype(float) * trace.output))
    assert product(request) == pytest.approx(seen, rel=0.02)
    if timed:
        gaps = np.diff(trace.arrival)
        assert facts.rate == pytest.approx(trace.rate, rel=1e-3)
        assert facts.cv == pytest.approx(gaps.std() / gaps.mean(), rel=1e-3)
        # The dependence is not monotone: this is what the copula does not carry.
        skew = np.mean(trace.prompt.astype(float) ** 2 * trace.output)
        mine = np.mean(request.prompt.values.astype(float) ** 2 * request.output.values)
        assert mine / skew == pytest.approx(1.38, abs=0.01)


def test_the_committed_tables_are_what_the_script_makes(data_dir):
    from experiments.make_workloads import tables

    made = tables(data_dir)
    assert sorted(made) == sorted(file.name for file in FOLDER.glob("*.toml"))
    for name, text in made.items():
        assert (FOLDER / name).read_text() == text


@pytest.mark.parametrize(
    ("name", "prompt", "reasoning", "answer", "share"),
    [("reasoning-alpaca", 48, 560, 565, 0.86), ("reasoning-arena", 160, 955, 821, 0.71)],
)
def test_reasoning_generator(name, prompt, reasoning, answer, share):
    request = workload_facts(name).request
    hidden, visible = request.reasoning.values, request.output.values - request.reasoning.values
    assert np.median(request.prompt.values) == pytest.approx(prompt, rel=0.02)
    # clipping and 4,096 points move the means of a heavy tail by little
    assert hidden.mean() == pytest.approx(reasoning, rel=0.02)
    assert visible.mean() == pytest.approx(answer, rel=0.02)
    assert np.mean(hidden < 1000) == pytest.approx(share, abs=0.01)
    assert hidden.min() >= 16
    assert hidden.max() <= 15000
    assert visible.min() >= 8
    assert np.std(np.log(hidden)) == pytest.approx(1.0, abs=0.02)
    assert np.std(np.log(visible)) == pytest.approx(0.7, abs=0.02)
    assert np.corrcoef(np.log(hidden), np.log(visible))[0, 1] == pytest.approx(0.3, abs=0.02)


def test_samples_follow_the_law():
    work = load_workload("azure-conv")
    trace = work.sample(20_000, rng=1)
    request = work.mix["chat"]
    for seen, law in ((trace.prompt, request.prompt), (trace.output, request.output)):
        error = (law.second_moment - law.mean**2) ** 0.5 / 20_000**0.5
        assert abs(seen.mean() - law.mean) < 4 * error
