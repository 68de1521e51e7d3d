"""``llmq workloads``."""

from __future__ import annotations

import argparse
import sys

from llmq.cli._traffic import print_json

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options.

    Parameters
    ----------
    parser : argparse.ArgumentParser
        Of the command.
    """
    parser.add_argument("--json", action="store_true", help="machine-readable output")


def run(args: argparse.Namespace) -> int:
    """List the named workloads.

    Parameters
    ----------
    args : argparse.Namespace
        Parsed options.

    Returns
    -------
    int
        Exit code.
    """
    from llmq.io.workloads import workload_facts, workloads

    rows = []
    for name in workloads():
        facts = workload_facts(name)
        kind = facts.request
        rows.append(
            {
                "name": name,
                "title": facts.title,
                "kind": str(facts.kind),
                "rate": facts.rate,
                "prompt_mean": kind.prompt.mean,
                "output_mean": kind.output.mean,
                "reasoning_mean": kind.reasoning.mean,
                "source": facts.source,
            }
        )
    if args.json:
        print_json(rows)
        return 0
    for row in rows:
        rate = "rate must be given" if row["rate"] is None else f"{row['rate']:.4g} req/s"
        sys.stdout.write(
            f"{row['name']:20s} {row['title']}: prompt {row['prompt_mean']:.0f}, output "
            f"{row['output_mean']:.0f} tokens on average; {rate} ({row['kind']})\n"
        )
    return 0
