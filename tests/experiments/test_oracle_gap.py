"""The judge of the oracle says no to tables in which a bound is beaten."""

from __future__ import annotations

import pytest

from experiments import oracle_gap
from experiments.claim import Status
from experiments.table import TABLES, Table, read_table


@pytest.mark.parametrize(
    "change",
    [
        {"outer": 0.99},  # the truth lies above the outer bound
        {"inner": 1.01},  # an explicit schedule that does not exist
        {"swap": 0.98},  # free swap can only help
        {"exact": 1, "outer": 1.2},  # a bound that is called exact and is not reached
    ],
)
def test_judge_can_fail(change: dict[str, float]) -> None:
    table = read_table(TABLES / "oracle_gap.csv")
    assert oracle_gap.between(table).status is Status.VERIFIED
    rows = list(table.rows())
    rows[7] = rows[7] | change
    assert oracle_gap.between(Table.of("oracle_gap", rows)).status is Status.NOT


def test_tightness_by_what_binds() -> None:
    text = oracle_gap.tightness(read_table(TABLES / "oracle_gap.csv"))
    binding = {line.split(" | ")[2] for line in text.splitlines()[2:-2]}
    assert {"memory", "slots", "tokens"} <= binding
    assert "not known beforehand" in text
