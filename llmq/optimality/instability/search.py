"""Parts of the search: drawing small networks, what piles up on them, shrinking, confirming.

A path's share of work that piles up is that of :mod:`llmq.optimality.verdict`. On a fleet whose
router does not look at the class the exact bound of :mod:`llmq.optimality.saturation.blind` takes
its place: it needs no path, so the search follows the programme's own numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any, Protocol, Self, TypeAlias

import numpy as np
import numpy.typing as npt

from llmq.errors import InputError, PolicyError
from llmq.model.engine import Engine
from llmq.model.time.batchtime import BatchTime
from llmq.optimality.networks import Network, Sketch, fitted
from llmq.optimality.networks.fleet import FleetNetwork, FleetSketch, draw_fleet_sketch
from llmq.optimality.networks.memory import MemoryNetwork, MemorySketch, draw_memory_sketch
from llmq.optimality.saturation.blind import blind_bound, is_blind
from llmq.optimality.verdict import StabilityTest, served, shares, stability_test
from llmq.policies import RAD, Policy
from llmq.result import Estimate
from llmq.rng import RngLike, seed_sequence
from llmq.sim.results._stats import student
from llmq.sim.simulate import simulate

__all__ = [
    "FAMILIES",
    "LAWS",
    "AnyNetwork",
    "Maker",
    "confirm",
    "draw",
    "draw_sketch",
    "exact_capacity",
    "growth",
    "shrink",
    "suit",
]

FAMILIES = ("plain", "memory", "fleet")
LAWS = ("affine", "tiled", "hinge")
AnyNetwork: TypeAlias = Network | MemoryNetwork | FleetNetwork
Maker: TypeAlias = Policy | Callable[[Engine], Policy]
# Any engine: what shape of policy a function makes.
_PLAIN = Engine(BatchTime.affine(base=1.0, per_token=1.0), token_budget=1)


class Drawn(Protocol):
    """A network in whole numbers."""

    def network(self) -> AnyNetwork:
        """Return the network, at load 1."""

    def simpler(self) -> Iterator[Self]:
        """Return simpler ones."""


def draw(
    policy: Maker, family: str, rng: np.random.Generator, tiles_divide: bool, laws: tuple[str, ...]
) -> Sketch | MemorySketch | FleetSketch:
    """Draw a small network of a family, as a policy needs it.

    Parameters
    ----------
    policy : Policy or callable
        The policy, or a function from the engine to it.
    family : {"plain", "memory", "fleet"}
        An engine without limits, one whose memory binds, or unequal engines.
    rng : numpy.random.Generator
        Source of randomness.
    tiles_divide : bool
        Plain engines only: see :func:`draw_sketch`.
    laws : tuple of str
        Plain engines only: forms of their laws.

    Returns
    -------
    Sketch, MemorySketch or FleetSketch
        The network.
    """
    if family == "fleet":
        return draw_fleet_sketch(rng)
    whole = fitted(policy, _PLAIN).blocks.budget.whole
    if family == "memory":
        return draw_memory_sketch(rng, whole=whole)
    fill = tiles_divide and isinstance(policy, RAD)
    return draw_sketch(rng, whole=whole, tiles_divide=tiles_divide, fill=fill, laws=laws)


def draw_sketch(
    rng: np.random.Generator,
    *,
    whole: bool = False,
    tiles_divide: bool = False,
    fill: bool = False,
    laws: tuple[str, ...] = LAWS,
) -> Sketch:
    """Draw a small network in whole numbers.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of randomness.
    whole : bool
        Prompts fit in the budget.
    tiles_divide : bool
        A full budget is the most productive batch; with ``whole`` prompts are short.
    fill : bool
        Prompts are multiples of the budget.
    laws : tuple of str
        Forms of the law; with ``tiles_divide`` never a hinge.

    Returns
    -------
    Sketch
        The network.

    Examples
    --------
    >>> draw_sketch(np.random.default_rng(1)).law
    'tiled'
    """
    law = str(rng.choice([law for law in laws if not (tiles_divide and law == "hinge")]))
    step = int(rng.integers(2, 9))
    budget = step * int(rng.integers(1, 4))
    if not tiles_divide and rng.random() < 0.5:
        budget += int(rng.integers(1, 3))
    base, slope = (int(x) for x in rng.integers(1, 17, size=2))
    longest = max(budget // (8 if tiles_divide else 1), 1) if whole else 2 * budget
    part = budget if fill else 1
    classes = tuple(
        (part * int(rng.integers(1, longest // part + 1)), int(rng.integers(1, 13)))
        for _ in range(rng.integers(1, 3))
    )
    return Sketch(law, base, slope, step, budget, classes)


def _allowed(drawn: Drawn, policy: Maker, tiles_divide: bool, laws: tuple[str, ...]) -> bool:
    """Whether the network is still one of those that were asked for."""
    if not isinstance(drawn, Sketch):
        return True
    if not tiles_divide:
        return drawn.law in laws
    # Nothing but the policy's way of sharing an iteration can be at fault.
    fill = isinstance(policy, RAD)
    fits = drawn.law != "tiled" or drawn.budget % drawn.step == 0
    if not fill and fitted(policy, _PLAIN).blocks.budget.whole:
        fits = fits and all(8 * prompt <= drawn.budget for prompt, _ in drawn.classes)
    if fill:
        fits = fits and all(prompt % drawn.budget == 0 for prompt, _ in drawn.classes)
    return fits and drawn.law != "hinge" and drawn.law in laws


def suit(policy: Maker, network: AnyNetwork) -> Policy:
    """Return the policy as a network needs it.

    Parameters
    ----------
    policy : Policy or callable
        The policy, or a function to it: from the engine, or for a fleet from the network.
    network : Network, MemoryNetwork or FleetNetwork
        The network.

    Returns
    -------
    Policy
        The policy.

    Raises
    ------
    InputError
        The policy has deadlines of classes that the network lacks, sees what it lacks, or (RAD on a
        fleet) takes one tile where each engine has its own.
    """
    if isinstance(network, FleetNetwork):
        given: Any = policy
        chosen: Policy = given if hasattr(policy, "blocks") else given(network)
        if isinstance(chosen, RAD):
            raise InputError("rad takes one tile, each engine of a fleet has its own best batch")
    else:
        chosen = fitted(policy, network.engine)
    _check_needs(chosen, network)
    return chosen


def _check_needs(policy: Policy, network: AnyNetwork) -> None:
    for name, _ in getattr(policy, "deadlines", ()):
        if name not in network.mix:
            raise InputError(
                f"policy {policy.name} has a deadline for class {name!r}, which a network for "
                f"verdicts lacks: its classes are {', '.join(network.mix)}; use tbt= for all",
                field="deadlines",
                value=name,
            )
    if others := policy.sees - {"prompt", "output"}:
        raise InputError(
            f"policy {policy.name} needs {', '.join(sorted(others))}, which a network for verdicts "
            "lacks: its requests have prompt and output lengths",
            policy=policy.name,
        )


def growth(policy: Maker, drawn: Drawn, load: float, n: int = 60) -> float:
    """Return the share of the work that piles up.

    Parameters
    ----------
    policy : Policy or callable
        The policy, or a function to it.
    drawn : Sketch, MemorySketch or FleetSketch
        The network.
    load : float
        Offered load.
    n : int
        Arrivals of each of two short paths.

    Returns
    -------
    float
        The smaller of two paths; for a router that does not look at the class, what must pile up.
        Minus infinity where the policy cannot run.
    """
    try:
        network = drawn.network()
        chosen = suit(policy, network)
        if not isinstance(network, FleetNetwork):
            return float(shares(chosen, network, load, n, replications=2, rng=0).min())
        if is_blind(chosen.blocks.route):
            total = sum(network.rates.values())
            return 1 - blind_bound(network).rate / (load * total)
        return float(_fleet_shares(chosen, network, load, n, 2, 0).min())
    except (InputError, PolicyError):
        return -math.inf


def shrink(
    policy: Maker,
    drawn: Sketch | MemorySketch | FleetSketch,
    load: float,
    least: float,
    tiles_divide: bool,
    laws: tuple[str, ...],
) -> Sketch | MemorySketch | FleetSketch:
    """Make a network simpler while at least so much piles up.

    Parameters
    ----------
    policy : Policy or callable
        The policy, or a function to it.
    drawn : Sketch, MemorySketch or FleetSketch
        Where to begin.
    load : float
        Offered load.
    least : float
        Share of the work.
    tiles_divide, laws
        As in :func:`draw`: what the network must keep.

    Returns
    -------
    Sketch, MemorySketch or FleetSketch
        A network none of whose simpler ones will do.
    """
    tried, found = {drawn}, True
    while found:
        found = False
        for simpler in drawn.simpler():
            if simpler in tried or not _allowed(simpler, policy, tiles_divide, laws):
                continue
            tried.add(simpler)
            if growth(policy, simpler, load, 80) >= least:
                drawn, found = simpler, True
                break
    return drawn


def confirm(
    policy: Policy, network: AnyNetwork, load: float, alpha: float, rng: RngLike
) -> StabilityTest:
    """Test a find with fresh random numbers.

    Parameters
    ----------
    policy : Policy
        As the network needs it.
    network : Network, MemoryNetwork or FleetNetwork
        The network.
    load : float
        Offered load.
    alpha : float
        Most probability of each wrong answer.
    rng : Generator, SeedSequence, int or None
        Source of randomness.

    Returns
    -------
    StabilityTest
        The answer.
    """
    if not isinstance(network, FleetNetwork):
        return stability_test(policy, network, load, alpha=alpha, requests=100, looks=6, rng=rng)
    looks, n, before = 4, 100, math.nan
    share = Estimate(math.nan, math.inf, 0)
    for look, seed in enumerate(seed_sequence(rng).spawn(looks)):
        n = 100 * 2**look
        parts = _fleet_shares(policy, network, load, n, 6, seed)
        half = student(parts, 1 - 2 * alpha / looks)
        share = Estimate(float(parts.mean()), half, 6, "replications")
        sign = (share.low > 0) - (share.high < 0)
        if sign and before * sign > 0 and abs(share.mean) > abs(before) / 2:
            return StabilityTest("grows" if sign > 0 else "stable", share, n, load, alpha)
        before = share.mean if sign else math.nan
    return StabilityTest("undecided", share, n, load, alpha)


def _fleet_shares(
    policy: Policy, network: FleetNetwork, load: float, n: int, replications: int, rng: RngLike
) -> npt.NDArray[np.float64]:
    """Share of the time of all engines' work offered that piles up, priced as the requests are."""
    lag = network.fleet.engines[0].conventions.lag
    offered = sum(
        rate * (network.mix[name].prompt.mean + network.mix[name].output.mean - 1 + lag)
        for name, rate in network.rates.items()
    )
    found = np.empty(replications)
    for r, own in enumerate(seed_sequence(rng).spawn(replications)):
        waiting = n // 2 + n * r // (4 * replications)
        run = simulate(
            network.fleet,
            network.at(load, first=waiting),
            policy,
            requests=waiting + n,
            rng=own,
            simulator="reference",
            record="tokens",
        )
        last = run.requests.arrival[:, -1]
        found[r] = 1 - float((served(run, last) / last).item()) / (load * offered)
    return found


def exact_capacity(network: AnyNetwork) -> Fraction | None:
    """Return the rate at load 1 of all classes together, exactly.

    Parameters
    ----------
    network : Network, MemoryNetwork or FleetNetwork
        The network.

    Returns
    -------
    fractions.Fraction or None
        Requests per second; None with a limit of memory, where an explicit schedule's end is
        computed in floats.
    """
    from llmq.theory.region import stability_region

    if isinstance(network, MemoryNetwork):
        return None
    system = network.fleet if isinstance(network, FleetNetwork) else network.engine
    top = max(network.rates.values())
    weights = {n: Fraction(rate / top).limit_denominator() for n, rate in network.rates.items()}
    load = stability_region(system, network.mix).load(weights, exact=True)
    return sum(weights.values(), Fraction(0)) / load
