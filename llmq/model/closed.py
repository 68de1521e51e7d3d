r"""Closed clients: a fixed number of users, each with at most one request at a time.

A user sends a request, waits for its last token, thinks, and sends the next one. Arrivals depend on
completions, so a closed loop has no arrival rate of its own: its throughput ``X`` is an outcome.
With ``R`` the mean time in the system and ``Z`` the mean think time, Little's law for all users
gives :math:`N = X (R + Z)`, whatever the policy. Load tests of serving engines ("concurrency 32")
are closed loops: they never overload an engine, they slow the users down to what it carries.

At time 0 all users begin to think; without think time all send at once. Think times are exponential
unless told otherwise: users that all think for the same fixed time never get out of step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NoReturn

import numpy as np

from llmq._input.checked import checked
from llmq.errors import InputError
from llmq.model.arrivals import Arrivals, Floats
from llmq.rng import RngLike, generator

__all__ = ["Closed"]


@checked
@dataclass(frozen=True, slots=True)
class Closed(Arrivals):
    """Users that wait for their answers.

    Parameters
    ----------
    users : int
        How many.
    think : float
        Mean time between an answer and the user's next request, seconds.
    cv : float
        Coefficient of variation of that time: 1 exponential, 0 always the same, else gamma. With 0
        equal users stay in step for ever: all of them send in the same moments.

    Examples
    --------
    >>> Closed(3, think=0.5, cv=0.0).pauses(2, rng=1)
    array([0.5, 0.5])
    """

    users: int
    think: float = 0.0
    cv: float = 1.0

    def __post_init__(self) -> None:
        whole = isinstance(self.users, int | np.integer) and not isinstance(self.users, bool)
        if not whole or self.users < 1:
            raise InputError(
                f"users must be a whole number of clients, at least 1, got {self.users!r}",
                field="users",
                value=self.users,
            )
        for name in ("think", "cv"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise InputError(f"{name} must be >= 0 and finite, got {value}", value=value)

    @property
    def rate(self) -> float:
        """Refused: the throughput of a closed loop is an outcome."""
        self._refuse("has no arrival rate of its own")

    @property
    def dispersion(self) -> float:
        """Refused, like the rate."""
        self._refuse("has no index of dispersion of its own")

    def _times(self, n: int, rng: np.random.Generator) -> Floats:
        self._refuse("cannot be drawn beforehand")

    @checked
    def at_rate(self, rate: float) -> Closed:  # noqa: D102 (refused)
        self._refuse(f"cannot be told to run at {rate} req/s")

    @checked
    def pauses(self, n: int, rng: RngLike) -> Floats:
        """Draw think times.

        Parameters
        ----------
        n : int
            How many.
        rng : Generator, SeedSequence, int or None
            Source of randomness.

        Returns
        -------
        ndarray, shape (n,)
            Seconds.
        """
        if self.think == 0 or self.cv == 0:
            return np.full(n, float(self.think))
        shape = self.cv**-2
        return generator(rng).gamma(shape, self.think / shape, n)

    def _refuse(self, what: str) -> NoReturn:
        raise InputError(
            f"a closed loop of {self.users} users {what}: its requests follow its answers. "
            "Simulate it and read the throughput, or use Workload.poisson(rate, mix)",
            field="users",
            value=self.users,
        )
