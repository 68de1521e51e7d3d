"""``llmq policies``."""

from __future__ import annotations

import argparse
import inspect
import sys
from typing import Any

from llmq.cli._traffic import print_json
from llmq.errors import InputError

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options.

    Parameters
    ----------
    parser : argparse.ArgumentParser
        Of the command.
    """
    parser.add_argument("word", nargs="?", default="", help="only names that contain this")
    parser.add_argument("--json", action="store_true", help="machine-readable output")


def run(args: argparse.Namespace) -> int:
    """List the policies and the routers with their parameters.

    Parameters
    ----------
    args : argparse.Namespace
        Parsed options.

    Returns
    -------
    int
        Exit code.
    """
    from llmq.policies import policy_kinds, router_kinds

    found = {
        what: [_facts(one) for name, one in kinds.items() if args.word.lower() in name]
        for what, kinds in (("policies", policy_kinds()), ("routers", router_kinds()))
    }
    if not any(found.values()):
        raise InputError(
            f"no policy or router contains {args.word!r}; `llmq policies` lists all",
            value=args.word,
        )
    if args.json:
        print_json(found)
        return 0
    for what, rows in found.items():
        if rows:
            sys.stdout.write(f"{what} ({_USE[what]})\n")
        for row in rows:
            sys.stdout.write(f"  {row['name']:18s} {row['title']}\n")
            sys.stdout.write(f"  {'':18s} {_fields(row['fields'])}\n" * bool(row["fields"]))
    return 0


_USE = {"policies": "--policy name:field=value,field=value", "routers": "route=name"}


def _facts(kind: Any) -> dict[str, Any]:
    from llmq.policies._registry import defaults, parameters

    usual = defaults(kind)
    title = (inspect.getdoc(kind) or "").partition("\n")[0]
    return {
        "name": kind.name,
        # A dataclass without a docstring gets its signature as one.
        "title": "" if title.startswith(f"{kind.__name__}(") else title,
        "fields": {name: usual.get(name) for name in parameters(kind)},
    }


def _fields(fields: dict[str, str | None]) -> str:
    return ", ".join(
        f"{name}={'...' if value is None else value}" for name, value in fields.items()
    )
