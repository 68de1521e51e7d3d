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

import warnings
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from llmq.calibrate._choice import (
    TILES,
    ErrorSummary,
    Trial,
    choose,
    error_of,
    evidence_of,
    half,
    predict,
    tile_of,
    try_all,
)
from llmq.calibrate._compose import DEFAULT_SEED
from llmq.calibrate._intervals import Interval, coefficient_intervals
from llmq.calibrate._knee import Knee, find_knee
from llmq.calibrate.forms import FORMS, fit_form
from llmq.calibrate.profile import Profile
from llmq.errors import InputError, nearest
from llmq.model.time.batchtime import BatchTime
from llmq.result import Kind, Provenance, provenance
from llmq.rng import RngLike, generator, seed_sequence
from llmq.units import format_count, format_seconds

__all__ = ["TILES", "ErrorSummary", "Fit", "Trial", "calibrate"]

Floats: TypeAlias = npt.NDArray[np.float64]


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
    knee : Knee
        Whether batches beyond the knee pay.
    tried : tuple of Trial
        All candidates.
    reason : str
        Why this form.
    intervals : tuple of (str, float, float, float)
        Coefficients with their 95 % intervals: name, value, lower and upper end.
    tokens, kv : tuple of int
        Fewest and most tokens, and KV tokens, of the rows; beyond, the law extrapolates.
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
    knee: Knee
    tried: tuple[Trial, ...]
    reason: str
    intervals: tuple[Interval, ...] = ()
    tokens: tuple[int, int] = (1, 1)
    kv: tuple[int, int] = (0, 0)
    gpu: str = ""
    model: str = ""
    tp: int = 1
    missing: tuple[str, ...] = ()
    kind: Kind = Kind.FITTED
    assumptions: tuple[str, ...] = ()
    source: str = ""
    provenance: Provenance | None = field(default=None, compare=False, repr=False)

    @property
    def hinge(self) -> Knee:
        """The old name of ``knee``."""
        warnings.warn("fit.hinge is called fit.knee now", DeprecationWarning, stacklevel=2)
        return self.knee

    @property
    def batch_time(self) -> BatchTime:
        """The law, under its long name."""
        return self.law

    @property
    def form(self) -> str:
        """Form of the law."""
        return self.law.form

    @property
    def max_relativeerror_of(self) -> float:
        """Largest relative error on unseen rows, a fraction."""
        return self.out_of_sample.maximum

    def extrapolation(self, tokens: int = 0, kv: int = 0) -> str:
        """Say whether an iteration lies beyond the rows that were fitted.

        Parameters
        ----------
        tokens : int
            Tokens in the batch.
        kv : int
            KV tokens read.

        Returns
        -------
        str
            What lies beyond; empty if nothing does.

        Examples
        --------
        >>> n = np.arange(8, 513, 8)
        >>> calibrate(Profile(tokens=n, seconds=0.01 + 1e-5 * n)).extrapolation(tokens=2048)
        '2,048 tokens, fitted up to 512'
        """
        beyond = ((tokens, self.tokens[1], "tokens"), (kv, self.kv[1], "KV tokens"))
        # Layers alone have no KV at all: that is said by what is missing.
        return "; ".join(
            f"{format_count(x)} {name}, fitted up to {format_count(most)}"
            for x, most, name in beyond
            if x > most > 0
        )

    def summary(self) -> str:
        """Say what was fitted, how well, and what it rests on.

        Returns
        -------
        str
            Several lines of text.
        """
        tiles = ", ".join(f"{t if t > 1 else 'none'} {100 * e:.1f} %" for t, e in self.tile_errors)
        what = " on ".join(filter(None, (self.model, self.gpu))) or "a GPU without a name"
        lines = [
            f"law            {self.law}",
            f"fitted to      {what}, TP{self.tp} ({self.source})",
            f"out of sample  {self.out_of_sample}",
            f"in sample      {self.in_sample}",
            f"chosen because {self.reason}",
            f"tile           {self.tile if self.tile > 1 else 'none'} (error by tile: {tiles})",
            f"knee           {self.knee}",
        ]
        lines += [
            f"coefficient    {name} = {value:.4g} (95 %: {low:.4g} to {high:.4g})"
            for name, value, low, high in self.intervals
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
    enough: float = 0.0,
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
    enough : float
        With ``auto``: a roofline with this MAPE on unseen rows (a fraction) or less is taken even
        where a table is better, because closed forms can be read off it.
    rng : Generator, SeedSequence, int or None
        Which random half of composed steps is held back; a fixed seed by default.

    Returns
    -------
    Fit
        Law, residuals, errors, tile, knee, and what else was tried.

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
    train = half(profile, generator(seed))
    tried = try_all(profile.take(train), profile.take(~train), TILES if tile is None else (tile,))
    evidence = evidence_of(tried)
    found = tile or tile_of(evidence)
    chosen, reason = choose(tried, form, len(profile), enough)
    law = fit_form(chosen.form, profile, chosen.tile)
    return Fit(
        law=law,
        in_sample=error_of(law, profile),
        out_of_sample=chosen.out_of_sample,
        residuals=predict(law, profile) - profile.seconds,
        tile=found,
        tile_errors=tuple(evidence.items()),
        knee=find_knee(profile, fit_form("roofline", profile, found)),
        tried=tried,
        reason=reason,
        intervals=coefficient_intervals(profile, law),
        tokens=(int(profile.tokens.min()), int(profile.tokens.max())),
        kv=(int(profile.kv.min()), int(profile.kv.max())),
        gpu=profile.gpu,
        model=profile.model,
        tp=profile.tp,
        missing=profile.missing,
        assumptions=_assumptions(profile, train),
        source=f"{profile.format or 'own'} profile {profile.source}".strip(),
        provenance=provenance(
            seed.entropy,
            form=form,
            tile=tile,
            enough=enough,
            rows=len(profile),
            steps_seed=profile.entropy,
        ),
    )


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
