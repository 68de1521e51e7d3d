r"""KV. What independent residents hold is compound Poisson.

In every iteration a Poisson number of mean ``rate`` starts to decode, independently; an output of
``o`` tokens stays ``o`` iterations and holds ``s + j`` tokens in its ``j``-th. Lengths are
independent of the arrivals, memory is unlimited.

**Lemma.** In stationarity the tokens held are a sum of independent compound Poisson numbers, one
for each age ``j``, with rate ``rate P(o >= j)`` and jumps ``s + j``; so the mean is
``rate E[sum_j (s + j)]`` and the variance ``rate E[sum_j (s + j)^2]``.

*Proof.* The starts of different iterations are independent, and thinning a Poisson number by
``{o >= j}`` leaves a Poisson number; age ``j`` now is the start ``j`` iterations ago. Cumulants of
a compound Poisson number are rate times the moments of its jumps, and cumulants of independent
numbers add. O18: ``s = 4``, ``o = 6``, rate 1/2: mean 45/2, variance 355/2.
"""

from __future__ import annotations

from fractions import Fraction

import sympy

from proofs.lemmas import holds


def main() -> None:
    """Check the cumulants with symbols, and O18."""
    w, t = sympy.symbols("w t")
    rates, jumps = sympy.symbols("a1:4", positive=True), sympy.symbols("x1:4", positive=True)
    log_mgf = sum(a * (sympy.exp(t * x) - 1) for a, x in zip(rates, jumps, strict=True))
    for order, name in ((1, "mean"), (2, "variance")):
        cumulant = sympy.diff(log_mgf, t, order).subs(t, 0)
        told = sum(a * x**order for a, x in zip(rates, jumps, strict=True))
        holds(sympy.expand(cumulant - told) == 0, f"{name}: sum of rates times jumps^{order}")
    thinned = sympy.exp(w * (rates[0] * (sympy.Symbol("z") - 1))).subs(
        sympy.Symbol("z"), 1 - sympy.Symbol("p") + sympy.Symbol("p") * sympy.Symbol("z")
    )
    poisson = sympy.exp(w * rates[0] * sympy.Symbol("p") * (sympy.Symbol("z") - 1))
    holds(sympy.simplify(thinned / poisson) == 1, "a thinned Poisson number is Poisson")
    held = [4 + j for j in range(1, 7)]
    half = Fraction(1, 2)
    moments = half * sum(held), half * sum(h * h for h in held)
    holds(moments == (Fraction(45, 2), Fraction(355, 2)), "O18: mean 45/2, variance 355/2")


if __name__ == "__main__":
    main()
