"""Small chains solved exactly: stationary laws, quasi-birth-death chains, optimal policies.

========================  ======================================================================
``stationary``            law of a finite chain; Fractions in, Fractions out
``qbd``                   infinite queue in a random environment, by its matrix ``R``
``optimal_cost``          least average cost of a decision problem, bracketed
``slot_engine``           a serving engine small enough for all of them
========================  ======================================================================

They are oracles for simulators and policies: nothing in them is sampled. Not covered: chains too
large to write down.
"""

from __future__ import annotations

from llmq.theory.chains._cost import Choice, OptimalCost, optimal_cost
from llmq.theory.chains._examples import (
    Slot,
    SlotEngine,
    State,
    decode_first,
    prefill_first,
    slot_engine,
)
from llmq.theory.chains._qbd import QBD, Level, qbd
from llmq.theory.chains._stationary import Stationary, stationary

__all__ = [
    "QBD",
    "Choice",
    "Level",
    "OptimalCost",
    "Slot",
    "SlotEngine",
    "State",
    "Stationary",
    "decode_first",
    "optimal_cost",
    "prefill_first",
    "qbd",
    "slot_engine",
    "stationary",
]
