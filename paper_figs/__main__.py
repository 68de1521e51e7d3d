"""Draw the figures: ``python -m paper_figs [NAME ...] [--out docs/img]``.

Each is written as SVG and PNG from its committed table; the hashes on stdout are the same on every
run with the same versions of the libraries. Without names all are drawn and the gallery is written.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from pathlib import Path

from experiments.table import TABLES
from llmq._input.files import write_text
from llmq.errors import InputError, LlmqError, nearest
from paper_figs.book import GALLERY, IMAGES, figures, gallery, save


def main() -> int:
    """Draw the figures that are named, or all.

    Returns
    -------
    int
        Exit code: 2 for bad input.
    """
    parser = argparse.ArgumentParser(prog="python -m paper_figs", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="see --list; all if none")
    parser.add_argument("--out", type=Path, default=IMAGES, help="folder (docs/img)")
    parser.add_argument("--tables", type=Path, default=TABLES, help="folder (experiments/tables)")
    parser.add_argument("--list", action="store_true", help="list the figures")
    parser.add_argument("--gallery", action="store_true", help="write docs/gallery.md only")
    args = parser.parse_args()
    try:
        _run(args)
    except LlmqError as error:
        sys.stderr.write(f"paper_figs: error: {error}\n")
        return 2
    return 0


def _run(args: argparse.Namespace) -> None:
    known = figures()
    for name in args.names:
        if name not in known:
            raise InputError(f"no figure {name!r}{nearest(name, known)}", value=name)
    if args.list:
        sys.stdout.writelines(f"{name:24s} from {table}.csv\n" for name, table in known.items())
        return
    for name in [] if args.gallery else args.names or known:
        if not args.names and not (args.tables / f"{known[name]}.csv").exists():
            command = f"python -m experiments {known[name]}"
            sys.stderr.write(f"paper_figs: note: {name} waits for its table: {command}\n")
            continue
        for path in save(name, args.out, args.tables):
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            sys.stdout.write(f"{digest[:16]}  {path.name}\n")
    if args.gallery or (not args.names and args.out == IMAGES):
        write_text(GALLERY, gallery())


if __name__ == "__main__":
    sys.exit(main())
