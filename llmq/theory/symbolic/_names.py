r"""Names, letters and meanings of every symbol: names of the library, letters of the theory.

A quantity that differs between classes has the class behind its name: ``rate_chat`` is the rate of
the class "chat", printed :math:`\lambda_{chat}`. Symbols are positive; a value of 0 is allowed
where the formula does not divide by it.
"""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING, Any

from llmq._input.checked import checked
from llmq.errors import InputError, nearest

if TYPE_CHECKING:
    from sympy import Expr, Symbol

__all__ = ["NOTATION", "letter", "symbols", "typeset"]

NOTATION: dict[str, tuple[str, str]] = {
    # What a request of a class asks for; the name of the class may follow.
    "rate": (r"\lambda", "requests per unit of time"),
    "share": ("p", "share of the requests"),
    "prompt": ("s", "prompt tokens"),
    "output": ("o", "output tokens"),
    "tokens": ("v", "tokens computed"),
    "slots": ("k", "iterations in a slot"),
    "area": ("g", "KV area, token-iterations"),
    "held": (r"\bar g", "KV area in whole blocks, token-iterations"),
    "decodes": ("d", "decode iterations"),
    "work": ("W", "prefill attention, tokens squared"),
    "price": ("w", "engine time of a request"),
    "square": ("w^{(2)}", "mean square of the engine time of a request"),
    # The engine.
    "base": ("c", "time of an iteration beside its tokens"),
    "per_token": ("a", "time of a token"),
    "per_kv": ("e", "time of a KV token read"),
    "per_work": (r"\omega", "time of a unit of prefill attention"),
    "per_tile": (r"\alpha", "time of a started tile"),
    "tile": ("b_{0}", "tokens of a tile"),
    "floor": ("c_{0}", "time of the memory branch"),
    "floor_per_token": ("a_{0}", "time of a token in the memory branch"),
    "token_budget": ("b_{max}", "tokens of an iteration, at most"),
    "max_seqs": ("k_{max}", "requests resident, at most"),
    "kv_tokens": ("M", "KV capacity, tokens of whole blocks"),
    "kv_block": (r"\beta", "tokens of a KV block"),
    "chunk": ("h", "prompt tokens of a request in an iteration, at most"),
    "engines": ("N", "equal engines"),
    "batch_tokens": ("b", "tokens of an iteration"),
    # One station.
    "mean": ("E[S]", "mean service time"),
    "second_moment": ("E[S^{2}]", "mean square of the service time"),
    "duration": ("D", "service time"),
    "mean_output": ("E[o]", "mean output tokens"),
    "mean_prompt": ("E[s]", "mean prompt tokens"),
    "mean_tokens": ("E[v]", "mean tokens of a request"),
    "mean_area": ("E[g]", "mean KV area of a request"),
    "max_output": ("o_{max}", "most output tokens"),
    "peak": ("s_{max}", "most KV tokens of a request"),
    "x": ("x", "a time"),
    "n": ("n", "a number of requests"),
    "z": ("z", "standard deviations of safety"),
    "servers": ("c", "equal servers"),
    "load": ("a", "arrival rate times mean service time"),
    "slack": (r"\beta", "servers beyond the load, in square roots of it"),
    "d": ("d", "queues that are compared"),
    "service_rate": (r"\mu", "batches per unit of time"),
    "batch": ("b", "requests in a batch, at most"),
    "root": ("r", "ratio of the geometric law"),
    "mean_arrivals": ("m", "arrivals in a slot"),
    "per_item": (r"\alpha", "time of a request more in the batch"),
    "p_none": ("P_{0}", "probability of no arrival during a batch"),
    "batch_time": (r"\tau", "representative time of an iteration"),
    # WAIT and Nested WAIT.
    "d0": ("d_{0}", "time of an iteration beside its KV"),
    "d1": ("d_{1}", "time of a KV token in the batch"),
    "n1": ("n_{1}", "threshold of the segment before"),
    "n2": ("n_{2}", "threshold of this segment"),
    "p": ("p", "share of the requests that go on"),
    "theta": (r"\theta", "decay of the queue before the segment"),
    "horizon": ("T", "time of operation"),
    "overflow": (r"\delta", "probability of an overflow that is accepted"),
    "segments": ("m", "segments"),
    "reached": ("o_{1}", "output tokens at the end of the segment before"),
    # Two phases on one set of engines.
    "prefill_work": ("d_{p}", "engine time of the prefill of a request"),
    "decode_work": ("d_{d}", "engine time of the decodes of a request"),
    "prefill_engines": ("N_{p}", "engines that prefill"),
    "prefills": ("n_{c}", "prefills in a cycle of RAD, at most"),
}
_BY_CLASS = (
    "rate",
    "share",
    "prompt",
    "output",
    "tokens",
    "slots",
    "area",
    "held",
    "decodes",
    "work",
    "price",
    "square",
)


@checked
def letter(name: str) -> str:
    r"""Return the letter of a quantity.

    Examples
    --------
    >>> print(letter("token_budget"), letter("rate_chat"))
    b_{max} \lambda_{chat}
    """
    if name in NOTATION:
        return NOTATION[name][0]
    stem, _, klass = name.partition("_")
    if klass and stem in _BY_CLASS:
        return f"{NOTATION[stem][0]}_{{{_printable(klass)}}}"
    raise InputError(f"no symbol is called {name!r}{nearest(name, NOTATION)}", value=name)


@checked
def symbols(*names: str) -> tuple[Symbol, ...]:
    """Return the symbols of some quantities.

    Parameters
    ----------
    *names
        Names of :data:`NOTATION`, with ``_class`` behind those that differ between classes.

    Returns
    -------
    tuple of sympy.Symbol
        Positive; equal names give equal symbols.

    Raises
    ------
    InputError
        A name without a meaning.

    Examples
    --------
    >>> symbols("base", "rate_chat")
    (base, rate_chat)
    """
    import sympy

    for name in names:
        letter(name)
    return tuple(sympy.Symbol(name, positive=True) for name in names)


@checked
def typeset(expression: Expr, letters: dict[Symbol, str]) -> str:
    """Write an expression in LaTeX.

    Examples
    --------
    >>> (rate,) = symbols("rate")
    >>> typeset(1 - rate, {rate: "r"}), typeset(rate - 1, {rate: "r"})
    ('1 - r', 'r - 1')
    """
    return str(_printer()({"symbol_names": letters}).doprint(expression))


@functools.lru_cache(maxsize=1)
def _printer() -> Any:
    from sympy import Add
    from sympy.printing.latex import LatexPrinter

    class Printer(LatexPrinter):  # type: ignore[misc]
        """LaTeX with sums in the order people write: terms, numbers, then what is subtracted."""

        def _as_ordered_terms(self, expr: Expr, order: object = None) -> list[Expr]:
            return sorted(
                Add.make_args(expr), key=lambda t: (t.could_extract_minus_sign(), t.is_number)
            )

    return Printer


def _printable(klass: str) -> str:
    """Spell the name of a class inside LaTeX: what has a meaning there loses it."""
    spelled = re.sub(r"[\\^~]", "-", klass)
    return re.sub(r"([_%$#&{} ])", r"\\\1", spelled)
