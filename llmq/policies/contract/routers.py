"""Which engine a request goes to: at its arrival, and perhaps again when its reasoning ends.

A router that needs no state (``RoundRobin``, ``Random``) splits a trace beforehand, so that every
engine is simulated by itself; the others look at the engines. What they look at is listed in
``sees``: columns of :class:`Signals`, all written on arrays whose last axis is the engine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from llmq._input.checked import checked
from llmq.errors import InputError
from llmq.policies.contract.view import View

__all__ = [
    "ROUTERS",
    "LeastKV",
    "LeastWork",
    "PowerOfD",
    "PriceWeighted",
    "Random",
    "RoundRobin",
    "Router",
    "ShortestQueue",
    "Signals",
]

Ints: TypeAlias = npt.NDArray[np.int64]
Floats: TypeAlias = npt.NDArray[np.float64]


class Signals(NamedTuple):
    """What a router sees of the engines that may serve a request; only what it lists is filled.

    Parameters
    ----------
    klass : str
        Class of the request; empty for a router that does not list it.
    draw : float
        A uniform number of its own.
    requests, work, kv : ndarray, shape (engines,)
        Requests sent there that have not ended, their outstanding tokens, and the KV tokens they
        hold on the device or the host.
    counts : mapping of str to ndarray of shape (engines,)
        Requests by class.
    views : tuple of View
        Everybody sent there, row by row, as of the last iteration that has ended.
    """

    klass: str
    draw: float
    requests: Floats
    work: Floats
    kv: Floats
    counts: Mapping[str, Floats]
    views: tuple[View, ...]


class Router:
    """Chooses an engine; a frozen dataclass that overrides what it needs."""

    __slots__ = ()
    name: ClassVar[str]
    sees: ClassVar[frozenset[str]] = frozenset()
    moves: ClassVar[bool] = False

    def split(self, n: int, engines: int, rng: np.random.Generator) -> Ints | None:
        """Choose beforehand, where the choice needs no state.

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
        ndarray of int, shape (n,), or None
            Engine of each arrival; None if the router must look at the engines.
        """
        return None

    def pick(self, signals: Signals) -> int:
        """Choose the engine of an arrival.

        Parameters
        ----------
        signals : Signals
            The engines that may serve it.

        Returns
        -------
        int
            One of them.
        """
        raise TypeError(f"{self.name} splits beforehand")

    def move(self, signals: Signals, here: int, row: int) -> int:
        """Choose where a request goes on when its reasoning has ended (routers that ``moves``).

        Parameters
        ----------
        signals : Signals
            The engines that may serve it.
        here : int
            The one it is on.
        row : int
            Its place in the view of that engine.

        Returns
        -------
        int
            One of them.
        """
        return here


@checked
@dataclass(frozen=True, slots=True)
class RoundRobin(Router):
    """One engine after the other.

    Examples
    --------
    >>> RoundRobin().split(5, 2, np.random.default_rng(0))
    array([0, 1, 0, 1, 0])
    """

    name: ClassVar[str] = "round-robin"

    def split(self, n: int, engines: int, rng: np.random.Generator) -> Ints | None:  # noqa: D102
        return np.arange(n) % engines


@checked
@dataclass(frozen=True, slots=True)
class Random(Router):
    """Each engine is equally likely: the planner of RAD.

    Examples
    --------
    >>> Random().split(4, 1, np.random.default_rng(0))
    array([0, 0, 0, 0])
    """

    name: ClassVar[str] = "random"

    def split(self, n: int, engines: int, rng: np.random.Generator) -> Ints | None:  # noqa: D102
        return rng.integers(engines, size=n)


@checked
@dataclass(frozen=True, slots=True)
class ShortestQueue(Router):
    """Join the shortest queue: the engine with the fewest requests, the first of equals."""

    name: ClassVar[str] = "shortest-queue"
    sees: ClassVar[frozenset[str]] = frozenset({"requests"})

    def pick(self, signals: Signals) -> int:  # noqa: D102
        return int(np.argmin(signals.requests))


@checked
@dataclass(frozen=True, slots=True)
class LeastWork(Router):
    """The engine with the fewest outstanding tokens, the first of equals.

    Outstanding tokens are those of requests sent there that no finished iteration has processed:
    it knows output lengths.
    """

    name: ClassVar[str] = "least-work"
    sees: ClassVar[frozenset[str]] = frozenset({"work"})

    def pick(self, signals: Signals) -> int:  # noqa: D102
        return int(np.argmin(signals.work))


@checked
@dataclass(frozen=True, slots=True)
class LeastKV(Router):
    """The engine whose requests hold the fewest KV tokens, the first of equals."""

    name: ClassVar[str] = "least-kv"
    sees: ClassVar[frozenset[str]] = frozenset({"kv"})

    def pick(self, signals: Signals) -> int:  # noqa: D102
        return int(np.argmin(signals.kv))


@checked
@dataclass(frozen=True, slots=True)
class PowerOfD(Router):
    """The shortest queue among ``d`` engines drawn at random (different ones).

    Parameters
    ----------
    d : int
        How many; JSQ(d). All engines if there are fewer.

    Examples
    --------
    >>> PowerOfD(2).drawn(0.99, 4)
    [3, 2]
    """

    d: int = 2
    name: ClassVar[str] = "power-of-d"
    sees: ClassVar[frozenset[str]] = frozenset({"requests"})

    def __post_init__(self) -> None:
        if self.d < 1:
            raise InputError(f"power-of-d needs d of at least 1, got {self.d}", value=self.d)

    def drawn(self, draw: float, engines: int) -> list[int]:
        """Return the engines that a uniform number stands for.

        Parameters
        ----------
        draw : float
            In [0, 1).
        engines : int
            Engines to choose from.

        Returns
        -------
        list of int
            ``d`` different ones; every subset is equally likely.
        """
        left, chosen = list(range(engines)), []
        for _ in range(min(self.d, engines)):
            draw *= len(left)
            place = min(int(draw), len(left) - 1)
            draw -= place
            chosen.append(left.pop(place))
        return chosen

    def pick(self, signals: Signals) -> int:  # noqa: D102
        some = self.drawn(signals.draw, len(signals.requests))
        return min(some, key=signals.requests.__getitem__)


@checked
@dataclass(frozen=True, slots=True)
class PriceWeighted(Router):
    """The engine with the least priced backlog times the price of the request there.

    With ``w_jg`` engine-seconds of class ``j`` on engine ``g`` and ``W_g`` the sum of them over the
    requests there, a request goes to the least ``W_g w_jg``: MaxWeight for routing, which carries
    the whole region where the speed depends on class and engine and joining the shortest queue
    does not.

    Parameters
    ----------
    prices : mapping of str to sequence of float
        Engine-seconds of a request of each class on each engine, fleet order.

    Examples
    --------
    >>> PriceWeighted({"chat": (1.0, 2.0)}).prices
    (('chat', (1.0, 2.0)),)
    """

    prices: tuple[tuple[str, tuple[float, ...]], ...]
    name: ClassVar[str] = "price-weighted"
    sees: ClassVar[frozenset[str]] = frozenset({"klass", "counts"})

    def __init__(self, prices: Mapping[str, tuple[float, ...]]) -> None:
        items = prices.items() if isinstance(prices, Mapping) else prices
        fixed = tuple((name, tuple(float(x) for x in row)) for name, row in items)
        if len({len(row) for _, row in fixed}) != 1 or not all(x > 0 for _, r in fixed for x in r):
            raise InputError(
                "price-weighted needs positive engine-seconds, one for each engine, for each class",
                field="prices",
                value=prices,
            )
        object.__setattr__(self, "prices", fixed)

    def pick(self, signals: Signals) -> int:  # noqa: D102
        prices = dict(self.prices)
        for name in (signals.klass, *signals.counts):
            if name not in prices:
                raise InputError(f"price-weighted has no price for class {name!r}", value=name)
        backlog = sum(np.asarray(prices[name]) * n for name, n in signals.counts.items())
        return int(np.argmin((backlog + 1e-300) * np.asarray(prices[signals.klass])))


ROUTERS = (RoundRobin, Random, ShortestQueue, LeastWork, LeastKV, PowerOfD)
