"""QoE as PASCAL measures it: the area under what is read over the area under what is expected.

Token times ``g_n``, a reader who takes one every ``tau`` seconds from ``s`` on, ``s`` the first
token or 0.25 s after the reasoning:

    d_1 = max(g_1, s),  d_n = max(g_n, d_{n-1} + tau),  e_n = s + (n - 1) tau,
    QoE = sum(d_a - d_n) / sum(d_a - e_n).

Step curves and the horizon ``d_a`` are a choice; the paper's figure 3 shows areas without numbers.
Rows of short cases hold the curves token by token, the others only the end. Exact values: areas
counted by hand.

Cho et al., PASCAL, arXiv 2602.11530, figure 3, after Andes (arXiv 2404.16283).
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from experiments.claim import Claim, Finding, Status
from experiments.pascal_cluster import SOURCE
from experiments.runner import PLAIN, Row, Runner, Scale
from experiments.table import Table
from llmq.rng import RngLike
from llmq.sim.results._reading import qoe_of

TITLE = "PASCAL: QoE of example answers"
SEED = 7
STALL = (0.0, 1.0, 2.0, 6.0, 7.0)
PAUSED = (2.0, 3.0, 4.0, 5.0, 9.0, 10.0, 11.0, 12.0, 13.0)
# Name: token times, seconds a token, start (None: the first token), exact value.
CASES: dict[str, tuple[tuple[float, ...], float, float | None, float]] = {
    "stall": (STALL, 1.0, None, float(Fraction(19, 25))),
    "stall, slow reader": (STALL, 2.0, None, 1.0),
    "single token": ((5.0,), 1.0, None, 1.0),
    "paused": (PAUSED, 1.0, None, float(Fraction(48, 63))),
    "paused, slow reader": (PAUSED, 2.0, None, 1.0),
    "1 s late, 50 tokens": (tuple(1.25 + 0.04 * np.arange(50)), 0.1, 0.25, 0.710144928),
    "1 s late, 824 tokens": (tuple(1.25 + 0.04 * np.arange(824)), 0.1, 0.25, 0.976275),
}


def compute(*, scale: Scale = "small", rng: RngLike = SEED, runner: Runner = PLAIN) -> Table:
    """Tabulate every case; nothing is random, both scales are the same.

    Parameters
    ----------
    scale, rng, runner
        Not used.

    Returns
    -------
    Table
        Token times, when they are read and when they are expected.
    """
    rows: list[Row] = []
    for name, (tokens, tau, start, exact) in CASES.items():
        begin = tokens[0] if start is None else start
        read = np.empty(len(tokens))
        for n, came in enumerate(tokens):
            read[n] = max(came, read[n - 1] + tau if n else begin)
        value = qoe_of(tokens, tau, start)
        curve = range(len(tokens)) if len(tokens) < 10 else [len(tokens) - 1]
        rows += [
            {
                "case": name,
                "tau": tau,
                "token": n + 1,
                "came": tokens[n],
                "read": read[n],
                "expected": begin + n * tau,
                "qoe": value,
                "exact": exact,
            }
            for n in curve
        ]
    units = {"tau": "s", "came": "s", "read": "s", "expected": "s"}
    about = {"source": f"{SOURCE}, figure 3; areas by hand", "kind": "theory"}
    return Table.of("pascal_qoe", rows, units=units, about=about)


def equal(table: Table) -> Finding:
    """Judge: every value is the exact one, and that of the areas where the curve is there."""
    worst, parts = 0.0, []
    for name, (tokens, *_) in CASES.items():
        rows = table.where(case=name)
        worst = max(worst, float(np.abs(rows["qoe"] - rows["exact"]).max(initial=0.0)))
        parts.append(f"{name} {rows['qoe'][0]:.6g}")
        if 1 < len(tokens) == len(rows):
            end = rows["read"][-1]
            area = np.sum(end - rows["read"]) / np.sum(end - rows["expected"])
            worst = max(worst, abs(float(area) - float(rows["exact"][0])))
    # Tables keep six digits.
    status = Status.PROVED if worst < 2e-6 else Status.NOT
    return Finding(status, "; ".join(parts))


CLAIMS = (
    Claim(
        id="PASCAL-3",
        text="QoE is the area under the tokens read over that under the tokens expected: 19/25 "
        "after a stall, 1 for a reader who is slow enough, 0.71 of 50 tokens that start 1 s late "
        "and 0.976 of 824.",
        source=f"{SOURCE}, figure 3 and section V (values by hand)",
        judge=equal,
        figure="pascal_fig3",
        least=Status.PROVED,
        test="test_pascal.py::test_judges_can_fail",
    ),
)
