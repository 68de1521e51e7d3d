r"""G1. Cyclic agents under priority to the last hop: peaks grow by ``lambda m2 / (1 - lambda m2)``.

Two engines, two types of agents at rate ``lambda`` each: type 1 goes A then B, type 2 B then A. A
first hop takes ``m1``, a second one ``m2 >= m1`` of an engine's time, and second hops have
priority.

**Fluid path.** Start with ``Q`` first hops at A and nothing else. A serves them at rate ``1 / m1``,
and B gets second hops at rate ``1 / m1 >= 1 / m2``: B is busy with these alone, and nobody of type
2 gets through, so A has no second hops. When A has run out (at ``Q m1 / (1 - lambda m1)``), it
passes on ``lambda``, and B works off its queue. B is done at ``T = (Q + lambda T) m2``; then
``lambda T`` first hops wait at B, nothing elsewhere: the mirror image. So

    T = Q m2 / (1 - lambda m2),    gamma = lambda T / Q = lambda m2 / (1 - lambda m2),

and ``gamma > 1`` if and only if ``2 lambda m2 > 1``: in load ``rho = lambda (m1 + m2)`` that is
``rho > (m1 + m2) / (2 m2)``, below 1 if ``m2 > m1``. Each half-cycle takes ``m2 / (1 - lambda m2)``
times ``Q``: the path grows linearly in time along its peaks, so the fluid model is unstable.

Below the critical load all work-conserving policies are stable: row PL (a certificate for each
instance). That an unstable fluid path makes the stochastic system transient is cited (Dai 1996).
"""

from __future__ import annotations

import sympy

from proofs.lemmas import holds


def main() -> None:
    """Check the half-cycle, the threshold, and Dai's instance."""
    Q, lam, m1, m2, T, rho = sympy.symbols("Q lambda m1 m2 T rho", positive=True)
    length = sympy.solve(sympy.Eq(T, (Q + lam * T) * m2), T)[0]
    gamma = sympy.simplify(lam * length / Q)
    holds(sympy.simplify(gamma - lam * m2 / (1 - lam * m2)) == 0, "gamma")
    holds(
        sympy.simplify(gamma - 1 - (2 * lam * m2 - 1) / (1 - lam * m2)) == 0,
        "gamma - 1 has the sign of 2 lambda m2 - 1",
    )
    drained = sympy.solve(sympy.Eq(T * (1 / m1 - lam), Q), T)[0]
    earlier = sympy.simplify(length - drained - Q * (m2 - m1) / ((1 - lam * m1) * (1 - lam * m2)))
    holds(earlier == 0, "A runs out before B, by Q (m2 - m1) / ((1 - lambda m1)(1 - lambda m2))")
    # Second hops at B until A has run out, and from then on: never negative before T.
    queue = drained * (1 / m1 - 1 / m2)
    rest = sympy.simplify(queue + (length - drained) * (lam - 1 / m2))
    holds(rest == 0, "B's queue is empty at T")
    critical = sympy.solve(sympy.Eq(2 * rho / (m1 + m2) * m2, 1), rho)[0]
    hops = {m1: sympy.Rational(64, 768), m2: sympy.Rational(544, 768)}
    holds(critical.subs(hops) == sympy.Rational(19, 34), "O15: critical load 19/34")
    at = gamma.subs(lam, rho / (m1 + m2)).subs(hops).subs(rho, sympy.Rational(9, 10))
    holds(at == sympy.Rational(153, 37), "O15: gamma = 153/37 at load 0.9")


if __name__ == "__main__":
    main()
