"""``llmq convert``."""

from __future__ import annotations

import argparse
import sys

from llmq._limits import TOKENS
from llmq.cli._traffic import add_reading, count, real
from llmq.errors import InputError

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options.

    Parameters
    ----------
    parser : argparse.ArgumentParser
        Of the command.
    """
    from llmq.io.traces import trace_formats

    written = [name for name, one in trace_formats().items() if one.write is not None]
    parser.add_argument("source", help="trace to read; the format is recognised")
    parser.add_argument("target", help="file to write; .gz compresses")
    add_reading(parser, insist="--from")
    parser.add_argument(
        "--output",
        type=count(1, TOKENS),
        metavar="TOKENS",
        help="output tokens of each request, for a file without output lengths",
    )
    parser.add_argument("--to", choices=written, help="format to write")
    parser.add_argument("--rate", metavar="R", help="scale to this many requests per second")
    parser.add_argument("--cv", type=real, help="draw arrivals for a file without times")
    parser.add_argument("--head", type=count(1), metavar="N", help="only the first N requests")
    parser.add_argument("--seed", type=count(0), default=0, help="of everything random (default 0)")


def run(args: argparse.Namespace) -> int:
    """Convert a trace.

    Parameters
    ----------
    args : argparse.Namespace
        Parsed options.

    Returns
    -------
    int
        Exit code.
    """
    import llmq
    from llmq.cli._traffic import build_traffic

    args.trace, args.workload, args.prompt = args.source, None, None
    trace = build_traffic(args)
    if not isinstance(trace, llmq.Trace):
        raise InputError("convert reads a trace")
    llmq.write_trace(trace, args.target, format=args.to)
    sys.stderr.write(f"llmq: wrote {args.target}: {len(trace)} requests\n")
    return 0
