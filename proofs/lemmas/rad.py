r"""RAD: outer bound, stability, the finite-N bound T2, attention by monotonicity.

Reconstructed from secondary sources (arXiv 2508.01002 itself was not at hand). ``g`` equal nodes,
Poisson stream, requests ``(P, D)`` of bounded lengths. A batch with ``n`` tokens lasts
``t_lin ceil(n / b) + t_nl n`` plus attention: a prefill chunk of ``c`` tokens after ``k`` adds
``A(c, k) = a ceil(c / b) h(k + c)``, ``h`` nondecreasing (``ceil(. / b_row) + ceil(. / b_red)``);
a decode with context ``k`` adds ``e k``. Put ``u = t_lin / b + t_nl``.

**RAD1, outer bound.** ``ceil(n / b) >= n / b``, so a batch lasts at least ``u n`` plus attention.
Decodes add the same under every policy. Prefill: tile ``i`` of a prompt ends with token ``i b``; a
chunk of ``c`` tokens contains at most ``ceil(c / b)`` such ends, each at or before its own end, and
``h`` is monotone, so every way to cut ``P`` (a multiple of ``b``) adds at least ``a sum_i h(i b)``:
chunks of ``b``. Let ``d`` be ``u (P + D) + a sum_i h(i b) + e sum_j (P + j)``. Up to ``T``, ``g``
nodes work at most ``g T``: ``rate E[d] > g`` is unstable under every policy, with slope
``rate E[d] - g`` of the work (lemma D1).

*Caution.* RAD's chunks have ``lcm(b_row, b_col, b_red)`` tokens. They add the least attention if
``lcm = b`` or ``b_row = b_red = lcm``, not always: with ``b = 2``, ``b_row = b_red = 3`` a chunk of
6 adds 12, three chunks of 2 add 10. Then ``E[d]`` with RAD's chunks is no outer bound.

**RAD2, stability (N = infinity).** With ``d`` charged at RAD's own chunks, the backlog ``V`` of
``d`` falls by exactly the length ``tau`` of each full batch, and ``rate / g E[d] tau`` arrives on
average: drift ``-(1 - rate E[d] / g) tau``. A batch is not full only if nothing is left to prefill
and fewer than ``b`` requests decode (prompts are multiples of the lcm; ``|D| <= b`` because a
prefill runs only while ``|D| < b``): finitely many states. Foster, as in lemma S1. Bounds agree
where the caution allows, in particular without attention.

**T2, finite N.** If a cycle starts with at least ``N`` in the queue, every batch is full until
``N`` prefills are done; then at most ``b`` requests decode for at most ``D_max`` batches, each of
which wastes at most ``t_lin (1 - 1 / b)``. So ``E[cycle] <= N E[d] + W``,
``W = D_max t_lin (1 - 1 / b)``, and the queue falls in mean over a cycle if

    rate / g < N / (N E[d] + W),

which increases to ``1 / E[d]``. For ``N < b`` and equal lengths the cycle is exactly
``N d + D t_lin (1 - N / b)``, a cycle with fewer requests serves each in more time, and so
``rate / g > N / (N d + D t_lin (1 - N / b))`` is unstable: a small ``N`` loses capacity.
"""

from __future__ import annotations

from functools import cache
from itertools import product
from math import lcm

import sympy

from proofs.lemmas import holds


def attention(c: int, k: int, b: int, row: int, red: int) -> int:
    """Cost of a chunk of ``c`` tokens after ``k``."""
    return -(-c // b) * (-(-(k + c) // row) + -(-(k + c) // red))


@cache
def least(left: int, k: int, b: int, row: int, red: int) -> int:
    """Least attention of the rest of a prompt over every way to cut it."""
    if not left:
        return 0
    return min(
        attention(c, k, b, row, red) + least(left - c, k + c, b, row, red)
        for c in range(1, left + 1)
    )


def chunks(P: int, size: int, b: int, row: int, red: int) -> int:
    """Attention of a prompt in equal chunks."""
    return sum(attention(size, k, b, row, red) for k in range(0, P, size))


def cycle(jobs: list[tuple[int, int]], b: int, most: int | None) -> tuple[list[str], list[int]]:
    """Batches of RAD with tile ``b`` for jobs that all wait at 0, and their ends."""
    queue, decoding, done = list(range(len(jobs))), dict[int, int](), [0] * len(jobs)
    batches, current, left, started = list[str](), -1, 0, 0
    while queue or decoding or current >= 0:
        if current < 0 and not decoding:
            started = 0
        may = current >= 0 or (bool(queue) and (most is None or started < most))
        if len(decoding) == b or not may:
            batches.append("D" * len(decoding))
            decoding = {i: d - 1 for i, d in decoding.items()}
            for i in [i for i, d in decoding.items() if not d]:
                done[i] = len(batches)
                del decoding[i]
            continue
        if current < 0:
            current, started = queue.pop(0), started + 1
            left = jobs[current][0]
        left -= min(b, left)
        batches.append("P")
        if not left:
            decoding[current], current = jobs[current][1], -1
    return batches, done


def algebra() -> None:
    """Check drift, waste and the finite-N bound with symbols."""
    lin, nl, b, n, P, D, N, rate, W, d = sympy.symbols("lin nl b n P D N rate W d", positive=True)
    u = lin / b + nl
    waste = sympy.expand(lin + nl * n - u * n - lin * (1 - n / b))
    holds(waste == 0, "a batch of n < b tokens wastes t_lin (1 - n / b)")
    exact = N * (P * u + D * nl) + D * lin
    holds(
        sympy.expand(exact - (N * u * (P + D) + D * lin * (1 - N / b))) == 0,
        "a cycle of N < b equal requests lasts N d + D t_lin (1 - N / b)",
    )
    edge = sympy.solve(sympy.Eq(rate * (N * d + W), N), rate)[0]
    holds(sympy.simplify(edge - N / (N * d + W)) == 0, "T2: rate / g < N / (N d + W)")
    rise = sympy.simplify(sympy.diff(edge, N) - W / (N * d + W) ** 2)
    holds(rise == 0 and sympy.limit(edge, N, sympy.oo) == 1 / d, "T2 increases to 1 / d")


def main() -> None:
    """Check everything."""
    algebra()
    tiles = list(product((1, 2, 3), (1, 2, 3), (1, 2, 3)))
    monotone = all(
        least(P, 0, b, row, red) == chunks(P, b, b, row, red)
        for b, row, red in tiles
        for P in range(b, 13, b)
    )
    holds(monotone, "chunks of b tokens add the least attention, every cut, tiles <= 3, P <= 12")
    agree = all(
        chunks(2 * size, size, b, row, red) == least(2 * size, 0, b, row, red)
        for b, row, red in tiles
        if (size := lcm(b, row, red)) == b or row == red == size
    )
    holds(agree, "RAD's chunks add the least if lcm = b or b_row = b_red = lcm")
    holds(
        (chunks(6, 6, 2, 3, 3), least(6, 0, 2, 3, 3)) == (12, 10),
        "not always: 12 against 10 for b = 2, b_row = b_red = 3",
    )
    jobs = [(2, 2), (4, 1), (2, 1)]
    runs = {most: cycle(jobs, 2, most) for most in (None, 2, 1)}
    holds(
        {most: (len(batches), done) for most, (batches, done) in runs.items()}
        == {None: (6, [6, 4, 6]), 2: (7, [5, 4, 7]), 1: (8, [3, 6, 8])},
        "RAD by hand: 6, 7 and 8 batches for N = infinity, 2, 1",
    )
    holds("D" not in runs[None][0], "every batch is full for N = infinity")


if __name__ == "__main__":
    main()
