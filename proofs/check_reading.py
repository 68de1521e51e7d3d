"""Read certificates: strict JSON, rationals, laws of iteration time. Standard library only.

Whatever is not exactly as described is refused with the reason; nothing is repaired or guessed.
"""

from __future__ import annotations

import hashlib
import json
import re
from bisect import bisect_left
from collections.abc import Callable, Iterable
from fractions import Fraction
from itertools import pairwise
from math import gcd
from typing import Any, NoReturn

SECONDS = ("base", "per_token", "floor", "floor_per_token", "per_tile")
ATTENTION = ("per_kv", "per_kv_mixed", "per_work")
LAW = ("form", *SECONDS, "tile", "tokens", "seconds", *ATTENTION)
MOST = 200_000  # tokens of a batch, configurations of a knapsack: more would take minutes
ZERO = Fraction(0)
Keys = Iterable[str] | None


class Rejected(Exception):
    """The certificate does not prove its claim; says why."""


class Malformed(Rejected):
    """The text is not even a JSON object."""


def require(claim: bool, reason: str) -> None:
    """Stop unless the claim holds."""
    if not claim:
        raise Rejected(reason)


def rational(value: Any, what: str) -> Fraction:
    """Read ``"p/q"``: lowest terms, positive denominator, at least 0."""
    require(isinstance(value, str), f"{what}: expected a string 'p/q', got {value!r}")
    match = re.fullmatch(r"(-?[0-9]+)/([0-9]+)", value, re.ASCII)
    p, q = map(int, match.groups()) if match else (0, 0)
    require(match is not None, f"{what}: {value!r} is not a rational 'p/q'")
    require(q != 0, f"{what}: zero denominator in {value!r}")
    require(gcd(p, q) == 1 and f"{p}/{q}" == value, f"{what}: {value!r} is not in lowest terms")
    require(p >= 0, f"{what}: {value} is negative")
    return Fraction(p, q)


def whole(value: Any, what: str, least: int = 0) -> int:
    """Read a whole number."""
    require(type(value) is int, f"{what}: expected a whole number, got {value!r}")
    require(value >= least, f"{what}: {value} is below {least}")
    return int(value)


def table(value: Any, what: str, keys: Keys = None, may: str = "") -> dict[str, Any]:
    """Read an object; if ``keys`` are given, with exactly these (and perhaps ``may``)."""
    require(isinstance(value, dict), f"{what}: expected an object, got {value!r:.40}")
    for key in keys or ():
        require(key in value, f"{what}: {key!r} is missing")
    for key in value:
        require(keys is None or key in keys or key == may, f"{what}: unknown {key!r}")
    return dict(value)


def items(value: Any, what: str) -> list[Any]:
    """Read a list."""
    require(isinstance(value, list), f"{what}: expected a list, got {value!r:.40}")
    return list(value)


def rationals(value: Any, what: str, keys: Keys = None) -> dict[str, Fraction]:
    """Read an object of rationals."""
    return {k: rational(v, f"{what}, {k}") for k, v in table(value, what, keys).items()}


def no_float(text: str) -> NoReturn:
    """Refuse a number that is not whole."""
    raise Rejected(f"number {text} is a float: write a rational 'p/q' as a string")


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse an object that names a key twice."""
    require(len(dict(pairs)) == len(pairs), "an object names a key twice")
    return dict(pairs)


def canonical(value: Any) -> str:
    """Return the SHA-256 of the canonical JSON text."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return "sha256:" + hashlib.sha256(text.encode("ascii")).hexdigest()


def token_time(law: dict[str, Any], what: str) -> Callable[[int], Fraction]:
    """Return the time of a batch by its tokens, attention aside."""
    base, slope, floor, rise, per_tile = (rational(law[k], f"{what}, {k}") for k in SECONDS)
    tile, form = whole(law["tile"], f"{what}, tile", 1), law["form"]
    grid = [whole(n, f"{what}, tokens", 1) for n in items(law["tokens"], what)]
    times = [rational(t, f"{what}, seconds") for t in items(law["seconds"], what)]

    def interpolate(n: int) -> Fraction:
        if n <= grid[0]:
            return times[0]
        i = min(bisect_left(grid, n), len(grid) - 1)
        return times[i - 1] + (times[i] - times[i - 1]) * (n - grid[i - 1]) / (
            grid[i] - grid[i - 1]
        )

    def compute(n: int) -> Fraction:
        return base + slope * (-(-n // tile) * tile)

    if form == "table":
        require(len(grid) == len(times) > 1 and grid == sorted(set(grid)), f"{what}: bad table")
        require(times == sorted(times), f"{what}: more tokens take less time in the table")
        return interpolate
    if form == "tiled":
        return lambda n: base + per_tile * -(-n // tile) + slope * n
    require(form in ("affine", "roofline"), f"{what}: unknown form {form!r}")
    return compute if form == "affine" else lambda n: max(compute(n), floor + rise * n)


def token_times(raw: Any, budget: int, what: str) -> list[Fraction]:
    """Tabulate the time of 0, ..., budget tokens; more tokens never take less."""
    require(budget <= MOST, f"{what}: more than {MOST} tokens")
    curve = token_time(table(raw, what, LAW), what)
    times = [ZERO, *(curve(n) for n in range(1, budget + 1))]
    require(times[1] > 0, f"{what}: a batch of one token takes no time")
    for n, (before, after) in enumerate(pairwise(times), 1):
        require(before <= after, f"{what}: {n} tokens take less time than {n - 1}")
    return times


def attention(raw: dict[str, Any], what: str) -> list[Fraction]:
    """Read what a KV token and a unit of prefill work take."""
    return [rational(raw[k], f"{what}, {k}") for k in ATTENTION]


def parse(text: str) -> dict[str, Any]:
    """Read a JSON object without floats and without keys named twice."""
    read: Any = {"parse_float": no_float, "parse_constant": no_float, "object_pairs_hook": once}
    try:
        value = json.loads(text, **read)
    except (ValueError, RecursionError) as error:
        raise Malformed(f"not JSON: {error}") from error
    return table(value, "certificate")
