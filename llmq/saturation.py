r"""The cycle of a saturated engine under a policy, exactly: above its rate the policy is unstable.

Requests are all alike, the law is rational, and the queue never empties. A policy that reads only
the head of the queue then sees the same again and again: residents with their tokens are one of
finitely many states, so the path repeats, and

.. math:: \mu = \text{requests of a period} / \text{time of a period}

is a fraction. *Claim*: with arrivals at a rate above ``mu`` (Poisson, or renewal with gaps of
finite mean) the system is not positive recurrent; below it the queue drains whenever it is long.
*Proof*: the run starts as a busy period does, with one request alone, and then the queue is full.
While the queue never falls below a budget of requests, departures are those of the cycle, ``mu t``
up to a constant. Arrivals less departures are then a random walk with positive drift (within
bounded error), which stays above its start for ever with positive probability; that as many
requests as it takes come during the first iteration has positive probability too, so the number
present tends to infinity with positive probability. Below ``mu`` the drift is negative whenever
this cycle is the one that a long queue ends in, and Foster's criterion applies.

So where ``mu`` lies below the rate at load 1 of :mod:`llmq.theory.region`, the policy is not
throughput-optimal, for any reader who checks one period by hand. With a limit of memory the state
includes the requests that were evicted: greedy admission fills the memory with prompts, the
requests outgrow it, and some are computed again.

Not covered: several classes or random lengths (a chain instead of a cycle), policies that read the
whole queue or the clock, and prefill-first policies: saturated, they only ever prefill (see
:mod:`llmq.saturation_open`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

from llmq.errors import InputError
from llmq.model.engine import Engine
from llmq.model.exacttime import ExactBatchTime
from llmq.model.request import RequestClass
from llmq.policies import FCFS, PASCAL, RR, Policy, SimpleChunking
from llmq.policies.settings import effective
from llmq.result import Kind
from llmq.sim.log import Job, Log
from llmq.sim.reference import ReferenceEngine
from llmq.theory.bounds import check_fits
from llmq.theory.demand import demand

__all__ = ["SaturatedCycle", "has_cycle", "saturated_cycle", "step"]

_ASSUMED = (
    "one class of fixed lengths, a queue that never empties",
    "the policy reads only the head of the queue",
)


@dataclass(frozen=True, slots=True)
class SaturatedCycle:
    """One period of a saturated engine.

    Parameters
    ----------
    exact_time : fractions.Fraction
        Its length, seconds.
    requests : int
        Requests that end in it.
    batches : tuple of (int, int)
        Prefill tokens and decodes of each iteration.
    kind, assumptions, source
        As in every result.
    """

    exact_time: Fraction
    requests: int
    batches: tuple[tuple[int, int], ...]
    kind: Kind
    assumptions: tuple[str, ...]
    source: str

    @property
    def exact_rate(self) -> Fraction:
        """Requests per second, exactly: unstable above it."""
        return self.requests / self.exact_time

    @property
    def rate(self) -> float:
        """Requests per second: unstable above it."""
        return float(self.exact_rate)


def has_cycle(policy: Policy, request: RequestClass) -> bool:
    """Whether a saturated engine under the policy repeats a cycle that can be found.

    Parameters
    ----------
    policy : Policy
        The policy.
    request : RequestClass
        The only class.

    Returns
    -------
    bool
        False for lengths that vary, policies that read the whole queue or rank by anything but
        arrival, and prefill first.

    Examples
    --------
    >>> from llmq.policies import VLLM, FasterTransformer
    >>> has_cycle(FasterTransformer(), RequestClass(8, 4)), has_cycle(VLLM(), RequestClass(8, 4))
    (True, False)
    """
    together = policy.blocks.together
    fixed = request.prompt.is_fixed and request.output.is_fixed and not request.reasoning.high
    if together is None:
        return fixed and (isinstance(policy, SimpleChunking) or _by_arrival(policy, request))
    return fixed and (together.mixed or together.until < math.inf)


def _by_arrival(policy: Policy, request: RequestClass) -> bool:
    """Whether a ranked policy orders the requests by arrival: no quantum ends before they do."""
    most = request.output.high
    if isinstance(policy, PASCAL):
        return most < policy.quantum and request.prompt.high + most < policy.demote
    return isinstance(policy, FCFS) or (isinstance(policy, RR) and most < policy.quantum)


def saturated_cycle(
    policy: Policy, engine: Engine, request: RequestClass, *, most: int = 20_000
) -> SaturatedCycle:
    """Run a saturated engine until its state repeats.

    Parameters
    ----------
    policy : Policy
        The policy; a token budget of its own replaces the engine's.
    engine : Engine
        The engine.
    request : RequestClass
        One class of fixed lengths.
    most : int
        Iterations after which to give up.

    Returns
    -------
    SaturatedCycle
        Time, requests and batches of a period.

    Raises
    ------
    InputError
        Lengths that vary, a request that does not fit the memory, a policy without such a cycle, or
        none found.

    Examples
    --------
    >>> from llmq.model.batchtime import BatchTime
    >>> from llmq.model.conventions import THEORY
    >>> from llmq.policies import FasterTransformer
    >>> law = BatchTime.tiled(base=11.28, per_tile=35.47, tile=128)
    >>> engine = Engine(law, 512, conventions=THEORY)
    >>> saturated_cycle(FasterTransformer(), engine, RequestClass(128, 112)).exact_time
    Fraction(134729, 25)
    """
    if not has_cycle(policy, request):
        raise InputError(
            f"policy {policy.name} with {request} has no saturated cycle: it takes one class of "
            "fixed lengths and a policy that reads the head of the queue and decodes under load",
            policy=policy.name,
        )
    check_fits(engine, "request", demand(request, engine))
    if policy.blocks.mark is not None and engine.conventions.lag:
        raise InputError("a cycle under marks needs conventions in which prefill gives a token")
    if policy.blocks.swap and engine.per_swap:
        raise InputError("a saturated cycle does not count the time of swaps", field="per_swap")
    engine = effective(engine, policy)
    server = _server(policy, engine, request, most)
    cycle, law = policy.blocks.together, engine.law.exact()
    seen: dict[tuple[object, ...], int] = {}
    times, ends = [Fraction(0)], [0]
    batches: list[tuple[int, int]] = []
    server.queue.append(0)  # the first request finds the engine empty
    while len(batches) < most:
        state = _state(server, math.inf if cycle is None else cycle.cycle)
        if batches and (start := seen.setdefault(state, len(batches))) < len(batches):
            return SaturatedCycle(
                times[-1] - times[start], ends[-1] - ends[start], _turned(batches[start:]),
                kind=Kind.EXACT, assumptions=_ASSUMED, source="saturated cycle [SAT]",
            )  # fmt: skip
        tokens, decodes, seconds = step(server, law)
        times.append(times[-1] + seconds)
        batches.append((tokens - decodes, decodes))
        present = len(server.rows)
        server.complete()
        ends.append(ends[-1] + present - len(server.rows))
        _supply(server)
    raise InputError(f"no cycle within {most} iterations: raise most=", value=most)


def step(server: ReferenceEngine, law: ExactBatchTime) -> tuple[int, int, Fraction]:
    """Start an iteration: its tokens, its decodes, and how long it takes.

    Parameters
    ----------
    server : ReferenceEngine
        Between iterations, with somebody present; may let rows go before it serves others.
    law : ExactBatchTime
        The engine's law.

    Returns
    -------
    tuple of int, int and fractions.Fraction
        Tokens, decodes among them, seconds.
    """
    server.begin()
    while server.running is None:  # it only evicted; a policy that waits for ever is refused
        server.begin()
    tokens, kv, work, decodes = _batch(server)
    return tokens, decodes, law(tokens, kv, work, mixed=tokens > decodes)


def _turned(batches: list[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Let a period begin with its largest prefill, whichever iteration was seen first."""
    turns = (batches[i:] + batches[:i] for i in range(len(batches)))
    return tuple(max(turns)) if len(batches) < 100 else tuple(batches)


def _server(policy: Policy, engine: Engine, request: RequestClass, most: int) -> ReferenceEngine:
    n = most * engine.token_budget // (request.prompt.low + request.output.low) + 2
    n += 2 * engine.token_budget
    lengths = [request.prompt.low] * n, [request.output.low] * n
    job = Job(engine, policy, [0.0] * n, *lengths, [0] * n, [0] * n)
    return ReferenceEngine(job, Log.empty(n))


def _supply(server: ReferenceEngine) -> None:
    """Let more wait than an iteration could start."""
    waiting = sum(not (row.held or row.generated) for row in server.rows)
    waiting += len(server.queue) - server.joined
    first = len(server.queue)
    server.queue.extend(range(first, first + server.engine.token_budget + 1 - waiting))


def _state(server: ReferenceEngine, cycle: float) -> tuple[object, ...]:
    """Everything that the policy can tell apart from now on."""
    here = [row for row in server.rows if row.held or row.generated or row.host]
    order = sorted(range(len(here)), key=lambda i: here[i].queued)
    ended = tuple(i for i, row in enumerate(here) if row in server.ended)
    rows = tuple((row.kv, row.host, row.held, row.generated) for row in here)
    started = server.started if cycle < math.inf and here else 0
    return rows, tuple(order), ended, started, server.prefilled


def _batch(server: ReferenceEngine) -> tuple[int, int, Fraction, int]:
    """Tokens, KV read, attention work and decodes of the iteration that just began."""
    assert server.running is not None
    view, batch = server.running
    kv, work, decodes = 0, Fraction(0), 0
    for i, tokens in zip(batch.rows, batch.tokens, strict=True):
        held = int(view.kv[i])
        kv += held + tokens
        if view.decoding[i]:
            decodes += 1
        else:
            work += Fraction(tokens * (2 * held + tokens), 2)
    return sum(batch.tokens), kv, work, decodes
