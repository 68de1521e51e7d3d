r"""GPU types: memory, bandwidth, and what no time can be shorter than.

An iteration reads every weight it uses once, so on ``g`` GPUs of bandwidth ``B`` bytes per second

.. math:: t \ge w / (g B),

with ``w`` the bytes of the layers and of the LM head (of a mixture of experts: those one token runs
through). A profile below that bound is not of this model and GPU, or not in the unit it claims;
one 100 times above it is not in that unit either. Nominal figures of the manufacturers' data
sheets; memory in decimal bytes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from llmq.calibrate._geometry import Geometry
from llmq.errors import InputError, nearest

__all__ = ["GPUS", "SERVER", "Gpu", "find_gpu", "gpu", "least_seconds", "server_defaults"]

# Where the defaults below were read.
SERVER = "vLLM 0.32, API server, vllm/engine/arg_utils.py"
_BYTES, _GIB = 2, 2**30


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU type.

    Parameters
    ----------
    name : str
        Short name, as in the catalogue.
    title : str
        Full name.
    memory : float
        Nominal memory, bytes.
    bandwidth : float
        Nominal memory bandwidth, bytes per second.
    system : str
        Its folder in AIConfigurator's data; empty if it has none.

    Examples
    --------
    >>> gpu("h100").memory
    8.0e+10
    """

    name: str
    title: str
    memory: float
    bandwidth: float
    system: str = ""


GPUS = (
    Gpu("a100", "NVIDIA A100 SXM 80 GB", 80e9, 2.039e12, "a100_sxm"),
    Gpu("h100", "NVIDIA H100 SXM 80 GB", 80e9, 3.35e12, "h100_sxm"),
    Gpu("h200", "NVIDIA H200 SXM 141 GB", 141e9, 4.8e12, "h200_sxm"),
    Gpu("b200", "NVIDIA B200 SXM 180 GB", 180e9, 8e12, "b200_sxm"),
    Gpu("b300", "NVIDIA B300 SXM 288 GB", 288e9, 8e12, "b300_sxm"),
    Gpu("gb200", "NVIDIA GB200 186 GB", 186e9, 8e12, "gb200"),
    Gpu("gb300", "NVIDIA GB300 288 GB", 288e9, 8e12, "gb300"),
    Gpu("l40s", "NVIDIA L40S 48 GB", 48e9, 864e9, "l40s"),
    Gpu("rtxpro6000", "NVIDIA RTX PRO 6000 Blackwell 96 GB", 96e9, 1.792e12, "rtx_pro_6000_server"),
    Gpu("a40", "NVIDIA A40 48 GB", 48e9, 696e9),
    Gpu("rtx6000ada", "NVIDIA RTX 6000 Ada 48 GB", 48e9, 960e9),
)


def gpu(name: str) -> Gpu:
    """Look up a GPU type.

    Parameters
    ----------
    name : str
        Its name; case, spaces and a trailing SXM do not matter.

    Returns
    -------
    Gpu
        The type.

    Raises
    ------
    InputError
        Not known; names the nearest one.

    Examples
    --------
    >>> gpu("H100_SXM").name
    'h100'
    """
    if (found := find_gpu(name)) is None:
        known = [one.name for one in GPUS]
        raise InputError(f"GPU {name!r} is not known{nearest(name.lower(), known)}", value=name)
    return found


def find_gpu(name: str) -> Gpu | None:
    """Look up a GPU type by a name that may be anything.

    Parameters
    ----------
    name : str
        A name.

    Returns
    -------
    Gpu or None
        The type, if it is known.

    Examples
    --------
    >>> find_gpu("RTX PRO 6000").name, find_gpu("toaster")
    ('rtxpro6000', None)
    """
    return {_plain(w): one for one in GPUS for w in (one.name, one.system, one.title) if w}.get(
        _plain(name)
    )


def server_defaults(kind: Gpu) -> tuple[int, int]:
    """Return what vLLM's API server takes where nobody says: ``SERVER`` names the version.

    Parameters
    ----------
    kind : Gpu
        The GPU type.

    Returns
    -------
    tuple of int
        ``max_num_batched_tokens`` and ``max_num_seqs``.

    Examples
    --------
    >>> [server_defaults(gpu(name)) for name in ("b200", "h100", "a100")]
    [(16384, 1024), (8192, 1024), (2048, 256)]
    """
    if kind.memory >= 160 * _GIB:
        return 16_384, 1024
    if kind.memory >= 70 * _GIB and kind.name != "a100":
        return 8192, 1024
    return 2048, 256


def _plain(name: str) -> str:
    word = re.sub(r"[\s_-]\d+\s*gb$", "", name.lower())  # the memory
    word = re.sub(r"[^a-z0-9]", "", word).removeprefix("nvidia")
    return re.sub(r"(sxm\d?|dgx|serveredition|workstationedition)$", "", word)


def least_seconds(shape: Geometry, kind: Gpu, tp: int = 1, *, head: bool = True) -> float:
    """Return what no iteration can be shorter than: reading the weights once.

    Parameters
    ----------
    shape : Geometry
        The model, in 16-bit precision.
    kind : Gpu
        The GPU type.
    tp : int
        GPUs that share the model.
    head : bool
        Whether the LM head is read too.

    Returns
    -------
    float
        Seconds.

    Examples
    --------
    >>> from llmq.calibrate._geometry import geometry
    >>> least_seconds(geometry("Llama-3.1-8B"), gpu("h100"))
    0.00448
    """
    matrix = shape.vocabulary * shape.hidden
    weights = shape.active_parameters - (1 if head else 2) * matrix
    return _BYTES * weights / (tp * kind.bandwidth)
