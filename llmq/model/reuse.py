"""What a prefix cache that never forgets would save of a trace.

See :mod:`llmq.model.prefix` for what a name stands for and what is not covered.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from llmq._input.checked import checked
from llmq.model.trace import Trace

__all__ = ["endless_hits", "found", "unshared"]

Ints: TypeAlias = npt.NDArray[np.int64]


@checked
def found(trace: Trace, *, kv_block: int = 16) -> Ints:
    """Count the prompt tokens that a cache which never forgets would find.

    Parameters
    ----------
    trace : Trace
        Requests; each finds what all before it computed.
    kv_block : int
        Tokens of a KV block: only whole blocks are found, and at least one token is computed.

    Returns
    -------
    ndarray of int, shape (n,)
        Tokens; 0 for a trace without names.

    Examples
    --------
    >>> from llmq.model.prefix import Prefix
    >>> same = Prefix.of([[0, 1], [0, 1], [0, 2]], block=512)
    >>> found(Trace([0, 1, 2], [1024, 1024, 800], [8, 8, 8], prefix=same))
    array([   0, 1008,  512])
    """
    prefix, hits = trace.prefix, np.zeros(len(trace), dtype=np.int64)
    if prefix is None:
        return hits
    prefix.per(kv_block)
    # Of each name the most whole KV blocks, as tokens, that a prompt had behind it.
    known: dict[int, int] = {}
    for i, size in enumerate(trace.prompt.tolist()):
        tokens, names, open_ = 0, prefix.row(i).tolist(), True
        for j, name in enumerate(names):
            inside = min(prefix.block, size - j * prefix.block) // kv_block * kv_block
            here = min(known.get(name, 0), inside)
            tokens += here if open_ else 0
            open_ = open_ and here == prefix.block
            known[name] = max(known.get(name, 0), inside)
        hits[i] = min(tokens, (size - 1) // kv_block * kv_block)
    return hits


def endless_hits(trace: Trace) -> dict[str, float]:
    """Return the share of the prompt tokens of each class that need not be computed.

    Each named block has to be computed once, by whoever is first. In whatever order a policy serves
    the requests, a class computes at least its tokens without a name and, once each, the blocks
    that only this class has.

    Parameters
    ----------
    trace : Trace
        Requests, with names of their prefix blocks or without.

    Returns
    -------
    dict of str to float
        From 0 to 1, for the classes that occur.

    Examples
    --------
    >>> from llmq.model.prefix import Prefix
    >>> same = Prefix.of([[0, 1], [0, 1], [0, 2]], block=512)
    >>> endless_hits(Trace([0, 1, 2], [1024, 1024, 1024], [8, 8, 8], prefix=same))
    {'all': 0.5}
    """
    asked: dict[int, int] = {}
    left: dict[int, int] = {}
    once: dict[int, tuple[int, int]] = {}
    for i, (size, klass) in enumerate(
        zip(trace.prompt.tolist(), trace.klass.tolist(), strict=True)
    ):
        names = [] if trace.prefix is None else trace.prefix.row(i).tolist()
        block = 0 if trace.prefix is None else trace.prefix.block
        asked[klass] = asked.get(klass, 0) + size
        left[klass] = left.get(klass, 0) + max(0, size - len(names) * block)
        for j, name in enumerate(names):
            inside = min(block, size - j * block)
            owner, least = once.get(name, (klass, inside))
            # -1: several classes have it, so none of them must compute it.
            once[name] = (owner if owner == klass else -1, min(least, inside))
    for owner, tokens in once.values():
        if owner >= 0:
            left[owner] += tokens
    return {trace.classes[k]: 1 - left[k] / asked[k] for k in sorted(asked)}


@checked
def unshared(trace: Trace, *, kv_block: int = 16) -> Trace:
    """Return the requests with only the prompt tokens that must be computed in any case.

    Its stability region is optimistic: no cache finds more, and the KV of what is found, which
    still has to be read and kept, is left out.

    Parameters
    ----------
    trace : Trace
        Requests with names of their prefix blocks.
    kv_block : int
        Tokens of a KV block.

    Returns
    -------
    Trace
        Shorter prompts, no names; a note says what was left out.
    """
    hits = found(trace, kv_block=kv_block)
    share = float(hits.sum() / trace.prompt.sum())
    note = f"prompts without the {share:.3g} of their tokens that an endless prefix cache finds"
    return Trace(
        trace.arrival,
        trace.prompt - hits,
        trace.output,
        trace.reasoning,
        trace.klass,
        trace.classes,
        trace.source,
        (*trace.notes, note),
    )
