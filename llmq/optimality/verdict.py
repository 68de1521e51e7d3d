r"""Is a policy throughput-optimal? A sequential test with stated error rates, network by network.

**What is measured.** A path starts with many requests waiting and goes on with arrivals at the
load. Let ``S(T)`` be the work (tokens) served by the last arrival, at time ``T``, and ``w`` the
work that arrives per second; then

.. math:: \text{share} = 1 - S(T) / (w\,T)

is the share of the work offered that piles up: negative while the backlog melts, positive where it
grows. Only the queue's head matters to a policy that serves first come first served, so as long as
requests wait its engine does not see the arrivals at all: it serves at a rate of its own, and is
stable at lower and unstable at higher offered rates (saturation rule; Baccelli and Foss 1995), so a
path that starts full decides sooner. Of a policy that looks at the whole queue a share below 0 is
the fluid criterion in one direction only.

**How it is decided.** Independent replications start with different numbers waiting, so that
cycles do not fall in step. After each look, at paths twice as long as before, the interval of the
share, at level ``alpha / looks`` on either side (Bonferroni), is compared with 0.

* ``stable``: it lies below 0, in two looks one after the other, and has not come nearer by half.
* ``grows``: it lies above 0, in two looks one after the other, and has not come nearer by half.
* ``undecided``: neither, after the last look.

What the first fill and requests in progress at ``T`` add falls in inverse proportion to the length
of the path; a sign that is due to it alone comes nearer by more than half.

**What many networks say.** Where ``k`` of ``n`` networks drawn at random are not called stable,
the share ``p`` of such networks on which the policy fails is bounded by the exact binomial limit:
each of them is called stable with probability ``alpha`` at most, so that ``p (1 - alpha)`` is at
most the chance of a bad answer (:func:`failure_bound`); for ``k = 0`` and 95 % about ``3 / n``.

Each wrong answer has probability at most ``alpha`` where means are normal and the first fill has
passed; ``experiments/verdicts.py`` counts the wrong ones. Tests of this kind refute; "stable on
1,000 networks" is evidence, not proof. Where the hypotheses of a theorem in ``proofs/THEOREMS.md``
hold, :func:`theorem` names it.
"""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from llmq._input.checked import checked
from llmq.errors import InputError
from llmq.model.workload import Workload
from llmq.optimality.networks import Network
from llmq.optimality.networks.fleet import FleetNetwork
from llmq.policies import RAD, SLAI, MaxWeight, Policy, Priority, Sarathi
from llmq.policies.contract.settings import effective
from llmq.result import Estimate, Kind
from llmq.rng import RngLike, seed_sequence
from llmq.sim._fast.calendar.jump import NotTogetherError
from llmq.sim.results._stats import student
from llmq.sim.results.run import Run
from llmq.sim.simulate import simulate

__all__ = ["StabilityTest", "failure_bound", "served", "shares", "stability_test", "theorem"]


@dataclass(frozen=True, slots=True)
class StabilityTest:
    """What the test of a policy on a network said.

    Parameters
    ----------
    status : {"stable", "grows", "undecided"}
        The answer.
    share : Estimate
        Share of the work offered that piles up, at the last look; negative where backlog melts.
    requests : int
        Arrivals of a path at the last look, beside those that waited at the start.
    load : float
        Offered load.
    alpha : float
        Most probability of each wrong answer.
    kind, assumptions
        As in every result.
    """

    status: str
    share: Estimate
    requests: int
    load: float
    alpha: float
    kind: Kind = Kind.SIMULATED
    assumptions: tuple[str, ...] = (
        "replications are independent; their means are nearly normal",
        "paths start with requests waiting; the first fill has passed",
    )

    def __str__(self) -> str:
        share = 100 * self.share.mean
        words = f"{abs(share):.2g} % of the work {'piles up' if share > 0 else 'melts'}"
        return (
            f"{self.status} at load {self.load:.3g}: {words} ± {100 * self.share.half_width:.2g} "
            f"(n = {self.share.n} paths of {self.requests}, each error at most {self.alpha:g})"
        )


def served(run: Run, time: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Work served by a time, in each replication.

    Parameters
    ----------
    run : Run
        A run.
    time : ndarray, shape (replications,)
        Seconds.

    Returns
    -------
    ndarray, shape (replications,)
        Tokens that iterations processed: those of a prompt count when it is complete; decodes when
        they came, or evenly from the first to the last where the run recorded no token times.

    Examples
    --------
    >>> from llmq.optimality.networks import draw_network
    >>> network = draw_network(1)
    >>> run = simulate(network.engine, network.at(0.5), requests=50, rng=1)
    >>> served(run, run.requests.finish.max(axis=1)).tolist() == [run.tallies[0][0].tokens]
    True
    """
    begun, end = run.requests.prefill_end, run.requests.finish
    if run.requests.token_times is not None:
        return _recorded(run, time)
    now = np.minimum(time[:, None], end)
    part = np.divide(now - begun, end - begun, out=np.ones(end.shape), where=end > begun)
    decodes = run.requests.output - 1 + run.engines[0].conventions.lag
    work = (run.prompt + decodes * part) * (begun <= now)
    return np.asarray(work.sum(axis=1), dtype=np.float64)


def _recorded(run: Run, time: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    times, offsets = run.requests.token_times, run.requests.token_offsets
    assert times is not None
    assert offsets is not None
    begun = run.requests.prefill_end <= time[:, None]
    size, n = begun.shape
    ends = offsets[::n]
    found = np.asarray((run.prompt * begun).sum(axis=1), dtype=np.float64)
    for r in range(size):
        # The token that comes with the end of the prefill is no work of its own.
        free = 0 if run.engines[0].conventions.lag else int(begun[r].sum())
        found[r] += np.count_nonzero(times[ends[r] : ends[r + 1]] <= time[r]) - free
    return found


@checked
def stability_test(
    policy: Policy,
    network: Network,
    load: float,
    *,
    alpha: float = 0.01,
    replications: int = 8,
    requests: int | None = None,
    looks: int = 8,
    deterministic: bool = False,
    rng: RngLike = None,
) -> StabilityTest:
    """Test whether a policy carries a load on a network.

    Parameters
    ----------
    policy : Policy
        The policy.
    network : Network
        Engine, classes, rates at load 1.
    load : float
        Between 0 and 2.
    alpha : float
        Most probability of each wrong answer.
    replications : int
        Independent paths, at least 3.
    requests : int, optional
        Arrivals of a path at the first look, as many as fill the engine if not given; every look
        doubles it. With limits of slots or memory at least four times as many as these can hold.
    looks : int
        At most so many, at least 2.
    deterministic : bool
        Equal gaps between arrivals.
    rng : Generator, SeedSequence, int or None
        Source of randomness.

    Returns
    -------
    StabilityTest
        The answer with its share and error rate.

    Raises
    ------
    InputError
        A load outside (0, 2), fewer than 3 replications, fewer than 2 looks.

    Examples
    --------
    >>> from llmq.optimality.networks import draw_network
    >>> from llmq.policies import Sarathi
    >>> stability_test(Sarathi(), draw_network(1), 0.8, rng=1).status
    'stable'
    """
    first = max(_fill(network), requests or max(50, network.engine.token_budget))
    if replications < 3 or looks < 2 or first < 2 or not 0 < alpha < 0.5:
        raise InputError(
            "a stability test needs at least 3 replications, 2 looks, 2 requests and alpha in "
            f"(0, 0.5), got {replications}, {looks}, {first} and {alpha}"
        )
    network.at(load)  # checks it
    before, share, n = math.nan, Estimate(math.nan, math.inf, 0), first
    for look, seed in enumerate(seed_sequence(rng).spawn(looks)):
        n = first * 2**look
        parts = shares(
            policy,
            network,
            load,
            n,
            replications=replications,
            deterministic=deterministic,
            rng=seed,
        )
        half = student(parts, 1 - 2 * alpha / looks)
        share = Estimate(float(parts.mean()), half, replications, "replications")
        sign = (share.low > 0) - (share.high < 0)
        if sign and before * sign > 0 and abs(share.mean) > abs(before) / 2:
            return StabilityTest("grows" if sign > 0 else "stable", share, n, load, alpha)
        before = share.mean if sign else math.nan
    return StabilityTest("undecided", share, n, load, alpha)


def shares(
    policy: Policy,
    network: Network,
    load: float,
    n: int,
    *,
    replications: int = 8,
    deterministic: bool = False,
    rng: RngLike = None,
) -> npt.NDArray[np.float64]:
    """Share of the work offered that piles up on each path.

    Parameters
    ----------
    policy : Policy
        The policy.
    network : Network
        Engine, classes, rates at load 1.
    load : float
        Between 0 and 2.
    n : int
        Arrivals of a path; between a half and three quarters as many wait at the start.
    replications : int
        Independent paths.
    deterministic : bool
        Equal gaps between arrivals.
    rng : Generator, SeedSequence, int or None
        Source of randomness.

    Returns
    -------
    ndarray, shape (replications,)
        Negative where the backlog melts.

    Examples
    --------
    >>> from llmq.optimality.networks import draw_network
    >>> from llmq.policies import Sarathi
    >>> shares(Sarathi(), draw_network(1), 1.25, 400, replications=2, rng=1)
    array([0.2..., 0.2...])
    """
    lag = network.engine.conventions.lag
    offered = sum(
        rate * (network.mix[name].prompt.mean + network.mix[name].output.mean - 1 + lag)
        for name, rate in network.rates.items()
    )
    found = np.empty(replications)
    for r, own in enumerate(seed_sequence(rng).spawn(replications)):
        waiting = n // 2 + n * r // (4 * replications)
        traffic = network.at(load, deterministic=deterministic, first=waiting)
        run = _path(policy, network, traffic, waiting + n, own)
        last = run.requests.arrival[:, -1]
        found[r] = 1 - float((served(run, last) / last).item()) / (load * offered)
    return found


def _fill(network: Network) -> int:
    """Count the requests of a path that is not mostly the first fill of slots or memory."""
    engine = network.engine
    half = min(one.prompt.mean + one.output.mean / 2 for one in network.mix.values())
    held = min(engine.max_seqs or math.inf, (engine.kv_tokens or math.inf) / half)
    return 4 * int(held) if held < math.inf else 2


def failure_bound(failed: int, n: int, *, alpha: float = 0.01, level: float = 0.95) -> float:
    """Bound the share of networks on which a policy fails, from tests on some of them.

    Parameters
    ----------
    failed : int
        Networks that were not called stable, undecided ones too.
    n : int
        Networks tested, drawn independently.
    alpha : float
        Most probability that the test calls a growing backlog stable.
    level : float
        Confidence, one-sided.

    Returns
    -------
    float
        At most 1.

    Raises
    ------
    InputError
        Counts or probabilities that cannot be.

    Examples
    --------
    >>> round(failure_bound(0, 1000, alpha=0.0), 5)
    0.00299
    """
    if not (0 <= failed <= n and n >= 1 and 0 <= alpha < 1 and 0 < level < 1):
        raise InputError(
            "a bound needs 0 <= failed <= n, n of 1 at least, alpha in [0, 1) and level in (0, 1), "
            f"got {failed}, {n}, {alpha} and {level}"
        )
    from scipy.special import betaincinv

    limit = 1.0 if failed == n else float(betaincinv(failed + 1, n - failed, level))
    return min(limit / (1 - alpha), 1.0)


def theorem(policy: Policy, network: Network | FleetNetwork) -> str | None:
    """Name the entry of ``proofs/THEOREMS.md`` that proves a policy stable below load 1.

    The theorems are about one engine without limits of memory and slots: with one of them a batch
    cannot always be filled, however much work waits.

    Parameters
    ----------
    policy : Policy
        The policy, fitted to the engine.
    network : Network or FleetNetwork
        The network.

    Returns
    -------
    str or None
        None where no hypothesis holds: the policy may still be optimal.

    Examples
    --------
    >>> from llmq.optimality.networks import draw_network
    >>> from llmq.policies import MaxWeight, Sarathi
    >>> network = draw_network(0, mismatched=True)
    >>> theorem(Sarathi(), network), theorem(MaxWeight(), network)
    (None, 'S1')

    A memory of eight tokens, where requests outgrow what was admitted:

    >>> from llmq.optimality.networks.memory import MemorySketch
    >>> theorem(Sarathi(), MemorySketch(1, 2, 0, 3, 8, ((1, 6),)).network()) is None
    True
    """
    from llmq.theory.region.tiling import best_batch

    if isinstance(network, FleetNetwork):
        return None
    engine = network.engine
    if engine.max_seqs is not None or engine.kv_tokens is not None:
        return None
    budget = min(effective(engine, policy).token_budget, engine.token_budget)
    law, whole = engine.law, best_batch(engine.law, engine.token_budget)
    if engine.prefix_cache or law.per_kv or law.per_kv_mixed or law.per_work:
        return None
    full = budget / law.exact()(budget) == whole.exact_rate
    if isinstance(policy, Sarathi | Priority):
        return "S1" if full else None
    if isinstance(policy, SLAI):
        return "WC" if full and policy.decodes >= budget else None
    if isinstance(policy, MaxWeight):
        return "S1" if best_batch(law, budget).exact_rate == whole.exact_rate else None
    if isinstance(policy, RAD):
        chunk = policy.chunk or policy.tile
        fixed = [one.prompt for one in network.mix.values()]
        tiles = all(one.is_fixed and one.low % chunk == 0 for one in fixed)
        best = chunk == policy.tile == whole.tokens <= budget
        return "RAD2" if tiles and best and policy.cycle is None else None
    return None


def _path(
    policy: Policy, network: Network, traffic: Workload, n: int, seed: np.random.SeedSequence
) -> Run:
    """Simulate fast where all decodes advance together, else with the times of all tokens."""
    one = network.engine
    if policy.blocks.together is not None:
        with suppress(NotTogetherError):
            return simulate(one, traffic, policy, requests=n, rng=seed, simulator="calendar")
    return simulate(one, traffic, policy, requests=n, rng=seed, record="tokens")
