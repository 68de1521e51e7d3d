r"""What every stability region says, however it was computed.

The rates a system can serve are :math:`\Lambda = \{\lambda \ge 0 : \rho(\lambda) \le 1\}` with a
gauge ``rho``, the *load*: convex, positively homogeneous, nondecreasing. So a region is known
through its load and the prices that support it,

.. math:: \rho(\lambda) = \max_f \sum_j \lambda_j w^f_j / N, \qquad N \text{ engines},

where the bounds ``f`` are engine-seconds per request. Above 1 no policy is stable at these settings
(``limits="settings"``) or at any (``limits="hardware"``); below 1 some policy is if the region is
exact. At load 1 exactly nothing is claimed: equal gaps can be carried
there, Poisson arrivals cannot without waits that grow. :class:`~llmq.theory.region.Region` has them
in closed form (one pool of equal engines), :class:`~llmq.theory.region.routing.FleetRegion` finds
them as dual vertices of the static planning problem (any fleet). This module is what both have in
common, so that a caller need not know which one it holds.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, ClassVar, Literal, overload

import numpy as np
import numpy.typing as npt

from llmq.errors import InputError, UndecidedError
from llmq.model.fleet import Fleet
from llmq.model.request import RequestClass
from llmq.result import Kind, Provenance
from llmq.theory.needs._facets import Bound, Weights
from llmq.theory.needs._hardware import Limits
from llmq.theory.needs._rates import Rates, rate_vector
from llmq.units import as_fraction

if TYPE_CHECKING:
    from llmq.theory.region._certificate import Certificate, Planned

__all__ = ["StabilityRegion"]


class StabilityRegion(abc.ABC):
    """Rates that a system can serve under the best policy.

    Every region also has the fields ``mix`` (the classes, in the order of every vector),
    ``engines`` (how many), ``limits`` ("settings" or "hardware"), ``hits`` (what a prefix cache
    finds), ``kind``, ``assumptions``, ``source`` and ``provenance``; ``method`` says how it is
    computed: ``"closed_form"`` or ``"configurations"``.
    """

    __slots__ = ()

    method: ClassVar[str]
    mix: Mapping[str, RequestClass]
    engines: int
    limits: Limits
    hits: Mapping[str, Fraction]
    rational: bool
    kind: Kind
    assumptions: tuple[str, ...]
    source: str
    provenance: Provenance

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return tuple(self.mix)

    @property
    def beyond(self) -> str:
        """What a load above 1 means, in words."""
        if self.limits == "hardware":
            return "no scheduler is stable"
        return "at these settings no policy is stable"

    @property
    def carried_by(self) -> str:
        """Who carries the rates that :meth:`contains` accepts, in words."""
        if self.kind is Kind.EXACT:
            return "a policy that knows no output length"
        if all(request.output.is_fixed for request in self.mix.values()):
            return "a paced schedule that knows the class of each request, hence its output length"
        return (
            "a paced schedule that knows the output length of each request; a policy that does "
            "not know them may carry less"
        )

    @overload
    def load(self, rates: Rates, exact: Literal[False] = False) -> float: ...
    @overload
    def load(self, rates: Rates, exact: Literal[True]) -> Fraction: ...
    def load(self, rates: Rates, exact: bool = False) -> float | Fraction:
        """Return the fraction of the capacity that the rates use.

        Parameters
        ----------
        rates : mapping of str to float or Fraction
            Requests per second of every class.
        exact : bool
            Compute with Fractions; a rate of 0.1 is 1/10.

        Returns
        -------
        float or fractions.Fraction
            Below 1 is inside; with kind ``outer_bound`` above 1 is unstable under every policy, at
            these settings or (``limits="hardware"``) at any.

        Raises
        ------
        InputError
            Unknown class, negative or undefined rate, or ``exact`` where the lengths have float
            weights.
        """
        vector = rate_vector(rates, self.classes)
        if not exact:
            return self._load(rates, vector)
        if not self.rational:
            raise InputError(
                "exact=True needs lengths whose values weigh the same: other means are floats"
            )
        return self._exact_load([as_fraction(rates.get(name, 0)) for name in self.classes])

    def margin(self, rates: Rates) -> float:
        """Return the factor by which all rates may grow.

        Parameters
        ----------
        rates : mapping of str to float or Fraction
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
        rates : mapping of str to float or Fraction
            Requests per second by class.

        Returns
        -------
        tuple of float
            Above 1 the first proves instability; below 1 the second says that the rates can be
            served, perhaps only by schedules that know output lengths (:attr:`carried_by`). Equal
            where the region is exact; the second is infinite where no schedule is known.
        """
        return self._bracket(rates, rate_vector(rates, self.classes))

    def contains(self, rates: Rates) -> bool:
        """Say whether the rates can be served.

        Parameters
        ----------
        rates : mapping of str to float or Fraction
            Requests per second by class.

        Returns
        -------
        bool
            True where the rates can be served; False for a load of 1 and more. Above 1 no policy
            is stable at these settings, or (``limits="hardware"``) at any. At 1 exactly there is
            nothing to spare: arrivals at random are not stable under any policy, equal gaps of
            equal requests may be carried. True may need a schedule that knows the output length of
            each request beforehand: :attr:`carried_by` says which schedules are meant.

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
        lower = (
            f"Lower the rates by {100 * (1 - 1 / high):.2g} % to be inside, or simulate a policy"
            if math.isfinite(high)
            else "Lower the rates or simulate a policy"
        )
        raise UndecidedError(
            f"only a bracket is known here: these rates use at least {low:.4g} of the capacity, "
            f"and the schedules that were tried need {high:.4g}. {lower}",
            low=low,
            high=high,
        )

    def prices(self, rates: Rates) -> dict[str, float]:
        """Return what a request of each class costs at these rates.

        Parameters
        ----------
        rates : mapping of str to float or Fraction
            Requests per second by class, not all 0.

        Returns
        -------
        dict of str to float
            Engine-seconds per request over the number of engines: rates times prices sum to the
            load.

        Raises
        ------
        InputError
            All rates are 0 or bad.
        """
        self._check_some(rates)
        return self._prices(rates)

    def binding(self, rates: Rates) -> tuple[str, str]:
        """Say which resource binds.

        Parameters
        ----------
        rates : mapping of str to float or Fraction
            Requests per second by class, not all 0.

        Returns
        -------
        tuple of str
            ``"memory"``, ``"tokens"``, ``"slots"``, ``"compute"`` or ``"link"``, and a sentence; in
            a fleet of several pools that of the pool with the largest part of the price.

        Raises
        ------
        InputError
            All rates are 0 or bad.
        """
        self._check_some(rates)
        return self._binding(rates)

    def facets(self) -> tuple[Bound, ...]:
        """Return the bounds ``sum_j rate_j * weights_j <= engines``.

        Returns
        -------
        tuple of Bound
            Weights in engine-seconds per request; none implied by another class by class.

        Raises
        ------
        InputError
            Too many classes and bounds to enumerate.
        """
        return self._facets()

    def exact_vertices(self) -> list[Weights]:
        """Return the vertices in rationals.

        Returns
        -------
        list of tuple of Fraction
            As :meth:`vertices`.
        """
        return self._corners()

    def vertices(self) -> npt.NDArray[np.float64]:
        """Return the vertices of the region but the origin.

        Returns
        -------
        ndarray, shape (n_vertices, n_classes)
            Requests per second, ascending in the first class; each has load 1.

        Raises
        ------
        InputError
            Too many classes and bounds to enumerate.
        """
        return np.asarray([[float(x) for x in point] for point in self.exact_vertices()])

    def boundary(self, direction: Rates) -> dict[str, float]:
        """Return the rates at which the region ends in a direction.

        Parameters
        ----------
        direction : mapping of str to float or Fraction
            Proportions of the classes, 0 for those not named, and not all 0.

        Returns
        -------
        dict of str to float
            Requests per second; load 1. Infinite where nothing bounds the rates.

        Raises
        ------
        InputError
            All proportions are 0 or bad.
        """
        if not any(rate_vector(direction, self.classes, partial=True)):
            raise InputError("a direction needs at least one class with a positive rate")
        rates = {name: float(direction.get(name, 0)) for name in self.classes}
        load = self.load(rates)
        return {name: rate / load if load else rate and math.inf for name, rate in rates.items()}

    def certificate(self, rates: Rates) -> Certificate:
        """Prove the load, in rationals: ``.save(path)``, then ``python proofs/check.py path``.

        Parameters
        ----------
        rates : mapping of str to float or Fraction
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
        from llmq.theory.region._certificate import certify_region

        return certify_region(self._planned(), rates)

    @abc.abstractmethod
    def _load(self, rates: Rates, vector: Sequence[float]) -> float:
        """Load in floats; the rates are checked, ``vector`` has them in order."""

    @abc.abstractmethod
    def _exact_load(self, rates: Sequence[Fraction]) -> Fraction:
        """Load in rationals."""

    @abc.abstractmethod
    def _bracket(self, rates: Rates, vector: Sequence[float]) -> tuple[float, float]: ...

    @abc.abstractmethod
    def _prices(self, rates: Rates) -> dict[str, float]: ...

    @abc.abstractmethod
    def _binding(self, rates: Rates) -> tuple[str, str]: ...

    @abc.abstractmethod
    def _facets(self) -> tuple[Bound, ...]: ...

    @abc.abstractmethod
    def _corners(self) -> list[Weights]: ...

    @abc.abstractmethod
    def _system(self) -> Fleet: ...

    @abc.abstractmethod
    def _planned(self) -> Planned:
        """Return the region of the same system that knows its planning problem."""

    def _shares(self) -> Mapping[str, Fraction] | None:
        """Hits as they are passed on: none where nothing is found and no cache asks."""
        cached = any(one.prefix_cache for one, _ in self._system().pools.values())
        return self.hits if cached else None

    def _check_some(self, rates: Rates) -> None:
        if not any(rate_vector(rates, self.classes)):
            raise InputError("all rates are 0: nothing binds and nothing has a price")

    def _ends(self) -> str:
        """Where the axes leave the region, for ``repr``."""
        alone = [f"{n} < {self.boundary({n: 1.0})[n]:.4g}" for n in self.classes[:4]]
        return f"alone {', '.join(alone)}{', ...' * (len(self.classes) > 4)} req/s"
