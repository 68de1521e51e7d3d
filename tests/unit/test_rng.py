"""One seed, one answer: seeds, generators and sequences behave as SPEC 7 says."""

from __future__ import annotations

import numpy as np
import pytest

from llmq.errors import InputError
from llmq.rng import generator, seed_sequence


def draws(rng, n=4):
    return generator(rng).random(n).tolist()


def children(rng, n=3):
    return [np.random.default_rng(c).random() for c in seed_sequence(rng).spawn(n)]


@pytest.mark.parametrize("seed", [0, 7, np.int64(7), 2**128])
def test_same_seed_same_streams(seed):
    assert draws(seed) == draws(seed)
    assert children(seed) == children(seed)
    assert draws(seed) == np.random.default_rng(int(seed)).random(4).tolist()


def test_different_seeds_differ():
    assert draws(1) != draws(2)
    assert draws(None) != draws(None)


def test_children_are_distinct_and_do_not_depend_on_how_many_follow():
    few, many = children(7, 3), children(7, 50)
    assert many[:3] == few
    assert len(set(many)) == 50
    assert draws(7, 1)[0] not in many


def test_a_sequence_is_not_consumed():
    mine = np.random.SeedSequence(7, spawn_key=(3, 1), pool_size=8)
    first = children(mine)
    assert mine.n_children_spawned == 0
    assert children(mine) == first
    assert seed_sequence(mine).spawn_key == (3, 1)
    assert seed_sequence(mine).pool_size == 8
    assert draws(mine) == np.random.default_rng(mine).random(4).tolist()


def test_a_sequence_that_has_spawned_gives_the_same_children():
    mine = np.random.SeedSequence(7)
    first = children(mine)
    mine.spawn(5)
    assert children(mine) == first


def test_a_generator_moves_on():
    stream = np.random.default_rng(7)
    assert generator(stream) is stream
    assert children(stream) != children(stream)
    again = np.random.default_rng(7)
    assert children(again) == children(np.random.default_rng(7))


def test_a_generator_gives_children_without_drawing_from_it():
    stream = np.random.default_rng(7)
    seed_sequence(stream)
    assert stream.random() == np.random.default_rng(7).random()


@pytest.mark.parametrize("bad", [-1, 1.0, "7", np.random, [1, 2]])
def test_what_is_not_a_source_of_randomness_is_refused(bad):
    with pytest.raises(InputError) as caught:
        generator(bad)
    assert str(caught.value) == (
        f"rng must be a numpy Generator, a SeedSequence, an int >= 0 or None, got {bad!r}"
    )
