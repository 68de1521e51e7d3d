"""Small fleets of unequal engines on which the speed depends on class and engine.

An engine's iteration takes ``base + slope n`` plus attention work (the square of a prompt's length,
at a price of its own), so long prompts prefer one engine and short ones the other: what joining
the shortest queue does not see. The load is the exact one of the routing programme
(:mod:`llmq.theory.region.routing`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np

from llmq.errors import InputError
from llmq.model.engine import Engine
from llmq.model.fleet import Fleet
from llmq.model.request import RequestClass
from llmq.model.time.batchtime import BatchTime
from llmq.optimality.networks._networks import below
from llmq.optimality.networks.traffic import Offered, check_classes

__all__ = ["FleetNetwork", "FleetSketch", "draw_fleet_sketch", "engine_seconds"]

# Base, slope and attention work of an engine (see FleetSketch), and its token budget.
Parts = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class FleetNetwork(Offered):
    """A fleet of unequal engines, classes and a direction of rates.

    Parameters
    ----------
    fleet : Fleet
        One engine in each pool, without limits of memory and slots.
    mix : mapping of str to RequestClass
        The classes.
    rates : mapping of str to float
        Requests per second at load 1.

    Raises
    ------
    InputError
        Engines with limits, more than one in a pool, roles or eligible pools, or rates of other
        classes.
    """

    fleet: Fleet
    mix: Mapping[str, RequestClass]
    rates: Mapping[str, float]

    def __post_init__(self) -> None:
        for name, (engine, count) in self.fleet.pools.items():
            if engine.kv_tokens is not None or engine.max_seqs is not None or count > 1:
                raise InputError(
                    f"a fleet for verdicts has one engine in each pool, without kv_tokens and "
                    f"max_seqs: look at pool {name!r}",
                    field="pools",
                )
        if self.fleet.eligible or self.fleet.roles:
            raise InputError("a fleet for verdicts has pools that serve every class, both phases")
        check_classes(self.mix, self.rates)


def engine_seconds(
    fleet: Fleet, mix: Mapping[str, RequestClass]
) -> dict[str, tuple[Fraction, ...]]:
    """Return the least seconds of a request of each class on each engine.

    Parameters
    ----------
    fleet : Fleet
        Engines whose region is exact and has one bound.
    mix : mapping of str to RequestClass
        The classes.

    Returns
    -------
    dict of str to tuple of fractions.Fraction
        In full batches, pools in fleet order: prices for :class:`llmq.policies.PriceWeighted`.

    Raises
    ------
    InputError
        An engine of which one limit or another binds, depending on the mix.

    Examples
    --------
    >>> network = FleetSketch(((1, 0, 0, 2), (1, 0, 2, 8)), ((8, 1), (1, 1))).network()
    >>> engine_seconds(network.fleet, network.mix)["a"]
    (Fraction(1, 2), Fraction(9, 8))
    """
    from llmq.theory.region import stability_region

    rows = []
    for pool, (engine, _) in fleet.pools.items():
        bounds = stability_region(engine, mix, "closed_form").facets()
        if len(bounds) > 1:
            limits = " or ".join(dict.fromkeys(bound.resource for bound in bounds))
            raise InputError(
                f"in pool {pool!r} {limits} may bind, so a request has no seconds of its own: "
                "leave out kv_tokens and max_seqs",
                field="pools",
                value=pool,
            )
        rows.append(bounds[0].exact)
    return {name: tuple(row[j] for row in rows) for j, name in enumerate(mix)}


@dataclass(frozen=True, slots=True)
class FleetSketch:
    """A fleet in whole numbers.

    Parameters
    ----------
    engines : tuple of (int, int, int, int)
        Base, slope, work and token budget of each engine: ``n`` tokens take ``base + slope n``
        eighths of a second, and attention ``work`` sixty-fourths for each unit of work (a prompt of
        ``s`` tokens is ``s^2 / 2`` units).
    classes : tuple of (int, int)
        Prompt and output tokens of each class; all come equally often.

    Examples
    --------
    >>> sum(FleetSketch(((1, 0, 0, 2), (1, 0, 2, 8)), ((8, 1), (1, 1))).network().rates.values())
    5.6216...
    """

    engines: tuple[Parts, ...]
    classes: tuple[tuple[int, int], ...]

    def network(self) -> FleetNetwork:
        """Return the network, at load 1.

        Returns
        -------
        FleetNetwork
            Pools are named x, y, z, classes a, b, c.

        Raises
        ------
        InputError
            A number that cannot be.
        """
        from llmq.theory.region import stability_region

        pools = {}
        for name, (base, slope, work, budget) in zip("xyz", self.engines, strict=False):
            law = BatchTime.affine(base=base / 8, per_token=slope / 8, per_work=work / 64)
            pools[name] = Engine(law, token_budget=budget, kv_block=1), 1
        fleet = Fleet(pools)
        mix = {"abc"[i]: RequestClass(*pair) for i, pair in enumerate(self.classes)}
        load = stability_region(fleet, mix).load(dict.fromkeys(mix, 1.0))
        return FleetNetwork(fleet, mix, dict.fromkeys(mix, 1 / load))

    def simpler(self) -> Iterator[FleetSketch]:
        """Return fleets that are simpler, the boldest step first.

        Yields
        ------
        FleetSketch
            With an engine or a class less (at least two remain), or a smaller number.
        """
        for i in range(len(self.engines) if len(self.engines) > 2 else 0):
            yield replace(self, engines=self.engines[:i] + self.engines[i + 1 :])
        for i in range(len(self.classes) if len(self.classes) > 2 else 0):
            yield replace(self, classes=self.classes[:i] + self.classes[i + 1 :])
        for i, one in enumerate(self.engines):
            for j, least in enumerate((1, 0, 0, 1)):
                for smaller in below(one[j], least):
                    parts = [smaller if j == place else value for place, value in enumerate(one)]
                    new = parts[0], parts[1], parts[2], parts[3]
                    yield replace(self, engines=(*self.engines[:i], new, *self.engines[i + 1 :]))
        for i, (prompt, output) in enumerate(self.classes):
            fewer = [(n, output) for n in below(prompt, 1)]
            for pair in fewer + [(prompt, n) for n in below(output, 1)]:
                yield replace(self, classes=(*self.classes[:i], pair, *self.classes[i + 1 :]))

    @property
    def size(self) -> int:
        """Sum of all numbers."""
        return sum(map(sum, self.engines)) + sum(map(sum, self.classes))


def draw_fleet_sketch(rng: np.random.Generator) -> FleetSketch:
    """Draw two unequal engines and two classes.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of randomness.

    Returns
    -------
    FleetSketch
        One engine of the two has dearer attention, one class of the two long prompts.

    Examples
    --------
    >>> len(draw_fleet_sketch(np.random.default_rng(1)).engines)
    2
    """

    def engine(work: int) -> Parts:
        base, slope, budget = int(rng.integers(1, 9)), int(rng.integers(0, 3)), rng.integers(1, 13)
        return base, slope, work, int(budget)

    long, short = int(rng.integers(4, 13)), int(rng.integers(1, 4))
    classes = (long, int(rng.integers(1, 4))), (short, int(rng.integers(1, 9)))
    return FleetSketch((engine(0), engine(int(rng.integers(1, 9)))), classes)
