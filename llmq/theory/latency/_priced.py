r"""Delay near saturation: requests priced in engine time make an M/G/1 queue.

Near the boundary of the stability region one resource binds, and its prices turn a request into an
amount of engine time: ``w_j`` is what the binding facet charges a request of class ``j`` with its
own prompt and output (mean: the price of the class). If the binding facet is unique (complete
resource pooling) the priced workload behaves as that of an M/G/1 queue,

.. math:: E[W] = \frac{\sum_j \lambda_j E[w_j^2]}{2 (1 - \rho)}, \qquad
          P(W > x) \approx \rho e^{-\rho x / E[W]} ,

so second moments of the lengths, not only means, decide the delay. It is exact where requests are
served one by one in full batches: M/G/1 and M/D/1. In Bailey's slots it gives 4.5 where the queue
is 3.864 (load 0.9) and 24.5 where it is 23.799 (0.98): an error that stays bounded as the delay
grows.

``W`` is the work in front of an arrival. A first token takes in addition the iteration in progress
and the own prefill. With several engines requests are split evenly at random; joining the shortest
queue does better.

Reference: theory core 5.1; Harrison, heavy traffic of processing networks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from llmq._input.checked import checked
from llmq.errors import InputError
from llmq.model.request import RequestClass
from llmq.result import Kind
from llmq.theory.latency._base import Law, check_number, check_share, check_stable
from llmq.theory.needs._facets import Facet
from llmq.theory.needs._held import parts_of_blocks, prefill_area, prefill_blocks, read_rates
from llmq.theory.needs._rates import Rates, rate_vector
from llmq.theory.region import Region

__all__ = ["PricedWorkload", "priced_workload"]

Floats: TypeAlias = npt.NDArray[np.float64]


@checked(record=True)
@dataclass(frozen=True, slots=True, kw_only=True)
class PricedWorkload(Law):
    """Work in front of an arrival, in engine time.

    Parameters
    ----------
    classes : tuple of str
        Request classes.
    resource : str
        What binds: its prices are used.
    load : float
        Fraction of the capacity used.
    means : tuple of float
        Mean engine time of a request, by class.
    second_moments : tuple of float
        Mean square of it.
    wait : float
        Mean work in front of an arrival.
    kind, assumptions, source
        As in every result.
    """

    classes: tuple[str, ...]
    resource: str
    load: float
    means: tuple[float, ...]
    second_moments: tuple[float, ...]
    wait: float

    @checked
    def tail(self, x: float) -> float:
        """Probability of more than ``x`` of work, by the exponential law of heavy traffic.

        Parameters
        ----------
        x : float
            A time, at least 0.

        Returns
        -------
        float
            ``load * exp(-load * x / wait)``.
        """
        return self.load * math.exp(-self.load * check_number("x", x, zero=True) / self.wait)

    @checked
    def quantile(self, q: float) -> float:
        """Quantile of the work in front of an arrival, by the same law.

        Parameters
        ----------
        q : float
            Strictly between 0 and 1.

        Returns
        -------
        float
            0 where at least a share ``q`` finds none.
        """
        p = 1 - check_share("q", q)
        return max(0.0, math.log(self.load / p) * self.wait / self.load)


@checked
def priced_workload(
    region: Region, rates: Rates, mix: Mapping[str, RequestClass] | None = None
) -> PricedWorkload:
    """Return the delay near saturation from the prices of a stability region.

    Parameters
    ----------
    region : Region
        The region by the closed form; the facet that binds at these rates gives the prices.
    rates : mapping of str to float or Fraction
        Requests per second by class, not all 0.
    mix : mapping of str to RequestClass, optional
        The classes that the region was made of: their second moments are needed. Those of the
        region if not given.

    Returns
    -------
    PricedWorkload
        Asymptotic: the error is small against the wait as the load tends to 1.

    Raises
    ------
    InputError
        Unknown or missing class, rates that are all 0, another mix than that of the region, or the
        region of a fleet whose pools differ.
    UnstableError
        The rates lie on or outside the boundary.

    Examples
    --------
    >>> from llmq.model.time.batchtime import BatchTime
    >>> from llmq.model.engine import Engine
    >>> from llmq.theory.region import stability_region
    >>> engine = Engine(BatchTime.affine(base=0.0125, per_token=2.5e-5), token_budget=500)
    >>> mix = {"chat": RequestClass(prompt=401, output=100)}
    >>> delay = priced_workload(stability_region(engine, mix), {"chat": 32.0})
    >>> delay.load, delay.means, delay.wait
    (0.8, (0.025,), 0.05)
    """
    if not isinstance(region, Region):
        raise InputError(
            "the delay near saturation is that of one pool of equal engines: pass "
            f"llmq.stability_region(engine, mix), got {type(region).__name__}",
            value=region,
        )
    mix = region.mix if mix is None else mix
    vector = rate_vector(rates, region.classes)
    if set(mix) != set(region.classes):
        raise InputError(
            f"mix must have the classes of the region, {', '.join(region.classes)}; "
            f"got {', '.join(map(str, mix))}",
            value=tuple(mix),
        )
    load = region.load(rates)
    if load == 0:
        raise InputError("all rates are 0: nothing binds and nobody waits", value=rates)
    check_stable("the delay", load, "lower the rates or add engines, see region.binding(rates)")
    facet = max(region.facets(), key=lambda f: float(np.dot(f.weights, vector)))
    moments = [_moments(region, facet, mix[name]) for name in region.classes]
    means, squares = zip(*moments, strict=True)
    if not np.allclose(means, facet.weights, rtol=1e-9, atol=0):
        raise InputError(
            f"mix is not that of the region: its mean prices are {means}, the region charges "
            f"{facet.weights}",
            value=tuple(mix),
        )
    split = float(np.dot(vector, squares)) / region.engines
    return PricedWorkload(
        classes=region.classes,
        resource=facet.resource,
        load=load,
        means=means,
        second_moments=squares,
        wait=split / (2 * (1 - load)),
        kind=Kind.ASYMPTOTIC,
        assumptions=(
            "Poisson arrivals",
            "one resource binds (complete resource pooling)",
            "load -> 1",
            "first come first served by work",
            *region.assumptions,
        ),
        source="theory core 5.1",
    )


def _moments(region: Region, facet: Facet, request: RequestClass) -> tuple[float, float]:
    """Mean and mean square of what the facet charges a request."""
    s, d = request.prompt, request.output
    if request.paired:
        steps = region.engine.conventions.decode_iterations(d.values)
        alpha, beta, cross = _charges(region, facet, s.values, steps)
        price = alpha + beta + cross * steps
        if _block(region, facet) > 1:
            price += _ahead(region, facet, s.values, steps)
        share = s.probabilities
        return float(share @ price), float(share @ price**2)
    # Prompts alike beyond their whole blocks: what they cost is linear in what the decodes cost.
    residues = s.values % _block(region, facet)
    found = [
        _apart(region, facet, request, residues == rest) for rest in np.unique(residues).tolist()
    ]
    mean, square = np.sum(found, axis=0)
    return float(mean), float(square)


def _apart(
    region: Region, facet: Facet, request: RequestClass, some: npt.NDArray[np.bool_]
) -> tuple[float, float]:
    """Return what prompts with one residue add to mean and mean square; independent lengths."""
    steps = region.engine.conventions.decode_iterations(request.output.values)
    prompt = request.prompt.values[some]
    alpha, beta, cross = _charges(region, facet, prompt, steps)
    if _block(region, facet) > 1:
        beta = beta + _ahead(region, facet, prompt[:1], steps)
    p, q = request.prompt.probabilities[some], request.output.probabilities
    mean = p @ alpha + p.sum() * (q @ beta) + (p @ cross) * (q @ steps)
    square = p @ alpha**2 + p.sum() * (q @ beta**2) + 2 * (p @ alpha) * (q @ beta)
    square += (p @ cross**2) * (q @ steps.astype(np.float64) ** 2)
    square += 2 * (p @ (cross * alpha)) * (q @ steps) + 2 * (p @ cross) * (q @ (beta * steps))
    return float(mean), float(square)


def _block(region: Region, facet: Facet) -> int:
    """Tokens of the blocks that the facet charges."""
    return region.engine.kv_block if facet.prices.area else 1


def _charges(
    region: Region, facet: Facet, prompt: npt.NDArray[np.int64], steps: npt.NDArray[np.int64]
) -> tuple[Floats, Floats, Floats]:
    """Charge of the prompts, of the decodes, and of a decode for each prompt."""
    engine, law, each = region.engine, region.engine.law, facet.prices
    rules, block, memory = engine.conventions.area, _block(region, facet), float(each.area)
    first, then = read_rates(law)
    s, d = prompt.astype(np.float64), steps.astype(np.float64)
    held = float(block) * prefill_blocks(prompt, engine.chunk, rules, block)
    alpha = float(each.prompt) * s + float(each.chunk) * np.ceil(s / engine.chunk)
    alpha += memory * held + first * prefill_area(prompt, engine.chunk, rules)[1]
    alpha += float(law.per_work) * s * s / 2
    beta = float(each.decode) * d + then * d * (d + 1) / 2
    beta += memory * block * parts_of_blocks(prompt[:1], steps, block)[1][2]
    return alpha, beta, then * s + memory * block * (prompt // block)


def _ahead(
    region: Region, facet: Facet, prompt: npt.NDArray[np.int64], steps: npt.NDArray[np.int64]
) -> Floats:
    """Charge of the blocks that decodes take earlier because the prompt ends inside a block."""
    block = _block(region, facet)
    (_, rest), (rounds, some, _) = parts_of_blocks(prompt, steps, block)
    more = float(block) * (rest * rounds + np.maximum(rest + some - block, 0))
    return np.asarray(float(facet.prices.area) * more, dtype=np.float64)
