r"""SP. Planning problems with a closed form: primal and dual of equal value.

One engine, requests with mean prompt ``P`` and output ``D``, batches of ``p`` and ``d`` tokens with
``p + d <= B`` and ``d <= M``; ``theta`` is the largest rate. The dual prices ``y_p, y_d`` (per
token) and ``w`` (per unit of time) need ``w T(p, d) >= y_p p + y_d d`` for every batch and
``y_p P + y_d D >= 1``; then ``theta <= w``.

**L1** (time depends on ``n = p + d``, no cap binds): ``theta = n* / (T(n*) (P + D))``, ``n*`` the
best ``n / T(n)``; ``y = 1 / (P + D)``. Dual feasible because ``n / T(n) <= n* / T(n*)``.

**L2** (``T = c + a n``): ``theta = 1 / (c max((P + D) / B, D / M) + a (P + D))``. If tokens bind,
``y = (a + c / B) theta``; if the cap binds, ``y_p = a theta``, ``y_d = (a + c / M) theta``; the
dual slack of a batch is ``c theta (1 - n / B)`` or ``c theta (1 - d / M)``. Primal: that many
iterations have room for all tokens and all decodes.

**L3** (``T = u n``, separate batches): ``theta = 1 / (u (P + D))``: L1.

**Static split.** ``g`` nodes, works ``d_p`` and ``d_d`` of a request: ``g / (d_p + d_d)`` if any
node may do both, ``max min(g_p / d_p, g_d / d_d)`` if not: equal if and only if the balance
``x = g d_p / (d_p + d_d)`` is whole, and less by at most a share ``1 / g``, because of the mediant
of ``floor(x) / x`` and ``floor(g - x) / (g - x)``. Engines that can be divided lose nothing: with
``mu = 1 / d`` they carry ``N mu_p mu_d / (mu_p + mu_d)`` at ``n_p / n_d = mu_d / mu_p``.
"""

from __future__ import annotations

from fractions import Fraction
from itertools import product

import sympy

from proofs.lemmas import holds


def closed_forms() -> None:
    """Check L1 and L2 with symbols."""
    a, c, B, M, P, D, p, d, T = sympy.symbols("a c B M P D p d T", positive=True)
    n = p + d
    tokens = 1 / (c * (P + D) / B + a * (P + D))
    price = (a + c / B) * tokens
    slack = tokens * (c + a * n) - price * n - c * tokens * (1 - n / B)
    holds(sympy.simplify(slack) == 0, "L2, tokens bind: dual slack c theta (1 - n / B)")
    holds(sympy.simplify(price * (P + D) - 1) == 0, "L2, tokens bind: a request is worth 1")
    cap = 1 / (c * D / M + a * (P + D))
    prices = a * cap, (a + c / M) * cap
    slack = cap * (c + a * n) - prices[0] * p - prices[1] * d - c * cap * (1 - d / M)
    holds(sympy.simplify(slack) == 0, "L2, the cap binds: dual slack c theta (1 - d / M)")
    holds(sympy.simplify(prices[0] * P + prices[1] * D - 1) == 0, "L2, the cap binds: worth 1")
    numbers = {c: 20, a: sympy.Rational(1, 10), B: 500, M: 50, P: 100, D: 100}
    found = [x.subs(numbers) for x in (cap, *prices)]
    wanted = [sympy.Rational(1, 60), sympy.Rational(1, 600), sympy.Rational(1, 120)]
    holds(found == wanted, "decode cap by hand: 1/60, prices 1/600 and 1/120")
    best = n / T
    holds(sympy.simplify(best / (P + D) * T - n / (P + D)) == 0, "L1: w T(n*) = y n*")


def splits() -> None:
    """Check the split with symbols and whole nodes one by one, and O24."""
    g, dp, dd, x = sympy.symbols("g dp dd x", positive=True)
    equal = sympy.solve(sympy.Eq(x / dp, (g - x) / dd), x)[0]
    holds(sympy.simplify(equal / dp - g / (dp + dd)) == 0, "a divisible split loses nothing")
    mp, md = sympy.symbols("mp md", positive=True)
    rate = (equal / dp).subs({dp: 1 / mp, dd: 1 / md})
    holds(sympy.simplify(rate - g * mp * md / (mp + md)) == 0, "N mu_p mu_d / (mu_p + mu_d)")
    ratio = (equal / (g - equal)).subs({dp: 1 / mp, dd: 1 / md})
    holds(sympy.simplify(ratio - md / mp) == 0, "n_p / n_d = mu_d / mu_p")
    best = {
        (n, p, d): max(min(Fraction(k, p), Fraction(n - k, d)) for k in range(n + 1))
        for n, p, d in product(range(1, 9), range(1, 6), range(1, 6))
    }
    whole = all(
        (rate == Fraction(n, p + d)) == (n * p % (p + d) == 0) for (n, p, d), rate in best.items()
    )
    holds(whole, "whole nodes lose nothing if and only if g d_p / (d_p + d_d) is whole")
    share = all(rate * (p + d) / n >= 1 - Fraction(1, n) for (n, p, d), rate in best.items())
    holds(share, "and never more than 1 / g")
    prefill, held = Fraction(1, 66), 1024 + Fraction(257, 2)
    batch = int(120_000 / held)
    decode = Fraction(batch, 256) / (12 + Fraction(batch, 50) + batch * held / 20_000)
    found = max((min(k * prefill, (16 - k) * decode), k) for k in range(17))
    holds((batch, found) == (104, (Fraction(3, 22), 9)), "O24: 9 prefill and 7 decode, 3/22 per ms")


def main() -> None:
    """Check everything."""
    closed_forms()
    splits()


if __name__ == "__main__":
    main()
