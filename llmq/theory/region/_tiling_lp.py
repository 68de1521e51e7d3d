r"""The configurations to run: the primal side of the static planning problem, for people.

The problem is that of :mod:`llmq.theory.planning_lp._static`; here its optimal batches are the
answer. They say how many iterations per second of each configuration carry the rates in the least
time, whoever orders the work. Primal and dual values are equal fractions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeAlias

from llmq._input.checked import checked
from llmq.model.engine import Engine
from llmq.model.fleet import Fleet
from llmq.model.request import RequestClass
from llmq.result import Kind
from llmq.theory.linear._lp import LPStatus
from llmq.theory.needs._rates import Rates
from llmq.theory.planning_lp._configurations import Configuration
from llmq.theory.region.routing import fleet_region

__all__ = ["TilingPlan", "tiling_lp"]

Mix: TypeAlias = Mapping[str, RequestClass]


@checked(record=True)
@dataclass(frozen=True, slots=True)
class TilingPlan:
    """Configurations that carry given rates in the least time."""

    load: float  # fraction of the engines' time
    # iterations per second by pool and (prefill, decode) tokens of an iteration; (str, tuple
    # of int)
    batches: Mapping[tuple[str, Configuration], float]
    # primal, dual: both objectives, exactly; equal
    primal: Fraction
    dual: Fraction
    # load per token per second, by pool and phase; (str, str)
    prices: Mapping[tuple[str, str], float]
    # load per KV token-iteration (``memory``) or slot-iteration (``slots``) per second, by
    # pool and limit; (str, str)
    limit_prices: Mapping[tuple[str, str], float]
    # load per second of attention per second, by pool. Prices times what the requests need of
    # each sum to the load
    weights: Mapping[str, float]
    status: LPStatus  # how the programme ended
    kind: Kind  # ``exact`` or ``outer_bound``
    assumptions: tuple[str, ...]  # what the load rests on
    source: str  # where the region is from


@checked
def tiling_lp(system: Engine | Fleet, mix: Mix, rates: Rates) -> TilingPlan:
    """Return the configurations to run, and iterations per second of each.

    Parameters
    ----------
    system : Engine or Fleet
        What serves.
    mix : mapping of str to RequestClass
        The classes.
    rates : mapping of str to float or Fraction
        Requests per second by class.

    Returns
    -------
    TilingPlan
        With primal and dual values.

    Raises
    ------
    InputError
        Bad rates, empty mix, or a class that no pool can serve.

    Examples
    --------
    >>> from llmq.model.time.batchtime import BatchTime
    >>> from llmq.model.conventions import THEORY
    >>> law = BatchTime.tiled(base=11.28, per_tile=35.47, tile=128)
    >>> engine = Engine(law, token_budget=512, max_seqs=100, conventions=THEORY)
    >>> plan = tiling_lp(engine, {"x": RequestClass(129, 112)}, {"x": 0.01})
    >>> plan.primal == plan.dual, plan.status.value, sorted(plan.batches)
    (True, 'solved to optimality', [('engine', (29, 99)), ('engine', (413, 99))])
    """
    region = fleet_region(system, mix)
    found = region.optimum(rates)
    exactly = region.at(rates).rates
    return TilingPlan(
        load=float(found.load),
        batches={key: float(value) for key, value in found.batches.items()},
        primal=found.load,
        dual=sum((found.prices[n] * rate for n, rate in exactly.items()), Fraction(0)),
        prices={key: float(value) for key, value in found.token_prices.items()},
        limit_prices={key: float(value) for key, value in found.limit_prices.items()},
        weights={name: float(value) for name, value in found.weights.items()},
        status=LPStatus.OPTIMAL,
        kind=region.kind,
        assumptions=region.assumptions,
        source=region.source,
    )
