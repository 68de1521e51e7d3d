"""Draw the figures: ``python -m paper_figs [name ...] [--out docs/img]``.

Each is written as SVG and PNG; the hashes on stdout are the same on every run with the same
versions of the libraries.
"""

from __future__ import annotations

import argparse
import hashlib
import io
from pathlib import Path
from typing import TYPE_CHECKING

from llmq.io.files import write_text
from llmq.plot import styled, svg
from paper_figs import readme

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ALL = (readme,)
PLACE = Path(__file__).parent.parent / "docs" / "img"


def main() -> None:
    """Draw the figures that are named, or all."""
    known = {module.NAME: module for module in ALL}
    parser = argparse.ArgumentParser(prog="python -m paper_figs", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help=f"of: {', '.join(known)}")
    parser.add_argument("--out", type=Path, default=PLACE, help="folder (docs/img)")
    args = parser.parse_args()
    for name in args.names:
        if name not in known:
            parser.error(f"no figure {name!r}; known: {', '.join(known)}")
    args.out.mkdir(parents=True, exist_ok=True)
    for name in args.names or known:
        figure = known[name].draw(known[name].compute())
        for path in save(figure, args.out / name):
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            print(f"{digest[:16]}  {path.name}")


def save(figure: Figure, stem: Path) -> tuple[Path, Path]:
    """Write a figure as SVG and PNG.

    Parameters
    ----------
    figure : matplotlib figure
        The figure.
    stem : Path
        Path without suffix.

    Returns
    -------
    tuple of Path
        The two files.
    """
    vector, pixels = stem.with_suffix(".svg"), stem.with_suffix(".png")
    # Pages may be dark: the paper comes with the ink.
    figure.set_facecolor("white")
    write_text(vector, svg(figure))
    raw = io.BytesIO()
    with styled():
        figure.savefig(raw, format="png", dpi=110, facecolor="white", metadata={"Software": None})
    pixels.write_bytes(raw.getvalue())
    return vector, pixels


if __name__ == "__main__":
    main()
