"""Columns of numbers: lists and arrays that come from outside, as float64 or int64."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from llmq.errors import InputError, shown

__all__ = ["floats", "wholes"]

Floats: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.int64]


def floats(name: str, value: Any, dimensions: int | None = None) -> Floats:
    """Return a column of floats.

    Examples
    --------
    >>> floats("arrival", [0, 0.5], 1)
    array([0. , 0.5])
    """
    try:
        found = np.array(value, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{name} must be numbers: {error}", field=name) from error
    _check_shape(name, value, found.ndim, dimensions)
    return found


def wholes(name: str, value: Any, dimensions: int | None = 1) -> Ints:
    """Return a column of whole numbers.

    Examples
    --------
    >>> wholes("klass", [0, 1.0])
    array([0, 1])
    """
    raw = np.asarray(value)
    number = floats(name, raw, dimensions)
    with np.errstate(invalid="ignore"):
        bad = ~(abs(number) < 2.0**63) | (number != np.floor(number))
    if bad.any() or raw.dtype.kind not in "iufO":
        first = number[bad].ravel()[0] if bad.any() else value
        raise InputError(
            f"{name} must be whole numbers of at most 64 bits, got {shown(first)}", field=name
        )
    return raw.astype(np.int64)


def _check_shape(name: str, value: object, found: int, dimensions: int | None) -> None:
    if dimensions is not None and found != dimensions:
        raise InputError(
            f"{name} must have {dimensions} dimension{'s' * (dimensions != 1)}, got {shown(value)}",
            field=name,
        )
