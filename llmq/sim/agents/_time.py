"""Paths over time: levels from changes, and the peaks of an oscillation."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from llmq.errors import InputError

__all__ = ["level_of", "peaks"]

Floats: TypeAlias = npt.NDArray[np.float64]


def level_of(time: Floats, change: Floats) -> tuple[Floats, Floats]:
    """Sum up changes.

    Examples
    --------
    >>> level_of(np.array([2.0, 0.0, 2.0]), np.array([1.0, 5.0, -2.0]))
    (array([0., 2.]), array([5., 4.]))
    """
    if not len(time):
        return np.zeros(0), np.zeros(0)
    order = np.argsort(time, kind="stable")
    when, level = time[order], np.cumsum(change[order])
    last = np.append(np.flatnonzero(np.diff(when)), len(when) - 1)
    return when[last], level[last]


def peaks(time: Floats, level: Floats, *, fall: float = 0.25) -> tuple[Floats, Floats]:
    """Return the peaks of a path: highest points before it falls to a part of them.

    Parameters
    ----------
    time, level : ndarray, shape (events,)
        A path, as of :meth:`AgentRun.backlog`.
    fall : float
        Share of a peak that the path must fall below to end it, and whose inverse it must rise
        by from the lowest point since to begin another.

    Returns
    -------
    time, level : ndarray, shape (peaks,)
        Where they are and how high; a peak that has not fallen at the end does not count.

    Raises
    ------
    InputError
        A share outside (0, 1).

    Examples
    --------
    >>> peaks(np.arange(7.0), np.array([0.0, 4.0, 5.0, 1.0, 2.0, 20.0, 3.0]))
    (array([2., 5.]), array([ 5., 20.]))
    """
    if not 0 < fall < 1:
        raise InputError(f"fall is a share of a peak, between 0 and 1, got {fall}", value=fall)
    found: list[int] = []
    top, low, rising = 0, 0, True
    for i, x in enumerate(level.tolist()):
        if rising:
            top = i if x > level[top] else top
            if x < fall * level[top]:
                found.append(top)
                low, rising = i, False
        else:
            low = i if x < level[low] else low
            if x * fall > level[low]:
                top, rising = i, True
    return time[found], level[found]
