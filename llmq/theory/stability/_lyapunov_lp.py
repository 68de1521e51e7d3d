r"""Is a two-station network stable under every work-conserving policy? A linear programme decides.

Agents call models in turn, so requests cross stations more than once, and a load below 1 at every
station is not enough: priority to the last hop can starve the stations in turn (Rybko and Stolyar;
Lu and Kumar; for LLM agents Dai et al., 2504.07347, section 5.4).

**Piecewise-linear Lyapunov function.** Class ``k`` queues at station :math:`\sigma(k)`, is served
at rate :math:`\mu_k`, goes on to class ``next(k)`` or leaves, and has external arrivals
:math:`\lambda_k`. Put :math:`V(q) = \max_i V_i(q)`, :math:`V_i(q) = \sum_k h_{ik} q_k`, and ask for
:math:`h \ge 0`, :math:`\sum h \le 1` and the largest :math:`\epsilon` with

* for each station ``i`` and each choice of ``k`` at ``i`` and ``k'`` at the other station or idle,
  :math:`\sum_l h_{il} \lambda_l + \mu_k (h_{i,next(k)} - h_{ik})
  + \mu_{k'} (h_{i,next(k')} - h_{ik'}) \le -\epsilon`;
* :math:`h_{ik} \le h_{jk}` for each class ``k`` of the other station ``j``.

Then V falls at rate :math:`\epsilon` on every work-conserving fluid path: if :math:`V = V_i > 0`
and station ``i`` works, the first rows hold for every mix of allocations; if it is empty, the
second give :math:`V_j = V` and station ``j`` works. So :math:`\epsilon > 0` proves stability, and
:math:`1 / \epsilon` bounds the time to drain from V = 1. For two stations the converse holds too
(Bertsimas, Gamarnik and Tsitsiklis, IEEE TAC 41(11), 1996): at :math:`\epsilon = 0` some
work-conserving policy is not stable.

The optimum is found by HiGHS, re-solved in rationals (:mod:`llmq.theory.linear._exact`), and every
inequality is then checked in rationals.

Not covered: three stations (the programme is then sufficient only, and the true region is not even
monotone in the service times), and random routing.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, TypeAlias

from llmq._input.checked import checked
from llmq.errors import InputError, InvariantError
from llmq.result import Kind
from llmq.theory.linear._exact import solve_exact
from llmq.theory.linear._lp import LinearProgram
from llmq.units import as_fraction

__all__ = ["TwoStation", "two_station"]

Values: TypeAlias = "Mapping[Any, Any] | Sequence[Any]"
_SOURCE = "piecewise-linear Lyapunov LP (theory core 3.3) [PL]"
_ZERO, _ONE = Fraction(0), Fraction(1)


@checked(record=True)
@dataclass(frozen=True, slots=True, kw_only=True)
class TwoStation:
    """Whether all work-conserving policies are stable.

    Parameters
    ----------
    epsilon : fractions.Fraction
        Rate at which the Lyapunov function falls; 0 if there is none.
    weights : tuple of tuple of fractions.Fraction, shape (2, n_classes)
        Its coefficients by station and class (all 0 if there is none).
    classes : tuple
        Classes, in the order of the weights.
    stations : tuple
        The two stations, in the order of the weights.
    loads : tuple of fractions.Fraction
        Share of time that each station must work.
    kind, assumptions, source
        As in every result.
    """

    epsilon: Fraction
    weights: tuple[tuple[Fraction, ...], tuple[Fraction, ...]]
    classes: tuple[Hashable, ...]
    stations: tuple[Hashable, ...]
    loads: tuple[Fraction, Fraction]
    kind: Kind
    assumptions: tuple[str, ...]
    source: str

    @property
    def is_stable(self) -> bool:
        """Whether every work-conserving policy is stable."""
        return self.epsilon > 0


@dataclass(frozen=True, slots=True)
class _Network:
    """Classes by index; successor None leaves."""

    station: tuple[int, ...]
    service: tuple[Fraction, ...]
    successor: tuple[int | None, ...]
    arrivals: tuple[Fraction, ...]

    def at(self, station: int) -> list[int]:
        return [k for k, place in enumerate(self.station) if place == station]

    def flow(self, k: int) -> dict[int, Fraction]:
        """Change of the queues per second while class ``k`` is served."""
        rate, after = 1 / self.service[k], self.successor[k]
        change = {k: -rate}
        if after is not None:
            change[after] = rate
        return change

    def drifts(self, i: int) -> list[dict[int, Fraction]]:
        """Drift of the queues for each allocation in which station ``i`` works."""
        found = []
        for k in self.at(i):
            for other in (None, *self.at(1 - i)):
                drift = dict(enumerate(self.arrivals))
                for served in (k, other):
                    for queue, rate in self.flow(served).items() if served is not None else ():
                        drift[queue] += rate
                found.append(drift)
        return found

    def loads(self) -> tuple[Fraction, Fraction]:
        load = [_ZERO, _ZERO]
        for start, rate in enumerate(self.arrivals):
            k: int | None = start
            while k is not None:
                load[self.station[k]] += rate * self.service[k]
                k = self.successor[k]
        return load[0], load[1]


@checked
def two_station(
    station: Values, mean_service: Values, successor: Values, arrivals: Values
) -> TwoStation:
    """Return the piecewise-linear Lyapunov function of a two-station network, if there is one.

    Parameters
    ----------
    station : sequence or mapping
        Station of each class; two labels. Mappings are by class name, sequences by index.
    mean_service : sequence or mapping of float
        Mean service time of each class.
    successor : sequence or mapping
        Class that a request turns into after its service; None if it leaves.
    arrivals : sequence or mapping of float
        External arrival rate of each class.

    Returns
    -------
    TwoStation
        Exact rationals of the decimals given.

    Raises
    ------
    InputError
        Not two stations, arguments of different lengths, a service time that is not positive, an
        unknown successor, or requests that never leave.

    Examples
    --------
    >>> found = two_station(station=(1, 2, 2, 1), mean_service=(0.1, 0.4, 0.1, 0.4),
    ...                     successor=(1, None, 3, None), arrivals=(1, 0, 1, 0))
    >>> found.epsilon, found.loads
    (Fraction(1, 12), (Fraction(1, 2), Fraction(1, 2)))
    """
    classes, columns = _columns(
        station=station, mean_service=mean_service, successor=successor, arrivals=arrivals
    )
    stations, net = _network(classes, *columns)
    solved = solve_exact(_program(net))
    n = len(classes)
    weights = (solved.primal[:n], solved.primal[n : 2 * n])
    epsilon = solved.primal[-1]
    _check(net, weights, epsilon)
    return TwoStation(
        epsilon=epsilon,
        weights=weights,
        classes=classes,
        stations=stations,
        loads=net.loads(),
        kind=Kind.EXACT,
        assumptions=(
            "fluid model of two stations, fixed routing, work-conserving policies",
            "epsilon = 0: some such policy is not stable (cited converse, two stations only)",
        ),
        source=_SOURCE,
    )


def _program(net: _Network) -> LinearProgram:
    """Maximise epsilon: columns ``h[i, k] = i n + k`` and epsilon last, rows ``>=``."""
    n = len(net.station)
    columns: list[dict[int, Fraction]] = [{} for _ in range(2 * n + 1)]
    row = 0
    for i in (0, 1):
        for drift in net.drifts(i):
            for k, rate in drift.items():
                if rate:
                    columns[i * n + k][row] = -rate
            columns[-1][row] = -_ONE
            row += 1
        for k in net.at(1 - i):
            columns[i * n + k][row], columns[(1 - i) * n + k][row] = -_ONE, _ONE
            row += 1
    for column in columns[:-1]:
        column[row] = -_ONE
    return LinearProgram(
        columns=tuple(columns),
        costs=(*[_ZERO] * (2 * n), -_ONE),
        bounds=(*[_ZERO] * row, -_ONE),
    )


def _check(net: _Network, weights: Sequence[Sequence[Fraction]], epsilon: Fraction) -> None:
    """Confirm every inequality of the module docstring in rationals."""
    good = epsilon >= 0 and min(map(min, weights)) >= 0 and sum(map(sum, weights)) <= 1
    for i in (0, 1):
        mine, theirs = weights[i], weights[1 - i]
        for drift in net.drifts(i):
            good &= sum(mine[k] * rate for k, rate in drift.items()) <= -epsilon
        good &= all(mine[k] <= theirs[k] for k in net.at(1 - i))
    if not good:
        raise InvariantError("a Lyapunov function does not meet its own inequalities")


def _columns(**given: Values) -> tuple[tuple[Hashable, ...], list[list[Any]]]:
    """Class names, and each argument as a list in their order."""
    first = given["station"]
    classes = tuple(first) if isinstance(first, Mapping) else tuple(range(len(first)))
    columns = []
    for name, values in given.items():
        if isinstance(values, Mapping) != isinstance(first, Mapping):
            raise InputError(f"give all arguments by class name or all as sequences, see {name}")
        known = set(values) if isinstance(values, Mapping) else set(range(len(values)))
        if known != set(classes):
            raise InputError(
                f"{name} needs one value for each of the {len(classes)} classes {classes}, "
                f"got {values!r}",
                field=name,
                value=values,
            )
        columns.append([values[k] for k in classes])
    return classes, columns


def _network(
    classes: tuple[Hashable, ...],
    station: list[Any],
    service: list[Any],
    successor: list[Any],
    arrivals: list[Any],
) -> tuple[tuple[Hashable, ...], _Network]:
    stations = tuple(dict.fromkeys(station))
    if len(stations) != 2:
        raise InputError(
            f"the programme is for two stations, got {len(stations)}: {stations}; for three it "
            "would be sufficient only",
            value=stations,
        )
    for k, after in zip(classes, successor, strict=True):
        if after is not None and after not in classes:
            raise InputError(f"class {k!r} turns into unknown class {after!r}; known: {classes}")
    following = tuple(None if s is None else classes.index(s) for s in successor)
    for start in range(len(classes)):
        k, hops = following[start], 0
        while k is not None:
            k, hops = following[k], hops + 1
            if hops > len(classes):
                raise InputError(f"requests of class {classes[start]!r} never leave the network")
    return stations, _Network(
        tuple(map(stations.index, station)),
        tuple(_number("mean_service", value, least=0) for value in service),
        following,
        tuple(_number("arrivals", value) for value in arrivals),
    )


def _number(name: str, value: Any, least: int | None = None) -> Fraction:
    number = as_fraction(value) if isinstance(value, int | float | Fraction) else -_ONE
    if number < 0 or (least is not None and number <= least):
        raise InputError(
            f"{name} must be a number {'>= 0' if least is None else '> 0'}, got {value!r}",
            field=name,
            value=value,
        )
    return number
