"""``llmq check``: run the independent checker on certificates.

The checker (``proofs/check.py`` of the source tree, also inside the installed package) imports
nothing of llmq. It runs in a process of its own, under ``python -I -S``: no site packages, no
environment variables, so that what this command says is what the checker says.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from llmq.cli.traffic import print_json
from llmq.errors import InputError

__all__ = ["add_arguments", "run"]

_VERDICTS = {0: "accepted", 2: "unreadable", 4: "rejected"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options.

    Parameters
    ----------
    parser : argparse.ArgumentParser
        Of the command.
    """
    parser.add_argument("files", nargs="+", metavar="FILE", help="certificates")
    parser.add_argument("--json", action="store_true", help="machine-readable answer")
    parser.epilog = (
        f"{parser.epilog}\nhere 4: a certificate is rejected, it does not prove its claim"
    )


def run(args: argparse.Namespace) -> int:
    """Check certificates.

    Parameters
    ----------
    args : argparse.Namespace
        Parsed options.

    Returns
    -------
    int
        Exit code: 0 if all are accepted, 2 if one cannot be read as JSON, 4 if one is rejected.
    """
    program = _program()
    found = [_check(program, path) for path in args.files]
    if args.json:
        print_json({"checker": "python -I -S check.py", "files": [one for _, one in found]})
    else:
        for _, one in found:
            sys.stdout.write(f"{one['file']}: {one['verdict']}: {one['reason']}\n")
    return max(code for code, _ in found)


def _program() -> Path:
    """Find the checker: inside an installed package, or beside it in the source tree."""
    package = Path(__file__).parents[1]
    for folder in (package / "_check", package.parent / "proofs"):
        if (folder / "check.py").is_file() and (folder / "check_reading.py").is_file():
            return folder / "check.py"
    raise InputError(
        "the checker is missing from this installation: take proofs/check*.py from the source "
        "tree and run 'python -I -S proofs/check.py FILE'"
    )


def _check(program: Path, path: str) -> tuple[int, dict[str, str]]:
    # Absolute, so that no file name looks like an option.
    target = str(Path(path).absolute())
    command = [sys.executable, "-I", "-S", "-X", "utf8", str(program), target]
    done = subprocess.run(
        command, capture_output=True, check=False, encoding="utf-8", errors="replace"
    )
    code = done.returncode
    if code not in _VERDICTS:
        raise InputError(f"the checker ended with code {code} on {path}: {done.stderr.strip()}")
    said = done.stdout.removeprefix(f"{target}: ").strip()
    reason = said.removeprefix("accepted: ").removeprefix("rejected: ")
    return code, {"file": path, "verdict": _VERDICTS[code], "reason": reason}
