"""KV blocks of many engines in lockstep: bounds first, exact counts where the bounds do not decide.

A decode with ``kv`` tokens holds ``ceil(kv / block)`` blocks: at most ``(kv + block - 1) / block``.
Summed over the decodes of a lane this needs their number and their tokens only. Where it is not
enough, the tokens that their last blocks lack are counted by residue: a decode that takes a new
block at ticks ``r`` modulo ``block`` lacks ``(r - tick) mod block`` tokens.
"""

from __future__ import annotations

import numpy as np

from llmq.policies.contract.view import Bools, Floats, Ints
from llmq.sim._fast.vector.state import State

__all__ = ["admit", "blocks_of", "keep_limit", "set_limit"]


def blocks_of(s: State, rows: Ints) -> Floats:
    """Blocks that are set aside for requests at their admission."""
    r = s.rules
    blocks: Floats = np.ceil((s.data.prompt[rows] + r.most) / r.block)
    return blocks


def _free(s: State, lanes: Ints | slice, ahead: int) -> Floats:
    """Bound the free blocks from below, when each decode has ``ahead`` more tokens."""
    r = s.rules
    free = r.total - s.booked[lanes]
    if r.grows:
        free -= np.floor((s.kv[lanes] + (r.block - 1 + ahead) * s.decodes[lanes]) / r.block)
    return free


def _free_exactly(s: State, lanes: Ints, ahead: int) -> Floats:
    """Count the free blocks."""
    r = s.rules
    free = r.total - s.booked[lanes]
    if r.grows:
        lack = np.arange(r.block) - (s.tick[lanes, None] + ahead)
        lack = np.einsum("ij,ij->i", s.growth[lanes], lack % r.block)
        free -= (s.kv[lanes] + ahead * s.decodes[lanes] + lack) // r.block
    return free


def _ticks(s: State, lanes: Ints) -> Floats:
    """Count the ticks for which the free blocks last: whole rounds of residues and a rest."""
    block, decodes = int(s.rules.block), s.decodes[lanes]
    rounds, rest = np.divmod(_free_exactly(s, lanes, 0), decodes)
    order = (s.tick[lanes, None] + np.arange(block)) % block
    taken = np.take_along_axis(s.growth[lanes], order.astype(np.int64), axis=1).cumsum(axis=1)
    ticks: Floats = rounds * block + (taken <= rest[:, None]).sum(axis=1)
    return ticks


def keep_limit(s: State) -> Ints:
    """Bound the decodes by what was known of memory before their number fell."""
    s.limit = np.minimum(s.due, s.lasts)
    if ((s.limit <= s.tick) & (s.due > s.tick)).any():
        return set_limit(s)
    return np.zeros(0, dtype=np.int64)


def set_limit(s: State) -> Ints:
    """Set the tick up to which the decodes can go on: their next event, or the end of memory."""
    # Floor and a division: on floats // is an order of magnitude slower.
    free = np.maximum(_free(s, slice(None), 0), 0.0)
    sure = np.floor(free / np.maximum(s.decodes, 1.0)) * s.rules.block
    s.lasts = np.where(s.decodes > 0.0, s.tick + sure, np.inf)
    tight: Ints = np.flatnonzero(s.lasts < s.due)
    if tight.size:
        s.lasts[tight] = s.tick[tight] + _ticks(s, tight)
    s.limit = np.minimum(s.due, s.lasts)
    short: Ints = tight[s.lasts[tight] == s.tick[tight]]
    return short


def admit(s: State, lanes: Ints, left: Floats, ahead: int) -> Bools:
    """Start the next request of each lane if slots of the cycle, tokens and memory allow it."""
    r, rows = s.rules, s.head[lanes]
    fresh = s.have[lanes] == 0.0
    starts = fresh
    if r.whole:
        starts = starts & (s.data.prompt[rows] <= left)
    if r.cycle < np.inf:
        s.started[lanes[fresh & (s.decodes[lanes] == 0.0)]] = 0.0
        starts = starts & (s.started[lanes] < r.cycle)
    if r.limited:
        need = blocks_of(s, rows)
        fits = need + r.margin <= _free(s, lanes, ahead)
        tight = np.flatnonzero(starts > fits)
        if tight.size:
            fits[tight] = need[tight] + r.margin <= _free_exactly(s, lanes[tight], ahead)
            starts = starts & fits
        s.booked[lanes] += need * starts
    if r.cycle < np.inf:
        s.started[lanes] += starts
    ready: Bools = starts | ~fresh
    return ready
