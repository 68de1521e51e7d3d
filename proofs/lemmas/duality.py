r"""D1. A price list with value above 1 makes every policy unstable.

Static planning problem (theory core 2.3): pools ``h`` of ``N_h`` engines, batches ``x`` of pool
``h`` with duration ``t_h(x)``, iterations per second ``u``, token rates ``demand``.

**Weak duality.** Let ``p, q >= 0`` with ``p . x <= q_h t_h(x)`` for every batch and
``sum_h N_h q_h = 1``. Then for every feasible ``(rho, u)``

    rho - p . demand = sum_h q_h [rho N_h - sum_x t u] + sum_{h,x} [q_h t - p . x] u
                       + p . [sum_x x u - demand] >= 0,

each bracket being a slack. So ``p . demand`` is at most the load.

**Every policy, every path.** An iteration of length ``t`` removes at most ``p . x <= q_h t`` of the
priced backlog. Up to time ``T`` the engines of pool ``h`` start iterations of total length at most
``N_h T`` plus one iteration each, so the priced backlog is at least

    p . arrived(T) - T sum_h N_h q_h - const = p . arrived(T) - T - const,

and grows at rate ``p . demand - 1`` if arrivals obey the law of large numbers. No stationarity,
information pattern or work conservation is used. Eviction and recomputation only add tokens.

**Limits** (memory, slots) ``m_l`` with capacity ``C_l`` per iteration and need ``g_j`` per request
are rows of the same kind: replace ``p . x`` by ``p . x + m . C`` and ``p . demand`` by
``p . demand + m . need`` (:mod:`proofs.lemmas.rate_conservation` says why ``g`` is needed).
"""

from __future__ import annotations

import sympy

from proofs.lemmas import holds

POOLS, BATCHES, BUFFERS = 2, 3, 2


def main() -> None:
    """Check the identity with symbols for every number."""
    p = sympy.symbols(f"p:{BUFFERS}")
    demand = sympy.symbols(f"demand:{BUFFERS}")
    q, N = sympy.symbols(f"q:{POOLS}"), sympy.symbols(f"N:{POOLS}")
    m, C, need, rho = sympy.symbols("m C need rho")
    keys = [(h, i) for h in range(POOLS) for i in range(BATCHES)]
    u = {key: sympy.Symbol("u{}{}".format(*key)) for key in keys}
    t = {key: sympy.Symbol("t{}{}".format(*key)) for key in keys}
    x = {(k, b): sympy.Symbol("x{}{}_{}".format(*k, b)) for k in keys for b in range(BUFFERS)}
    value = {k: sum(p[b] * x[k, b] for b in range(BUFFERS)) + m * C for k in keys}
    time = sum(
        q[h] * (rho * N[h] - sum(t[k] * u[k] for k in keys if k[0] == h)) for h in range(POOLS)
    )
    unused = sum((q[k[0]] * t[k] - value[k]) * u[k] for k in keys)
    over = sum(
        p[b] * (sum(x[k, b] * u[k] for k in keys) - demand[b]) for b in range(BUFFERS)
    ) + m * (C * sum(u[k] for k in keys) - need)
    gap = rho - sum(p[b] * demand[b] for b in range(BUFFERS)) - m * need
    norm = rho * (1 - sum(q[h] * N[h] for h in range(POOLS)))
    holds(
        sympy.expand(gap - norm - time - unused - over) == 0,
        "load - value = sum of slacks (2 pools, 3 batches, 2 buffers, a limit; all symbols)",
    )


if __name__ == "__main__":
    main()
