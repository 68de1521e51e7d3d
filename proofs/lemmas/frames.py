r"""R. The region: a gauge and a polytope; every load below 1 is carried by collecting requests.

**Gauge.** ``rho*(rates)``, the value of the static planning problem, is positively homogeneous
(scale ``u`` and flows), nondecreasing (more demand, fewer solutions) and subadditive (add two
solutions), hence convex. There are finitely many batches, so the dual polyhedron has finitely many
vertices and ``{rho* <= 1}`` is a polytope whose facets are dual vertices.

**Necessity**: lemma D1. **Sufficiency** (no memory limit, no slot limit but one that all prompts
share, KV reads that do not depend on the schedule; bounded lengths, stationary ergodic arrivals):
if ``rho* < 1`` some policy is stable.

*Proof.* Cut time into frames of length ``H``; send each request of a class along route ``r`` with
the probability ``f_jr / rate_j`` of an optimal solution. Round ``n`` prefills the requests of frame
``n`` and decodes those of frame ``n - 1``; it starts when round ``n - 1`` and frame ``n`` are over.

1. *A round takes at most* ``rho(work) + C`` with ``C`` independent of ``H``. Run each batch of an
   optimal solution for the work at hand, rounded up: at most one extra iteration per batch in use,
   and there are fewer of these than buffers, limits and pools. Requests supply the tokens in any
   order. When a batch first asks for more tokens of a buffer than can be supplied, fewer than ``b``
   requests have such tokens left, because each supplies at least one: at most ``b (s_max + d_max)``
   tokens, which are served one by one at the end. Otherwise everything is served as planned.
   Attention and KV reads of a request are constants. (Filling batches to the end instead leaves at
   most ``ceil(s_max / ch) + d_max`` of them short, checked below.)
2. ``work(H) / H`` tends to the rates in mean, and ``rho*`` is Lipschitz, so the mean of
   ``rho(work)`` is ``H rho* + o(H)``. Choose ``H`` with ``H rho* + o(H) + C < H``.
3. Rounds are then a single-server queue with stationary ergodic services of mean below the gap
   ``H`` between its arrivals: it has a finite stationary wait (Loynes). Pools run their part of a
   round side by side; ``rho*`` bounds each. ``n`` equal engines split their part evenly.

So the boundary of the region separates what some policy carries from what none does. The policy is
a proof device: its delay is of the order ``H``. That MaxWeight also does it is cited (Dai and Lin).
"""

from __future__ import annotations

from itertools import combinations_with_replacement, product

import sympy

from proofs.lemmas import holds

Row = tuple[int, int]  # prompt tokens left, decodes left


def short_batches(rows: tuple[Row, ...], budget: int, chunk: int) -> int:
    """Batches that are not full when requests are served in the order given."""
    left, short = [list(row) for row in rows], 0
    while left:
        room = budget
        for row in left:
            place = 0 if row[0] else 1
            take = min(row[0] or 1, chunk, room)
            row[place] -= take
            room -= take
        short += room > 0
        left = [row for row in left if any(row)]
    return short


def short_of(rows: tuple[Row, ...], budget: int, chunk: int) -> bool:
    """Whether requests cannot fill a batch although as many as its tokens are left."""
    supplied = sum(min(p, chunk) if p else 1 for p, _ in rows)
    return supplied < budget <= len(rows)


def main() -> None:
    """Check the combinatorial steps one by one, and the waiting time of rounds."""
    rows = list(product(range(4), range(1, 4)))
    bound = all(
        short_batches(group, budget, chunk)
        <= max(-(-s // chunk) for s, _ in group) + max(d for _, d in group)
        for n in (1, 2, 3)
        for group in combinations_with_replacement(rows, n)
        for budget, chunk in ((1, 1), (2, 1), (3, 2), (4, 2), (5, 4))
    )
    holds(bound, "short batches <= ceil(s_max / ch) + d_max, up to 3 requests, lengths <= 3")
    groups = [g for n in range(1, 5) for g in combinations_with_replacement(rows, n)]
    left = any(short_of(g, budget, ch) for g in groups for budget in range(1, 5) for ch in (1, 2))
    holds(not left, "a batch can be short only if fewer than b requests are left")
    rho, C, H = sympy.symbols("rho C H", positive=True)
    slack = sympy.solve(sympy.Eq(H * rho + C, H), H)[0]
    holds(sympy.simplify(slack - C / (1 - rho)) == 0, "rounds drain if H > C / (1 - rho)")


if __name__ == "__main__":
    main()
