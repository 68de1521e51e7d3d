r"""What a reader of a streamed answer experiences.

With ``g_1 <= ... <= g_a`` the times of the visible tokens, a reader who takes one every ``tau``
seconds from ``s`` on digests them at

.. math:: d_1 = \max(g_1, s), \quad d_n = \max(g_n, d_{n-1} + \tau), \quad e_n = s + (n - 1)\tau,

where ``e_n`` is what was expected. QoE is the area under the digested curve over the area under
the expected one, up to ``d_a``: ``sum(d_a - d_n) / sum(d_a - e_n)``, and 1 where that is 0/0. It
starts at the first visible token, or (``grace``) that long after the reasoning ended: the first
version leaves a late start to TTFT. Area form of Andes v1, as PASCAL (arXiv 2602.11530) uses it;
step curves and horizon are a choice.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from llmq.errors import InputError
from llmq.model.metrics import Floats, RequestTimes

__all__ = ["TAU", "blocking", "qoe", "qoe_of", "reasoning"]

# Seconds a reader takes for a token.
TAU = 0.1


def qoe_of(tokens: npt.ArrayLike, tau: float, start: float | None = None) -> float:
    """Quality of experience of one answer.

    Examples
    --------
    >>> qoe_of([0, 1, 2, 6, 7], tau=1.0), qoe_of([0, 1, 2, 6, 7], tau=2.0)
    (0.76, 1.0)
    """
    came = np.asarray(tokens, dtype=np.float64)
    begin = came[0] if start is None else start
    steps = tau * np.arange(len(came))
    # d_n - n tau is the running maximum of g_n - n tau.
    digested = np.maximum.accumulate(np.maximum(came, begin) - steps) + steps
    expected = float(np.sum(digested[-1] - begin - steps))
    return float(np.sum(digested[-1] - digested)) / expected if expected > 0 else 1.0


def qoe(times: RequestTimes, tau: float = TAU, grace: float | None = None) -> Floats:
    """Quality of experience of every request.

    Examples
    --------
    >>> qoe(RequestTimes.from_tokens(arrival=[0], token_times=[[0, 1, 2, 6, 7]]), tau=1.0)
    array([0.76])
    """
    if times.qoe is not None and tau == TAU and grace is None:
        return times.qoe
    if times.token_times is None or times.token_offsets is None:
        raise InputError("QoE needs the time of every token: simulate(..., record='tokens')")
    if not tau > 0:
        raise InputError(f"tau must be positive (seconds per token), got {tau}", value=tau)
    hidden = np.zeros(times.arrival.size, int)
    if times.reasoning is not None:
        hidden = times.reasoning.ravel()
    found = np.full(times.arrival.size, np.nan)
    for i in np.flatnonzero(times.finished.ravel()):
        row = times.token_times[times.token_offsets[i] : times.token_offsets[i + 1]]
        start = None
        if grace is not None:
            start = (row[hidden[i] - 1] if hidden[i] else times.arrival.ravel()[i]) + grace
        found[i] = qoe_of(row[hidden[i] :], tau, start)
    return found.reshape(times.arrival.shape)


def reasoning(times: RequestTimes) -> Floats:
    """Time from arrival to the last reasoning token."""
    return _event(times.boundary) - times.arrival


def blocking(times: RequestTimes) -> Floats:
    """Time from the last reasoning token to the start of the iteration that goes on."""
    return _event(times.resumed) - _event(times.boundary)


def _event(column: Floats | None) -> Floats:
    if column is None:
        raise InputError(
            "the end of the reasoning was not recorded: nobody reasons, or a fast simulator ran; "
            "use simulate(..., simulator='reference')"
        )
    return column
