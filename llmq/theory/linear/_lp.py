r"""Small linear programmes: value, primal and dual in floats.

.. math:: \min\ c^T x \quad\text{subject to}\quad A x \ge b,\ x \ge 0
          \qquad\Longleftrightarrow\qquad \max\ b^T y,\ A^T y \le c,\ y \ge 0 .

Columns are sparse and hold Fractions: :mod:`llmq.theory.linear._exact` solves the same object in
rationals and only takes the basis from here. Two solvers find it: a dual simplex in NumPy for the
small programmes of a region (:math:`c \ge 0`, so the slacks are a start), and HiGHS
(``scipy.optimize.linprog``) for all others and for column generation. Tolerances are absolute, so
rows and columns are scaled to largest entries near 1 first: seconds per token and tokens per second
differ by ten orders of magnitude.

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

# Entries of a dense tableau; beyond this HiGHS is faster.
_SMALL = 20_000
_FEASIBLE, _PIVOT, _PERTURB, _GOLDEN = 1e-10, 1e-9, 1e-7, 0.6180339887498949
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
    """Minimise ``cost . x`` over ``x >= 0`` with ``sum_j x_j column_j >= bound``."""

    columns: tuple[Column, ...]  # nonzero entries by row
    costs: tuple[Fraction, ...]  # one for each column
    bounds: tuple[Fraction, ...]  # one for each row

    def __post_init__(self) -> None:
        if len(self.columns) != len(self.costs):
            raise InputError(f"{len(self.columns)} columns, but {len(self.costs)} costs")
        rows = range(len(self.bounds))
        for j, column in enumerate(self.columns):
            if any(i not in rows for i in column):
                raise InputError(f"column {j} names a row outside 0, ..., {len(self.bounds) - 1}")

    def dense(self) -> Array:
        """Return the matrix in floats."""
        matrix = np.zeros((len(self.bounds), len(self.columns)))
        for j, column in enumerate(self.columns):
            for i, value in column.items():
                matrix[i, j] = float(value)
        return matrix


@dataclass(frozen=True, slots=True)
class Solution:
    """A float solution."""

    status: LPStatus  # values are meaningful only if optimal
    value: float  # objective
    primal: Array  # variables; shape (n_columns,)
    dual: Array  # prices of the rows, at least 0; shape (n_rows,)


def solve(program: LinearProgram, solver: str = "auto") -> Solution:
    """Solve in floats.

    Examples
    --------
    >>> one, two = Fraction(1), Fraction(2)
    >>> solve(LinearProgram(({0: one}, {0: two}), (one, one), (Fraction(3),))).value
    1.5
    """
    small = len(program.columns) * len(program.bounds) <= _SMALL and min(program.costs) >= 0
    if solver == "highs" or (solver == "auto" and not small):
        return _highs(program)
    found = _dual_simplex(program)
    if found.status is LPStatus.FAILED and solver == "auto":
        return _highs(program)
    return found


def _highs(program: LinearProgram) -> Solution:
    from scipy.optimize import linprog

    matrix, cost, bound, rows, columns, size, unit = _scaled(program)
    done = linprog(cost / unit, A_ub=-matrix, b_ub=-bound / size, method="highs-ds")
    status = {0: LPStatus.OPTIMAL, 2: LPStatus.INFEASIBLE, 3: LPStatus.UNBOUNDED}.get(
        done.status, LPStatus.FAILED
    )
    if status is not LPStatus.OPTIMAL:
        return _nothing(status)
    primal = done.x * columns * size
    dual = np.maximum(-done.ineqlin.marginals, 0.0) * rows * unit
    return Solution(status, _objective(program, primal), primal, dual)


def _dual_simplex(program: LinearProgram) -> Solution:
    """Dual simplex on a dense tableau, from the slacks: right where no cost is negative."""
    # Costs that are 0 make ties, and ties make cycles, so each gets a little extra; the exact
    # solver mends what this may change.
    matrix, cost, bound, rows, columns, size, unit = _scaled(program)
    m, n = matrix.shape
    table = np.hstack((-matrix, np.eye(m), -bound[:, None] / size))
    extra = _PERTURB * (1 + np.modf(np.arange(1, n + 1) * _GOLDEN)[0])
    reduced = np.concatenate((cost / unit + extra, np.zeros(m + 1)))
    basis = np.arange(n, n + m)
    for _ in range(20 * (n + m)):
        leave = int(np.argmin(table[:, -1]))
        if table[leave, -1] >= -_FEASIBLE:
            break
        row = table[leave, :-1]
        down = np.flatnonzero(row < -_PIVOT)
        if not len(down):
            return _nothing(LPStatus.INFEASIBLE)
        enter = int(down[np.argmin(reduced[down] / -row[down])])
        table[leave] /= table[leave, enter]
        factor = table[:, enter].copy()
        factor[leave] = 0.0
        table -= factor[:, None] * table[leave]
        reduced -= reduced[enter] * table[leave]
        basis[leave] = enter
    else:
        return _nothing(LPStatus.FAILED)
    x = np.zeros(n + m)
    x[basis] = np.maximum(table[:, -1], 0.0)
    # Prices of the basis under the true costs.
    whole = np.hstack((matrix, -np.eye(m)))[:, basis]
    true = np.concatenate((cost / unit, np.zeros(m)))[basis]
    try:
        prices = np.maximum(np.linalg.solve(whole.T, true), 0.0)
    except np.linalg.LinAlgError:
        return _nothing(LPStatus.FAILED)
    primal = x[:n] * columns * size
    return Solution(LPStatus.OPTIMAL, _objective(program, primal), primal, prices * rows * unit)


def _scaled(program: LinearProgram) -> tuple[Array, Array, Array, Array, Array, float, float]:
    """Matrix, costs and bounds with rows and columns scaled, the factors, and two sizes."""
    matrix, cost = program.dense(), np.asarray([float(c) for c in program.costs])
    bound = np.asarray([float(b) for b in program.bounds])
    rows, columns = _scales(matrix)
    # Two scalars for the sizes of bounds and costs: their largest becomes 1.
    size, unit = _largest(bound * rows), _largest(cost * columns)
    scaled = matrix * rows[:, None] * columns
    return scaled, cost * columns, bound * rows, rows, columns, size, unit


def _objective(program: LinearProgram, primal: Array) -> float:
    return float(np.asarray([float(c) for c in program.costs]) @ primal)


def _nothing(status: LPStatus) -> Solution:
    return Solution(status, float("nan"), np.zeros(0), np.zeros(0))


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
