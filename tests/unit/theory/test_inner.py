"""The inner bound against its formulas, written out request by request (faults F)."""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import replace

import numpy as np
import pytest

from llmq.model.conventions import ENGINE, THEORY
from llmq.model.engine import Engine
from llmq.model.lengths import Lengths
from llmq.model.request import RequestClass
from llmq.model.time.batchtime import BatchTime
from llmq.theory.region import _inner as inner
from llmq.theory.region._inner import inner_bound


def stages(engine: Engine, s: int, d: int, chunk: int, phases: str) -> list[tuple[int, int]]:
    """Tokens and KV of every iteration of one request, full chunks first."""
    area, found = engine.conventions.area, []
    done = 0
    while done < s and phases != "decode":
        step = min(chunk, s - done)
        done += step
        held = {"chunked": done, "wait": s if done == s else 0, "decode_only": 0}[area]
        found.append((step, held))
    return found + [(1, s + j) for j in range(1, d + 1)] * (phases != "prefill")


def paced(
    engine: Engine, kinds: list[tuple[float, int, int]], chunk: int, phases: str = "both"
) -> float:
    """Time of kinds (rate, prompt, decodes) that are mixed, by the formulas of the module."""
    law, block = engine.law, engine.kv_block
    read = max(law.per_kv, law.per_kv_mixed)
    tokens = slots = area = attention = 0.0
    margin, peaks = -1, 0
    for rate, s, d in kinds:
        every = stages(engine, s, d, chunk, phases)
        tokens += rate * sum(n for n, _ in every)
        slots += rate * len(every)
        area += rate * sum(held + block - 1 for _, held in every)
        work = law.per_work * s * s / 2 * (phases != "decode")
        attention += rate * (read * sum(held for _, held in every) + work)
        margin += max((n for n, _ in every), default=0)
        peak = s if phases == "prefill" else s + d if d or phases == "both" else 0
        peaks += -(-peak // block) * block
    needed = slots / ((engine.max_seqs or math.inf) - len(kinds) + 1)
    if engine.kv_tokens is not None:
        room = engine.kv_tokens // block * block - peaks + block
        if room < block:
            return math.inf
        needed = max(needed, area / room)
    best = math.inf
    curve = [0.0, *(float(law.curve(n)) for n in range(1, engine.token_budget + 1))]
    for cap in range(margin + 1, engine.token_budget + 1):
        count = max(needed, tokens / (cap - margin))
        best = min(best, curve[cap] * count)
        # Any line above the curve up to the cap, and above 0 at 0.
        slope = (curve[cap] - curve[1]) / max(cap - 1, 1)
        height = max([0.0, *(curve[n] - slope * n for n in range(1, cap + 1))])
        best = min(best, height * count + slope * tokens)
    return best + attention if tokens else attention


def serial(engine: Engine, s: int, d: int, phases: str) -> float:
    """One request alone, in the largest chunks."""
    law, every = engine.law, stages(engine, s, d, engine.chunk, phases)
    chunks = [n for n, _ in every[: len(every) - d * (phases != "prefill")]]
    read = max(law.per_kv, law.per_kv_mixed)
    prefill = len(chunks) * float(law.curve(max(chunks))) if chunks else 0.0
    rest = (len(every) - len(chunks)) * float(law.curve(1))
    work = law.per_work * s * s / 2 * (phases != "decode")
    return prefill + rest + read * sum(held for _, held in every) + work


def sizes(engine: Engine) -> list[int]:
    return sorted({2**i for i in range(20) if 2**i <= engine.chunk} | {engine.chunk})


def alone(engine: Engine, s: int, d: int, phases: str = "both") -> float:
    """The best time of a request beside others of its kind, or by itself."""
    best = min(paced(engine, [(1.0, s, d)], chunk, phases) for chunk in sizes(engine))
    return min(best, serial(engine, s, d, phases))


def engines(draw: random.Random) -> Engine:
    attention = {k: draw.choice([0, 0, 1 / 256]) for k in ("per_kv", "per_kv_mixed", "per_work")}
    base, token = draw.randint(1, 8) / 4, draw.randint(0, 8) / 16
    law = draw.choice(
        [
            BatchTime.affine(base=base, per_token=token, **attention),
            BatchTime.tiled(
                base=base, per_tile=1.0, tile=draw.randint(2, 5), per_token=token, **attention
            ),
            BatchTime.roofline(
                floor=2 * base, base=0.0, per_token=token + 0.25, tile=1, **attention
            ),
        ]
    )
    block = draw.choice([1, 4])
    return Engine(
        law,
        token_budget=draw.randint(6, 24),
        max_seqs=draw.choice([None, 2, 5, 12]),
        kv_tokens=draw.choice([None, 48, 90, 400]),
        kv_block=block,
        prefill_chunk=draw.choice([None, 1, 3, 5]),
        conventions=draw.choice([ENGINE, THEORY]),
    )


def close(found: float, best: float, engine: Engine) -> None:
    """Fewer caps are tried than there are: never below the best one, and not far above."""
    assert best * (1 - 1e-9) <= found <= best * 1.06, engine
    if engine.law.form == "affine":
        assert found == pytest.approx(best, rel=1e-9), engine


@pytest.mark.parametrize("phases", ["both", "prefill", "decode"])
def test_f_a_class_alone(phases: str) -> None:
    """Gangs: the mean over kinds of the best time of each."""
    draw = random.Random(phases)
    for _ in range(25):
        engine = engines(draw)
        prompts = [draw.randint(1, 20) for _ in range(draw.randint(1, 2))]
        outputs = [draw.randint(1, 20) for _ in range(draw.randint(1, 2))]
        mix = {"x": RequestClass(Lengths.empirical(prompts), Lengths.empirical(outputs))}
        lag = engine.conventions.lag
        pairs = list(itertools.product(prompts, outputs))
        expected = sum(alone(engine, s, o - 1 + lag, phases) for s, o in pairs) / len(pairs)
        made = inner_bound(engine, mix, phases=phases)
        close(made.load([0.5]), 0.5 * expected, engine)


def test_f_a_paced_mix_of_two_classes() -> None:
    draw, mixed = random.Random(9), 0
    for _ in range(40):
        # One class is bound by tokens, the other by slots or by memory.
        engine = engines(draw).with_(
            token_budget=draw.randint(50, 80),
            max_seqs=draw.choice([1, 16, 20, 24]),
            kv_tokens=draw.choice([None, 600, 2000]),
        )
        kinds = [
            (draw.randint(1, 4) / 8, draw.randint(20, 40), draw.randint(1, 3)),
            (draw.randint(1, 4) / 8, draw.randint(1, 3), draw.randint(20, 40)),
        ]
        lag = engine.conventions.lag
        mix = {f"c{j}": RequestClass(s, o) for j, (_, s, o) in enumerate(kinds)}
        steps = [(r, s, o - 1 + lag) for r, s, o in kinds]
        gang = sum(r * alone(engine, s, d) for r, s, d in steps)
        many = engine.max_seqs != 1
        beside = min(paced(engine, steps, chunk) for chunk in sizes(engine)) if many else gang
        expected = min(gang, beside)
        mixed += expected < gang
        rates = [r for r, _, _ in kinds]
        close(inner_bound(engine, mix).load(rates), expected, engine)
        # A class without requests takes no room.
        close(
            inner_bound(engine, mix).load([rates[0], 0.0]),
            rates[0] * alone(engine, *steps[0][1:]),
            engine,
        )
    assert mixed > 3


def test_f_classes_of_several_lengths_run_in_gangs_only() -> None:
    engine = Engine(BatchTime.affine(base=1.0, per_token=0.0), token_budget=60, max_seqs=16)
    fixed, spread = RequestClass(2, 39), RequestClass(Lengths.empirical([2, 2]), 39)
    several = RequestClass(Lengths.empirical([2, 3]), 39)
    same = {"a": RequestClass(80, 1), "b": fixed}
    assert inner_bound(engine, same | {"b": spread}).load([1, 1]) == (
        inner_bound(engine, same).load([1, 1])
    )
    apart = inner_bound(engine, same | {"b": several})
    assert apart.load([1, 1]) == pytest.approx(sum(apart.gang))
    assert inner_bound(engine, same).load([1, 1]) < sum(inner_bound(engine, same).gang)


def test_f_hardware_has_the_schedules_of_the_settings_too() -> None:
    engine = Engine(BatchTime.affine(base=1.0, per_token=0.0), token_budget=8, max_seqs=2)
    mix = {"x": RequestClass(8, 9)}
    free, bound = inner_bound(engine, mix, "hardware"), inner_bound(engine, mix)
    assert free.load([0.1]) <= bound.load([0.1])
    (other,) = free.others
    assert other.load([0.1]) == bound.load([0.1])
    worse = replace(free, gang=(100.0,), fixed=(False,))
    assert worse.load([0.1]) == bound.load([0.1])


def test_f_many_kinds_are_rounded_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Never down: the load is at least that of all kinds, and close to it."""
    engine = Engine(BatchTime.affine(base=1.0, per_token=0.25), token_budget=512, max_seqs=64)
    draw = random.Random(1)
    prompt = [draw.randint(1, 400) for _ in range(300)]
    output = [draw.randint(1, 300) for _ in range(300)]
    for paired in (False, True):
        one = RequestClass(Lengths.empirical(prompt), Lengths.empirical(output), paired=paired)
        monkeypatch.setattr(inner, "_KINDS", 1000)
        every = inner_bound(engine, {"x": one}).load([1.0])
        monkeypatch.setattr(inner, "_KINDS", 12)
        few = inner_bound(engine, {"x": one}).load([1.0])
        assert 1.0001 * every < few < 1.15 * every
    # Each value keeps its weight.
    value, group = inner._round_up(one.prompt.values, one.prompt.probabilities)
    assert (value[group] >= one.prompt.values).all()
    assert 6 <= len(value) <= 13
    assert value[-1] == max(prompt)


def test_f_pairs_of_lengths_are_kinds() -> None:
    draw = random.Random(12)
    for _ in range(8):
        engine = engines(draw)
        n = draw.randint(2, 5)
        s, o = ([draw.randint(1, 6) for _ in range(n)] for _ in range(2))
        one = RequestClass(Lengths.empirical(s), Lengths.empirical(o), paired=True)
        lag = engine.conventions.lag
        expected = sum(alone(engine, x, y - 1 + lag) for x, y in zip(s, o, strict=True)) / n
        close(inner_bound(engine, {"x": one}).load([1.0]), expected, engine)


def test_f_groups_of_lengths_hold_all_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """By counting and by sorting, also where the largest is as many as there are."""
    monkeypatch.setattr(inner, "_KINDS", 4)
    draw = np.random.default_rng(2)
    for top, n in ((9, 50), (50, 50), (51, 50), (400, 50)):
        values = np.append(draw.integers(1, top + 1, n - 1), top)
        tops, group = inner._round_up(values, np.full(n, 1 / n))
        assert tops.tolist() == sorted(set(tops.tolist()))
        assert len(tops) <= 4
        for value, at in zip(values.tolist(), group.tolist(), strict=True):
            below = [t for t in tops.tolist() if t < value]
            assert at == len(below)


def test_f_lines_lie_above_the_law_and_touch_it() -> None:
    draw = random.Random(6)
    laws = [
        BatchTime.tiled(
            base=draw.randint(0, 4) / 4, per_tile=1.0, tile=tile, per_token=draw.randint(0, 4) / 16
        )
        for tile in (1, 2, 5, 7)
    ]
    laws += [
        BatchTime.roofline(floor=4.0, base=0.5, per_token=0.25, tile=1),
        BatchTime.table(tokens=[2, 5, 9, 20], seconds=[1.0, 1.5, 4.0, 4.5]),
        BatchTime.affine(base=1.0, per_token=0.5),
    ]
    for law in laws:
        for budget in (1, 6, 7, 23, 200):
            curve = [float(law.curve(n)) for n in range(1, budget + 1)]
            found = inner._caps(Engine(law, token_budget=budget))
            assert max(cap for cap, *_ in found) >= budget // law.tile * law.tile
            for cap, time, base, slope in found:
                assert time == pytest.approx(curve[cap - 1])
                above = [base + slope * n - curve[n - 1] for n in range(1, cap + 1)]
                assert min(above) >= -1e-9, (law, budget, cap)
                assert base >= 0
                assert base == 0 or min(above) == pytest.approx(0, abs=1e-9)


def test_f_a_cap_leaves_room_for_the_margin() -> None:
    """A batch of two tokens has none beside a request that may take three, less one."""
    law = BatchTime.table(tokens=[1, 2, 3], seconds=[1.0, 1.0, 10.0])
    engine = Engine(law, token_budget=3)
    found = inner._token_time(
        engine, inner._caps(engine), *(np.array([x]) for x in (5.0, 0.0, 2.0))
    )
    # Along the line of 9 / 2 s a token; two tokens at a time would take 5 s.
    assert found.tolist() == [22.5]
    # Other limits ask for seven batches: each holds just as many tokens as are left for it.
    law = BatchTime.tiled(base=1.0, per_tile=1.0, tile=10)
    engine = Engine(law, token_budget=4096)
    caps = inner._caps(engine)
    for n in range(10, 1500, 70):
        given = (np.array([x]) for x in (7.0 * n, 7.0, 0.0))
        assert inner._token_time(engine, caps, *given)[0] <= 7 * float(law.curve(n)) + 1e-9


def test_f_mixes_are_bound_by_tokens_slots_and_memory() -> None:
    """By hand: a second an iteration; many prompts of one class beside decodes of the other."""
    law = BatchTime.affine(base=1.0, per_token=0.0)

    def load(rate: float, prompt: int, output: int, **given: int) -> float:
        mix = {"a": RequestClass(prompt, 1), "b": RequestClass(1, output)}
        return inner_bound(Engine(law, max_seqs=32, **given), mix).load([rate, 1.0])

    # Chunks of 4: 870 tokens, and 64 less 4 and 1, and one.
    assert load(6.0, 119, 156, token_budget=64) == pytest.approx(870 / 60)
    # Chunks of 16: two for each prompt and 185 decodes; one slot less than there are.
    assert load(4.0, 23, 185, token_budget=64) == pytest.approx(193 / 31)
    # Whole blocks of 16: 187 of them less 3 and 11, and one.
    area = 2 * 40 + 174 * 175 / 2 + 15 * 176
    assert load(2.0, 40, 174, token_budget=128, kv_tokens=3000) == pytest.approx(area / (16 * 174))


def test_f_a_mix_may_fill_the_memory_with_one_request_each() -> None:
    law = BatchTime.affine(base=1.0, per_token=0.0)
    mix = {"a": RequestClass(2, 2), "b": RequestClass(3, 1)}
    engine = Engine(law, token_budget=64, kv_tokens=6, kv_block=1)
    assert inner_bound(engine, mix).gang == pytest.approx((5 / 4, 3 / 4))
    # Areas of 2 + 3 and 3 tokens, room for one token more than the peaks of 3 and 3.
    assert inner_bound(engine, mix)._own([1.0, 1.0]) == pytest.approx(5 / 4 + 3 / 4)
    assert inner_bound(engine.with_(kv_tokens=16), mix)._own([1.0, 1.0]) == pytest.approx(
        min(8 / 11, 5 / 14 + 3 / 14)
    )
