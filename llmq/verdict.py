r"""Is a policy throughput-optimal? A sequential test with stated error rates, network by network.

At a load below 1 a throughput-optimal policy keeps the backlog tight; an unstable one lets a share
``delta`` of the arrivals pile up for ever. The test looks at the growth of the number present over
the second half of ever longer paths, in independent replications: after each look the interval of
the share that piles up, at a level split over all looks (Bonferroni), is compared with a threshold.

* ``stable``: the interval lies below the threshold. If the policy lets more than the threshold pile
  up, this is said with probability at most ``alpha``.
* ``grows``: it lies above, in two looks one after the other, and the share has not fallen by half:
  that of a stable policy falls in inverse proportion to the length of the path.
* ``undecided``: neither, after the last look.

Tests of this kind refute; "stable on 1,000 networks" is evidence, not proof. A theorem, where there
is one, stands beside it in ``proofs/THEOREMS.md``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from llmq.errors import InputError
from llmq.networks import Network
from llmq.policies import Policy
from llmq.result import Estimate, Kind
from llmq.rng import RngLike, seed_sequence
from llmq.sim.run import simulate
from llmq.sim.stats import student

__all__ = ["StabilityTest", "piled_up", "stability_test"]


@dataclass(frozen=True, slots=True)
class StabilityTest:
    """What the test of a policy on a network said.

    Parameters
    ----------
    status : {"stable", "grows", "undecided"}
        The answer.
    share : Estimate
        Share of the arrivals that pile up, at the last look.
    requests : int
        Requests of a path at the last look.
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
        "a stable policy's share falls with the length of the path",
    )

    def __str__(self) -> str:
        return (
            f"{self.status} at load {self.load:.3g}: {100 * self.share.mean:.2g} % of the arrivals "
            f"pile up ± {100 * self.share.half_width:.2g} (n = {self.share.n} paths of "
            f"{self.requests}, each error at most {self.alpha:g})"
        )


def piled_up(
    arrival: npt.NDArray[np.float64], finish: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Share of the arrivals of the second half of each path that piled up.

    Parameters
    ----------
    arrival, finish : ndarray, shape (replications, n)
        Seconds.

    Returns
    -------
    ndarray, shape (replications,)
        Change of the number present, over the arrivals.

    Examples
    --------
    >>> came = np.arange(1.0, 101.0)[None]
    >>> piled_up(came, 2 * came)
    array([0.5])
    """
    n = arrival.shape[1]
    half = n // 2
    gone = np.sort(finish, axis=1)
    found = np.empty(len(arrival))
    for r in range(len(arrival)):
        left = np.searchsorted(gone[r], (arrival[r, half - 1], arrival[r, -1]), "right")
        found[r] = 1 - (left[1] - left[0]) / (n - half)
    return found


def stability_test(
    policy: Policy,
    network: Network,
    load: float,
    *,
    alpha: float = 0.01,
    threshold: float = 0.01,
    replications: int = 16,
    requests: int = 200,
    looks: int = 6,
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
    threshold : float
        Share of the arrivals that may pile up.
    replications : int
        Independent paths, at least 3.
    requests : int
        Requests of a path at the first look; every look doubles it.
    looks : int
        At most so many.
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
        A load outside (0, 2), fewer than 3 replications, no looks.

    Examples
    --------
    >>> from llmq.networks import draw_network
    >>> from llmq.policies import Sarathi
    >>> stability_test(Sarathi(), draw_network(1), 0.8, rng=1).status
    'stable'
    """
    if replications < 3 or looks < 1 or not 0 < alpha < 0.5:
        raise InputError(
            "a stability test needs at least 3 replications, 1 look and alpha in (0, 0.5), got "
            f"{replications}, {looks} and {alpha}"
        )
    traffic, root = network.at(load, deterministic=deterministic), seed_sequence(rng)
    above, share, n = math.nan, Estimate(math.nan, math.inf, 0), requests
    for look, seed in enumerate(root.spawn(looks)):
        n = requests * 2**look
        run = simulate(
            network.engine, traffic, policy, replications=replications, requests=n, rng=seed
        )
        parts = piled_up(run.requests.arrival, run.requests.finish)
        # Both errors are one-sided, so each look has the level alpha / looks on either side.
        half = student(parts, 1 - 2 * alpha / looks)
        share = Estimate(float(parts.mean()), half, replications, "replications")
        if share.high < threshold:
            return StabilityTest("stable", share, n, load, alpha)
        grows = share.low > threshold
        if grows and share.mean > above / 2:
            return StabilityTest("grows", share, n, load, alpha)
        above = share.mean if grows else math.nan
    return StabilityTest("undecided", share, n, load, alpha)
