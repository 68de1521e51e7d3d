"""Read certificates: strict JSON, rationals, laws of iteration time. Standard library only.

Whatever is not exactly as described is refused with the reason; nothing is repaired or guessed.

A law is a curve of seconds over whole numbers of tokens. A straight line that does not fall lies
below it on a range of batch sizes if it does so at the ends and at a few *bends*: no claim over all
batches needs to try them one by one (:meth:`Law.bends`). Every loop is counted, and
refused beyond ``MOST`` steps; numbers have at most ``DIGITS`` digits.
"""

from __future__ import annotations

import hashlib
import json
import re
from bisect import bisect_left
from collections.abc import Iterable
from fractions import Fraction
from math import ceil, floor, gcd
from typing import Any, NoReturn

SECONDS = ("base", "per_token", "floor", "floor_per_token", "per_tile")
ATTENTION = ("per_kv", "per_kv_mixed", "per_work")
LAW = ("form", *SECONDS, "tile", "tokens", "seconds", *ATTENTION)
MOST = 200_000  # steps of a loop, configurations of a knapsack: more would take minutes
DIGITS = 4000  # of a whole number
LARGEST = 10**DIGITS
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
    require(isinstance(value, str), f"{what}: expected a string 'p/q', got {value!r:.40}")
    require(len(value) <= 2 * DIGITS + 2, f"{what}: more than {DIGITS} digits")
    known = re.fullmatch(r"-?[0-9]+/[0-9]+", value, re.ASCII) is not None
    require(known, f"{what}: {value!r} is not a rational 'p/q'")
    p, q = map(int, value.split("/"))
    require(q != 0, f"{what}: zero denominator in {value!r}")
    require(gcd(p, q) == 1 and f"{p}/{q}" == value, f"{what}: {value!r} is not in lowest terms")
    require(p >= 0, f"{what}: {value} is negative")
    return Fraction(p, q)


def whole(value: Any, what: str, least: int = 0) -> int:
    """Read a whole number."""
    require(type(value) is int, f"{what}: expected a whole number, got {value!r:.40}")
    require(abs(value) < LARGEST, f"{what}: more than {DIGITS} digits")
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


class Law:
    """Seconds of a batch by its tokens, attention aside.

    All numbers are at least 0 and a table ascends, so more tokens never take less.
    """

    def __init__(self, law: dict[str, Any], what: str) -> None:
        read = {k: rational(law[k], f"{what}, {k}") for k in SECONDS}
        self.base, self.slope, self.per_tile = read["base"], read["per_token"], read["per_tile"]
        self.floor, self.rise = read["floor"], read["floor_per_token"]
        self.tile, self.form = whole(law["tile"], f"{what}, tile", 1), law["form"]
        self.grid = [whole(n, f"{what}, tokens", 1) for n in items(law["tokens"], what)]
        self.seconds = [rational(t, f"{what}, seconds") for t in items(law["seconds"], what)]
        known = self.form in ("affine", "roofline", "tiled", "table")
        require(known, f"{what}: unknown form {self.form!r:.40}")
        if self.form == "table":
            good = len(self.grid) == len(self.seconds) > 1 and self.grid == sorted({*self.grid})
            require(good, f"{what}: bad table")
            ascends = self.seconds == sorted(self.seconds)
            require(ascends, f"{what}: more tokens take less time in the table")

    def __call__(self, n: int) -> Fraction:
        """Seconds of ``n >= 1`` tokens."""
        if self.form == "table":
            return self.interpolate(n)
        tiles = -(-n // self.tile)
        if self.form == "tiled":
            return self.base + self.per_tile * tiles + self.slope * n
        compute = self.base + self.slope * (tiles * self.tile)
        return compute if self.form == "affine" else max(compute, self.floor + self.rise * n)

    def interpolate(self, n: int) -> Fraction:
        """Seconds by the table; straight on beyond its end."""
        grid, times = self.grid, self.seconds
        if n <= grid[0]:
            return times[0]
        i = min(bisect_left(grid, n), len(grid) - 1)
        slope = (times[i] - times[i - 1]) / (grid[i] - grid[i - 1])
        return times[i - 1] + slope * (n - grid[i - 1])

    def is_free(self, budget: int) -> bool:
        """Say whether no batch of any size has less time per token than one of a tile."""
        return self.form in ("affine", "tiled") and self.base == 0 and budget >= self.tile

    def bends(self, low: int, high: int) -> list[int]:
        """Batch sizes from low to high where a line that does not fall is above the law, if it is.

        Law minus line is smallest at ``low`` if the law rises faster than the line within tiles,
        and otherwise at the right end of a tile or at ``high``: over the right ends it is straight.
        The parts of a roofline are straight over the right ends outside of the tiles where they
        cross; there it is smallest at a crossing or at a right end too.
        """
        if low > high:
            return []
        found = {low, high}
        if self.form == "table":
            inside = slice(bisect_left(self.grid, low), bisect_left(self.grid, high))
            return sorted(found | set(self.grid[inside]))
        first, last = -(-low // self.tile), -(-high // self.tile)
        tiles = {first, last - 1}
        if self.form == "roofline":
            mixed = self.crossings(first, last)
            found |= {n for j in mixed for n in self.crossing(j)}
            tiles |= {*mixed}
        found |= {j * self.tile for j in tiles}
        return sorted(n for n in found if low <= n <= high)

    def crossings(self, first: int, last: int) -> range:
        """Tiles of a roofline in which its parts cross, with one on either side."""
        step = (self.slope - self.rise) * self.tile
        # Compute minus floor at the right end of tile j is start + step j; at the left end more.
        start, more = self.base - self.floor, self.rise * (self.tile - 1)
        if step == 0:
            crossed = range(first, last + 1 if -more <= start <= 0 else first)
        else:
            one, two = sorted((-start / step, -(start + more) / step))
            crossed = range(max(first, floor(one)), min(last, ceil(two)) + 1)
        require(len(crossed) <= MOST, f"the parts of a roofline cross in {len(crossed):.3g} tiles")
        return crossed

    def crossing(self, tile: int) -> list[int]:
        """Tokens beside the point where the parts of a roofline cross in a tile."""
        if self.rise == 0:
            return []
        at = floor((self.base + self.slope * tile * self.tile - self.floor) / self.rise)
        inside = range((tile - 1) * self.tile + 1, tile * self.tile + 1)
        return [n for n in (at, at + 1) if n in inside]


def read_law(raw: Any, what: str) -> Law:
    """Read the time of a batch by its tokens; more tokens never take less."""
    law = Law(table(raw, what, LAW), what)
    require(law(1) > 0, f"{what}: a batch of one token takes no time")
    return law


def attention(raw: dict[str, Any], what: str) -> list[Fraction]:
    """Read what a KV token and a unit of prefill work take."""
    return [rational(raw[k], f"{what}, {k}") for k in ATTENTION]


def parse(text: str) -> dict[str, Any]:
    """Read a JSON object without floats and without keys named twice."""
    read: Any = {"parse_float": no_float, "parse_constant": no_float, "object_pairs_hook": once}
    try:
        value = json.loads(text, **read)
    except (ValueError, RecursionError) as error:
        raise Malformed(f"not JSON: {error}"[:200]) from error
    return table(value, "certificate")
