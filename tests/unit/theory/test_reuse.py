"""Bounds where a prefix cache finds prompts again."""

from __future__ import annotations

from fractions import Fraction as F

import numpy as np
import pytest

import llmq
from llmq import BatchTime, Engine, Fleet, Lengths, RequestClass, Trace
from llmq.errors import InputError
from llmq.model.prefix import Prefix
from llmq.model.reuse import endless_hits
from llmq.theory.region import stability_region
from proofs import check

CHIP = Engine(
    BatchTime.affine(base=1, per_token=0.25, per_kv=0.01, per_work=0.001),
    64,
    max_seqs=8,
    kv_tokens=640,
    kv_block=4,
    prefix_cache=True,
)
MIX = {"x": RequestClass(40, 8)}


def shared(n: int, gap: float = 0.0, blocks: int = 10, own: int = 1) -> Trace:
    """Requests of ten blocks of four tokens, of which all but ``own`` are common to all."""
    names = [[*range(blocks - own), *(1000 + own * i + j for j in range(own))] for i in range(n)]
    times = np.arange(n) * gap
    return Trace(times, [4 * blocks] * n, [8] * n, prefix=Prefix.of(names, block=4))


def test_a6_a_cache_without_hits_is_refused_with_the_remedy() -> None:
    fleet = Fleet({"a": (CHIP, 1), "b": (CHIP.with_(token_budget=32), 1)})
    for system in (CHIP, fleet):
        with pytest.raises(InputError, match=r"pass hits=.*endless_hits.*leave prefix_cache out"):
            stability_region(system, MIX)
    with pytest.raises(InputError, match="none has it"):
        stability_region(CHIP.with_(prefix_cache=False), MIX, hits=0.5)
    for bad in (1.5, -0.1, True, {"y": 0.5}, {"x": "0.5"}):
        with pytest.raises(InputError, match="hits"):
            stability_region(CHIP, MIX, hits=bad)  # type: ignore[arg-type]


def test_a6_no_hits_is_the_engine_without_a_cache() -> None:
    plain = stability_region(CHIP.with_(prefix_cache=False), MIX)
    assert stability_region(CHIP, MIX, hits=0).load({"x": 1}, exact=True) == plain.load(
        {"x": 1}, exact=True
    )


def test_a6_more_hits_never_raise_the_load_and_both_methods_agree() -> None:
    loads = []
    for share in (0, 0.25, 0.5, 0.9, 1):
        for limits in ("settings", "hardware"):
            region = stability_region(CHIP, MIX, hits=share, limits=limits)
            other = stability_region(CHIP, MIX, "configurations", hits={"x": share}, limits=limits)
            assert region.load({"x": 1}, exact=True) == other.load({"x": 1}, exact=True)
            if share == 1:
                with pytest.raises(InputError, match="hits below 1"):
                    region.certificate({"x": 1})
                continue
            made = region.certificate({"x": 1})
            assert made.load == region.load({"x": 1}, exact=True)
            said = check.check(made.text())
            assert said.startswith("unstable")
            assert ("prefix reuse" in said) == (share > 0)
        loads.append(stability_region(CHIP, MIX, hits=share).load({"x": 1}, exact=True))
        assert ("0.9 of the prompt tokens of x" in str(region.assumptions)) == (share == 0.9)
    assert loads == sorted(loads, reverse=True)


def test_a6_endless_hits_count_each_block_once() -> None:
    assert endless_hits(shared(10)) == {"all": 1 - (9 + 10) / 100}
    nothing = Trace([0, 1], [8, 8], [2, 2])
    assert endless_hits(nothing) == {"all": 0.0}
    # A block of two classes may be computed by the other one.
    names = Prefix.of([[0, 1], [0, 2]], block=4)
    two = Trace([0, 1], [8, 10], [2, 2], klass=["a", "b"], prefix=names)
    assert endless_hits(two) == {"a": 0.5, "b": 1 - 6 / 10}


@pytest.mark.parametrize("seed", range(12))
def test_a6_no_run_with_a_cache_works_faster_than_the_bound(seed: int) -> None:
    """A backlog that shares blocks takes at least its load at the endless hits."""
    rng = np.random.default_rng(seed)
    own, n = int(rng.integers(1, 10)), int(rng.integers(5, 40))
    trace = shared(n, own=own)
    chip = CHIP.with_(kv_tokens=int(rng.choice([120, 640])), max_seqs=int(rng.choice([2, 8])))
    hits = endless_hits(trace)
    for policy in (llmq.policies.Sarathi(watermark=0.0), llmq.policies.VLLM(64, version="v1")):
        run = llmq.simulate(chip, trace, policy, warmup=0)
        for limits in ("settings", "hardware"):
            bound = stability_region(chip, trace.mix(), hits=hits, limits=limits)  # type: ignore[call-overload]
            assert run.requests.finish.max() >= bound.load({"all": n}) * (1 - 1e-9)


def test_a6_the_catalogue_case_is_served() -> None:
    """(8192, 50) on an H100: "unstable" at 12/s; 15 of 16 blocks shared, 11.45/s are served."""
    chip = llmq.load_engine("llama-3.1-8b/h100").with_(prefix_cache=True)
    mix = {"all": RequestClass(8192, 50)}
    assert stability_region(chip.with_(prefix_cache=False), mix).load({"all": 12}) > 1
    n, rng = 600, np.random.default_rng(1)
    names = [[*range(15), 1000 + i] for i in range(n)]
    trace = Trace(
        np.cumsum(rng.exponential(1 / 12, n)),
        [8192] * n,
        [50] * n,
        prefix=Prefix.of(names, block=512),
    )
    hits = endless_hits(trace)
    assert hits["all"] == 1 - (15 + n) / (16 * n)
    region = stability_region(chip, mix, hits=hits)
    assert region.load({"all": 12}) < 1
    assert region.certificate({"all": 12}).claim == "optimal_load"
    run = llmq.simulate(chip, trace)
    assert run.verdict.status != "overloaded"
    assert run.verdict.load < 1
    served = n / float(run.requests.finish.max() - trace.arrival[0])
    assert served > 11


def test_a6_shares_hold_by_class_and_by_pool() -> None:
    mix = {"x": RequestClass(40, 8), "y": RequestClass(Lengths.uniform(1, 40), 8)}
    fleet = Fleet({"a": (CHIP, 1), "b": (CHIP.with_(prefix_cache=False), 1)})
    rates = {"x": F(1, 9), "y": F(1, 7)}
    none = stability_region(fleet, mix, hits=0).load(rates, exact=True)
    some, only = stability_region(fleet, mix, hits={"x": F(1, 2)}), {"x": 0, "y": 1}
    assert some.load(rates, exact=True) < none
    assert some.load(only) == stability_region(fleet, mix, hits=0).load(only)
    with pytest.raises(InputError, match="give all pools a prefix cache or none"):
        some.certificate(rates)
