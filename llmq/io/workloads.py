"""Named workloads: measured traffic that ships with the library.

The files beside this module hold quantile tables of prompt and output lengths (facts counted from
public traces by ``experiments/make_workloads.py``), their dependence and the arrival process, or
the parameters of a generator from the literature. Each says its source, the licence of the data it
was counted from, and its ``kind``: ``measured`` or ``reconstructed``.

Prompt and output are joined by a Gaussian copula whose correlation is chosen so that the mean of
their product, which decides KV memory, is that of the trace; the correlation of the normal scores
is in the file beside it. Not covered: a dependence that is not monotone beyond that product (in
``azure-conv`` the mean of prompt^2 times output comes out 38 % too high), drift over the day,
conversations, shared prefixes.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files

from llmq._input.checked import checked
from llmq._input.config import parse_toml
from llmq._input.tables import Table
from llmq.errors import InputError, nearest
from llmq.io._classes import CLASS_KEYS, read_class
from llmq.model.arrivals import Poisson, Renewal
from llmq.model.request import RequestClass
from llmq.model.workload import Workload

__all__ = ["WorkloadFacts", "load_workload", "workload_facts", "workloads"]

_FACTS = ("title", "kind", "source", "licence", "date", "made_by", "requests", "class", "notes")


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadFacts:
    """What is known of a named workload.

    Parameters
    ----------
    name : str
        For :func:`load_workload`.
    title : str
        One line.
    kind : {"measured", "reconstructed"}
        Counted from a trace, or drawn from a published description.
    source, licence, date, made_by : str
        Where the numbers come from, the licence of that data, when and by what they were made.
    klass : str
        Name of the class.
    request : RequestClass
        The lengths.
    rate : float, optional
        Requests per second; None where none was measured.
    cv : float, optional
        Coefficient of variation of the gaps; None where none was measured.
    notes : tuple of str
        What else to know.
    """

    name: str
    title: str
    kind: str
    source: str
    licence: str
    date: str
    made_by: str
    klass: str
    request: RequestClass
    rate: float | None
    cv: float | None
    notes: tuple[str, ...]


def workloads() -> tuple[str, ...]:
    """Name the workloads that ship with the library.

    Returns
    -------
    tuple of str
        Names for :func:`load_workload`.

    Examples
    --------
    >>> workloads()
    ('azure-conv', 'openchat-sharegpt4', 'reasoning-alpaca', 'reasoning-arena')
    """
    folder = files("llmq.io") / "workloads"
    names = (item.name for item in folder.iterdir())
    return tuple(sorted(name[:-5] for name in names if name.endswith(".toml")))


def workload_facts(name: str) -> WorkloadFacts:
    """Look up a named workload and where it comes from.

    Parameters
    ----------
    name : str
        One of :func:`workloads`.

    Returns
    -------
    WorkloadFacts
        Lengths, rate and source.

    Raises
    ------
    InputError
        Unknown name.

    Examples
    --------
    >>> workload_facts("azure-conv").licence
    'CC-BY-4.0'
    """
    if name not in workloads():
        raise InputError(f"unknown workload {name!r}{nearest(name, workloads())}", value=name)
    file = f"{name}.toml"
    text = (files("llmq.io") / "workloads" / file).read_text(encoding="utf-8")
    table = Table(file, "", parse_toml(text, file))
    table.only([*_FACTS, *CLASS_KEYS, "normal_score_correlation", "arrivals"])
    arrivals = table.table("arrivals") if "arrivals" in table else Table(file, "arrivals", {})
    arrivals.only(["rate", "cv"])
    notes = table.raw.get("notes", ())
    return WorkloadFacts(
        name=name,
        klass=table.text("class"),
        request=read_class(table),
        rate=arrivals.real("rate") if "rate" in arrivals else None,
        cv=arrivals.real("cv") if "cv" in arrivals else None,
        notes=tuple(notes) if isinstance(notes, list) else (),
        **{key: table.text(key) for key in _FACTS[:6]},
    )


@checked
def load_workload(name: str, rate: float | None = None) -> Workload:
    """Load a named workload.

    Parameters
    ----------
    name : str
        One of :func:`workloads`.
    rate : float, optional
        Requests per second; the measured one if not given, required where none was measured.

    Returns
    -------
    Workload
        Renewal arrivals with the measured coefficient of variation where there is one, else
        Poisson.

    Raises
    ------
    InputError
        Unknown name, or no rate.

    Examples
    --------
    >>> work = load_workload("azure-conv")
    >>> round(work.rate, 2), round(work.mix["chat"].prompt.mean)
    (5.53, 1159)
    """
    facts = workload_facts(name)
    rate = facts.rate if rate is None else rate
    if rate is None:
        raise InputError(
            f"workload {name!r} has lengths but no measured rate: give rate= (requests per second)"
        )
    arrivals = Poisson(rate) if facts.cv is None else Renewal(rate, facts.cv)
    return Workload(arrivals, {facts.klass: facts.request}, {facts.klass: 1.0})
