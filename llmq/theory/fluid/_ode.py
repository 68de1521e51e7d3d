r"""The vector field of the fluid model: waiting, prefill work and decode stages of each class.

State, for class ``j`` with mean prompt ``s``, mean decode iterations ``d`` and ``K`` decode stages:
:math:`W_j` requests waiting, :math:`P_j` prompt tokens admitted and not yet processed,
:math:`n_{jk}` requests in decode stage ``k`` of ``d / K`` tokens. An iteration takes the decodes
first and prompts with what is left of the token budget,

.. math::

   X_j = P_j \min\Big(1, \frac{(b_{max} - \sum n)^+}{\sum P}\Big), \qquad
   \tau = f\big(\textstyle\sum X + \sum n\big) + e\,KV + w\,work(X),

with ``f`` the lower convex envelope of the token curve, and

.. math::

   W_j' = \lambda_j - A_j + E_j, \quad P_j' = A_j s_j - X_j / \tau - \dots, \quad
   n_{j1}' = \frac{X_j}{s_j \tau} - \frac{K n_{j1}}{d_j \tau}, \quad
   n_{jk}' = \frac{K (n_{j,k-1} - n_{jk})}{d_j \tau}.

**Admission** is greedy, as a rule applied once an iteration: all that wait and arrive,
:math:`\lambda_j + W_j / \tau`, are admitted, scaled by one factor so that no budget ``u <= C``
(tokens asked for, slots, KV) grows faster than :math:`(C - u) / \tau`. So a budget is approached
and never crossed, and on it the field slides (Filippov's solution, smoothed over one iteration).

**Eviction**: a resident request grows. Where KV would outgrow its room with no admission at all,
the youngest residents (prefill, then stage by stage) go back to the queue, at most all of a stage
per iteration, and start again.

Each request weighs on KV so that its stages add up to its area: a prompt token
``prefill area / s``, a decode in stage ``k`` the mean decode area plus ``(2k - 1 - K) d / 2K``.

Not covered: swapping, the chunk limit of one prompt (a prompt is one stage that lasts an
iteration), and lengths beyond their means and areas.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from llmq.model.engine import Engine
from llmq.model.request import RequestClass
from llmq.theory.needs._envelope import Envelope
from llmq.theory.needs.demand import Demand, demand

__all__ = ["Flow", "batch", "coefficients", "field"]

Floats: TypeAlias = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Flow:
    """Coefficients of the field, as arrays."""

    rates: Floats  # requests per second; shape (n_classes,)
    # prompt, decodes: mean prompt tokens and decode iterations of a request; shape
    # (n_classes,)
    prompt: Floats
    decodes: Floats
    stages: int  # decode stages
    # intercepts, slopes: pieces of the token curve: seconds, seconds per token; shape
    # (n_pieces,)
    intercepts: Floats
    slopes: Floats
    per_kv: float  # seconds per KV token read
    work_time: Floats  # attention seconds per prompt token; shape (n_classes,)
    # tokens of an iteration, slots, KV tokens; infinite without a limit; shape (3,)
    capacity: Floats
    prefill_use: Floats  # what a prompt token in prefill takes of each; shape (3, n_classes)
    # what a request in a decode stage takes of each; shape (3, n_classes, stages)
    decode_use: Floats

    def split(self, state: Floats) -> tuple[Floats, Floats, Floats]:
        """Return waiting, prefill and decoding of a state vector."""
        n = len(self.rates)
        decoding = state[..., 2 * n :]
        return (
            state[..., :n],
            state[..., n : 2 * n],
            decoding.reshape(*state.shape[:-1], n, self.stages),
        )


def coefficients(
    engine: Engine,
    mix: Mapping[str, RequestClass],
    rates: Sequence[Fraction],
    demands: Sequence[Demand],
    curve: Envelope,
    stages: int,
) -> Flow:
    """Return the coefficients of an engine under a mix of requests."""
    in_decode = engine.with_(conventions=replace(engine.conventions, area="decode_only"))
    later = _array(demand(kind, in_decode).area for kind in mix.values())
    prompt, decodes = _array(d.prompt for d in demands), _array(d.decodes for d in demands)
    # A row holds one token more with each decode: half of a stage around the middle of the decodes.
    ramp = (2 * np.arange(1, stages + 1) - 1 - stages) / (2 * stages)
    mean = np.divide(later, decodes, out=np.zeros_like(later), where=decodes > 0)
    held = mean[:, None] + ramp * decodes[:, None]
    ones = np.ones_like(held)
    limits = (engine.token_budget, engine.max_seqs, engine.kv_tokens)
    return Flow(
        rates=_array(rates),
        prompt=prompt,
        decodes=decodes,
        stages=stages,
        intercepts=_array(c for c, _ in curve.pieces),
        slopes=_array(a for _, a in curve.pieces),
        per_kv=engine.law.per_kv_mixed,
        work_time=engine.law.per_work * _array(d.work for d in demands) / prompt,
        capacity=np.asarray([np.inf if x is None else float(x) for x in limits]),
        prefill_use=np.stack(
            (
                np.ones_like(prompt),
                _array(d.chunks for d in demands) / prompt,
                (_array(d.area for d in demands) - later) / prompt,
            )
        ),
        decode_use=np.stack((ones, ones, held)),
    )


def _array(values: Iterable[Fraction]) -> Floats:
    return np.asarray([float(value) for value in values])


def batch(flow: Flow, prefill: Floats, decoding: Floats) -> tuple[float, Floats, float]:
    """Return what an iteration serves and how long it lasts."""
    budget, rows, asked = float(flow.capacity[0]), float(decoding.sum()), float(prefill.sum())
    share = budget / rows if rows > budget else 1.0
    left = max(budget - rows, 0.0)
    served = prefill * (left / asked if asked > left else 1.0)
    tokens = float(served.sum()) + share * rows
    read = share * float((flow.decode_use[2] * decoding).sum())
    read += float((flow.prefill_use[2] * served).sum())
    seconds = float((flow.intercepts + flow.slopes * tokens).max())
    return share, served, seconds + flow.per_kv * read + float((flow.work_time * served).sum())


def field(flow: Flow, state: Floats) -> Floats:
    """Return the time derivative of a state."""
    waiting, prefill, decoding = flow.split(state)
    share, served, seconds = batch(flow, prefill, decoding)
    d_prefill, d_decoding = _served(flow, served / seconds, decoding * share / seconds)
    wanted = flow.rates + waiting / seconds
    used = flow.prefill_use @ prefill + np.tensordot(flow.decode_use, decoding, 2)
    drift = flow.prefill_use @ d_prefill + np.tensordot(flow.decode_use, d_decoding, 2)
    room = (flow.capacity - used) / seconds - drift
    admitted = wanted * _factor(room, flow.prefill_use @ (wanted * flow.prompt))
    d_waiting = flow.rates - admitted
    d_prefill = d_prefill + admitted * flow.prompt
    if room[2] < 0:
        first, later = _evicted(flow, -float(room[2]) * seconds, prefill, decoding)
        d_waiting = d_waiting + (first / flow.prompt + later.sum(axis=1)) / seconds
        d_prefill, d_decoding = d_prefill - first / seconds, d_decoding - later / seconds
    return np.concatenate((d_waiting, d_prefill, d_decoding.ravel()))


def _served(flow: Flow, prompts: Floats, decodes: Floats) -> tuple[Floats, Floats]:
    """Change of prefill and decoding by service alone; arguments are tokens per second."""
    has_decodes = flow.decodes > 0
    pace = np.divide(flow.stages, flow.decodes, out=np.zeros_like(prompts), where=has_decodes)
    moves = decodes * pace[:, None]
    change = -moves
    change[:, 0] += np.where(has_decodes, prompts / flow.prompt, 0.0)
    change[:, 1:] += moves[:, :-1]
    return -prompts, change


def _factor(room: Floats, needs: Floats) -> float:
    """Largest common factor of the wanted admissions that keeps every budget."""
    binding = needs > np.maximum(room, 0.0)
    return float((np.maximum(room, 0.0)[binding] / needs[binding]).min(initial=1.0))


def _evicted(flow: Flow, excess: float, prefill: Floats, decoding: Floats) -> tuple[Floats, Floats]:
    """Prompt tokens and decodes that free ``excess`` KV tokens, youngest first."""
    held = np.concatenate(
        ([flow.prefill_use[2] @ prefill], (flow.decode_use[2] * decoding).sum(axis=0))
    )
    before = np.concatenate(([0.0], np.cumsum(held)[:-1]))
    asked = np.clip(excess - before, 0.0, np.maximum(held, 0.0))
    share = np.divide(asked, held, out=np.zeros_like(held), where=held > 0)
    return prefill * share[0], decoding * share[1:]
