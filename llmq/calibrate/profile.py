r"""What a GPU was measured to do: iterations with their regressors and their time.

A row is one iteration: ``tokens`` in the batch, ``kv`` = sum over served rows of the KV tokens
held when the iteration ends, ``work`` = sum over prefill chunks of ``chunk * (cached + chunk/2)``,
``prefill`` = prompt tokens among the tokens, ``seconds``. A profile of the layers alone (scope
``"layers"``) knows the token count only: ``kv = work = 0``.

What a profile lacks is said in ``missing`` and counted as zero unless a value was assumed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from llmq.errors import InputError, nearest

__all__ = ["Profile"]

Ints: TypeAlias = npt.NDArray[np.int64]
Floats: TypeAlias = npt.NDArray[np.float64]

_ARRAYS = ("tokens", "kv", "work", "prefill", "seconds")


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Profile:
    """Measured or composed iterations of one model on one GPU type.

    Parameters
    ----------
    tokens : ndarray of int, shape (n,)
        Tokens in the batch, at least 1.
    seconds : ndarray, shape (n,)
        Time of the iteration, seconds, positive.
    kv : ndarray of int, shape (n,)
        KV tokens read; zeros if not given.
    work : ndarray, shape (n,)
        Attention work of the prefill chunks, token^2; zeros if not given.
    prefill : ndarray of int, shape (n,)
        Prompt tokens among ``tokens``; zeros if not given.
    scope : {"iteration", "layers"}
        Whole iterations, or the layers without attention.
    gpu, model : str
        What was measured.
    tp : int
        GPUs that share the model (tensor parallelism).
    format : str
        Name of the source format.
    units : str
        How the numbers became seconds per iteration.
    missing : tuple of str
        Parts of an iteration that the profile lacks, e.g. ``"LM head"``.
    assumed : mapping of str to float
        Seconds per iteration already added for missing parts.
    notes : tuple of str
        What else to know: versions, rules of composition.
    source : str
        Where it came from.
    entropy : str
        Seed of the drawn steps, empty if none were drawn.

    Examples
    --------
    >>> profile = Profile(tokens=[1, 128, 256], seconds=[0.01, 0.011, 0.02])
    >>> len(profile), profile.scope
    (3, 'layers')
    """

    tokens: Ints
    seconds: Floats
    kv: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    work: Floats = field(default_factory=lambda: np.zeros(0))
    prefill: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    scope: Literal["iteration", "layers", ""] = ""
    gpu: str = ""
    model: str = ""
    tp: int = 1
    format: str = ""
    units: str = "seconds per iteration"
    missing: tuple[str, ...] = ()
    assumed: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    source: str = ""
    entropy: str = ""

    def __post_init__(self) -> None:
        n = np.asarray(self.tokens).size
        for name in _ARRAYS:
            kind = np.float64 if name in ("work", "seconds") else np.int64
            values = np.asarray(getattr(self, name), dtype=kind).ravel()
            values = np.zeros(n, kind) if values.size == 0 else values.copy()
            if values.size != n:
                raise InputError(f"profile: {n} token counts but {values.size} values of {name}")
            values.flags.writeable = False
            object.__setattr__(self, name, values)
        _check(self)
        if not self.scope:
            whole = bool(np.any(self.kv > 0))
            object.__setattr__(self, "scope", "iteration" if whole else "layers")

    def __len__(self) -> int:
        return int(self.tokens.size)

    @property
    def mixed(self) -> npt.NDArray[np.bool_]:
        """Whether each iteration holds prompt tokens, shape (n,)."""
        return np.asarray(self.prefill > 0)

    def take(self, rows: npt.NDArray[Any]) -> Profile:
        """Return some of the rows.

        Parameters
        ----------
        rows : ndarray
            Indices or a mask, shape (n,).

        Returns
        -------
        Profile
            The same facts about fewer rows.

        Examples
        --------
        >>> Profile(tokens=[1, 2, 3], seconds=[0.1, 0.2, 0.3]).take(np.array([0, 2])).tokens
        array([1, 3])
        """
        columns: dict[str, Any] = {name: getattr(self, name)[rows] for name in _ARRAYS}
        return replace(self, **columns)

    def assuming(self, assume: Mapping[str, float] | None) -> Profile:
        """Return the profile with times added for parts it lacks.

        Parameters
        ----------
        assume : mapping of str to float, optional
            Seconds per iteration for parts named in ``missing``; case and underscores do not
            matter.

        Returns
        -------
        Profile
            Longer iterations, fewer missing parts.

        Raises
        ------
        InputError
            A part that is not missing, or a time that is not a finite number >= 0.

        Examples
        --------
        >>> bare = Profile(tokens=[1, 2], seconds=[0.1, 0.2], missing=("LM head",))
        >>> bare.assuming({"lm_head": 0.5}).seconds
        array([0.6, 0.7])
        """
        given = {part.replace("_", " ").lower(): part for part in self.missing}
        assume = {given.get(k.replace("_", " ").lower(), k): v for k, v in (assume or {}).items()}
        for part, value in assume.items():
            if part not in self.missing:
                known = nearest(part, self.missing) if self.missing else "; nothing is missing"
                raise InputError(f"assume: the profile does not lack {part!r}{known}", value=part)
            if not 0 <= value < math.inf:
                raise InputError(
                    f"assume: {part} must take a finite time >= 0 (seconds), got {value}",
                    value=value,
                )
        return replace(
            self,
            seconds=self.seconds + sum(assume.values()),
            missing=tuple(part for part in self.missing if part not in assume),
            assumed={**self.assumed, **assume},
        )

    def __str__(self) -> str:
        what = " ".join(x for x in (self.gpu, self.model, f"TP{self.tp}") if x)
        lacks = f", without {', '.join(self.missing)}" if self.missing else ""
        return f"{what}: {len(self)} {self.scope} points ({self.format or 'own'}{lacks})"


def _check(profile: Profile) -> None:
    if len(profile) == 0:
        raise InputError("profile: no rows")
    for name, low in (("tokens", 1), ("kv", 0), ("work", 0), ("prefill", 0)):
        values = getattr(profile, name)
        if np.any(bad := ~(values >= low)):
            row = int(np.argmax(bad))
            raise InputError(f"profile row {row}: {name} must be at least {low}, got {values[row]}")
    bad = ~((profile.seconds > 0) & np.isfinite(profile.seconds))
    if np.any(bad):
        row = int(np.argmax(bad))
        raise InputError(
            f"profile row {row}: seconds must be positive and finite, got {profile.seconds[row]}"
        )
    if np.any(bad := (profile.prefill > profile.tokens) | (profile.work > 0) & ~profile.mixed):
        row = int(np.argmax(bad))
        raise InputError(
            f"profile row {row}: {profile.prefill[row]} prompt tokens do not go with "
            f"{profile.tokens[row]} tokens and attention work {profile.work[row]:g}"
        )
    if profile.tp < 1:
        raise InputError(f"profile: tp must be at least 1 GPU, got {profile.tp}", value=profile.tp)
