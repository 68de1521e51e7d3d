r"""EC. Erlang C: the law of M/M/c, its recursion and the wait.

Births ``a``, deaths ``min(n, c)`` (mean service 1): ``p_n`` proportional to ``a^n / n!`` up to
``c``, then geometric with ratio ``a / c < 1``. Arrivals see the law (PASTA), so

    P(wait) = (a^c / c!) / (1 - a/c) / [sum_{n<c} a^n / n! + (a^c / c!) / (1 - a/c)].

**Lemma.** With Erlang B, ``B_0 = 1``, ``B_k = a B_{k-1} / (k + a B_{k-1})``:
``P(wait) = B_c / (1 - (a/c)(1 - B_c))``; ``E[wait] = P(wait) / (c - a)``, and a wait, if any, is
exponential of rate ``c - a``: a geometric number of exponential services of rate ``c``.

*Proof.* With ``w_n = a^n / n!`` and ``S_n`` their sum, ``B_c = w_c / S_c``: a step of the induction
is ``w_c = a w_{c-1} / c``, ``S_c = S_{c-1} + w_c``. Then divide the formula above by ``S_c``.
"""

from __future__ import annotations

import sympy

from proofs.lemmas import holds


def main() -> None:
    """Check the recursion, Erlang C and the law of the wait with symbols."""
    a, q, s = sympy.symbols("a q s", positive=True)
    c, w, S = sympy.symbols("c w S", positive=True)
    blocked = w / S
    step = a * blocked / (c + a * blocked)
    holds(sympy.simplify(step - (a * w / c) / (S + a * w / c)) == 0, "Erlang B by induction")
    tail = w / (1 - a / c)
    waits = tail / (S - w + tail)
    erlang_c = blocked / (1 - a / c * (1 - blocked))
    holds(sympy.simplify(waits - erlang_c) == 0, "Erlang C from Erlang B, any load and servers")
    # Given a wait, k + 1 services of rate c with probability (1 - q) q^k, q = a / c.
    laplace = (1 - q) * (c / (c + s)) / (1 - q * c / (c + s))
    holds(
        sympy.simplify(laplace.subs(q, a / c) - (c - a) / (c - a + s)) == 0,
        "a wait is exponential of rate c - a",
    )


if __name__ == "__main__":
    main()
