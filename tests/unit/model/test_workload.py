"""Workloads: shares, rates, and streams that do not disturb each other."""

from __future__ import annotations

import math

import numpy as np
import pytest

from llmq.errors import InputError
from llmq.model.arrivals import MMPP, Batch, Poisson, Renewal
from llmq.model.lengths import Lengths
from llmq.model.request import RequestClass
from llmq.model.workload import Workload

CHAT = RequestClass(Lengths.uniform(1, 100), Lengths.uniform(1, 50))
CODE = RequestClass(2048, 256)
MIX = {"chat": CHAT, "code": CODE}


def test_rates_by_class_or_in_total():
    by_class = Workload.poisson({"chat": 9.0, "code": 3.0}, MIX)
    total = Workload.poisson(12.0, MIX, weights={"chat": 3, "code": 1})
    assert by_class == total
    assert by_class.rates == {"chat": 9.0, "code": 3.0}
    assert by_class.weights == {"chat": 0.75, "code": 0.25}
    assert Workload.poisson(12.0, MIX).rates == {"chat": 6.0, "code": 6.0}
    silent = Workload.poisson({"chat": 0.0, "code": 3.0}, MIX)
    assert silent.rates == {"chat": 0.0, "code": 3.0}


def test_processes():
    assert Workload.renewal(12.0, MIX, cv=2.0).arrivals == Renewal(12.0, 2.0)
    bursts = Workload.mmpp((4.0, 20.0), (1.0, 3.0), MIX, weights={"code": 1})
    assert bursts.arrivals == MMPP((4.0, 20.0), (1.0, 3.0))
    assert bursts.rates == {"chat": 0.0, "code": 8.0}


def test_another_rate_keeps_the_shares_to_the_last_bit():
    rng = np.random.default_rng(0)
    for _ in range(100):
        work = Workload.poisson(3.0, MIX, weights=dict(zip(MIX, rng.random(2), strict=True)))
        again = work.at_rate(7.0).at_rate(3.0)
        assert again == work
        assert work.at_rate(7.0).rate == 7.0


def test_arrival_times_do_not_change_with_the_mix():
    times = Workload.poisson(6.0, MIX).sample(200, rng=7).arrival
    for other in ({"code": CODE}, {"code": CODE, "chat": CHAT}, {"x": RequestClass(1, 1), **MIX}):
        assert np.array_equal(Workload.poisson(6.0, other).sample(200, rng=7).arrival, times)
    shares = Workload.poisson(6.0, MIX, weights={"chat": 9, "code": 1})
    assert np.array_equal(shares.sample(200, rng=7).arrival, times)


def test_classes_and_lengths_do_not_change_with_the_arrivals():
    one = Workload.poisson(6.0, MIX).sample(200, rng=7)
    for arrivals in (Batch(math.inf), Renewal(2.0, 3.0), Poisson(60.0)):
        two = Workload(arrivals, MIX, {"chat": 1, "code": 1}).sample(200, rng=7)
        for name in ("klass", "prompt", "output", "reasoning"):
            assert np.array_equal(getattr(one, name), getattr(two, name))


def test_one_class_does_not_disturb_the_lengths_of_another():
    before = Workload.poisson(6.0, MIX).sample(300, rng=7)
    changed = {**MIX, "code": RequestClass(Lengths.uniform(1, 9), 3)}
    after = Workload.poisson(6.0, changed).sample(300, rng=7)
    chat = before.klass == 0
    assert np.array_equal(before.klass, after.klass)
    assert np.array_equal(before.prompt[chat], after.prompt[chat])


def test_shares_of_the_classes():
    work = Workload.poisson(6.0, MIX, weights={"chat": 0.8, "code": 0.2})
    n = 20_000
    trace = work.sample(n, rng=11)
    share = float((trace.klass == 1).mean())
    assert abs(share - 0.2) <= 4 * math.sqrt(0.16 / n)
    assert set(trace.prompt[trace.klass == 1].tolist()) == {2048}
    chat = trace.prompt[trace.klass == 0]
    assert abs(chat.mean() - 50.5) <= 4 * chat.std() / math.sqrt(len(chat))
    assert trace.classes == ("chat", "code")


def test_a_class_without_weight_never_comes():
    for weights in ({"chat": 1}, {"code": 1}):
        trace = Workload.poisson(6.0, MIX, weights=weights).sample(2000, rng=3)
        assert [trace.classes[code] for code in set(trace.klass.tolist())] == list(weights)


def test_one_seed_one_trace():
    work = Workload.poisson(6.0, MIX)
    assert np.array_equal(work.sample(50, rng=3).prompt, work.sample(50, rng=3).prompt)
    assert not np.array_equal(work.sample(50, rng=3).arrival, work.sample(50, rng=4).arrival)
    stream = np.random.default_rng(3)
    assert not np.array_equal(work.sample(50, stream).arrival, work.sample(50, stream).arrival)


def test_the_callers_dict_is_copied():
    mine = dict(MIX)
    work = Workload.poisson(6.0, mine)
    mine.clear()
    assert list(work.mix) == ["chat", "code"]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: Workload.poisson(1.0, {}),
            "a workload needs at least one request class; the mix is empty",
        ),
        (lambda: Workload.poisson(0.0, MIX), "rate must be positive and finite, got 0.0"),
        (
            lambda: Workload.poisson({"chat": 0, "code": 0}, MIX),
            "rate must be positive and finite, got 0.0",
        ),
        (
            lambda: Workload.poisson({"caht": 1}, MIX),
            "rate for unknown class 'caht'; did you mean 'chat'?",
        ),
        (
            lambda: Workload.poisson({"chat": -1}, MIX),
            "rate of class 'chat' must be >= 0 and finite, got -1",
        ),
        (
            lambda: Workload.poisson({"chat": 1}, MIX, weights={"chat": 1}),
            "give either a rate for each class or one rate and weights, not both",
        ),
        (
            lambda: Workload.poisson(1.0, MIX, weights={"cod": 1}),
            "weight for unknown class 'cod'; did you mean 'code'?",
        ),
        (
            lambda: Workload.poisson(1.0, MIX, weights={"chat": -1}),
            "weight of class 'chat' must be >= 0 and finite, got -1.0",
        ),
        (
            lambda: Workload.poisson(1.0, MIX, weights={"chat": math.nan}),
            "weight of class 'chat' must be >= 0 and finite, got nan",
        ),
        (
            lambda: Workload.poisson(1.0, MIX, weights={"chat": 0}),
            "at least one class must have a positive weight",
        ),
        (
            lambda: Workload.poisson(1.0, {"chat": 512}),
            "Workload.poisson: mix['chat'] must be a RequestClass, got 512: "
            "write llmq.RequestClass(prompt=512, output=128)",
        ),
        (lambda: Workload.poisson(1.0, MIX).sample(0), "requests must be at least 1, got 0"),
    ],
)
def test_refusals(make, words):
    with pytest.raises(InputError) as caught:
        make()
    assert str(caught.value) == words


def test_classes_do_not_follow_the_gaps():
    """The class of the first request is independent of when it comes."""
    work, n = Workload.poisson(6.0, MIX), 600
    firsts = [work.sample(1, rng=seed) for seed in range(n)]
    gap, code = [float(t.arrival[0]) for t in firsts], [int(t.klass[0]) for t in firsts]
    assert abs(np.corrcoef(gap, code)[0, 1]) <= 4 / math.sqrt(n)


def test_equal_classes_draw_different_lengths():
    trace = Workload.poisson(6.0, {"a": CHAT, "b": CHAT}).sample(200, rng=7)
    one, two = (trace.prompt[trace.klass == code][:50] for code in (0, 1))
    assert not np.array_equal(one, two)
    assert abs(np.corrcoef(one, two)[0, 1]) <= 4 / math.sqrt(50)


def test_b18_a_class_without_a_rate_is_an_error():
    mix = {"chat": RequestClass(8, 4), "code": RequestClass(9, 4)}
    with pytest.raises(InputError, match="the class 'code' has no rate: give one for each class"):
        Workload.poisson({"chat": 1.0}, mix)
    assert Workload.poisson({"chat": 1.0, "code": 0.0}, mix).rates == {"chat": 1.0, "code": 0.0}
