"""``llmq plan``."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from llmq.cli.traffic import (
    add_engine,
    add_output,
    add_slo,
    add_traffic,
    build_engine,
    build_policy,
    build_slo,
    build_traffic,
    count,
    interval,
    print_json,
    teller,
)
from llmq.errors import InputError
from llmq.units import format_seconds

if TYPE_CHECKING:
    from llmq.model.slo import SLO
    from llmq.model.trace import Trace
    from llmq.model.workload import Workload
    from llmq.plan import Candidate, CandidatePlan, Plan

__all__ = ["add_arguments", "run"]

# What a configuration file says, so that an option that says it too would be ignored.
_DESCRIBED = (
    "trace", "format", "jitter", "workload", "prompt", "output", "rate", "cv", "head",
    "engine", "policy", "tp", "token_budget", "max_seqs", "kv_tokens",
    "ttft", "tpot", "e2e", "quantile",
)  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options.

    Parameters
    ----------
    parser : argparse.ArgumentParser
        Of the command.
    """
    parser.add_argument("config", nargs="?", help="TOML or JSON file, instead of the options")
    add_traffic(parser)
    add_engine(parser, several=True)
    add_slo(parser)
    group = parser.add_argument_group("search")
    group.add_argument(
        "--attainment", type=float, default=0.99, metavar="A",
        help="share of requests that must meet all targets, without --quantile (0.99)",
    )  # fmt: skip
    group.add_argument("--max-gpus", type=count(1), default=100_000, help="give up above this")
    group.add_argument("--requests", type=count(1), help="requests of a simulated path (2000)")
    group.add_argument("--replications", type=count(1), help="simulated paths (8)")
    group.add_argument("--workers", type=count(1), default=1, help="processes")
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
    from llmq.capacity import plan_capacity
    from llmq.plan_json import plan_to_dict

    if args.report:
        from llmq.report import check_writable

        check_writable(args.report)
    traffic, slo, offers = _from_config(args) if args.config else _from_options(args)
    tell = teller(args)
    plan = plan_capacity(
        traffic, slo, offers,
        attainment=args.attainment, max_gpus=args.max_gpus, requests=args.requests or 2000,
        replications=args.replications or 8, rng=args.seed, workers=args.workers,
        progress=tell,
    )  # fmt: skip
    if tell is not None:
        sys.stderr.write("\r\x1b[2K")
    if args.json:
        print_json(plan_to_dict(plan))
    else:
        sys.stdout.write(_text(plan))
    if args.report:
        from llmq.report import write_report

        write_report(plan, args.report)
        sys.stderr.write(f"llmq: report written to {args.report}\n")
    return 0 if plan.verdict == "feasible" else 3


def _from_options(args: argparse.Namespace) -> tuple[Trace | Workload, SLO, list[Candidate]]:
    from llmq.plan import Candidate

    args.seed = args.seed or 0
    slo = build_slo(args)
    if slo is None:
        raise InputError("say what is good enough: --ttft 500ms, --tpot 50ms or --e2e 10s")
    names = args.engine or [None]
    texts = args.policy or ["sarathi"]
    offers = [
        Candidate(build_engine(name, args), build_policy(text)) for name in names for text in texts
    ]
    return build_traffic(args), slo, offers


def _from_config(args: argparse.Namespace) -> tuple[Trace | Workload, SLO, list[Candidate]]:
    import llmq
    from llmq.io.config import read_config
    from llmq.plan import Candidate

    if clash := [name for name in _DESCRIBED if getattr(args, name) is not None]:
        raise InputError(
            f"--{clash[0].replace('_', '-')} and the file {args.config} both describe the plan: "
            "change the file, or leave it out and use options only"
        )
    config = read_config(args.config)
    args.requests = args.requests or config.simulation.requests
    args.replications = args.replications or config.simulation.replications
    args.seed = config.simulation.seed if args.seed is None else args.seed
    offers = []
    for number, one in enumerate(config.candidates, start=1):
        try:
            engine = one.engine
            if isinstance(engine, str):
                engine = llmq.load_engine(engine, one.tp)
            engine, policy = engine.with_(**one.overrides), build_policy(one.policy)
        except InputError as error:
            raise InputError(f"{config.source}: [candidates {number}]: {error}") from error
        offers.append(Candidate(engine, policy, max_gpus=one.max_gpus))
    return config.traffic, config.slo, offers


def _text(plan: Plan) -> str:
    """Answer first, then why, then the candidates side by side."""
    lines = [f"traffic  {plan.traffic}", f"target   {plan.slo}"]
    best = plan.chosen
    if best is None:
        lines += ["", "INFEASIBLE"]
        for one in plan.candidates:
            lines.append(f"  {one.candidate.label} (lower bound {one.gpus_lower_bound}):")
            lines.append(f"    {one.reason}")
        return "\n".join(lines) + "\n"
    unit = "GPU" if best.gpus == 1 else "GPUs"
    lines += ["", f"ANSWER   {best.gpus} {unit}: {best.engines} x {best.candidate.label}"]
    lines += _why(best)
    wide = max(len(one.candidate.label) for one in plan.candidates)
    lines += ["", f"{'candidate':{wide}s} {'bound':>6s} {'GPUs':>6s} {'load':>6s}  attainment"]
    for one in plan.candidates:
        gpus = "-" if one.gpus is None else str(one.gpus)
        shown = one.reason if one.attainment is None else str(one.attainment)
        row = f"{one.candidate.label:{wide}s} {one.gpus_lower_bound:6d} {gpus:>6s} {one.load:6.2f}"
        lines.append(f"{row}  {shown}")
    lines += ["", "assumptions: " + "; ".join(plan.assumptions)]
    return "\n".join(lines) + "\n"


def _why(one: CandidatePlan) -> list[str]:
    lines = [
        f"         lower bound {one.gpus_lower_bound}: with fewer no scheduler is stable (outer "
        "bound of the stability region)",
        f"         load {one.load:.2f}; all rates may grow by {100 * one.headroom:.0f} % before no "
        "scheduler is stable",
        f"         {one.binding[1]}",
    ]
    for name, metric in (("TTFT", one.ttft), ("TPOT", one.tpot)):
        shown = ", ".join(f"{q} {interval(value)}" for q, value in metric.items())
        lines.append(f"         {name}  {shown}")
    gpus = one.candidate.engine.gpus
    prices = ", ".join(
        f"{name} {format_seconds(gpus * price)}" for name, price in one.prices.items()
    )
    lines.append(f"         GPU time a request costs: {prices}")
    return lines
