"""The fill rule of :mod:`llmq.policies.contract.fill` for many lanes at once.

Where all who may run fit under every limit their order is moot, and most iterations are of that
kind. In the other lanes rows are put in key order and the greedy rule becomes running sums: what
a row gets is what those before it leave. The first new row that does not fit is found from these
sums; it shuts the door behind it, and since nobody before it is touched, a second pass is final.

Out of memory, residents leave from the end of the order until the others fit: that is what the rule
comes to where the victim is the last in order and residents come before new rows. Whatever is not
of this kind (a victim of the policy's own, newcomers that push residents out, a prompt that is
skipped and lets another pass) is planned lane by lane by the rule itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from llmq.policies.contract.blocks import Blocks, everyone, last_in_key
from llmq.policies.contract.fill import plan
from llmq.policies.contract.view import Bools, Floats, Ints, View
from llmq.sim._core.asked import asked
from llmq.sim._core.order import InOrder
from llmq.sim._core.state import FAR, State

__all__ = ["Plan", "fill", "gated", "limits", "to_blocks"]


@dataclass(slots=True)
class Plan:
    """What every row gets in the next iteration of its lane."""

    tokens: Ints  # shape (lanes, rows)
    held: Ints  # KV blocks from now on, where tokens are given; shape (lanes, rows)
    evict: tuple[Ints, Ints]  # lanes and slots of those that leave
    wake: Floats  # when to look again if nobody runs; shape (lanes,)
    moot: Bools  # lanes in which everybody present gets all it asks for; shape (lanes,)
    rank: Ints | None = None  # places in the order, of lanes that were put in order


@dataclass(slots=True)
class _Room:
    """What the rows of an iteration share, lane by lane."""

    left: Ints  # tokens
    free: Floats  # KV blocks
    slots: float
    margin: int  # KV blocks that an admission leaves
    limited: bool  # there is a number of blocks


def fill(s: State, view: View, blocks: Blocks) -> Plan:
    """Compose the next iteration of every lane."""
    eligible, wake = gated(s, view, blocks)
    budget, admit = blocks.budget, blocks.admit
    chunk = min(s.engine.chunk, budget.chunk or s.engine.chunk)
    want = view.rem.copy("K") if budget.whole else np.minimum(view.rem, chunk)
    if budget.alone:
        single = s.present.sum(axis=1) == 1
        want = np.where(single[:, None], np.minimum(view.rem, view.tokens), want)
    ask = s.present
    if eligible is not None:
        ask = ask & eligible
        want = want * ask
    slots = view.slots if budget.rows is None else min(view.slots, budget.rows)
    limited = s.total < np.inf
    room = _Room(
        limits(s, view, blocks), np.asarray(view.free)[:, 0], slots, admit.margin(s.total), limited
    )
    size = s.prompt + s.generated + s.lag * view.decoding
    if admit.reserve == "chunk":
        size = s.kv + s.host + want
    elif admit.reserve == "most":
        size = np.maximum(size, s.prompt + admit.most)
    held = np.maximum(s.held, to_blocks(size, view.block))
    moot = _moot(view, blocks, want, ask, held - s.held, room)
    plan_ = Plan(np.asfortranarray(want), np.asfortranarray(held), (_NONE, _NONE), wake, moot)
    # Several prefills that end together join a queue in the order in which they were planned.
    ends = (want >= view.rem) & ~view.decoding & ask
    several = moot & (ends.sum(axis=1) > 1)
    lanes = np.flatnonzero(~moot & ask.any(axis=1))
    # A key that breaks a rule is refused at the first step, whether it matters there or not.
    if lanes.size or several.any() or not s.steps:
        columns = asked(s, view, "key", blocks)
        if several.any():
            plan_.rank = np.zeros(s.row.shape, np.int64, order="F")
            some = InOrder.of(s, columns, np.flatnonzero(several))
            some.put(plan_.rank, np.arange(s.row.shape[1]))
        if lanes.size:
            _contested(s, view, blocks, plan_, lanes, columns, ask, room)
    return plan_


_NONE = np.zeros(0, np.int64)


def gated(s: State, view: View, blocks: Blocks) -> tuple[Bools | None, Floats]:
    """Ask the gate: who may run (None: everyone), and when to look again."""
    never = np.full(s.width, np.inf)
    if blocks.gate is everyone:
        return None, never
    eligible, wake = asked(s, view, "gate", blocks)
    if wake is not None:
        never = np.broadcast_to(np.asarray(wake, float).reshape(-1), never.shape)
    return np.asfortranarray(np.broadcast_to(eligible, view.row.shape)), never


def limits(s: State, view: View, blocks: Blocks) -> Ints:
    """Tokens of the next iteration of each lane."""
    own = blocks.budget.tokens
    most = asked(s, view, "tokens", blocks) if callable(own) else blocks.budget.limit(view)
    return np.broadcast_to(np.asarray(most, np.int64).reshape(-1), (s.width,))


def to_blocks(size: Ints, block: int) -> Ints:
    """KV blocks of so many tokens."""
    if block == 1:
        return size
    if block & (block - 1) == 0:
        return (size + (block - 1)) >> (block.bit_length() - 1)
    return -(-size // block)


def _fitted(s: State, view: View, blocks: Blocks, want: Ints) -> Ints:
    """Blocks that must be free for a new row, the margin aside."""
    admit = blocks.admit
    if admit.reserve == "chunk" and not admit.all_fit:
        return to_blocks(s.host + want, view.block)
    size = s.host + view.rem
    if admit.reserve == "most":
        size = np.maximum(size, s.prompt + admit.most)
    return to_blocks(size, view.block)


def _moot(view: View, blocks: Blocks, want: Ints, asked: Bools, need: Ints, room: _Room) -> Bools:
    """Lanes in which all who may run fit, whatever their order."""
    moot: Bools = want.sum(axis=1) <= room.left
    if blocks.budget.decodes is not None:
        moot &= (view.decoding & asked).sum(axis=1) <= blocks.budget.decodes
    if view.one_prefill_slot:
        if room.slots < FAR:
            decodes = (view.decoding & asked).sum(axis=1)
            moot &= decodes + (asked & ~view.decoding).any(axis=1) <= room.slots
    elif room.slots < FAR:
        moot &= (view.resident | asked).sum(axis=1) <= room.slots
    if room.limited:
        # Enough for everybody, and for the largest new row after all the others.
        new = asked & ~view.resident
        spare = room.free - (need * asked).sum(axis=1)
        moot &= spare >= 0
        some = np.flatnonzero(moot & new.any(axis=1))
        if some.size:
            size = view.host[some] + view.rem[some]
            if blocks.admit.reserve == "most":
                size = np.maximum(size, view.prompt[some] + blocks.admit.most)
            fits = (to_blocks(size, view.block) * new[some]).max(axis=1)
            moot[some] = fits + room.margin <= spare[some]
    return moot


def _contested(
    s: State,
    view: View,
    blocks: Blocks,
    plan_: Plan,
    lanes: Ints,
    columns: Sequence[np.ndarray],
    asked: Bools,
    room: _Room,
) -> None:
    """Plan lanes in which somebody does not get all it asks for."""
    order = InOrder.of(s, columns, lanes)
    if plan_.rank is None:
        plan_.rank = np.zeros(s.row.shape, np.int64, order="F")
    order.put(plan_.rank, np.arange(s.row.shape[1]))
    rows = _Rows.of(s, view, blocks, plan_.tokens, asked, order, room)
    rows.serve()
    order.put(plan_.tokens, rows.given)
    order.put(plan_.held, rows.held_after)
    odd = order.lanes[rows.odd].tolist()
    evict = [order.places(rows.out), *(_by_rule(s, view, blocks, plan_, lane) for lane in odd)]
    at, slots = (np.concatenate(x) for x in zip(*evict, strict=True))
    plan_.evict = at, slots


def _by_rule(s: State, view: View, blocks: Blocks, plan_: Plan, lane: int) -> tuple[Ints, Ints]:
    """Let the rule itself plan a lane."""
    own, slots = s.one(view, lane)
    batch = plan(own, blocks, s.engine.chunk)
    plan_.tokens[lane] = 0
    rows = slots[list(batch.rows)]
    plan_.tokens[lane, rows] = batch.tokens
    plan_.held[lane, rows] = batch.reserve
    if plan_.rank is not None:
        plan_.rank[lane, rows] = np.arange(len(rows))
    out = slots[list(batch.evict)]
    return np.full(len(out), lane), out


@dataclass(slots=True)
class _Rows:
    """The rows of contested lanes in key order; all arrays have the shape (lanes, rows)."""

    blocks: Blocks
    one_slot: bool
    block: int
    room: _Room
    want: Ints
    rem: Ints
    have: Ints  # KV tokens, on the device and on the host
    full: Ints  # KV blocks of a prompt as a whole; of a decode
    held: Ints
    host: Ints
    fit: Ints  # KV blocks that must be free when a new row comes
    decoding: Bools
    resident: Bools
    may: Bools  # may still run
    given: Ints
    held_after: Ints
    out: Bools
    odd: Bools  # lanes to be planned by the rule itself; shape (lanes,)

    @classmethod
    def of(
        cls,
        s: State,
        view: View,
        blocks: Blocks,
        want: Ints,
        asked: Bools,
        order: InOrder,
        room: _Room,
    ) -> _Rows:
        """Put the rows of some lanes in order."""
        admit, take, lanes = blocks.admit, order.take, order.lanes
        want_, decoding = take(want), take(view.decoding)
        have = take(s.kv + s.host)
        rem, held, prompt = take(view.rem), take(s.held), take(s.prompt)
        size = have + np.where(decoding, 1, rem)
        if admit.reserve == "most":
            size = np.maximum(size, prompt + admit.most)
        host = take(s.host)
        fit = host + rem
        if admit.reserve == "most":
            fit = np.maximum(fit, prompt + admit.most)
        mine = replace(room, left=room.left[lanes], free=room.free[lanes])
        may = take(asked)
        return cls(
            blocks=blocks,
            one_slot=view.one_prefill_slot,
            block=view.block,
            room=mine,
            want=want_ * may,
            rem=rem,
            have=have,
            full=to_blocks(size, view.block),
            held=held,
            host=host,
            fit=to_blocks(fit, view.block),
            decoding=decoding,
            resident=held > 0,
            may=may,
            given=np.zeros_like(order.index),
            held_after=held.copy(),
            out=np.zeros(order.index.shape, bool),
            # Places in a batch that prefills share are no running sum.
            odd=np.full(len(lanes), view.one_prefill_slot and room.slots < FAR),
        )

    def serve(self) -> None:
        """Give tokens and blocks."""
        self._cap_decodes()
        self._deal()
        shut = self._first_refused()
        if shut is not None:
            new = self.may & ~self.resident
            place = np.arange(self.may.shape[1])
            self.may &= ~(new & (place >= shut[:, None]))
            self._cap_decodes()
            self._deal()
        self._make_room()

    def _cap_decodes(self) -> None:
        """Keep decodes beyond the most that an iteration may hold, or that slots allow, out."""
        most = self.blocks.budget.decodes
        if most is not None:
            decodes = self.may & self.decoding
            self.may &= ~decodes | (np.cumsum(decodes, axis=1) <= most)

    def _deal(self) -> None:
        """Deal out tokens in order, and count the blocks that go with them."""
        want = self.want * self.may
        before = np.cumsum(want, axis=1) - want
        left = self.room.left[:, None] - before
        if self.blocks.budget.whole:
            self.given = want * (want <= left)
        else:
            self.given = np.clip(left, 0, want)
        held = self.full
        if self.blocks.admit.reserve == "chunk":
            held = to_blocks(self.have + self.given, self.block)
        self.held_after = np.where(self.given > 0, np.maximum(self.held, held), self.held)

    def _first_refused(self) -> Ints | None:
        """Find the place of the first new row that does not fit; None if all do."""
        new = self.may & ~self.resident
        budget, room = self.blocks.budget, self.room
        need = self.held_after - self.held
        lacks = new & (self.given == 0)
        if not self.one_slot and room.slots < FAR:
            come = new & (self.given > 0)
            ahead: Ints = np.cumsum(come, axis=1) - come
            lacks |= new & (ahead + self.resident.sum(axis=1)[:, None] >= room.slots)
        if room.limited:
            spare = room.free[:, None] - (np.cumsum(need, axis=1) - need)
            fit = self.fit
            if self.blocks.admit.reserve == "chunk" and not self.blocks.admit.all_fit:
                fit = to_blocks(self.host + self.given, self.block)
            lacks |= new & (fit + room.margin > spare)
        if budget.whole:
            # A prompt that is skipped leaves its tokens to those behind it: not a running sum.
            self.odd |= (self.may & self.resident & (self.given < self.want)).any(axis=1)
        some = lacks.any(axis=1)
        if not some.any():
            return None
        shut: Ints = np.where(some, lacks.argmax(axis=1), lacks.shape[1])
        if self.blocks.admit.bump:
            behind = np.arange(lacks.shape[1]) > shut[:, None]
            asks = self.given[np.arange(len(shut)), np.minimum(shut, lacks.shape[1] - 1)] > 0
            self.odd |= some & asks & (behind & self.resident).any(axis=1)
        if not budget.head_of_line:
            # Slots and tokens are gone for good, memory may do for a smaller one.
            later = new & (np.arange(lacks.shape[1]) > shut[:, None])
            self.odd |= some & later.any(axis=1) & self._could_pass(shut)
        return shut

    def _could_pass(self, shut: Ints) -> Bools:
        """Whether a row behind one that does not fit may still fit."""
        at = np.arange(len(shut)), np.minimum(shut, self.may.shape[1] - 1)
        new = self.may & ~self.resident
        come = new & (self.given > 0)
        ahead = (np.cumsum(come, axis=1) - come)[at] + self.resident.sum(axis=1)
        gone = self.given[at] == 0 if not self.blocks.budget.whole else np.zeros(len(shut), bool)
        if not self.one_slot:
            gone |= ahead >= self.room.slots
        return ~gone

    def _make_room(self) -> None:
        """Let residents leave from the end of the order until the others fit."""
        need = self.held_after - self.held
        if not self.room.limited:
            return
        over = need.sum(axis=1) > self.room.free
        if not over.any():
            return
        # A new row before a resident may be in before memory runs out.
        new = ~self.resident & (self.given > 0)
        mixed = (np.cumsum(new, axis=1) > 0) & self.resident
        plain = self.blocks.victim is last_in_key and not self.blocks.admit.bump
        self.odd |= over & (mixed.any(axis=1) | (not plain))
        todo = np.flatnonzero(over & ~self.odd)
        if not todo.size:
            return
        self.given[todo] *= self.resident[todo]
        self.held_after[todo] = np.where(
            self.resident[todo], self.held_after[todo], self.held[todo]
        )
        lanes = todo
        width = self.may.shape[1]
        while lanes.size:
            stay = self.resident[lanes] & ~self.out[lanes]
            last = width - 1 - stay[:, ::-1].argmax(axis=1)
            self.out[lanes, last] = True
            self.given[lanes, last] = 0
            self.held_after[lanes, last] = 0
            short = self.held_after[lanes] - self.held[lanes]
            lanes = lanes[short.sum(axis=1) > self.room.free[lanes]]
