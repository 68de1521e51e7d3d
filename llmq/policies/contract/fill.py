"""The one fill rule behind every policy: order, then greedy fill under the budgets.

Rows are taken in key order. A decode takes one token, a prefill as many as budget and chunk allow.
A row that needs more memory than is free evicts victims (never one that is served in the same
plan) or, as the last resort, itself. A plan that evicts admits nobody, or the evicted row would be
overtaken by newcomers; unless newcomers may push residents out by the policy's own order (bump).
A new row that does not fit stops the new rows behind it (head of line) or is skipped (backfill).

Under ``ranked`` nobody keeps anything: slots and memory are dealt out anew in key order. A row
needs blocks for all its tokens and the one it is about to make; residents without a share leave.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from llmq.policies.contract.blocks import Blocks
from llmq.policies.contract.checks import budget_of, gate_of, key_of, victim_of
from llmq.policies.contract.view import Batch, View

__all__ = ["plan"]


class Fill:
    """The plan while it is being made."""

    def __init__(self, view: View, blocks: Blocks, chunk: int) -> None:
        budget = blocks.budget
        self.view, self.blocks, self.chunk = view, blocks, chunk
        self.order = [int(i) for i in np.lexsort(key_of(blocks, view)[::-1])]
        self.left: int = budget_of(blocks, view)
        self.slots = view.slots if budget.rows is None else min(view.slots, budget.rows)
        self.most = math.inf if budget.decodes is None else budget.decodes
        self.free = view.free
        self.settled = [False] * len(self.order)
        self.taken: list[tuple[int, int, int]] = []
        self.evicted: list[int] = []
        self.open = True
        self.decodes = 0
        self.prefills = 0
        self.residents = int(np.count_nonzero(view.resident))
        # Plain lists: looking up one element of an array costs more than the rule itself.
        self.rem: list[int] = view.rem.tolist()
        self.kv: list[int] = view.kv.tolist()
        self.host: list[int] = view.host.tolist()
        self.prompt: list[int] = view.prompt.tolist()
        self.held: list[int] = view.held.tolist()
        self.decoding: list[bool] = view.decoding.tolist()
        self.resident: list[bool] = view.resident.tolist()

    def amount(self, row: int) -> int:
        """Tokens the row may take; 0 stops it."""
        rem = self.rem[row]
        if self.decoding[row]:
            return min(1, self.left) if self.decodes < self.most else 0
        if self.blocks.budget.whole:
            return rem if rem <= self.left else 0
        return min(rem, self.left, self.chunk)

    def slot_free(self, row: int) -> bool:
        """Whether the row may be in this batch: a slot is a resident, or (theory) a batch place."""
        if not self.view.one_prefill_slot:
            return self.resident[row] or self.residents < self.slots
        if self.decoding[row]:
            return self.decodes + (self.prefills > 0) < self.slots
        return self.prefills > 0 or self.decodes < self.slots

    def admit(self, row: int, tokens: int) -> bool:
        """Whether a new row may take memory; closes the door behind it under head of line."""
        rule = self.blocks.admit
        fits = self.open and (rule.bump or not self.evicted)
        while fits and not (self.slot_free(row) and rule.fits(self.view, row, self.free, tokens)):
            fits = rule.bump and self.push_out(row)
        self.open = self.open and (fits or not self.blocks.budget.head_of_line)
        return fits

    def push_out(self, row: int) -> bool:
        """Evict a resident that comes after the row; False if there is none."""
        victim = victim_of(self.blocks, self.view, self.order, row, self.settled)
        if victim is None or victim == row:
            return False
        self.evict(victim)
        return True

    def evict(self, victim: int) -> None:
        """Take the memory and the slot of a resident."""
        self.free += self.held[victim]
        self.residents -= 1
        self.settled[victim] = True
        self.evicted.append(victim)

    def make_room(self, row: int, need: int) -> bool:
        """Evict until ``need`` blocks are free; False if the row itself had to go."""
        while self.free < need:
            victim = victim_of(self.blocks, self.view, self.order, row, self.settled)
            if victim is None:
                return False
            self.evict(victim)
            if victim == row:
                return False
        return True

    def blocks_for(self, row: int, tokens: int) -> int:
        """KV blocks the row holds once it has these tokens."""
        reserve = self.blocks.admit.reserve
        whole = reserve != "chunk" and not self.decoding[row]
        size = self.kv[row] + self.host[row] + (self.rem[row] if whole else tokens)
        if reserve == "most":
            size = max(size, self.prompt[row] + self.blocks.admit.most)
        return max(self.held[row], -(-size // self.view.block))

    def take(self, row: int, tokens: int, held: int) -> None:
        """Give tokens and blocks to a row."""
        self.settled[row] = True
        self.taken.append((row, tokens, held))
        self.left -= tokens
        self.free -= held - self.held[row]
        self.residents += not self.resident[row]
        if self.decoding[row]:
            self.decodes += 1
        else:
            self.prefills += 1


def plan(
    view: View, blocks: Blocks, chunk: int, make: Callable[[View, Blocks, int], Fill] = Fill
) -> Batch:
    """Compose one iteration.

    Parameters
    ----------
    view : View
        The engine at the boundary.
    blocks : Blocks
        The policy.
    chunk : int
        Most prompt tokens of one row.
    make : callable
        Makes the plan's bookkeeping; an engine with a prefix cache has one of its own.

    Returns
    -------
    Batch
        Rows with tokens and blocks, evictions; a wake-up time if nothing can run.
    """
    chunk = min(chunk, blocks.budget.chunk or chunk)
    if blocks.budget.alone and len(view.row) == 1:
        chunk = view.tokens
    if blocks.budget.ranked:
        return _ranked(view, blocks, chunk)
    eligible, wake = gate_of(blocks, view)
    fill = make(view, blocks, chunk)
    for row in fill.order:
        if fill.left == 0:
            break
        if fill.settled[row] or not eligible[row]:
            continue
        tokens = fill.amount(row)
        if tokens == 0:
            # A resident that gets nothing keeps its place; it is not ahead of those who wait.
            fill.open = fill.open and (fill.resident[row] or not blocks.budget.head_of_line)
            continue
        if not (fill.slot_free(row) if fill.resident[row] else fill.admit(row, tokens)):
            continue
        held = fill.blocks_for(row, tokens)
        if fill.make_room(row, held - fill.held[row]):
            fill.take(row, tokens, held)
    rows, tokens_, reserve = zip(*fill.taken, strict=True) if fill.taken else ((), (), ())
    return Batch(rows, tokens_, reserve, tuple(fill.evicted), None if fill.taken else wake)


def _ranked(view: View, blocks: Blocks, chunk: int) -> Batch:
    """Deal out slots, memory and tokens anew, in key order."""
    budget, columns = blocks.budget, key_of(blocks, view)
    eligible, wake = gate_of(blocks, view)
    lanes = columns[0].tolist()
    slots = view.slots if budget.rows is None else min(view.slots, budget.rows)
    left = budget_of(blocks, view)
    size = -(-(view.prompt + view.generated + 1) // view.block)
    needs, rem = size.tolist(), view.rem.tolist()
    free, closed = view.total, set()
    taken: list[tuple[int, int, int]] = []
    for row in np.lexsort(columns[::-1]).tolist():
        if lanes[row] in closed or not eligible[row]:
            continue
        tokens = rem[row] if budget.whole else min(rem[row], chunk, left)
        if 0 < tokens <= left and needs[row] <= free and len(taken) < slots:
            taken.append((row, tokens, needs[row]))
            free, left = free - needs[row], left - tokens
        elif budget.head_of_line:
            closed.add(lanes[row])
    rows, tokens_, reserve = zip(*taken, strict=True) if taken else ((), (), ())
    out = np.setdiff1d(np.flatnonzero(view.resident), rows)
    return Batch(rows, tokens_, reserve, tuple(out.tolist()), None if taken else wake)
