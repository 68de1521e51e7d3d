"""Claims: what somebody states, and a judge that reads the answer off a table.

A :class:`Claim` carries its own judge, a function of the table of its experiment, so that the
status in ``CLAIMS.md`` is computed, never written. A judge must be able to fail: it compares with
numbers that stand in the source, and its test gives it a doctored table. A judge that finds no
rows to judge raises ``LookupError`` or says NOT.

A band is a promise only if it was written down before the number. So each claim that is judged by
a band says where the band comes from (:class:`Band`); one that was set with results at hand makes
the claim an observation, however well it holds. :func:`grade` turns what the judge found into the
words of the page.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass

from experiments.table import Table

__all__ = ["Band", "Claim", "Finding", "Status", "grade"]


class Band(enum.StrEnum):
    """Where the numbers come from that a judge compares with."""

    NONE = "no band: exact, or four standard errors"
    SOURCE = "the source's number; tolerance set here, with first results at hand"
    NOTES = "project notes, written before the runs of 2026-11-22"
    RESULTS = "set here, with results at hand"


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
    band : Band
        Where the numbers of the judge come from.
    equality : bool
        The claim says that two things are equal, so "direction" has no meaning for it.
    conjecture : bool
        A conjecture of the project: a failed one is refuted.
    least : Status
        What the small scale must reach in the tests; NOT means that nothing is tested there.
    test : str
        The test with a doctored table, ``file.py::test``; empty for the generic one alone.
    """

    id: str
    text: str
    source: str
    judge: Callable[[Table], Finding]
    figure: str = ""
    band: Band = Band.NONE
    equality: bool = False
    conjecture: bool = False
    least: Status = Status.DIRECTION
    test: str = ""


def grade(claim: Claim, status: Status) -> str:
    """Say in the words of the page how far a claim holds.

    Parameters
    ----------
    claim : Claim
        What is stated.
    status : Status
        What its judge found.

    Returns
    -------
    str
        "observation" instead of "reproduced in band" where the band was set with results at hand;
        "equal in band" or "not equal in band" for equalities; "refuted" for failed conjectures.

    Raises
    ------
    ValueError
        Judged by a band, and nothing says where it comes from.

    Examples
    --------
    >>> claim = Claim(id="A", text="", source="", judge=None, band=Band.RESULTS)
    >>> grade(claim, Status.BAND), grade(claim, Status.NOT)
    ('observation', 'not reproduced')
    """
    if status in (Status.BAND, Status.DIRECTION, Status.NOT) and claim.band is Band.NONE:
        raise ValueError(f"claim {claim.id} is {status}: say where its band comes from (band=)")
    if claim.conjecture and status is Status.NOT:
        return "refuted"
    if claim.equality and status in (Status.BAND, Status.DIRECTION, Status.NOT):
        return "equal in band" if status is Status.BAND else "not equal in band"
    if status is Status.BAND and claim.band is Band.RESULTS:
        return "observation"
    return str(status)
