"""Parse, dispatch, and turn errors into exit codes."""

from __future__ import annotations

import argparse
import importlib
import os
import re
import sys
import warnings
from collections.abc import Sequence
from typing import Any, NoReturn

import llmq
from llmq._starting import INTERRUPTED
from llmq.cli._ending import BAD_INPUT, OK, ended, settle, streams
from llmq.cli._imports import HELP, import_named
from llmq.cli._stopping import stoppable
from llmq.errors import LlmqWarning, nearest, printable

__all__ = ["main"]

# Characters of what was typed that a message repeats.
_ECHO = 300

_COMMANDS = {
    "plan": "how many GPUs for this traffic and these targets",
    "region": "what load an engine can carry, at what price, and what binds",
    "simulate": "latencies of a fleet under a policy, after a stability verdict",
    "compare": "policies side by side on the same requests, with intervals of the differences",
    "verdict": "whether a policy is throughput-optimal: tests, or a counterexample",
    "calibrate": "from a GPU profile to a law of iteration time, with its error",
    "check": "whether certificates prove what they claim, by an independent checker",
    "figure": "draw a figure of the gallery from its committed table",
    "convert": "from one trace format to another",
    "engines": "list the catalogue of engines",
    "workloads": "list the named workloads",
    "policies": "list the policies and routers with their parameters",
}

_EPILOG = """\
exit codes: 0 ok, 1 internal error, 2 bad input, 3 valid negative answer (infeasible, overloaded),
4 certificate not accepted, 130 interrupted
durations carry units (500ms, 2s); rates are requests per second (50, 50/s, 90/min)"""


class _Parser(argparse.ArgumentParser):
    """Names the nearest option, command or choice, and refuses an option that would be lost."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.given: set[str] = set()
        # Groups share the registries, so this holds for every option without ``action="append"``.
        for name in (None, "store", "store_true"):
            self.register("action", name, _once(self._registry_get("action", name)))

    def error(self, message: str) -> NoReturn:
        if choice := re.search(r"invalid choice: '([^']*)' \(choose from (.*)\)", message):
            near = nearest(choice[1], re.findall(r"[\w.-]+", choice[2]))
            message = f"{message[: choice.start()]}{choice[1]!r} is not known{near}"
        words = message.split(": ", 1)
        if words[0] == "unrecognized arguments":
            known = [o for action in self._actions for o in action.option_strings]
            wrong = next((w for w in words[1].split() if w.startswith("-")), words[1])
            message = f"unknown option {wrong!r}{nearest(wrong.split('=')[0], known)}"
        if len(message) > _ECHO:
            message = f"{message[: _ECHO // 2]} ... {message[-_ECHO // 2 :]}"
        self.exit(BAD_INPUT, f"llmq: error: {printable(message)}\n")

    def parse_known_args(self, args=None, namespace=None):  # type: ignore[no-untyped-def]
        self.given.clear()
        found, rest = super().parse_known_args(args, namespace)
        if rest and self.prog != "llmq":
            self.error(f"unrecognized arguments: {' '.join(rest)}")
        return found, rest


def _once(kind: type[argparse.Action]) -> type[argparse.Action]:
    """Return an action that refuses to be given twice: the first value would be lost."""

    class Once(kind):  # type: ignore[misc, valid-type]
        def __call__(self, parser: Any, namespace: Any, values: Any, option: Any = None) -> None:
            if option is not None and self.dest in parser.given:
                value = "" if self.nargs == 0 else f", the second time with {values!r}"
                parser.error(f"{option} is given twice{value}: only one can be used, give it once")
            parser.given.add(self.dest)
            super().__call__(parser, namespace, values, option)

    return Once


def build_parser(command: str | None = None) -> argparse.ArgumentParser:
    """Build the parser; only the command that runs loads its options."""
    parser = _Parser(
        prog="llmq",
        description=(llmq.__doc__ or "").partition("\n")[0],
        epilog=_EPILOG,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"llmq {llmq.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, words in _COMMANDS.items():
        sub = commands.add_parser(
            name,
            help=words,
            description=f"llmq {name}: {words}.",
            epilog=_EPILOG,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if name == command:
            importlib.import_module(f"llmq.cli.commands.{name}").add_arguments(sub)
            # Read by import_named before; here for the help and the errors.
            sub.add_argument("--import", metavar="MODULE", action="append", help=HELP)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments after the program's name; those of the process if not given.

    Returns
    -------
    int
        Exit code.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    with stoppable(alone=argv is None) as stop, streams():
        try:
            code = _run(words)
            sys.stdout.flush()
        except BaseException as error:  # the last resort: nobody sees a traceback
            code = ended(KeyboardInterrupt() if stop.fired else error, words)
        full = settle()
        if code == OK and full is not None and not isinstance(full, BrokenPipeError):
            code = ended(full, words)
        if not stop.fired:
            return code
        if argv is None:
            os._exit(INTERRUPTED)  # a second interrupt would find no handler on the way out
        return INTERRUPTED  # also if a library has swallowed it


def _run(words: list[str]) -> int:
    import_named(words)
    command = next((word for word in words if word in _COMMANDS), None)
    args = build_parser(command).parse_args(words)
    with warnings.catch_warnings():
        warnings.simplefilter("always", LlmqWarning)
        warnings.showwarning = _note
        return int(importlib.import_module(f"llmq.cli.commands.{args.command}").run(args))


def _note(message: object, *args: object, **options: object) -> None:
    sys.stderr.write(f"llmq: note: {printable(message, keep=chr(10))}\n")
