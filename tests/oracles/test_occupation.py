"""The true capacity of small systems by an independent programme."""

from __future__ import annotations

import math

import numpy as np
import pytest

from experiments import oracle_cases
from experiments.occupation import (
    Law,
    Machine,
    Phases,
    Pool,
    Segment,
    capacity,
    fleet_capacity,
    token_capacity,
    whole,
)

EXACT = 1e-7


def affine(base: float, per_token: float, per_kv: float = 0.0) -> Law:
    return lambda tokens, kv, work, prompt: base + per_token * tokens + per_kv * kv


# The programme by itself, beside exact cases.


def test_one_class_without_memory_fills_its_batches() -> None:
    for prompt, decodes, budget in ((3, 2, 2), (5, 1, 4), (1, 3, 3)):
        machine = Machine(affine(1.0, 0.25), budget, shared=True)
        tokens = prompt + decodes
        full = 1 / (0.25 * tokens + tokens / budget)
        assert capacity(machine, [whole(prompt, decodes)], [1.0], swap=True) == pytest.approx(full)
        with pytest.raises(ValueError, match="swap"):
            capacity(machine, [whole(prompt, decodes)], [1.0])


def test_slots_and_memory_of_one_request_are_serial() -> None:
    """One slot, or a memory of one request: its chunks and decodes follow each other."""
    serial = 1 / (2 * 1.0 + 3 * 0.5 + 2 * (1.0 + 0.5))  # chunks of 2 and 1, then two decodes
    for machine in (
        Machine(affine(1.0, 0.5), 8, slots=1, chunk=2),
        Machine(affine(1.0, 0.5), 8, blocks=5, chunk=2),
        Machine(affine(1.0, 0.5), 8, blocks=2, block=3, chunk=2, slots=1),
    ):
        assert capacity(machine, [whole(3, 2)], [1.0]) == pytest.approx(serial)
    # Two slots: pairs in step.
    pair = Machine(affine(1.0, 0.0), 8, slots=2)
    assert capacity(pair, [whole(3, 2)], [1.0]) == pytest.approx(2 / 3)


def test_memory_is_shared_by_progress() -> None:
    """Prompt 1 and two decodes hold 1, 2 and 3: a memory of 6 serves one at each stage."""
    machine = Machine(affine(1.0, 0.0), 8, blocks=6)
    assert capacity(machine, [whole(1, 2)], [1.0]) == pytest.approx(1.0)
    # Blocks of 2 hold 1, 1 and 2: four of them for one at each stage.
    assert capacity(Machine(affine(1.0, 0.0), 8, blocks=4, block=2), [whole(1, 2)], [1.0]) == (
        pytest.approx(1.0)
    )


def test_attention_and_kv_are_counted() -> None:
    """A prompt of 3 in chunks of 2 and 1 reads 2 + 3 and costs 9/2 of attention; then 4."""
    law: Law = lambda tokens, kv, work, prompt: 1 + kv / 8 + work / 16 + prompt / 32  # noqa: E731
    machine = Machine(law, 2, slots=1)
    seconds = 3 + (2 + 3 + 4) / 8 + 4.5 / 16 + 2 / 32
    other = 3 + (1 + 3 + 4) / 8 + 4.5 / 16 + 2 / 32  # the remainder first reads less
    assert other < seconds
    assert capacity(machine, [whole(3, 1)], [1.0]) == pytest.approx(1 / other)


def test_a9_known_and_unknown_lengths() -> None:
    """A9: outputs 1 or 3, memory 4, chunk 3, budget 6: 0.4348 if known, 0.3030 if not."""
    machine = Machine(affine(1.0, 0.1), 6, blocks=4, chunk=3, shared=True)
    known = capacity(machine, [whole(1, 1), whole(1, 3)], [0.5, 0.5])
    unknown = capacity(machine, [whole(1, {1: 0.5, 3: 0.5})], [1.0])
    assert (round(known, 4), round(unknown, 4)) == (0.4348, 0.3030)


def test_a2_a_prefill_pool_holds_prompts_only() -> None:
    """A2: in units of 500 tokens; five prefill pools, four of which cannot hold a whole request."""
    small, large = (
        Machine(affine(0.01, 0.05), 4, blocks=9),
        Machine(affine(0.01, 0.05), 4, blocks=16),
    )
    decode = Pool(
        Machine(affine(0.001, 0.0), 1, slots=1), {(0, "decode"): Segment(8, {3: 1.0}, 8)}, 10
    )
    pools = [Pool(m, {(0, "prefill"): whole(8, 0)}, n) for m, n in ((small, 4), (large, 1))]
    assert fleet_capacity([*pools, decode], [1.0]) == pytest.approx(5 / 0.42)
    assert round(5 / 0.42, 1) == 11.9
    wired = fleet_capacity([*pools, decode], [1.0], link=40.0, prompts=[8])
    assert wired == pytest.approx(5.0)


def test_a3_unlike_pools() -> None:
    """A3: 1.183 whole, 2.458 as prefill and decode pools, 3.316 if both do both and KV moves."""
    fast, slow = Machine(affine(0.02, 1e-5), 4096, 8), Machine(affine(0.005, 1e-3), 512, 256)
    both = [Phases(fast, 4000, 399), Phases(slow, 4000, 399)]
    parts = [Phases(fast, 4000, 399, role="prefill"), Phases(slow, 4000, 399, role="decode")]
    assert round(token_capacity(both), 3) == 1.183
    assert round(token_capacity(parts), 3) == 2.458
    assert round(token_capacity(both, moves=True), 3) == 3.316


# The bounds on both sides of the truth.


def holds(row: dict[str, object]) -> None:
    assert row["inner"] <= 1 + EXACT, row
    assert row["outer"] >= max(row.get("swap", 1.0), 1.0) - EXACT, row
    if "swap" in row:
        assert row["swap"] >= 1 - EXACT, row
        if row["exact"]:
            assert row["outer"] == pytest.approx(row["swap"], rel=EXACT), row


@pytest.mark.parametrize("number", range(12))
def test_engine_between_its_bounds(number: int) -> None:
    holds(oracle_cases.engine_case(number))


@pytest.mark.parametrize("number", range(6))
def test_hardware_between_its_bounds(number: int) -> None:
    """A1: the hardware bound covers every budget, slots and chunk."""
    holds(oracle_cases.engine_case(number, "hardware"))


@pytest.mark.parametrize("number", range(6))
def test_a2_a7_fleet_between_its_bounds(number: int) -> None:
    """Pools that differ, whole or split; a prefill pool may hold less than a whole request."""
    holds(oracle_cases.fleet_case(number))


@pytest.mark.slow
@pytest.mark.parametrize("first", range(12, 252, 40))
def test_many_engines_between_their_bounds(first: int) -> None:
    for number in range(first, first + 40):
        holds(oracle_cases.engine_case(number))
    for number in range(first, first + 20):
        holds(oracle_cases.engine_case(number, "hardware"))
        holds(oracle_cases.unknown_case(number))


@pytest.mark.slow
@pytest.mark.parametrize("first", range(6, 66, 12))
def test_many_fleets_between_their_bounds(first: int) -> None:
    for number in range(first, first + 12):
        holds(oracle_cases.fleet_case(number))


def test_unknown_lengths_lower_the_truth() -> None:
    """A9: what is carried without knowing the lengths is never more, and sometimes less."""
    rows = [oracle_cases.unknown_case(number) for number in range(12)]
    ratios = np.array([row["unknown"] for row in rows], dtype=float)
    assert np.all(ratios <= 1 + EXACT)
    assert ratios.min() < 0.95
    assert not any(math.isnan(r) for r in ratios)
