r"""RAD(N): what a limit on the prefills of a cycle costs, against the finite-N bound.

RAD starts at most ``N`` prompts before all residents must have ended. While they drain, tiles are
partly empty. With :math:`\bar d` the time of a request in full tiles, :math:`t` the time of a tile
pass, ``b`` its width and :math:`D_{max}` the longest output, RAD(N) is stable for

.. math:: \lambda < \frac{N}{N \bar d + W}, \qquad W = D_{max}\, t\, (1 - 1/b)

(lemma T2 of ``proofs/THEOREMS.md``; the notes use the larger ``W = D_max t``). For ``N < b`` and
equal lengths it is unstable above :math:`N / (N \bar d + D t (1 - N / b))`.

Setting: ``b = 16``, ``t = 500`` us, 5 us per token (36.25 us per token in a full tile).

* ``equal``: 32 prompt and 24 output tokens. The saturated cycle is exact
  (:func:`llmq.optimality.saturation.saturated_cycle`), so the stable rate is a fraction: ``kind``
  theory, ``what`` "cycle".
* ``varied``: prompts of 1, 2 or 3 tiles, outputs uniform on 1 to 47. A backlog is served by the
  simulator; the rate has its 95 % interval over replications.

Reconstructed from secondary sources: that N is a parameter is theirs; whether Theorem 2 of the
paper asks for N to infinity was not found, and the bound is derived here.
"""

from __future__ import annotations

import math

import numpy as np

import llmq
from experiments.claim import Claim, Finding, Status
from experiments.intervals import standard_errors
from experiments.runner import PLAIN, Point, Row, Runner, Scale
from experiments.table import Table
from llmq.model.conventions import THEORY
from llmq.optimality.saturation import saturated_cycle
from llmq.policies import RAD
from llmq.rng import RngLike
from llmq.sim.results._stats import student
from llmq.sim.simulate import simulate

TITLE = "RAD(N): capacity by the prefills of a cycle"
SEED = 7
SOURCE = "Bari et al., arXiv 2508.01002, Theorem 2, reconstructed; finite-N bound derived here"

TILE, PASS, TOKEN, PATHS = 16, 0.0005, 5e-6, 8
LAW = llmq.BatchTime.tiled(base=0.0, per_tile=PASS, tile=TILE, per_token=TOKEN)
ENGINE = llmq.Engine(LAW, token_budget=TILE, conventions=THEORY)
CYCLES = (1, 2, 4, 8, 16, 32, 64, math.inf)
PROMPT, OUTPUT, LONGEST = 32, 24, 47
EACH = PASS / TILE + TOKEN
FULL = 1 / ((PROMPT + OUTPUT) * EACH)  # both traffics have these means


def policy(cycle: float) -> RAD:
    """RAD with at most so many prefills in a cycle."""
    return RAD(tile=TILE, cycle=None if cycle == math.inf else int(cycle))


def bound(cycle: float, longest: int) -> float:
    """Rate that RAD(N) carries at least, requests per second."""
    return 1 / (1 / FULL + longest * PASS * (1 - 1 / TILE) / cycle)


def exact_below_tile(cycle: float) -> float:
    """Rate above which RAD(N), N below the tile, is unstable for equal lengths."""
    return 1 / (1 / FULL + OUTPUT * PASS * (1 - cycle / TILE) / cycle)


def one(point: Point, rng: np.random.SeedSequence) -> list[Row]:
    """Serve a backlog of varied requests under every cycle; they share the lengths."""
    n, paths = point["requests"], {cycle: list[float]() for cycle in CYCLES}
    for seed in rng.spawn(PATHS):
        draw = np.random.default_rng(seed)
        prompt = TILE * draw.integers(1, 3, n, endpoint=True)
        output = draw.integers(1, LONGEST, n, endpoint=True)
        trace = llmq.Trace(np.zeros(n), prompt, output)
        for cycle in CYCLES:
            run = simulate(ENGINE, trace, policy(cycle), rng=0)
            # Served work, not requests: what the drawn lengths differ from their means cancels.
            work = float((prompt + output).sum()) / (PROMPT + OUTPUT)
            paths[cycle].append(work / float(run.requests.finish.max()) / FULL)
    rows = []
    for cycle, values in paths.items():
        mean, half = float(np.mean(values)), student(np.array(values))
        rows.append(_row("varied", "simulated", "backlog", cycle, mean, half, PATHS))
    return rows


def _row(
    traffic: str, kind: str, what: str, cycle: float, of_full: float, half: float = 0.0, n: int = 1
) -> Row:
    # An infinite N has no place on an axis: the table calls it "inf" beside a number to draw at.
    label = "inf" if cycle == math.inf else str(int(cycle))
    place = 2.0 * CYCLES[-2] if cycle == math.inf else cycle
    return {
        "traffic": traffic,
        "kind": kind,
        "what": what,
        "cycle": label,
        "place": place,
        "of_full": of_full,
        "low": of_full - half,
        "high": of_full + half,
        "n": n,
    }


def compute(*, scale: Scale = "small", rng: RngLike = SEED, runner: Runner = PLAIN) -> Table:
    """Compute bounds, exact cycles and served backlogs.

    Parameters
    ----------
    scale : {"small", "full"}
        Backlogs of 400 or 6000 requests.
    rng : Generator, SeedSequence, int or None
        Source of randomness.
    runner : Runner
        How points are computed.

    Returns
    -------
    Table
        ``of_full`` is the rate over that of full tiles, 1 / d.
    """
    rows = []
    for cycle in CYCLES:
        for traffic, longest in (("equal", OUTPUT), ("varied", LONGEST)):
            rows.append(_row(traffic, "theory", "bound", cycle, bound(cycle, longest) / FULL))
        made = saturated_cycle(policy(cycle), ENGINE, llmq.RequestClass(PROMPT, OUTPUT))
        rows.append(_row("equal", "theory", "cycle", cycle, made.rate / FULL))
    n = 400 if scale == "small" else 6000
    rows += runner.run(one, [{"requests": n}], rng)
    return Table.of(
        "rad_cycles",
        rows,
        about={
            "source": SOURCE,
            "law": "500 us per tile of 16 tokens, 5 us per token",
            "full tiles": f"{FULL:.6g} requests/s",
            "paths": f"{PATHS} of {n} requests",
        },
    )


def _pick(table: Table, **where: object) -> dict[str, float]:
    found = table.where(**where)
    return dict(zip(found["cycle"].tolist(), found["of_full"].tolist(), strict=True))


def exact(table: Table) -> Finding:
    """Judge: cycles of equal lengths take the law's time and lie above the bound."""
    made = _pick(table, traffic="equal", what="cycle")
    least = _pick(table, traffic="equal", what="bound")
    law = {str(n): exact_below_tile(n) / FULL for n in CYCLES if n < TILE}
    off = max(abs(made[name] / want - 1) for name, want in law.items())
    good = off < 1e-5 and all(made[name] >= least[name] - 1e-6 for name in made)
    words = ", ".join(f"N = {name}: {100 * x:.1f} %" for name, x in made.items())
    return Finding(Status.PROVED if good and made["inf"] > 1 - 1e-6 else Status.NOT, words)


def simulated(table: Table) -> Finding:
    """Judge: varied lengths stay above the bound, rise with N, and lose much at small N."""
    rows = table.where(kind="simulated")
    least = _pick(table, traffic="varied", what="bound")
    error = standard_errors(rows)
    floor = np.array([least[name] for name in rows["cycle"].tolist()])
    # All but the last row, N without limit: its bound is 1 / d itself, and a backlog has one drain.
    holds = bool(np.all(rows["of_full"][:-1] >= floor[:-1] - 4 * error[:-1]))
    rise = bool(np.all(np.diff(rows["of_full"]) > -4 * error[1:]))
    top, first = float(rows["of_full"][-1]), float(rows["of_full"][0])
    good = holds and rise and top > 0.98 and first < 0.5
    words = f"N = 1: {100 * first:.1f} %, N = 64: {100 * rows['of_full'][-2]:.1f} %, "
    return Finding(Status.VERIFIED if good else Status.NOT, words + f"no limit: {100 * top:.1f} %")


CLAIMS = (
    Claim(
        id="RAD-CYCLE-1",
        text="RAD(N) loses capacity for finite N: with equal lengths it serves N / (N d + D t "
        "(1 - N / b)) for N < b, above the bound N / (N d + W), and 1 / d only without limit.",
        source=SOURCE,
        judge=exact,
        figure="rad_cycles",
        least=Status.PROVED,
        test="test_rad.py::test_cycles_can_fail",
    ),
    Claim(
        id="RAD-CYCLE-2",
        text="With varied lengths RAD(N) carries at least N / (N d + W) and rises to 1 / d (98 % "
        "and more).",
        source=SOURCE,
        judge=simulated,
        figure="rad_cycles",
        least=Status.VERIFIED,
        test="test_rad.py::test_cycles_can_fail",
    ),
)
