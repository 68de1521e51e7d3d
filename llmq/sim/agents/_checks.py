"""What must hold on every path of agents.

Conservation: each station processed every token of every call made there, and every eviction's
tokens again. Order: a call is released at the end of the last call before it and its pause, and its
events follow. Little: the request-seconds that a station summed on the way are the sum of the times
that its calls spent there (stations of the reference simulator). Capacity: a station is busy at
least as long as the price of the work it did.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np

from llmq.errors import InvariantError
from llmq.model.lengths import Lengths
from llmq.model.request import RequestClass

if TYPE_CHECKING:
    from llmq.sim.agents._run import AgentRun

__all__ = ["check_agents_run"]

_TIMES = ("release", "prefill_end", "first_token", "finish")
# Closed-form sums and row-by-row sums differ in the last digits.
ROUNDING = 1e-9


def check_agents_run(run: AgentRun) -> None:
    """Check a run of agents.

    Parameters
    ----------
    run : AgentRun
        The result of a simulation.

    Raises
    ------
    InvariantError
        An invariant is broken; names it.
    """
    for r in range(len(run.arrival)):
        for e, station in enumerate(run.engines):
            _check_station(run, r, e, station)
        for code in range(len(run.agents)):
            _check_order(run, r, code)


def _check_station(run: AgentRun, r: int, e: int, station: str) -> None:
    from llmq.theory.region import stability_region

    tally, engine = run.tallies[r][e], run.engines[station]
    here = np.zeros(run.prompt[r].shape, dtype=bool)
    for code, c in run.made_at(station):
        here[run.klass[r] == code, c] = True
    need = int(run.work(r, station)[here].sum())
    _hold(
        tally.tokens == need + tally.recomputed,
        f"station {station!r} processed {tally.tokens} tokens; its calls need {need}, and "
        f"{tally.recomputed} once more",
    )
    stay = float((run.finish[r] - run.release[r])[here].sum())
    if tally.presence:
        _hold(
            abs(tally.presence - stay) <= ROUNDING * max(stay, 1.0) * len(here),
            f"station {station!r}: calls spent {stay:.9g} s there, it counted {tally.presence:.9g}",
        )
    if not here.any():
        return
    lengths = Lengths(run.prompt[r][here]), Lengths(run.output[r][here])
    region = stability_region(engine, {"all": RequestClass(*lengths, paired=True)})
    work, _ = region.load_bracket({"all": float(here.sum())})
    _hold(
        tally.busy >= work * (1 - ROUNDING),
        f"station {station!r}: {work:.6g} s of priced work was done in {tally.busy:.6g} s",
    )


def _check_order(run: AgentRun, r: int, code: int) -> None:
    mine = run.klass[r] == code
    name, agent = list(run.agents.items())[code]
    place = {call: c for c, call in enumerate(agent.calls)}
    for call, c in place.items():
        before = [run.finish[r, mine, place[b]] for b in agent.calls[call].after]
        ready = np.max(before, axis=0) if before else run.arrival[r, mine]
        sent = np.array_equal(ready + run.pause[r, mine, c], run.release[r, mine, c])
        _hold(sent, f"agent {name!r}: call {call!r} was not sent when it was ready")
        events = [getattr(run, event)[r, mine, c] for event in _TIMES]
        for early, late in itertools.pairwise(events):
            ordered = bool(np.all(late >= early - ROUNDING * np.maximum(1.0, late)))
            _hold(ordered, f"agent {name!r}, call {call!r}: events out of order")


def _hold(condition: bool, sentence: str) -> None:
    if not condition:
        raise InvariantError(sentence, rule=sentence)
