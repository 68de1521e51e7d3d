"""Stability regions: structure, an independent linear programme, and policies that cannot beat it.

The oracles of theory core 6.2, the facets against scipy's LP, the outer bound against random
schedules of real requests, the inner bound against the paced schedule it describes.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from fractions import Fraction as F

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from llmq.errors import UndecidedError
from llmq.model.conventions import ENGINE, THEORY
from llmq.model.engine import Engine
from llmq.model.lengths import Lengths
from llmq.model.request import RequestClass
from llmq.model.time.batchtime import BatchTime
from llmq.theory.needs._envelope import envelope
from llmq.theory.needs.demand import demand
from llmq.theory.region import stability_region
from llmq.theory.region.tiling import best_batch

quarters = st.integers(0, 40).map(lambda n: n / 4)
positive = st.integers(1, 40).map(lambda n: n / 4)
# Structure is checked on few examples in each quick run; the seeds differ between runs.
FEW = settings(max_examples=30)
reads = st.sampled_from([0.0, 0.001, 0.01])


@st.composite
def laws(draw: st.DrawFn) -> BatchTime:
    attention = {"per_kv": draw(reads), "per_kv_mixed": draw(reads), "per_work": draw(reads) / 8}
    form = draw(st.sampled_from(["affine", "tiled", "roofline", "tiled roofline", "table"]))
    if form == "affine":
        return BatchTime.affine(base=draw(quarters), per_token=draw(positive), **attention)
    if form == "tiled":
        return BatchTime.tiled(
            base=draw(quarters),
            per_tile=draw(positive),
            tile=draw(st.integers(1, 9)),
            per_token=draw(quarters) / 8,
            **attention,
        )
    if form.endswith("roofline"):
        return BatchTime.roofline(
            floor=draw(positive) * 3,
            floor_per_token=draw(quarters) / 8,
            base=draw(quarters),
            per_token=draw(positive) / 8,
            tile=draw(st.integers(2, 9)) if form.startswith("tiled") else 1,
            **attention,
        )
    tokens = sorted(draw(st.sets(st.integers(1, 40), min_size=2, max_size=8)))
    seconds = sorted(draw(st.lists(positive, min_size=len(tokens), max_size=len(tokens))))
    return BatchTime.table(tokens=tokens, seconds=seconds, **attention)


@st.composite
def mixes(draw: st.DrawFn, most: int = 3, longest: int = 40) -> dict[str, RequestClass]:
    n = draw(st.integers(1, most))
    length = st.integers(1, longest)
    return {f"c{j}": RequestClass(draw(length), draw(length)) for j in range(n)}


@st.composite
def engines(draw: st.DrawFn, mix: dict[str, RequestClass], law: BatchTime | None = None) -> Engine:
    peak = max(request.peak for request in mix.values())
    block = draw(st.sampled_from([1, 3, 4]))
    rules = draw(st.sampled_from([ENGINE, THEORY]))
    budget = draw(st.integers(1, 60))
    return Engine(
        law or draw(laws()),
        token_budget=budget,
        max_seqs=draw(st.none() | st.integers(1, 20)),
        kv_tokens=draw(st.none() | st.integers(peak + block, 12 * peak + block)),
        kv_block=block,
        prefill_chunk=draw(st.none() | st.integers(1, budget)),
        conventions=rules,
    )


@st.composite
def cases(draw: st.DrawFn) -> tuple[Engine, dict[str, RequestClass], dict[str, float]]:
    mix = draw(mixes())
    rates = {name: draw(st.integers(0, 9)) / 8 for name in mix}
    assume(any(rates.values()))
    return draw(engines(mix)), mix, rates


# Envelope and tiling against brute force.


@given(laws(), st.integers(1, 40))
@FEW
def test_envelope_is_the_largest_convex_function_below(law: BatchTime, budget: int) -> None:
    curve, exact = envelope(law, budget), law.exact()
    value = [exact.curve(n) for n in range(budget + 1)]
    for n in range(1, budget + 1):
        chords = (
            (value[i] * (k - n) + value[k] * (n - i)) / (k - i)
            for i in range(1, n)
            for k in range(n + 1, budget + 1)
        )
        assert curve(n) == min(itertools.chain([value[n]], chords))


@given(laws(), st.integers(1, 200))
@FEW
def test_best_batch_is_the_best_of_all(law: BatchTime, budget: int) -> None:
    exact = law.exact()
    best = max(range(1, budget + 1), key=lambda n: (n / exact.curve(n), -n))
    found = best_batch(law, budget)
    assert (found.tokens, found.exact_rate) == (best, best / exact.curve(best))


def test_best_batch_on_a_hinge() -> None:
    # c + a max(0, n - b0): best at the hinge if c < a b0, else at the budget.
    for c, best in ((1.0, 8), (9.0, 64)):
        law = BatchTime.roofline(floor=c, base=c - 8.0 if c > 8 else 0.0, per_token=1.0)
        law = law if c > 8 else BatchTime.table(tokens=[8, 9, 64], seconds=[1.0, 2.0, 57.0])
        assert best_batch(law, 64).tokens == best


# Gauge, permutation, splitting, monotonicity.


@given(cases(), st.integers(1, 8))
@FEW
def test_load_is_a_gauge(case, k: int) -> None:
    engine, mix, rates = case
    region = stability_region(engine, mix)
    scaled = {name: k * rate for name, rate in rates.items()}
    assert region.load(scaled, exact=True) == k * region.load(rates, exact=True)
    assert region.load(scaled) == pytest.approx(float(region.load(scaled, exact=True)), rel=1e-12)
    assert region.margin(scaled) * region.load(scaled) == pytest.approx(1)


@given(cases())
@FEW
def test_order_of_classes_does_not_matter(case) -> None:
    engine, mix, rates = case
    turned = dict(reversed(mix.items()))
    one, two = stability_region(engine, mix), stability_region(engine, turned)
    assert one.load(rates, exact=True) == two.load(rates, exact=True)
    assert one.prices(rates) == two.prices(rates)
    assert one.load_bracket(rates) == pytest.approx(two.load_bracket(rates), rel=1e-12)


@given(cases(), st.integers(0, 4))
@FEW
def test_splitting_a_class_changes_nothing(case, quarter: int) -> None:
    engine, mix, rates = case
    split, parts = {**mix, "twin": mix["c0"]}, dict(rates)
    parts["twin"], parts["c0"] = rates["c0"] * quarter / 4, rates["c0"] * (4 - quarter) / 4
    one, two = stability_region(engine, mix), stability_region(engine, split)
    assert two.load(parts, exact=True) == one.load(rates, exact=True)
    prices = two.prices(parts)
    assert prices["twin"] == prices["c0"] == one.prices(rates)["c0"]


@given(cases(), st.data())
@FEW
def test_region_is_convex_and_coordinate_convex(case, data: st.DataObject) -> None:
    engine, mix, rates = case
    region = stability_region(engine, mix)
    other = {name: data.draw(st.integers(0, 9)) / 8 for name in mix}
    total = {name: rates[name] + other[name] for name in mix}
    load = region.load(total, exact=True)
    assert load <= region.load(rates, exact=True) + region.load(other, exact=True)
    assert load >= region.load(rates, exact=True)


@given(cases())
@FEW
def test_prices_times_rates_is_the_load(case) -> None:
    engine, mix, rates = case
    region = stability_region(engine, mix)
    spent = sum(rates[name] * price for name, price in region.prices(rates).items())
    assert spent == pytest.approx(region.load(rates), rel=1e-12)
    edge = region.boundary(rates)
    assert region.load(edge) == pytest.approx(1, rel=1e-12)


@given(cases(), st.integers(1, 30))
@FEW
def test_more_of_anything_never_shrinks_the_region(case, more: int) -> None:
    engine, mix, rates = case
    load = stability_region(engine, mix).load(rates, exact=True)
    better = [
        engine.with_(token_budget=engine.token_budget + more),
        engine.with_(law=engine.law.scaled(0.5)),
    ]
    if engine.max_seqs is not None:
        better += [engine.with_(max_seqs=engine.max_seqs + more), engine.with_(max_seqs=None)]
    if engine.kv_tokens is not None:
        better += [engine.with_(kv_tokens=engine.kv_tokens + more), engine.with_(kv_tokens=None)]
    for changed in better:
        assert stability_region(changed, mix).load(rates, exact=True) <= load


@given(cases())
@FEW
def test_slower_engine_scales_the_load(case) -> None:
    engine, mix, rates = case
    slow = stability_region(engine.with_(law=engine.law.scaled(4.0)), mix)
    load = stability_region(engine, mix).load(rates, exact=True)
    assert slow.load(rates, exact=True) == 4 * load


@given(cases())
@FEW
def test_huge_budgets_equal_no_budgets(case) -> None:
    engine, mix, rates = case
    free = engine.with_(max_seqs=None, kv_tokens=None)
    vast = engine.with_(max_seqs=10**9, kv_tokens=10**12)
    none = stability_region(free, mix).load(rates, exact=True)
    assert stability_region(vast, mix).load(rates, exact=True) == none


@given(mixes(), positive, positive)
@FEW
def test_limits_of_the_token_facet(mix, base: float, per_token: float) -> None:
    rates = dict.fromkeys(mix, 1.0)
    tokens = sum(request.prompt.low + request.output.low for request in mix.values())
    law = BatchTime.affine(base=base, per_token=per_token)
    wide = Engine(law, token_budget=10**9, conventions=THEORY)
    expected = per_token * tokens + base * tokens / 10**9
    assert stability_region(wide, mix).load(rates) == pytest.approx(expected, rel=1e-12)
    # No base: the slots and the memory have no price.
    lean = Engine(
        BatchTime.affine(base=0, per_token=per_token),
        token_budget=64,
        max_seqs=1,
        kv_tokens=1600,
        conventions=THEORY,
    )
    assert stability_region(lean, mix).load(rates) == pytest.approx(per_token * tokens, rel=1e-12)
    assert stability_region(lean, mix).binding(rates)[0] == "compute"


@given(mixes())
@FEW
def test_pure_area_is_dong_cao(mix) -> None:
    engine = Engine(
        BatchTime.affine(base=1, per_token=0),
        token_budget=10**6,
        kv_tokens=10**3,
        kv_block=1,
        conventions=replace(THEORY, area="decode_only"),
    )
    sizes = [(request.prompt.low, request.output.low) for request in mix.values()]
    area = sum(sum(s + j for j in range(1, o + 1)) for s, o in sizes)
    # Exactly the area over the memory, unless a batch of 10^6 tokens were the limit.
    load = stability_region(engine, mix).load(dict.fromkeys(mix, 1), exact=True)
    assert load == F(area, 10**3)


# Facets against an independent linear programme in (r, N).


def lp_load(engine: Engine, mix: dict[str, RequestClass], rates: dict[str, float]) -> float:
    """min r: r >= token time of N batches + attention, N within its limits; scipy's HiGHS."""
    from scipy.optimize import linprog

    law, lag, block = engine.law, engine.conventions.lag, engine.kv_block
    v = k = held = w = prompts = reads = 0.0
    for name, request in mix.items():
        s, d = request.prompt.low, request.output.low - 1 + lag
        chunks = -(-s // engine.chunk)
        v += rates[name] * (s + d)
        k += rates[name] * (chunks + d)
        prefill = [s - i * engine.chunk for i in range(chunks)]
        decode = [s + j for j in range(1, d + 1)]
        held += rates[name] * sum(-(-x // block) * block for x in prefill + decode)
        # Chunks are read in mixed iterations, decodes in the cheaper of the two.
        read = law.per_kv_mixed * sum(prefill) + min(law.per_kv, law.per_kv_mixed) * sum(decode)
        reads += rates[name] * read
        w += rates[name] * s * s / 2
        prompts += rates[name] * s
    rest = reads + law.per_work * w
    # Weights y_x >= 0 of all batches of prompt and decode tokens, without any hull code.
    budget, slots = engine.token_budget, engine.max_seqs
    shared = slots is not None and engine.conventions.prefill_slots == "one"
    batches = np.array(
        [
            (x, n - x)
            for n in range(1, budget + 1)
            for x in range(n + 1)
            if not shared or n - x + (x > 0) <= slots
        ]
    )
    least = max(
        k / slots if slots is not None and not shared else 0.0,
        0.0 if engine.kv_tokens is None else held / (engine.kv_tokens // block * block),
    )
    rows = [-np.ones(len(batches)), *-batches.T]
    answer = linprog(
        law.curve(batches.sum(axis=1)),
        A_ub=np.asarray(rows),
        b_ub=[-least, -prompts, prompts - v],
        method="highs",
    )
    assert answer.status == 0
    return float(answer.fun) + rest


@given(cases())
@settings(max_examples=50)
def test_facets_equal_the_linear_programme(case) -> None:
    engine, mix, rates = case
    expected = lp_load(engine, mix, rates)
    assert stability_region(engine, mix).load(rates) == pytest.approx(expected, rel=1e-7)


# Vertices.


@given(cases())
@FEW
def test_vertices_lie_on_the_boundary_and_span_the_region(case) -> None:
    engine, mix, rates = case
    region = stability_region(engine, mix)
    points = region.vertices()
    loads = [region.load(dict(zip(mix, point, strict=True))) for point in points]
    assert loads == pytest.approx([1.0] * len(loads), rel=1e-9)
    assert np.all(np.diff(points[:, 0]) >= 0)
    assert len(np.unique(points, axis=0)) == len(points)
    # Support function: the farthest point in any direction is a vertex.
    from scipy.optimize import linprog

    direction = np.asarray([rates[name] for name in mix])
    rows = np.asarray([facet.weights for facet in region.facets()])
    answer = linprog(-direction, A_ub=rows, b_ub=np.ones(len(rows)), method="highs")
    assert max(points @ direction) == pytest.approx(-answer.fun, rel=1e-7)


@given(cases())
@FEW
def test_dominated_facets_never_bind(case) -> None:
    engine, mix, rates = case
    region = stability_region(engine, mix)
    exactly = [F(rates[name]) for name in mix]
    everything = [
        sum(w * r for w, r in zip(facet.exact, exactly, strict=True))
        for facet in region.facets(dominated=True)
    ]
    load = region.load(rates, exact=True)
    assert max(everything[: len(region.facets())]) == load
    # Only the slots as they are printed may charge more, where prompts share one.
    shared = engine.max_seqs is not None and engine.conventions.prefill_slots == "one"
    for facet, value in zip(region.facets(dominated=True), everything, strict=True):
        assert value <= load or (shared and facet in region.dominated and facet.prices.chunk)
    for one, two in itertools.permutations(region.facets(), 2):
        assert any(a > b for a, b in zip(one.exact, two.exact, strict=True))


# No policy beats the outer bound.


def random_schedule(
    engine: Engine, mix: dict[str, RequestClass], counts: list[int], rng: np.random.Generator
) -> float:
    """Serve requests by a random policy that obeys every rule; return the time it takes."""
    law, rules, block = engine.law, engine.conventions, engine.kv_block
    shared = rules.prefill_slots == "one"
    slots = math.inf if engine.max_seqs is None else engine.max_seqs
    rows = [  # tokens held, prompt left, decodes left
        [0, request.prompt.low, request.output.low - 1 + rules.lag]
        for request, n in zip(mix.values(), counts, strict=True)
        for _ in range(n)
    ]
    eager, time = rng.random(), 0.0
    while rows:
        cap = engine.token_budget
        if rng.random() > eager:
            cap = int(rng.integers(1, cap + 1))
        used = kv = taken = 0
        work, mixed = 0.0, False
        # Rows that hold something have reserved their peak: no schedule gets stuck.
        free = engine.kv_blocks - sum(-(-sum(row) // block) for row in rows if row[0])
        for row in (rows[i] for i in rng.permutation(len(rows))):
            held, left, _ = row
            peak = 0 if held else -(-sum(row) // block)
            slot = 0 if left and shared and mixed else 1
            if peak > free or taken + slot > slots or used >= cap:
                continue
            step = 1
            if left:
                first = left % engine.chunk or engine.chunk
                wish = rng.choice([1, first, min(left, engine.chunk)])
                step = min(int(wish), cap - used)
                work += step * (held + step / 2)
                mixed = True
            free, taken, used = free - peak, taken + slot, used + step
            row[0], row[1 if left else 2] = held + step, row[1 if left else 2] - step
            kv += row[0]
        time += law(used, kv, work, mixed=mixed)
        rows = [row for row in rows if row[1] or row[2]]
    return time


@given(cases(), st.integers(0, 2**32 - 1))
@settings(max_examples=100)
def test_no_schedule_beats_the_outer_bound(case, seed: int) -> None:
    engine, mix, _ = case
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 8, len(mix)).tolist()
    assume(any(counts))
    time = random_schedule(engine, mix, counts, rng)
    served = {name: n / time for name, n in zip(mix, counts, strict=True)}
    region = stability_region(engine, mix)
    assert region.load_bracket(served)[0] <= 1 + 1e-9
    if engine.conventions.prefill_slots == "per_request":
        assert region.load(served) <= 1 + 1e-9


def test_remainder_first_needs_the_least_area() -> None:
    # Two chunks of a 600-token prompt: 88 + 512 hold 688 token-iterations, 512 + 88 hold 1112.
    engine = Engine(BatchTime.affine(base=1, per_token=1), 512, conventions=ENGINE)
    need = demand(RequestClass(600, 1), engine)
    assert (need.least_area, need.area) == (88 + 600, 512 + 600)


@given(st.integers(1, 60), st.integers(1, 20))
@FEW
def test_least_area_is_the_least(prompt: int, chunk: int) -> None:
    assume(prompt <= 4 * chunk and prompt <= 18)
    engine = Engine(BatchTime.affine(base=1, per_token=1), 64)
    need = demand(RequestClass(prompt, 1), engine, chunk=chunk)

    def areas(left: int, held: int) -> list[int]:
        if not left:
            return [0]
        return [
            held + step + rest
            for step in range(1, min(chunk, left) + 1)
            for rest in areas(left - step, held + step)
        ]

    assert need.least_area == min(areas(prompt, 0))


# The inner bound.


@given(cases())
@FEW
def test_outer_load_is_below_inner_load(case) -> None:
    engine, mix, rates = case
    region = stability_region(engine, mix)
    low, high = region.load_bracket(rates)
    assert low <= high * (1 + 1e-9)
    assert math.isfinite(high)
    for scale, answer in ((0.99 / high, True), (1.01 / low, False)):
        assert region.contains({name: scale * rate for name, rate in rates.items()}) is answer
    if 1.02 * low < high:
        between = {name: rate / math.sqrt(low * high) for name, rate in rates.items()}
        with pytest.raises(UndecidedError) as caught:
            region.contains(between)
        assert caught.value.low < 1 <= caught.value.high


PERIOD = 4096


def paced_load(engine: Engine, requests: list[tuple[int, int]], rates: list[float]) -> float:
    """Run the paced schedule with each chunk and cap, round and round; least mean busy time."""
    block, best = engine.kv_block, math.inf
    free = math.inf if engine.max_seqs is None else engine.max_seqs - len(requests) + 1
    for chunk in sorted({2**i for i in range(engine.chunk.bit_length())} | {engine.chunk}):
        profiles = []
        for s, d in requests:
            tokens = np.asarray([min(chunk, s - i) for i in range(0, s, chunk)] + [1] * d)
            held = np.cumsum(tokens)
            profiles.append(np.stack((tokens, np.ones_like(tokens), -(-held // block), held)))
        need = sum(r * p.sum(axis=1) for r, p in zip(rates, profiles, strict=True))
        spare = sum(int(p[0].max()) for p in profiles) - 1
        room = engine.kv_blocks - sum(int(p[2][-1]) for p in profiles) + 1
        if room < 1 or free < 1:
            continue
        for cap in range(spare + 1, engine.token_budget + 1):
            n = max(need[0] / (cap - spare), need[1] / free, need[2] / room)
            starts = math.floor(PERIOD / n / 8)  # of 1/8 request per second, in one period
            time = run_paced(engine, profiles, [round(8 * r) * starts for r in rates], cap)
            best = min(best, time / (8 * starts))
    return best


def run_paced(engine: Engine, profiles: list[np.ndarray], starts: list[int], cap: int) -> float:
    """Start so many requests regularly over a period; check every iteration, return the time."""
    total = np.zeros((4, PERIOD), dtype=np.int64)
    for profile, n in zip(profiles, starts, strict=True):
        first = np.floor((np.arange(n) + 0.37) * PERIOD / n).astype(int) % PERIOD
        count = np.bincount(first, minlength=PERIOD)
        for age, column in enumerate(profile.T):
            total += column[:, None] * np.roll(count, age)
    assert total[0].max() <= cap
    assert engine.max_seqs is None or total[1].max() <= engine.max_seqs
    assert total[2].max() <= engine.kv_blocks
    reads = max(engine.law.per_kv, engine.law.per_kv_mixed) * total[3]
    return float(np.sum(engine.law.curve(total[0]) + reads))


def serial_load(engine: Engine, request: tuple[int, int], rate: float) -> float:
    chunk, (s, d), law = engine.chunk, request, engine.law
    tokens = [min(chunk, s - i) for i in range(0, s, chunk)] + [1] * d
    reads = max(law.per_kv, law.per_kv_mixed) * np.cumsum(tokens)
    return rate * float(np.sum(law.curve(tokens) + reads))


@given(st.data())
@settings(max_examples=30)
def test_paced_schedules_fit_and_are_as_fast_as_the_inner_bound_says(data: st.DataObject) -> None:
    mix = data.draw(mixes(most=2, longest=12))
    law = replace(data.draw(laws()), per_work=0.0)
    engine = data.draw(engines(mix, law))
    engine = engine.with_(token_budget=min(engine.token_budget, 24))
    region = stability_region(engine, mix)
    assume(region.inner is not None)
    rates = [data.draw(st.integers(1, 9)) / 8 for _ in mix]
    lag = engine.conventions.lag
    requests = [(c.prompt.low, c.output.low - 1 + lag) for c in mix.values()]
    alone = sum(
        min(serial_load(engine, request, rate), paced_load(engine, [request], [rate]))
        for request, rate in zip(requests, rates, strict=True)
    )
    measured = min(alone, paced_load(engine, requests, rates)) if len(mix) > 1 else alone
    claimed = region.load_bracket(dict(zip(mix, rates, strict=True)))[1]
    # Whole numbers of starts in a period cost up to 1 in 50.
    assert measured <= 1.02 * claimed


@given(mixes(most=2, longest=12), st.integers(2, 12))
@FEW
def test_lists_of_one_kind_equal_fixed_lengths(mix, copies: int) -> None:
    engine = Engine(
        BatchTime.affine(base=1, per_token=0.25, per_kv=0.01),
        32,
        max_seqs=4,
        kv_tokens=96,
        conventions=THEORY,
    )
    listed = {
        name: RequestClass(
            Lengths.empirical([request.prompt.low] * copies),
            Lengths.empirical([request.output.low] * copies),
            paired=True,
        )
        for name, request in mix.items()
    }
    rates = dict.fromkeys(mix, 0.5)
    one, two = stability_region(engine, mix), stability_region(engine, listed)
    assert one.load(rates, exact=True) == two.load(rates, exact=True)
    assert one.load_bracket(rates) == pytest.approx(two.load_bracket(rates), rel=1e-12)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=6), st.data())
@FEW
def test_means_of_independent_laws_factorise(prompts: list[int], data: st.DataObject) -> None:
    outputs = data.draw(st.lists(st.integers(1, 20), min_size=1, max_size=6))
    engine = Engine(BatchTime.affine(base=1, per_token=1), 16, conventions=THEORY, prefill_chunk=7)
    apart = RequestClass(Lengths.empirical(prompts), Lengths.empirical(outputs))
    pairs = list(itertools.product(prompts, outputs))
    listed = RequestClass(
        Lengths.empirical([s for s, _ in pairs]),
        Lengths.empirical([o for _, o in pairs]),
        paired=True,
    )
    assert demand(apart, engine) == demand(listed, engine)
    weighted = RequestClass(
        Lengths(np.asarray(prompts), np.ones(len(prompts))),
        Lengths(np.asarray(outputs), np.ones(len(outputs))),
    )
    one, two = demand(apart, engine), demand(weighted, engine)
    assert float(one.area) == pytest.approx(float(two.area), rel=1e-12)
    assert two.exact is (len(prompts) == len(outputs) == 1)
