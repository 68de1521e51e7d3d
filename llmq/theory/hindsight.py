r"""The best schedule in hindsight: all jobs known, one KV memory, unit time for each token.

Model (Jaillet et al., 2502.07115): job ``i`` with prompt ``s`` and output ``o`` arrives at ``a``;
started at ``x >= a`` it holds ``s + k`` tokens at time ``x + k`` for ``k = 1, ..., o`` and is never
interrupted. Minimise the total latency :math:`\sum_i (x_i + o_i - a_i)` subject to

.. math:: \sum_i \sum_{k = \max(a_i, t - o_i)}^{t - 1} (s_i + t - k)\, x_{i,k} \le M
          \quad\text{for all } t,

with :math:`x_{i,k} = 1` if ``i`` starts at ``k``: an integer programme (HiGHS). Each start lies
below the latency of a greedy schedule minus what all jobs take at least, so the horizon is finite:
in a better schedule no job waits longer than all jobs together in the greedy one. Latencies are
whole numbers, so a schedule less than 1 above a lower bound is optimal; the bound is the solver's
(floats), the schedule is checked against the memory in whole numbers.

**Greedy schedules** take jobs in the order of a key and start, at each step, all that fit the whole
future memory, stopping at the first that does not. Each trajectory rises until its job ends, so
memory is checked at the ends of jobs only.

**Volume bound** (Kong et al., 2606.22327): job ``i`` takes :math:`vol_i = s_i o_i + o_i (o_i+1)/2`
tokens times steps, so the ``k``-th end is not before the ``k`` smallest volumes over ``M``:

.. math:: \sum_i C_i \ge \frac{1}{M} \sum_k \sum_{i \le k} vol_{(i)}.

Not covered: preemption, batch times that depend on the batch, and unknown outputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from llmq._input.checked import checked
from llmq._input.checking import number
from llmq._limits import TOKENS
from llmq.errors import InputError, InvariantError, UndecidedError, nearest, shown
from llmq.result import Kind

__all__ = ["Job", "Schedule", "heuristic", "solve", "volume_bound"]

_SOURCE = "hindsight integer programme, 2502.07115 (theory core 1.7) [IP]"


class Job(NamedTuple):
    """A job: tokens of its prompt and output, and the step at which it arrives.

    Parameters
    ----------
    prompt, output : int
        Tokens.
    arrival : int
        Step.
    """

    prompt: int
    output: int
    arrival: int = 0

    @property
    def volume(self) -> int:
        """Tokens held, summed over the steps of the job."""
        return self.prompt * self.output + self.output * (self.output + 1) // 2


Jobs: TypeAlias = "Iterable[Job | Sequence[int]]"
Key: TypeAlias = "str | Callable[[Job], float]"

_KEYS: dict[str, Callable[[Job], Any]] = {
    "arrival": lambda job: job.arrival,
    "output": lambda job: job.output,
    "volume": lambda job: job.volume,
}


@checked(record=True)
@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """When each job starts.

    Parameters
    ----------
    latency : int
        Total latency, steps.
    starts : tuple of int
        Start of each job, in the order given.
    kind, assumptions, source
        As in every result.
    """

    latency: int
    starts: tuple[int, ...]
    kind: Kind
    assumptions: tuple[str, ...]
    source: str


@checked
def solve(jobs: Jobs, memory: int, *, time_limit: float | None = None) -> Schedule:
    """Return a schedule of the least total latency.

    Parameters
    ----------
    jobs : iterable of Job or of (prompt, output[, arrival])
        The jobs.
    memory : int
        KV tokens.
    time_limit : float, optional
        Seconds after which the search stops; ten jobs take seconds, twenty may take very long.

    Returns
    -------
    Schedule
        An optimal one.

    Raises
    ------
    InputError
        No jobs, a job that never fits, or counts that are not whole.
    UndecidedError
        The time limit was reached; carries the bracket ``low``, ``high``.

    Examples
    --------
    >>> jobs = [(2, 3), (1, 5), (4, 2), (3, 4), (2, 2), (1, 1)]
    >>> solve(jobs, memory=12).latency
    23
    """
    known = _jobs(jobs, memory)
    if time_limit is not None and not 0 < time_limit < math.inf:
        raise InputError(f"time_limit must be seconds > 0, got {time_limit!r}", value=time_limit)
    limit = min((heuristic(known, memory, key) for key in _KEYS), key=lambda s: s.latency)
    starts, low = _search(known, memory, limit.latency, time_limit)
    chosen = limit.starts if starts is None else starts
    latency = _latency(known, chosen)
    if _overflows(known, chosen, memory):
        raise InvariantError("a schedule of the integer programme exceeds the memory")
    # Latencies are whole: a bound above the next smaller one proves the optimum.
    if latency > math.ceil(low - 1e-6):
        raise UndecidedError(
            f"the time limit of {time_limit} s leaves the best latency between "
            f"{math.ceil(low - 1e-6)} and {latency}; allow more time or fewer jobs",
            low=math.ceil(low - 1e-6),
            high=latency,
        )
    return Schedule(
        latency=latency,
        starts=chosen,
        kind=Kind.EXACT,
        assumptions=(
            "unit time for each token, no preemption, outputs known",
            "schedule checked in whole numbers; optimality by the bound of HiGHS (floats)",
        ),
        source=_SOURCE,
    )


@checked
def heuristic(jobs: Jobs, memory: int, key: Key = "output") -> Schedule:
    """Return the greedy schedule in the order of a key.

    Parameters
    ----------
    jobs : iterable of Job or of (prompt, output[, arrival])
        The jobs.
    memory : int
        KV tokens.
    key : {"output", "volume", "arrival"} or callable
        Smallest first: shortest output, smallest volume, first come; or a function of a Job. Ties
        go to the job that stands first.

    Returns
    -------
    Schedule
        A feasible schedule: its latency bounds the optimum from above.

    Raises
    ------
    InputError
        No jobs, a job that never fits, counts that are not whole, or an unknown key.

    Examples
    --------
    >>> jobs = [(2, 3), (1, 5), (4, 2), (3, 4), (2, 2), (1, 1)]
    >>> [heuristic(jobs, 12, key).latency for key in ("output", "volume", "arrival")]
    [26, 26, 35]
    """
    known = _jobs(jobs, memory)
    if isinstance(key, str) and key not in _KEYS:
        raise InputError(f"no key {key!r}{nearest(key, _KEYS)}", value=key)
    rank = _KEYS[key] if isinstance(key, str) else key
    ranks = [rank(job) if isinstance(key, str) else _ranked(rank, job) for job in known]
    waiting = sorted(range(len(known)), key=ranks.__getitem__)
    starts: dict[int, int] = {}
    now = 0
    while waiting:
        for i in [i for i in waiting if known[i].arrival <= now]:
            if not _fits(known, starts, i, now, memory):
                break
            starts[i] = now
            waiting.remove(i)
        now += 1
    chosen = tuple(starts[i] for i in range(len(known)))
    return Schedule(
        latency=_latency(known, chosen),
        starts=chosen,
        kind=Kind.INNER_BOUND,
        assumptions=("unit time for each token, no preemption, outputs known", "greedy"),
        source=_SOURCE,
    )


def _ranked(rank: Callable[[Job], float], job: Job) -> float:
    """Rank of a job by a function of the caller, which may fail or return anything."""
    try:
        value = rank(job)
    except Exception as error:
        raise InputError(
            f"key({shown(job)}) failed with {type(error).__name__}: {shown(str(error))}; "
            "key takes a job and returns a number",
            value=job,
        ) from error
    return number("key(job)", value)


@checked
def volume_bound(jobs: Jobs, memory: int) -> Fraction:
    """Return a total latency that no schedule beats.

    Parameters
    ----------
    jobs : iterable of Job or of (prompt, output[, arrival])
        The jobs.
    memory : int
        KV tokens.

    Returns
    -------
    fractions.Fraction
        Steps; where jobs arrive later than the first, what they arrive later is subtracted.

    Raises
    ------
    InputError
        No jobs, a job that never fits, or counts that are not whole.

    Examples
    --------
    >>> volume_bound([(2, 3), (1, 5), (4, 2), (3, 4), (2, 2), (1, 1)], memory=12)
    Fraction(63, 4)
    """
    known = _jobs(jobs, memory)
    ends = sum(accumulate(sorted(job.volume for job in known)))
    first = min(job.arrival for job in known)
    late = sum(job.arrival - first for job in known)
    return Fraction(ends, memory) - late


def _jobs(jobs: Jobs, memory: int) -> tuple[Job, ...]:
    if not _is_whole(memory, 1):
        raise InputError(f"memory must be whole KV tokens, at least 1, got {memory!r}")
    known = []
    if isinstance(jobs, np.ndarray) and jobs.ndim == 0:
        raise InputError(f"jobs must be a list of (prompt, output[, arrival]), got {shown(jobs)}")
    for i, given in enumerate(jobs):
        if not isinstance(given, tuple | list) or not 2 <= len(given) <= 3:
            raise InputError(
                f"job {i} must be (prompt, output[, arrival]), got {shown(given)}", row=i
            )
        for name, value, least in zip(Job._fields, given, (0, 1, 0), strict=False):
            if not _is_whole(value, least):
                raise InputError(
                    f"{name} of job {i} must be a whole number, at least {least}, "
                    f"got {shown(value)}",
                    row=i,
                    field=name,
                    value=value,
                )
        job = Job(*map(int, given))
        if job.prompt + job.output > memory:
            raise InputError(
                f"job {i} never fits: it ends with {job.prompt + job.output} tokens, the memory "
                f"has {memory}; raise the memory or leave the job out",
                row=i,
                value=memory,
            )
        known.append(job)
    if not known:
        raise InputError("a schedule needs at least one job, got none")
    return tuple(known)


def _is_whole(value: object, least: int) -> bool:
    return (
        isinstance(value, int | np.integer)
        and not isinstance(value, bool)
        and least <= int(value) <= TOKENS
    )


def _latency(jobs: Sequence[Job], starts: Sequence[int]) -> int:
    return sum(x + job.output - job.arrival for job, x in zip(jobs, starts, strict=True))


def _held(job: Job, start: int, now: int) -> int:
    """KV tokens of a job at a time."""
    return job.prompt + now - start if start < now <= start + job.output else 0


def _fits(jobs: Sequence[Job], starts: dict[int, int], new: int, now: int, memory: int) -> bool:
    """Whether a job can start now: memory at every end of a job, its own included."""
    running = {i: x for i, x in starts.items() if x + jobs[i].output > now} | {new: now}
    ends = {x + jobs[i].output for i, x in running.items()}
    return all(sum(_held(jobs[i], x, t) for i, x in running.items()) <= memory for t in ends)


def _overflows(jobs: Sequence[Job], starts: Sequence[int], memory: int) -> bool:
    ends = {x + job.output for job, x in zip(jobs, starts, strict=True)}
    held = (sum(_held(j, x, t) for j, x in zip(jobs, starts, strict=True)) for t in ends)
    return max(held) > memory or any(x < j.arrival for j, x in zip(jobs, starts, strict=True))


def _search(
    jobs: Sequence[Job], memory: int, latency: int, time_limit: float | None
) -> tuple[tuple[int, ...] | None, float]:
    """Solve the integer programme: starts if any were found, and a lower bound on the latency."""
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import coo_array

    # A job can wait at most as long as a greedy schedule makes all jobs together wait.
    slack = latency - sum(job.output for job in jobs)
    columns = [(i, a) for i, j in enumerate(jobs) for a in range(j.arrival, j.arrival + slack + 1)]
    last = max(x + jobs[i].output for i, x in columns)
    rows, places, values = [], [], []
    for c, (i, x) in enumerate(columns):
        job = jobs[i]
        rows += [i, *range(len(jobs) + x, len(jobs) + x + job.output)]
        places += [c] * (1 + job.output)
        values += [1, *range(job.prompt + 1, job.prompt + job.output + 1)]
    shape = (len(jobs) + last, len(columns))
    matrix = coo_array((np.asarray(values, dtype=np.float64), (rows, places)), shape=shape).tocsr()
    least = np.concatenate((np.ones(len(jobs)), np.full(last, -np.inf)))
    most = np.concatenate((np.ones(len(jobs)), np.full(last, float(memory))))
    done = milp(
        np.asarray([float(x + jobs[i].output - jobs[i].arrival) for i, x in columns]),
        constraints=LinearConstraint(matrix, least, most),
        integrality=np.ones(len(columns), dtype=np.int64),
        bounds=Bounds(0, 1),
        options={"mip_rel_gap": 0.0, "time_limit": time_limit or math.inf},
    )
    low = done.mip_dual_bound
    bound = sum(job.output for job in jobs) if low is None or not math.isfinite(low) else low
    if done.x is None:
        return None, float(bound)
    starts = {columns[c][0]: columns[c][1] for c in np.flatnonzero(done.x > 0.5)}
    return tuple(starts[i] for i in range(len(jobs))), float(bound)
