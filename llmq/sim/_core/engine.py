"""Any policy on many engines at once, from its own blocks.

Each engine of each replication is a lane. A step runs the next iteration of every lane: the own
``gate``, ``key``, ``mark`` and ``victim`` of the policy are asked once for all lanes, so a policy
written today runs here without a line about it. The trajectory is that of
:mod:`llmq.sim._reference.engine`. Lanes in which a policy breaks a rule are left to the reference,
which says which one.

Not covered: a prefix cache, routers that look at the engines, requests that move.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from llmq.model.engine import Engine
from llmq.policies import Policy
from llmq.policies.contract.view import Bools, Floats, Ints
from llmq.sim._core.asked import OneRunOnlyError
from llmq.sim._core.state import Requests, State
from llmq.sim._core.step import run
from llmq.sim._fast.vector.engine import Lanes

__all__ = ["CoreLog", "requests_of", "run_core"]

TIMES = ("prefill_end", "first_token", "finish", "boundary", "resumed")


@dataclass(frozen=True, slots=True, eq=False)
class CoreLog:
    """What happened in each lane."""

    # prefill_end, first_token, finish, boundary, resumed: seconds; NaN where it did not happen
    # and in lanes that are undone; shape (lanes, n)
    prefill_end: Floats
    first_token: Floats
    finish: Floats
    boundary: Floats
    resumed: Floats
    # iterations, tokens, evictions, recomputed, swapped: sums, as in
    # :class:`llmq.sim.results._log.Tally`; shape (lanes,)
    iterations: Ints
    tokens: Ints
    evictions: Ints
    recomputed: Ints
    swapped: Ints
    # kv_area, busy, clock: sums and the end of the last iteration, seconds; shape (lanes,)
    kv_area: Floats
    busy: Floats
    clock: Floats
    undone: Bools  # to be run by the reference; the rest means nothing; shape (lanes,)


def run_core(
    engine: Engine, policy: Policy, lanes: Lanes, klass: Ints, classes: tuple[str, ...]
) -> CoreLog:
    """Serve all lanes to the last token.

    Examples
    --------
    >>> from llmq.model.time.batchtime import BatchTime
    >>> from llmq.policies import Priority
    >>> engine = Engine(BatchTime.affine(base=1.0, per_token=0.0), token_budget=8)
    >>> two = Lanes(np.array([[0.0], [0.5]]), np.array([[8], [8]]), np.array([[3], [4]]))
    >>> run_core(engine, Priority(), two, np.zeros((2, 1), int), ("all",)).finish.ravel()
    array([3. , 4.5])
    """
    blocks, single = policy.blocks, frozenset[str]()
    while True:
        data = requests_of(lanes, klass, classes)
        state = State(data, engine, policy.sees, single)
        try:
            run(state, blocks)
        except OneRunOnlyError as error:
            single |= {str(error)}
        except Exception:
            # One run at a time finds out what is wrong, and says it.
            state.undone[:] = True
            break
        else:
            break
    times = {name: column.reshape(lanes.arrival.shape) for name, column in data.times.items()}
    for column in times.values():
        column[state.undone] = np.nan
    sums: dict[str, Any] = dict(state.sums)
    found: dict[str, Any] = dict(times)
    return CoreLog(**found, kv_area=sums.pop("area"), **sums, undone=state.undone)


def requests_of(lanes: Lanes, klass: Ints, classes: tuple[str, ...]) -> Requests:
    """Lay the requests of all lanes out in one line."""
    size, n = lanes.arrival.shape
    hidden = np.zeros((size, n)) if lanes.hidden is None else lanes.hidden
    prompt, output, hidden = (
        np.ascontiguousarray(x, np.int64).ravel() for x in (lanes.prompt, lanes.output, hidden)
    )
    return Requests(
        n=n,
        arrival=np.ascontiguousarray(lanes.arrival, np.float64).ravel(),
        prompt=prompt,
        output=output,
        hidden=hidden,
        klass=np.ascontiguousarray(klass, np.int64).ravel(),
        count=np.full(size, n) if lanes.count is None else np.asarray(lanes.count),
        classes=classes,
        times={name: np.full(size * n, np.nan) for name in TIMES},
    )
