"""The result of a simulation whose requests are not kept: for tens of millions of them.

Blocks of replications are run one after the other, reduced to sums and sketches, and forgotten, so
memory is that of one block. The measured window is decided on the first block and used for all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from llmq._input.renamed import renamed
from llmq.errors import InputError, UnstableError
from llmq.model.engine import Engine
from llmq.model.metrics import RequestTimes, e2e, prefill_latency, tpot, ttft
from llmq.result import Kind, Provenance
from llmq.sim.results._sketch import Sketch, sketch
from llmq.sim.results._stability import Slopes, Verdict

__all__ = ["Part", "Summary", "put_together", "reduce"]

Floats: TypeAlias = npt.NDArray[np.float64]

_METRICS = {"ttft": ttft, "tpot": tpot, "e2e": e2e, "prefill": prefill_latency}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Summary:
    """A simulated run of a fleet, without its requests.

    Parameters
    ----------
    sketches : mapping of (str, str or None) to Sketch
        By metric and class; None is all classes.
    replications, requests : int
        Paths, and requests of a path.
    iterations, evictions : int
        Of all engines and replications.
    engines : tuple of Engine
        The fleet as it ran.
    policy : str
        The policy.
    measured : tuple of int
        First request of a path that is measured and the one after the last.
    verdict : Verdict
        Whether a stationary mean exists.
    look : float
        Requests after which the system looks anew (:mod:`llmq.sim.results._relaxation`); 0 for a
        trace.
    kind, assumptions, source, provenance
        As in every result.
    """

    sketches: Mapping[tuple[str, str | None], Sketch]
    replications: int
    requests: int
    iterations: int
    evictions: int
    engines: tuple[Engine, ...]
    policy: str
    measured: tuple[int, int]
    verdict: Verdict
    kind: Kind
    assumptions: tuple[str, ...]
    source: str
    provenance: Provenance
    look: float = 0.0

    @property
    def ttft(self) -> Sketch:
        """Time to first visible token."""
        return self.metric("ttft")

    @property
    def tpot(self) -> Sketch:
        """Mean time per further visible token of a request."""
        return self.metric("tpot")

    @property
    def e2e(self) -> Sketch:
        """Time to the last token."""
        return self.metric("e2e")

    @renamed(anyway="allow_unstable")
    def metric(
        self, name: str, *, klass: str | None = None, allow_unstable: bool = False
    ) -> Sketch:
        """Return a latency of the measured requests.

        Parameters
        ----------
        name : {"ttft", "tpot", "e2e", "prefill"}
            Which one.
        klass : str, optional
            Of this class only.
        allow_unstable : bool
            Also where no stationary mean exists.

        Returns
        -------
        Sketch
            With mean, interval and quantiles.

        Raises
        ------
        UnstableError
            The system is overloaded, so the mean of a longer run would be larger.
        InputError
            Unknown metric or class.
        """
        if (name, klass) not in self.sketches:
            known = sorted({metric for metric, _ in self.sketches})
            classes = sorted({one for _, one in self.sketches if one is not None})
            raise InputError(
                f"no metric {name!r} of class {klass!r}; known: {', '.join(known)} of "
                f"{', '.join(classes)}; record='requests' keeps the requests",
                value=(name, klass),
            )
        if self.verdict.status == "overloaded" and not allow_unstable:
            load = self.verdict.load
            raise UnstableError(
                f"mean {name.upper()} does not exist: {self.verdict.sentence}. "
                f"metric({name!r}, allow_unstable=True) gives the value of this finite run",
                margin=1 / load if load > 0 else math.inf,
                metric=name,
            )
        found = self.sketches[name, klass]
        if allow_unstable:
            return found
        share = found.observations / self.sketches["e2e", None].observations
        return replace(found, look=self.look * share, short=self.verdict.short)

    def __repr__(self) -> str:
        size = f"{self.replications} x {self.requests} requests"
        return f"Summary({self.policy}, {len(self.engines)} engines, {size}: {self.verdict.status})"


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """What is kept of a block.

    Parameters
    ----------
    sketches : mapping of (str, str or None) to Sketch
        By metric and class.
    slopes : Slopes
        How the number of requests present changed.
    requests : int
        Requests of a path.
    iterations, evictions : int
        Of all engines and replications.
    """

    sketches: Mapping[tuple[str, str | None], Sketch]
    slopes: Slopes
    requests: int
    iterations: int
    evictions: int


def reduce(
    times: RequestTimes,
    klass: npt.NDArray[np.int64],
    classes: Sequence[str],
    measured: tuple[int, int],
    slopes: Slopes,
    sums: tuple[int, int],
) -> Part:
    """Reduce a block.

    Parameters
    ----------
    times : RequestTimes
        Its requests.
    klass : ndarray of int, shape (replications, n)
        Class codes.
    classes : sequence of str
        Class names by code.
    measured : tuple of int
        The window.
    slopes : Slopes
        How the number of requests present changed.
    sums : tuple of int
        Iterations, evictions.

    Returns
    -------
    Part
        Sums and sketches.
    """
    window = slice(*measured)
    sketches: dict[tuple[str, str | None], Sketch] = {}
    for name, law in _METRICS.items():
        values = law(times)[:, window]
        sketches[name, None] = sketch(name, values)
        for code, one in enumerate(classes):
            # With one class it is all of them.
            mine = (
                values if len(classes) == 1 else np.where(klass[:, window] == code, values, np.nan)
            )
            sketches[name, one] = sketches[name, None] if len(classes) == 1 else sketch(name, mine)
    return Part(sketches, slopes, times.arrival.shape[1], *sums)


def put_together(parts: Sequence[Part]) -> Part:
    """Put parts one after the other.

    Parameters
    ----------
    parts : sequence of Part
        At least one, of the same simulation.

    Returns
    -------
    Part
        All replications.
    """
    whole = parts[0]
    for part in parts[1:]:
        whole = Part(
            {key: one.joined(part.sketches[key]) for key, one in whole.sketches.items()},
            whole.slopes.joined(part.slopes),
            whole.requests,
            whole.iterations + part.iterations,
            whole.evictions + part.evictions,
        )
    return whole
