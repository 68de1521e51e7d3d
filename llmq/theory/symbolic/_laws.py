"""The closed-form laws as formulas, by name."""

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
from llmq.theory.symbolic._memory import demands, kv_occupancy, nie
from llmq.theory.symbolic._queues import erlang_c, halfin_whitt, jsq, md1, mg1, priced_workload
from llmq.theory.symbolic._rad import rad, rad_lp, static_split, tile
from llmq.theory.symbolic._wait import nested_wait, wait

__all__ = ["LAWS", "law"]

_ONE: dict[str, Callable[[], Formulas]] = {
    "demand": demands,
    "decode_occupancy": decode_occupancy,
    "decode_slots": decode_slots,
    "decode_fluid": decode_fluid,
    "nested_wait": nested_wait,
    "kv_occupancy": kv_occupancy,
    "nie": nie,
    "mg1": mg1,
    "md1": md1,
    "erlang_c": erlang_c,
    "halfin_whitt": halfin_whitt,
    "jsq": jsq,
    "inoue": inoue,
    "bulk": bulk,
    "bulk_accessible": bulk_accessible,
    "bailey": bailey,
    "birth_death": birth_death,
    "tile": tile,
    "rad": rad,
    "rad_lp": rad_lp,
    "static_split": static_split,
}
_BY_CLASS: dict[str, Callable[[tuple[str, ...]], Formulas]] = {
    "wait": wait,
    "priced_workload": priced_workload,
}
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
