r"""B1. Bailey's slots: mean and empty probability from the roots.

``Q' = (Q + A - b)^+``, ``A`` Poisson of mean ``m < b``; ``D(z) = z^b - e^{m (z - 1)}``.

**Lemma.** With ``z_1..z_{b-1}`` the roots of ``D`` in the open unit disc,
``E[Q] = sum 1 / (1 - z_k) - (b (b - 1) - m^2) / (2 (b - m))`` and
``P(Q = 0) = (b - m) e^m prod z_k / (z_k - 1)``.

*Proof.* Let ``x_j = P(Q + A = j)``. The recursion gives
``z^b Q(z) = sum_{j<b} x_j (z^b - z^j) + Q(z) e^{m(z-1)}``, so ``Q(z) D(z)`` is the sum, a
polynomial of degree ``b``. It vanishes at 1, and at each ``z_k`` because ``Q`` is finite in the
disc (Rouché: there are exactly ``b - 1`` roots inside). So
``Q(z) = K (z - 1) prod (z - z_k) / D(z)``, and ``Q(1) = 1`` gives
``K prod (1 - z_k) = D'(1) = b - m``. Differentiate ``ln Q`` at 1, where
``(z - 1) / D = 1 / (D'(1) + D''(1)(z - 1) / 2 + ...)``; put ``z = 0``.
"""

from __future__ import annotations

import sympy

from proofs.lemmas import holds


def main() -> None:
    """Check the recursion for a few b, the derivative for all, and one place."""
    z, m = sympy.symbols("z m", positive=True)
    b = sympy.Symbol("b", integer=True, positive=True)
    D = z**b - sympy.exp(m * (z - 1))
    first, second = (sympy.simplify(sympy.diff(D, z, i).subs(z, 1)) for i in (1, 2))
    holds(sympy.simplify(first - (b - m)) == 0, "D'(1) = b - m")
    holds(sympy.simplify(second - (b * (b - 1) - m**2)) == 0, "D''(1) = b (b - 1) - m^2")
    d1, d2, h = sympy.symbols("d1 d2 h", positive=True)
    factor = d1 / (d1 + d2 * h / 2)
    slope = sympy.diff(factor, h).subs(h, 0)
    holds(sympy.simplify(slope + d2 / (2 * d1)) == 0, "slope of D'(1)(z - 1)/D at 1 = -D''/(2 D')")
    w = sympy.Symbol("w")
    root = sympy.diff((z - w) / (1 - w), z).subs(z, 1)
    holds(sympy.simplify(root - 1 / (1 - w)) == 0, "each root adds 1 / (1 - z_k)")
    holds(all(recursion(places) for places in (1, 2, 3, 4)), "z^b E[z^(X-b)^+], b <= 4")
    holds(D.subs(z, 0) == -sympy.exp(-m), "D(0) = -e^{-m}, so P(Q = 0) = (b - m) e^m prod ...")
    mean = -(second / (2 * first)).subs(b, 1)
    holds(sympy.simplify(mean - m**2 / (2 * (1 - m))) == 0, "one place: m^2 / (2 (1 - m))")
    holds(instance(), "O9 (1.8, 2): 3.864461786488 and 0.284984631228, 30 digits")


def recursion(b: int) -> bool:
    """Whether ``z^b E[z^{(X-b)^+}] = sum_{j<b} x_j (z^b - z^j) + E[z^X]``, ``X < b + 4``."""
    z = sympy.Symbol("z")
    x = sympy.symbols(f"x:{b + 4}")
    left = z**b * sum(p * z ** max(j - b, 0) for j, p in enumerate(x))
    right = sum(x[j] * (z**b - z**j) for j in range(b)) + sum(p * z**j for j, p in enumerate(x))
    return bool(sympy.expand(left - right) == 0)


def instance() -> bool:
    """Compare the formulas at (1.8, 2) with those of a truncated chain (oracle O9)."""
    import mpmath as mp

    mp.mp.dps = 30
    m = mp.mpf("1.8")
    root = mp.findroot(lambda z: z**2 - mp.exp(m * (z - 1)), -0.4)
    mean = 1 / (1 - root) - (2 - m**2) / (2 * (2 - m))
    empty = (2 - m) * mp.exp(m) * root / (root - 1)
    return bool(
        abs(root) < 1
        and abs(mean - mp.mpf("3.864461786488")) < 1e-12
        and (abs(empty - mp.mpf("0.284984631228")) < 1e-12)
    )


if __name__ == "__main__":
    main()
