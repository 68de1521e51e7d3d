"""Every value of the model: frozen, equal after JSON, equal after a trip between processes."""

from __future__ import annotations

import dataclasses
import math
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmq.model.arrivals import MMPP, Batch, Deterministic, Poisson, Renewal
from llmq.model.conventions import ENGINE, THEORY, Conventions
from llmq.model.engine import Engine
from llmq.model.fleet import Fleet
from llmq.model.lengths import Lengths
from llmq.model.request import RequestClass
from llmq.model.slo import SLO
from llmq.model.time._exact import ExactBatchTime
from llmq.model.time.batchtime import BatchTime
from llmq.model.trace import Trace
from llmq.model.workload import Workload
from llmq.planning._thinning import Thinned
from llmq.policies import ALL
from llmq.policies.contract.routers import ROUTERS
from llmq.result import Estimate, Kind, Provenance, from_json, to_json

positive = st.floats(1e-9, 1e6)
amount = st.just(0.0) | positive
names = st.text("abcxyz", min_size=1, max_size=4)

laws = st.one_of(
    st.builds(
        BatchTime.affine,
        base=positive,
        per_token=amount,
        per_kv=amount,
        per_kv_mixed=st.none() | amount,
        per_work=amount,
    ),
    st.builds(
        BatchTime.tiled, base=positive, per_tile=amount, tile=st.integers(1, 512), per_token=amount
    ),
    st.builds(
        BatchTime.roofline,
        floor=positive,
        base=amount,
        per_token=amount,
        floor_per_token=amount,
        tile=st.integers(1, 512),
    ),
    st.builds(
        lambda x, y: BatchTime.table(tokens=sorted(x), seconds=sorted(y)[: len(x)]),
        st.sets(st.integers(1, 4000), min_size=2, max_size=6),
        st.lists(positive, min_size=6, max_size=6),
    ),
)
counts = st.none() | st.integers(16, 10**6)
engines = st.builds(
    Engine,
    law=laws,
    token_budget=st.integers(1, 8192),
    max_seqs=counts,
    kv_tokens=counts,
    kv_block=st.integers(1, 16),
    prefill_chunk=counts,
    conventions=st.sampled_from([ENGINE, THEORY, Conventions("mine", area="wait")]),
    name=st.text(max_size=5),
    gpus=st.integers(1, 8),
    assumptions=st.tuples(names),
)
fleets = st.dictionaries(
    names, st.tuples(engines, st.integers(1, 4)), min_size=1, max_size=2
).flatmap(
    lambda pools: st.builds(
        Fleet,
        st.just(pools),
        eligible=st.dictionaries(names, st.just(tuple(pools)), max_size=2),
        roles=st.dictionaries(st.sampled_from(sorted(pools)), st.just("decode")),
        link=st.just(math.inf) | positive,
    )
)
columns = st.lists(
    st.tuples(st.integers(1, 5000), st.integers(1, 999), st.floats(0.01, 9)), min_size=1, max_size=8
)
lengths = st.one_of(
    st.builds(lambda rows: Lengths([r[0] for r in rows], [r[2] for r in rows]), columns),
    st.builds(lambda rows: Lengths.empirical([r[0] for r in rows]), columns),
    st.builds(Lengths.lognormal, mean=st.floats(1, 50), sigma=st.floats(0.1, 2), high=st.just(200)),
)


@st.composite
def requests(draw):
    if not draw(st.booleans()):
        return RequestClass(draw(lengths), draw(lengths))
    rows = draw(columns)
    weights = draw(st.sampled_from([None, [r[2] for r in rows]]))
    prompt, output = (Lengths([r[i] for r in rows], weights) for i in (0, 1))
    hidden = Lengths([r[1] // 2 if r[1] > 1 else 0 for r in rows], weights)
    return RequestClass(prompt, output, draw(st.sampled_from([0, hidden])), paired=True)


@st.composite
def traces(draw):
    rows = draw(columns)
    n = len(rows)
    return Trace(
        np.cumsum([r[2] for r in rows]),
        [r[0] for r in rows],
        [r[1] for r in rows],
        reasoning=[r[1] // 3 for r in rows],
        klass=draw(st.none() | st.lists(names, min_size=n, max_size=n)),
        source=draw(st.text(max_size=5)),
        notes=draw(st.tuples(names) | st.just(())),
    )


rate = st.floats(0.01, 1e4)
arrivals = st.one_of(
    st.builds(Poisson, rate),
    st.builds(Deterministic, rate),
    st.builds(Renewal, rate, st.floats(0, 5)),
    st.builds(Batch, rate | st.just(math.inf), st.integers(1, 9)),
    st.builds(MMPP, st.tuples(rate, amount.filter(lambda x: x < 1e4)), st.tuples(rate, rate)),
)
slos = st.builds(SLO, ttft=st.none() | positive, tpot=positive, quantile=st.none() | st.just(0.99))
readable = st.one_of(
    laws,
    engines,
    fleets,
    lengths,
    requests(),
    traces(),
    arrivals,
    slos,
    st.sampled_from([ENGINE, THEORY]),
)
values = st.one_of(
    readable,
    st.builds(Thinned, arrivals, st.integers(1, 9), st.booleans()),
    st.builds(ExactBatchTime, laws),
    st.builds(
        lambda process, mix: Workload(process, mix, dict.fromkeys(mix, 1.0)),
        arrivals,
        st.dictionaries(names, requests(), min_size=1, max_size=3),
    ),
    st.sampled_from([policy() for policy in ALL] + [router() for router in ROUTERS]),
    st.sampled_from([Estimate(1.0, math.inf, n=1), Kind.EXACT, Provenance("0", {"a": "b"})]),
)


def same(one, two):
    """Equal, and for values with arrays equal column by column, type by type."""
    assert type(one) is type(two)
    if not isinstance(one, Trace):
        return one == two
    for field in dataclasses.fields(one):
        mine, theirs = getattr(one, field.name), getattr(two, field.name)
        assert np.array_equal(mine, theirs)
        assert type(mine) is type(theirs)
        assert getattr(mine, "dtype", None) == getattr(theirs, "dtype", None)
    return True


@given(readable)
def test_json_round_trip(value):
    text = to_json(value)
    twin = from_json(type(value), text)
    assert same(value, twin)
    assert to_json(twin) == text


@given(values)
def test_pickling(value):
    assert same(value, pickle.loads(pickle.dumps(value)))


@given(lengths | traces())
def test_arrays_stay_locked_on_a_trip_between_processes(value):
    twin = pickle.loads(pickle.dumps(value))
    for field in dataclasses.fields(twin):
        array = getattr(twin, field.name)
        assert not isinstance(array, np.ndarray) or not array.flags.writeable


@given(values.filter(dataclasses.is_dataclass))
def test_values_are_frozen(value):
    for field in dataclasses.fields(value):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(value, field.name, None)
    assert not hasattr(value, "__dict__")


@given(lengths, st.floats(0, 1), st.floats(0, 1))
def test_quantiles_invert_the_distribution(law, q, p):
    x = law.quantile(q)
    assert law.low <= x <= law.high
    assert law.expect(lambda v: v <= x) >= q - 1e-9
    assert law.expect(lambda v: v < x) <= q + 1e-9
    assert law.quantile(min(p, q)) <= law.quantile(max(p, q))


@given(lengths)
def test_moments_are_ordered(law):
    slack = 1e-9 * law.high**2
    assert law.low <= law.mean + slack
    assert law.mean <= law.high + slack
    assert law.second_moment >= law.mean**2 - slack
    assert law.second_moment <= law.high * law.mean + slack


@given(requests(), st.integers(0, 2**32))
def test_samples_are_valid_requests(one, seed):
    prompt, output, reasoning = one.sample(20, rng=seed)
    assert np.all(prompt >= 1)
    assert np.all(output > reasoning)
    assert np.all(reasoning >= 0)
    assert np.all(prompt + output <= one.peak)


@given(traces(), st.floats(0.01, 100))
def test_scaling_keeps_everything_but_the_clock(trace, factor):
    scaled = trace.scaled(factor=factor)
    assert scaled.arrival[0] == 0
    assert scaled.span == pytest.approx(trace.span / factor, abs=1e-12)
    assert sum(scaled.rates.values()) == pytest.approx(scaled.rate)
    assert np.array_equal(scaled.prompt, trace.prompt)
    assert list(scaled.mix()) == list(trace.mix())


@given(traces())
def test_the_mix_of_a_trace_lists_its_requests(trace):
    mix = trace.mix()
    total = sum(len(kind.prompt.values) * kind.prompt.mean for kind in mix.values())
    assert total == pytest.approx(trace.prompt.sum())
    assert sum(len(kind.output.values) for kind in mix.values()) == len(trace)
    assert max(kind.peak for kind in mix.values()) == (trace.prompt + trace.output).max()


@given(arrivals, st.integers(1, 40), st.integers(0, 2**32))
def test_arrivals_ascend_and_a_longer_path_starts_with_the_shorter(process, n, seed):
    times = process.times(n, rng=seed)
    assert times.shape == (n,)
    assert np.all(np.diff(times) >= 0)
    assert times[0] >= 0
    assert process.dispersion >= 0
    if not isinstance(process, MMPP):  # draws its clock before its switches
        np.testing.assert_array_equal(process.times(n + 5, rng=seed)[:n], times)
