r"""The static planning problem once more, as a modelling language writes it.

The rows below are those of :mod:`llmq.theory.planning_lp._static`, one line of cvxpy for each line
of mathematics:

.. math::
    \min \rho:\quad \textstyle\sum_r f_{jr} \ge \lambda_j,\quad
    \frac{1}{b_h} \sum_x x_\beta u_{hx} \ge \frac{1}{b_h} \sum a_{jh\beta} f_{jr},\quad
    \sum_x u_{hx} \ge \frac{1}{C_{hl}} \sum g_{jhl} f_{jr},\quad
    \rho \ge \frac{1}{N_h} \Big(\sum_x t_h(x) u_{hx} + \sum w_{jh} f_{jr}\Big)

(tokens in full batches, limits in full iterations, so that the numbers are of one size). The
answer is in floats and needs seconds, not milliseconds: it is there to be read and to check the
rational solver, which is what the library uses.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from llmq.theory.linear._lp import LPStatus
from llmq.theory.planning_lp._configurations import Configuration
from llmq.theory.planning_lp._static import Columns, PlanningProblem, Route

__all__ = ["FloatOptimum", "planning_cvxpy"]


@dataclass(frozen=True, slots=True)
class FloatOptimum:
    """Optimal flows and batches with their prices, in floats."""

    status: LPStatus  # values are meaningful only if optimal
    load: float  # least fraction of every pool's time
    # requests per second by class and route; (str, tuple of str)
    flows: Mapping[tuple[str, Route], float]
    # iterations per second by pool and configuration; (str, tuple of int)
    batches: Mapping[tuple[str, Configuration], float]
    prices: Mapping[str, float]  # load per request per second, by class
    weights: Mapping[str, float]  # price of an engine-second in each pool
    token_prices: Mapping[tuple[str, str], float]  # by pool and buffer; (str, str)
    limit_prices: Mapping[tuple[str, str], float]  # by pool and limit; (str, str)


def planning_cvxpy(problem: PlanningProblem, columns: Columns | None = None) -> FloatOptimum:
    """State the problem in cvxpy and solve it.

    Examples
    --------
    >>> from llmq.model.time.batchtime import BatchTime
    >>> from llmq.model.engine import Engine
    >>> from llmq.model.request import RequestClass
    >>> from llmq.theory.region._pools import planning_problem
    >>> law = BatchTime.tiled(base=0.01128, per_tile=0.03547, tile=128)
    >>> one = planning_problem(Engine(law, 512), {"x": RequestClass(100, 101)})
    >>> round(planning_cvxpy(one).load, 6)
    0.059828
    """
    cp: Any = importlib.import_module("cvxpy")

    found = problem.columns() if columns is None else columns
    rho = cp.Variable(nonneg=True)
    flow = {(j, r): cp.Variable(nonneg=True) for j in problem.rates for r in problem.routes[j]}
    u = {h: cp.Variable(len(found[h]), nonneg=True) for h in found}

    def passing(h: str, amount: Any) -> Any:
        """Sum over the flows through a pool of what a request asks there."""
        return sum(
            float(amount(problem.pools[h].needs[j])) * f for (j, r), f in flow.items() if h in r
        )

    arrivals, tokens, limits, time = {}, {}, {}, {}
    for j, rate in problem.rates.items():
        arrivals[j] = sum(flow[j, r] for r in problem.routes[j]) >= float(rate)
    for h, pool in problem.pools.items():
        busy = passing(h, lambda need: need.seconds)
        if pool.batches is not None:
            x = np.asarray([batch for batch, _ in found[h]], float)
            b = pool.batches.token_budget
            for i, k in enumerate(pool.buffers):
                needed = passing(h, lambda need, k=k, b=b: need.tokens.get(k, 0) / b)
                tokens[h, k] = x[:, i] / b @ u[h] >= needed
            for k, size in pool.limits.items():
                needed = passing(h, lambda need, k=k, size=size: need.limits.get(k, 0) / size)
                limits[h, k] = cp.sum(u[h]) >= needed
            busy = busy + np.asarray([float(t) for _, t in found[h]]) @ u[h]
        time[h] = rho >= busy / pool.engines
    rows = [*arrivals.values(), *tokens.values(), *limits.values(), *time.values()]
    lp = cp.Problem(cp.Minimize(rho), rows)
    lp.solve(solver=cp.CLARABEL)
    return FloatOptimum(
        status=LPStatus.OPTIMAL if lp.status == cp.OPTIMAL else LPStatus.FAILED,
        load=float(lp.value),
        flows={key: float(f.value) for key, f in flow.items()},
        batches={
            (h, batch): float(value)
            for h in found
            for (batch, _), value in zip(found[h], u[h].value, strict=True)
        },
        prices={j: _dual(row) for j, row in arrivals.items()},
        weights={h: _dual(row) / problem.pools[h].engines for h, row in time.items()},
        token_prices={
            (h, k): _dual(row) / problem.pools[h].batches.token_budget  # type: ignore[union-attr]
            for (h, k), row in tokens.items()
        },
        limit_prices={
            (h, k): _dual(row) / problem.pools[h].limits[k] for (h, k), row in limits.items()
        },
    )


def _dual(row: Any) -> float:
    return float(np.asarray(row.dual_value).reshape(()))
