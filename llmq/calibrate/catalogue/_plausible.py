r"""Times that cannot be: below the memory-bandwidth bound, or in two units at once.

Reading the weights takes at least what :func:`~llmq.calibrate.catalogue.gpus.least_seconds` says,
so a shorter iteration is of another model or GPU, or in a smaller unit than claimed; one a hundred
times longer is in a larger unit. Along a grid a time follows the tokens: a jump of a factor 100
beyond what the tokens explain means that two units are mixed (they differ by 1000). Kernels between
these limits are believed.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from llmq.calibrate._geometry import Geometry
from llmq.calibrate.catalogue.gpus import Gpu, least_seconds
from llmq.calibrate.profile import Profile
from llmq.errors import FormatError
from llmq.units import format_count, format_seconds

__all__ = ["check_bound", "check_units"]

Ints: TypeAlias = npt.NDArray[np.int64]
Floats: TypeAlias = npt.NDArray[np.float64]

_JUMP = 100.0
_LAYER = 5e-5  # seconds that a layer takes to launch, at most
_SLACK = 0.98  # nominal bandwidth is rounded


def check_bound(
    profile: Profile, shape: Geometry, kind: Gpu, path: object, lines: Ints | None = None
) -> None:
    """Refuse iterations that are shorter than reading the weights, or absurdly long.

    Examples
    --------
    >>> from llmq.calibrate._geometry import geometry
    >>> from llmq.calibrate.catalogue.gpus import gpu
    >>> fast = Profile(tokens=[1, 2], seconds=[0.006, 0.0006], tp=1)
    >>> check_bound(fast, geometry("Llama-3.1-8B"), gpu("h100"), "own.csv", np.array([2, 3]))
    Traceback (most recent call last):
    ...
    llmq.errors.FormatError: own.csv line 3, column seconds: 600 us for 2 tokens is less than
    reading the weights of Llama-3.1-8B takes (4.17 ms on 1 h100): ...
    """
    head = profile.scope == "iteration" and "LM head" not in profile.missing
    least = least_seconds(shape, kind, profile.tp, head=head)
    # Kernels of a small model take what launching them takes, however little they read.
    whole = least * shape.parameters / shape.active_parameters + _LAYER * shape.layers
    gpus = f"{profile.tp} {kind.name}"
    short = profile.seconds < _SLACK * least
    if np.any(short):
        row = int(np.argmax(short))
        words = f"less than reading the weights of {shape.name} takes ({format_seconds(least)}"
    elif profile.seconds.min() > _JUMP * whole:
        row = int(np.argmin(profile.seconds))
        words = f"{_JUMP:g} times what reading all weights of {shape.name} and launching its "
        words += f"kernels takes ({format_seconds(whole)}"
    else:
        return
    raise FormatError(
        f"{format_seconds(profile.seconds[row])} for {format_count(profile.tokens[row])} tokens is "
        f"{words} on {gpus}): is the time in another unit, or of another model, GPU or tp?",
        path=str(path),
        line=None if lines is None else int(lines[row]),
        column="seconds",
    )


def check_units(
    groups: npt.NDArray[np.int64],
    sizes: Ints,
    seconds: Floats,
    lines: Ints,
    path: object,
    column: str = "latency",
) -> None:
    """Refuse a table whose times are in two units.

    Parameters
    ----------
    groups : ndarray of int, shape (n,) or (n, k)
        Rows of equal values belong to one curve.
    sizes : ndarray of int, shape (n,)
        What the time follows: tokens or bytes.
    seconds : ndarray, shape (n,)
        Times.
    lines : ndarray of int, shape (n,)
        Their lines in the file.
    path : object
        The file.
    column : str
        The column of the times.

    Raises
    ------
    FormatError
        A time differs from its neighbour's by more than a factor 100 beyond what the sizes explain.

    Examples
    --------
    >>> sizes, times = np.array([8, 16, 32]), np.array([0.001, 1.1, 1.2])
    >>> check_units(np.zeros(3, int), sizes, times, np.array([2, 3, 4]), "x.csv", "time")
    Traceback (most recent call last):
    ...
    llmq.errors.FormatError: x.csv line 3, column time: a jump by a factor 1.1e+03 from size 8
    (line 2) to size 16: are two units mixed?
    """
    curves = groups.reshape(len(sizes), -1)
    order = np.lexsort((sizes, *curves.T))
    size, time, curve = sizes[order].astype(np.float64), seconds[order], curves[order]
    together = np.all(curve[1:] == curve[:-1], axis=1) & (time[1:] > 0) & (time[:-1] > 0)
    ratio = np.divide(time[1:], time[:-1], out=np.ones(len(together)), where=together)
    growth = np.maximum(size[1:], 1.0) / np.maximum(size[:-1], 1.0)
    bad = together & ((ratio > _JUMP * growth) | (ratio < 1.0 / _JUMP))
    if np.any(bad):
        left = int(np.argmax(bad))
        first, second = order[left], order[left + 1]
        raise FormatError(
            f"a jump by a factor {ratio[left]:.2g} from size {sizes[first]} (line {lines[first]}) "
            f"to size {sizes[second]}: are two units mixed?",
            path=str(path),
            line=int(lines[second]),
            column=column,
        )
