"""Many engines at once: NumPy arrays with one entry per *lane*, an engine in one replication.

The lanes do not share a clock: in one lockstep each goes on to its own next event, as the calendar
(:mod:`llmq.sim._fast.calendar.engine`) does for one engine, and the trajectory is the same. What a
calendar costs in interpreter time per event is paid once for all lanes, so this pays from some
hundred lanes on; one long run is faster with the calendar.

Lanes that meet what only a scalar engine does are marked ``undone``: an eviction, more decodes than
one iteration can serve, two prompts cut in one iteration, a request that can never start. Whoever
calls reruns these from the start with the calendar, so answers are exact always.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from llmq.errors import InputError
from llmq.model.engine import Engine
from llmq.policies.contract.blocks import Policy
from llmq.policies.contract.view import Bools, Floats, Ints
from llmq.sim._fast.vector.state import Requests, Rules, State, Sums
from llmq.sim._fast.vector.step import run

__all__ = ["LaneLog", "Lanes", "run_lanes", "runs"]

Numbers: TypeAlias = npt.NDArray[np.integer] | npt.NDArray[np.floating]


@dataclass(frozen=True, slots=True, eq=False)
class Lanes:
    """Requests of many engines, one engine in each row, in the order of arrival.

    Examples
    --------
    >>> import numpy as np
    >>> Lanes(np.zeros((2, 3)), np.full((2, 3), 8), np.full((2, 3), 4)).arrival.shape
    (2, 3)
    """

    arrival: npt.NDArray[np.floating]  # seconds, ascending along a row; shape (lanes, n)
    # prompt, output: tokens; shape (lanes, n)
    prompt: Numbers
    output: Numbers
    # reasoning tokens, the first of the output; none if not given; shape (lanes, n)
    hidden: Numbers | None = None
    # requests of each lane, the rest of its row is padding; ``n`` if not given; shape
    # (lanes,)
    count: Ints | None = None

    def __post_init__(self) -> None:
        shape = self.arrival.shape
        if len(shape) != 2:
            raise InputError(f"lanes are rows of requests: two axes, got shape {shape}")
        for name in ("prompt", "output", "hidden"):
            field = getattr(self, name)
            if field is not None and field.shape != shape:
                raise InputError(
                    f"lanes: {name} has shape {field.shape}, arrival has {shape}", field=name
                )
        if self.count is not None and self.count.shape != shape[:1]:
            raise InputError(
                f"lanes: count has shape {self.count.shape}, there are {shape[0]} lanes",
                field="count",
            )


@dataclass(frozen=True, slots=True, eq=False)
class LaneLog:
    """What happened in each lane."""

    # prefill_end, first_token, finish: seconds; NaN in padding and in lanes that are undone;
    # shape (lanes, n)
    prefill_end: Floats
    first_token: Floats
    finish: Floats
    # iterations, tokens: iterations and tokens processed; shape (lanes,)
    iterations: Ints
    tokens: Ints
    # kv_area, busy, clock: KV tokens held by the served rows summed over iterations, seconds
    # in iterations, end of the last one, seconds; shape (lanes,)
    kv_area: Floats
    busy: Floats
    clock: Floats
    # lanes to be run again by a scalar engine, from the start; their other entries mean
    # nothing; shape (lanes,)
    undone: Bools


def runs(policy: Policy) -> bool:
    """Whether lanes can run a policy at all; if not, all of them are undone.

    Examples
    --------
    >>> from llmq.policies import Sarathi
    >>> runs(Sarathi()), runs(Sarathi(order="queue"))
    (True, False)
    """
    blocks = policy.blocks
    together, admit, budget = blocks.together, blocks.admit, blocks.budget
    if together is None or together.queue:
        return False
    plain = budget.head_of_line and budget.decodes is None and not budget.ranked
    plain = plain and (budget.tokens is None or isinstance(budget.tokens, int))
    # Lanes set a whole prompt aside at once. Chunk by chunk takes less until it is complete, and
    # nobody is admitted before that: while all goes on so, the two are one.
    return plain and not admit.bump and (admit.reserve != "chunk" or admit.all_fit)


def run_lanes(engine: Engine, policy: Policy, lanes: Lanes) -> LaneLog:
    """Serve all lanes to the last token.

    Examples
    --------
    >>> import numpy as np
    >>> from llmq.model.time.batchtime import BatchTime
    >>> from llmq.policies import Sarathi
    >>> engine = Engine(BatchTime.affine(base=1.0, per_token=0.0))
    >>> log = run_lanes(engine, Sarathi(), Lanes(
    ...     np.array([[0.0], [0.5]]), np.array([[8], [8]]), np.array([[3], [4]])))
    >>> log.finish.ravel()
    array([3. , 4.5])
    """
    size, _ = lanes.arrival.shape
    data = _requests(lanes, lag=engine.conventions.lag)
    sums = Sums(
        iterations=np.zeros(size, dtype=np.int64),
        tokens=np.zeros(size, dtype=np.int64),
        kv_area=np.zeros(size),
        busy=np.zeros(size),
        clock=np.zeros(size),
        undone=np.full(size, not runs(policy)),
    )
    together = policy.blocks.together
    if together is not None and runs(policy):
        rules = Rules.of(engine, policy.blocks, together, staged=data.staged)
        if rules.limited and rules.keeps:
            # A longer output than room is kept for takes blocks as it grows.
            long = lanes.output - 1 + rules.lag > rules.most
            sums.undone[:] = (long & _filled(lanes)).any(axis=1)
            data.stop[sums.undone] = data.start[sums.undone]
        run(State(data, rules), sums)
    return _log(lanes, data, sums)


def _requests(lanes: Lanes, *, lag: int) -> Requests:
    """Lay the requests out on one axis, with room for their event times."""
    size, n = lanes.arrival.shape
    start, blank = np.arange(size) * n, np.full(size * n, np.nan)
    hidden = np.broadcast_to(0.0, blank.shape) if lanes.hidden is None else _flat(lanes.hidden)
    staged = lag > 0 or bool(hidden.any())
    return Requests(
        arrival=_flat(lanes.arrival),
        prompt=_flat(lanes.prompt),
        output=_flat(lanes.output),
        hidden=hidden,
        start=start,
        stop=start + (n if lanes.count is None else lanes.count),
        staged=staged,
        prefill_end=blank,
        first_token=blank.copy() if staged else blank,
        finish=blank.copy(),
    )


def _filled(lanes: Lanes) -> Bools:
    """Whether a place holds a request, not padding."""
    size, n = lanes.arrival.shape
    count = np.full(size, n) if lanes.count is None else lanes.count
    return np.arange(n) < count[:, None]


def _log(lanes: Lanes, data: Requests, sums: Sums) -> LaneLog:
    shape = lanes.arrival.shape
    prefill_end, finish = data.prefill_end.reshape(shape), data.finish.reshape(shape)
    # Without stages the end of the prefill is when the first token comes.
    first_token = data.first_token.reshape(shape) if data.staged else prefill_end.copy()
    for times in (prefill_end, first_token, finish):
        times[sums.undone] = np.nan
    return LaneLog(
        prefill_end,
        first_token,
        finish,
        sums.iterations,
        sums.tokens,
        sums.kv_area,
        sums.busy,
        sums.clock,
        sums.undone,
    )


def _flat(values: Numbers) -> Floats:
    """One axis, lane after lane; no copy where the type fits."""
    return np.ascontiguousarray(values, dtype=np.float64).ravel()
