"""Randomness: one ``rng=`` keyword everywhere (Scientific Python SPEC 7).

Replications are independent children of one seed sequence, so results are identical for any
number of workers. Inside a replication arrivals, lengths and policy draw from separate children:
another policy sees the same arrivals (common random numbers).
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np

from llmq.errors import InputError

__all__ = ["RngLike", "generator", "seed_sequence"]

RngLike: TypeAlias = "np.random.Generator | np.random.SeedSequence | int | None"


def seed_sequence(rng: RngLike) -> np.random.SeedSequence:
    """Return the seed sequence behind ``rng``.

    Parameters
    ----------
    rng : Generator, SeedSequence, int or None
        ``None`` takes fresh entropy from the operating system.

    Returns
    -------
    numpy.random.SeedSequence
        To be spawned. A Generator gives a new child each time, so two calls with the same
        Generator differ, as they would if they drew from it.

    Raises
    ------
    InputError
        If ``rng`` is none of these.

    Examples
    --------
    >>> seed_sequence(7).entropy
    7
    """
    if isinstance(rng, np.random.SeedSequence):
        # A copy: spawning counts children, and a caller's sequence must give the same twice.
        return np.random.SeedSequence(rng.entropy, spawn_key=rng.spawn_key, pool_size=rng.pool_size)
    if isinstance(rng, np.random.Generator):
        return rng.bit_generator.seed_seq.spawn(1)[0]  # type: ignore[attr-defined,no-any-return]
    if rng is None or (isinstance(rng, int | np.integer) and rng >= 0):
        return np.random.SeedSequence(None if rng is None else int(rng))
    raise InputError(
        f"rng must be a numpy Generator, a SeedSequence, an int >= 0 or None, got {rng!r}",
        value=rng,
    )


def generator(rng: RngLike) -> np.random.Generator:
    """Return a generator for ``rng``.

    Parameters
    ----------
    rng : Generator, SeedSequence, int or None
        A Generator is returned as it is.

    Returns
    -------
    numpy.random.Generator
        Ready to draw from.

    Examples
    --------
    >>> generator(7).integers(100) - generator(7).integers(100)
    np.int64(0)
    """
    if isinstance(rng, np.random.Generator):
        return rng
    return np.random.default_rng(seed_sequence(rng))
