"""Which leading blocks of a prompt other prompts start with too.

A recorder that hides the text can still name each block of a prompt by a hash of the block *and all
before it*: two prompts share a prefix exactly as far as their names agree. Mooncake's traces do so
with blocks of 512 tokens. ``found`` counts what a cache that never forgets would find: the work
that is left, and so the load, cannot be less where requests are served in the order of arrival, and
in another order only by the one KV block of a request that is computed again though all of it is
known; a real cache forgets, and its hits come from simulation (``Engine(prefix_cache=True)``).

Not covered: blocks of generated tokens. The names of a later turn do hold the earlier answer, but
not which request generated it; a block that only an answer filled counts as new when it is first
part of a prompt. What is found is therefore a lower bound of what a chat server finds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from llmq._input.checked import checked
from llmq._input.columns import wholes
from llmq.errors import InputError, shown

__all__ = ["Prefix"]

Ints: TypeAlias = npt.NDArray[np.int64]


@checked
@dataclass(frozen=True, slots=True, eq=False)
class Prefix:
    """Names of the leading prompt blocks of each request.

    Parameters
    ----------
    ids : ndarray of int, shape (m,)
        Names >= 0, request after request.
    offsets : ndarray of int, shape (n + 1,)
        Where each request begins, and the end.
    block : int
        Prompt tokens behind one name; the last block of a request may be shorter.

    Examples
    --------
    >>> Prefix.of([[7, 8], [7], []], block=512).offsets
    array([0, 2, 3, 3])
    """

    ids: Ints
    offsets: Ints
    block: int

    def __post_init__(self) -> None:
        if not self.block >= 1:
            raise InputError(f"a prefix block needs at least 1 token, got {self.block}")
        for name in ("ids", "offsets"):
            column = wholes(f"{name} of prefix blocks", getattr(self, name))
            column.flags.writeable = False
            object.__setattr__(self, name, column)
        if len(self.ids) and self.ids.min() < 0:
            raise InputError(f"names of prefix blocks must be >= 0, got {self.ids.min()}")
        ends = (0, len(self.ids))
        falls = not len(self.offsets) or np.any(np.diff(self.offsets) < 0)
        if falls or (self.offsets[0], self.offsets[-1]) != ends:
            raise InputError(f"offsets of prefix blocks must ascend from 0 to {len(self.ids)}")

    @classmethod
    def of(cls, rows: Sequence[Sequence[int]], *, block: int) -> Prefix:
        """Put the names of each request one after the other.

        Parameters
        ----------
        rows : sequence of sequence of int
            Names of each request; none where nothing is known.
        block : int
            Prompt tokens behind one name.

        Returns
        -------
        Prefix
            All of them.
        """
        try:
            sizes = np.array([len(row) for row in rows], dtype=np.int64)
            ids = wholes("names of prefix blocks", [x for row in rows for x in row])
        except TypeError:
            raise InputError(
                f"rows must be a list with a list of names for each request, got {shown(rows)}"
            ) from None
        return cls(ids, np.concatenate(([0], np.cumsum(sizes))), block)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def row(self, i: int) -> Ints:
        """Return the names of one request.

        Parameters
        ----------
        i : int
            Number of the request.

        Returns
        -------
        ndarray of int
            Its names.
        """
        return self.ids[self.offsets[i] : self.offsets[i + 1]]

    @checked
    def take(self, rows: Any) -> Prefix:
        """Return the names of some requests.

        Parameters
        ----------
        rows : slice, array of bool or array of int
            Which.

        Returns
        -------
        Prefix
            Theirs.
        """
        some = np.arange(len(self))[rows]
        return Prefix.of([self.row(i).tolist() for i in some.tolist()], block=self.block)

    @checked
    def fit(self, prompt: Ints) -> None:
        """Check that the names belong to prompts of these lengths.

        Parameters
        ----------
        prompt : ndarray of int, shape (n,)
            Tokens.

        Raises
        ------
        InputError
            Another number of requests, or more names than blocks.
        """
        if len(self) != len(prompt):
            raise InputError(f"prefix names {len(self)} requests, the trace has {len(prompt)}")
        most = -(-prompt // self.block)
        bad = np.flatnonzero(np.diff(self.offsets) > most)
        if len(bad):
            row = int(bad[0])
            raise InputError(
                f"request {row} has {len(self.row(row))} prefix blocks of {self.block} tokens, "
                f"its prompt of {prompt[row]} tokens has only {most[row]}",
                row=row,
            )

    def per(self, kv_block: int) -> int:
        """Return how many KV blocks of an engine lie in one named block.

        Parameters
        ----------
        kv_block : int
            Tokens of a KV block.

        Returns
        -------
        int
            At least 1.

        Raises
        ------
        InputError
            The KV blocks do not divide the named blocks.
        """
        if self.block % kv_block:
            raise InputError(
                f"the trace names prefix blocks of {self.block} tokens, which KV blocks of "
                f"{kv_block} do not divide: choose a kv_block that does",
                kv_block=kv_block,
            )
        return self.block // kv_block
