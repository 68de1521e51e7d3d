r"""Drift constants of one engine: how fast a backlog falls, and what that bounds.

Requests arrive as Poisson streams, :math:`v` tokens each, :math:`\Lambda` per second in all. Let
:math:`V` be the tokens left of all requests present, seen when an iteration starts; a full batch
has ``b`` tokens and lasts ``t``.

**Lemma S1.** While V exceeds a *level* L, batches are full. In such an iteration
:math:`\alpha = \Lambda E[v] t` tokens arrive on average, with variance
:math:`\sigma^2 = \Lambda E[v^2] t`: V has drift :math:`-\epsilon`, :math:`\epsilon = b - \alpha`.

* ``sarathi`` (any rule that fills the budget ``b`` whenever those present can supply it): a request
  offers a chunk of its prompt or one decode. One that offers n tokens has at most n m left,
  :math:`m = \max(1 + d, \lceil (s + d) / chunk \rceil)` with s prompt tokens and d decodes at most;
  a short batch is all that is offered, so :math:`L = (b - 1) m`.
* ``rad`` (chunks of one tile of ``b`` tokens that divide every prompt; decodes when ``b`` requests
  decode or no prompt is left): a batch is short only if fewer than b requests are present and all
  of them decode, :math:`L = (b - 1) d`.

The level is at least s + d, so that the request that ends an idle time does not exceed it. Then

* V falls to the level from :math:`V_0` within :math:`(V_0 - \max(0, L + 1 - b)) t / \epsilon`
  seconds on average (stopped supermartingale :math:`V + \epsilon n`, which ends above L - b);
* the long-run mean of V is at most :math:`L + 2 \alpha + \sigma^2 / (2 \epsilon)`: what came since
  the last start of an iteration at or below L, two iterations of arrivals and the maximum of a
  random walk (Kingman's bound).

The level is what a short batch may leave, so the first bound says when the queue is gone, not when
the last request is: below the level one decode may keep an engine busy for long, and the empty
state can be rare (with ``per_token`` much below ``base`` it is exponentially so).

The lemma holds for any nondecreasing law in the tokens. Attention is charged at its worst, every
request of a full batch at its largest: then ``t`` is the longest time of a full batch, fewer tokens
arrive in a shorter one, and both bounds hold. That :math:`\epsilon > 0` on the whole stability
region needs a law without attention and a full batch that is the best one
(:func:`llmq.tiling.best_batch`).

Not covered, and refused: slot and KV limits that may bind, prompts that do not fill
RAD's tiles, cycles of RAD (finite N), eviction, several engines (a random split is one engine with
its share of the rates). References: Dai et al., 2504.07347, Theorem 2; Bari et al., 2508.01002,
Theorem 2; Kingman 1962; theory core 3.4 (S1).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Literal

import numpy as np

from llmq._input.checked import checked
from llmq.errors import InputError, UnstableError, nearest
from llmq.model.engine import Engine
from llmq.model.request import RequestClass
from llmq.result import Kind
from llmq.theory.needs._rates import Rates
from llmq.theory.region._certificate_record import Certificate, law_record, ratio, seal
from llmq.theory.region.tiling import best_batch
from llmq.theory.stability._maxweight import MaxWeight, maxweight
from llmq.theory.stability._moments import ClassMoments, class_moments
from llmq.units import as_fraction, format_seconds

__all__ = ["Drift", "MaxWeight", "constants", "maxweight"]

_POLICIES = ("sarathi", "rad")
_PERCENT = Fraction(1, 100)  # blocks that an admission rule may keep free


@checked(record=True)
@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """Drift of the backlog of one engine, and bounds.

    Parameters
    ----------
    policy : {"sarathi", "rad"}
        How batches are formed.
    batch : int
        Tokens of a full batch.
    batch_time : fractions.Fraction
        Seconds of a full batch, the longest where attention takes time.
    load : fractions.Fraction
        Tokens that arrive in a full batch, over its tokens.
    arrivals, variance : fractions.Fraction
        Mean (tokens) and variance (tokens^2) of what arrives in a full batch.
    epsilon : fractions.Fraction
        Tokens by which the backlog falls on average in a full batch.
    level : int
        Backlog above which every batch is full, tokens.
    mean_backlog : fractions.Fraction
        Bound of the long-run mean backlog, tokens.
    problem : mapping of str to object
        Data of the certificate.
    kind, assumptions, source
        As in every result.
    """

    policy: str
    batch: int
    batch_time: Fraction
    load: Fraction
    arrivals: Fraction
    variance: Fraction
    epsilon: Fraction
    level: int
    mean_backlog: Fraction
    problem: Mapping[str, Any] = field(repr=False)
    kind: Kind
    assumptions: tuple[str, ...]
    source: str

    @property
    def rate(self) -> float:
        """Tokens per second by which a backlog above the level falls."""
        return float(self.epsilon / self.batch_time)

    @property
    def above(self) -> int:
        """Backlog that is certainly left when it falls to the level, tokens."""
        return max(0, self.level + 1 - self.batch)

    @checked
    def emptying_time(self, backlog: int) -> Fraction:
        """Bound the mean time until a backlog has fallen to the level.

        Parameters
        ----------
        backlog : int
            Tokens left of all requests present when an iteration starts.

        Returns
        -------
        fractions.Fraction
            Seconds; 0 at or below the level.

        Raises
        ------
        InputError
            Not a number of tokens.
        """
        if not isinstance(backlog, int | np.integer) or backlog < 0:
            raise InputError(
                f"backlog must be whole tokens, at least 0, got {backlog!r}", value=backlog
            )
        if backlog <= self.level:
            return Fraction(0)
        return (int(backlog) - self.above) * self.batch_time / self.epsilon

    def certificate(self) -> Certificate:
        """Return the constants with the data they follow from (C4).

        Returns
        -------
        Certificate
            Claim ``linear_foster``.
        """
        numbers = {
            "batch_time": ratio(self.batch_time),
            "level": self.level,
            "arrivals": ratio(self.arrivals),
            "variance": ratio(self.variance),
            "drift": ratio(self.epsilon),
            "mean_backlog": ratio(self.mean_backlog),
            "return": {
                "above": self.above,
                "seconds_per_token": ratio(self.batch_time / self.epsilon),
            },
        }
        return seal("linear_foster", self.problem, self.load, foster=numbers)

    def __str__(self) -> str:
        twice = 2 * self.level
        rows = (
            ("full batch", f"{self.batch} tokens in {format_seconds(float(self.batch_time), 4)}"),
            ("load", f"{float(self.load):.4g}"),
            (
                "arrivals",
                f"{float(self.arrivals):.6g} tokens per full batch, variance "
                f"{float(self.variance):.4g} tokens^2",
            ),
            (
                "drift",
                f"-{float(self.epsilon):.6g} tokens per full batch (-{self.rate:.4g} tokens/s)",
            ),
            ("level", f"{self.level} tokens: above it every batch is full"),
            ("backlog", f"at most {float(self.mean_backlog):.6g} tokens in the long-run mean"),
            (
                "emptying",
                f"a backlog of {twice} tokens is down to the level within "
                f"{format_seconds(float(self.emptying_time(twice)), 4)} on average",
            ),
            ("assumes", "; ".join(self.assumptions)),
        )
        return "\n".join(f"{name:<11}{words}" for name, words in rows)


@checked
def constants(
    engine: Engine,
    mix: Mapping[str, RequestClass],
    rates: Rates,
    policy: Literal["sarathi", "rad"] = "sarathi",
    *,
    tile: int | None = None,
) -> Drift:
    """Return the drift constants of an engine under a policy that fills its batches.

    Parameters
    ----------
    engine : Engine
        The engine.
    mix : mapping of str to RequestClass
        The classes.
    rates : mapping of str to float or Fraction
        Poisson arrivals per second by class; 0.1 is 1/10.
    policy : {"sarathi", "rad"}
        Work-conserving within the token budget, or full tiles in separate modes.
    tile : int, optional
        Tokens of RAD's batches; the tile of the law, or the token budget, if not given.

    Returns
    -------
    Drift
        Exact constants, and bounds that hold for every start.

    Raises
    ------
    InputError
        A hypothesis fails; the message says which one and what to do.
    UnstableError
        More arrives in a full batch than it removes.

    Examples
    --------
    >>> from llmq.model.time.batchtime import BatchTime
    >>> from llmq.model.conventions import THEORY
    >>> law = BatchTime.tiled(base=0.01128, per_tile=0.03547, tile=128)
    >>> found = constants(Engine(law, token_budget=512, conventions=THEORY),
    ...                   {"x": RequestClass(100, 100)}, {"x": 15.0})
    >>> found.epsilon, found.level, float(found.emptying_time(100_000))
    (Fraction(1313, 25), 51611, 142.603)
    """
    if not isinstance(engine, Engine):
        raise InputError(
            f"drift constants are for one engine, got {type(engine).__name__}: a random split over "
            "n equal engines is one of them with a share 1/n of the rates"
        )
    if policy not in _POLICIES:
        raise InputError(
            f"no drift lemma for policy {policy!r}{nearest(policy, _POLICIES)}", value=policy
        )
    batch = _full_batch(engine, policy, tile)
    chunk = batch if policy == "rad" else engine.chunk
    classes = class_moments(mix, rates, engine.conventions.lag)
    _check_room(engine, policy, batch, classes)
    time = _longest(engine, batch, classes)
    arrivals = time * sum(one.rate * one.mean for one in classes.values())
    if arrivals >= batch:
        raise UnstableError(_overload(engine, batch, arrivals), load=float(arrivals / batch))
    variance = time * sum(one.rate * one.square for one in classes.values())
    level = _level(policy, batch, chunk, classes)
    return Drift(
        policy=policy,
        batch=batch,
        batch_time=time,
        load=arrivals / batch,
        arrivals=arrivals,
        variance=variance,
        epsilon=batch - arrivals,
        level=level,
        mean_backlog=level + 2 * arrivals + variance / (2 * (batch - arrivals)),
        problem=_record(engine, policy, batch, chunk, classes),
        kind=Kind.OUTER_BOUND,
        assumptions=_assumptions(engine, policy, batch),
        source="lemma S1 (theory core 3.4); Dai et al. 2504.07347, Bari et al. 2508.01002",
    )


def _longest(engine: Engine, batch: int, classes: Mapping[str, ClassMoments]) -> Fraction:
    """Longest time of an iteration: a full batch, every request of it at its largest."""
    law = engine.law
    s = max(one.prompt_most for one in classes.values())
    held = max(one.prompt_most + one.decodes_most for one in classes.values())
    per_row = max(map(as_fraction, (law.per_kv, law.per_kv_mixed))) * held
    # A chunk meets at most the whole prompt.
    return law.exact().curve(batch) + batch * (per_row + as_fraction(law.per_work) * s)


def _full_batch(engine: Engine, policy: str, tile: int | None) -> int:
    if policy == "sarathi":
        if tile is not None:
            raise InputError("tile is an argument of policy 'rad'; sarathi fills the token budget")
        return engine.token_budget
    own = engine.law.tile if engine.law.tile > 1 else engine.token_budget
    batch = own if tile is None else tile
    if not isinstance(batch, int) or not 1 <= batch <= engine.token_budget:
        raise InputError(
            f"a tile of {batch!r} tokens does not fit the token budget of {engine.token_budget}: "
            "give a smaller tile or a larger budget",
            value=batch,
        )
    return batch


def _check_room(
    engine: Engine, policy: str, batch: int, classes: Mapping[str, ClassMoments]
) -> None:
    """Check the hypotheses: full tiles, slots and memory that never bind."""
    if engine.max_seqs is not None and engine.max_seqs < batch:
        raise InputError(
            f"max_seqs={engine.max_seqs} may bind: {batch} requests may be needed for a full batch "
            f"of {batch} tokens; use max_seqs >= {batch} or None, or a smaller token budget",
            field="max_seqs",
            value=engine.max_seqs,
        )
    # One more than the last decode holds: the place of the token it writes.
    peak = 1 + max(one.prompt_most + one.decodes_most for one in classes.values())
    need = batch * -(-peak // engine.kv_block)
    if engine.kv_tokens is not None and engine.kv_blocks * (1 - _PERCENT) < need:
        tokens = math.ceil(need / (1 - _PERCENT)) * engine.kv_block
        raise InputError(
            f"kv_tokens={engine.kv_tokens} may bind: {batch} requests of {peak} tokens must fit "
            f"beside 1 % kept free, {tokens} tokens; use at least as many or None, shorter "
            "requests, or a smaller batch (with memory limits stability_region gives a bracket)",
            field="kv_tokens",
            value=engine.kv_tokens,
        )
    for name, one in classes.items() if policy == "rad" else ():
        if one.prompt_unit % batch:
            raise InputError(
                f"RAD fills its tiles only if prompts are multiples of {batch} tokens, those of "
                f"{name!r} are not: round them up (padding) or choose a tile that divides "
                f"{one.prompt_unit}",
                value=one.prompt_unit,
            )


def _level(policy: str, batch: int, chunk: int, classes: Mapping[str, ClassMoments]) -> int:
    s = max(one.prompt_most for one in classes.values())
    d = max(one.decodes_most for one in classes.values())
    left = d if policy == "rad" else max(1 + d, -(-(s + d) // chunk))
    return max((batch - 1) * left, s + d)


def _overload(engine: Engine, batch: int, arrivals: Fraction) -> str:
    said = (
        f"no negative drift: {float(arrivals):.6g} tokens arrive on average while a full batch of "
        f"{batch} is served (load {float(arrivals / batch):.6g})"
    )
    if _attention(engine):
        return (
            f"{said} with attention at its worst: lower the rates, bound the requests more "
            "tightly, or ask stability_region, which charges the mean"
        )
    best = best_batch(engine.law, engine.token_budget)
    load = arrivals / batch * (batch / engine.law.exact().curve(batch)) / best.exact_rate
    if best.tokens != batch and load < 1:
        return (
            f"{said}; batches of {best.tokens} tokens carry it (load {float(load):.6g}): the batch "
            f"of {batch} cuts a tile or is too small, so set it to {best.tokens}"
        )
    return f"{said}: lower the rates"


def _attention(engine: Engine) -> bool:
    return any((engine.law.per_kv, engine.law.per_kv_mixed, engine.law.per_work))


def _assumptions(engine: Engine, policy: str, batch: int) -> tuple[str, ...]:
    said = {
        "sarathi": "work-conserving: the batch holds the budget whenever those present supply it",
        "rad": "full tiles: prefill and decode in separate batches of one tile, no cycles",
    }
    found: tuple[str, ...] = (
        "Poisson arrivals, independent requests of bounded length",
        said[policy],
        "attention at its worst: every request of a full batch at its largest"
        if _attention(engine)
        else "iteration time depends on its tokens alone",
    )
    if _attention(engine):
        return found
    best = best_batch(engine.law, engine.token_budget)
    if best.exact_rate * engine.law.exact().curve(batch) > batch:
        found += (f"a full batch is not the best one, which has {best.tokens} tokens",)
    return found


def _record(
    engine: Engine, policy: str, batch: int, chunk: int, classes: Mapping[str, ClassMoments]
) -> dict[str, Any]:
    memory = None
    if engine.kv_tokens is not None:
        memory = {"tokens": engine.kv_tokens, "block": engine.kv_block}
    return {
        "policy": policy,
        "law": law_record(engine.law),
        "batch": batch,
        "chunk": chunk,
        "slots": engine.max_seqs,
        "memory": memory,
        "lag": engine.conventions.lag,
        "classes": {name: one.record() for name, one in classes.items()},
    }
