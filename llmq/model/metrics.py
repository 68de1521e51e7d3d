r"""Latencies of a request, defined once.

With ``a`` the arrival, ``f`` the first and ``l`` the last visible token of a request with ``n``
visible tokens (hidden reasoning tokens are not visible):

.. math:: \text{TTFT} = f - a, \quad \text{TPOT} = (l - f)/(n - 1), \quad \text{E2E} = l - a,

ITL is each of the ``n - 1`` gaps between visible tokens; the TPOT of a request is the mean of its
ITLs and does not exist for ``n = 1``. Some authors call the time to the end of the prefill TTFT; it
is :func:`prefill_latency` here. Everything is in seconds; a request that has not finished has NaN.

The load generators use the same names for other quantities. :func:`summary` repeats their
arithmetic on the same times, each under the name it has there: see :mod:`llmq.model.dialects`. A
client sees visible tokens only, so that is what a dialect is given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from llmq.errors import InputError

__all__ = ["RequestTimes", "e2e", "gaps", "itl", "prefill_latency", "tpot", "ttft"]

Ints: TypeAlias = npt.NDArray[np.int64]
Floats: TypeAlias = npt.NDArray[np.float64]

_TIMES = ("arrival", "prefill_end", "first_token", "finish")


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class RequestTimes:
    """When things happened to each request.

    Parameters
    ----------
    arrival : ndarray, shape (n,) or (replications, n)
        Seconds.
    prefill_end : ndarray, same shape
        End of the iteration that processed the last prompt token, seconds; NaN if not reached.
    first_token : ndarray, same shape
        First visible token, seconds; NaN if not reached.
    finish : ndarray, same shape
        Last token, seconds; NaN if not reached.
    output : ndarray of int, same shape
        Output tokens, hidden ones included.
    reasoning : ndarray of int, same shape, optional
        How many of the first output tokens are hidden; none if not given.
    boundary, resumed : ndarray, same shape, optional
        Last reasoning token, and the start of the iteration that goes on after it, seconds; NaN
        for a request that does not reason.
    qoe : ndarray, same shape, optional
        Quality of experience for a reader of 0.1 s a token, where the simulator kept it.
    token_times : ndarray, shape (total,), optional
        Time of every output token, hidden ones included, request after request (replication
        after replication).
    token_offsets : ndarray of int, shape (requests + 1,), optional
        Request ``i`` has ``token_times[token_offsets[i]:token_offsets[i + 1]]``.

    Examples
    --------
    >>> times = RequestTimes.from_tokens(arrival=[0.0], token_times=[[0.2, 0.3, 0.5]])
    >>> ttft(times), tpot(times), e2e(times)
    (array([0.2]), array([0.15]), array([0.5]))
    """

    arrival: Floats
    prefill_end: Floats
    first_token: Floats
    finish: Floats
    output: Ints
    reasoning: Ints | None = None
    boundary: Floats | None = None
    resumed: Floats | None = None
    qoe: Floats | None = None
    token_times: Floats | None = None
    token_offsets: Ints | None = None

    def __post_init__(self) -> None:
        shape = np.shape(self.arrival)
        hidden = np.zeros(shape, np.int64) if self.reasoning is None else self.reasoning
        object.__setattr__(self, "reasoning", hidden)
        if len(shape) not in (1, 2):
            raise InputError(f"request times have shape (n,) or (replications, n), got {shape}")
        for name in (*_TIMES, "output", "reasoning"):
            value = np.asarray(getattr(self, name))
            if value.shape != shape:
                raise InputError(f"{name} has shape {value.shape}, arrival has {shape}")
            kind = np.float64 if name in _TIMES else np.int64
            object.__setattr__(self, name, value.astype(kind, copy=False))
        for name in ("boundary", "resumed", "qoe"):
            column = getattr(self, name)
            if column is not None and np.shape(column) != shape:
                raise InputError(f"{name} has shape {np.shape(column)}, arrival has {shape}")
        if (self.token_times is None) != (self.token_offsets is None):
            raise InputError("token_times and token_offsets belong together: give both or neither")
        if self.token_times is not None and self.token_offsets is not None:
            self._check_tokens(np.asarray(self.token_times), np.asarray(self.token_offsets))

    def _check_tokens(self, times: Floats, offsets: Ints) -> None:
        n = self.arrival.size
        if offsets.shape != (n + 1,) or offsets[0] != 0 or offsets[-1] != len(times):
            raise InputError(
                f"token_offsets must run from 0 to {len(times)} in {n + 1} entries (one request "
                f"after another), got {len(offsets)} entries"
            )
        done = np.isfinite(self.finish.ravel())
        counts = np.diff(offsets)
        wrong = done & (counts != self.output.ravel())
        if wrong.any():
            i = int(np.flatnonzero(wrong)[0])
            raise InputError(
                f"request {i} finished with {self.output.ravel()[i]} output tokens, but has "
                f"{counts[i]} token times",
                row=i,
            )
        object.__setattr__(self, "token_times", times)
        object.__setattr__(self, "token_offsets", offsets)

    @classmethod
    def from_tokens(
        cls,
        *,
        arrival: npt.ArrayLike,
        token_times: Sequence[npt.ArrayLike],
        reasoning: npt.ArrayLike | None = None,
        prefill_end: npt.ArrayLike | None = None,
    ) -> RequestTimes:
        """Build the times of finished requests from their token times.

        Parameters
        ----------
        arrival : array_like, shape (n,)
            Seconds.
        token_times : sequence of array_like
            For each request the times of all its output tokens, seconds, at least one.
        reasoning : array_like of int, shape (n,), optional
            Hidden tokens of each request; none if not given.
        prefill_end : array_like, shape (n,), optional
            Seconds; the first output token if not given (where the prefill emits it).

        Returns
        -------
        RequestTimes
            With the token times.

        Raises
        ------
        InputError
            A request without a visible token, or shapes that differ.
        """
        rows = [np.asarray(row, dtype=np.float64) for row in token_times]
        output = np.array([len(row) for row in rows], dtype=np.int64)
        hidden = np.zeros_like(output) if reasoning is None else np.asarray(reasoning)
        if hidden.shape != output.shape or np.any(hidden >= output):
            raise InputError("each request needs at least one token that is not hidden")
        first = np.array([row[k] for row, k in zip(rows, hidden, strict=True)])
        start = np.array([row[0] for row in rows])
        return cls(
            arrival=np.asarray(arrival, dtype=np.float64),
            prefill_end=start if prefill_end is None else np.asarray(prefill_end),
            first_token=first,
            finish=np.array([row[-1] for row in rows]),
            output=output,
            reasoning=hidden,
            token_times=np.concatenate(rows),
            token_offsets=np.concatenate(([0], np.cumsum(output))),
        )

    @property
    def visible(self) -> Ints:
        """Visible output tokens of each request."""
        return self.output - (0 if self.reasoning is None else self.reasoning)

    @property
    def finished(self) -> npt.NDArray[np.bool_]:
        """Whether each request has its last token."""
        return np.isfinite(self.finish)


def ttft(times: RequestTimes) -> Floats:
    """Time to first visible token.

    Parameters
    ----------
    times : RequestTimes
        When things happened.

    Returns
    -------
    ndarray, shape of ``times.arrival``
        Seconds.

    Examples
    --------
    >>> ttft(RequestTimes.from_tokens(arrival=[1.0], token_times=[[1.5, 2, 4]], reasoning=[1]))
    array([1.])
    """
    return times.first_token - times.arrival


def prefill_latency(times: RequestTimes) -> Floats:
    """Time to the end of the prefill, before any output token is sent.

    Parameters
    ----------
    times : RequestTimes
        When things happened.

    Returns
    -------
    ndarray, shape of ``times.arrival``
        Seconds.

    Examples
    --------
    >>> times = RequestTimes.from_tokens(arrival=[1], token_times=[[1.5, 2]], prefill_end=[1.25])
    >>> prefill_latency(times)
    array([0.25])
    """
    return times.prefill_end - times.arrival


def tpot(times: RequestTimes) -> Floats:
    """Mean time per visible token after the first.

    Parameters
    ----------
    times : RequestTimes
        When things happened.

    Returns
    -------
    ndarray, shape of ``times.arrival``
        Seconds; NaN for one visible token.

    Examples
    --------
    >>> tpot(RequestTimes.from_tokens(arrival=[0, 0], token_times=[[1, 2, 4], [1]]))
    array([1.5, nan])
    """
    gaps = times.visible - 1
    span = times.finish - times.first_token
    return np.asarray(np.divide(span, gaps, out=np.full(span.shape, np.nan), where=gaps > 0))


def e2e(times: RequestTimes) -> Floats:
    """Time from arrival to last token.

    Parameters
    ----------
    times : RequestTimes
        When things happened.

    Returns
    -------
    ndarray, shape of ``times.arrival``
        Seconds.

    Examples
    --------
    >>> e2e(RequestTimes.from_tokens(arrival=[0.5], token_times=[[1, 2, 4]]))
    array([3.5])
    """
    return times.finish - times.arrival


def itl(times: RequestTimes) -> Floats:
    """Every gap between visible tokens of a finished request.

    Parameters
    ----------
    times : RequestTimes
        With token times.

    Returns
    -------
    ndarray, shape (gaps,)
        Seconds, request after request.

    Raises
    ------
    InputError
        Token times were not recorded.

    Examples
    --------
    >>> itl(RequestTimes.from_tokens(arrival=[0, 0], token_times=[[1, 2, 4], [7, 7.5]]))
    array([1. , 2. , 0.5])
    """
    return gaps(times)[1]


def gaps(times: RequestTimes) -> tuple[Ints, Floats]:
    """Every gap between visible tokens of a finished request, and whose it is.

    Parameters
    ----------
    times : RequestTimes
        With token times.

    Returns
    -------
    tuple of ndarray, shape (gaps,)
        Flat number of the request, seconds.

    Raises
    ------
    InputError
        Token times were not recorded.
    """
    if times.token_times is None or times.token_offsets is None:
        raise InputError(
            "inter-token latencies need the time of every token: simulate(..., record='tokens')"
        )
    owner = np.repeat(np.arange(times.arrival.size), np.diff(times.token_offsets))
    place = np.arange(len(owner)) - times.token_offsets[owner]
    hidden = np.zeros_like(owner) if times.reasoning is None else times.reasoning.ravel()[owner]
    # A gap ends at each token that has a visible one before it in its own request.
    ends = np.flatnonzero((place > hidden) & times.finished.ravel()[owner])
    return owner[ends], np.asarray(times.token_times[ends] - times.token_times[ends - 1])
