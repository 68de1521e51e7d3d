"""The planner: exact answers on deterministic systems, and what must hold of every plan."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import llmq
from llmq.errors import InputError
from llmq.model.arrivals import MMPP, Deterministic
from llmq.model.engine import Engine
from llmq.model.fleet import Fleet
from llmq.model.lengths import Lengths
from llmq.model.request import RequestClass
from llmq.model.slo import SLO
from llmq.model.time.batchtime import BatchTime
from llmq.model.trace import Trace
from llmq.model.workload import Workload
from llmq.planning._json import plan_to_json
from llmq.planning._unloaded import nearest_targets, run_unloaded
from llmq.planning.capacity import Candidate, plan_capacity
from llmq.policies import LeastWork, Random, Router, Sarathi
from llmq.sim.simulate import simulate
from llmq.units import parse_duration

# A prompt of 100 tokens by itself takes 0.1 + 100 x 0.001 = 0.2 s and has one token of output.
CHIP = Engine(BatchTime.affine(base=0.1, per_token=1e-3), token_budget=512, name="chip")
ONE = {"one": RequestClass(prompt=100, output=1)}
# At 22 requests/s an engine in n sees one every n / 22 s; none waits if that is 0.2 s or more.
STEADY = Workload(Deterministic(22.0), ONE, {"one": 1.0})
NO_WAIT = SLO(ttft=0.2001, quantile=0.99)
FEW = {"requests": 200, "replications": 4}

VARIED = {"all": RequestClass(Lengths.uniform(50, 800), Lengths.uniform(2, 60))}
SERVER = Engine(
    BatchTime.affine(base=0.01, per_token=1e-4), token_budget=512, max_seqs=32, name="server"
)


def bound(rate: float) -> int:
    """Full batches of 512 tokens take 0.612 s, so 100 tokens cost 0.612 x 100 / 512 s."""
    return math.ceil(rate * 0.612 * 100 / 512)


def test_the_smallest_count_that_never_waits():
    plan = plan_capacity(STEADY, NO_WAIT, CHIP, **FEW)
    best = plan.chosen
    assert (plan.verdict, best.engines, best.gpus) == ("feasible", 5, 5)  # ceil(22 x 0.2)
    assert best.gpus_lower_bound == bound(22.0) == 3
    assert best.load_one == pytest.approx(22 * 0.612 * 100 / 512, rel=1e-9)
    assert best.load == best.load_one / 5
    assert best.headroom == pytest.approx(1 / best.load - 1)
    assert best.prices == {"one": pytest.approx(0.612 * 100 / 512, rel=1e-9)}
    assert best.attainment.value == 1
    for value in best.ttft.values():
        assert value.mean == pytest.approx(0.2, rel=1e-9)
    assert [(p.engines, p.attainment.value == 1) for p in best.probes] == [
        (3, False),
        (4, False),
        (5, True),
    ]


def test_a_trace_through_all_engines_gives_the_same_count():
    plan = plan_capacity(Trace(np.arange(600) / 22.0, 100, 1), NO_WAIT, CHIP)
    assert (plan.chosen.gpus_lower_bound, plan.chosen.gpus) == (3, 5)
    assert any("piece of endless traffic" in note for note in plan.assumptions)


def test_a_router_that_looks_at_the_engines_is_simulated_with_all_of_them():
    work = Workload.poisson(60.0, VARIED)
    slo = SLO(ttft=0.12, quantile=0.9)
    # Paths of a whole fleet must be long enough to be called stable, or more engines are bought.
    paths = {**FEW, "requests": 800}
    blind = plan_capacity(work, slo, SERVER, **paths).chosen
    policy = Sarathi(route=LeastWork())
    seeing = plan_capacity(work, slo, SERVER, policy=policy, **paths).chosen
    assert seeing.gpus_lower_bound == blind.gpus_lower_bound < seeing.gpus < blind.gpus


@dataclass(frozen=True, slots=True)
class OnlyTheFirst(Router):
    """A router that more engines do not help."""

    name: ClassVar[str] = "first"

    def split(self, n, engines, rng):
        return None

    def pick(self, work):
        return 0


def test_the_search_ends_where_more_engines_do_not_help():
    plan = plan_capacity(STEADY, NO_WAIT, CHIP, policy=Sarathi(route=OnlyTheFirst()), **FEW)
    assert plan.verdict == "infeasible"
    assert re.match(
        r"\d\d GPUs do not meet .*, and more do not help; best", plan.candidates[0].reason
    )
    assert plan.candidates[0].gpus_lower_bound == 3


def test_decodes_count():
    # One slot: 0.2 s for the prompt and 4 x 0.101 s, so 0.604 s a request; nothing is shared.
    engine = CHIP.with_(max_seqs=1)
    work = Workload(Deterministic(5.0), {"five": RequestClass(100, 5)}, {"five": 1.0})
    plan = plan_capacity(work, SLO(e2e=0.6041, quantile=0.99), engine, **FEW)
    assert plan.chosen.gpus == math.ceil(5 * 0.604) == 4
    assert plan.chosen.tpot["p99"].mean == pytest.approx(0.101, rel=1e-9)


def test_the_budget_of_the_policy_replaces_that_of_the_engine():
    # Two chunks of 50 tokens: 2 x 0.15 s.
    slo = SLO(ttft=0.3001, quantile=0.99)
    plan = plan_capacity(STEADY, slo, CHIP, policy=Sarathi(token_budget=50), **FEW)
    assert plan.chosen.gpus == math.ceil(22 * 0.3) == 7
    assert plan.chosen.gpus_lower_bound == math.ceil(22 * 0.15 * 2) == 7
    assert plan.chosen.candidate.label == "chip with sarathi:token_budget=50"


def test_engines_of_several_gpus():
    one = plan_capacity(STEADY, NO_WAIT, CHIP, **FEW).chosen
    four = plan_capacity(STEADY, NO_WAIT, CHIP.with_(gpus=4), **FEW).chosen
    assert (four.engines, four.gpus, four.gpus_lower_bound) == (5, 20, 12)
    assert four.prices == one.prices  # engine-seconds
    llama = llmq.load_engine("llama-3.1-70b/h100", tp=4)
    work = llmq.load_workload("azure-conv", 20.0)
    best = plan_capacity(work, SLO(ttft=2.0, tpot=0.1, quantile=0.9), llama, **FEW).chosen
    assert best.gpus == 4 * best.engines
    assert best.gpus_lower_bound == 4 * math.ceil(best.load_one)


def test_limits():
    for limit, reason in (
        (4, "4 GPUs do not meet p99 TTFT <= 200 ms with confidence; best attainment 0."),
        (2, "the lower bound of 3 GPUs exceeds the limit of 2"),
    ):
        plan = plan_capacity(STEADY, NO_WAIT, CHIP, max_gpus=limit, **FEW)
        assert (plan.verdict, plan.chosen) == ("infeasible", None)
        assert plan.candidates[0].reason.startswith(reason)
        assert (plan.candidates[0].gpus, plan.candidates[0].gpus_lower_bound) == (None, 3)
        mine = plan_capacity(STEADY, NO_WAIT, Candidate(CHIP, Sarathi(), max_gpus=limit), **FEW)
        assert mine.candidates[0].reason == plan.candidates[0].reason
    assert plan_capacity(STEADY, NO_WAIT, CHIP, max_gpus=5, **FEW).chosen.gpus == 5
    with pytest.raises(InputError, match="max_gpus must be at least 1, got 0"):
        plan_capacity(STEADY, NO_WAIT, CHIP, max_gpus=0)


def test_candidates_side_by_side():
    fast = Engine(BatchTime.affine(base=0.05, per_token=5e-4), name="fast")  # 0.1 s each
    offers = {"slow": CHIP, "quick": fast, "same": fast.with_(token_budget=513)}
    plan = plan_capacity(STEADY, NO_WAIT, offers, **FEW)
    assert [one.candidate.name for one in plan.candidates] == ["slow", "quick", "same"]
    assert plan.chosen is plan.candidates[1]  # the first of equals
    assert [one.gpus for one in plan.candidates] == [5, plan.chosen.gpus, plan.chosen.gpus]
    assert all(one.gpus_lower_bound <= one.gpus for one in plan.candidates)
    assert len(plan.regions) == 3
    both = plan_capacity(
        STEADY,
        SLO(ttft=0.12, quantile=0.99),
        [Candidate(CHIP, Sarathi()), Candidate(fast, Sarathi(token_budget=100))],
        **FEW,
    )
    assert [one.feasible for one in both.candidates] == [False, True]
    assert both.chosen is both.candidates[1]
    with pytest.raises(InputError, match="at least one candidate"):
        plan_capacity(STEADY, NO_WAIT, [])


def test_more_traffic_needs_more():
    work = Workload.poisson(30.0, VARIED)
    slo = SLO(ttft=0.3, tpot=0.05, quantile=0.9)
    base = plan_capacity(work, slo, SERVER, **FEW).chosen
    last = base.gpus
    for k in (2, 3, 7):
        more = plan_capacity(work.at_rate(30.0 * k), slo, SERVER, **FEW).chosen
        assert more.load_one == pytest.approx(k * base.load_one, rel=1e-9)
        assert more.gpus_lower_bound == math.ceil(k * base.load_one)
        assert more.gpus >= last
        last = more.gpus


def test_tighter_targets_need_more():
    work = Workload.poisson(60.0, VARIED)
    counts = [
        plan_capacity(work, SLO(ttft=ttft, quantile=0.9), SERVER, **FEW).chosen.gpus
        for ttft in (0.12, 0.15, 0.25, 0.6, 3.0)
    ]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > counts[-1]


def test_a_larger_share_needs_more():
    work = Workload.poisson(60.0, VARIED)
    counts = [
        plan_capacity(work, SLO(ttft=0.2), SERVER, attainment=share, **FEW).chosen.gpus
        for share in (0.5, 0.9, 0.97)
    ]
    assert counts == sorted(counts)
    assert counts[0] < counts[-1]


@settings(max_examples=12)
@given(
    base=st.floats(1e-3, 0.1),
    per_token=st.floats(1e-6, 1e-3),
    prompt=st.integers(1, 900),
    output=st.integers(1, 50),
    load=st.floats(0.1, 9.0),
    slack=st.floats(1.5, 20.0),
    seqs=st.sampled_from([None, 1, 8]),
    kv=st.sampled_from([None, 2000]),
)
def test_every_plan(base, per_token, prompt, output, load, slack, seqs, kv):
    engine = Engine(BatchTime.affine(base=base, per_token=per_token), max_seqs=seqs, kv_tokens=kv)
    mix = {"all": RequestClass(prompt, output)}
    unit = llmq.stability_region(engine, mix).load({"all": 1.0})
    alone = base * (prompt // 512 + output + 1) + per_token * (prompt + output)
    plan = plan_capacity(
        Workload.poisson(load / unit, mix),
        SLO(e2e=slack * alone),
        engine,
        attainment=0.7,
        requests=100,
        replications=3,
    )
    best = plan.chosen
    assert best.gpus_lower_bound == math.ceil(best.load_one)
    assert best.load_one == pytest.approx(load, rel=1e-9)
    assert best.gpus_lower_bound <= (best.gpus_point or 0) <= best.gpus
    assert best.attainment.low >= plan.target == 0.7
    by_count = {probe.engines: probe for probe in best.probes}
    assert by_count[best.engines].attainment == best.attainment
    if best.engines > best.gpus_lower_bound:  # the count below was tried and failed
        below = by_count[best.engines - 1]
        assert below.attainment.low < 0.7 or below.status != "stable"
    for shown in (best.ttft, best.tpot):
        values = [shown[name].mean for name in ("p50", "p90", "p99")]
        assert math.isnan(values[0]) or values == sorted(values)


def near(reason: str) -> dict[str, float]:
    found = re.findall(r"(ttft|tpot|e2e) = ([^,]+)", reason.split("Nearest feasible: ")[1])
    return {name: parse_duration(text) for name, text in found}


@pytest.mark.parametrize("quantile", [None, 0.95])
@pytest.mark.parametrize("given_slo", [{"ttft": 1e-3, "tpot": 1e-4}, {"ttft": 1e-3, "e2e": 9.0}])
def test_below_one_iteration_the_nearest_target_is_named_and_can_be_met(given_slo, quantile):
    work = Workload.poisson(20.0, VARIED)
    options = {"attainment": 0.95, **FEW}
    plan = plan_capacity(work, SLO(**given_slo, quantile=quantile), SERVER, **options)
    reason = plan.candidates[0].reason
    assert plan.verdict == "infeasible"
    assert reason.startswith("no number of GPUs meets TTFT <= 1 ms (alone on an idle engine")
    assert not plan.candidates[0].probes  # known without any search
    better = near(reason)
    assert set(better) == set(given_slo) - {"e2e"}  # 9 s is long enough as it is
    slo = SLO(**{**given_slo, **better}, quantile=quantile)
    assert plan_capacity(work, slo, SERVER, **options).verdict == "feasible"
    less = {name: 0.95 * value for name, value in better.items()}
    again = plan_capacity(work, SLO(**{**given_slo, **less}, quantile=quantile), SERVER, **options)
    assert "no number of GPUs meets" in again.candidates[0].reason


def test_requests_alone():
    # 100 prompt tokens, then two more of 0.101 s.
    trace = Trace(np.zeros(50), 100, 3)
    for traffic in (trace, Workload(Deterministic(1e6), {"x": RequestClass(100, 3)}, {"x": 1.0})):
        run = run_unloaded(traffic, CHIP, Sarathi(), requests=50, rng=0)
        assert run.ttft.observations == 50
        assert run.ttft.values == pytest.approx(np.full((1, 50), 0.2), rel=1e-6)
        assert run.e2e.values == pytest.approx(np.full((1, 50), 0.402), rel=1e-6)


def test_nearest_targets_are_the_least():
    trace = Trace(np.arange(1000.0), np.arange(1, 1001) % 500 + 1, 1)
    run = run_unloaded(trace, CHIP, Sarathi(), requests=1, rng=0)
    slo = SLO(ttft=0.01)
    found = nearest_targets(run, slo, 0.9)
    # A tenth of the misses is left to queueing; one prompt token less would be too few.
    assert run.attainment(SLO(**found)).low >= 0.91
    assert run.attainment(SLO(ttft=found["ttft"] - 0.0011)).low < 0.91
    assert nearest_targets(run, SLO(ttft=9.0, e2e=0.01), 0.9)["ttft"] == 9.0


def test_too_few_requests_to_tell():
    sentence = "needs at least 381: use a longer trace, simulate more requests, or ask for a small"
    with pytest.raises(InputError, match=f"^380 measured requests.*{sentence}"):
        plan_capacity(Trace(np.arange(380.0), 100, 1), SLO(ttft=9.0), CHIP)
    assert plan_capacity(Trace(np.arange(381.0), 100, 1), SLO(ttft=9.0), CHIP).chosen.gpus == 1
    # A workload can be simulated for longer: paths are long enough from the start.
    plan = plan_capacity(STEADY, NO_WAIT, CHIP, requests=90, replications=4)
    assert plan.chosen.gpus == 5
    assert all(probe.requests >= 2 * 381 for probe in plan.chosen.probes)


def test_arguments_are_checked():
    with pytest.raises(InputError, match="attainment must lie between 0 and 1, got 99"):
        plan_capacity(STEADY, SLO(ttft=1.0), CHIP, attainment=99)
    with pytest.raises(InputError, match="all requests come at one time"):
        plan_capacity(Trace(np.zeros(400), 100, 1), SLO(ttft=1.0), CHIP)
    with pytest.raises(InputError, match="must be a Workload or a Trace, got 'x'"):
        plan_capacity("x", SLO(ttft=1.0), CHIP)
    with pytest.raises(InputError, match="does not fit: a request holds up to"):
        plan_capacity(STEADY, NO_WAIT, CHIP.with_(kv_tokens=64))


def test_the_same_seed_gives_the_same_bytes():
    work = Workload(MMPP((5.0, 40.0), (0.2, 0.5)), VARIED, {"all": 1.0})
    slo = SLO(ttft=0.4, tpot=0.05, quantile=0.8)

    def text(**options):
        return plan_to_json(plan_capacity(work, slo, SERVER, **FEW, **options))

    first = text(rng=7)
    assert text(rng=7) == first
    assert text(rng=7, workers=2) == first
    assert text(rng=np.random.SeedSequence(7)) == first
    other = text(rng=8)
    assert json.loads(other)["chosen"]["ttft"] != json.loads(first)["chosen"]["ttft"]


def test_progress_is_told():
    said: list[str] = []
    plan_capacity(STEADY, NO_WAIT, CHIP, progress=said.append, **FEW)
    assert [line.split(":")[1].strip() for line in said] == [f"{n} GPUs" for n in (3, 5, 4)]
    assert all(line.startswith("chip with vllm: ") for line in said)


@pytest.mark.parametrize("route", ["round-robin", "random"])
def test_one_engine_stands_for_the_fleet(route):
    policy = Sarathi(route=Random()) if route == "random" else Sarathi()
    work = Workload.renewal(60.0, VARIED, cv=1.5)
    slo = SLO(ttft=0.25)
    options = {"requests": 400, "replications": 40}
    plan = plan_capacity(work, slo, SERVER, policy=policy, attainment=0.85, rng=1, **options)
    telling = [p for p in plan.chosen.probes if 0.3 < p.attainment.value < 0.99]
    assert telling
    for probe in telling[:2]:
        whole = simulate(
            Fleet({"all": (SERVER, probe.engines)}),
            work,
            policy,
            rng=2,
            requests=400 * probe.engines,
            replications=40,
        ).attainment(slo)
        # The 97.5 % point of Student's law with 39 degrees of freedom is 2.023.
        errors = [(share.high - share.low) / (2 * 2.023) for share in (whole, probe.attainment)]
        assert abs(whole.value - probe.attainment.value) < 4 * math.hypot(*errors)


def test_the_lower_bound_holds_for_policies_that_share_the_prefill_slot() -> None:
    # Theory conventions: 8 slots, prompts of 8 chunks. Theorem U as printed charges each chunk a
    # slot, (8 + 4) / 8 = 1.5 s a request: load 2.4, three engines. Sharing the slot takes less.
    law = llmq.BatchTime.affine(base=1.0, per_token=0.0)
    chip = llmq.Engine(law, token_budget=64, max_seqs=8, prefill_chunk=8, conventions=llmq.THEORY)
    mix = {"a": llmq.RequestClass(64, 4)}
    work = llmq.Workload.poisson(1.6, mix)
    region = llmq.stability_region(chip, mix)
    assert 1.6 * region.facets(dominated=True)[-1].weights[0] == pytest.approx(2.4)
    assert region.load(work.rates) == pytest.approx(1.7)
    plan = llmq.plan_capacity(
        work, llmq.SLO(e2e=1000.0, quantile=0.5), chip, requests=400, replications=3
    )
    assert plan.candidates[0].load_one == pytest.approx(1.7)
    assert plan.candidates[0].gpus_lower_bound == 2
    # The bound is no idle one: two engines do carry it for a while, and one does not.
    two = llmq.simulate(llmq.Fleet({"x": (chip, 2)}), work, replications=6, requests=1200, rng=1)
    assert two.verdict.status != "overloaded"
