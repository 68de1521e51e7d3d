"""Small random engines and fleets, twice: as the library has them, and as programmes of the oracle.

Both conventions, limits of tokens, slots, chunks, memory and whole blocks, laws with tiles, floors
and attention; the rates are a random direction. Each case compares the two bounds with the true
rate (:mod:`experiments.occupation`); :mod:`experiments.oracle_gap` says what the columns mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

import llmq
from experiments.occupation import Law, Machine, Pool, Segment, capacity, fleet_capacity, whole
from experiments.runner import Row

SEED = 11
FLEETS = range(60)  # a third each of ROLES
ROLES = (("both", "both"), ("prefill", "decode"), ("both", "prefill", "decode"))


@dataclass(frozen=True)
class Drawn:
    """An engine twice: as the library has it, and as the programme has it."""

    engine: llmq.Engine
    machine: Machine
    lag: int


def draw_law(rng: np.random.Generator) -> tuple[llmq.BatchTime, Law]:
    """Draw a law, as an object of the library and as a plain function."""
    base, per, tile = int(rng.integers(1, 9)) / 8, int(rng.integers(0, 9)) / 16, 2
    tile += int(rng.integers(2))
    read = int(rng.integers(1, 5)) / 64 if rng.random() < 0.4 else 0.0
    mixed = int(rng.integers(1, 5)) / 64 if rng.random() < 0.3 else read
    attention = int(rng.integers(1, 5)) / 64 if rng.random() < 0.3 else 0.0
    more: dict[str, Any] = {"per_kv": read, "per_kv_mixed": mixed, "per_work": attention}
    form = rng.integers(3)

    def seconds(tokens: int, kv: int, work: float, prompt: bool) -> float:
        if form == 0:
            curve = base + per * tokens
        elif form == 1:
            curve = base + per * -(-tokens // tile)
        else:
            curve = max(base, base / 2 + per * tokens)
        return curve + (mixed if prompt else read) * kv + attention * work

    if form == 0:
        return llmq.BatchTime.affine(base=base, per_token=per, **more), seconds
    if form == 1:
        return llmq.BatchTime.tiled(base=base, per_tile=per, tile=tile, **more), seconds
    return llmq.BatchTime.roofline(floor=base, base=base / 2, per_token=per, **more), seconds


def draw_engine(
    rng: np.random.Generator,
    classes: Sequence[tuple[int, int]],
    lag: int,
    *,
    limited: bool = False,
    decodes: bool = True,
    most: int = 4,
) -> Drawn:
    """Draw an engine that holds a request of each class (without decodes: its prompt)."""
    law, seconds = draw_law(rng)
    budget = int(rng.integers(1, most + 1))
    chunk = int(rng.integers(1, budget + 1)) if rng.random() < 0.3 else None
    block = int(rng.integers(2, 4)) if rng.random() < 0.3 else 1
    peaks = [prompt + (output - 1 + lag) * decodes for prompt, output in classes]
    least = max(-(-peak // block) for peak in peaks)
    blocks = None
    if limited or rng.random() < 0.7:
        blocks = min(least + int(rng.integers(0, 4)), max(least, 7 // block))
    slots = int(rng.integers(1, 4)) if blocks is None or rng.random() < 0.4 else None
    machine = Machine(seconds, budget, slots, blocks, block, chunk, shared=lag > 0)
    engine = llmq.Engine(
        law,
        token_budget=budget,
        max_seqs=slots,
        prefill_chunk=chunk,
        kv_block=block,
        # With a rest that fills no block.
        kv_tokens=None if blocks is None else blocks * block + budget % block,
        conventions=llmq.THEORY if lag else llmq.ENGINE,
    )
    return Drawn(engine, machine, lag)


def draw_classes(rng: np.random.Generator, most: int = 4) -> list[tuple[int, int]]:
    """Draw prompts and outputs of one or two classes."""
    return [
        (int(rng.integers(1, most + 1)), int(rng.integers(1, 4))) for _ in range(rng.integers(1, 3))
    ]


def mix_of(classes: Sequence[tuple[int, int]]) -> dict[str, llmq.RequestClass]:
    """Name the classes."""
    return {"ab"[i]: llmq.RequestClass(*one) for i, one in enumerate(classes)}


def bounds(
    system: llmq.Engine | llmq.Fleet,
    mix: Mapping[str, llmq.RequestClass],
    shares: Sequence[float],
    limits: Literal["settings", "hardware"],
) -> tuple[float, float, str, bool]:
    """Rates in a direction at the two bounds, what binds, and whether the region is exact."""
    region = llmq.stability_region(system, mix, limits=limits)
    rates = dict(zip(mix, shares, strict=True))
    outer, inner = region.load_bracket(rates)
    exact = region.kind is llmq.Kind.EXACT
    return 1 / outer, 1 / inner, region.binding(rates)[0], exact


def engine_case(number: int, limits: Literal["settings", "hardware"] = "settings") -> Row:
    """Compare the bounds of an engine with its capacity."""
    hard = limits == "hardware"
    rng = np.random.default_rng((SEED, hard, number))
    lag = int(rng.integers(2))
    classes = draw_classes(rng, 3 if hard else 4)
    drawn = draw_engine(rng, classes, lag, limited=hard)
    shares = [float(x) for x in rng.integers(1, 4, size=len(classes))]
    machine = drawn.machine
    if hard:  # the best settings: those that forbid nothing
        room = (machine.blocks or 0) * machine.block
        machine = Machine(machine.law, room, None, machine.blocks, machine.block, None, lag > 0)
    segments = [whole(prompt, output - 1 + lag) for prompt, output in classes]
    free = capacity(machine, segments, shares, swap=True)
    held = machine.blocks is not None or not machine.shared
    true = capacity(machine, segments, shares) if held else free
    outer, inner, binds, exact = bounds(drawn.engine, mix_of(classes), shares, limits)
    return {
        "system": "engine",
        "limits": limits,
        "number": number,
        "binds": binds,
        "true": true,
        "conventions": drawn.engine.conventions.name,
        "exact": exact,
        "outer": outer / true,
        "inner": inner / true,
        "swap": free / true,
    }


def unknown_case(number: int) -> Row:
    """Compare the bounds of a class of two lengths with what is carried without knowing which."""
    rng = np.random.default_rng((SEED, 2, number))
    lag = int(rng.integers(2))
    prompt, short = int(rng.integers(1, 4)), int(rng.integers(1, 3))
    long = short + int(rng.integers(1, 3))
    drawn = draw_engine(rng, [(prompt, long)], lag, limited=True)
    machine, steps = drawn.machine, [output - 1 + lag for output in (short, long)]
    request = llmq.RequestClass(prompt, llmq.Lengths.empirical([short, long]))
    known = [whole(prompt, d) for d in steps]
    true = capacity(machine, known, [0.5, 0.5])
    blind = capacity(machine, [whole(prompt, dict.fromkeys(steps, 0.5))], [1.0])
    free = capacity(machine, known, [0.5, 0.5], swap=True)
    outer, inner, binds, exact = bounds(drawn.engine, {"a": request}, [1.0], "settings")
    return {
        "system": "two lengths",
        "limits": "settings",
        "number": number,
        "binds": binds,
        "conventions": drawn.engine.conventions.name,
        "exact": exact,
        "true": true,
        "outer": outer / true,
        "inner": inner / true,
        "swap": free / true,
        "unknown": blind / true,
    }


def fleet_case(number: int) -> Row:
    """Compare the bounds of a fleet with its capacity."""
    rng = np.random.default_rng((SEED, 3, number))
    lag = int(rng.integers(2))
    roles, classes = ROLES[number % len(ROLES)], draw_classes(rng, 3)
    link = int(rng.integers(1, 9)) / 2 if "decode" in roles and rng.random() < 0.4 else np.inf
    shares = [float(x) for x in rng.integers(1, 4, size=len(classes))]
    pools, engines = [], {}
    for name, role in zip("xyz", roles, strict=False):
        drawn = draw_engine(rng, classes, lag, limited=True, decodes=role != "prefill", most=3)
        count = int(rng.integers(1, 3))
        engines[name] = drawn.engine, count
        pools.append(Pool(drawn.machine, segments(classes, role, lag), count))
    named = {name: role for name, role in zip("xyz", roles, strict=False) if role != "both"}
    fleet = llmq.Fleet(engines, roles=named, link=link)
    true = fleet_capacity(pools, shares, link=link, prompts=[prompt for prompt, _ in classes])
    outer, inner, binds, exact = bounds(fleet, mix_of(classes), shares, "settings")
    return {
        "system": "+".join(roles),
        "limits": "settings",
        "number": number,
        "binds": binds,
        "conventions": llmq.THEORY.name if lag else llmq.ENGINE.name,
        "exact": exact,
        "true": true,
        "outer": outer / true,
        "inner": inner / true,
    }


def segments(
    classes: Sequence[tuple[int, int]], role: str, lag: int
) -> dict[int | tuple[int, str], Segment]:
    """Say what a pool does of each class; a request of one token may end where its prompt does."""
    found: dict[int | tuple[int, str], Segment] = {}
    for j, (prompt, output) in enumerate(classes):
        steps = output - 1 + lag
        if role == "both" or (role == "prefill" and not steps):
            found[j] = whole(prompt, steps)
        elif role == "prefill":
            found[j, "prefill"] = whole(prompt, 0)
        elif steps:
            found[j, "decode"] = Segment(prompt, {steps: 1.0}, start=prompt)
    return found
