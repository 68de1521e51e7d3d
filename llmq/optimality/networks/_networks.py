"""Small serving networks at a prescribed load: what throughput optimality is tested on.

A network is an engine without memory and slot limits, a few classes, and a direction of rates; the
load is the exact one of the stability region. On these networks a policy is throughput-optimal if
it is stable at every load below 1. They are drawn from a number alone, small enough that a path of
hundreds of requests takes milliseconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np

from llmq.errors import InputError
from llmq.model.engine import Engine
from llmq.model.lengths import Lengths
from llmq.model.request import RequestClass
from llmq.model.time.batchtime import BatchTime
from llmq.optimality.networks.traffic import Burst, Offered, check_classes
from llmq.policies import Policy

__all__ = [
    "Burst",
    "Network",
    "Sketch",
    "below",
    "draw_network",
    "fitted",
    "suited",
]


@dataclass(frozen=True, slots=True)
class Network(Offered):
    """An engine, its classes and a direction of rates.

    Parameters
    ----------
    engine : Engine
        What serves.
    mix : mapping of str to RequestClass
        The classes.
    rates : mapping of str to float
        Requests per second at load 1.

    Raises
    ------
    InputError
        An engine with limits of memory or slots, or rates of other classes than those of the mix.

    Examples
    --------
    >>> network = draw_network(3)
    >>> round(sum(network.at(0.5).rates.values()) / sum(network.rates.values()), 6)
    0.5
    """

    engine: Engine
    mix: Mapping[str, RequestClass]
    rates: Mapping[str, float]

    def __post_init__(self) -> None:
        for limit in ("kv_tokens", "max_seqs"):
            if getattr(self.engine, limit) is not None:
                raise InputError(
                    f"a network for verdicts has an engine without {limit}: with it the region is "
                    f"a bracket and a load is not exact; got {getattr(self.engine, limit)}",
                    field=limit,
                )
        check_classes(self.mix, self.rates)


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
    from llmq.theory.region.tiling import best_batch

    rng = np.random.default_rng((number, whole, mismatched, fill))
    tile = int(rng.choice([4, 8, 16]))
    budget = 32 * int(rng.integers(1, 5)) if whole else int(tile * rng.integers(1, 9))
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


@dataclass(frozen=True, slots=True)
class Sketch:
    """A network in whole numbers: what is searched for counterexamples, and shrunk.

    Parameters
    ----------
    law : {"affine", "tiled", "hinge"}
        Time of ``n`` tokens in eighths of a second: ``base + slope n``,
        ``base + slope ceil(n / step)``, or ``base + slope (n - step)^+``.
    base, slope : int
        Eighths of a second; the base at least 1, the slope at least 0.
    step : int
        Tile, or tokens up to which an iteration takes the least time.
    budget : int
        Tokens per iteration.
    classes : tuple of (int, int)
        Prompt and output tokens of each class; all come equally often.

    Examples
    --------
    >>> Sketch("tiled", 1, 1, 4, 5, ((1, 2),)).network().engine.law(5)
    0.375
    """

    law: str
    base: int
    slope: int
    step: int
    budget: int
    classes: tuple[tuple[int, int], ...]

    def network(self) -> Network:
        """Return the network, at load 1.

        Returns
        -------
        Network
            Classes are named a, b, c.

        Raises
        ------
        InputError
            An unknown law, or a number that cannot be.
        """
        base, slope = self.base / 8, self.slope / 8
        if self.law == "tiled":
            law = BatchTime.tiled(base=base, per_tile=slope, tile=self.step)
        elif self.law == "hinge":
            tokens = sorted({1, self.step, self.step + self.budget})
            times = [base + slope * max(n - self.step, 0) for n in tokens]
            law = BatchTime.table(tokens=tokens, seconds=times)
        elif self.law == "affine":
            law = BatchTime.affine(base=base, per_token=slope)
        else:
            raise InputError(f"a sketch is affine, tiled or hinge, got {self.law!r}")
        mix = {"abc"[i]: RequestClass(*pair) for i, pair in enumerate(self.classes)}
        engine = Engine(law, token_budget=self.budget, kv_block=1)
        return _at_capacity(engine, mix, dict.fromkeys(mix, 1.0))

    def simpler(self) -> Iterator[Sketch]:
        """Return networks that are simpler, the boldest step first.

        Yields
        ------
        Sketch
            With a class less, a simpler law, or a smaller number.
        """
        for i in range(len(self.classes) if len(self.classes) > 1 else 0):
            yield replace(self, classes=self.classes[:i] + self.classes[i + 1 :])
        if self.law != "affine":
            yield replace(self, law="affine", step=1)
        for name, least in (("budget", 1), ("base", 1), ("slope", 0), ("step", 1)):
            value: int = getattr(self, name)
            for smaller in below(value, least):
                yield self._with(name, smaller)
            if name == "budget" and all(prompt % value == 0 for prompt, _ in self.classes):
                for k in below(value, 1):
                    scaled = tuple((k * (prompt // value), out) for prompt, out in self.classes)
                    yield replace(self, budget=k, step=min(self.step, k), classes=scaled)
            if name == "step":  # a tile and a budget of as many tiles and as many tokens more
                for k in below(value, least):
                    whole, rest = divmod(self.budget, value)
                    if whole:
                        yield replace(self, step=k, budget=whole * k + min(rest, k - 1))
        for i, pair in enumerate(self.classes):
            for j in (0, 1):
                for smaller in below(pair[j], 1):
                    new = (smaller, pair[1]) if j == 0 else (pair[0], smaller)
                    yield replace(self, classes=(*self.classes[:i], new, *self.classes[i + 1 :]))

    def _with(self, name: str, value: Any) -> Sketch:
        return replace(self, **{name: value})

    @property
    def size(self) -> int:
        """Sum of all numbers."""
        numbers = self.base + self.slope + self.step + self.budget
        return numbers + sum(map(sum, self.classes))


def below(value: int, least: int) -> list[int]:
    """Return numbers to try instead of one.

    Parameters
    ----------
    value, least : int
        The number, and the least that makes sense.

    Returns
    -------
    list of int
        The least, halfway, one less: those that are smaller, ascending.

    Examples
    --------
    >>> below(9, 1)
    [1, 5, 8]
    """
    tried = (least, (value + least) // 2, value - 1)
    return sorted({number for number in tried if least <= number < value})


def fitted(policy: Policy | Callable[[Engine], Policy], engine: Engine) -> Policy:
    """Return a policy as an engine needs it.

    Parameters
    ----------
    policy : Policy or callable
        The policy, or a function from the engine to it.
    engine : Engine
        The engine.

    Returns
    -------
    Policy
        With at most the engine's token budget, and (RAD) its most productive batch as the tile.

    Examples
    --------
    >>> from llmq.policies import VLLM
    >>> fitted(VLLM(token_budget=8192), draw_network(0).engine).token_budget is None
    True
    """
    from llmq.policies import RAD

    if isinstance(policy, RAD):
        from llmq.theory.region.tiling import best_batch

        tile = best_batch(engine.law, engine.token_budget).tokens
        return replace(policy, tile=tile, chunk=tile, token_budget=None)
    if not hasattr(policy, "blocks"):
        return policy(engine)
    given: Any = policy
    if given.token_budget is not None and given.token_budget > engine.token_budget:
        given = replace(given, token_budget=None)
    return cast("Policy", given)
