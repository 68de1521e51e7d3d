r"""N1. Continuous batching of decodes: the batch is negative binomial; slots give a queue.

An engine that only decodes, iterations of ``c + a n``, as processor sharing: each of ``n`` requests
gets tokens at rate ``1 / (c + a n)``. For exponential work of mean ``o`` tokens and Poisson
arrivals the number present is a birth and death chain with births ``rate`` and deaths
``n / (o (c + a n))``, so with ``x = rate o a``, ``y = rate o c``, ``k = c / a``

    p_n = p_{n-1} (x + y / n),    hence    p_n = C(n + k, n) x^n (1 - x)^{1 + k}.

That the law of the output does not matter is cited (Cohen 1979: state-dependent processor sharing
is insensitive). *Moments*: ``G(z) = ((1 - x) / (1 - x z))^{1 + k}``. Tokens made in state ``n``
come at rate ``p_n n / (c + a n) = rate o p_{n-1}``: a token sees ``N + 1``, so the mean gap is
``c + a (1 + E[N]) = (c + a) / (1 - x)``.

With ``B`` slots and a queue, deaths have ``m = min(n, B)`` in place of ``n``: beyond ``B`` the law
is geometric with ratio ``x + y / B``, summable if and only if ``rate < B / (o (c + a B))``
(geometric outputs; no insensitivity once requests queue).
"""

from __future__ import annotations

import sympy

from proofs.lemmas import holds


def main() -> None:
    """Check ratio, sum, moments, the token's view and the slot cap with symbols."""
    a, c, o, rate = sympy.symbols("a c o rate", positive=True)
    x, k, z, n, B = sympy.symbols("x k z n B", positive=True)
    ratio = sympy.gammasimp(
        sympy.gamma(n + k + 1) / sympy.gamma(n + 1) * sympy.gamma(n) / sympy.gamma(n + k)
    )
    death = n / (o * (c + a * n))
    step = (rate / death - rate * o * (a + c / n)).subs(c, k * a)
    holds(sympy.simplify(step) == 0, "balance across a cut: p_n / p_{n-1} = x + y / n")
    holds(sympy.simplify(ratio * x - (x + k * x / n)) == 0, "C(n + k, n) x^n has these ratios")
    terms = sum(
        sympy.expand_func(sympy.ff(n_ + k, n_)) / sympy.factorial(n_) * x**n_ for n_ in range(7)
    )
    series = sympy.series((1 - x) ** (-1 - k), x, 0, 7).removeO()
    holds(sympy.expand(sympy.simplify(terms - series)) == 0, "sum = (1 - x)^{-1-k}, 7 terms")
    G = ((1 - x) / (1 - x * z)) ** (1 + k)
    # (1 - x z) G' = x (1 + k) G is the recursion n p_n = (x n + x k) p_{n-1}, for all n at once.
    recursion = (1 - x * z) * sympy.diff(G, z) - x * (1 + k) * G
    holds(sympy.simplify(recursion) == 0, "the generating function solves the recursion")
    mean = sympy.simplify(sympy.diff(G, z).subs(z, 1))
    holds(sympy.simplify(mean - x * (1 + k) / (1 - x)) == 0, "E[N] = (x + y) / (1 - x)")
    variance = sympy.diff(G, z, 2).subs(z, 1) + mean - mean**2
    holds(
        sympy.simplify(variance - (1 + k) * x / (1 - x) ** 2) == 0, "Var[N] = (1 + k) x / (1 - x)^2"
    )
    gap = k * a + a * (1 + mean)
    holds(sympy.simplify(gap - (k * a + a) / (1 - x)) == 0, "mean gap = (c + a) / (1 - x)")
    sojourn = mean.subs(k, c / a).subs(x, rate * o * a) / rate
    holds(sympy.simplify(sojourn - o * (c + a) / (1 - rate * o * a)) == 0, "E[T] by Little")
    capped = rate * o * (a + c / B)
    edge = sympy.solve(sympy.Eq(capped, 1), rate)[0]
    holds(sympy.simplify(edge - B / (o * (c + a * B))) == 0, "slots: rate < B / (o (c + a B))")


if __name__ == "__main__":
    main()
