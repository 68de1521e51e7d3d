"""Who runs the blocks: this process, several, any map-like function, or a cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeAlias, TypeVar

from llmq._limits import WORKERS
from llmq.errors import InputError, shown

__all__ = ["Workers", "completed", "mapped"]

Workers: TypeAlias = "int | Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]] | Any"
_A = TypeVar("_A")
_B = TypeVar("_B")


def mapped(workers: Workers, function: Callable[[_A], _B], tasks: Sequence[_A]) -> Iterator[_B]:
    """Apply a function to tasks, in order, giving each result as it is there.

    Examples
    --------
    >>> list(mapped(1, abs, [-1, 2]))
    [1, 2]
    """
    early: dict[int, _B] = {}
    due = 0
    for place, result in completed(workers, function, tasks):
        early[place] = result
        while due in early:
            yield early.pop(due)
            due += 1


def completed(
    workers: Workers, function: Callable[[_A], _B], tasks: Sequence[_A]
) -> Iterator[tuple[int, _B]]:
    """Apply a function to tasks, giving each result when it is there.

    Examples
    --------
    >>> list(completed(1, abs, [-1, 2]))
    [(0, 1), (1, 2)]
    """
    if isinstance(workers, int):
        if isinstance(workers, bool) or not 1 <= workers <= WORKERS:
            bound = "at least 1" if workers < 1 else f"a number, at most {WORKERS}"
            raise InputError(f"workers must be {bound}, got {shown(workers)}", value=workers)
        if workers == 1 or len(tasks) == 1:
            yield from enumerate(map(function, tasks))
        elif tasks:
            from llmq.sim._parallel.processes import by_processes

            yield from by_processes(min(workers, len(tasks)), function, tasks)
    elif hasattr(workers, "map") and hasattr(workers, "gather"):
        # A dask client: one future for each task, so that a result can be used as it comes.
        client: Any = workers
        futures = [client.submit(function, task, pure=False) for task in tasks]
        yield from ((place, future.result()) for place, future in enumerate(futures))
    elif callable(workers):
        yield from enumerate(workers(function, tasks))
    else:
        raise InputError(
            f"workers must be a number, a function like map or a dask client, got {shown(workers)}",
            value=workers,
        )
