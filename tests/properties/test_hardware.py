"""The bound of the hardware: below the bound at any settings, and beaten by no policy at any."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction as F

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import llmq
from llmq import BatchTime, Engine, RequestClass
from llmq.errors import InputError
from llmq.model.conventions import ENGINE, THEORY
from llmq.policies import ALL
from llmq.theory.needs._hardware import counted, token_price
from llmq.theory.region import stability_region
from llmq.theory.region._certify import certify
from proofs import check
from tests.properties.test_region import engines, laws, mixes

FEW = settings(max_examples=40)


@FEW
@given(st.data())
def test_a1_the_hardware_load_is_at_most_the_load_at_any_settings(data: st.DataObject) -> None:
    mix = data.draw(mixes())
    engine = data.draw(engines(mix))
    area = data.draw(st.sampled_from(["chunked", "wait", "decode_only"]))
    engine = engine.with_(conventions=replace(engine.conventions, area=area))
    rates = {name: F(data.draw(st.integers(1, 9)), 8) for name in mix}
    free = stability_region(engine, mix, limits="hardware").load(rates, exact=True)
    for _ in range(4):
        budget = data.draw(st.integers(1, 5000))
        here = engine.with_(
            token_budget=budget,
            max_seqs=data.draw(st.none() | st.integers(1, 30)),
            prefill_chunk=data.draw(st.none() | st.integers(1, budget)),
        )
        assert free <= stability_region(here, mix).load(rates, exact=True)
        again = stability_region(here, mix, limits="hardware")
        if area != "decode_only":  # there a large budget of its own counts as well
            assert again.load(rates, exact=True) == free
        bracket, own = again.load_bracket(rates), stability_region(here, mix).load_bracket(rates)
        assert bracket[1] <= own[1] * (1 + 1e-12) or own[0] == own[1]


@FEW
@given(st.data())
def test_a1_both_methods_agree_on_the_hardware_and_the_checker_accepts(data: st.DataObject) -> None:
    mix = data.draw(mixes(most=2))
    engine = data.draw(engines(mix))
    rates = {name: F(data.draw(st.integers(1, 9)), 8) for name in mix}
    region = stability_region(engine, mix, limits="hardware")
    if engine.kv_tokens is None and not token_price(engine.law):
        with pytest.raises(InputError, match="the hardware has no bound"):
            certify(engine, mix, rates, limits="hardware")
        return
    other = stability_region(engine, mix, "configurations", limits="hardware")
    assert region.load(rates, exact=True) == other.load(rates, exact=True)
    assert region.limits == other.limits == "hardware"
    made = region.certificate(rates)
    assert made.load == region.load(rates, exact=True)
    assert check.check(made.text()).startswith(made.claim)


@FEW
@given(laws(), st.integers(1, 400))
def test_a1_the_price_of_a_token_is_the_infimum_over_batches(law: BatchTime, n: int) -> None:
    price = token_price(law)
    assert price * n <= _seconds(law, n)
    large = math.lcm(law.tile, *range(1, 10)) * 10**9
    assert _seconds(law, large) / large <= price * (1 + F(1, 10**6)) + F(1, 10**6) or any(
        _seconds(law, m) == price * m for m in law.tokens
    )


def _seconds(law: BatchTime, n: int) -> F:
    if law.form != "table":
        return law.exact().curve(n)
    from llmq.theory.needs._envelope import _exact

    return _exact(law, n)


def _burst(number: int) -> tuple[Engine, dict[str, RequestClass], dict[str, int], object]:
    """Draw an engine with KV limit or without, classes, how many of each come, and a policy."""
    rng = np.random.default_rng(number)
    mix = {f"c{j}": RequestClass(*map(int, rng.integers(1, 30, 2))) for j in range(2)}
    peak = max(one.peak for one in mix.values()) + 1
    attention = {
        "per_kv": rng.choice([0.0, 0.01]),
        "per_kv_mixed": rng.choice([0.0, 0.02]),
        "per_work": rng.choice([0.0, 0.01]),
    }
    law = (
        BatchTime.affine(base=1.0, per_token=float(rng.choice([0.0, 0.25])), **attention),
        BatchTime.tiled(base=0.5, per_tile=1.0, tile=8, **attention),
        BatchTime.roofline(floor=2.0, base=0.5, per_token=0.125, **attention),
    )[rng.integers(3)]
    block = int(rng.choice([1, 4]))
    chip = Engine(
        law,
        token_budget=int(rng.choice([64, 200])),
        max_seqs=[None, 2, 8][rng.integers(3)],
        kv_block=block,
        kv_tokens=[None, peak + 2 * block + 8, 4 * peak + 2 * block][rng.integers(3)],
        prefill_chunk=[None, 3, 16][rng.integers(3)],
        conventions=(ENGINE, THEORY)[rng.integers(2)],
    )
    kind = ALL[rng.integers(len(ALL))]
    fields = {"max_output": 30} if kind.name in ("orca", "fastertransformer") else {}
    fields |= {"token_budget": int(rng.choice([64, 128, 1024]))}
    fields |= {"watermark": 0.0} if hasattr(kind, "watermark") else {}
    return chip, mix, {name: int(rng.integers(1, 40)) for name in mix}, kind(**fields)


@pytest.mark.parametrize("number", range(150))
def test_a1_no_policy_at_any_settings_works_faster_than_the_hardware(number: int) -> None:
    """Priced work holds on every path from empty to empty: a backlog takes at least its load."""
    chip, mix, many, policy = _burst(number)
    klass = [j for j, n in enumerate(many.values()) for _ in range(n)]
    np.random.default_rng(number).shuffle(klass)
    lengths = [(one.prompt.low, one.output.low) for one in mix.values()]
    prompt, output = ([lengths[j][k] for j in klass] for k in (0, 1))
    trace = llmq.Trace([0.0] * len(klass), prompt, output, klass=klass, classes=tuple(mix))
    try:
        run = llmq.simulate(chip, trace, policy, warmup=0)  # type: ignore[arg-type]
    except InputError:
        assume_feasible(chip, policy)
        return
    least = stability_region(chip, mix, limits="hardware").load(many)
    assert float(run.requests.finish.max()) >= least * (1 - 1e-9)
    here = stability_region(llmq.policies.contract.settings.effective(chip, policy), mix).load(many)
    assert float(run.requests.finish.max()) >= here * (1 - 1e-9)


def assume_feasible(chip: Engine, policy: object) -> None:
    """Only short memory or whole prompts may be refused."""
    blocks = policy.blocks  # type: ignore[attr-defined]
    assert chip.kv_tokens is not None or blocks.budget.whole


def test_a1_the_right_values() -> None:
    """64 tokens: 0.178; with 1,024 tokens the bound is 0.416 and a policy carries 0.414."""
    chip = Engine(BatchTime.affine(base=1, per_token=0.01), token_budget=64)
    mix = {"x": RequestClass(200, 20)}
    here = stability_region(chip, mix)
    free = stability_region(chip, mix, limits="hardware")
    wide = stability_region(chip.with_(token_budget=1024), mix)
    assert here.boundary({"x": 1})["x"] == pytest.approx(0.1782, abs=1e-4)
    assert wide.boundary({"x": 1})["x"] == pytest.approx(0.4160, abs=1e-4)
    assert free.boundary({"x": 1})["x"] == pytest.approx(1 / 2.19)
    assert (here.beyond, free.beyond) == (
        "at these settings no policy is stable",
        "no scheduler is stable",
    )
    assert "hardware" in repr(free)
    assert "settings" in repr(here)


def test_a1b_the_readme_example() -> None:
    """60 requests per second on H100s: the hardware's bound is below that of each setting."""
    from llmq.io.config import read_config

    work = read_config("examples/chat.toml").traffic
    assert isinstance(work, llmq.Workload)
    chip = llmq.load_engine("llama-3.1-8b/h100")
    seen = {}
    for budget, slots in ((512, 256), (2048, 256), (2048, 1024)):
        here = chip.with_(token_budget=budget, max_seqs=slots)
        seen[budget, slots] = stability_region(here, work.mix).load(work.rates)
        free = stability_region(here, work.mix, limits="hardware").load(work.rates)
        assert free <= seen[budget, slots]
        assert free == pytest.approx(1.9707, abs=5e-5)
    assert [round(load, 3) for load in seen.values()] == [2.138, 1.995, 1.971]


def test_a1_a_law_without_time_per_token_has_no_hardware_bound() -> None:
    chip = Engine(BatchTime.affine(base=1, per_token=0.0), token_budget=64)
    region = stability_region(chip, {"x": RequestClass(200, 20)}, limits="hardware")
    assert region.load_bracket({"x": 7}) == (0, 0)
    assert region.boundary({"x": 1}) == {"x": math.inf}
    assert region.contains({"x": 1e9})
    assert "inf" in repr(region)


def test_a1_limits_are_one_of_two_words() -> None:
    chip = Engine(BatchTime.affine(base=1, per_token=1.0))
    with pytest.raises(InputError, match="limits must be 'settings'"):
        stability_region(chip, {"x": RequestClass(2, 2)}, limits="hard")  # type: ignore[call-overload]


def test_a1_the_budget_of_the_hardware_is_what_its_memory_holds() -> None:
    chip = Engine(BatchTime.affine(base=1, per_token=1.0), 64, kv_tokens=1000, max_seqs=4)
    free = counted(chip, {"x": RequestClass(2, 2)}, "hardware")
    assert (free.token_budget, free.max_seqs, free.chunk) == (992, None, 992)
    small = chip.with_(token_budget=4096)
    assert counted(small, {"x": RequestClass(2, 2)}, "settings").token_budget == 992
    assert counted(chip, {"x": RequestClass(2, 2)}, "settings") is chip
