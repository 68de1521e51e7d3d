r"""SLAI against Sarathi-Serve: the load that one GPU carries with a median TTFT of 0.5 s.

The setting of :mod:`experiments.slai_setting`, for three values of the KV bandwidth efficiency,
which published data do not identify. Loads are nominal requests per second (the authors' cut of the
gaps makes the true rate 1.0524 times as high), TTFT is theirs, arrival to end of prefill. Capacity
is where the median TTFT first exceeds 0.5 s, by linear interpolation between loads, path by path;
values are means over paths with 95 % intervals, and paths share lengths and gaps across loads and
policies, so that gains and cuts are paired.

A request has as many gaps as output tokens, the first one counted as zero, so the p99 gap of the
paying is at most 0.1 s where at most one in a hundred is longer ("both": median TTFT and that).

Paths in which somebody is evicted are run by the reference engine up to the first load beyond the
target; above it they are left out (``n`` counts those that are in). The band, 18 to 32 %, was set
before the runs around the paper's +26 %; of the paper's -53 % the load is not known, so the finding
names the load at which it comes nearest.

Where the gain comes from: SLAI serves short prompts first, and it holds decodes back until their
deadline less an offset of 5 or 10 mean batches (and with them the first token, which the authors'
TTFT leaves out). Where the offset reaches the time between tokens, every decode is critical and the
order alone is left. So the free users, 95 % of all, are also given 0.2 s between tokens instead of
0.5 s. ``batch`` is the mean batch time, ``over_order`` the capacity over that of Sarathi with short
prompts first, path by path, less 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

import llmq
from experiments.claim import Band, Claim, Finding, Status
from experiments.runner import PLAIN, Point, Row, Runner, Scale
from experiments.slai_setting import (
    CLASSES,
    DEADLINES,
    DYNAMIC,
    EFFICIENCIES,
    FCFS,
    FIXED,
    POLICIES,
    SOURCE,
    SPF,
    WORKLOAD,
    Floats,
    Ints,
    crossings,
    engine,
    interval,
    shared,
    traffic,
)
from experiments.table import Table
from llmq.rng import RngLike
from llmq.sim._dispatch import serve
from llmq.sim._fast.slots.engine import count_late
from llmq.sim._fast.vector.engine import Lanes

TITLE = "SLAI: capacity at a median TTFT of 0.5 s"
SEED = 1

TARGET, BAND, CUT_CLAIMED, GAIN_CLAIMED = 0.5, (0.18, 0.32), 0.53, 0.26
FOUR = (FCFS, SPF, FIXED, DYNAMIC)
QUICK, SOON = "SLAI SPF dynamic, free 0.2 s", 0.2
RUN = POLICIES | {QUICK: llmq.policies.SLAI(deadlines=DEADLINES | {"free": SOON})}
# Two points: a capacity moves by less than that from one pair of seeds to another.
SAME = 0.02
FULL = {"requests": 3000, "seeds": 6}
SMALL = {"requests": 250, "seeds": 3}
# Short paths cross the target on slow memory only.
SLOW = 0.45
LOADS = {"full": [1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7, 1.8], "small": [1.0, 1.4, 1.8, 2.4]}


@dataclass(frozen=True, slots=True)
class Curve:
    """What one policy does at each load, seed by seed.

    Parameters
    ----------
    loads : ndarray, shape (loads,)
        Nominal requests per second.
    ttft, first_token : ndarray, shape (seeds, loads)
        Medians to the end of the prefill and to the first token, seconds.
    late : ndarray, shape (seeds, loads)
        Share of the gaps of the paying that are longer than their deadline.
    batch : ndarray, shape (seeds, loads)
        Mean batch time, seconds; NaN where somebody is evicted.
    """

    loads: Floats
    ttft: Floats
    first_token: Floats
    late: Floats
    batch: Floats

    def capacities(self) -> dict[str, Floats]:
        """Capacity by its definition, path by path."""
        median = crossings(self.ttft, TARGET, self.loads)
        gaps = crossings(self.late, 0.01, self.loads)
        token = crossings(self.first_token, TARGET, self.loads)
        return {"median": median, "both": np.minimum(median, gaps), "first_token": token}


def measure(name: str, chip: llmq.Engine, lanes: Lanes, klass: Ints, loads: Floats) -> Curve:
    """Run all loads and seeds under a policy.

    Lanes that evict are run by the reference engine, as far as a capacity needs them: up to the
    first load beyond the target. Above it they are left out (NaN).
    """
    log, late = count_late(chip, RUN[name], lanes, klass, CLASSES)
    shape = -1, len(loads)
    gaps = (lanes.output * (klass == 1)).sum(axis=1)
    made, first = log.prefill_end - lanes.arrival, log.first_token - lanes.arrival
    share = late[:, 1] / np.maximum(gaps, 1)
    for seed in np.flatnonzero(log.undone.reshape(shape).any(axis=1)):
        for load in range(len(loads)):
            lane = seed * len(loads) + load
            if (
                log.undone[lane]
                and not (np.median(made[lane - load : lane], axis=1) > TARGET).any()
            ):
                made[lane], first[lane], share[lane] = evicting(name, chip, lanes, klass, int(lane))
    batch = np.where(log.undone, np.nan, log.busy / np.maximum(log.iterations, 1))
    columns = np.median(made, axis=1), np.median(first, axis=1), share, batch
    return Curve(loads, *(column.reshape(shape) for column in columns))


def evicting(
    name: str, chip: llmq.Engine, lanes: Lanes, klass: Ints, lane: int
) -> tuple[Floats, Floats, float]:
    """Run one lane in which somebody is evicted; Sarathi FCFS by its own rule for the victim."""
    arrival = lanes.arrival[lane]
    trace = llmq.Trace(
        arrival, lanes.prompt[lane], lanes.output[lane], klass=klass[lane], classes=CLASSES
    )
    policy = llmq.policies.Sarathi() if name == FCFS else RUN[name]
    log = serve(
        trace, (chip,), policy, choice="reference", rng=np.random.default_rng(0), tokens=True
    ).log
    assert log.tokens is not None
    paying = np.flatnonzero(klass[lane])
    late = sum(int((np.diff(log.tokens[i]) > DEADLINES["paying"]).sum()) for i in paying)
    share = late / max(float(lanes.output[lane][paying].sum()), 1.0)
    return np.array(log.prefill_end) - arrival, np.array(log.first_token) - arrival, share


def one(point: Point, rng: np.random.SeedSequence) -> list[Row]:
    """Rows of all policies at one efficiency."""
    loads = np.array(point["loads"])
    lanes, klass = traffic(point["requests"], shared(rng, point["seeds"]), loads)
    chip = engine(point["efficiency"])
    curves = {name: measure(name, chip, lanes, klass, loads) for name in (*FOUR, QUICK)}
    rows = list[Row]()
    base, order = curves[FCFS].capacities(), curves[SPF].capacities()["median"]
    for name, curve in curves.items():
        for what, values in curve.capacities().items():
            rows.append(_row(name, f"capacity_{what}", values))
            rows.append(_row(name, f"gain_{what}", values / base[what] - 1))
        rows.append(_row(name, "over_order", curve.capacities()["median"] / order - 1))
        for i, load in enumerate(loads.tolist()):
            rows.append(_row(name, "ttft", curve.ttft[:, i], load))
            rows.append(_row(name, "late", curve.late[:, i], load))
            rows.append(_row(name, "batch", curve.batch[:, i], load))
            rows.append(_row(name, "cut", 1 - curve.ttft[:, i] / curves[FCFS].ttft[:, i], load))
    return [{"efficiency": point["efficiency"], **row} for row in rows]


def _row(policy: str, what: str, values: npt.NDArray[np.float64], load: float = np.nan) -> Row:
    """Average over the paths that are in; nothing where one never crosses the target."""
    kept = values[~np.isnan(values)]
    whole = len(kept) > 1 and np.isfinite(kept).all()
    cells = interval(kept if whole else np.full(2, np.nan))
    return {"policy": policy, "what": what, "load": load, **cells, "n": len(kept)}


def compute(*, scale: Scale = "small", rng: RngLike = SEED, runner: Runner = PLAIN) -> Table:
    """Simulate all policies at every load and efficiency.

    Parameters
    ----------
    scale : {"small", "full"}
        Efficiency 0.45, 3 paths of 250 requests at four loads; or 0.6, 0.7 and 0.8, 6 paths of 3000
        at nine loads.
    rng : Generator, SeedSequence, int or None
        Source of randomness.
    runner : Runner
        How points are computed.

    Returns
    -------
    Table
        ``what`` is a capacity (requests/s), a gain over Sarathi FCFS or over Sarathi with the same
        order (share), the median TTFT (s), the share of late gaps of the paying, the mean batch
        time (s), or the cut of the median TTFT (share), by load.
    """
    settings = SMALL if scale == "small" else FULL
    efficiencies = (SLOW,) if scale == "small" else EFFICIENCIES
    points = [{"efficiency": x, "loads": LOADS[scale], **settings} for x in efficiencies]
    rows = runner.run(one, points, rng)
    return Table.of(
        "slai_capacity",
        rows,
        units={"load": "requests/s", "value": "by what"},
        about={
            "source": SOURCE,
            "kind": "simulated; value is a mean over n paths, 95 % interval",
            "units": "capacity in requests/s, ttft and batch in s, the others as shares",
            "workload": WORKLOAD,
            "paths": "{seeds} of {requests} requests".format_map(settings),
            "load": "nominal; the true rate is 1.0524 times as high",
        },
    )


def _gain(table: Table, what: str) -> Table:
    return table.where(policy=DYNAMIC, what=f"gain_{what}")


def _words(rows: Table) -> str:
    return "; ".join(
        f"eff {r['efficiency']:g}: {100 * r['value']:+.1f} % ({100 * r['low']:+.1f} to "
        f"{100 * r['high']:+.1f})"
        for r in rows.rows()
    )


def capacity_gain(table: Table) -> Finding:
    """Judge: the gain lies between 18 and 32 % at every efficiency."""
    return _in_band(_gain(table, "median"))


def constrained_gain(table: Table) -> Finding:
    """Judge: the gain is in the same band where the paying's p99 gap must keep 0.1 s too."""
    return _in_band(_gain(table, "both"))


def token_gain(table: Table) -> Finding:
    """Judge: the gain is in the same band where TTFT ends with the first token."""
    return _in_band(_gain(table, "first_token"))


def origins(table: Table) -> Finding:
    """Judge: with free users at 0.2 s every decode is critical, and the order alone is left.

    Direction where, at every efficiency, holding decodes back carries more than the order alone
    with free users at 0.5 s, with confidence, and more than with free users at 0.2 s. In band where
    besides the order has a part of its own, with confidence, and free users at 0.2 s carry within
    two points what it carries, while their offset of five batches reaches 0.2 s at that load.
    """
    four = {
        "in all": table.where(policy=DYNAMIC, what="gain_median"),
        "to the first token": table.where(policy=DYNAMIC, what="gain_first_token"),
        "order alone": table.where(policy=SPF, what="gain_median"),
        "free at 0.2 s": table.where(policy=QUICK, what="gain_median"),
    }
    words = [f"{name}: {_words(rows)}" for name, rows in four.items()]
    more, over = (table.where(policy=name, what="over_order") for name in (DYNAMIC, QUICK))
    if not len(more) or len(more) != len(over):
        raise LookupError("a policy is missing")
    offsets = [offset(table, QUICK, efficiency) for efficiency in over["efficiency"].tolist()]
    held = bool((more["low"] > 0).all() and (over["high"] < more["low"]).all())
    ordered = bool((four["order alone"]["low"] > 0).all())
    alike = bool((np.abs(over["value"]) <= SAME).all()) and min(offsets) >= SOON
    status = Status.NOT
    if held:
        status = Status.BAND if ordered and alike else Status.DIRECTION
    over_words = ", ".join(f"{100 * x:+.1f} %" for x in over["value"].tolist())
    return Finding(
        status,
        "; ".join(words) + f"; free at 0.2 s over the order alone: {over_words}, five batches there"
        f" take {', '.join(f'{x:.3f} s' for x in offsets)}",
    )


def offset(table: Table, policy: str, efficiency: float) -> float:
    """Interpolate five mean batch times, the offset of roomy memory, at a policy's capacity.

    Parameters
    ----------
    table : Table
        Of this experiment.
    policy : str
        Whose.
    efficiency : float
        Of the memory bandwidth.

    Returns
    -------
    float
        Seconds.
    """
    mine = {"policy": policy, "efficiency": efficiency}
    batch = complete(table.where(what="batch", **mine))
    capacity = float(table.where(what="capacity_median", **mine)["value"][0])
    return 5 * float(np.interp(capacity, batch["load"], batch["value"]))


def _in_band(rows: Table) -> Finding:
    inside = (rows["value"] >= BAND[0]) & (rows["value"] <= BAND[1])
    status = Status.NOT
    if len(rows) and np.all(rows["value"] > 0):
        status = Status.BAND if inside.all() else Status.DIRECTION
    return Finding(status, _words(rows))


def complete(rows: Table) -> Table:
    """Keep the loads at which every path is in: of the others the worst are missing."""
    return rows.where(load=rows["load"][rows["n"] == rows["n"].max()].tolist())


def ttft_cut(table: Table) -> Finding:
    """Judge: the cut passes 53 % between two loads, or its interval holds it; name the load."""
    parts, hit, positive = [], False, True
    for efficiency in np.unique(table["efficiency"]):
        rows = table.where(policy=DYNAMIC, what="cut", efficiency=float(efficiency))
        rows = complete(rows)
        cut, loads = rows["value"], rows["load"]
        positive &= bool(np.all(cut > 0))
        words = f"eff {efficiency:g}: {100 * cut[0]:.0f} % at {loads[0]:g}/s"
        beyond = np.flatnonzero(cut > CUT_CLAIMED)
        i = int(np.argmin(np.abs(cut - CUT_CLAIMED)))
        inside = bool(rows["low"][i] <= CUT_CLAIMED <= rows["high"][i])
        if beyond.size and beyond[0] > 0:
            k = slice(int(beyond[0]) - 1, int(beyond[0]) + 1)
            words += f", 53 % at {np.interp(CUT_CLAIMED, cut[k], loads[k]):.2f}/s"
        else:
            words += f", nearest to 53 % is {100 * cut[i]:.0f} % at {loads[i]:g}/s"
        hit |= inside or bool(beyond.size and beyond[0] > 0)
        parts.append(words)
    positive &= bool(parts)
    status = Status.BAND if hit and positive else Status.DIRECTION if positive else Status.NOT
    return Finding(status, "; ".join(parts))


def ordering(table: Table) -> Finding:
    """Judge: from 1.3/s on dynamic < fixed, Sarathi SPF < Sarathi FCFS; fixed about Sarathi SPF."""
    rows = table.where(what="ttft")
    right, cells, near = 0, 0, 0.0
    for efficiency in np.unique(rows["efficiency"]):
        for load in np.unique(rows["load"][rows["load"] > 1.299]):
            here = rows.where(efficiency=float(efficiency), load=float(load))
            if here["n"].min() < rows["n"].max():
                continue  # some paths are left out: those that evict
            fcfs, spf, fixed, dynamic = (float(here.where(policy=x)["value"][0]) for x in FOUR)
            cells += 1
            near = max(near, fixed / spf - 1)
            # "about": a tenth.
            right += dynamic < fixed < fcfs and dynamic < spf < fcfs and fixed <= 1.1 * spf
    status = Status.BAND if cells and right == cells else Status.NOT
    if status is Status.NOT and right > cells / 2:
        status = Status.DIRECTION
    return Finding(
        status,
        f"{right} of {cells} loads from 1.3/s on; fixed offset at most {100 * near:.1f} % above "
        "Sarathi SPF",
    )


CLAIMS = (
    Claim(
        id="SLAI-CAPACITY",
        band=Band.NOTES,
        text="SLAI (SPF, dynamic offset) carries 26 % more than Sarathi-Serve at a median TTFT of "
        "0.5 s; band 18 to 32 %.",
        source="Bari et al., arXiv 2508.01002, abstract; band of the notes",
        judge=capacity_gain,
        figure="slai_capacity",
        least=Status.DIRECTION,
        test="test_slai.py::test_capacity_can_fail",
    ),
    Claim(
        id="SLAI-CAPACITY-TBT",
        band=Band.NOTES,
        text="The gain holds where the paying's p99 TBT must keep 0.1 s as well (the paper says "
        "that tail TBT was met); same band.",
        source="Bari et al., arXiv 2508.01002, abstract; band of the notes",
        judge=constrained_gain,
        figure="slai_capacity",
        least=Status.NOT,
        test="test_slai.py::test_capacity_can_fail",
    ),
    Claim(
        id="SLAI-CAPACITY-TOKEN",
        band=Band.RESULTS,
        text="The gain holds where TTFT ends with the first token instead of the prefill; same "
        "band.",
        source="the question is ours; the authors' TTFT ends with the prefill",
        judge=token_gain,
        figure="slai_capacity",
        least=Status.NOT,
        test="test_slai.py::test_capacity_can_fail",
    ),
    Claim(
        id="SLAI-TTFT",
        band=Band.SOURCE,
        text="SLAI cuts the median TTFT by 53 % against Sarathi-Serve; the paper's load is not "
        "known, so a match at one load is weak evidence.",
        source="Bari et al., arXiv 2508.01002, abstract",
        judge=ttft_cut,
        figure="slai_capacity",
        least=Status.DIRECTION,
        test="test_slai.py::test_capacity_can_fail",
    ),
    Claim(
        id="SLAI-ORDER",
        band=Band.NOTES,
        text="From 1.3 requests/s on, median TTFT orders SLAI dynamic < SLAI fixed <= about "
        "Sarathi SPF < Sarathi FCFS.",
        source="the notes' earlier simulation (3000 requests, two seeds)",
        judge=ordering,
        figure="slai_capacity",
        least=Status.DIRECTION,
        test="test_slai.py::test_capacity_can_fail",
    ),
    Claim(
        id="SLAI-CAPACITY-ORIGIN",
        band=Band.RESULTS,
        text="Of the gain the order of the prompts brings a part. With 0.2 s instead of 0.5 s "
        "between tokens for the free users an offset of five batches reaches the deadline, every "
        "decode is critical, and within two points that part is all that is left.",
        source="the question is ours; offsets of Bari et al., arXiv 2508.01002",
        judge=origins,
        figure="slai_capacity",
        least=Status.DIRECTION,
        test="test_slai.py::test_the_origin_of_the_gain_can_fail",
    ),
)
