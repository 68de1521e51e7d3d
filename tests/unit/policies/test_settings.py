"""The engine as a policy runs it: one for bound, verdict and simulation."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest

import llmq
from llmq import SLO, BatchTime, Engine, Fleet, RequestClass, Trace, Workload
from llmq.planning.capacity import plan_capacity
from llmq.planning.max_rate import max_rate
from llmq.policies import ALL, VLLM, Orca, Sarathi
from llmq.policies.contract.settings import effective, priced

CHIP = Engine(BatchTime.affine(base=1, per_token=0.01), token_budget=64, name="chip")
MIX = {"x": RequestClass(200, 20)}


def test_a1_a_policy_that_raises_the_budget_is_obeyed_and_said() -> None:
    found = effective(CHIP, Sarathi(token_budget=1024))
    assert found.token_budget == 1024
    assert found.assumptions == ("policy sarathi raises the token budget from 64 to 1024",)
    lower = effective(CHIP, Sarathi(token_budget=32))
    assert (lower.token_budget, lower.assumptions) == (32, ())
    assert effective(CHIP, Sarathi()) is CHIP


def test_a1_twice_is_as_once() -> None:
    chip = CHIP.with_(prefill_chunk=16)
    for policy in (Orca(token_budget=1024), Sarathi(token_budget=1024), Sarathi()):
        once = effective(chip, policy)
        assert effective(once, policy) is once


def test_a1_a_fleet_pool_by_pool() -> None:
    fleet = Fleet({"a": (CHIP, 2), "b": (CHIP.with_(token_budget=2048), 1)}, link=1e6)
    found = effective(fleet, Sarathi(token_budget=1024))
    assert {name: one.token_budget for name, (one, _) in found.pools.items()} == {
        "a": 1024,
        "b": 1024,
    }
    assert (found.link, found.pools["a"][1]) == (1e6, 2)
    assert effective(fleet, Sarathi()) is fleet


def test_a1_max_rate_bounds_the_engine_that_is_simulated() -> None:
    """0.177 with a bound of 0.178 before; the engine with 1,024 tokens carries 0.414."""
    work = Workload.poisson(0.1, MIX)
    found = max_rate(
        CHIP, work, SLO(1000, 1000, quantile=0.5), Sarathi(token_budget=1024), requests=1000, rng=1
    )
    assert found.bound == pytest.approx(1 / (220 / 1024 + 2.19), rel=0.01)
    assert found.rate == pytest.approx(0.414, rel=0.05)


def test_a1_verdict_and_assumptions_of_a_run() -> None:
    run = llmq.simulate(
        CHIP, Workload.poisson(0.3, MIX), Sarathi(token_budget=1024), requests=500, rng=1
    )
    assert run.verdict.load == pytest.approx(0.3 / 0.4157, rel=0.01)
    assert "policy sarathi raises the token budget from 64 to 1024" in run.assumptions


def _honours(policy: object) -> bool:
    """Whether prompts of 12 tokens beside another are cut in pieces of 4: three iterations."""
    chip = Engine(
        BatchTime.affine(base=1, per_token=1e-9), token_budget=64, max_seqs=4, prefill_chunk=4
    )
    run = llmq.simulate(chip, Trace([0.0, 0.0], [12, 12], [9, 9]), policy, warmup=0)  # type: ignore[arg-type]
    return run.requests.first_token[0, 0] > 2.5  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.name)
def test_a8_every_policy_keeps_the_chunk_if_and_only_if_it_cuts_by_it(kind: type) -> None:
    """The blocks decide; what they decide is what the reference simulator does."""
    known = {field.name for field in fields(kind)}
    policy = kind(**({"tile": 64, "chunk": 64} if "tile" in known else {}))
    chip = CHIP.with_(prefill_chunk=4)
    kept = effective(chip, policy).prefill_chunk
    assert (kept is not None) == _honours(policy)
    if kept is None:
        assert f"policy {policy.name} does not cut prompts: prefill_chunk 4 is not used" in (
            effective(chip, policy).assumptions
        )


def test_a8_chunks_that_a_policy_ignores_are_not_priced() -> None:
    """Slots priced a slot for each piece of 4 tokens: 3 GPUs, with fewer "no scheduler"."""
    chip = Engine(
        BatchTime.affine(base=0.01, per_token=1e-5),
        token_budget=64,
        max_seqs=4,
        prefill_chunk=4,
        name="chip",
    )
    work = Workload.poisson(20.0, {"x": RequestClass(48, 8)})
    slo = SLO(ttft=5.0, tpot=1.0, quantile=0.9)
    plans = {}
    for cut in (4, None):
        offer = chip.with_(prefill_chunk=cut)
        plans[cut] = plan_capacity(work, slo, offer, policy=Orca(max_output=8), requests=500)
    assert plans[4].chosen.gpus == plans[None].chosen.gpus == 1
    assert plans[4].chosen.load == plans[None].chosen.load < 1


def test_a1_max_rate_names_both_bounds() -> None:
    found = max_rate(
        CHIP,
        Workload.poisson(0.1, MIX),
        SLO(1000, 1000, quantile=0.5),
        Sarathi(),
        probes=1,
        requests=50,
        rng=1,
    )
    assert found.bound == pytest.approx(0.1782, abs=1e-4)
    assert found.hardware_bound == pytest.approx(1 / 2.19)
    words = "at these settings no policy carries more than 0.178, no scheduler at any settings more"
    assert words in str(found)


def test_a9_contains_says_whether_output_lengths_must_be_known() -> None:
    chip = CHIP.with_(kv_tokens=4096, max_seqs=8)
    spread = {"x": RequestClass(200, llmq.Lengths.empirical([1, 3]))}
    assert "knows the output length of each request" in (
        llmq.stability_region(chip, spread).carried_by
    )
    assert "knows the class" in llmq.stability_region(chip, MIX).carried_by
    assert "knows no output length" in llmq.stability_region(CHIP, spread).carried_by
    assert "know the output lengths" in str(llmq.stability_region(chip, spread).assumptions)


def test_a8_a_chunk_that_a_lone_prompt_may_pass_is_no_bound() -> None:
    """vLLM v1 cuts a prompt only beside others: spaced requests beat a bound that prices it."""
    chip = Engine(
        BatchTime.affine(base=1, per_token=0.001),
        token_budget=64,
        max_seqs=1,
        prefill_chunk=4,
    )
    policy = VLLM(token_budget=None, version="v1")
    mix = {"x": RequestClass(48, 2)}
    run = llmq.simulate(chip, Trace(np.arange(60) * 5.0, [48] * 60, [2] * 60), policy, warmup=0)
    assert float(run.requests.finish[0, -1]) < 60 * 5  # served as they come, at 0.2/s
    assert llmq.stability_region(effective(chip, policy), mix).load({"x": 0.2}) > 1
    assert llmq.stability_region(priced(chip, policy), mix).load({"x": 0.2}) < 1
    assert run.verdict.load < 1
    assert "does not cut the prompt of a request that is alone" in str(
        priced(chip, policy).assumptions
    )
