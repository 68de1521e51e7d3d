r"""The static planning problem: the least fraction of all engines that carries given rates.

Pools ``h`` of ``N_h`` equal engines, classes ``j`` with rates :math:`\lambda_j`, each with routes
``r`` (a pool, or a prefill and a decode pool). With flows ``f``, iterations per second ``u`` of
each configuration ``x``, tokens ``a``, seconds of attention ``w`` and other needs ``g`` of a
request in a pool:

.. math::
    \min \rho:\quad & \textstyle\sum_{r} f_{jr} \ge \lambda_j & [\pi_j] \\
    & \textstyle\sum_x x_\beta u_{hx} \ge \sum_{j, r \ni h} a_{jh\beta} f_{jr} & [p_{h\beta}] \\
    & C_{hl} \textstyle\sum_x u_{hx} \ge \sum_{j, r \ni h} g_{jhl} f_{jr} & [m_{hl}] \\
    & N_h \rho \ge \textstyle\sum_x t_h(x) u_{hx} + \sum_{j, r \ni h} w_{jh} f_{jr} & [q_h]

The third row is Little's law for KV memory (``C = M``, area ``g``) or slots (``C = k_max``) in each
iteration: the *aggregate* treatment. Or the configurations themselves obey the limit, with buffers
by context (:class:`~llmq.theory.planning_lp._configurations.Knapsack`); the same resource never
both ways. The dual prices a request at its cheapest route:

.. math::
    \max \sum_j \pi_j \lambda_j:\quad \pi_j \le \sum_{h \in r} (p_h \cdot a_{jh} + m_h \cdot g_{jh}
    + q_h w_{jh}),\quad p_h \cdot x + m_h \cdot C_h \le q_h t_h(x),\quad \sum_h N_h q_h = 1.

A value above 1 makes every policy unstable: priced backlog grows, because an iteration removes at
most :math:`q_h t`. A value below 1 is carried by a random split and MaxWeight at the level of
tokens. ``rho`` is a gauge: convex, increasing, homogeneous.

With one slot for each prompt chunk ("slots" as a limit) and memory this is Theorem U; the facets of
:mod:`llmq.theory.needs._facets` are its dual vertices.

References: theory core 2.3, 2.4; Dai and Lin, Operations Research 53(2), 2005.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TypeAlias

from llmq.errors import InputError
from llmq.model.request import RequestClass
from llmq.model.time.batchtime import BatchTime
from llmq.result import Kind
from llmq.theory.linear._exact import ExactSolution, solve_exact
from llmq.theory.linear._lp import LinearProgram, solve
from llmq.theory.planning_lp._configurations import Configuration, Knapsack, TwoPhase

__all__ = [
    "Columns",
    "LinkRules",
    "Need",
    "Optimum",
    "PlanningProblem",
    "Pool",
    "Route",
    "Rules",
    "build_program",
    "optimise",
]

Route: TypeAlias = tuple[str, ...]
Key: TypeAlias = tuple[object, ...]
Columns: TypeAlias = Mapping[str, Sequence[tuple[Configuration, Fraction]]]
_ZERO, _ONE = Fraction(0), Fraction(1)


@dataclass(frozen=True, slots=True)
class Rules:
    """How the needs of a class follow from its lengths."""

    chunk: int  # most prompt tokens in one iteration
    lag: int  # iterations from the end of the prefill to the first token, 0 or 1
    area: str  # KV area convention
    phases: str = "both"  # what the pool does
    block: int = 1  # tokens of a KV block: memory is taken in whole ones


@dataclass(frozen=True, slots=True)
class LinkRules:
    """How the seconds of a link follow from the lengths of a class."""

    # seconds for each prompt token of a request that decodes; the others never cross
    per_token: Fraction
    lag: int  # as in :class:`Rules`: an output of one token is a decode only with lag 1


@dataclass(frozen=True, slots=True)
class Need:
    """What one request asks of a pool."""

    tokens: Mapping[str, Fraction]  # tokens by buffer
    seconds: Fraction = _ZERO  # engine time beside the token time: attention
    # slot-iterations, KV token-iterations
    limits: Mapping[str, Fraction] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Pool:
    """Equal engines, or a station that only takes time (a link)."""

    engines: int  # how many
    law: BatchTime | None  # time of an iteration; none for a link
    batches: TwoPhase | Knapsack | None  # what an iteration may hold; none for a link
    limits: Mapping[str, int]  # capacity of one iteration: ``slots``, ``memory``
    needs: Mapping[str, Need]  # by class
    # how needs follow from lengths; none where they were given
    rules: Rules | LinkRules | None = None

    def __post_init__(self) -> None:
        inside = self.batches.labels if isinstance(self.batches, Knapsack) else ()
        if isinstance(self.batches, TwoPhase) and self.batches.slots is not None:
            inside = ("slots",)
        if twice := [name for name in self.limits if name in inside]:
            raise InputError(
                f"{twice[0]} is limited twice: inside the configurations (each batch, by context) "
                f"and as a row over all of them (limits[{twice[0]!r}], by Little's law). Both are "
                "the same resource: leave one out",
                resource=twice[0],
            )

    @property
    def buffers(self) -> tuple[str, ...]:
        """Names of the entries of a configuration; none for a link."""
        return () if self.batches is None else self.batches.buffers


@dataclass(frozen=True, slots=True)
class PlanningProblem:
    """Pools, rates and routes."""

    pools: Mapping[str, Pool]  # by name
    rates: Mapping[str, Fraction]  # requests per second by class
    # pools that a request of a class visits, one tuple for each choice
    routes: Mapping[str, tuple[Route, ...]]
    # classes whose needs can be recomputed exactly
    lengths: Mapping[str, RequestClass] = field(default_factory=dict)
    # whether token budgets, slots and chunks are those of the engines, or free. Certificates
    # say so, and the checker tests it
    scope: str = "settings"

    def __post_init__(self) -> None:
        if not self.rates:
            raise InputError("a planning problem needs at least one request class")
        for name, rate in self.rates.items():
            if rate < 0:
                raise InputError(f"rate of class {name!r} must be >= 0, got {rate}", value=rate)
            if not self.routes.get(name):
                raise InputError(f"class {name!r} may be served by no pool", klass=name)
            for route in self.routes[name]:
                for pool in route:
                    if pool not in self.pools or name not in self.pools[pool].needs:
                        raise InputError(f"pool {pool!r} does not say what class {name!r} needs")

    def columns(self) -> dict[str, tuple[tuple[Configuration, Fraction], ...]]:
        """Return the configurations of each pool that can be optimal."""
        return {
            name: pool.batches.columns(pool.law)
            for name, pool in self.pools.items()
            if pool.batches is not None and pool.law is not None
        }


@dataclass(frozen=True, slots=True)
class Optimum:
    """Optimal flows and batches with their prices; exact."""

    load: Fraction  # least fraction of every pool's time
    # requests per second by class and route, positive ones; (str, tuple of str)
    flows: Mapping[tuple[str, Route], Fraction]
    # iterations per second by pool and configuration, positive ones; (str, tuple of int)
    batches: Mapping[tuple[str, Configuration], Fraction]
    prices: Mapping[str, Fraction]  # load per request per second, by class
    # price of an engine-second in each pool; weights times engines sum to 1 where load > 0
    weights: Mapping[str, Fraction]
    token_prices: Mapping[tuple[str, str], Fraction]  # by pool and buffer; (str, str)
    limit_prices: Mapping[tuple[str, str], Fraction]  # by pool and limit; (str, str)
    # ``exact``: the least load of the planning problem. From a region, the region's kind:
    # what that load says about the engines
    kind: Kind
    assumptions: tuple[str, ...]  # what it rests on
    source: str  # where the problem is from
    pivots: int = 0  # simplex steps after the float basis


def build_program(
    problem: PlanningProblem, columns: Columns
) -> tuple[LinearProgram, list[Key], list[Key]]:
    """Write the problem as a linear programme over given configurations."""
    rows: list[Key] = [("class", name) for name in problem.rates]
    for name, pool in problem.pools.items():
        rows += [("tokens", name, buffer) for buffer in pool.buffers]
        rows += [("limit", name, limit) for limit in pool.limits]
        rows.append(("time", name))
    place = {key: i for i, key in enumerate(rows)}
    keys: list[Key] = [("load",)]
    matrix = [{place["time", name]: Fraction(pool.engines) for name, pool in problem.pools.items()}]
    for name in problem.rates:
        for route in problem.routes[name]:
            keys.append(("flow", name, route))
            matrix.append(_flow_column(problem, place, name, route))
    for name, found in columns.items():
        pool = problem.pools[name]
        for batch, seconds in found:
            keys.append(("batch", name, batch))
            column = {place["time", name]: -seconds}
            column |= {place["limit", name, k]: Fraction(c) for k, c in pool.limits.items()}
            for buffer, x in zip(pool.buffers, batch, strict=True):
                if x:
                    column[place["tokens", name, buffer]] = Fraction(x)
            matrix.append(column)
    costs = (_ONE, *[_ZERO] * (len(keys) - 1))
    bounds = (*problem.rates.values(), *[_ZERO] * (len(rows) - len(problem.rates)))
    return LinearProgram(tuple(matrix), costs, bounds), keys, rows


def _flow_column(
    problem: PlanningProblem, place: Mapping[Key, int], name: str, route: Route
) -> dict[int, Fraction]:
    column = {place["class", name]: _ONE}
    for stop in route:
        need = problem.pools[stop].needs[name]
        column |= {place["tokens", stop, k]: -v for k, v in need.tokens.items() if v}
        column |= {place["limit", stop, k]: -v for k, v in need.limits.items() if v}
        if need.seconds:
            column[place["time", stop]] = -need.seconds
    return column


def optimise(
    problem: PlanningProblem, columns: Columns | None = None, solver: str = "auto"
) -> Optimum:
    """Solve the problem in rationals."""
    program, keys, rows = build_program(problem, problem.columns() if columns is None else columns)
    return _read(problem, solve_exact(program, solve(program, solver)), keys, rows)


def _read(
    problem: PlanningProblem, found: ExactSolution, keys: Sequence[Key], rows: Sequence[Key]
) -> Optimum:
    primal = {key: value for key, value in zip(keys, found.primal, strict=True) if value}
    dual = dict(zip(rows, found.dual, strict=True))
    weights = {name: dual["time", name] for name in problem.pools}
    tokens = {key[1:]: value for key, value in dual.items() if key[0] == "tokens"}
    limits = {key[1:]: value for key, value in dual.items() if key[0] == "limit"}
    # Idle classes too get the price of their cheapest route; for the others it is the dual already.
    prices = {
        name: min(
            sum(
                (_cost(problem.pools[h].needs[name], h, tokens, limits, weights[h]) for h in route),
                _ZERO,
            )
            for route in problem.routes[name]
        )
        for name in problem.rates
    }
    return Optimum(
        load=found.value,
        flows={key[1:]: v for key, v in primal.items() if key[0] == "flow"},  # type: ignore[misc]
        batches={key[1:]: v for key, v in primal.items() if key[0] == "batch"},  # type: ignore[misc]
        prices=prices,
        weights=weights,
        token_prices=tokens,  # type: ignore[arg-type]
        limit_prices=limits,  # type: ignore[arg-type]
        kind=Kind.EXACT,
        assumptions=("least load of the planning problem over the configurations given",),
        source="theorem-r",
        pivots=found.pivots,
    )


def _cost(
    need: Need,
    pool: str,
    tokens: Mapping[Key, Fraction],
    limits: Mapping[Key, Fraction],
    weight: Fraction,
) -> Fraction:
    value = weight * need.seconds
    value += sum((v * tokens[pool, k] for k, v in need.tokens.items()), _ZERO)
    return value + sum((v * limits[pool, k] for k, v in need.limits.items()), _ZERO)
