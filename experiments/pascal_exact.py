"""PASCAL's small examples, exactly: who holds a slot in each unit of time.

Iterations take one second, swaps nothing, memory is slots, the quantum is 4 tokens (2 in the third
case); every reader is so slow that all answers are in time. ``three`` is figure 2 of the paper:
three requests that only answer, on two slots of one engine. ``override`` is the situation of
figure 7 (its numbers are not printed): reasoning ends on engine 1, engine 0 has fewer reasoning
requests but no free slot. ``inversion`` and ``migration`` show what the paper says in words: under
RR a short request answers while an earlier one still reasons; a request whose reasoning ends moves
to where nobody reasons.

Each case runs on the event-by-event reference and on the lockstep of ranked policies, which share
no code for this; a difference stops the computation. A row is a stretch of iterations in which a
request has a slot. Expected values: the caption of figure 2, and schedules made by hand.

Cho et al., PASCAL, arXiv 2602.11530, figures 2 and 7.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

import llmq
from experiments.claim import Claim, Finding, Status
from experiments.pascal_cluster import SOURCE
from experiments.runner import PLAIN, Row, Runner, Scale
from experiments.table import Table
from llmq import policies
from llmq.policies import Policy
from llmq.rng import RngLike
from llmq.sim._fast.ranked.engine import run_ranked

TITLE = "PASCAL: exact timelines of small examples"
SEED = 7
UNIT = llmq.BatchTime.affine(base=1.0, per_token=0.0)
Job = tuple[str, float, int, int]
# Name, arrival, reasoning tokens, answer tokens.
JOBS: dict[str, tuple[Job, ...]] = {
    "three": (("A", 0.0, 0, 8), ("B", 1.0, 0, 8), ("C", 2.0, 0, 8)),
    "inversion": (("L", 0.0, 6, 2), ("S", 1.0, 1, 5)),
    "migration": (("A", 0.0, 2, 4), ("B", 1.0, 5, 2), ("C", 2.0, 4, 2)),
    "override": (("Q1", 0.0, 1, 9), ("P", 1.0, 4, 3), ("R", 2.0, 7, 1), ("Q2", 3.0, 1, 7)),
}
# Engines, slots, quantum.
SHAPE = {"three": (1, 2, 4), "inversion": (1, 1, 2), "migration": (2, 1, 4), "override": (2, 2, 4)}
# Time to the first answer token and time of the last, seconds.
EXPECTED = {
    ("three", "FCFS"): ((1, 1, 7), (8, 9, 16)),
    ("three", "RR"): ((1, 1, 3), (9, 12, 13)),
    ("three", "PASCAL"): ((1, 1, 3), (9, 12, 13)),
    ("inversion", "FCFS"): ((7, 9), (8, 14)),
    ("inversion", "RR"): ((13, 3), (14, 12)),
    ("inversion", "PASCAL"): ((10, 7), (11, 14)),
    ("migration", "FCFS"): ((3, 6, 11), (6, 8, 14)),
    ("migration", "RR"): ((3, 10, 11), (6, 12, 14)),
    ("migration", "PASCAL"): ((3, 10, 8), (6, 12, 11)),
    ("migration", "NoMigration"): ((3, 12, 9), (6, 14, 12)),
    ("override", "FCFS"): ((2, 5, 8, 2), (10, 8, 10, 11)),
    ("override", "RR"): ((2, 5, 8, 2), (10, 8, 10, 11)),
    ("override", "PASCAL"): ((2, 5, 8, 2), (10, 8, 10, 11)),
    ("override", "NoMigration"): ((2, 5, 8, 2), (10, 8, 10, 11)),
    ("override", "NonAdaptive"): ((2, 5, 8, 2), (13, 8, 10, 11)),
}


def made(title: str, quantum: int) -> Policy:
    """Return a policy by its name in the tables."""
    if title == "FCFS":
        return policies.FCFS()
    if title == "RR":
        return policies.RR(quantum=quantum)
    return policies.PASCAL(
        quantum=quantum,
        tau=100.0,
        migrate=title != "NoMigration",
        adaptive=title != "NonAdaptive",
    )


def compute(*, scale: Scale = "small", rng: RngLike = SEED, runner: Runner = PLAIN) -> Table:
    """Run every example; nothing is random, both scales are the same.

    Parameters
    ----------
    scale, rng, runner
        Not used.

    Returns
    -------
    Table
        A row for each stretch in which a request has a slot.
    """
    rows = [row for case, title in EXPECTED for row in timeline(case, title)]
    about = {
        "source": f"{SOURCE}, figures 2 and 7; the lengths of figure 7 are a choice",
        "setting": "unit iterations, memory in slots, quantum 4 (inversion: 2)",
        "kind": "simulated, without randomness, by two simulators",
    }
    units = {"arrival": "s", "start": "s", "end": "s"}
    return Table.of("pascal_exact", rows, units=units, about=about)


def timeline(case: str, title: str) -> list[Row]:
    """Run one example under one policy.

    Parameters
    ----------
    case : str
        Of JOBS.
    title : str
        Policy.

    Returns
    -------
    list of dict
        Rows of the table.

    Examples
    --------
    >>> [(row["start"], row["end"]) for row in timeline("three", "RR") if row["request"] == "B"]
    [(1.0, 5.0), (8.0, 12.0)]
    """
    names, arrival, hidden, answer = (list(column) for column in zip(*JOBS[case], strict=True))
    engines, slots, quantum = SHAPE[case]
    output = [r + a for r, a in zip(hidden, answer, strict=True)]
    engine, policy = llmq.Engine(UNIT, max_seqs=slots, token_budget=4096), made(title, quantum)
    trace = llmq.Trace(arrival, [1] * len(names), output, hidden)
    done = llmq.simulate(
        llmq.Fleet({"all": (engine, engines)}),
        trace,
        policy,
        record="tokens",
        simulator="reference",
    ).requests
    log = run_ranked(
        [engine] * engines,
        policy,
        np.array([arrival]),
        np.ones((1, len(names)), int),
        np.array([output]),
        np.array([hidden]),
    )
    if not np.array_equal(log.finish, done.finish):
        raise AssertionError(f"{case}, {title}: the two simulators differ")
    assert done.token_times is not None
    assert done.token_offsets is not None
    rows: list[Row] = []
    for i, name in enumerate(names):
        own = done.token_times[done.token_offsets[i] : done.token_offsets[i + 1]] - 1
        answers = np.arange(output[i]) >= hidden[i]
        moved = answers & bool(np.isfinite(log.transfer[0, i]))
        # With two engines a request that moved is on the other one.
        place = np.where(moved, 1 - log.server[0, i], log.server[0, i])
        breaks = (np.diff(own) != 1) | (np.diff(answers) != 0) | (np.diff(place) != 0)
        parts = np.split(np.arange(output[i]), np.flatnonzero(breaks) + 1)
        rows += [
            {
                "case": case,
                "policy": title,
                "request": name,
                "arrival": arrival[i],
                "phase": "answer" if answers[part[0]] else "reasoning",
                "engine": int(place[part[0]]),
                "start": float(own[part[0]]),
                "end": float(own[part[-1]]) + 1,
            }
            for part in parts
        ]
    return rows


# ------------------------------------------------------------------------------------ judging


def instants(table: Table, case: str, title: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Read TTFT and end of every request off the stretches.

    Parameters
    ----------
    table : Table
        Of this module.
    case, title : str
        Example and policy.

    Returns
    -------
    tuple of tuple of int
        Seconds, request by request.
    """
    first, last = [], []
    for name, *_ in JOBS[case]:
        mine = table.where(case=case, policy=title, request=name)
        answers = mine.where(phase="answer")
        first.append(int(answers["start"].min() + 1 - mine["arrival"][0]))
        last.append(int(mine["end"].max()))
    return tuple(first), tuple(last)


def as_expected(cases: Sequence[str]) -> Callable[[Table], Finding]:
    """Judge: every TTFT and every end is the expected one."""

    def judge(table: Table) -> Finding:
        pairs = [(case, title) for case, title in EXPECTED if case in cases]
        wrong = [p for p in pairs if instants(table, *p) != EXPECTED[p]]
        words = [
            f"{title} TTFT {_list(f)}, end {_list(e)}"
            for case, title in pairs
            for f, e in [instants(table, case, title)]
        ]
        status = Status.NOT if wrong else Status.PROVED
        return Finding(status, "; ".join(words))

    return judge


def _list(values: Sequence[int]) -> str:
    return " ".join(map(str, values))


def figure_2(table: Table) -> Finding:
    """Judge: as expected, and B pauses 3 units after its fourth token, C stops at 8, as printed."""
    found = as_expected(["three"])(table)
    rr = table.where(case="three", policy="RR")
    b, c = (rr.where(request=name) for name in "BC")
    pause = float(b["start"][1] - b["end"][0]) if len(b) > 1 else 0.0
    good = pause == 3 and c["end"][0] == 8
    return Finding(found.status if good else Status.NOT, f"{found.measured}; B pauses {pause:g}")


CLAIMS = (
    Claim(
        id="PASCAL-2",
        text="Three requests on two slots: FCFS gives C its first token after 7 units, RR after 3; "
        "B pauses exactly 3 units after its fourth token and C is preempted at 8.",
        source=f"{SOURCE}, figure 2",
        judge=figure_2,
        figure="pascal_fig2",
        least=Status.PROVED,
        test="test_pascal.py::test_judges_can_fail",
    ),
    Claim(
        id="PASCAL-7",
        text="The adaptive override keeps a request where there is room: without it Q1 pauses "
        "3 units and ends at 13 instead of 10; TTFT is the same.",
        source=f"{SOURCE}, figure 7 (lengths chosen)",
        judge=as_expected(["override"]),
        figure="pascal_fig7",
        least=Status.PROVED,
        test="test_pascal.py::test_judges_can_fail",
    ),
    Claim(
        id="PASCAL-EXACT",
        text="RR lets a short request answer before an earlier one has reasoned; moving to where "
        "nobody reasons cuts the TTFT of C from 11 to 8.",
        source=f"{SOURCE}, section IV (lengths chosen)",
        judge=as_expected(["inversion", "migration"]),
        figure="pascal_fig7",
        least=Status.PROVED,
        test="test_pascal.py::test_judges_can_fail",
    ),
)
