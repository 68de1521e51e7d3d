r"""What no setting can change: an engine whose token budget, slots and prefill chunk are free.

A bound for every policy *at these settings* says nothing about a server that is started with other
settings. The bound *of the hardware* leaves out what a flag can change; the law of iteration time
(compute, tiles, attention), KV memory and links stay. It is the bound of this engine:

* No slots, and chunks as long as a batch: charges for slots vanish, and the KV area of a prompt is
  least where it is computed in one piece.
* With a KV limit the budget is all KV tokens, those of whole blocks. *Proof:* each token that an
  iteration computes is written to KV and held when it ends, so no iteration computes more tokens
  than the memory holds.
* Without a KV limit no budget bounds a batch. Then ``n`` tokens take at least :math:`a^* n` with
  :math:`a^* = \inf_n f(n) / n`, the price of a token in the limit of large batches:

  - affine, ``base + p n``: ``p``, as ``base / n`` tends to 0;
  - tiled: ``per_token + per_tile / tile``, as ``ceil(n / tile) >= n / tile``, equal at whole tiles;
  - roofline: the larger slope of its branches, both of which lie below the curve;
  - table: the least of ``seconds / tokens`` at its points and of the last slope, as the quotient is
    monotone between two points and tends to the last slope.

  The engine then has the law :math:`a^* n` (in whole tiles, where that is exact) in place of its
  own, and a budget that holds the longest prompt: with such a law the budget changes no load.

Hence the load of the hardware is at most the load at any settings. Where ``a*`` is 0 (a law without
time per token, and no KV limit) the hardware has no bound by tokens.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from typing import Literal, TypeAlias

from llmq.errors import InputError, nearest
from llmq.model.engine import Engine
from llmq.model.request import RequestClass
from llmq.model.time.batchtime import BatchTime
from llmq.units import as_fraction

__all__ = [
    "LIMITS",
    "Limits",
    "check_limits",
    "counted",
    "has_no_bound",
    "scope",
    "token_price",
    "tried",
]

Limits: TypeAlias = Literal["settings", "hardware"]
LIMITS = ("settings", "hardware")
# Tokens of a batch at which schedules are tried where nothing limits it.
LARGE = 2**20


def check_limits(limits: str) -> None:
    """Refuse another word for what is limited."""
    if limits not in LIMITS:
        raise InputError(
            f"limits must be 'settings' (token budget, slots and chunk as given) or 'hardware' "
            f"(these three free), got {limits!r}{nearest(str(limits), LIMITS)}",
            field="limits",
            value=limits,
        )


def token_price(law: BatchTime) -> Fraction:
    r"""Return the least time per token of any batch, :math:`\inf_n f(n) / n`.

    Examples
    --------
    >>> token_price(BatchTime.affine(base=1, per_token=0.01))
    Fraction(1, 100)
    >>> token_price(BatchTime.tiled(base=2, per_tile=10, tile=64))
    Fraction(5, 32)
    """
    if law.form == "table":
        last = _rise(law)
        quotients = [as_fraction(t) / n for n, t in zip(law.tokens, law.seconds, strict=True)]
        return min(last[1] / last[0], *quotients)
    slope, floor = as_fraction(law.per_token), as_fraction(law.floor_per_token)
    if law.form == "tiled":
        return slope + as_fraction(law.per_tile) / law.tile
    return max(slope, floor) if law.form == "roofline" else slope


def _rise(law: BatchTime) -> tuple[int, Fraction]:
    """Tokens and seconds of the last piece of a table."""
    (n, m), (before, after) = law.tokens[-2:], law.seconds[-2:]
    return m - n, as_fraction(after) - as_fraction(before)


def counted(engine: Engine, mix: Mapping[str, RequestClass], limits: str) -> Engine:
    """Return the engine whose batches a bound counts.

    Examples
    --------
    >>> chip = Engine(BatchTime.affine(base=1, per_token=0.01), token_budget=64, kv_tokens=1000)
    >>> counted(chip, {"x": RequestClass(200, 20)}, "hardware").token_budget  # 62 blocks of 16
    992
    >>> counted(chip.with_(kv_tokens=None), {"x": RequestClass(200, 20)}, "hardware").law.base
    0.0
    """
    held = engine.kv_room
    # Where the area does not count prompts, the bound does not count their memory either.
    held = max(held, engine.token_budget) if engine.conventions.area == "decode_only" else held
    if limits == "settings":
        return engine if held >= engine.token_budget else engine.with_(token_budget=int(held))
    free = engine.with_(max_seqs=None, prefill_chunk=None)
    if engine.kv_tokens is not None:
        return free.with_(token_budget=int(held))
    if not token_price(engine.law):
        return free.with_(token_budget=max(LARGE, engine.token_budget))
    law = _cheapest(engine.law)
    longest = max((one.prompt.high for one in mix.values()), default=1)
    return free.with_(law=law, token_budget=max(2, -(-longest // law.tile)) * law.tile)


def tried(engine: Engine) -> Engine:
    """Return the engine on which schedules of the hardware are tried."""
    held = max(LARGE, engine.token_budget)
    if engine.kv_tokens is not None:
        held = int(engine.kv_room)
    return engine.with_(max_seqs=None, prefill_chunk=None, token_budget=held)


def has_no_bound(engine: Engine, limits: str) -> bool:
    """Say whether neither time nor memory bounds the tokens of an engine."""
    return limits == "hardware" and engine.kv_tokens is None and not token_price(engine.law)


def _cheapest(law: BatchTime) -> BatchTime:
    """Return the law of the least time per token, as tiles where its quotient has no float."""
    if law.form == "tiled":
        return replace(law, base=0.0)
    bare = {"per_kv": law.per_kv, "per_kv_mixed": law.per_kv_mixed, "per_work": law.per_work}
    price = token_price(law)
    if law.form != "table":
        return BatchTime.affine(base=0.0, per_token=float(price), **bare)
    points = [(n, as_fraction(t)) for n, t in zip(law.tokens, law.seconds, strict=True)]
    tokens, seconds = next((n, t) for n, t in [*points, _rise(law)] if t / n == price)
    rounded = float(seconds)
    if as_fraction(rounded) > seconds:
        rounded = math.nextafter(rounded, 0.0)
    return BatchTime.tiled(base=0.0, per_tile=rounded, tile=tokens, **bare)


def scope(engine: Engine, limits: str) -> str:
    """Say which engines a bound is about.

    Examples
    --------
    >>> chip = Engine(BatchTime.affine(base=1, per_token=0.01), token_budget=64, max_seqs=8)
    >>> scope(chip, "settings")
    'at these settings: budget 64 tokens, 8 slots, prompts in chunks of at most 64 tokens'
    """
    if limits == "settings":
        slots = "no slot limit" if engine.max_seqs is None else f"{engine.max_seqs} slots"
        return (
            f"at these settings: budget {engine.token_budget} tokens, {slots}, prompts in chunks "
            f"of at most {engine.chunk} tokens"
        )
    if engine.kv_tokens is not None:
        held = int(engine.kv_room)
        return (
            "of the hardware: token budget, slots and prefill chunk are free; a batch holds no "
            f"more tokens than the KV memory, {held}"
        )
    return (
        "of the hardware: token budget, slots and prefill chunk are free, and without a KV limit "
        f"so is a batch: a token takes at least {float(token_price(engine.law)):.6g} s"
    )
