r"""Exact moments and extreme sizes of requests, for bounds that rest on second moments.

With prompt ``s`` and ``d`` decodes (output, or output less 1, see :mod:`llmq.model.conventions`) a
request has :math:`v = s + d` tokens; :math:`E[v^2] = E[s^2] + 2 E[s] E[d] + E[d^2]` where they are
independent, the mean over rows where they are paired. Equal weights give exact means; float weights
are taken at their binary value and normalised, so the moments are those of one definite law.

Not covered: lengths without a bound (a law of lengths is a finite list).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy.typing as npt

from llmq.errors import InputError, nearest
from llmq.model.lengths import Lengths
from llmq.model.request import RequestClass
from llmq.theory.needs._rates import Rates
from llmq.theory.region._certificate_record import ratio
from llmq.units import as_fraction

__all__ = ["ClassMoments", "class_moments", "length_moments"]

_MOST_LENGTHS = 200_000  # pairs of lengths that a certificate lists


@dataclass(frozen=True, slots=True)
class ClassMoments:
    """Arrivals, moments and extreme sizes of the requests of a class."""

    rate: Fraction  # requests per second
    # mean, square: first two moments of the tokens of a request, prompt and decodes
    mean: Fraction
    square: Fraction
    # prompt_most, prompt_unit: most prompt tokens, and the largest number that divides every
    # prompt
    prompt_most: int
    prompt_unit: int
    decodes_most: int  # most decodes
    # lists of lengths, where all weigh the same and they are not too many
    lengths: Mapping[str, Any] | None

    def record(self) -> dict[str, Any]:
        """Write the class for a certificate."""
        written: dict[str, Any] = {
            "rate": ratio(self.rate),
            "tokens": ratio(self.mean),
            "tokens_squared": ratio(self.square),
            "prompt_most": self.prompt_most,
            "prompt_unit": self.prompt_unit,
            "decodes_most": self.decodes_most,
        }
        return written if self.lengths is None else {**written, "lengths": self.lengths}


def class_moments(
    mix: Mapping[str, RequestClass], rates: Rates, lag: int
) -> dict[str, ClassMoments]:
    """Return moments and sizes of every class that arrives.

    Examples
    --------
    >>> class_moments({"x": RequestClass(3, Lengths.uniform(1, 2))}, {"x": 0.5}, lag=1)["x"].square
    Fraction(41, 2)
    """
    for name, rate in rates.items():
        if name not in mix:
            raise InputError(f"no class {name!r} in the mix{nearest(name, mix)}", value=name)
        if not 0 <= rate < math.inf:
            raise InputError(f"rate of {name!r} must be a number >= 0, got {rate!r}", value=rate)
    found = {n: _moments(mix[n], as_fraction(rate), lag) for n, rate in rates.items() if rate}
    if not found:
        raise InputError("all rates are 0: there is no drift to speak of")
    return found


def length_moments(
    law: Lengths, values: npt.NDArray[Any] | None = None
) -> tuple[Fraction, Fraction]:
    """Return the first two moments of a law of lengths.

    Examples
    --------
    >>> length_moments(Lengths.uniform(1, 2))
    (Fraction(3, 2), Fraction(5, 2))
    """
    ints = [int(x) for x in (law.values if values is None else values)]
    weights = [1.0] * len(ints) if law.weights is None else law.weights.tolist()
    pairs = list(zip(map(Fraction, weights), ints, strict=True))
    total = sum((w for w, _ in pairs), Fraction(0))
    first = sum((w * x for w, x in pairs), Fraction(0))
    return first / total, sum((w * x * x for w, x in pairs), Fraction(0)) / total


def _moments(request: RequestClass, rate: Fraction, lag: int) -> ClassMoments:
    prompt, output = request.prompt, request.output
    decodes = output.values - 1 + lag
    (s1, s2), (d1, d2) = length_moments(prompt), length_moments(output, decodes)
    square = s2 + 2 * s1 * d1 + d2
    if request.paired:
        _, square = length_moments(prompt, prompt.values + decodes)
    weighted = prompt.weights is not None or output.weights is not None
    pairs = len(decodes) * (1 if request.paired else len(prompt.values))
    listed = (
        None
        if weighted or pairs > _MOST_LENGTHS
        else {
            "prompt": prompt.values.tolist(),
            "output": output.values.tolist(),
            "paired": request.paired,
        }
    )
    unit = math.gcd(*map(int, prompt.values))
    return ClassMoments(rate, s1 + d1, square, prompt.high, unit, int(decodes.max()), listed)
