r"""Least average cost of a finite Markov decision problem, by relative value iteration.

With ``(T h)(i) = min_a [c(i, a) + sum_j p(j | i, a) h(j)]`` every ``h`` brackets the least average
cost ``g``: :math:`\min_i (T h - h)(i) \le g \le \max_i (T h - h)(i)` (Odoni; Puterman 8.5). The
iteration moves only part of the way, ``h <- h + step (T h - h - shift)``, which makes every chain
aperiodic without moving ``g``, and stops when the bracket is narrower than the tolerance.

The result is the bracket and a policy greedy for the last ``h``. It is a yardstick for schedulers
on systems small enough to enumerate.

Not covered: problems whose least average cost depends on the start: their bracket does not close.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from llmq._input.checked import checked
from llmq.errors import InputError, UndecidedError
from llmq.result import Kind
from llmq.theory.chains._stationary import Number
from llmq.theory.latency._base import Law, check_number, check_whole

__all__ = ["Choice", "OptimalCost", "optimal_cost"]

Floats: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.int64]
Choice: TypeAlias = "tuple[Number, Mapping[int, Number]]"

_STEP = 0.9  # part of the way that an iteration moves


@checked(record=True)
@dataclass(frozen=True, slots=True, kw_only=True)
class OptimalCost(Law):
    """Least average cost and a policy that has it.

    Parameters
    ----------
    low, high : float
        Bracket of the least average cost per step.
    policy : tuple of int
        For each state the number of the choice to make.
    values : ndarray, shape (n_states,)
        Relative values: what it costs more to start there, state 0 at 0.
    sweeps : int
        Iterations.
    kind, assumptions, source
        As in every result.
    """

    low: float
    high: float
    policy: tuple[int, ...] = field(repr=False)
    values: Floats = field(repr=False, compare=False)
    sweeps: int

    @property
    def cost(self) -> float:
        """Middle of the bracket."""
        return (self.low + self.high) / 2


@checked
def optimal_cost(
    choices: Sequence[Sequence[Choice]], *, tolerance: float = 1e-11, sweeps: int = 500_000
) -> OptimalCost:
    """Return the least average cost per step of a Markov decision problem.

    Parameters
    ----------
    choices : sequence of sequence of (cost, mapping)
        For each state its choices: the cost of a step and the probabilities of the next states.
    tolerance : float
        Width of the bracket at which to stop.
    sweeps : int
        Most iterations.

    Returns
    -------
    OptimalCost
        The bracket holds up to rounding.

    Raises
    ------
    InputError
        No states, a state without a choice, or probabilities that are negative or do not sum to 1.
    UndecidedError
        The bracket did not close; fields ``low`` and ``high``.

    Examples
    --------
    >>> stay, leave = (3.0, {0: 1.0}), (1.0, {1: 1.0})
    >>> best = optimal_cost([[stay, leave], [(2.0, {0: 1.0})]])
    >>> best.cost, best.policy
    (1.5, (1, 0))
    """
    width, most = check_number("tolerance", tolerance), check_whole("sweeps", sweeps)
    costs, first, matrix = _table(choices)
    h, low, high = np.zeros(len(first)), -math.inf, math.inf
    for done in range(1, most + 1):
        q = costs + matrix @ h
        gain = np.minimum.reduceat(q, first) - h
        # Every bracket holds, so their intersection does: rounding cannot widen it again.
        low, high = max(low, float(gain.min())), min(high, float(gain.max()))
        if high - low <= width:
            return _optimum(q, first, h, (low, high), done, width)
        h += _STEP * (gain - gain[0])
    raise UndecidedError(
        f"after {most} sweeps the least cost lies between {low:.8g} and {high:.8g}: allow more "
        "sweeps or a larger tolerance; it does not close where the cost depends on the start",
        low=low,
        high=high,
    )


def _optimum(
    q: Floats, first: Ints, h: Floats, bracket: tuple[float, float], sweeps: int, width: float
) -> OptimalCost:
    ends = np.r_[first[1:], len(q)]
    h.flags.writeable = False
    return OptimalCost(
        low=bracket[0],
        high=bracket[1],
        values=h,
        sweeps=sweeps,
        kind=Kind.APPROXIMATION,
        policy=tuple(int(np.argmin(q[a:b])) for a, b in zip(first, ends, strict=True)),
        assumptions=("finite states and choices", "double precision", f"bracket below {width:g}"),
        source="Odoni 1969; Puterman 1994, section 8.5",
    )


def _table(choices: Sequence[Sequence[Choice]]) -> tuple[Floats, Ints, Any]:
    """Costs, first row of each state, and transition matrix, one row for each choice."""
    from scipy.sparse import csr_array

    n = len(choices)
    if not n or not all(choices):
        empty = next((i for i, here in enumerate(choices) if not here), None)
        raise InputError(
            "a decision problem needs at least one state"
            if empty is None
            else f"state {empty} has no choice: give it at least one, e.g. to idle",
            value=empty,
        )
    flat = [(i, *choice) for i, here in enumerate(choices) for choice in here]
    ends = [(row, j, float(p)) for row, (_, _, to) in enumerate(flat) for j, p in to.items()]
    rows, columns, shares = (np.array(column) for column in zip(*ends, strict=True))
    if columns.min() < 0 or columns.max() >= n:
        raise InputError(f"a choice leads to a state that is not one of the {n}", value=n)
    sums = np.bincount(rows, shares, minlength=len(flat))
    bad = np.flatnonzero(~(np.abs(sums - 1) <= 1e-9))
    if len(bad) or shares.min() < 0:
        row = int(bad[0]) if len(bad) else int(rows[np.argmin(shares)])
        raise InputError(
            f"the probabilities of a choice in state {flat[row][0]} must be >= 0 and sum to 1, "
            f"got {dict(flat[row][2])}",
            state=flat[row][0],
        )
    first = np.cumsum([0, *map(len, choices)], dtype=np.int64)[:-1]
    matrix = csr_array((shares, (rows, columns)), shape=(len(flat), n))
    return np.array([float(cost) for _, cost, _ in flat]), first, matrix
