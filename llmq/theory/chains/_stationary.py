r"""Stationary law of a finite Markov chain, exact for rational input.

Grassmann, Taksar and Heyman (Oper. Res. 33, 1985) eliminate the states from the last to the first:
with :math:`s = \sum_{j < n} p_{nj}`

.. math:: p_{ij} \leftarrow p_{ij} + p_{in} p_{nj} / s \qquad (i, j < n),

then :math:`\pi_n = \sum_{i < n} \pi_i p_{in} / s`. The first line is the chain watched while it is
in the states below ``n``: each visit to ``n`` is cut out, with where it goes next (``1 / s`` sums
its returns). Its stationary law is proportional to that of the chain, and the second line is the
balance of state ``n``; one recurrent class makes both unique. Nothing is subtracted, so floats keep
their relative accuracy, and Fractions give the law exactly. Transient states get probability 0.

Not covered: several recurrent classes (the law is not unique), infinite chains (truncate, or see
:mod:`llmq.theory.chains._qbd`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from numbers import Rational
from typing import Any, TypeAlias

import numpy as np

from llmq._input.checked import checked
from llmq._input.checking import sequence
from llmq.errors import InputError, shown
from llmq.result import Kind
from llmq.theory.latency._base import Law

__all__ = ["Number", "Stationary", "stationary"]

Number: TypeAlias = Fraction | float
Row: TypeAlias = dict[int, Number]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stationary(Law):
    """Long-run share of time in each state.

    Parameters
    ----------
    probabilities : tuple of fractions.Fraction or float
        One for each state; Fractions where the chain was rational.
    kind, assumptions, source
        As in every result.
    """

    probabilities: tuple[Number, ...] = field(repr=False)

    def __post_init__(self) -> None:
        # JSON carries rationals as text.
        raw = sequence("probabilities", self.probabilities)
        try:
            read = tuple(Fraction(p) if isinstance(p, str) else p for p in raw)
        except (ValueError, ZeroDivisionError):
            raise InputError(f"probabilities must be numbers, got {shown(raw)}") from None
        object.__setattr__(self, "probabilities", read)

    @checked
    def mean(self, values: Sequence[Number]) -> Number:
        """Long-run mean of a function of the state.

        Parameters
        ----------
        values : sequence of number
            One for each state.

        Returns
        -------
        fractions.Fraction or float
            A Fraction where probabilities and values are rational.

        Raises
        ------
        InputError
            Not one value for each state.
        """
        if len(values) != len(self.probabilities):
            raise InputError(
                f"mean needs one value for each of the {len(self.probabilities)} states, "
                f"got {len(values)}",
                value=len(values),
            )
        pairs = zip(self.probabilities, values, strict=True)
        terms: list[Any] = [p * value for p, value in pairs if p]
        if all(isinstance(term, Rational) for term in terms):
            return sum(terms, Fraction(0))
        return math.fsum(terms)


@checked
def stationary(P: Sequence[Sequence[Number] | Mapping[int, Number]]) -> Stationary:
    """Return the stationary law of a finite Markov chain.

    Parameters
    ----------
    P : sequence of rows, shape (n_states, n_states)
        Transition probabilities; a row is a sequence, or a mapping from states to probabilities.

    Returns
    -------
    Stationary
        Exact where every entry is an int or a Fraction; otherwise floats.

    Raises
    ------
    InputError
        Not square, a negative entry, a row that does not sum to 1, several recurrent classes.

    Examples
    --------
    >>> half = Fraction(1, 2)
    >>> stationary([[half, half], [1, 0]]).probabilities
    (Fraction(2, 3), Fraction(1, 3))
    """
    rows = [_row(i, row, len(P)) for i, row in enumerate(P)]
    if not rows:
        raise InputError("a chain needs at least one state")
    rational = all(isinstance(p, Fraction) for row in rows for p in row.values())
    for i, row in enumerate(rows):
        _check_sum(i, sum(row.values()), rational)
    states = _recurrent(rows)
    index = {state: i for i, state in enumerate(states)}
    inner = [{index[j]: p for j, p in rows[i].items()} for i in states]
    found = _eliminate(inner) if rational else _eliminate_floats(inner)
    probabilities: list[Number] = [Fraction(0) if rational else 0.0] * len(rows)
    for state, p in zip(states, found, strict=True):
        probabilities[state] = p
    said = ("rational arithmetic",) if rational else ("double precision, nothing is subtracted",)
    return Stationary(
        probabilities=tuple(probabilities),
        kind=Kind.EXACT if rational else Kind.APPROXIMATION,
        assumptions=("finite Markov chain, one recurrent class", *said),
        source="Grassmann, Taksar and Heyman 1985 [MC]",
    )


def _row(i: int, row: Sequence[Number] | Mapping[int, Number], n: int) -> Row:
    if not isinstance(row, Mapping):
        if len(row) != n:
            raise InputError(
                f"P must be square: row {i} has {len(row)} entries, there are {n} rows", row=i
            )
        row = dict(enumerate(row))
    if unknown := [j for j in row if j not in range(n)]:
        raise InputError(f"row {i} leads to state {unknown[0]!r}: there are {n} states", row=i)
    return {int(j): number for j, p in row.items() if (number := _probability(i, j, p))}


def _probability(i: int, j: int, value: Any) -> Number:
    number: Number
    if isinstance(value, Rational | np.integer):
        number = Fraction(int(value.numerator), int(value.denominator))
    else:
        number = float(value)
    if number < 0 or not math.isfinite(number):
        raise InputError(
            f"P[{i}, {j}] must be a probability >= 0, got {value!r}", row=i, value=value
        )
    return number


def _check_sum(i: int, total: Number, rational: bool) -> None:
    if total != 1 if rational else abs(float(total) - 1) > 1e-9:
        raise InputError(
            f"row {i} of P must sum to 1, got {total}: add the probability of staying, or divide "
            "by the sum",
            row=i,
            value=total,
        )


def _recurrent(rows: Sequence[Row]) -> list[int]:
    """States of the only class that is never left."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import connected_components

    ends = [(i, j) for i, row in enumerate(rows) for j in row]
    i, j = np.array(ends).T
    graph = csr_array((np.ones(len(ends)), (i, j)), shape=(len(rows), len(rows)))
    count, label = connected_components(graph, connection="strong")
    left = set(label[i[label[i] != label[j]]].tolist())
    closed = [c for c in range(count) if c not in left]
    if len(closed) > 1:
        raise InputError(
            f"the chain has {len(closed)} recurrent classes, its law depends on the start: pass "
            "the states of one of them",
            classes=len(closed),
        )
    return [int(state) for state in np.flatnonzero(label == closed[0])]


def _eliminate(rows: list[Row]) -> list[Number]:
    into: list[set[int]] = [set() for _ in rows]
    for i, row in enumerate(rows):
        for j in row:
            into[j].add(i)
    for n in range(len(rows) - 1, 0, -1):
        out = {j: p for j, p in rows[n].items() if j < n}
        leaving = sum(out.values())
        for i in into[n]:
            if i >= n:
                continue
            row = rows[i]
            row[n] = row[n] / leaving
            for j, p in out.items():
                row[j] = row.get(j, 0) + row[n] * p
                into[j].add(i)
    weight: list[Number] = [Fraction(1)]
    for n in range(1, len(rows)):
        weight.append(sum((weight[i] * rows[i][n] for i in into[n] if i < n), Fraction(0)))
    total = sum(weight)
    return [w / total for w in weight]


def _eliminate_floats(rows: list[Row]) -> list[Number]:
    p = np.zeros((len(rows), len(rows)))
    for i, row in enumerate(rows):
        p[i, list(row)] = list(row.values())
    for n in range(len(p) - 1, 0, -1):
        p[:n, n] /= p[n, :n].sum()
        p[:n, :n] += np.outer(p[:n, n], p[n, :n])
    weight = np.ones(len(p))
    for n in range(1, len(p)):
        weight[n] = weight[:n] @ p[:n, n]
    return [float(w) for w in weight / weight.sum()]
