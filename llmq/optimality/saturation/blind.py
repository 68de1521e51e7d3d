r"""What a router carries at most that does not look at the class of a request.

Requests come at rate :math:`\lambda`, each of class ``j`` with probability ``p_j`` independently of
the past, and take at least ``w_jh`` seconds of engine ``h``. A router that sees queues but not the
class sends each engine the same mix, whatever it does; so it is unstable above

.. math:: \sum_h \frac{1}{\sum_j p_j w_{jh}}

(entry BL of ``proofs/THEOREMS.md``), which lies below the rate at load 1 where relative speeds
differ by class. Joining the shortest queue keeps all queues alike, hence all engines busy: that it
reaches the bound is tested, not proved. All numbers are rational: the weights are those of exact
regions.

Not covered: routers that see classes (:class:`llmq.policies.PriceWeighted`), eligible pools.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from llmq.errors import InputError
from llmq.optimality.networks.fleet import FleetNetwork, engine_seconds
from llmq.policies.contract.routers import Router
from llmq.result import Kind
from llmq.units import as_fraction

__all__ = ["BlindBound", "blind_bound", "is_blind"]


@dataclass(frozen=True, slots=True)
class BlindBound:
    """Rate above which no router is stable that does not look at the class.

    Parameters
    ----------
    exact_rate : fractions.Fraction
        Requests per second.
    seconds : mapping of str to tuple of fractions.Fraction
        Least seconds of a request of each class on each engine.
    kind, assumptions, source
        As in every result.
    """

    exact_rate: Fraction
    seconds: Mapping[str, tuple[Fraction, ...]]
    kind: Kind
    assumptions: tuple[str, ...]
    source: str

    @property
    def rate(self) -> float:
        """Requests per second: unstable above it."""
        return float(self.exact_rate)


def is_blind(route: Router) -> bool:
    """Whether a router does not look at the class of the request it sends.

    Parameters
    ----------
    route : Router
        The router.

    Returns
    -------
    bool
        True for a router that does not list ``klass`` in ``sees`` and moves no request later.

    Examples
    --------
    >>> from llmq.policies import PriceWeighted, ShortestQueue
    >>> is_blind(ShortestQueue()), is_blind(PriceWeighted({"a": (1.0, 2.0)}))
    (True, False)
    """
    return "klass" not in route.sees and not route.moves


def blind_bound(network: FleetNetwork) -> BlindBound:
    """Return the rate above which a router is unstable that does not look at the class.

    Parameters
    ----------
    network : FleetNetwork
        Engines, classes and shares of the rates.

    Returns
    -------
    BlindBound
        Exact.

    Raises
    ------
    InputError
        No requests.

    Examples
    --------
    >>> from llmq.optimality.networks.fleet import FleetSketch
    >>> sketch = FleetSketch(((1, 0, 0, 2), (1, 0, 2, 8)), ((8, 1), (1, 1)))
    >>> blind_bound(sketch.network()).exact_rate
    Fraction(1760, 333)
    """
    rates = {name: as_fraction(rate) for name, rate in network.rates.items()}
    if (total := sum(rates.values(), Fraction(0))) <= 0:
        raise InputError("a bound of a router needs requests: all rates are 0", field="rates")
    seconds = engine_seconds(network.fleet, network.mix)
    means = [
        sum((rates[name] * seconds[name][h] for name in rates), Fraction(0)) / total
        for h in range(len(network.fleet.pools))
    ]
    return BlindBound(
        sum((1 / mean for mean in means), Fraction(0)),
        seconds,
        kind=Kind.OUTER_BOUND,
        assumptions=(
            "classes independent of the past, one engine in each pool",
            "the router does not look at the class of the request",
        ),
        source="router that does not look at the class [BL]",
    )
