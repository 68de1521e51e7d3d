r"""Theorem U in symbols: load, facets, prices, what more of something buys, fluid equilibrium.

``N`` equal engines serve class ``j`` at rate :math:`\lambda_j`; a request computes ``v`` tokens,
takes a slot in ``k`` iterations and holds ``g`` token-iterations of KV, in whole blocks
:math:`\bar g` (``area`` and ``held``). With an iteration time
:math:`\max_i (c_i + a_i b) + e \kappa` the load is the largest of

.. math:: \rho^f_i = \frac1N \sum_j \lambda_j (a_i v_j + e g_j + c_i n^f_j), \qquad
          n^{tokens} = v / b_{max}, \quad n^{slots} = k / k_{max}, \quad n^{memory} = \bar g / M .

The laws are *affine* (one piece ``c, a``: the three facets of Theorem U), *roofline* (two pieces)
and *tiled*. Tiles are the pieces of the lower convex envelope: full tiles cost ``c`` and
:math:`a = \alpha / b_0` (plus what a token costs beside them), up to one tile an iteration costs
:math:`c + \alpha`; the budget is that of whole tiles, :math:`b_0 \lfloor b_{max} / b_0 \rfloor`.
This is exact where the tile divides the budget, or where a ragged last tile does not pay (law
"tile" of :func:`llmq.theory.symbolic.law`).

The load is a maximum, so it has corners: derivatives are those of a facet, and ``one_more`` gives
the exact change for one token of budget, slot, KV block or GPU, maximum included.

**Equilibrium** of the fluid of one engine, at load below 1:
:math:`\tau^* = c / (1 - \sum_j \lambda_j (a v_j + e g_j))` (the largest of the pieces'), and by
Little :math:`n_j^* = \lambda_j \tau^* d_j`, :math:`KV^* = \tau^* \sum_j \lambda_j g_j`. The
relaxation time has a closed form for decodes alone only (law "decode_fluid").

Not covered: prompts that share a slot (the slots facet charges each chunk one, so there it is no
bound; :func:`llmq.stability_region` counts them right), tables of measured times, tiles in a
roofline, two rates of KV reads; and the inner bounds (:mod:`llmq.theory.region._inner`), which are
minima over schedules.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from llmq._input.checked import checked
from llmq.errors import InputError, nearest
from llmq.model.conventions import THEORY, Conventions
from llmq.model.engine import Engine
from llmq.model.request import RequestClass
from llmq.result import Kind
from llmq.theory.symbolic._family import Formulas, family
from llmq.theory.symbolic._formula import Formula
from llmq.theory.symbolic._laws import law as closed_form
from llmq.theory.symbolic._model import FORMS, Form, Model
from llmq.theory.symbolic._names import symbols

__all__ = ["SymbolicRegion", "region"]

_RESOURCES = ("tokens", "slots", "memory")
_MORE: dict[str, tuple[str, int | str]] = {
    "token": ("token_budget", 1),
    "slot": ("max_seqs", 1),
    "kv_block": ("kv_tokens", "kv_block"),
    "gpu": ("engines", 1),
}
_RULES = ("no prefix reuse", "requests split evenly over equal engines")
# Where prompts share a slot Theorem U's count is too large; `stability_region` has the right one.
_SLOTS = ("slots facet: every prompt chunk takes a slot of its own (prefill_slots='per_request')",)


@checked(record=True)
@dataclass(frozen=True, slots=True)
class SymbolicRegion:
    """The stability region of equal engines as formulas; made by :func:`region`.

    Parameters
    ----------
    model : Model
        Classes, law of the iteration time and conventions.
    """

    model: Model

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return self.model.classes

    @property
    def facets(self) -> Formulas:
        """Loads by resource; with two pieces also ``_floor`` or ``_first_tile`` ones."""
        return _facets(self.model)

    @property
    def load(self) -> Formula:
        """Fraction of the capacity used: the largest facet; above 1 no policy is stable."""
        return _bounds(self.model, "load", {"load": (r"\rho", _load(self.model))})["load"]

    @property
    def prices(self) -> dict[str, Formulas]:
        """What a request of each class adds to each facet."""
        return {
            name: Formulas(
                f"prices of {name}",
                {klass: facet.derivative(f"rate_{klass}") for klass in self.classes},
            )
            for name, facet in self.facets.items()
        }

    @checked
    def sensitivity(self, facet: str, parameter: str) -> Formula:
        """Return the derivative of a facet.

        Parameters
        ----------
        facet : str
            One of :attr:`facets`.
        parameter : str
            Any symbol: a budget, a coefficient of the law, a rate, a demand, the engines.

        Returns
        -------
        Formula
            Change of the load per unit, where that facet binds.

        Raises
        ------
        InputError
            Unknown facet or parameter.

        Examples
        --------
        >>> region(("chat",)).sensitivity("memory", "kv_tokens").expression
        -base*held_chat*rate_chat/(engines*kv_tokens**2)
        """
        return self.facets[facet].derivative(parameter)

    @checked
    def capacity(self, facet: str | None = None) -> Formula:
        """Return the rate at which the region ends, for given shares of the classes.

        Parameters
        ----------
        facet : str, optional
            Of one facet alone; of all (a minimum) if not given.

        Returns
        -------
        Formula
            Requests per unit of time, all classes together; the rate of a class is its share of
            it.

        Examples
        --------
        >>> region(("chat",)).capacity("tokens").exact(
        ...     base=12, per_token=Fraction(1, 40), per_kv=0, token_budget=512, share_chat=1,
        ...     tokens_chat=640, area_chat=1, engines=2)
        Fraction(2, 31)
        """
        whole = (
            _load(self.model, "share")
            if facet is None
            else _facets(self.model, "share")[facet].expression
        )
        return _bounds(self.model, "capacity", {"capacity": (r"\Lambda", 1 / whole)})["capacity"]

    @checked
    def one_more(self, what: str, of: Formula | None = None) -> Formula:
        """Say what one token of budget, slot, KV block or GPU more buys.

        Parameters
        ----------
        what : {"token", "slot", "kv_block", "gpu"}
            A GPU is one more engine.
        of : Formula, optional
            What is bought; :meth:`capacity` if not given. With :attr:`load` the result is
            negative: the load that is saved.

        Returns
        -------
        Formula
            Value with one more, minus the value now: exact, also across a corner.

        Raises
        ------
        InputError
            ``what`` is none of these.

        Examples
        --------
        >>> chat = region(("chat",))
        >>> chat.one_more("gpu", chat.facets.tokens).expression.free_symbols >= set(
        ...     symbols("engines", "token_budget"))
        True
        """
        if what not in _MORE:
            raise InputError(f"one more of {what!r}?{nearest(str(what), _MORE)}", value=what)
        name, by = _MORE[what]
        return (self.capacity() if of is None else of).difference(name, by)

    def equilibrium(self) -> Formulas:
        """Return the point at which the fluid of one engine rests.

        Returns
        -------
        Formulas
            ``iteration``, ``tokens``, ``kv``, ``slots``, and by class ``decoding_...`` and
            ``prefill_...``.

        Examples
        --------
        >>> rest = region(("chat",), lengths=True).equilibrium()
        >>> rest.iteration(rate_chat=8, prompt_chat=512, output_chat=128, chunk=1024, base=0.012,
        ...     per_token=1e-4, per_kv=0, engines=1, token_budget=1024, max_seqs=200,
        ...     kv_tokens=10**9, kv_block=1)
        0.0245901639344
        """
        return _equilibrium(self.model)

    @checked
    def law(self, name: str) -> Formulas:
        """Return a law of occupancy, delay or memory, over these classes where it has any.

        Parameters
        ----------
        name : str
            One of ``llmq.theory.symbolic.LAWS``.

        Returns
        -------
        Formulas
            As :func:`llmq.theory.symbolic.law`.
        """
        return closed_form(name, classes=self.classes)

    @checked
    def values(
        self,
        engine: Engine,
        mix: Mapping[str, RequestClass],
        rates: Mapping[str, float],
        engines: int = 1,
    ) -> dict[str, Fraction]:
        """Return the values of all symbols for an engine and a traffic.

        Parameters
        ----------
        engine : Engine
            With a law of this form, and all three budgets.
        mix : mapping of str to RequestClass
            The classes of this region.
        rates : mapping of str to float
            Requests per second; their proportions are the shares.
        engines : int
            How many engines.

        Returns
        -------
        dict of str to fractions.Fraction
            To call formulas with: ``region.load(**values)``.

        Raises
        ------
        InputError
            Another law, other classes, or an engine without a slot or memory limit.
        """
        return self.model.values(engine, mix, rates, engines)

    def __repr__(self) -> str:
        return f"SymbolicRegion({self.model.form} law; classes {', '.join(self.classes)})"


def _bounds(model: Model, name: str, fields: Mapping[str, tuple[Any, ...]]) -> Formulas:
    return family(
        name,
        fields,
        kind=Kind.OUTER_BOUND,
        assumptions=("bound for every policy (Theorem U)", *_RULES, *_SLOTS),
        source="theorem-u",
        arguments=model.arguments(),
    )


# Expressions do not change: each is built once.
@functools.lru_cache(maxsize=64)
def _facets(model: Model, flow: str = "rate") -> Formulas:
    (engines,) = symbols("engines")
    fields = {
        f"{resource}{piece}": (
            rf"\rho_{{{resource}}}",
            (model.busy(a, flow) + c * model.count(resource, flow)) / engines,
        )
        for piece, (c, a) in model.pieces().items()
        for resource in _RESOURCES
    }
    return _bounds(model, "facets", fields)


@functools.lru_cache(maxsize=64)
def _load(model: Model, flow: str = "rate") -> Any:
    """Take the largest facet; with one piece, what does not differ stands before the maximum."""
    import sympy

    (engines,) = symbols("engines")
    counts = [model.count(resource, flow) for resource in _RESOURCES]
    pieces = list(model.pieces().values())
    if len(pieces) == 1:
        ((c, a),) = pieces
        return (model.busy(a, flow) + c * sympy.Max(*counts, evaluate=False)) / engines
    parts = [model.busy(a, flow) + c * n for c, a in pieces for n in counts]
    return sympy.Max(*parts, evaluate=False) / engines


@functools.lru_cache(maxsize=64)
def _equilibrium(model: Model) -> Formulas:
    import sympy

    (engines,) = symbols("engines")
    model = replace(model, least=False)
    roots = [c / (1 - model.busy(a) / engines) for c, a in model.pieces().values()]
    tau = roots[0] if len(roots) == 1 else sympy.Max(*roots, evaluate=False)
    need = {klass: model.demand(klass) for klass in model.classes}
    fields: dict[str, tuple[Any, ...]] = {
        "iteration": (r"\tau^{*}", tau),
        "tokens": ("b^{*}", tau * model.total("tokens") / engines),
        "kv": (r"\kappa^{*}", tau * model.total("area") / engines),
        "slots": ("k^{*}", tau * model.total("slots") / engines),
    }
    for klass in model.classes:
        flow = tau * symbols(f"rate_{klass}")[0] / engines
        fields[f"decoding_{klass}"] = ("n^{*}", flow * need[klass]["decodes"])
        fields[f"prefill_{klass}"] = ("X^{*}", flow * need[klass]["prompt"])
    return family(
        "equilibrium",
        fields,
        kind=Kind.ASYMPTOTIC,
        assumptions=("fluid limit: many requests on a fast engine", *_RULES),
        source="theory core 2.6",
        load=_load(model),
        arguments=model.arguments(),
    )


@checked
def region(
    classes: str | Sequence[str] = ("chat",),
    *others: str,
    law: Form = "affine",
    attention: bool = False,
    lengths: bool = False,
    conventions: Conventions = THEORY,
) -> SymbolicRegion:
    r"""Return the stability region of equal engines as formulas.

    Parameters
    ----------
    classes : str or sequence of str
        Names of the request classes.
    *others : str
        Not accepted: the classes are one tuple.
    law : {"affine", "tiled", "roofline"}
        Form of the iteration time.
    attention : bool
        Whether prefill attention takes time of its own (``per_work``).
    lengths : bool
        Whether the demands of a request are written in its prompt and output and in the chunk;
        else they are symbols of their own (means over lengths that vary).
    conventions : Conventions
        How they are counted with ``lengths=True``.

    Returns
    -------
    SymbolicRegion
        Its load, facets, prices, sensitivities, capacity and equilibrium.

    Raises
    ------
    InputError
        No classes, one that is named twice, several that are no tuple, or an unknown law.

    Examples
    --------
    >>> two = region(classes=("chat", "code"))
    >>> print(two.prices["slots"].chat.subs(per_kv=0).expression)
    (base*slots_chat + max_seqs*per_token*tokens_chat)/(engines*max_seqs)
    >>> print(region("chat").facets.memory.derivative("kv_tokens").latex())
    \frac{\partial \rho_{memory}}{\partial M} = - \frac{c \bar g_{chat} \lambda_{chat}}{N M^{2}}
    """
    if others:
        named = (classes, *others) if isinstance(classes, str) else (*classes, *others)
        raise InputError(
            f"the classes are one tuple: write region(({', '.join(map(repr, named))}))", value=named
        )
    names = (classes,) if isinstance(classes, str) else tuple(classes)
    if not names or len(set(names)) < len(names) or not all(names):
        raise InputError(f"a region needs classes of different names, got {names!r}", value=names)
    if law not in FORMS:
        raise InputError(f"no formulas for the law {law!r}{nearest(str(law), FORMS)}", value=law)
    return SymbolicRegion(Model(names, law, attention, lengths, conventions))
