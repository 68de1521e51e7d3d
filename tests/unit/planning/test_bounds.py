"""Bounds of a plan, what is accepted, what decides: faults A1b, B4, B16, B19, B21 and F."""

from __future__ import annotations

import dataclasses
import json
import math
import warnings

import numpy as np
import pytest

import llmq
from llmq.calibrate.catalogue import load_engine
from llmq.errors import InputError, UnitWarning
from llmq.model.arrivals import Deterministic
from llmq.model.conventions import THEORY
from llmq.model.engine import Engine
from llmq.model.request import RequestClass
from llmq.model.slo import SLO
from llmq.model.time.batchtime import BatchTime
from llmq.model.trace import Trace
from llmq.model.workload import Workload
from llmq.planning._json import plan_to_dict
from llmq.planning.capacity import Candidate, PlanInterrupted, plan_capacity
from llmq.policies import Sarathi
from llmq.theory.region import stability_region
from llmq.theory.region._busiest import busiest, demanded, latest, usual

# A prompt of 100 tokens by itself takes 0.2 s and has one token of output.
CHIP = Engine(BatchTime.affine(base=0.1, per_token=1e-3), token_budget=512, name="chip")
ONE = {"one": RequestClass(prompt=100, output=1)}
STEADY = Workload(Deterministic(22.0), ONE, {"one": 1.0})
NO_WAIT = SLO(ttft=0.2001, quantile=0.99)
FEW = {"requests": 200, "replications": 4}
H100 = "llama-3.1-8b/h100"


def test_a1b_both_bounds_are_said_and_the_hardware_alone_rules_out_every_scheduler(capsys):
    # 60 req/s of the example take 2.138 H100 at 512 tokens and 256 slots, 1.971 at any settings.
    from llmq.cli import main

    example = str(llmq.__path__[0]) + "/../examples/chat.toml"
    words = ["plan", example, "--engine", H100, "--policy", "sarathi:token_budget=512"]
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["chosen"]
    assert (found["gpus_lower_bound"], found["hardware_lower_bound"]) == (3, 2)
    assert found["load_one"] == pytest.approx(2.138, abs=5e-4)
    assert found["hardware_load_one"] == pytest.approx(1.9707, abs=5e-5)
    assert found["hardware_headroom"] > found["headroom"] > 0
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "lower bound 3 at these settings: with fewer no policy is stable; 2 of the har" in out
    assert "before no policy is stable at these settings, by 52 % before no scheduler is" in out
    for line in out.splitlines():
        if "no scheduler" in line:
            assert "of the hardware" in line or "at these settings, by" in line


def test_a1_a_policy_that_raises_the_budget_is_planned_with_it():
    slow = Engine(BatchTime.affine(base=1.0, per_token=0.01), token_budget=64, name="slow")
    work = Workload.poisson(0.3, {"a": RequestClass(200, 20)})
    slo = SLO(ttft=1000.0, tpot=1000.0, quantile=0.5)
    few = {"requests": 300, "replications": 4}
    high = plan_capacity(work, slo, slow, policy=Sarathi(token_budget=1024), **few)
    assert high.chosen.gpus_lower_bound == 1
    assert any("raises the token budget from 64 to 1024" in note for note in high.assumptions)
    low = plan_capacity(work, slo, slow, policy=Sarathi(), **few)
    assert low.chosen.gpus_lower_bound == 2
    assert low.chosen.hardware_lower_bound == high.chosen.hardware_lower_bound == 1
    for plan in (low, high):
        best = plan.chosen
        assert best.hardware_lower_bound <= best.gpus_lower_bound <= best.gpus
        assert best.hardware_headroom >= best.headroom


def _day(quiet: float = 1.0, rush: float = 30.0) -> Trace:
    calm = np.arange(0, 3000, 1 / quiet)
    busy = np.arange(3000, 3400, 1 / rush)
    return Trace(np.r_[calm, busy, np.arange(3400, 6000, 1 / quiet)], 100, 1)


def test_b4_bound_and_headroom_of_a_trace_come_from_its_busiest_window():
    # A full batch of 512 tokens takes 0.612 s: 30 req/s take 3.586 engines, the mean rate 0.35.
    price = 0.612 * 100 / 512
    plan = plan_capacity(_day(), SLO(ttft=2.0, quantile=0.95), CHIP)
    best = plan.chosen
    assert best.load_one == pytest.approx(30 * price, rel=0.02)
    assert best.gpus_lower_bound == 4
    assert best.headroom == pytest.approx(best.gpus / (30 * price) - 1, rel=0.05)
    assert plan.rates["all"] == pytest.approx(30, rel=0.02)
    assert "from 0:50:0" in plan.window
    assert "to 0:56:" in plan.window
    assert plan_to_dict(plan)["window"] == plan.window
    level = plan_capacity(Trace(np.arange(0, 600, 0.1), 100, 1), SLO(ttft=2.0), CHIP)
    assert level.window == ""
    assert level.chosen.load_one == pytest.approx(10 * price, rel=1e-3)


def test_b4_the_bound_of_the_window_holds_for_the_trace():
    # With one engine fewer than the demand of the window even a schedule that knows all cannot
    # meet the targets; the planner's own simulation agrees at the bound less one.
    day = _day()
    slo = SLO(ttft=2.0, quantile=0.95)
    misses = math.floor(0.05 * len(day))
    found = busiest(day, CHIP, latest(day, slo), misses)
    fewer = math.ceil(found.due) - 1
    run = llmq.simulate(llmq.Fleet({"all": (CHIP, fewer)}), day, Sarathi())
    assert run.attainment(slo).value < 0.95
    # No misses: more is due. Longer targets: less. Another engine: in proportion.
    assert busiest(day, CHIP, latest(day, slo)).due > found.due
    assert busiest(day, CHIP, latest(day, SLO(ttft=200.0)), misses).due < found.due
    twice = CHIP.with_(law=BatchTime.affine(base=0.2, per_token=2e-3))
    stay = latest(day, slo)
    assert demanded(day, twice, stay, found, misses) == pytest.approx(2 * found.due, rel=1e-9)
    assert demanded(day, CHIP, stay, found, misses) == found.due


@pytest.mark.parametrize("seed", range(20))
def test_b4_no_window_is_missed_by_more_than_a_step_of_the_lengths(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 30))
    trace = Trace(np.sort(rng.exponential(10.0, n).cumsum() % 60.0), rng.integers(1, 500, n), 1)
    came, stay = trace.arrival - trace.arrival[0], rng.uniform(0.5, 20.0, n)
    due = came + stay
    # The price of a prompt token in a full batch; every window between an arrival and an end.
    weight = 0.612 / 512 * trace.prompt
    most = max(weight[(came >= s) & (due <= e)].sum() / (e - s) for s in came for e in due if e > s)
    assert most / 1.25 <= busiest(trace, CHIP, stay).due <= most * (1 + 1e-9)


def test_b4_a_window_of_one_request_asks_for_its_price():
    # Whatever binds: the demand of a lone request is its weight in the region.
    chips = [
        load_engine(H100),
        load_engine("llama-3.1-8b/a100"),
        CHIP.with_(max_seqs=3),
        CHIP.with_(kv_tokens=4096, prefill_chunk=100),
        CHIP.with_(conventions=THEORY, max_seqs=2),
    ]
    for chip in chips:
        for prompt, output in [(1, 1), (700, 40), (3000, 1), (513, 999)]:
            trace = Trace([0.0, 1e6], [prompt, 1], [output, 1])
            region = stability_region(chip, {"one": RequestClass(prompt, output)})
            found = busiest(trace, chip, np.array([7.0, 1e5]))
            assert found.due == pytest.approx(region.load({"one": 1 / 7}), rel=1e-9)


def test_b18_targets_in_milliseconds_are_asked_about():
    work = Workload.poisson(1.0, ONE)
    slow = SLO(ttft=500.0, quantile=0.9)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UnitWarning)  # 4,950 iterations: a target of batch jobs
        plan_capacity(work, slow, CHIP, **FEW)
    fast = CHIP.with_(law=BatchTime.affine(base=0.01, per_token=1e-4))
    words = "TTFT <= 8.33 min is 49,505 iterations .* targets are in seconds; .* write ttft=0.5"
    with pytest.warns(UnitWarning, match=words):
        plan_capacity(work, slow, fast, **FEW)
    with pytest.warns(UnitWarning, match="TPOT <= 50 s .* write tpot=0.05"):
        llmq.max_rate(fast, work, SLO(tpot=50.0, quantile=0.9), requests=50, probes=1, rng=1)


def test_b4_demand_of_a_window_by_hand():
    # Ten prompts at once, each due within 3 s, then nothing for long: by 3 s ten prompts must be
    # done, 10 x 0.1195 s of one engine; two dearest may miss.
    trace = Trace(np.r_[np.zeros(10), 1000.0], 100, 1)
    stay = np.full(11, 3.0)
    price = 0.612 * 100 / 512
    assert busiest(trace, CHIP, stay).due == pytest.approx(10 * price / 3, rel=1e-6)
    assert busiest(trace, CHIP, stay, 2).due == pytest.approx(8 * price / 3, rel=1e-6)
    uneven = Trace([0.0, 0.0, 0.0, 100.0], [100, 300, 200, 100], 1)
    assert busiest(uneven, CHIP, np.full(4, 1.0), 1).due == pytest.approx(3 * price, rel=1e-6)
    with pytest.raises(InputError, match="all requests come at one time"):
        busiest(Trace([0.0, 0.0], 100, 1), CHIP, np.ones(2))
    with pytest.raises(InputError, match="finite time"):
        busiest(trace, CHIP, np.full(11, np.inf))


def test_b4_a_window_says_what_arrives_in_it():
    # Ten prompts in half a second of a trace that starts at 50 s; the eleventh comes long after.
    burst = np.linspace(0.0, 0.5, 10)
    trace = Trace(50 + np.r_[burst, 1000.0], 100, 1, klass=[0] * 10 + [1], classes=("a", "b"))
    found = busiest(trace, CHIP, np.full(11, 2.5))
    assert (found.start, found.end, found.requests) == (0.0, 3.0, 10)
    part, rates = found.cut(trace)
    assert (len(part), rates) == (10, {"a": pytest.approx(10 / 3)})
    price = 0.612 * 100 / 512
    assert demanded(trace, CHIP, np.full(11, 2.5), found) == pytest.approx(10 * price / 3)
    short = Trace(burst, 100, 1)  # all of it within a second
    assert busiest(short, CHIP, np.full(10, 2.5)).due == pytest.approx(10 * price / 3, rel=1e-6)


def test_b4_how_long_a_request_usually_takes():
    # One chunk of 8 tokens: 0.108 s; two of 512: 1.224 s, then four iterations of one token.
    stay = usual(Trace([0.0, 1.0], [8, 1024], [1, 5]), CHIP)
    assert stay.tolist() == pytest.approx([10 * 0.108, 10 * (1.224 + 4 * 0.101)])


def test_b4_how_long_a_request_may_take():
    trace = Trace([0.0, 1.0], 100, [1, 11], [0, 5])
    assert latest(trace, SLO(e2e=9.0)).tolist() == [9.0, 9.0]
    assert latest(trace, SLO(ttft=1.0)).tolist() == [1.0, math.inf]
    assert latest(trace, SLO(tpot=1.0)).tolist() == [math.inf, math.inf]
    # Six visible tokens after five hidden ones: five gaps after the first.
    assert latest(trace, SLO(ttft=1.0, tpot=0.5)).tolist() == [1.0, 3.5]
    assert latest(trace, SLO(ttft=1.0, tpot=0.5, e2e=2.0)).tolist() == [1.0, 2.0]


def test_b16_only_stable_counts_are_accepted_and_paths_grow_until_they_decide():
    # With 2,048 tokens and 256 slots three engines of TP 4 have a load of 0.977: short paths look
    # fine, long ones are overloaded.
    engine = llmq.load_engine(H100, tp=4).with_(token_budget=2048, max_seqs=256)
    slo = SLO(ttft=0.5, tpot=0.05, quantile=0.99)
    plan = plan_capacity(llmq.load_workload("azure-conv", 200.0), slo, engine, policy=Sarathi())
    assert plan.chosen.gpus == 16
    assert {probe.status for probe in plan.chosen.probes if probe.gpus == 16} == {"stable"}
    three = plan.chosen.probes[0]
    assert (three.gpus, three.status != "stable") == (12, True)
    assert plan.chosen.decides


@dataclasses.dataclass(frozen=True)
class _Fake:
    """A verdict and a share, as a run has them."""

    status: str
    low: float
    high: float


@pytest.mark.parametrize(
    ("status", "low", "high", "passes", "decided"),
    [
        ("stable", 0.95, 1.0, True, True),
        ("stable", 0.9, 0.95, True, True),  # at the target exactly
        ("stable", 0.85, 0.95, False, False),
        ("stable", 0.7, 0.8, False, True),
        ("undecided", 0.95, 1.0, False, False),
        ("undecided", 0.7, 0.8, False, True),
        ("overloaded", 0.95, 1.0, False, True),
    ],
)
def test_b16_what_a_probe_decides(status, low, high, passes, decided):
    from llmq.planning._search import Search
    from llmq.planning.plans import Probe
    from llmq.sim.results._stats import Share

    search = Search(
        STEADY,
        SLO(ttft=1.0, quantile=0.9),
        0.9,
        Candidate(CHIP, Sarathi()),
        CHIP,
        np.random.SeedSequence(1),
        100,
        1600,
        4,
        1,
        lambda text: None,
        math.inf,
    )
    probe = Probe(3, 3, 0.9, Share(0.9, low, high, 1000), status)
    assert (search.passes(probe), search.decided(probe)) == (passes, decided)


def test_f_chosen_has_the_fewest_gpus_not_the_fewest_engines():
    # One engine of four GPUs against three of one GPU.
    wide = Engine(BatchTime.affine(base=0.025, per_token=2.5e-4), name="wide", gpus=8)
    plan = plan_capacity(STEADY, NO_WAIT, [wide, CHIP], **FEW)
    one, two = plan.candidates
    assert one.engines < two.engines
    assert one.gpus > two.gpus
    assert plan.chosen is two
    assert plan.chosen_by == "GPUs"
    assert any("what a GPU of each kind costs is not considered" in x for x in plan.assumptions)
    alone = plan_capacity(STEADY, NO_WAIT, CHIP, **FEW)
    assert not any("chosen:" in note for note in alone.assumptions)


def test_b21_the_cheapest_is_chosen_where_every_candidate_has_a_price():
    wide = Engine(BatchTime.affine(base=0.025, per_token=2.5e-4), name="wide", gpus=8)
    offers = [Candidate(wide, Sarathi(), price=0.5), Candidate(CHIP, Sarathi(), price=2.0)]
    plan = plan_capacity(STEADY, NO_WAIT, offers, **FEW)
    assert plan.chosen is plan.candidates[0]
    assert (plan.chosen_by, plan.chosen.cost) == ("price", 0.5 * plan.chosen.gpus)
    assert plan_to_dict(plan)["chosen"]["cost_per_hour"] == plan.chosen.cost
    mixed = plan_capacity(STEADY, NO_WAIT, [offers[0], Candidate(CHIP, Sarathi())], **FEW)
    assert (mixed.chosen, mixed.chosen_by) == (mixed.candidates[1], "GPUs")
    with pytest.raises(InputError, match="price must be a positive"):
        Candidate(CHIP, Sarathi(), price=-1.0)


def test_b21_what_decides_is_said():
    # 22 req/s of 0.2 s: the load on five is 0.53, and no request waits. On four some do.
    late = plan_capacity(STEADY, NO_WAIT, CHIP, **FEW).chosen
    assert late.gpus == 5
    assert late.decides.startswith("latency decides: on 4 GPUs only ")
    assert "meet the TTFT target of 200 ms" in late.decides
    loose = plan_capacity(STEADY, SLO(ttft=20.0, quantile=0.9), CHIP, **FEW).chosen
    assert loose.gpus == loose.gpus_lower_bound == 3
    assert loose.decides == (
        "the lower bound decides: 2 GPUs would have a load of 1.31 at these settings"
    )


def test_b21_time_that_runs_out_keeps_what_was_finished():
    said: list[str] = []
    plan = plan_capacity(STEADY, NO_WAIT, [CHIP, CHIP.with_(name="next")], max_seconds=1e-9, **FEW)
    assert (plan.verdict, plan.chosen, plan.candidates) == ("unfinished", None, ())
    assert any("2 of 2 candidates were not begun" in note for note in plan.assumptions)

    def stop(text: str) -> None:
        said.append(text)
        if text.startswith("next"):
            raise KeyboardInterrupt

    with pytest.raises(PlanInterrupted) as caught:
        plan_capacity(STEADY, NO_WAIT, [CHIP, CHIP.with_(name="next")], progress=stop, **FEW)
    assert isinstance(caught.value, KeyboardInterrupt)
    assert caught.value.plan.chosen.gpus == 5
    assert len(caught.value.plan.candidates) == 1


def test_d_reprs_are_short():
    plan = plan_capacity(STEADY, NO_WAIT, CHIP, **FEW)
    assert len(repr(plan)) < 200
    assert repr(plan).startswith("Plan(feasible: 5 GPUs, chip with vllm; 1 candidates for p99")
    assert len(repr(plan.chosen)) < 200


def test_d_texts_and_dicts_are_refused_with_the_remedy():
    for given, remedy in (
        ({"slo": {"ttft": 1.0}}, r"llmq\.SLO"),
        ({"candidates": H100}, r"load_engine"),
        ({"policy": "sarathi"}, r"policies\.parse"),
    ):
        words = {"slo": NO_WAIT, "candidates": CHIP, **given}
        with pytest.raises(InputError, match=remedy):
            plan_capacity(STEADY, words["slo"], words["candidates"], policy=words.get("policy"))
    with pytest.raises(InputError, match=r"policies\.parse"):
        Candidate(CHIP, "sarathi")
    with pytest.raises(InputError, match="load_engine"):
        plan_capacity(STEADY, NO_WAIT, [H100])


def test_b19_a_day_whose_peak_exceeds_capacity_is_not_stable():
    # 30 req/s take 3.586 engines for 400 s; the mean of the day takes 0.35 of four, 0.70 of two.
    day = _day()
    two = llmq.simulate(llmq.Fleet({"all": (CHIP, 2)}), day, Sarathi())
    assert two.verdict.status == "overloaded"
    assert two.verdict.load == pytest.approx(30 * 0.612 * 100 / 512 / 2, rel=0.03)
    assert "under any policy at these settings in the busiest window (" in two.verdict.sentence
    assert "from 0:50:0" in two.verdict.sentence
    four = llmq.simulate(llmq.Fleet({"all": (CHIP, 4)}), day, Sarathi())
    assert four.verdict.status != "overloaded"
    assert "load 0.89" in four.verdict.sentence or "load 0.9" in four.verdict.sentence
    even = llmq.simulate(CHIP, Trace(np.arange(0, 600, 0.5), 100, 1), Sarathi())
    assert "window" not in even.verdict.sentence


def test_b19_region_of_a_trace_names_its_busiest_window(tmp_path, capsys):
    from llmq.cli import main

    rows = [f"{t:.3f},400,60" for t in np.r_[np.arange(0, 900, 2.0), np.arange(900, 960, 0.02)]]
    (tmp_path / "day.csv").write_text("\n".join(["arrival,prompt,output", *rows]) + "\n")
    words = ["region", "--trace", str(tmp_path / "day.csv"), "--engine", H100]
    code = main([*words, "--json"])
    found = json.loads(capsys.readouterr().out)
    peak = found["busiest"]
    assert found["load"] < 0.2 < peak["load"]
    assert (code, found["verdict"]) == ((3, "unstable") if peak["load"] > 1 else (0, "stable"))
    assert found["margin"] == pytest.approx(1 / peak["load"])
    assert 890 < peak["start"] < 910
    main(words)
    assert "busiest  " in capsys.readouterr().out


def test_b19_a_scaled_trace_says_that_its_clock_runs_faster():
    trace = Trace(np.arange(400) * 10.0, 100, 1).scaled(rate=1.0)
    plan = plan_capacity(trace, SLO(ttft=9.0, quantile=0.9), CHIP)
    assert plan.traffic.endswith("; its clock runs 10 times as fast, bursts and lulls too")
