"""T1. Full tiles serve most tokens per second, if the tile divides the budget.

An iteration of ``b`` tokens lasts ``t(b) = c + a n`` with ``n = ceil(b / b0)`` tiles;
``a, c >= 0``.

**Lemma.** If the budget is ``K b0``, then ``b / t(b) <= K b0 / t(K b0)`` for ``0 < b <= K b0``.

*Proof.* With ``b <= n b0`` and ``n <= K``,

    K b0 (c + a n) - b (c + a K) = (n b0 - b) (c + a K) + c b0 (K - n) >= 0.

Time for each token beside it adds the same to ``t(b) / b`` of every batch: no comparison changes.

If the tile does not divide the budget, ``B = q b0 + delta``, the cut tile pays exactly if
``delta / b0 > a q / (c + a q)``. With ``t(b) = 2 + 10 ceil(b / 64)`` and ``B = 100`` it does not:
``b = 64`` serves 16/3 tokens per unit of time, the full budget 50/11 (oracle O4).

With z3 installed (extra ``smt``) its verdict on the negation over the reals is asked for as well;
the identity above is the proof, with or without it.
"""

from __future__ import annotations

from fractions import Fraction
from importlib.util import find_spec
from itertools import product
from typing import Any

import sympy

from proofs.lemmas import holds, says


def time(b: int, base: int, per_tile: int, tile: int) -> int:
    """Duration of an iteration of ``b`` tokens."""
    return base + per_tile * -(-b // tile)


def identity() -> None:
    """Check the slack, the criterion for a cut tile, and small cases one by one."""
    a, b, c, b0, n, K, q, delta = sympy.symbols("a b c b0 n K q delta", nonnegative=True)
    slack = K * b0 * (c + a * n) - b * (c + a * K)
    parts = (n * b0 - b) * (c + a * K) + c * b0 * (K - n)
    holds(sympy.expand(slack - parts) == 0, "slack = (n b0 - b)(c + a K) + c b0 (K - n)")
    ragged = (q * b0 + delta) * (c + a * q) - q * b0 * (c + a * (q + 1))
    holds(
        sympy.expand(ragged - (delta * (c + a * q) - a * q * b0)) == 0,
        "a cut tile pays if and only if delta (c + a q) > a q b0",
    )
    small = all(
        b * time(K * tile, c, a, tile) <= K * tile * time(b, c, a, tile)
        for c, a, tile, K in product(range(4), range(4), range(1, 5), range(1, 5))
        for b in range(1, K * tile + 1)
    )
    holds(small, "T1 for c, a <= 3, b0, K <= 4 and every b")


def mismatch() -> None:
    """Find the batch that beats the full budget in O4."""
    rates = {b: Fraction(b, time(b, 2, 10, 64)) for b in range(1, 101)}
    best = [b for b, rate in rates.items() if rate == max(rates.values())]
    holds(best == [64] and rates[64] == Fraction(16, 3), "O4: b = 64 is best, 16/3")
    loss = 1 - rates[100] / rates[64]
    holds(loss == Fraction(13, 88), "O4: filling the budget of 100 loses 13/88")


def solver(z3: Any) -> None:
    """Ask z3 for a counterexample to T1 (none) and to filling the budget in O4 (64)."""
    a, b, c, b0, n, K = z3.Reals("a b c b0 n K")
    given = [a >= 0, c >= 0, b0 > 0, b > 0, b <= n * b0, n >= 1, n <= K]
    ask = z3.Solver()
    ask.add(*given, b * (c + a * K) > K * b0 * (c + a * n))
    holds(ask.check() == z3.unsat, "z3: no counterexample to T1 over the reals")
    size, tiles = z3.Ints("size tiles")
    search = z3.Optimize()
    search.add(size >= 1, size <= 100, 64 * tiles >= size, 64 * (tiles - 1) < size)
    search.add(size * time(100, 2, 10, 64) > 100 * (2 + 10 * tiles))
    search.maximize(size * time(100, 2, 10, 64) - 100 * (2 + 10 * tiles))
    found = search.check() == z3.sat and search.model()[size].as_long()
    holds(found == 64, "z3: the counterexample b = 64 of O4")


def main() -> None:
    """Check everything."""
    identity()
    mismatch()
    if find_spec("z3") is None:
        says("z3 is not installed: the identity and the exhaustive search stand alone")
    else:
        import z3

        solver(z3)


if __name__ == "__main__":
    main()
