"""S1. Full batches except on a bounded backlog are stable; and how large that backlog is.

Requests have bounded lengths and arrive as a Poisson stream of rate ``rate``, ``v`` tokens each on
average. ``V`` is the backlog in tokens when an iteration starts.

**Lemma.** Let every iteration that starts with ``V > L`` serve exactly ``b`` tokens in time ``t``,
and every other one last at most ``t_max`` (idle until an arrival counts as one step). If
``rate v t < b`` the job-list chain at iteration starts is positive recurrent on the states that
the empty one reaches; outside the set ``{V <= L}``, which is finite,

    E[V' - V] = rate v t - b =: -eps < 0.

*Proof.* The work that arrives during ``t`` has mean ``rate v t``. Inside the set
``E[V'] <= L + v + rate v t_max`` is bounded. That is Foster's criterion; the empty state is reached
from each state of the finite set, because with positive probability nothing arrives until it is.

**Sarathi, Orca** (any policy that fills the budget ``b`` whenever residents and waiting requests
can supply it; chunks of at most ``ch``):
``L = (b - 1) max(1 + d_max, ceil((s_max + d_max) / ch))``. In a batch that is not full each request
offers a decode (at most ``d_max`` left), the ``p <= ch`` prompt tokens that it lacks (``p + d_max``
left), or ``ch`` tokens (``s_max + d_max`` left): each offered token stands for at most that
maximum, and fewer than ``b`` are offered. ``L = b d_max`` (sometimes printed) is too small: nine
requests (1, 1) offer 9 < 10 tokens and hold 18 > 10.

**RAD (N = infinity)**: a batch that is not full says that nothing is left to prefill and fewer than
``b_col`` requests decode: ``L = (b_col - 1) d_max``.

Explicit constants: from backlog ``V > L`` the set is reached after at most ``(V - L + b) / eps``
iterations on average: ``V + eps n`` is a supermartingale up to then, and it stops above ``L - b``.
"""

from __future__ import annotations

from itertools import combinations_with_replacement, product

import sympy

from proofs.lemmas import holds

Row = tuple[int, int]  # prompt tokens left, decodes left


def offered(rows: tuple[Row, ...], chunk: int) -> int:
    """Tokens that a batch could take."""
    return sum(min(p, chunk) if p else 1 for p, _ in rows)


def largest_short(budget: int, prompt: int, decodes: int, chunk: int) -> int:
    """Largest backlog at which a full batch cannot be formed, over every state."""
    kinds = [row for row in product(range(prompt + 1), range(decodes + 1)) if any(row)]
    return max(
        sum(map(sum, rows))
        for n in range(budget)
        for rows in combinations_with_replacement(kinds, n)
        if offered(rows, chunk) < budget
    )


def main() -> None:
    """Check everything."""
    rate, v, t, b, V, L = sympy.symbols("rate v t b V L", positive=True)
    drift = (V - b + rate * t * v) - V
    eps = b - rate * v * t
    holds(sympy.simplify(drift + eps) == 0, "E[V' - V] = -(b - rate v t)")
    u = sympy.symbols("u", positive=True)
    # RAD measures backlog in seconds of full tiles: t = u b, so eps = t (1 - rate v u).
    holds(sympy.simplify(eps.subs(t, u * b) - b * (1 - rate * v * u)) == 0, "eps = b (1 - load)")
    steps = (V - L + b) / eps
    holds(sympy.simplify(V + steps * drift - (L - b)) == 0, "mean steps to L: (V - L + b) / eps")
    level = sharp = True
    for budget, prompt, decodes, chunk in product((1, 2, 3, 4), (1, 2, 3), (1, 2), (1, 2, 3)):
        worst = largest_short(budget, prompt, decodes, chunk)
        most = (budget - 1) * max(1 + decodes, -(-(prompt + decodes) // chunk))
        level, sharp = level and worst <= most, sharp and (chunk < prompt or worst == most)
    holds(level, "no short batch leaves more than L, every state with b <= 4, lengths <= 3 and 2")
    holds(sharp, "and some leave as much, where prompts are not cut")
    rows = ((1, 1),) * 9
    holds(
        offered(rows, 1) < 10 < sum(map(sum, rows)), "nine requests (1, 1) beat L = b d_max, b = 10"
    )


if __name__ == "__main__":
    main()
