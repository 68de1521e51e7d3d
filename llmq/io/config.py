"""Configuration files of ``llmq plan`` and ``simulate``: traffic, targets, candidates, simulation.

TOML or JSON of the same shape (examples/chat.toml shows it). Every key is known, every duration
carries its unit, and relative paths are relative to the file. Engine names and policy texts are
kept as they are: the caller resolves them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmq._input.config import read_table
from llmq._input.files import PathLike
from llmq._input.tables import Table
from llmq.errors import nearest
from llmq.io._classes import CLASS_KEYS, read_class
from llmq.io.traces import read_trace
from llmq.io.workloads import load_workload
from llmq.model.arrivals import Arrivals, Deterministic, Poisson, Renewal
from llmq.model.engine import Engine
from llmq.model.slo import SLO
from llmq.model.time.batchtime import BatchTime
from llmq.model.trace import Trace
from llmq.model.workload import Workload

__all__ = ["CandidateConfig", "PlanConfig", "SimulationConfig", "read_config"]

_ENGINE_KEYS = ("token_budget", "max_seqs", "kv_tokens", "kv_block", "prefill_chunk")
_READ = ("per_kv", "per_kv_mixed", "per_work")
# How a trace is read, as read_trace() calls it.
_READING: dict[str, Callable[[Table, str], Any]] = {
    **dict.fromkeys(("format", "jitter", "time_unit", "failed"), Table.text),
    **dict.fromkeys(("hash_block", "output"), Table.whole),
}
# What each form needs, and what it may have.
_LAWS = {
    "affine": (("base", "per_token"), _READ),
    "tiled": (("base", "per_tile", "tile"), ("per_token", *_READ)),
    "roofline": (("floor", "base", "per_token"), ("floor_per_token", "tile", *_READ)),
    "table": (("tokens", "seconds"), _READ),
}


@dataclass(frozen=True, slots=True)
class CandidateConfig:
    """One way to serve the traffic.

    Parameters
    ----------
    engine : str or Engine
        Catalogue name, path of an engine file, or the engine itself.
    tp : int, optional
        GPUs of one engine; the smallest the entry has if not given.
    policy : str, optional
        Policy and parameters, e.g. ``"sarathi:token_budget=512"``.
    overrides : mapping of str to int
        Fields of the engine to change.
    max_gpus : int, optional
        Most GPUs to consider.
    price : float, optional
        Of a GPU for an hour, in any one currency.
    engines : int, optional
        How many, for ``llmq simulate``; a plan finds the count.
    """

    engine: str | Engine
    tp: int | None = None
    policy: str | None = None
    overrides: Mapping[str, int] = field(default_factory=dict)
    max_gpus: int | None = None
    price: float | None = None
    engines: int | None = None


@dataclass(frozen=True, slots=True)
class SimulationConfig:
    """How much to simulate.

    Parameters
    ----------
    requests : int
        Requests of each replication.
    replications : int
        Independent runs.
    seed : int
        Seed of everything random.
    """

    requests: int = 2000
    replications: int = 8
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanConfig:
    """What a configuration file asks for.

    Parameters
    ----------
    traffic : Trace or Workload
        Who arrives.
    slo : SLO or None
        Latency targets; a plan needs them.
    candidates : tuple of CandidateConfig
        What may serve, at least one.
    simulation : SimulationConfig
        How much to simulate.
    source : str
        The file.
    """

    traffic: Trace | Workload
    slo: SLO | None
    candidates: tuple[CandidateConfig, ...]
    simulation: SimulationConfig
    source: str = ""


def read_config(path: PathLike) -> PlanConfig:
    """Read a configuration file.

    Parameters
    ----------
    path : str or path
        A ``.toml`` or ``.json`` file.

    Returns
    -------
    PlanConfig
        The traffic is built, engines and policies are not.

    Raises
    ------
    InputError
        Unknown key (names the nearest), wrong type, missing part; names file, table and key.
    FormatError
        Not TOML or JSON, a key given twice, or a bad trace file.

    Examples
    --------
    >>> import tempfile
    >>> text = '''
    ... [traffic]
    ... workload = "azure-conv"
    ... [slo]
    ... ttft = "500ms"
    ... [[candidates]]
    ... engine = "llama-3.1-8b/h100"
    ... '''
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, "plan.toml").write_text(text)
    ...     read_config(f"{folder}/plan.toml").slo
    SLO(ttft=0.5, tpot=None, e2e=None, quantile=None)
    """
    whole = read_table(path)
    whole.only(["traffic", "classes", "slo", "candidates", "simulation"])
    raw = whole.table("simulation") if "simulation" in whole else Table(whole.path, "", {})
    raw.only(["requests", "replications", "seed"])
    simulation = SimulationConfig(
        raw.whole("requests", SimulationConfig().requests),
        raw.whole("replications", SimulationConfig().replications),
        raw.whole("seed", SimulationConfig().seed, least=0),
    )
    return PlanConfig(
        traffic=_traffic(whole, simulation.seed),
        slo=_slo(whole.table("slo")) if "slo" in whole else None,
        candidates=tuple(_candidate(table) for table in whole.tables("candidates")),
        simulation=simulation,
        source=whole.path,
    )


def _traffic(whole: Table, seed: int) -> Trace | Workload:
    table = whole.table("traffic")
    table.only(["trace", "workload", "rate", "arrivals", "cv", *_READING])
    given = [key for key in ("trace", "workload") if key in table]
    given += ["[classes]"] if "classes" in whole else []
    if len(given) != 1:
        raise table.mistake(
            "give one of trace =, workload = or [classes.<name>] tables, "
            f"found {' and '.join(given) or 'none'}"
        )
    for key in _READING:
        if key in table and given != ["trace"]:
            raise table.mistake(f"{key} belongs to trace =, not to {given[0]}", key)
    if given == ["trace"]:
        return _trace(table, seed)
    if given == ["workload"]:
        rate = table.rate("rate") if "rate" in table else None
        with table.located("workload"):
            work = load_workload(table.text("workload"), rate)
        arrivals = _arrivals(table, work.rate)
        return work if arrivals is None else Workload(arrivals, work.mix, work.weights)
    return _classes(table, whole.table("classes"))


def _trace(table: Table, seed: int) -> Trace:
    arrivals = _arrivals(table, table.rate("rate")) if "arrivals" in table else None
    with table.located():
        trace = read_trace(
            _beside(table, table.text("trace")),
            rng=seed,
            arrivals=arrivals,
            **{key: read(table, key) for key, read in _READING.items() if key in table},
        )
        if "rate" not in table or arrivals is not None:
            return trace
        return trace.scaled(rate=table.rate("rate"))


def _beside(table: Table, name: str) -> str:
    return str(Path(table.path).parent / name)


def _arrivals(table: Table, rate: float) -> Arrivals | None:
    if "arrivals" not in table:
        if "cv" in table:
            raise table.mistake('cv belongs to arrivals = "renewal"', "cv")
        return None
    name = table.text("arrivals")
    known = ("poisson", "renewal", "deterministic")
    if name not in known:
        raise table.mistake(f"unknown arrivals {name!r}{nearest(name, known)}", "arrivals")
    if name == "renewal":
        with table.located("cv"):
            return Renewal(rate, table.real("cv"))
    if "cv" in table:
        raise table.mistake('cv belongs to arrivals = "renewal"', "cv")
    return Poisson(rate) if name == "poisson" else Deterministic(rate)


def _classes(traffic: Table, classes: Table) -> Workload:
    mix, weights = {}, {}
    for name in classes.raw:
        table = classes.table(name)
        table.only([*CLASS_KEYS, "weight"])
        mix[name] = read_class(table)
        weights[name] = table.real("weight", 1.0)
    rate = traffic.rate("rate")
    with classes.located():
        return Workload(_arrivals(traffic, rate) or Poisson(rate), mix, weights)


def _slo(table: Table) -> SLO:
    table.only(["ttft", "tpot", "e2e", "quantile"])
    targets = {key: table.duration(key) for key in ("ttft", "tpot", "e2e") if key in table}
    quantile = table.real("quantile") if "quantile" in table else None
    with table.located():
        return SLO(**targets, quantile=quantile)


def _candidate(table: Table) -> CandidateConfig:
    table.only(
        ["engine", "law", "name", "tp", "policy", "max_gpus", "price", "engines", *_ENGINE_KEYS]
    )
    overrides: dict[str, Any] = {key: table.whole(key) for key in _ENGINE_KEYS if key in table}
    tp = table.whole("tp") if "tp" in table else None
    if ("engine" in table) == ("law" in table):
        raise table.mistake("give either engine = or a [candidates.law] table", "engine")
    engine: str | Engine
    if "law" in table:
        name = table.text("name") if "name" in table else table.name
        with table.located():
            engine = Engine(_law(table.table("law")), name=name, gpus=tp or 1, **overrides)
        overrides = {}
    else:
        engine = table.text("engine")
        if "name" in table:
            raise table.mistake("name belongs to an engine given by law", "name")
        if engine.endswith(".toml"):
            engine = _beside(table, engine)
    return CandidateConfig(
        engine,
        tp,
        table.text("policy") if "policy" in table else None,
        overrides,
        table.whole("max_gpus") if "max_gpus" in table else None,
        table.real("price") if "price" in table else None,
        table.whole("engines") if "engines" in table else None,
    )


def _law(table: Table) -> BatchTime:
    form = table.text("form")
    if form not in _LAWS:
        raise table.mistake(f"unknown form {form!r}{nearest(form, _LAWS)}", "form")
    needed, optional = _LAWS[form]
    table.only(["form", *needed, *optional])
    keys = [*needed, *(key for key in optional if key in table)]
    values: dict[str, Any] = {key: _coefficient(table, key) for key in keys}
    with table.located():
        law: BatchTime = getattr(BatchTime, form)(**values)
        return law


def _coefficient(table: Table, key: str) -> float | list[float]:
    if key == "tile":
        return table.whole("tile")
    if key not in ("tokens", "seconds"):
        return table.duration(key)
    values = table.raw.get(key)
    if not isinstance(values, list):
        raise table.error(key, 'a list: tokens = [1, 512], seconds = ["6ms", "13ms"]')
    rows = [Table(table.path, table.name, {key: value}) for value in values]
    return [row.whole(key) if key == "tokens" else row.duration(key) for row in rows]
