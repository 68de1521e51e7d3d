r"""Quasi-birth-death chains: an infinite queue in a random environment.

Levels ``0, 1, 2, ..`` (requests present) with ``m`` phases each (the environment, the composition
of the batch). From level ``k`` on, rates up, within and down a level are matrices ``A0, A1, A2``;
levels below ``k`` have their own. Then (Neuts)

.. math:: \pi_{k + n} = \pi_k R^n, \qquad A_0 + R A_1 + R^2 A_2 = 0,

``R`` the least solution >= 0. It comes from ``G`` (the phase in which a level is first left
downwards) as :math:`R = A_0 (-A_1 - A_0 G)^{-1}`, and ``G`` from logarithmic reduction (Latouche
and Ramaswami 1993), which doubles the levels seen at each step: it stops when what a step adds to
``G`` is below 1e-15, or at 60 steps (``2^60`` levels). The chain is stable if and only if
:math:`\alpha A_0 1 < \alpha A_2 1`, :math:`\alpha` the law of the phase far up.

Not covered: levels with different numbers of phases, jumps over several levels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from llmq._input.checked import checked
from llmq.errors import InputError, UndecidedError, UnstableError
from llmq.result import Kind
from llmq.theory.chains._stationary import stationary
from llmq.theory.latency._base import Law, check_whole

__all__ = ["QBD", "Level", "qbd"]

Floats: TypeAlias = npt.NDArray[np.float64]
Level: TypeAlias = "tuple[npt.ArrayLike, npt.ArrayLike, npt.ArrayLike]"

_STEPS = 60
_STOP = 1e-15


@checked(record=True)
@dataclass(frozen=True, slots=True, kw_only=True)
class QBD(Law):
    """Stationary law of a quasi-birth-death chain.

    Parameters
    ----------
    R : ndarray, shape (m, m)
        Factor between the probabilities of one level and the next.
    boundary : ndarray, shape (k + 1, m)
        Probabilities of the levels 0 .. k; ``k`` is the first level of equal ones.
    spectral_radius : float
        Of ``R``: the probabilities of high levels fall by this factor.
    mean : float
        Mean level.
    p0 : float
        Probability of level 0.
    rate : float
        Mean rate of steps up.
    residual : float
        Largest entry of ``A0 + R A1 + R^2 A2``.
    steps : int
        Steps of the reduction.
    kind, assumptions, source
        As in every result.
    """

    R: Floats = field(repr=False, compare=False)
    boundary: Floats = field(repr=False, compare=False)
    spectral_radius: float
    mean: float
    p0: float
    rate: float
    residual: float
    steps: int

    @property
    def sojourn(self) -> float:
        """Mean time in the system if a level is a number of requests (Little)."""
        return self.mean / self.rate

    @checked
    def level(self, n: int) -> Floats:
        """Probabilities of the phases of a level.

        Parameters
        ----------
        n : int
            The level, at least 0.

        Returns
        -------
        ndarray, shape (m,)
            Joint probabilities of the level and the phase.
        """
        n, k = check_whole("n", n, 0), len(self.boundary) - 1
        if n <= k:
            return np.array(self.boundary[n])
        return np.asarray(self.boundary[k] @ np.linalg.matrix_power(self.R, n - k))


@checked
def qbd(
    up: npt.ArrayLike, local: npt.ArrayLike, down: npt.ArrayLike, boundary: Sequence[Level] = ()
) -> QBD:
    """Return the stationary law of a quasi-birth-death chain in continuous time.

    Parameters
    ----------
    up : array_like, shape (m, m)
        Rates to the next level, by phase before and after.
    local : array_like, shape (m, m)
        Rates between phases of a level; the diagonal is ignored.
    down : array_like, shape (m, m)
        Rates to the level below.
    boundary : sequence of (up, local, down)
        The same for the levels 0, 1, .. that differ; ``down`` of level 0 counts nothing. If empty,
        level 0 has the rates of the others but none down.

    Returns
    -------
    QBD
        To rounding; ``residual`` says how well the equation of ``R`` holds.

    Raises
    ------
    InputError
        Shapes that do not agree, negative rates, or phases that do not communicate.
    UnstableError
        On average the chain does not go down.
    UndecidedError
        The reduction does not converge (load within rounding of 1).

    Examples
    --------
    >>> queue = qbd(up=[[0.5]], local=[[0.0]], down=[[1.0]])  # M/M/1
    >>> queue.mean, queue.p0, queue.spectral_radius
    (1.0, 0.5, 0.5)
    """
    a0, a1, a2 = _level((up, local, down), "the repeating levels", None)
    m = len(a0)
    rows = [_level(one, f"level {i}", m) for i, one in enumerate(boundary)]
    rows = rows or [(a0, a1, np.zeros_like(a2))]
    rows[0] = (rows[0][0], rows[0][1], np.zeros((m, m)))
    _check_drift(a0, a1, a2)
    g, steps = _first_passage(a0, _generator(a1, a0 + a2), a2)
    diagonal = _generator(a1, a0 + a2)
    r: Floats = np.asarray(np.linalg.solve((-diagonal - a0 @ g).T, a0.T).T, dtype=np.float64)
    levels = _boundary(rows, (a0, diagonal, a2), r)
    k = len(rows)
    rest = np.linalg.inv(np.eye(m) - r)
    above = levels[k] @ rest
    mean = float(sum(n * levels[n].sum() for n in range(k)))
    mean += float(k * above.sum() + (above @ r @ rest).sum())
    rises = float(sum(levels[n] @ rows[n][0].sum(axis=1) for n in range(k)))
    rises += float(above @ a0.sum(axis=1))
    for array in (r, levels):
        array.flags.writeable = False
    return QBD(
        R=r,
        boundary=levels,
        spectral_radius=float(np.abs(np.linalg.eigvals(r)).max()),
        mean=mean,
        p0=float(levels[0].sum()),
        rate=rises,
        residual=float(np.abs(a0 + r @ diagonal + r @ r @ a2).max()),
        steps=steps,
        kind=Kind.APPROXIMATION,
        assumptions=("levels from some on are alike", "double precision, logarithmic reduction"),
        source="Neuts 1981; Latouche and Ramaswami 1993",
    )


def _level(blocks: Level, where: str, m: int | None) -> tuple[Floats, Floats, Floats]:
    try:
        up, local, down = (np.array(block, dtype=np.float64) for block in blocks)
    except (TypeError, ValueError) as error:
        raise InputError(f"{where} need (up, local, down), three matrices of rates") from error
    size = (m or len(np.atleast_1d(up)),) * 2
    for name, block in (("up", up), ("local", local), ("down", down)):
        if block.shape != size:
            raise InputError(
                f"{name} of {where} must have shape {size}, one row for each phase, "
                f"got {block.shape}",
                field=name,
            )
        if name == "local":
            np.fill_diagonal(block, 0.0)
        if not np.all((block >= 0) & np.isfinite(block)):
            bad = block[~((block >= 0) & np.isfinite(block))][0]
            raise InputError(
                f"{name} of {where} must hold rates >= 0, got {bad}", field=name, value=bad
            )
    return up, local, down


def _generator(local: Floats, leaving: Floats) -> Floats:
    return np.asarray(local - np.diag((local + leaving).sum(axis=1)))


def _check_drift(a0: Floats, a1: Floats, a2: Floats) -> None:
    total = a0 + a1 + a2
    np.fill_diagonal(total, 0.0)
    fastest = total.sum(axis=1).max()
    if fastest > 0:
        total /= fastest
    np.fill_diagonal(total, 1 - total.sum(axis=1))
    phase = np.array(stationary(total.tolist()).probabilities, dtype=np.float64)
    rise, fall = float(phase @ a0.sum(axis=1)), float(phase @ a2.sum(axis=1))
    if not rise < fall:
        margin = fall / rise if rise > 0 else 0.0
        raise UnstableError(
            f"the chain has no stationary law: far up it rises at rate {rise:.4g} and falls at "
            f"{fall:.4g} (margin {margin:.4g}, must exceed 1): lower the rates up",
            margin=margin,
            load=rise / fall if fall > 0 else float("inf"),
        )


def _first_passage(a0: Floats, a1: Floats, a2: Floats) -> tuple[Floats, int]:
    """Logarithmic reduction: ``rise`` and ``fall`` jump 2^n levels at step n."""
    rise: Floats = np.asarray(np.linalg.solve(-a1, a0), dtype=np.float64)
    fall: Floats = np.asarray(np.linalg.solve(-a1, a2), dtype=np.float64)
    g, reach = fall.copy(), rise.copy()
    for step in range(1, _STEPS + 1):
        back = np.eye(len(a0)) - rise @ fall - fall @ rise
        rise = np.asarray(np.linalg.solve(back, rise @ rise), dtype=np.float64)
        fall = np.asarray(np.linalg.solve(back, fall @ fall), dtype=np.float64)
        more = reach @ fall
        g += more
        if np.abs(more).max() < _STOP:
            # A stable chain comes down surely: what rows lack of 1 is rounding, which a load
            # near 1 would magnify.
            return g / g.sum(axis=1, keepdims=True), step
        reach = reach @ rise
    raise UndecidedError(
        f"after {_STEPS} steps the reduction still changes G by {np.abs(more).max():.2g}: the load "
        "is within rounding of 1, lower the rates up",
        low=0.0,
        high=float(np.abs(more).max()),
    )


def _boundary(
    rows: Sequence[tuple[Floats, Floats, Floats]], repeat: tuple[Floats, Floats, Floats], r: Floats
) -> Floats:
    """Probabilities of the levels 0 .. k by balance, ``k = len(rows)``."""
    m, k = len(r), len(rows)
    q = np.zeros(((k + 1) * m, (k + 1) * m))

    def put(i: int, j: int, block: Floats) -> None:
        q[i * m : (i + 1) * m, j * m : (j + 1) * m] = block

    for i, (up, local, down) in enumerate(rows):
        put(i, i, _generator(local, up + down))
        put(i, i + 1, up)
        if i:
            put(i, i - 1, down)
    put(k, k, repeat[1] + r @ repeat[2])
    put(k, k - 1, repeat[2])
    weight = np.ones((k + 1) * m)
    weight[k * m :] = np.linalg.inv(np.eye(m) - r).sum(axis=1)
    # One balance equation follows from the others: the sum of all probabilities takes its place.
    q[:, 0] = weight
    right = np.zeros((k + 1) * m)
    right[0] = 1.0
    return np.asarray(np.linalg.solve(q.T, right).reshape(k + 1, m))
