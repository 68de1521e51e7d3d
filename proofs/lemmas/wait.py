r"""W1. The equilibrium of WAIT, and that its memory is the memory facet of Theorem U.

An iteration lasts ``d0 + d1 M``, ``M`` the KV of the batch. A request with prompt ``l`` and output
``o`` passes the stages ``0..o``, holding ``l + s`` in stage ``s``; with ``n_j`` requests of class
``j`` in each stage ``M = sum n_j g_j``, and ``n_j = rate_j (d0 + d1 M)`` keeps them in balance.

**Lemma.** With ``Lambda = sum rate_j g_j < 1 / d1``: ``g = (o + 1)(l + o / 2)``; the balance has
the one solution ``M = d0 Lambda / (1 - d1 Lambda)``, interval ``d0 / (1 - d1 Lambda)``; and
``M <= C`` if and only if ``Lambda (d1 + d0 / C) <= 1``, the memory facet with ``a = 0``. Tokens
come out at ``sum n_j o_j / interval = sum rate_j o_j``. No solution if ``d1 Lambda >= 1``.

*Proof.* Sum the balance over classes with weights ``g_j``: ``M = Lambda (d0 + d1 M)``, linear in
``M``. The rest is algebra.
"""

from __future__ import annotations

import sympy

from proofs.lemmas import holds


def main() -> None:
    """Check the identities with symbols."""
    d0, d1, C, prompt = sympy.symbols("d0 d1 C l", positive=True)
    s, o = sympy.symbols("s o", integer=True, positive=True)
    area = sympy.summation(prompt + s, (s, 0, o))
    holds(sympy.simplify(area - (o + 1) * (prompt + o / 2)) == 0, "g = (o + 1)(l + o / 2)")
    rates, areas = sympy.symbols("r1 r2", positive=True), sympy.symbols("g1 g2", positive=True)
    load = sum(r * g for r, g in zip(rates, areas, strict=True))
    memory = d0 * load / (1 - d1 * load)
    interval = d0 / (1 - d1 * load)
    counts = [r * interval for r in rates]
    held = sum(n * g for n, g in zip(counts, areas, strict=True))
    holds(sympy.simplify(held - memory) == 0, "M = sum n_j g_j")
    holds(sympy.simplify(d0 + d1 * memory - interval) == 0, "an iteration lasts d0 + d1 M")
    M = sympy.Symbol("M")
    solutions = sympy.solve(sympy.Eq(M, load * (d0 + d1 * M)), M)
    holds(len(solutions) == 1 and sympy.simplify(solutions[0] - memory) == 0, "one solution")
    room = sympy.simplify((C - memory) * (1 - d1 * load) - C * (1 - load * (d1 + d0 / C)))
    holds(room == 0, "C - M = C (1 - Lambda (d1 + d0 / C)) / (1 - d1 Lambda)")
    numbers = {d0: sympy.Rational(1, 100), d1: sympy.Rational(1, 10**7), rates[0]: 8, rates[1]: 4}
    numbers |= {areas[0]: 51 * 125, areas[1]: 101 * 250}
    holds(memory.subs(numbers) == sympy.Rational(1900000, 1231), "O7: M = 1900000 / 1231")


if __name__ == "__main__":
    main()
