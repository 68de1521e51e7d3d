r"""Certificates: the answer of a planning problem with everything that is needed to check it.

A certificate is JSON: the problem, a claim, and the dual or primal solution (or both) in rationals.

* ``unstable`` (C1): prices under which the rates are worth more than all engine time. No policy is
  stable.
* ``stable_rate`` (C2): flows and batches that serve the rates in less than all engine time.
* ``optimal_load`` (C3): both with the same value: the least load of the planning problem.

Where the planning problem is only a bound (KV memory, slots for each prompt chunk) a primal
solution says nothing about real schedules, so ``stable_rate`` is refused there; the other claims
stand for what they say.

Each closed-form facet is such a dual vector: with the piece ``c + a n <= f(n)`` of the token curve
the price of a token is ``a`` and the limit of the facet costs ``c`` per iteration. So one kind of
certificate covers regions by formula and by configurations.

The checker ``proofs/check.py`` shares no code with this package. Rationals are ``"p/q"`` in lowest
terms; ``digest`` is the SHA-256 of the problem in canonical JSON (sorted keys, no spaces, ASCII),
``seal`` that of all the rest with the digest.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, TypeAlias

from llmq.errors import FormatError, InputError
from llmq.model.batchtime import BatchTime
from llmq.model.engine import Engine
from llmq.model.fleet import Fleet
from llmq.model.request import RequestClass
from llmq.result import Kind
from llmq.theory.configurations import Knapsack, TwoPhase
from llmq.theory.routing import FleetRegion, fleet_region
from llmq.theory.static_planning import Optimum, PlanningProblem, Pool, optimise
from llmq.units import as_fraction

__all__ = ["Certificate", "canonical_digest", "certify", "certify_problem", "load_certificate"]

Claim: TypeAlias = Literal["auto", "unstable", "stable_rate", "optimal_load"]
FORMAT = "llmq-certificate-1"
_PARTS = {"unstable": ("dual",), "stable_rate": ("primal",), "optimal_load": ("dual", "primal")}
_SECONDS = ("base", "per_token", "floor", "floor_per_token", "per_tile")
_ATTENTION = ("per_kv", "per_kv_mixed", "per_work")


@dataclass(frozen=True, slots=True)
class Certificate:
    """A claim about a planning problem with its proof.

    Parameters
    ----------
    claim : {"unstable", "stable_rate", "optimal_load"}
        What is proved.
    load : fractions.Fraction
        Least load, or a bound of it.
    body : mapping of str to object
        The JSON object.
    """

    claim: str
    load: Fraction
    body: Mapping[str, Any]

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical problem."""
        return str(self.body["digest"])

    def text(self) -> str:
        """Return the JSON text.

        Returns
        -------
        str
            What :meth:`save` writes.
        """
        return json.dumps(self.body, indent=1, sort_keys=True) + "\n"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the certificate; check it with ``python -I -S proofs/check.py PATH``.

        Parameters
        ----------
        path : path-like
            Where to; replaced at once or not at all.
        """
        target = Path(path)
        # Beside the target, so that the last step is a rename.
        draft = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            draft.write_text(self.text(), encoding="utf-8")
            draft.replace(target)
        finally:
            draft.unlink(missing_ok=True)


def certify(
    system: Engine | Fleet | FleetRegion,
    mix: Mapping[str, RequestClass] | None,
    rates: Mapping[str, float],
    claim: Claim = "auto",
) -> Certificate:
    """Certify what rates mean for an engine or a fleet.

    Parameters
    ----------
    system : Engine, Fleet or FleetRegion
        What serves; a region knows its mix.
    mix : mapping of str to RequestClass or None
        The classes; None for a region.
    rates : mapping of str to float
        Requests per second by class; 0.1 is 1/10.
    claim : {"auto", "unstable", "stable_rate", "optimal_load"}
        ``auto``: unstable above 1, else the optimal load.

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
    >>> law = BatchTime.tiled(base=0.01128, per_tile=0.03547, tile=128)
    >>> mix = {"x": RequestClass(100, 100)}
    >>> certify(Engine(law, token_budget=512), mix, {"x": 20.0}).claim
    'unstable'
    """
    if isinstance(system, FleetRegion):
        region = system
    else:
        region = fleet_region(system, {} if mix is None else mix)
    if claim == "stable_rate" and region.kind is not Kind.EXACT:
        raise InputError(
            "a stable rate cannot be certified here: the planning problem is only a bound "
            "(memory or slots in whole requests); certify 'optimal_load', or ask contains()"
        )
    problem = region.at(rates)
    return certify_problem(problem, claim, optimum=optimise(problem, region.columns))


def certify_problem(
    problem: PlanningProblem, claim: Claim = "auto", *, optimum: Optimum | None = None
) -> Certificate:
    """Certify the optimum of a planning problem.

    Parameters
    ----------
    problem : PlanningProblem
        The problem.
    claim : {"auto", "unstable", "stable_rate", "optimal_load"}
        ``auto``: unstable above 1, else the optimal load.
    optimum : Optimum, optional
        Its solution; computed if not given.

    Returns
    -------
    Certificate
        Exact, with problem data and digest.

    Raises
    ------
    InputError
        The claim is not true, or all rates are 0.
    """
    found = optimise(problem) if optimum is None else optimum
    if not found.load:
        raise InputError("all rates are 0: there is nothing to certify")
    said = ("unstable" if found.load > 1 else "optimal_load") if claim == "auto" else claim
    if said not in _PARTS:
        raise InputError(f"unknown claim {claim!r}; known: auto, {', '.join(_PARTS)}", value=claim)
    if (said == "unstable" and found.load <= 1) or (said == "stable_rate" and found.load >= 1):
        raise InputError(
            f"the rates have a load of {float(found.load):.6g}: they are not {said}",
            load=float(found.load),
        )
    parts = {"dual": _dual, "primal": _primal}
    data = _problem(problem)
    body = {
        "format": FORMAT, "claim": said, "digest": canonical_digest(data), "problem": data,
        "load": _ratio(found.load),
        **{part: parts[part](problem, found) for part in _PARTS[said]},
    }  # fmt: skip
    return Certificate(said, found.load, {**body, "seal": canonical_digest(body)})


def load_certificate(path: str | os.PathLike[str]) -> Certificate:
    """Read a certificate; this does not check it, ``proofs/check.py`` does.

    Parameters
    ----------
    path : path-like
        A file written by :meth:`Certificate.save`.

    Returns
    -------
    Certificate
        As it was saved.

    Raises
    ------
    FormatError
        Not JSON, not a certificate, or its seal does not match.
    """
    try:
        body = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise FormatError(f"not JSON: {error}", path=path) from error
    if not isinstance(body, dict) or body.get("format") != FORMAT:
        raise FormatError(f"not a certificate of format {FORMAT!r}", path=path)
    rest = {key: value for key, value in body.items() if key != "seal"}
    if body.get("seal") != canonical_digest(rest):
        raise FormatError("the seal does not match: the file was changed", path=path)
    return Certificate(body["claim"], Fraction(body["load"]), body)


def canonical_digest(value: object) -> str:
    """Return the SHA-256 of canonical JSON.

    Parameters
    ----------
    value : object
        What :func:`json.dumps` takes.

    Returns
    -------
    str
        ``"sha256:"`` and 64 hexadecimal digits.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return "sha256:" + hashlib.sha256(text.encode("ascii")).hexdigest()


def _ratio(value: Fraction | float) -> str:
    exact = as_fraction(value)
    return f"{exact.numerator}/{exact.denominator}"


def _ratios(values: Mapping[str, Fraction]) -> dict[str, str]:
    return {key: _ratio(value) for key, value in values.items()}


def _problem(problem: PlanningProblem) -> dict[str, Any]:
    classes: dict[str, Any] = {}
    for name, rate in problem.rates.items():
        routes = [list(route) for route in problem.routes[name]]
        classes[name] = {"rate": _ratio(rate), "routes": routes}
        if name in problem.lengths:
            classes[name]["lengths"] = _lengths(problem.lengths[name])
    return {"classes": classes, "pools": {h: _pool(pool) for h, pool in problem.pools.items()}}


def _lengths(request: RequestClass) -> dict[str, Any]:
    prompt, output = (law.values.tolist() for law in (request.prompt, request.output))
    return {"prompt": prompt, "output": output, "paired": request.paired}


def _pool(pool: Pool) -> dict[str, Any]:
    rules = pool.rules
    return {
        "engines": pool.engines,
        "law": None if pool.law is None else _law(pool.law),
        "batches": _batches(pool.batches),
        "limits": dict(pool.limits),
        "needs": {
            name: {
                "tokens": _ratios(need.tokens), "seconds": _ratio(need.seconds),
                "limits": _ratios(need.limits),
            }
            for name, need in pool.needs.items()
        },
        "rules": None if rules is None else {
            "chunk": rules.chunk, "lag": rules.lag, "area": rules.area, "phases": rules.phases,
        },
    }  # fmt: skip


def _law(law: BatchTime) -> dict[str, Any]:
    numbers = {name: _ratio(getattr(law, name)) for name in (*_SECONDS, *_ATTENTION)}
    grid = {"tokens": list(law.tokens), "seconds": [_ratio(t) for t in law.seconds]}
    return {"form": law.form, "tile": law.tile, **numbers, **grid}


def _batches(batches: TwoPhase | Knapsack | None) -> dict[str, Any] | None:
    if batches is None:
        return None
    if isinstance(batches, TwoPhase):
        kind: dict[str, Any] = {"kind": "two_phase", "slots": batches.slots}
    else:
        rows = [{"weights": list(w), "capacity": c} for w, c in batches.rows]
        kind = {"kind": "knapsack", "buffers": list(batches.buffers), "rows": rows}
        kind["steps"] = list(batches.steps)
    return {**kind, "token_budget": batches.token_budget}


def _dual(problem: PlanningProblem, found: Optimum) -> dict[str, Any]:
    tokens: dict[str, dict[str, str]] = {name: {} for name in problem.pools}
    limits: dict[str, dict[str, str]] = {name: {} for name in problem.pools}
    for (pool, buffer), price in found.token_prices.items():
        tokens[pool][buffer] = _ratio(price)
    for (pool, limit), price in found.limit_prices.items():
        limits[pool][limit] = _ratio(price)
    return {"prices": _ratios(found.prices), "weights": _ratios(found.weights), "tokens": tokens,
            "limits": limits}  # fmt: skip


def _primal(problem: PlanningProblem, found: Optimum) -> dict[str, Any]:
    flows = [
        {"class": name, "route": list(route), "rate": _ratio(rate)}
        for (name, route), rate in found.flows.items()
    ]
    batches = [
        {"pool": pool, "tokens": list(batch), "rate": _ratio(rate)}
        for (pool, batch), rate in found.batches.items()
    ]
    return {"flows": flows, "batches": batches}
