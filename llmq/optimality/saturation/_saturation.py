r"""The cycles of a saturated engine under a policy, exactly: above the least rate it is unstable.

Requests are all alike, the law is rational, and the queue never empties. A policy that reads only
the head of the queue then sees the same again and again: the requests that have begun are in one of
finitely many states (:mod:`llmq.optimality.saturation.states`), so the path repeats, and

.. math:: \mu = \text{requests of a period} / \text{time of a period}

is a fraction. Which cycle that is may depend on the state in which the queue became long. So all
states are reached that an engine can be in, from an empty one by any number of arrivals in each
iteration, and all cycles that follow from them are found.

*Claim*: with Poisson arrivals at a rate above the least ``mu`` the system is not positive
recurrent; below it, it is, if all states were reached (``complete``). *Proof*: each state that was
reached, with a long queue, has positive probability. From there, while the queue is longer than an
iteration can start, departures are those of its cycle, ``mu t`` up to a constant; arrivals less
departures are a random walk with positive drift (within bounded error), which stays above its start
for ever with positive probability. So with positive probability the number present tends to
infinity. Below the least ``mu``: the states are finitely many, so a long queue ends in a cycle
after a bounded number of iterations, whichever it is; its drift over a long enough time is negative
and Foster's criterion applies.

Between the least and the largest rate a long queue melts in one cycle and grows in another. So
where the *least* ``mu`` lies below the rate at load 1 of :mod:`llmq.theory.region`, the policy is
not throughput-optimal, for any reader who checks one period by hand. With a limit of memory the
state includes the requests that were evicted: greedy admission fills the memory with prompts, the
requests outgrow it, and some are computed again.

Where states are too many to reach all of them the least rate of those found is still one above
which the policy is unstable; nothing is said below it. One case needs no states: a policy that
fills every batch beside its decodes, without limits of memory and slots and without KV reads, has
the rate of full batches in every cycle.

Not covered: several classes or random lengths (a chain instead of a cycle), policies that read the
whole queue or the clock, one queue of prefills and decodes (a decode then waits for all who came
before), and prefill-first policies: saturated, they only ever prefill (see
:mod:`llmq.optimality.saturation.open`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from llmq._input.renamed import renamed
from llmq.errors import InputError
from llmq.model.engine import Engine
from llmq.model.request import RequestClass
from llmq.optimality.saturation.states import EMPTY, Moved, Space, State
from llmq.policies import FCFS, PASCAL, RR, Policy, SimpleChunking
from llmq.policies.contract.settings import effective
from llmq.result import Kind
from llmq.theory.needs.demand import demand
from llmq.theory.region._bounds import check_fits

__all__ = ["SaturatedCycle", "has_cycle", "saturated_cycle"]

_ASSUMED = (
    "one class of fixed lengths, a queue that never empties",
    "the policy reads only the head of the queue",
)
_STARTS = 8  # states to go on from where not all were reached
_PART = "not all states of the engine were reached: nothing is said below the least rate found"


@dataclass(frozen=True, slots=True)
class SaturatedCycle:
    """The slowest period of a saturated engine, beside the fastest.

    Parameters
    ----------
    exact_time : fractions.Fraction
        Length of a period of the least rate, seconds.
    requests : int
        Requests that end in it.
    batches : tuple of (int, int)
        Prefill tokens and decodes of each iteration.
    exact_largest : fractions.Fraction
        Requests per second in the fastest cycle that was found.
    complete : bool
        Whether every state that the engine can be in was looked at.
    kind, assumptions, source
        As in every result.
    """

    exact_time: Fraction
    requests: int
    batches: tuple[tuple[int, int], ...]
    exact_largest: Fraction
    complete: bool
    kind: Kind
    assumptions: tuple[str, ...]
    source: str

    @property
    def exact_rate(self) -> Fraction:
        """Requests per second in the slowest cycle: unstable above it, if complete stable below."""
        return self.requests / self.exact_time

    @property
    def rate(self) -> float:
        """Requests per second in the slowest cycle: unstable above it."""
        return float(self.exact_rate)

    @property
    def largest(self) -> float:
        """Requests per second in the fastest cycle that was found."""
        return float(self.exact_largest)


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
        arrival, one queue of prefills and decodes, and prefill first.

    Examples
    --------
    >>> from llmq.policies import VLLM, FasterTransformer
    >>> [has_cycle(p, RequestClass(8, 4)) for p in (FasterTransformer(), VLLM(version="v0"))]
    [True, False]
    """
    together = policy.blocks.together
    fixed = request.prompt.is_fixed and request.output.is_fixed and not request.reasoning.high
    if together is None:
        return fixed and (isinstance(policy, SimpleChunking) or _by_arrival(policy, request))
    return fixed and not together.queue and (together.mixed or together.until < math.inf)


def _by_arrival(policy: Policy, request: RequestClass) -> bool:
    """Whether a ranked policy orders the requests by arrival: no quantum ends before they do."""
    most = request.output.high
    if isinstance(policy, PASCAL):
        return most < policy.quantum and request.prompt.high + most < policy.demote
    return isinstance(policy, FCFS) or (isinstance(policy, RR) and most < policy.quantum)


@renamed(most="maximum")
def saturated_cycle(
    policy: Policy,
    engine: Engine,
    request: RequestClass,
    *,
    maximum: int = 20_000,
    effort: int = 5_000,
) -> SaturatedCycle:
    """Find the cycles of a saturated engine, from every state that it can be in.

    Parameters
    ----------
    policy : Policy
        The policy; a token budget of its own replaces the engine's.
    engine : Engine
        The engine.
    request : RequestClass
        One class of fixed lengths.
    maximum : int
        Iterations of one path after which to give up.
    effort : int
        Requests in all iterations together that are computed to reach states; after that the cycles
        from those found must do.

    Returns
    -------
    SaturatedCycle
        Time, requests and batches of a period of the slowest, and the rate of the fastest.

    Raises
    ------
    InputError
        Lengths that vary, a request that does not fit the memory, a policy without such a cycle, or
        none found.

    Examples
    --------
    >>> from llmq.model.time.batchtime import BatchTime
    >>> from llmq.model.conventions import THEORY
    >>> from llmq.policies import FasterTransformer, Sarathi
    >>> law = BatchTime.tiled(base=11.28, per_tile=35.47, tile=128)
    >>> engine = Engine(law, 512, conventions=THEORY)
    >>> saturated_cycle(FasterTransformer(), engine, RequestClass(128, 112)).exact_time
    Fraction(134729, 25)

    Two slots: pairs that began together fill their tiles, pairs a step apart do not.

    >>> slots = Engine(BatchTime.tiled(base=0, per_tile=8, tile=4), 8, max_seqs=2)
    >>> found = saturated_cycle(Sarathi(), slots, RequestClass(3, 2))
    >>> found.exact_rate, found.exact_largest, found.complete
    (Fraction(1, 12), Fraction(1, 8), True)
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
    space = Space(policy, engine, request)
    always_full = _always_full(policy, engine)
    complete = always_full or space.explore(effort)
    first = space.move(EMPTY, 1).state
    others = list(space.least)[: None if complete else _STARTS]
    periods = _periods(space, [first, *others], maximum)
    slowest = min(periods, key=_rate)
    return SaturatedCycle(
        sum((one.seconds for one in slowest), Fraction(0)),
        sum(one.ended for one in slowest),
        _turned([(one.prefill, one.decodes) for one in slowest]),
        max(map(_rate, periods)),
        complete,
        kind=Kind.EXACT,
        assumptions=_ASSUMED if complete else (*_ASSUMED, _PART),
        source="saturated cycle [SAT]",
    )


def _always_full(policy: Policy, engine: Engine) -> bool:
    """Whether every iteration of a saturated engine is a full batch, whose time is always alike."""
    together, blocks, law = policy.blocks.together, policy.blocks, engine.law
    own = blocks.budget
    plain = own.tokens is None and own.rows is None and own.decodes is None and not own.ranked
    fills = together is not None and together.mixed and plain and not own.whole
    limits = engine.kv_tokens is not None or engine.max_seqs is not None
    return fills and not limits and not (law.per_kv or law.per_kv_mixed)


def _rate(period: Sequence[Moved]) -> Fraction:
    time = sum((one.seconds for one in period), Fraction(0))
    return sum(one.ended for one in period) / time


def _periods(space: Space, starts: Iterable[State], most: int) -> list[tuple[Moved, ...]]:
    """Follow a full queue from each state until it repeats: every cycle once."""
    found: list[tuple[Moved, ...]] = []
    settled: set[State] = set()
    for start in starts:
        path: list[Moved] = []
        place: dict[State, int] = {}
        state = start
        while state not in settled and state not in place:
            place[state] = len(path)
            path.append(space.move(state, space.full))
            state = path[-1].state
            if len(path) > most:
                raise InputError(f"no cycle within {most} iterations: raise maximum=", value=most)
        if state in place:
            found.append(tuple(path[place[state] :]))
        settled.update(place)
    return found


def _turned(batches: list[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Let a period begin with its largest prefill, whichever iteration was seen first."""
    turns = (batches[i:] + batches[:i] for i in range(len(batches)))
    return tuple(max(turns)) if len(batches) < 100 else tuple(batches)
