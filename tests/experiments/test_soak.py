"""The soak: what it draws, that it repeats, and that it can fail."""

import pytest

import llmq
from experiments import soak
from llmq.errors import InvariantError
from llmq.sim.results._checks import check_run


def test_a8_the_soak_draws_chunks_slots_and_prefix_caches():
    drawn = [soak.system(number) for number in range(120)]
    engines = [next(iter(fleet.pools.values()))[0] for fleet, *_ in drawn]
    assert {engine.prefill_chunk for engine in engines} == {None, 8, 48}
    assert {engine.max_seqs for engine in engines} == {None, 4, 16}
    cached = [
        work for engine, (_, work, *_) in zip(engines, drawn, strict=True) if engine.prefix_cache
    ]
    assert {isinstance(work, llmq.Trace) for work in cached} == {True, False}
    assert {type(policy) for *_, policy, _ in drawn} == set(llmq.policies.ALL)


def test_a8_some_systems_of_the_soak_hold(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["soak", "--systems", "4", "--batch", "2"])
    assert soak.main() == 0
    assert "of 4 systems hold every invariant" in capsys.readouterr().out


def test_a8_a_run_that_was_paid_too_little_for_its_chunks_is_found():
    # One slot, a prompt of 16 tokens in chunks of 4: four seconds, two without the chunk.
    law = llmq.BatchTime.affine(base=1.0, per_token=0.0)
    chip = llmq.Engine(law, token_budget=8, max_seqs=1, prefill_chunk=4)
    policy = llmq.policies.Sarathi()
    run = llmq.simulate(chip, llmq.Trace([0.0], [16], [1]), policy)
    check_run(run, policy)
    tally = run.tallies[0][0]
    assert tally.busy == 4.0
    tally.busy = 2.5
    check_run(run)
    with pytest.raises(InvariantError, match="priced work"):
        check_run(run, policy)
