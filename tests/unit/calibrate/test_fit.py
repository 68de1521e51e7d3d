"""Recovery of known laws, the tile, the knee, and what calibrate refuses."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from llmq.calibrate._compose import Kernels, compose, draw_steps
from llmq.calibrate._knee import find_knee
from llmq.calibrate.fit import Fit, calibrate
from llmq.calibrate.forms import fit_form
from llmq.calibrate.profile import Profile
from llmq.errors import InputError
from llmq.model.time.batchtime import BatchTime
from llmq.result import from_json, to_json

ATTENTION = {"per_kv": 4.1e-8, "per_kv_mixed": 8.2e-8, "per_work": 1.5e-9}
LAWS = {
    "affine": BatchTime.affine(base=9e-3, per_token=5e-5, **ATTENTION),
    "tiled": BatchTime.tiled(base=5e-3, per_tile=4e-3, tile=128, per_token=3e-6, **ATTENTION),
    "roofline": BatchTime.roofline(
        floor=6e-3, floor_per_token=9e-6, base=1e-3, per_token=1.8e-5, **ATTENTION
    ),
    "roofline tiled": BatchTime.roofline(
        floor=1.1e-2, floor_per_token=2e-5, base=6e-3, per_token=3.7e-5, tile=64, **ATTENTION
    ),
}


def iterations(law: BatchTime, count: int = 1500) -> Profile:
    """Iterations that follow a law exactly."""
    steps = draw_steps(count, rng=3)
    mixed = steps.chunk > 0
    return Profile(
        tokens=steps.tokens,
        kv=steps.kv,
        work=steps.work,
        prefill=steps.chunk,
        seconds=law(steps.tokens, steps.kv, steps.work, mixed=mixed),
        scope="iteration",
    )


@pytest.mark.parametrize("name", LAWS)
def test_a_known_law_is_recovered(name: str) -> None:
    law = LAWS[name]
    fit = calibrate(iterations(law))
    assert (fit.form, fit.law.tile) == (law.form, law.tile)
    assert fit.tile == law.tile
    for key in ("base", "per_token", "floor", "floor_per_token", "per_tile", *ATTENTION):
        assert getattr(fit.law, key) == pytest.approx(getattr(law, key), rel=1e-6, abs=1e-12), key
    assert fit.out_of_sample.maximum < 1e-6
    assert np.abs(fit.residuals).max() < 1e-8


@pytest.mark.parametrize("tile", [32, 64, 128, 256, 512])
def test_every_tile_is_found_in_layers_alone(tile: int) -> None:
    n = np.concatenate([[1, 2, 4], np.arange(8, 1024, 8), np.arange(1024, 4097, 16)])
    law = BatchTime.roofline(floor=6e-3, base=1e-3, per_token=2e-5, tile=tile)
    fit = calibrate(Profile(tokens=n, seconds=law(n)), "roofline")
    assert fit.tile == tile
    assert fit.law.per_token == pytest.approx(2e-5, rel=1e-6)
    assert dict(fit.tile_errors)[tile] < 1e-9 < min(e for t, e in fit.tile_errors if t != tile)


def test_no_tile_is_found_where_there_is_none() -> None:
    noise = np.random.default_rng(5).normal(1.0, 0.02, 400)
    n = np.arange(1, 401) * 8
    fit = calibrate(Profile(tokens=n, seconds=LAWS["roofline"](n) * noise), "roofline")
    assert fit.tile == 1
    assert fit.law.per_token == pytest.approx(1.8e-5, rel=0.02)
    assert fit.out_of_sample.mape == pytest.approx(0.02 * np.sqrt(2 / np.pi), rel=0.2)


def test_a_table_interpolates_and_never_decreases() -> None:
    n = np.arange(1, 50) * 16
    seconds = 0.01 + 1e-5 * n + np.where(n % 32 == 0, 2e-3, 0.0)  # down again after every peak
    fit = calibrate(Profile(tokens=n, seconds=seconds), "table")
    assert np.all(np.diff(fit.law.seconds) >= 0)
    # Two decreasing times become one: the nearest in relative least squares.
    pooled = fit_form("table", Profile(tokens=[1, 2, 3], seconds=[1.0, 4.0, 2.0])).seconds
    best = (1 / 4 + 1 / 2) / (1 / 4**2 + 1 / 2**2)
    assert pooled == pytest.approx((1.0, best, best), rel=1e-12)
    smooth = calibrate(Profile(tokens=n, seconds=0.01 + 1e-5 * n), "table")
    assert smooth.in_sample.maximum < 1e-12
    assert smooth.law(24) == pytest.approx(0.01024)


def test_unseen_rows_are_unseen() -> None:
    # Every second point is wrong by 10 %: a law fitted to the others must show it.
    n = np.arange(1, 101) * 8
    seconds = (0.01 + 1e-5 * n) * np.where(np.arange(100) % 2 == 1, 1.1, 1.0)
    fit = calibrate(Profile(tokens=n, seconds=seconds), "affine")
    assert fit.out_of_sample.mape == pytest.approx(1 - 1 / 1.1, rel=1e-6)
    trial = next(t for t in fit.tried if t.form == "affine")
    assert trial.in_sample.maximum < 1e-9
    assert trial.in_sample.n == trial.out_of_sample.n == 50


def test_auto_takes_the_simplest_of_equals_and_says_why() -> None:
    fit = calibrate(iterations(LAWS["affine"]))
    assert fit.form == "affine"
    assert {t.form for t in fit.tried} == {"affine", "tiled", "roofline", "table"}
    assert "affine" in fit.reason
    asked = calibrate(iterations(LAWS["affine"]), "roofline", tile=1)
    assert asked.form == "roofline"
    assert asked.reason.startswith("roofline was asked for")


@pytest.mark.parametrize(("base", "sign"), [(2e-3, "positive"), (0.0, "undecided")])
def test_the_knee_has_the_sign_of_the_compute_intercept(base: float, sign: str) -> None:
    noise = np.random.default_rng(8).normal(1.0, 0.02, 500)
    n = np.arange(1, 501) * 4
    law = BatchTime.roofline(floor=8e-3, base=base, per_token=2e-5)
    profile = Profile(tokens=n, seconds=law(n) * noise)
    knee = find_knee(profile, fit_form("roofline", profile))
    assert knee.sign == sign
    assert knee.low <= base <= knee.high
    assert knee.tokens == pytest.approx((8e-3 - base) / 2e-5, rel=0.05)


def test_a_negative_knee_is_seen_although_laws_cannot_hold_it() -> None:
    # c = 6 ms, a = 30 us/token, b0 = 300: c - a b0 = -3 ms, the best batch is exactly 300 tokens.
    n = np.arange(1, 301) * 4
    seconds = 6e-3 + 3e-5 * np.maximum(0, n - 300)
    fit = calibrate(Profile(tokens=n, seconds=seconds), "roofline")
    assert fit.knee.value == pytest.approx(-3e-3, rel=1e-6)
    assert fit.knee.tokens == pytest.approx(300, rel=1e-6)
    assert fit.knee.sign == "negative"
    assert "lose capacity" in str(fit.knee)
    with pytest.warns(DeprecationWarning, match=r"fit\.hinge is called fit\.knee now"):
        assert fit.hinge is fit.knee
    assert fit.law.base >= 0


def test_interval_of_the_knee_covers() -> None:
    # 95 % intervals of 100 noisy profiles: 86 or fewer covering has probability below 1e-3.
    n = np.arange(1, 201) * 8
    law = BatchTime.roofline(floor=8e-3, base=2e-3, per_token=2e-5)
    covered = 0
    for seed in range(100):
        noise = np.random.default_rng(seed).normal(1.0, 0.02, 200)
        knee = find_knee(Profile(tokens=n, seconds=law(n) * noise), law)
        covered += knee.low <= 2e-3 <= knee.high
    assert 87 <= covered <= 100


def test_a_fit_survives_json() -> None:
    fit = calibrate(iterations(LAWS["roofline"], 300))
    again = from_json(Fit, to_json(fit))
    assert again == fit
    assert np.array_equal(again.residuals, fit.residuals)
    assert again.provenance == fit.provenance


def test_same_seed_same_fit_and_the_seed_is_recorded() -> None:
    kernels = Kernels(lambda n: 0.01 + 1e-4 * n, lambda r: 1e-5 * r, lambda s: 1e-8 * s.kv)
    first, second = (calibrate(compose(kernels, steps=400)) for _ in range(2))
    assert to_json(first) == to_json(second)
    assert first.provenance is not None
    assert first.provenance.entropy == first.provenance.arguments["steps_seed"] == "20260424"
    assert to_json(calibrate(compose(kernels, steps=400, rng=1))) != to_json(first)


def test_missing_and_assumed_parts_are_said() -> None:
    n = np.arange(1, 60) * 8
    bare = Profile(tokens=n, seconds=0.01 + 1e-5 * n, missing=("LM head", "all-reduce"))
    fit = calibrate(bare.assuming({"LM head": 7e-4}))
    assert "not in the profile and counted as 0 s: all-reduce" in fit.assumptions
    assert "assumed to take 700 us: LM head" in fit.assumptions
    assert fit.missing == ("all-reduce",)
    assert fit.law(8) == pytest.approx(0.01 + 8e-5 + 7e-4)
    assert "fitted from 8 to 472 tokens; beyond, the law extrapolates" in fit.assumptions
    for line in (*fit.assumptions, str(fit.law), str(fit.knee), fit.reason):
        assert line in fit.summary()


ROWS = {"tokens": [1, 2, 3], "seconds": [0.1, 0.2, 0.3]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seconds": [0.1, -0.2, 0.3]}, "row 1: seconds must be positive and finite, got -0.2"),
        ({"seconds": [0.1, np.nan, 0.3]}, "row 1: seconds must be positive and finite, got nan"),
        ({"tokens": [1, 0, 3]}, "row 1: tokens must be at least 1, got 0"),
        ({"kv": [0, 0, -4]}, "row 2: kv must be at least 0, got -4"),
        ({"kv": [0, 0]}, "3 token counts but 2 values of kv"),
        ({"prefill": [0, 3, 0]}, "row 1: 3 prompt tokens do not go with 2 tokens"),
        ({"work": [0, 5.0, 0]}, "row 1: 0 prompt tokens do not go with 2 tokens and attention"),
        ({"tp": 0}, "tp must be at least 1 GPU, got 0"),
        ({"tokens": [], "seconds": []}, "profile: no rows"),
    ],
)
def test_impossible_profiles_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Profile(**(ROWS | change))  # type: ignore[arg-type]


def test_wrong_arguments_name_the_remedy() -> None:
    profile = Profile(**ROWS, missing=("LM head",))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="unknown form 'roofine'; did you mean 'roofline'"):
        calibrate(profile, "roofine")
    with pytest.raises(InputError, match="3 rows are too few to fit a roofline law"):
        calibrate(profile, "roofline")
    with pytest.raises(InputError, match="tile must be a whole number of tokens >= 1, got 0"):
        calibrate(profile, tile=0)
    with pytest.raises(InputError, match="does not lack 'LM haed'; did you mean 'LM head'"):
        profile.assuming({"LM haed": 1e-3})
    with pytest.raises(InputError, match="LM head must take a finite time >= 0"):
        profile.assuming({"LM head": -1e-3})


USE = "print(calibrate(Profile(tokens=[1, 64, 128, 256], seconds=[0.1, 0.2, 0.3, 0.5])).law.form)"


@pytest.mark.parametrize(
    "imports",
    [
        "from llmq import calibrate; import llmq.calibrate.fit",
        "import llmq.calibrate.fit; from llmq import calibrate",
        "import llmq.calibrate.profile, llmq; calibrate = llmq.calibrate",
    ],
)
def test_the_package_is_the_verb_whoever_imports_first(imports: str) -> None:
    code = f"{imports}; from llmq.calibrate.profile import Profile; {USE}"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (run.stdout, run.stderr) == ("affine\n", "")
