r"""Least squares for the four forms of a batch-time law.

All coefficients are bounded below by zero, and residuals are relative, because the yardstick is
the mean absolute *percentage* error: minimise :math:`\sum_i (\hat t_i / t_i - 1)^2`. Affine and
tiled forms are linear: one non-negative least squares. A roofline is linear once every row knows
which branch is larger; branch assignment and least squares alternate to a fixed point, from several
starting knees, and the best fixed point wins (max-affine regression, Magnani and Boyd 2009). A
table is a monotone piecewise linear function: non-negative increments between its knots.

Attention costs ``per_kv`` in decode-only iterations, ``per_kv_mixed`` in mixed ones and
``per_work`` for prefill work; where the profile has only one sort of iteration, both ``per_kv``
are equal.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from llmq.calibrate.profile import Profile
from llmq.errors import InputError
from llmq.model.time.batchtime import BatchTime

__all__ = ["FORMS", "attention_columns", "fit_form", "roofline_branches"]

Floats: TypeAlias = npt.NDArray[np.float64]
Mask: TypeAlias = npt.NDArray[np.bool_]

FORMS = ("affine", "tiled", "roofline", "table")
_STARTS = (0.1, 0.3, 0.5, 0.7)
_ROUNDS = 60
_COLLINEAR = 1e-13


def fit_form(form: str, profile: Profile, tile: int = 1) -> BatchTime:
    """Fit one form to all rows of a profile.

    Parameters
    ----------
    form : {"affine", "tiled", "roofline", "table"}
        Which curve.
    profile : Profile
        The rows.
    tile : int
        Tokens per tile, for ``tiled`` and for the compute branch of ``roofline``.

    Returns
    -------
    BatchTime
        The law.

    Raises
    ------
    InputError
        Fewer rows than coefficients.

    Examples
    --------
    >>> n = np.arange(1, 600)
    >>> law = BatchTime.roofline(floor=6.0, base=1.0, per_token=0.125)
    >>> fit_form("roofline", Profile(tokens=n, seconds=law(n))).per_token
    0.1250
    """
    attention = attention_columns(profile)
    n = profile.tokens.astype(np.float64)
    fewest = 2 + attention.shape[1] + (form == "roofline")
    if len(profile) < fewest:
        raise InputError(
            f"a {form} law needs at least {fewest} rows, the profile has {len(profile)}"
        )
    target = profile.seconds
    if form == "affine":
        x = _solve([np.ones_like(n), n], attention, target)
        return BatchTime.affine(base=x[0], per_token=x[1], **_attention(profile, x[2:]))
    if form == "tiled":
        x = _solve([np.ones_like(n), np.ceil(n / tile), n], attention, target)
        return BatchTime.tiled(
            base=x[0], per_tile=x[1], per_token=x[2], tile=tile, **_attention(profile, x[3:])
        )
    if form == "roofline":
        x = _fit_roofline(n, np.ceil(n / tile) * tile, attention, target)
        return BatchTime.roofline(
            floor=x[0],
            floor_per_token=x[1],
            base=x[2],
            per_token=x[3],
            tile=tile,
            **_attention(profile, x[4:]),
        )
    if form == "table":
        return _fit_table(profile, n, attention)
    raise InputError(f"unknown form {form!r}; known: {', '.join(FORMS)}", value=form)


def attention_columns(profile: Profile) -> Floats:
    """Regressors of the attention: KV in decode-only steps, KV in mixed steps, work.

    Parameters
    ----------
    profile : Profile
        The rows.

    Returns
    -------
    ndarray, shape (n, 0 to 3)
        Columns that are zero throughout are left out.
    """
    mixed = profile.mixed
    columns = [np.where(mixed, 0, profile.kv), np.where(mixed, profile.kv, 0), profile.work]
    return np.column_stack([c for c in columns if np.any(c)] or [np.zeros((len(profile), 0))])


def _attention(profile: Profile, values: list[float]) -> dict[str, float]:
    mixed, it = profile.mixed, iter(values)
    decode = next(it) if np.any(profile.kv[~mixed]) else None
    both = next(it) if np.any(profile.kv[mixed]) else decode
    work = next(it) if np.any(profile.work) else 0.0
    return {
        "per_kv": (both if decode is None else decode) or 0.0,
        "per_kv_mixed": both or 0.0,
        "per_work": work,
    }


def _relative(columns: Sequence[Floats], attention: Floats, target: Floats) -> Floats:
    return np.column_stack([*columns, attention]) / target[:, None]


def _solve(columns: Sequence[Floats], attention: Floats, target: Floats) -> list[float]:
    x = _non_negative(_relative(columns, attention, target), np.ones(len(target)))
    return [float(value) for value in x]


def _non_negative(matrix: Floats, target: Floats) -> Floats:
    """Least squares with coefficients >= 0; columns are scaled, their sizes differ by 10^9."""
    from scipy.optimize import nnls

    scale = np.linalg.norm(matrix, axis=0)
    some = scale > 0.0  # a branch without rows
    answer = np.zeros(len(scale))
    rows, scale = matrix[:, some] / scale[some], scale[some]
    # A factor of the Gram matrix has the same least squares as the tall matrix, with few rows.
    # einsum and not @: the linear algebra library would start threads for a few columns.
    gram = np.einsum("ij,ik->jk", rows, rows)
    factor, right = _factor(gram, np.einsum("ij,i->j", rows, target))
    x = np.asarray(nnls(factor, right)[0])
    # Normal equations square the rounding error; a step on the residual brings it back.
    used = x > 0
    if used.any():
        left = np.einsum("ij,i->j", rows[:, used], target - np.einsum("ij,j->i", rows, x))
        step = np.linalg.lstsq(gram[np.ix_(used, used)], left, rcond=_COLLINEAR)[0]
        x[used] = np.maximum(x[used] + step, 0.0)
    answer[some] = x / scale
    return answer


def _factor(gram: Floats, right: Floats) -> tuple[Floats, Floats]:
    """Matrix F and vector g with F'F = gram and F'g = right, nearly repeated columns merged."""
    values, vectors = np.linalg.eigh(gram)
    some = values > _COLLINEAR * values[-1]
    root = np.sqrt(values[some])
    return root[:, None] * vectors[:, some].T, (vectors[:, some].T @ right) / root


def roofline_branches(
    matrix: Floats, start: Mask, solve: Callable[[Floats, Floats], Floats] | None = None
) -> tuple[Floats, float]:
    """Alternate least squares and branch assignment until the assignment repeats.

    Parameters
    ----------
    matrix : ndarray, shape (n, 4 + k)
        Relative regressors: 1 and tokens of the memory branch, 1 and tokens of the compute branch,
        attention.
    start : ndarray of bool, shape (n,)
        Rows assumed on the memory branch.
    solve : callable, optional
        Least squares; non-negative if not given.

    Returns
    -------
    tuple
        Coefficients, shape (4 + k,), and the sum of squared relative residuals.
    """
    solver = solve or _non_negative
    target = np.ones(len(matrix))
    memory, best, loss = start, np.zeros(matrix.shape[1]), math.inf
    for _ in range(_ROUNDS):
        rows = matrix.copy()
        rows[~memory, 0:2] = 0.0
        rows[memory, 2:4] = 0.0
        x = solver(rows, target)
        floor, compute = matrix[:, 0:2] @ x[0:2], matrix[:, 2:4] @ x[2:4]
        residual = np.maximum(floor, compute) + matrix[:, 4:] @ x[4:] - 1.0
        if (found := float(residual @ residual)) < loss:
            best, loss = x, found
        nextly = floor >= compute
        if np.array_equal(nextly, memory):
            break
        memory = nextly
    return best, loss


def _fit_roofline(n: Floats, tiled: Floats, attention: Floats, target: Floats) -> list[float]:
    one = np.ones_like(n)
    matrix = _relative([one, n, one, tiled], attention, target)
    knees = [np.quantile(np.unique(n), share) for share in _STARTS] + [64.0, 128.0, 256.0]
    tried = [roofline_branches(matrix, n <= knee) for knee in knees]
    return [float(value) for value in min(tried, key=lambda pair: pair[1])[0]]


def _knots(profile: Profile) -> npt.NDArray[np.int64]:
    """Grid of a table law: measured counts, or tile edges where steps are random."""
    counts = np.unique(profile.tokens)
    if profile.scope == "layers":
        return counts
    top = int(counts[-1])
    edges = np.concatenate([np.arange(64, 512, 64), np.arange(512, top, 256)])
    low = np.array([1, 2, 4, 8, 16, 32])
    knots = np.unique(np.concatenate([low, edges, edges + 1, [top]]))
    return np.asarray(knots[(knots >= 1) & (knots <= top)], dtype=np.int64)


def _fit_table(profile: Profile, n: Floats, attention: Floats) -> BatchTime:
    knots = _knots(profile)
    if attention.shape[1] == 0:
        seconds = _monotone(profile, knots)
        return BatchTime.table(tokens=knots, seconds=seconds)
    rises = np.clip((n[:, None] - knots[:-1]) / np.diff(knots), 0.0, 1.0)
    x = _solve([np.ones_like(n), *rises.T], attention, profile.seconds)
    seconds = np.cumsum(x[: len(knots)])
    if not seconds[0] > 0:
        raise InputError("a table law of this profile takes no time at one token")
    return BatchTime.table(tokens=knots, seconds=seconds, **_attention(profile, x[len(knots) :]))


def _monotone(profile: Profile, knots: npt.NDArray[np.int64]) -> Floats:
    """Nearest non-decreasing times in relative least squares."""
    from scipy.optimize import isotonic_regression

    where = np.searchsorted(knots, profile.tokens)
    weight = np.bincount(where, weights=profile.seconds**-2)
    mean = np.bincount(where, weights=profile.seconds**-1) / weight
    return np.asarray(isotonic_regression(mean, weights=weight).x)
