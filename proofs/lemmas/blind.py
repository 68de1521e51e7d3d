r"""BL. A router that does not look at the class can lose capacity, whatever queues it looks at.

Requests arrive at rate ``rate``; each is of class ``j`` with probability ``p_j``, independently of
everything before, and takes ``w_jh`` of an engine's time in pool ``h`` (one engine each).

**Lemma.** If the router sees queues, workloads, anything but the class and lengths of the request
that arrives (joining the shortest queue, least work before the request, round robin, random), no
such policy is stable for ``rate > sum_h 1 / m_h``, ``m_h = sum_j p_j w_jh``.

*Proof.* The class is independent of the past, hence of the decision: of ``n_h`` requests sent to
pool ``h`` a share ``p_j`` is of class ``j``, up to ``o(n_h)`` (law of large numbers for a sequence
sampled without looking), and their work is ``n_h m_h + o(n_h)``. Up to ``T`` the pool works at most
``T``. If the queues stay ``o(T)``, then ``n_h <= T / m_h + o(T)``, and the sum over pools is
``rate T + o(T)``.

**Instance.** Two classes, two pools, ``p = 1/2``, ``w = 1`` at home and ``r > 1`` away. Routing by
class carries ``rate < 2``; without looking at it, at most ``4 / (1 + r)``: a share ``2 / (1 + r)``.
With equal speeds (``r = 1``) nothing is lost, and nothing is lost either where pools differ but
classes do not: ``w_jh = w_h``. So it takes relative speeds that differ by class.
"""

from __future__ import annotations

import sympy

from proofs.lemmas import holds


def main() -> None:
    """Check the instance with symbols, primal and dual, and the case of equal classes."""
    r, rate = sympy.symbols("r rate", positive=True)
    half = sympy.Rational(1, 2)
    mean = half * 1 + half * r
    blind = 1 / mean + 1 / mean
    holds(sympy.simplify(blind - 4 / (1 + r)) == 0, "without the class: 4 / (1 + r)")
    load = rate * half
    holds(sympy.solve(sympy.Eq(load, 1), rate) == [2], "everybody at home: load rate / 2")
    # Prices 1/2 of an engine-second in each pool; a request is worth its cheapest route.
    worth = half * sympy.Min(1, r)
    holds(worth.subs(r, 3) * rate == load, "dual: prices 1/2 give the same load, so 2 is the most")
    holds(sympy.simplify(blind / 2 - 2 / (1 + r)) == 0, "share 2 / (1 + r) of the capacity")
    holds(blind.subs(r, 1) == 2, "equal speeds: nothing is lost")
    w1, w2, flow = sympy.symbols("w1 w2 flow", positive=True)
    equal = sympy.solve(sympy.Eq(flow * w1, (rate - flow) * w2), flow)[0]
    most = sympy.solve(sympy.Eq(equal * w1, 1), rate)[0]
    holds(sympy.simplify(most - (1 / w1 + 1 / w2)) == 0, "equal classes: 1/w1 + 1/w2 both ways")


if __name__ == "__main__":
    main()
