r"""The theory as formulas: sympy expressions with named positive symbols, LaTeX, numeric twins.

:func:`region` is Theorem U for equal engines: load, facets, prices, derivatives in every
parameter, what one more token of budget, slot, KV block or GPU buys, fluid equilibrium.
:func:`law` gives the laws of occupancy, delay and memory, WAIT, and RAD's bounds:

====================  =====================================================================
``demand``            tokens, slot-iterations and KV area of a request
``decode_occupancy``  continuous batching of decodes: negative binomial
``decode_slots``      the same with slots and a queue
``decode_fluid``      its fluid point and relaxation time
``wait``              WAIT: fluid equilibrium (by class)
``nested_wait``       Nested WAIT: exponent equation, Hoeffding's bound, memory
``kv_occupancy``      KV memory in use, and the square-root rule
``nie``               rates that KV memory carries at a given iteration time
``mg1``, ``md1``      one request at a time
``priced_workload``   delay near saturation (by class)
``erlang_c``          equal servers, one queue
``halfin_whitt``      square-root staffing
``jsq``               the shortest of some queues, many servers
``inoue``             a server that takes all who wait
``bulk``              exponential batches; ``bulk_accessible`` where arrivals may join
``bailey``            slots that serve at most so many
``birth_death``       iteration times of llm-inferno's averaged engine
``tile``              whole tiles against a full budget
``rad``, ``rad_lp``   RAD's bounds; prices of prefill and decode tokens
``static_split``      a static split of engines against dynamic allocation
====================  =====================================================================

All LaTeX can be drawn by matplotlib: maxima stand as ``\max``, no formula has cases. Not covered:
what is an integral, a Fourier inverse or a minimum over schedules (size-based orders, the whole law
of the KV in use, quantiles, inner bounds), and regions that are linear programmes (pools that
differ): see :mod:`llmq.theory.latency` and :mod:`llmq.theory.region.routing`.
"""

from __future__ import annotations

from llmq.theory.symbolic._family import Formulas
from llmq.theory.symbolic._formula import Formula
from llmq.theory.symbolic._laws import LAWS, law
from llmq.theory.symbolic._names import NOTATION, symbols
from llmq.theory.symbolic._region import SymbolicRegion, region

__all__ = [
    "LAWS",
    "NOTATION",
    "Formula",
    "Formulas",
    "SymbolicRegion",
    "law",
    "region",
    "symbols",
]
