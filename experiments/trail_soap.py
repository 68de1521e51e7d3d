"""Short requests first on predicted sizes: SOAP curves against events and printed values.

Setting (M/M/1, mean service 1): five members of one family, rank = prediction minus age, preemption
only while the age is below ``c`` times the prediction. With perfect predictions ``c = 0`` is SJF
and ``c = 1`` SRPT; with exponential predictions (mean the size) SPJF and SPRPT, and ``c = 0.8`` is
TRAIL's limited preemption (Shahout et al., 2410.01035). Theory is the SOAP formula of theory core
1.8; simulation goes event by event and knows only the rule. Printed: SPJF (formula) and SPRPT
(their simulation) at loads 0.5, 0.7 and 0.9.

The mean time in system is that of one job at a time. Not covered: memory and batches, for which
TRAIL limits preemption in the first place: here it can only hurt.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from experiments.claim import Band, Claim, Finding, Status
from experiments.intervals import around, standard_errors
from experiments.runner import PLAIN, Point, Row, Runner, Scale
from experiments.table import Table
from llmq.theory.latency._sizes import limited_preemption

if TYPE_CHECKING:
    from llmq.rng import RngLike

TITLE = "TRAIL: size-based disciplines with predictions (SOAP)"
SEED = 17
LAWS = {
    "SJF": (0.0, "perfect"),
    "SRPT": (1.0, "perfect"),
    "SPJF": (0.0, "exponential"),
    "TRAIL C = 0.8": (0.8, "exponential"),
    "SPRPT": (1.0, "exponential"),
}
LOADS = {"small": (0.5, 0.7), "full": (0.3, 0.5, 0.6, 0.7, 0.8, 0.9)}
PRINTED = {
    "SPJF": {0.5: 1.795, 0.7: 2.572, 0.9: 5.36},
    "SPRPT": {0.5: 1.659, 0.7: 2.368, 0.9: 5.097},
}
# Theory core O17.
KNOWN = {
    "SJF": (1.7126863319, 2.3121966827, 4.1969125897),
    "SRPT": (1.4253726639, 1.8745666896, 3.5521250996),
    "SPJF": (1.794814, 2.572583, 5.361018),
    "TRAIL C = 0.8": (1.661573, 2.373533, 5.104712),
    "SPRPT": (1.658283, 2.368830, 5.098534),
}


def compute(*, scale: Scale = "small", rng: RngLike = SEED, runner: Runner = PLAIN) -> Table:
    """Compute the table.

    Parameters
    ----------
    scale : {"small", "full"}
        Seconds, or three minutes.
    rng : Generator, SeedSequence, int or None
        Source of randomness; all disciplines see the same jobs.
    runner : Runner
        Who computes.

    Returns
    -------
    Table
        Columns kind, name, load, sojourn, low, high, n.
    """
    jobs, paths = (8000, 8) if scale == "small" else (20_000, 24)
    points = [{"load": load, "jobs": jobs, "paths": paths} for load in LOADS[scale]]
    rows = [*_theory(), *_printed(), *runner.run(simulate, points, rng)]
    return Table.of(
        "trail_soap",
        rows,
        units=dict.fromkeys(("sojourn", "low", "high"), "mean services"),
        about={
            "source": "Shahout et al., arXiv 2410.01035; SOAP, Scully et al. 2018; theory core O17",
            "replications": f"{paths} of {jobs} jobs, the first fifth and the last tenth left out",
        },
    )


def _theory() -> Iterator[Row]:
    for name, (c, prediction) in LAWS.items():
        for load in np.unique(np.concatenate((np.linspace(0.1, 0.94, 29), (0.5, 0.7, 0.9)))):
            law = limited_preemption(float(load), c, prediction)  # type: ignore[arg-type]
            yield {"kind": "theory", "name": name, "load": load, "sojourn": law.sojourn}


def _printed() -> Iterator[Row]:
    for name, values in PRINTED.items():
        for load, value in values.items():
            yield {"kind": "printed", "name": name, "load": load, "sojourn": value}


def simulate(point: Point, rng: np.random.SeedSequence) -> list[Row]:
    """Simulate all disciplines at a load on the same jobs.

    Parameters
    ----------
    point : mapping
        Load, jobs and paths.
    rng : SeedSequence
        Source of randomness.

    Returns
    -------
    list of dict
        Mean time in system, by discipline.
    """
    found: dict[str, list[float]] = {name: [] for name in LAWS}
    n = point["jobs"]
    for seed in rng.spawn(point["paths"]):
        draw = np.random.default_rng(seed)
        arrival = np.cumsum(draw.exponential(1 / point["load"], n))
        size = np.asarray(draw.exponential(1.0, n))
        noisy = np.asarray(draw.exponential(size))
        guesses: dict[str, np.ndarray] = {"perfect": size, "exponential": noisy}
        for name, (c, prediction) in LAWS.items():
            times = sojourns(arrival.tolist(), size.tolist(), guesses[prediction].tolist(), c)
            found[name].append(float(times[n // 5 : n - n // 10].mean()))
    return [_row(name, point["load"], values) for name, values in found.items()]


def _row(name: str, load: float, values: list[float]) -> Row:
    return {"kind": "simulated", "name": name, "load": load, **around(values, "sojourn")}


def sojourns(arrival: list[float], size: list[float], guess: list[float], c: float) -> np.ndarray:
    """Serve jobs one at a time, shortest predicted remainder first.

    Parameters
    ----------
    arrival, size, guess : list of float
        Of the jobs, in order of arrival.
    c : float
        A job may be preempted while its age is below ``c`` times its prediction.

    Returns
    -------
    ndarray, shape (n,)
        Times in system.
    """
    n = len(arrival)
    left = size.copy()
    times = np.zeros(n)
    waiting: list[tuple[float, int]] = []
    now, nxt, serving = 0.0, 0, -1
    while nxt < n or serving >= 0 or waiting:
        if serving < 0 and not waiting:
            now = arrival[nxt]
            heapq.heappush(waiting, (guess[nxt], nxt))
            nxt += 1
        if serving < 0:
            serving = heapq.heappop(waiting)[1]
        end = now + left[serving]
        if nxt < n and arrival[nxt] < end:
            left[serving] -= arrival[nxt] - now
            now = arrival[nxt]
            age = size[serving] - left[serving]
            rank = guess[serving] - age
            if age < c * guess[serving] and guess[nxt] < rank:
                heapq.heappush(waiting, (rank, serving))
                serving = nxt
            else:
                heapq.heappush(waiting, (guess[nxt], nxt))
            nxt += 1
        else:
            times[serving] = end - arrival[serving]
            now, serving = end, -1
    return times


def _agrees(table: Table) -> Finding:
    rows, exact = table.where(kind="simulated"), []
    for row in rows.rows():
        c, prediction = LAWS[row["name"]]
        exact.append(limited_preemption(row["load"], c, prediction).sojourn)  # type: ignore[arg-type]
    scores = (rows["sojourn"] - exact) / standard_errors(rows)
    worst = max(scores, key=abs)
    words = f"largest deviation {worst:+.1f} standard errors in {len(scores)} points"
    return Finding(Status.VERIFIED if abs(worst) <= 4 else Status.NOT, words)


def _curves(table: Table) -> Finding:
    rows = table.where(kind="theory")
    gaps = [
        rows.where(name=name, load=load)["sojourn"][0] / value - 1
        for name, values in KNOWN.items()
        for load, value in zip((0.5, 0.7, 0.9), values, strict=True)
    ]
    worst = max(gaps, key=abs)
    words = f"{len(gaps)} values of the catalogue, largest relative error {abs(worst):.0e}"
    return Finding(Status.PROVED if abs(worst) < 5e-6 else Status.NOT, words)


def _published(table: Table) -> Finding:
    theory = table.where(kind="theory")
    gaps = []
    for row in table.where(kind="printed").rows():
        ours = theory.where(name=row["name"], load=row["load"])["sojourn"][0]
        gaps.append(ours / row["sojourn"] - 1)
    worst = max(gaps, key=abs)
    words = f"largest relative difference {100 * worst:+.2f} % in {len(gaps)} printed values"
    return Finding(Status.BAND if abs(worst) < 1e-3 else Status.NOT, f"{words} (band 0.1 %)")


CLAIMS = (
    Claim(
        id="TRAIL-SOAP",
        text="The SOAP formula of limited preemption is the mean of the rule",
        source="Shahout et al., arXiv 2410.01035, via SOAP (theory core 1.8)",
        judge=_agrees,
        figure="trail_soap",
        least=Status.VERIFIED,
        test="test_theory_papers.py::test_trail_can_fail",
    ),
    Claim(
        id="TRAIL-VALUES",
        text="SJF, SRPT, SPJF, TRAIL and SPRPT at loads 0.5, 0.7 and 0.9 have the catalogued means",
        source="theory core O17",
        judge=_curves,
        figure="trail_soap",
        least=Status.PROVED,
        test="test_theory_papers.py::test_trail_can_fail",
    ),
    Claim(
        id="TRAIL-PRINTED",
        band=Band.SOURCE,
        text="The published SPJF and SPRPT means are those of the formula",
        source="Mitzenmacher and Shahout, arXiv 2503.07545, tables",
        judge=_published,
        figure="trail_soap",
        least=Status.BAND,
        test="test_theory_papers.py::test_trail_can_fail",
    ),
)
