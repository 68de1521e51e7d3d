r"""Small linear programmes: value, primal and dual in floats.

.. math:: \min\ c^T x \quad\text{subject to}\quad A x \ge b,\ x \ge 0
          \qquad\Longleftrightarrow\qquad \max\ b^T y,\ A^T y \le c,\ y \ge 0 .

Columns are sparse and hold Fractions: :mod:`llmq.theory.exact` solves the same object in rationals
and only takes the basis from here. HiGHS does the work (``scipy.optimize.linprog``). Its tolerances
are absolute, so rows and columns are scaled to largest entries of 1 first: seconds per token and
tokens per second differ by ten orders of magnitude.

Not covered: integers, free variables, equality rows.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from llmq.errors import InputError

__all__ = ["LPStatus", "LinearProgram", "Solution", "solve"]

Column: TypeAlias = Mapping[int, Fraction]
Array: TypeAlias = npt.NDArray[Any]


class LPStatus(enum.StrEnum):
    """How a linear programme ended; the value is the sentence shown to people."""

    OPTIMAL = "solved to optimality"
    INFEASIBLE = "no choice meets all constraints"
    UNBOUNDED = "the objective has no bound"
    FAILED = "the float solver gave up"


@dataclass(frozen=True, slots=True)
class LinearProgram:
    """Minimise ``cost . x`` over ``x >= 0`` with ``sum_j x_j column_j >= bound``.

    Parameters
    ----------
    columns : tuple of mapping of int to Fraction
        Nonzero entries by row.
    costs : tuple of fractions.Fraction
        One for each column.
    bounds : tuple of fractions.Fraction
        One for each row.
    """

    columns: tuple[Column, ...]
    costs: tuple[Fraction, ...]
    bounds: tuple[Fraction, ...]

    def __post_init__(self) -> None:
        if len(self.columns) != len(self.costs):
            raise InputError(f"{len(self.columns)} columns, but {len(self.costs)} costs")
        rows = range(len(self.bounds))
        for j, column in enumerate(self.columns):
            if any(i not in rows for i in column):
                raise InputError(f"column {j} names a row outside 0, ..., {len(self.bounds) - 1}")

    def dense(self) -> Array:
        """Return the matrix in floats.

        Returns
        -------
        ndarray, shape (n_rows, n_columns)
            Entries.
        """
        matrix = np.zeros((len(self.bounds), len(self.columns)))
        for j, column in enumerate(self.columns):
            for i, value in column.items():
                matrix[i, j] = float(value)
        return matrix


@dataclass(frozen=True, slots=True)
class Solution:
    """A float solution.

    Parameters
    ----------
    status : LPStatus
        Values are meaningful only if optimal.
    value : float
        Objective.
    primal : ndarray, shape (n_columns,)
        Variables.
    dual : ndarray, shape (n_rows,)
        Prices of the rows, at least 0.
    """

    status: LPStatus
    value: float
    primal: Array
    dual: Array


def solve(program: LinearProgram) -> Solution:
    """Solve in floats with HiGHS.

    Parameters
    ----------
    program : LinearProgram
        The problem.

    Returns
    -------
    Solution
        Value with duals.

    Examples
    --------
    >>> one, two = Fraction(1), Fraction(2)
    >>> solve(LinearProgram(({0: one}, {0: two}), (one, one), (Fraction(3),))).value
    1.5
    """
    from scipy.optimize import linprog

    matrix, cost = program.dense(), np.asarray([float(c) for c in program.costs])
    bound = np.asarray([float(b) for b in program.bounds])
    rows, columns = _scales(matrix)
    # Two scalars for the sizes of bounds and costs: their largest becomes 1.
    size = _largest(bound * rows)
    unit = _largest(cost * columns)
    done = linprog(
        cost * columns / unit,
        A_ub=-(matrix * rows[:, None] * columns),
        b_ub=-(bound * rows) / size,
        method="highs-ds",
    )
    status = {0: LPStatus.OPTIMAL, 2: LPStatus.INFEASIBLE, 3: LPStatus.UNBOUNDED}.get(
        done.status, LPStatus.FAILED
    )
    if status is not LPStatus.OPTIMAL:
        nothing = np.zeros(0)
        return Solution(status, float("nan"), nothing, nothing)
    primal = done.x * columns * size
    dual = np.maximum(-done.ineqlin.marginals, 0.0) * rows * unit
    return Solution(status, float(cost @ primal), primal, dual)


def _largest(values: Array) -> float:
    return float(np.max(np.abs(values), initial=0.0)) or 1.0


def _scales(matrix: Array) -> tuple[Array, Array]:
    """Row and column factors that bring the largest entries near 1."""
    rows, columns = np.ones(matrix.shape[0]), np.ones(matrix.shape[1])
    for _ in range(3):
        scaled = np.abs(matrix * rows[:, None] * columns)
        columns /= np.sqrt(_spread(scaled, 0))
        scaled = np.abs(matrix * rows[:, None] * columns)
        rows /= np.sqrt(_spread(scaled, 1))
    return rows, columns


def _spread(scaled: Array, axis: int) -> Array:
    """Largest times smallest nonzero entry along an axis; 1 where there is none."""
    high = scaled.max(axis=axis, initial=0.0)
    low = np.where(scaled > 0, scaled, np.inf).min(axis=axis, initial=np.inf)
    return np.where(high > 0, high * np.where(high > 0, low, 1.0), 1.0)
