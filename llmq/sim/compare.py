"""Policies side by side on one workload, with common random numbers.

Every policy meets the same requests: replication ``i`` draws the same arrivals and lengths for all
of them, so that the difference of two policies in one replication is free of most of the noise.
Differences get a Student interval over the replications (paired), which is far narrower than the
two intervals suggest. All policies are measured over the same requests.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from llmq._input.checked import checked
from llmq.errors import InputError, nearest
from llmq.model.engine import Engine
from llmq.model.fleet import Fleet
from llmq.model.trace import Trace
from llmq.model.workload import Workload
from llmq.policies import Policy
from llmq.policies import text as policy_text
from llmq.result import Estimate, Kind
from llmq.rng import RngLike, seed_sequence
from llmq.sim.results._stats import student
from llmq.sim.results.run import Run
from llmq.sim.simulate import simulate

__all__ = ["Comparison", "compare"]

Floats: TypeAlias = npt.NDArray[np.float64]


@checked(record=True)
@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """Runs of several policies on the same requests.

    Parameters
    ----------
    runs : mapping of str to Run
        By policy; the first is what the others are compared with.
    kind : Kind
        Simulated.
    assumptions : tuple of str
        What all runs rest on.
    """

    runs: Mapping[str, Run]
    kind: Kind
    assumptions: tuple[str, ...]

    def value(self, policy: str, metric: str, q: float | None = None) -> Estimate:
        """Mean or quantile of a metric under a policy.

        Parameters
        ----------
        policy : str
            Which run.
        metric : str
            As in :meth:`llmq.sim.results.run.Run.metric`.
        q : float, optional
            Quantile; the mean if not given.

        Returns
        -------
        Estimate
            A fact of these finite runs where the policy is overloaded (see its verdict).
        """
        found = self._run(policy).metric(metric, allow_unstable=True)
        return found.estimate if q is None else found.quantile(q)

    def difference(
        self, policy: str, metric: str, q: float | None = None, *, base: str | None = None
    ) -> Estimate:
        """Paired difference of a policy and another.

        Parameters
        ----------
        policy : str
            Which run.
        metric : str
            As in :meth:`llmq.sim.results.run.Run.metric`.
        q : float, optional
            Quantile; the mean if not given.
        base : str, optional
            What is subtracted; the first policy if not given.

        Returns
        -------
        Estimate
            Mean of the differences by replication; the interval needs at least two.
        """
        mine = self._by_path(policy, metric, q)
        theirs = self._by_path(next(iter(self.runs)) if base is None else base, metric, q)
        gap = mine - theirs
        return Estimate(float(gap.mean()), student(gap), len(gap), "paired replications")

    def _by_path(self, policy: str, metric: str, q: float | None) -> Floats:
        values = self._run(policy).metric(metric, allow_unstable=True).values
        if q is None:
            return np.asarray(np.nanmean(values, axis=1))
        return np.asarray(np.nanquantile(values, q, axis=1))

    def _run(self, policy: str) -> Run:
        if policy not in self.runs:
            raise InputError(f"no run of {policy!r}{nearest(policy, self.runs)}", value=policy)
        return self.runs[policy]


@checked
def compare(
    engine_or_fleet: Engine | Fleet,
    workload_or_trace: Workload | Trace,
    policies: Sequence[Policy],
    *,
    rng: RngLike = None,
    progress: Callable[[str], None] | None = None,
    **options: Any,
) -> Comparison:
    """Simulate several policies on the same requests.

    Parameters
    ----------
    engine_or_fleet : Engine or Fleet
        What serves.
    workload_or_trace : Workload or Trace
        Who arrives.
    policies : sequence of Policy
        At least two, all different.
    rng : Generator, SeedSequence, int or None
        Source of randomness, the same for each policy.
    progress : callable, optional
        Called with the policy that starts.
    **options
        For :func:`llmq.simulate`: replications, requests, warmup, record, workers, ...

    Returns
    -------
    Comparison
        The runs, measured over the same requests.

    Raises
    ------
    InputError
        Fewer than two policies, or one twice.

    Examples
    --------
    >>> from llmq.model.time.batchtime import BatchTime
    >>> from llmq.model.request import RequestClass
    >>> from llmq.policies import Sarathi, VLLM
    >>> chip = Engine(BatchTime.affine(base=0.01, per_token=1e-4), max_seqs=128)
    >>> work = Workload.poisson(5.0, {"chat": RequestClass(512, 64)})
    >>> pair = [Sarathi(), VLLM(version="v0")]
    >>> both = compare(chip, work, pair, replications=4, requests=300, rng=7)
    >>> both.difference("vllm:version=v0", "ttft").high < 0
    True
    """
    names = [policy_text(policy) for policy in policies]
    if len(set(names)) < 2 or len(set(names)) < len(names):
        raise InputError(
            f"a comparison needs at least two different policies, got {', '.join(names) or 'none'}",
            field="policies",
            value=names,
        )
    root = seed_sequence(rng)
    runs = {}
    for name, policy in zip(names, policies, strict=True):
        if progress is not None:
            progress(name)
        # Spawning changes a seed sequence, so every policy gets a fresh one of the same seed.
        seed = np.random.SeedSequence(root.entropy, spawn_key=root.spawn_key)
        runs[name] = simulate(engine_or_fleet, workload_or_trace, policy, rng=seed, **options)
    window = max(r.measured[0] for r in runs.values()), min(r.measured[1] for r in runs.values())
    if window[0] >= window[1]:
        window = 0, next(iter(runs.values())).requests.arrival.shape[1]
    runs = {name: dataclasses.replace(run, measured=window) for name, run in runs.items()}
    assumptions = ("common random numbers", *next(iter(runs.values())).assumptions[2:])
    return Comparison(runs, Kind.SIMULATED, assumptions)
