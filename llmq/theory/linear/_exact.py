r"""Linear programmes in rationals: the basis of the float optimum, re-solved and repaired.

A vertex of ``A x - s = b`` is given by a set of ``m`` columns, its basis. A float solver finds
which; here the square system is solved in Fractions, and the vertex is optimal if
:math:`x_B = B^{-1} b \ge 0` and all reduced costs :math:`c_j - y^T a_j` with
:math:`y = B^{-T} c_B` are at least 0. Both are checked exactly, so a float error can cost time but
not truth:

* *degenerate optimum* (fewer positive variables than rows): the support is completed by columns
  whose reduced cost is 0 in floats; if the duals of that basis are infeasible, simplex pivots with
  Bland's rule (smallest index enters, smallest index leaves among ties: no cycles) mend it;
* *no usable basis*: simplex from artificial variables, phase one and two.

Sizes here are some tens of rows and a few hundred columns. Systems are sparse, and elimination
takes the shortest row first.

Reference: Bland, Mathematics of Operations Research 2 (1977).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeAlias

import numpy as np

from llmq.errors import InfeasibleError, InputError
from llmq.theory.linear._lp import LinearProgram, LPStatus, Solution, solve

__all__ = ["ExactSolution", "solve_exact", "solve_square"]

Row: TypeAlias = dict[int, Fraction]
_ZERO, _ONE = Fraction(0), Fraction(1)
# Scaled float values below this are taken for 0 when a basis is guessed.
_TINY = 1e-9


@dataclass(frozen=True, slots=True)
class ExactSolution:
    """An optimal pair in rationals; both objectives equal ``value``."""

    value: Fraction  # objective
    primal: tuple[Fraction, ...]  # variables, one for each column
    dual: tuple[Fraction, ...]  # prices, one for each row
    pivots: int  # simplex steps after the basis of the float optimum; 0 if that was right at once


def solve_square(rows: Sequence[Mapping[int, Fraction]], right: Sequence[Fraction]) -> Row | None:
    """Solve a square sparse system.

    Examples
    --------
    >>> solve_square([{0: Fraction(1), 1: Fraction(1)}, {1: Fraction(2)}], [Fraction(3)] * 2)
    {0: Fraction(3, 2), 1: Fraction(3, 2)}
    """
    left = {i: {j: v for j, v in row.items() if v} for i, row in enumerate(rows)}
    value, order = list(right), []
    while left:
        i = min(left, key=lambda i: len(left[i]))
        row = left.pop(i)
        if not row:
            return None
        # The column that the fewest other rows hold: least fill-in.
        users = {j: [k for k, other in left.items() if j in other] for j in row}
        pivot = min(row, key=lambda j: len(users[j]))
        for k in users[pivot]:
            factor = left[k].pop(pivot) / row[pivot]
            _subtract(left[k], row, factor, pivot)
            value[k] -= factor * value[i]
        order.append((i, pivot, row))
    found: Row = {}
    for i, pivot, row in reversed(order):
        rest = sum((v * found[j] for j, v in row.items() if j != pivot), _ZERO)
        found[pivot] = (value[i] - rest) / row[pivot]
    return found


def _subtract(row: Row, other: Row, factor: Fraction, but: int) -> None:
    for j, v in other.items():
        if j != but:
            new = row.get(j, _ZERO) - factor * v
            if new:
                row[j] = new
            else:
                row.pop(j, None)


def solve_exact(program: LinearProgram, start: Solution | None = None) -> ExactSolution:
    """Solve in rationals.

    Examples
    --------
    >>> one, two = Fraction(1), Fraction(2)
    >>> solve_exact(LinearProgram(({0: one}, {0: two}), (one, one), (Fraction(3),))).value
    Fraction(3, 2)
    """
    near = solve(program) if start is None else start
    table = _Simplex(program)
    basis = _guess(program, near) if near.status is LPStatus.OPTIMAL else None
    if basis is None or not table.is_feasible(basis):
        basis = table.first_basis()
    return table.run(basis)


def _guess(program: LinearProgram, near: Solution) -> list[int] | None:
    """Columns of the float optimum: positive ones first, then those of reduced cost 0."""
    matrix = program.dense()
    n, m = len(program.columns), len(program.bounds)
    whole = np.hstack((matrix, -np.eye(m)))
    slack = matrix @ near.primal - np.asarray([float(b) for b in program.bounds])
    value = np.concatenate((near.primal, slack))
    cost = np.concatenate(([float(c) for c in program.costs], np.zeros(m)))
    reduced = cost - whole.T @ np.asarray(near.dual)
    # Each column's own sizes: its largest contribution to a row, its cost and its priced entries.
    rows = np.maximum(np.abs(matrix).max(axis=1, initial=0.0), _TINY)
    weight = value * np.abs(whole / rows[:, None]).max(axis=0)
    priced = np.abs(cost) + np.abs(whole).T @ np.abs(near.dual)
    gap = np.abs(reduced) / np.where(priced > 0, priced, 1.0)
    positive = weight > _TINY * max(weight.max(initial=0.0), _TINY)
    order = sorted(range(n + m), key=lambda j: (not positive[j], gap[j], -weight[j]))
    basis: list[int] = []
    reach = np.zeros((m, 0))
    for j in order:
        column = whole[:, j] / rows
        column = column / np.linalg.norm(column) if column.any() else column
        rest = column - reach @ (reach.T @ column)
        rest -= reach @ (reach.T @ rest)
        if (size := float(np.linalg.norm(rest))) > _TINY:
            basis.append(j)
            reach = np.column_stack((reach, rest / size))
        if len(basis) == m:
            return basis
    return None


class _Simplex:
    """Revised simplex; columns ``n + i`` are slacks, ``n + m + i`` artificial."""

    def __init__(self, program: LinearProgram) -> None:
        self.program = program
        self.n, self.m = len(program.columns), len(program.bounds)
        self.costs = [*program.costs, *[_ZERO] * (2 * self.m)]
        self.pivots = 0

    def column(self, j: int) -> Mapping[int, Fraction]:
        if j < self.n:
            return self.program.columns[j]
        return {(j - self.n) % self.m: -_ONE if j < self.n + self.m else _ONE}

    def values(self, basis: Sequence[int], right: Sequence[Fraction]) -> Row | None:
        """Solve ``B x = right``; the result by column."""
        rows: list[Row] = [{} for _ in range(self.m)]
        for j in basis:
            for i, value in self.column(j).items():
                rows[i][j] = value
        return solve_square(rows, right)

    def duals(self, basis: Sequence[int], costs: Sequence[Fraction]) -> Row:
        found = solve_square([self.column(j) for j in basis], [costs[j] for j in basis])
        if found is None:
            raise InputError("a simplex basis became singular")
        return found

    def is_feasible(self, basis: Sequence[int]) -> bool:
        found = self.values(basis, self.program.bounds)
        return found is not None and min(found.values(), default=_ZERO) >= 0

    def first_basis(self) -> list[int]:
        """Phase one: a feasible basis without artificial columns, or a refusal."""
        n, m = self.n, self.m
        basis = [n + m + i if bound > 0 else n + i for i, bound in enumerate(self.program.bounds)]
        costs = [_ZERO] * (n + m) + [_ONE] * m
        self.improve(basis, costs)
        found = self.values(basis, self.program.bounds)
        if found is None or any(found[j] for j in basis if j >= n + m):
            raise InfeasibleError("the linear programme has no feasible point")
        for k, j in enumerate(basis):
            if j >= n + m:
                self._replace(basis, k)
        return basis

    def _replace(self, basis: list[int], k: int) -> None:
        """Swap an artificial column at 0 for a real one; slacks make this possible."""
        for j in range(self.n + self.m):
            if j not in basis:
                step = self.direction(basis, j)
                if step.get(basis[k]):
                    basis[k] = j
                    return

    def direction(self, basis: Sequence[int], j: int) -> Row:
        right = [_ZERO] * self.m
        for i, value in self.column(j).items():
            right[i] = value
        return self.values(basis, right) or {}

    def entering(self, basis: Sequence[int], costs: Sequence[Fraction]) -> int | None:
        """Bland: the first column whose reduced cost is negative."""
        price = self.duals(basis, costs)
        members = set(basis)
        for j in range(self.n + self.m):
            if j not in members:
                value = sum((v * price[i] for i, v in self.column(j).items()), _ZERO)
                if value > costs[j]:
                    return j
        return None

    def improve(self, basis: list[int], costs: Sequence[Fraction]) -> None:
        """Pivot until no column improves the objective."""
        while (enter := self.entering(basis, costs)) is not None:
            now = self.values(basis, self.program.bounds)
            step = self.direction(basis, enter)
            if now is None or not any(v > 0 for v in step.values()):
                raise InputError("the objective of the linear programme has no bound")
            _, leave = min((now[j] / step[j], j) for j in basis if step[j] > 0)
            basis[basis.index(leave)] = enter
            self.pivots += 1

    def run(self, basis: list[int]) -> ExactSolution:
        self.improve(basis, self.costs)
        found = self.values(basis, self.program.bounds) or {}
        price = self.duals(basis, self.costs)
        primal = tuple(found.get(j, _ZERO) for j in range(self.n))
        value = sum(map(Fraction.__mul__, self.program.costs, primal), _ZERO)
        dual = tuple(price[i] for i in range(self.m))
        return ExactSolution(value, primal, dual, self.pivots)
