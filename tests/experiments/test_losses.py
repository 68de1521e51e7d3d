"""Recompute, held decodes and swaps: what the tables must show, and judges that can fail."""

from __future__ import annotations

import numpy as np
import pytest

import llmq
from experiments import pacing_loss, recompute_loss
from experiments.claim import Claim, Status
from experiments.table import TABLES, Table, read_table
from llmq.theory.stability.losses import holding_load

FULL = {name: read_table(TABLES / f"{name}.csv") for name in ("recompute_loss", "pacing_loss")}


def doctored(table: Table, change, **which: object) -> Table:
    """The table with some rows changed."""
    rows = []
    for row in table.rows():
        if all(row[key] == value for key, value in which.items()):
            row = row | change(row)
        rows.append(row)
    return Table.of(table.name, rows, units=table.units, about=table.about)


def moved(factor: float):
    return lambda row: {key: row[key] * factor for key in ("y", "low", "high")}


def claim(module, name: str) -> Claim:
    return next(one for one in module.CLAIMS if one.id == name)


def status(name: str, table: Table) -> Status:
    module = recompute_loss if name.startswith("RECOMPUTE") else pacing_loss
    return claim(module, name).judge(table).status


@pytest.mark.parametrize(
    ("name", "factor", "which"),
    [
        ("RECOMPUTE-1", 0.1, {"part": "open", "policy": "backfill"}),
        ("RECOMPUTE-1", 1.5, {"part": "open", "policy": "head of line"}),
        ("RECOMPUTE-2", 0.05, {"part": "growth", "policy": "backfill", "x": 3000}),
        ("RECOMPUTE-2", 2.0, {"part": "growth", "policy": "FCFS", "x": 3000}),
        ("RECOMPUTE-3", 1.6, {"part": "population", "policy": "backfill", "x": 40}),
        ("RECOMPUTE-3", 0.5, {"part": "population", "policy": "backfill"}),
        ("RECOMPUTE-4", 1.3, {"part": "population", "policy": "backfill", "x": 40}),
        ("RECOMPUTE-4", 0.7, {"part": "population", "policy": "backfill", "x": 40}),
        ("RECOMPUTE-7", 2.0, {"part": "cycle", "policy": "backfill"}),
    ],
)
def test_judges_of_recompute_loss_can_fail(name: str, factor: float, which: dict) -> None:
    table = FULL["recompute_loss"]
    assert status(name, table) is not Status.NOT
    assert status(name, doctored(table, moved(factor), **which)) is Status.NOT


@pytest.mark.parametrize(
    ("name", "factor", "which"),
    [
        ("PACING-1", 1.1, {"policy": "SLAI", "x": 5.0}),
        ("PACING-2", 0.9, {"policy": "SLAI", "x": 0.05}),
        ("PACING-4", 0.9, {"part": "swap", "policy": "PASCAL", "x": 0.0}),
        ("PACING-4", 1.1, {"part": "swap", "policy": "FCFS", "x": 0.0}),
        ("PACING-5", 1.2, {"part": "swap", "policy": "RR", "kind": "simulated"}),
        ("PACING-5", 0.8, {"part": "swap", "policy": "RR", "kind": "simulated"}),
    ],
)
def test_judges_of_pacing_loss_can_fail(name: str, factor: float, which: dict) -> None:
    table = FULL["pacing_loss"]
    assert status(name, table) is not Status.NOT
    assert status(name, doctored(table, moved(factor), **which)) is Status.NOT


@pytest.mark.parametrize(
    ("name", "factor", "which"),
    [
        ("RECOMPUTE-5", 0.5, {"part": "cycle", "policy": "backfill"}),
        ("RECOMPUTE-6", 0.5, {"part": "cycle", "policy": "backfill"}),
        ("PACING-3", 0.005, {"policy": "SLAI"}),
    ],
)
def test_conjectures_are_refuted_by_the_numbers(name: str, factor: float, which: dict) -> None:
    table = FULL["recompute_loss" if name.startswith("REC") else "pacing_loss"]
    assert status(name, table) is Status.NOT
    assert status(name, doctored(table, moved(factor), **which)) is not Status.NOT


def test_backfill_falls_below_the_offered_rate() -> None:
    """With 40 present backfill serves less than the 5 req/s offered, FCFS more."""
    point = {"part": "population", "x": 40, "n": 300}
    rows = {
        name: recompute_loss._point(point | {"policy": name}, np.random.SeedSequence(1))[0]
        for name in ("FCFS", "backfill")
    }
    assert rows["backfill"]["y"] < recompute_loss.RATE < rows["FCFS"]["low"]
    table = FULL["recompute_loss"].where(part="population", x=[40, 60])
    assert np.all(table.where(policy="backfill")["high"] < recompute_loss.RATE)
    for name in ("FCFS", "head of line"):
        assert np.all(table.where(policy=name)["low"] > recompute_loss.RATE)
    assert rows["backfill"]["again"] > 5 * rows["FCFS"]["again"] > 0
    assert rows["backfill"]["low"] < rows["backfill"]["bound"]


def test_laws_of_the_pacing_table_by_hand() -> None:
    """20 ms + 20 us: a chunk of 512 takes 30.24 ms, 64 decodes 21.28 ms, one of each a request."""
    found = holding_load(pacing_loss.CHIP, pacing_loss.MIX, {"chat": 1.0})
    assert found.load == pytest.approx(0.03024 + 64 / 64 * 0.02128)
    law = FULL["pacing_loss"].where(part="slai", policy="held")
    assert law["y"] == pytest.approx(1 / found.load, rel=1e-5)
    assert found.kind is llmq.Kind.EXACT


def test_slai_falls_with_the_deadline_and_stays_above_the_law() -> None:
    rows = FULL["pacing_loss"].where(part="slai", policy="SLAI")
    law = float(FULL["pacing_loss"].where(part="slai", policy="held")["y"][0])
    assert np.all(rows["high"] >= law)
    error = (rows["high"] - rows["low"]) / 2
    assert np.all(np.diff(rows["y"]) <= error[1:] + error[:-1])
