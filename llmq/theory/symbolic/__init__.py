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

import functools
from collections.abc import Callable, Sequence

from llmq._input.checked import checked
from llmq.errors import InputError, nearest
from llmq.theory.symbolic._batches import (
    bailey,
    birth_death,
    bulk,
    bulk_accessible,
    decode_fluid,
    decode_occupancy,
    decode_slots,
    inoue,
)
from llmq.theory.symbolic._family import Formulas
from llmq.theory.symbolic._formula import Formula
from llmq.theory.symbolic._memory import demands, kv_occupancy, nie
from llmq.theory.symbolic._names import NOTATION, symbols
from llmq.theory.symbolic._queues import erlang_c, halfin_whitt, jsq, md1, mg1, priced_workload
from llmq.theory.symbolic._rad import rad, rad_lp, static_split, tile
from llmq.theory.symbolic._region import SymbolicRegion, region
from llmq.theory.symbolic._wait import nested_wait, wait

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

_ONE: dict[str, Callable[[], Formulas]] = {
    "demand": demands, "decode_occupancy": decode_occupancy, "decode_slots": decode_slots,
    "decode_fluid": decode_fluid, "nested_wait": nested_wait, "kv_occupancy": kv_occupancy,
    "nie": nie, "mg1": mg1, "md1": md1, "erlang_c": erlang_c, "halfin_whitt": halfin_whitt,
    "jsq": jsq, "inoue": inoue, "bulk": bulk, "bulk_accessible": bulk_accessible,
    "bailey": bailey, "birth_death": birth_death, "tile": tile, "rad": rad, "rad_lp": rad_lp,
    "static_split": static_split,
}  # fmt: skip
_BY_CLASS: dict[str, Callable[[tuple[str, ...]], Formulas]] = {
    "wait": wait, "priced_workload": priced_workload,
}  # fmt: skip
LAWS: tuple[str, ...] = (*_ONE, *_BY_CLASS)


@checked
def law(name: str, classes: str | Sequence[str] = ("chat",)) -> Formulas:
    r"""Return a law as formulas.

    Parameters
    ----------
    name : str
        One of :data:`LAWS`.
    classes : str or sequence of str
        Request classes, for ``wait`` and ``priced_workload``.

    Returns
    -------
    Formulas
        By attribute or by name: ``law("mg1").wait``.

    Raises
    ------
    InputError
        An unknown name.

    Examples
    --------
    >>> print(law("decode_occupancy").sojourn.latex())
    E[T] = \frac{E[o] \left(c + a\right)}{1 - E[o] a \lambda}
    >>> law("erlang_c").p_wait(servers=12, load=10.0)
    0.44938822
    """
    if name not in LAWS:
        raise InputError(f"no law is called {name!r}{nearest(str(name), LAWS)}", value=name)
    return _law(name, (classes,) if isinstance(classes, str) else tuple(classes))


@functools.lru_cache(maxsize=128)
def _law(name: str, classes: tuple[str, ...]) -> Formulas:
    return _ONE[name]() if name in _ONE else _BY_CLASS[name](classes)
