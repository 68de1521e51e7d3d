"""Intervals of rows against values by hand."""

import math

import pytest

from experiments.intervals import around, scores, standard_errors
from experiments.table import Table


def test_a_row_carries_a_student_interval():
    # t(0.975, 2) = 4.302653, standard error 1 / sqrt(3).
    row = around([1.0, 2.0, 3.0], "wait")
    assert row["wait"] == 2.0
    assert row["n"] == 3
    assert row["high"] - 2.0 == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)
    assert 2.0 - row["low"] == pytest.approx(row["high"] - 2.0)


def test_judges_read_the_standard_error_back():
    rows = Table.of("x", [around([1.0, 2.0, 3.0]), around(range(8)), around([5.0, 5.0])])
    want = [1 / math.sqrt(3), math.sqrt(6.0 / 8), 0.0]
    assert standard_errors(rows) == pytest.approx(want, rel=1e-5)


def test_scores_count_the_errors_of_both():
    low = Table.of("x", [around([1.0, 2.0, 3.0], "value")])
    high = Table.of("x", [around([7.0, 8.0, 9.0], "value")])
    assert scores(high, low) == pytest.approx([6 / math.sqrt(2 / 3)], rel=1e-5)
    assert scores(low, high) == pytest.approx([-6 / math.sqrt(2 / 3)], rel=1e-5)
