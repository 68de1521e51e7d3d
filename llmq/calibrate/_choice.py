"""Which law: every candidate is fitted to half of the rows and judged on the other half.

The yardstick is the mean absolute percentage error (MAPE). The simplest candidate within 5 % of the
best one is chosen; a tile is found where it beats no tile by more than 5 %.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from llmq.calibrate.forms import FORMS, fit_form
from llmq.calibrate.profile import Profile
from llmq.errors import InputError
from llmq.model.time.batchtime import BatchTime

__all__ = [
    "TILES",
    "ErrorSummary",
    "Trial",
    "choose",
    "error_of",
    "evidence_of",
    "half",
    "predict",
    "tile_of",
    "try_all",
]

Floats: TypeAlias = npt.NDArray[np.float64]

TILES = (1, 32, 64, 128, 256, 512)
_TIE = 1.05
_EXACT = 1e-9  # errors below this are rounding: ties are broken by simplicity


@dataclass(frozen=True, slots=True)
class ErrorSummary:
    """Relative errors of a law on some rows, as fractions.

    Parameters
    ----------
    mape : float
        Mean absolute relative error.
    median : float
        Median of it.
    maximum : float
        Largest.
    n : int
        Rows.

    Examples
    --------
    >>> str(ErrorSummary(0.024, 0.018, 0.11, 2500))
    '2.4 % (median 1.8 %, max 11.0 %, 2500 rows)'
    """

    mape: float
    median: float
    maximum: float
    n: int

    def __str__(self) -> str:
        share = [f"{100 * x:.1f} %" for x in (self.mape, self.median, self.maximum)]
        return f"{share[0]} (median {share[1]}, max {share[2]}, {self.n} rows)"


@dataclass(frozen=True, slots=True)
class Trial:
    """One candidate, fitted to half of the rows.

    Parameters
    ----------
    form : str
        Its form.
    tile : int
        Its tile; 1 means none.
    in_sample, out_of_sample : ErrorSummary
        Errors on the rows it was fitted to and on the others.
    """

    form: str
    tile: int
    in_sample: ErrorSummary
    out_of_sample: ErrorSummary

    def __str__(self) -> str:
        tile = f" tile {self.tile}" if self.tile > 1 else ""
        return f"{self.form}{tile}: {100 * self.out_of_sample.mape:.1f} %"


def half(profile: Profile, draw: np.random.Generator) -> npt.NDArray[np.bool_]:
    """Choose the rows to fit to: every second grid point of layers alone, else a random half."""
    if profile.scope == "layers":
        counts = np.unique(profile.tokens)
        return np.asarray(np.searchsorted(counts, profile.tokens) % 2 == 0)
    train = np.zeros(len(profile), dtype=bool)
    train[draw.permutation(len(profile))[: (len(profile) + 1) // 2]] = True
    return train


def try_all(train: Profile, test: Profile, tiles: tuple[int, ...]) -> tuple[Trial, ...]:
    """Fit every candidate."""
    candidates = [("affine", 1), ("table", 1)]
    candidates += [("tiled", tile) for tile in tiles if tile > 1]
    candidates += [("roofline", tile) for tile in tiles]
    trials = []
    for form, tile in candidates:
        try:
            law = fit_form(form, train, tile)
        except InputError:
            continue  # half of the rows are too few for this form; _choose says so if it matters
        trials.append(Trial(form, tile, error_of(law, train), error_of(law, test)))
    return tuple(trials)


def predict(law: BatchTime, profile: Profile) -> Floats:
    """Return what a law says about the rows of a profile."""
    return np.asarray(law(profile.tokens, profile.kv, profile.work, mixed=profile.mixed))


def error_of(law: BatchTime, profile: Profile) -> ErrorSummary:
    """Compare a law with rows."""
    error = np.abs(predict(law, profile) / profile.seconds - 1.0)
    return ErrorSummary(
        float(error.mean()), float(np.median(error)), float(error.max()), len(profile)
    )


def evidence_of(tried: tuple[Trial, ...]) -> dict[int, float]:
    """Find the smallest error of a tiled or roofline law for every tile."""
    best: dict[int, float] = {}
    for trial in tried:
        if trial.form in ("tiled", "roofline"):
            mape = trial.out_of_sample.mape
            best[trial.tile] = min(mape, best.get(trial.tile, mape))
    return dict(sorted(best.items()))


def tile_of(evidence: dict[int, float]) -> int:
    """Decide for a tile.

    Examples
    --------
    >>> tile_of({1: 0.03, 64: 0.025, 128: 0.02}), tile_of({1: 0.0205, 128: 0.02})
    (128, 1)
    """
    if not evidence:
        return 1
    best = min(evidence, key=evidence.__getitem__)
    none = evidence.get(1, evidence[best])
    return best if none > _TIE * evidence[best] + _EXACT else 1


def _mape(trial: Trial) -> float:
    return trial.out_of_sample.mape


def choose(tried: tuple[Trial, ...], form: str, rows: int, enough: float) -> tuple[Trial, str]:
    """Choose a candidate."""
    fitting = [trial for trial in tried if form in ("auto", trial.form)]
    if not fitting:
        raise InputError(
            f"{rows} rows are too few to fit a {form} law and to test it: measure more token counts"
        )
    best = min(fitting, key=_mape)
    near = [trial for trial in fitting if _mape(trial) <= _TIE * _mape(best) + _EXACT]
    chosen = min(near, key=lambda trial: (FORMS.index(trial.form), trial.tile > 1, _mape(trial)))
    if form != "auto":
        return chosen, f"{form} was asked for; {chosen} out of sample"
    closed = min((t for t in tried if t.form != "table"), key=_mape, default=chosen)
    roofs = [t for t in tried if t.form == "roofline"]
    roof = min(
        roofs, key=lambda t: (_mape(t) > _TIE * min(map(_mape, roofs)), t.tile), default=None
    )
    if roof and chosen.form == "table" and _mape(roof) <= enough:
        return (
            roof,
            f"{roof} out of sample, within {100 * enough:g} % and closed; best {best}",
        )
    why = "smallest error" if chosen == best else f"simplest within 5 % of the best ({best})"
    note = f"; best closed form {closed}" if chosen.form == "table" else ""
    return chosen, f"{chosen} out of sample, {why} of {len(tried)} candidates{note}"
