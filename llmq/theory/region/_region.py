r"""The stability region of an engine: which rates can be served, at what price, and what binds.

**Outer bound (every policy).** Charge each request the least that any policy can: tokens ``v``,
slot-iterations ``k`` with the engine's chunk, the least KV area ``g`` (remainder of the prompt
first), attention work ``W``; eviction, pausing and swapping only add to them. Over a long time the
``N`` iterations of a second hold at most ``N b_max`` tokens, ``N k_max`` rows and ``N M`` KV
tokens, and take at least :math:`N f^{conv}(B / N)` of token time (Jensen). So a stable policy needs
:math:`\rho(\lambda) \le 1` with ``rho`` the largest of the facets of
:mod:`llmq.theory.needs._facets`, whatever it does. Where decode-only and mixed iterations read KV
at two rates, the smaller is charged. For affine laws this is Theorem U of the theory core.

Where all prompts share one slot (conventions "one") the facets are the bounds that the batches
themselves obey (:mod:`llmq.theory.region._bounds`). In all cases ``load`` is the value that
certificates prove: the least load of :mod:`llmq.theory.planning_lp._static`.

**Exact cases.** Without a memory limit, without slots but one that all prompts share, and if the KV
area costs no time or does not depend on the chunks, the bound is reached: the batches of an optimal
plan can be filled token by token once enough requests wait (Dai et al., RAD; Theorem R).

**Inner bound.** Otherwise whole requests do not fill a batch exactly:
:mod:`llmq.theory.region._inner` gives loads that explicit schedules carry. ``contains`` raises
between the two.

**Settings or hardware.** The bound above is one of an engine at its settings. With
``limits="hardware"`` token budget, slots and chunk are free (:mod:`llmq.theory.needs._hardware`);
only beyond that bound no scheduler is stable, however the server is set up.

``n`` equal engines carry ``n`` times the rates: ``rho`` is convex, so an even random split loses
nothing. Pools that differ, disaggregation: :mod:`llmq.theory.region.routing`. Both answer the same
questions, see :mod:`llmq.theory.region._gauge`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import ClassVar, Literal, TypeAlias, overload

from llmq._input.checked import checked
from llmq.errors import InputError, nearest
from llmq.model.engine import Engine
from llmq.model.fleet import Fleet
from llmq.model.request import RequestClass
from llmq.result import Kind, Provenance, provenance
from llmq.theory.linear._polytope import corner_points
from llmq.theory.needs._facets import Facet, Weights, bottleneck, heaviest, split_dominated, weigh
from llmq.theory.needs._hardware import Limits, check_limits, counted, has_no_bound
from llmq.theory.needs._rates import Rates, rate_vector
from llmq.theory.needs._reuse import Hits, check_hits, reused
from llmq.theory.needs.demand import Demand, demand
from llmq.theory.region._bounds import (
    assumptions,
    check_fits,
    has_one_pool,
    is_exact,
    no_bound,
    one_pool,
    outer_facets,
    shared_facets,
    shares_slot,
)
from llmq.theory.region._gauge import StabilityRegion
from llmq.theory.region._inner import InnerBound, inner_bound
from llmq.theory.region._pools import ONE_POOL
from llmq.theory.region.routing import FleetRegion, fleet_region

__all__ = ["Region", "StabilityRegion", "stability_region"]

Mix: TypeAlias = Mapping[str, RequestClass]
METHODS = ("auto", "closed_form", "configurations")
_ORDER = ("compute", "tokens", "slots", "memory")


@checked(record=True)
@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Region(StabilityRegion):
    """Rates that an engine, or a pool of equal engines, can serve.

    Parameters
    ----------
    mix : mapping of str to RequestClass
        The classes, in the order of every vector.
    engine : Engine
        The engine, as given.
    engines : int
        How many of it.
    limits : {"settings", "hardware"}
        Whether token budget, slots and chunk count as given, or are free.
    hits : mapping of str to Fraction
        Share of the prompt tokens of each class that is found again.
    active : tuple of Facet
        Bounds of one engine that no other implies class by class.
    dominated : tuple of Facet
        The others of Theorem U; where prompts share a slot also its slot facet as it is printed,
        last, which is no bound then.
    inner : InnerBound or None
        Loads that explicit schedules carry; None where the region is exact.
    rational : bool
        Whether the mean demands, hence the weights, are exact.
    kind : Kind
        ``exact`` or ``outer_bound``.
    assumptions, source, provenance
        What the bounds rest on, catalogue id, and how to make the region again.
    pool : str
        Name of the pool, in certificates.
    """

    mix: Mapping[str, RequestClass]
    engine: Engine
    engines: int
    limits: Limits
    hits: Mapping[str, Fraction]
    active: tuple[Facet, ...]
    dominated: tuple[Facet, ...]
    inner: InnerBound | None
    rational: bool
    kind: Kind
    assumptions: tuple[str, ...]
    source: str
    provenance: Provenance
    pool: str = ONE_POOL

    method: ClassVar[str] = "closed_form"

    def _bracket(self, rates: Rates, vector: Sequence[float]) -> tuple[float, float]:
        low = self._load(rates, vector)
        if self.inner is None:
            return low, low
        return low, self.inner.load([rate / self.engines for rate in vector])

    def _prices(self, rates: Rates) -> dict[str, float]:
        pairs = zip(self.classes, self._heaviest(rates).weights, strict=True)
        return {name: weight / self.engines for name, weight in pairs}

    def _binding(self, rates: Rates) -> tuple[str, str]:
        facet, vector = self._heaviest(rates), rate_vector(rates, self.classes)
        served = [j for j, rate in enumerate(vector) if rate > 0]
        j = max(served, key=lambda j: facet.share[j])
        kind = self.classes[j] if len(self.classes) > 1 else ""
        return facet.resource, bottleneck(facet.resource, facet.share[j], kind)

    def _system(self) -> Fleet:
        return Fleet({self.pool: (self.engine, self.engines)})

    def _planned(self) -> FleetRegion:
        return fleet_region(self._system(), self.mix, self.limits, self._shares())

    @checked
    def facets(self, *, dominated: bool = False) -> tuple[Facet, ...]:
        """Return the bounds ``sum_j rate_j * weights_j <= engines``.

        Parameters
        ----------
        dominated : bool
            Also the others of Theorem U: implied by these. Where prompts share a slot, last, its
            slot facet as it is printed: it charges each chunk a slot, so it may exceed the load.

        Returns
        -------
        tuple of Facet
            Weights in engine-seconds per request of one engine.
        """
        return self.active + self.dominated if dominated else self.active

    def _facets(self) -> tuple[Facet, ...]:
        return self.active

    def _corners(self) -> list[Weights]:
        points = corner_points([facet.exact for facet in self.active])
        return [tuple(x * self.engines for x in point) for point in points]

    def _load(self, rates: Rates, vector: Sequence[float]) -> float:
        return heaviest(self.active, vector) / self.engines

    def _exact_load(self, rates: Sequence[Fraction]) -> Fraction:
        return max(f.exactly(rates) for f in self.active) / self.engines

    def _heaviest(self, rates: Rates) -> Facet:
        vector = rate_vector(rates, self.classes)
        return max(self.active, key=lambda f: weigh(f.weights, vector))

    def __repr__(self) -> str:
        binds = ", ".join(dict.fromkeys(facet.resource for facet in self.active))
        return (
            f"Region({self.kind}, {self.limits}: {self._ends()}; {len(self.active)} "
            f"facet{'s' * (len(self.active) > 1)}: {binds}; "
            f"{self.engines} engine{'s' * (self.engines > 1)})"
        )


@overload
def stability_region(
    engine_or_fleet: Engine,
    mix: Mix,
    method: Literal["auto", "closed_form"] = "auto",
    *,
    limits: Limits = "settings",
    hits: Hits = None,
) -> Region: ...
@overload
def stability_region(
    engine_or_fleet: Engine | Fleet,
    mix: Mix,
    method: str = "auto",
    *,
    limits: Limits = "settings",
    hits: Hits = None,
) -> StabilityRegion: ...
@checked
def stability_region(
    engine_or_fleet: Engine | Fleet,
    mix: Mix,
    method: str = "auto",
    *,
    limits: Limits = "settings",
    hits: Hits = None,
) -> StabilityRegion:
    """Return the rates that an engine or a fleet can serve under the best policy.

    Parameters
    ----------
    engine_or_fleet : Engine or Fleet
        One engine, or pools that may differ, with roles, eligible classes and a link.
    mix : mapping of str to RequestClass
        The classes.
    method : {"auto", "closed_form", "configurations"}
        Closed form (this module; one pool of equal engines) or linear programme over batch
        configurations (:mod:`llmq.theory.region.routing`; any fleet). Loads and certificates are
        the same. Auto: the closed form where there is one pool that does both phases.
    limits : {"settings", "hardware"}
        Bound of every policy at these settings, or of the hardware: token budget, slots and chunk
        are free; law, KV memory and links stay (:mod:`llmq.theory.needs._hardware`). Only beyond
        the second no scheduler is stable, whatever flags the server is started with.
    hits : float, or mapping of str to float
        Share of the prompt tokens (of each class) that a prefix cache finds; required where an
        engine has ``prefix_cache=True``. With the share that a cache without end finds
        (:func:`llmq.model.prefix.endless_hits`) the bound holds for every policy.

    Returns
    -------
    StabilityRegion
        Exact, or an outer and an inner bound: a :class:`Region` by the closed form, else a
        :class:`~llmq.theory.region.routing.FleetRegion`.

    Raises
    ------
    InputError
        Empty mix, a class that no pool can hold, unknown method or limits, the closed form for
        pools that differ, or a prefix cache without ``hits``.

    Examples
    --------
    >>> from llmq.model.time.batchtime import BatchTime
    >>> law = BatchTime.affine(base=0.012, per_token=2.5e-5, per_kv=1e-8)
    >>> engine = Engine(law, token_budget=512, max_seqs=128, kv_tokens=235_728)
    >>> mix = {"chat": RequestClass(512, 128), "code": RequestClass(2048, 256)}
    >>> region = stability_region(engine, mix)
    >>> region.load({"chat": 10.0, "code": 2.0})
    0.55118515
    >>> region.binding({"chat": 10.0, "code": 2.0})[0]
    'tokens'
    >>> stability_region(engine, mix, limits="hardware").load({"chat": 10.0, "code": 2.0})
    0.39...
    >>> fleet = Fleet({"large": (engine, 2), "small": (engine.with_(max_seqs=16), 1)})
    >>> stability_region(fleet, mix).load({"chat": 10.0, "code": 2.0})
    0.2245...
    """
    if method not in METHODS:
        raise InputError(
            f"method {method!r} cannot be used{nearest(str(method), METHODS)}", value=method
        )
    check_limits(limits)
    if not isinstance(engine_or_fleet, Engine | Fleet):
        raise InputError(
            "stability_region needs an llmq.Engine or llmq.Fleet, got "
            f"{type(engine_or_fleet).__name__}",
            value=engine_or_fleet,
        )
    if method == "closed_form" or (method == "auto" and has_one_pool(engine_or_fleet)):
        return _closed_form(engine_or_fleet, mix, method, limits, hits)
    return fleet_region(engine_or_fleet, mix, limits, hits)


def _closed_form(
    system: Engine | Fleet, mix: Mix, method: str, limits: Limits, hits: Hits
) -> Region:
    given, count = one_pool(system)
    if not isinstance(mix, Mapping) or not mix:
        raise InputError(
            "a region needs at least one request class: pass {name: RequestClass(prompt, output)}"
        )
    for name, request in mix.items():
        check_fits(given, name, demand(request, given))
    shares = check_hits(system, mix, hits)
    bounds = _bounds(given, _Classes(mix), limits, tuple(shares.items()))
    exact = bounds.inner is None
    return Region(
        mix=dict(mix),
        engine=given,
        engines=count,
        limits=limits,
        hits=shares,
        active=bounds.active,
        dominated=bounds.dominated,
        inner=bounds.inner,
        rational=all(need.exact for need in bounds.demands),
        kind=Kind.EXACT if exact else Kind.OUTER_BOUND,
        assumptions=assumptions(given, limits, shares, bounds.demands, count),
        source="theorem-u",
        provenance=provenance(
            engine=given, engines=count, classes=", ".join(mix), method=method, limits=limits
        ),
        pool=ONE_POOL if isinstance(system, Engine) else next(iter(system.pools)),
    )


class _Classes:
    """Classes that are equal where their names and laws are, so that bounds can be kept."""

    __slots__ = ("_key", "mix")

    def __init__(self, mix: Mix) -> None:
        self.mix = dict(mix)
        found = hashlib.blake2b(digest_size=16)
        for name, one in mix.items():
            found.update(repr((name, one.paired)).encode())
            for law in (one.prompt, one.output, one.reasoning):
                found.update(law.values.tobytes())
                found.update(b"" if law.weights is None else law.weights.tobytes())
                found.update(repr((len(law.values), law.weights is None)).encode())
        self._key = found.digest()

    def __hash__(self) -> int:
        return hash(self._key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Classes) and self._key == other._key


@dataclass(frozen=True, slots=True, eq=False)
class _Bounds:
    """What of a region does not depend on the number of engines."""

    active: tuple[Facet, ...]
    dominated: tuple[Facet, ...]
    inner: InnerBound | None
    demands: tuple[Demand, ...]


# Every probe of a search asks for the region of the same engine and classes.
@lru_cache(maxsize=64)
def _bounds(
    given: Engine, classes: _Classes, limits: Limits, hits: tuple[tuple[str, Fraction], ...]
) -> _Bounds:
    mix, shares, one = classes.mix, dict(hits), counted(given, classes.mix, limits)
    rules = one.conventions
    demands = tuple(
        reused(demand(request, one), request, shares[name], rules.lag, rules.area)
        for name, request in mix.items()
    )
    active, dominated = _facets(one, demands)
    if has_no_bound(given, limits):
        active, dominated = (no_bound(one, demands),), ()
    exact = is_exact(one) and not any(shares.values())
    return _Bounds(active, dominated, None if exact else inner_bound(given, mix, limits), demands)


def _facets(one: Engine, demands: Sequence[Demand]) -> tuple[tuple[Facet, ...], tuple[Facet, ...]]:
    """Bounds that count, and the others of Theorem U."""
    printed = outer_facets(one, demands)
    if not shares_slot(one):
        return split_dominated(printed)
    found = split_dominated(shared_facets(one, demands))[0]
    active = tuple(sorted(found, key=lambda facet: _ORDER.index(facet.resource)))
    known = [(facet.resource, facet.exact) for facet in active]
    others = [f for f in printed if (f.resource, f.exact) not in known]
    return active, tuple(sorted(others, key=lambda facet: facet.resource == "slots"))
