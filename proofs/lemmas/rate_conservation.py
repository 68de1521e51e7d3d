r"""U1. Theorem U, necessity: rates with a load above 1 are unstable under every policy.

**Model.** One engine; an iteration with ``B >= 1`` tokens, at most ``b``, lasts at least
``f(B) + e kappa + w work``, with ``kappa`` the KV it reads, at most ``M`` held and at most ``k``
rows. A request with prompt ``s`` and ``d`` decodes, chunks of at most ``ch``, is whole only after

* ``v = s + d`` tokens, because each token of it is computed at least once;
* ``ceil(s / ch) + d`` iterations in which it has a row, since a row takes at most ``ch`` prompt
  tokens and at most one decode per iteration;
* KV ``g`` summed over the iterations that serve it. Decode ``j`` needs ``s + j`` on the device.
  After the ``i``-th of ``n`` prefill iterations at least ``s - (n - i) ch`` are held, so the
  prefill holds at least ``n s - ch n (n - 1) / 2`` in sum with ``n = ceil(s / ch)`` (remainder
  first), and more iterations only add terms;
* memory ``h``, the same in whole blocks of ``beta`` tokens: who holds ``x`` tokens takes
  ``ceil(x / beta)`` of the blocks, and rounding up keeps the order of the bounds for each ``i``, so
  the prefill takes at least ``beta sum_i ceil((s - i ch) / beta)``, decode ``j`` just
  ``beta ceil((s + j) / beta)``;
* work ``s^2 / 2``, however the prompt is cut: ``sum c (k + c / 2)`` telescopes.

Eviction, recomputation, swapping and waiting while resident only add to each of these.

**Proof.** Let ``C_j(T)`` requests of class ``j`` be finished by ``T``, in ``K`` iterations with
``B`` tokens. Then ``K b >= B``, ``K k >= C . k``, ``K M >= C . h`` (``M`` the tokens of the whole
blocks) and ``B >= C . v``. With the
convex envelope ``max_i (c_i + a_i n)`` of ``f`` on ``1..b`` (Jensen), ``c_i`` of an active piece
and ``a_i >= 0``,

    T >= sum f(B_n) + e C . g + w C . W >= c_i K + a_i B + e C . g + w C . W >= C . w

for each facet ``w = c_i n^f + a_i v + e g + w W``, ``n^f`` one of ``v / b``, ``k / k_max``,
``h / M`` where ``c_i >= 0`` (for ``c_i < 0`` the piece is dominated by the best rate
``f(B) >= a* B``). So at most ``T`` priced work is finished while ``T rate . w > T`` arrives: the
number of unfinished requests grows at least at rate ``(load - 1) / max w`` almost surely.

Where iterations with prompt tokens read KV at ``e_p`` and the others at ``e_d``, the chunks of a
prompt are read in the first kind only: ``e g`` is at least ``e_p`` times the area of the prefill
and ``min(e_p, e_d)`` times that of the decodes.

Where all prompts share one slot, an iteration with ``x`` prompt tokens and ``y`` decodes has
``y + [x > 0] <= k`` and ``x + y <= b``, hence ``y + x / (b - k + 1) <= k``.
"""

from __future__ import annotations

from functools import cache
from itertools import product

import sympy

from proofs.lemmas import holds


@cache
def least_area(s: int, ch: int, held: int = 0) -> int:
    """Least KV summed over prefill iterations, over every way to cut the prompt."""
    if held == s:
        return 0
    return min(held + c + least_area(s, ch, held + c) for c in range(1, min(ch, s - held) + 1))


@cache
def least_blocks(s: int, ch: int, block: int, held: int = 0) -> int:
    """Least KV blocks summed over prefill iterations, over every way to cut the prompt."""
    if held == s:
        return 0
    return min(
        -(-(held + c) // block) + least_blocks(s, ch, block, held + c)
        for c in range(1, min(ch, s - held) + 1)
    )


def facets() -> None:
    """Check the algebra of the three facets and of the cases that the literature knows."""
    c, a, e, b, k, M = sympy.symbols("c a e b k M", positive=True)
    lam, v, slots, g = sympy.symbols("lambda v slots g", positive=True)
    weights = [a * v + e * g + c * n for n in (g / M, v / b, slots / k)]
    counts = [lam * g / M, lam * v / b, lam * slots / k]
    times = [c * n + a * lam * v + e * lam * g for n in counts]
    same = all(sympy.expand(t - lam * w) == 0 for t, w in zip(times, weights, strict=True))
    holds(same, "c N + a B + e KV at each N is rate times the facet's weight")
    memory, tokens, _ = weights
    d0, d1, Lam = sympy.symbols("d0 d1 Lambda", positive=True)
    wait = (lam * memory).subs({a: 0, e: d1, c: d0}).subs(lam, Lam / g)
    holds(sympy.simplify(wait - Lam * (d1 + d0 / M)) == 0, "WAIT: Lambda (d1 + d0 / C)")
    holds(memory.subs({a: 0, e: 0}) == c * g / M, "Nie: b E[g] / M; Dong-Cao with c = 1: w / M")
    dai = sympy.simplify((lam * tokens).subs(e, 0) - lam * v * (c + a * b) / b)
    holds(dai == 0, "Dai: rate v t(b) / b")
    holds(tokens.subs({c: 0, e: 0}) == a * v, "RAD: rate v u")


def counts() -> None:
    """Check areas, work and the shared slot one by one."""
    cases = list(product(range(1, 10), range(1, 5)))
    n = {(s, ch): -(-s // ch) for s, ch in cases}
    area = all(
        least_area(s, ch) == n[s, ch] * s - ch * n[s, ch] * (n[s, ch] - 1) // 2 for s, ch in cases
    )
    holds(area, "least prefill area = n s - ch n (n - 1) / 2, every cut, s <= 9, ch <= 4")
    blocks = all(
        least_blocks(s, ch, block) == sum(-(-(s - i * ch) // block) for i in range(n[s, ch]))
        for (s, ch), block in product(cases, range(1, 6))
    )
    holds(blocks, "least prefill blocks: the remainder first, every cut, blocks of 1 to 5")
    held, chunk = sympy.symbols("held chunk")
    step = (held + chunk) ** 2 / 2 - held**2 / 2
    holds(sympy.expand(step - chunk * (held + chunk / 2)) == 0, "work telescopes to s^2 / 2")
    shared = all(
        y * (b - k + 1) + x <= k * (b - k + 1)
        for b, k in product(range(1, 9), repeat=2)
        if b >= k
        for x, y in product(range(b + 1), range(k + 1))
        if x + y <= b and y + (x > 0) <= k
    )
    holds(shared, "y + x / (b - k + 1) <= k for every batch, k <= b <= 8")


def main() -> None:
    """Check everything."""
    facets()
    counts()


if __name__ == "__main__":
    main()
