r"""How long a path must be: the relaxation time of a queue.

A path starts empty, and near saturation it forgets that only slowly. In heavy traffic the work of a
queue is a Brownian motion with reflection. With load :math:`\rho` and ``D`` the index of dispersion
of the arrivals plus the squared coefficient of variation of the work of a request, its unit of time
is, in requests,

.. math:: \ell = \rho^2 D / (1 - \rho)^2 .

The mean of a stretch of ``n`` requests has the variance of ``n`` / :math:`\ell` independent
observations, and what is left of the empty start decays like :math:`e^{-n / (2 \ell)}` (Abate and
Whitt 1987). In light traffic requests depend on each other all the same, so :math:`1 + D` is
added. One unit is called a *look*.

*Warm-up*: the bias must be small against an interval that shrinks with the number ``R`` of paths,
so :math:`\max(2, 2 \log R)` looks are dropped. *Length*: an interval needs at least 100 looks in
all paths together. Queues side by side, each with its own arrivals (round robin, random), relax one
by one: a warm-up takes as many times more requests.

*Slots* fill up slowly too: requests decode for long, and the number that does is level only after
the longest stays. Three times the 99 % point of the time from the end of the prefill to the last
token is dropped, and a path must be 20 times as long before it is judged. *Closed clients* all send
at the start: three rounds of all users are dropped, and a path must have eight.

The load is that of the outer bound, so a policy that carries less relaxes more slowly than this
says. :func:`llmq.sim.results._stability.judge` therefore also looks at what the path shows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from llmq.model.lengths import Lengths
from llmq.model.request import RequestClass

__all__ = ["LOOKS", "Relaxation", "dispersion_of_work", "rounds", "unit"]

# Independent looks at the system behind an interval.
LOOKS = 100
# Of a path: stays that are dropped, and that it must last.
DROPPED, STAYS = 3, 20
ROUNDS = 8
# Longer paths than this are not proposed: "near saturation" says it.
ENDLESS = 2**50


@dataclass(frozen=True, slots=True)
class Relaxation:
    """Requests that a path needs.

    Examples
    --------
    >>> md1 = Relaxation(look=unit(0.95, 1.0), dispersion=1.0)
    >>> md1.start(paths=64), md1.length(paths=64), md1.length(paths=1)
    (3020, 3588, 37026)
    """

    look: float  # requests of all traffic after which the system looks anew
    queues: int = 1  # queues side by side, each with its own arrivals
    # requests that arrive while one decodes (99 % point), or users of a closed loop
    stay: float = 0.0
    stays: int = STAYS  # how many of these a path must last
    dispersion: float = 1.0  # ``D``: of the arrivals and the work together

    def start(self, paths: int) -> int:
        """Count the requests to drop from the start of a path."""
        looks = max(2.0, 2 * math.log(paths))
        return _whole(self.queues * self.look * looks + DROPPED * self.stay)

    def length(self, paths: int) -> int:
        """Fewest requests of a path before anything is said of the stationary system."""
        measured = LOOKS * self.look / paths
        return max(_whole(self.start(paths) + measured + self.stay), _whole(self.stays * self.stay))

    def critical(self, requests: int) -> float:
        """Say how much the backlog of a queue at load 1 grows over the second half of a path."""
        whole = math.sqrt(2 * self.dispersion * self.queues * requests / math.pi)
        return whole * (1 - math.sqrt(0.5))


def _whole(number: float) -> int:
    return math.ceil(number) if number < ENDLESS else ENDLESS


def unit(load: float, dispersion: float) -> float:
    """Count the requests after which a queue looks anew.

    Examples
    --------
    >>> unit(0.5, 1.0), unit(0.9, 1.0)
    (3.0, 83.0)
    """
    if not load < 1:
        return math.inf
    return load**2 * dispersion / (1 - load) ** 2 + 1 + dispersion


def dispersion_of_work(mix: Mapping[str, RequestClass], rates: Mapping[str, float]) -> float:
    """Squared coefficient of variation of the work of a request.

    Examples
    --------
    >>> mix = {"a": RequestClass(100, 10), "b": RequestClass(300, 10)}
    >>> dispersion_of_work(mix, {"a": 1.0, "b": 1.0})
    0.25
    """
    whole = sum(rates[name] for name in mix)
    if not 0 < whole < math.inf:
        return 0.0
    found = 0.0
    for column in ("prompt", "output"):
        moments = np.zeros(2)
        for name, one in mix.items():
            moments += rates[name] / whole * np.array(_moments(getattr(one, column)))
        if moments[0] > 0:
            found = max(found, float(moments[1] / moments[0] ** 2) - 1)
    return found


def _moments(law: Lengths) -> tuple[float, float]:
    values = law.values.astype(np.float64)
    weights = law.weights
    if weights is None:
        return float(values.mean()), float(np.mean(values**2))
    return float(weights @ values), float(weights @ values**2)


def rounds(users: int) -> Relaxation:
    """Relaxation of closed clients."""
    return Relaxation(look=1.0, stay=float(users), stays=ROUNDS)
