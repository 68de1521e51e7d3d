r"""Numbers of tokens: every length law is a finite list of values with weights.

A token count is a whole number with a bound, so its law is discrete and finite; keeping it that way
makes every moment a finite sum (:math:`E f(X) = \sum_i w_i f(x_i)`), exact where the weights are
equal, and lets theory and simulator use the same numbers. Continuous laws are rounded to the
nearest token and clipped: ``P(X = k) = F(k + 1/2) - F(k - 1/2)``, the tails sit on the bounds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from llmq._input.annotations import Numbers
from llmq._input.checked import checked
from llmq._input.columns import floats
from llmq._limits import LENGTHS, TOKENS
from llmq.errors import InputError, shown
from llmq.rng import RngLike, generator

__all__ = ["Lengths"]

Ints: TypeAlias = npt.NDArray[np.int64]
Floats: TypeAlias = npt.NDArray[np.float64]


@checked
@dataclass(frozen=True, slots=True, eq=False)
class Lengths:
    """A law of token counts; make one with a classmethod.

    Parameters
    ----------
    values : array_like of int, shape (m,)
        Token counts >= 0.
    weights : array_like of float, shape (m,), optional
        Their probabilities (normalised here); all equal if not given.
    label : str
        What it is, for reports.

    Examples
    --------
    >>> Lengths.lognormal(mean=500, sigma=0.9, low=4, high=2048).mean
    478.75
    """

    values: Ints
    weights: Floats | None = None
    label: str = ""

    def __post_init__(self) -> None:
        raw = floats("lengths", self.values)
        if raw.ndim != 1 or not len(raw):
            raise InputError(f"lengths need at least one value in one dimension, got {raw.shape}")
        if not np.all(np.isfinite(raw)):
            raise InputError(f"lengths must be finite numbers of tokens, got {shown(self.values)}")
        if np.any(raw < 0) or np.any(raw != np.floor(raw)):
            bad = raw[(raw < 0) | (raw != np.floor(raw))][0]
            raise InputError(f"a length must be a whole number of tokens >= 0, got {bad:.10g}")
        if raw.max() > TOKENS:
            raise InputError(f"a length is at most {TOKENS:,} tokens, got {shown(raw.max())}")
        values = raw.astype(np.int64)
        values.flags.writeable = False
        object.__setattr__(self, "values", values)
        if self.weights is not None:
            weights = floats("weights of lengths", self.weights)
            total = float(weights.sum())
            if weights.shape != values.shape or np.any(weights < 0) or not 0 < total < math.inf:
                raise InputError("weights of lengths must be >= 0, one for each value, not all 0")
            if not math.isclose(total, 1.0, rel_tol=1e-12):  # or a copy would differ in a last bit
                weights /= total
            weights.flags.writeable = False
            object.__setattr__(self, "weights", weights)

    @classmethod
    @checked
    def fixed(cls, tokens: int) -> Lengths:
        """Every request has ``tokens`` tokens.

        Parameters
        ----------
        tokens : int
            Token count.

        Returns
        -------
        Lengths
            A point mass.
        """
        return cls(np.asarray([tokens]), label=f"fixed {tokens}")

    @classmethod
    @checked
    def uniform(cls, low: int, high: int) -> Lengths:
        """All counts from ``low`` to ``high`` are equally likely.

        Parameters
        ----------
        low, high : int
            Both included.

        Returns
        -------
        Lengths
            The law.

        Examples
        --------
        >>> Lengths.uniform(1, 4).exact_moment(1)
        Fraction(5, 2)
        """
        if not 0 <= low <= high:
            raise InputError(f"uniform lengths need 0 <= low <= high, got {low}, {high}")
        _check_span(low, high)
        return cls(np.arange(low, high + 1), label=f"uniform {low} to {high}")

    @classmethod
    @checked
    def lognormal(cls, *, mean: float, sigma: float, low: int = 1, high: int) -> Lengths:
        """Lognormal, rounded and clipped.

        Parameters
        ----------
        mean : float
            Mean before clipping, tokens.
        sigma : float
            Standard deviation of the logarithm.
        low, high : int
            Bounds; the tails sit on them.

        Returns
        -------
        Lengths
            The law.

        Raises
        ------
        InputError
            If a parameter is not positive or ``low > high``.
        """
        if not (mean > 0 and sigma > 0 and 0 <= low <= high):
            raise InputError(
                f"lognormal lengths need mean > 0, sigma > 0 and 0 <= low <= high, "
                f"got mean={mean}, sigma={sigma}, low={low}, high={high}"
            )
        _check_span(low, high)
        edges = np.arange(low, high) + 0.5
        z = (np.log(edges) - math.log(mean) + sigma**2 / 2) / sigma
        from scipy.special import ndtr

        return cls._from_cdf(low, high, ndtr(z), f"lognormal {mean:g}, sigma {sigma:g}")

    @classmethod
    @checked
    def quantiles(cls, table: Mapping[float, float]) -> Lengths:
        """Piecewise linear between given quantiles, rounded.

        Parameters
        ----------
        table : mapping of float to float
            Probability to tokens; must hold 0 and 1, tokens must not decrease.

        Returns
        -------
        Lengths
            The law.

        Raises
        ------
        InputError
            If an end is missing or the table is not monotone.

        Examples
        --------
        >>> Lengths.quantiles({0: 1, 0.5: 10, 1: 100}).quantile(0.5)
        10
        """
        p = np.asarray(sorted(float(key) for key in table))
        x = np.asarray([float(table[key]) for key in sorted(table)])
        rising = np.all(np.isfinite(x)) and np.all(np.diff(x) >= 0)
        if len(p) < 2 or p[0] != 0 or p[-1] != 1 or not rising or x[0] < 0:
            raise InputError(
                "a quantile table must give tokens at probabilities from 0 to 1, both included, "
                f"never decreasing; got probabilities {p.tolist()} and tokens {x.tolist()}"
            )
        low, high = round(x[0]), round(x[-1])
        _check_span(low, high)
        # Flat pieces are atoms: a tiny slope puts each on its own token.
        x = x + np.arange(len(x)) * 1e-9
        return cls._from_cdf(low, high, np.interp(np.arange(low, high) + 0.5, x, p), "quantiles")

    @classmethod
    def _from_cdf(cls, low: int, high: int, cdf: Floats, label: str) -> Lengths:
        weights = np.diff(np.concatenate(([0.0], cdf, [1.0])))
        keep = weights > 0
        return cls(np.arange(low, high + 1)[keep], weights[keep], f"{label}, {low} to {high}")

    @classmethod
    @checked
    def empirical(cls, values: Numbers) -> Lengths:
        """Take the lengths that were observed, each as likely as another.

        Parameters
        ----------
        values : array_like of int, shape (m,)
            Token counts, in the order in which they were observed.

        Returns
        -------
        Lengths
            The law.
        """
        seen = np.asarray(values)
        return cls(seen, label=f"empirical, n = {len(np.atleast_1d(seen))}")

    @checked
    def expect(self, function: Callable[[Floats], npt.ArrayLike]) -> float:
        """Mean of a function of the length.

        Parameters
        ----------
        function : callable
            Takes and returns an array of shape (m,).

        Returns
        -------
        float
            ``E[function(X)]``.
        """
        outcome = np.asarray(function(self.values.astype(np.float64)), dtype=np.float64)
        return float(outcome.mean() if self.weights is None else outcome @ self.weights)

    @property
    def probabilities(self) -> Floats:
        """Probability of each value, shape (m,), also where all are alike.

        Examples
        --------
        >>> Lengths.uniform(1, 4).probabilities
        array([0.25, 0.25, 0.25, 0.25])
        """
        n = len(self.values)
        return np.full(n, 1 / n) if self.weights is None else self.weights

    @property
    def mean(self) -> float:
        """Mean, tokens."""
        return self.expect(lambda x: x)

    @property
    def second_moment(self) -> float:
        """Mean of the square, tokens^2."""
        return self.expect(lambda x: x * x)

    @checked
    def exact_moment(self, order: int) -> Fraction | None:
        """Moment as a fraction where the weights are equal.

        Parameters
        ----------
        order : int
            1 for the mean, 2 for the mean square.

        Returns
        -------
        fractions.Fraction or None
            None where the weights are floats.
        """
        if self.weights is not None:
            return None
        return Fraction(sum(int(x) ** order for x in self.values), len(self.values))

    @property
    def low(self) -> int:
        """Smallest token count."""
        return int(self.values.min())

    @property
    def high(self) -> int:
        """Largest token count."""
        return int(self.values.max())

    @property
    def is_fixed(self) -> bool:
        """Whether there is only one value."""
        return self.low == self.high

    @checked
    def quantile(self, q: float) -> int:
        """Smallest count that at least a share ``q`` does not exceed.

        Parameters
        ----------
        q : float
            Between 0 and 1.

        Returns
        -------
        int
            Tokens.

        Raises
        ------
        InputError
            If ``q`` is not a share (a percentage, say).
        """
        if not 0 <= q <= 1:
            raise InputError(f"q must lie between 0 and 1 (0.99 for p99), got {q}", value=q)
        order = np.argsort(self.values, kind="stable")
        # The slack keeps the quantile of 0.5 on the middle value though 1/m + ... rounds.
        reached = np.searchsorted(np.cumsum(self.probabilities[order]), q - 1e-12)
        return int(self.values[order[min(int(reached), len(order) - 1)]])

    @checked
    def draw(self, n: int, rng: RngLike) -> Ints:
        """Draw indices into ``values``.

        Parameters
        ----------
        n : int
            How many.
        rng : Generator, SeedSequence, int or None
            Source of randomness.

        Returns
        -------
        ndarray of int, shape (n,)
            Paired laws use the same index.
        """
        stream = generator(rng)
        if self.weights is None:
            return stream.integers(len(self.values), size=n)
        index = np.searchsorted(np.cumsum(self.weights), stream.random(n), side="right")
        return np.minimum(index, len(self.values) - 1).astype(np.int64)

    @checked
    def sample(self, n: int, rng: RngLike = None) -> Ints:
        """Draw independent lengths.

        Parameters
        ----------
        n : int
            How many.
        rng : Generator, SeedSequence, int or None
            Source of randomness.

        Returns
        -------
        ndarray of int, shape (n,)
            Token counts.

        Examples
        --------
        >>> Lengths.fixed(3).sample(2, rng=1)
        array([3, 3])
        """
        return self.values[self.draw(n, rng)]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Lengths):
            return NotImplemented
        mine, theirs = self.weights, other.weights
        same = (
            np.array_equal(mine, theirs)
            if mine is not None and theirs is not None
            else (mine is theirs)
        )
        return bool(same) and np.array_equal(self.values, other.values)

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> tuple[object, ...]:
        # Through the constructor: arrays come out of a pickle unlocked.
        return Lengths, (self.values, self.weights, self.label)

    def __str__(self) -> str:
        return f"{self.label or 'lengths'} (mean {self.mean:.4g} tokens)"


def _check_span(low: int, high: int) -> None:
    if high > TOKENS or high - low > LENGTHS:
        raise InputError(
            f"lengths from {shown(low)} to {shown(high)} are too far apart: a law has at most "
            f"{LENGTHS:,} values, up to {TOKENS:,} tokens",
            value=high,
        )
