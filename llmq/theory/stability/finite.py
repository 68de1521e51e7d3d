r"""Certificates of finite objects: two-station networks, Markov chains, the best batch.

* ``pl_lyapunov`` (C5): the piecewise-linear Lyapunov function of
  :mod:`llmq.theory.stability._lyapunov_lp`. Its rows prove that every work-conserving policy is
  stable.
* ``finite_chain`` (C7): the stationary law of a rational chain (:func:`llmq.chains.stationary`)
  and means under it. ``pi P = pi`` with one closed class proves that it is the only one.
* ``tile_inequality``, ``tile_counterexample`` (C8): whether a full batch has the highest token
  rate, for every whole batch size. With ``t = c + a ceil(n / tile)`` and a budget of K tiles this
  is lemma T1, :math:`n (c + a K) \le K\,tile\,(c + a \lceil n / tile \rceil)`.

Not covered: chains with float probabilities (their law is not exact), three stations.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from numbers import Rational
from typing import Any

from llmq.errors import InputError, UnstableError
from llmq.model.time.batchtime import BatchTime
from llmq.theory.chains._stationary import Number, stationary
from llmq.theory.region._certificate_record import Certificate, law_record, ratio, ratios, seal
from llmq.theory.region.tiling import best_batch
from llmq.theory.stability._lyapunov_lp import two_station
from llmq.units import as_fraction

__all__ = ["certify_chain", "certify_network", "certify_tiles"]

# Python reads whole numbers of up to 4300 digits from text.
_DIGITS = 4000


def certify_network(station: Any, mean_service: Any, successor: Any, arrivals: Any) -> Certificate:
    """Certify that every work-conserving policy is stable in a two-station network.

    Parameters
    ----------
    station, mean_service, successor, arrivals : sequence or mapping
        As in :func:`llmq.lyapunov.two_station`.

    Returns
    -------
    Certificate
        Claim ``pl_lyapunov``, with the largest epsilon.

    Raises
    ------
    InputError
        As :func:`llmq.lyapunov.two_station`.
    UnstableError
        There is no such function: some work-conserving policy is not stable.

    Examples
    --------
    >>> made = certify_network((1, 2, 2, 1), (0.1, 0.4, 0.1, 0.4), (1, None, 3, None), (1, 0, 1, 0))
    >>> made.claim, made.body["lyapunov"]["epsilon"]
    ('pl_lyapunov', '1/12')
    """
    found = two_station(station, mean_service, successor, arrivals)
    if not found.is_stable:
        raise UnstableError(
            "no Lyapunov function exists: some work-conserving policy is not stable here (loads "
            f"{', '.join(f'{float(load):.4g}' for load in found.loads)})",
            loads=found.loads,
        )
    _check_names(found.classes, "classes")
    _check_names(found.stations, "stations")
    classes = {
        str(k): {
            "station": str(station[k]),
            "service": ratio(mean_service[k]),
            "next": None if successor[k] is None else str(successor[k]),
            "arrivals": ratio(arrivals[k]),
        }
        for k in found.classes
    }
    weights = {
        str(i): {str(k): ratio(w) for k, w in zip(found.classes, row, strict=True)}
        for i, row in zip(found.stations, found.weights, strict=True)
    }
    return seal(
        "pl_lyapunov",
        {"stations": [str(i) for i in found.stations], "classes": classes},
        lyapunov={"epsilon": ratio(found.epsilon), "weights": weights},
    )


def certify_chain(
    P: Sequence[Sequence[Number] | Mapping[int, Number]],
    functions: Mapping[str, Sequence[Number]] | None = None,
) -> Certificate:
    """Certify the stationary law of a finite chain and the means of functions of its state.

    Parameters
    ----------
    P : sequence of rows, shape (n_states, n_states)
        Transition probabilities, int or Fraction; a row is a sequence or a mapping from states.
    functions : mapping of str to sequence, optional
        Values by state, each an int or a Fraction, at least 0.

    Returns
    -------
    Certificate
        Claim ``finite_chain``.

    Raises
    ------
    InputError
        A probability or a value that is no rational, a negative value, several recurrent classes,
        or numbers of more than 4000 digits.

    Examples
    --------
    >>> half = Fraction(1, 2)
    >>> certify_chain([[half, half], [1, 0]], {"state": [0, 1]}).body["means"]
    {'state': '1/3'}
    """
    law = stationary(P)
    if not all(isinstance(p, Fraction) for p in law.probabilities):
        raise InputError(
            "only a rational chain can be certified: give probabilities as Fraction or int"
        )
    rows = [dict(row if isinstance(row, Mapping) else enumerate(row)) for row in P]
    values = {name: _values(name, row, len(rows)) for name, row in (functions or {}).items()}
    means = {name: Fraction(law.mean(row)) for name, row in values.items()}
    longest = max(_digits(p) for p in (*map(as_fraction, law.probabilities), *means.values()))
    if longest > _DIGITS:
        raise InputError(
            f"the exact law has numbers of {longest} digits, more than {_DIGITS}: certify a "
            "smaller chain, or one with simpler probabilities",
            digits=longest,
        )
    return seal(
        "finite_chain",
        {
            "rows": [
                {str(j): ratio(Fraction(p)) for j, p in sorted(row.items()) if p} for row in rows
            ],
            "functions": {name: [ratio(v) for v in row] for name, row in values.items()},
        },
        stationary=[ratio(Fraction(p)) for p in law.probabilities],
        means=ratios(means),
    )


def certify_tiles(law: BatchTime, token_budget: int) -> Certificate:
    """Certify whether a full batch has the highest token rate.

    Parameters
    ----------
    law : BatchTime
        Seconds of a batch by its tokens.
    token_budget : int
        Most tokens in one iteration, at most 200,000.

    Returns
    -------
    Certificate
        Claim ``tile_inequality``, or ``tile_counterexample`` with the best batch.

    Raises
    ------
    InputError
        Attention time, or a budget below 1 or too large to try every batch.

    Examples
    --------
    >>> made = certify_tiles(BatchTime.tiled(base=2, per_tile=10, tile=64), 100)
    >>> made.claim, made.body["best"], made.body["full"]
    ('tile_counterexample', {'batch': 64, 'rate': '16/3'}, {'rate': '50/11'})
    """
    best = best_batch(law, token_budget)
    if law.per_kv or law.per_kv_mixed or law.per_work:
        raise InputError("the claim is about laws without attention time: drop per_kv and per_work")
    if token_budget > 200_000:
        raise InputError(
            f"a budget of {token_budget} tokens has too many batches to try, at most 200,000",
            value=token_budget,
        )
    problem = {"law": law_record(law), "token_budget": token_budget}
    rate = token_budget / law.exact().curve(token_budget)
    full = {"rate": ratio(rate)}
    if best.exact_rate == rate:
        return seal("tile_inequality", problem, full=full)
    top = {"batch": best.tokens, "rate": ratio(best.exact_rate)}
    return seal("tile_counterexample", problem, full=full, best=top)


def _check_names(names: Sequence[Any], what: str) -> None:
    if len(set(map(str, names))) != len(names):
        raise InputError(f"{what} need different names as text, got {tuple(names)}")


def _values(name: str, row: Sequence[Number], count: int) -> list[Fraction]:
    if len(row) != count:
        raise InputError(f"function {name!r} needs a value for each of {count} states")
    if not all(isinstance(v, Rational) and v >= 0 for v in row):
        raise InputError(f"function {name!r} needs values that are int or Fraction, at least 0")
    return [as_fraction(v) for v in row]


def _digits(value: Fraction) -> int:
    # Bits first: Python does not write longer numbers as text.
    return math.ceil(max(value.numerator, value.denominator).bit_length() * math.log10(2))
