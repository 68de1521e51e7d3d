"""Compute the tables: ``python -m experiments [NAME ...] [--scale small|full] [--claims]``.

Without names, all experiments. Finished points are kept in ``out/experiments/``: an interrupted
run goes on where it was.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from experiments.book import HERE, claims_page, compute, experiments, save
from experiments.runner import Runner
from experiments.table import TABLES
from llmq._input.files import write_text
from llmq.errors import InputError, LlmqError, nearest

KEEP = HERE.parent / "out" / "experiments"


def main() -> int:
    """Compute the experiments that are named, or all.

    Returns
    -------
    int
        Exit code: 2 for bad input, 130 after Ctrl-C.
    """
    args = _parser().parse_args()
    known = experiments()
    try:
        for name in args.names:
            if name not in known:
                raise InputError(f"no experiment {name!r}{nearest(name, known)}", value=name)
        if args.list:
            sys.stdout.writelines(f"{name:24s} {title}\n" for name, title in known.items())
        elif args.claims:
            write_text(HERE / "CLAIMS.md", claims_page())
        else:
            for name in args.names or known:
                _compute(name, args)
    except LlmqError as error:
        sys.stderr.write(f"experiments: error: {error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("\nexperiments: interrupted; the same command goes on from here\n")
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m experiments", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="see --list; all if none")
    parser.add_argument("--scale", choices=("small", "full"), default="full")
    parser.add_argument("--out", type=Path, default=TABLES, help="folder (experiments/tables)")
    parser.add_argument("--workers", type=int, default=1, help="processes")
    parser.add_argument("--fresh", action="store_true", help="forget points that were kept")
    parser.add_argument("--claims", action="store_true", help="write CLAIMS.md from the tables")
    parser.add_argument("--list", action="store_true", help="list the experiments")
    return parser


def _compute(name: str, args: argparse.Namespace) -> None:
    keep = KEEP / f"{name}-{args.scale}.jsonl"
    if args.fresh:
        keep.unlink(missing_ok=True)
    before = time.perf_counter()
    table = compute(name, args.scale, Runner(args.workers, keep, progress=True))
    path = save(table, args.out)
    keep.unlink(missing_ok=True)  # the table is written: there is nothing to resume
    took = time.perf_counter() - before
    sys.stdout.write(f"{path.name}: {len(table)} rows\n")
    sys.stdout.flush()
    sys.stderr.write(f"{name}: {took:.1f} s\n")


if __name__ == "__main__":
    sys.exit(main())
