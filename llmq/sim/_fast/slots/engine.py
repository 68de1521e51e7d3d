"""Many SLAI engines at once: decodes that wait for their deadline, in lockstep.

The companion of :mod:`llmq.sim._fast.vector.engine` for a policy that singles out decodes. What
makes it fast is that SLAI never tells two decodes apart that were served together and have one
deadline: they form a group (:mod:`llmq.sim._fast.slots.state`), and an iteration handles some
groups instead of a hundred rows.

The trajectory is that of the reference engine. Lanes in which somebody is evicted are marked
``undone``, and all lanes are where prompts are cut to less than the token budget.

Gaps between tokens can be counted on the way against the deadline of each request, without keeping
the times of the tokens.
"""

from __future__ import annotations

import numpy as np

from llmq.errors import InputError
from llmq.model.engine import Engine
from llmq.policies import SLAI, Policy
from llmq.policies.contract.view import Floats, Ints
from llmq.sim._fast.slots.state import Requests, Rules, State, Sums
from llmq.sim._fast.slots.step import run
from llmq.sim._fast.vector.engine import LaneLog, Lanes, Numbers

__all__ = ["count_late", "run_slots", "runs_slots"]


def runs_slots(engine: Engine, policy: Policy) -> bool:
    """Whether :func:`run_slots` can run a policy at all; if not, all lanes are undone.

    Examples
    --------
    >>> from llmq.model.time.batchtime import BatchTime
    >>> from llmq.policies import Sarathi
    >>> engine = Engine(BatchTime.affine(base=1.0, per_token=0.0))
    >>> runs_slots(engine, SLAI()), runs_slots(engine, Sarathi())
    (True, False)
    """
    return isinstance(policy, SLAI) and engine.chunk == engine.token_budget


def run_slots(
    engine: Engine, policy: Policy, lanes: Lanes, klass: Ints, classes: tuple[str, ...]
) -> LaneLog:
    """Serve all lanes to the last token.

    Examples
    --------
    >>> import numpy as np
    >>> from llmq.model.time.batchtime import BatchTime
    >>> engine = Engine(BatchTime.affine(base=1.0, per_token=0.0), token_budget=8)
    >>> two = Lanes(np.array([[0.0], [0.5]]), np.array([[8], [8]]), np.array([[3], [4]]))
    >>> run_slots(engine, SLAI(), two, np.zeros((2, 1), dtype=int), ("all",)).finish.ravel()
    array([3. , 4.5])
    """
    return _serve(engine, policy, lanes, klass, classes, late=False)[0]


def count_late(
    engine: Engine, policy: Policy, lanes: Lanes, klass: Ints, classes: tuple[str, ...]
) -> tuple[LaneLog, Floats]:
    """Serve all lanes and count the tokens that miss the deadline of their class.

    Examples
    --------
    >>> import numpy as np
    >>> from llmq.model.time.batchtime import BatchTime
    >>> engine = Engine(BatchTime.affine(base=1.0, per_token=0.0), token_budget=8)
    >>> one = Lanes(np.array([[0.0]]), np.array([[8]]), np.array([[3]]))
    >>> count_late(engine, SLAI(tbt=0.9), one, np.zeros((1, 1), dtype=int), ("all",))[1]
    array([[2.]])
    """
    log, late = _serve(engine, policy, lanes, klass, classes, late=True)
    assert late is not None
    return log, late


def _serve(
    engine: Engine,
    policy: Policy,
    lanes: Lanes,
    klass: Ints,
    classes: tuple[str, ...],
    *,
    late: bool,
) -> tuple[LaneLog, Floats | None]:
    shape = size, n = lanes.arrival.shape
    _check(klass, classes, shape)
    times = [np.full(size * n, np.nan) for _ in range(3)]
    missed = np.full((size, len(classes)), np.nan) if late else None
    sums = Sums(
        iterations=np.zeros(size, dtype=np.int64),
        tokens=np.zeros(size, dtype=np.int64),
        kv_area=np.zeros(size),
        busy=np.zeros(size),
        clock=np.zeros(size),
        undone=np.full(size, not runs_slots(engine, policy)),
        late=None,
    )
    if isinstance(policy, SLAI) and runs_slots(engine, policy) and size:
        own = dict(policy.deadlines)
        due = [own.get(name, policy.tbt) for name in classes]
        dues = tuple(sorted(set(due)))
        places = np.array([dues.index(x) for x in due])
        data = _requests(lanes, places[klass].ravel(), policy.order, times)
        staged = engine.conventions.lag > 0 or bool(data.hidden.any())
        if late:
            sums = Sums(
                sums.iterations,
                sums.tokens,
                sums.kv_area,
                sums.busy,
                sums.clock,
                sums.undone,
                late=np.zeros((len(dues), size)),
            )
        run(State(data, Rules.of(engine, policy, dues, staged=staged)), sums)
        if not staged:
            times[1] = times[0].copy()
        if missed is not None and sums.late is not None:
            missed[:] = 0.0
            for kind, x in enumerate(dues):
                missed[:, due.index(x)] = sums.late[kind]
            missed[sums.undone] = np.nan
    whole = [x.reshape(shape) for x in times]
    for one in whole:
        one[sums.undone] = np.nan
    log = LaneLog(
        prefill_end=whole[0],
        first_token=whole[1],
        finish=whole[2],
        iterations=sums.iterations,
        tokens=sums.tokens,
        kv_area=sums.kv_area,
        busy=sums.busy,
        clock=sums.clock,
        undone=sums.undone,
    )
    return log, missed


def _requests(lanes: Lanes, urgency: Ints, order: str, times: list[Floats]) -> Requests:
    """Lay the requests of all lanes out in one line."""
    size, n = lanes.arrival.shape
    prompt = _flat(lanes.prompt)
    code = np.tile(np.arange(n), size)
    if order != "fcfs":
        rank = prompt.astype(np.int64)
        if order == "paying":
            rank += urgency * (int(prompt.max(initial=0)) + 1)
        code += rank * n
    start = np.arange(size) * n
    return Requests(
        arrival=_flat(lanes.arrival),
        prompt=prompt,
        output=_flat(lanes.output),
        hidden=np.zeros(size * n) if lanes.hidden is None else _flat(lanes.hidden),
        urgency=urgency,
        code=code,
        start=start,
        stop=start + (n if lanes.count is None else lanes.count),
        n=n,
        prefill_end=times[0],
        first_token=times[1],
        finish=times[2],
    )


def _check(klass: Ints, classes: tuple[str, ...], shape: tuple[int, int]) -> None:
    if klass.shape != shape:
        raise InputError(f"lanes: klass has shape {klass.shape}, arrival has {shape}")
    if klass.size and not 0 <= klass.min() <= klass.max() < len(classes):
        raise InputError(
            f"lanes: class codes go from {klass.min()} to {klass.max()}, there are "
            f"{len(classes)} class names"
        )


def _flat(values: Numbers) -> Floats:
    """One axis, lane after lane; no copy where the type fits."""
    return np.ascontiguousarray(values, dtype=np.float64).ravel()
