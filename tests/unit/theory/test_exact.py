"""Linear programmes: floats against cvxpy, Fractions against both, degenerate and bad ones."""

from __future__ import annotations

import random
from fractions import Fraction as F

import numpy as np
import pytest

from llmq.errors import InfeasibleError, InputError
from llmq.theory.linear._exact import _Simplex, solve_exact, solve_square
from llmq.theory.linear._lp import LinearProgram, LPStatus, Solution, solve


def covering(seed: int) -> LinearProgram:
    """A feasible and bounded random programme: costs >= 0, one dense positive column."""
    draw = random.Random(seed)
    m, n = draw.randint(1, 6), draw.randint(1, 8)
    columns: list[dict[int, F]] = [{i: F(draw.randint(1, 5)) for i in range(m)}]
    columns += [
        {i: F(draw.randint(-3, 5), draw.randint(1, 4)) for i in range(m) if draw.random() < 0.7}
        for _ in range(n)
    ]
    costs = [F(draw.randint(0, 9), draw.randint(1, 5)) for _ in columns]
    return LinearProgram(
        tuple(columns), tuple(costs), tuple(F(draw.randint(-2, 6)) for _ in range(m))
    )


def assert_optimal(program: LinearProgram, primal: tuple[F, ...], dual: tuple[F, ...]) -> None:
    """Feasible on both sides with equal values: nothing else is needed."""
    left = [F(0)] * len(program.bounds)
    for column, x in zip(program.columns, primal, strict=True):
        for i, a in column.items():
            left[i] += a * x
    assert min(primal) >= 0
    assert all(a >= b for a, b in zip(left, program.bounds, strict=True))
    assert min(dual) >= 0
    for column, cost in zip(program.columns, program.costs, strict=True):
        assert sum(a * dual[i] for i, a in column.items()) <= cost
    assert sum(map(F.__mul__, program.costs, primal)) == sum(map(F.__mul__, program.bounds, dual))


@pytest.mark.parametrize("seed", range(60))
def test_exact_optimum_is_feasible_with_equal_values(seed: int) -> None:
    program = covering(seed)
    found = solve_exact(program)
    assert_optimal(program, found.primal, found.dual)
    assert float(found.value) == pytest.approx(solve(program).value, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("seed", range(8))
def test_highs_agrees_with_cvxpy(seed: int) -> None:
    import cvxpy as cp

    program = covering(seed)
    x = cp.Variable(len(program.columns), nonneg=True)
    rows = program.dense() @ x >= np.asarray([float(b) for b in program.bounds])
    problem = cp.Problem(cp.Minimize(np.asarray([float(c) for c in program.costs]) @ x), [rows])
    problem.solve(solver=cp.CLARABEL)
    near = solve(program)
    assert near.value == pytest.approx(problem.value, rel=1e-6, abs=1e-7)
    bound = np.asarray([float(b) for b in program.bounds])
    assert near.dual @ bound == pytest.approx(problem.value, rel=1e-6, abs=1e-7)


@pytest.mark.parametrize("seed", range(20))
def test_cold_start_reaches_the_same_value(seed: int) -> None:
    """No float solution at all: phase one and two of the exact simplex."""
    program = covering(seed)
    nothing = Solution(LPStatus.FAILED, float("nan"), np.zeros(0), np.zeros(0))
    found = solve_exact(program, nothing)
    assert_optimal(program, found.primal, found.dual)
    assert found.value == solve_exact(program).value


def test_wrong_float_solution_is_mended() -> None:
    program = covering(3)
    good = solve(program)
    bad = Solution(LPStatus.OPTIMAL, 0.0, np.ones_like(good.primal), np.ones_like(good.dual))
    found = solve_exact(program, bad)
    assert_optimal(program, found.primal, found.dual)


def test_degenerate_duals() -> None:
    """One column serves both rows at once: many dual optima, one value."""
    program = LinearProgram(({0: F(1), 1: F(2)}, {0: F(1)}, {1: F(1)}), (F(1),) * 3, (F(3), F(6)))
    found = solve_exact(program)
    assert found.value == 3
    assert_optimal(program, found.primal, found.dual)


def test_bland_does_not_cycle() -> None:
    """Beale's example, on which the textbook rule of the largest gain cycles."""
    columns = (
        {0: F(-1, 4), 1: F(-1, 2)},
        {0: F(8), 1: F(12)},
        {0: F(1), 1: F(1, 2), 2: F(-1)},
        {0: F(-9), 1: F(-3)},
    )
    program = LinearProgram(columns, (F(-3, 4), F(20), F(-1, 2), F(6)), (F(0), F(0), F(-1)))
    found = _Simplex(program).run([4, 5, 6])
    assert found.value == F(-5, 4)
    assert found.pivots > 0
    assert_optimal(program, found.primal, found.dual)


def test_infeasible_and_unbounded_are_refused() -> None:
    with pytest.raises(InfeasibleError, match="no feasible point"):
        solve_exact(LinearProgram(({0: F(-1)},), (F(1),), (F(1),)))
    with pytest.raises(InputError, match="has no bound"):
        solve_exact(LinearProgram(({0: F(1)},), (F(-1),), (F(1),)))
    assert solve(LinearProgram(({0: F(-1)},), (F(1),), (F(1),))).status is LPStatus.INFEASIBLE


def test_bad_programmes_are_refused() -> None:
    with pytest.raises(InputError, match="1 columns, but 2 costs"):
        LinearProgram(({0: F(1)},), (F(1), F(1)), (F(1),))
    with pytest.raises(InputError, match="column 0 names a row outside"):
        LinearProgram(({3: F(1)},), (F(1),), (F(1),))


def test_square_systems() -> None:
    draw = random.Random(7)
    for n in range(1, 12):
        rows = [{j: F(draw.randint(-4, 4)) for j in range(n)} for _ in range(n)]
        truth = [F(draw.randint(-9, 9), draw.randint(1, 9)) for _ in range(n)]
        right = [sum((v * truth[j] for j, v in row.items()), F(0)) for row in rows]
        found = solve_square(rows, right)
        if found is not None:
            assert [found[j] for j in range(n)] == truth
        else:
            dense = np.asarray([[float(row[j]) for j in range(n)] for row in rows])
            assert abs(np.linalg.det(dense)) < 1e-6
    assert solve_square([{0: F(1), 1: F(1)}, {0: F(2), 1: F(2)}], [F(1), F(2)]) is None
    assert solve_square([{0: F(1)}, {0: F(2)}], [F(1), F(2)]) is None
