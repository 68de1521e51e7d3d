"""Every argument of a call is tested against its annotation before the body runs.

A Boolean is no number, a text is no number, a text is no list of texts. Whole floats and NumPy
numbers count as whole numbers; a Fraction stays as it is, so that exact results stay exact. NaN
and the infinities are floats: what cannot use them says so in its range. A name that is only
imported for type checkers is found in any loaded module of llmq.

Not covered: what two arguments must have in common; a missing or unknown keyword, which stays a
TypeError, as of any function.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar, overload

from llmq._input.annotations import taker
from llmq._input.refusal import Refused
from llmq.errors import InputError, shown

__all__ = ["checked"]

_F = TypeVar("_F", bound=Callable[..., Any])


@overload
def checked(function: _F) -> _F: ...
@overload
def checked(*, record: bool) -> Callable[[_F], _F]: ...
def checked(function: Any = None, *, record: bool = False) -> Any:
    """Test the arguments of a function or a constructor against their annotations.

    Examples
    --------
    >>> @checked
    ... def double(rate: float) -> float:
    ...     return 2 * rate
    >>> double("3")
    Traceback (most recent call last):
    llmq.errors.InputError: double: rate must be a number, got '3': write 3 without quotes
    """
    if function is None:
        return functools.partial(checked, record=record)
    if isinstance(function, type):
        kind: Any = function
        kind.__init__ = _wrapped(kind.__init__, kind.__name__, kind, record)
        return kind
    return _wrapped(function, function.__qualname__.rpartition("<locals>.")[2], None, record)


def _wrapped(function: Any, name: str, kind: type | None, record: bool) -> Any:
    signature = inspect.signature(function)
    takers: dict[str, Callable[[object], object]] = {}
    # Binding takes longer than all tests: arguments are looked up by their place instead.
    places = [
        p.name
        for p in signature.parameters.values()
        if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    plain = not any(
        p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD, p.POSITIONAL_ONLY)
        for p in signature.parameters.values()
    )

    def tested(argument: str, value: object) -> object:
        if argument not in takers:
            takers[argument] = taker(signature.parameters[argument], function, kind, record)
        try:
            return takers[argument](value)
        except Refused as no:
            raise InputError(
                f"{name}: {argument}{no.where} must be {no.want}, got {shown(no.value)}{no.remedy}",
                field=argument,
                value=no.value,
            ) from None

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if plain and len(args) <= len(places) and kwargs.keys() <= signature.parameters.keys():
            for argument, value in kwargs.items():
                kwargs[argument] = tested(argument, value)
            return function(*map(tested, places, args), **kwargs)
        bound = signature.bind(*args, **kwargs)
        for argument, value in bound.arguments.items():
            bound.arguments[argument] = tested(argument, value)
        return function(*bound.args, **bound.kwargs)

    return call
