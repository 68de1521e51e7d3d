"""The result of a simulation: event times, sums, verdict, and the statistics made from them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from llmq._input.renamed import renamed
from llmq.errors import InputError, UnstableError
from llmq.model.dialects import summary
from llmq.model.engine import Engine
from llmq.model.metrics import RequestTimes, e2e, gaps, prefill_latency, tpot, ttft
from llmq.result import Estimate, Kind, Provenance
from llmq.sim.results._clusters import anew
from llmq.sim.results._log import Tally
from llmq.sim.results._reading import blocking, qoe, reasoning
from llmq.sim.results._regenerative import cycles, ratio
from llmq.sim.results._stability import Verdict
from llmq.sim.results._stats import Metric, Share, share
from llmq.sim.results._targets import Targets, by_class, quantile_of, rate_of, run_rate

__all__ = ["Run"]

Floats: TypeAlias = npt.NDArray[np.float64]
Bools: TypeAlias = npt.NDArray[np.bool_]

_METRICS = {
    "ttft": ttft,
    "tpot": tpot,
    "e2e": e2e,
    "prefill": prefill_latency,
    "reasoning": reasoning,
    "blocking": blocking,
    "qoe": qoe,
}


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
    look : float
        Requests after which the system looks anew (:mod:`llmq.sim.results._relaxation`); 0 for a
        trace.
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
    look: float = 0.0

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

    @property
    def hit_rate(self) -> float:
        """Share of the prompt tokens that a prefix cache found at first admissions; NaN without."""
        asked = sum(t.asked for row in self.tallies for t in row)
        return sum(t.shared for row in self.tallies for t in row) / asked if asked else math.nan

    @property
    def checks(self) -> int:
        """Conditions that were looked at while it ran (``simulate(..., check=True)``)."""
        return sum(t.checks for row in self.tallies for t in row)

    @renamed(anyway="allow_unstable")
    def metric(
        self, name: str, *, klass: str | None = None, allow_unstable: bool = False
    ) -> Metric:
        """Return a latency of the measured requests.

        Parameters
        ----------
        name : {"ttft", "tpot", "e2e", "prefill", "reasoning", "blocking", "qoe", "itl"}
            Which one; "itl" is every gap between visible tokens. Reasoning, blocking and QoE are
            defined in :mod:`llmq.sim.results._reading`; QoE and gaps need ``record="tokens"``.
        klass : str, optional
            Of this class only.
        allow_unstable : bool
            Also where no stationary mean exists: a fact about this finite run, which grows with
            its length.

        Returns
        -------
        Metric
            With mean, interval and quantiles. The intervals are infinite where the paths are too
            short to be stationary (``verdict.short``), unless ``allow_unstable`` asks for
            this run's.

        Raises
        ------
        UnstableError
            The system is overloaded, so the mean of a longer run would be larger.
        InputError
            Unknown metric or class.
        """
        self._exists(name, self.finite or allow_unstable)
        short = self.verdict.short and not (self.finite or allow_unstable)
        if name == "itl":
            table = self._gaps(klass)
            count = len(self.klass) * (self.measured[1] - self.measured[0])
            per_request = table.size / count
            return Metric(name, table, self.look * per_request, short, self._crowd() * per_request)
        values = _METRICS[name](self.requests)[:, slice(*self.measured)]
        if klass is not None:
            values = np.where(self._of(klass)[:, slice(*self.measured)], values, np.nan)
        return Metric(name, values, self.look, short, self._crowd())

    def _look(self, name: str) -> float:
        """Count the requests after which a metric looks anew."""
        values = _METRICS[name](self.requests)[:, slice(*self.measured)]
        rows = [row[~np.isnan(row)] for row in values]
        return anew(rows, self.look, self._crowd())

    def _crowd(self) -> float:
        """Count the requests that arrive within the mean residual decode; 0 for a trace."""
        if not self.look > 0:
            return 0.0
        part = (slice(None), slice(*self.measured))
        stays = (self.requests.finish - self.requests.prefill_end)[part]
        arrival = self.requests.arrival[part]
        spans = float((arrival[:, -1] - arrival[:, 0]).sum())
        whole = float(np.nansum(stays))
        if not (spans > 0 and whole > 0):
            return 0.0
        return arrival.size / spans * float(np.nansum(stays**2)) / (2 * whole)

    def regenerative(self, name: str, *, klass: str | None = None) -> Estimate:
        """Estimate a mean from the cycles between two times at which the system is empty.

        Cycles need no warm-up and no batches: all requests count, see
        :mod:`llmq.sim.results._regenerative`, also for what must hold of the arrivals.

        Parameters
        ----------
        name : str
            As in :meth:`metric`.
        klass : str, optional
            Of this class only.

        Returns
        -------
        Estimate
            With a 95 % interval; ``n`` is the number of cycles.

        Raises
        ------
        UnstableError
            The system is overloaded.
        InputError
            Unknown metric or class; fewer than 30 cycles; cycles that do not end or are not
            independent.

        Examples
        --------
        >>> import llmq
        >>> one = llmq.Engine(llmq.BatchTime.affine(base=1.0, per_token=0.0), max_seqs=1)
        >>> work = llmq.Workload.poisson(0.5, {"a": llmq.RequestClass(1, 1)})
        >>> found = llmq.simulate(one, work, requests=5000, rng=7).regenerative("ttft")
        >>> found.low < 1.5 < found.high, found.method
        (True, 'regenerative cycles')
        """
        self._exists(name, allow_unstable=False)
        if self.finite and len(self.klass) > 1:
            raise InputError("replications of one trace share its arrivals: simulate it once")
        if name == "itl":
            owner, gap = gaps(self.requests)
            size, shape = self.klass.size, self.klass.shape
            total: Floats = np.bincount(owner, gap, size).astype(np.float64).reshape(shape)
            count: Floats = np.bincount(owner, minlength=size).reshape(shape).astype(np.float64)
        else:
            values = _METRICS[name](self.requests)
            total, count = np.nan_to_num(values), (~np.isnan(values)).astype(np.float64)
        if klass is not None:
            mine = self._of(klass)
            total, count = total * mine, count * mine
        return ratio(cycles(self.requests.arrival, self.requests.finish), total, count)

    def _exists(self, name: str, allow_unstable: bool) -> None:
        """Refuse a metric that nobody knows, or whose stationary mean does not exist."""
        if name not in (*_METRICS, "itl"):
            raise InputError(f"no metric {name!r}; known: {', '.join(_METRICS)}, itl", value=name)
        if self.verdict.status == "overloaded" and not allow_unstable:
            load = self.verdict.load
            raise UnstableError(
                f"mean {name.upper()} does not exist: {self.verdict.sentence}. See run.verdict; "
                f"run.metric({name!r}, allow_unstable=True) gives the value of this finite run",
                margin=1 / load if load > 0 else math.inf,
                metric=name,
            )

    def _gaps(self, klass: str | None) -> Floats:
        """Gaps between the tokens of the measured requests, one row for each replication."""
        owner, gap = gaps(self.requests)
        place, request = np.divmod(owner, self.requests.arrival.shape[1])
        keep = (request >= self.measured[0]) & (request < self.measured[1])
        if klass is not None:
            keep &= self._of(klass).ravel()[owner]
        place, gap = place[keep], gap[keep]
        counts = np.bincount(place, minlength=len(self.klass))
        table = np.full((len(counts), int(counts.max(initial=0))), np.nan)
        table[np.arange(table.shape[1]) < counts[:, None]] = gap
        return table

    def _of(self, klass: str) -> Bools:
        """Mark the requests of a class."""
        if klass not in self.classes:
            raise InputError(f"no class {klass!r}; known: {', '.join(self.classes)}", value=klass)
        return np.asarray(self.klass == self.classes.index(klass))

    def _goals(
        self, slo: Targets, klass: str | None, measured: tuple[int, int] | None = None
    ) -> list[tuple[str, str, Bools, Bools]]:
        """Label and metric of each target, who meets it, and whom it is for."""
        names = self.classes if klass is None else (klass,)
        window = slice(*(measured or self.measured))
        each = by_class(slo, names, self.classes)
        goals = []
        for group, one in each.items():
            mine = np.ones(self.klass.shape, bool) if group is None else self._of(group)
            label = f"{group} " if group is not None and len(each) > 1 else ""
            for name, target in one.targets.items():
                values = _METRICS[name](self.requests)[:, window]
                # One token has no TPOT to miss.
                good = np.isnan(values) | (values <= target)
                goals.append((label + name, name, good, mine[:, window]))
        return goals

    def attainment(self, slo: Targets, *, klass: str | None = None) -> Share:
        """Share of the measured requests that meet their targets.

        Parameters
        ----------
        slo : SLO or mapping of str to SLO
            One for all, or one for each class. Without ``quantile``: a request must meet all
            targets. With it: each metric by itself (in each class by itself, where they have their
            own), and the smallest share is returned, to be compared with ``slo.quantile``.
        klass : str, optional
            Of this class only.

        Returns
        -------
        Share
            With a 95 % interval and the share of each metric. Paths that are too short, and those
            of an overloaded fleet, show no lower end: it gets worse as they get longer.

        Raises
        ------
        InputError
            Unknown class, a class without an SLO, or SLOs with different quantiles.
        """
        goals = self._goals(slo, klass)
        looks = {name: self._look(name) for name in {name for _, name, _, _ in goals}}
        each = [(label, share(good, mine, look=looks[name])) for label, name, good, mine in goals]
        if quantile_of(slo) is None:
            found = share(*_all(goals), look=max(looks.values()))
        else:
            # The worst of the metrics, end by end: they need not be the same one.
            shares = [one for _, one in each if one.n]
            found = Share(
                value=min((s.value for s in shares), default=math.nan),
                low=min((s.low for s in shares), default=0.0),
                high=min((s.high for s in shares), default=1.0),
                n=min((s.n for s in shares), default=0),
            )
        by_metric = tuple((name, s.value) for name, s in each)
        worse = not self.finite and (self.verdict.short or self.verdict.status == "overloaded")
        return Share(found.value, 0.0 if worse else found.low, found.high, found.n, by_metric)

    def goodput(self, slo: Targets, *, klass: str | None = None, dialect: str = "llmq") -> Estimate:
        """Return the good requests per second: those that meet all targets.

        Parameters
        ----------
        slo : SLO or mapping of str to SLO
            Targets of a request, for all or for each class; ``quantile`` is not used.
        klass : str, optional
            Of this class only.

        dialect : {"llmq", "vllm"}
            "vllm" counts all requests, over the time from the first arrival to the last token, as
            vLLM's benchmark does; above capacity that is less than the rate of the good arrivals.

        Returns
        -------
        Estimate
            Requests per second; over the measured arrivals in llmq's words.

        Raises
        ------
        InputError
            Unknown class or dialect, a class without an SLO, or SLOs with different quantiles.
        """
        if dialect not in ("llmq", "vllm"):
            raise InputError(
                f"goodput is counted as llmq or vllm do, got {dialect!r}", value=dialect
            )
        whole = self.requests.arrival.shape[1]
        window = self.measured if dialect == "llmq" else (0, whole)
        good, mine = _all(self._goals(slo, klass, window))
        arrival, finish = (
            one[:, slice(*window)] for one in (self.requests.arrival, self.requests.finish)
        )
        rate = rate_of if dialect == "llmq" else run_rate
        return rate(good & mine, arrival, finish)

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
        from llmq.sim.results._checks import check_run

        check_run(self)

    def __repr__(self) -> str:
        r, n = self.requests.arrival.shape
        shown = f"Run({self.policy}, {len(self.engines)} engines, {r} x {n} requests: "
        shown += f"{self.verdict.status}, load {self.verdict.load:.3g}"
        if self.verdict.status != "overloaded" or self.finite:
            shown += f"; TTFT {self.ttft.estimate} s, TPOT {self.tpot.estimate} s"
        return shown + ")"


def _all(goals: list[tuple[str, str, Bools, Bools]]) -> tuple[Bools, Bools]:
    """Who meets every target that is theirs, and who has any."""
    good = np.logical_and.reduce([met | ~mine for *_, met, mine in goals])
    return good, np.logical_or.reduce([mine for *_, mine in goals])
