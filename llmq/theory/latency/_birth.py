r"""The averaged engine of llm-inferno: a finite queue whose service slows with the batch.

Requests of ``s`` prompt and ``o`` output tokens, a prompt in one iteration. An iteration with ``k``
requests takes :math:`\alpha + k \delta` with the means over the life of a request

.. math:: \delta = \beta \frac{s + o}{o + 1} + \gamma \Bigl(s + \frac o2\Bigr),

so ``k`` requests take :math:`\tau(k) = (1 + o)(\alpha + k \delta)`. The number present is a birth
and death chain on ``0 .. B + queue`` with births :math:`\lambda` and deaths
:math:`\min(n, B) / \tau(\min(n, B))`; arrivals that find it full are lost. Means over accepted
requests follow by Little.

Formulas as of June 2026 in llm-inferno's queue-analysis; an approximation: it takes every request
for one of mean size that meets a batch of mean composition. Not covered: chunked prefill.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from llmq._input.checked import checked
from llmq._limits import SERVERS
from llmq.result import Kind
from llmq.theory.latency._base import Law, check_number, check_whole

__all__ = ["BirthDeath", "birth_death"]


@checked(record=True)
@dataclass(frozen=True, slots=True, kw_only=True)
class BirthDeath(Law):
    """Delay of an engine with a finite queue, averaged over compositions.

    Parameters
    ----------
    rate : float
        Requests offered per unit of time.
    step : float
        Time of an iteration that one request more adds.
    throughput : float
        Requests accepted and served per unit of time.
    p_loss : float
        Probability that an arrival finds the queue full.
    p_empty : float
        Probability that nobody is present.
    mean : float
        Mean requests present.
    in_service : float
        Mean requests in the batch.
    kind, assumptions, source
        As in every result.
    """

    rate: float
    step: float
    throughput: float
    p_loss: float
    p_empty: float
    mean: float
    in_service: float

    @property
    def sojourn(self) -> float:
        """Mean time from arrival to the last token, of accepted requests."""
        return self.mean / self.throughput

    @property
    def service(self) -> float:
        """Mean time in the batch."""
        return self.in_service / self.throughput

    @property
    def wait(self) -> float:
        """Mean time in the queue."""
        return (self.mean - self.in_service) / self.throughput


@checked
def birth_death(
    rate: float,
    prompt: float,
    output: float,
    *,
    base: float,
    per_token: float,
    per_kv: float,
    max_seqs: int,
    queue: int,
) -> BirthDeath:
    """Return the delay of an engine with a finite queue by llm-inferno's averaged chain.

    Parameters
    ----------
    rate : float
        Poisson arrivals per unit of time.
    prompt : float
        Mean prompt tokens.
    output : float
        Mean output tokens.
    base : float
        Time of an iteration beside its tokens (alpha).
    per_token : float
        Time of a token computed (beta).
    per_kv : float
        Time of a KV token read (gamma).
    max_seqs : int
        Most requests in the batch.
    queue : int
        Most requests that wait.

    Returns
    -------
    BirthDeath
        An approximation.

    Raises
    ------
    InputError
        A number that is out of its domain.

    Examples
    --------
    >>> law = birth_death(0.003, 128, 512, base=12, per_token=0.05, per_kv=0.0005,
    ...                   max_seqs=48, queue=128)
    >>> law.sojourn, law.wait
    (10348.36747787, 21.40538716)
    """
    rate, s = check_number("rate", rate), check_number("prompt", prompt)
    o, alpha = check_number("output", output), check_number("base", base)
    beta = check_number("per_token", per_token, zero=True)
    gamma = check_number("per_kv", per_kv, zero=True)
    slots = check_whole("max_seqs", max_seqs, most=SERVERS)
    places = check_whole("queue", queue, 0, SERVERS)
    step = beta * (s + o) / (o + 1) + gamma * (s + o / 2)
    n = np.arange(slots + places + 1)
    batch = np.minimum(n, slots)
    time = (1 + o) * (alpha + batch[1:] * step)
    logs = np.concatenate(([0.0], np.cumsum(np.log(rate * time / batch[1:]))))
    p = np.exp(logs - logs.max())
    p /= p.sum()
    return BirthDeath(
        rate=rate,
        step=step,
        throughput=rate * float(p[:-1].sum()),
        p_loss=float(p[-1]),
        p_empty=float(p[0]),
        mean=float(p @ n),
        in_service=float(p @ batch),
        kind=Kind.APPROXIMATION,
        assumptions=(
            "Poisson arrivals, lost when the queue is full",
            "every request of mean size",
            "prompt in one iteration",
            "iterations of the mean composition",
        ),
        source="llm-inferno queue-analysis (June 2026); theory core O26",
    )
