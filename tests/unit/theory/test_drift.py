"""Drift constants: by hand, against small simulators written here, and what is refused.

The simulators follow the rules word by word: requests are lists of prompt tokens and decodes left.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from fractions import Fraction as F

import numpy as np
import pytest

from llmq.errors import InputError, UnstableError
from llmq.model.conventions import ENGINE, THEORY
from llmq.model.engine import Engine
from llmq.model.fleet import Fleet
from llmq.model.lengths import Lengths
from llmq.model.request import RequestClass
from llmq.model.time.batchtime import BatchTime
from llmq.result import Kind
from llmq.theory.planning_lp._configurations import Knapsack
from llmq.theory.region import stability_region
from llmq.theory.stability.drift import Drift, constants, maxweight

DAI = BatchTime.tiled(base=0.01128, per_tile=0.03547, tile=128)
Request = list[int]  # prompt tokens left, decodes left
Serve = Callable[[list[Request], int, int], int]


def sarathi(present: list[Request], batch: int, chunk: int) -> int:
    """One decode for each that decodes, then prompts in order of arrival; returns the tokens."""
    decoding = [r for r in present if not r[0]]
    room = batch - len(decoding[:batch])
    for request in decoding[:batch]:
        request[1] -= 1
    for request in present:
        if request not in decoding and request[0]:
            taken = min(room, chunk, request[0])
            request[0] -= taken
            room -= taken
    return batch - room


def rad(present: list[Request], batch: int, chunk: int) -> int:
    """Decode if a tile of requests decodes or no prompt is left, else a tile of a prompt."""
    decoding = [r for r in present if not r[0]]
    prompts = [r for r in present if r[0]]
    if len(decoding) == batch or not prompts:
        for request in decoding:
            request[1] -= 1
        return len(decoding)
    taken = min(batch, prompts[0][0])
    prompts[0][0] -= taken
    return taken


class Run:
    """An engine from some requests until a time or a backlog; keeps what each iteration did."""

    def __init__(
        self, engine: Engine, found: Drift, draw: Callable[[], Request], rate: float, seed: int
    ) -> None:
        self.shortest = 1.0  # of a time drawn between this share and the whole
        self.rng, self.draw, self.rate = np.random.default_rng(seed), draw, rate
        self.times = [float(engine.law.exact().curve(n)) for n in range(found.batch + 1)]
        self.batch, self.chunk = found.batch, min(engine.chunk, found.batch)
        self.serve: Serve = {"sarathi": sarathi, "rad": rad}[found.policy]

    def go(
        self, present: list[Request], until: Callable[[float, int], bool]
    ) -> tuple[float, float, list[tuple[int, int]]]:
        """Return the time, the integral of the backlog and (backlog, batch) of each iteration."""
        clock, area, rows = 0.0, 0.0, []
        backlog = sum(map(sum, present))
        while not until(clock, backlog):
            if not backlog:
                clock += self.rng.exponential(1 / self.rate)
                present.append(self.draw())
                backlog = sum(present[-1])
                continue
            n = self.serve(present, self.batch, self.chunk)
            rows.append((backlog, n))
            took = self.times[n] * self.rng.uniform(self.shortest, 1)
            area += backlog * took
            for _ in range(self.rng.poisson(self.rate * took)):
                present.append(self.draw())
                backlog += sum(present[-1])
                # It came at a uniform moment of the iteration.
                area += sum(present[-1]) * took * self.rng.random()
            backlog -= n
            clock += took
            present[:] = [r for r in present if any(r)]
        return clock, area, rows


def system(policy: str, load: float) -> tuple[Engine, dict[str, RequestClass], dict[str, float]]:
    """A small engine at a load of full batches."""
    if policy == "rad":
        law = BatchTime.tiled(base=0.0, per_tile=0.5, tile=4, per_token=0.125)
        engine = Engine(law, 8, conventions=THEORY)
        mix = {"x": RequestClass(Lengths.empirical([4, 8, 16]), Lengths.uniform(1, 3))}
        rate = load * 4 / (F(28, 3) + 2)
    else:
        engine = Engine(BatchTime.affine(base=0.5, per_token=0.0625), 8, conventions=ENGINE)
        mix = {"x": RequestClass(Lengths.uniform(1, 9), Lengths.uniform(1, 5))}
        rate = load * 8 / 7
    return engine, mix, {"x": float(rate)}


def build(policy: str, load: float, seed: int) -> tuple[Drift, Run]:
    engine, mix, rates = system(policy, load)
    found = constants(engine, mix, rates, policy)  # type: ignore[arg-type]
    request, rng = mix["x"], np.random.default_rng(seed + 1)

    def draw() -> Request:
        prompt, output = (int(rng.choice(law.values)) for law in (request.prompt, request.output))
        return [prompt, output - 1 + engine.conventions.lag]

    return found, Run(engine, found, draw, rates["x"], seed)


# By hand.


def test_constants_by_hand() -> None:
    """O1: t(512) = 153.16 ms; 15 requests per second of 200 tokens."""
    engine = Engine(DAI, token_budget=512, conventions=THEORY)
    found = constants(engine, {"x": RequestClass(100, 100)}, {"x": 15})
    t = F(15316, 100_000)
    assert (found.batch, found.batch_time) == (512, t)
    assert found.arrivals == 3000 * t
    assert found.epsilon == 512 - 3000 * t == F(1313, 25)
    assert found.variance == 15 * 40_000 * t
    assert found.level == 511 * 101
    assert found.mean_backlog == 51_611 + 6000 * t + 600_000 * t / (2 * found.epsilon)
    assert found.load == 3000 * t / 512
    assert found.emptying_time(51_611) == 0
    assert found.emptying_time(51_612) == (51_612 - 51_612 + 512) * t / found.epsilon
    assert math.isclose(found.rate, 12_800_000 / 3829 - 3000)
    assert found.kind is Kind.OUTER_BOUND


def test_rad_by_hand() -> None:
    """O3: 4640 us for a tile of 128; at most 127 requests decode beside no prompt."""
    law = BatchTime.tiled(base=0, per_tile=4000e-6, tile=128, per_token=5e-6)
    engine = Engine(law, token_budget=1024, conventions=THEORY)
    found = constants(engine, {"x": RequestClass(512, 248)}, {"x": 33}, "rad")
    assert (found.batch, found.batch_time) == (128, F(464, 100_000))
    assert found.epsilon == 128 - 33 * 760 * F(464, 100_000)
    assert found.level == 127 * 248
    # A request longer than what a short batch leaves sets the level.
    long = constants(engine, {"x": RequestClass(1280, 8)}, {"x": 10}, "rad", tile=64)
    assert (long.batch, long.level) == (64, 1288)


def test_the_convention_decides_the_decodes() -> None:
    mix, rates = {"x": RequestClass(100, 100)}, {"x": 10}
    one, two = (constants(Engine(DAI, 512, conventions=c), mix, rates) for c in (ENGINE, THEORY))
    assert (one.level, two.level) == (511 * 100, 511 * 101)
    assert two.arrivals - one.arrivals == 10 * two.batch_time


def test_short_chunks_raise_the_level() -> None:
    """A prompt of 100 in chunks of 10: one token offered stands for up to 11."""
    engine = Engine(DAI, 512, conventions=THEORY, prefill_chunk=10)
    found = constants(engine, {"x": RequestClass(100, 4)}, {"x": 20})
    assert found.level == 511 * 11


def test_moments_of_mixed_weighted_and_paired_lengths() -> None:
    engine = Engine(DAI, 512, conventions=THEORY)
    s = Lengths(np.array([10, 30]), np.array([0.25, 0.75]))
    mix = {
        "w": RequestClass(s, 4),
        "p": RequestClass(Lengths.empirical([1, 9]), Lengths.empirical([1, 5]), paired=True),
    }
    found = constants(engine, mix, {"w": 2, "p": 3})
    t = found.batch_time
    assert found.arrivals == t * (2 * 29 + 3 * 8)
    assert found.variance == t * (2 * F(14**2 + 3 * 34**2, 4) + 3 * F(2**2 + 14**2, 2))
    assert "lengths" not in found.problem["classes"]["w"]
    assert found.problem["classes"]["p"]["lengths"]["paired"] is True


@pytest.mark.parametrize("rate", [5.0, 12.0, 16.0])
def test_the_load_is_that_of_the_region(rate: float) -> None:
    """Where a full batch is the best one, drift is negative on the whole region."""
    engine, mix = Engine(DAI, 512, conventions=THEORY), {"x": RequestClass(100, 100)}
    found = constants(engine, mix, {"x": rate})
    assert found.load == stability_region(engine, mix).load({"x": rate}, exact=True)


# Against simulation.


@pytest.mark.parametrize("policy", ["sarathi", "rad"])
def test_batches_are_full_above_the_level(policy: str) -> None:
    found, run = build(policy, 0.9, seed=3)
    _, _, rows = run.go([], lambda clock, _: clock > 30_000)
    above = [n for backlog, n in rows if backlog > found.level]
    below = [n for backlog, n in rows if backlog <= found.level]
    assert len(above) > 1000
    assert set(above) == {found.batch}
    assert min(below) < found.batch
    assert max(below) <= found.batch


def test_the_level_is_met() -> None:
    """No smaller one holds: each prompt has one token left and all its decodes to come."""
    present = [[1, 4] for _ in range(7)]
    backlog = sum(map(sum, present))
    assert sarathi(present, 8, 8) == 7
    engine = Engine(BatchTime.affine(base=1, per_token=1), 8, conventions=THEORY)
    found = constants(engine, {"x": RequestClass(1, 4)}, {"x": 0.01})
    assert found.level == backlog == 35
    decoding = [[0, 4] for _ in range(7)]
    assert rad(decoding, 8, 8) == 7
    tile = constants(engine, {"x": RequestClass(8, 4)}, {"x": 0.01}, "rad")
    assert tile.level == 7 * 4


def return_times(policy: str) -> tuple[Drift, int, float, float]:
    """Constants, start, mean time to the level, its standard error."""
    found, run = build(policy, 0.8, seed=11)
    start = [[8, 1] for _ in range(40)]
    backlog = sum(map(sum, start))
    assert backlog > 3 * found.level
    times = [run.go([list(r) for r in start], lambda _, v: v <= found.level)[0] for _ in range(300)]
    return found, backlog, float(np.mean(times)), float(np.std(times)) / math.sqrt(len(times))


@pytest.mark.parametrize("policy", ["sarathi", "rad"])
def test_the_emptying_time_bounds_simulated_means_closely(policy: str) -> None:
    """The martingale is exact up to where it stops: within a batch below the level."""
    found, backlog, mean, error = return_times(policy)
    slope = float(found.batch_time / found.epsilon)
    assert mean - 4 * error <= found.emptying_time(backlog)
    assert mean + 4 * error >= (backlog - found.level) * slope
    # A drift that is a fifth too steep would be refuted by the same run.
    wrong = (backlog - found.above) * float(found.batch_time / (found.epsilon * F(6, 5)))
    assert mean - 4 * error > wrong


@pytest.mark.parametrize("policy", ["sarathi", "rad"])
@pytest.mark.parametrize("load", [0.7, 0.9, 0.96])
def test_the_mean_backlog_is_bounded(policy: str, load: float) -> None:
    found, run = build(policy, load, seed=5)
    clock, area, _ = run.go([], lambda clock, _: clock > 40_000)
    simulated = area / clock
    assert simulated <= found.mean_backlog
    # What the lemma adds to the level is the right size: nearly all of it at high load.
    if load > 0.95:
        assert float(found.mean_backlog) - found.level < 1.6 * simulated


@pytest.mark.parametrize("policy", ["sarathi", "rad"])
def test_the_bounds_hold_for_iterations_that_are_shorter(policy: str) -> None:
    """What is left of the lemma where attention is charged at its worst."""
    found, run = build(policy, 0.9, seed=8)
    run.shortest = 0.7
    clock, area, _ = run.go([], lambda clock, _: clock > 10_000)
    assert area / clock <= found.mean_backlog
    start = [[8, 1] for _ in range(40)]
    times = [run.go([list(r) for r in start], lambda _, v: v <= found.level)[0] for _ in range(60)]
    assert np.mean(times) + 4 * np.std(times) / 60**0.5 <= found.emptying_time(9 * 40)


def test_attention_at_its_worst() -> None:
    """8 rows of 13 + 4 tokens, chunks that meet a prompt of 13."""
    law = BatchTime.affine(base=1.0, per_token=0.25, per_kv=0.01, per_kv_mixed=0.03, per_work=0.002)
    engine = Engine(law, 8, conventions=THEORY)
    found = constants(engine, {"x": RequestClass(13, 4)}, {"x": 0.05})
    assert found.batch_time == 3 + 8 * 17 * F(3, 100) + 8 * 13 * F(2, 1000)
    assert "attention at its worst" in found.assumptions[-1]
    slower = max(law(8, kv=8 * 17), law(8, kv=8 * 17, work=8 * 13, mixed=True))
    assert math.isclose(slower, found.batch_time)
    with pytest.raises(UnstableError, match="attention at its worst"):
        constants(engine, {"x": RequestClass(13, 4)}, {"x": 0.1})


def test_a_catalogue_engine() -> None:
    """Short requests on a calibrated engine: what `print` shows for a user's profile."""
    from llmq.calibrate.catalogue import load_engine

    engine = load_engine("llama-3.1-8b/h100").with_(token_budget=256, max_seqs=256)
    found = constants(engine, {"short": RequestClass(200, 60)}, {"short": 5.0})
    assert 0 < found.load < 1
    assert found.emptying_time(10 * found.level) > 0
    assert "short" in found.problem["classes"]


def test_batches_that_are_not_full_have_no_drift() -> None:
    """Prompts that do not fill a tile: what is refused is indeed unstable."""
    law = BatchTime.tiled(base=0.0, per_tile=1.0, tile=4)
    engine = Engine(law, 4, conventions=THEORY)
    mix = {"x": RequestClass(5, 1)}
    with pytest.raises(InputError, match="prompts are multiples of 4"):
        constants(engine, mix, {"x": 0.6}, "rad")
    run = Run(engine, build("rad", 0.5, 0)[0], lambda: [5, 1], 0.6, seed=1)
    run.times = [0.0, 1.0, 1.0, 1.0, 1.0]
    _, _, rows = run.go([], lambda clock, _: clock > 3000)
    assert rows[-1][0] > 500  # 0.6 * 6 tokens come, less than 4 go


# MaxWeight.


def test_maxweight_by_hand() -> None:
    """One buffer, batches of exactly one token in 1 s: a discrete queue."""
    found = maxweight(
        BatchTime.affine(base=1, per_token=0), Knapsack(1, ("q",), (1,)), {"q": (F(1, 2), 1)}
    )  # type: ignore[dict-item]
    assert found.slack == F(1, 2)
    assert found.second_moment == 1 + F(1, 4) + F(1, 2)
    assert found.at_decisions == F(7, 4)
    assert found.backlog == F(7, 4) + F(1, 4)


@pytest.mark.parametrize("scale", [1.0, 1.4])
def test_the_maxweight_bound_holds(scale: float) -> None:
    """Batches of different lengths; the average over time, tokens leave at the end of a batch."""
    law = BatchTime.affine(base=0.01, per_token=0.002)
    batches = Knapsack(12, ("a", "b"), (1, 4), (((1, 2), 16),))
    a, b = Lengths.uniform(1, 5), Lengths.fixed(8)
    found = maxweight(law, batches, {"a": (40 * scale, a), "b": (10 * scale, b)})
    columns = [(np.array(x), float(t)) for x, t in batches.columns(law)]
    shapes, times = np.array([x for x, _ in columns]), np.array([t for _, t in columns])
    rng, q, clock, area = np.random.default_rng(2), np.zeros(2), 0.0, 0.0
    frames = 0.0
    while clock < 300:
        i = int(np.argmax(shapes @ q / times))
        t, served = times[i], np.minimum(q, shapes[i])
        frames += q.sum() * t
        area += q.sum() * t
        for k, (rate, law_of) in enumerate(((40, a), (10, b))):
            for _ in range(rng.poisson(rate * scale * t)):
                size = int(rng.choice(law_of.values))
                q[k] += size
                area += size * t * rng.random()
        q -= served
        clock += t
    assert 0 < frames / clock <= found.at_decisions
    assert frames / clock < area / clock <= found.backlog
    assert float(found.backlog) < 25 * area / clock


@pytest.mark.parametrize(
    ("arrivals", "error", "reason"),
    [
        ({"a": (1, 1)}, InputError, "one arrival stream for each of the buffers"),
        ({"a": (1, 1), "b": (-1, 1)}, InputError, "rate >= 0"),
        ({"a": (1, 1), "b": (1, 0)}, InputError, "at least one token"),
        ({"a": (9000, 1), "b": (1, 1)}, UnstableError, "no batches serve these rates"),
        ({"a": (500, 1), "b": (0, 1)}, UnstableError, "leave no slack"),
    ],
)
def test_maxweight_refuses(arrivals, error, reason):  # type: ignore[no-untyped-def]
    law = BatchTime.affine(base=0, per_token=0.002)
    with pytest.raises(error, match=reason):
        maxweight(law, Knapsack(8, ("a", "b"), (1, 1)), arrivals)


def test_maxweight_refuses_attention() -> None:
    law = BatchTime.affine(base=1, per_token=1, per_kv=1e-4)
    with pytest.raises(InputError, match="without attention"):
        maxweight(law, Knapsack(8, ("a",), (1,)), {"a": (0.1, 1)})


# What is refused, with what to do.

X = {"x": RequestClass(100, 100)}
PLAIN = Engine(DAI, 512)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"max_seqs": 511}, r"max_seqs=511 may bind.*max_seqs >= 512"),
        ({"kv_tokens": 100_000}, r"kv_tokens=100000 may bind.*107584 tokens"),
    ],
)
def test_hypotheses_that_fail(change: dict[str, object], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        constants(PLAIN.with_(**change), X, {"x": 1})


def test_limits_that_never_bind_are_fine() -> None:
    free = constants(PLAIN, X, {"x": 1})
    wide = constants(PLAIN.with_(max_seqs=512, kv_tokens=107_584), X, {"x": 1})
    assert (wide.level, wide.epsilon) == (free.level, free.epsilon)
    with pytest.raises(InputError, match="107584"):
        constants(PLAIN.with_(kv_tokens=107_583), X, {"x": 1})


def test_a_budget_that_cuts_a_tile() -> None:
    """O4: full batches of 100 carry 4.545, batches of 64 carry 5.333 tokens per second."""
    law = BatchTime.tiled(base=2, per_tile=10, tile=64)
    engine, mix = Engine(law, 100, conventions=THEORY), {"x": RequestClass(4, 4)}
    found = constants(engine, mix, {"x": 0.5})
    assert "not the best one, which has 64 tokens" in found.assumptions[-1]
    with pytest.raises(UnstableError, match=r"batches of 64 tokens carry it.*set it to 64") as info:
        constants(engine, mix, {"x": 0.6})
    assert info.value.load == pytest.approx(4.8 / (50 / 11))
    whole = constants(engine.with_(token_budget=64), mix, {"x": 0.6})
    assert whole.load == F(9, 10)
    with pytest.raises(UnstableError, match="lower the rates"):
        constants(engine, mix, {"x": 0.7})


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ((Fleet({"a": (PLAIN, 2)}), X, {"x": 1}), "engine must be an Engine, got Fleet"),
        ((PLAIN, X, {"x": 1}, "radd"), "did you mean 'rad'"),
        ((PLAIN, X, {"y": 1}), "no class 'y'"),
        ((PLAIN, X, {"x": -1}), "number >= 0"),
        ((PLAIN, X, {"x": math.nan}), "number >= 0"),
        ((PLAIN, X, {"x": 0}), "all rates are 0"),
        ((PLAIN, X, {"x": 1}, "rad"), r"multiples of 128 tokens.*divides 100"),
    ],
)
def test_bad_arguments(arguments, reason):  # type: ignore[no-untyped-def]
    with pytest.raises(InputError, match=reason):
        constants(*arguments)


def test_bad_tiles_and_backlogs() -> None:
    with pytest.raises(InputError, match="argument of policy 'rad'"):
        constants(PLAIN, X, {"x": 1}, tile=64)
    with pytest.raises(InputError, match="does not fit the token budget of 512"):
        constants(PLAIN, X, {"x": 1}, "rad", tile=513)
    found = constants(PLAIN, X, {"x": 1}, "rad", tile=50)
    for bad in (-1, 1.5, "9"):
        with pytest.raises(InputError, match=r"whole (tokens|number)"):
            found.emptying_time(bad)  # type: ignore[arg-type]


def test_the_printed_profile() -> None:
    text = str(constants(Engine(DAI, 512, conventions=THEORY), X, {"x": 15}))
    assert text.splitlines()[:7] == [
        "full batch 512 tokens in 153.2 ms",
        "load       0.8974",
        "arrivals   459.48 tokens per full batch, variance 9.19e+04 tokens^2",
        "drift      -52.52 tokens per full batch (-342.9 tokens/s)",
        "level      51611 tokens: above it every batch is full",
        "backlog    at most 53404.8 tokens in the long-run mean",
        "emptying   a backlog of 103222 tokens is down to the level within 2.533 min on average",
    ]
    assert re.search("Poisson arrivals.*work-conserving", text)
