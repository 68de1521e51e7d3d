r"""The fluid model of one engine: equilibrium, trajectories, relaxation and overload.

Requests become a flow and iterations a rate; :mod:`llmq.theory.fluid._ode` states the equations.
With an affine law ``t = c + a n + e KV`` (plus prefill attention) and rates inside the region the
flow has one equilibrium,

.. math::

   \tau^* = \frac{c}{1 - \sum_j \lambda_j (a v_j + e g_j)}, \qquad
   n_j^* = \lambda_j \tau^* d_j, \qquad KV^* = \tau^* \sum_j \lambda_j g_j,

with ``v`` tokens, ``d`` decode iterations and ``g`` the KV area of a request: iterations last
:math:`\tau^*`, and Little's law does the rest. It fits the budgets if and only if the load of
Theorem U is at most 1. A curve that is not affine is replaced by the lower convex envelope of its
token part, and :math:`\tau^*` is that of the piece on which the equilibrium lies (tiles: batches
that mix two neighbouring tile ends; their mean time is on the envelope).

The relaxation time is ``-1 / max Re`` of the eigenvalues of the Jacobian at the equilibrium. For
decodes alone, :math:`n' = \lambda - n / (o (c + a n))`, both have closed forms
(:func:`decode_point`). Overloaded and served in order of arrival, every class gets the same
fraction :math:`1 / \rho` of its rate.

Overload at the KV limit: the slope is that of the best policy. Greedy admission holds it with few
stages; with many the memory oscillates and some work is done twice.

A fluid point is the limit of many requests on a fast engine (``kind`` asymptotic), not the mean of
a small one: with negative-binomial occupancy the mean is larger by exactly
:math:`\rho_a / (1 - \rho_a)`.

WAIT and Nested WAIT are in :mod:`llmq.theory.fluid._wait`. Not covered: several engines (use one
with its share of the rates), policies other than greedy, decode-first ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from llmq._input.checked import checked
from llmq.errors import InputError, UnstableError
from llmq.model.engine import Engine
from llmq.model.request import RequestClass
from llmq.result import Kind
from llmq.theory.fluid import _ode as fluid_ode
from llmq.theory.fluid._result import Equilibrium, OverloadSlope, Trajectory
from llmq.theory.needs._envelope import Envelope, envelope
from llmq.theory.needs._rates import Rates, rate_vector
from llmq.theory.needs.demand import Demand, demand
from llmq.theory.region._bounds import check_fits, shares_slot
from llmq.units import as_fraction

__all__ = ["FluidModel", "fluid_model"]

Floats: TypeAlias = npt.NDArray[np.float64]

_SOURCE = "theory core 2.6 (fluid model with memory and chunked prefill)"


@checked(record=True)
@dataclass(frozen=True, slots=True, kw_only=True, repr=False, eq=False)
class FluidModel:
    """The fluid model of an engine; made by :func:`fluid_model`.

    Parameters
    ----------
    engine : Engine
        The engine.
    classes : tuple of str
        Order of every vector.
    rates : tuple of fractions.Fraction
        Requests per second.
    demands : tuple of Demand
        What a request of each class costs.
    curve : Envelope
        Token part of the law.
    stages : int
        Decode stages.
    flow : Flow
        Coefficients of the equations.
    kind, assumptions, source
        As in every result.
    """

    engine: Engine
    classes: tuple[str, ...]
    rates: tuple[Fraction, ...]
    demands: tuple[Demand, ...]
    curve: Envelope
    stages: int
    flow: fluid_ode.Flow
    kind: Kind
    assumptions: tuple[str, ...]
    source: str

    @property
    def load(self) -> float:
        """Fraction of the fluid capacity that the rates ask for."""
        return float(self._load())

    def equilibrium(self) -> Equilibrium:
        """Return the point at which the flow rests.

        Returns
        -------
        Equilibrium
            Nobody waits; means of a large system.

        Raises
        ------
        UnstableError
            The load is 1 or more: the backlog grows instead, see :meth:`overload_slope`.
        """
        if (load := self._load()) >= 1:
            raise UnstableError(
                f"no fluid equilibrium: the rates ask for {float(load):.4g} of the capacity; "
                f"divide them by more than that, or see overload_slope()",
                load=float(load),
            )
        tau = self._iteration()
        decoding = [float(tau * r * d.decodes) for r, d in self._pairs()]
        prefill = [float(tau * r * d.prompt) for r, d in self._pairs()]
        stages = np.repeat(np.asarray(decoding) / self.stages, self.stages)
        return Equilibrium(
            iteration=float(tau),
            decoding=dict(zip(self.classes, decoding, strict=True)),
            prefill=dict(zip(self.classes, prefill, strict=True)),
            tokens=float(tau * self._sum("tokens")),
            kv=float(tau * self._sum("area")),
            slots=float(tau * self._sum("slots")),
            state=np.concatenate((np.zeros(len(self.classes)), prefill, stages)),
            kind=self.kind,
            assumptions=self.assumptions,
            source=self.source,
        )

    @checked
    def trajectory(
        self, q0: Mapping[str, float] | npt.ArrayLike, t: float | npt.ArrayLike
    ) -> Trajectory:
        """Solve the equations from a start.

        Parameters
        ----------
        q0 : mapping of str to float, or array_like
            Requests waiting at time 0 by class (the engine is empty), or a whole state of shape
            (n_classes * (2 + stages),) such as ``equilibrium().state``.
        t : float or array_like
            Horizon, or increasing times from 0 at which the solution is wanted; seconds.

        Returns
        -------
        Trajectory
            The solution at 201 or at the given times.

        Raises
        ------
        InputError
            A start or a time that is negative, not finite or of the wrong shape.
        """
        from scipy.integrate import solve_ivp

        start, times = self._start(q0), _times(t)
        size = max(1.0, float(np.abs(start).max(initial=0.0)))
        solved = solve_ivp(
            lambda _, y: fluid_ode.field(self.flow, y),
            (0.0, float(times[-1])),
            start,
            t_eval=times,
            method="LSODA",
            rtol=1e-8,
            atol=1e-9 * size,
        )
        if not solved.success:
            raise ArithmeticError(f"the fluid equations could not be solved: {solved.message}")
        waiting, prefill, decoding = self.flow.split(solved.y.T)
        seconds = [
            fluid_ode.batch(self.flow, p, n)[2] for p, n in zip(prefill, decoding, strict=True)
        ]
        kv = prefill @ self.flow.prefill_use[2] + np.tensordot(decoding, self.flow.decode_use[2], 2)
        return Trajectory(
            time=times,
            waiting=waiting,
            prefill=prefill,
            decoding=decoding,
            iteration=np.asarray(seconds),
            kv=np.asarray(kv),
            kind=self.kind,
            assumptions=self.assumptions,
            source=self.source,
        )

    def spectrum(self) -> tuple[complex, ...]:
        """Return the eigenvalues of the Jacobian at the equilibrium.

        Returns
        -------
        tuple of complex
            One for each of ``n_classes * (2 + stages)`` states, per second, largest real part
            first; by central differences.
        """
        x = self.equilibrium().state
        steps = np.diag(6e-6 * np.maximum(1.0, np.abs(x)))
        columns = [
            (fluid_ode.field(self.flow, x + h) - fluid_ode.field(self.flow, x - h)) / (2 * h.max())
            for h in steps
        ]
        values = np.linalg.eigvals(np.transpose(columns)).astype(np.complex128)
        return tuple(values[np.argsort(-values.real, kind="stable")].tolist())

    def relaxation_time(self) -> float:
        """Return the time in which a small disturbance of the equilibrium falls to 1/e.

        Returns
        -------
        float
            Seconds; infinite where the equilibrium is not attracting.
        """
        slowest = self.spectrum()[0].real
        return -1 / slowest if slowest < 0 else float("inf")

    def overload_slope(self) -> OverloadSlope:
        """Return how fast the backlog grows.

        Returns
        -------
        OverloadSlope
            Zero inside the region.
        """
        load = self._load()
        lost = max(Fraction(0), 1 - 1 / load) if load else Fraction(0)
        growth = [float(rate * lost) for rate in self.rates]
        return OverloadSlope(
            load=float(load),
            requests=dict(zip(self.classes, growth, strict=True)),
            tokens=float(self._sum("tokens") * lost),
            kind=self.kind,
            assumptions=(*self.assumptions, "classes are served in proportion to their rates"),
            source=self.source,
        )

    def _pairs(self) -> zip[tuple[Fraction, Demand]]:
        return zip(self.rates, self.demands, strict=True)

    def _sum(self, what: str) -> Fraction:
        return sum((r * getattr(d, what) for r, d in self._pairs()), Fraction(0))

    def _attention(self) -> Fraction:
        law = self.engine.law
        read, work = as_fraction(law.per_kv_mixed), as_fraction(law.per_work)
        return read * self._sum("area") + work * self._sum("work")

    def _load(self) -> Fraction:
        """Least engine time per second: iterations as few as the budgets, or the curve, allow."""
        engine, tokens = self.engine, self._sum("tokens")
        if not tokens:
            return Fraction(0)
        counts = [tokens / self.curve.best[0], tokens / engine.token_budget]
        if engine.max_seqs is not None:
            counts.append(self._sum("slots") / engine.max_seqs)
        if engine.kv_tokens is not None:
            counts.append(self._sum("area") / engine.kv_tokens)
        n = max(counts)
        return max(c * n + a * tokens for c, a in self.curve.pieces) + self._attention()

    def _iteration(self) -> Fraction:
        """First root of ``f(tau V) + attention * tau = tau``: the largest over the pieces."""
        tokens, busy = self._sum("tokens"), self._attention()
        return max(
            c / (1 - a * tokens - busy) for c, a in self.curve.pieces if a * tokens + busy < 1
        )

    def _start(self, q0: Mapping[str, float] | npt.ArrayLike) -> Floats:
        classes, size = len(self.classes), len(self.classes) * (2 + self.stages)
        if isinstance(q0, Mapping):
            q0 = rate_vector(q0, self.classes, partial=True)
        start = np.array(q0, dtype=np.float64)
        if start.shape == (classes,):
            start = np.concatenate((start, np.zeros(size - classes)))
        if start.shape != (size,) or not np.all(np.isfinite(start)) or np.any(start < 0):
            raise InputError(
                f"q0 must hold requests waiting by class, shape ({classes},), or a state of shape "
                f"({size},), finite and >= 0; got {q0!r}",
                value=q0,
            )
        return start

    def __repr__(self) -> str:
        return (
            f"FluidModel({len(self.classes)} classes, {self.stages} stages, load {self.load:.4g})"
        )


@checked
def fluid_model(
    engine: Engine,
    mix: Mapping[str, RequestClass],
    rates: Rates,
    *,
    stages: int = 8,
) -> FluidModel:
    """Return the fluid model of an engine under a mix of requests.

    Parameters
    ----------
    engine : Engine
        The engine; its base time must be positive.
    mix : mapping of str to RequestClass
        The classes.
    rates : mapping of str to float or Fraction
        Requests per second of every class.
    stages : int
        Decode stages: 1 is right for geometric outputs, many for outputs of one length.

    Returns
    -------
    FluidModel
        With ``equilibrium()``, ``trajectory(q0, t)``, ``relaxation_time()``, ``overload_slope()``.

    Raises
    ------
    InputError
        No engine, an empty mix, an unknown class, a bad rate, a request that does not fit the KV
        memory, or iterations without a base time (the fluid iteration would shrink to nothing).

    Examples
    --------
    >>> from llmq.model.time.batchtime import BatchTime
    >>> from llmq.model.conventions import THEORY
    >>> engine = Engine(BatchTime.affine(base=0.012, per_token=1e-4), 1024, conventions=THEORY)
    >>> model = fluid_model(engine, {"chat": RequestClass(512, 128)}, {"chat": 8.0})
    >>> rest = model.equilibrium()
    >>> rest.iteration, rest.decoding["chat"], rest.prefill["chat"]
    (0.0245901639, 25.1803278689, 100.7213114754)
    >>> round(model.relaxation_time(), 3)
    1.42
    """
    if not isinstance(engine, Engine):
        raise InputError(
            f"fluid_model needs an llmq.Engine, got {type(engine).__name__}; for a fleet take one "
            "engine and its share of the rates",
            value=engine,
        )
    if not isinstance(mix, Mapping) or not mix:
        raise InputError(f"the mix must name at least one request class, got {mix!r}", value=mix)
    if isinstance(stages, bool) or not isinstance(stages, int) or stages < 1:
        raise InputError(f"stages must be a whole number, at least 1, got {stages!r}", value=stages)
    classes = tuple(mix)
    rate_vector(rates, classes)
    exact = tuple(as_fraction(rates.get(name, 0)) for name in classes)
    demands = tuple(demand(kind, engine) for kind in mix.values())
    for name, need in zip(classes, demands, strict=True):
        check_fits(engine, name, need)
    curve = envelope(engine.law, engine.token_budget)
    if curve.pieces[0][0] <= 0:
        raise InputError(
            "the law has no base time: the fluid iteration would shrink to nothing; give the law "
            f"a positive base, got {engine.law}",
            value=engine.law,
        )
    return FluidModel(
        engine=engine,
        classes=classes,
        rates=exact,
        demands=demands,
        curve=curve,
        stages=stages,
        flow=fluid_ode.coefficients(engine, mix, exact, demands, curve, stages),
        kind=Kind.ASYMPTOTIC,
        assumptions=_assumptions(engine, curve, stages),
        source=_SOURCE,
    )


def _times(t: float | npt.ArrayLike) -> Floats:
    given = np.asarray(t, dtype=np.float64)
    times = np.linspace(0.0, float(given), 201) if given.ndim == 0 else given
    if (
        times.ndim != 1
        or not times.size
        or not np.all(np.isfinite(times))
        or times[0] < 0
        or np.any(np.diff(times) <= 0)
        or times[-1] <= 0
    ):
        raise InputError(
            f"t must be a horizon > 0 or increasing times from 0 in seconds, got {t!r}", value=t
        )
    return times


def _assumptions(engine: Engine, curve: Envelope, stages: int) -> tuple[str, ...]:
    law = engine.law
    said = [
        "fluid limit: many requests, each iteration a short time",
        f"conventions {engine.conventions.name}, KV area {engine.conventions.area}",
        "greedy admission in order of arrival, decodes first, prompts share what is left",
        f"decode lengths enter by their mean in {stages} stages; equilibrium free of the stages",
    ]
    if len(curve.pieces) > 1:
        said.append("token curve replaced by its lower convex envelope")
    if law.per_kv != law.per_kv_mixed:
        said.append("every iteration holds prompt tokens: KV read at the mixed rate")
    if engine.kv_tokens is not None:
        said.append("KV in tokens; over the limit the youngest requests start again")
    if shares_slot(engine):
        said.append("every prompt chunk takes a slot of its own")
    return (*said, *engine.assumptions)
