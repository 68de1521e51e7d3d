r"""WC, PACE, RANK. Policies that hold or swap: when that costs nothing, and when how much.

**WC.** SLAI offers every decode (critical ones first, the others last), every started prefill and
every new request to a batch. Without memory and slot limits and with as many decodes allowed as the
budget has tokens, its batches are full whenever the requests present could fill them. So it is
work-conserving, and S1 applies with the ``L`` of Sarathi: positive recurrent for
``rate v t(b) < b`` if the tile divides the budget. Pacing changes who waits, not how much is
served.

**PACE.** Budget ``b``, ``k <= b`` slots (one for each resident), no memory limit, prompts multiples
of ``b``, chunks of ``b``, at most ``m`` of them; a decode is never critical. That is certain for
``TBT >= (k m + 1 + theta) f(b)``: between two iterations of decodes at most ``k`` prompts start, of
``k m`` chunks. Let ``u_j = chunks_j f(b) + decodes_j f(k) / k + e g_j + w W_j`` and
``V`` the sum of what is left of ``u`` over all present.

*While anybody waits for a slot, each iteration removes from V exactly its duration*: if a prefill
has begun it takes the whole budget; else if a slot is free, a new prompt does; else all ``k``
residents decode, ``k`` tokens in ``f(k)``. So the drift of ``V`` is ``load - 1`` per second outside
the bounded set in which nobody waits: positive recurrent for ``load = lambda . u < 1`` (Foster).
Otherwise an iteration of ``n < k`` decodes lasts ``f(n) >= n f(k) / k``, if ``f(n) / n`` does not
rise up to ``k``: then ``V(T) >= arrived(T) - T`` always, so it diverges for ``load > 1``.
It is what RAD does with a tile of ``k``. For an affine law the region's load has
``c max(v / b, slots / k)`` where this has ``c (s / b + d / k)``: up to twice as much, never more.

**RANK.** Law ``c + a B + e KV + w work``. In each iteration slots (unlimited) and memory ``M`` are
dealt out in the order of any rank, possibly in several queues each of which stops at the first that
does not fit; who gets none waits with its KV on the host; a row that is served asks for its tokens
and the next one. Let ``h`` be what a request asks for, summed over its iterations, ``P`` the
largest it ever asks for, and ``V`` the sum over all present of what is left of
``a v + e g + w W + c h / (M - P)``.

*If anybody is left out, more than M - P was dealt out*: the first left out found less than ``P``.
So the iteration, ``c + a B + e KV + w work`` long, removes at least that from ``V``. Otherwise all
present fit into ``M`` and ``V`` is bounded. Drift ``load - 1`` outside a bounded set: positive
recurrent for ``load < 1``. The rank does not matter: FCFS, round robin, PASCAL's two queues. Swaps
move at most ``M`` out and ``M`` in per iteration: with ``sigma`` seconds a token replace ``c`` by
``c + 2 sigma M``. With a budget ``b < M``, whole prompts of at most ``s <= b`` tokens, who is left
out may have lacked tokens: then more than ``b - s`` were dealt out. Add ``c v / (b - s + 1)`` to
``V``: the iteration removes ``c`` by the one term or the other. Without a memory limit everybody
runs: with ``V`` from ``a v + e g + w W`` alone an iteration that removes ``x`` lasts ``c + x``, so
its drift is ``load (c + x) - x``, negative from ``x > c load / (1 - load)`` on, that is, once
enough are present. Lengths may be hidden from the policy: they belong to the state, not to the
rule.

**Refuted.** "A held decode keeps its slot for TBT, so at most ``k / (d TBT)`` requests per second
are served": as soon as no slot is free nothing is left to prefill, and the decodes run.
"""

from __future__ import annotations

from itertools import product

import sympy

from proofs.lemmas import holds


def held_path(requests: int, slots: int, chunks: int, decodes: int) -> tuple[int, int]:
    """Serve equal requests, prefill first: chunks and decodes; -1 if a slot idled in between."""
    waiting, rows, prefills, tokens = requests, list[int](), 0, list[int]()
    begun = 0  # chunks of the prompt in progress
    while waiting or rows or begun:
        if begun or (waiting and len(rows) < slots):
            waiting -= not begun
            begun += 1
            prefills += 1
            if begun == chunks:
                begun = 0
                if decodes:
                    rows.append(decodes)
        else:
            tokens.append(len(rows))
            if waiting and len(rows) < slots:
                return -1, -1
            rows = [left - 1 for left in rows if left > 1]
    return prefills, sum(tokens)


def dealt(needs: tuple[int, ...], memory: int, queues: tuple[int, ...]) -> tuple[int, bool]:
    """Memory dealt out in order, each queue stopping at its first misfit; was anybody left out."""
    free, shut = memory, set[int]()
    for need, queue in zip(needs, queues, strict=True):
        if queue in shut:
            continue
        if need <= free:
            free -= need
        else:
            shut.add(queue)
    return memory - free, bool(shut)


def main() -> None:
    """Check the two paths in whole numbers and the algebra of the loss."""
    whole = all(
        held_path(n, k, m, d) == (n * m, n * d)
        for n, k, m, d in product((1, 5, 12), (1, 2, 4), (1, 2, 3), (1, 2, 5))
    )
    holds(whole, "while anybody waits: a whole chunk, or all slots decode; all is served once")
    c, a, s, d, b, k = sympy.symbols("c a s d b k", positive=True)
    held = s / b * (c + a * b) + d / k * (c + a * k)
    holds(
        sympy.expand(held - a * (s + d) - c * (s / b + d / k)) == 0, "u = a v + c (s / b + d / k)"
    )
    x, y = sympy.symbols("x y", positive=True)  # s / b, d / k
    gap = 2 * sympy.Max(x, y).rewrite(sympy.Abs) - (x + y)
    holds(sympy.simplify(gap - sympy.Abs(x - y)) == 0, "2 max(x, y) - (x + y) = |x - y| >= 0")
    over = all(
        used > memory - max(needs)
        for memory in (5, 8)
        for needs in product((1, 2, 4), repeat=4)
        for queues in ((0, 0, 0, 0), (0, 0, 1, 1), (0, 1, 1, 1))
        for used, left in [dealt(needs, memory, queues)]
        if left
    )
    holds(over, "who is left out leaves less than a peak free, one queue or two")
    n = sympy.symbols("n", positive=True)
    affine = (c + a * n) - n * (c + a * k) / k
    holds(sympy.simplify(affine - c * (1 - n / k)) == 0, "f(n) - n f(k) / k = c (1 - n / k) >= 0")


if __name__ == "__main__":
    main()
