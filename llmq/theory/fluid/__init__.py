r"""Fluid models: the flow of an engine, the decode engine alone, and WAIT.

:func:`fluid_model` (:mod:`llmq.theory.fluid._engine`) is that of an engine with all its budgets;
:func:`wait_equilibrium` and :func:`nested_wait` (:mod:`llmq.theory.fluid._wait`) are those of the
WAIT policies. Here: decodes alone, one class, an affine law,

.. math:: n' = \lambda - \frac{n}{o\,(c + a n)}, \qquad
   n^* = \frac{\lambda o c}{1 - \lambda o a}, \qquad
   \theta = \frac{o\,c}{(1 - \lambda o a)^2}

with ``theta`` the relaxation time (minus the inverse of the derivative at ``n*``). The stationary
mean of the stochastic engine (negative binomial) is larger than ``n*`` by exactly
:math:`\rho_a / (1 - \rho_a)`, :math:`\rho_a = \lambda o a`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

from llmq._input.checked import checked
from llmq.errors import InputError, UnstableError
from llmq.result import Kind
from llmq.theory.fluid._engine import FluidModel, fluid_model
from llmq.theory.fluid._result import Equilibrium, OverloadSlope, Trajectory
from llmq.theory.fluid._wait import (
    NestedWait,
    WaitEquilibrium,
    hoeffding_exponent,
    nested_wait,
    nested_wait_exponent,
    wait_equilibrium,
)
from llmq.units import as_fraction

__all__ = [
    "DecodePoint",
    "Equilibrium",
    "FluidModel",
    "NestedWait",
    "OverloadSlope",
    "Trajectory",
    "WaitEquilibrium",
    "decode_point",
    "fluid_model",
    "hoeffding_exponent",
    "nested_wait",
    "nested_wait_exponent",
    "wait_equilibrium",
]


@checked(record=True)
@dataclass(frozen=True, slots=True, kw_only=True)
class DecodePoint:
    """The fluid point of an engine that only decodes.

    Parameters
    ----------
    mean : fractions.Fraction
        Requests in decode.
    iteration : fractions.Fraction
        Length of an iteration, seconds.
    relaxation : fractions.Fraction
        Time in which a small disturbance falls to 1/e, seconds.
    load : fractions.Fraction
        ``rate * mean_output * per_token``: the share of time that tokens take.
    kind, assumptions, source
        As in every result.
    """

    mean: Fraction
    iteration: Fraction
    relaxation: Fraction
    load: Fraction
    kind: Kind
    assumptions: tuple[str, ...]
    source: str


@checked
def decode_point(rate: float, mean_output: float, base: float, per_token: float) -> DecodePoint:
    """Return the fluid point of an engine that only decodes.

    Parameters
    ----------
    rate : float
        Requests per second.
    mean_output : float
        Decode iterations of a request.
    base, per_token : float
        Seconds of an iteration, and seconds per request in it.

    Returns
    -------
    DecodePoint
        Exact rationals of the decimals given.

    Raises
    ------
    InputError
        An argument is not a finite number > 0 (``per_token`` and ``rate`` may be 0).
    UnstableError
        ``rate * mean_output * per_token`` is 1 or more.

    Examples
    --------
    >>> point = decode_point(rate=2, mean_output=200, base=0.012, per_token=0.0005)
    >>> point.mean, float(point.relaxation)
    (Fraction(6, 1), 3.75)
    """
    given = {"rate": rate, "mean_output": mean_output, "base": base, "per_token": per_token}
    for name, value in given.items():
        zero = name in ("rate", "per_token")
        if not (0 <= value < math.inf) or (value == 0 and not zero):
            least = ">= 0" if zero else "> 0"
            raise InputError(f"{name} must be finite and {least}, got {value!r}", value=value)
    lam, o, c, a = (as_fraction(value) for value in given.values())
    load = lam * o * a
    if load >= 1:
        raise UnstableError(
            f"tokens alone take {float(load):.4g} of the time (rate * mean_output * per_token): "
            "no fluid point below 1; lower the rate",
            load=float(load),
        )
    return DecodePoint(
        mean=lam * o * c / (1 - load),
        iteration=c / (1 - load),
        relaxation=o * c / (1 - load) ** 2,
        load=load,
        kind=Kind.ASYMPTOTIC,
        assumptions=("decode only, no slot or memory limit", "fluid limit: many requests"),
        source="theory core 2.6, scalar case",
    )
