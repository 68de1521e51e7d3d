r"""The verdict on every policy: proved, tested optimal, or refuted; and how much it carries.

    python -m experiments verdicts
    python -m experiments.verdicts --page          # the tables of docs/verdicts.md

Rows of three sorts (:mod:`experiments.verdict_points` says how each is made): ``reach``, the load
carried on each network of the standard set; ``tests``, answers of the sequential test on many
random networks at loads 0.9 and 1.05; ``errors``, answers where the truth is a theorem; and
``refuted``, the counterexamples of ``docs/counterexamples``.

Reconstructed: nothing; the definition of throughput optimality is that of Dai et al. 2504.07347 and
of Bari et al. 2508.01002. Policies that only the reference simulator runs are tested on fewer
networks; how many stands in the table.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np

from experiments.claim import Band, Claim, Finding, Status
from experiments.runner import PLAIN, Point, Row, Runner, Scale
from experiments.table import TABLES, Table, read_table
from experiments.verdict_points import ALPHA, FAST, errors, home, one_class, reach, setting, tests
from llmq import policies
from llmq.optimality.instability import Instability
from llmq.optimality.saturation.open import OpenCycle
from llmq.optimality.verdict import failure_bound
from llmq.result import from_json
from llmq.rng import RngLike

__all__ = ["page", "points", "verdict"]

TITLE = "Which policies are throughput-optimal, and how much of the region each reaches"
SEED = 6
DOCS = Path(__file__).parent.parent / "docs"
SHELF = DOCS / "counterexamples"
FOLDERS = ("", "laws", "fleets", "memory")
MARKS = ("<!-- table: python -m experiments.verdicts --page -->\n", "<!-- end of table -->")
_one_class = one_class
UNITS = {
    "load": "share of capacity",
    "value": "share of capacity",
    "low": "share of capacity",
    "high": "share of capacity",
}
NAMES = tuple(kind.name for kind in policies.ALL)
OPTIMAL = ("sarathi", "orca", "rad", "maxweight")
# What is proved, by entry of THEOREMS.md, and what is known beyond the tests.
_RANKED = (
    "whole prompts leave gaps in a batch; with no limit of tokens all but one peak of the memory, "
    "on one engine with free swap [RANK]"
)
WHY = {
    "sarathi": "full batches, without limits and if the full budget is the most productive batch",
    "orca": "whole prompts leave gaps in a batch",
    "rad": "no cycles, prompts a multiple of the tile",
    "maxweight": "without limits every batch is the most productive one while much work waits",
    "slai": "full batches, without limits and if as many decodes are allowed as the budget has "
    "tokens (128 by default caps larger budgets); slots exclude phases [PACE]; every decode is "
    "critical here: iterations take 0.125 s and more",
    "pascal": _RANKED,
    "fcfs": _RANKED,
    "rr": _RANKED,
    "fastertransformer": "exclusive phases [XC]",
    "vllm": "v0: an iteration for each prompt that comes [OC]",
    "simple-chunking": "phases in turn",
    "priority": "full batches, without limits, whatever the order of the classes; where "
    "agents call each other it fails [G1, FC]; "
    "[priority/two-types](counterexamples/priority/two-types.json)",
    "trail": "fills its batches while memory does not bind; where it does, what is pushed out is "
    "computed again [RCC]",
}
PROVED = {"sarathi": "S1", "maxweight": "S1", "rad": "RAD2", "priority": "S1", "slai": "WC"}
# What the verdict of the tests leaves out.
WITHIN = {"trail": " without a limit of memory"}
# Networks at load 0.9 of the policies that only the reference simulator runs, by what they take.
SLOW = {
    "slai": 100,
    "priority": 100,
    "trail": 100,
    "simple-chunking": 60,
    "vllm": 40,
    "fcfs": 30,
    "rr": 30,
    "pascal": 30,
}


def points(scale: Scale) -> tuple[list[Point], list[Point], list[Point]]:
    """List what to run: tests, reach, errors."""
    full = scale == "full"
    some: list[Point] = []
    for load in (0.9, 1.05):
        names = NAMES if full else FAST
        for name in sorted(names, key=lambda name: (name not in OPTIMAL, name not in FAST)):
            n = networks(name, load) if full else 1
            some += _parts(name, "suited", load, n, 50 if name in FAST else 10)
            if name == "maxweight":
                some += _parts(name, "mismatched", load, n)
    kinds = {name: home(setting(name)) for name in NAMES}
    reached: list[Point] = [
        {"policy": name, "set": kinds[name][wide], "network": i}
        for wide in (False, True)
        for name in (NAMES if full else OPTIMAL)
        if name in FAST or not wide
        for i in range(4 if full else 1)
    ]
    known: list[Point] = [
        part
        for name in ("sarathi", "fastertransformer")
        for load in (0.95, 1.05)
        for part in _parts(name, "boundary", load, 25 if full else 2)
    ]
    return some, reached, known


def networks(policy: str, load: float) -> int:
    """Count the networks of a policy at full scale: fewer where all must grow."""
    if policy in FAST:
        return 50 if load > 1 else 1000 if policy in OPTIMAL else 100
    return min(SLOW[policy] // 6, 10) if load > 1 else SLOW[policy]


def _parts(name: str, set_: str, load: float, n: int, size: int = 50) -> list[Point]:
    return [
        {"policy": name, "set": set_, "load": load, "first": i, "n": min(size, n - i)}
        for i in range(0, n, size)
    ]


def compute(*, scale: Scale = "small", rng: RngLike = SEED, runner: Runner = PLAIN) -> Table:
    """Compute the table.

    Parameters
    ----------
    scale : {"small", "full"}
        Two networks for a policy, or up to 1,000.
    rng : Generator, SeedSequence, int or None
        Not used: networks are drawn by number, paths by the number too, alike for all policies.
    runner : Runner
        Who computes, and what is kept.

    Returns
    -------
    Table
        Columns quantity, policy, set, network, load, value, low, high, n, stable, grows, undecided,
        proved, proof, kind.
    """
    some, reached, known = points(scale)
    rows = [
        *_summed("tests", runner.run(tests, some, rng)),
        *runner.run(reach, reached, rng),
        *_summed("errors", runner.run(errors, known, rng)),
        *_refuted(),
    ]
    return Table.of(
        "verdicts",
        [{**_BLANK, **row} for row in rows],
        units=UNITS,
        about={
            "source": "definition of Dai et al. 2504.07347; standard set standard-1",
            "test": f"each wrong answer at most {ALPHA:g}, 4 paths a look",
        },
    )


_BLANK: Row = {
    "quantity": "",
    "policy": "",
    "set": "",
    "network": -1,
    "load": np.nan,
    "value": np.nan,
    "low": np.nan,
    "high": np.nan,
    "n": 1,
    "stable": 0,
    "grows": 0,
    "undecided": 0,
    "proved": 0,
    "proof": "",
    "kind": "simulated",
}


def _summed(quantity: str, rows: list[Row]) -> list[Row]:
    """One row for each policy, set and load: share of networks that are not called stable."""
    sums: dict[tuple[str, str, float], dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for row in rows:
        for key in ("n", "stable", "grows", "undecided", "proved"):
            sums[row["policy"], row["set"], row["load"]][key] += row[key]
    found: list[Row] = []
    for (policy, set_, load), many in sums.items():
        bad, n = many["n"] - many["stable"], many["n"]
        found.append(
            {
                "quantity": quantity,
                "policy": policy,
                "set": set_,
                "load": load,
                "value": bad / n,
                "low": 1 - failure_bound(n - bad, n, alpha=0.0),
                "high": failure_bound(bad, n, alpha=ALPHA),
                **many,
            }
        )
    return found


def _refuted() -> list[Row]:
    """List the counterexamples: load, and the exact reach where there is one."""
    found: list[Row] = []
    for path in (path for folder in FOLDERS for path in sorted((SHELF / folder).glob("*.json"))):
        one = from_json(Instability, path.read_text(encoding="utf-8"))
        proof = _proof(one)
        found.append(
            {
                "quantity": "refuted",
                "policy": policies.parse(one.policy).name,
                "set": path.relative_to(SHELF).with_suffix("").as_posix(),
                "load": one.load,
                "value": np.nan if one.reach is None else one.reach,
                "grows": 1,
                "proof": proof,
                "kind": "theory" if proof else "simulated",
            }
        )
    return found


def _proof(one: Instability) -> str:
    """Load above which a policy fails, or what is exact instead."""
    if (exact := one.exact_reach) is not None:
        return str(exact)
    if isinstance(one.cycle, OpenCycle):
        return "exact at equal gaps"
    return "" if one.reach is None else f"{one.reach:.4f} of what a paced schedule carries"


def verdict(table: Table, policy: str) -> str:
    """Say what is known of a policy.

    Parameters
    ----------
    table : Table
        Of this experiment.
    policy : str
        Its name.

    Returns
    -------
    str
        ``proved [entry]``, ``tested optimal``, ``not optimal`` or ``undecided``.
    """
    rows = table.where(quantity="tests", policy=policy, load=0.9)
    if policy in table.where(quantity="refuted")["set"] or rows["grows"].any():
        return "not optimal"
    if policy in PROVED and (rows["proved"] == rows["n"]).all():
        return f"proved [{PROVED[policy]}]"
    return "tested optimal" if 2 * rows["undecided"].sum() < rows["n"].sum() else "undecided"


def bound(table: Table, policy: str) -> str:
    """Networks called stable at load 0.9, and the share on which the policy fails, at most."""
    rows = table.where(quantity="tests", policy=policy, load=0.9)
    stable, n = int(rows["stable"].sum()), int(rows["n"].sum())
    return f"{stable:,} of {n:,}; {100 * failure_bound(n - stable, n, alpha=ALPHA):.3g} %"


def carried(table: Table, policy: str, wide: bool) -> str:
    """Mean interval of the reach on the networks of one sort, and the worst."""
    sort = home(setting(policy))[wide]
    rows = table.where(quantity="reach", policy=policy, set=sort)
    if not len(rows):
        return ""
    low, high = rows["low"].mean(), rows["high"].mean()
    return f"{sort} {low:.3f} to {high:.3f}, worst {rows['low'].min():.3f} ({len(rows)})"


def page(table: Table) -> str:
    """Write the table of ``docs/verdicts.md``.

    Parameters
    ----------
    table : Table
        Of this experiment.

    Returns
    -------
    str
        Markdown, a row for each policy.
    """
    head = (
        "policy",
        "verdict",
        "stable at 0.9; fails on at most",
        "reach where it is at home",
        "reach elsewhere",
        "why, and counterexamples",
    )
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for name in NAMES:
        files = [
            f"[{row['set']}](counterexamples/{row['set']}.json)"
            + (f": {row['proof']}" if row["proof"] else "")
            for row in table.where(quantity="refuted", policy=name).rows()
        ]
        said = verdict(table, name)
        if said == "tested optimal" and home(setting(name))[0] == "short":
            said += " for short prompts"
        if said.startswith("tested"):
            said += WITHIN.get(name, "")
        cells = (
            name,
            said,
            bound(table, name),
            carried(table, name, False),
            carried(table, name, True),
            "; ".join([WHY[name], *files]),
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _carry(table: Table) -> Finding:
    rows = table.where(quantity="tests", policy=OPTIMAL, load=0.9)
    words = [f"{r['policy']} ({r['set']}) {r['stable']} of {r['n']}" for r in rows.rows()]
    enough = set(rows["policy"]) == set(OPTIMAL) and not rows["grows"].any()
    sure = (rows["stable"] >= 0.999 * rows["n"]).all() and rows["n"].min() >= 1000
    good = Status.VERIFIED if sure else Status.DIRECTION
    return Finding(good if enough else Status.NOT, "; ".join(words))


def _beyond(table: Table) -> Finding:
    rows = table.where(quantity="tests", load=1.05)
    grows, n, stable = (int(rows[key].sum()) for key in ("grows", "n", "stable"))
    all_of_them = grows == n and set(rows["policy"]) == set(NAMES)
    status = Status.VERIFIED if all_of_them else Status.DIRECTION
    return Finding(
        status if n and not stable else Status.NOT,
        f"{grows} of {n} tests of {len(set(rows['policy']))} policies say that the backlog grows",
    )


def _errors(table: Table) -> Finding:
    rows = table.where(quantity="errors")
    wrong = int(np.where(rows["load"] < 1, rows["grows"], rows["stable"]).sum())
    n, unsure = int(rows["n"].sum()), int(rows["undecided"].sum())
    status = Status.VERIFIED if n >= 100 else Status.DIRECTION
    measured = f"{wrong} of {n} answers wrong, {unsure} undecided"
    return Finding(status if n and wrong <= ALPHA * n else Status.NOT, measured)


def _caught(table: Table) -> Finding:
    rows = table.where(quantity="refuted")
    wanted = ("fastertransformer", "vllm", "sarathi-mismatched", "rad-cycle-1")
    found = [name for name in wanted if name in rows["set"]]
    reach = {r["set"]: r["proof"] for r in rows.rows()}
    return Finding(
        Status.PROVED if len(found) == len(wanted) else Status.NOT,
        "; ".join(f"{name}: {reach[name]}" for name in found) or "none",
    )


_TEST = "test_verdict_claims.py::test_judges_fail_on_doctored_tables"
_DAI = "Dai, Deng, Li and Peng, arXiv 2504.07347, Theorem 2"
CLAIMS = (
    Claim(
        id="VERDICT-1",
        band=Band.RESULTS,
        source=f"{_DAI}; Bari et al., arXiv 2508.01002, Theorem 2",
        judge=_carry,
        text="Sarathi-Serve, Orca (short prompts), RAD (no cycles) and MaxWeight carry load 0.9 "
        "on 1,000 random networks each",
        figure="policy_efficiency",
        least=Status.DIRECTION,
        test=_TEST,
    ),
    Claim(
        id="VERDICT-2",
        band=Band.RESULTS,
        text="Beyond the region the backlog grows under every policy",
        source=_DAI,
        judge=_beyond,
        least=Status.DIRECTION,
        test=_TEST,
    ),
    Claim(
        id="VERDICT-3",
        band=Band.RESULTS,
        text="The sequential test is wrong in at most 1 % of cases within 5 % of "
        "a boundary that is known exactly",
        source="llmq.optimality.verdict",
        judge=_errors,
        least=Status.DIRECTION,
        test=_TEST,
    ),
    Claim(
        id="VERDICT-4",
        text="FasterTransformer, vLLM v0, a budget that the tile does not divide "
        "and RAD with cycles of one prompt are not throughput-optimal",
        source=f"{_DAI} and section 4; 2508.01002",
        judge=_caught,
        least=Status.PROVED,
        test=_TEST,
    ),
)


def main() -> None:
    """Print the page, or write it into the guide."""
    parser = argparse.ArgumentParser(description="The table of docs/verdicts.md.")
    parser.add_argument("--page", action="store_true", help="write it between its marks")
    made = page(read_table(TABLES / "verdicts.csv"))
    if not parser.parse_args().page:
        print(made, end="")
        return
    guide = DOCS / "verdicts.md"
    before, _, rest = guide.read_text(encoding="utf-8").partition(MARKS[0])
    after = rest.partition(MARKS[1])[2]
    guide.write_text(f"{before}{MARKS[0]}{made}{MARKS[1]}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
