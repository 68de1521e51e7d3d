r"""How tight the bounds of the region are: beside the true capacity of small systems.

The truth is a linear programme over occupation measures that shares no code with the library
(:mod:`experiments.occupation`): any batch, any chunk, waiting in memory. Small engines and fleets
are drawn at random (:mod:`experiments.oracle_cases`).

For each system: ``outer`` and ``inner``, the rates at which the outer and the inner load are 1, as
multiples of the true rate. ``swap`` is the true rate where partly served requests leave the memory
without a price, which the outer bound allows as well. ``hardware`` rows compare with the truth at
the best token budget, slots and chunk. For a class of two output lengths ``unknown`` is the true
rate of policies that see a length only when it ends, and drop nothing: the inner bound of schedules
that know the lengths may lie above it.

    python -m experiments.oracle_gap               # the tightness by what binds
"""

from __future__ import annotations

import numpy as np

from experiments import oracle_cases
from experiments.claim import Claim, Finding, Status
from experiments.runner import PLAIN, Point, Row, Runner, Scale
from experiments.table import TABLES, Table, read_table
from llmq.rng import RngLike

TITLE = "Bounds beside the true capacity of small systems"
SEED = 11
SOURCE = "occupation measures, experiments.occupation"
UNITS = {
    "outer": "of the true rate",
    "inner": "of the true rate",
    "swap": "of the true rate",
    "unknown": "of the true rate",
    "true": "requests/s",
}
EXACT = 1e-7  # relative; what the solver of the programme rounds
# Numbers of the systems of each kind at full scale, and how many of them at small scale.
KINDS = {
    "engine": (range(240), 12),
    "hardware": (range(80), 6),
    "two lengths": (range(40), 4),
    "fleet": (oracle_cases.FLEETS, 4),
}


def case(point: Point, rng: np.random.SeedSequence) -> list[Row]:
    """Compare one system; its number says all of it."""
    kind, number = point["kind"], point["number"]
    if kind == "fleet":
        return [oracle_cases.fleet_case(number)]
    if kind == "two lengths":
        return [oracle_cases.unknown_case(number)]
    return [oracle_cases.engine_case(number, "hardware" if kind == "hardware" else "settings")]


def compute(*, scale: Scale = "small", rng: RngLike = SEED, runner: Runner = PLAIN) -> Table:
    """Compare all systems.

    Parameters
    ----------
    scale : {"small", "full"}
        26 systems, or 420.
    rng : Generator, SeedSequence, int or None
        Not used: a system is drawn by its number.
    runner : Runner
        How points are computed.

    Returns
    -------
    Table
        A row for each system.
    """
    points: list[Point] = [
        {"kind": kind, "number": number}
        for kind, (numbers, few) in KINDS.items()
        for number in numbers[: few if scale == "small" else None]
    ]
    nothing = {"swap": np.nan, "unknown": np.nan}
    rows = [nothing | row for row in runner.run(case, points, rng)]
    return Table.of("oracle_gap", rows, units=UNITS, about={"source": SOURCE})


def violations(table: Table) -> list[Row]:
    """Rows in which the truth lies outside the two bounds."""
    return [
        row
        for row in table.rows()
        if row["inner"] > 1 + EXACT
        or row["outer"] < 1 - EXACT
        or (row["swap"] == row["swap"] and not 1 - EXACT <= row["swap"] <= row["outer"] + EXACT)
        or (row["exact"] and not abs(row["outer"] - row["swap"]) < EXACT)
    ]


def between(table: Table) -> Finding:
    """Judge: no true rate lies outside its bounds."""
    wrong = violations(table)
    outer, inner = table["outer"].max(), table["inner"].min()
    words = f"{len(wrong)} of {len(table)} outside; outer at most {outer:.3f}, "
    words += f"inner at least {inner:.3f} of the true rate"
    return Finding(Status.NOT if wrong or not len(table) else Status.VERIFIED, words)


CLAIMS = (
    Claim(
        id="OURS-ORACLE",
        source=SOURCE,
        judge=between,
        least=Status.VERIFIED,
        figure="",
        text="The true capacity of small random engines and fleets lies between the inner and the "
        "outer bound, and on the outer bound where the region is called exact.",
        test="test_oracle_gap.py::test_judge_can_fail",
    ),
)


def tightness(table: Table) -> str:
    """Say how tight the bounds are, by what binds."""
    lines = [
        "| system | limits | binds | n | outer: mean, largest | inner: mean, least |",
        "|---|---|---|---|---|---|",
    ]
    keys = sorted({(r["system"], r["limits"], r["binds"]) for r in table.rows()})
    for system, limits, binds in keys:
        some = table.where(system=system, limits=limits, binds=binds)
        outer, inner = some["outer"], some["inner"]
        lines.append(
            f"| {system} | {limits} | {binds} | {len(some)} | {outer.mean():.3f}, "
            f"{outer.max():.3f} | {inner.mean():.3f}, {inner.min():.3f} |"
        )
    blind = table.where(system="two lengths")
    if len(blind):
        above = int((blind["inner"] > blind["unknown"] + EXACT).sum())
        lines.append(
            f"\nTwo output lengths, not known beforehand: {blind['unknown'].mean():.3f} of the "
            f"true rate in the mean, {blind['unknown'].min():.3f} at least; the inner bound lies "
            f"above it in {above} of {len(blind)}."
        )
    return "\n".join(lines)


if __name__ == "__main__":
    print(tightness(read_table(TABLES / "oracle_gap.csv")))
