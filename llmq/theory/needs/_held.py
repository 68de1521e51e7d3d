r"""KV that a request holds and reads, summed over the iterations that serve it.

For a prompt of ``s`` tokens in chunks of at most ``ch``, then ``d`` decodes:

* decode ``j`` holds ``s + j`` tokens;
* the prefill holds what is done of the prompt after each of its :math:`n = \lceil s / ch \rceil`
  chunks (area "chunked"), ``s`` once ("wait": one stage) or nothing ("decode_only").

**Least over all policies.** Full chunks first (what engines do) hold
:math:`\sum_{i=1}^{n} \min(i\,ch, s)`; the remainder first holds
:math:`\sum_{i \ge 0} (s - i\,ch)^+`, less where ``ch`` does not divide ``s``. *Proof* that no
order holds less: the last chunk ends with ``s`` tokens, and going back one chunk takes at most
``ch`` of them away, so the last but ``i`` ends with at least ``s - i ch``.

**Whole blocks.** Memory is given out in blocks of ``b`` tokens, so ``x`` tokens take
:math:`b \lceil x / b \rceil` of :math:`b \lfloor M / b \rfloor`. *Proof* that the least area may
be rounded up term by term: the bound above holds for each chunk, and rounding up keeps the order.

**Two rates of reading.** *Proof* that prompts read at ``per_kv_mixed``: an iteration that computes
a prompt token is a mixed one, and all that the chunks read is read in such iterations. A decode may
run in either kind, so it is charged the smaller rate where an engine does both phases.

Whatever charges KV calls this module: :mod:`llmq.theory.needs.demand` for means over a class,
:func:`llmq.theory.region._bounds.request_prices` request by request.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from llmq.model.time.batchtime import BatchTime

__all__ = [
    "decode_area",
    "decode_blocks",
    "parts_of_blocks",
    "prefill_area",
    "prefill_blocks",
    "read_rates",
]

# Object arrays where int64 could overflow: same expressions, Python integers inside.
Ints: TypeAlias = npt.NDArray[Any]


def prefill_area(prompt: Ints, chunk: int, area: str) -> tuple[Ints, Ints]:
    """Return the KV tokens that the prefill iterations hold.

    Examples
    --------
    >>> full, least = prefill_area(np.asarray([600]), 512, "chunked")
    >>> int(full[0]), int(least[0])
    (1112, 688)
    """
    if area != "chunked":
        once = prompt if area == "wait" else prompt * 0
        return once, once
    full, n = prompt // chunk, -(-prompt // chunk)
    return (
        chunk * (full * (full + 1) // 2) + prompt * (n - full),
        n * prompt - chunk * (n * (n - 1) // 2),
    )


def prefill_blocks(prompt: Ints, chunk: int, area: str, block: int) -> Ints:
    """Return the KV blocks that the prefill iterations hold, the remainder first.

    Examples
    --------
    >>> prefill_blocks(np.asarray([600]), 512, "chunked", 16).tolist()  # 88 and 600 tokens
    [44]
    """
    if area != "chunked":
        return -(-prompt // block) if area == "wait" else prompt * 0
    n = -(-prompt // chunk)
    # Any block that holds the longest prompt counts as one; a large one may overflow below.
    block = min(block, int(prompt.max(initial=1)))
    # Upwards from the first piece of r tokens: ceil((r + i chunk) / block) for i < n.
    blocks: Ints = _floor_sum(n, block, chunk, prompt - (n - 1) * chunk + block - 1)
    return blocks


def _floor_sum(n: Ints, divisor: int, step: int, start: Ints) -> Ints:
    """Sum of ``floor((step i + start) / divisor)`` over ``i < n``, as Euclid divides."""
    total = n * 0
    while np.any(n > 0):
        total = total + n * (n - 1) // 2 * (step // divisor) + n * (start // divisor)
        step, start = step % divisor, start % divisor
        most = step * n + start
        n, start, divisor, step = most // divisor, most % divisor, step, divisor
    return total


def decode_area(prompt: Ints, steps: Ints) -> Ints:
    """Return the KV tokens that the decode iterations hold.

    Examples
    --------
    >>> decode_area(np.asarray([10]), np.asarray([3])).tolist()  # 11, 12 and 13
    [36]
    """
    area: Ints = prompt * steps + steps * (steps + 1) // 2
    return area


def decode_blocks(prompt: Ints, steps: Ints, block: int) -> Ints:
    """Return the KV blocks that the decode iterations hold.

    Examples
    --------
    >>> decode_blocks(np.asarray([10]), np.asarray([8]), 4).tolist()  # 3, 3, 4, 4, 4, 4, 5, 5
    [32]
    """
    (full, rest), (rounds, some, alone) = parts_of_blocks(prompt, steps, block)
    blocks: Ints = full * steps + rest * rounds + alone + np.maximum(rest + some - block, 0)
    return blocks


def parts_of_blocks(
    prompt: Ints, steps: Ints, block: int
) -> tuple[tuple[Ints, Ints], tuple[Ints, Ints, Ints]]:
    r"""Take the blocks of the decodes apart into what prompts and what decodes say."""
    # With :math:`s = Q b + r` and :math:`d = q b + t` the decodes hold
    #
    # .. math:: \sum_{j=1}^{d} \lceil (s + j) / b \rceil
    #           = Q d + r q + \tfrac{b}{2} q (q + 1) + t (q + 1) + (r + t - b)^+
    #
    # blocks: each of the ``r`` tokens of a broken block moves the steps to the next one ahead
    # by one iteration, once in each round of ``b`` decodes.
    rounds, some = steps // block, steps % block
    alone = block * (rounds * (rounds + 1) // 2) + some * (rounds + 1)
    return (prompt // block, prompt % block), (rounds, some, alone)


def read_rates(law: BatchTime, phases: str = "both") -> tuple[float, float]:
    """Return the least seconds that any policy needs for a KV token that is read.

    Examples
    --------
    >>> read_rates(BatchTime.affine(base=1, per_token=1, per_kv=2, per_kv_mixed=3))
    (3, 2)
    """
    decodes = law.per_kv if phases == "decode" else min(law.per_kv, law.per_kv_mixed)
    return law.per_kv_mixed, decodes
