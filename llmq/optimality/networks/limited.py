"""Small networks with limits of slots and of memory, as servers have them.

With a limit the region of one engine is a bracket, so load 1 is put where an explicit schedule ends
(:mod:`llmq.theory.region._inner`): at a load below 1 that schedule, which knows the output lengths,
is stable. A policy that is stable at 0.9 carries nine tenths of what it carries; one whose backlog
grows there is not throughput-optimal among policies that know the lengths. ``least`` is the outer
bound at load 1: the share of the capacity that every policy needs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from llmq.errors import InputError
from llmq.model.engine import Engine
from llmq.model.request import RequestClass
from llmq.optimality.networks._networks import Network, draw_network, suited
from llmq.optimality.networks.traffic import check_classes
from llmq.policies import Policy

__all__ = ["SLOTS", "LimitedNetwork", "draw_limited_network", "limited", "suited_limited"]

# Limits of requests at a time, from a small engine to vLLM's old default.
SLOTS = (4, 8, 16, 64, 256)


@dataclass(frozen=True, slots=True)
class LimitedNetwork(Network):
    """An engine with limits of slots, memory or both, its classes and a direction of rates.

    Parameters
    ----------
    engine : Engine
        What serves.
    mix : mapping of str to RequestClass
        The classes.
    rates : mapping of str to float
        Requests per second at load 1, where the best explicit schedule ends.
    least : float
        Share of the capacity that every policy needs there, by the outer bound.

    Raises
    ------
    InputError
        An engine without limits, or rates of other classes than those of the mix.
    """

    least: float

    def __post_init__(self) -> None:
        if self.engine.max_seqs is None and self.engine.kv_tokens is None:
            raise InputError(
                "a network with limits has an engine with max_seqs, kv_tokens or both; without "
                "them use Network, whose load is exact",
                field="max_seqs",
            )
        check_classes(self.mix, self.rates)


def limited(
    network: Network, *, max_seqs: int | None = None, kv_tokens: int | None = None
) -> LimitedNetwork:
    """Give the engine of a network limits.

    Parameters
    ----------
    network : Network
        Engine, classes and the direction of rates.
    max_seqs, kv_tokens : int, optional
        The limits, at least one.

    Returns
    -------
    LimitedNetwork
        In the same direction, at the load 1 of its own.

    Examples
    --------
    >>> network = limited(draw_network(3), max_seqs=8)
    >>> 0 < network.least <= 1
    True
    """
    engine = network.engine.with_(max_seqs=max_seqs, kv_tokens=kv_tokens)
    return _at_the_schedule(engine, network.mix, network.rates)


def _at_the_schedule(
    engine: Engine, mix: Mapping[str, RequestClass], weights: Mapping[str, float]
) -> LimitedNetwork:
    from llmq.theory.region import stability_region

    outer, inner = stability_region(engine, mix).load_bracket(weights)
    rates = {name: weight / inner for name, weight in weights.items()}
    return LimitedNetwork(engine, mix, rates, outer / inner)


def draw_limited_network(number: int, *, whole: bool = False, fill: bool = False) -> LimitedNetwork:
    """Draw a network with a limit of slots, of memory, or both.

    Parameters
    ----------
    number : int
        Which one.
    whole : bool
        Prompts are far below the budget, for policies that do not split them.
    fill : bool
        Prompts are multiples of the most productive batch, for policies that fill tiles.

    Returns
    -------
    LimitedNetwork
        4, 8, 16, 64 or 256 slots; a memory of one to sixteen times the largest request.

    Examples
    --------
    >>> draw_limited_network(0).engine.max_seqs in (None, *SLOTS)
    True
    """
    return _limits(draw_network(number, whole=whole, fill=fill), number, whole)


def suited_limited(policy: Policy, number: int) -> LimitedNetwork:
    """Draw a network with limits that has what a policy needs.

    Parameters
    ----------
    policy : Policy
        The policy.
    number : int
        Which network.

    Returns
    -------
    LimitedNetwork
        The network of :func:`llmq.optimality.networks.suited`, with limits.
    """
    return _limits(suited(policy, number), number, policy.blocks.budget.whole)


def _limits(network: Network, number: int, whole: bool) -> LimitedNetwork:
    rng = np.random.default_rng((number, 1))
    largest = max(one.peak for one in network.mix.values())
    # Where prompts are not cut, what is computed again must fit in an iteration too.
    kind = rng.integers(3) if largest <= network.engine.token_budget or not whole else 0
    slots = None if kind == 1 else int(rng.choice(SLOTS))  # 0 slots, 1 memory, 2 both
    memory = None if kind == 0 else int(largest * rng.uniform(1, 16))
    return limited(network, max_seqs=slots, kv_tokens=memory)
