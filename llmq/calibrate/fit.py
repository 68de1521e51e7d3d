r"""Calibration: from a GPU profile to a law of iteration time, with its error on unseen rows.

Every candidate (form, tile) is fitted to one half of the rows and judged on the other half:
every second grid point for a profile of the layers alone, a random half of composed steps. The
yardstick is the mean absolute percentage error (MAPE). The chosen form is then fitted to all rows.
``form="auto"`` takes the candidate with the smallest error on unseen rows, or the simplest one
within 5 % of it; the table law interpolates the profile and usually wins, a roofline is the best
closed form (out of sample 1.4-3.3 % on public profiles against 2.3-7 % for an affine law).

The tile is the one whose roofline or tiled law has the smallest error, if it beats no tile by more
than 5 %. A law fitted to kernel times leaves out what kernels do not show: launch gaps and CPU
work, roughly 0.3-1 ms an iteration on small models.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from llmq.calibrate.compose import DEFAULT_SEED
from llmq.calibrate.forms import FORMS, fit_form
from llmq.calibrate.hinge import Hinge, find_hinge
from llmq.calibrate.profile import Profile
from llmq.errors import InputError, nearest
from llmq.model.batchtime import BatchTime
from llmq.result import Kind, Provenance, provenance
from llmq.rng import RngLike, generator, seed_sequence
from llmq.units import format_count, format_seconds

__all__ = ["TILES", "ErrorSummary", "Fit", "Trial", "calibrate"]

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """A fitted law and how far to trust it.

    Parameters
    ----------
    law : BatchTime
        Fitted to all rows.
    in_sample : ErrorSummary
        Error of ``law`` on all rows.
    out_of_sample : ErrorSummary
        Error of the same form on rows it was not fitted to.
    residuals : ndarray, shape (n,)
        Fitted less measured time of each row of the profile, seconds.
    tile : int
        Detected tile, tokens; 1 means none.
    tile_errors : tuple of (int, float)
        Evidence for it: smallest out-of-sample MAPE of a tiled or roofline law, by tile.
    hinge : Hinge
        Whether batches beyond the knee pay.
    tried : tuple of Trial
        All candidates.
    reason : str
        Why this form.
    gpu, model : str
        What was measured.
    tp : int
        GPUs that share the model.
    missing : tuple of str
        Parts of an iteration that the profile lacks.
    kind : Kind
        Always ``fitted``.
    assumptions : tuple of str
        What the law rests on.
    source : str
        The profile.
    provenance : Provenance
        Arguments and seeds.
    """

    law: BatchTime
    in_sample: ErrorSummary
    out_of_sample: ErrorSummary
    residuals: Floats = field(compare=False, repr=False)
    tile: int
    tile_errors: tuple[tuple[int, float], ...]
    hinge: Hinge
    tried: tuple[Trial, ...]
    reason: str
    gpu: str = ""
    model: str = ""
    tp: int = 1
    missing: tuple[str, ...] = ()
    kind: Kind = Kind.FITTED
    assumptions: tuple[str, ...] = ()
    source: str = ""
    provenance: Provenance | None = field(default=None, compare=False, repr=False)

    @property
    def batch_time(self) -> BatchTime:
        """The law, under its long name."""
        return self.law

    @property
    def form(self) -> str:
        """Form of the law."""
        return self.law.form

    @property
    def max_relative_error(self) -> float:
        """Largest relative error on unseen rows, a fraction."""
        return self.out_of_sample.maximum

    def summary(self) -> str:
        """Say what was fitted, how well, and what it rests on.

        Returns
        -------
        str
            Several lines of text.
        """
        tiles = ", ".join(f"{t if t > 1 else 'none'} {100 * e:.1f} %" for t, e in self.tile_errors)
        what = " ".join(word for word in (self.model, "on", self.gpu) if word).removeprefix("on ")
        lines = [
            f"law            {self.law}",
            f"fitted to      {what}, TP{self.tp} ({self.source})",
            f"out of sample  {self.out_of_sample}",
            f"in sample      {self.in_sample}",
            f"chosen because {self.reason}",
            f"tile           {self.tile if self.tile > 1 else 'none'} (error by tile: {tiles})",
            f"hinge          {self.hinge}",
        ]
        return "\n".join([*lines, *(f"assumption     {line}" for line in self.assumptions)])

    def __str__(self) -> str:
        tile = f"tile {self.tile} tokens" if self.tile > 1 else "no tile"
        return f"{self.law}: out of sample {self.out_of_sample}; {tile}"


def calibrate(
    profile: Profile,
    form: str = "auto",
    *,
    tile: int | None = None,
    rng: RngLike = DEFAULT_SEED,
) -> Fit:
    """Fit a law of iteration time to a profile.

    Parameters
    ----------
    profile : Profile
        Measured or composed iterations, see :func:`llmq.read_profile`.
    form : {"auto", "affine", "tiled", "roofline", "table"}
        Form of the law; ``auto`` chooses by the error on unseen rows.
    tile : int, optional
        Tokens per tile of a tiled or roofline law; searched over 1 (none) to 512 if not given.
    rng : Generator, SeedSequence, int or None
        Which random half of composed steps is held back; a fixed seed by default.

    Returns
    -------
    Fit
        Law, residuals, errors, tile, hinge, and what else was tried.

    Raises
    ------
    InputError
        Unknown form, or too few rows for it.

    Examples
    --------
    >>> law = BatchTime.roofline(floor=0.006, base=0.001, per_token=2e-5, tile=128)
    >>> n = np.arange(8, 2048, 8)
    >>> fit = calibrate(Profile(tokens=n, seconds=law(n)), form="roofline")
    >>> fit.tile, fit.law.floor, fit.law.per_token
    (128, 0.0060, 2.00e-05)
    """
    if form not in ("auto", *FORMS):
        raise InputError(f"unknown form {form!r}{nearest(form, ('auto', *FORMS))}", value=form)
    if tile is not None and (tile < 1 or tile != int(tile)):
        raise InputError(f"tile must be a whole number of tokens >= 1, got {tile}", value=tile)
    seed = seed_sequence(rng)
    train = _half(profile, generator(seed))
    tried = _try_all(profile.take(train), profile.take(~train), TILES if tile is None else (tile,))
    evidence = _evidence(tried)
    found = tile or _tile(evidence)
    chosen, reason = _choose(tried, form, len(profile))
    law = fit_form(chosen.form, profile, chosen.tile)
    return Fit(
        law=law,
        in_sample=_error(law, profile),
        out_of_sample=chosen.out_of_sample,
        residuals=_predict(law, profile) - profile.seconds,
        tile=found,
        tile_errors=tuple(evidence.items()),
        hinge=find_hinge(profile, fit_form("roofline", profile, found)),
        tried=tried,
        reason=reason,
        gpu=profile.gpu,
        model=profile.model,
        tp=profile.tp,
        missing=profile.missing,
        assumptions=_assumptions(profile, train),
        source=f"{profile.format or 'own'} profile {profile.source}".strip(),
        provenance=provenance(
            seed.entropy, form=form, tile=tile, rows=len(profile), steps_seed=profile.entropy
        ),
    )


def _half(profile: Profile, draw: np.random.Generator) -> npt.NDArray[np.bool_]:
    """Rows to fit to: every second grid point of a layer profile, else a random half."""
    if profile.scope == "layers":
        counts = np.unique(profile.tokens)
        return np.asarray(np.searchsorted(counts, profile.tokens) % 2 == 0)
    train = np.zeros(len(profile), dtype=bool)
    train[draw.permutation(len(profile))[: (len(profile) + 1) // 2]] = True
    return train


def _try_all(train: Profile, test: Profile, tiles: tuple[int, ...]) -> tuple[Trial, ...]:
    candidates = [("affine", 1), ("table", 1)]
    candidates += [("tiled", tile) for tile in tiles if tile > 1]
    candidates += [("roofline", tile) for tile in tiles]
    trials = []
    for form, tile in candidates:
        try:
            law = fit_form(form, train, tile)
        except InputError:
            continue  # half of the rows are too few for this form; _choose says so if it matters
        trials.append(Trial(form, tile, _error(law, train), _error(law, test)))
    return tuple(trials)


def _predict(law: BatchTime, profile: Profile) -> Floats:
    return np.asarray(law(profile.tokens, profile.kv, profile.work, mixed=profile.mixed))


def _error(law: BatchTime, profile: Profile) -> ErrorSummary:
    error = np.abs(_predict(law, profile) / profile.seconds - 1.0)
    return ErrorSummary(
        float(error.mean()), float(np.median(error)), float(error.max()), len(profile)
    )


def _evidence(tried: tuple[Trial, ...]) -> dict[int, float]:
    best: dict[int, float] = {}
    for trial in tried:
        if trial.form in ("tiled", "roofline"):
            mape = trial.out_of_sample.mape
            best[trial.tile] = min(mape, best.get(trial.tile, mape))
    return dict(sorted(best.items()))


def _tile(evidence: dict[int, float]) -> int:
    if not evidence:
        return 1
    best = min(evidence, key=evidence.__getitem__)
    none = evidence.get(1, evidence[best])
    return best if none > _TIE * evidence[best] + _EXACT else 1


def _mape(trial: Trial) -> float:
    return trial.out_of_sample.mape


def _choose(tried: tuple[Trial, ...], form: str, rows: int) -> tuple[Trial, str]:
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
    why = "smallest error" if chosen == best else f"simplest within 5 % of the best ({best})"
    note = f"; best closed form {closed}" if chosen.form == "table" else ""
    return chosen, f"{chosen} out of sample, {why} of {len(tried)} candidates{note}"


def _assumptions(profile: Profile, train: npt.NDArray[np.bool_]) -> tuple[str, ...]:
    lines = [f"not in the profile and counted as 0 s: {part}" for part in profile.missing]
    lines += [f"assumed to take {format_seconds(t)}: {p}" for p, t in profile.assumed.items()]
    if profile.format in ("vidur", "llmservingsim", "aiconfigurator"):
        lines.append("GPU kernel times, summed: no overlap, launch gaps or CPU time")
    most = f" and up to {format_count(profile.kv.max())} KV tokens" if profile.kv.any() else ""
    counts = (format_count(n) for n in (profile.tokens.min(), profile.tokens.max()))
    lines.append(f"fitted from {' to '.join(counts)} tokens{most}; beyond, the law extrapolates")
    how = "every second token count" if profile.scope == "layers" else "a random half of the steps"
    lines.append(f"out-of-sample error: fitted to {how}, tested on the other {(~train).sum()} rows")
    return (*lines, *profile.notes)
