"""What must hold on every path, whatever the policy.

Conservation: every request that arrived has finished, every token of it was processed, and every
eviction's tokens again. Causality: arrival <= end of prefill <= first token <= finish. Memory: the
KV token-iterations that were summed while running are at least the area of the requests. And the
necessity half of the stability region, path by path: engine time is at least the price of the work
it did, for every facet of the outer bound.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from llmq.errors import InvariantError
from llmq.model.engine import Engine
from llmq.model.lengths import Lengths
from llmq.model.metrics import RequestTimes
from llmq.model.request import RequestClass
from llmq.policies.contract.blocks import Policy
from llmq.policies.contract.settings import priced
from llmq.sim.results._log import Tally

__all__ = ["check_run"]

# Closed-form sums and row-by-row sums differ in the last digits.
ROUNDING = 1e-9


class Parts(Protocol):
    """What the checks read of a run; :class:`llmq.sim.results.run.Run` says what each is."""

    @property
    def requests(self) -> RequestTimes:
        """Events of the requests."""

    @property
    def prompt(self) -> npt.NDArray[np.int64]:
        """Prompt tokens."""

    @property
    def server(self) -> npt.NDArray[np.int64]:
        """Engine of each request."""

    @property
    def tallies(self) -> tuple[tuple[Tally, ...], ...]:
        """Sums, by replication and engine."""

    @property
    def engines(self) -> tuple[Engine, ...]:
        """The engines."""


def check_run(run: Parts, policy: Policy | None = None) -> None:
    """Check a run."""
    times = run.requests
    _hold(np.all(np.isfinite(times.finish)), "a request never finished")
    slack = ROUNDING * np.maximum(1.0, times.finish)
    order = ("arrival", "prefill_end", "first_token", "finish")
    for early, late in itertools.pairwise(order):
        gap = getattr(times, late) - getattr(times, early)
        _hold(np.all(gap >= -slack), f"{late} before {early}")
    for r, row in enumerate(run.tallies):
        if any(tally.moved for tally in row):
            # Requests moved: only the fleet as a whole has done what they need.
            everybody = np.ones(len(run.server[r]), dtype=bool)
            _check_engines(run, r, range(len(row)), everybody, policy)
            continue
        for e, tally in enumerate(row):
            mine = run.server[r] == e
            if mine.any():
                _check_engines(run, r, (e,), mine, policy)
            else:
                _hold(tally.iterations == 0, "an engine without requests ran")


def _check_engines(
    run: Parts, r: int, some: Sequence[int], mine: npt.NDArray[np.bool_], policy: Policy | None
) -> None:
    from llmq.theory.region import stability_region

    engine, tallies = run.engines[some[0]], [run.tallies[r][e] for e in some]
    done = sum(tally.tokens for tally in tallies)
    again = sum(tally.recomputed for tally in tallies)
    found = sum(tally.hits for tally in tallies)
    where = f"replication {r}, engine{'s' * (len(some) > 1)} {', '.join(map(str, some))}"
    prompt, output = run.prompt[r][mine], run.requests.output[r][mine]
    decodes = output - 1 + engine.conventions.lag
    tokens = int((prompt + decodes).sum())
    _hold(
        done + found == tokens + again,
        f"{where}: processed {done} and found {found} tokens; the requests need {tokens}, and "
        f"{again} once more",
    )
    area = int((decodes * prompt + decodes * (decodes + 1) // 2 + prompt).sum())
    held = sum(tally.kv_area for tally in tallies)
    _hold(held >= area, f"{where}: KV area {held:g} below the least, {area}")
    # What was found need not be paid for.
    if found or any(run.engines[e] != engine for e in some):
        return
    everything = {"all": RequestClass(Lengths(prompt), Lengths(output), paired=True)}
    # A request that is alone may pass the chunk (vLLM v1), so it counts only by a known policy.
    engine = engine.with_(prefill_chunk=None) if policy is None else priced(engine, policy)
    region = stability_region(engine, everything, hits=0 if engine.prefix_cache else None)
    work, _ = region.load_bracket({"all": float(len(prompt))})
    busy = sum(tally.busy for tally in tallies)
    # An iteration is timed by the clock, whose steps are coarse where it has run for long.
    steps = sum(tally.iterations * np.spacing(tally.clock) for tally in tallies)
    _hold(
        busy >= work * (1 - ROUNDING) - steps,
        f"{where}: {work:.6g} s of priced work was done in {busy:.6g} s",
    )


def _hold(condition: object, sentence: str) -> None:
    if not condition:
        raise InvariantError(sentence, rule=sentence)
