r"""Whole iterations from kernel times.

Profilers time kernels one by one; an iteration runs ``layers`` times the projections, the norms,
the attention and, on several GPUs, two all-reduces, and once the embedding and the LM head:

.. math:: t = \mathrm{dense}(n) + \mathrm{head}(r) + \mathrm{attention}(p, c, d, x),

with ``n = p + d`` tokens, ``r`` rows that emit a token, one prefill chunk of ``p`` tokens on ``c``
cached ones and ``d`` decodes that hold ``x`` tokens each when the iteration ends. Times are
interpolated linearly, except just above a multiple of 64 tokens: there a tile starts, so the time
holds from the next measured point back to the edge (a straight line would smear the step).

Steps are drawn at random over the ranges serving engines meet; those that leave a table are
dropped, never extrapolated. Not covered: overlap of kernels, launch gaps, CPU time, contexts that
differ inside a batch. Reference: the kernel-table simulators Vidur (Agrawal et al., MLSys 2024),
AIConfigurator (NVIDIA) and LLMServingSim (Cho et al.).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from llmq.calibrate.profile import Profile
from llmq.errors import InputError
from llmq.rng import RngLike, generator, seed_sequence

__all__ = ["DEFAULT_SEED", "Kernels", "Steps", "compose", "draw_steps", "grid_time", "token_time"]

Ints: TypeAlias = npt.NDArray[np.int64]
Floats: TypeAlias = npt.NDArray[np.float64]

DEFAULT_SEED = 20_260_424
_EDGE = 64
_NARROW = 32  # wider gaps hold several tiles: a straight line is the better guess there


@dataclass(frozen=True, slots=True)
class Steps:
    """Iterations to be timed, one prefill chunk and equal decodes in each.

    Examples
    --------
    >>> step = Steps(*(np.array([x]) for x in (512, 1000, 8, 300)))
    >>> step.tokens, step.kv, step.work
    (array([520]), array([3912]), array([643072.]))
    """

    # chunk, cached: prompt tokens processed, and those already cached; 0 without a prefill;
    # shape (n,)
    chunk: Ints
    cached: Ints
    # decodes, context: decoding rows, and the KV tokens each holds when the iteration ends;
    # shape (n,)
    decodes: Ints
    context: Ints

    @property
    def tokens(self) -> Ints:
        """Tokens in each batch."""
        return self.chunk + self.decodes

    @property
    def rows(self) -> Ints:
        """Rows that emit a token: the decodes, and the prefill as if its chunk were the last."""
        return self.decodes + (self.chunk > 0)

    @property
    def kv(self) -> Ints:
        """KV tokens held by the served rows when the iteration ends."""
        return self.decodes * self.context + np.where(self.chunk > 0, self.cached + self.chunk, 0)

    @property
    def work(self) -> Floats:
        """Attention work of the chunk, token^2."""
        return self.chunk * (self.cached + self.chunk / 2)

    def take(self, rows: npt.NDArray[np.bool_]) -> Steps:
        """Return some of the steps."""
        return Steps(self.chunk[rows], self.cached[rows], self.decodes[rows], self.context[rows])


@dataclass(frozen=True, slots=True)
class Kernels:
    """Kernel times of one model on one GPU type, as functions of arrays; NaN outside a table."""

    # seconds of everything that depends on the tokens alone, all layers, from tokens
    dense: Callable[[Ints], Floats]
    # seconds of LM head and sampler, from the rows that emit a token
    head: Callable[[Ints], Floats]
    attention: Callable[[Steps], Floats]  # seconds of attention in all layers, from :class:`Steps`
    # where contexts differ inside a batch: share of the way from the time at their mean to
    # the time at their largest, from prefill tokens, decodes, shortest, mean and longest
    # context
    spread: Callable[[int, int, float, float, float], float] | None = None


def draw_steps(
    count: int,
    rng: RngLike = DEFAULT_SEED,
    *,
    max_decodes: int = 256,
    max_chunk: int = 4096,
    context: tuple[int, int] = (32, 8192),
    cached: bool = True,
) -> Steps:
    """Draw random iterations: two fifths decodes only, two fifths mixed, one fifth prefill only.

    Examples
    --------
    >>> int(draw_steps(1000, rng=7).tokens.max()) <= 4352
    True
    """
    draw = generator(rng)

    def spread(low: int, high: int) -> Ints:
        return np.exp(draw.uniform(np.log(low), np.log(high + 1), count)).astype(np.int64)

    kind = draw.choice(3, size=count, p=(0.4, 0.4, 0.2))
    later = (draw.random(count) < 0.5) & (kind > 0) & cached
    chunk = np.where(kind > 0, draw.integers(1, max_chunk + 1, count), 0)
    prefix = np.where(later, spread(*context), 0)
    decodes = np.where(kind < 2, spread(1, max_decodes), 0)
    return Steps(chunk, prefix, decodes, np.where(decodes > 0, spread(*context), 0))


def compose(
    kernels: Kernels,
    *,
    steps: int | Steps = 6000,
    rng: RngLike = DEFAULT_SEED,
    max_decodes: int = 256,
    max_chunk: int = 4096,
    cached: bool = True,
    **facts: object,
) -> Profile:
    """Time random whole iterations with kernel tables.

    Examples
    --------
    >>> flat = Kernels(lambda n: 0.01 + 1e-4 * n, lambda r: 0.0 * r, lambda s: 1e-8 * s.kv)
    >>> profile = compose(flat, steps=100, gpu="toy")
    >>> len(profile), profile.gpu, profile.entropy
    (100, 'toy', '20260424')
    """
    if isinstance(steps, Steps):
        drawn, entropy = steps, ""
    else:
        seed = seed_sequence(rng)
        drawn = draw_steps(steps, seed, max_decodes=max_decodes, max_chunk=max_chunk, cached=cached)
        entropy = str(seed.entropy)
    seconds = kernels.dense(drawn.tokens) + kernels.head(drawn.rows) + kernels.attention(drawn)
    inside = np.isfinite(seconds)
    if inside.sum() < min(50, inside.size):
        raise InputError(
            f"only {inside.sum()} of {inside.size} steps lie inside the kernel tables: "
            "the tables are too small, or do not belong together"
        )
    kept = drawn.take(inside)
    return Profile(
        tokens=kept.tokens,
        kv=kept.kv,
        work=kept.work,
        prefill=kept.chunk,
        seconds=seconds[inside],
        scope="iteration",
        entropy=entropy,
        **facts,  # type: ignore[arg-type]
    )


def token_time(n: npt.ArrayLike, tokens: Ints, seconds: Floats) -> Floats:
    """Interpolate a time over token counts without smearing tile edges.

    Examples
    --------
    >>> grid, time = np.array([112, 128, 144, 160]), np.array([1.0, 1.0, 2.0, 2.2])
    >>> token_time([128, 129, 144, 152, 161], grid, time)
    array([1. , 2. , 2. , 2.1, nan])
    """
    x = np.asarray(n, dtype=np.float64)
    right = np.clip(np.searchsorted(tokens, x, side="left"), 1, len(tokens) - 1)
    left = right - 1
    width = tokens[right] - tokens[left]
    share = np.clip((x - tokens[left]) / width, 0.0, None)
    starts_tile = (tokens[left] % _EDGE == 0) & (width <= _NARROW) & (share > 0)
    share = np.where(starts_tile, 1.0, share)
    time = seconds[left] + share * (seconds[right] - seconds[left])
    return np.where(x > tokens[-1], np.nan, time)


def grid_time(values: Floats, axes: tuple[Ints, ...], *points: npt.ArrayLike) -> Floats:
    """Interpolate linearly in a complete grid of times.

    Examples
    --------
    >>> table = np.array([[1.0, 2.0], [3.0, np.nan]])
    >>> axes = (np.array([0, 10]), np.array([0, 10]))
    >>> grid_time(table, axes, [5, 10, 5], [0, 0, 5])
    array([ 2.,  3., nan])
    """
    corners = [_bracket(axis, np.asarray(p, float)) for axis, p in zip(axes, points, strict=True)]
    total = np.zeros(np.broadcast_shapes(*(low.shape for low, _, _ in corners)))
    for corner in np.ndindex(*(2,) * len(axes)):
        index = tuple(c[side] for c, side in zip(corners, corner, strict=True))
        weight = np.ones_like(total)
        for (_, _, share), side in zip(corners, corner, strict=True):
            weight = weight * (share if side else 1.0 - share)
        # A hole with weight 0 is not in the way of a point on the grid.
        total = total + np.where(weight == 0.0, 0.0, weight * values[index])
    return total


def _bracket(axis: Ints, x: Floats) -> tuple[Ints, Ints, Floats]:
    right = np.clip(np.searchsorted(axis, x, side="left"), 1, len(axis) - 1)
    left = right - 1
    share = np.maximum((x - axis[left]) / (axis[right] - axis[left]), 0.0)
    return left, right, np.where(x > axis[-1], np.nan, share)
