r"""The time of one iteration.

Every law of the literature that the toolkit uses is a sum of a curve in the number of tokens and
two linear attention terms,

.. math:: t(n, \kappa, W) = f(n) + e\,\kappa + w\,W, \qquad t = 0 \text{ if } n = 0,

with ``n`` tokens in the batch, ``kappa`` KV tokens read (each served row counts what it holds when
the iteration ends) and ``W`` the attention work of the prefill chunks, the sum of
``chunk * (cached + chunk / 2)``. Over a whole prompt of ``s`` tokens ``W`` adds up to ``s**2 / 2``
however it is chunked. Mixed iterations (at least one prefill token) may have their own ``e``.

The curves: affine ``base + per_token n`` (with tiles: ``per_tile ceil(n / tile)``), roofline
``max(floor + floor_per_token n, base + per_token n)`` (its compute branch may be tiled), and a
table interpolated between measured points. Not covered: time that depends on how the context is
spread over the rows (skew), and on MoE routing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from llmq._input.annotations import Numbers
from llmq._input.checked import checked
from llmq.errors import InputError
from llmq.model.time._curve import as_table, check_table, token_curve

if TYPE_CHECKING:
    from llmq.model.time._exact import ExactBatchTime

__all__ = ["BatchTime"]

_COEFFICIENTS = (
    *("base", "per_token", "floor", "floor_per_token"),
    *("per_tile", "per_kv", "per_kv_mixed", "per_work"),
)

Floats: TypeAlias = npt.NDArray[np.float64]


@checked
@dataclass(frozen=True, slots=True)
class BatchTime:
    """A law for the time of one iteration; make one with a classmethod.

    Parameters
    ----------
    form : {"affine", "tiled", "roofline", "table"}
        Which curve.
    base, per_token : float
        Seconds, seconds per token: the compute branch.
    floor, floor_per_token : float
        Seconds, seconds per token: the memory branch of a roofline.
    per_tile : float
        Seconds per started tile.
    tile : int
        Tokens per tile; 1 means no tiles.
    tokens, seconds : tuple
        Grid of a table, ascending tokens from 1 and the time at each.
    per_kv, per_kv_mixed : float
        Seconds per KV token read, in decode-only and in mixed iterations.
    per_work : float
        Seconds per unit of attention work (token^2).

    Examples
    --------
    >>> law = BatchTime.affine(base=0.012, per_token=2.5e-5, per_kv=1e-8)
    >>> law(tokens=512, kv=20_000)
    0.025
    >>> law.exact()(512, 20_000)
    Fraction(1, 40)
    """

    form: str
    base: float = 0.0
    per_token: float = 0.0
    floor: float = 0.0
    floor_per_token: float = 0.0
    per_tile: float = 0.0
    tile: int = 1
    tokens: tuple[int, ...] = ()
    seconds: tuple[float, ...] = ()
    per_kv: float = 0.0
    per_kv_mixed: float = 0.0
    per_work: float = 0.0

    @classmethod
    @checked
    def affine(
        cls,
        *,
        base: float,
        per_token: float,
        per_kv: float = 0.0,
        per_kv_mixed: float | None = None,
        per_work: float = 0.0,
    ) -> BatchTime:
        """Return ``base + per_token * tokens + per_kv * kv + per_work * work``.

        Parameters
        ----------
        base : float
            Seconds of every iteration (weights read, launch).
        per_token : float
            Seconds per token.
        per_kv : float
            Seconds per KV token read.
        per_kv_mixed : float, optional
            The same in iterations that hold prefill tokens; ``per_kv`` if not given.
        per_work : float
            Seconds per token^2 of prefill attention.

        Returns
        -------
        BatchTime
            The law.

        Raises
        ------
        InputError
            A coefficient is negative or not finite, or all are zero.

        Examples
        --------
        >>> BatchTime.affine(base=0.01, per_token=1e-4)(100)
        0.02
        """
        mixed = per_kv if per_kv_mixed is None else per_kv_mixed
        return cls(
            "affine",
            base=base,
            per_token=per_token,
            per_kv=per_kv,
            per_kv_mixed=mixed,
            per_work=per_work,
        )

    @classmethod
    @checked
    def tiled(
        cls,
        *,
        base: float,
        per_tile: float,
        tile: int,
        per_token: float = 0.0,
        per_kv: float = 0.0,
        per_kv_mixed: float | None = None,
        per_work: float = 0.0,
    ) -> BatchTime:
        """Return ``base + per_tile * ceil(tokens / tile) + per_token * tokens + ...``.

        Parameters
        ----------
        base : float
            Seconds of every iteration.
        per_tile : float
            Seconds per started tile.
        tile : int
            Tokens per tile.
        per_token : float
            Seconds per token beside the tiles (RAD's nonlinear layers).
        per_kv, per_kv_mixed, per_work : float
            As in :meth:`affine`.

        Returns
        -------
        BatchTime
            The law.

        Examples
        --------
        >>> law = BatchTime.tiled(base=11.28, per_tile=35.47, tile=128)
        >>> law(128), law(129)
        (46.75, 82.22)
        """
        mixed = per_kv if per_kv_mixed is None else per_kv_mixed
        return cls(
            "tiled",
            base=base,
            per_tile=per_tile,
            tile=tile,
            per_token=per_token,
            per_kv=per_kv,
            per_kv_mixed=mixed,
            per_work=per_work,
        )

    @classmethod
    @checked
    def roofline(
        cls,
        *,
        floor: float,
        base: float,
        per_token: float,
        floor_per_token: float = 0.0,
        per_kv: float = 0.0,
        per_kv_mixed: float | None = None,
        per_work: float = 0.0,
        tile: int = 1,
    ) -> BatchTime:
        """Return ``max(floor + floor_per_token * n, base + per_token * n) + attention``.

        Parameters
        ----------
        floor, floor_per_token : float
            Memory branch: the weights are read whatever the batch.
        base, per_token : float
            Compute branch; ``c + a max(0, n - b0)`` with ``c < a b0`` is a :meth:`table`.
        per_kv, per_kv_mixed, per_work : float
            As in :meth:`affine`.
        tile : int
            Tokens are rounded up to whole tiles in the compute branch.

        Returns
        -------
        BatchTime
            The law.

        Examples
        --------
        >>> law = BatchTime.roofline(floor=6.0, base=1.0, per_token=0.1)
        >>> law(10), law(100)
        (6.0, 11.0)
        """
        mixed = per_kv if per_kv_mixed is None else per_kv_mixed
        return cls(
            "roofline",
            floor=floor,
            floor_per_token=floor_per_token,
            base=base,
            per_token=per_token,
            tile=tile,
            per_kv=per_kv,
            per_kv_mixed=mixed,
            per_work=per_work,
        )

    @classmethod
    def table(
        cls,
        *,
        tokens: Numbers,
        seconds: Numbers,
        per_kv: float = 0.0,
        per_kv_mixed: float | None = None,
        per_work: float = 0.0,
    ) -> BatchTime:
        """Return a law that interpolates between measured points.

        Parameters
        ----------
        tokens : array_like of int, shape (n_points,)
            Ascending; a jump is two neighbouring counts (128, 129).
        seconds : array_like of float, shape (n_points,)
            Time at each; must not decrease. Below the first point the first time holds, above
            the last one the last slope.
        per_kv, per_kv_mixed, per_work : float
            As in :meth:`affine`.

        Returns
        -------
        BatchTime
            The law.

        Raises
        ------
        InputError
            Fewer than two points, unsorted tokens, or a decreasing time.

        Examples
        --------
        >>> BatchTime.table(tokens=[1, 128, 129, 256], seconds=[1.0, 1.5, 2.0, 2.5])(64)
        1.248031496062992
        """
        n, t = tuple(np.ravel(tokens).tolist()), tuple(np.ravel(seconds).tolist())
        mixed = per_kv if per_kv_mixed is None else per_kv_mixed
        more: Any = {"per_kv": per_kv, "per_kv_mixed": mixed, "per_work": per_work}
        return cls("table", tokens=n, seconds=t, **more)

    def __post_init__(self) -> None:
        if self.form not in ("affine", "tiled", "roofline", "table"):
            raise InputError(f"unknown form of batch time {self.form!r}", value=self.form)
        for name in _COEFFICIENTS:
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise InputError(
                    f"batch time: {name} must be a finite number >= 0 (seconds), got {value}"
                    + as_table(self) * (name == "base"),
                    field=name,
                    value=value,
                )
        if not self.tile >= 1:
            raise InputError(f"batch time: tile must be at least 1 token, got {self.tile}")
        if self.form == "table":
            check_table(self.tokens, self.seconds)
        elif not self.token_time(1) > 0:
            raise InputError("batch time: an iteration with one token must take time, got 0 s")

    def token_time(self, tokens: int) -> float:
        """Time of an iteration of ``tokens`` tokens without its attention, seconds.

        Parameters
        ----------
        tokens : int
            Tokens in the batch.

        Returns
        -------
        float
            Seconds; 0 for an empty batch.
        """
        return float(self.curve(np.asarray([tokens]))[0])

    def curve(self, tokens: npt.ArrayLike) -> Floats:
        """Token part ``f(n)`` of the law.

        Parameters
        ----------
        tokens : array_like
            Tokens in the batch.

        Returns
        -------
        ndarray
            Seconds, 0 where the batch is empty.
        """
        return token_curve(self, np.asarray(tokens, dtype=np.float64))

    def __call__(
        self,
        tokens: npt.ArrayLike,
        kv: npt.ArrayLike = 0.0,
        work: npt.ArrayLike = 0.0,
        *,
        mixed: npt.ArrayLike = False,
    ) -> Any:
        """Time of one iteration.

        Parameters
        ----------
        tokens : array_like
            Tokens in the batch.
        kv : array_like
            KV tokens read.
        work : array_like
            Attention work of the prefill chunks (token^2); more than 0 implies ``mixed``.
        mixed : array_like of bool
            Whether the batch holds prefill tokens.

        Returns
        -------
        float or ndarray
            Seconds; 0 for an empty batch.

        Examples
        --------
        >>> BatchTime.affine(base=1.0, per_token=0.5)([0, 1, 2])
        array([0. , 1.5, 2. ])
        """
        n, k, w = (np.asarray(x, dtype=np.float64) for x in (tokens, kv, work))
        rate = np.where(np.asarray(mixed) | (w > 0), float(self.per_kv_mixed), float(self.per_kv))
        time = np.where(n > 0, self.curve(n) + rate * k + float(self.per_work) * w, 0.0)
        return time if time.ndim else float(time)

    def exact(self) -> ExactBatchTime:
        """Return the twin that computes with Fractions.

        Returns
        -------
        ExactBatchTime
            Coefficients are the decimals that were written: 0.025 is 1/40.
        """
        from llmq.model.time._exact import ExactBatchTime

        return ExactBatchTime(self)

    @checked
    def scaled(self, factor: float) -> BatchTime:
        """Return the law of an engine ``factor`` times slower.

        Parameters
        ----------
        factor : float
            Multiplies every time.

        Returns
        -------
        BatchTime
            The law.

        Examples
        --------
        >>> BatchTime.affine(base=1.0, per_token=0.5).scaled(2)(2)
        4.0
        """
        return replace(
            self,
            seconds=tuple(factor * t for t in self.seconds),
            **{name: factor * getattr(self, name) for name in _COEFFICIENTS},
        )

    def __str__(self) -> str:
        words = [f"{n}={float(getattr(self, n)):.4g}" for n in _COEFFICIENTS if getattr(self, n)]
        words += [f"tile={self.tile}"] * (self.tile > 1)
        words += [f"{len(self.tokens)} points to {t} tokens" for t in self.tokens[-1:]]
        return f"{self.form}({', '.join(words)})"
