"""A configuration file and the options beside it: an option replaces what the file says.

What is replaced is said (`notes`), and an option that would be lost is refused.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from llmq.cli._fleet import override_engine
from llmq.cli._traffic import build_policy, build_traffic
from llmq.errors import InputError
from llmq.units import format_rate, format_seconds

if TYPE_CHECKING:
    from llmq.io.config import CandidateConfig, PlanConfig
    from llmq.model.engine import Engine
    from llmq.model.slo import SLO
    from llmq.model.trace import Trace
    from llmq.model.workload import Workload
    from llmq.planning.plans import Candidate

__all__ = ["Asked", "pick", "read_asked"]

_SOURCES = ("trace", "workload", "prompt", "output")
_ENGINE = ("tp", "token_budget", "max_seqs", "kv_tokens")


@dataclass(frozen=True, slots=True)
class Asked:
    """What a file and the options ask for."""

    traffic: Trace | Workload  # who arrives
    slo: SLO | None  # the targets
    candidates: tuple[Candidate, ...]  # what may serve
    engines: tuple[int | None, ...]  # how many of each, where the file says so
    notes: tuple[str, ...]  # what the options replace


def read_asked(args: argparse.Namespace) -> Asked:
    """Read ``args.config`` and let the options replace parts of it."""
    from llmq.io.config import read_config

    config = read_config(args.config)
    notes: list[str] = []
    args.requests = args.requests or config.simulation.requests
    args.replications = args.replications or config.simulation.replications
    args.seed = config.simulation.seed if args.seed is None else args.seed
    traffic = _traffic(args, config, notes)
    slo = _slo(args, config, notes)
    offers, engines = _offers(args, config, notes)
    return Asked(traffic, slo, tuple(offers), tuple(engines), tuple(notes))


def pick(asked: Asked, number: int | None, source: str) -> int:
    """Return which candidate of a file is meant, counted from 0."""
    many = asked.candidates
    if number is None and len(many) == 1:
        return 0
    shown = ", ".join(f"{i} ({one.label})" for i, one in enumerate(many, start=1))
    if number is None:
        raise InputError(
            f"{source} has {len(many)} candidates: name one with --candidate N: {shown}"
        )
    if number > len(many):
        raise InputError(f"{source} has no candidate {number}; known: {shown}", value=number)
    return number - 1


def _instead(
    notes: list[str], args: argparse.Namespace, option: str, new: object, old: str
) -> None:
    notes.append(f"{option} {new} instead of {old} in {args.config}")


def _traffic(args: argparse.Namespace, config: PlanConfig, notes: list[str]) -> Trace | Workload:
    from llmq.model.trace import Trace
    from llmq.model.workload import Workload

    given = [name for name in _SOURCES if getattr(args, name) is not None]
    if given:
        words = ", ".join(f"--{name} {getattr(args, name)}" for name in given)
        notes.append(f"{words} instead of the traffic in {args.config}")
        return build_traffic(args)
    traffic = config.traffic
    for name in ("format", "jitter"):
        if getattr(args, name) is not None:
            raise InputError(
                f"--{name} belongs to --trace: {args.config} says it with {name} = under [traffic]"
            )
    if args.head is not None:
        if not isinstance(traffic, Trace):
            raise InputError(f"--head shortens a trace, but {args.config} draws its requests")
        notes.append(f"--head {args.head} of the trace in {args.config}")
        traffic = traffic.head(args.head)
    if args.rate is not None:
        from llmq.units import parse_rate

        rate = parse_rate(args.rate)
        _instead(notes, args, "--rate", format_rate(rate), format_rate(traffic.rate))
        traffic = traffic.scaled(rate=rate) if isinstance(traffic, Trace) else traffic.at_rate(rate)
    if args.cv is not None:
        if isinstance(traffic, Trace):
            raise InputError(f"--cv draws arrival times, but {args.config} has those of a trace")
        _instead(notes, args, "--cv", args.cv, "the arrivals")
        traffic = Workload.renewal(traffic.rate, traffic.mix, traffic.weights, cv=args.cv)
    return traffic


def _slo(args: argparse.Namespace, config: PlanConfig, notes: list[str]) -> SLO | None:
    from llmq.model.slo import SLO
    from llmq.units import parse_duration

    old = config.slo
    targets = {} if old is None else dict(old.targets)
    quantile = None if old is None else old.quantile
    for name in ("ttft", "tpot", "e2e"):
        text = getattr(args, name)
        if text is not None:
            was = format_seconds(targets[name]) if name in targets else "no such target"
            targets[name] = parse_duration(text)
            _instead(notes, args, f"--{name}", text, was)
    if args.quantile is not None:
        was = "none" if quantile is None else f"{quantile:g}"
        _instead(notes, args, "--quantile", f"{args.quantile:g}", was)
        quantile = args.quantile
    return SLO(**targets, quantile=quantile) if targets else None


def _offers(
    args: argparse.Namespace, config: PlanConfig, notes: list[str]
) -> tuple[list[Candidate], list[int | None]]:
    from llmq.planning.plans import Candidate

    names, texts = _many(args.engine), _many(args.policy)
    changed = [name for name in _ENGINE if getattr(args, name) is not None]
    for name in ("engine", "policy", *changed):
        for value in _many(getattr(args, name)):
            option = f"--{name.replace('_', '-')} {value}"
            notes.append(f"{option} instead of what the candidates of {args.config} say")
    ways = [
        replace(one, engine=name, tp=None, overrides={}) if name else one
        for one in config.candidates
        for name in names or [None]
    ]
    if texts:
        ways = [replace(one, policy=text) for one in ways for text in texts]
    offers: list[Candidate] = []
    engines: list[int | None] = []
    for number, one in enumerate(ways, start=1):
        where = "" if names or texts else f"{config.source}: [candidates {number}]: "
        for tp in _many(args.tp) or [None]:
            try:
                offer = Candidate(
                    override_engine(_engine(one, tp), args),
                    build_policy(one.policy),
                    max_gpus=one.max_gpus,
                    price=one.price,
                )
            except InputError as error:
                raise InputError(f"{where}{error}") from error
            if offer not in offers:
                offers.append(offer)
                engines.append(one.engines)
    return offers, engines


def _many(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list) else [value]


def _engine(one: CandidateConfig, tp: int | None) -> Engine:
    import llmq

    engine = one.engine
    if isinstance(engine, str):
        engine = llmq.load_engine(engine, tp if tp is not None else one.tp)
    elif tp is not None and tp != engine.gpus:
        raise InputError(
            f"--tp {tp} cannot change {engine.name or 'an engine'} that is given by its law: its "
            "times are for the GPUs that the file says"
        )
    made: Engine = engine.with_(**one.overrides)
    return made
