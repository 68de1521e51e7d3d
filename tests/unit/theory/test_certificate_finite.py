"""Certificates of networks, chains and tiles: published values, and what is refused."""

from __future__ import annotations

import sys
from fractions import Fraction as F

import pytest

from llmq.errors import InputError, UnstableError
from llmq.model.time.batchtime import BatchTime
from llmq.theory.chains._examples import decode_first, slot_engine
from llmq.theory.stability.finite import certify_chain, certify_network, certify_tiles
from llmq.theory.stability.lyapunov import cyclic_agents

AGENTS = {"station": (1, 2, 2, 1), "successor": (1, None, 3, None), "arrivals": (1, 0, 1, 0)}
DAI = BatchTime.tiled(base=0.01128, per_tile=0.03547, tile=128)


@pytest.mark.parametrize(
    ("first", "second", "epsilon"),
    [(0.1, 0.4, "1/12"), (0.1, 0.49, "1/147"), (0.55, 0.44, "1/286")],
)
def test_o15(first: float, second: float, epsilon: str) -> None:
    made = certify_network(mean_service=(first, second) * 2, **AGENTS)
    assert (made.claim, made.load) == ("pl_lyapunov", None)
    assert made.body["lyapunov"]["epsilon"] == epsilon


def test_beyond_the_virtual_station_there_is_none() -> None:
    with pytest.raises(UnstableError, match=r"some work-conserving policy.*loads 0.61, 0.61"):
        certify_network(mean_service=(0.1, 0.51) * 2, **AGENTS)


def test_names_and_mappings() -> None:
    """The cyclic agents of Dai et al. just inside and outside their critical load of 19/34."""
    agents = cyclic_agents(768, first_hop=(32, 32), second_hop=(512, 32))

    def at(load: F) -> dict[str, dict[str, object]]:
        work = agents.first_work, agents.second_work
        return {
            "station": {"a1": "x", "a2": "y", "b1": "y", "b2": "x"},
            "mean_service": dict(zip(("a1", "a2", "b1", "b2"), work * 2, strict=True)),
            "successor": {"a1": "a2", "a2": None, "b1": "b2", "b2": None},
            "arrivals": {"a1": agents.rate(load), "a2": 0, "b1": agents.rate(load), "b2": 0},
        }

    made = certify_network(**at(F(19, 34) - F(1, 500)))
    assert made.body["problem"]["stations"] == ["x", "y"]
    assert made.body["problem"]["classes"]["a1"]["next"] == "a2"
    with pytest.raises(UnstableError):
        certify_network(**at(F(19, 34) + F(1, 500)))


def test_names_that_look_alike_as_text() -> None:
    with pytest.raises(InputError, match="stations need different names"):
        certify_network((1, "1"), (0.1, 0.1), (None, None), (1, 1))


def test_o16_small_chain() -> None:
    slots = slot_engine(F(3, 10), capacity=1)
    made = certify_chain(slots.chain(decode_first), {"present": slots.present})
    # A prefill slot and two decodes; the next request joins after (1 - p) / p = 7/3 empty slots.
    assert made.body["means"]["present"] == str(F(3) / (3 + F(7, 3)))
    assert (made.claim, made.load) == ("finite_chain", None)


@pytest.mark.parametrize(
    ("rows", "functions", "reason"),
    [
        ([[0.5, 0.5], [1, 0]], {}, "only a rational chain"),
        ([[1, 0], [0, 1]], {}, "2 recurrent classes"),
        ([[F(1, 2), 0], [1, 0]], {}, "must sum to 1"),
        ([[1]], {"f": [1, 2]}, "a value for each of 1 states"),
        ([[1]], {"f": [0.5]}, "int or Fraction"),
        ([[1]], {"f": [-1]}, "at least 0"),
    ],
)
def test_chains_that_cannot_be_certified(rows, functions, reason):  # type: ignore[no-untyped-def]
    with pytest.raises(InputError, match=reason):
        certify_chain(rows, functions)


def test_numbers_too_long_to_read_back() -> None:
    assert sys.get_int_max_str_digits() > 4000
    small = F(1, 10**4100)
    with pytest.raises(InputError, match=r"numbers of 410\d digits"):
        certify_chain([[1 - small, small], [1, 0]])


def test_o4_and_t1() -> None:
    o4 = certify_tiles(BatchTime.tiled(base=2, per_tile=10, tile=64), 100)
    rates = F(o4.body["full"]["rate"]), F(o4.body["best"]["rate"])
    assert rates == (F(50, 11), F(16, 3))
    assert 1 - rates[0] / rates[1] == F(13, 88)  # the published loss of 14.77 %
    for tiles in (1, 4, 9):
        made = certify_tiles(DAI, 128 * tiles)
        assert made.claim == "tile_inequality"
    assert certify_tiles(DAI, 129).claim == "tile_counterexample"


def test_tiles_refuse() -> None:
    with pytest.raises(InputError, match="without attention"):
        certify_tiles(BatchTime.affine(base=1, per_token=1, per_kv=1), 8)
    with pytest.raises(InputError, match="at most 200,000"):
        certify_tiles(DAI, 200_001)
