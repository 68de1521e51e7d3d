r"""C5 ``pl_lyapunov``: two stations are stable under every work-conserving policy.

Class ``k`` waits at a station, is served in ``service_k`` seconds on average, turns into class
``next_k`` or leaves, and has ``arrivals_k`` from outside. With weights ``h >= 0`` for each station
and class put ``V = max_i V_i``, ``V_i = sum_k h_ik Q_k``. Two kinds of rows are checked:

* for each station ``i``, each class it may serve and each class that the other one may serve, or
  none: ``V_i`` changes at most by ``-epsilon`` per second, and by exactly that for one of them;
* the weight of a class in ``V_i`` is at most the one in ``V_j`` if it waits at ``j``.

On a work-conserving fluid path with ``V = V_i > 0`` either station ``i`` works and the first rows
hold for every mix of services, or it is empty, then ``V_j = V`` by the second and ``j`` works:
``V`` falls by ``epsilon`` per second until it is 0.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from proofs.check_reading import ZERO, items, rational, rationals, require, table

FIELDS = ("station", "service", "next", "arrivals")


def check_leaves(following: dict[str, str | None]) -> None:
    """Check that requests of every class leave after finitely many services."""
    for start in following:
        k: str | None = start
        for _ in following:
            k = None if k is None else following[k]
        require(k is None, f"class {start}: requests never leave")


def steepest(
    weights: dict[str, Fraction],
    mine: list[str],
    others: list[str],
    classes: dict[str, dict[str, Any]],
) -> Fraction:
    """Return the largest change of one function while its station works."""
    gain: dict[str, Fraction] = {
        k: (weights.get(one["next"], ZERO) - weights[k]) / one["service"]
        for k, one in classes.items()
    }
    comes = sum((weights[k] * one["arrivals"] for k, one in classes.items()), ZERO)
    return comes + max(gain[k] for k in mine) + max([ZERO, *(gain[k] for k in others)])


def check_network(body: dict[str, Any]) -> str:
    """Check a piecewise-linear Lyapunov function."""
    problem = table(body["problem"], "problem", ("stations", "classes"))
    stations = [name for name in items(problem["stations"], "stations") if isinstance(name, str)]
    require(len(stations) == 2 and len(set(stations)) == 2, "stations: expected two names")
    require(stations == problem["stations"], "stations: expected names")
    classes: dict[str, dict[str, Any]] = {}
    for k, raw in table(problem["classes"], "classes").items():
        one = table(raw, f"class {k}", FIELDS)
        require(one["station"] in stations, f"class {k}: no station {one['station']!r}")
        known = one["next"] is None or one["next"] in problem["classes"]
        require(known, f"class {k}: no next class {one['next']!r}")
        classes[k] = one | {n: rational(one[n], f"class {k}, {n}") for n in ("service", "arrivals")}
        require(classes[k]["service"] > 0, f"class {k}: a service takes no time")
    check_leaves({k: one["next"] for k, one in classes.items()})
    proof = table(body["lyapunov"], "lyapunov", ("epsilon", "weights"))
    epsilon = rational(proof["epsilon"], "epsilon")
    require(epsilon > 0, "epsilon is 0: this proves nothing")
    rows = table(proof["weights"], "weights", stations)
    h = {i: rationals(rows[i], f"weights of {i}", classes) for i in stations}
    total = sum((w for row in h.values() for w in row.values()), ZERO)
    require(total <= 1, f"the weights sum to {total}, above 1")
    at = {i: [k for k, one in classes.items() if one["station"] == i] for i in stations}
    require(all(at.values()), "a station without classes")
    drift = []
    for i, j in (stations, stations[::-1]):
        drift.append(steepest(h[i], at[i], at[j], classes))
        for k in at[j]:
            require(h[i][k] <= h[j][k], f"class {k} weighs more at {i}, where it does not wait")
    require(max(drift) <= -epsilon, f"the function may change by {max(drift)}, not -{epsilon}")
    require(max(drift) == -epsilon, f"epsilon is {-max(drift)}, not {epsilon}")
    return f"epsilon {epsilon}"
