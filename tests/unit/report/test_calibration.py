"""The report of a calibration and its figures."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from llmq.calibrate._compose import draw_steps
from llmq.calibrate.fit import Fit, calibrate
from llmq.calibrate.profile import Profile
from llmq.cli import main
from llmq.errors import InputError
from llmq.model.time.batchtime import BatchTime
from llmq.plot import draw_residuals, draw_staircase
from llmq.report import calibration_report, write_calibration

LAW = BatchTime.roofline(
    floor=6e-3, base=1e-3, per_token=2e-5, tile=128, per_kv=4e-8, per_kv_mixed=8e-8, per_work=1e-9
)


@pytest.fixture(scope="module")
def profile() -> Profile:
    steps = draw_steps(900, rng=6)
    exact = LAW(steps.tokens, steps.kv, steps.work, mixed=steps.chunk > 0)
    return Profile(
        tokens=steps.tokens,
        kv=steps.kv,
        work=steps.work,
        prefill=steps.chunk,
        seconds=exact * np.random.default_rng(6).normal(1.0, 0.01, 900),
        scope="iteration",
        gpu="<b>G</b>",
        model="M & M",
        missing=("LM head",),
    )


@pytest.fixture(scope="module")
def fit(profile: Profile) -> Fit:
    return calibrate(profile, "roofline")


@pytest.fixture(scope="module")
def html(fit: Fit, profile: Profile) -> str:
    return calibration_report(fit, profile)


def test_the_page_says_what_to_trust(fit: Fit, profile: Profile, html: str) -> None:
    assert f"Good: {100 * fit.out_of_sample.mape:.1f} %" in html
    assert f"1 to {profile.tokens.max():,} tokens; more extrapolates." in html
    assert f"Up to {profile.kv.max():,} KV tokens read" in html
    assert "Every time is too short by what is not in it: LM head." in html
    assert "a tile of 128 tokens found" in html
    for name in ("floor", "per_token", "per_kv_mixed", "per_work"):
        assert re.search(rf'<th scope="row"[^>]*>{name}</th>', html)
    assert html.count("<svg") == 4  # fit, staircase, residuals by tokens and by KV
    assert "<b>G" not in html
    assert "&lt;b&gt;G&lt;/b&gt;" in html
    assert not re.search(r"(src|href)=.(http|//)|<script(?! type=.application/json)", html)


def test_the_numbers_are_in_the_page_once_more(fit: Fit, html: str) -> None:
    found = json.loads(re.search(r'id="fit">(.*?)</script>', html)[1])  # type: ignore[index]
    assert found["out_of_sample"]["mape"] == fit.out_of_sample.mape
    assert found["law"]["per_kv"] == fit.law.per_kv
    assert "residuals" not in found


def test_errors_by_group_are_those_of_the_rows(fit: Fit, profile: Profile, html: str) -> None:
    error = fit.law(profile.tokens, profile.kv, profile.work, mixed=profile.mixed)
    error = error / profile.seconds - 1
    for name, rows in (
        ("decodes alone", ~profile.mixed),
        ("129 to 512 tokens", (profile.tokens > 128) & (profile.tokens <= 512)),
    ):
        cells = re.search(rf'<th scope="row"[^>]*>{name}</th>(.*?)</tr>', html)[1]  # type: ignore[index]
        numbers = re.findall(r">([-\d.,]+)(?: %)?</td>", cells)
        assert numbers[0] == str(rows.sum())
        assert numbers[1] == f"{100 * np.abs(error[rows]).mean():.1f}"
        assert numbers[2] == f"{100 * error[rows].mean():.1f}"


def test_layers_alone_have_no_kv_figure() -> None:
    n = np.arange(1, 200) * 8
    alone = Profile(tokens=n, seconds=0.01 + 1e-5 * n * np.where(n > 800, 1.6, 1.0))
    fit = calibrate(alone, "affine")
    html = calibration_report(fit, alone)
    assert html.count("<svg") == 3
    assert "the law is of the layers alone" in html
    with pytest.raises(InputError, match="the profile has no KV tokens"):
        draw_residuals(fit, alone, "kv")


def test_bad_fits_are_called_so() -> None:
    n = np.arange(1, 200) * 8
    wild = Profile(tokens=n, seconds=0.01 * (1 + 0.5 * (np.arange(199) % 3)))
    assert "Poor: " in calibration_report(calibrate(wild, "affine"), wild)


def test_the_same_bytes_twice(fit: Fit, profile: Profile, html: str, tmp_path: Path) -> None:
    write_calibration(fit, profile, tmp_path / "out.html")
    assert (tmp_path / "out.html").read_text(encoding="utf-8") == html
    with pytest.raises(InputError, match="there is no folder"):
        write_calibration(fit, profile, tmp_path / "none" / "out.html")


@pytest.mark.parametrize("against", ["tokens", "kv"])
def test_residuals_are_drawn_where_they_are(fit: Fit, profile: Profile, against: str) -> None:
    ax = draw_residuals(fit, profile, against)  # type: ignore[arg-type]
    crosses = [line for line in ax.lines if line.get_marker() == "x"]
    drawn = np.sort(np.concatenate([line.get_ydata() for line in crosses]))
    shown = (fit.residuals / profile.seconds)[::2]  # 900 rows, at most 800 crosses
    assert drawn == pytest.approx(np.sort(shown), rel=1e-12)
    mean = next(line for line in ax.lines if len(line.get_xdata()) == 12)
    assert np.mean(mean.get_ydata()) == pytest.approx((fit.residuals / profile.seconds).mean())
    with pytest.raises(InputError, match="against must be 'tokens' or 'kv'"):
        draw_residuals(fit, profile, "time")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="900 residuals but the profile has 2 rows"):
        draw_residuals(fit, profile.take(np.array([0, 1])))


def test_the_staircase_has_the_steps_of_the_law(fit: Fit, profile: Profile) -> None:
    ax = draw_staircase(fit, profile)
    line = next(one for one in ax.lines if len(one.get_xdata()) == 1024)
    rise = np.diff(line.get_ydata())
    assert np.flatnonzero(rise > 1e-6)[-3:].tolist() == [639, 767, 895]
    cross = next(one for one in ax.lines if one.get_marker() == "x")
    assert cross.get_xdata().max() <= 1024
    texts = [text.get_text() for text in ax.get_legend().get_texts()]
    assert "multiples of 128 tokens (detected tile)" in texts


def test_the_command_writes_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = "\n".join(f"{n},{0.006 + 1e-5 * n}" for n in range(1, 700, 8))
    (tmp_path / "own.csv").write_text(f"tokens,seconds\n{rows}\n")
    page = tmp_path / "out.html"
    assert main(["calibrate", str(tmp_path / "own.csv"), "--report", str(page)]) == 0
    out = capsys.readouterr()
    assert f"wrote {page}" in out.err
    assert "coefficient    base = 0.006" in out.out
    assert "<h1>Calibration</h1>" in page.read_text(encoding="utf-8")
    words = ["calibrate", str(tmp_path / "own.csv"), "--report", str(tmp_path / "no" / "x.html")]
    assert main(words) == 2
    toml = tmp_path / "e.toml"
    assert main(["calibrate", str(tmp_path / "own.csv"), "--out", str(toml)]) == 0
    beyond = "llmq: warning: a full engine extrapolates: 2,048 tokens, fitted up to 697"
    assert beyond in capsys.readouterr().err


def test_engines_can_be_filtered(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["engines", "H200"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 20
    assert all("/h200 (TP" in line for line in lines)
    assert main(["engines", "toaster"]) == 2
    assert "no engine of the catalogue contains 'toaster'" in capsys.readouterr().err
