r"""Pools of equal engines: which batches an iteration may hold, and prices over all of them.

``two_phase`` batches hold ``x`` prompt tokens and ``y`` decodes, ``1 <= x + y <= token_budget``,
and with slots ``y + [x > 0] <= slots``. For a total ``n`` a linear price is largest at ``(n, 0)``,
at ``(0, n)`` or, where the slots are fewer, with all slots but one for decodes; along each of these
lines it is straight, so the bends of the law are all that has to be tried
(:class:`proofs.check_reading.Law`).

``knapsack`` batches hold multiples of a step of each buffer, within rows of weights. They are
enumerated, and every step is counted.

A pool without batches is a link: it only takes time.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from math import floor, lcm
from typing import Any

from proofs.check_reading import (
    MOST,
    ZERO,
    Rejected,
    attention,
    items,
    rational,
    rationals,
    read_law,
    require,
    table,
    whole,
)


class Pool:
    """Equal engines that run batches, or a link that only takes time."""

    def __init__(self, name: str, raw: Any) -> None:
        self.name = what = f"pool {name}"
        self.raw = table(raw, what, ["engines", "law", "batches", "limits", "needs", "rules"])
        self.engines = whole(self.raw["engines"], f"{what}, engines", 1)
        limits = table(self.raw["limits"], f"{what}, limits")
        self.limits = {k: whole(c, f"{what}, limit {k}", 1) for k, c in limits.items()}
        self.buffers, self.kind = list[str](), "link"
        self.slots: int | None = None
        if self.raw["batches"] is None:
            require(self.raw["law"] is None and not limits, f"{what}: a link has no law or limit")
        else:
            self.read_batches(self.raw["batches"], f"{what}, batches")
            self.time = read_law(self.raw["law"], f"{what}, law")
            self.attention = attention(self.raw["law"], f"{what}, law")
        needs = table(self.raw["needs"], f"{what}, needs")
        self.needs = {j: self.read_need(n, f"{what}, needs of {j}") for j, n in needs.items()}

    def read_batches(self, raw: Any, what: str) -> None:
        """Read which batches an iteration may hold."""
        self.kind, self.rows = str(table(raw, what).get("kind")), []
        if self.kind == "two_phase":
            table(raw, what, ("kind", "token_budget", "slots"))
            self.buffers, self.steps = ["prefill", "decode"], [1, 1]
            self.slots = None if raw["slots"] is None else whole(raw["slots"], f"{what}, slots", 1)
        else:
            require(self.kind == "knapsack", f"{what}: unknown kind {self.kind!r:.40}")
            table(raw, what, ["kind", "token_budget", "buffers", "steps", "rows"])
            self.buffers = items(raw["buffers"], f"{what}, buffers")
            self.steps = [whole(s, f"{what}, steps", 1) for s in items(raw["steps"], what)]
            for row in items(raw["rows"], what):
                table(row, what, ("weights", "capacity"))
                weights = [whole(w, f"{what}, weights") for w in items(row["weights"], what)]
                require(len(weights) == len(self.buffers), f"{what}: one weight for each buffer")
                self.rows.append((weights, whole(row["capacity"], f"{what}, capacity")))
            named = {b for b in self.buffers if isinstance(b, str)}
            good = 0 < len(named) == len(self.buffers) == len(self.steps)
            require(good, f"{what}: a name and a step for each buffer")
        self.budget = whole(raw["token_budget"], f"{what}, token_budget", 1)

    def read_need(self, raw: Any, what: str) -> dict[str, Any]:
        """Read what a request asks of this pool."""
        need = table(raw, what, ("tokens", "seconds", "limits"))
        tokens = rationals(need["tokens"], what)
        require(set(tokens) <= set(self.buffers), f"{what}: tokens of an unknown buffer")
        return {
            "tokens": tokens,
            "seconds": rational(need["seconds"], f"{what}, seconds"),
            "limits": rationals(need["limits"], what, self.limits),
        }

    def allows(self, batch: list[int]) -> bool:
        """Say whether an iteration may hold this batch."""
        if len(batch) != len(self.buffers) or not 1 <= sum(batch) <= self.budget:
            return False
        slots = self.slots is None or batch[1] + (batch[0] > 0) <= self.slots
        rows = all(sum(map(int.__mul__, ws, batch)) <= c for ws, c in self.rows)
        return slots and rows and not any(map(int.__mod__, batch, self.steps))

    def every(self) -> Iterator[tuple[int, ...]]:
        """Yield all configurations of a knapsack, the empty one too."""
        count, steps = len(self.buffers), 0
        cost = count * (1 + len(self.rows))
        batch, room = [0] * count, [c for _, c in self.rows]
        left = self.budget
        while True:
            # One step: all buffers from i on are 0; the batch is new.
            require((steps := steps + cost) <= 20 * MOST, f"{self.name}: too many configurations")
            yield tuple(batch)
            i = count - 1
            while i >= 0:
                step = self.steps[i]
                fits = left >= step and all(
                    r >= step * ws[i] for r, (ws, _) in zip(room, self.rows, strict=True)
                )
                change = step if fits else -batch[i]
                batch[i] += change
                left -= change
                room = [r - change * ws[i] for r, (ws, _) in zip(room, self.rows, strict=True)]
                if fits:
                    break
                i -= 1
            if i < 0:
                return

    def lines(self) -> Iterator[tuple[int, int, tuple[int, int], tuple[int, int]]]:
        """Yield totals from low to high, and the batch ``first + (n - low) step`` of each."""
        b, k = self.budget, self.slots
        yield 1, b, (1, 0), (1, 0)
        yield 1, b if k is None else min(b, k), (0, 1), (0, 1)
        # Beyond the slots: the most decodes beside a prompt are all slots but one.
        if k is not None:
            yield k, b, (1, k - 1), (1, 0)

    def check_prices(self, p: list[Fraction], m: dict[str, Fraction], q: Fraction) -> None:
        """Check that no batch is worth more than its time: ``p . x + m . C <= q t(x)``."""
        fixed = sum((c * m[k] for k, c in self.limits.items()), ZERO)
        if self.kind == "two_phase":
            for low, high, (x, y), (dx, dy) in self.lines():
                for n in self.time.bends(low, high):
                    prompts, decodes = x + (n - low) * dx, y + (n - low) * dy
                    if p[0] * prompts + p[1] * decodes + fixed > q * self.time(n):
                        text = f"({prompts}, {decodes}) is worth more than its time"
                        raise Rejected(f"{self.name}: batch {text}")
        elif self.kind == "knapsack":
            scale = lcm(fixed.denominator, *(v.denominator for v in p))
            price, base = [int(v * scale) for v in p], int(fixed * scale)
            time: dict[int, int] = {}
            for batch in self.every():
                if (n := sum(batch)) and n not in time:
                    time[n] = floor(q * self.time(n) * scale)
                if n and sum(map(int.__mul__, price, batch)) + base > time[n]:
                    raise Rejected(f"{self.name}: batch {batch} is worth more than its time")
