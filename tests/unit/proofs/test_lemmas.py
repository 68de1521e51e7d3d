"""Lemmas: each script runs, and says so where its algebra fails."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from fractions import Fraction
from types import ModuleType

import pytest

import proofs.lemmas
from proofs import lemmas
from proofs.lemmas import full_tile, pacing, rad, rate_conservation, tile_rate, volume

NAMES = sorted(module.name for module in pkgutil.iter_modules(proofs.lemmas.__path__))


@pytest.mark.parametrize("name", NAMES)
def test_a_lemma_holds_and_says_what_it_checked(name: str, capsys) -> None:
    module = importlib.import_module(f"proofs.lemmas.{name}")
    module.main()
    said = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("holds: ") for line in said) == len(said) - said.count(
        "z3 is not installed: the identity and the exhaustive search stand alone"
    )
    assert said


@pytest.mark.parametrize("name", NAMES)
def test_a_lemma_states_its_proof(name: str) -> None:
    text = importlib.import_module(f"proofs.lemmas.{name}").__doc__
    assert len(text.split()) > 80


def test_a_false_claim_ends_with_1(capsys) -> None:
    with pytest.raises(SystemExit) as caught:
        lemmas.holds(1 > 2, "one exceeds two")
    assert caught.value.code == 1
    assert capsys.readouterr().out == "FAILS: one exceeds two\n"


def fails(module: ModuleType) -> bool:
    try:
        module.main()
    except SystemExit as stop:
        return stop.code == 1
    return False


def test_wrong_algebra_is_noticed(monkeypatch, capsys) -> None:
    changes = (
        (tile_rate, "time", lambda b, c, a, tile: c + a * (b // tile)),
        (full_tile, "offered", lambda rows, chunk: len(rows)),
        (rate_conservation, "least_area", lambda s, ch: s * -(-s // ch)),
        (rate_conservation, "least_blocks", lambda s, ch, block: -(-s // block) * -(-s // ch)),
        (pacing, "profiles", lambda s, d, chunk, block: [[1, 0, 1]] * 3),
        (rad, "attention", lambda c, k, b, row, red: c * c * (k + 1)),
        (volume, "volume", lambda job: 2 * job[0] * job[1] + job[1] * (job[1] + 1) // 2),
    )
    for module, name, wrong in changes:
        with monkeypatch.context() as patch:
            patch.setattr(module, name, wrong)
            assert fails(module), module.__name__
        assert "FAILS" in capsys.readouterr().out


# z3 is optional: what it says is said without it too.


def test_tile_rate_without_z3(monkeypatch, capsys) -> None:
    monkeypatch.setattr(tile_rate, "find_spec", lambda name: None)
    tile_rate.main()
    said = capsys.readouterr().out
    assert "O4: b = 64 is best" in said
    assert "z3 is not installed" in said


@pytest.mark.skipif("z3" not in sys.modules and tile_rate.find_spec("z3") is None, reason="no z3")
def test_tile_rate_with_z3(capsys) -> None:
    tile_rate.main()
    assert "holds: z3: no counterexample" in capsys.readouterr().out


def test_paces_by_hand() -> None:
    # Two iterations of 3 and 1 tokens, a start every second iteration: never more than 3 at a time.
    assert pacing.largest_total([3, 1], Fraction(1, 2)) == 3
    assert pacing.largest_total([3, 1], Fraction(1)) == 4
    assert pacing.largest_total([3, 1], Fraction(3, 2)) == 7
