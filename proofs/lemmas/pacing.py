r"""P1. The inner bound: loads that a paced mix and gangs carry (``llmq.theory.region._inner``).

**Windows.** Class ``j`` may start a request at the iterations ``floor((i + theta_j) / x_j)``. Of
these, ``m`` consecutive iterations hold the ``i`` in a half-open interval of length ``x_j m``:
fewer than ``x_j m + 1``.

**Layers.** Once started, a request runs in every iteration; at age ``u`` it has ``r(u)`` tokens, a
slot or blocks. Tokens (full chunks, remainder, ones) only fall, slots are constant, blocks rise to
the peak: ``{u : r(u) > h}`` is an interval for each ``h``, of length ``m_h``. The total of a class
is a sum over whole ``h < max r`` of the starts in a window of ``m_h`` iterations, so it is below
``x_j sum_u r(u) + max r``. Totals are whole: below ``C + 1`` is at most ``C``. So the limits hold
in every iteration, whatever the offsets, if with ``N = rate_j / x_j``

    N (b - sum_j largest_j + 1) >= rates . v,     N (k_max - J + 1) >= rates . k,
    N (M - sum_j peak_j + blk) >= rates . (g + (blk - 1) k),

because ``blk ceil(z / blk) <= z + blk - 1``. A start for which nobody waits is skipped: totals
fall.

**Time.** ``K`` iterations last at most ``K f(cap)``, or ``c K + a B`` with a line above the curve
up to the cap, plus attention; their tokens and attention are at most ``sum_j (x_j (K + k_j) + 1)``
requests' worth. If ``load < 1``, take ``x_j`` a factor ``1 + eps`` above ``rate_j / N``: in any
interval of length ``T`` there are at least ``(1 + eps') rate_j T - const`` starts of class ``j``,
on every path. A queue with such a guaranteed service and stationary ergodic arrivals is stable
(Loynes).

**Gangs.** Frames as in lemma R: the requests of a frame are sorted by kind and run one kind after
the other, paced with ``J = 1`` or one by one. A kind with ``n`` requests takes at most
``n w + const``. Kinds that are rounded up run inside the envelope of the larger request: in each
prefill iteration at most its tokens, decodes at the same ages, so tokens, slots and blocks are at
most its own.

Hypotheses: lengths known at the start and bounded, memory taken as it is filled (``reserve =
"chunk"``), batch time nondecreasing in tokens. The lower margins of theory core 2.4 (one chunk, one
slot, one peak for any mix) follow from this for one class of fixed lengths and blocks of one token,
not for several.
"""

from __future__ import annotations

from fractions import Fraction
from itertools import product
from math import floor

from proofs.lemmas import holds

Profile = list[int]


def profiles(s: int, d: int, chunk: int, block: int) -> list[Profile]:
    """Tokens, slots and blocks of a request at each age."""
    tokens = [min(chunk, s - i) for i in range(0, s, chunk)] + [1] * d
    held = [sum(tokens[: u + 1]) for u in range(len(tokens))]
    return [tokens, [1] * len(tokens), [-(-h // block) for h in held]]


def largest_total(profile: Profile, pace: Fraction) -> int:
    """Largest total of a class over all iterations and offsets."""
    # One period of starts; the pattern changes only where an offset crosses a multiple of 1 / q.
    p, q = pace.numerator, pace.denominator
    worst = 0
    for part in range(q):
        starts = [0] * q
        for i in range(p):
            starts[floor((i + Fraction(part, q)) / pace) % q] += 1
        for now in range(q):
            total = sum(r * starts[(now - u) % q] for u, r in enumerate(profile))
            worst = max(worst, total)
    return worst


def main() -> None:
    """Check layers, windows and rounding up one by one."""
    shapes = list(product(range(1, 5), range(4), (1, 2, 3), (1, 2)))
    unimodal = all(
        is_interval([u for u, r in enumerate(profile) if r > h])
        for shape in shapes
        for profile in profiles(*shape)
        for h in range(max(profile))
    )
    holds(unimodal, "what a request holds rises at most once and falls at most once")
    paces = sorted({Fraction(p, q) for q in range(1, 7) for p in range(1, 2 * q + 1)})
    windows = all(
        largest_total(profile, pace) < pace * sum(profile) + max(profile)
        for shape in shapes
        for profile in profiles(*shape)
        for pace in paces
    )
    holds(
        windows, f"total < x sum r + max r: {len(shapes)} requests, {len(paces)} paces, all phases"
    )
    blocks = all(blk * -(-z // blk) <= z + blk - 1 for z in range(40) for blk in range(1, 9))
    holds(blocks, "blk ceil(z / blk) <= z + blk - 1")
    envelope = all(
        inside((s, d), (s + more, d + longer), chunk, block)
        for s, d, chunk, block in shapes
        for more, longer in product(range(4), repeat=2)
    )
    holds(envelope, "a request runs inside the envelope of a larger one")


def is_interval(ages: list[int]) -> bool:
    """Whether the ages are consecutive."""
    return not ages or ages[-1] - ages[0] + 1 == len(ages)


def inside(small: tuple[int, int], large: tuple[int, int], chunk: int, block: int) -> bool:
    """Whether a request fits under the envelope of a larger one, at each age."""
    tokens, _, blocks = profiles(*large, chunk, block)
    first = len(tokens) - large[1]
    held, left = 0, small[0]
    for u, most in enumerate(tokens):
        take = min(most, left) if u < first else int(u - first < small[1])
        left -= take if u < first else 0
        held += take
        if take > most or -(-held // block) > blocks[u]:
            return False
    return held == sum(small)


if __name__ == "__main__":
    main()
