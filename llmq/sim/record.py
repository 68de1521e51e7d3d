"""The result of a simulation: event times, sums, verdict, and the statistics made from them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from llmq.errors import InputError, UnstableError
from llmq.model.engine import Engine
from llmq.model.metrics import RequestTimes, e2e, gaps, prefill_latency, summary, tpot, ttft
from llmq.model.reading import blocking, qoe, reasoning
from llmq.model.slo import SLO
from llmq.result import Estimate, Kind, Provenance
from llmq.sim.log import Tally
from llmq.sim.stability import Verdict
from llmq.sim.stats import Metric, Share, share, student

__all__ = ["Run"]

Floats: TypeAlias = npt.NDArray[np.float64]

_METRICS = {
    "ttft": ttft, "tpot": tpot, "e2e": e2e, "prefill": prefill_latency, "reasoning": reasoning,
    "blocking": blocking, "qoe": qoe,
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Run:
    """A simulated run of a fleet.

    Parameters
    ----------
    requests : RequestTimes
        Arrival, prefill end, first token and finish of every request, seconds; shape
        (replications, n).
    prompt, klass : ndarray of int, shape (replications, n)
        Prompt tokens and class codes.
    classes : tuple of str
        Class names.
    server : ndarray of int, shape (replications, n)
        Engine that served each request.
    tallies : tuple of tuple of Tally
        Sums, by replication and engine.
    engines : tuple of Engine
        The fleet as it ran.
    policy : str
        The policy.
    measured : tuple of int
        First request that is measured and the one after the last (warm-up and drain cut off).
    finite : bool
        A given trace: its means are facts of this trace, whether the system is stable or not.
    verdict : Verdict
        Whether a stationary mean exists.
    kind, assumptions, source, provenance
        As in every result.
    """

    requests: RequestTimes
    prompt: npt.NDArray[np.int64]
    klass: npt.NDArray[np.int64]
    classes: tuple[str, ...]
    server: npt.NDArray[np.int64]
    tallies: tuple[tuple[Tally, ...], ...]
    engines: tuple[Engine, ...]
    policy: str
    measured: tuple[int, int]
    finite: bool
    verdict: Verdict
    kind: Kind
    assumptions: tuple[str, ...]
    source: str
    provenance: Provenance

    @property
    def ttft(self) -> Metric:
        """Time to first visible token."""
        return self.metric("ttft")

    @property
    def tpot(self) -> Metric:
        """Mean time per further visible token of a request."""
        return self.metric("tpot")

    @property
    def e2e(self) -> Metric:
        """Time to the last token."""
        return self.metric("e2e")

    @property
    def n_iterations(self) -> npt.NDArray[np.int64]:
        """Iterations of all engines, by replication."""
        return np.array([sum(t.iterations for t in row) for row in self.tallies])

    @property
    def utilisation(self) -> float:
        """Share of engine time spent in iterations, until the last request ended."""
        ends = np.nanmax(self.requests.finish, axis=1) - self.requests.arrival[:, 0]
        busy = np.array([sum(t.busy for t in row) for row in self.tallies])
        return float((busy / (ends * len(self.engines))).mean())

    @property
    def evictions(self) -> int:
        """Evictions of all engines and replications."""
        return sum(t.evictions for row in self.tallies for t in row)

    def metric(self, name: str, *, klass: str | None = None, anyway: bool = False) -> Metric:
        """Return a latency of the measured requests.

        Parameters
        ----------
        name : {"ttft", "tpot", "e2e", "prefill", "reasoning", "blocking", "qoe", "itl"}
            Which one; "itl" is every gap between visible tokens. Reasoning, blocking and QoE are
            defined in :mod:`llmq.model.reading`; QoE and gaps need ``record="tokens"``.
        klass : str, optional
            Of this class only.
        anyway : bool
            Also where no stationary mean exists: a fact about this finite run, which grows with
            its length.

        Returns
        -------
        Metric
            With mean, interval and quantiles.

        Raises
        ------
        UnstableError
            The system is overloaded, so the mean of a longer run would be larger.
        InputError
            Unknown metric or class.
        """
        if name not in (*_METRICS, "itl"):
            raise InputError(f"no metric {name!r}; known: {', '.join(_METRICS)}, itl", value=name)
        if self.verdict.status == "overloaded" and not (self.finite or anyway):
            load = self.verdict.load
            raise UnstableError(
                f"mean {name.upper()} does not exist: {self.verdict.sentence}. See run.verdict; "
                f"run.metric({name!r}, anyway=True) gives the value of this finite run",
                margin=1 / load if load > 0 else math.inf, metric=name,
            )  # fmt: skip
        if name == "itl":
            return Metric(name, self._gaps(klass))
        values = _METRICS[name](self.requests)[:, slice(*self.measured)]
        if klass is not None:
            values = np.where(self._of(klass), values, np.nan)
        return Metric(name, values)

    def _gaps(self, klass: str | None) -> Floats:
        """Gaps between the tokens of the measured requests, one row for each replication."""
        owner, gap = gaps(self.requests)
        place, request = np.divmod(owner, self.requests.arrival.shape[1])
        keep = (request >= self.measured[0]) & (request < self.measured[1])
        if klass is not None:
            self._of(klass)
            keep &= self.klass.ravel()[owner] == self.classes.index(klass)
        place, gap = place[keep], gap[keep]
        counts = np.bincount(place, minlength=len(self.klass))
        table = np.full((len(counts), int(counts.max(initial=0))), np.nan)
        table[np.arange(table.shape[1]) < counts[:, None]] = gap
        return table

    def _of(self, klass: str) -> npt.NDArray[np.bool_]:
        if klass not in self.classes:
            raise InputError(f"no class {klass!r}; known: {', '.join(self.classes)}", value=klass)
        code = self.classes.index(klass)
        return np.asarray(self.klass[:, slice(*self.measured)] == code)

    def _meets(self, slo: SLO) -> dict[str, npt.NDArray[np.bool_]]:
        window = slice(*self.measured)
        met = {}
        for name, target in slo.targets.items():
            values = _METRICS[name](self.requests)[:, window]
            met[name] = np.isnan(values) | (values <= target)  # one token has no TPOT to miss
        return met

    def attainment(self, slo: SLO) -> Share:
        """Share of the measured requests that meet their targets.

        Parameters
        ----------
        slo : SLO
            Without ``quantile``: a request must meet all targets. With it: each metric by itself,
            and the smallest share is returned, to be compared with ``slo.quantile``.

        Returns
        -------
        Share
            With a 95 % interval and the share of each metric.
        """
        met = self._meets(slo)
        each = {name: share(good) for name, good in met.items()}
        if slo.quantile is None:
            found = share(np.logical_and.reduce(list(met.values())))
        else:
            # The worst of the metrics, end by end: they need not be the same one.
            shares = list(each.values())
            found = Share(
                value=min(s.value for s in shares),
                low=min(s.low for s in shares),
                high=min(s.high for s in shares),
                n=min(s.n for s in shares),
            )
        by_metric = tuple((name, s.value) for name, s in each.items())
        return Share(found.value, found.low, found.high, found.n, by_metric)

    def goodput(self, slo: SLO) -> Estimate:
        """Return the good requests per second: those that meet all targets.

        Parameters
        ----------
        slo : SLO
            Targets of a request; ``quantile`` is not used.

        Returns
        -------
        Estimate
            Requests per second over the measured arrivals.
        """
        good = np.logical_and.reduce(list(self._meets(slo).values()))
        start, stop = self.measured
        span = self.requests.arrival[:, stop - 1] - self.requests.arrival[:, start]
        rates = good[:, 1:].sum(axis=1) / np.where(span > 0, span, np.nan)
        if len(rates) > 1:
            half = student(rates)
        else:
            half = float(rates[0]) * (share(good).high - share(good).low) / 2
        method = "replications" if len(rates) > 1 else "batch means"
        return Estimate(float(rates.mean()), half, len(rates), method, good.size)

    def summary(self, *, dialect: str = "llmq") -> dict[str, float]:
        """Summarise all requests in the words and arithmetic of a tool.

        Parameters
        ----------
        dialect : {"llmq", "vllm", "guidellm", "inference-perf", "aiperf"}
            Whose definitions.

        Returns
        -------
        dict of str to float
            Keys as the tool names them.
        """
        return summary(self.requests, dialect)

    def check(self) -> None:
        """Check what must hold on every path.

        Raises
        ------
        InvariantError
            An invariant is broken: a fault of llmq, please report it.
        """
        from llmq.sim.checks import check_run

        check_run(self)

    def __repr__(self) -> str:
        r, n = self.requests.arrival.shape
        shown = f"Run({self.policy}, {len(self.engines)} engines, {r} x {n} requests: "
        shown += f"{self.verdict.status}, load {self.verdict.load:.3g}"
        if self.verdict.status != "overloaded" or self.finite:
            shown += f"; TTFT {self.ttft.estimate} s, TPOT {self.tpot.estimate} s"
        return shown + ")"
