"""Small serving networks at a prescribed load: what throughput optimality is tested on.

A network is an engine without memory and slot limits, a few classes, and a direction of rates; the
load is the exact one of the stability region. On these networks a policy is throughput-optimal if
it is stable at every load below 1. They are drawn from a number alone, small enough that a path of
hundreds of requests takes milliseconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from llmq.errors import InputError
from llmq.model.arrivals import Deterministic, Poisson
from llmq.model.batchtime import BatchTime
from llmq.model.engine import Engine
from llmq.model.lengths import Lengths
from llmq.model.request import RequestClass
from llmq.model.workload import Workload
from llmq.policies import Policy

__all__ = ["Network", "draw_network", "suited"]


@dataclass(frozen=True, slots=True)
class Network:
    """An engine, its classes and a direction of rates.

    Parameters
    ----------
    engine : Engine
        What serves.
    mix : mapping of str to RequestClass
        The classes.
    rates : mapping of str to float
        Requests per second at load 1.

    Examples
    --------
    >>> network = draw_network(3)
    >>> round(sum(network.at(0.5).rates.values()) / sum(network.rates.values()), 6)
    0.5
    """

    engine: Engine
    mix: Mapping[str, RequestClass]
    rates: Mapping[str, float]

    def at(self, load: float, *, deterministic: bool = False) -> Workload:
        """Return the traffic at a load.

        Parameters
        ----------
        load : float
            Share of the capacity that is offered, between 0 and 2.
        deterministic : bool
            Equal gaps between arrivals instead of exponential ones.

        Returns
        -------
        Workload
            The traffic.

        Raises
        ------
        InputError
            A load outside (0, 2).
        """
        if not 0 < load < 2:
            raise InputError(f"load must lie between 0 and 2, got {load}", value=load)
        total = load * sum(self.rates.values())
        process = Deterministic(total) if deterministic else Poisson(total)
        return Workload(process, self.mix, self.rates)


def draw_network(
    number: int, *, whole: bool = False, mismatched: bool = False, fill: bool = False
) -> Network:
    """Draw a network.

    Parameters
    ----------
    number : int
        Which one.
    whole : bool
        Prompts are far below the budget, for policies that do not split them.
    mismatched : bool
        The law has tiles and the budget is not a multiple of them, so that a full budget is not
        the most productive batch.
    fill : bool
        Prompts are multiples of the most productive batch, for policies that fill tiles.

    Returns
    -------
    Network
        At load 1; prompts of at most twice the budget.
    """
    from llmq.theory.tiling import best_batch

    rng = np.random.default_rng((number, whole, mismatched, fill))
    tile = int(rng.choice([4, 8, 16]))
    budget = int(tile * rng.integers(1, 9)) * (4 if whole else 1)
    if mismatched:
        budget = tile * int(rng.integers(1, 3)) + 1
    base, slope = float(rng.uniform(0.2, 2)), float(rng.uniform(0.01, 0.2))
    laws = (
        BatchTime.tiled(base=base, per_tile=slope * tile, tile=tile),
        BatchTime.affine(base=base, per_token=slope),
        BatchTime.roofline(floor=base, base=base / 2, per_token=slope),
    )
    law = laws[rng.integers(len(laws))]
    if mismatched:  # a tile costs as much as the rest: one token of it does not pay
        law = BatchTime.tiled(base=base, per_tile=base, tile=tile)
    engine = Engine(law, token_budget=budget, kv_block=1)
    step = best_batch(law, budget).tokens if fill else 1
    most = max(budget // 32 if whole else 2 * budget // step, 1)
    mix = {}
    for name in "abc"[: rng.integers(1, 4)]:
        low = step * int(rng.integers(1, most + 1))
        output = int(rng.integers(1, 25))
        longer = int(rng.integers(0, 25)) if rng.random() < 0.5 else 0
        mix[name] = RequestClass(low, Lengths.uniform(output, output + longer))
    weights = {name: float(rng.uniform(0.2, 1)) for name in mix}
    return _at_capacity(engine, mix, weights)


def _at_capacity(
    engine: Engine, mix: Mapping[str, RequestClass], weights: Mapping[str, float]
) -> Network:
    from llmq.theory.region import stability_region

    load = stability_region(engine, mix).load(weights)
    return Network(engine, mix, {name: weight / load for name, weight in weights.items()})


def suited(policy: Policy, number: int) -> Network:
    """Draw a network that has what a policy needs.

    Parameters
    ----------
    policy : Policy
        The policy.
    number : int
        Which network.

    Returns
    -------
    Network
        With short prompts where the policy does not split them, and prompts that fill the most
        productive batch where it fills tiles.
    """
    budget = policy.blocks.budget
    return draw_network(number, whole=budget.whole, fill=policy.name == "rad")
