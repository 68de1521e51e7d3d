"""What an annotation lets pass: each becomes a function that takes a value or refuses it."""

from __future__ import annotations

import builtins
import inspect
import math
import re
import sys
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from fractions import Fraction
from numbers import Rational
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from llmq._input.refusal import Refused, remedy
from llmq.errors import nearest, shown

__all__ = ["Numbers", "taker"]

Take: TypeAlias = Callable[[object], object]
# A list or array of numbers: ArrayLike alone lets names pass.
Numbers: TypeAlias = typing.Annotated[npt.ArrayLike, "numbers"]

# What NumPy's whole numbers hold: more would overflow somewhere in the middle of a computation.
_INT64 = 2**63 - 1
# Where names are looked up that an annotation uses and its module imports for type checkers only.
_ARRAY_LIKE = set(typing.get_args(npt.ArrayLike))
_HOMES = ("llmq", "pathlib", "collections", "fractions", "matplotlib", "sympy")


def taker(parameter: inspect.Parameter, function: Any, kind: type | None, record: bool) -> Take:
    """Return what takes the values of a parameter.

    Examples
    --------
    >>> whole = inspect.Parameter("n", inspect.Parameter.KEYWORD_ONLY, annotation=int)
    >>> taker(whole, len, None, False)(np.int64(3))
    3
    """
    hint = parameter.annotation
    if hint is inspect.Parameter.empty or hint == "RngLike":  # llmq.rng looks at seeds
        return _anything
    modules = [function.__module__, *(base.__module__ for base in getattr(kind, "__mro__", ()))]
    take = _Reader(_Names(modules), record).take(hint)
    if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
        return lambda values: tuple(take(value) for value in typing.cast("tuple[Any]", values))
    if parameter.kind is inspect.Parameter.VAR_KEYWORD:
        return lambda values: {
            key: _at(f"[{key!r}]", take, value)
            for key, value in typing.cast("dict[str, Any]", values).items()
        }
    return take


class _Names(dict[str, Any]):
    """Names of annotations; those for type checkers only are found in any loaded module."""

    def __init__(self, modules: Sequence[str]) -> None:
        super().__init__(np=np, npt=npt)
        self.modules = modules

    def __missing__(self, name: str) -> Any:
        for module in self.modules:
            if name in vars(sys.modules[module]):
                return vars(sys.modules[module])[name]
        if hasattr(builtins, name):
            raise KeyError(name)
        found = [
            vars(module)[name]
            for key, module in list(sys.modules.items())
            if key.partition(".")[0] in _HOMES and name in getattr(module, "__dict__", ())
        ]
        kinds = tuple({id(one): one for one in found if isinstance(one, type)}.values())
        # A class whose module is not loaded has no instances.
        return typing.Union[kinds] if kinds else (found or [type(name, (), {})])[0]  # noqa: UP007


class _Reader:
    """Turns annotations into takers."""

    def __init__(self, names: _Names, record: bool) -> None:
        self.names, self.record = names, record

    def take(self, hint: Any) -> Take:
        while isinstance(hint, str | typing.ForwardRef):
            hint = eval(hint if isinstance(hint, str) else hint.__forward_arg__, {}, self.names)
        origin, args = typing.get_origin(hint), typing.get_args(hint)
        if hint in (None, type(None)):
            return _instance(type(None), "None")
        if origin in (typing.Union, types.UnionType):
            # ArrayLike is itself a union, which melts into the one around it.
            like = _ARRAY_LIKE if set(args) >= _ARRAY_LIKE else set()
            return self._union([arg for arg in args if arg not in like], bool(like))
        if origin is typing.Literal:
            return _literal(args)
        if origin is np.ndarray or hint is np.ndarray:
            return _array(args)
        if origin is typing.Annotated:
            return _array((float,)) if hint == Numbers else self.take(args[0])
        if isinstance(hint, typing.TypeVar):
            return self._union(hint.__constraints__ or (Any,), False)
        plain: dict[Any, Take] = {
            bool: _truth,
            int: _whole(self.record),
            float: _number,
            str: _text,
            Fraction: _rational,
            Rational: _rational,
        }
        if hint in plain:
            return plain[hint]
        if origin is tuple:
            return self._tuple(args)
        if isinstance(origin, type) and issubclass(origin, Mapping):
            return self._mapping(args)
        if isinstance(origin, type) and issubclass(origin, Sequence | Set):
            return self._members(origin, args[0])
        return _class(origin or hint)

    def _union(self, args: Sequence[Any], array: bool) -> Take:
        takes = [self.take(arg) for arg in args] + [_array(())] * array

        def take(value: object) -> object:
            refused = []
            for one in takes:
                try:
                    return one(value)
                except Refused as no:
                    refused.append(no)
            # The alternative that went furthest knows best what is wrong.
            if (deep := max(refused, key=lambda no: len(no.where))).where:
                raise deep
            wants = list(dict.fromkeys(no.want for no in refused if no.want != "None"))
            remedy = next((no.remedy for no in refused if no.remedy), "")
            raise Refused(" or ".join(wants), value, remedy)

        return take

    def _mapping(self, args: tuple[Any, ...]) -> Take:
        key_of, value_of = (self.take(arg) for arg in args or (Any, Any))

        def take(value: object) -> object:
            if not isinstance(value, Mapping):
                raise Refused("a mapping (a dict)", value)
            found, same = {}, True
            for key, item in value.items():
                try:
                    name = key_of(key)
                except Refused as no:
                    raise Refused(no.want, no.value, no.remedy, " keys") from no
                found[name] = _at(f"[{shown(key, 40)}]", value_of, item)
                same = same and found[name] is item
            return value if same else found

        return take

    def _members(self, origin: type, arg: Any) -> Take:
        one = self.take(arg)

        def take(value: object) -> object:
            if isinstance(value, np.ndarray) and value.ndim and issubclass(origin, Sequence):
                value = value.tolist()
            if isinstance(value, str | bytes) or not isinstance(value, origin):
                hint = f": write [{shown(value, 40)}]" if isinstance(value, str) else ""
                raise Refused(
                    "a list or tuple" if issubclass(origin, Sequence) else "a set", value, hint
                )
            members = typing.cast("Iterable[object]", value)
            found = _each(one, members)
            same = all(a is b for a, b in zip(found, members, strict=True))
            return value if same else tuple(found)

        return take

    def _tuple(self, args: tuple[Any, ...]) -> Take:
        if not args:
            return _class(tuple)
        many = args[-1] is Ellipsis
        takes = [self.take(arg) for arg in args if arg is not Ellipsis]

        def take(value: object) -> object:
            if isinstance(value, np.ndarray) and value.ndim:
                value = value.tolist()
            if not isinstance(value, tuple | list):
                hint = f": write ({shown(value, 40)},)" if isinstance(value, str) and many else ""
                raise Refused("a tuple", value, hint)
            if many:
                found = tuple(_each(takes[0], value))
            elif len(value) != len(takes):
                raise Refused(f"a tuple of {len(takes)}", value)
            else:
                found = tuple(
                    _at(f"[{place}]", one, item)
                    for place, (one, item) in enumerate(zip(takes, value, strict=True))
                )
            same = type(value) is not list and all(
                a is b for a, b in zip(found, value, strict=True)
            )
            return value if same else found

        return take


def _each(take: Take, values: Iterable[object]) -> list[object]:
    return [_at(f"[{place}]", take, value) for place, value in enumerate(values)]


def _at(where: str, take: Take, value: object) -> object:
    try:
        return take(value)
    except Refused as no:
        raise Refused(no.want, no.value, no.remedy, where + no.where) from no


def _anything(value: object) -> object:
    return value


def _truth(value: object) -> object:
    if not isinstance(value, bool | np.bool_):
        raise Refused("True or False", value)
    return bool(value)


def _text(value: object) -> object:
    if not isinstance(value, str):
        raise Refused("a text", value)
    return value


def _whole(free: bool) -> Take:
    def take(value: object) -> object:
        if not _is_number(value):
            raise Refused("a whole number", value, _unquoted(value))
        real = typing.cast("float", value)
        if (isinstance(value, float | np.floating) and not math.isfinite(real)) or real % 1:
            raise Refused("a whole number", value)
        if abs(real) > _INT64 and not free:
            raise Refused("a whole number of at most 64 bits", value)
        return int(real)

    return take


def _number(value: object) -> object:
    if not _is_number(value):
        raise Refused("a number", value, _unquoted(value))
    try:
        float(typing.cast("float", value))
    except OverflowError:
        raise Refused("a number that fits a float (up to 1.8e308)", value) from None
    return value.item() if isinstance(value, np.generic) else value


def _rational(value: object) -> object:
    if not (isinstance(value, Rational) and _is_number(value)):
        raise Refused("a whole number or a Fraction", value, _unquoted(value))
    return value


def _is_number(value: object) -> bool:
    kinds = int | float | np.integer | np.floating | Rational
    return isinstance(value, kinds) and not isinstance(value, bool)


def _unquoted(value: object) -> str:
    if isinstance(value, str):
        try:
            return f": write {float(value):g} without quotes"
        except ValueError:
            return ""
    if isinstance(value, bool | np.bool_) or value is None:
        return ""
    return f": write float({shown(value, 40)})" if hasattr(value, "__float__") else ""


def _literal(words: tuple[Any, ...]) -> Take:
    def take(value: object) -> object:
        if not isinstance(value, str | int) or value not in words:
            near = nearest(value, map(str, words)) if isinstance(value, str) else ""
            near = near if "mean" in near else ""
            raise Refused(" or ".join(repr(word) for word in words), value, near)
        return value

    return take


def _array(args: tuple[Any, ...]) -> Take:
    # A declared array holds numbers (or truths); what is only "like" one may hold names, too.
    words = f"an array or list of numbers{'' if args else ' or names'}"
    truths = "bool" in repr(args)

    def fits(made: npt.NDArray[Any]) -> bool:
        if made.dtype.kind == "O":
            kinds = _is_number if args else lambda item: _is_number(item) or isinstance(item, str)
            return all(kinds(item) for item in made.ravel().tolist())
        return made.dtype.kind in "iuf" + "b" * truths + "UST" * (not args)

    def take(value: object) -> object:
        if value is None or isinstance(value, Mapping | Set | bytes):
            raise Refused(words, value)
        try:
            made = np.asarray(value)
        except (ValueError, TypeError, OverflowError):
            raise Refused("an array: rows of one length", value) from None
        if not fits(made):
            raise Refused(words, value, _unquoted(value))
        return value

    return take


def _class(kind: Any) -> Take:
    if kind is Any or kind is object or not isinstance(kind, type):
        return _anything
    if kind.__name__ == "Callable":
        return _callable
    if getattr(kind, "_is_protocol", False):
        return _protocol(kind)
    article = "an" if re.match("[AEIO]|SLO", kind.__name__) else "a"
    return _instance(kind, f"{article} {kind.__name__}")


def _callable(value: object) -> object:
    if not callable(value):
        raise Refused("a function", value)
    return value


def _instance(kind: type, want: str) -> Take:
    def take(value: object) -> object:
        if not isinstance(value, kind):
            raise Refused(want, value, remedy(kind, value))
        return value

    return take


def _protocol(kind: type) -> Take:
    bases = [base for base in kind.__mro__ if getattr(base, "_is_protocol", False)]
    names = {name for base in bases for name in (*vars(base), *inspect.get_annotations(base))}
    needed = {name for name in names if not name.startswith("_")}
    called = "__call__" in vars(kind)

    def take(value: object) -> object:
        fits = callable(value) if called else all(hasattr(value, name) for name in needed)
        if fits and isinstance(value, type) and not called:
            made = f": write {value.__name__}(...), not the class itself"
            raise Refused(f"a {kind.__name__}", value, made)
        if not fits:
            raise Refused(f"a {kind.__name__}", value, remedy(kind, value))
        return value

    return take
