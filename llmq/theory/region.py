r"""The stability region of an engine: which rates can be served, at what price, and what binds.

**Outer bound (every policy).** Charge each request the least that any policy can: tokens ``v``,
slot-iterations ``k`` with the engine's chunk, the least KV area ``g`` (remainder of the prompt
first), attention work ``W``; eviction, pausing and swapping only add to them. Over a long time the
``N`` iterations of a second hold at most ``N b_max`` tokens, ``N k_max`` rows and ``N M`` KV
tokens, and take at least :math:`N f^{conv}(B / N)` of token time (Jensen). So a stable policy needs
:math:`\rho(\lambda) \le 1` with ``rho`` the largest of the facets of :mod:`llmq.theory.facets`,
whatever it does. Where decode-only and mixed iterations read KV at two rates, the smaller is
charged. For affine laws this is Theorem U of the theory core.

**Exact cases.** Without slot and memory limits, and if the KV area costs no time or does not depend
on the chunks, the bound is reached: batches of the two neighbouring sizes on the envelope can be
filled token by token once enough requests wait (Dai et al., RAD; one server of work
:math:`w_j`, stable for ``rho < 1``).

**Inner bound.** Otherwise whole requests do not fill a batch exactly: :mod:`llmq.theory.inner`
gives loads that explicit schedules carry. ``contains`` raises between the two.

``n`` equal engines carry ``n`` times the rates: ``rho`` is convex, so an even random split loses
nothing. Slots where all prompts share one (conventions "one"): see :mod:`llmq.theory.bounds`.
Pools that differ, disaggregation, configurations with ``k_max``: :mod:`llmq.theory.routing`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Literal, TypeAlias, overload

import numpy as np
import numpy.typing as npt

from llmq.errors import InputError, UndecidedError, nearest
from llmq.model.engine import Engine
from llmq.model.fleet import Fleet
from llmq.model.request import RequestClass
from llmq.result import Kind, Provenance, provenance
from llmq.theory.bounds import (
    assumptions,
    check_fits,
    is_exact,
    one_pool,
    outer_facets,
    with_shared_slot,
)
from llmq.theory.demand import demand
from llmq.theory.facets import Facet, bottleneck, corner_points, heaviest, split_dominated, weigh
from llmq.theory.inner import InnerBound, inner_bound
from llmq.theory.rates import rate_vector
from llmq.units import as_fraction

if TYPE_CHECKING:
    from llmq.theory.certificate import Certificate

__all__ = ["Region", "stability_region"]

Mix: TypeAlias = Mapping[str, RequestClass]
Rates: TypeAlias = Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Region:
    """Rates that an engine, or a pool of equal engines, can serve.

    Parameters
    ----------
    mix : mapping of str to RequestClass
        The classes, in the order of every vector.
    engine : Engine
        The engine.
    engines : int
        How many of it.
    active : tuple of Facet
        Bounds of one engine that no other implies class by class.
    dominated : tuple of Facet
        The others.
    necessary : tuple of Facet
        Bounds that ``contains`` relies on for a "no"; ``active`` unless prompts share a slot.
    inner : InnerBound or None
        Loads that explicit schedules carry; None where the region is exact.
    rational : bool
        Whether the mean demands, hence the weights, are exact.
    kind : Kind
        ``exact`` or ``outer_bound``.
    assumptions, source, provenance
        What the bounds rest on, catalogue id, and how to make the region again.
    """

    mix: Mapping[str, RequestClass]
    engine: Engine
    engines: int
    active: tuple[Facet, ...]
    dominated: tuple[Facet, ...]
    necessary: tuple[Facet, ...]
    inner: InnerBound | None
    rational: bool
    kind: Kind
    assumptions: tuple[str, ...]
    source: str
    provenance: Provenance

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return tuple(self.mix)

    @overload
    def load(self, rates: Rates, exact: Literal[False] = False) -> float: ...
    @overload
    def load(self, rates: Rates, exact: Literal[True]) -> Fraction: ...
    def load(self, rates: Rates, exact: bool = False) -> float | Fraction:
        """Return the fraction of the capacity that the rates use.

        Parameters
        ----------
        rates : mapping of str to float
            Requests per second by class; a class that is not named has rate 0.
        exact : bool
            Compute with Fractions; a rate of 0.1 is 1/10.

        Returns
        -------
        float or fractions.Fraction
            Below 1 is inside; with kind ``outer_bound`` above 1 is unstable under every policy.

        Raises
        ------
        InputError
            Unknown class, negative or undefined rate, or ``exact`` where the lengths have float
            weights.
        """
        vector = rate_vector(rates, self.classes)
        if not exact:
            return heaviest(self.active, vector) / self.engines
        if not self.rational:
            raise InputError(
                "exact=True needs lengths whose values weigh the same: other means are floats"
            )
        exactly = [as_fraction(rates.get(name, 0)) for name in self.classes]
        return max(f.exactly(exactly) for f in self.active) / self.engines

    def margin(self, rates: Rates) -> float:
        """Return the factor by which all rates may grow.

        Parameters
        ----------
        rates : mapping of str to float
            Requests per second by class.

        Returns
        -------
        float
            ``1 / load``; infinite where all rates are 0.
        """
        load = self.load(rates)
        return 1 / load if load > 0 else math.inf

    def load_bracket(self, rates: Rates) -> tuple[float, float]:
        """Return the load by the bound for every policy and by the best explicit schedule.

        Parameters
        ----------
        rates : mapping of str to float
            Requests per second by class.

        Returns
        -------
        tuple of float
            Above 1 the first proves instability; below 1 the second says that the rates can be
            served. Equal where the region is exact.
        """
        vector = rate_vector(rates, self.classes)
        low = heaviest(self.necessary, vector) / self.engines
        if self.inner is None:
            return low, low
        return low, self.inner.load([rate / self.engines for rate in vector])

    def contains(self, rates: Rates) -> bool:
        """Say whether the rates can be served.

        Parameters
        ----------
        rates : mapping of str to float
            Requests per second by class.

        Returns
        -------
        bool
            True strictly inside; False on the boundary and outside, for every policy.

        Raises
        ------
        UndecidedError
            The rates lie between the two bounds; fields ``low`` and ``high`` are the loads.
        """
        low, high = self.load_bracket(rates)
        if low >= 1:
            return False
        if high < 1:
            return True
        raise UndecidedError(
            f"only a bracket is known here: these rates use at least {low:.4g} of the capacity, "
            f"and the schedules that were tried need {high:.4g}. Lower the rates by "
            f"{100 * (1 - 1 / high):.2g} % to be inside, or simulate a policy",
            low=low, high=high,
        )  # fmt: skip

    def prices(self, rates: Rates) -> dict[str, float]:
        """Return what a request of each class costs at these rates.

        Parameters
        ----------
        rates : mapping of str to float
            Requests per second by class, not all 0.

        Returns
        -------
        dict of str to float
            Engine-seconds per request over the number of engines: rates times prices sum to the
            load.
        """
        pairs = zip(self.classes, self._binding(rates).weights, strict=True)
        return {name: weight / self.engines for name, weight in pairs}

    def binding(self, rates: Rates) -> tuple[str, str]:
        """Say which resource binds.

        Parameters
        ----------
        rates : mapping of str to float
            Requests per second by class, not all 0.

        Returns
        -------
        tuple of str
            ``"memory"``, ``"tokens"``, ``"slots"`` or ``"compute"``, and a sentence.
        """
        facet, vector = self._binding(rates), rate_vector(rates, self.classes)
        served = [j for j, rate in enumerate(vector) if rate > 0]
        j = max(served, key=lambda j: facet.share[j])
        kind = self.classes[j] if len(self.classes) > 1 else ""
        return facet.resource, bottleneck(facet.resource, facet.share[j], kind)

    def certificate(self, rates: Rates) -> Certificate:
        """Prove the load, in rationals: ``.save(path)``, then ``python proofs/check.py path``.

        Parameters
        ----------
        rates : mapping of str to float
            Requests per second by class; 0.1 is 1/10.

        Returns
        -------
        Certificate
            That the rates are unstable, or the least load that any schedule needs.

        Raises
        ------
        InputError
            All rates are 0 or bad, or the lengths have no exact mean.
        """
        from llmq.theory.certificate import certify

        return certify(Fleet({"all": (self.engine, self.engines)}), self.mix, rates)

    def facets(self, *, dominated: bool = False) -> tuple[Facet, ...]:
        """Return the bounds ``sum_j rate_j * weights_j <= engines``.

        Parameters
        ----------
        dominated : bool
            Also those that another one implies class by class.

        Returns
        -------
        tuple of Facet
            Weights in engine-seconds per request of one engine.
        """
        return self.active + self.dominated if dominated else self.active

    def vertices(self) -> npt.NDArray[np.float64]:
        """Return the vertices of the region but the origin.

        Returns
        -------
        ndarray, shape (n_vertices, n_classes)
            Requests per second, ascending in the first class; each has load 1.

        Raises
        ------
        InputError
            Too many classes and facets to enumerate.
        """
        points = corner_points([facet.exact for facet in self.active])
        return np.asarray([[float(x * self.engines) for x in point] for point in points])

    def boundary(self, direction: Rates) -> dict[str, float]:
        """Return the rates at which the region ends in a direction.

        Parameters
        ----------
        direction : mapping of str to float
            Proportions of the classes, not all 0.

        Returns
        -------
        dict of str to float
            Requests per second; load 1.
        """
        load = self.load(direction)
        if not load > 0:
            raise InputError("a direction needs at least one class with a positive rate")
        return {name: float(direction.get(name, 0)) / load for name in self.classes}

    def _binding(self, rates: Rates) -> Facet:
        vector = rate_vector(rates, self.classes)
        if not any(vector):
            raise InputError("all rates are 0: nothing binds and nothing has a price")
        return max(self.active, key=lambda f: weigh(f.weights, vector))

    def __repr__(self) -> str:
        alone = ", ".join(f"{n} < {self.boundary({n: 1.0})[n]:.4g}" for n in self.classes[:4])
        more = ", ..." if len(self.classes) > 4 else ""
        binds = ", ".join(dict.fromkeys(facet.resource for facet in self.active))
        return (
            f"Region({self.kind}: alone {alone}{more} req/s; {len(self.active)} "
            f"facet{'s' * (len(self.active) > 1)}: {binds}; "
            f"{self.engines} engine{'s' * (self.engines > 1)})"
        )


def stability_region(engine: Engine | Fleet, mix: Mix, method: str = "auto") -> Region:
    """Return the rates that an engine can serve under the best policy.

    Parameters
    ----------
    engine : Engine or Fleet
        One engine, or a fleet with one pool of equal engines.
    mix : mapping of str to RequestClass
        The classes.
    method : {"auto", "closed_form"}
        Both are the closed form so far.

    Returns
    -------
    Region
        Exact, or an outer and an inner bound.

    Raises
    ------
    InputError
        Empty mix, a class that does not fit the memory, unknown method, pools that differ.

    Examples
    --------
    >>> from llmq.model.batchtime import BatchTime
    >>> law = BatchTime.affine(base=0.012, per_token=2.5e-5, per_kv=1e-8)
    >>> engine = Engine(law, token_budget=512, max_seqs=128, kv_tokens=235_728)
    >>> mix = {"chat": RequestClass(512, 128), "code": RequestClass(2048, 256)}
    >>> region = stability_region(engine, mix)
    >>> region.load({"chat": 10.0, "code": 2.0})
    0.55118515
    >>> region.binding({"chat": 10.0, "code": 2.0})[0]
    'tokens'
    """
    if method not in ("auto", "closed_form"):
        known = ("auto", "closed_form")
        also = " (configurations: llmq.routing.fleet_region)" if method == "configurations" else ""
        raise InputError(
            f"method {method!r} cannot be used{also or nearest(str(method), known)}", value=method
        )
    one, count = one_pool(engine)
    if not isinstance(mix, Mapping) or not mix:
        raise InputError(
            "a region needs at least one request class: pass {name: RequestClass(prompt, output)}"
        )
    demands = [demand(request, one) for request in mix.values()]
    for name, need in zip(mix, demands, strict=True):
        check_fits(one, name, need)
    facets = outer_facets(one, demands)
    active, dominated = split_dominated(facets)
    shared = with_shared_slot(one, demands, facets)
    exact = is_exact(one)
    return Region(
        mix=dict(mix),
        engine=one,
        engines=count,
        active=active,
        dominated=dominated,
        necessary=active if shared == facets else split_dominated(shared)[0],
        inner=None if exact else inner_bound(one, mix),
        rational=all(need.exact for need in demands),
        kind=Kind.EXACT if exact else Kind.OUTER_BOUND,
        assumptions=assumptions(one, demands, count),
        source="theorem-u",
        provenance=provenance(engine=one, engines=count, classes=", ".join(mix), method=method),
    )
