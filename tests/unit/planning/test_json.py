"""The JSON of a plan: every number of the plan, finite, with its interval, and the same bytes."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest

from llmq.model.engine import Engine
from llmq.model.request import RequestClass
from llmq.model.slo import SLO
from llmq.model.time.batchtime import BatchTime
from llmq.model.workload import Workload
from llmq.planning._json import plan_to_dict, plan_to_json
from llmq.planning.capacity import Candidate, Plan, plan_capacity
from llmq.policies import VLLM, LeastWork, Sarathi, parse, text
from llmq.result import Estimate

LAW = BatchTime.affine(base=0.01, per_token=1e-4, per_kv=1e-7)
MIX = {"chat": RequestClass(512, 128), "code": RequestClass(2048, 256)}


def make() -> Plan:
    pair = Engine(LAW, max_seqs=64, kv_tokens=60_000, name="pair", gpus=2)
    hopeless = pair.with_(law=LAW.scaled(30), name="hopeless")
    offers = [
        Candidate(pair, VLLM(), "second"),
        Candidate(pair, Sarathi(token_budget=256)),
        Candidate(hopeless, Sarathi()),
    ]
    work = Workload.poisson({"chat": 20.0, "code": 2.0}, MIX)
    slo = SLO(ttft=1.0, tpot=0.2, quantile=0.9)
    return plan_capacity(work, slo, offers, requests=300, replications=4, rng=3)


@pytest.fixture(scope="module")
def plan() -> Plan:
    return make()


def test_every_number_is_that_of_the_plan(plan: Plan) -> None:
    found = plan_to_dict(plan)
    assert found["verdict"] == "feasible"
    assert found["target"] == 0.9
    assert found["slo"] == {
        "ttft_s": 1.0,
        "tpot_s": 0.2,
        "quantile": 0.9,
        "text": "p90 TTFT <= 1 s and p90 TPOT <= 200 ms",
    }
    assert found["rates"] == {"chat": 20.0, "code": 2.0}
    assert [c["engine"] for c in found["candidates"]] == ["second", "pair", "hopeless"]
    assert [c["policy"] for c in found["candidates"]] == [
        text(VLLM()),
        "sarathi:token_budget=256",
        "sarathi",
    ]
    for raw, one in zip(found["candidates"], plan.candidates, strict=True):
        for key in ("feasible", "reason", "gpus_lower_bound", "gpus", "gpus_point", "engines"):
            assert raw[key] == getattr(one, key), key
        for key in ("load", "load_one", "headroom"):
            assert raw[key] == getattr(one, key), key
        assert raw["binding"] == dict(zip(("resource", "sentence"), one.binding, strict=True))
        assert raw["prices"] == one.prices
        assert raw["prices_gpu"] == {name: 2 * price for name, price in one.prices.items()}
        assert [p["gpus"] for p in raw["probes"]] == [p.gpus for p in one.probes]
        assert [p["attainment"]["low"] for p in raw["probes"]] == [
            p.attainment.low for p in one.probes
        ]
    assert found["provenance"]["entropy"] == "3"
    assert found["kind"] == "simulated"
    assert found["assumptions"] == list(plan.assumptions)


def test_latencies_carry_unit_interval_and_sample(plan: Plan) -> None:
    assert plan.chosen is not None
    chosen = plan_to_dict(plan)["chosen"]
    for name in ("ttft", "tpot"):
        assert list(chosen[name]) == ["unit", "p50", "p90", "p99"]
        assert chosen[name]["unit"] == "s"
        for q, at in getattr(plan.chosen, name).items():
            raw = chosen[name][q]
            assert (raw["value"], raw["n"], raw["method"]) == (at.mean, at.n, at.method)
            if not math.isfinite(at.half_width):
                # Of a plan for 90 % of the requests the 99 % point need not be known.
                assert (q, raw["low"], raw["high"]) == ("p99", None, None)
                continue
            assert (raw["low"], raw["high"]) == (max(0.0, at.low), at.high)
            assert raw["low"] <= raw["value"] <= raw["high"]
    share = plan.chosen.attainment
    assert share is not None
    assert {k: chosen["attainment"][k] for k in ("value", "low", "high", "n")} == {
        "value": share.value,
        "low": share.low,
        "high": share.high,
        "n": share.n,
    }


def test_chosen_is_the_entry_with_the_fewest_gpus(plan: Plan) -> None:
    found = plan_to_dict(plan)
    counts = [c["gpus"] for c in found["candidates"] if c["gpus"] is not None]
    assert found["chosen"] in found["candidates"]
    assert found["chosen"]["gpus"] == min(counts)


def test_a_candidate_without_answer_has_nulls(plan: Plan) -> None:
    last = plan_to_dict(plan)["candidates"][2]
    assert not last["feasible"]
    assert last["gpus"] is last["attainment"] is last["ttft"] is last["tpot"] is None
    assert last["probes"] == []
    nothing = dataclasses.replace(plan, verdict="infeasible", chosen=None)
    assert plan_to_dict(nothing)["chosen"] is None


def test_json_round_trip_and_equal_bytes(plan: Plan) -> None:
    text = plan_to_json(plan)
    assert json.loads(text) == plan_to_dict(plan)
    assert plan_to_json(make()) == text


def test_what_does_not_exist_is_null_and_never_infinite(plan: Plan) -> None:
    one = plan.candidates[0]
    estimates = {
        "p50": Estimate(math.nan, math.inf, 0),
        "p90": Estimate(0.2, math.inf, 1),
        "p99": Estimate(0.01, 0.03, 3),
    }
    odd = dataclasses.replace(
        one,
        ttft=estimates,
        load=0.0,
        load_one=math.inf,
        headroom=math.inf,
        prices={"chat": math.nan, "code": 1.0},
    )
    others = plan.candidates[1:]
    text = plan_to_json(dataclasses.replace(plan, candidates=(odd, *others), chosen=odd))
    raw = json.loads(text, parse_constant=pytest.fail)["candidates"][0]
    assert (raw["load_one"], raw["headroom"], raw["load"]) == (None, None, 0.0)
    assert raw["prices"] == {"chat": None, "code": 1.0}
    assert raw["prices_gpu"] == {"chat": None, "code": 2.0}
    ends = [[raw["ttft"][q][key] for key in ("value", "low", "high")] for q in estimates]
    assert ends == [[None, None, None], [0.2, None, None], [0.01, 0.0, pytest.approx(0.04)]]


def test_facets_give_the_load_of_one_engine(plan: Plan) -> None:
    found = plan_to_dict(plan)
    for raw in found["candidates"]:
        loads = [
            sum(found["rates"][name] * weight for name, weight in facet["weights"].items())
            for facet in raw["region"]["facets"]
        ]
        assert max(loads) == pytest.approx(raw["load_one"], rel=1e-12)


@pytest.mark.parametrize(
    "policy",
    [
        Sarathi(),
        VLLM(),
        Sarathi(token_budget=64, order="queue", watermark=0.05),
        Sarathi(route=LeastWork()),
        VLLM(route=LeastWork()),
    ],
)
def test_policy_text_reads_back(policy: Sarathi | VLLM) -> None:
    assert parse(text(policy)) == policy
