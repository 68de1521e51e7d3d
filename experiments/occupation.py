"""What small engines and fleets can carry at most, by linear programming over occupation measures.

Nothing here uses the library: the engine's rules are written down a second time. A state is the
multiset of the requests that an engine holds, each with what was computed of it. In a state any
action is allowed that the limits allow: any subset is served, prompts in any chunks, new requests
start at will, and the others wait where they are. An action has a duration and leads to a state, or
to several with probabilities where output lengths are not known beforehand. The variables are the
frequencies of actions per second; in and out of each state balance; the durations sum to the
engine's time. The largest multiple of the mix whose requests end is the capacity: by randomising
and by long cycles it is approached, since every state can be emptied. Where a partly served request
leaves the memory without a price (free swap), only the balance of each progress remains.

Dropping a request and computing it again is not an action: with known lengths it never helps, where
iterations do not become shorter with more in them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linprog
from scipy.sparse import coo_matrix

# Seconds of (tokens, KV tokens read, attention work, whether a prompt is among them).
Law = Callable[[int, int, float, bool], float]
# A request in an engine: number of its segment, what it holds.
Item = tuple[int, int]
State = tuple[Item, ...]
Served = tuple[tuple[Item, int], ...]


@dataclass(frozen=True)
class Machine:
    """An engine: its law and its limits; None is no limit, ``shared``: prompts share one slot."""

    law: Law
    budget: int
    slots: int | None = None
    blocks: int | None = None
    block: int = 1
    chunk: int | None = None
    shared: bool = False


@dataclass(frozen=True)
class Segment:
    """What an engine does of a request: from ``start`` tokens held on, until a number of decodes.

    ``decodes`` gives numbers after the prompt with their probabilities; the number is not known
    before it is reached. A prefill alone has ``{0: 1.0}``, a decode alone starts at the prompt.
    """

    prompt: int
    decodes: Mapping[int, float]
    start: int = 0

    def after(self, held: int) -> list[tuple[float, int | None]]:
        """Say with what chance a request that now holds so much goes on or has ended (None)."""
        if held < self.prompt:
            return [(1.0, held)]
        alive = sum(p for d, p in self.decodes.items() if d >= held - self.prompt)
        ends = self.decodes.get(held - self.prompt, 0.0) / alive
        return [(p, h) for p, h in ((ends, None), (1 - ends, held)) if p > 1e-12]


def whole(prompt: int, decodes: int | Mapping[int, float]) -> Segment:
    """Return both phases of a request."""
    return Segment(prompt, {decodes: 1.0} if isinstance(decodes, int) else decodes)


@dataclass(frozen=True)
class Action:
    """One iteration: seconds, how many of each segment end in the mean, and what follows."""

    seconds: float
    ends: tuple[float, ...]
    served: State
    leads: tuple[tuple[float, State], ...]


def capacity(
    machine: Machine, segments: Sequence[Segment], mix: Sequence[float], *, swap: bool = False
) -> float:
    """Return the largest multiple of the mix that an engine carries, requests per second."""
    pool = Pool(machine, dict(enumerate(segments)), swap=swap)
    return fleet_capacity([pool], mix)


@dataclass(frozen=True)
class Pool:
    """Engines alike; what they do of which class, keyed by class or (class, phase)."""

    machine: Machine
    segments: Mapping[int | tuple[int, str], Segment]
    engines: int = 1
    swap: bool = False


def fleet_capacity(
    pools: Sequence[Pool],
    mix: Sequence[float],
    *,
    link: float = np.inf,
    prompts: Sequence[int] = (),
) -> float:
    """Return the largest multiple of the mix that pools carry together.

    The pools' programmes are coupled by their ends: of class ``j`` the whole requests that end, and
    those whose prompts end somewhere and whose decodes end somewhere (keys ``(j, "prefill")`` and
    ``(j, "decode")``), make ``alpha * mix[j]``. A link carries the prompts of the latter.
    """
    table = _Table()
    alpha = table.column(-1.0)
    need = [table.row(upper=0.0) for _ in mix]  # alpha p_j - whole_j - moved_j <= 0
    moved = [table.column() for _ in mix]
    phase = {
        (j, name): table.row(upper=0.0) for j in range(len(mix)) for name in ("prefill", "decode")
    }
    wire = table.row(upper=link) if np.isfinite(link) else None
    for j, share in enumerate(mix):
        table.put(need[j], alpha, share)
        table.put(need[j], moved[j], -1.0)
        for name in ("prefill", "decode"):
            table.put(phase[j, name], moved[j], 1.0)
        if wire is not None:
            table.put(wire, moved[j], float(prompts[j]))
    for pool in pools:
        keys = list(pool.segments)
        rows = [need[key] if isinstance(key, int) else phase[key] for key in keys]
        _pool_columns(table, pool, rows)
    return float(table.solve()[alpha])


def _pool_columns(table: _Table, pool: Pool, rows: Sequence[int]) -> None:
    """Add the actions of a pool: its time, its ends and the balance of its states."""
    segments = list(pool.segments.values())
    time = table.row(upper=float(pool.engines))
    balance: dict[object, int] = {}

    def row(key: object) -> int:
        if key not in balance:
            balance[key] = table.row(lower=0.0, upper=0.0)
        return balance[key]

    for state, action in (
        _free_actions(pool.machine, segments)
        if pool.swap
        else _held_actions(pool.machine, segments)
    ):
        column = table.column()
        table.put(time, column, action.seconds)
        for place, count in zip(rows, action.ends, strict=True):
            if count:
                table.put(place, column, -count)
        if pool.swap:
            for item in action.served:  # what was held before goes, what is held after comes
                if item[1] > segments[item[0]].start:
                    table.put(row(item), column, -1.0)
            for chance, after in action.leads:
                for item in after:
                    table.put(row(item), column, chance)
        else:
            table.put(row(state), column, -1.0)
            for chance, after in action.leads:
                table.put(row(after), column, chance)


def _held_actions(machine: Machine, segments: Sequence[Segment]) -> Iterator[tuple[State, Action]]:
    """List the actions of every state that is reached from the empty engine."""
    if machine.blocks is None and (machine.slots is None or machine.shared):
        raise ValueError("so many requests may be held that states do not end: use swap")
    reached: dict[State, None] = {(): None}
    queue: list[State] = [()]
    while queue:
        state = queue.pop()
        for action in _actions(machine, segments, state):
            yield state, action
            for _, after in action.leads:
                if after not in reached:
                    reached[after] = None
                    queue.append(after)


def _actions(machine: Machine, segments: Sequence[Segment], state: State) -> Iterator[Action]:
    """List what an engine can do in a state, itself without order."""
    chunk = min(machine.chunk or machine.budget, machine.budget)
    # Who may be served, how many of them there are, and in what steps.
    present = [(item, state.count(item)) for item in sorted(set(state))]
    fresh = [((j, one.start), machine.budget) for j, one in enumerate(segments)]
    kinds = [
        (item, many, _steps(segments[item[0]], item[1], chunk), old)
        for group, old in ((present, True), (fresh, False))
        for item, many in group
    ]
    held = [0 if machine.blocks is None else _blocks(machine, item[1]) for item, *_ in kinds]

    def choose(
        k: int, left: int, room: float, slots: float, prompt: bool, served: Served
    ) -> Iterator[Served]:
        if k == len(kinds):
            yield served
            return
        item, many, steps, old = kinds[k]
        one = segments[item[0]]
        is_prompt = item[1] < one.prompt

        def some(
            first: int,
            count: int,
            left: int,
            room: float,
            slots: float,
            prompt: bool,
            served: Served,
        ) -> Iterator[Served]:
            yield from choose(k + 1, left, room, slots, prompt, served)
            if count == many:
                return
            for s in range(first, len(steps)):
                x = steps[s]
                if x > left:
                    break
                more = (
                    0
                    if machine.blocks is None
                    else (_blocks(machine, item[1] + x) - (held[k] if old else 0))
                )
                slot = int(not (is_prompt and prompt) if machine.shared else not old)
                if more > room or slot > slots:
                    continue
                yield from some(
                    s,
                    count + 1,
                    left - x,
                    room - more,
                    slots - slot,
                    prompt or is_prompt,
                    (*served, (item, x)),
                )

        yield from some(0, 0, left, room, slots, prompt, served)

    room = (
        np.inf
        if machine.blocks is None
        else machine.blocks - sum(_blocks(machine, h) for _, h in state)
    )
    slots = np.inf if machine.slots is None else machine.slots
    if not machine.shared:
        slots -= len(state)
    for served in choose(0, machine.budget, room, slots, False, ()):
        if served:
            yield _action(machine, segments, state, served)


def _free_actions(machine: Machine, segments: Sequence[Segment]) -> Iterator[tuple[State, Action]]:
    """List the batches where everybody who is not served is on the host."""
    chunk = min(machine.chunk or machine.budget, machine.budget)
    parts = [
        ((j, held), x)
        for j, one in enumerate(segments)
        for held in range(one.start, one.prompt + max(one.decodes))
        for x in _steps(one, held, chunk)
    ]

    def choose(
        k: int, left: int, room: float, slots: float, prompt: bool, served: Served
    ) -> Iterator[Served]:
        if served:
            yield served
        for i in range(k, len(parts)):
            (j, held), x = parts[i]
            is_prompt = held < segments[j].prompt
            more = 0 if machine.blocks is None else _blocks(machine, held + x)
            slot = 0 if machine.shared and is_prompt and prompt else 1
            if x <= left and more <= room and slot <= slots:
                yield from choose(
                    i,
                    left - x,
                    room - more,
                    slots - slot,
                    prompt or is_prompt,
                    (*served, ((j, held), x)),
                )

    room = np.inf if machine.blocks is None else machine.blocks
    slots = np.inf if machine.slots is None else machine.slots
    for served in choose(0, machine.budget, room, slots, False, ()):
        yield (), _action(machine, segments, tuple(item for item, _ in served), served)


def _steps(one: Segment, held: int, chunk: int) -> range:
    """Tokens that a request may be given: any part of its prompt, or one decode."""
    return range(1, min(chunk, one.prompt - held) + 1) if held < one.prompt else range(1, 2)


def _blocks(machine: Machine, tokens: int) -> int:
    return -(-tokens // machine.block)


def _action(
    machine: Machine,
    segments: Sequence[Segment],
    state: State,
    served: Sequence[tuple[Item, int]],
) -> Action:
    tokens, kv, work, prompt = 0, 0, 0.0, False
    ends = [0.0] * len(segments)
    rest = list(state)
    futures: list[tuple[float, list[Item]]] = [(1.0, [])]
    for item, x in served:
        (j, held), one = item, segments[item[0]]
        tokens, kv = tokens + x, kv + held + x
        if held < one.prompt:
            work, prompt = work + x * (held + x / 2), True
        if item in rest:
            rest.remove(item)
        outcomes = one.after(held + x)
        ends[j] += sum(p for p, after in outcomes if after is None)
        futures = [
            (chance * p, items if after is None else [*items, (j, after)])
            for chance, items in futures
            for p, after in outcomes
        ]
    seconds = machine.law(tokens, kv, work, prompt)
    leads = tuple((chance, tuple(sorted(rest + items))) for chance, items in futures)
    return Action(seconds, tuple(ends), tuple(item for item, _ in served), leads)


class _Table:
    """A sparse linear programme that is filled entry by entry; all variables are at least 0."""

    def __init__(self) -> None:
        self.costs: list[float] = []
        self.limits: list[tuple[float, float]] = []
        self.entries: list[tuple[int, int, float]] = []

    def column(self, cost: float = 0.0) -> int:
        self.costs.append(cost)
        return len(self.costs) - 1

    def row(self, *, lower: float = -np.inf, upper: float) -> int:
        self.limits.append((lower, upper))
        return len(self.limits) - 1

    def put(self, row: int, column: int, value: float) -> None:
        self.entries.append((row, column, value))

    def solve(self) -> np.ndarray:
        i, j, v = (np.asarray(x) for x in zip(*self.entries, strict=True))
        matrix = coo_matrix((v, (i, j)), (len(self.limits), len(self.costs))).tocsr()
        lower, upper = np.asarray(self.limits).T
        equal = lower == upper
        found = linprog(
            self.costs,
            A_ub=matrix[~equal],
            b_ub=upper[~equal],
            A_eq=matrix[equal] if equal.any() else None,
            b_eq=upper[equal] if equal.any() else None,
            method="highs",
        )
        if found.status != 0:
            raise RuntimeError(f"the programme was not solved: {found.message}")
        return np.asarray(found.x)


@dataclass(frozen=True)
class Phases:
    """Many requests alike in engines without memory limit: prompt tokens, decodes, what is done."""

    machine: Machine
    prompt: int
    decodes: int
    engines: int = 1
    role: str = "both"


def token_capacity(pools: Sequence[Phases], *, moves: bool = False) -> float:
    """Return the rate of one class where memory and KV reads do not count.

    How far a request has come does not matter then, so that a batch is a number of prompt tokens
    and of decodes. With ``moves`` a prompt may be computed in one pool and decoded in another.
    """
    table = _Table()
    rate = table.column(-1.0)
    whole_rate = [table.column() for _ in pools]
    moved = table.column()
    ends = table.row(upper=0.0)
    table.put(ends, rate, 1.0)
    for column in (*whole_rate, moved):
        table.put(ends, column, -1.0)
    far = [table.row(upper=0.0) for _ in range(2)]  # prompts and decodes of requests that move
    for row in far:
        table.put(row, moved, 1.0)
    for pool, stays in zip(pools, whole_rate, strict=True):
        machine, parts = pool.machine, (pool.prompt, pool.decodes)
        time = table.row(upper=float(pool.engines))
        needs = [table.row(upper=0.0) for _ in parts]
        for row, place in zip(needs, far, strict=True):
            table.put(row, stays, 1.0)
            if moves or pool.role != "both":
                leaves = table.column()
                table.put(row, leaves, 1.0)
                table.put(place, leaves, -1.0)
        most = machine.budget if machine.slots is None else min(machine.budget, machine.slots)
        for decodes in range(most + 1):
            rest = machine.budget - decodes
            slots = np.inf if machine.slots is None else machine.slots - decodes
            for x in {0, min(rest, pool.prompt), rest}:
                rows = min(-(-x // pool.prompt) + (x > pool.prompt), x)
                if x + decodes == 0 or (min(rows, 1) if machine.shared else rows) > slots:
                    continue
                if (x and pool.role == "decode") or (decodes and pool.role == "prefill"):
                    continue
                column = table.column()
                table.put(time, column, machine.law(x + decodes, 0, 0.0, x > 0))
                for row, tokens, part in zip(needs, (x, decodes), parts, strict=True):
                    table.put(row, column, -tokens / part if part else 0.0)
    return float(table.solve()[rate])
