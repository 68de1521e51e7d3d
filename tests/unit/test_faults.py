"""Broken policies are caught, sound ones pass."""

from __future__ import annotations

import pytest

from experiments.faults import FAULTS, caught, sound


def test_there_are_ten_and_two_of_maxweight():
    assert len(FAULTS) == 12
    assert sum(fault.startswith("MaxWeight") for fault in FAULTS) == 2


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_is_caught(fault):
    found = caught(fault, tries=5)
    assert found is not None
    assert found[2].share.low > 0


@pytest.mark.parametrize("number", range(5))
def test_the_sound_policies_pass_where_faults_are_sought(number):
    assert sound(number)
