"""The simulated engine's state against the samples of a real server."""

from __future__ import annotations

import numpy as np
import pytest

from experiments import validation_timeseries as series
from experiments.claim import Status
from experiments.table import TABLES, Table, read_table
from experiments.validation_profiles import Source
from llmq import BatchTime
from llmq.errors import InputError
from llmq.io.measured import OpenRun, Settings

LAW = BatchTime.affine(base=1.0, per_token=0.0)


@pytest.fixture(scope="module")
def table(data_dir):
    run, source = series.found(data_dir)
    rows = [*series.measured(run), *series.one({"law": "table"}, None)]
    return Table.of("validation_timeseries", rows), run, source


def test_running_and_waiting_follow_the_server(table):
    assert series.states(table[0]).status is Status.BAND
    for name in series.STATES:
        mean, alike, peak = series.compared(table[0], name)
        assert abs(mean) <= 0.05
        assert abs(peak) <= 0.05
        assert alike >= 0.99
    # Tokens of single seconds agree less: what is known of them is shown, not hidden.
    assert series.compared(table[0], "gen_throughput")[1] > 0.94


def test_kv_use_was_not_recorded_and_is_not_compared(table):
    kv = table[0].where(series="kv_cache_pct")
    assert set(kv["kind"]) == {"simulated"}
    assert 20 < kv["value"].max() < 40


def test_the_committed_table_is_this_one(table):
    old = read_table(TABLES / "validation_timeseries.csv")
    for name in series.STATES:
        rows = {"kind": "simulated", "law": "table", "series": name}
        assert old.where(**rows)["value"].tolist() == table[0].where(**rows)["value"].tolist()


def test_judges_can_fail(table):
    rows = list(table[0].rows())
    rate = {"kind": "simulated", "series": "gen_throughput"}
    ours = dict(
        zip(*(table[0].where(**rate)[name].tolist() for name in ("t", "value")), strict=True)
    )
    for row in rows:
        if row["kind"] == "simulated" and row["series"] == "waiting":
            row["value"] *= 1.2
        if row["kind"] == "measured" and row["series"] == "gen_throughput":
            row["value"] = ours[row["t"]]
    doctored = Table.of("doctored", rows)
    assert series.states(doctored).status is Status.NOT
    assert series.tokens(doctored).status is Status.BAND
    assert series.tokens(table[0]).status is Status.NOT


def test_samples_by_hand():
    # Two slots, one second an iteration: the first two prompts run from 0 s to 3 s, the third
    # waits from 1 s (it came at 0.5 s) and runs from 3 s to 5 s.
    run = OpenRun(
        name="made",
        settings=Settings(gpu="x", model="y", token_budget=64, max_seqs=2),
        arrival=np.array([0.0, 0.0, 0.5]),
        first_token=np.zeros(3),
        finish=np.full(3, 9.0),
        prompt=np.array([8, 8, 8]),
        output=np.array([3, 3, 2]),
        series={
            "t": np.array([0.75, 1.0, 2.5, 4.5, 6.0]),
            "running": np.ones(5),
            "waiting": np.zeros(5),
            "kv_cache_pct": np.zeros(5),
        },
    )
    source = Source(label="s", laws={"affine": LAW}, timer=None, kv_tokens=160, notes=())
    state = series.states_of(run, source, "affine")
    assert state["running"].tolist() == [0, 2, 2, 1, 0]
    assert state["waiting"].tolist() == [0, 0, 1, 0, 0]
    # One block each of ten; at 4.5 s the third request alone.
    assert state["kv_cache_pct"].tolist() == [0, 20, 20, 10, 0]
    # Tokens at 1, 2, 3 s (two each), 4 and 5 s; an edge belongs to the seconds after it.
    counts = state["gen_throughput"] * np.array([0.75, 0.25, 1.5, 2.0, 1.5])
    assert counts.tolist() == [0, 0, 4, 3, 1]
    assert {row["series"] for row in series.measured(run)} == {"running"}


def test_a_run_without_samples_is_refused(data_dir, tmp_path):
    run = tmp_path / series.RUN
    run.parent.mkdir(parents=True)
    (tmp_path / "profiles").symlink_to(data_dir / "profiles")
    run.mkdir()
    for name in ("requests.jsonl", "meta.json"):
        (run / name).symlink_to(data_dir / series.RUN / name)
    with pytest.raises(InputError, match="no samples of running and waiting"):
        series.found(tmp_path)
