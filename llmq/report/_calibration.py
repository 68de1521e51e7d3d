"""The report of a calibration: the law, how far it errs and where, and what to trust."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from llmq._input.files import PathLike, write_text
from llmq.calibrate.fit import Fit
from llmq.calibrate.profile import Profile
from llmq.report._file import check_writable
from llmq.report._html import inline_svg, render
from llmq.units import format_count

if TYPE_CHECKING:
    from markupsafe import Markup

__all__ = ["calibration_report", "write_calibration"]

_GOOD, _FAIR = 0.03, 0.05
_EDGES = (0, 32, 128, 512, 1024, 2048, 4096)


def write_calibration(fit: Fit, profile: Profile, path: PathLike) -> None:
    """Write the report of a calibration, in one piece.

    Parameters
    ----------
    fit : Fit
        The fit.
    profile : Profile
        What it was fitted to.
    path : str or path
        An HTML file; replaced if it exists.

    Raises
    ------
    InputError
        The file cannot be written; said before anything is drawn.
    MissingDependencyError
        matplotlib is not installed.
    """
    check_writable(path)
    write_text(path, calibration_report(fit, profile))


def calibration_report(fit: Fit, profile: Profile) -> str:
    """Return the report of a calibration as an HTML page.

    Parameters
    ----------
    fit : Fit
        The fit.
    profile : Profile
        What it was fitted to.

    Returns
    -------
    str
        A whole page that fetches nothing and runs nothing; equal fits give equal text.

    Raises
    ------
    InputError
        The profile is not the one that was fitted.
    MissingDependencyError
        matplotlib is not installed.
    """
    what = " on ".join(word for word in (fit.model, fit.gpu) if word) or "own profile"
    return render(
        "calibration.html.j2",
        title=f"Calibration: {what}",
        usable=fit.out_of_sample.mape <= _FAIR,
        verdict=_verdict(fit, what),
        trust=_trust(fit, profile),
        drawn=list(_figures(fit, profile)),
        law=str(fit.law),
        coefficients=[(name, *(f"{x:.4g}" for x in values)) for name, *values in fit.intervals],
        errors=[
            (n, format_count(k), _percent(e), _percent(b)) for n, k, e, b in _groups(fit, profile)
        ],
        tile=f"a tile of {fit.tile} tokens" if fit.tile > 1 else "no tile",
        tiles=[("none" if t == 1 else format_count(t), _percent(e)) for t, e in fit.tile_errors],
        tried=_tried(fit),
        assumptions=fit.assumptions,
        made=_provenance(fit),
        name="fit",
        data=_data(fit),
    )


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _verdict(fit: Fit, what: str) -> tuple[str, str]:
    error = fit.out_of_sample.mape
    word = "Good" if error <= _GOOD else "Usable" if error <= _FAIR else "Poor"
    return (
        f"{word}: {_percent(error)}",
        f" mean error on {format_count(fit.out_of_sample.n)} iterations that were not fitted "
        f"({what}, TP{fit.tp}). Law: {fit.form}; {fit.reason}.",
    )


def _trust(fit: Fit, profile: Profile) -> list[str]:
    low, high = fit.tokens
    lines = [f"Batches of {format_count(low)} to {format_count(high)} tokens; more extrapolates."]
    if fit.kv[1]:
        lines.append(f"Up to {format_count(fit.kv[1])} KV tokens read; more extrapolates.")
    else:
        lines.append("No attention in the profile: the law is of the layers alone.")
    worst = max(_groups(fit, profile), key=lambda row: row[2])
    lines.append(
        f"Least in {worst[0]}: mean error {_percent(worst[2])}, bias {_percent(worst[3])}."
    )
    gap = fit.out_of_sample.mape - fit.in_sample.mape
    if gap > 0.01:
        lines.append(
            f"The error on unseen rows is {_percent(gap)} larger than on fitted ones: few rows."
        )
    if fit.missing:
        lines.append(f"Every time is too short by what is not in it: {', '.join(fit.missing)}.")
    lines.append(f"{fit.knee}.")
    return lines


def _groups(fit: Fit, profile: Profile) -> list[tuple[str, int, float, float]]:
    """Rows by kind and by tokens: name, number, mean absolute error, bias."""
    error = fit.residuals / profile.seconds
    alone = profile.mixed & (profile.prefill == profile.tokens)
    kinds: dict[str, Any] = {
        "decodes alone": ~profile.mixed & (profile.kv > 0),
        "prefills alone": alone,
        "prefills with decodes": profile.mixed & ~alone,
    }
    edges = [*(e for e in _EDGES if e < profile.tokens.max()), int(profile.tokens.max())]
    for left, right in itertools.pairwise(edges):
        rows = (profile.tokens > left) & (profile.tokens <= right)
        kinds[f"{format_count(left + 1)} to {format_count(right)} tokens"] = rows
    return [
        (name, int(rows.sum()), float(np.abs(error[rows]).mean()), float(error[rows].mean()))
        for name, rows in kinds.items()
        if rows.any()
    ]


def _tried(fit: Fit) -> list[tuple[str, ...]]:
    return [
        (
            f"{one.form}{f', tile {one.tile}' if one.tile > 1 else ''}",
            _percent(one.in_sample.mape),
            _percent(one.out_of_sample.mape),
            _percent(one.out_of_sample.maximum),
        )
        for one in sorted(fit.tried, key=lambda one: one.out_of_sample.mape)
    ]


def _figures(fit: Fit, profile: Profile) -> Iterator[tuple[Markup, str]]:
    from llmq.plot import draw_fit, svg
    from llmq.plot._residuals import draw_residuals, draw_staircase

    error = f"out of sample {fit.out_of_sample}"
    yield _figure(
        svg(draw_fit(fit, profile)), "fit", f"Iteration time against tokens, law and rows; {error}."
    )
    yield _figure(
        svg(draw_staircase(fit, profile)),
        "staircase",
        "The same up to 1,024 tokens, where tiles show as steps.",
    )
    yield _figure(
        svg(draw_residuals(fit, profile, "tokens")),
        "tokens",
        "Relative error of the law against tokens; the line is the bias.",
    )
    if profile.kv.any():
        yield _figure(
            svg(draw_residuals(fit, profile, "kv")),
            "kv",
            "Relative error of the law against KV tokens read; the line is the bias.",
        )


def _figure(drawn: str, name: str, about: str) -> tuple[Markup, str]:
    return inline_svg(drawn, f"fig-{name}", about), about


def _provenance(fit: Fit) -> dict[str, object]:
    facts: dict[str, object] = {"source": fit.source}
    if (made := fit.provenance) is not None:
        facts |= {"llmq": made.version, "platform": made.platform, "seed": made.entropy}
        facts |= dict(made.arguments)
    return facts


def _data(fit: Fit) -> dict[str, Any]:
    """Return the fit as JSON values without its residuals."""
    import json

    from llmq.result import to_json

    found: dict[str, Any] = json.loads(to_json(fit))
    found.pop("residuals", None)
    return found
