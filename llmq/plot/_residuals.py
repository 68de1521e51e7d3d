"""Where a calibrated law errs: relative residuals, and the token staircase in detail."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from llmq._input.checked import checked
from llmq.errors import InputError
from llmq.plot._canvas import GREY, axes_for, colour, legend_below, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from llmq.calibrate.fit import Fit
    from llmq.calibrate.profile import Profile

__all__ = ["draw_residuals", "draw_staircase"]

Floats: TypeAlias = npt.NDArray[np.float64]

_MOST_CROSSES = 800
_BINS = 12
_STAIRS = 1024  # beyond, a tile is too small a share of the tokens to be seen
_BAND = 0.05


@checked
def draw_residuals(
    fit: Fit,
    profile: Profile,
    against: Literal["tokens", "kv"] = "tokens",
    *,
    ax: Axes | None = None,
) -> Axes:
    """Draw the relative error of a law over tokens or KV tokens.

    Parameters
    ----------
    fit : Fit
        Law and residuals.
    profile : Profile
        What it was fitted to.
    against : {"tokens", "kv"}
        The horizontal axis.
    ax : matplotlib axes, optional
        Where; a new figure if not given.

    Returns
    -------
    matplotlib axes
        Rows as crosses, decodes alone and iterations with prefill apart; the mean of each twelfth
        of the rows as a line, so that a bias shows.

    Raises
    ------
    InputError
        The profile is not the one that was fitted, or has no KV tokens to draw against.
    MissingDependencyError
        matplotlib is not installed.
    """
    x, error = _rows(fit, profile, against)
    mixed = profile.mixed
    with styled():
        ax = axes_for(ax)
        handles: list[Any] = [ax.axhspan(-_BAND, _BAND, color=GREY, alpha=0.12, linewidth=0)]
        labels = [f"within {100 * _BAND:g} %"]
        step = -(-len(profile) // _MOST_CROSSES)
        shown = np.arange(len(profile)) % step == 0
        for i, (rows, words) in enumerate(((~mixed, "decodes alone"), (mixed, "with prefill"))):
            if (rows & shown).any():
                (cross,) = ax.plot(
                    x[rows & shown],
                    error[rows & shown],
                    color=colour(i + 1),
                    marker="x",
                    markersize=3,
                    linestyle="",
                    zorder=2,
                )
                handles.append(cross)
                labels.append(words)
        (line,) = ax.plot(*_means(x, error), color=colour(0), marker="", zorder=3)
        ax.axhline(0.0, color=GREY, linewidth=0.7, zorder=1)
        ax.set_xscale("symlog", linthresh=max(1.0, float(np.quantile(x, 0.05))))
        ax.set_xlim(left=max(0.0, 0.9 * float(x.min())))
        ax.set_xlabel("tokens in the iteration" if against == "tokens" else "KV tokens read")
        ax.set_ylabel("fitted / measured - 1")
        legend_below(ax, [*handles, line], [*labels, "mean of each twelfth of the rows"])
    return ax


@checked
def draw_staircase(fit: Fit, profile: Profile, *, ax: Axes | None = None) -> Axes:
    """Draw the token part of the iteration time between 1 and 1024 tokens.

    Parameters
    ----------
    fit : Fit
        Law, residuals and tile.
    profile : Profile
        What it was fitted to.
    ax : matplotlib axes, optional
        Where; a new figure if not given.

    Returns
    -------
    matplotlib axes
        Measured rows, less what the law charges for attention, as crosses; the law as a line; the
        edges of the detected tile, or of 128 tokens where none was found, as dotted lines.

    Raises
    ------
    InputError
        The profile is not the one that was fitted.
    MissingDependencyError
        matplotlib is not installed.
    """
    _rows(fit, profile, "tokens")
    most = min(_STAIRS, int(profile.tokens.max()))
    near = np.flatnonzero(profile.tokens <= most)
    near = near[:: -(-len(near) // _MOST_CROSSES)]
    tile = fit.tile if fit.tile > 1 else 128
    grid = np.arange(1, most + 1)
    with styled():
        ax = axes_for(ax)
        seconds = fit.law.curve(profile.tokens[near]) - fit.residuals[near]
        (cross,) = ax.plot(
            profile.tokens[near],
            seconds,
            color=colour(1),
            marker="x",
            markersize=3,
            linestyle="",
            zorder=2,
        )
        (line,) = ax.plot(grid, fit.law.curve(grid), color=colour(0), marker="", zorder=3)
        handles, labels = [cross, line], ["measured less attention", f"fitted law: {fit.form}"]
        for edge in range(tile, most + 1, tile):
            handles[2:] = [ax.axvline(edge, color=GREY, linestyle=":", linewidth=0.7, zorder=1)]
        if len(handles) > 2:
            found = "detected tile" if fit.tile > 1 else "no tile detected"
            labels.append(f"multiples of {tile} tokens ({found})")
        ax.set_xlim(0, 1.02 * most)
        ax.set_ylim(bottom=0)
        ax.set_xlabel("tokens in the iteration")
        ax.set_ylabel("iteration time (s)")
        legend_below(ax, handles, labels)
    return ax


def _rows(fit: Fit, profile: Profile, against: str) -> tuple[Floats, Floats]:
    if len(profile) != len(fit.residuals):
        raise InputError(
            f"the fit has {len(fit.residuals)} residuals but the profile has {len(profile)} rows: "
            "pass the profile that was calibrated"
        )
    if against not in ("tokens", "kv"):
        raise InputError(f"against must be 'tokens' or 'kv', got {against!r}", value=against)
    x = profile.tokens if against == "tokens" else profile.kv
    if not x.any():
        raise InputError("the profile has no KV tokens: it is of the layers alone")
    return x.astype(np.float64), fit.residuals / profile.seconds


def _means(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    order = np.argsort(x, kind="stable")
    parts = np.array_split(order, min(_BINS, len(order)))
    return np.array([x[p].mean() for p in parts]), np.array([y[p].mean() for p in parts])
