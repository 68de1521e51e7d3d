"""The arithmetic of the planner, by hand: loads, requests alone, lengths of paths, the search."""

from __future__ import annotations

import inspect
import math
import warnings
from types import SimpleNamespace

import numpy as np
import pytest

from llmq.errors import InputError, UnitWarning
from llmq.io.config import SimulationConfig
from llmq.model.arrivals import Deterministic
from llmq.model.engine import Engine
from llmq.model.request import RequestClass
from llmq.model.slo import SLO
from llmq.model.time.batchtime import BatchTime
from llmq.model.trace import Trace
from llmq.model.workload import Workload
from llmq.planning._need import need_of
from llmq.planning._search import OutOfTime, Search, decides, reason_of
from llmq.planning._thinning import Thinned
from llmq.planning._unloaded import (
    _at_least,
    hopeless,
    nearest_targets,
    run_unloaded,
    warn_of_units,
)
from llmq.planning.capacity import _headroom, plan_capacity
from llmq.planning.plans import Candidate, Probe
from llmq.policies import LeastWork, Random, Sarathi
from llmq.sim.results._stats import Share
from llmq.units import parse_duration

# A full batch of 512 tokens takes 0.612 s; a prompt of 100 tokens by itself 0.2 s.
CHIP = Engine(BatchTime.affine(base=0.1, per_token=1e-3), token_budget=512, name="chip")
FULL = {"a": RequestClass(512, 1)}
STEADY = Workload(Deterministic(22.0), {"one": RequestClass(100, 1)}, {"one": 1.0})
SMALL = CHIP.with_(kv_tokens=4096, prefill_chunk=100)


@pytest.mark.parametrize(
    ("load", "engines"), [(0.2, 1), (2.5, 3), (3 + 1.5e-9, 3), (3 + 4.5e-9, 4), (3 - 1e-6, 3)]
)
def test_a_load_that_is_whole_to_nine_digits_is_whole(load, engines):
    need = need_of(CHIP, Workload.poisson(load / 0.612, FULL), SLO(ttft=9.0), 0.9)
    assert need.least == engines
    assert need.load == (3.0 if abs(load - 3) <= 3e-9 else pytest.approx(load, rel=1e-12))
    # Without a token budget a token costs 1 ms.
    assert need.hardware_load == pytest.approx(need.load * 0.512 / 0.612, rel=1e-9)


def test_a_load_without_end_bounds_nothing(monkeypatch):
    from llmq.theory.region import Region

    monkeypatch.setattr(Region, "load_bracket", lambda region, rates: (math.inf, math.inf))
    need = need_of(CHIP, STEADY, SLO(ttft=9.0), 0.9)
    assert (need.load, need.least, need.hardware_least) == (math.inf, 1, 1)


def test_loads_are_those_that_no_policy_undercuts():
    # Prompts in two chunks and 39 decodes, three slots: 41 / 3 iterations of 0.1 s, 739 ms.
    work = Workload.poisson(1.0, {"a": RequestClass(700, 40)})
    need = need_of(CHIP.with_(max_seqs=3), work, SLO(ttft=9.0), 0.9)
    assert need.load == pytest.approx(4.1 / 3 + 0.739, rel=1e-12)
    assert need.hardware_load == pytest.approx(0.739, rel=1e-12)
    # Where memory counts, what some policy carries is less than what none exceeds.
    tight = need_of(SMALL, work, SLO(ttft=9.0), 0.9)
    assert 1.1 * tight.load < tight.region.load_bracket(work.rates)[1]
    free = tight.region.engine.with_(token_budget=10**6, max_seqs=None, prefill_chunk=None)
    assert tight.hardware_load <= need_of(free, work, SLO(ttft=9.0), 0.9).load * (1 + 1e-12)


@pytest.mark.parametrize(
    ("slo", "misses"),
    [
        (SLO(e2e=1.0), 10),
        (SLO(e2e=1.0, quantile=0.9), 10),
        (SLO(ttft=1.0, e2e=1.0), 10),
        (SLO(ttft=1.0, e2e=1.0, quantile=0.9), 20),  # each may be missed by others
    ],
)
def test_requests_that_may_miss_their_targets_do_not_count(slo, misses):
    # 99 prompts at once must be done within a second, but for a tenth of all 100: 0.612 s each.
    trace = Trace(np.r_[np.zeros(99), 1000.0], 512, 1)
    need = need_of(CHIP, trace, slo, 0.9)
    assert need.least == math.ceil((99 - misses) * 0.612)
    assert need.hardware_least == math.ceil((99 - misses) * 0.512)
    assert f"all but the {misses} dearest" in need.notes[0]
    assert need.load == pytest.approx(99 * 0.612)


def test_requests_that_may_all_miss_their_targets_take_an_engine():
    trace = Trace(np.arange(10.0), 512, 1)
    need = need_of(CHIP, trace, SLO(ttft=1.0, e2e=1.0, quantile=0.4), 0.4)
    assert (need.least, need.hardware_least) == (1, 1)


def test_a_window_is_named_where_it_is_busier_by_a_twentieth():
    slo = SLO(ttft=9.0)  # not when a request must end
    level = need_of(SMALL, Trace(np.arange(2000.0), 700, 40), slo, 0.9995)
    assert level.window == ""
    assert level.rates["all"] == pytest.approx(1.0, rel=1e-3)
    steps = np.r_[np.arange(4000.0), np.arange(4000, 8000, 1 / 1.22)]
    busy = need_of(SMALL, Trace(steps, 700, 40), slo, 0.9995)
    assert busy.rates["all"] == pytest.approx(1.22, rel=0.03)
    assert busy.window
    assert busy.load == pytest.approx(1.22 * level.load, rel=0.03)
    assert busy.least == math.ceil(busy.load)
    assert busy.notes[0].startswith("the targets do not say when a request must end")


def test_targets_of_8192_iterations_are_asked_about():
    chip = Engine(BatchTime.affine(base=2.0**-5, per_token=2.0**-5))
    with pytest.warns(UnitWarning, match="TTFT <= 8.53 min is 8,192 iterations of one token"):
        warn_of_units(chip, SLO(ttft=512.0))
    quick = Engine(BatchTime.affine(base=2.0**-12, per_token=0.0))
    with pytest.warns(UnitWarning, match="write tpot=0.00025"):
        warn_of_units(quick, SLO(tpot=0.25))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_units(chip, SLO(ttft=511.96, tpot=63.99, e2e=1e9))


def test_the_warning_names_the_line_of_the_caller():
    with pytest.warns(UnitWarning) as caught:
        plan_capacity(STEADY, SLO(ttft=5000.0), CHIP, max_seconds=1e-9)
    assert [one.filename for one in caught] == [__file__]


def test_requests_alone_come_as_far_apart_as_the_longest_may_take():
    # 103 tokens, each in an iteration of 512 tokens: base, tokens, what they hold and their work.
    law = BatchTime.affine(base=0.1, per_token=1e-3, per_kv=5e-6, per_kv_mixed=1e-5, per_work=1e-6)
    chip = CHIP.with_(law=law)
    apart = 103 * (0.612 + 1e-5 * 103 + 1e-6 * 103 * 512)
    trace = Trace([5.0, 5.0, 5.0], [100, 1, 2], [3, 102, 3])
    run = run_unloaded(trace, chip, Sarathi(), requests=3, replications=2, rng=0)
    assert run.requests.arrival.tolist() == [pytest.approx([0, apart, 2 * apart], abs=1e-9)]
    work = Workload.poisson(9.0, {"a": RequestClass(9, 1), "b": RequestClass(100, 3)})
    run = run_unloaded(work, chip, Sarathi(), requests=4, replications=2, rng=0)
    gaps = np.diff(run.requests.arrival, prepend=0.0)
    assert gaps == pytest.approx(np.full((2, 4), 103 * (0.612 + 1.03e-3 + 1e-6 * 103 * 512)))
    assert run.ttft.observations == 8


def test_the_nearest_targets_leave_a_tenth_of_the_misses_to_queueing():
    # Prompts of 1 to 400 tokens: 0.101 to 0.5 s by themselves, and as much to the end.
    trace = Trace(np.arange(400.0), np.arange(1, 401), 1)
    run = run_unloaded(trace, CHIP, Sarathi(), requests=1, rng=0)
    slo = SLO(ttft=0.05, e2e=0.6)
    near = nearest_targets(run, slo, 0.5)
    assert near["e2e"] == 0.6
    assert run.attainment(SLO(**near)).low >= 0.55
    step = {**near, "ttft": near["ttft"] - 0.0015}
    assert run.attainment(SLO(**step)).low < 0.55
    said = hopeless(run, slo, 0.5)
    assert "no number of GPUs meets TTFT <= 50 ms (alone on an idle engine its p50 is 30" in said
    assert "0.00 % [" in said
    assert "needed 50 %. Nearest feasible: ttft = " in said
    assert "E2E" not in said
    shown = parse_duration(said.split("ttft = ")[1])
    assert near["ttft"] <= shown <= 1.01 * near["ttft"]


def test_the_nearest_targets_are_those_of_the_smallest_part_that_is_enough():
    trace = Trace(np.arange(400.0), np.arange(1, 401), 1)
    run = run_unloaded(trace, CHIP, Sarathi(), requests=1, rng=0)
    times = np.sort(run.ttft.values, axis=None)
    for target in (0.5, 0.81, 0.9):
        enough = target + 0.1 * (1 - target)
        limits = (float(times[round(part / 400 * 399)]) for part in range(1, 401))
        first = next(t for t in limits if run.attainment(SLO(ttft=t)).low >= enough)
        assert nearest_targets(run, SLO(ttft=0.05), target) == {"ttft": first}


def test_where_no_target_is_shown_the_nearest_is_the_longest_time():
    trace = Trace(np.arange(30.0), np.arange(1, 31), 1)
    run = run_unloaded(trace, CHIP, Sarathi(), requests=1, rng=0)
    assert run.verdict.status == "undecided"
    assert nearest_targets(run, SLO(ttft=0.05), 0.9)["ttft"] == pytest.approx(0.13)
    # So few requests have no steady state: their own 99 % point is named all the same.
    assert "alone on an idle engine its p90 is 127 ms" in hopeless(run, SLO(ttft=0.05), 0.9)


def test_a_target_is_written_with_few_digits_and_never_less_than_it_is():
    for seconds in (0.5, 0.1234, 0.12345678, 1.0, 61.7):
        shown = parse_duration(_at_least(seconds))
        assert seconds <= shown < 1.006 * seconds
    assert _at_least(0.5) == "500 ms"


def test_paths_of_requests_alone():
    assert run_unloaded(STEADY, CHIP, Sarathi(), requests=3, rng=0).ttft.observations == 3


def search(traffic=STEADY, *, target=0.9, requests=200, **changed) -> Search:
    policy = changed.pop("policy", Sarathi())
    found = Search(
        traffic,
        SLO(ttft=1.0, quantile=target),
        target,
        Candidate(CHIP, policy),
        changed.pop("engine", CHIP),
        np.random.SeedSequence(1),
        requests,
        1600,
        4,
        1,
        changed.pop("tell", lambda text: None),
        math.inf,
    )
    for name, value in changed.items():
        setattr(found, name, value)
    return found


class Seen:
    """What the search asks of a run."""

    def __init__(self, value, low, high, status="stable", needed=0, n=1000):
        self.share = Share(value, low, high, n, (("ttft", value),))
        self.verdict = SimpleNamespace(
            status=status, needed=needed, short=needed > 0, sentence="so it is"
        )
        self.requests = SimpleNamespace(arrival=np.zeros((4, 7)))

    def attainment(self, slo):
        return self.share


GOOD = Seen(0.95, 0.92, 0.98)


@pytest.mark.parametrize(
    ("seen", "requests", "longer"),
    [
        # As long as the verdict asks for and a margin, at least twice as long, at most 1,600.
        (Seen(0.95, 0, 1, needed=1000), 200, 1150),
        (Seen(0.95, 0, 1, needed=300), 200, 400),
        (Seen(0.95, 0, 1, needed=1500), 200, 1600),
        (Seen(0.95, 0, 1, needed=1600), 200, 1600),
        (Seen(0.95, 0, 1, needed=1601), 200, 0),
        (Seen(0.95, 0, 1, needed=1000), 1600, 0),
        (Seen(0.95, 0, 1, needed=1000), 1599, 1600),
        # 200 (0.04 / 0.03)^2 = 355.6 above the target; 200 (0.06 / 0.04)^2 = 450 below it.
        (Seen(0.91, 0.87, 0.99), 200, 409),
        (Seen(0.89, 0.75, 0.95), 200, 518),
        (Seen(0.93, 0.89, 0.97), 200, 400),
        (Seen(0.9, 0.9, 0.95), 200, 0),  # nothing to tell apart
        (Seen(0.9, 0.85, 0.95), 200, 920),  # 200 x 2^2
    ],
)
def test_how_long_a_path_must_be_to_decide(seen, requests, longer):
    assert search()._longer(seen, seen.share, requests, 1.15) == longer


@pytest.mark.parametrize(
    ("target", "requests", "asked"),
    [
        (0.9, 4000, [1000, 4000]),  # a quarter
        (0.9, 1003, [250, 1003]),
        (0.9, 400, [200, 400]),  # 200 at least
        (0.9, 200, [200]),
        (0.9, 150, [150]),
        (0.99, 764, [200, 764]),
        (0.995, 600, [383, 766]),  # 2 x 765 / 4, half of it warm-up; then twice as long
    ],
)
def test_a_pilot_comes_first_and_does_not_accept(monkeypatch, target, requests, asked):
    said, told = [], []
    good = Seen(1.0, 0.999, 1.0)
    monkeypatch.setattr(Search, "_run", lambda s, n, k: said.append((n, k)) or good)
    chip = CHIP.with_(gpus=2)
    made = search(target=target, requests=requests, engine=chip, tell=told.append)
    made.longest, made.need = 16 * requests, SimpleNamespace(load=6.0)
    assert made.ok(4)
    assert made.ok(4)
    assert said == [(4, k) for k in asked]
    probe, run = made.probes[4]
    assert run is good
    assert (probe.engines, probe.gpus, probe.load, probe.requests) == (4, 8, 1.5, 28)
    assert told[0].startswith("8 GPUs: load 1.50, stable, attainment 100.00 %")


def test_a_pilot_that_asks_for_more_is_followed_by_half_as_much_again(monkeypatch):
    said = []
    answers = [Seen(0.95, 0, 1, "undecided", 1500), Seen(0.95, 0, 1, "undecided", 3000), GOOD]
    monkeypatch.setattr(Search, "_run", lambda s, n, k: said.append(k) or answers[len(said) - 1])
    made = search(requests=1000, need=SimpleNamespace(load=2.0))
    made.longest = 16000
    assert made.ok(3)
    assert said == [250, 2250, 4500]  # 1.5 x 1500; twice as long, more than 1.15 x 3000
    # A pilot may reject.
    said.clear()
    answers[0] = Seen(0.5, 0.4, 0.6)
    assert not made.ok(2)
    assert said == [250]
    # What cannot decide is not accepted.
    said.clear()
    answers[0] = Seen(0.95, 0, 1, "undecided", 20000)
    assert not made.ok(1)
    assert said == [250]


def test_only_a_part_of_the_requests_is_simulated_alone_where_it_shows_the_target(monkeypatch):
    def asked(share, **options):
        said = []
        monkeypatch.setattr(Search, "_unloaded", lambda s, k: said.append(k) or share)
        search(**options).unloaded()
        return said

    low = Seen(0.5, 0.4, 0.6)
    assert asked(GOOD, requests=1600) == [200]  # an eighth
    assert asked(low, requests=1600) == [200, 1600]
    assert asked(GOOD, requests=100) == [18]  # 2 x 35 / 4
    assert asked(GOOD, requests=18) == [18]
    assert asked(low, requests=18) == [18]
    assert asked(low, requests=1600, traffic=Trace(np.arange(9.0), 1, 1)) == [1600]


@pytest.mark.parametrize("route", ["in turn", "random", "seeing", "trace"])
def test_what_is_simulated_for_a_count(monkeypatch, route):
    said = {}

    def note(fleet, traffic, policy, **options):
        said.update(options, fleet=fleet, traffic=traffic)

    monkeypatch.setattr("llmq.planning._search.simulate", note)
    policy = {"random": Sarathi(route=Random()), "seeing": Sarathi(route=LeastWork())}.get(route)
    traffic = Trace(np.arange(9.0), 1, 1) if route == "trace" else STEADY
    search(traffic, policy=policy or Sarathi())._run(3, 50)
    whole = route in ("seeing", "trace")
    assert said["fleet"].pools["all"][1] == (3 if whole else 1)
    assert said["requests"] == (150 if whole else 50)
    assert said["replications"] == (1 if route == "trace" else 4)
    if whole:
        assert said["traffic"] is traffic
    else:
        assert said["traffic"].arrivals == Thinned(STEADY.arrivals, 3, in_turn=route == "in turn")


def counts(monkeypatch, enough, least, most, plenty=math.inf, share=None):
    """Search where counts from ``enough`` pass: the answer and the counts in their order."""
    asked: list[int] = []

    def ok(s, n):
        asked.append(n)
        value = n / 1000 if share is None else share
        s.probes[n] = (Probe(n, n, 0.5, Share(value, 0, 1, 99), "stable"), None)
        return n >= enough

    monkeypatch.setattr(Search, "ok", ok)
    return search().smallest(least, most, plenty), asked


def test_the_search_gallops_and_then_bisects(monkeypatch):
    assert counts(monkeypatch, 3, 3, 100) == (3, [3])
    assert counts(monkeypatch, 5, 3, 100) == (5, [3, 5, 4])
    assert counts(monkeypatch, 4, 3, 100) == (4, [3, 5, 4])
    assert counts(monkeypatch, 20, 3, 100) == (20, [3, 5, 8, 12, 18, 27, 22, 20, 19])
    assert counts(monkeypatch, 4, 1, 100) == (4, [1, 2, 3, 5, 4])
    assert counts(monkeypatch, 12, 1, 10) == (None, [1, 2, 3, 5, 8, 10])
    assert counts(monkeypatch, 10, 1, 10) == (10, [1, 2, 3, 5, 8, 10, 9])


def test_the_search_ends_where_four_times_as_many_do_no_better(monkeypatch):
    assert counts(monkeypatch, 99, 1, 100, 4.0, share=0.5) == (None, [1, 2, 3, 5])
    assert counts(monkeypatch, 99, 1, 100, 5.0, share=0.5) == (None, [1, 2, 3, 5])
    assert counts(monkeypatch, 99, 1, 100, 6.0, share=0.5) == (None, [1, 2, 3, 5, 8])
    assert counts(monkeypatch, 99, 2, 100, 1.0, share=0.5) == (None, [2, 3, 5, 8])
    assert counts(monkeypatch, 99, 4, 100, 1.0, share=0.5) == (None, [4, 6, 9, 14, 21])
    assert counts(monkeypatch, 26, 1, 100, 1.0)[0] == 26  # more do better


def test_a_share_that_so_few_requests_cannot_show():
    made = search()
    with pytest.raises(InputError, match=r"^34 measured .* above 0\.8985; 0\.9 needs at least 35"):
        made.shown(Share(1.0, 0.89, 1.0, 34))
    assert made.shown(Share(1.0, 0.9, 1.0, 35))
    assert not made.shown(Share(0.97, 0.8, 1.0, 34))


@pytest.mark.parametrize("status", ["stable", "undecided"])
def test_an_interval_that_ends_at_the_target_does_not_decide(status):
    assert not search().decided(Probe(3, 3, 0.9, Share(0.85, 0.8, 0.9, 99), status))
    assert search().decided(Probe(3, 3, 0.9, Share(0.85, 0.8, 0.8999, 99), status))


def tried(probes, **changed):
    found = search(**changed)
    for probe in probes:
        found.probes[probe.engines] = (probe, None)
    return found


def test_reasons():
    few = Probe(2, 4, 0.9, Share(0.5, 0.4, 0.6, 99), "stable", 1234, "why")
    more = Probe(5, 10, 0.4, Share(0.75, 0.7, 0.8, 99), "stable", 5678, "why")
    both = tried([few, more], engine=CHIP.with_(gpus=2))
    slo = "p90 TTFT <= 1 s"
    assert reason_of(both, 5, 9, finished=True) == f"5 engines meet {slo} with confidence"
    assert reason_of(both, 5, 9, finished=False).endswith(
        "; time ran out before smaller counts were tried"
    )
    short = f"10 GPUs do not meet {slo} with confidence"
    assert reason_of(both, None, 5, finished=True) == f"{short}; best attainment 0.7500"
    assert reason_of(both, None, 6, finished=True).startswith(f"{short}, and more do not help")
    assert "up to 10 GPUs were tried" in reason_of(both, None, 5, finished=False)
    assert "before any count" in reason_of(search(), None, 5, finished=False)
    unsure = tried([few, Probe(5, 10, 0.4, Share(1, 0, 1, 9), "undecided", 5678, "why")])
    assert "10 GPUs are not shown to meet" in reason_of(unsure, None, 5, finished=True)


def test_what_decides():
    need = SimpleNamespace(least=3, load=2.5)
    assert decides(tried([], need=need), None) == ""
    assert decides(tried([], need=SimpleNamespace(least=1, load=0.5)), 1).startswith("one engine")
    two = decides(tried([], need=need), 3)
    assert two.startswith("the lower bound decides: 2 GPUs would have a load of 1.25 at")
    one = decides(tried([], need=SimpleNamespace(least=2, load=1.5)), 2)
    assert "decides: 1 GPU would have a load of 1.50" in one
    wide = tried([], need=SimpleNamespace(least=2, load=1.0), engine=CHIP.with_(gpus=4))
    assert decides(wide, 2) == (
        "the lower bound decides: 4 GPUs cannot do in time what the window demands"
    )
    assert decides(tried([], need=need), 7) == "smaller counts were not tried"

    def said(status, value, high, traffic=STEADY):
        share = Share(value, 0.1, high, 99, (("e2e", 0.99), ("ttft", 0.875)))
        probe = Probe(4, 4, 0.9, share, status, 1234, "why")
        return decides(tried([probe], traffic=traffic, need=need), 5)

    trace = Trace(np.arange(9.0), 1, 1)
    latency = "latency decides: on 4 GPUs only 87.50 % meet the TTFT target of 1 s"
    assert said("overloaded", 0.5, 0.6) == "stability decides: 4 GPUs would be overloaded (why)"
    assert said("overloaded", 0.5, 0.6, trace) == latency
    assert said("undecided", 0.5, 0.9).startswith("stability decides: it is undecided after 1,234")
    assert said("undecided", 0.5, 0.89) == latency
    assert said("undecided", 0.5, 0.95, trace) == latency
    assert said("stable", 0.9, 0.95).endswith("1,234 requests do not show to be 90 %")
    assert said("stable", 0.89, 0.95) == latency


def test_what_the_search_of_a_candidate_is_given(monkeypatch):
    seen = {}

    def smallest(s, least, most, plenty):
        seen.update(least=least, most=most, plenty=plenty, requests=s.requests, longest=s.longest)

    monkeypatch.setattr(Search, "smallest", smallest)
    monkeypatch.setattr("llmq.planning.capacity.reason_of", lambda *args, **options: "none")
    slo = SLO(ttft=0.2001, quantile=0.99)
    chip = CHIP.with_(gpus=4)
    plan_capacity(STEADY, slo, chip, requests=90, replications=4, max_gpus=30)
    # Two engines for each request in the system, if all took 0.2 s; 2 x 381 / 4 requests a path.
    assert (seen["least"], seen["most"], seen["requests"]) == (3, 7, 191)
    assert (seen["plenty"], seen["longest"]) == (pytest.approx(2 * 22 * 0.2), 16 * 191)
    plan_capacity(STEADY, slo, chip, requests=300, replications=4, longest=500)
    assert (seen["most"], seen["requests"], seen["longest"]) == (25_000, 300, 500)
    plan_capacity(STEADY, slo, Candidate(chip, Sarathi(), max_gpus=12), replications=4)
    assert (seen["most"], seen["requests"]) == (3, 2000)
    seen.clear()
    found = plan_capacity(STEADY, slo, Candidate(chip, Sarathi(), max_gpus=11), replications=4)
    assert not seen
    assert found.candidates[0].reason == (
        "the lower bound of 12 GPUs exceeds the limit of 11 (at these settings; 12 at any)"
    )


def test_time_that_runs_out_leaves_the_smallest_count_that_passed(monkeypatch):
    good, bad = Seen(0.95, 0.9, 1.0), Seen(0.9, 0.89, 1.0)
    run = run_unloaded(STEADY, CHIP, Sarathi(), requests=100, rng=0)

    def smallest(s, least, most, plenty):
        for n, seen in ((9, good), (5, good), (7, good), (4, bad)):
            s.probes[n] = (Probe(n, n, 0.5, seen.share, "stable"), run)
        raise OutOfTime

    monkeypatch.setattr(Search, "smallest", smallest)
    slo, two = SLO(ttft=9.0, quantile=0.9), CHIP.with_(gpus=2)
    best = plan_capacity(STEADY, slo, two, requests=200, replications=4).candidates[0]
    # Four just reach the target, but not with confidence.
    assert (best.engines, best.gpus, best.finished, best.gpus_point) == (5, 10, False, 8)
    assert best.attainment == good.share
    shares = [0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99]
    assert [q for q, _ in best.curves["ttft"]] == shares
    assert best.load == pytest.approx(22 * 0.612 * 100 / 512 / 5)
    assert best.headroom == pytest.approx(5 / (22 * 0.612 * 100 / 512) - 1)
    assert best.hardware_headroom == pytest.approx(5 / 2.2 - 1)
    # Engines of two GPUs: 22 * 0.612 * 100 / 512 = 2.63 of them at these settings, 2.2 at any.
    assert (best.gpus_lower_bound, best.hardware_lower_bound) == (6, 6)


def test_a_share_of_all_is_refused_and_one_gpu_is_a_limit():
    for share in (0.0, 1.0):
        with pytest.raises(InputError, match=f"attainment must lie between 0 and 1, got {share}"):
            plan_capacity(STEADY, SLO(ttft=9.0), CHIP, attainment=share)
    slo = SLO(ttft=9.0, quantile=0.9)
    plan = plan_capacity(STEADY, slo, CHIP, max_gpus=1, requests=200, replications=4)
    assert plan.candidates[0].reason.startswith("the lower bound of 3 GPUs exceeds the limit of 1")
    assert plan.verdict == "infeasible"


def test_the_defaults_are_those_of_a_configuration():
    given = inspect.signature(plan_capacity).parameters
    assert given["replications"].default == SimulationConfig().replications
    assert given["rng"].default == SimulationConfig().seed


def test_a_trace_whose_rate_was_changed_says_so():
    trace = Trace(np.arange(40.0), 100, 3)
    fast = trace.scaled(factor=2.0).scaled(rate=4.0)
    slo = SLO(ttft=9.0, quantile=0.9)
    for given, said in ((trace, False), (fast, True)):
        plan = plan_capacity(given, slo, CHIP, max_seconds=1e-9)
        assert ("; its clock runs 4 times as fast, bursts and lulls too" in plan.traffic) == said


def test_headroom_without_a_load_is_without_end():
    assert _headroom(0.0) == math.inf
    assert _headroom(0.8) == pytest.approx(0.25)
