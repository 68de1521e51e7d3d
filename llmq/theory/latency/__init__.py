"""Closed-form laws of delay, occupancy and memory, each with its kind and its assumptions.

Times are in any unit, rates in its inverse. A law refuses a load at which it has no stationary
mean. ``exact`` here means that the law is exact for the model its assumptions describe; numbers
are floats.

========================  ======================================================================
``decode_occupancy``      continuous batching of decodes: batch, stay, time between tokens
``inoue``                 a server that takes all who wait
``bailey``                slots that serve at most so many
``bulk``                  exponential batches
``mg1``, ``mg1_tokens``   one request at a time
``md1``                   the same with equal requests: the whole law of the wait
``limited_preemption``    short requests first, on predictions
``erlang_c``              equal servers, one queue
``halfin_whitt``          square-root staffing
``jsq``                   the shortest of some queues
``priced_workload``       delay near saturation from the prices of a stability region
``birth_death``           the averaged engine of llm-inferno
``kv_occupancy``          law of the KV memory in use
``nie``                   rates that KV memory carries at a given iteration time
========================  ======================================================================

Not covered: transients, and prefill and decode in the same iterations with many classes: simulate.
"""

from __future__ import annotations

from llmq.theory.latency._batches import Bailey, Bulk, Inoue, bailey, bulk, inoue
from llmq.theory.latency._birth import BirthDeath, birth_death
from llmq.theory.latency._decode import DecodeOccupancy, decode_occupancy
from llmq.theory.latency._memory import KVOccupancy, MemoryRate, kv_occupancy, nie
from llmq.theory.latency._pools import ErlangC, HalfinWhitt, ShortestOf, erlang_c, halfin_whitt, jsq
from llmq.theory.latency._priced import PricedWorkload, priced_workload
from llmq.theory.latency._single import MD1, MG1, md1, mg1, mg1_tokens
from llmq.theory.latency._sizes import LimitedPreemption, limited_preemption

__all__ = [
    "Bailey",
    "BirthDeath",
    "Bulk",
    "DecodeOccupancy",
    "ErlangC",
    "HalfinWhitt",
    "Inoue",
    "KVOccupancy",
    "LimitedPreemption",
    "MD1",
    "MG1",
    "MemoryRate",
    "PricedWorkload",
    "ShortestOf",
    "bailey",
    "birth_death",
    "bulk",
    "decode_occupancy",
    "erlang_c",
    "halfin_whitt",
    "inoue",
    "jsq",
    "kv_occupancy",
    "limited_preemption",
    "md1",
    "mg1",
    "mg1_tokens",
    "nie",
    "priced_workload",
]
