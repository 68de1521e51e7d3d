"""Systems and paths of the coverage study, and their true values; no command of its own.

A trial is what ``simulate`` gives for a seed. Paths are the same, request by request, but made
for many trials at once: single-server queues by Lindley's recursion, the others in one lockstep.
``tests/experiments/test_coverage.py`` compares trials with ``simulate``.

The truth of M/D/1 and M/G/1 is exact: the law of the wait solves an integral equation, see
:func:`wait_law`. That of the others comes from one independent run that is much longer than a
trial and has a longer warm-up; its standard error is in the table.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

import llmq
from llmq import policies
from llmq.policies.contract.settings import effective
from llmq.sim._block import Block, Task
from llmq.sim._collect import as_run
from llmq.sim._replicate import run_block
from llmq.sim.results._relaxation import Relaxation, dispersion_of_work, unit
from llmq.sim.results.run import Run

__all__ = ["LOADS", "SYSTEMS", "System", "Truth", "relaxation", "trials", "truth", "wait_law"]

Floats = npt.NDArray[np.float64]

LOADS = (0.5, 0.8, 0.9, 0.95, 0.98)
SERVICE = llmq.Engine(llmq.BatchTime.affine(base=1.0, per_token=0.0), max_seqs=1)
# Requests that are in memory at a time; a lockstep is faster with more paths side by side.
TOGETHER, SIDE_BY_SIDE = 6_000_000, 30_000_000
# Of the long run that stands for the truth: paths, looks dropped and looks measured of each.
PATHS, DROPPED, MEASURED = 512, 10, 15
# Fewest requests that each path of it measures.
LEAST = 4_000
# Paths, requests and seed of the run that tells how long requests stay.
PILOT = 16, 1_000, range(2, 3)
# Steps of a second of the grid on which the law of the wait is solved.
FINE = 200


@dataclass(frozen=True)
class System:
    """What is simulated.

    Parameters
    ----------
    engine : Engine
        What serves.
    mix : RequestClass
        Every request.
    policy : Policy
        How it is scheduled.
    single : bool
        One request at a time, an iteration of one second a token.
    """

    engine: llmq.Engine
    mix: llmq.RequestClass
    policy: policies.Policy
    single: bool = False

    def work(self, load: float) -> llmq.Workload:
        """Return Poisson arrivals at a share of the region.

        Parameters
        ----------
        load : float
            Of the outer bound.

        Returns
        -------
        Workload
            Traffic.
        """
        mix = {"x": self.mix}
        margin = llmq.stability_region(self.engine, mix).margin({"x": 1.0})
        return llmq.Workload.poisson(load * margin, mix)


CHIP = llmq.Engine(llmq.BatchTime.affine(base=0.01, per_token=1e-4), token_budget=256, max_seqs=64)
TALK = llmq.RequestClass(
    llmq.Lengths.empirical([32, 64, 128, 512]), llmq.Lengths.empirical([4, 8, 16, 32])
)
THINK = llmq.RequestClass.with_reasoning(prompt=64, reasoning=16, answer=16)
ELEVEN = llmq.RequestClass(1, llmq.Lengths.empirical([1] * 9 + [11]))
SYSTEMS = {
    "md1": System(SERVICE, llmq.RequestClass(1, 1), policies.Sarathi(), single=True),
    "mg1": System(SERVICE, ELEVEN, policies.Sarathi(), single=True),
    "sarathi": System(CHIP, TALK, policies.Sarathi()),
    "pascal": System(CHIP.with_(kv_tokens=20_000), THINK, policies.PASCAL()),
}


@cache
def relaxation(name: str, load: float) -> Relaxation:
    """Return how long the paths of a system must be.

    Parameters
    ----------
    name : str
        System.
    load : float
        Of the outer bound.

    Returns
    -------
    Relaxation
        What ``simulate`` goes by; stays are those of a short run.
    """
    work = SYSTEMS[name].work(load)
    spread = work.arrivals.dispersion + dispersion_of_work(work.mix, work.rates)
    times = next(trials(name, load, *PILOT)).requests
    stays = np.quantile(times.finish - times.prefill_end, 0.99, axis=1)
    return Relaxation(unit(load, spread), dispersion=spread, stay=float(stays.mean()) * work.rate)


def trials(name: str, load: float, paths: int, requests: int, seeds: range) -> Iterator[Run]:
    """Yield what ``simulate(..., replications=paths, requests=requests, rng=seed)`` gives.

    Parameters
    ----------
    name : str
        System.
    load : float
        Of the outer bound.
    paths, requests : int
        Of a trial.
    seeds : range
        One for each trial.

    Yields
    ------
    Run
        In order of the seeds.
    """
    system = SYSTEMS[name]
    many = max(1, (TOGETHER if system.single else SIDE_BY_SIDE) // (paths * requests))
    for first in range(0, len(seeds), many):
        roots = [np.random.SeedSequence(seed) for seed in seeds[first : first + many]]
        whole = Task(
            system.work(load),
            requests,
            tuple(s for root in roots for s in root.spawn(paths)),
            (effective(system.engine, system.policy),),
            system.policy,
            "vector",
            False,
            None,
            math.inf,
        )
        block = _lindley(whole) if system.single else run_block(whole)
        for i, root in enumerate(roots):
            own = slice(i * paths, (i + 1) * paths)
            task = replace(whole, seeds=whole.seeds[own])
            yield as_run([_rows(block, own)], task, "auto", root)


def _rows(block: Block, which: slice) -> Block:
    """Take some paths of a block."""
    columns: dict[str, Any] = {field.name: getattr(block, field.name) for field in fields(Block)}
    taken: dict[str, Any] = {k: None if one is None else one[which] for k, one in columns.items()}
    return Block(**taken)


def _lindley(task: Task) -> Block:
    """Serve one request at a time, a second a token, in order of arrival."""
    work = task.traffic
    assert isinstance(work, llmq.Workload)
    columns: dict[str, Any] = {
        name: np.zeros((len(task.seeds), task.requests), dtype=np.int64)
        for name in ("prompt", "output", "reasoning", "klass")
    }
    arrival = np.empty((len(task.seeds), task.requests))
    (one,) = work.mix.values()
    for row, seed in enumerate(task.seeds):
        # As in Workload.sample, without the tests of a Trace: those take most of the time.
        clock, _, size = seed.spawn(2)[0].spawn(3)
        arrival[row] = work.arrivals.times(task.requests, np.random.default_rng(clock))
        drawn = one.sample(task.requests, size.spawn(1)[0])
        columns["prompt"][row], columns["output"][row] = drawn[:2]
    output = columns["output"].astype(np.float64)
    done = np.cumsum(output, axis=1)
    # finish[i] = max(arrival[i], finish[i - 1]) + output[i], all at once.
    finish = np.maximum.accumulate(arrival - done + output, axis=1) + done
    first = finish - output + 1.0
    return Block(
        arrival=arrival,
        **columns,
        prefill_end=first,
        first_token=first,
        finish=finish,
        boundary=None,
        resumed=None,
        server=np.zeros(arrival.shape, dtype=np.int64),
        tallies=tuple(() for _ in task.seeds),
    )


@dataclass(frozen=True)
class Truth:
    """True values, seconds, and their standard errors (0 where they are exact).

    Parameters
    ----------
    mean, median, p99 : float
        Of the time to first token.
    errors : tuple of float
        Of the three.
    """

    mean: float
    median: float
    p99: float
    errors: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def items(self) -> list[tuple[str, float, float]]:
        """List name, value and standard error.

        Returns
        -------
        list of tuple
            Of the mean, the median and the 99 % point.
        """
        names = ("mean", "median", "p99")
        return [(name, getattr(self, name), e) for name, e in zip(names, self.errors, strict=True)]


def truth(name: str, load: float) -> Truth:
    """Return the true values of a system at a load.

    Parameters
    ----------
    name : str
        System.
    load : float
        Of the outer bound.

    Returns
    -------
    Truth
        Seconds.
    """
    system = SYSTEMS[name]
    if system.single:
        tokens = system.mix.output
        weights = np.full(len(tokens.values), 1 / len(tokens.values))
        weights = weights if tokens.weights is None else tokens.weights
        rate = system.work(load).rate
        grid, law = wait_law(rate, tokens.values.astype(np.float64), weights)
        second = float(weights @ tokens.values**2)
        # The first token ends the first second of the service.
        mean = 1.0 + rate * second / (2 * (1 - load))
        half, most = (1.0 + float(np.interp(q, law, grid)) for q in (0.5, 0.99))
        return Truth(mean, half, most)
    relax = relaxation(name, load)
    start = math.ceil(DROPPED * relax.look) + 500
    requests = start + max(LEAST, math.ceil(MEASURED * relax.look)) + 500
    run = next(trials(name, load, PATHS, requests, range(1, 2)))
    ttft = run.requests.first_token - run.requests.arrival
    kept = ttft[:, start : requests - 500]
    half, most = (float(one) for one in np.quantile(kept, (0.5, 0.99)))
    parts = np.stack([kept.mean(axis=1), *np.quantile(kept, (0.5, 0.99), axis=1)])
    errors = parts.std(axis=1, ddof=1) / math.sqrt(PATHS)
    spread = float(errors[0]), float(errors[1]), float(errors[2])
    return Truth(float(kept.mean()), half, most, spread)


def wait_law(
    rate: float, services: Floats, weights: Floats, reach: float = 0.9999
) -> tuple[Floats, Floats]:
    r"""Law of the wait of an M/G/1 queue whose services take whole seconds.

    With ``B`` the law of a service, the wait obeys (Takács 1962)

    .. math:: F(x) = 1 - \rho + \lambda \int_0^x F(x - y) (1 - B(y)) \, dy ,

    where :math:`1 - B` is constant between whole seconds, so the integral is a sum of differences
    of :math:`\int F`. It is solved by the trapezoidal rule, forward in ``x``.

    Parameters
    ----------
    rate : float
        Arrivals per second.
    services, weights : ndarray, shape (k,)
        Seconds, whole numbers, and how likely each is.
    reach : float
        Where the law may end.

    Returns
    -------
    tuple of ndarray
        Waits in seconds, and the probability of at most that.

    Examples
    --------
    >>> grid, law = wait_law(0.5, np.array([1.0]), np.array([1.0]))
    >>> float(law[0]), float(np.interp(1.0, grid, law))  # 1 - rho, and (1 - rho) exp(rho)
    (0.5, 0.824)
    """
    load, step = rate * float(weights @ services), 1.0 / FINE
    longest = int(services.max())
    over = [float(weights[services > second].sum()) for second in range(longest)]
    # Steps of 1 - B: the integral is a sum of over[j] (G(x - j) - G(x - j - 1)).
    jumps = np.diff([0.0, *over, 0.0])
    law, area = [1.0 - load], [0.0]
    while law[-1] < reach:
        i, past = len(law), 0.0
        for second, jump in enumerate(jumps):
            place = i - second * FINE
            if second and jump and place > 0:
                past += jump * area[place]
        known = 1.0 - load + rate * (past + jumps[0] * (area[-1] + step * law[-1] / 2))
        law.append(known / (1.0 - rate * jumps[0] * step / 2))
        area.append(area[-1] + step * (law[-1] + law[-2]) / 2)
    return np.arange(len(law), dtype=np.float64) * step, np.array(law, dtype=np.float64)
