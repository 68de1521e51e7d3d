"""A value is refused: what was wanted, what was found, and how to come by what was wanted."""

from __future__ import annotations

from collections.abc import Mapping

from llmq.errors import shown

__all__ = ["Refused", "remedy"]

# How to come by one, for a value of another kind.
_REMEDIES = {
    "Engine": "llmq.load_engine(name) or llmq.Engine(law, ...) makes one",
    "Fleet": "llmq.Fleet({name: (engine, count)}) makes one",
    "BatchTime": "make one with BatchTime.affine, .tiled, .roofline or .table",
    "Policy": "llmq.policies.parse(text) makes one of a text such as 'sarathi:token_budget=512'",
    "SLO": "write llmq.SLO(ttft=0.5, tpot=0.05), in seconds",
    "Workload": "llmq.load_workload(name) or llmq.Workload.poisson(rate, mix) makes one",
    "Trace": "llmq.read_trace(path) or llmq.Trace(arrival, prompt, output) makes one",
    "RequestClass": "write llmq.RequestClass(prompt=512, output=128)",
    "Lengths": "Lengths.fixed, .uniform, .lognormal, .quantiles and .empirical make one",
    "Agent": "llmq.Agent({name: llmq.Call(station, request)}) makes one",
    "Call": "write llmq.Call(station, request)",
    "Conventions": "llmq.ENGINE and llmq.THEORY are two",
    "Candidate": "write llmq.Candidate(engine, policy)",
    "Router": "llmq.policies has them, for example RoundRobin()",
    "Prefix": "llmq.Prefix.of(rows, block=16) makes one",
}


class Refused(Exception):
    """A value is not what the annotation says."""

    def __init__(self, want: str, value: object, remedy: str = "", where: str = "") -> None:
        super().__init__(want)
        self.want, self.value, self.remedy, self.where = want, value, remedy, where


def remedy(kind: type, value: object) -> str:
    """Say how to come by what was wanted.

    Examples
    --------
    >>> from llmq.model.engine import Engine
    >>> remedy(Engine, "llama-3.1-8b/h100")
    ": write llmq.load_engine('llama-3.1-8b/h100')"
    """
    protocol = getattr(kind, "_is_protocol", False)
    if isinstance(value, type) and not protocol and issubclass(value, kind):
        return f": write {value.__name__}(...), not the class itself"
    if isinstance(value, str) and kind.__name__ in ("Policy", "Engine", "Workload"):
        call = {"Policy": "policies.parse", "Engine": "load_engine", "Workload": "load_workload"}
        return f": write llmq.{call[kind.__name__]}({shown(value, 40)})"
    if isinstance(value, Mapping) and kind.__name__ in ("SLO", "Fleet"):
        return ": write llmq.SLO(**...)" if kind.__name__ == "SLO" else ": write llmq.Fleet(...)"
    words = _REMEDIES.get(kind.__name__, "")
    return words and f": {words}"
