r"""What all figures share: style, axes, labels, legends outside the data, and bytes that stay.

Shares near 1 are drawn on a scale of nines, :math:`y = -\log_{10}(1 - p + \varepsilon)`, so that
99 % and 99.9 % lie as far apart as 0 and 90 %; ``eps``, a fortieth of the gap between target and
1, gives 100 % a place.

Names come from input: they are never read as mathematics, control characters become visible, and
long ones are cut.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from llmq._input.checked import checked
from llmq.errors import MissingDependencyError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "CONTROL",
    "GREY",
    "GRID",
    "INK",
    "axes_for",
    "colour",
    "label",
    "legend_below",
    "logit_scale",
    "nines_scale",
    "seconds_scale",
    "styled",
    "svg",
]

Floats: TypeAlias = npt.NDArray[np.float64]

STYLE = Path(__file__).with_name("style.mplstyle")
# The style's colours of text and of auxiliary lines; the report replaces them in dark pages.
INK, GREY, GRID = "#1f2328", "#6e7781", "#d8dee4"
_SHARES = (0.0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999, 0.9999)
_ODDS = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999, 0.9999)
# Characters that neither a figure nor a page can show.
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufffe\uffff]")


@contextmanager
def styled() -> Iterator[None]:
    """Draw in the style of llmq.

    Yields
    ------
    None
        Inside the ``with`` block matplotlib has the settings of ``llmq/plot/style.mplstyle``.

    Raises
    ------
    MissingDependencyError
        matplotlib is not installed.

    Examples
    --------
    >>> import matplotlib
    >>> with styled():
    ...     matplotlib.rcParams["svg.hashsalt"]
    'llmq'
    """
    try:
        import matplotlib as mpl
    except ImportError:
        raise MissingDependencyError(
            "figures need matplotlib, which is not installed: pip install matplotlib",
            package="matplotlib",
        ) from None
    with mpl.rc_context(fname=STYLE):
        yield


def axes_for(ax: Axes | None, *, height: float | None = None) -> Axes:
    """Return the axes to draw on: those given, or those of a new figure."""
    if ax is not None:
        return ax
    from matplotlib.figure import Figure

    figure = Figure(layout="constrained")
    if height is not None:
        figure.set_figheight(height)
    return figure.subplots()


def colour(i: int) -> str:
    """Return a colour of the style's cycle; call it inside :func:`styled`."""
    from matplotlib import rcParams

    known: list[str] = rcParams["axes.prop_cycle"].by_key()["color"]
    return f"#{known[i % len(known)].removeprefix('#')}"


def label(text: str, most: int = 44) -> str:
    r"""Return a name as it may stand in a figure.

    Examples
    --------
    >>> label("chat\n2"), label("a" * 50, most=9)
    ('chat�2', 'aaaa…aaaa')
    """
    clean = CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)
    if len(clean) > most:
        half = (most - 1) // 2
        clean = f"{clean[:half]}…{clean[-half:]}"
    return f" {clean}" if clean.startswith("_") else clean


def legend_below(
    ax: Axes, handles: Sequence[Any], labels: Sequence[str], *, title: str | None = None
) -> None:
    """Put the legend under the axis label, where it cannot cover data."""
    from matplotlib.transforms import ScaledTranslation

    figure: Any = ax.figure
    # A letter is about 0.075 inches wide, a handle with its gaps 0.55.
    wide = 2 * (0.075 * max(map(len, labels)) + 0.55)
    columns = 2 if wide <= figure.get_figwidth() else 1
    # 32 points hold the tick labels and the axis label, whatever the height of the axes.
    down = ax.transAxes + ScaledTranslation(0, -32 / 72, figure.dpi_scale_trans)
    found = ax.legend(
        handles,
        labels,
        title=title,
        loc="upper left",
        bbox_to_anchor=(0.0, 0.0),
        bbox_transform=down,
        borderaxespad=0.0,
        borderpad=0.2,
        alignment="left",
        ncols=columns,
        title_fontsize="small",
    )
    found.get_title().set_parse_math(False)


def nines_scale(axis_of: Axes, target: float, least: float) -> None:
    """Draw the shares of the y axis by their nines."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    eps = (1 - target) / 40

    def place(share: npt.ArrayLike) -> Floats:
        return -np.log10(1 - np.minimum(np.asarray(share, dtype=np.float64), 1) + eps)

    def share_at(y: npt.ArrayLike) -> Floats:
        return np.asarray(1 + eps - 10 ** -np.asarray(y, dtype=np.float64), dtype=np.float64)

    bottom = max(share for share in _SHARES if share < min(target, least) or share == 0)
    axis_of.set_yscale("function", functions=(place, share_at))
    axis_of.set_ylim(bottom, 1.0)
    axis_of.yaxis.set_major_locator(FixedLocator(_ticks(target, bottom, place)))
    axis_of.yaxis.set_minor_locator(NullLocator())
    axis_of.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.6g} %"))


def _ticks(target: float, bottom: float, place: Any) -> list[float]:
    """Return 100 %, the target, and the round shares that keep clear of them and each other."""
    low, high = float(place(bottom)), float(place(1.0))
    kept = [1.0, target, bottom]
    for share in reversed(_SHARES):
        apart = min(abs(float(place(share)) - float(place(other))) for other in kept)
        if share > bottom and apart > 0.055 * (high - low):
            kept.append(share)
    return kept


def logit_scale(axis_of: Axes, low: float, high: float) -> None:
    """Draw the probabilities of the y axis by their log odds: both tails keep room."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    axis_of.set_yscale("logit")
    axis_of.set_ylim(low / 1.25, 1 - (1 - high) / 1.5)
    axis_of.yaxis.set_major_locator(FixedLocator([q for q in _ODDS if low <= q <= high]))
    axis_of.yaxis.set_minor_locator(NullLocator())
    axis_of.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.6g} %"))


@checked
def svg(drawn: Axes | Figure) -> str:
    """Return a figure as SVG text that depends on its content only.

    Parameters
    ----------
    drawn : matplotlib axes or figure
        The figure, or axes of it.

    Returns
    -------
    str
        One ``<svg>`` element: no date, no program name, no script, nothing to be fetched; text
        stays text.

    Examples
    --------
    >>> with styled():
    ...     ax = axes_for(None)
    >>> svg(ax) == svg(ax)
    True
    """
    text = io.StringIO()
    figure: Any = drawn.get_figure(root=True)
    nothing: Any = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with styled(), warnings.catch_warnings():
        # The reader's fonts draw the text: a glyph that is missing here is no fault.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(text, format="svg", metadata=nothing)
    whole = text.getvalue()
    return whole[whole.index("<svg") :].rstrip() + "\n"


def seconds_scale(axis_of: Axes, low: float, high: float) -> None:
    """Scale the x axis for times: logarithmic where they span more than a factor of 12."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    if not high > 12 * low > 0:
        axis_of.set_xlim(0, 1.06 * high)
        return
    axis_of.set_xscale("log")
    axis_of.set_xlim(low / 1.15, high * 1.15)
    wide = math.log10(high / low) > 2.5
    axis_of.xaxis.set_major_locator(LogLocator(subs=(1.0,) if wide else (1.0, 2.0, 5.0)))
    axis_of.xaxis.set_minor_locator(NullLocator())
    axis_of.xaxis.set_major_formatter(FuncFormatter(lambda time, _: f"{time:g}"))
