r"""A stability region, cut along two of its classes or along one.

The slice of the outer bound is a polygon, what the other classes use taken off the capacity first;
its edges are the facets on the convex hull of their weights. The inner bound, a minimum over
schedules, has no such form; along each ray from the origin its load grows, so its end is found by
halving. Along the outer boundary the binding resource is named.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from llmq._input.checked import checked
from llmq.errors import InputError, nearest
from llmq.plot._canvas import GREY, INK, axes_for, colour, label, legend_below, styled
from llmq.result import Kind

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from llmq.theory.region._gauge import StabilityRegion

__all__ = ["Slice", "cut", "draw_region"]

Floats: TypeAlias = npt.NDArray[np.float64]
Rates: TypeAlias = Mapping[str, float]

_RAYS = 33
_INNER, _GAP = "inner bound: a known schedule serves it", "between the bounds: undecided"
_EXACT = "can be served"
# Number of the colour, dashes, words.
_LINES = {
    "compute": (0, "-", "compute binds"),
    "tokens": (1, "--", "the token budget binds"),
    "slots": (2, "-.", "the slots bind"),
    "memory": (3, ":", "KV memory binds"),
    "link": (4, (0, (5, 1, 1, 1, 1, 1)), "the link between pools binds"),
}


@checked(record=True)
@dataclass(frozen=True, slots=True)
class Slice:
    """A region along some of its classes, the others held."""

    classes: tuple[str, ...]  # one or two
    held: Mapping[str, float]  # rates of the other classes, requests per second
    # corners of the outer bound but the origin, requests per second, from the second axis to
    # the first; empty where the other classes alone use the whole capacity; shape (n_corners,
    # n_classes)
    outer: Floats
    # what binds on each edge between two corners (for one class: at its end)
    resources: tuple[str, ...]
    # points on the inner bound in the same order; empty where it holds nothing, equal to
    # ``outer`` where the region is exact; shape (n_points, n_classes)
    inner: Floats


@checked
def cut(
    region: StabilityRegion, rates: Rates | None = None, classes: Sequence[str] | None = None
) -> Slice:
    """Cut a region along one or two of its classes.

    Examples
    --------
    >>> from llmq.model.time.batchtime import BatchTime
    >>> from llmq.model.engine import Engine
    >>> from llmq.model.request import RequestClass
    >>> from llmq.theory.region import stability_region
    >>> engine = Engine(BatchTime.affine(base=0.01, per_token=1e-4), token_budget=100)
    >>> mix = {"a": RequestClass(50, 1), "b": RequestClass(150, 1)}
    >>> cut(stability_region(engine, mix)).outer
    array([[ 0.        , 33.33333333],
           [100.        ,  0.        ]])
    """
    at = dict.fromkeys(region.classes, 0.0) | dict(rates or {})
    region.load(at)  # names an unknown class or a bad rate
    shown = _shown(region, at, classes)
    held = {name: at.get(name, 0.0) for name in region.classes if name not in shown}
    columns = [region.classes.index(name) for name in shown]
    facets = region.facets()
    weights = np.array([facet.weights for facet in facets])
    others = weights @ np.array([held.get(name, 0.0) for name in region.classes])
    room = region.engines - others
    if not np.all(room > 0):
        nothing = np.zeros((0, len(shown)))
        return Slice(shown, held, nothing, (), nothing)
    rows = weights[:, columns] / room[:, None]
    outer, binding = _edges(rows)
    binds = tuple(facets[i].resource for i in binding)
    inner = outer if region.kind is Kind.EXACT else _inner(region, rows, shown, held)
    return Slice(shown, held, outer, binds, inner)


def _shown(region: StabilityRegion, at: Rates, classes: Sequence[str] | None) -> tuple[str, ...]:
    known = region.classes
    if classes is not None:
        for name in classes:
            if name not in known:
                raise InputError(f"no class {name!r}{nearest(str(name), known)}", value=name)
        if len(set(classes)) != len(classes) or len(classes) not in (1, 2):
            raise InputError(
                f"a slice has one or two different classes, got {', '.join(classes) or 'none'}"
            )
        return tuple(classes)
    prices = region.prices(at) if any(at.values()) else {}
    order = sorted(known, key=lambda name: -at.get(name, 0.0) * prices.get(name, 0.0))
    return tuple(name for name in known if name in order[:2])


def _edges(rows: Floats) -> tuple[Floats, list[int]]:
    """Corners of ``{p >= 0 : rows @ p <= 1}`` but the origin, and the row of each edge."""
    # A row ``(a, b)`` holds an edge exactly if it is on the upper right hull of all rows;
    # neighbours on the hull meet in a corner.
    if rows.shape[1] == 1:
        last = int(np.argmax(rows[:, 0]))
        return 1 / rows[[last]], [last]
    hull: list[int] = []
    for i in sorted(range(len(rows)), key=lambda i: (-rows[i, 1], -rows[i, 0])):
        if hull and rows[i, 0] <= rows[hull[-1], 0]:
            continue
        while len(hull) > 1 and _turns_left(rows[hull[-2]], rows[hull[-1]], rows[i]):
            hull.pop()
        hull.append(i)
    inside = [np.linalg.solve(rows[[i, j]], np.ones(2)) for i, j in itertools.pairwise(hull)]
    ends = ((0.0, 1 / rows[hull[0], 1]), (1 / rows[hull[-1], 0], 0.0))
    return np.array([ends[0], *inside, ends[1]]), hull


def _turns_left(one: Floats, two: Floats, three: Floats) -> bool:
    first, second = two - one, three - one
    return bool(first[0] * second[1] - first[1] * second[0] >= 0)


def _inner(region: StabilityRegion, rows: Floats, shown: tuple[str, ...], held: Rates) -> Floats:
    """End of the inner bound along rays that are even in angle once both axes have length 1."""
    ends = 1 / rows.max(axis=0)
    angles = np.linspace(math.pi / 2, 0, _RAYS) if len(shown) > 1 else np.zeros(1)
    found = []
    for angle in angles:
        direction = np.array([math.cos(angle), math.sin(angle)])[: len(shown)] * ends
        direction[np.abs(direction) < 1e-12 * ends] = 0.0
        end = float(1 / (rows @ direction).max())

        def excess(t: float, along: Floats = direction) -> float:
            here = {**held, **dict(zip(shown, (t * along).tolist(), strict=True))}
            return region.load_bracket(here)[1] - 1

        if excess(0.0) >= 0:
            return np.zeros((0, len(shown)))
        found.append(_root(excess, end) * direction)
    return np.array(found)


def _root(excess: Callable[[float], float], end: float) -> float:
    """Halve ``[0, end]`` until a point of a drawing could not tell; the lower end is inside."""
    if excess(end) <= 0:
        return end
    low, high = 0.0, end
    for _ in range(16):
        middle = (low + high) / 2
        low, high = (low, middle) if excess(middle) > 0 else (middle, high)
    return low


@checked
def draw_region(
    region: StabilityRegion,
    rates: Rates | None = None,
    *,
    ax: Axes | None = None,
    classes: Sequence[str] | None = None,
) -> Axes:
    """Draw which rates can be served.

    Parameters
    ----------
    region : StabilityRegion
        The region.
    rates : mapping of str to float, optional
        Offered requests per second: drawn as a star, with the way to the boundary.
    ax : matplotlib axes, optional
        Where; a new figure if not given.
    classes : sequence of str, optional
        One or two classes to show; the two with the largest share of the load if not given. The
        others are held at ``rates``, else at 0.

    Returns
    -------
    matplotlib axes
        Two classes: the outer bound as a line named after what binds, the inner bound as a shaded
        area. One class: a bar.

    Raises
    ------
    InputError
        An unknown class or a bad rate.
    MissingDependencyError
        matplotlib is not installed.
    """
    found = cut(region, rates, classes)
    with styled():
        plane = len(found.classes) == 2
        ax = axes_for(ax, height=None if plane else 2.0)
        (_draw_plane if plane else _draw_bar)(ax, region, found)
        handles, labels = ax.get_legend_handles_labels()
        if rates:
            star = _draw_offered(ax, region, rates, found)
            handles.append(star)
            load = region.load(rates)
            labels.append(f"offered: load {load:.3g}, margin {region.margin(rates):.3g}")
        _finish(ax, found, handles, labels, rates)
    return ax


def _draw_plane(ax: Axes, region: StabilityRegion, found: Slice) -> None:
    names = found.classes
    ax.set_xlabel(f"{label(names[0])} (requests/s)", parse_math=False)
    ax.set_ylabel(f"{label(names[1], 24)} (requests/s)", parse_math=False)
    if not len(found.outer):
        return
    origin = np.zeros((1, 2))
    if len(found.inner):
        what = _EXACT if region.kind is Kind.EXACT else _INNER
        corners = np.vstack((origin, found.inner))
        ax.fill(*corners.T, color=colour(5), alpha=0.3, linewidth=0, label=what)
    if region.kind is not Kind.EXACT:
        gap = np.vstack((found.outer, found.inner[::-1] if len(found.inner) else origin))
        ax.fill(
            *gap.T,
            facecolor="none",
            edgecolor=GREY,
            hatch="////",
            linewidth=0,
            alpha=0.7,
            label=_GAP,
        )
    named: set[str] = set()
    for start, stop, resource in zip(found.outer, found.outer[1:], found.resources, strict=False):
        number, dash, words = _LINES[resource]
        ends = np.array([start, stop]).T
        name = "_" if resource in named else f"{_limit(region)}: {words}"
        ax.plot(*ends, color=colour(number), linestyle=dash, marker="", linewidth=2.2, label=name)
        named.add(resource)


def _draw_bar(ax: Axes, region: StabilityRegion, found: Slice) -> None:
    ax.set_xlabel(f"{label(found.classes[0])} (requests/s)", parse_math=False)
    ax.set_yticks([])
    ax.set_ylim(-0.5, 0.5)
    ax.spines["left"].set_visible(False)
    if not len(found.outer):
        return
    end = float(found.outer[0, 0])
    inner = float(found.inner[0, 0]) if len(found.inner) else 0.0
    what = _EXACT if region.kind is Kind.EXACT else _INNER
    ax.barh(0, inner, height=0.5, color=colour(5), alpha=0.3, linewidth=0, label=what)
    if end > inner:
        ax.barh(
            0,
            end - inner,
            left=inner,
            height=0.5,
            facecolor="none",
            edgecolor=GREY,
            hatch="////",
            linewidth=0,
            alpha=0.7,
            label=_GAP,
        )
    number, _, words = _LINES[found.resources[0]]
    ax.plot(
        [end, end],
        [-0.4, 0.4],
        color=colour(number),
        linestyle="-",
        marker="",
        linewidth=2.2,
        label=f"{_limit(region)}: {words}",
    )


def _limit(region: StabilityRegion) -> str:
    if region.kind is Kind.EXACT:
        return "boundary"
    where = "at these settings" if region.limits == "settings" else "of the hardware"
    return f"outer bound {where}"


def _draw_offered(ax: Axes, region: StabilityRegion, rates: Rates, found: Slice) -> Any:
    here = np.array([rates.get(name, 0.0) for name in found.classes] + [0.0])[:2]
    margin = region.margin(rates)
    # With other classes held, the boundary for growing all rates lies outside of this slice.
    if not any(found.held.values()) and math.isfinite(margin):
        way = np.array([here, here * margin]).T
        ax.plot(*way, color=INK, linestyle=(0, (1, 2)), marker="", linewidth=1.0, zorder=4)
    (star,) = ax.plot(
        *here[:, None], color=INK, marker="*", markersize=11, linestyle="", zorder=5, clip_on=False
    )
    return star


def _finish(
    ax: Axes, found: Slice, handles: list[Any], labels: list[str], rates: Rates | None
) -> None:
    at = [(rates or {}).get(name, 0.0) for name in found.classes]
    most = np.vstack((found.outer, at)).max(axis=0)
    ax.set_xlim(0, 1.05 * most[0] or 1.0)
    if len(most) > 1:
        ax.set_ylim(0, 1.05 * most[1] or 1.0)
    if not len(found.outer):
        ax.text(
            0.5,
            0.5,
            "the other classes alone\nuse the whole capacity",
            transform=ax.transAxes,
            ha="center",
            va="center",
        )
    others = ", ".join(f"{label(n, 16)} {r:.4g}" for n, r in found.held.items() if r > 0)
    if handles:
        legend_below(
            ax, handles, labels, title=f"with {label(others, 64)} requests/s" if others else None
        )
