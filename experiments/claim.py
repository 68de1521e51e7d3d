"""Claims: what somebody states, and a judge that reads the answer off a table.

A :class:`Claim` carries its own judge, a function of the table of its experiment, so that the
status in ``CLAIMS.md`` is computed, never written. A judge must be able to fail: it compares with
numbers that stand in the source, and its test gives it a doctored table. Bands and tolerances are
those of the source or of a statistical test; where they are ours the claim, its judge or the head
of ``CLAIMS.md`` says so. A judge that finds no rows to judge raises ``LookupError`` or says NOT.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass

from experiments.table import Table

__all__ = ["Claim", "Finding", "Status"]


class Status(enum.StrEnum):
    """How far a claim holds, best first."""

    PROVED = "proved"
    VERIFIED = "verified at 4 SE"
    BAND = "reproduced in band"
    DIRECTION = "direction only"
    NOT = "not reproduced"

    def reaches(self, least: Status) -> bool:
        """Whether this is as good as another status.

        Parameters
        ----------
        least : Status
            What is asked for.

        Returns
        -------
        bool
            True where it is at least that.

        Examples
        --------
        >>> Status.BAND.reaches(Status.DIRECTION), Status.NOT.reaches(Status.DIRECTION)
        (True, False)
        """
        order = list(Status)
        return order.index(self) <= order.index(least)


@dataclass(frozen=True, slots=True)
class Finding:
    """What a judge says.

    Parameters
    ----------
    status : Status
        How far the claim holds.
    measured : str
        The numbers behind it, with units.
    """

    status: Status
    measured: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A statement that a table can refute.

    Parameters
    ----------
    id : str
        Short and unique, such as ``"PASCAL-H1"``.
    text : str
        The statement, one sentence.
    source : str
        Who states it, and where.
    judge : callable
        From the experiment's table to a :class:`Finding`.
    figure : str
        Name of the figure that shows it; empty if none does.
    least : Status
        What the small scale must reach in the tests.
    test : str
        The test with a doctored table, ``file.py::test``; empty for the generic one alone.
    """

    id: str
    text: str
    source: str
    judge: Callable[[Table], Finding]
    figure: str = ""
    least: Status = Status.DIRECTION
    test: str = ""
