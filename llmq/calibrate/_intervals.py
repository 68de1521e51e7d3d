r"""Intervals of the coefficients of a fitted law.

With the branch of every row held fixed a law is linear in its coefficients, and the covariance of
relative least squares is estimated robustly to unequal variances (White 1980),

.. math:: (X'X)^{-1} X' \operatorname{diag}(r^2) X (X'X)^{-1},

``X`` the regressors divided by the measured times and ``r`` the relative residuals. A coefficient
at its bound 0 has the interval from 0 to what the free estimate allows at most. The intervals cover
the scatter of the rows; they do not cover a wrong choice of form, which the error on unseen rows
shows, nor what the profile leaves out.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from llmq.calibrate.profile import Profile
from llmq.model.time.batchtime import BatchTime

__all__ = ["Interval", "coefficient_intervals"]

Floats: TypeAlias = npt.NDArray[np.float64]
Interval: TypeAlias = tuple[str, float, float, float]

_NORMAL_95 = 1.959963984540054
_ATTENTION = ("per_kv", "per_kv_mixed", "per_work")


def coefficient_intervals(profile: Profile, law: BatchTime) -> tuple[Interval, ...]:
    """Estimate 95 % intervals of the coefficients of a law.

    Examples
    --------
    >>> n = np.arange(1, 600)
    >>> law = BatchTime.affine(base=6.0, per_token=0.125)
    >>> coefficient_intervals(Profile(tokens=n, seconds=law(n)), law)[1]
    ('per_token', 0.125, 0.125, 0.125)
    """
    names, columns = _regressors(profile, law)
    used = np.asarray(columns.any(axis=0))
    names = [name for name, some in zip(names, used, strict=True) if some]
    rows = columns[:, used] / profile.seconds[:, None]
    scale = np.linalg.norm(rows, axis=0)
    rows = rows / scale
    values = np.array([getattr(law, name, 0.0) for name in names])
    held = np.array(
        [bool(name) and value == 0.0 for name, value in zip(names, values, strict=True)]
    )
    _, inner = _estimate(rows[:, ~held])
    free, outer = _estimate(rows)
    spread = np.where(held, outer, 0.0)
    spread[~held] = inner
    centre = np.where(held, free / scale, values)
    half = _NORMAL_95 * spread / scale
    found = zip(names, values, np.maximum(centre - half, 0.0), centre + half, held, strict=True)
    return tuple(
        (name, float(value), 0.0 if zero else float(low), float(max(high, 0.0)))
        for name, value, low, high, zero in found
        if name
    )


def _estimate(rows: Floats) -> tuple[Floats, Floats]:
    """Least squares of ones on scaled rows: coefficients and their standard deviations."""
    bread = np.linalg.pinv(np.einsum("ij,ik->jk", rows, rows), hermitian=True)
    x = bread @ rows.sum(axis=0)
    residual = np.einsum("ij,j->i", rows, x) - 1.0
    weighted = rows * residual[:, None]
    meat = np.einsum("ij,ik->jk", weighted, weighted)
    return x, np.sqrt(np.maximum(np.diag(bread @ meat @ bread), 0.0))


def _regressors(profile: Profile, law: BatchTime) -> tuple[list[str], Floats]:
    """Name and column of every coefficient; coefficients of a table's knots have no name."""
    n, one = profile.tokens.astype(np.float64), np.ones(len(profile))
    tiles = np.ceil(n / law.tile)
    parts: dict[str, Floats]
    if law.form == "roofline":
        memory = np.asarray(
            law.floor + law.floor_per_token * n >= law.base + law.per_token * tiles * law.tile
        )
        parts = {
            "floor": memory.astype(np.float64),
            "floor_per_token": n * memory,
            "base": (~memory).astype(np.float64),
            "per_token": tiles * law.tile * ~memory,
        }
    elif law.form == "table":
        parts = {}
    else:
        parts = {"base": one, "per_token": n}
        if law.form == "tiled":
            parts["per_tile"] = tiles
    mixed = profile.mixed
    attention = [np.where(mixed, 0, profile.kv), np.where(mixed, profile.kv, 0), profile.work]
    names, columns = list(parts), list(parts.values())
    if law.form == "table":
        knots, times = np.asarray(law.tokens, float), np.asarray(law.seconds)
        rises = np.clip((n[:, None] - knots[:-1]) / np.diff(knots), 0.0, 1.0)
        columns += [one, *rises.T[np.diff(times) > 0]]
        names += [""] * len(columns)
    return [*names, *_ATTENTION], np.column_stack([*columns, *attention])
