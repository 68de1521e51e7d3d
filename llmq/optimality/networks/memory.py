"""Small engines whose KV memory binds: where admitting whatever fits now loses throughput.

With a limit of memory the region is a bracket, so load 1 is put where an explicit schedule ends
(:mod:`llmq.theory.region._inner`): requests are admitted at an even pace, with room for what they
will hold, and never evicted. At a load below 1 that schedule is stable; a policy whose backlog
grows there is not throughput-optimal, whatever the region is between the two bounds.

The equilibrium memory of WAIT is the case in which memory, not compute, binds at load 1: greedy
admission first come first served fills it with prompts that then outgrow it. What is lost is the
work computed again, so it is nothing where a token costs nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from llmq.errors import InputError
from llmq.model.engine import Engine
from llmq.model.request import RequestClass
from llmq.model.time.batchtime import BatchTime
from llmq.optimality.networks._networks import Network, below
from llmq.optimality.networks.traffic import check_classes

__all__ = ["MemoryNetwork", "MemorySketch", "draw_memory_sketch"]


@dataclass(frozen=True, slots=True)
class MemoryNetwork(Network):
    """An engine with a limit of memory, its classes and a direction of rates.

    Parameters
    ----------
    engine : Engine
        What serves.
    mix : mapping of str to RequestClass
        The classes.
    rates : mapping of str to float
        Requests per second at load 1, where the best explicit schedule ends.
    least : float
        Share of the capacity that every policy needs there, by the outer bound.

    Raises
    ------
    InputError
        An engine without limit of memory, with one of slots, or rates of other classes.
    """

    least: float

    def __post_init__(self) -> None:
        if self.engine.kv_tokens is None:
            raise InputError("a memory network has an engine with kv_tokens", field="kv_tokens")
        if self.engine.max_seqs is not None:
            raise InputError("a memory network has an engine without max_seqs", field="max_seqs")
        check_classes(self.mix, self.rates)


@dataclass(frozen=True, slots=True)
class MemorySketch:
    """A memory network in whole numbers.

    Parameters
    ----------
    base, slope, read : int
        An iteration of ``n`` tokens that reads ``k`` KV tokens takes ``base + slope n`` eighths and
        ``read k`` sixty-fourths of a second; the base at least 1.
    budget : int
        Tokens per iteration.
    memory : int
        KV tokens.
    classes : tuple of (int, int)
        Prompt and output tokens of each class; all come equally often.

    Examples
    --------
    >>> sketch = MemorySketch(1, 6, 0, 11, 28, ((5, 16),))
    >>> round(sketch.network().least, 3)
    0.935
    """

    base: int
    slope: int
    read: int
    budget: int
    memory: int
    classes: tuple[tuple[int, int], ...]

    def network(self) -> MemoryNetwork:
        """Return the network, at load 1.

        Returns
        -------
        MemoryNetwork
            Classes are named a, b, c.

        Raises
        ------
        InputError
            A number that cannot be, a request that does not fit the memory, or another limit that
            binds before it.
        """
        from llmq.theory.region import stability_region

        law = BatchTime.affine(base=self.base / 8, per_token=self.slope / 8, per_kv=self.read / 64)
        engine = Engine(law, token_budget=self.budget, kv_tokens=self.memory, kv_block=1)
        mix = {"abc"[i]: RequestClass(*pair) for i, pair in enumerate(self.classes)}
        region, alike = stability_region(engine, mix), dict.fromkeys(mix, 1.0)
        if (scarce := region.binding(alike)[0]) != "memory":
            raise InputError(f"{scarce} bind here, not memory: take less of it", field="memory")
        outer, inner = region.load_bracket(alike)
        return MemoryNetwork(engine, mix, dict.fromkeys(mix, 1 / inner), outer / inner)

    def simpler(self) -> Iterator[MemorySketch]:
        """Return networks that are simpler, the boldest step first.

        Yields
        ------
        MemorySketch
            With a class less or a smaller number.
        """
        for i in range(len(self.classes) if len(self.classes) > 1 else 0):
            yield replace(self, classes=self.classes[:i] + self.classes[i + 1 :])
        for name, least in (("read", 0), ("memory", 2), ("budget", 1), ("base", 1), ("slope", 0)):
            for smaller in below(getattr(self, name), least):
                yield self._with(name, smaller)
        for i, (prompt, output) in enumerate(self.classes):
            fewer = [(n, output) for n in below(prompt, 1)]
            for pair in fewer + [(prompt, n) for n in below(output, 1)]:
                yield replace(self, classes=(*self.classes[:i], pair, *self.classes[i + 1 :]))

    def _with(self, name: str, value: Any) -> MemorySketch:
        return replace(self, **{name: value})

    @property
    def size(self) -> int:
        """Sum of all numbers."""
        numbers = self.base + self.slope + self.read + self.budget + self.memory
        return numbers + sum(map(sum, self.classes))


def draw_memory_sketch(rng: np.random.Generator, *, whole: bool = False) -> MemorySketch:
    """Draw a small engine whose memory holds a few requests.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of randomness.
    whole : bool
        Prompts, and what was computed of a request, fit in the budget.

    Returns
    -------
    MemorySketch
        The network.

    Examples
    --------
    >>> sketch = draw_memory_sketch(np.random.default_rng(1))
    >>> all(sum(pair) <= sketch.memory for pair in sketch.classes)
    True
    """
    while True:
        classes = tuple(
            (int(rng.integers(1, 9)), int(rng.integers(2, 17))) for _ in range(rng.integers(1, 3))
        )
        longest = max(map(sum, classes))
        memory = int(rng.integers(longest, 3 * longest + 1))
        budget = longest if whole else int(rng.integers(2, 17))
        base, slope = int(rng.integers(1, 9)), int(rng.integers(0, 9))
        read = int(rng.integers(1, 5)) if rng.random() < 0.3 else 0
        sketch = MemorySketch(base, slope, read, budget, memory, classes)
        with suppress(InputError):
            sketch.network()
            return sketch
