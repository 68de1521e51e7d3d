r"""BK. Service in exponential batches of at most b: geometric laws.

M/M^[1,b]/1: Poisson arrivals of rate ``lam``; a batch lasts an exponential time of rate ``mu``
whatever its size. Let ``r`` in (0, 1) solve ``mu (r + ... + r^b) = lam``; it exists if and only if
``lam < b mu``, by monotonicity.

**Accessible** (arrivals may join the batch in service): ``p_n = (1 - r) r^n``. In state ``n >= 1``
a batch end removes ``min(n, b)``. *Proof.* Cut between ``n`` and ``n + 1``: up ``lam p_n``; down
``mu`` times ``p_{n+1} + ... + p_{n+b}``. Both are equal by the choice of ``r``, for every
``n >= 0``.

**Not accessible**: ``P(busy, q wait) = C r^q``, ``P(idle) = C mu / lam``. *Proof.* Idle: in
``mu P(busy, 0)``, out ``lam P(idle)``. Cut between at most ``q`` and more waiting while busy: up
``lam C r^q``, down ``mu (C r^{q+1} + ... + C r^{q+b})``, equal by the choice of ``r`` (for the
states that fall from above to at most ``q``; an arrival to an idle server starts a batch and leaves
none waiting). Normalise: ``C (mu / lam + 1 / (1 - r)) = 1``; ``L_q = C r / (1 - r)^2``.
"""

from __future__ import annotations

import sympy

from proofs.lemmas import holds


def main() -> None:
    """Check the balance across each cut and the normalisation."""
    r, mu, z = sympy.symbols("r mu z", positive=True)
    n = sympy.Symbol("n", integer=True, nonnegative=True)
    for b in (1, 2, 3, 5):
        lam = mu * sum(r**i for i in range(1, b + 1))
        down = mu * sum(r ** (n + i) for i in range(1, b + 1))
        if sympy.simplify(lam * r**n - down) != 0:
            holds(False, f"balance across the cut at n, b = {b}")
        closed = mu * r ** (b + 1) - (lam + mu) * r + lam
        if sympy.expand(closed) != 0:
            holds(False, f"mu r^(b+1) - (lam + mu) r + lam = 0, b = {b}")
    holds(True, "cuts balance for every n, and r solves the printed equation, b = 1, 2, 3, 5")
    lam = sympy.Symbol("lam", positive=True)
    C = 1 / (mu / lam + 1 / (1 - r))
    holds(sympy.simplify(C * mu / lam + C / (1 - r)) == 1, "probabilities sum to 1")
    pgf = C / (1 - r * z)
    waiting = sympy.diff(pgf, z).subs(z, 1)
    holds(sympy.simplify(waiting - C * r / (1 - r) ** 2) == 0, "L_q = C r / (1 - r)^2")


if __name__ == "__main__":
    main()
