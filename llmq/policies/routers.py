"""Which engine a request goes to, at its arrival.

A router that needs no state (``RoundRobin``, ``Random``) splits a trace beforehand, so that every
engine is simulated by itself; ``LeastWork`` looks at the outstanding tokens of each engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["ROUTERS", "LeastWork", "Random", "RoundRobin", "Router"]

Ints: TypeAlias = npt.NDArray[np.int64]


class Router(Protocol):
    """Chooses an engine for each arrival."""

    name: ClassVar[str]

    def split(self, n: int, engines: int, rng: np.random.Generator) -> Ints | None:
        """Engine of each of ``n`` arrivals, or None where the choice needs the state."""

    def pick(self, work: Sequence[float]) -> int:
        """Engine for one arrival, from the outstanding tokens of each."""


@dataclass(frozen=True, slots=True)
class RoundRobin:
    """One engine after the other.

    Examples
    --------
    >>> RoundRobin().split(5, 2, np.random.default_rng(0))
    array([0, 1, 0, 1, 0])
    """

    name: ClassVar[str] = "round-robin"

    def split(self, n: int, engines: int, rng: np.random.Generator) -> Ints | None:
        """Deal the arrivals out in turn.

        Parameters
        ----------
        n : int
            Arrivals.
        engines : int
            Engines.
        rng : numpy.random.Generator
            Not used.

        Returns
        -------
        ndarray of int, shape (n,)
            Engine of each arrival.
        """
        return np.arange(n) % engines

    def pick(self, work: Sequence[float]) -> int:
        """Refuse: the choice needs no state.

        Parameters
        ----------
        work : sequence of float
            Not used.

        Returns
        -------
        int
            Never.
        """
        raise TypeError(f"{self.name} splits beforehand")


@dataclass(frozen=True, slots=True)
class Random:
    """Each engine is equally likely: the planner of RAD.

    Examples
    --------
    >>> Random().split(4, 1, np.random.default_rng(0))
    array([0, 0, 0, 0])
    """

    name: ClassVar[str] = "random"

    def split(self, n: int, engines: int, rng: np.random.Generator) -> Ints | None:
        """Draw an engine for each arrival.

        Parameters
        ----------
        n : int
            Arrivals.
        engines : int
            Engines.
        rng : numpy.random.Generator
            Source of randomness.

        Returns
        -------
        ndarray of int, shape (n,)
            Engine of each arrival.
        """
        return rng.integers(engines, size=n)

    def pick(self, work: Sequence[float]) -> int:
        """Refuse: the choice needs no state.

        Parameters
        ----------
        work : sequence of float
            Not used.

        Returns
        -------
        int
            Never.
        """
        raise TypeError(f"{self.name} splits beforehand")


@dataclass(frozen=True, slots=True)
class LeastWork:
    """The engine with the fewest outstanding tokens, the first of equals.

    Outstanding tokens are those of requests sent there that no finished iteration has processed.

    Examples
    --------
    >>> LeastWork().pick([30.0, 10.0, 10.0])
    1
    """

    name: ClassVar[str] = "least-work"

    def split(self, n: int, engines: int, rng: np.random.Generator) -> Ints | None:
        """Say that the choice needs the state.

        Parameters
        ----------
        n : int
            Arrivals.
        engines : int
            Engines.
        rng : numpy.random.Generator
            Not used.

        Returns
        -------
        None
            Always.
        """
        return None

    def pick(self, work: Sequence[float]) -> int:
        """Choose the engine with the least work.

        Parameters
        ----------
        work : sequence of float
            Outstanding tokens of each engine.

        Returns
        -------
        int
            Index of the engine.
        """
        return min(range(len(work)), key=work.__getitem__)


ROUTERS = (RoundRobin, Random, LeastWork)
