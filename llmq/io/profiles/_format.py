"""What a profile format is: a frozen record, known by its columns, with a reader.

The formats that come with the library are records of this kind too
(``FORMAT`` of each file); :func:`llmq.io.profiles.register_profile_format` adds one's own.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from llmq.calibrate._geometry import Geometry, geometry
from llmq.calibrate.catalogue._plausible import check_bound
from llmq.calibrate.catalogue.gpus import find_gpu
from llmq.calibrate.profile import Profile
from llmq.errors import InputError
from llmq.io._formats import complete
from llmq.rng import RngLike

__all__ = ["Asked", "ProfileFormat", "bounded", "layers_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What the caller of :func:`llmq.read_profile` says about a file.

    Parameters
    ----------
    layers : int, optional
        Layers of the model; ``shape`` has them already.
    shape : Geometry, optional
        The model.
    tp : int
        GPUs that share it.
    gpu : str, optional
        Name of the GPU.
    attention, network : str or Path, optional
        Further tables.
    all_reduce : {"eager", "graph"}
        How the all-reduce is launched.
    steps : int
        Random iterations to compose from kernel tables.
    rng : Generator, SeedSequence, int or None
        Randomness of these.
    source : str
        What the profile is called.
    """

    layers: int | None
    shape: Geometry | None
    tp: int
    gpu: str | None
    attention: str | Path | None
    network: str | Path | None
    all_reduce: str
    steps: int
    rng: RngLike
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileFormat:
    """A format of profiles.

    Parameters
    ----------
    name : str
        As users write it, ``format=name``.
    known_by : str
        What it is recognised by, for the documents.
    number : str
        What one number of it is: unit and scope.
    columns : callable
        From the column names of a table to whether it is of this format.
    read : callable
        From a file and what was asked to a profile, in seconds; malformed files are refused with a
        :class:`llmq.FormatError` that names line, column, value and remedy.
    tables : tuple of str
        Beginnings of the names of its main table, tried in this order in a folder.
    folder : callable, optional
        From a folder to whether all of it is one profile.
    suffixes : tuple of str
        Ends of file names that only this format has.
    all_reduce : str
        How else the time of an all-reduce can be given, as the beginning of a sentence.

    Raises
    ------
    InputError
        A record without a name, a recogniser, a reader or its lines of the documents.

    Examples
    --------
    >>> ProfileFormat(
    ...     name="mine", known_by="column us", number="us, one iteration",
    ...     columns=lambda names: "us" in names, read=None)
    Traceback (most recent call last):
    llmq.errors.InputError: profile format 'mine': read must be a function, got None
    """

    name: str
    known_by: str
    number: str
    columns: Callable[[Collection[str]], bool]
    read: Callable[[Path, Asked], Profile]
    tables: tuple[str, ...] = ()
    folder: Callable[[Path], bool] | None = None
    suffixes: tuple[str, ...] = ()
    all_reduce: str = ""

    def __post_init__(self) -> None:
        complete("profile", self, ("name", "known_by", "number"), ("columns", "read"))


def layers_of(asked: Asked, name: str) -> int:
    """Layers of the model, for tables of one layer; ``name`` may look like a model we know."""
    if asked.layers is not None:
        return asked.layers
    if asked.shape is not None:
        return asked.shape.layers
    try:
        hint = f"{name} looks like layers={geometry(name).layers}"
    except InputError:
        hint = "e.g. layers=32"
    raise InputError(f"the profile holds times of one layer: say layers= or model= ({hint})")


def bounded(profile: Profile, shape: Geometry | None, file: Path) -> Profile:
    """Refuse times that the memory of the GPU does not allow, where model and GPU are known."""
    kind = find_gpu(profile.gpu)
    if shape is not None and kind is not None:
        check_bound(profile, shape, kind, file)
    return profile
