"""What the site adds to the pages of docs/: a reference from the public names, links that lead."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import llmq

_TITLES = {"classes": "Classes", "functions": "Functions", "modules": "Modules", "values": "Values"}
# A package that can be called (decision 0008) is described by its function.
_CALLED = {"calibrate": "llmq.calibrate.fit.calibrate"}


def reference() -> dict[str, str]:
    """Return the reference pages: file name and text."""
    pages = {kind: [f"# {title}\n"] for kind, title in _TITLES.items()}
    for name in sorted(llmq.__all__, key=str.lower):
        value = getattr(llmq, name)
        pages[_kind(value)].append(_entry(name, value))
    return {f"reference/{kind}.md": "\n".join(lines) for kind, lines in pages.items()}


def _kind(value: object) -> str:
    """Return the page of a public name."""
    if isinstance(value, ModuleType) and not callable(value):
        return "modules"
    if inspect.isclass(value):
        return "classes"
    return "functions" if callable(value) else "values"


def _entry(name: str, value: object) -> str:
    """Return the lines that make one entry."""
    if name == "__version__":
        return f"## `llmq.{name}`\n\nThe version, here {value}.\n"
    if callable(value) or not isinstance(value, ModuleType):
        return f"::: {_CALLED.get(name, f'llmq.{name}')}\n"
    return f"::: {value.__name__}\n    options:\n      members: {_listed(value)}\n"


def _listed(module: ModuleType) -> list[str]:
    """Return the public functions and classes of a module."""
    names = getattr(module, "__all__", ())
    return [name for name in names if not isinstance(getattr(module, name), ModuleType)]


def within(markdown: str, folder: Path, root: Path) -> str:
    """Keep links to files of the site; of others (code, tests, README) the words stay."""

    def link(match: re.Match[str]) -> str:
        words, target = match[1], match[2].partition("#")[0]
        if not target or re.match(r"[a-z]+:", target):
            return match[0]
        place = (folder / target).resolve()
        return match[0] if place.is_file() and place.is_relative_to(root) else words

    return re.sub(r"(?<!!)\[([^\]\[]*)\]\(([^)\s]+)\)", link, markdown)


def on_files(files: Any, config: Any) -> Any:
    """Add the reference (called by mkdocs)."""
    from mkdocs.structure.files import File

    for name, text in reference().items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, **_: Any) -> str:
    """Take away the links that lead out of the site (called by mkdocs)."""
    if page.file.abs_src_path is None:
        return markdown
    return within(markdown, Path(page.file.abs_src_path).parent, Path(config.docs_dir).resolve())
