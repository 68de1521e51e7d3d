"""``llmq compare``."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from llmq._limits import REPLICATIONS, REQUESTS, WORKERS
from llmq.cli._fleet import add_fleet, build_fleet
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
    teller,
)
from llmq.cli.commands.simulate import _json

if TYPE_CHECKING:
    from llmq.model.slo import SLO
    from llmq.sim.compare import Comparison

__all__ = ["add_arguments", "run"]

# Metric, quantile (the mean if None), heading.
_COLUMNS = (
    ("ttft", None, "mean TTFT"),
    ("ttft", 0.5, "p50 TTFT"),
    ("ttft", 0.99, "p99 TTFT"),
    ("tpot", None, "mean TPOT"),
    ("tpot", 0.99, "p99 TPOT"),
    ("e2e", None, "mean E2E"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options.

    Parameters
    ----------
    parser : argparse.ArgumentParser
        Of the command.
    """
    add_traffic(parser)
    add_fleet(parser, policy=False, cache=True)
    add_slo(parser)
    parser.add_argument(
        "policies",
        nargs="+",
        metavar="POLICY",
        help="at least two, e.g. sarathi vllm slai:order=spf; the first is the base; vllm is the "
        "scheduler of vLLM v1, vllm:version=v0 that of 2023",
    )
    parser.add_argument(
        "--requests", type=count(1, REQUESTS), default=2000, help="requests of a path (2000)"
    )
    parser.add_argument(
        "--replications", type=count(1, REPLICATIONS), help="paths (8; a trace is one path)"
    )
    parser.add_argument("--workers", type=count(1, WORKERS), default=1, help="processes")
    add_output(parser)


def run(args: argparse.Namespace) -> int:
    """Compare and print.

    Parameters
    ----------
    args : argparse.Namespace
        Parsed options.

    Returns
    -------
    int
        Exit code: 3 if every policy is overloaded.
    """
    import llmq
    from llmq.sim.compare import compare

    traffic, slo, tell = build_traffic(args), build_slo(args), teller(args)
    found = compare(
        build_fleet(args),
        traffic,
        [build_policy(text) for text in args.policies],
        replications=args.replications or (1 if isinstance(traffic, llmq.Trace) else 8),
        requests=args.requests,
        rng=args.seed,
        workers=args.workers,
        progress=tell,
    )
    if tell is not None:
        sys.stderr.write("\r\x1b[2K")
    for one in found.runs.values():
        one.check()
    if args.json:
        print_json(_facts(found, slo))
    else:
        sys.stdout.write(_text(found, slo))
    statuses = {one.verdict.status for one in found.runs.values()}
    return 3 if statuses == {"overloaded"} else 0


def _facts(found: Comparison, slo: SLO | None) -> dict[str, Any]:
    rows = []
    for name, one in found.runs.items():
        row: dict[str, Any] = {
            "policy": name,
            "verdict": one.verdict.status,
            "sentence": one.verdict.sentence,
            "evictions": one.evictions,
        }
        for metric, q, title in _COLUMNS:
            row[title] = {
                "unit": "s",
                **_json(found.value(name, metric, q)),
                "difference": _json(found.difference(name, metric, q)),
            }
        if slo is not None:
            share = one.attainment(slo)
            row["attainment"] = {"value": share.value, "low": share.low, "high": share.high}
        rows.append(row)
    return {
        "policies": rows,
        "base": rows[0]["policy"],
        "kind": str(found.kind),
        "assumptions": list(found.assumptions),
    }


def _text(found: Comparison, slo: SLO | None) -> str:
    base, lines = next(iter(found.runs)), []
    for name, one in found.runs.items():
        lines.append(f"{name}: {one.verdict.status}, {one.verdict.sentence}")
        if one.verdict.status == "overloaded" and not one.finite:
            lines.append("  figures are facts of these runs; longer ones would be worse")
        for metric, q, title in _COLUMNS:
            line = f"  {title:10s} {interval(found.value(name, metric, q))}"
            if name != base:
                gap = found.difference(name, metric, q)
                line += f"   against {base}: {interval(gap)}"
            lines.append(line)
        if slo is not None:
            lines.append(f"  {one.attainment(slo)} of the requests meet {slo}")
    lines.append("assumes  " + "; ".join(found.assumptions))
    return "\n".join(lines) + "\n"
