r"""K1. Volume bound: the memory of the first k jobs to end fits into memory times time.

Job ``i`` with prompt ``s``, output ``o`` holds ``s + 1, ..., s + o`` tokens in ``o`` successive
unit steps: ``vol_i = s o + o (o + 1) / 2`` token-steps. The memory is ``M``.

**Lemma** (all arrive at 0). In every feasible schedule ``M sum_i C_i >= sum_k sum_{i<=k} vol_(i)``,
volumes ascending, ``C_i`` the ends.

*Proof.* Sort jobs by their ends. Up to the ``k``-th end ``C_(k)`` the first ``k`` jobs held all
their volume, at most ``M`` in each of ``C_(k)`` steps, so ``M C_(k) >=`` the sum of their volumes
``>=`` the sum of the ``k`` smallest. Sum over ``k``. Preemption and restarts only add volume.

With late arrivals the total latency is ``sum C_i - sum a_i``, and the argument runs from the first
arrival ``a``: subtract ``sum (a_i - a)``.
"""

from __future__ import annotations

from fractions import Fraction
from itertools import accumulate, combinations_with_replacement, product

import sympy

from proofs.lemmas import holds

Job = tuple[int, int]


def volume(job: Job) -> int:
    """Token-steps of a job."""
    return job[0] * job[1] + job[1] * (job[1] + 1) // 2


def fits(jobs: tuple[Job, ...], starts: tuple[int, ...], memory: int) -> bool:
    """Whether a schedule keeps to the memory at every step."""
    last = max(x + o for (_, o), x in zip(jobs, starts, strict=True))
    return all(
        sum(s + t - x for (s, o), x in zip(jobs, starts, strict=True) if x < t <= x + o) <= memory
        for t in range(1, last + 1)
    )


def best(jobs: tuple[Job, ...], memory: int, horizon: int) -> int:
    """Least sum of ends over every schedule."""
    return min(
        sum(x + o for (_, o), x in zip(jobs, starts, strict=True))
        for starts in product(range(horizon), repeat=len(jobs))
        if fits(jobs, starts, memory)
    )


def main() -> None:
    """Check the volume with symbols and the bound against every schedule of small instances."""
    s, o, k = sympy.symbols("s o k", integer=True, positive=True)
    total = sympy.summation(s + k, (k, 1, o))
    holds(sympy.expand(total - s * o - o * (o + 1) / 2) == 0, "vol = s o + o (o + 1) / 2")
    kinds = [(p, n) for p in (0, 1, 2) for n in (1, 2)]
    tight = False
    for jobs in combinations_with_replacement(kinds, 3):
        for memory in (4, 5):
            prefix = sum(accumulate(sorted(map(volume, jobs))))
            found = best(jobs, memory, 5)
            if found < Fraction(prefix, memory):
                holds(False, f"the bound for {jobs}, memory {memory}")
            tight = tight or found == -(-prefix // memory)
    holds(True, "bound <= least total over every schedule of 56 sets of three jobs, memory 4 and 5")
    holds(tight, "the bound, rounded up, is reached in some of them")
    o14 = [(2, 3), (1, 5), (4, 2), (3, 4), (2, 2), (1, 1)]
    holds(
        Fraction(sum(accumulate(sorted(map(volume, o14)))), 12) == Fraction(63, 4),
        "O14: 63/4",
    )


if __name__ == "__main__":
    main()
