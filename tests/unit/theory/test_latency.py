"""Latency laws: domains, refusals, limits, and what every result says about itself."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest

import llmq
from llmq.errors import InputError, UnstableError
from llmq.result import Kind, from_json, to_json
from llmq.theory import chains, latency
from llmq.theory.latency._base import Law
from llmq.theory.region import stability_region


def near(value: float, rel: float = 1e-9) -> object:
    return pytest.approx(value, rel=rel)


AFFINE = llmq.BatchTime.affine(base=0.0125, per_token=2.5e-5)
MIX = {"x": llmq.RequestClass(401, 100)}


def priced() -> latency.PricedWorkload:
    return latency.priced_workload(
        stability_region(llmq.Engine(AFFINE, token_budget=500), MIX), {"x": 32.0}, MIX
    )


def memory_rate() -> latency.MemoryRate:
    mix = {"x": llmq.RequestClass(8, 4)}
    return latency.nie(mix, {"x": 1.0}, kv_tokens=100, batch_time=0.1, chunk=8)


LAWS: dict[str, Callable[[], Law]] = {
    "decode_occupancy": lambda: latency.decode_occupancy(2.0, 200, 0.012, 0.0005),
    "decode_occupancy, slots": lambda: latency.decode_occupancy(2.0, 200, 0.012, 0.0005, 8),
    "inoue": lambda: latency.inoue(1.0, 0.5, 1.0),
    "bailey": lambda: latency.bailey(3.0, 4),
    "bulk": lambda: latency.bulk(3.0, 1.0, 4, accessible=True),
    "mg1": lambda: latency.mg1(0.5, 1.0, 2.0),
    "md1": lambda: latency.md1(0.5, 1.0),
    "erlang_c": lambda: latency.erlang_c(12, 10.0),
    "halfin_whitt": lambda: latency.halfin_whitt(100.0, p_wait=0.2),
    "jsq": lambda: latency.jsq(2, 0.9),
    "limited_preemption": lambda: latency.limited_preemption(0.5, 0.8),
    "kv_occupancy": lambda: latency.kv_occupancy(0.5, 4, 6),
    "nie": memory_rate,
    "birth_death": lambda: latency.birth_death(
        0.003, 128, 512, base=12, per_token=0.05, per_kv=0.0005, max_seqs=48, queue=128
    ),
    "priced_workload": priced,
    "stationary": lambda: chains.stationary([[Fraction(1, 2), Fraction(1, 2)], [1, 0]]),
    "stationary, floats": lambda: chains.stationary([[0.5, 0.5], [1.0, 0.0]]),
    "qbd": lambda: chains.qbd([[0.5]], [[0]], [[1.0]]),
    "optimal_cost": lambda: chains.optimal_cost([[(3.0, {0: 1})]]),
}


@pytest.mark.parametrize("make", LAWS.values(), ids=LAWS)
def test_every_law_says_what_it_is(make: Callable[[], Law]) -> None:
    law = make()
    assert law.kind in (Kind.EXACT, Kind.APPROXIMATION, Kind.ASYMPTOTIC)
    assert law.assumptions
    assert all(isinstance(words, str) and words for words in law.assumptions)
    assert law.source
    with pytest.raises(dataclasses.FrozenInstanceError):
        law.source = "changed"  # type: ignore[misc]
    for field in dataclasses.fields(law):
        value = getattr(law, field.name)
        assert not isinstance(value, np.generic), field.name
        if isinstance(value, np.ndarray):
            assert not value.flags.writeable


@pytest.mark.parametrize("make", LAWS.values(), ids=LAWS)
def test_every_law_survives_json(make: Callable[[], Law]) -> None:
    law = make()
    again = from_json(type(law), to_json(law))
    for field in dataclasses.fields(law):
        before, after = getattr(law, field.name), getattr(again, field.name)
        assert type(before) is type(after), field.name
        assert np.array_equal(before, after), field.name


# At and beyond saturation there is no mean: (call, margin).
UNSTABLE: list[tuple[Callable[[], Law], float]] = [
    (lambda: latency.mg1(2.0, 1.0, 1.0), 0.5),
    (lambda: latency.md1(1.0, 1.0), 1.0),
    (lambda: latency.mg1_tokens(1.0, llmq.Lengths.fixed(4), 0.5), 0.5),
    (lambda: latency.inoue(4.0, 0.5, 1.0), 0.5),
    (lambda: latency.bailey(4.0, 4), 1.0),
    (lambda: latency.bulk(8.0, 1.0, 4, accessible=False), 0.5),
    (lambda: latency.erlang_c(10, 20.0), 0.5),
    (lambda: latency.halfin_whitt(20.0, servers=10), 0.5),
    (lambda: latency.jsq(2, 1.25), 0.8),
    (lambda: latency.limited_preemption(1.0, 0.5), 1.0),
    (lambda: latency.limited_preemption(1.0, 0.5, mean=2.0), 0.5),
    (lambda: latency.decode_occupancy(20.0, 200, 0.012, 0.0005), 0.5),
    (lambda: latency.decode_occupancy(5.0, 200, 0.012, 0.0005, max_seqs=8), 0.5),
]


@pytest.mark.parametrize(("call", "margin"), UNSTABLE)
def test_overload_is_refused_with_its_margin(call: Callable[[], Law], margin: float) -> None:
    with pytest.raises(UnstableError, match=r"does not exist at load .*must exceed 1") as info:
        call()
    assert info.value.margin == near(margin)
    assert info.value.load == near(1 / margin)


NUMBERS: dict[str, Callable[[float], Law]] = {
    "rate": lambda x: latency.mg1(x, 1.0, 1.0),
    "mean": lambda x: latency.mg1(0.5, x, 1.0),
    "second_moment": lambda x: latency.mg1(0.5, 1.0, x),
    "duration": lambda x: latency.md1(0.5, x),
    "per_token": lambda x: latency.mg1_tokens(0.1, llmq.Lengths.fixed(2), x),
    "per_item": lambda x: latency.inoue(0.5, x, 1.0),
    "mean_arrivals": lambda x: latency.bailey(x, 4),
    "service_rate": lambda x: latency.bulk(0.5, x, 4, accessible=True),
    "load": lambda x: latency.jsq(2, x),
    "servers": lambda x: latency.halfin_whitt(10.0, servers=x),
    "mean_output": lambda x: latency.decode_occupancy(0.5, x, 1.0, 0.1),
    "prompt": lambda x: latency.birth_death(
        1, x, 1, base=1, per_token=1, per_kv=1, max_seqs=1, queue=1
    ),
    "batch_time": lambda x: latency.nie(MIX, {"x": 1}, kv_tokens=1024, batch_time=x, chunk=8),
}


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf, "fast"])
@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_must_be_positive_and_finite(name: str, bad: float) -> None:
    words = rf"(^|: ){name} must be a (finite number > 0|number|whole number.*), got"
    with pytest.raises(InputError, match=words) as info:
        NUMBERS[name](bad)
    assert info.value.field == name


WHOLE: dict[str, Callable[[int], Law]] = {
    "servers": lambda n: latency.erlang_c(n, 0.5),
    "batch": lambda n: latency.bailey(0.5, n),
    "d": lambda n: latency.jsq(n, 0.5),
    "max_seqs": lambda n: latency.decode_occupancy(0.5, 1, 0.1, 0.1, n),
    "limit": lambda n: latency.mg1_tokens(0.1, llmq.Lengths.fixed(2), 1.0, limit=n),
    "kv_tokens": lambda n: latency.nie(MIX, {"x": 1}, kv_tokens=n, batch_time=1.0, chunk=8),
    "chunk": lambda n: latency.nie(MIX, {"x": 1}, kv_tokens=1024, batch_time=1.0, chunk=n),
}


@pytest.mark.parametrize("bad", [0, 1.5, True, "4", math.nan])
@pytest.mark.parametrize("name", WHOLE)
def test_counts_must_be_whole(name: str, bad: int) -> None:
    words = rf"(^|: ){name} must be a whole number(, at least 1)?, got"
    with pytest.raises(InputError, match=words):
        WHOLE[name](bad)


@pytest.mark.parametrize(
    "quantile",
    [
        latency.md1(0.5, 1.0).quantile,
        latency.erlang_c(2, 1.0).quantile,
        latency.decode_occupancy(0.5, 1, 0.1, 0.1).quantile,
        latency.decode_occupancy(0.5, 1, 0.1, 0.1).tbt_quantile,
        latency.kv_occupancy(0.5, 4, 6).quantile,
        latency.kv_occupancy(0.5, 4, 6).normal_quantile,
    ],
)
def test_a_percentage_is_no_share(quantile: Callable[[float], float]) -> None:
    for bad in (99, 0.0, 1.0, math.nan, "p99"):
        words = r"q must (lie strictly between 0 and 1 \(0.99 for|be a number)"
        with pytest.raises(InputError, match=words):
            quantile(bad)  # type: ignore[arg-type]


def test_other_refusals() -> None:
    with pytest.raises(InputError, match=r"second_moment must be at least mean\*\*2 = 4, got 1"):
        latency.mg1(0.1, 2.0, 1.0)
    with pytest.raises(InputError, match=r"tokens must be a Lengths, got 7"):
        latency.mg1_tokens(0.1, 7, 1.0)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"prediction must be .*'perfekt'; did you mean 'perfect'"):
        latency.limited_preemption(0.5, 0.5, prediction="perfekt")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="c must be a finite number >= 0, got -1"):
        latency.limited_preemption(0.5, -1.0)
    with pytest.raises(InputError, match="either servers or p_wait"):
        latency.halfin_whitt(10.0)
    with pytest.raises(InputError, match="either servers or p_wait"):
        latency.halfin_whitt(10.0, servers=12, p_wait=0.1)
    with pytest.raises(InputError, match="per_token must be a finite number > 0, got 0"):
        latency.decode_occupancy(0.5, 1, 0.0, 0.0)
    with pytest.raises(InputError, match="prompt must be at least 1 token"):
        latency.kv_occupancy(0.5, 0, 6)
    with pytest.raises(InputError, match="divide prompt, output and memory by a block size"):
        latency.kv_occupancy(50.0, 100_000, 10_000)
    with pytest.raises(InputError, match="p_wait must lie strictly between"):
        latency.erlang_c(2, 1.0).staff(20)


def test_nie_refusals() -> None:
    with pytest.raises(InputError, match="at least one request class"):
        latency.nie({}, {}, kv_tokens=1024, batch_time=1.0, chunk=8)
    with pytest.raises(InputError, match="rate for unknown class 'y'"):
        latency.nie(MIX, {"y": 1}, kv_tokens=1024, batch_time=1.0, chunk=8)
    with pytest.raises(InputError, match="at least one positive proportion"):
        latency.nie(MIX, {"x": 0}, kv_tokens=1024, batch_time=1.0, chunk=8)
    with pytest.raises(InputError, match=r"takes 1\.002 of the 500 KV tokens: it must fit"):
        latency.nie(MIX, {"x": 1}, kv_tokens=500, batch_time=1.0, chunk=8)


def test_o8_nie() -> None:
    mix = {"short": llmq.RequestClass(1024, 256), "long": llmq.RequestClass(2048, 512)}
    law = latency.nie(mix, {"short": 7, "long": 3}, kv_tokens=60_000, batch_time=0.03, chunk=512)
    assert law.area == near(563110.4)
    assert law.rate == near(3.5517014070)
    assert law.largest_share == near(0.0426666667)
    assert law.stable_rate == near(3.4001621470)
    assert law.replicas(40.0) == 12
    assert law.replicas(law.stable_rate) == 2  # the boundary itself is not covered


# Limits.


def test_one_server_is_erlang_c_is_mg1() -> None:
    wait = latency.mg1(0.8, 1.0, 2.0).wait
    assert latency.erlang_c(1, 0.8).wait == near(wait)
    assert latency.jsq(1, 0.8).sojourn == near(wait + 1)
    assert latency.bulk(0.8, 1.0, 1, accessible=False).sojourn == near(wait + 1)
    assert latency.bulk(0.8, 1.0, 1, accessible=True).wait == near(wait)
    # SJF and SRPT beat it; the perfect prediction beats the exponential one.
    best, late = (latency.limited_preemption(0.8, 1.0, kind) for kind in ("perfect", "exponential"))
    assert best.wait < late.wait < wait


def test_size_based_laws_scale_with_the_service_time() -> None:
    one = latency.limited_preemption(0.6, 0.5, "exponential")
    ten = latency.limited_preemption(0.06, 0.5, "exponential", mean=10.0)
    assert ten.sojourn == near(10 * one.sojourn)
    assert latency.limited_preemption(0.6, 7.0).sojourn == near(
        latency.limited_preemption(0.6, 1.0).sojourn
    )


@pytest.mark.parametrize("prediction", ["perfect", "exponential"])
def test_size_based_laws_are_smooth_at_the_ends(prediction: str) -> None:
    for end, inside in ((0.0, 1e-6), (1.0, 1 - 1e-6)):
        values = [
            latency.limited_preemption(0.7, c, prediction).sojourn  # type: ignore[arg-type]
            for c in (end, inside)
        ]
        assert values[0] == near(values[1], 1e-5)


def test_light_traffic() -> None:
    tiny = 1e-9
    assert latency.limited_preemption(tiny, 0.5).sojourn == near(1.0, 1e-8)
    assert latency.limited_preemption(tiny, 0.5, "exponential").sojourn == near(1.0, 1e-8)
    assert latency.inoue(tiny, 0.5, 1.0).wait == near(1.5, 1e-7)
    assert latency.inoue(tiny, 0.5, 1.0).batch_mean == near(1.0, 1e-7)
    assert latency.decode_occupancy(tiny, 200, 0.012, 0.0005).sojourn == near(2.5, 1e-6)
    assert latency.md1(tiny, 1.0).quantile(0.99) == 0.0


def test_many_slots_are_no_slots() -> None:
    free = latency.decode_occupancy(2.0, 200, 0.012, 0.0005)
    wide = latency.decode_occupancy(2.0, 200, 0.012, 0.0005, max_seqs=5000)
    assert (wide.mean, wide.variance, wide.tbt_mean) == near(
        (free.mean, free.variance, free.tbt_mean)
    )
    assert [wide.quantile(q) for q in (0.1, 0.5, 0.999)] == [
        free.quantile(q) for q in (0.1, 0.5, 0.999)
    ]
    narrow = latency.decode_occupancy(2.0, 200, 0.012, 0.0005, max_seqs=8)
    assert narrow.tbt_quantile(0.999) == near(0.012 + 8 * 0.0005)
    assert narrow.cdf(narrow.quantile(0.999)) >= 0.999 > narrow.cdf(narrow.quantile(0.999) - 1)


def test_kv_quantiles_are_the_smallest_that_suffice() -> None:
    law = latency.kv_occupancy(3.0, llmq.Lengths.uniform(10, 20), llmq.Lengths.uniform(1, 30))
    for q in (0.01, 0.5, 0.99, 1 - 1e-9):
        n = law.quantile(q)
        assert law.tail(n) <= 1 - q < law.tail(n - 1)
    assert law.quantile(0.99) == near(law.normal_quantile(0.99), 0.03)
    n = np.arange(len(law.probabilities))
    assert law.mean == near(float(law.probabilities @ n))
    assert law.variance == near(float(law.probabilities @ n**2) - law.mean**2)
    assert latency.kv_occupancy(1e-6, 4, 6).quantile(0.9) == 0


def test_inoues_bound_holds() -> None:
    for rho, tau0 in itertools.product((0.01, 0.1, 0.5, 0.9, 0.99), (0.0, 0.1, 1.0, 10.0)):
        law = latency.inoue(rho, 1.0, tau0)
        assert law.wait <= law.bound * (1 + 1e-12)
        assert law.batch_second_moment >= law.batch_mean**2 >= 1


# Priced workload.

ENGINES = {
    "tokens": llmq.Engine(
        llmq.BatchTime.affine(base=0.02, per_token=1e-4, per_kv=1e-6, per_work=1e-7),
        token_budget=16,
    ),
    "slots": llmq.Engine(
        llmq.BatchTime.affine(base=0.02, per_token=1e-4, per_kv=1e-6),
        token_budget=64,
        max_seqs=2,
        prefill_chunk=4,
        conventions=llmq.THEORY,
    ),
    "memory": llmq.Engine(
        llmq.BatchTime.affine(base=0.02, per_token=1e-4, per_kv=1e-6, per_work=1e-7),
        token_budget=64,
        kv_tokens=64,
        prefill_chunk=4,
    ),
    "compute": llmq.Engine(
        llmq.BatchTime.tiled(base=0.001, per_tile=0.01, tile=8, per_kv=1e-6), token_budget=15
    ),
}
PROMPT = llmq.Lengths(np.array([3, 5, 10]), np.array([0.5, 0.2, 0.3]))
OUTPUT = llmq.Lengths(np.array([1, 6, 7]), np.array([0.5, 0.2, 0.3]))


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("resource", ENGINES)
def test_prices_of_single_requests(resource: str, paired: bool) -> None:
    engine = ENGINES[resource]
    request = llmq.RequestClass(PROMPT, OUTPUT, paired=paired)
    mix = {"x": request, "y": llmq.RequestClass(7, 3)}
    region = stability_region(engine, mix)
    rates = {name: 0.4 * rate for name, rate in region.boundary({"x": 2.0, "y": 1.0}).items()}
    law = latency.priced_workload(region, rates)
    assert law == latency.priced_workload(region, rates, mix)
    assert law.resource == resource == region.binding(rates)[0]
    # Each possible request as a class of its own, priced by the same kind of facet.
    square = 0.0
    pairs = list(zip(PROMPT.values, PROMPT.weights, strict=True))
    others = list(zip(OUTPUT.values, OUTPUT.weights, strict=True))
    cases = zip(pairs, others, strict=True) if paired else itertools.product(pairs, others)
    for (s, w), (o, v) in cases:
        alone = stability_region(engine, {"x": llmq.RequestClass(int(s), int(o))})
        found = [f.weights[0] for f in alone.facets(dominated=True) if f.resource == resource]
        # Where prompts share a slot the last one is Theorem U's as it is printed.
        price = found[0]
        assert len(found) == (2 if resource == "slots" else 1)
        square += price**2 * w * (1.0 if paired else v)
    assert law.means == near(tuple(region.prices(rates).values()))
    assert law.second_moments == near((square, law.means[1] ** 2))
    expected = rates["x"] * square + rates["y"] * law.means[1] ** 2
    assert law.wait == near(expected / (2 * (1 - 0.4)))


def test_priced_workload_is_md1_for_equal_requests() -> None:
    law, queue = priced(), latency.md1(32.0, 0.025)
    assert law.kind is Kind.ASYMPTOTIC
    assert law.wait == near(queue.wait)
    # The tail is that of heavy traffic: its mean is the wait, its decay nearly the true one.
    assert law.tail(0.0) == near(law.load)
    assert law.load / law.wait == near(queue.decay, 0.2)
    assert law.tail(law.quantile(0.99)) == near(0.01)
    assert law.quantile(0.1) == 0.0


@pytest.mark.parametrize(("rate", "queue"), [(1.8, 4.5), (1.96, 24.5)])
def test_priced_workload_of_slots(rate: float, queue: float) -> None:
    # Theory core 5.1: two places in a slot of one second; work in front, times the places.
    engine = llmq.Engine(llmq.BatchTime.affine(base=1.0, per_token=0.0), token_budget=2)
    mix = {"x": llmq.RequestClass(1, 1)}
    law = latency.priced_workload(stability_region(engine, mix), {"x": rate}, mix)
    assert 2 * law.wait == near(queue)
    assert 2 * law.wait - latency.bailey(rate, 2).queue_mean < 0.71


def test_priced_workload_of_a_fleet_splits_the_rates() -> None:
    engine = llmq.Engine(AFFINE, token_budget=500)
    region = stability_region(llmq.Fleet({"all": (engine, 4)}), MIX)
    law = latency.priced_workload(region, {"x": 128.0}, MIX)
    assert (law.load, law.wait) == near((0.8, priced().wait))


def test_priced_workload_refuses() -> None:
    region = stability_region(llmq.Engine(AFFINE, token_budget=500), MIX)
    fleet = stability_region(region.engine, MIX, method="configurations")
    with pytest.raises(InputError, match=r"region must be a Region, got FleetRegion"):
        latency.priced_workload(fleet, {"x": 1.0})  # type: ignore[arg-type]
    with pytest.raises(InputError, match="must have the classes of the region, x; got y"):
        latency.priced_workload(region, {"x": 1.0}, {"y": MIX["x"]})
    with pytest.raises(InputError, match="mix is not that of the region"):
        latency.priced_workload(region, {"x": 1.0}, {"x": llmq.RequestClass(402, 100)})
    with pytest.raises(InputError, match="all rates are 0"):
        latency.priced_workload(region, {"x": 0}, MIX)
    with pytest.raises(InputError, match="unknown class 'z'"):
        latency.priced_workload(region, {"z": 1.0}, MIX)
    with pytest.raises(UnstableError, match=r"margin 0\.5") as info:
        latency.priced_workload(region, {"x": 80.0}, MIX)
    assert info.value.margin == near(0.5)


def test_c_counts_that_a_formula_goes_through_one_by_one_are_bounded():
    """C: 2^31 servers took minutes, 2^31 slots 16 GB; a tail beyond 2^31 requests never ended."""
    with pytest.raises(llmq.InputError, match="servers must be at most 10000000, got 2147483648"):
        llmq.latency.erlang_c(2**31, 3.0)
    rates = {"base": 0.01, "per_token": 1e-4}
    with pytest.raises(llmq.InputError, match="max_seqs must be at most"):
        llmq.latency.decode_occupancy(1.0, 5.0, **rates, max_seqs=2**31)
    with pytest.raises(llmq.InputError, match="queue must be at most"):
        llmq.latency.birth_death(1, 8, 8, **rates, per_kv=0.0, max_seqs=8, queue=2**31)
    two = llmq.latency.jsq(2, 0.9)
    assert two.tail(2**31) == 0
    assert two.tail(5) == pytest.approx(0.9 ** (1 + 2 + 4 + 8 + 16), rel=1e-12)
    assert llmq.latency.jsq(1, 0.9).tail(3) == pytest.approx(0.9**3, rel=1e-12)


def test_c_tokens_of_a_long_output_are_summed_in_closed_form():
    from llmq.theory.fluid._wait import _held

    assert _held(7, 3, 9) == sum(7 + stage for stage in range(4, 10))
    assert _held(1, 0, 2**32) == 2**32 + 2**31 * (2**32 + 1)
