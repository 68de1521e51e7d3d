r"""RC, RCC. What is computed again adds to the load; equal requests at full memory, exactly.

**RC.** Let a request of class ``j`` lose ``R_j`` KV tokens on average before it ends (it is pushed
out, its KV is dropped) under a policy that finishes requests at the rates ``lambda`` at which
they come. Then ``max_f lambda . (w^f + p^f R) <= 1``, ``w^f`` the facets of U1 and ``p^f`` the
price of a token there: ``a`` for memory and slots, ``a + c / b`` for tokens, ``a*`` for compute.
Where a token that moves to the host or back takes ``sigma`` seconds, ``sigma lambda . X`` comes on
top.

*Proof.* A request that ends has all its tokens in memory, so each one that was lost was computed
once more: ``B >= C . (v + R)`` tokens go through the iterations up to ``T`` for the ``C`` finished
ones, up to ``o(T)``. U1's other counts (slots, area) only grow. So U1's proof holds with ``v + R``
in the place of ``v``; swaps are added to iterations. Divide by ``T``.

**RCC.** Equal requests, a queue that never empties, rank by tokens left: the engine has finitely
many states, so it repeats a cycle, of rate ``mu``. With an affine law
``1 / mu = c n + a (v + R) + e A``, with ``n`` iterations, ``R`` lost tokens and area ``A`` per
request of the cycle. Not positive recurrent above ``mu``: the argument of
``llmq/optimality/saturation/_saturation.py``.

**Not optimal.** Prompt 1, output 4, memory 20, iterations of ``4 + tokens``: the memory is full
(``n = g / M = 1/2``) under both fills and the loss is ``R`` alone: backfill loses 1 token per
request, ``1 / mu = 7``; head of line 7/12, ``1 / mu = 79/12``. A paced schedule with room for one
peak [P1] takes ``108/17`` per request. So above 1/7 backfill is unstable where 17/108 is carried;
above 12/79 so is head of line.

**By hand.** Prompt 1, output 3, memory 4: a resident that has said ``i`` holds ``1 + i`` places
while it decodes. Backfill comes to A, B that have said 2 and hold 2. (i) A decodes and needs a
third place: B goes (2 lost); a fresh E takes the last place. (ii) B computes 3 and ends; C, who
waits, needs 2 and pushes out E (1 lost) in vain; a fresh F enters. (iii) C and D, who have said 1,
compute 2 each and push out F (1 lost). Batches 2, 4, 4: 22 for two requests, 4 lost. Under head of
line a row decodes in (iii) beside one that computes 2: batches 2, 4, 3: 21, 3 lost.

**Refuted.** "Head of line never carries less": prompt 1, output 4, memory 6 gives backfill 2/27 and
head of line 3/41. "Admission by the future peak carries at least as much": (1, 4), memory 20 gives
1/8 against 1/7: who starts together ends together, and then the memory stands half empty. The
cycles are compared with the simulator in ``tests/unit/theory/test_losses.py``.
"""

from __future__ import annotations

from fractions import Fraction
from itertools import product

import sympy

from proofs.lemmas import holds


def lost_and_computed(prompt: int, output: int, drops: tuple[int, ...]) -> tuple[int, int]:
    """Tokens lost and tokens computed by a request that is pushed out before these answers."""
    said = kv = lost = computed = 0
    left = list(drops)
    while said < output:
        if left and left[0] == said and kv:
            lost, kv = lost + kv, 0
            left.pop(0)
        computed += prompt + said - kv  # all that is missing, in however many chunks
        kv = prompt + said
        said += 1
    return lost, computed


def main() -> None:
    """Check the counting, the identity and the cycle by hand."""
    same = all(
        computed == prompt + output - 1 + lost
        for prompt, output in product((1, 2, 3), (2, 3, 4))
        for drops in ((), (1,), (2,), (1, 1), (1, 2), (2, 3), (1, 2, 3))
        for lost, computed in [lost_and_computed(prompt, output, drops)]
    )
    holds(same, "tokens computed = v + tokens lost, prompts <= 3, outputs <= 4, up to 3 losses")
    c, a, e, b, M, R, lam, sigma, X = sympy.symbols("c a e b M R lambda sigma X", positive=True)
    v, g = sympy.symbols("v g", positive=True)
    memory = lam * (a * v + e * g + c * g / M)
    tokens = lam * (a * v + e * g + c * v / b)
    with_loss = [c * lam * n + a * lam * (v + R) + e * lam * g for n in (g / M, (v + R) / b)]
    holds(sympy.expand(with_loss[0] - memory - lam * a * R) == 0, "memory facet: p = a")
    holds(sympy.expand(with_loss[1] - tokens - lam * (a + c / b) * R) == 0, "tokens: p = a + c / b")
    rate = sympy.solve(sympy.Eq(memory + lam * a * R + sigma * lam * X, 1), lam)[0]
    slower = sympy.simplify(1 / rate - memory / lam - a * R - sigma * X)
    holds(slower == 0, "1 / mu = 1 / mu_best + a R + sigma X")
    for batches, lost, time in (((2, 4, 4), 4, 22), ((2, 4, 3), 3, 21)):
        holds(sum(4 + n for n in batches) == time, f"by hand: batches {batches} take {time}")
        identity = 4 * Fraction(3, 2) + 3 + Fraction(lost, 2)
        holds(identity == Fraction(time, 2), f"4 n + v + R = {identity} per request")
    area = 1 + 2 + 3 + 4  # KV in the four iterations that give the four tokens
    times = [4 * Fraction(area, 20) + 4 + lost for lost in (1, Fraction(7, 12), 0)]
    holds(times == [7, Fraction(79, 12), 6], "(1, 4), memory 20: 7, 79/12; no policy below 6")
    paced = 4 * Fraction(area, 20 - 4 + 1) + 4
    holds(times[0] > times[1] > paced == Fraction(108, 17), "the paced schedule takes 108/17")


if __name__ == "__main__":
    main()
