r"""Verdicts with limits of slots and memory, and both of vLLM's schedulers.

    python -m experiments verdict_limits
    python -m experiments.verdict_limits           # the table of docs/verdicts.md

``example``: the smallest network that refutes vLLM v0 without a limit of slots, given 4 to 256 of
them (``--max-num-seqs``; 256 was its default), at 0.9 and 0.95 of the capacity. ``tests``: random
networks with slots, memory or both (:func:`llmq.optimality.networks.limited.suited_limited`) at 0.9
of what the best explicit schedule carries; vLLM v1 also without limits, and on the short prompts of
v0's networks. ``reach``: the load carried on the networks of the standard set, with slots and
without; both on ``short`` ones, v1 also on ``split`` ones.

With a limit load 1 is where an explicit schedule ends that knows the output lengths; ``least`` is
the outer bound there.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from experiments.claim import Band, Claim, Finding, Status
from experiments.runner import PLAIN, Point, Row, Runner, Scale
from experiments.table import TABLES, Table, read_table
from experiments.verdict_points import ALPHA, standard
from experiments.verdicts import SHELF
from llmq import policies
from llmq.optimality.instability import Instability
from llmq.optimality.networks import Network, fitted, suited
from llmq.optimality.networks.limited import SLOTS, limited, suited_limited
from llmq.optimality.verdict import failure_bound, stability_test
from llmq.result import from_json
from llmq.rng import RngLike

TITLE = "Policies with limits of slots and memory; vLLM v0 and v1"
SEED = 6
SOURCE = "llmq.optimality.verdict; networks of llmq.optimality.networks.limited and standard-1"
UNITS = {
    "load": "share of capacity",
    "low": "share of capacity",
    "high": "share of capacity",
    "least": "share of capacity",
}
V0, V1 = "vllm:version=v0", "vllm:version=v1"
NAMES = {"sarathi": "sarathi", "vllm v1": V1, "vllm v0": V0}
# Networks of the tests; those of v0, which does not split prompts, have short ones.
SHORT, FREE = "limits, short prompts", "no limits"
SETS = {
    ("sarathi", "limits"): 50,
    ("vllm v1", "limits"): 50,
    ("vllm v1", SHORT): 50,
    ("vllm v0", SHORT): 5,
    ("vllm v1", FREE): 50,
}
# Networks of the standard set. Those of v0 are few, here and in the tests: it is slow.
REACH = {("vllm v1", "split"): 8, ("vllm v1", "short"): 8, ("vllm v0", "short"): 5}
TEST: dict[str, Any] = {"replications": 4, "looks": 4, "alpha": ALPHA}
STEPS = 5


def example(point: Point, rng: np.random.SeedSequence) -> list[Row]:
    """Test the example of vLLM v0 with so many slots."""
    found = from_json(Instability, (SHELF / "vllm.json").read_text(encoding="utf-8"))
    assert isinstance(found.network, Network)
    network = limited(found.network, max_seqs=point["slots"])
    said = stability_test(policies.parse(found.policy), network, point["load"], rng=rng, **TEST)
    return [
        {
            "quantity": "example",
            "policy": "vllm v0",
            "set": "shelf",
            "slots": point["slots"],
            "load": point["load"],
            "least": network.least,
            said.status: 1,
        }
    ]


def tests(point: Point, rng: np.random.SeedSequence) -> list[Row]:
    """Count the answers at 0.9 on networks drawn by number, with limits or without."""
    policy, said, least = policies.parse(NAMES[point["policy"]]), Counter[str](), []
    for number in range(point["first"], point["first"] + point["n"]):
        drawn_for = policies.parse(V0) if point["set"] == SHORT else policy
        draw = suited if point["set"] == FREE else suited_limited
        network = draw(drawn_for, number)
        least.append(getattr(network, "least", 1.0))
        seed = np.random.SeedSequence((6, number))
        chosen = fitted(policy, network.engine)
        said[stability_test(chosen, network, 0.9, rng=seed, **TEST).status] += 1
    return [
        {
            "quantity": "tests",
            "policy": point["policy"],
            "set": point["set"],
            "load": 0.9,
            "n": point["n"],
            "least": float(np.mean(least)),
            **{key: said[key] for key in ("stable", "grows", "undecided")},
        }
    ]


def reach(point: Point, rng: np.random.SeedSequence) -> list[Row]:
    """Bisect the load that a scheduler of vLLM carries with so many slots (0: no limit)."""
    policy, sort = policies.parse(NAMES[point["policy"]]), point["set"]
    network = standard(sort)[point["network"]]
    if point["slots"]:
        network = limited(network, max_seqs=point["slots"])
    chosen, low, high, top = fitted(policy, network.engine), 0.0, 1.0, 1.0
    for step in range(STEPS):
        middle = 0.95 if step == 0 else (low + top) / 2
        status = stability_test(chosen, network, middle, rng=step, **TEST).status
        if status == "stable":
            low = middle
            if step == 0:
                break
        else:
            top = middle
            high = middle if status == "grows" else high
    return [
        {
            "quantity": "reach",
            "policy": point["policy"],
            "set": sort,
            "slots": point["slots"],
            "network": point["network"],
            "low": low,
            "high": high,
            "least": getattr(network, "least", 1.0),
        }
    ]


def compute(*, scale: Scale = "small", rng: RngLike = SEED, runner: Runner = PLAIN) -> Table:
    """Compute the table.

    Parameters
    ----------
    scale : {"small", "full"}
        The example with 4 slots and a network a policy, or all.
    rng : Generator, SeedSequence, int or None
        Source of randomness of the example; networks and their paths are drawn by number.
    runner : Runner
        Who computes, and what is kept.

    Returns
    -------
    Table
        Columns quantity, policy, set, slots (0: no limit), network, load, low, high, least, n and
        the answers.
    """
    full = scale == "full"
    shown: list[Point] = [
        {"slots": slots, "load": load}
        for slots in SLOTS[: None if full else 1]
        for load in (0.9, 0.95)
    ]
    some: list[Point] = [
        {"policy": name, "set": set_, "first": first, "n": 5 if full else 1}
        for (name, set_), count in SETS.items()
        for first in range(0, count if full else 1, 5)
    ]
    carried: list[Point] = [
        {"policy": name, "set": sort, "slots": slots, "network": i}
        for (name, sort), count in REACH.items()
        for slots in ((0, 4) if full else (4,))
        for i in range(count if full else 1)
    ]
    rows = [
        *runner.run(example, shown, rng),
        *runner.run(tests, some, rng),
        *runner.run(reach, carried, rng),
    ]
    about = {"source": SOURCE, "test": f"each wrong answer at most {ALPHA:g}"}
    return Table.of("verdict_limits", [{**_BLANK, **row} for row in rows], units=UNITS, about=about)


_BLANK: Row = {
    "quantity": "",
    "policy": "",
    "set": "",
    "slots": 0,
    "network": -1,
    "load": np.nan,
    "low": np.nan,
    "high": np.nan,
    "least": np.nan,
    "n": 1,
    "stable": 0,
    "grows": 0,
    "undecided": 0,
}


def page(table: Table) -> str:
    """Write the second table of ``docs/verdicts.md``.

    Parameters
    ----------
    table : Table
        Of this experiment.

    Returns
    -------
    str
        Markdown, a row for each policy.
    """
    lines = [
        "| policy | networks | stable, growing, undecided at 0.9 | fails on at most "
        "| outer bound at load 1 |",
        "|---|---|---|---|---|",
    ]
    rows = table.where(quantity="tests")
    for name, set_ in dict.fromkeys(zip(rows["policy"], rows["set"], strict=True)):
        some = rows.where(policy=name, set=set_)
        stable, n = int(some["stable"].sum()), int(some["n"].sum())
        counts = f"{stable}, {int(some['grows'].sum())}, {int(some['undecided'].sum())} of {n}"
        bound = failure_bound(n - stable, n, alpha=ALPHA)
        lines.append(
            f"| {name} | {set_} | {counts} | {100 * bound:.3g} % | {some['least'].mean():.3f} |"
        )
    head = "| vLLM | networks | slots | reach: mean, worst (networks) |"
    lines += ["", head, "|---|---|---|---|"]
    rows = table.where(quantity="reach")
    for name, sort in dict.fromkeys(zip(rows["policy"], rows["set"], strict=True)):
        for slots in sorted(set(rows.where(policy=name, set=sort)["slots"])):
            some = rows.where(policy=name, set=sort, slots=int(slots))
            low, high, worst = some["low"].mean(), some["high"].mean(), some["low"].min()
            lines.append(
                f"| {name[5:]} | {sort} | {slots or 'no limit'} | {low:.3f} to "
                f"{high:.3f}, worst {worst:.3f} ({len(some)}) |"
            )
    return "\n".join(lines) + "\n"


def _example(table: Table) -> Finding:
    rows = table.where(quantity="example")
    slots = ", ".join(map(str, dict.fromkeys(rows["slots"])))
    words = f"stable in {int(rows['stable'].sum())} of {len(rows)} tests with {slots} slots"
    good = len(rows) and rows["stable"].all()
    enough = Status.VERIFIED if len(rows) == 2 * len(SLOTS) else Status.DIRECTION
    return Finding(enough if good else Status.NOT, words)


def _v1(table: Table) -> Finding:
    rows = table.where(quantity="tests", policy="vllm v1")
    words = "; ".join(
        f"{set_}: {int(some['stable'].sum())} of {int(some['n'].sum())} stable"
        for set_ in dict.fromkeys(rows["set"])
        for some in [rows.where(set=set_)]
    )
    good = len(rows) and rows["stable"].sum() >= 0.95 * rows["n"].sum() and not rows["grows"].any()
    return Finding(Status.DIRECTION if good else Status.NOT, words)


_TEST = "test_verdict_claims.py::test_e4_judges_with_limits_can_fail"
CLAIMS = (
    Claim(
        id="VERDICT-5",
        band=Band.RESULTS,
        source=SOURCE,
        judge=_example,
        least=Status.DIRECTION,
        test=_TEST,
        text="The smallest network that refutes vLLM v0 is stable at 0.9 and 0.95 of the capacity "
        "with any limit of slots from 4 to 256",
    ),
    Claim(
        id="VERDICT-6",
        band=Band.RESULTS,
        source=SOURCE,
        judge=_v1,
        conjecture=True,
        least=Status.NOT,
        test=_TEST,
        text="vLLM v1 carries 0.9 on random networks, without limits and with slots and memory",
    ),
)


if __name__ == "__main__":
    print(page(read_table(TABLES / "verdict_limits.csv")), end="")
