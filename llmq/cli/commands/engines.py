"""``llmq engines``."""

from __future__ import annotations

import argparse
import sys

from llmq.cli._traffic import print_json
from llmq.errors import InputError

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options.

    Parameters
    ----------
    parser : argparse.ArgumentParser
        Of the command.
    """
    parser.add_argument("word", nargs="?", default="", help="only names and GPUs that contain this")
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

    word = args.word.lower()
    entries = [e for e in llmq.engines() if word in e.name.lower() or word in e.gpu.lower()]
    if not entries:
        raise InputError(
            f"no engine of the catalogue contains {args.word!r}; `llmq engines` lists all",
            value=args.word,
        )
    if args.json:
        print_json([dataclasses.asdict(entry) for entry in entries])
        return 0
    for entry in entries:
        sys.stdout.write(f"{entry}\n")
    return 0
