"""What cannot be planned is refused: what, where, which value, and what to do next."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction as F
from typing import Any

import pytest

import llmq
from llmq.errors import InputError
from llmq.theory.planning_lp._configurations import Knapsack, TwoPhase
from llmq.theory.planning_lp._pricing import generate_columns
from llmq.theory.planning_lp._static import Need, PlanningProblem, Pool

LAW = llmq.BatchTime.affine(base=0.012, per_token=2.5e-5)
ENGINE = llmq.Engine(LAW, 512, max_seqs=64)
SMALL = ENGINE.with_(kv_tokens=256)
MIX = {"chat": llmq.RequestClass(512, 128), "code": llmq.RequestClass(2048, 256)}
TWO = llmq.Fleet({"big": (ENGINE, 2), "other": (ENGINE.with_(token_budget=64), 1)})
SPLIT = llmq.Fleet(
    {"p": (ENGINE, 2), "d": (ENGINE, 1)}, roles={"p": "prefill", "d": "decode"}, link=1e6
)
REGIONS = {
    "closed form": lambda mix=MIX: llmq.stability_region(ENGINE, mix),
    "configurations": lambda mix=MIX: llmq.stability_region(ENGINE, mix, "configurations"),
    "pools that differ": lambda mix=MIX: llmq.stability_region(TWO, mix),
    "prefill and decode": lambda mix=MIX: llmq.stability_region(SPLIT, mix),
}
every_region = pytest.mark.parametrize("make", REGIONS.values(), ids=REGIONS)

# Rates.

RATES: dict[str, tuple[Any, str]] = {
    "negative": (
        {"chat": -1.0, "code": 0},
        r"rate of class 'chat' must be a finite number >= 0 .*, got -1.0",
    ),
    "NaN": (
        {"code": math.nan, "chat": 0},
        r"rate of class 'code' must be a finite number >= 0 .*, got nan",
    ),
    "infinite": ({"chat": math.inf}, r"got inf"),
    "a word": ({"chat": "fast"}, r"got 'fast'"),
    "nothing": ({"chat": None}, r"got None"),
    "unknown class": ({"caht": 1.0}, r"rate for unknown class 'caht'; did you mean 'chat'\?"),
    "no mapping": (3.0, r"rates must (map classes to|be a mapping)"),
}
QUESTIONS = [
    "load",
    "load_bracket",
    "margin",
    "contains",
    "prices",
    "binding",
    "boundary",
    "certificate",
]


@every_region
@pytest.mark.parametrize(("rates", "message"), RATES.values(), ids=RATES)
def test_bad_rates(make: Callable[[], Any], rates: Any, message: str) -> None:
    region = make()
    for question in QUESTIONS:
        with pytest.raises(InputError, match=message):
            getattr(region, question)(rates)
    with pytest.raises(InputError, match=message):
        region.load(rates, exact=True)


@pytest.mark.parametrize(("rates", "message"), RATES.values(), ids=RATES)
def test_bad_rates_of_the_tiling_lp(rates: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        llmq.tiling_lp(ENGINE, MIX, rates)


@every_region
@pytest.mark.parametrize("question", ["prices", "binding", "boundary", "certificate"])
def test_nothing_comes(make: Callable[[], Any], question: str) -> None:
    with pytest.raises(InputError, match=r"all rates are 0|positive rate"):
        getattr(make(), question)({"chat": 0, "code": 0})


@every_region
def test_exact_needs_exact_means(make: Callable[..., Any]) -> None:
    weighted = llmq.Lengths([64, 128], [0.5, 0.5])
    region = make({"x": llmq.RequestClass(weighted, 16)})
    assert region.load({"x": 1.0}) > 0
    with pytest.raises(InputError, match="exact=True needs lengths whose values weigh the same"):
        region.load({"x": 1.0}, exact=True)


# Mix.


@every_region
@pytest.mark.parametrize("mix", [{}, [llmq.RequestClass(1, 1)], None])
def test_empty_mix(make: Callable[..., Any], mix: Any) -> None:
    with pytest.raises(
        InputError,
        match=r"at least one request class: pass \{name: RequestClass|mix must be a mapping",
    ):
        make(mix)


@every_region
def test_a_class_that_is_none(make: Callable[..., Any]) -> None:
    with pytest.raises(InputError, match=r"mix\['x'\] must be a RequestClass, got 512"):
        make({"x": 512})


# Classes that no pool may serve.


def test_class_without_a_pool() -> None:
    with pytest.raises(InputError, match="class 'chat' may be served by no pool"):
        llmq.Fleet({"big": (ENGINE, 1)}, eligible={"chat": ()})
    with pytest.raises(InputError, match=r"no pool 'bgi'; did you mean 'big'\?"):
        llmq.Fleet({"big": (ENGINE, 1)}, eligible={"chat": ("bgi",)})
    few = llmq.Fleet({"small": (SMALL, 4), "big": (ENGINE, 1)}, eligible={"chat": ("small",)})
    with pytest.raises(
        InputError,
        match=r"no pool can serve class 'chat' \(eligible: small\); class 'chat' does not fit: a "
        r"request holds up to 639 KV tokens .*, the engine has 256 .*; raise kv_tokens",
    ) as caught:
        llmq.stability_region(few, MIX)
    assert caught.value.klass == "chat"
    half = llmq.Fleet({"p": (ENGINE, 1)}, roles={"p": "prefill"})
    with pytest.raises(InputError, match="class 'chat' may be prefilled but not decoded"):
        llmq.stability_region(half, MIX)
    with pytest.raises(InputError, match="class 'x' may be served by no pool"):
        PlanningProblem({}, {"x": F(1)}, {"x": ()})


def test_a_class_that_does_not_fit() -> None:
    for method in ("closed_form", "configurations"):
        with pytest.raises(InputError, match=r"class 'chat' does not fit: .* up to 639 KV tokens"):
            llmq.stability_region(SMALL, MIX, method)


def test_pools_for_classes_that_do_not_come_are_said() -> None:
    fleet = llmq.Fleet(dict(TWO.pools), eligible={"rga": ("big",)})
    region = llmq.stability_region(fleet, MIX)
    assert "eligible= names classes that do not come: rga" in region.assumptions


# Methods.


def test_methods() -> None:
    with pytest.raises(InputError, match=r"method 'configuration' .* mean 'configurations'\?"):
        llmq.stability_region(ENGINE, MIX, "configuration")
    with pytest.raises(InputError, match=r"fleet has 2 pools, and the closed form is for one"):
        llmq.stability_region(TWO, MIX, "closed_form")
    with pytest.raises(InputError, match=r"must be an Engine or a Fleet, got BatchTime"):
        llmq.stability_region(LAW, MIX)  # type: ignore[call-overload]


# Engines and laws.


@pytest.mark.parametrize("name", ["kv_tokens", "token_budget", "max_seqs"])
def test_zero_memory_and_zero_budgets(name: str) -> None:
    for value in (0, -1):
        with pytest.raises(InputError, match=rf"{name} must be at least 1 \w+, got {value}"):
            llmq.Engine(LAW, **{name: value})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: llmq.BatchTime.table(tokens=[1, 2, 4], seconds=[1.0, 3.0, 2.0]),
            r"must not decrease, got 3 s at 2 tokens and 2 s at 4; smooth the profile first",
        ),
        (
            lambda: llmq.BatchTime.affine(base=1, per_token=-0.5),
            r"per_token must be a finite number >= 0 \(seconds\), got -0.5",
        ),
        (
            lambda: llmq.BatchTime.tiled(base=1, per_tile=-1, tile=64),
            r"per_tile must be a finite number >= 0 \(seconds\), got -1",
        ),
        (
            lambda: llmq.BatchTime.roofline(floor=1, floor_per_token=-0.1, base=1, per_token=1),
            r"floor_per_token must be a finite number >= 0 \(seconds\), got -0.1",
        ),
        (
            lambda: llmq.BatchTime.affine(base=0, per_token=0),
            r"an iteration with one token must take time, got 0 s",
        ),
    ],
)
def test_laws_that_decrease_in_tokens(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


# Configurations.


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TwoPhase(0), r"token_budget must be at least 1 token, got 0"),
        (lambda: TwoPhase(8, slots=0), r"slots must be at least 1, got 0"),
        (
            lambda: Knapsack(16, ("A", "B"), (4, 32)),
            r"no configuration holds a token of 'B': 32 tokens exceed the budget of 16; raise the "
            r"budget or take a smaller step",
        ),
        (
            lambda: Knapsack(16, ("A", "B"), (1, 1), (((1, 99), 96),)),
            r"no configuration holds a token of 'B': \(0, 1\) uses 99 of a budget of 96",
        ),
        (
            lambda: Knapsack(16, ("A", "A"), (1, 1)),
            r"buffers of different names",
        ),
        (
            lambda: Knapsack(16, ("A",), (1,), (((1,), 96),), labels=("memory", "slots")),
            r"1 budgets, but 2 labels",
        ),
        (
            lambda: list(Knapsack(64, tuple("abcdef"), (1,) * 6).enumerate()),
            r"more than 200,000 configurations: generate them instead",
        ),
    ],
)
def test_infeasible_configuration_sets(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


# Memory is one resource: inside the configurations, or as a row over them.

BINNED = Knapsack(16, ("prefill", "decode"), (4, 1), (((1, 10), 40),))
NEED = {"prefill": F(8), "decode": F(6)}


def one(batches: Knapsack | TwoPhase, limits: dict[str, int], needs: dict[str, F]) -> F:
    pool = Pool(
        1,
        llmq.BatchTime.tiled(base=3, per_tile=2, tile=4),
        batches,
        limits,
        {"x": Need(NEED, limits=needs)},
    )
    problem = PlanningProblem({"e": pool}, {"x": F(1)}, {"x": (("e",),)})
    return generate_columns(problem).optimum.load


def test_both_memory_treatments_but_never_at_once() -> None:
    free = one(TwoPhase(16), {}, {})
    # By hand: 14 tokens in batches of 16 that take 11.
    assert free == F(14, 16) * 11
    aggregate = one(TwoPhase(16), {"memory": 40}, {"memory": F(68)})
    binned = one(BINNED, {}, {})
    assert aggregate > free
    assert binned > free
    with pytest.raises(InputError, match=r"memory is limited twice: .*limits\['memory'\]") as info:
        one(BINNED, {"memory": 40}, {"memory": F(68)})
    assert info.value.resource == "memory"
    with pytest.raises(InputError, match="slots is limited twice"):
        one(TwoPhase(16, slots=4), {"slots": 4}, {"slots": F(8)})
    # Another resource inside the configurations is none of its business.
    rows = Knapsack(16, BINNED.buffers, BINNED.steps, BINNED.rows, labels=("slots",))
    assert one(rows, {"memory": 40}, {"memory": F(68)}) >= binned


# Plans.


def test_plan_refuses_a_fleet_by_name() -> None:
    work = llmq.Workload.poisson(1.0, MIX)
    slo = llmq.SLO(ttft=1.0)
    for offered in (TWO, [TWO], {"two": TWO}):
        with pytest.raises(
            InputError, match=r"one kind of engine at a time|must be an (llmq.)?Engine"
        ):
            llmq.plan_capacity(work, slo, offered)  # type: ignore[arg-type]
