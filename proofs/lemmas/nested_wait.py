r"""H1. Nested WAIT: its exponent is at least Hoeffding's.

Of ``n1`` requests each goes on with probability ``p``; the next segment takes ``n2`` of them,
``n1 p < n2 < n1``. The surplus has the exponent ``theta > 0`` that solves
``h(theta) = -theta n2 + n1 ln(1 - p + p e^theta) = 0``.

**Lemma.** There is exactly one, and ``theta >= 8 (n2 - n1 p) / n1``.

*Proof.* ``h(0) = 0``, ``h'(0) = n1 p - n2 < 0``, ``h`` is strictly convex, and ``h`` tends to
infinity because ``n2 < n1``: one positive root. Put ``L = ln(1 - p + p e^theta) - p theta``. With
``q = p e^theta / (1 - p + p e^theta)`` one has ``L'' = q (1 - q) = 1/4 - (q - 1/2)^2 <= 1/4`` and
``L(0) = L'(0) = 0``, so ``L <= theta^2 / 8`` (Hoeffding). At the root
``0 <= -theta n2 + n1 (p theta + theta^2 / 8)``; divide by ``theta``.

By the root, ``e^{theta X}`` of the surplus ``X`` is a martingale bound, so the surplus exceeds
``y`` with probability at most ``e^{-theta y}`` (Kingman), which gives the logarithmic safety stock;
the probabilistic step is cited (Ao et al., 2504.11320), the exponent is what is checked here.
"""

from __future__ import annotations

from fractions import Fraction

import sympy

from proofs.lemmas import holds


def main() -> None:
    """Check the derivatives with symbols, and instances with rational brackets of e^theta."""
    theta, n1, n2 = sympy.symbols("theta n1 n2", positive=True)
    p = sympy.Symbol("p", positive=True)
    L = sympy.log(1 - p + p * sympy.exp(theta)) - p * theta
    q = p * sympy.exp(theta) / (1 - p + p * sympy.exp(theta))
    curved = sympy.simplify(sympy.diff(L, theta, 2) - q * (1 - q))
    holds(curved == 0, "L'' = q (1 - q)")
    x = sympy.Symbol("x")
    gap = sympy.Rational(1, 4) - x * (1 - x) - (x - sympy.Rational(1, 2)) ** 2
    holds(sympy.expand(gap) == 0, "q (1 - q) = 1/4 - (q - 1/2)^2")
    starts = [sympy.simplify(f.subs(theta, 0)) for f in (L, sympy.diff(L, theta))]
    holds(starts == [0, 0], "L(0) = L'(0) = 0")
    least = 8 * (n2 - n1 * p) / n1
    bound = -theta * n2 + n1 * (p * theta + theta**2 / 8)
    holds(
        sympy.simplify(bound - theta * n1 / 8 * (theta - least)) == 0, "bound = 0 at 8(n2-n1 p)/n1"
    )
    for a, b, share in (
        (40, 20, Fraction(2, 5)),
        (10, 9, Fraction(1, 2)),
        (100, 2, Fraction(1, 100)),
    ):
        start = 8 * (b - a * share) / a
        holds(below_root(a, b, share, start), f"h <= 0 at the bound for ({a}, {b}, {share})")


def below_root(a: int, b: int, p: Fraction, theta: Fraction) -> bool:
    """Whether ``(1 - p + p e^theta)^a <= e^(theta b)``, with brackets of the exponential."""
    low, high = exponential(theta)
    return (1 - p + p * high) ** a <= low**b


def exponential(theta: Fraction) -> tuple[Fraction, Fraction]:
    """Rational bounds of ``e^theta``: Taylor's series and its remainder."""
    term, total, k = Fraction(1), Fraction(0), 0
    while k < 2 * theta + 30:
        total, k = total + term, k + 1
        term *= theta / k
    return total, total + 2 * term


if __name__ == "__main__":
    main()
