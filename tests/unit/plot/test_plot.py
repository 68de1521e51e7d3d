"""Figures: drawn values equal the results, bytes stay, names from input stay text."""

from __future__ import annotations

import dataclasses
import math
import re
import sys
import xml.etree.ElementTree as ET

import matplotlib as mpl
import numpy as np
import pytest

from llmq.calibrate.fit import calibrate
from llmq.calibrate.profile import Profile
from llmq.errors import InputError, MissingDependencyError
from llmq.model.engine import Engine
from llmq.model.request import RequestClass
from llmq.model.slo import SLO
from llmq.model.time.batchtime import BatchTime
from llmq.model.workload import Workload
from llmq.planning.capacity import Candidate, Plan, plan_capacity
from llmq.plot import draw_attainment, draw_fit, draw_latency, draw_region, styled, svg
from llmq.plot._canvas import axes_for, label, legend_below, nines_scale
from llmq.plot._region import _edges, cut
from llmq.policies import Sarathi
from llmq.theory.linear._polytope import corner_points
from llmq.theory.region import stability_region

MIX = {
    "chat": RequestClass(512, 128),
    "code": RequestClass(2048, 256),
    "rag": RequestClass(4096, 32),
}
CHIP = Engine(
    BatchTime.affine(base=0.01, per_token=1e-4, per_kv=1e-7),
    max_seqs=64,
    kv_tokens=60_000,
    name="chip",
)
FREE = Engine(BatchTime.affine(base=0.01, per_token=1e-4), token_budget=100, name="free")


@pytest.fixture(scope="module")
def plan() -> Plan:
    work = Workload.poisson({"chat": 30.0, "code": 3.0}, {n: MIX[n] for n in ("chat", "code")})
    slow = CHIP.with_(law=CHIP.law.scaled(1.7), name="slow")
    hopeless = CHIP.with_(law=CHIP.law.scaled(30), name="hopeless")
    offers = [Candidate(engine, Sarathi()) for engine in (CHIP, slow, hopeless)]
    slo = SLO(ttft=1.0, tpot=0.2, quantile=0.9)
    return plan_capacity(work, slo, offers, requests=300, replications=4, rng=1)


def legend_texts(ax) -> list[str]:
    return [text.get_text() for text in ax.get_legend().get_texts()]


# Region -----------------------------------------------------------------------------------------


def test_slice_of_the_outer_bound_has_load_one_and_its_corners_are_the_exact_ones() -> None:
    mix = {name: MIX[name] for name in ("chat", "code")}
    region = stability_region(CHIP, mix)
    found = cut(region)
    exact = np.array(
        [[float(x) for x in p] for p in corner_points([f.exact for f in region.active])]
    )
    assert found.outer == pytest.approx(exact, rel=1e-12)
    for point in found.outer:
        assert region.load(dict(zip(mix, point, strict=True))) == pytest.approx(1.0, rel=1e-12)


def test_edges_of_random_facets_are_the_exact_corners() -> None:
    rng = np.random.default_rng(5)
    from fractions import Fraction

    several = 0
    for _ in range(200):
        rows = rng.integers(1, 30, size=(rng.integers(1, 8), 2))
        corners, binding = _edges(rows / 60.0)
        exact = corner_points([tuple(Fraction(int(x), 60) for x in row) for row in rows])
        assert corners == pytest.approx(np.array(exact, dtype=float), rel=1e-9)
        several += len(binding) > 2
        for middle, i in zip((corners[1:] + corners[:-1]) / 2, binding, strict=True):
            assert (rows @ middle)[i] == pytest.approx((rows @ middle).max(), rel=1e-12)
    assert several > 5


def test_inner_boundary_has_inner_load_one_or_lies_on_the_outer_one() -> None:
    mix = {name: MIX[name] for name in ("chat", "code")}
    region = stability_region(CHIP, mix)
    inside = 0
    found = cut(region)
    for point in found.inner:
        low, high = region.load_bracket(dict(zip(mix, point, strict=True)))
        assert low <= 1 + 1e-9
        assert high <= 1 + 1e-9
        assert max(low, high) == pytest.approx(1.0, abs=1e-3)
        inside += low < 0.999
    assert inside > 0


def test_classes_that_are_not_shown_take_their_share_first() -> None:
    region = stability_region(CHIP, MIX)
    found = cut(region, {"rag": 0.5, "chat": 1.0}, classes=("chat", "code"))
    assert found.held == {"rag": 0.5}
    for x, y in found.outer:
        assert region.load({"chat": x, "code": y, "rag": 0.5}) == pytest.approx(1.0, rel=1e-12)


def test_the_two_classes_with_most_of_the_load_are_shown() -> None:
    region = stability_region(CHIP, MIX)
    assert cut(region, {"chat": 0.01, "code": 1.0, "rag": 1.0}).classes == ("code", "rag")
    assert cut(region).classes == ("chat", "code")


def test_other_classes_that_use_everything_leave_an_empty_slice() -> None:
    region = stability_region(CHIP, MIX)
    rates = {"rag": 1000.0, "chat": 1.0, "code": 0}
    assert len(cut(region, rates, classes=("chat", "code")).outer) == 0
    ax = draw_region(region, rates, classes=("chat", "code"))
    assert "use the whole capacity" in ax.texts[0].get_text()
    svg(ax.figure)


def test_an_engine_without_limits_has_no_gap() -> None:
    region = stability_region(FREE, {"a": RequestClass(50, 1), "b": RequestClass(150, 1)})
    ax = draw_region(region, {"a": 20.0, "b": 5.0})
    assert legend_texts(ax) == [
        "can be served",
        "boundary: the token budget binds",
        "offered: load 0.35, margin 2.86",
    ]


def test_one_class_is_a_bar_up_to_the_boundary() -> None:
    region = stability_region(CHIP, {"chat": MIX["chat"]})
    ax = draw_region(region, {"chat": 3.0})
    bars = [p for p in ax.patches if p.get_height() == 0.5]
    assert bars[-1].get_x() + bars[-1].get_width() == pytest.approx(
        region.boundary({"chat": 1})["chat"]
    )
    assert ax.get_xlabel() == "chat (requests/s)"


@pytest.mark.parametrize("classes", [("chat", "chat"), (), ("chat", "code", "rag")])
def test_a_slice_has_one_or_two_classes(classes: tuple[str, ...]) -> None:
    with pytest.raises(InputError, match="one or two different classes"):
        draw_region(stability_region(CHIP, MIX), classes=classes)


def test_unknown_class_names_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean 'code'"):
        draw_region(stability_region(CHIP, MIX), classes=("cod",))
    with pytest.raises(InputError, match="did you mean 'code'"):
        draw_region(stability_region(CHIP, MIX), {"cod": 1.0})


# Plan -------------------------------------------------------------------------------------------


def test_attainment_shows_every_probe_with_its_interval(plan: Plan) -> None:
    ax = draw_attainment(plan.candidates, plan.target)
    simulated = [one for one in plan.candidates if one.probes]
    assert len(simulated) == 2
    for bars, one in zip(ax.containers, simulated, strict=True):
        points, _, (lines,) = bars
        assert points.get_xdata().tolist() == [probe.gpus for probe in one.probes]
        assert points.get_ydata().tolist() == [probe.attainment.value for probe in one.probes]
        for (low, high), probe in zip(lines.get_segments(), one.probes, strict=True):
            assert low[1] == pytest.approx(probe.attainment.low)
            assert high[1] == pytest.approx(probe.attainment.high)
    bounds = [line.get_xdata()[0] for line in ax.lines if line.get_linestyle() == "--"]
    assert [one.gpus_lower_bound for one in plan.candidates] == bounds[:3]
    assert legend_texts(ax)[2] == "hopeless with sarathi (not simulated)"


def test_candidates_differ_by_colour_and_by_marker(plan: Plan) -> None:
    ax = draw_attainment(plan.candidates, plan.target)
    handles = ax.get_legend().legend_handles[:3]
    looks = [
        (line.get_color(), line.get_marker())
        for line in (*(bars[0] for bars in ax.containers), handles[2])
    ]
    assert len({colour for colour, _ in looks}) == len({marker for _, marker in looks}) == 3


def test_attainment_without_any_simulated_count(plan: Plan) -> None:
    ax = draw_attainment(plan.candidates[2], plan.target)
    assert "answer" not in legend_texts(ax)
    svg(ax.figure)


def test_latency_shows_the_quantiles_and_the_target(plan: Plan) -> None:
    assert plan.chosen is not None
    ax = draw_latency(plan.chosen, "tpot", limit=0.2, target=0.9)
    curve = plan.chosen.curves["tpot"]
    points, _, (lines,) = ax.containers[0]
    assert points.get_xdata().tolist() == [at.mean for _, at in curve]
    assert points.get_ydata().tolist() == [q for q, _ in curve]
    for (low, high), (_, at) in zip(lines.get_segments(), curve, strict=True):
        half = at.half_width if math.isfinite(at.half_width) else 0.0
        assert low[0] == pytest.approx(max(0.0, at.mean - half))
        assert high[0] == pytest.approx(at.mean + half)
    assert [0.2, 0.2] in [list(line.get_xdata()) for line in ax.lines]
    assert ax.get_xlabel() == "time per output token, TPOT (s)"


def test_latency_without_an_interval_or_a_finite_value_is_drawn_without_bars(plan: Plan) -> None:
    assert plan.chosen is not None
    curve = plan.chosen.curves["ttft"]
    wide = tuple((q, dataclasses.replace(at, half_width=math.inf)) for q, at in curve)
    broken = ((0.01, dataclasses.replace(wide[0][1], mean=math.nan)), *wide)
    ax = draw_latency(dataclasses.replace(plan.chosen, curves={"ttft": broken}), "ttft")
    points, _, (lines,) = ax.containers[0]
    assert len(points.get_xdata()) == len(wide)
    assert all(low[0] == high[0] for low, high in lines.get_segments())
    svg(ax.figure)


def test_latency_says_why_there_is_none(plan: Plan) -> None:
    with pytest.raises(InputError, match="hopeless with sarathi has no TTFT to draw: no number"):
        draw_latency(plan.candidates[2], "ttft")
    with pytest.raises(InputError, match="no latency 'ttfd'; did you mean 'ttft'"):
        draw_latency(plan.candidates[0], "ttfd")


@pytest.mark.parametrize("target", [0.0, 1.0, math.nan])
def test_target_is_a_share(plan: Plan, target: float) -> None:
    with pytest.raises(InputError, match="between 0 and 1"):
        draw_attainment(plan.candidates, target)
    with pytest.raises(InputError, match="at least one candidate"):
        draw_attainment([], 0.9)


@pytest.mark.parametrize(
    ("target", "least"), [(0.99, 0.2), (0.9, 0.89), (0.5, 0.0), (0.999, 0.999)]
)
def test_scale_of_nines_is_monotone_and_its_ticks_keep_apart(target: float, least: float) -> None:
    with styled():
        ax = axes_for(None)
        nines_scale(ax, target, least)
    shares = np.linspace(0, 1, 201)
    place = ax.yaxis.get_transform()
    assert np.all(np.diff(place.transform(shares)) > 0)
    assert place.inverted().transform(place.transform(shares)) == pytest.approx(shares, abs=1e-12)
    ticks = np.sort(ax.get_yticks())
    assert {1.0, target} <= set(ticks)
    assert ticks[0] <= least
    height = np.ptp(place.transform(np.array(ax.get_ylim())))
    assert np.diff(place.transform(ticks)).min() > 0.03 * height


# Fit --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def measured() -> Profile:
    law = BatchTime.roofline(floor=0.006, base=0.001, per_token=2e-5, tile=128)
    n = np.arange(8, 2048, 8)
    noise = 1 + 0.01 * np.random.default_rng(3).standard_normal(len(n))
    return Profile(tokens=n, seconds=law(n) * noise, model="<b>m</b>")


def test_fit_shows_every_step_of_the_law_and_the_measured_rows(measured: Profile) -> None:
    fit = calibrate(measured, "roofline")
    ax = draw_fit(fit, measured)
    line = next(line for line in ax.lines if line.get_linestyle() == "-")
    steps = dict(zip(line.get_xdata().tolist(), line.get_ydata().tolist(), strict=True))
    for edge in range(384, 2000, 128):
        assert steps[edge + 1] - steps[edge] == pytest.approx(128 * fit.law.per_token, rel=1e-9)
    cross = next(line for line in ax.lines if line.get_marker() == "x")
    assert cross.get_xdata().tolist() == measured.tokens.tolist()
    assert cross.get_ydata() == pytest.approx(measured.seconds, rel=1e-12)
    assert "edges of tiles of 128 tokens" in legend_texts(ax)


def test_fit_without_its_profile_is_the_law_alone(measured: Profile) -> None:
    fit = calibrate(measured, "roofline")
    assert not [line for line in draw_fit(fit).lines if line.get_marker() == "x"]
    assert draw_fit(fit, maximum=512).get_xlim() == (0, pytest.approx(1.02 * 512))
    with pytest.raises(InputError, match="255 residuals but the profile has 2 rows"):
        draw_fit(fit, measured.take(np.array([0, 1])))


# All figures ------------------------------------------------------------------------------------


def figures(plan: Plan, measured: Profile) -> dict[str, object]:
    assert plan.chosen is not None
    return {
        "region": draw_region(plan.regions[0], plan.rates),
        "attainment": draw_attainment(plan.candidates, plan.target),
        "latency": draw_latency(plan.chosen, "ttft", limit=1.0, target=0.9),
        "fit": draw_fit(calibrate(measured, "roofline"), measured),
    }


def test_svg_is_the_same_bytes_for_the_same_content(plan: Plan, measured: Profile) -> None:
    first, second = figures(plan, measured), figures(plan, measured)
    for name, ax in first.items():
        text = svg(ax.figure)
        assert text == svg(ax.figure), name
        assert text == svg(second[name].figure), name
    assert svg(first["region"].figure) != svg(first["fit"].figure)


def test_svg_fetches_nothing_and_runs_nothing(plan: Plan, measured: Profile) -> None:
    for ax in figures(plan, measured).values():
        text = svg(ax.figure)
        assert text.startswith("<svg")
        spaces = {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
        assert set(re.findall(r"https?://[^\"<\s]*", text)) == spaces
        root = ET.fromstring(text)
        kinds = {element.tag.split("}")[1] for element in root.iter()}
        assert kinds <= {
            "svg",
            "defs",
            "style",
            "g",
            "path",
            "use",
            "text",
            "clipPath",
            "rect",
            "pattern",
        }
        for element in root.iter():
            for key, value in element.attrib.items():
                assert not key.endswith("href") or value.startswith("#")
                assert not key.startswith("on")


def test_axes_carry_units_and_the_legend_lies_below_the_data(plan: Plan, measured: Profile) -> None:
    for name, ax in figures(plan, measured).items():
        for text in (ax.get_xlabel(), ax.get_ylabel()):
            assert re.search(r"\((s|%|requests/s)\)|GPUs|tokens", text), (name, text)
        ax.figure.draw_without_rendering()
        legend = ax.get_legend().get_window_extent()
        label_box = ax.xaxis.label.get_window_extent()
        assert legend.y1 <= label_box.y0 + 1, name
        assert legend.y0 >= 0, name
        assert legend.x1 <= ax.figure.bbox.x1, name


def test_given_axes_are_used_and_settings_stay(plan: Plan, measured: Profile) -> None:
    from matplotlib.figure import Figure

    before = dict(mpl.rcParams)
    axes = Figure().subplots(4)
    assert draw_region(plan.regions[0], ax=axes[0]) is axes[0]
    assert draw_attainment(plan.candidates, 0.9, ax=axes[1]) is axes[1]
    assert draw_latency(plan.candidates[0], "ttft", ax=axes[2]) is axes[2]
    assert draw_fit(calibrate(measured, "affine"), ax=axes[3]) is axes[3]
    assert dict(mpl.rcParams) == before
    assert (
        "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()
    )


HOSTILE = [
    "<script>alert(1)</script>",
    "$\\frac{1",
    "_hidden",
    "a\x00\nb",
    "\ud800",
    "名前",
    "x" * 300,
]


@pytest.mark.parametrize("name", HOSTILE)
def test_names_from_input_stay_text(name: str) -> None:
    mix = {name: MIX["chat"], "code": MIX["code"]}
    region = stability_region(CHIP, mix)
    text = svg(draw_region(region, {name: 1.0, "code": 0.5}).figure)
    shown = {element.text for element in ET.fromstring(text).iter() if element.text}
    assert f"{label(name)} (requests/s)" in shown
    assert "<script" not in text
    one = svg(draw_region(region, {name: 1.0, "code": 0.5}, classes=("code",)).figure)
    assert "<script" not in one


def test_names_in_the_legend_stay_text(plan: Plan) -> None:
    for name in HOSTILE:
        one = plan.candidates[0]
        renamed = dataclasses.replace(one, candidate=dataclasses.replace(one.candidate, name=name))
        text = svg(draw_attainment([renamed], 0.9).figure)
        shown = {element.text for element in ET.fromstring(text).iter() if element.text}
        assert label(renamed.candidate.label, 60) in shown


def test_without_matplotlib_the_message_says_what_to_install(monkeypatch) -> None:
    region = stability_region(CHIP, MIX)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingDependencyError, match="pip install matplotlib"):
        draw_region(region)


def test_legend_shares_rows_between_short_entries_only() -> None:
    with styled():
        ax = axes_for(None)
        (line,) = ax.plot([0, 1], [0, 1])
        legend_below(ax, [line, line], ["one", "two"])
        assert ax.get_legend()._ncols == 2
        legend_below(ax, [line, line], ["one", "t" * 40])
        assert ax.get_legend()._ncols == 1
