"""A calibrated law beside the iterations it was fitted to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from llmq._input.checked import checked
from llmq._input.renamed import renamed
from llmq.errors import InputError
from llmq.plot._canvas import GREY, axes_for, colour, label, legend_below, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from llmq.calibrate.fit import Fit
    from llmq.calibrate.profile import Profile

__all__ = ["draw_fit"]

Floats: TypeAlias = npt.NDArray[np.float64]

_MOST_CROSSES = 600
_MOST_TILES = 64
_WITHOUT_DATA = 2048  # vLLM's default token budget


@renamed(most="maximum")
@checked
def draw_fit(
    fit: Fit,
    profile: Profile | None = None,
    *,
    ax: Axes | None = None,
    maximum: int | None = None,
) -> Axes:
    """Draw the time of an iteration against its tokens.

    Parameters
    ----------
    fit : Fit
        Law and residuals.
    profile : Profile, optional
        What it was fitted to; the law alone if not given.
    ax : matplotlib axes, optional
        Where; a new figure if not given.
    maximum : int, optional
        Tokens at the right end; the largest count of the profile if not given.

    Returns
    -------
    matplotlib axes
        The token part of the law as a line, with every step of its tiles; measured rows as
        crosses, less what the law charges for attention, so that they lie on the line where it is
        right. Edges of the detected tile as dotted lines where there is room for them.

    Raises
    ------
    InputError
        The profile is not the one that was fitted: it has another number of rows.
    MissingDependencyError
        matplotlib is not installed.
    """
    if profile is not None and len(profile) != len(fit.residuals):
        raise InputError(
            f"the fit has {len(fit.residuals)} residuals but the profile has {len(profile)} rows: "
            "pass the profile that was calibrated"
        )
    most = _span(fit, profile) if maximum is None else maximum
    with styled():
        ax = axes_for(ax)
        handles, labels = _draw_law(ax, fit, most)
        if profile is not None:
            cross, words = _draw_rows(ax, fit, profile)
            handles.append(cross)
            labels.append(words)
        ax.set_xlim(0, 1.02 * most)
        ax.set_ylim(bottom=0)
        ax.set_xlabel("tokens in the iteration")
        ax.set_ylabel("iteration time (s)")
        legend_below(ax, handles, labels)
    return ax


def _span(fit: Fit, profile: Profile | None) -> int:
    if profile is not None:
        return int(profile.tokens.max())
    return fit.law.tokens[-1] if fit.law.tokens else _WITHOUT_DATA


def _draw_law(ax: Axes, fit: Fit, most: int) -> tuple[list[Any], list[str]]:
    tile = max(fit.law.tile, 1)
    edges = np.arange(tile, most + 1, tile) if tile > 1 else np.array([], dtype=np.int64)
    grid = np.linspace(1, most, 400).round().astype(np.int64)
    grid = np.unique(np.concatenate((grid, edges, edges + 1, fit.law.tokens)).astype(np.int64))
    grid = grid[grid <= most]
    (line,) = ax.plot(grid, fit.law.curve(grid), color=colour(0), marker="", zorder=3)
    handles, labels = [line], [f"fitted law: {fit.form}"]
    if fit.tile > 1 and most // fit.tile <= _MOST_TILES:
        for edge in range(fit.tile, most + 1, fit.tile):
            last = ax.axvline(edge, color=GREY, linestyle=":", linewidth=0.7, zorder=1)
        handles.append(last)
        labels.append(f"edges of tiles of {fit.tile} tokens")
    return handles, labels


def _draw_rows(ax: Axes, fit: Fit, profile: Profile) -> tuple[Any, str]:
    step = -(-len(profile) // _MOST_CROSSES)
    rows = slice(None, None, step)
    tokens = profile.tokens[rows]
    time: Floats = fit.law.curve(tokens) - fit.residuals[rows]
    (cross,) = ax.plot(
        tokens, time, color=colour(1), marker="x", markersize=3.5, linestyle="", zorder=2
    )
    words = "measured" + (" less attention" if profile.kv.any() or profile.work.any() else "")
    words += f", every {step}th row" if step > 1 else ""
    what = " ".join(filter(None, (fit.model, fit.gpu)))
    return cross, f"{words} ({label(what, 40)})" if what else words
