"""The rules of the contract: what a policy and a router may answer, asked and checked here.

Every simulator asks a policy through these functions, on arrays whose last axis is the row: one
run, or many lanes. What breaks a rule raises :class:`BrokenRuleError` with a sentence that says
which block, what it answered, what to do, and the page that explains it; the simulator adds the
policy, the iteration and the time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from llmq.errors import PolicyError, shown
from llmq.policies.contract.blocks import Blocks
from llmq.policies.contract.routers import Router, Signals
from llmq.policies.contract.view import Bools, Floats, View

__all__ = [
    "PAGE",
    "ROUTER_PAGE",
    "BrokenRuleError",
    "budget_of",
    "gate_of",
    "key_of",
    "mark_of",
    "move_of",
    "over_budget",
    "pick_of",
    "sealed",
    "split_of",
    "starved",
    "victim_of",
]

# Where the rules are explained.
PAGE, ROUTER_PAGE = "docs/policies.md", "docs/routers.md"

Answer = TypeVar("Answer")


class BrokenRuleError(PolicyError):
    """A block of a policy, or a router, broke a rule of the contract."""


def sealed(view: View) -> View:
    """Make the columns of a view read-only.

    Parameters
    ----------
    view : View
        What a policy is about to see.

    Returns
    -------
    View
        The same.
    """
    for column in view:
        if type(column) is np.ndarray:
            column.setflags(write=False)  # three times as fast as flags.writeable
    return view


def key_of(blocks: Blocks, view: View) -> tuple[npt.NDArray[np.generic], ...]:
    """Ask in what order the rows come.

    Parameters
    ----------
    blocks : Blocks
        The policy.
    view : View
        The engine, or many of them.

    Returns
    -------
    tuple of ndarray
        Columns of the shape of ``view.row``, the most significant first.

    Raises
    ------
    BrokenRuleError
        No array formula, another shape, or a view that was written to.
    """
    columns: Any = _asked("key", blocks.key, view)
    if isinstance(columns, np.ndarray) or not isinstance(columns, Sequence) or not len(columns):
        raise _broken(
            f"its key returned {_kind(columns)}, not a tuple of arrays: write (column,), or "
            "(first, second) with the most significant first"
        )
    for place, column in enumerate(columns):
        _check_column(f"column {place} of its key", column, view, "biuf")
    return tuple(columns)


def gate_of(blocks: Blocks, view: View) -> tuple[Bools, Any]:
    """Ask who may run.

    Parameters
    ----------
    blocks : Blocks
        The policy.
    view : View
        The engine, or many of them.

    Returns
    -------
    tuple
        Mask of the shape of ``view.row``, and a wake-up time (of each lane) or None.

    Raises
    ------
    BrokenRuleError
        As for :func:`key_of`.
    """
    answer = _asked("gate", blocks.gate, view)
    if not isinstance(answer, tuple) or len(answer) != 2:
        raise _broken(
            f"its gate returned {_kind(answer)}, not a pair of a mask and a wake-up time: write "
            "(mask, None) where nobody is held"
        )
    mask, wake = answer
    _check_column("the mask of its gate", mask, view, "b")
    times = wake is None or (
        np.ndim(wake) <= view.row.ndim - 1 and np.asarray(wake).dtype.kind in "iuf"
    )
    if not times:
        raise _broken(
            f"its gate names the wake-up time {shown(wake)}: it must be seconds, or None where "
            "nobody is held"
        )
    return mask, wake


def mark_of(blocks: Blocks, view: View) -> Floats:
    """Ask for new marks of the rows.

    Parameters
    ----------
    blocks : Blocks
        A policy with a ``mark``.
    view : View
        The engine, or many of them.

    Returns
    -------
    ndarray
        Numbers of the shape of ``view.row``.

    Raises
    ------
    BrokenRuleError
        As for :func:`key_of`.
    """
    assert blocks.mark is not None
    marks = _asked("mark", blocks.mark, view)
    _check_column("what its mark returned", marks, view, "biuf")
    return marks


def budget_of(blocks: Blocks, view: View) -> Any:
    """Ask how many tokens the next iteration may take.

    Parameters
    ----------
    blocks : Blocks
        The policy.
    view : View
        The engine, or many of them.

    Returns
    -------
    int or ndarray
        At most the engine's budget (of each lane).

    Raises
    ------
    BrokenRuleError
        No whole number of tokens, or fewer than none.
    """
    limit: Any = _asked("budget of tokens", blocks.budget.limit, view)
    if type(limit) is int and limit >= 0:  # asked at every iteration: what is usual is quick
        return limit
    whole = np.asarray(limit).dtype.kind in "iu" and np.ndim(limit) <= view.row.ndim - 1
    if not whole or np.any(np.asarray(limit) < 0):
        raise _broken(
            f"its budget of tokens is {shown(limit)}: it must be a whole number, at least 0"
        )
    return limit


def victim_of(
    blocks: Blocks, view: View, order: Sequence[int], row: int, served: Sequence[bool]
) -> int | None:
    """Ask who leaves when a row needs memory; one engine at a time.

    Parameters
    ----------
    blocks : Blocks
        The policy.
    view : View
        The engine.
    order : sequence of int
        All live rows in key order.
    row : int
        The row that needs memory.
    served : sequence of bool
        Rows that already have tokens or were evicted in this plan.

    Returns
    -------
    int or None
        A resident without tokens in this plan, or the row itself.

    Raises
    ------
    BrokenRuleError
        Somebody else.
    """
    chosen: Any = blocks.victim(view, order, row, served)
    if chosen is None:
        return None
    whole = isinstance(chosen, int | np.integer) and not isinstance(chosen, bool)
    if not whole or not 0 <= chosen < len(served):
        raise _broken(
            f"its victim is {shown(chosen)}, none of the {len(served)} rows present: return one of "
            "order, or None"
        )
    if chosen != row and (served[chosen] or not view.resident[chosen]):
        why = "already served or evicted in this plan" if served[chosen] else "not in memory"
        raise _broken(
            f"its victim is row {chosen}, which is {why}: return a resident that is not served, "
            "or None"
        )
    return int(chosen)


def starved(present: Bools, served: Bools, wake: Any) -> str | None:
    """Name the rule that a plan breaks in which nobody runs and nobody will.

    Parameters
    ----------
    present, served : ndarray of bool
        Rows that are there, and rows that are served or evicted; the last axis is the row.
    wake : float, ndarray or None
        When to look again, of each lane; None or NaN where no time was named.

    Returns
    -------
    str or None
        None where somebody runs, or a time is named, in every lane that holds a row.

    Examples
    --------
    >>> here = np.array([[True, True], [True, False]])
    >>> starved(here, here, None) is None
    True
    >>> print(starved(here, np.array([[True, False], [False, False]]), None).split(":")[0])
    lets none of the 1 request present run and names no wake-up time
    """
    never = np.isnan(np.asarray(math.nan if wake is None else wake, dtype=float))
    stuck = present.any(axis=-1) & ~(present & served).any(axis=-1) & never
    if not stuck.any():
        return None
    here = int(np.atleast_1d(present.sum(axis=-1))[np.atleast_1d(stuck)][0])
    who = f"{here} request{'s' * (here > 1)}"
    return (
        f"lets none of the {who} present run and names no wake-up time: let the gate return a time "
        f"in seconds, math.inf for the next arrival, or let somebody run ({PAGE})"
    )


def over_budget(tokens: npt.ArrayLike, budget: int) -> str | None:
    """Name the rule that a plan breaks which takes more tokens than an iteration has.

    Parameters
    ----------
    tokens : array_like
        Tokens of each row; the last axis is the row.
    budget : int
        Of the engine.

    Returns
    -------
    str or None
        None where every lane keeps the budget.

    Examples
    --------
    >>> over_budget([[64, 1], [3, 60]], 64)
    '65 tokens exceed token_budget 64: a plan may hold fewer (docs/policies.md)'
    """
    most = int(np.max(np.sum(np.asarray(tokens, dtype=np.int64), axis=-1), initial=0))
    if most <= budget:
        return None
    return f"{most} tokens exceed token_budget {budget}: a plan may hold fewer ({PAGE})"


def split_of(
    route: Router, n: int, engines: int, rng: np.random.Generator
) -> npt.NDArray[np.int64] | None:
    """Ask a router for the engines of all arrivals, where it needs no state.

    Parameters
    ----------
    route : Router
        Who chooses.
    n, engines : int
        Arrivals and engines.
    rng : numpy.random.Generator
        Source of randomness.

    Returns
    -------
    ndarray of int, shape (n,), or None
        Engine of each arrival; None if the router must look at the engines.

    Raises
    ------
    BrokenRuleError
        Another shape, or an engine that is none.
    """
    chosen: Any = route.split(n, engines, rng)
    if chosen is None:
        return None
    good = isinstance(chosen, np.ndarray) and chosen.dtype.kind in "iu" and chosen.shape == (n,)
    if not good:
        raise _broken(
            f"router {route.name}: split returned {_kind(chosen)} for {n} arrivals: return an "
            f"array of {n} whole numbers, or None",
            ROUTER_PAGE,
        )
    if n and not 0 <= chosen.min() <= chosen.max() < engines:
        wrong = int(chosen[(chosen < 0) | (chosen >= engines)][0])
        raise _broken(_no_engine(route, "split", wrong, engines), ROUTER_PAGE)
    return np.asarray(chosen, dtype=np.int64)


def pick_of(route: Router, signals: Signals, engines: int) -> int:
    """Ask a router for the engine of an arrival.

    Parameters
    ----------
    route : Router
        Who chooses.
    signals : Signals
        The engines that may serve it.
    engines : int
        How many they are.

    Returns
    -------
    int
        One of them.

    Raises
    ------
    BrokenRuleError
        None of them.
    """
    return _engine(route, "pick", route.pick(signals), engines)


def move_of(route: Router, signals: Signals, here: int, row: int, engines: int) -> int:
    """Ask a router where a request goes on.

    Parameters
    ----------
    route : Router
        Who chooses.
    signals : Signals
        The engines that may serve it.
    here, row : int
        The engine it is on, and its place in the view of that engine.
    engines : int
        How many they are.

    Returns
    -------
    int
        One of them.

    Raises
    ------
    BrokenRuleError
        None of them.
    """
    return _engine(route, "move", route.move(signals, here, row), engines)


def _engine(route: Router, word: str, chosen: Any, engines: int) -> int:
    whole = isinstance(chosen, int | np.integer) and not isinstance(chosen, bool)
    if not whole or not 0 <= chosen < engines:
        raise _broken(_no_engine(route, word, chosen, engines), ROUTER_PAGE)
    return int(chosen)


def _no_engine(route: Router, word: str, chosen: object, engines: int) -> str:
    return (
        f"router {route.name}: {word} returned {shown(chosen)}, which is no engine: return a whole "
        f"number from 0 to {engines - 1}"
    )


def _asked(block: str, ask: Callable[[View], Answer], view: View) -> Answer:
    """Ask a block; two mistakes of NumPy's users are told in our words."""
    try:
        return ask(view)
    except ValueError as error:
        if "read-only" in str(error):
            raise _broken(
                f"its {block} writes to its view, which is read-only: compute a new array; what it "
                "must remember of a request is its mark"
            ) from error
        if "truth value of an array" in str(error):
            raise _broken(
                f"its {block} is no array formula (an array has no single truth value): write "
                "np.where(condition, a, b) for if, & and | for and, or"
            ) from error
        raise
    except TypeError as error:
        if "only" in str(error) and "arrays can be converted" in str(error):
            raise _broken(
                f"its {block} is no array formula (math.* and float() take one number): write the "
                "function of NumPy, such as np.floor for math.floor"
            ) from error
        raise


def _check_column(what: str, column: Any, view: View, kinds: str) -> None:
    """Refuse what is no array of the rows."""
    if not isinstance(column, np.ndarray):
        raise _broken(
            f"{what} is {_kind(column)}, not an array: no array formula of the columns of the view "
            "gives one; use NumPy on them, without loops"
        )
    if column.shape != view.row.shape:
        raise _broken(
            f"{what} has the shape {column.shape}, the rows have {view.row.shape}: give one value "
            "for each row; np.full(view.row.shape, x) makes an array of one number"
        )
    if column.dtype.kind not in kinds:
        want = "true or false" if kinds == "b" else "numbers"
        raise _broken(f"{what} holds {column.dtype}, it must hold {want}")


def _kind(value: object) -> str:
    """Say what was returned."""
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape}"
    return "None" if value is None else f"{shown(value, 40)} ({type(value).__name__})"


def _broken(rule: str, page: str = PAGE) -> BrokenRuleError:
    return BrokenRuleError(f"{rule} ({page})")
