"""Intervals near saturation: ``python -m experiments.coverage_saturation [--trials N] [--write]``.

Many runs of ``simulate`` of one system at one load, each with its own seed. Where the verdict is
"stable" the intervals of the TTFT (mean, median, 99 % point) and of the share that meets a target
(the true 99 % point) are looked at: how many are printed (finite), and how many of those hold the
true value. Paths are those of users, whose verdict is "undecided" near saturation, and paths just
long enough to be called stable, where intervals are worst, and three times as long.

Finished cells (system, load, paths) are kept in ``out/experiments/``, so an interrupted run goes
on where it was; ``--write`` keeps the table and writes ``docs/coverage.md`` from it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import llmq
from experiments.book import HERE
from experiments.coverage_cells import LEAST, METRICS, REQUIRED, cell, points
from experiments.coverage_paths import LOADS, SYSTEMS
from experiments.runner import Row, Runner
from experiments.table import TABLES, Table, write_table
from llmq.text.files import write_text

__all__ = ["main", "page", "too_low"]

# Runs of a cell from which on its coverage is judged as it is.
MANY = 200


def page(table: Table) -> str:
    """Write the page of the documents.

    Parameters
    ----------
    table : Table
        All cells.

    Returns
    -------
    str
        Markdown.
    """
    return HEAD + "".join(_section(table, name) for name in SYSTEMS) + _missed(table) + FOOT


def _missed(table: Table) -> str:
    """Say which cells lie below what is required."""
    low = [row for row in table.rows() if too_low(row)]
    lines = [
        f"* {row['system']} at {row['load']:g}, {row['paths']} x {row['requests']:,}, "
        f"{row['metric']}: {100 * row['coverage']:.1f} % of {row['printed']}\n"
        for row in low
    ]
    return "\n## Where 92 % are not reached\n\n" + ("".join(lines) or "Nowhere.\n")


NAMES = {
    "md1": "M/D/1: one slot, a second a request (exact law)",
    "mg1": "M/G/1: one slot, 1 s (90 %) or 11 s (exact law)",
    "sarathi": "Sarathi: 256 tokens, 64 slots, prompts of 32 to 512, outputs of 4 to 32",
    "pascal": "PASCAL: the same with 20,000 KV tokens, prompt 64, reasoning 16, answer 16",
}
HEAD = """# How often intervals hold the truth

`python -m experiments.coverage_saturation --write` writes this page and its table
(`experiments/tables/coverage_saturation.csv`). Each cell is many runs of `simulate` with their own
seeds. *stable* is the share of runs with that verdict: only they print intervals; the others say
"undecided", with the length that may decide. Of the intervals that are printed, the columns say
how many per cent hold the true value: of the mean, the median and the 99 % point of the TTFT, and
of the share of requests within the true 99 % point. 95 % are meant. 92 % are required in every cell
of 200 runs; a cell of 50 runs can only show what is far off (two misses more are 4 %), and it must
not lie below 92 % by more than chance. Loads and systems that are missing here were not run.
*Half width* is that of the mean and of the 99 % point, relative to the truth (median of the runs).

"1 x enough" is the least length that a verdict accepts: 100 looks at the system
(`llmq.sim.relaxation`), where intervals are worst.
"""
FOOT = """
## What was chosen by this study

* The error of a mean is not taken below that of a queue, `2 l s^2 / n`: at 100 looks the mean was
  held in 89 to 92 % without it, since runs whose own batches vary most are called undecided and
  those left agree too well.
* The variance of a share beyond a level is `2 l p (1 - p) / n (1 - p log(1/p) / (1 - p))` (exact
  for reflected Brownian motion, within a fifth for M/D/1 and M/G/1 at loads of 0.5 to 0.95).
  Quantiles take 1.5 times that: with 1 the 99 % point is held in 91 to 97 %, with 2 its interval
  is a fifth wider than it need be. A rule used before held the 90 % point of one path in 90 %.
* Shares take compound Poisson bursts. Wilson's interval for fewer requests, used before, was held
  in 87 to 90 %, and called a share of 0.99 larger than it is in up to 10 % of the runs; now in
  1 to 4 % (2.5 % are meant).
* 100 looks suffice with these errors, so paths need not be longer.
"""


def _section(table: Table, name: str) -> str:
    rows = list(table.where(system=name).rows())
    if not rows:
        return ""
    lines = [
        "",
        f"## {NAMES[name]}",
        "",
        "| load | paths | length | runs | stable | mean | median | p99 | share | half width |",
        "|---:|---:|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for first in rows[:: len(METRICS)]:
        same = {key: first[key] for key in ("load", "paths", "requests")}
        cell_rows = [row for row in rows if all(row[key] == one for key, one in same.items())]
        found = {row["metric"]: row for row in cell_rows}
        held = [_share(found[metric]) for metric in METRICS]
        wide = [found[metric]["half_width"] for metric in ("mean", "p99")]
        widths = " / ".join(f"{100 * one:.0f} %" if one == one else "-" for one in wide)
        lines.append(
            f"| {first['load']:g} | {first['paths']} x {first['requests']:,} | {first['length']} | "
            f"{first['trials']} | {100 * first['stable'] / first['trials']:.0f} % | "
            f"{' | '.join(held)} | {widths} |"
        )
    errors = max(row["truth_error"] / row["truth"] for row in rows)
    if errors > 0:
        lines += ["", f"The truth comes from a long run; its standard error is at most "
                  f"{100 * errors:.1f} % of it."]  # fmt: skip
    return "\n".join(lines) + "\n"


def _share(row: Mapping[str, Any]) -> str:
    return f"{100 * row['coverage']:.1f}" if row["printed"] else "-"


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the table.

    Parameters
    ----------
    arguments : sequence of str, optional
        Command line.

    Returns
    -------
    int
        4 if intervals that are printed cover too seldom.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--systems", nargs="+", default=list(SYSTEMS), choices=list(SYSTEMS))
    parser.add_argument("--loads", nargs="+", type=float, default=list(LOADS))
    parser.add_argument("--write", action="store_true", help="keep the table and write the page")
    parser.add_argument("--kept", action="store_true", help="only cells that are finished")
    parser.add_argument("--fresh", action="store_true", help="forget cells that were kept")
    args = parser.parse_args(arguments)
    runner = Runner(keep=_kept(fresh=args.fresh))
    rows: list[Row] = []
    for point in points(args.trials, args.systems, args.loads):
        if args.kept:
            # The largest number of runs that is finished.
            sizes = [{**point, "trials": runs} for runs in (point["trials"], LEAST)]
            done = [one for one in sizes if runner.has(cell, one, 0)]
            if not done:
                continue
            point = done[0]
        rows += (new := runner.run(cell, [point], rng=0))
        for row in new:
            print(_line(row), flush=True)
    if args.write:
        about = {
            "source": "exact laws (M/D/1, M/G/1), one long run (Sarathi, PASCAL)",
            "command": "python -m experiments.coverage_saturation --write",
            "seed": "0", "scale": "full", "llmq": llmq.__version__, "numpy": np.__version__,
            "what": "coverage of the 95 % intervals that are printed under 'stable'",
        }  # fmt: skip
        table = Table.of("coverage_saturation", rows, about=about)
        write_table(table, TABLES / "coverage_saturation.csv")
        write_text(HERE.parent / "docs" / "coverage.md", page(table))
    return 4 * any(too_low(row) for row in rows)


def too_low(row: Mapping[str, Any]) -> bool:
    """Say whether the intervals of a cell hold the truth too seldom.

    Parameters
    ----------
    row : mapping
        Of the table.

    Returns
    -------
    bool
        Below 92 % of 200 runs; of fewer, below that by more than chance (one in a hundred).
    """
    n, share = row["printed"], row["coverage"]
    chance = 0.0 if row["trials"] >= MANY else 2.33 * (REQUIRED * (1 - REQUIRED) / max(n, 1)) ** 0.5
    return bool(n and share < REQUIRED - chance)


def _kept(*, fresh: bool) -> Path | None:
    """Return the file of finished cells."""
    keep = HERE.parent / "out" / "experiments" / "coverage_saturation.jsonl"
    if fresh:
        keep.unlink(missing_ok=True)
    return keep


def _line(row: Mapping[str, Any]) -> str:
    mark = "LOW" if too_low(row) else ""
    return (
        f"{row['system']:8s} {row['load']:4g} {row['length']:11s} {row['paths']:3d} x "
        f"{row['requests']:<8d} {row['metric']:6s} s/u/o {row['stable']:3d}/{row['undecided']:3d}/"
        f"{row['overloaded']:3d} printed {row['printed']:3d} cover {100 * row['coverage']:6.1f} "
        f"half {100 * row['half_width']:6.1f}% bias {100 * row['bias']:+6.2f}% "
        f"{row['seconds']:5.1f}s {mark}"
    )


if __name__ == "__main__":
    sys.exit(main())
