"""``llmq engines``."""

from __future__ import annotations

import argparse
import sys

from llmq.cli.traffic import print_json

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
    """List the catalogue.

    Parameters
    ----------
    args : argparse.Namespace
        Parsed options.

    Returns
    -------
    int
        Exit code.
    """
    import dataclasses

    import llmq

    entries = llmq.engines()
    if args.json:
        print_json([dataclasses.asdict(entry) for entry in entries])
        return 0
    for entry in entries:
        sys.stdout.write(f"{entry}\n")
    return 0
