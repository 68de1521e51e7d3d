"""A capacity plan: attainment against GPUs, and the latencies at the answer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from llmq._input.checked import checked
from llmq.errors import InputError, nearest
from llmq.plot._canvas import (
    GREY,
    INK,
    axes_for,
    colour,
    label,
    legend_below,
    logit_scale,
    nines_scale,
    seconds_scale,
    styled,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from llmq.planning.plans import CandidatePlan
    from llmq.result import Estimate

__all__ = ["draw_attainment", "draw_latency"]

Floats: TypeAlias = npt.NDArray[np.float64]

_LONG = {"ttft": "time to first token, TTFT", "tpot": "time per output token, TPOT"}


@checked
def draw_attainment(
    plans: CandidatePlan | Sequence[CandidatePlan],
    target: float,
    *,
    ax: Axes | None = None,
) -> Axes:
    """Draw the share of requests within the targets against the number of GPUs.

    Parameters
    ----------
    plans : CandidatePlan or sequence of CandidatePlan
        What was simulated.
    target : float
        Share that is asked for.
    ax : matplotlib axes, optional
        Where; a new figure if not given.

    Returns
    -------
    matplotlib axes
        Points with 95 % intervals on a scale of nines, the lower bound of each candidate at its
        settings as a dashed line, that of the hardware as a dotted one where it is smaller, the
        target as a full one, and a ring round each answer.

    Raises
    ------
    InputError
        No candidate, or a target outside (0, 1).
    MissingDependencyError
        matplotlib is not installed.
    """
    many = list(plans) if isinstance(plans, Sequence) else [plans]
    if not many:
        raise InputError("draw_attainment needs at least one candidate")
    if not 0 < target < 1:
        raise InputError(f"target must lie between 0 and 1, got {target}", value=target)
    with styled():
        from matplotlib.lines import Line2D

        ax = axes_for(ax, height=3.6 + 0.17 * len(many))
        handles: list[Any] = [_draw_probes(ax, one, i) for i, one in enumerate(many)]
        labels = [_named(one) for one in many]
        goal = ax.axhline(target, color=INK, linewidth=1.2, zorder=1)
        handles += [
            goal,
            Line2D([], [], color=GREY, linestyle="--", marker=""),
            Line2D([], [], color=GREY, linestyle=":", marker=""),
        ]
        labels += [
            f"target {100 * target:g} %",
            "lower bound at these settings",
            "lower bound of the hardware",
        ]
        if any(one.gpus for one in many):
            handles.append(Line2D([], [], **_ring(GREY)))
            labels.append("answer")
        lows = [probe.attainment.low for one in many for probe in one.probes]
        nines_scale(ax, target, min(lows, default=target))
        _gpu_axis(ax, many)
        ax.set_ylabel("requests within targets (%)")
        legend_below(ax, handles, labels)
    return ax


def _named(one: CandidatePlan) -> str:
    return label(one.candidate.label, 60) + ("" if one.probes else " (not simulated)")


def _ring(paint: str) -> dict[str, Any]:
    return {
        "marker": "o",
        "markersize": 11,
        "markerfacecolor": "none",
        "markeredgecolor": paint,
        "markeredgewidth": 1.3,
        "linestyle": "",
        "clip_on": False,
        "zorder": 4,
    }


def _draw_probes(ax: Axes, one: CandidatePlan, i: int) -> Any:
    from matplotlib import rcParams
    from matplotlib.lines import Line2D

    markers = rcParams["axes.prop_cycle"].by_key()["marker"]
    paint, marker = colour(i), markers[i % len(markers)]
    ax.axvline(one.gpus_lower_bound, color=paint, linestyle="--", linewidth=1.0, zorder=1)
    if one.hardware_lower_bound < one.gpus_lower_bound:
        ax.axvline(one.hardware_lower_bound, color=paint, linestyle=":", linewidth=1.3, zorder=1)
    if not one.probes:
        # Empty points would count as lying in the corner of the figure and bend the layout.
        return Line2D([], [], color=paint, marker=marker, linestyle="")
    x = np.array([probe.gpus for probe in one.probes], dtype=np.float64)
    shares = [probe.attainment for probe in one.probes]
    y = np.array([share.value for share in shares])
    ends = [[s.value - s.low for s in shares], [s.high - s.value for s in shares]]
    bars = ax.errorbar(
        x, y, yerr=np.maximum(ends, 0.0), color=paint, marker=marker, linestyle="", zorder=3
    )
    for artist in bars.get_children():
        artist.set_clip_on(False)
    for gpus, value in zip(x, y, strict=True):
        if gpus == one.gpus:
            ax.plot([gpus], [value], **_ring(paint))
    return bars


def _gpu_axis(ax: Axes, many: Sequence[CandidatePlan]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    counts = [n for one in many for n in (one.gpus_lower_bound, one.hardware_lower_bound)]
    counts += [probe.gpus for one in many for probe in one.probes]
    low, high = min(counts), max(counts)
    ax.set_xlabel("GPUs")
    if high > 12 * low:
        ax.set_xscale("log")
        ax.set_xlim(low / 1.3, high * 1.3)
        ax.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 3.0, 5.0)))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.xaxis.set_major_formatter(FuncFormatter(lambda gpus, _: f"{gpus:,.0f}"))
    else:
        pad = max(1.0, 0.08 * (high - low))
        ax.set_xlim(max(0.0, low - pad), high + pad)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


@checked
def draw_latency(
    plan: CandidatePlan,
    name: str,
    *,
    limit: float | None = None,
    target: float | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the distribution of a latency at the answer.

    Parameters
    ----------
    plan : CandidatePlan
        A candidate with an answer.
    name : {"ttft", "tpot"}
        Which latency.
    limit : float, optional
        Its target, seconds.
    target : float, optional
        Share of requests that must be within it.
    ax : matplotlib axes, optional
        Where; a new figure if not given.

    Returns
    -------
    matplotlib axes
        Share of requests against seconds: quantiles as points with 95 % intervals, the target as
        lines. The curve meets it if it passes above and to the left of where the lines cross.

    Raises
    ------
    InputError
        An unknown latency, or a candidate without an answer.
    MissingDependencyError
        matplotlib is not installed.
    """
    if name not in _LONG:
        raise InputError(f"no latency {name!r}{nearest(name, _LONG)}", value=name)
    points = [(q, at) for q, at in plan.curves.get(name, ()) if math.isfinite(at.mean)]
    if not points:
        raise InputError(
            f"{label(plan.candidate.label)} has no {name.upper()} to draw: {plan.reason}"
        )
    with styled():
        ax = axes_for(ax, height=3.3)
        handles, labels = _draw_quantiles(ax, points)
        times = [at.mean for _, at in points] + ([] if limit is None else [limit])
        seconds_scale(ax, min(times), max(*times, *(_ends(at)[1] for _, at in points)))
        if limit is not None:
            handles.append(ax.axvline(limit, color=INK, linewidth=1.2, zorder=1))
            share = "" if target is None else f" for {100 * target:g} %"
            labels.append(f"target: at most {limit:g} s{share}")
            if target is not None:
                ax.axhline(target, color=INK, linewidth=1.2, zorder=1)
        logit_scale(ax, points[0][0], max(target or 0.0, points[-1][0]))
        ax.set_xlabel(f"{_LONG[name]} (s)")
        ax.set_ylabel("requests at or below (%)")
        legend_below(ax, handles, labels)
    return ax


def _ends(at: Estimate) -> tuple[float, float]:
    """Return the ends of the interval; the point itself where the sample is too small for one."""
    return (max(0.0, at.low), at.high) if math.isfinite(at.half_width) else (at.mean, at.mean)


def _draw_quantiles(
    ax: Axes, points: Sequence[tuple[float, Estimate]]
) -> tuple[list[Any], list[str]]:
    q = np.array([q for q, _ in points])
    mean = np.array([at.mean for _, at in points])
    ends: Floats = np.array([_ends(at) for _, at in points]).T
    ax.fill_betweenx(q, ends[0], ends[1], color=colour(0), alpha=0.18, linewidth=0, zorder=2)
    bars = ax.errorbar(
        mean,
        q,
        xerr=[mean - ends[0], ends[1] - mean],
        color=colour(0),
        marker="o",
        markersize=4,
        linestyle="-",
        linewidth=0.8,
        elinewidth=1.2,
        zorder=3,
    )
    n = points[0][1].observations
    return [bars], [f"simulated quantiles, 95 % intervals ({n:,} requests)"]
