"""YAML text into texts, lists and tables, within the limits of configuration files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmq._input.config import DEEP, check_values
from llmq._input.files import PathLike, read_text
from llmq._limits import CONFIG_BYTES
from llmq.errors import FormatError, printable

if TYPE_CHECKING:
    from yaml import Mark

__all__ = ["read_yaml"]


def read_yaml(path: PathLike) -> dict[str, Any]:
    r"""Read the table that a YAML file holds; every scalar is a text.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, "meta.yaml").write_text("gpu: H100  # PCIe\nvllm: 0.10\ntp: [1, 2]\n")
    ...     read_yaml(f"{folder}/meta.yaml")
    {'gpu': 'H100', 'vllm': '0.10', 'tp': ['1', '2']}
    """
    import yaml

    name = str(path)
    try:
        # Nodes know their place; and a version 0.10 is no number, a GPU "no" no truth value.
        node = yaml.compose(read_text(path, CONFIG_BYTES), Loader=yaml.BaseLoader)
        found = _value(node, name, set()) if node else None
    except yaml.MarkedYAMLError as error:
        raise _mistake(printable(error.problem), name, error.problem_mark) from None
    except yaml.YAMLError as error:  # a character that YAML does not allow
        message = printable(error).split("\n")[0]
        raise FormatError(f"not YAML: {message}; remove it", path=name) from None
    except RecursionError:
        raise FormatError(DEEP, path=name) from None
    if not isinstance(found, dict):
        raise FormatError("expected lines 'key: value'", path=name, line=1)
    check_values(found, name)
    return found


def _value(node: Any, path: str, seen: set[int]) -> Any:
    """Return a node's text, list or table."""
    if id(node) in seen:  # a few lines of references can stand for a billion values
        raise _mistake("a value that is referred to: write it out", path, node.start_mark)
    seen.add(id(node))
    if node.id == "scalar":
        return node.value
    if node.id == "sequence":
        return [_value(item, path, seen) for item in node.value]
    found: dict[str, Any] = {}
    for key, value in node.value:
        if key.id != "scalar" or key.value in found:
            raise _mistake("a key must be a text, given once", path, key.start_mark)
        found[key.value] = _value(value, path, seen)
    return found


def _mistake(problem: str, path: str, mark: Mark | None) -> FormatError:
    """Return the error of a place in a file."""
    line, where = (mark.line + 1, f" (at column {mark.column + 1})") if mark else (None, "")
    return FormatError(f"not YAML: {problem}{where}; correct the line", path=path, line=line)
