"""Measured serving runs: what the readers of ``llmq.io.measured_*`` hand out.

Seconds, tokens and requests/s throughout; times count from the first arrival of a run. What a file
does not say is ``None`` and never guessed here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from llmq._input.files import read_text
from llmq.errors import FormatError

__all__ = ["ClosedMeans", "OpenRun", "PublishedMeans", "Settings", "read_object"]

Floats: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What served a run.

    Parameters
    ----------
    gpu, model : str
        As the source calls them.
    tp : int
        GPUs that share the model.
    server : str
        Serving engine and version.
    token_budget, max_seqs : int, optional
        Tokens and requests of an iteration.
    kv_tokens : int, optional
        KV capacity, tokens.
    kv_block : int
        Tokens of a KV block.
    utilisation : float
        Share of the GPU memory the engine may use.
    prefix_caching : bool
        Whether KV of finished or evicted requests is found again.
    precision : str
        Of the weights; empty where the source does not say.
    """

    gpu: str
    model: str
    tp: int = 1
    server: str = ""
    token_budget: int | None = None
    max_seqs: int | None = None
    kv_tokens: int | None = None
    kv_block: int = 16
    utilisation: float = 0.9
    prefix_caching: bool = True
    precision: str = ""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OpenRun:
    """Requests of one run, one by one, in the order of arrival.

    Parameters
    ----------
    name : str
        Where it comes from.
    settings : Settings
        What served it.
    arrival, first_token, finish : ndarray, shape (n,)
        Seconds from the first arrival.
    prompt, output : ndarray of int, shape (n,)
        Tokens.
    users : int, optional
        Closed clients that sent the requests; None for arrivals of their own.
    stage : ndarray of int, shape (n,), optional
        Part of the run each request belongs to.
    stages : tuple of str
        Names of the parts.
    shared_prefix : int
        Prompt tokens that all requests share and that are cached after the first.
    published : mapping of str to float
        Errors of other simulators on this run, fractions, e.g. ``"LLMServingSim ttft mean"``.
    series : mapping of str to ndarray
        Samples of the engine's state: ``t`` and ``running``, ``waiting``, ...
    notes : tuple of str
        What else to know.
    """

    name: str
    settings: Settings
    arrival: Floats
    first_token: Floats
    finish: Floats
    prompt: Ints
    output: Ints
    users: int | None = None
    stage: Ints | None = None
    stages: tuple[str, ...] = ()
    shared_prefix: int = 0
    published: Mapping[str, float] = field(default_factory=dict)
    series: Mapping[str, Floats] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def behind(self, prefix: int) -> OpenRun:
        """Return the run with a cached prefix before every prompt.

        Parameters
        ----------
        prefix : int
            Tokens that all prompts share; the prompt counts include them.

        Returns
        -------
        OpenRun
            The same requests.
        """
        return replace(self, shared_prefix=prefix)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClosedMeans:
    """Means of one closed loop of equal requests.

    Parameters
    ----------
    name : str
        Where it comes from.
    settings : Settings
        What served it.
    users : int
        Clients.
    prompt, output : int
        Tokens of every request.
    ttft, tpot : float
        Means, seconds.
    """

    name: str
    settings: Settings
    users: int
    prompt: int
    output: int
    ttft: float
    tpot: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedMeans:
    """Means of a run of which nothing else was published.

    Parameters
    ----------
    name : str
        Where it comes from.
    settings : Settings
        What served it.
    workload : str
        Its kind.
    prompt, output : float, optional
        Mean tokens of a request, where they are known.
    cached : int
        Prompt tokens that most requests find in the prefix cache.
    rates : tuple of float
        Requests per second of its stages, where they are known.
    e2e, ttft, tpot : float
        Means, seconds.
    published : mapping of str to float
        Errors of another simulator, fractions.
    """

    name: str
    settings: Settings
    workload: str
    prompt: float | None
    output: float | None
    rates: tuple[float, ...]
    e2e: float
    ttft: float
    tpot: float | None
    cached: int = 0
    published: Mapping[str, float] = field(default_factory=dict)


def read_object(path: Path) -> Any:
    """Read a JSON file.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    object
        What it holds.

    Raises
    ------
    FormatError
        Not JSON; names the line.
    """
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise FormatError(
            f"not JSON: {error.msg} (at column {error.colno})", path=path, line=error.lineno
        ) from None
