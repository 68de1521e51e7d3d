r"""Growth at equal gaps, exactly: after each period the same state with more requests in a queue.

Requests are all alike and come at equal gaps, which are binary fractions of a second, as are the
iterations of the law; the simulator's clock is then exact, and each of its steps is compared with
the rational law. Suppose that the state at an arrival, seen in the order of arrival, repeats a
period later except that one run of alike requests has become longer by ``m > 0``.

*Claim*: the backlog grows by ``m`` requests in every further period, for ever. *Proof*: the run is
longer than the period has tokens, so in no iteration of the period are all its requests served. A
plan is filled in order: behind a request of the run that gets nothing, a copy of it gets nothing
either, for the same reason, and changes nothing for those after it (where memory or slots are
limited, the requests of the run must hold none). So from the longer run the
period is the same, and the run is longer by ``m`` again. (That a policy's gate does not count the
copies is checked by running two periods more.)

This covers policies of which a saturated engine has no cycle (:mod:`llmq.optimality.saturation`):
vLLM, saturated, only prefills; at equal gaps below load 1 it leaves decodes behind in each period.

It is about equal gaps at one rate, not about Poisson arrivals: the sequential test is. Not covered:
several classes, fleets, policies that read the clock or write marks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from itertools import groupby
from typing import cast

from llmq._input.renamed import renamed
from llmq.errors import InputError
from llmq.model.engine import Engine
from llmq.model.request import RequestClass
from llmq.model.time._exact import ExactBatchTime
from llmq.optimality.saturation.states import step
from llmq.policies import Policy, SimpleChunking
from llmq.policies.contract.settings import effective
from llmq.result import Kind
from llmq.sim._reference.engine import ReferenceEngine
from llmq.sim._reference.rows import Row
from llmq.sim.results._log import Job, Log
from llmq.theory.needs.demand import demand
from llmq.theory.region._bounds import check_fits

__all__ = ["OpenCycle", "binary_gap", "has_open_cycle", "open_cycle"]

# States that were met at an arrival: with what runs, and how long they were.
Shape = tuple[object, ...]
Seen = list[tuple[int, tuple[int, ...]]]
_FINEST = 2**12
_ASSUMED = (
    "one class of fixed lengths, requests come at equal gaps",
    "a copy of a request that gets nothing gets nothing",
)


@dataclass(frozen=True, slots=True)
class OpenCycle:
    """One period of an engine at equal gaps, after which more requests are there.

    Parameters
    ----------
    exact_gap : fractions.Fraction
        Seconds between arrivals.
    first : int
        Requests more that come at time 0: growth may need a queue to begin with.
    begin : int
        Arrivals before the first period.
    arrivals, more : int
        Requests that come in a period, and that remain of them.
    run : int
        Alike requests in the run that grows, when the first period begins.
    tokens : int
        Tokens processed in a period: fewer than ``run``.
    kind, assumptions, source
        As in every result.
    """

    exact_gap: Fraction
    first: int
    begin: int
    arrivals: int
    more: int
    run: int
    tokens: int
    kind: Kind
    assumptions: tuple[str, ...]
    source: str

    @property
    def exact_rate(self) -> Fraction:
        """Requests per second that end, exactly, while ``1 / exact_gap`` come."""
        return (self.arrivals - self.more) / (self.arrivals * self.exact_gap)

    @property
    def rate(self) -> float:
        """Requests per second that end."""
        return float(self.exact_rate)

    def __str__(self) -> str:
        begun = f"after {self.first} at once " if self.first else ""
        return (
            f"{begun}one request every {self.exact_gap} s: of {self.arrivals} that come in a "
            f"period {self.more} remain, for ever"
        )


def binary_gap(rate: Fraction | float, *, slack: float = 0.03) -> Fraction:
    """Return a gap between arrivals that a float holds exactly.

    Parameters
    ----------
    rate : Fraction or float
        Requests per second, not to be exceeded.
    slack : float
        Share by which the rate may be lower.

    Returns
    -------
    fractions.Fraction
        Seconds: the coarsest binary fraction, an eighth or finer.

    Examples
    --------
    >>> binary_gap(28.8)
    Fraction(9, 256)
    """
    gap, parts = 1 / Fraction(rate), 8
    while (coarse := Fraction(math.ceil(gap * parts), parts)) * (1 - Fraction(slack)) > gap:
        parts *= 2
    return coarse


def has_open_cycle(policy: Policy, request: RequestClass) -> bool:
    """Whether states of the policy can be compared.

    Parameters
    ----------
    policy : Policy
        The policy.
    request : RequestClass
        The only class.

    Returns
    -------
    bool
        False for lengths that vary, and for policies that read the whole queue, the clock or marks.

    Examples
    --------
    >>> from llmq.policies import SLAI, VLLM
    >>> request = RequestClass(8, 4)
    >>> has_open_cycle(VLLM(version="v0"), request), has_open_cycle(SLAI(), request)
    (True, False)
    """
    fixed = request.prompt.is_fixed and request.output.is_fixed and not request.reasoning.high
    reads = policy.blocks.together is not None or isinstance(policy, SimpleChunking)
    return fixed and reads and policy.blocks.mark is None


@renamed(most="maximum")
def open_cycle(
    policy: Policy,
    engine: Engine,
    request: RequestClass,
    gap: Fraction,
    *,
    first: int = 0,
    maximum: int = 2000,
) -> OpenCycle | None:
    """Run an engine at equal gaps until a state repeats with more requests.

    Parameters
    ----------
    policy : Policy
        The policy; a token budget of its own replaces the engine's.
    engine : Engine
        The engine; its law in binary fractions of a second.
    request : RequestClass
        One class of fixed lengths.
    gap : fractions.Fraction
        Seconds between arrivals, a binary fraction.
    first : int
        Requests more that come at time 0.
    maximum : int
        Arrivals after which to give up.

    Returns
    -------
    OpenCycle or None
        The period; None if the backlog does not grow, or no period was found.

    Raises
    ------
    InputError
        Lengths that vary, a policy whose states cannot be compared, a request that does not fit the
        memory, or times that a float does not hold exactly.

    Examples
    --------
    >>> from llmq.model.time.batchtime import BatchTime
    >>> from llmq.policies import VLLM
    >>> engine = Engine(BatchTime.affine(base=0.125, per_token=0.0), token_budget=8)
    >>> print(open_cycle(VLLM(version="v0"), engine, RequestClass(1, 2), Fraction(9, 256)))
    one request every 9/256 s: of 32 that come in a period 32 remain, for ever
    """
    if not has_open_cycle(policy, request):
        raise InputError(
            f"policy {policy.name} with {request} has no open cycle: it takes one class of fixed "
            "lengths and a policy that reads neither the whole queue nor the clock",
            policy=policy.name,
        )
    check_fits(engine, "request", demand(request, engine))
    engine = effective(engine, policy)
    if not gap > 0 or Fraction(float(gap)) != gap or gap.denominator > _FINEST:
        raise InputError(f"the gap must be a positive binary fraction of a second, got {gap}")
    times = [0.0] * first + [float(gap * k) for k in range(maximum)]
    n = len(times)
    lengths = [request.prompt.low] * n, [request.output.low] * n
    server = ReferenceEngine(Job(engine, policy, times, *lengths, [0] * n, [0] * n), Log.empty(n))
    server.queue.extend(range(n))
    return _found(server, engine.law.exact(), gap, first)


def _found(
    server: ReferenceEngine, law: ExactBatchTime, gap: Fraction, first: int
) -> OpenCycle | None:
    """Advance from arrival to arrival and compare states."""
    seen: dict[Shape, Seen] = {}
    tokens = [0]
    for k, now in enumerate(server.job.arrival[first:]):
        tokens.append(tokens[-1] + _advance(server, law, now))
        shape, counts = _state(server, now)
        earlier = seen.setdefault(shape, [])
        earlier.append((k, counts))
        if (start := _thrice(earlier)) is None:
            continue
        (begin, before), (second, after) = start
        place = next(i for i, (a, b) in enumerate(zip(before, after, strict=True)) if a != b)
        done = tokens[second + 1] - tokens[begin + 1]
        if before[place] > done + server.engine.token_budget and _free(server, shape, place):
            return OpenCycle(
                gap,
                first,
                begin,
                second - begin,
                after[place] - before[place],
                before[place],
                done,
                kind=Kind.EXACT,
                assumptions=_ASSUMED,
                source="open cycle [OC]",
            )
    return None


def _free(server: ReferenceEngine, shape: Shape, place: int) -> bool:
    """Whether copies of the run's requests take nothing that is scarce."""
    engine, runs = server.engine, cast("tuple[tuple[int, ...], ...]", shape[0])
    held = runs[place][2]
    return held == 0 or (engine.kv_tokens is None and engine.max_seqs is None)


def _thrice(seen: Seen) -> tuple[tuple[int, tuple[int, ...]], tuple[int, tuple[int, ...]]] | None:
    """Look for three periods of one length in each of which one run grew by as much."""
    last, counts = seen[-1]
    place = dict(seen)
    for k, before in reversed(seen[:-1][-64:]):
        step_, more = last - k, tuple(b - a for a, b in zip(before, counts, strict=True))
        if sum(more) <= 0 or sorted(more)[:-1] != [0] * (len(more) - 1):
            continue
        back = [place.get(last - i * step_) for i in (3, 2, 1)]
        wanted = [tuple(c - i * m for c, m in zip(counts, more, strict=True)) for i in (3, 2, 1)]
        if back == wanted:
            return (last - 3 * step_, wanted[0]), (last - 2 * step_, wanted[1])
    return None


def _advance(server: ReferenceEngine, law: ExactBatchTime, until: float) -> int:
    """End and start iterations as the engine does; the tokens that were started."""
    tokens = 0
    while (due := server.due()) < until or (server.running and due == until):
        if server.running:
            server.complete()
            continue
        count, _, seconds = step(server, law)
        tokens += count
        if Fraction(server.clock) != Fraction(due) + seconds:
            raise InputError(
                f"an open cycle needs iterations of binary fractions of a second, got {seconds}",
                value=seconds,
            )
    return tokens


def _state(server: ReferenceEngine, now: float) -> tuple[Shape, tuple[int, ...]]:
    """Count runs of alike requests, in the order of arrival; the rest is the state's shape."""
    batch: dict[int, int] = {}
    if server.running:
        view, chosen = server.running
        batch = dict(zip(view.row[list(chosen.rows)].tolist(), chosen.tokens, strict=True))

    def like(row: Row) -> tuple[object, ...]:
        taken = batch.get(row.index, 0)
        return row.kv, row.host, row.held, row.generated, taken, row in server.ended

    rows = server.rows
    runs = [(key, len(list(group))) for key, group in groupby(rows, like)]
    queued = [key for key, _ in groupby(sorted(rows, key=lambda row: row.queued), like)]
    # Those that came since the iteration began wait as well.
    arrival = server.job.arrival
    new = sum(arrival[i] < now for i in server.queue[server.joined : server.joined + 512])
    left = server.clock - now if server.running else 0.0
    started = server.started if (c := server.blocks.together) and c.cycle < math.inf else 0
    shape = tuple(key for key, _ in runs), tuple(queued), left, new, started, server.prefilled
    return shape, tuple(count for _, count in runs)
