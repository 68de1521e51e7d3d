"""Intervals of coefficients: coverage, bounds, and where a law extrapolates."""

from __future__ import annotations

import numpy as np
import pytest

from llmq.calibrate._compose import draw_steps
from llmq.calibrate._intervals import coefficient_intervals
from llmq.calibrate.catalogue import load_engine, write_engine
from llmq.calibrate.fit import calibrate
from llmq.calibrate.forms import fit_form
from llmq.calibrate.profile import Profile
from llmq.model.time.batchtime import BatchTime

ATTENTION = {"per_kv": 4.1e-8, "per_kv_mixed": 8.2e-8, "per_work": 1.5e-9}
LAWS = {
    "affine": BatchTime.affine(base=9e-3, per_token=5e-5, **ATTENTION),
    "tiled": BatchTime.tiled(base=5e-3, per_tile=4e-3, tile=128, per_token=3e-6, **ATTENTION),
    "roofline": BatchTime.roofline(
        floor=8e-3, floor_per_token=3e-6, base=1e-3, per_token=1.8e-5, **ATTENTION
    ),
}
NAMES = {
    "affine": ("base", "per_token"),
    "tiled": ("base", "per_token", "per_tile"),
    "roofline": ("floor", "floor_per_token", "base", "per_token"),
}


def noisy(law: BatchTime, seed: int, count: int = 600, noise: float = 0.02) -> Profile:
    steps = draw_steps(count, rng=seed)
    exact = law(steps.tokens, steps.kv, steps.work, mixed=steps.chunk > 0)
    seconds = exact * np.random.default_rng(seed).normal(1.0, noise, count)
    return Profile(
        tokens=steps.tokens,
        kv=steps.kv,
        work=steps.work,
        prefill=steps.chunk,
        seconds=seconds,
        scope="iteration",
    )


@pytest.mark.parametrize("form", LAWS)
def test_intervals_cover(form: str) -> None:
    # 95 % intervals of 60 profiles: 49 or fewer covering has probability below 1e-3.
    law, covered = LAWS[form], dict.fromkeys((*NAMES[form], *ATTENTION), 0)
    for seed in range(60):
        profile = noisy(law, seed)
        fitted = fit_form(form, profile, law.tile)
        for name, value, low, high in coefficient_intervals(profile, fitted):
            assert low <= value <= high, name
            assert value == getattr(fitted, name)
            covered[name] += low <= getattr(law, name) <= high
    assert min(covered.values()) >= 50, covered
    # They are not merely wide: none holds twice the true value.
    for name, _, _, high in coefficient_intervals(noisy(law, 1, 3000), law):
        assert high < 2 * getattr(law, name), name


def test_intervals_shrink_like_the_square_root_of_the_rows() -> None:
    law = LAWS["affine"]
    width = {
        count: {
            n: high - low for n, _, low, high in coefficient_intervals(noisy(law, 4, count), law)
        }
        for count in (500, 8000)
    }
    for name in ("base", "per_token", "per_kv", "per_kv_mixed"):
        assert width[500][name] / width[8000][name] == pytest.approx(4.0, rel=0.35), name


def test_a_coefficient_at_its_bound_has_a_one_sided_interval() -> None:
    truth = BatchTime.affine(base=9e-3, per_token=5e-5, per_kv=4e-8, per_kv_mixed=4e-8)
    sides = set()
    for seed in range(20):
        profile = noisy(truth, seed)
        fitted = fit_form("affine", profile)
        found = {name: ends for name, *ends in coefficient_intervals(profile, fitted)}
        value, low, high = found["per_work"]
        assert 0.0 <= low <= value <= high
        if value == 0.0:
            assert low == 0.0 < high
        sides.add(value == 0.0)
    assert sides == {True, False}  # half of the free estimates are negative


def test_the_interval_of_a_table_is_that_of_its_attention() -> None:
    profile = noisy(LAWS["roofline"], 3, 4000)
    fit = calibrate(profile, "table")
    found = {name: (low, high) for name, _, low, high in fit.intervals}
    assert set(found) == set(ATTENTION)
    assert found["per_kv"][0] < 4.1e-8 < found["per_kv"][1]
    assert found["per_kv"][1] - found["per_kv"][0] < 4e-9


def test_a_fit_says_where_it_ends(tmp_path) -> None:
    profile = noisy(LAWS["affine"], 2)
    fit = calibrate(profile, "affine")
    assert fit.tokens == (profile.tokens.min(), profile.tokens.max())
    assert fit.kv == (profile.kv.min(), profile.kv.max())
    assert fit.extrapolation(tokens=2048, kv=100_000) == ""
    most = int(profile.kv.max())
    assert fit.extrapolation(kv=most) == ""
    assert fit.extrapolation(tokens=8192, kv=most + 1).startswith("8,192 tokens, fitted up to 4,")
    assert "KV tokens, fitted up to" in fit.extrapolation(kv=most + 1)
    inside = load_engine(write_engine(fit, tmp_path / "in.toml", kv_tokens=1600))
    assert not any("extrapolated" in line for line in inside.assumptions)
    beyond = load_engine(write_engine(fit, tmp_path / "out.toml", kv_tokens=160 * most))
    assert any(line.startswith("extrapolated: a full engine has") for line in beyond.assumptions)


def test_a_good_roofline_may_be_preferred_to_a_table() -> None:
    profile = noisy(
        BatchTime.roofline(floor=8e-3, base=1e-3, per_token=1.8e-5, **ATTENTION), 5, 3000
    )
    bent = Profile(
        tokens=profile.tokens,
        kv=profile.kv,
        work=profile.work,
        prefill=profile.prefill,
        seconds=profile.seconds * (1 + 0.05 * np.sin(profile.tokens / 300)),
        scope="iteration",
    )
    free = calibrate(bent)
    assert free.form == "table"
    assert calibrate(bent, enough=0.001).form == "table"
    kept = calibrate(bent, enough=0.06)
    assert kept.form == "roofline"
    assert "within 6 % and closed; best table" in kept.reason
    assert kept.out_of_sample.mape > free.out_of_sample.mape
