r"""A network on which a policy fails: searched, shrunk, confirmed, proved where that is possible.

**Search.** Small networks in whole numbers are drawn at random and measured by the share of the
work that piles up on a short path at the load (:mod:`llmq.optimality.verdict`). Three families: one
engine (:class:`llmq.optimality.networks.Sketch`), one whose memory binds
(:mod:`llmq.optimality.networks.memory`), and unequal engines where the speed depends on class and
engine (:mod:`llmq.optimality.networks.fleet`). Some are drawn towards what breaks policies: a
budget just past the most productive batch, a memory of a few requests, one class alone.

**Shrinking.** The worst one is made simpler, the boldest step first, as long as a good part of the
growth remains: a class less, an affine law, the least number, half of it, one less.

**Confirmation.** The sequential test at a small ``alpha`` with fresh random numbers. Then a proof
is tried:

* one class, fixed lengths, a policy that reads only the head of the queue: the saturated cycle
  (:mod:`llmq.optimality.saturation`) gives the largest stable rate as a fraction;
* one class under TRAIL without protection where memory binds: the cycle at full memory
  (:mod:`llmq.theory.stability._losses_cycle`);
* one class at equal gaps: a period after which more requests are there
  (:mod:`llmq.optimality.saturation.open`); it covers policies that prefill first;
* a fleet whose router does not look at the class: an exact bound
  (:mod:`llmq.optimality.saturation.blind`).

With a limit of memory load 1 is where an explicit schedule ends, so that "fails below load 1" says
that another policy carries the load. To find nothing is no proof of stability. Agents that call
each other in a cycle: :mod:`llmq.optimality.instability.priority`.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TypeAlias

from llmq._input.checked import checked
from llmq.errors import InputError, nearest
from llmq.model.engine import Engine
from llmq.model.fleet import Fleet
from llmq.optimality.instability.search import (
    FAMILIES,
    LAWS,
    AnyNetwork,
    Maker,
    confirm,
    draw,
    draw_sketch,
    exact_capacity,
    growth,
    shrink,
    suit,
)
from llmq.optimality.networks.fleet import FleetNetwork
from llmq.optimality.networks.memory import MemoryNetwork
from llmq.optimality.saturation import SaturatedCycle, has_cycle, saturated_cycle
from llmq.optimality.saturation.blind import BlindBound, blind_bound, is_blind
from llmq.optimality.saturation.open import OpenCycle, binary_gap, has_open_cycle, open_cycle
from llmq.optimality.verdict import StabilityTest
from llmq.policies import TRAIL, Policy, parse, text
from llmq.result import Kind
from llmq.rng import RngLike, generator
from llmq.theory.stability._losses_cycle import Fill, FullMemoryCycle, full_memory_cycle

__all__ = ["Instability", "draw_sketch", "find_instability", "replay"]

Proof: TypeAlias = SaturatedCycle | FullMemoryCycle | OpenCycle | BlindBound
# Share of the work that must pile up before a network counts as a find, and remain while shrinking.
LEAST = 0.02
# Share at which the search looks no further.
PLENTY = 0.15


@dataclass(frozen=True, slots=True)
class Instability:
    """A network inside whose region a policy is not stable.

    Parameters
    ----------
    policy : str
        The policy as :func:`llmq.policies.parse` reads it, fitted to the engine.
    network : Network, MemoryNetwork or FleetNetwork
        Engine or fleet, classes, rates at load 1.
    load : float
        Offered load, below 1.
    test : StabilityTest
        What the sequential test said.
    cycle : SaturatedCycle, FullMemoryCycle, OpenCycle, BlindBound or None
        The proof, where there is one.
    kind, assumptions, source
        As in every result; exact where a cycle is the proof, an outer bound where a bound is.
    """

    policy: str
    network: AnyNetwork
    load: float
    test: StabilityTest
    cycle: Proof | None
    kind: Kind
    assumptions: tuple[str, ...]
    source: str

    @property
    def system(self) -> Engine | Fleet:
        """What serves."""
        return self.network.fleet if isinstance(self.network, FleetNetwork) else self.network.engine

    @property
    def exact_reach(self) -> Fraction | None:
        """Load above which the policy is unstable, exactly.

        None without a proof, with one at equal gaps (it is about one rate), and with a limit of
        memory: there load 1 is a float.
        """
        capacity = exact_capacity(self.network)
        if self.cycle is None or isinstance(self.cycle, OpenCycle) or capacity is None:
            return None
        return self.cycle.exact_rate / capacity

    @property
    def reach(self) -> float | None:
        """Load above which the policy is unstable; None without a cycle of a saturated engine."""
        if self.cycle is None or isinstance(self.cycle, OpenCycle):
            return None
        return self.cycle.rate / sum(self.network.rates.values())

    def __str__(self) -> str:
        classes = ", ".join(
            f"{name}: {one.prompt.low} + {one.output.low} tokens"
            for name, one in self.network.mix.items()
        )
        return f"{self.policy}, {_system(self.system)}, {classes}: {self.test}{self._proof()}"

    def _proof(self) -> str:
        if isinstance(self.cycle, OpenCycle):
            return f"; exactly: {self.cycle}"
        if (exact := self.exact_reach) is not None:
            return f"; exactly: unstable above load {exact} = {float(exact):.4g}"
        reach = self.reach
        return "" if reach is None else f"; unstable above load {reach:.4g}"


def _system(system: Engine | Fleet) -> str:
    engines = system.engines if isinstance(system, Fleet) else (system,)
    words = [f"{len(engines)} engines"] if len(engines) > 1 else []
    words.append("budget " + " and ".join(str(one.token_budget) for one in engines))
    if (kv := engines[0].kv_tokens) is not None:
        words.append(f"memory {kv}")
    return ", ".join(words)


@checked
def find_instability(
    policy: Maker,
    *,
    load: float = 0.9,
    tries: int = 60,
    tiles_divide: bool = False,
    networks: str = "plain",
    laws: tuple[str, ...] = LAWS,
    alpha: float = 0.002,
    rng: RngLike = None,
) -> Instability | None:
    """Search for a network on which a policy does not carry a load below 1.

    Parameters
    ----------
    policy : Policy or callable
        The policy, or a function to it: from the engine, or for fleets from the
        :class:`~llmq.optimality.networks.fleet.FleetNetwork`. RAD's tile is set to the engine's
        most productive batch.
    load : float
        Offered load, below 1.
    tries : int
        Networks drawn.
    tiles_divide : bool
        Plain engines: only those whose full budget is the most productive batch, prompts multiples
        of it where the policy fills tiles and short ones where it does not split them.
    networks : {"plain", "memory", "fleet"}
        Engines without limits, engines whose memory binds, or two unequal engines.
    laws : tuple of {"affine", "tiled", "hinge"}
        Plain engines: forms of their laws.
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
        A load outside (0, 1), no tries, an unknown family or law, or a policy that needs what the
        networks lack: deadlines of classes, or anything but prompt and output lengths.

    Examples
    --------
    >>> from llmq.policies import FasterTransformer
    >>> found = find_instability(FasterTransformer(), tries=5, rng=1)
    >>> found.test.status, found.kind
    ('grows', <Kind.EXACT: 'exact'>)
    """
    _check(load, tries, networks, laws, tiles_divide)
    random = generator(rng)
    drawn = [draw(policy, networks, random, tiles_divide, laws) for _ in range(tries)]
    suit(policy, drawn[0].network())  # refuses a policy that needs what they all lack
    worst = []
    for sketch in drawn:
        worst.append((growth(policy, sketch, load), sketch))
        if worst[-1][0] > PLENTY:
            break
    for share, sketch in sorted(worst, key=lambda pair: -pair[0])[:3]:
        if share < LEAST:
            break
        small = shrink(policy, sketch, load, max(LEAST, share / 3), tiles_divide, laws)
        network = small.network()
        chosen = suit(policy, network)
        test = confirm(chosen, network, load, alpha, random)
        if test.status == "grows":
            return _proved(text(chosen), chosen, network, load, test)
    return None


def _check(
    load: float, tries: int, networks: str, laws: tuple[str, ...], tiles_divide: bool
) -> None:
    if not 0 < load < 1 or tries < 1:
        raise InputError(
            f"find_instability needs a load in (0, 1) and at least 1 try, got {load} and {tries}",
            value=load,
        )
    if networks not in FAMILIES:
        raise InputError(f"no networks {networks!r}{nearest(networks, FAMILIES)}", field="networks")
    for law in laws:
        if law not in LAWS:
            raise InputError(f"no law {law!r}{nearest(law, LAWS)}", field="laws", value=law)
    if not laws or (tiles_divide and set(laws) == {"hinge"}):
        raise InputError("laws leave nothing to search", field="laws", value=laws)


def _proof(policy: Policy, network: AnyNetwork, load: float) -> Proof | None:
    """Prove that the load is not carried, if one of the four ways applies."""
    offered = load * sum(network.rates.values())
    if isinstance(network, FleetNetwork):
        blind = blind_bound(network) if is_blind(policy.blocks.route) else None
        return blind if blind and blind.rate < offered else None
    request = next(iter(network.mix.values()))
    if len(network.mix) > 1:
        return None
    if has_cycle(policy, request):
        cycle = saturated_cycle(policy, network.engine, request)
        if cycle.rate < offered:
            return cycle
    if isinstance(network, MemoryNetwork) and (fill := _unprotected(policy)):
        full = full_memory_cycle(network.engine, request, fill)
        return full if full.rate < offered else None
    if not has_open_cycle(policy, request):
        return None
    gap = binary_gap(offered)
    found = (
        open_cycle(policy, network.engine, request, gap, first=first)
        for first in (0, 8 * network.engine.token_budget)
    )
    return next((one for one in found if one is not None), None)


def _unprotected(policy: Policy) -> Fill | None:
    """How TRAIL fills the memory, if it is by the rule of the cycle at full memory."""
    if not isinstance(policy, TRAIL) or policy.protect < 1 or policy.watermark > 0:
        return None
    if policy.admission == "now":
        return policy.fill
    return "future" if policy.reserve == 0 and policy.fill == "head" else None


def _proved(
    name: str, policy: Policy, network: AnyNetwork, load: float, test: StabilityTest
) -> Instability:
    """Add the proof where there is one."""
    try:
        cycle = _proof(policy, network, load)
    except InputError:  # no period within the iterations that are tried, or times that floats round
        cycle = None
    base = test if cycle is None else cycle
    return Instability(
        name,
        network,
        load,
        test,
        cycle,
        kind=base.kind,
        assumptions=base.assumptions,
        source="sequential test of stability" if cycle is None else cycle.source,
    )


@checked
def replay(found: Instability, *, rng: RngLike = None) -> Instability:
    """Run a counterexample again with fresh random numbers, and derive its proof again.

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
    test = confirm(policy, found.network, found.load, found.test.alpha, rng)
    return _proved(found.policy, policy, found.network, found.load, test)
