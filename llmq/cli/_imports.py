"""``--import``: modules of a user's own that register policies, routers or formats."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from llmq.errors import InputError, LlmqError, shown

__all__ = ["HELP", "import_named"]

HELP = "a Python module that registers policies, routers or formats of your own; may be repeated"


def import_named(words: Sequence[str]) -> None:
    """Import the modules that the options name, before the options are read.

    Policies and formats must be known when the parser is built.
    """
    for name in _names(words):
        if name.endswith(".py") or os.sep in name:
            raise InputError(
                f"--import {shown(name)}: write the name of the module, not of its file, and run "
                "llmq in its folder: --import mine",
                value=name,
            )
        if str(Path.cwd()) not in sys.path:
            sys.path.insert(0, str(Path.cwd()))  # as `python -m` does
        try:
            importlib.import_module(name)
        except LlmqError:
            raise
        except ModuleNotFoundError as error:
            if error.name is None or not name.startswith(error.name):
                raise _failed(name, error) from error
            raise InputError(
                f"--import {shown(name)}: no module of this name; is {name}.py in the folder in "
                "which llmq runs?",
                value=name,
            ) from None
        except Exception as error:
            raise _failed(name, error) from error


def _names(words: Sequence[str]) -> Iterator[str]:
    """Values of the option, wherever it stands."""
    for word, after in zip(words, [*words[1:], ""], strict=True):
        if word == "--import" and after:
            yield after
        elif word.startswith("--import="):
            yield word.removeprefix("--import=")


def _failed(name: str, error: Exception) -> InputError:
    return InputError(
        f"--import {shown(name)}: the module cannot be imported ({type(error).__name__}: "
        f"{shown(str(error))}): try python -c 'import {name}'",
        value=name,
    )
