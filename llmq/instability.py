r"""A network on which a policy fails: searched, shrunk, confirmed, proved where that is possible.

**Search.** Small networks in whole numbers (:class:`llmq.networks.Sketch`) are drawn at random and
measured by the share of the work that piles up on a short path at the load
(:mod:`llmq.verdict`). Some are drawn towards what breaks policies: a budget just past the most
productive batch, prompts near the budget, one class alone.

**Shrinking.** The worst one is made simpler, the boldest step first, as long as a good part of the
growth remains: a class less, an affine law, the least number, half of it, one less.

**Confirmation.** The sequential test at a small ``alpha`` with fresh random numbers. Where the
shrunk network has one class, fixed lengths, and the policy reads only the head of the queue, the
saturated cycle (:mod:`llmq.saturation`) gives the largest stable rate as a fraction: then the
counterexample is a proof.

To find nothing is no proof of stability.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from llmq.errors import InputError, PolicyError
from llmq.model.batchtime import BatchTime
from llmq.model.engine import Engine
from llmq.networks import Network, Sketch, fitted
from llmq.policies import RAD, Policy, parse, text
from llmq.result import Kind
from llmq.rng import RngLike, generator
from llmq.saturation import SaturatedCycle, has_cycle, saturated_cycle
from llmq.theory.tiling import best_batch
from llmq.verdict import StabilityTest, shares, stability_test

__all__ = ["Instability", "draw_sketch", "find_instability", "replay"]

# Share of the work that must pile up before a network counts as a find, and remain while shrinking.
LEAST = 0.02
# Any engine: what shape of policy a function makes.
_PLAIN = Engine(BatchTime.affine(base=1.0, per_token=1.0), token_budget=1)


@dataclass(frozen=True, slots=True)
class Instability:
    """A network inside whose region a policy is not stable.

    Parameters
    ----------
    policy : str
        The policy as :func:`llmq.policies.parse` reads it, fitted to the engine.
    network : Network
        Engine, classes, rates at load 1.
    load : float
        Offered load, below 1.
    test : StabilityTest
        What the sequential test said.
    cycle : SaturatedCycle or None
        The exact cycle, where there is one.
    kind, assumptions, source
        As in every result; exact where the cycle is a proof.
    """

    policy: str
    network: Network
    load: float
    test: StabilityTest
    cycle: SaturatedCycle | None
    kind: Kind
    assumptions: tuple[str, ...]
    source: str

    @property
    def exact_reach(self) -> Fraction | None:
        """Load up to which the policy is stable, exactly; None without a cycle."""
        if self.cycle is None:
            return None
        (request,) = self.network.mix.values()
        engine = self.network.engine
        work = request.prompt.low + engine.conventions.decode_iterations(request.output.low)
        return self.cycle.exact_rate * work / best_batch(engine.law, engine.token_budget).exact_rate

    def __str__(self) -> str:
        engine = self.network.engine
        classes = ", ".join(
            f"{name}: {one.prompt.low} + {one.output.low} tokens"
            for name, one in self.network.mix.items()
        )
        reach = self.exact_reach
        proof = (
            "" if reach is None else f"; exactly: stable up to load {reach} = {float(reach):.4g}"
        )
        return f"{self.policy}, budget {engine.token_budget}, {classes}: {self.test}{proof}"


def find_instability(
    policy: Policy | Callable[[Engine], Policy],
    *,
    load: float = 0.9,
    tries: int = 60,
    tiles_divide: bool = False,
    alpha: float = 0.002,
    rng: RngLike = None,
) -> Instability | None:
    """Search for a network on which a policy does not carry a load below 1.

    Parameters
    ----------
    policy : Policy or callable
        The policy, or a function from the engine to it. RAD's tile is set to the engine's most
        productive batch.
    load : float
        Offered load, below 1.
    tries : int
        Networks drawn.
    tiles_divide : bool
        Only networks whose full budget is the most productive batch, prompts multiples of it
        where the policy fills tiles and short ones where it does not split them.
    alpha : float
        Most probability that the test calls a stable system growing.
    rng : Generator, SeedSequence, int or None
        Source of randomness.

    Returns
    -------
    Instability or None
        The smallest network found; None if nothing was.

    Raises
    ------
    InputError
        A load outside (0, 1), or no tries.

    Examples
    --------
    >>> from llmq.policies import FasterTransformer
    >>> found = find_instability(FasterTransformer(), tries=5, rng=1)
    >>> found.test.status, found.kind
    ('grows', <Kind.EXACT: 'exact'>)
    """
    if not 0 < load < 1 or tries < 1:
        raise InputError(
            f"find_instability needs a load in (0, 1) and at least 1 try, got {load} and {tries}",
            value=load,
        )
    random = generator(rng)
    shape = fitted(policy, _PLAIN).blocks
    drawn = [
        draw_sketch(
            random,
            whole=shape.budget.whole,
            tiles_divide=tiles_divide,
            fill=tiles_divide and isinstance(policy, RAD),
        )
        for _ in range(tries)
    ]
    worst: list[tuple[float, Sketch]] = []
    for sketch in drawn:
        worst.append((_growth(policy, sketch, load), sketch))
        if worst[-1][0] > 0.15:
            break
    for growth, sketch in sorted(worst, key=lambda pair: -pair[0])[:3]:
        if growth < LEAST:
            break
        small = _shrunk(policy, sketch, load, max(LEAST, growth / 3), tiles_divide)
        if (found := _confirmed(policy, small, load, alpha, random)) is not None:
            return found
    return None


def draw_sketch(
    rng: np.random.Generator,
    *,
    whole: bool = False,
    tiles_divide: bool = False,
    fill: bool = False,
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

    Returns
    -------
    Sketch
        The network.

    Examples
    --------
    >>> draw_sketch(np.random.default_rng(1)).law
    'tiled'
    """
    law = str(rng.choice(["affine", "tiled"] if tiles_divide else ["affine", "tiled", "hinge"]))
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


def _allowed(sketch: Sketch, policy: Policy | Callable[[Engine], Policy]) -> bool:
    """Whether nothing but the policy's way of sharing an iteration can be at fault."""
    whole = not isinstance(policy, RAD) and fitted(policy, _PLAIN).blocks.budget.whole
    fill = isinstance(policy, RAD)
    fits = sketch.law != "tiled" or sketch.budget % sketch.step == 0
    if whole:
        fits = fits and all(8 * prompt <= sketch.budget for prompt, _ in sketch.classes)
    if fill:
        fits = fits and all(prompt % sketch.budget == 0 for prompt, _ in sketch.classes)
    return fits and sketch.law != "hinge"


def _growth(
    policy: Policy | Callable[[Engine], Policy], sketch: Sketch, load: float, n: int = 60
) -> float:
    """Share that piles up on two short paths; minus infinity where the policy cannot run."""
    try:
        network = sketch.network()
        parts = shares(fitted(policy, network.engine), network, load, n, replications=2, rng=0)
    except (InputError, PolicyError):
        return -np.inf
    return float(parts.min())


def _shrunk(
    policy: Policy | Callable[[Engine], Policy],
    sketch: Sketch,
    load: float,
    least: float,
    tiles_divide: bool,
) -> Sketch:
    """Make simpler while at least so much piles up."""
    tried, found = {sketch}, True
    while found:
        found = False
        for simpler in sketch.simpler():
            if simpler in tried or (tiles_divide and not _allowed(simpler, policy)):
                continue
            tried.add(simpler)
            if _growth(policy, simpler, load, 80) >= least:
                sketch, found = simpler, True
                break
    return sketch


def _confirmed(
    policy: Policy | Callable[[Engine], Policy],
    sketch: Sketch,
    load: float,
    alpha: float,
    rng: np.random.Generator,
) -> Instability | None:
    network = sketch.network()
    chosen = fitted(policy, network.engine)
    test = stability_test(chosen, network, load, alpha=alpha, requests=100, looks=6, rng=rng)
    if test.status != "grows":
        return None
    return _proved(text(chosen), chosen, network, load, test)


def _proved(
    name: str, policy: Policy, network: Network, load: float, test: StabilityTest
) -> Instability:
    """Add the cycle where there is one and it lies below the load."""
    request = next(iter(network.mix.values()))
    if len(network.mix) == 1 and has_cycle(policy, request):
        cycle = saturated_cycle(policy, network.engine, request)
        found = Instability(
            name, network, load, test, cycle,
            kind=Kind.EXACT, assumptions=cycle.assumptions, source="saturated cycle [SAT]",
        )  # fmt: skip
        assert found.exact_reach is not None
        if found.exact_reach < load:
            return found
    return Instability(
        name, network, load, test, None,
        kind=test.kind, assumptions=test.assumptions, source="sequential test of stability",
    )  # fmt: skip


def replay(found: Instability, *, rng: RngLike = None) -> Instability:
    """Run a counterexample again with fresh random numbers, and derive its cycle again.

    Parameters
    ----------
    found : Instability
        As found, or read from JSON.
    rng : Generator, SeedSequence, int or None
        Source of randomness.

    Returns
    -------
    Instability
        What is said now.

    Examples
    --------
    >>> from llmq.policies import FasterTransformer
    >>> found = find_instability(FasterTransformer(), tries=5, rng=1)
    >>> replay(found, rng=2).cycle == found.cycle
    True
    """
    policy = parse(found.policy)
    test = stability_test(
        policy, found.network, found.load, alpha=found.test.alpha, requests=100, looks=6, rng=rng
    )
    return _proved(found.policy, policy, found.network, found.load, test)
