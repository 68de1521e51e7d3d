"""Intervals of simulated values: how rows carry them, and how judges read errors back.

A simulated value is a mean of ``n`` independent observations (replications, or parts of one long
path) with its 95 % Student interval. Tables keep the interval, not the standard error; a judge that
compares with an exact value at four standard errors divides the half width by the quantile again.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from experiments.table import Table
from llmq.sim.results._stats import student

__all__ = ["around", "scores", "standard_errors"]


def around(values: npt.ArrayLike, name: str = "y") -> dict[str, float]:
    """Return the part of a row that holds a mean and its interval.

    Parameters
    ----------
    values : array_like, shape (n,)
        Independent observations.
    name : str
        Column of the mean.

    Returns
    -------
    dict of str to float
        Mean, ``low``, ``high`` (95 %) and ``n``.

    Examples
    --------
    >>> around([1.0, 2.0, 3.0])
    {'y': 2.0, 'low': -0.484, 'high': 4.484, 'n': 3}
    """
    found = np.asarray(values, dtype=float)
    mean, half = float(found.mean()), student(found)
    return {name: mean, "low": mean - half, "high": mean + half, "n": len(found)}


def standard_errors(rows: Table) -> npt.NDArray[np.float64]:
    """Return the standard errors behind the intervals of simulated rows.

    Parameters
    ----------
    rows : Table
        With ``low``, ``high`` and ``n``.

    Returns
    -------
    ndarray, shape (rows,)
        NaN where ``n`` is 1.

    Examples
    --------
    >>> standard_errors(Table.of("x", [around([1.0, 2.0, 3.0])]))
    array([0.577])
    """
    from scipy.special import stdtrit

    quantile = stdtrit(np.asarray(rows["n"], dtype=float) - 1, 0.975)
    half = (np.asarray(rows["high"], dtype=float) - np.asarray(rows["low"], dtype=float)) / 2
    return np.asarray(half / quantile, dtype=np.float64)


def scores(more: Table, less: Table, name: str = "value") -> npt.NDArray[np.float64]:
    """Return by how many standard errors simulated values lie above others.

    Parameters
    ----------
    more, less : Table
        As many rows each, with ``low``, ``high`` and ``n``.
    name : str
        Column of the means.

    Returns
    -------
    ndarray, shape (rows,)
        Difference over the error of a difference of independent means; paths that share their
        traffic differ by less than that.

    Examples
    --------
    >>> one, two = (Table.of("x", [around(x, "value")]) for x in ([1.0, 2.0, 3.0], [7.0, 8.0, 9.0]))
    >>> scores(two, one)
    array([7.348])
    """
    error = np.hypot(standard_errors(more), standard_errors(less))
    return np.asarray((more[name] - less[name]) / error, dtype=np.float64)
