"""The figures that exist, how one is drawn and written, and the gallery.

A module of this folder with a top-level ``TABLE`` is a figure: it draws the committed table of
that name. Files depend on the table and on the versions of the libraries only: the same bytes on
every run.
"""

from __future__ import annotations

import importlib
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.book import experiments, modules_with, text_of
from experiments.table import TABLES, read_table
from llmq._input.files import write_text
from llmq.errors import InputError, nearest
from llmq.plot import styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["IMAGES", "draw", "figure", "figures", "gallery", "save", "write"]

HERE = Path(__file__).parent
ROOT = HERE.parent
IMAGES, GALLERY = ROOT / "docs" / "img", ROOT / "docs" / "gallery.md"
GROUPS = ("RAD and SLAI", "PASCAL", "Theory of others", "Ours")
# Inches: a page of two columns, and a panel as wide as one. Letters of 8 points stay so where a
# figure is set at its own width, so none is wider than the page.
WIDTH, SIZE = 7.0, (3.5, 2.7)
_SMALL: Any = {
    "axes.labelsize": 8,
    "axes.titlesize": 8,
    "axes.titlepad": 4,
    "axes.titlelocation": "left",
    "font.size": 8,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "legend.fontsize": 7.5,
    "lines.linewidth": 1.4,
    "lines.markersize": 4,
    "text.parse_math": True,  # powers of ten on log axes; texts come from this repository
}
_HEAD = """\
# Gallery

Every figure is drawn from a committed table (`make figures`), and every table is computed by an
experiment (`make experiments`). Lines are theory, points with bars are simulations with 95 %
intervals, crosses are measured, open marks are values printed in the paper. What each figure
claims, and how far it holds, is in [CLAIMS.md](../experiments/CLAIMS.md). One figure alone:
`llmq figure NAME`.
"""


def figures() -> dict[str, str]:
    """List the figures.

    Returns
    -------
    dict of str to str
        Name to the name of its table.
    """
    return modules_with(HERE, "TABLE")


def figure(name: str) -> Any:
    """Load a figure's module.

    Parameters
    ----------
    name : str
        Of the module.

    Returns
    -------
    module
        With ``TABLE``, ``GROUP``, ``CAPTION`` and ``draw`` or ``PANELS``.

    Raises
    ------
    InputError
        No such figure; names the nearest.
    """
    if text_of(HERE / f"{name}.py", "TABLE") is None:
        raise InputError(f"no figure {name!r}{nearest(name, figures())}", value=name)
    return importlib.import_module(f"paper_figs.{name}")


@contextmanager
def look() -> Iterator[None]:
    """Draw in the style of llmq, with letters for the width of a column.

    Yields
    ------
    None
        Inside the ``with`` block.
    """
    with styled():
        import matplotlib as mpl

        with mpl.rc_context(_SMALL):
            yield


def draw(name: str, folder: Path = TABLES) -> Figure:
    """Draw a figure from its table.

    Parameters
    ----------
    name : str
        Of the module.
    folder : Path
        Of the tables.

    Returns
    -------
    matplotlib figure
        As many panels side by side as the page is wide, or the module's ``COLUMNS``.

    Raises
    ------
    InputError
        The figure would be wider than the page.
    """
    module = figure(name)
    table = read_table(folder / f"{module.TABLE}.csv")
    panels = getattr(module, "PANELS", None) or (module.draw,)
    wide, high = getattr(module, "SIZE", SIZE)
    fits = max(1, int(WIDTH / wide + 1e-9))
    columns = min(getattr(module, "COLUMNS", fits), len(panels))
    if columns * wide > WIDTH + 1e-9:
        raise InputError(
            f"figure {name} is {columns * wide:g} inches wide, the page {WIDTH:g}: its letters "
            "would be set smaller than 8 points; give it narrower panels (SIZE) or fewer COLUMNS"
        )
    rows = -(-len(panels) // columns)
    with look():
        from matplotlib.figure import Figure

        made = Figure(figsize=(columns * wide, rows * high), layout="constrained")
        grid = made.subplots(rows, columns, squeeze=False).ravel()
        for panel, ax in zip(panels, grid, strict=False):
            panel(table, ax)
        for ax in grid[len(panels) :]:
            ax.remove()
    return made


def write(made: Figure, path: Path) -> None:
    """Write a figure as SVG or PNG, by the name's ending.

    Parameters
    ----------
    made : matplotlib figure
        The figure.
    path : Path
        Ends in ``.svg`` or ``.png``.

    Raises
    ------
    InputError
        Another ending, or the file cannot be written.
    """
    kind = path.suffix.removeprefix(".")
    if kind not in ("svg", "png"):
        raise InputError(f"a figure is written as .svg or .png, not {path.name!r}", value=str(path))
    raw = io.BytesIO()
    # No date, no program: the bytes depend on the content only.
    keys = ("Date", "Creator", "Format", "Type") if kind == "svg" else ("Software",)
    with look():
        # Pages may be dark: the paper comes with the ink.
        made.set_facecolor("white")
        more: Any = {"pil_kwargs": {"optimize": True}} if kind == "png" else {}
        made.savefig(
            raw, format=kind, dpi=120, facecolor="white", metadata=dict.fromkeys(keys), **more
        )
    if kind == "svg":
        text = raw.getvalue().decode("utf-8")
        write_text(path, text[text.index("<svg") :].rstrip() + "\n")
        return
    try:
        path.write_bytes(raw.getvalue())
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}", path=str(path)) from error


def save(name: str, images: Path = IMAGES, tables: Path = TABLES) -> tuple[Path, Path]:
    """Draw a figure into a folder.

    Parameters
    ----------
    name : str
        Of the module.
    images : Path
        Folder of the files, made if missing.
    tables : Path
        Folder of the tables.

    Returns
    -------
    tuple of Path
        SVG and PNG.
    """
    images.mkdir(parents=True, exist_ok=True)
    paths = images / f"{name}.svg", images / f"{name}.png"
    made = draw(name, tables)
    for path in paths:
        write(made, path)
    return paths


def gallery(tables: Path = TABLES) -> str:
    """List the figures whose tables are there, by group, with their one-line readings.

    Parameters
    ----------
    tables : Path
        Folder of the tables.

    Returns
    -------
    str
        Markdown, for ``docs/gallery.md``.

    Raises
    ------
    InputError
        A figure has a group that is not known.
    """
    known: dict[str, list[str]] = {group: [] for group in GROUPS}
    titles = experiments()
    for name, table in figures().items():
        if not (tables / f"{table}.csv").exists():
            continue
        module = figure(name)
        if module.GROUP not in known:
            raise InputError(
                f"figure {name} has no group {module.GROUP!r}{nearest(module.GROUP, known)}"
            )
        known[module.GROUP].append(_entry(name, module.CAPTION, table, table in titles))
    parts = [f"\n## {group}\n{''.join(entries)}" for group, entries in known.items() if entries]
    return _HEAD + "".join(parts)


def _entry(name: str, caption: str, table: str, has_experiment: bool) -> str:
    words = " ".join(caption.split())
    links = [f"[table](../experiments/tables/{table}.csv)"]
    if has_experiment:
        links.append(f"[experiment](../experiments/{table}.py)")
    links.append(f"[figure](../paper_figs/{name}.py)")
    return f"\n### {name}\n\n![{name}](img/{name}.svg)\n\n{words}\n\n{' · '.join(links)}\n"
