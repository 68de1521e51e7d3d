"""Read a GPU profile of any known format as a :class:`~llmq.calibrate.profile.Profile`.

:func:`profile_formats` lists the formats: what each is recognised by and what one number of it is.
The three foreign ones use three units and three scopes, so the number of layers or the model
must be said; what a profile lacks (LM head, all-reduce, attention) is recorded in its ``missing``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from llmq._input.checked import checked
from llmq.calibrate._compose import DEFAULT_SEED
from llmq.calibrate._geometry import Geometry, geometry
from llmq.calibrate.catalogue._package import package_folder
from llmq.calibrate.profile import Profile
from llmq.errors import FormatError, InputError
from llmq.io._formats import Formats
from llmq.io.profiles import _aiconfigurator, _llmservingsim, _steps, _vidur
from llmq.io.profiles._format import Asked, ProfileFormat
from llmq.io.profiles._table import header
from llmq.rng import RngLike

__all__ = ["profile_formats", "read_profile", "register_profile_format"]

_FEWEST = 4
_PACKAGE = "aiconfigurator-core/"
FORMATS = Formats(
    "profile",
    ProfileFormat,
    Profile,
    (_vidur.FORMAT, _llmservingsim.FORMAT, _aiconfigurator.FORMAT, _steps.FORMAT),
)


def profile_formats() -> dict[str, ProfileFormat]:
    """List the formats of profiles.

    Returns
    -------
    dict of str to ProfileFormat
        By name, in the order in which a file is recognised.

    Examples
    --------
    >>> profile_formats()["vidur"].number
    'ms, one layer, one GPU'
    """
    return FORMATS.all()


def register_profile_format(format: ProfileFormat) -> None:  # noqa: A002 (the word users know)
    """Add a format of profiles: ``read_profile``, ``calibrate`` and the command line then know it.

    Parameters
    ----------
    format : ProfileFormat
        The format; the same record again changes nothing.

    Raises
    ------
    InputError
        Another format has this name, or this is no format.
    """
    FORMATS.register(format)


@checked
def read_profile(
    path: str | Path,
    *,
    format: str | None = None,  # noqa: A002
    layers: int | None = None,
    model: str | Geometry | None = None,
    tp: int = 1,
    gpu: str | None = None,
    assume: Mapping[str, float] | None = None,
    attention: str | Path | None = None,
    network: str | Path | None = None,
    all_reduce: str = "graph",
    steps: int = 6000,
    rng: RngLike = DEFAULT_SEED,
) -> Profile:
    r"""Read measured kernel or iteration times.

    Parameters
    ----------
    path : str or Path
        A file (``mlp.csv``, ``dense.csv``, ``gemm*.csv``, a CSV of own steps with the columns
        tokens, seconds and optionally kv, work, prefill) or the folder that holds it; ``.gz`` is
        accepted. ``aiconfigurator-core/h100_sxm`` means that GPU type in the installed package
        (extra ``profiles``).
    format : str, optional
        One of ``vidur``, ``llmservingsim``, ``aiconfigurator``, ``steps``; recognised if not given.
    layers : int, optional
        Layers of the model; needed where neither ``model`` nor the profile tells.
    model : str or Geometry, optional
        A model llmq knows the shape of, or a shape. Needed for ``aiconfigurator``.
    tp : int
        GPUs that share the model.
    gpu : str, optional
        Name of the GPU; taken from the folder or the file if not given.
    assume : mapping of str to float, optional
        Seconds per iteration for parts the profile lacks (see ``missing`` of the result).
    attention : str or Path, optional
        Vidur's ``attention.csv``; with it whole iterations are composed.
    network : str or Path, optional
        Vidur's ``all_reduce.csv``; needed for whole times at ``tp > 1``.
    all_reduce : {"eager", "graph"}
        AIConfigurator: custom all-reduce launched one by one, or inside a CUDA graph.
    steps : int
        Random iterations to compose from kernel tables.
    rng : Generator, SeedSequence, int or None
        Randomness of these; the default is a fixed seed, recorded in the profile.

    Returns
    -------
    Profile
        Rows of iterations or of layers alone, in seconds.

    Raises
    ------
    FormatError
        The file is malformed; says file, line, column, value and remedy.
    InputError
        An argument is missing or does not fit the file.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder) / "own.csv"
    ...     rows = "1,0.010\n64,0.011\n128,0.012\n256,0.018\n"
    ...     _ = file.write_text("tokens,seconds\n" + rows)
    ...     print(read_profile(file, gpu="mine"))
    mine TP1: 4 layers points (steps)
    """
    place = Path(path)
    packed = not place.exists() and str(path).startswith(_PACKAGE)
    if packed:
        place = package_folder() / str(path).removeprefix(_PACKAGE)
    _check_arguments(tp, layers, all_reduce)
    found, file = _recognise(place, format, tp, packed=packed)
    shape = geometry(model) if isinstance(model, str) else model
    if shape is not None and layers is not None:
        shape = replace(shape, layers=layers)
    asked = Asked(
        layers=layers,
        shape=shape,
        tp=tp,
        gpu=gpu,
        attention=attention,
        network=network,
        all_reduce=all_reduce,
        steps=steps,
        rng=rng,
        source=place.name,
    )
    profile: Profile = FORMATS.read(found, file, file, asked)
    _check_spread(profile, file)
    profile = profile.assuming(assume)
    _check_all_reduce(profile, found, file)
    return profile


def _check_arguments(tp: int, layers: int | None, all_reduce: str) -> None:
    if tp < 1:
        raise InputError(f"tp must be at least 1 GPU, got {tp}", value=tp)
    if layers is not None and layers < 1:
        raise InputError(f"layers must be at least 1, got {layers}", value=layers)
    if all_reduce not in ("eager", "graph"):
        raise InputError(f"all_reduce must be 'eager' or 'graph', got {all_reduce!r}")


def _recognise(
    place: Path,
    format: str | None,  # noqa: A002
    tp: int,
    *,
    packed: bool,
) -> tuple[ProfileFormat, Path]:
    """Choose the format, and the file (or the folder that is one profile) to read."""
    formats = FORMATS.all()
    wanted = None if format is None else FORMATS.named(format)
    if not place.exists() and not packed:
        raise FormatError("no such file or folder: check the path", path=place)
    whole = [one for one in formats.values() if one.folder is not None and one.folder(place)]
    if packed:  # its reader names the GPU types that there are
        whole = [_aiconfigurator.FORMAT]
    file = place if whole or not place.is_dir() else _table_of(place, tp, formats)
    own = whole or [one for one in formats.values() if file.suffix in one.suffixes]
    if own:
        if wanted not in (None, own[0]):
            what = f"{file.suffix.removeprefix('.')} files hold" if not whole else "these are"
            raise FormatError(f"{what} {own[0].name} tables, not {format!r}", path=file)
        return own[0], file
    names = header(file)
    found = next((one for one in formats.values() if one.columns(names)), None)
    if found is None or wanted not in (None, found):
        said = f"columns of the format {format!r}" if format else "a known profile"
        raise FormatError(
            f"expected {said}, found the columns {', '.join(names[:6])}; known formats: "
            f"{', '.join(formats)}",
            path=file,
            line=1,
        )
    return found, file


def _table_of(folder: Path, tp: int, formats: Mapping[str, ProfileFormat]) -> Path:
    places = (folder, folder / f"tp{tp}")
    stems = [stem for one in formats.values() for stem in one.tables]
    for stem in stems:
        for place in places:
            found = sorted([*place.glob(f"{stem}*.csv*"), *place.glob(f"{stem}*.parquet")])
            if found:
                return found[0]
    ranks = sorted(p.name for p in folder.glob("tp*"))
    hint = f"; it has {', '.join(ranks)}, tp={tp} was asked for" if ranks else ""
    known = " or ".join([", ".join(f"{stem}*.csv" for stem in stems[:-1]), f"{stems[-1]}*.csv"])
    raise FormatError(
        f"no {known} in this folder{hint}: name the file of the table, or its folder", path=folder
    )


def _check_all_reduce(profile: Profile, format: ProfileFormat, file: Path) -> None:  # noqa: A002
    # Counted as zero it would make two GPUs without a fast link a quarter too fast.
    if profile.tp > 1 and "all-reduce" in profile.missing:
        raise InputError(
            f"{file.parent}: {profile.tp} GPUs reduce twice in each layer, and no table holds the "
            f"time of it: give {format.all_reduce}assume={{'all-reduce': 0.002}} (seconds of an "
            "iteration)",
            value=profile.tp,
        )


def _check_spread(profile: Profile, file: Path) -> None:
    counts = np.unique(profile.tokens)
    if len(counts) < _FEWEST:
        found = ", ".join(str(n) for n in counts)
        raise FormatError(
            f"only {len(counts)} different token counts ({found}): a law needs at least {_FEWEST}, "
            "from 1 token to the token budget",
            path=file,
        )
