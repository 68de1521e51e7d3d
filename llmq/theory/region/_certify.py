"""Certificates of what rates mean for an engine or a fleet, made from the user's own input."""

from __future__ import annotations

from collections.abc import Mapping

from llmq.model.engine import Engine
from llmq.model.fleet import Fleet
from llmq.model.request import RequestClass
from llmq.theory.needs._hardware import Limits
from llmq.theory.needs._rates import Rates
from llmq.theory.needs._reuse import Hits
from llmq.theory.region._certificate import Certificate, Claim, certify_region
from llmq.theory.region.routing import FleetRegion, fleet_region

__all__ = ["certify"]


def certify(
    system: Engine | Fleet | FleetRegion,
    mix: Mapping[str, RequestClass] | None,
    rates: Rates,
    claim: Claim = "auto",
    *,
    limits: Limits = "settings",
    hits: Hits = None,
) -> Certificate:
    """Certify what rates mean for an engine or a fleet.

    Parameters
    ----------
    system : Engine, Fleet or FleetRegion
        What serves; a region knows its mix.
    mix : mapping of str to RequestClass or None
        The classes; None for a region.
    rates : mapping of str to float or Fraction
        Requests per second by class; 0.1 is 1/10.
    claim : {"auto", "unstable", "stable_rate", "optimal_load"}
        ``auto``: unstable above 1, else the optimal load.
    limits : {"settings", "hardware"}
        As in :func:`llmq.stability_region`; a region has its own.
    hits : float, mapping of str to float, optional
        The same; the certificate is then about these needs, which no lengths repeat.

    Returns
    -------
    Certificate
        Exact, with problem data and digest.

    Raises
    ------
    InputError
        The claim is not true, the rates are all 0 or bad, or ``stable_rate`` where the planning
        problem is only a bound.

    Examples
    --------
    >>> from llmq.model.time.batchtime import BatchTime
    >>> law = BatchTime.tiled(base=0.01128, per_tile=0.03547, tile=128)
    >>> mix = {"x": RequestClass(100, 100)}
    >>> certify(Engine(law, token_budget=512), mix, {"x": 20.0}).claim
    'unstable'
    """
    region = (
        system
        if isinstance(system, FleetRegion)
        else fleet_region(system, {} if mix is None else mix, limits, hits)
    )
    return certify_region(region, rates, claim)
