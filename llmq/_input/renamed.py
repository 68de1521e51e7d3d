"""Arguments that have a new name: the old one is accepted, with a warning that says the new one."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

from llmq.errors import InputError

__all__ = ["renamed"]

_F = TypeVar("_F", bound=Callable[..., Any])


def renamed(**words: str) -> Callable[[_F], _F]:
    """Accept old keywords of a function: ``renamed(old="new")``.

    Examples
    --------
    >>> @renamed(most="maximum")
    ... def cut(x, *, maximum):
    ...     return min(x, maximum)
    >>> with warnings.catch_warnings(record=True) as said:
    ...     warnings.simplefilter("always")
    ...     cut(5, most=3)
    3
    >>> print(said[0].message)
    cut: most= is called maximum= now; the old name will go
    """

    def decorate(function: _F) -> _F:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            for old in words.keys() & kwargs.keys():
                new, value = words[old], kwargs.pop(old)
                if new in kwargs:
                    raise InputError(
                        f"{function.__name__}: {old}= is the old name of {new}=: give one of them",
                        field=new,
                        value=value,
                    )
                warnings.warn(
                    f"{function.__name__}: {old}= is called {new}= now; the old name will go",
                    DeprecationWarning,
                    stacklevel=2,
                )
                kwargs[new] = value
            return function(*args, **kwargs)

        return call  # type: ignore[return-value]

    return decorate
