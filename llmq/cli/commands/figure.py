"""``llmq figure``: one figure of the gallery, from its committed table.

Figures, tables and experiments live in the checkout, not in the installed package: they are looked
for beside the package, then in the working folder.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path
from typing import Any

from llmq.errors import InputError, shown

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options.

    Parameters
    ----------
    parser : argparse.ArgumentParser
        Of the command.
    """
    parser.add_argument("name", nargs="?", metavar="NAME", help="which; see --list")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="a name ending in .svg or .png (NAME.svg)"
    )
    parser.add_argument("--list", action="store_true", help="list the figures with their readings")


def run(args: argparse.Namespace) -> int:
    """Draw a figure, or list them.

    Parameters
    ----------
    args : argparse.Namespace
        Parsed options.

    Returns
    -------
    int
        Exit code.
    """
    book = _book()
    if args.list:
        for name in book.figures():
            sys.stdout.write(f"{name:24s} {' '.join(book.figure(name).CAPTION.split())}\n")
        return 0
    if args.name is None:
        raise InputError("name a figure; `llmq figure --list` shows them")
    path = args.out or Path(f"{args.name}.svg")
    if path.suffix not in (".svg", ".png"):  # asked before drawing takes its time
        raise InputError(
            f"a figure is written as .svg or .png, not {shown(str(path))}", value=str(path)
        )
    book.write(book.draw(args.name), path)
    sys.stdout.write(f"{path}\n")
    return 0


def _book() -> Any:
    """Load ``paper_figs/book.py`` of the checkout."""
    places = [Path(__file__).parents[3], Path.cwd()]
    for place in places:
        if (place / "paper_figs" / "book.py").is_file():
            if str(place) not in sys.path:
                sys.path.insert(0, str(place))
            return importlib.import_module("paper_figs.book")
    raise InputError(
        "the figures are part of the repository, not of the installed package: run "
        "`llmq figure` in the folder of a checkout (the one that holds paper_figs/)"
    )
