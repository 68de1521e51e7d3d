"""``llmq plan``."""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

from llmq._limits import ENGINES, REPLICATIONS, REQUESTS, WORKERS
from llmq.cli._fleet import add_engine, build_engine
from llmq.cli._traffic import (
    add_output,
    add_slo,
    add_traffic,
    build_policy,
    build_slo,
    build_traffic,
    count,
    interval,
    print_json,
    real,
    teller,
)
from llmq.errors import InputError
from llmq.units import format_seconds, parse_duration

if TYPE_CHECKING:
    from llmq.model.slo import SLO
    from llmq.model.trace import Trace
    from llmq.model.workload import Workload
    from llmq.planning.plans import Candidate, CandidatePlan, Plan

    _Parts: TypeAlias = tuple[Trace | Workload, SLO, list[Candidate], tuple[str, ...]]

__all__ = ["add_arguments", "run"]

_NO_TARGET = "say what is good enough: --ttft 500ms, --tpot 50ms or --e2e 10s"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options.

    Parameters
    ----------
    parser : argparse.ArgumentParser
        Of the command.
    """
    parser.add_argument(
        "config", nargs="?", help="TOML or JSON file; options beside it replace what it says"
    )
    add_traffic(parser)
    add_engine(parser, several=True, tps=True)
    add_slo(parser)
    group = parser.add_argument_group("search")
    group.add_argument(
        "--attainment",
        type=real,
        default=0.99,
        metavar="A",
        help="share of requests that must meet all targets, without --quantile (0.99)",
    )
    group.add_argument(
        "--max-gpus", type=count(1, ENGINES), default=ENGINES, help="give up above this"
    )
    group.add_argument(
        "--requests", type=count(1, REQUESTS), help="requests of the first simulated paths (2000)"
    )
    group.add_argument(
        "--longest",
        type=count(1, REQUESTS),
        metavar="N",
        help="requests up to which paths that do not decide grow (16 times the first)",
    )
    group.add_argument("--replications", type=count(1, REPLICATIONS), help="simulated paths (8)")
    group.add_argument(
        "--max-seconds", metavar="T", help="begin no simulation later than this, e.g. 60s"
    )
    group.add_argument("--workers", type=count(1, WORKERS), default=1, help="processes")
    group.add_argument("--report", metavar="FILE", help="write a self-contained HTML page")
    add_output(parser)
    parser.set_defaults(seed=None)  # not given: that of the file, or 0


def run(args: argparse.Namespace) -> int:
    """Plan, print, and write the report.

    Parameters
    ----------
    args : argparse.Namespace
        Parsed options.

    Returns
    -------
    int
        Exit code: 3 if no candidate meets the targets.
    """
    from llmq.planning._json import plan_to_dict
    from llmq.planning.capacity import PlanInterrupted, plan_capacity

    if args.report:
        from llmq.report import check_writable

        check_writable(args.report)
    traffic, slo, offers, notes = _from_config(args) if args.config else _from_options(args)
    tell = teller(args)
    late = math.inf if args.max_seconds is None else parse_duration(args.max_seconds)
    try:
        plan = plan_capacity(
            traffic,
            slo,
            offers,
            attainment=args.attainment,
            max_gpus=args.max_gpus,
            requests=args.requests or 2000,
            longest=args.longest,
            replications=args.replications or 8,
            max_seconds=late,
            rng=args.seed,
            workers=args.workers,
            progress=tell,
        )
    except PlanInterrupted as stop:
        if stop.plan is not None:
            done = len(stop.plan.candidates)
            sys.stdout.write(f"INTERRUPTED: {done} of {len(offers)} candidates were finished\n")
            sys.stdout.write(_text(stop.plan))
            sys.stdout.flush()
        raise
    plan = replace(plan, assumptions=(*notes, *plan.assumptions))
    if tell is not None:
        sys.stderr.write("\r\x1b[2K")
    if args.json:
        print_json(plan_to_dict(plan))
    else:
        sys.stdout.write("".join(f"option   {note}\n" for note in notes) + _text(plan))
    if args.report:
        from llmq.report import write_report

        write_report(plan, args.report)
        sys.stderr.write(f"llmq: report written to {args.report}\n")
    return 0 if plan.verdict == "feasible" else 3


def _from_options(args: argparse.Namespace) -> _Parts:
    from llmq.planning.plans import Candidate

    args.seed = args.seed or 0
    slo = build_slo(args)
    if slo is None:
        raise InputError(_NO_TARGET)
    for option, values in (("engine", args.engine), ("policy", args.policy), ("tp", args.tp)):
        if twice := [one for one in values or () if values.count(one) > 1]:
            raise InputError(f"--{option} {twice[0]} is given twice: give each one once")
    offers = [
        Candidate(build_engine(name, args, tp), build_policy(text))
        for name in args.engine or [None]
        for tp in args.tp or [None]
        for text in args.policy or [None]
    ]
    return build_traffic(args), slo, offers, ()


def _from_config(args: argparse.Namespace) -> _Parts:
    from llmq.cli._configured import read_asked

    asked = read_asked(args)
    if asked.slo is None:
        raise InputError(f"{args.config} has no [slo]: {_NO_TARGET}")
    idle = [one.label for one, n in zip(asked.candidates, asked.engines, strict=True) if n]
    notes = [f"engines = of {label} is for llmq simulate; here it is found" for label in idle]
    return asked.traffic, asked.slo, list(asked.candidates), (*asked.notes, *notes)


def _text(plan: Plan) -> str:
    """Answer first, then why, then the candidates side by side."""
    lines = [f"traffic  {plan.traffic}"]
    lines += [f"busiest  {plan.window}"] * bool(plan.window)
    lines += [f"target   {plan.slo}"]
    best = plan.chosen
    if best is None:
        lines += ["", plan.verdict.upper()]
        for one in plan.candidates:
            lines.append(f"  {one.candidate.label} ({_bounds(one)}):")
            lines.append(f"    {one.reason}")
        return "\n".join([*lines, "", "assumptions: " + "; ".join(plan.assumptions)]) + "\n"
    unit = "GPU" if best.gpus == 1 else "GPUs"
    lines += ["", f"ANSWER   {best.gpus} {unit}: {best.engines} x {best.candidate.label}"]
    lines += _why(plan, best)
    wide = max(len(one.candidate.label) for one in plan.candidates)
    head = f"{'candidate':{wide}s} {'bound':>6s} {'hardware':>9s} {'GPUs':>6s} {'load':>6s}"
    lines += ["", f"{head}  attainment"]
    for one in plan.candidates:
        gpus = "-" if one.gpus is None else str(one.gpus)
        shown = one.reason if one.attainment is None else str(one.attainment)
        row = f"{one.candidate.label:{wide}s} {one.gpus_lower_bound:6d}"
        row += f" {one.hardware_lower_bound:9d} {gpus:>6s} {one.load:6.2f}"
        lines.append(f"{row}  {shown}" + ("" if one.finished else " (not finished)"))
    lines += ["", "assumptions: " + "; ".join(plan.assumptions)]
    return "\n".join(lines) + "\n"


def _bounds(one: CandidatePlan) -> str:
    return (
        f"lower bound {one.gpus_lower_bound} at these settings, {one.hardware_lower_bound} at any"
    )


def _why(plan: Plan, one: CandidatePlan) -> list[str]:
    can = "can meet the targets in the busiest window" if plan.window else "is stable"
    lines = [
        f"lower bound {one.gpus_lower_bound} at these settings: with fewer no policy {can}; "
        f"{one.hardware_lower_bound} of the hardware: with fewer no scheduler {can}",
        f"load {one.load:.2f}; all rates may grow by {_percent(one.headroom)} before no policy is "
        f"stable at these settings, by {_percent(one.hardware_headroom)} before no scheduler is",
        one.decides,
        f"capacity: {one.binding[1]}",
    ]
    for name, metric in (("TTFT", one.ttft), ("TPOT", one.tpot)):
        shown = ", ".join(f"{q} {interval(value)}" for q, value in metric.items())
        lines.append(f"{name}  {shown}")
    gpus = one.candidate.engine.gpus
    prices = ", ".join(
        f"{name} {format_seconds(gpus * price)}" for name, price in one.prices.items()
    )
    lines.append(f"GPU time a request costs: {prices}")
    if one.cost is not None:
        lines.append(f"{one.cost:.4g} an hour at {one.candidate.price:.4g} for a GPU")
    if not one.finished:
        lines.append(f"not finished: {one.reason}")
    return [f"         {line}" for line in lines]


def _percent(headroom: float) -> str:
    return f"{100 * headroom:.0f} %" if math.isfinite(headroom) else "any factor"
