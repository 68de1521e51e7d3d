"""The plan of ``examples/chat.toml``: what the chosen fleet carries, and attainment against GPUs.

Setting: the file itself (traffic, targets, candidates, requests, replications and seed). Rows of
the part ``region`` are corners of the outer bound (what binds on the edge that starts there),
points of the inner bound, and the offered rates; rows of the part ``plan`` are simulated counts
with the 95 % interval of the share of requests within the targets, the smallest count that any
policy could keep stable, and the answer. Both scales are the same: the plan takes seconds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.claim import Band, Claim, Finding, Status
from experiments.runner import PLAIN, Row, Runner, Scale
from experiments.table import Table
from llmq.calibrate.catalogue import load_engine
from llmq.errors import InfeasibleError
from llmq.io.config import CandidateConfig, read_config
from llmq.planning.capacity import Candidate, Plan, plan_capacity
from llmq.plot._region import cut
from llmq.policies import VLLM, parse

if TYPE_CHECKING:
    from llmq.rng import RngLike

TITLE = "The plan of the example in the README"
SEED = 7
EXAMPLE = Path(__file__).parent.parent / "examples" / "chat.toml"
UNITS = {"x": "chat requests/s or GPUs", "y": "code requests/s or share"}


def plan() -> Plan:
    """Plan the example.

    Returns
    -------
    Plan
        The same on every call.
    """
    config = read_config(EXAMPLE)
    effort = config.simulation
    assert config.slo is not None, "the example has targets"
    return plan_capacity(
        config.traffic,
        config.slo,
        [_candidate(one) for one in config.candidates],
        requests=effort.requests,
        replications=effort.replications,
        rng=effort.seed,
    )


def _candidate(one: CandidateConfig) -> Candidate:
    made = load_engine(one.engine, one.tp) if isinstance(one.engine, str) else one.engine
    policy = VLLM() if one.policy is None else parse(one.policy)
    return Candidate(made.with_(**one.overrides), policy)


def compute(*, scale: Scale = "small", rng: RngLike = SEED, runner: Runner = PLAIN) -> Table:
    """Compute the table.

    Parameters
    ----------
    scale : {"small", "full"}
        The same.
    rng : Generator, SeedSequence, int or None
        Not used: the seed is that of the file.
    runner : Runner
        Not used.

    Returns
    -------
    Table
        Columns part, kind, name, x, y, low, high, n.
    """
    found = plan()
    return Table.of(
        "plan_example",
        [*_region(found), *_plan(found)],
        units=UNITS,
        about={
            "source": "examples/chat.toml",
            "slo": str(found.slo),
            "target": f"{found.target:g}",
            "gpus": str(found.chosen.gpus if found.chosen else 0),
            "engine": found.chosen.candidate.engine.name if found.chosen else "",
        },
    )


def _region(found: Plan) -> Iterator[Row]:
    best = found.chosen
    if best is None:
        raise InfeasibleError(f"no candidate meets {found.slo}: there is no fleet to draw")
    region = found.regions[found.candidates.index(best)]
    fleet = replace(region, engines=best.engines or 1)
    slice_ = cut(fleet, found.rates, ("chat", "code"))
    for (x, y), binds in zip(slice_.outer, (*slice_.resources, ""), strict=True):
        yield {"part": "region", "kind": "outer", "name": binds, "x": x, "y": y}
    for x, y in slice_.inner:
        yield {"part": "region", "kind": "inner", "x": x, "y": y}
    at = found.rates
    yield {"part": "region", "kind": "offered", "x": at["chat"], "y": at["code"]}
    yield {"part": "region", "kind": "load", "y": fleet.load(at)}


def _plan(found: Plan) -> Iterator[Row]:
    for one in found.candidates:
        name = one.candidate.label
        yield {"part": "plan", "kind": "lower_bound", "name": name, "x": one.gpus_lower_bound}
        for probe in one.probes:
            share = probe.attainment
            yield {
                "part": "plan",
                "kind": "simulated",
                "name": name,
                "x": probe.gpus,
                "y": share.value,
                "low": share.low,
                "high": share.high,
                "n": share.n,
            }
        if one.gpus:
            yield {"part": "plan", "kind": "answer", "name": name, "x": one.gpus}


def _answers(table: Table) -> Finding:
    rows = table.where(part="plan")
    goal = float(table.about["target"])
    meets, words = True, []
    for answer in rows.where(kind="answer").rows():
        mine = rows.where(name=answer["name"])
        probes = mine.where(kind="simulated")
        enough = probes["x"][probes["low"] >= goal]
        least = mine.where(kind="lower_bound")["x"][0]
        meets &= bool(len(enough)) and enough.min() == answer["x"] >= least
        words.append(f"{answer['name'].split(' ')[0]}: {answer['x']:.0f} GPUs")
    good = meets and words and len(words) == len(set(rows["name"]))
    return Finding(Status.BAND if good else Status.NOT, "; ".join(words))


CLAIMS = (
    Claim(
        id="PLAN-1",
        band=Band.SOURCE,
        text="The answer is the smallest simulated count whose interval lies above the target, "
        "and no smaller than the lower bound at its settings",
        source="examples/chat.toml",
        judge=_answers,
        figure="plan",
        least=Status.BAND,
        test="test_frame.py::test_the_plan_judge_fails_on_a_doctored_table",
    ),
)
