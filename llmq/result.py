"""What every result says about itself: its kind, assumptions, source and provenance.

A number that is proved, a bound, a formula that approximates, a simulation and a fit look alike
on a screen. :class:`Kind` keeps them apart; :func:`to_json` and :func:`from_json` carry any frozen
dataclass of the library to a file and back without loss.
"""

from __future__ import annotations

import dataclasses
import enum
import inspect
import json
import math
import platform
import types
import typing
from collections.abc import Mapping
from fractions import Fraction

import numpy as np

from llmq._version import __version__
from llmq.errors import InputError, shown

__all__ = ["Estimate", "Kind", "Provenance", "from_json", "provenance", "to_json"]


class Kind(enum.StrEnum):
    """How a number may be used."""

    EXACT = "exact"
    OUTER_BOUND = "outer_bound"
    INNER_BOUND = "inner_bound"
    ASYMPTOTIC = "asymptotic"
    APPROXIMATION = "approximation"
    SIMULATED = "simulated"
    FITTED = "fitted"

    @classmethod
    def _missing_(cls, value: object) -> Kind:
        words = " or ".join(repr(one.value) for one in cls)
        raise InputError(f"kind must be {words}, got {shown(value)}", value=value)


@dataclasses.dataclass(frozen=True, slots=True)
class Provenance:
    """How a result can be made again.

    Parameters
    ----------
    version : str
        llmq's version.
    arguments : mapping of str to str
        What the call was given.
    entropy : str
        Seed entropy, empty where nothing random was used.
    platform : str
        Python and NumPy versions: floats may differ in the last digit between them.
    """

    version: str
    arguments: Mapping[str, str]
    entropy: str = ""
    platform: str = ""


def provenance(entropy: object = "", **arguments: object) -> Provenance:
    """Record the arguments of a call.

    Parameters
    ----------
    entropy : object
        Seed entropy of the call.
    **arguments
        Kept as text.

    Returns
    -------
    Provenance
        With this machine's versions.

    Examples
    --------
    >>> provenance(load=0.5).arguments
    {'load': '0.5'}
    """
    return Provenance(
        version=__version__,
        arguments={name: str(value) for name, value in arguments.items()},
        entropy=str(entropy),
        platform=f"Python {platform.python_version()}, NumPy {np.__version__}",
    )


@dataclasses.dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its interval and sample size.

    Parameters
    ----------
    mean : float
        The estimate.
    half_width : float
        Half the width of the interval; infinite where the sample is too small for one.
    n : int
        Independent units behind the interval (replications or batches).
    method : str
        How the interval was made.
    observations : int
        Observations behind the estimate (requests).

    Examples
    --------
    >>> Estimate(0.25, 0.01, n=30, method="replications").low
    0.24
    """

    mean: float
    half_width: float
    n: int
    method: str = ""
    observations: int = 0

    @property
    def low(self) -> float:
        """Lower end of the interval."""
        return self.mean - self.half_width

    @property
    def high(self) -> float:
        """Upper end of the interval."""
        return self.mean + self.half_width

    @property
    def lacking(self) -> str:
        """Why there is no interval, where there is none."""
        _, _, needed = self.method.partition("; an interval takes ")
        return f"that takes {needed}" if needed else f"n = {self.n}"

    def __str__(self) -> str:
        return f"{self.mean:.4g} ± {self.half_width:.2g} (n = {self.n})"


def to_json(value: object, *, indent: int | None = None) -> str:
    """Write a dataclass of the library as JSON.

    Parameters
    ----------
    value : dataclass instance
        May hold numbers, strings, arrays, Fractions, enums, mappings, sequences, dataclasses.
    indent : int, optional
        As in :func:`json.dumps`.

    Returns
    -------
    str
        Rationals as ``"p/q"``, infinities as ``"inf"``; keys in field order.

    Examples
    --------
    >>> to_json(Estimate(1.0, 0.5, n=3))
    '{"mean": 1.0, "half_width": 0.5, "n": 3, "method": "", "observations": 0}'
    """
    return json.dumps(_encode(value), indent=indent, ensure_ascii=False, allow_nan=False)


def _encode(value: object) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _encode(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, Fraction):
        return f"{value.numerator}/{value.denominator}"
    if isinstance(value, np.ndarray | np.generic):
        return _encode(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {str(key): _encode(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_encode(item) for item in value]
    if value is None or isinstance(value, str | int):
        return value
    raise InputError(f"cannot write a {type(value).__name__} as JSON", value=value)


_T = typing.TypeVar("_T")


def from_json(kind: type[_T], text: str) -> _T:
    """Read back what :func:`to_json` wrote.

    Parameters
    ----------
    kind : type
        The dataclass that was written.
    text : str
        JSON text.

    Returns
    -------
    object
        An equal instance of ``kind``.

    Raises
    ------
    InputError
        If the text is not JSON, a field is missing or unknown, or a field holds one of several
        types that share no more than a protocol (the arrival process of a workload): such a value
        is kept in the formats of ``llmq.io``.

    Examples
    --------
    >>> estimate = Estimate(1.0, 0.5, n=3)
    >>> from_json(Estimate, to_json(estimate)) == estimate
    True
    """
    try:
        raw = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"not JSON: {error}", value=text) from error
    return typing.cast("_T", _decode(kind, raw))


def _decode(kind: object, raw: object) -> object:
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return None if raw is None else _decode_union(args, raw)
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return _decode_dataclass(kind, raw)
    if isinstance(kind, type) and issubclass(kind, float | Fraction | enum.Enum):
        return typing.cast("typing.Callable[[object], object]", kind)(raw)
    if origin is np.ndarray:
        # The declared type, or an infinity (a string in JSON) would make an array of strings.
        return np.asarray(raw, dtype=typing.get_args(args[1])[0])
    # A value that is of the kind already is read: a name where anything hashable may stand.
    abstract = isinstance(kind, type) and inspect.isabstract(kind) and not isinstance(raw, kind)
    if getattr(kind, "_is_protocol", False) or abstract:
        raise InputError(f"cannot read {kind} from JSON: many types could have been meant")
    if origin is tuple and isinstance(raw, list):
        inner = args if args and args[-1] is not Ellipsis else (args[0],) * len(raw)
        return tuple(_decode(k, item) for k, item in zip(inner, raw, strict=True))
    if isinstance(origin, type) and issubclass(origin, Mapping) and isinstance(raw, dict):
        return {key: _decode(args[1], item) for key, item in raw.items()}
    return raw


def _decode_union(args: tuple[object, ...], raw: object) -> object:
    for arg in args:
        if isinstance(arg, type) and dataclasses.is_dataclass(arg):
            names = {f.name for f in dataclasses.fields(arg)}
            if isinstance(raw, dict) and set(raw) <= names:
                return _decode(arg, raw)
    plain = [a for a in args if a is not type(None) and not dataclasses.is_dataclass(a)]
    return _decode(plain[0], raw) if len(plain) == 1 else raw


def _decode_dataclass(kind: type, raw: object) -> object:
    if not isinstance(raw, dict):
        raise InputError(f"expected an object for {kind.__name__}, found {raw!r}", value=raw)
    hints = typing.get_type_hints(kind)
    names = [f.name for f in dataclasses.fields(kind)]
    if unknown := sorted(set(raw) - set(names)):
        raise InputError(f"{kind.__name__} has no field {unknown[0]!r}", value=unknown[0])
    try:
        return kind(**{name: _decode(hints[name], raw[name]) for name in names if name in raw})
    except TypeError as error:
        raise InputError(f"{kind.__name__}: {error}", value=raw) from error
