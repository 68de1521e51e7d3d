r"""A formula: an expression with named positive symbols, its LaTeX and its numeric twin.

Every symbol carries the name that the numeric code gives the same quantity (``token_budget``,
``per_kv``, ``rate_chat`` for the rate of the class "chat"); ``NOTATION`` in
:mod:`llmq.theory.symbolic._names` has its letter in the theory and what it means. So a formula is
called with the arguments of the library and printed in the letters of the papers.

Values are exact where they can be: an int, a Fraction and a float such as 0.1 (read as 1/10) go in
as rationals with :meth:`Formula.subs` and :meth:`Formula.exact`; calling a formula computes in
floats, on arrays too.

Not covered: derivatives through a maximum, a floor or a number of terms. They are refused with a
sentence that names the way round (the derivative of one facet; a difference of one unit).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from llmq._input.checked import checked
from llmq.errors import InputError, nearest
from llmq.result import Kind
from llmq.theory.latency._base import check_stable
from llmq.theory.symbolic._names import letter, symbols, typeset
from llmq.theory.symbolic._values import differentiate, evaluate, exactly, floating, subtract

if TYPE_CHECKING:
    from sympy import Expr, Symbol

__all__ = ["Formula"]


@checked(record=True)
@dataclass(frozen=True, slots=True, repr=False)
class Formula:
    """An expression that can be printed, differentiated, and evaluated.

    Parameters
    ----------
    name : str
        What it is.
    letter : str
        Its letter, LaTeX; ``"0"`` for an equation whose root is meant.
    expression : sympy.Expr
        The right side.
    arguments : tuple of str
        Names that may be given: those of its symbols, and those of the family it belongs to.
    kind : Kind
        How its values may be used.
    assumptions : tuple of str
        What it rests on.
    source : str
        Where it is from.
    load : sympy.Expr or None
        Its values mean something where this is below 1; None for everywhere.

    Examples
    --------
    >>> from llmq.theory.symbolic import law
    >>> wait = law("mg1").wait
    >>> wait.expression
    rate*second_moment/(-2*mean*rate + 2)
    >>> wait(rate=0.5, mean=1.0, second_moment=2.0)
    1.0
    >>> wait.exact(rate=Fraction(1, 2), mean=1, second_moment=2)
    Fraction(1, 1)
    """

    name: str
    letter: str
    expression: Expr
    arguments: tuple[str, ...]
    kind: Kind
    assumptions: tuple[str, ...] = ()
    source: str = ""
    load: Expr | None = None

    @property
    def symbols(self) -> dict[str, Symbol]:
        """Symbols of the expression by name, in alphabetical order."""
        found = {str(s): s for s in self.expression.free_symbols}
        return {name: found[name] for name in sorted(found)}

    @checked
    def latex(self, *, left: bool = True) -> str:
        r"""Write the formula in the letters of the theory.

        Parameters
        ----------
        left : bool
            Whether the letter and an equals sign stand in front.

        Returns
        -------
        str
            LaTeX without dollars; matplotlib can draw it.

        Examples
        --------
        >>> from llmq.theory.symbolic import law
        >>> print(law("mg1").utilisation.latex())
        \rho = E[S] \lambda
        """
        import sympy

        known = self.expression.atoms(sympy.Symbol)
        names = {s: letter(str(s)) for s in known if str(s) in self.arguments}
        right = typeset(self.expression, names)
        return f"{self.letter} = {right}" if left else right

    @checked
    def subs(self, **values: Any) -> Formula:
        """Put values, or other expressions, in the place of symbols.

        Parameters
        ----------
        **values
            Numbers (exact: a float such as 0.1 is 1/10), sympy expressions or formulas, by name.

        Returns
        -------
        Formula
            With the symbols that are left.

        Raises
        ------
        InputError
            An unknown name, or a value that is no number >= 0.

        Examples
        --------
        >>> from llmq.theory.symbolic import law
        >>> law("mg1").wait.subs(rate=Fraction(1, 3), mean=1).expression
        second_moment/4
        """
        self._check_names(values)
        chosen = {symbols(name)[0]: exactly(name, value) for name, value in values.items()}
        new = {str(s) for value in chosen.values() for s in value.free_symbols}
        extra = tuple(sorted(new - set(self.arguments)))
        return replace(
            self,
            expression=self.expression.xreplace(chosen).doit(),
            arguments=self.arguments + extra,
            load=None if self.load is None else self.load.xreplace(chosen),
        )

    @checked
    def exact(self, **values: Any) -> Fraction:
        """Evaluate in rationals.

        Parameters
        ----------
        **values
            A number for every symbol, by name; a float such as 0.1 is 1/10.

        Returns
        -------
        fractions.Fraction
            The exact value.

        Raises
        ------
        InputError
            An unknown or missing name, or a value that is not rational (call the formula).
        UnstableError
            The load is 1 or more.
        """
        self._check_complete(values)
        done = self.subs(**values)
        if not done.expression.is_Rational:
            raise InputError(
                f"the {self.name} has no rational value here ({done.expression}): call the "
                "formula for a float",
                value=str(done.expression),
            )
        if done.load is not None:
            check_stable(f"the {self.name}", float(done.load), "lower the rates")
        return Fraction(int(done.expression.p), int(done.expression.q))

    def lambdify(self) -> Callable[..., Any]:
        """Return the numeric twin: a function of the symbols, by keyword.

        Returns
        -------
        callable
            Takes floats or arrays that broadcast, returns a float or an array; values at a load
            of 1 or more are an UnstableError, or nan in an array.

        Examples
        --------
        >>> from llmq.theory.symbolic import law
        >>> stay = law("decode_occupancy").sojourn.lambdify()
        >>> stay(rate=[1.0, 2.0], mean_output=200, base=0.012, per_token=0.0005).round(9).tolist()
        [2.777777778, 3.125]
        """
        return self.__call__

    def __call__(self, **values: Any) -> Any:
        """Evaluate in floats.

        Parameters
        ----------
        **values
            A number or an array for every symbol, by name.

        Returns
        -------
        float or ndarray
            An array where an argument is one.

        Raises
        ------
        InputError
            An unknown or missing name, or a value that is no number >= 0.
        UnstableError
            The load is 1 or more.
        """
        self._check_names(values)
        self._check_complete(values)
        given = {name: floating(name, value) for name, value in values.items()}
        load = 0.0 if self.load is None else evaluate(self.load, given)
        result = evaluate(self.expression, given)
        if np.ndim(result) or np.ndim(load):
            return np.where(np.less(load, 1), result, np.nan)
        if self.load is not None:
            check_stable(f"the {self.name}", float(load), "lower the rates")
        if not math.isfinite(result):
            raise InputError(
                f"the {self.name} has no value here: it divides by a value of 0, or its terms "
                "exceed what floats can hold (try exact, or the numeric law)",
                value=values,
            )
        return float(result)

    @checked
    def derivative(self, name: str) -> Formula:
        """Differentiate in one symbol.

        Parameters
        ----------
        name : str
            The symbol.

        Returns
        -------
        Formula
            The derivative.

        Raises
        ------
        InputError
            An unknown name, or a symbol inside a maximum, a floor or a number of terms.

        Examples
        --------
        >>> from llmq.theory.symbolic import law
        >>> law("wait", classes=("chat",)).interval.derivative("d0").exact(
        ...     rate_chat=8, prompt_chat=100, output_chat=50, d1=1e-7)
        Fraction(10000, 9949)
        """
        (variable,) = self._variable(name)
        self._check_smooth(name, variable)
        return replace(
            self,
            name=f"derivative of the {self.name} in {name}",
            letter=rf"\frac{{\partial {self.letter}}}{{\partial {letter(name)}}}",
            expression=differentiate(self.expression, variable),
        )

    @checked
    def difference(self, name: str, by: Any = 1) -> Formula:
        """Say what more of one quantity changes.

        Parameters
        ----------
        name : str
            The symbol that grows.
        by : int, Fraction or str
            By how much; a name stands for its symbol (``"kv_block"``).

        Returns
        -------
        Formula
            The value after, minus the value before: exact, not a derivative.

        Raises
        ------
        InputError
            An unknown name.

        Examples
        --------
        >>> from llmq.theory.symbolic import law
        >>> law("erlang_c").wait.difference("servers")(servers=11, load=10.0)
        -0.457424092540
        """
        (variable,) = self._variable(name)
        step = self._variable(by)[0] if isinstance(by, str) else exactly(name, by)
        return replace(
            self,
            name=f"change of the {self.name} with {name}",
            letter=rf"\Delta_{{{letter(name)}}} {self.letter}",
            expression=subtract(self.expression, variable, variable + step),
        )

    def _variable(self, name: str) -> tuple[Symbol, ...]:
        self._check_names((name,))
        return symbols(name)

    def _check_smooth(self, name: str, variable: Symbol) -> None:
        import sympy

        corners = self.expression.atoms(sympy.Max, sympy.Min, sympy.floor, sympy.ceiling)
        if any(variable in corner.free_symbols for corner in corners):
            raise InputError(
                f"the {self.name} has corners in {name} (a maximum or a rounding): differentiate "
                "one of its facets, or use difference() for one unit more",
                value=name,
            )
        sums = self.expression.atoms(sympy.Sum)
        if any(variable in bound.free_symbols for s in sums for bound in s.limits[0][1:]):
            raise InputError(
                f"{name} counts the terms of the {self.name}: use difference() for one unit more",
                value=name,
            )

    def _check_names(self, names: Iterable[str]) -> None:
        for name in names:
            if name not in self.arguments:
                # A class alone means its rate.
                rate = f"rate_{name}"
                known = [rate] if rate in self.arguments else self.arguments
                raise InputError(
                    f"the {self.name} has no {name!r}{nearest(str(name), known)}", value=name
                )

    def _check_complete(self, values: Mapping[str, Any]) -> None:
        needed = {
            str(s) for e in (self.expression, self.load) if e is not None for s in e.free_symbols
        }
        if missing := sorted(needed - set(values)):
            raise InputError(
                f"the {self.name} needs {', '.join(missing)} as well", value=tuple(missing)
            )

    def _repr_latex_(self) -> str:
        return f"$\\displaystyle {self.latex()}$"

    def __repr__(self) -> str:
        return f"Formula({self.name} = {self.expression})"
