"""What the formulas of a region are made of: pieces of the law, demands, totals, and values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Literal, TypeAlias

from llmq.errors import InputError
from llmq.model.conventions import THEORY, Conventions
from llmq.model.engine import Engine
from llmq.model.request import RequestClass
from llmq.theory.needs._rates import rate_vector
from llmq.theory.needs.demand import demand
from llmq.theory.symbolic._memory import request_demand
from llmq.theory.symbolic._names import symbols
from llmq.units import as_fraction

if TYPE_CHECKING:
    from sympy import Expr

__all__ = ["FORMS", "Form", "Model"]

Form: TypeAlias = Literal["affine", "tiled", "roofline"]
# Coefficients of the laws that have formulas.
FORMS: dict[str, tuple[str, ...]] = {
    "affine": ("base", "per_token"),
    "tiled": ("base", "per_token", "per_tile", "tile"),
    "roofline": ("base", "per_token", "floor", "floor_per_token"),
}
_LIMITS = ("token_budget", "max_seqs", "kv_tokens", "kv_block", "chunk")
_DEMANDS = ("tokens", "slots", "area", "held", "decodes", "prompt", "work")


@dataclass(frozen=True, slots=True)
class Model:
    """Equal engines and request classes in symbols."""

    classes: tuple[str, ...]  # request classes
    form: Form = "affine"  # law of the iteration time
    attention: bool = False  # whether prefill attention takes time of its own
    lengths: bool = False  # whether demands are written in prompt, output and chunk
    conventions: Conventions = THEORY  # how tokens, memory and slots are counted then
    # whether the area is then the least of any policy, or that of full chunks first
    least: bool = True

    def pieces(self) -> dict[str, tuple[Expr, Expr]]:
        """Return intercept and slope of each piece of the token curve."""
        c, a = symbols("base", "per_token")
        if self.form == "affine":
            return {"": (c, a)}
        if self.form == "roofline":
            low, slope = symbols("floor", "floor_per_token")
            return {"": (c, a), "_floor": (low, slope)}
        step, tile = symbols("per_tile", "tile")
        return {"": (c, a + step / tile), "_first_tile": (c + step, a)}

    def demand(self, klass: str) -> dict[str, Expr]:
        """Return what a request asks for."""
        if not self.lengths:
            return {field: symbols(f"{field}_{klass}")[0] for field in _DEMANDS}
        s, o, chunk, block = symbols(f"prompt_{klass}", f"output_{klass}", "chunk", "kv_block")
        need = request_demand(s, o, chunk, block, self.conventions)
        return need | {"area": need["least_area" if self.least else "area"]}

    def total(self, field: str, flow: str = "rate") -> Expr:
        """Return the demand per unit of time of all classes."""
        return sum(symbols(f"{flow}_{k}")[0] * self.demand(k)[field] for k in self.classes)

    def count(self, resource: str, flow: str = "rate") -> Expr:
        """Return the iterations per unit of time that a resource makes necessary."""
        import sympy

        budget, tile, seqs, memory = symbols("token_budget", "tile", "max_seqs", "kv_tokens")
        if self.form == "tiled":
            budget = tile * sympy.floor(budget / tile)
        field, limit = {
            "tokens": ("tokens", budget),
            "slots": ("slots", seqs),
            "memory": ("held", memory),
        }[resource]
        return self.total(field, flow) / limit

    def busy(self, slope: Expr, flow: str = "rate") -> Expr:
        """Return the time of tokens and attention per unit of time."""
        read, work = symbols("per_kv", "per_work")
        busy = slope * self.total("tokens", flow) + read * self.total("area", flow)
        return busy + work * self.total("work", flow) if self.attention else busy

    def arguments(self) -> tuple[str, ...]:
        """Return the names of all symbols that a formula of the region may have."""
        demands = ("prompt", "output") if self.lengths else _DEMANDS
        each = [f"{stem}_{k}" for k in self.classes for stem in ("rate", "share", *demands)]
        shared = ["per_kv", *_LIMITS[:-1], "engines"]
        shared += ["per_work"] * self.attention + ["chunk"] * self.lengths
        return tuple(sorted({*each, *shared, *FORMS[self.form]}))

    def values(
        self,
        engine: Engine,
        mix: Mapping[str, RequestClass],
        rates: Mapping[str, float],
        engines: int,
    ) -> dict[str, Fraction]:
        """Return the values of the symbols for an engine and a traffic."""
        self._check(engine, mix)
        vector = [as_fraction(rate) for rate in rate_vector(rates, self.classes)]
        names = (*FORMS[self.form], "per_kv", "per_work")
        found = {name: as_fraction(getattr(engine.law, name)) for name in names}
        found |= {name: as_fraction(getattr(engine, name)) for name in _LIMITS}
        found["kv_tokens"] = as_fraction(engine.kv_room)
        found["engines"] = as_fraction(engines)
        for name, rate in zip(self.classes, vector, strict=True):
            found[f"rate_{name}"] = rate
            found[f"share_{name}"] = rate / (sum(vector) or 1)
            found |= self._request(name, mix[name], engine)
        return {name: value for name, value in found.items() if name in self.arguments()}

    def _request(self, name: str, request: RequestClass, engine: Engine) -> dict[str, Fraction]:
        if self.lengths:
            if not (request.prompt.is_fixed and request.output.is_fixed):
                raise InputError(f"class {name!r} has lengths that vary: use lengths=False")
            pair = {"prompt": request.prompt.low, "output": request.output.low}
            return {f"{key}_{name}": as_fraction(value) for key, value in pair.items()}
        need = demand(request, engine)
        least = {"area": need.least_area, "held": need.memory}
        fields = {
            field: least[field] if field in least else getattr(need, field) for field in _DEMANDS
        }
        return {f"{field}_{name}": value for field, value in fields.items()}

    def _check(self, engine: Engine, mix: Mapping[str, RequestClass]) -> None:
        law = engine.law
        if law.form not in FORMS or (law.form == "roofline" and law.tile > 1):
            raise InputError(
                f"the law {law} has no formula here: use llmq.stability_region", value=law
            )
        if law.form != self.form:
            raise InputError(
                f"this region is of {self.form} laws, the engine's is {law.form}: make it with "
                f"region(classes, law={law.form!r})",
                value=law.form,
            )
        if law.per_kv != law.per_kv_mixed:
            raise InputError("the formulas have one rate of KV reads, the law has two", value=law)
        if law.per_work and not self.attention:
            raise InputError("the law has prefill attention: make the region with attention=True")
        if engine.max_seqs is None or engine.kv_tokens is None:
            raise InputError("the formulas need max_seqs and kv_tokens: give large ones")
        if self.lengths and engine.conventions != self.conventions:
            raise InputError(
                f"the engine counts by the conventions {engine.conventions.name}, the region by "
                f"{self.conventions.name}: make it with region(classes, conventions=...)"
            )
        if set(mix) != set(self.classes):
            raise InputError(f"the classes here are {', '.join(self.classes)}", value=tuple(mix))
