"""The ledger of theorems: ``python -m proofs.ledger [--run]``.

Reads ``THEOREMS.md``, where an entry is a heading ``### ID. Title`` and lines ``- field: text``,
and says what is wrong with it: an unknown level, a missing field, a command whose script,
certificate or test does not exist, a level without its kind of evidence, a certificate or lemma
without an entry. ``--run`` runs every command of every entry, tests included.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LEVELS = ("instance-certified", "symbolically checked", "prose proof", "cited", "tested")
EXACT = LEVELS[:-1]  # levels at which a result may call itself exact
FIELDS = ("level", "statement", "hypotheses", "command", "trusted base", "source")
MAY = (*FIELDS, "proof")
PROOF = "docstring of "
LEMMA = "python -m proofs.lemmas."
CHECK = "python -I -S proofs/check.py "
TEST = "python -m pytest "
PYTEST = ("-q", "-rs", "-p", "no:cacheprovider")
NEEDED = {"instance-certified": CHECK, "symbolically checked": LEMMA, "tested": TEST}


@dataclass(frozen=True, slots=True)
class Theorem:
    """An entry of the ledger: its id, title and fields in order."""

    id: str
    title: str
    fields: tuple[tuple[str, str], ...]

    def all(self, field: str) -> tuple[str, ...]:
        """Every text of a field."""
        return tuple(text for name, text in self.fields if name == field)

    @property
    def level(self) -> str:
        """The level, empty if none is stated."""
        return next(iter(self.all("level")), "")

    @property
    def commands(self) -> tuple[str, ...]:
        """What can be run."""
        return tuple(text.strip("`") for text in self.all("command"))


def read(text: str) -> tuple[Theorem, ...]:
    """Read the entries of ``THEOREMS.md``."""
    found = []
    for part in re.split(r"^### ", text, flags=re.MULTILINE)[1:]:
        head, _, body = part.partition("\n")
        name, _, title = head.partition(". ")
        lines = re.findall(r"^- ([a-z ]+): (.+)$", body, flags=re.MULTILINE)
        found.append(Theorem(name, title.strip(), tuple(lines)))
    return tuple(found)


def load(root: Path = ROOT) -> tuple[Theorem, ...]:
    """Read the entries of this repository."""
    return read((root / "proofs" / "THEOREMS.md").read_text(encoding="utf-8"))


def faults(theorems: tuple[Theorem, ...], root: Path = ROOT) -> list[str]:
    """Say what is wrong with the ledger."""
    said = [
        f"{name}: entered twice" for name, n in Counter(t.id for t in theorems).items() if n > 1
    ]
    for theorem in theorems:
        said += [f"{theorem.id}: {fault}" for fault in _entry(theorem, root)]
    used = " ".join(command for theorem in theorems for command in theorem.commands).split()
    for path in sorted((root / "proofs" / "certificates").glob("*.json")):
        if f"proofs/certificates/{path.name}" not in used:
            said.append(f"certificate {path.name}: no entry points to it")
    for path in sorted((root / "proofs" / "lemmas").glob("*.py")):
        if path.stem != "__init__" and f"proofs.lemmas.{path.stem}" not in used:
            said.append(f"lemma {path.stem}: no entry points to it")
    return said


def _entry(theorem: Theorem, root: Path) -> list[str]:
    names = [name for name, _ in theorem.fields]
    said = [f"no {field}" for field in FIELDS if field not in names]
    said += [f"unknown field {name!r}" for name in names if name not in MAY]
    if theorem.level not in LEVELS:
        said.append(f"unknown level {theorem.level!r}")
    if not any(grade in " ".join(theorem.all("source")) for grade in ("[A]", "[B]", "[C]")):
        said.append("the source has no grade")
    needed = NEEDED.get(theorem.level)
    if needed and not any(command.startswith(needed) for command in theorem.commands):
        said.append(f"level {theorem.level!r} needs a command that starts with {needed!r}")
    where = [text.removeprefix(PROOF) for text in theorem.all("proof")]
    said += [f"no proof at {path}" for path in where if not (root / path).is_file()]
    if theorem.level == "prose proof" and not where:
        said.append("a prose proof must say where it is: '- proof: docstring of FILE'")
    return said + [fault for command in theorem.commands for fault in _command(command, root)]


def _command(command: str, root: Path) -> list[str]:
    if command.startswith(LEMMA):
        paths = [f"proofs/lemmas/{command.removeprefix(LEMMA)}.py"]
    elif command.startswith(CHECK):
        paths = command.removeprefix(CHECK).split()
    elif command.startswith(TEST):
        path, _, test = command.removeprefix(TEST).partition("::")
        if (root / path).is_file() and test and test not in _tests(root / path):
            return [f"{path} has no test {test}"]
        paths = [path]
    else:
        return [f"unknown kind of command: {command}"]
    return [f"{path} does not exist" for path in paths if not (root / path).is_file()]


@cache
def _tests(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def table(theorems: tuple[Theorem, ...]) -> str:
    """Write the ledger with the counts per level."""
    width = max(len(theorem.id) for theorem in theorems)
    lines = [f"{t.id:{width}}  {t.level:20}  {t.title}" for t in theorems]
    counts = Counter(theorem.level for theorem in theorems)
    return "\n".join([*lines, "", *(f"{counts[level]:4}  {level}" for level in LEVELS)])


def run(theorems: tuple[Theorem, ...], root: Path = ROOT) -> int:
    """Run every command of every entry, each once; return the number of failures.

    Lemmas one by one, all certificates in one call of the checker, all tests in one call of pytest.
    A test that does not pass, or is skipped, counts as a failure: its entry has no other evidence.
    """
    every = dict.fromkeys(command for theorem in theorems for command in theorem.commands)
    kinds = {kind: [c for c in every if c.startswith(kind)] for kind in (LEMMA, CHECK, TEST)}
    files = dict.fromkeys(path for c in kinds[CHECK] for path in c.removeprefix(CHECK).split())
    tests = dict.fromkeys(c.removeprefix(TEST).strip() for c in kinds[TEST])
    commands = [
        *(command.split() for command in kinds[LEMMA]),
        [*CHECK.split(), *files],
        [*TEST.split(), *PYTEST, *tests],
    ]
    failed = sum(len(found) for kind, found in kinds.items() if not found)

    def start(command: list[str]) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, *command[1:]]
        return subprocess.run(words, cwd=root, capture_output=True, text=True, check=False)

    # The tests take longest, so they start first.
    with ThreadPoolExecutor(max_workers=2) as pool:
        for command, done in zip(commands[::-1], pool.map(start, commands[::-1]), strict=True):
            sys.stdout.write(f"$ {' '.join(command[:4])}\n{done.stdout}{done.stderr}")
            skipped = command[2] == "pytest" and " skipped" in done.stdout
            failed += done.returncode != 0 or skipped
    total = sum(map(len, kinds.values()))
    sys.stdout.write(f"\nran {total} commands of {len(theorems)} entries: {failed} failed\n")
    return failed


def main(arguments: list[str]) -> int:
    """Print the ledger; return 1 if it has a fault or something fails."""
    theorems = load()
    said = faults(theorems)
    failed = run(theorems) if "--run" in arguments else 0
    sys.stdout.write(f"\n{table(theorems)}\n")
    sys.stderr.write("".join(f"fault: {fault}\n" for fault in said))
    return int(bool(said or failed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
