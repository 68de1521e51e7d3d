"""Values of expressions: rationals in and out, and floats through generated NumPy code."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Iterable, Mapping
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from llmq.errors import InputError
from llmq.units import as_fraction

if TYPE_CHECKING:
    from sympy import Expr, Symbol

__all__ = ["differentiate", "evaluate", "exactly", "floating", "subtract"]

# The infinite sums of the library converge doubly exponentially: so many terms are all of them.
_TERMS = 64


def exactly(name: str, value: Any) -> Expr:
    """Return a value as an expression, a number as a rational."""
    import sympy

    inner = getattr(value, "expression", value)
    if isinstance(inner, sympy.Expr):
        return inner
    if not _is_number(value):
        raise InputError(
            f"{name} must be a finite number >= 0 or an expression, got {value!r}",
            field=name,
            value=value,
        )
    number = as_fraction(value)
    return sympy.Rational(number.numerator, number.denominator)


def floating(name: str, value: Any) -> Any:
    """Return a value as a Python number or an array of floats."""
    if _is_number(value):
        return int(value) if isinstance(value, int | np.integer) else float(value)
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        array = np.asarray(np.nan)
    if isinstance(value, bool | str) or not bool(np.all(np.isfinite(array) & (array >= 0))):
        raise InputError(
            f"{name} must be a finite number >= 0 or an array of them, got {value!r}",
            field=name,
            value=value,
        )
    return array


def _is_number(value: Any) -> bool:
    number = isinstance(value, int | float | Fraction | np.integer) and not isinstance(value, bool)
    return number and math.isfinite(value) and value >= 0


def evaluate(expression: Expr, given: Mapping[str, Any]) -> Any:
    """Compute an expression in floats."""
    needed = tuple(sorted({str(s) for s in expression.free_symbols}))
    values = [given[name] for name in needed]
    function, scalar = _compiled(expression, needed)
    # What has no value is nan: the caller knows whether that is an error.
    with np.errstate(all="ignore"):
        if not any(isinstance(v, np.ndarray) for v in values):
            return _one(function, map(_whole, values) if scalar else values)
        columns = np.broadcast_arrays(*values)
        if not scalar:
            return np.real(np.broadcast_to(function(*columns), columns[0].shape))
        rows = zip(*(column.ravel().tolist() for column in columns), strict=True)
        flat = [_one(function, map(_whole, row)) for row in rows]
    return np.asarray(flat, dtype=np.float64).reshape(columns[0].shape)


def _one(function: Callable[..., Any], values: Iterable[Any]) -> float:
    try:
        return float(np.real(function(*values)))
    except (ZeroDivisionError, OverflowError):
        return math.nan


def _whole(value: Any) -> Any:
    """Make an int of a float without a fraction: a sum needs a whole number of terms."""
    return int(value) if float(value).is_integer() else value


@functools.lru_cache(maxsize=1024)
def _compiled(expression: Expr, names: tuple[str, ...]) -> tuple[Callable[..., Any], bool]:
    """Return the generated function, and whether it takes one number at a time."""
    import sympy

    sums = expression.atoms(sympy.Sum)
    finite = expression.xreplace({s: _cut(s) for s in sums}) if sums else expression
    # Python counts the terms of a sum, and takes no NumPy float for that.
    down, up = (math.floor, math.ceil) if sums else (np.floor, np.ceil)
    variables = [sympy.Symbol(_spelled(name)) for name in names]
    function = sympy.lambdify(
        variables,
        finite,
        modules=[{"round_down": down, "round_up": up}, "scipy", "numpy"],
        printer=_printer(),
    )
    return function, bool(sums)


def _spelled(name: str) -> str:
    """Spell a symbol in generated code: long-rag is no name there."""
    return "v_" + re.sub(r"\W", lambda found: f"_{ord(found[0])}_", name)


def _printer() -> Any:
    from sympy.printing.numpy import SciPyPrinter

    class Printer(SciPyPrinter):  # type: ignore[misc]
        """Spell symbols safely (renaming them in the expression would be slow), and
        roundings too.
        """

        # A law has a coefficient called floor, which would hide the function.

        def _print_Symbol(self, symbol: Symbol) -> str:
            return (
                _spelled(str(symbol)) if symbol.is_positive else str(super()._print_Symbol(symbol))
            )

        def _print_floor(self, rounded: Expr) -> str:
            return f"round_down({self._print(rounded.args[0])})"

        def _print_ceiling(self, rounded: Expr) -> str:
            return f"round_up({self._print(rounded.args[0])})"

        def _print_binomial(self, chosen: Expr) -> str:
            # sympy writes a ratio of Gamma functions, which overflows beyond 170.
            return f"binom({', '.join(map(self._print, chosen.args))})"

    return Printer({"fully_qualified_modules": False, "inline": True})


def _cut(total: Any) -> Any:
    """Make a sum to infinity a finite one."""
    import sympy

    index, first, last = total.limits[0]
    if last != sympy.oo:
        return total
    return sympy.Sum(total.function, (index, first, first + _TERMS))


@functools.lru_cache(maxsize=512)
def differentiate(expression: Expr, variable: Symbol) -> Expr:
    """Differentiate, and tidy the result."""
    import sympy

    return _tidy(sympy.diff(expression, variable))


@functools.lru_cache(maxsize=512)
def subtract(expression: Expr, variable: Symbol, after: Expr) -> Expr:
    """Subtract an expression from itself at another place."""
    return _tidy(expression.xreplace({variable: after}) - expression)


def _tidy(expression: Expr) -> Expr:
    """Bring a rational function over one denominator, in factors; leave the rest alone."""
    import sympy

    corners = (sympy.Max, sympy.Min, sympy.floor, sympy.ceiling, sympy.Sum)
    plain = not expression.has(*corners) and expression.is_rational_function()
    return sympy.factor(expression) if plain else expression
