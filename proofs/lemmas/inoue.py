r"""Q1. Inoue's mean wait is a renewal-reward identity; his empty probability is a telescoping sum.

The server takes all who wait; ``b`` requests take ``tau(b) = alpha b + tau0``. The next batch is
``B' = N`` with ``N`` Poisson of mean ``rate tau(B)``, or 1 if ``N = 0``.

**Wait** (service included). The requests of the next batch came during the last service, uniformly:
together they waited ``rate tau^2 / 2`` on average, and a request that came to an idle server did
not wait. Then each is served for ``tau(B')``. Per batch, in stationarity,

    E[W] = (rate E[tau(B)^2] / 2 + E[B tau(B)]) / E[B].

Replacing 0 by 1 does not change ``B'(B' - 1)``: ``E[B (B - 1)] = rate^2 E[tau(B)^2]``. Eliminating
``E[tau^2]`` gives eq. 36 of arXiv 1912.06322:
``E[W] = alpha + tau0 + (1 + 2 rate alpha)(E[B^2] - E[B]) / (2 rate E[B])``.

**Empty probability.** ``G(z) = E[z^B]`` obeys
``G(z) = e^{-rate tau0 (1-z)} G(e^{-rate alpha (1-z)}) + (z - 1) P0``. With ``H(u) = G(1 - u)``,
``u_0 = 1``, ``u_{k+1} = 1 - e^{-rate alpha u_k}`` it reads ``H(u_k) = pi_k H(u_{k+1}) - u_k P0``,
``pi_k = e^{-rate tau0 u_k}``. As ``H(1) = G(0) = 0`` and ``u_k -> 0`` (``rate alpha < 1``),
``P0 = prod pi / sum_k u_k prod_{i<k} pi_i``.

Moments: the mean of the recursion gives ``E[B] (1 - rate alpha) = rate tau0 + P0``.
"""

from __future__ import annotations

import sympy

from proofs.lemmas import holds


def main() -> None:
    """Check the identity, the factorial moment and the telescoping with symbols."""
    alpha, tau0, rate, first, second = sympy.symbols("alpha tau0 rate E1 E2", positive=True)
    squared = (second - first) / rate**2
    area = rate * squared / 2 + alpha * second + tau0 * first
    eq36 = alpha + tau0 + (1 + 2 * rate * alpha) * (second - first) / (2 * rate * first)
    holds(sympy.simplify(area / first - eq36) == 0, "renewal reward = eq. 36")
    z, mu = sympy.symbols("z mu", positive=True)
    factorial = sympy.diff(sympy.exp(mu * (z - 1)), z, 2).subs(z, 1)
    holds(sympy.simplify(factorial - mu**2) == 0, "E[N (N - 1)] = mu^2; N = 0, 1 add nothing")
    u, pi = sympy.symbols("u:4"), sympy.symbols("pi:4")
    empty, last = sympy.symbols("P0 H4")
    value = last
    for k in (3, 2, 1, 0):
        value = pi[k] * value - u[k] * empty
    products = [sympy.prod(pi[:k]) for k in range(5)]
    told = products[4] * last - empty * sum(u[k] * products[k] for k in range(4))
    holds(sympy.expand(value - told) == 0, "H(u_0) = prod pi H - P0 sum u_k prod pi, 4 steps")
    balance = sympy.solve(sympy.Eq(first, rate * (alpha * first + tau0) + empty), first)[0]
    holds(
        sympy.simplify(balance - (rate * tau0 + empty) / (1 - rate * alpha)) == 0,
        "E[B] = (rate tau0 + P0) / (1 - rate alpha)",
    )


if __name__ == "__main__":
    main()
