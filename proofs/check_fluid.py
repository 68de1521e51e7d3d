r"""``fluid_cycle``: a fluid path under fixed priorities comes back larger, below load 1.

Class ``k`` waits at a station, takes ``service_k`` seconds, turns into class ``next_k`` or leaves,
and has ``arrivals_k`` from outside. A station gives its time to its classes in the order given: one
with a queue takes all that is left, one without takes what flows in, if that is less. While the
same queues are empty all rates are constant, so the path consists of straight pieces.

Checked: from the queues of the start, over pieces of the lengths given, no queue becomes negative;
a piece ends no later than the first queue that empties; at the end all queues are ``growth > 1``
times those of the start; and each station's load is below 1. Rates depend only on which queues are
empty, so the path goes on in the same way, ``growth`` times as large, for ever.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from proofs.check_network import FIELDS, check_leaves
from proofs.check_reading import ZERO, Rejected, items, rational, rationals, require, table

Classes = dict[str, dict[str, Any]]


def inflow(classes: Classes, out: dict[str, Fraction]) -> dict[str, Fraction]:
    """Return what comes to each class, from outside and from others."""
    comes = {k: one["arrivals"] for k, one in classes.items()}
    for k, one in classes.items():
        if one["next"] is not None:
            comes[one["next"]] += out[k]
    return comes


def outflow(classes: Classes, order: list[str], queues: dict[str, Fraction]) -> dict[str, Fraction]:
    """Return what ends in each class, once flows have settled along the routes."""
    out = dict.fromkeys(classes, ZERO)
    for _ in range(2 * len(classes) + 2):
        comes, before = inflow(classes, out), dict(out)
        left = {one["station"]: Fraction(1) for one in classes.values()}
        for k in order:
            one = classes[k]
            wanted = comes[k] * one["service"]
            room = left[one["station"]]
            share = room if queues[k] > 0 else min(room, wanted)
            left[one["station"]] -= share
            out[k] = share / one["service"]
        if out == before:
            return out
    raise Rejected("the flows do not settle")


def loads(classes: Classes) -> dict[str, Fraction]:
    """Share of its time that each station must work."""
    flow = dict.fromkeys(classes, ZERO)
    for _ in classes:
        flow = inflow(classes, flow)
    found = {one["station"]: ZERO for one in classes.values()}
    for k, one in classes.items():
        found[one["station"]] += flow[k] * one["service"]
    return found


def read(problem: Any) -> tuple[Classes, list[str]]:
    """Read stations, classes and the order of priority."""
    raw = table(problem, "problem", ("classes", "order"))
    classes: Classes = {}
    for k, given in table(raw["classes"], "classes").items():
        one = table(given, f"class {k}", FIELDS)
        require(isinstance(one["station"], str), f"class {k}: a station is a name")
        known = one["next"] is None or one["next"] in raw["classes"]
        require(known, f"class {k}: no next class {one['next']!r}")
        classes[k] = one | {n: rational(one[n], f"class {k}, {n}") for n in ("service", "arrivals")}
        require(classes[k]["service"] > 0, f"class {k}: a service takes no time")
    order = items(raw["order"], "order")
    require(all(isinstance(k, str) for k in order), "order: expected names")
    require(sorted(order) == sorted(classes), "order: expected every class once")
    check_leaves({k: one["next"] for k, one in classes.items()})
    return classes, order


def check_fluid(body: dict[str, Any]) -> str:
    """Check a fluid path that comes back larger."""
    classes, order = read(body["problem"])
    for station, load in loads(classes).items():
        require(load < 1, f"{station} has load {load}: nothing is proved by growth")
    proof = table(body["fluid"], "fluid", ("start", "times", "growth"))
    growth = rational(proof["growth"], "growth")
    require(growth > 1, f"growth is {growth}, not above 1")
    start = rationals(proof["start"], "start", classes)
    times = [rational(t, "times") for t in items(proof["times"], "times")]
    require(sum(start.values(), ZERO) > 0, "the path starts empty")
    queues = dict(start)
    for i, length in enumerate(times):
        require(length > 0, f"piece {i} takes no time")
        out = outflow(classes, order, queues)
        comes = inflow(classes, out)
        queues = {k: q + (comes[k] - out[k]) * length for k, q in queues.items()}
        short = [k for k, q in queues.items() if q < 0]
        require(not short, f"piece {i} is too long: class {', '.join(short)} has emptied before")
    for k, q in queues.items():
        require(q == growth * start[k], f"class {k} ends with {q}, not {growth} times {start[k]}")
    return f"growth {growth} in {sum(times, ZERO)} s"
