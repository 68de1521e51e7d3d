r"""The catalogue: engines with known laws, and TOML files that hold one's own.

An entry says what was calibrated, how well the law fits, and where each number comes from. The KV
capacity follows from memory,

.. math:: M = \lfloor (g\,u\,B - w) / k \rfloor,

with ``g`` GPUs of ``B`` bytes, the fraction ``u`` the engine may use (vLLM: 0.9), weights of ``w``
bytes and ``k`` bytes of keys and values for a token; rounded down to whole blocks. ``B`` is the
nominal decimal size: what the board has beyond it stands for activations and CUDA graphs. An entry
may state the capacity instead.

A file saved with :func:`write_engine` has the same form, and its path is accepted wherever a
catalogue name is. Times in these files are in seconds, sizes in tokens or bytes.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from llmq._input.checked import checked
from llmq.calibrate._engine_file import load_table, read_engine, write_engine
from llmq.calibrate.catalogue._package import engine_from_package
from llmq.errors import InputError, shown
from llmq.model.engine import Engine

__all__ = ["EngineEntry", "engines", "load_engine", "read_engine", "write_engine"]

_FOLDER = Path(__file__).parent
_FEW = 4  # names in a hint


@checked(record=True)
@dataclass(frozen=True, slots=True)
class EngineEntry:
    """A line of the catalogue.

    Parameters
    ----------
    name : str
        For :func:`load_engine`.
    gpu, model : str
        What it is.
    tp : int
        GPUs of one engine.
    source : str
        Where the numbers come from.
    error : float, optional
        Out-of-sample MAPE of the law, a fraction; None where none was published.
    """

    name: str
    gpu: str
    model: str
    tp: int
    source: str
    error: float | None

    def __str__(self) -> str:
        error = "error unknown" if self.error is None else f"error {100 * self.error:.1f} %"
        return f"{self.name} (TP{self.tp}, {self.gpu}): {error}; {self.source}"


def engines() -> tuple[EngineEntry, ...]:
    """List the catalogue.

    Returns
    -------
    tuple of EngineEntry
        One for each name and tensor-parallel degree, by name.

    Examples
    --------
    >>> [entry.tp for entry in engines() if entry.name == "llama-3.1-70b/a100"]
    [2, 4, 8]
    """
    found = []
    for name, path in _names().items():
        raw = load_table(path)
        for tp, part in raw["tp"].items():
            error = part.get("fit", {}).get("out_of_sample")
            source = part.get("source", raw["source"])
            found.append(EngineEntry(name, raw["gpu"], raw["model"], int(tp), source, error))
    return tuple(found)


@checked
def load_engine(
    name: str | Path,
    tp: int | None = None,
    *,
    source: str = "catalogue",
    token_budget: int | None = None,
    max_seqs: int | None = None,
) -> Engine:
    """Load an engine of the catalogue, or of a TOML file.

    Parameters
    ----------
    name : str or Path
        A catalogue name such as ``"llama-3.1-8b/h100"``, or the path of a ``.toml`` file.
    tp : int, optional
        GPUs of one engine; if not given, the entry's own default or the smallest it has.
    source : {"catalogue", "profiles"}
        Where to look: the catalogue and engine files, or the kernel tables of the extra
        ``profiles``, from which any known model on any measured GPU type is composed.
    token_budget : int, optional
        Tokens per iteration; the entry's (the default of vLLM's server on that GPU) if not given.
    max_seqs : int, optional
        Resident requests; the entry's (vLLM's default, 256) if not given.

    Returns
    -------
    Engine
        With source, fit error and assumptions.

    Raises
    ------
    InputError
        Unknown name (names the nearest) or a degree the entry lacks (names those it has).
    MissingDependencyError
        ``source="profiles"`` without the extra.

    Examples
    --------
    >>> engine = load_engine("llama-3.1-8b/h100")
    >>> engine.law.floor, engine.kv_tokens, engine.token_budget
    (0.00603, 426784, 8192)
    """
    known = _names()
    if source not in ("catalogue", "profiles"):
        raise InputError(f"source must be 'catalogue' or 'profiles', got {source!r}", value=source)
    if source == "profiles":
        engine = engine_from_package(str(name), tp)
    elif str(name).endswith(".toml"):
        engine = read_engine(name, tp)
    elif str(name) in known:
        engine = read_engine(known[str(name)], tp)
    else:
        raise InputError(
            f"no engine {shown(str(name))} in the catalogue{_near(str(name), known)} "
            "(an own engine: pass the path of a .toml file; any other model on a measured GPU: "
            'source="profiles")',
            value=str(name),
        )
    changes = {"token_budget": token_budget, "max_seqs": max_seqs}
    return engine.with_(**{key: value for key, value in changes.items() if value is not None})


def _near(name: str, known: Collection[str]) -> str:
    """Name the few entries that are most like a name, of a Hugging Face model too."""
    from difflib import SequenceMatcher, get_close_matches

    word = name[:200].lower()
    models = {entry.partition("/")[0] for entry in known}
    left, _, right = word.rpartition("/")
    ours = left in models or right in {entry.partition("/")[2] for entry in known}
    close = get_close_matches(word, list(known), n=1, cutoff=0.8)
    if close and _precision(word) == _precision(close[0]):
        return f"; did you mean '{close[0]}'?"
    # Not model/gpu: organisation/model as on Hugging Face, or the model alone.
    model = (left if ours else right).rpartition("/")[2].removeprefix("meta-")

    def likeness(entry: str) -> float:
        own, _, chip = entry.partition("/")
        same = SequenceMatcher(None, model, own).ratio()
        return same + 0.01 * (chip == right) - 0.3 * (_precision(model) != _precision(own))

    best = sorted(known, key=lambda entry: (-likeness(entry), entry))[:_FEW]
    asked = _precision(model)
    other = f", none of them in {asked}" if asked and asked not in map(_precision, best) else ""
    return f"; the nearest are {', '.join(best)}{other}; `llmq engines` lists all {len(known)}"


def _precision(name: str) -> str:
    found = re.search(r"fp8|fp4|int8|int4|awq|gptq|w4a16|w8a8|nvfp4", name)
    return found[0] if found else ""


def _names() -> dict[str, Path]:
    return {path.stem.replace("_", "/", 1): path for path in sorted(_FOLDER.glob("*.toml"))}
