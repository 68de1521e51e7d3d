"""The size and shape of the code: ``python -m experiments.measure`` (``make measure``).

Counted from the files themselves: how many files share a folder, which modules import each other in
a circle, how much of the text is documentation, where formatting is switched off, and whether a
simulator asks for the class of a policy. Each line says what is aimed at.
"""

from __future__ import annotations

import ast
import io
import sys
import tokenize
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Measure", "circles", "imports", "main", "measures"]

ROOT = Path(__file__).resolve().parent.parent
FOLDER, DOCUMENTATION, COMMENTS, UNFORMATTED = 15, 0.45, 4.0, 50


@dataclass(frozen=True, slots=True)
class Measure:
    """One line of the table.

    Parameters
    ----------
    name : str
        What is counted.
    value : float
        How much there is.
    target : float
        At most so much; at least, if ``least``.
    least : bool
        More is better.
    where : tuple of str
        The places that count against it.
    """

    name: str
    value: float
    target: float
    least: bool = False
    where: tuple[str, ...] = ()

    @property
    def met(self) -> bool:
        """Whether the target is reached."""
        return self.value >= self.target if self.least else self.value <= self.target


def module(path: Path, root: Path) -> str:
    """Return the dotted name of a file."""
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(root: Path, package: str = "llmq") -> dict[str, set[str]]:
    """Read which modules of a package import which, wherever the import stands.

    Parameters
    ----------
    root : Path
        Folder that holds the package.
    package : str
        Its name.

    Returns
    -------
    dict of str to set of str
        Module names; a package is its ``__init__.py``.
    """
    files = {module(path, root): path for path in sorted((root / package).rglob("*.py"))}
    found: dict[str, set[str]] = {name: set() for name in files}
    for name, path in files.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found[name] |= {alias.name for alias in node.names if alias.name in files}
            elif isinstance(node, ast.ImportFrom) and node.module in files:
                inside = (f"{node.module}.{alias.name}" for alias in node.names)
                found[name] |= {full if full in files else node.module for full in inside}
        found[name].discard(name)
    return found


def circles(graph: Mapping[str, Iterable[str]]) -> list[list[str]]:
    """Find the groups of modules that reach each other.

    Parameters
    ----------
    graph : mapping of str to iterable of str
        Who imports whom.

    Returns
    -------
    list of list of str
        Groups of two and more, sorted.

    Examples
    --------
    >>> circles({"a": ["b"], "b": ["a"], "c": ["a"]})
    [['a', 'b']]
    """

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        left = [start]
        while left:
            for other in graph[left.pop()]:
                if other not in seen:
                    seen.add(other)
                    left.append(other)
        return seen

    reach = {name: reached(name) for name in graph}
    groups = {
        tuple(sorted(b for b in graph if b in reach[a] and a in reach[b])): None
        for a in sorted(graph)
        if a in reach[a]
    }
    return [list(group) for group in groups if len(group) > 1]


def _docstrings(tree: ast.Module) -> int:
    """Lines of docstrings."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    lines = 0
    for node in ast.walk(tree):
        if isinstance(node, kinds) and ast.get_docstring(node, clean=False) is not None:
            first = node.body[0]
            lines += (first.end_lineno or first.lineno) - first.lineno + 1
    return lines


def _text(paths: Sequence[Path]) -> Counter[str]:
    """Lines of code, documentation and comments, and how often formatting is switched off."""
    found: Counter[str] = Counter()
    for path in paths:
        source = path.read_text(encoding="utf-8")
        documentation = _docstrings(ast.parse(source))
        alone = sum(line.lstrip().startswith("#") for line in source.splitlines())
        blank = sum(not line.strip() for line in source.splitlines())
        found["documentation"] += documentation
        found["code"] += len(source.splitlines()) - documentation - alone - blank
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type == tokenize.COMMENT:
                skip = token.string.startswith("# fmt: skip")
                found["unformatted" if skip else "comments"] += 1
    return found


def _classes_named(root: Path) -> list[str]:
    """Places below ``sim`` that ask whether something is a policy of a certain class."""
    policies = {
        node.name
        for path in sorted((root / "llmq" / "policies").glob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
    } - {"Policy"}
    found = []
    for path in sorted((root / "llmq" / "sim").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "isinstance":
                names = {n.id for n in ast.walk(node.args[1]) if isinstance(n, ast.Name)}
                if names & policies:
                    found.append(f"{path.relative_to(root)}:{node.lineno}")
    return found


def measures(root: Path = ROOT) -> list[Measure]:
    """Count everything.

    Parameters
    ----------
    root : Path
        A checkout.

    Returns
    -------
    list of Measure
        One for each line of the table.
    """
    paths = sorted((root / "llmq").rglob("*.py"))
    folders = Counter(path.parent.relative_to(root) for path in paths)
    graph = imports(root)
    rings = circles(graph)
    text = _text(paths)
    share = 100 * text["comments"] / (text["code"] + text["comments"])
    classes = _classes_named(root)
    full = tuple(f"{folder}: {n}" for folder, n in folders.items() if n > FOLDER)
    return [
        Measure("files of a folder, the largest", max(folders.values()), FOLDER, where=full),
        Measure("circles of imports", len(rings), 0, where=tuple(" ".join(x) for x in rings)),
        Measure(
            "documentation over code, lines", text["documentation"] / text["code"], DOCUMENTATION
        ),
        Measure("comments, % of code", share, COMMENTS, least=True),
        Measure("places where formatting is switched off", text["unformatted"], UNFORMATTED),
        Measure(
            "simulators that ask for the class of a policy", len(classes), 0, where=tuple(classes)
        ),
    ]


def main() -> int:
    """Print the table.

    Returns
    -------
    int
        0; a measure is a question for review, not a wall.
    """
    sys.stdout.write(f"{'measure':<48} {'now':>8} {'target':>8}\n")
    for one in measures():
        sign = ">=" if one.least else "<="
        mark = "" if one.met else "  *"
        sys.stdout.write(f"{one.name:<48} {one.value:>8.4g} {sign} {one.target:>5g}{mark}\n")
        sys.stdout.write("".join(f"    {place}\n" for place in one.where))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
