"""Who runs the blocks: this process, several, any map-like function, or a cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeAlias, TypeVar

from llmq.errors import InputError

__all__ = ["Workers", "mapped"]

Workers: TypeAlias = "int | Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]] | Any"
_A = TypeVar("_A")
_B = TypeVar("_B")


def mapped(workers: Workers, function: Callable[[_A], _B], tasks: Sequence[_A]) -> Iterator[_B]:
    """Apply a function to tasks, in order, giving each result as it is there.

    Parameters
    ----------
    workers : int, map-like or dask.distributed.Client
        How many processes, a function like :func:`map`, or a cluster's client.
    function : callable
        Picklable.
    tasks : sequence
        Picklable.

    Yields
    ------
    object
        Results in the order of the tasks.

    Raises
    ------
    InputError
        Fewer than one worker, or something else than the three.

    Examples
    --------
    >>> list(mapped(1, abs, [-1, 2]))
    [1, 2]
    """
    if isinstance(workers, int):
        if workers < 1:
            raise InputError(f"workers must be at least 1, got {workers}", value=workers)
        if workers == 1 or len(tasks) == 1:
            yield from map(function, tasks)
            return
        from concurrent.futures import ProcessPoolExecutor

        with ProcessPoolExecutor(min(workers, len(tasks))) as pool:
            try:
                yield from pool.map(function, tasks)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    elif hasattr(workers, "map") and hasattr(workers, "gather"):
        # A dask client: one future for each task, so that a result can be used as it comes.
        client: Any = workers
        futures = [client.submit(function, task, pure=False) for task in tasks]
        yield from (future.result() for future in futures)
    elif callable(workers):
        yield from workers(function, tasks)
    else:
        raise InputError(
            f"workers must be a number, a function like map or a dask client, got {workers!r}",
            value=workers,
        )
