r"""Shapes of published models: facts that turn a kernel table into an iteration.

A dense decoder layer holds a QKV projection (``hidden x (heads + 2 kv_heads) head_dim``), an
output projection and a gated feed-forward block of three ``hidden x ffn`` matrices; two
``vocabulary x hidden`` matrices (embedding, LM head) complete the model. In 16-bit precision a
token of context keeps ``4 layers kv_heads head_dim`` bytes of keys and values. Norm weights and
biases (under 0.01 % of the parameters) are not counted. Not covered: mixtures of experts, latent
attention, tied embeddings.

The numbers are those of the models' published ``config.json`` files.
"""

from __future__ import annotations

from dataclasses import dataclass

from llmq.errors import InputError, nearest

__all__ = ["GEOMETRIES", "Geometry", "geometry", "kv_capacity"]

_BYTES = 2


@dataclass(frozen=True, slots=True)
class Geometry:
    """Shape of a dense decoder model with grouped-query attention.

    Parameters
    ----------
    name : str
        Published name.
    layers : int
        Decoder layers.
    hidden : int
        Width of the residual stream.
    heads, kv_heads : int
        Query heads and key-value heads.
    ffn : int
        Width of the gated feed-forward block.
    vocabulary : int
        Rows of the embedding.
    head_dim : int
        Width of a head.

    Examples
    --------
    >>> llama = geometry("meta-llama/Llama-3.1-8B-Instruct")
    >>> llama.parameters, llama.kv_bytes
    (8029995008, 131072)
    """

    name: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    ffn: int
    vocabulary: int
    head_dim: int = 128

    @property
    def qkv_width(self) -> int:
        """Columns of the fused QKV projection."""
        return (self.heads + 2 * self.kv_heads) * self.head_dim

    @property
    def parameters(self) -> int:
        """Weights in the matrices."""
        attention = self.hidden * (self.qkv_width + self.heads * self.head_dim)
        layer = attention + 3 * self.hidden * self.ffn
        return self.layers * layer + 2 * self.vocabulary * self.hidden

    @property
    def weight_bytes(self) -> int:
        """Bytes of the matrices in 16-bit precision."""
        return _BYTES * self.parameters

    @property
    def kv_bytes(self) -> int:
        """Bytes a token of context takes in 16-bit precision, all GPUs together."""
        return 2 * _BYTES * self.layers * self.kv_heads * self.head_dim


GEOMETRIES = (
    Geometry("Llama-2-7B", 32, 4096, 32, 32, 11008, 32000),
    Geometry("Llama-2-70B", 80, 8192, 64, 8, 28672, 32000),
    Geometry("CodeLlama-34B", 48, 8192, 64, 8, 22016, 32000),
    Geometry("Llama-3-8B", 32, 4096, 32, 8, 14336, 128256),
    Geometry("Llama-3.1-8B", 32, 4096, 32, 8, 14336, 128256),
    Geometry("Llama-3.1-70B", 80, 8192, 64, 8, 28672, 128256),
    Geometry("Mistral-7B", 32, 4096, 32, 8, 14336, 32000),
    Geometry("Qwen3-32B", 64, 5120, 64, 8, 25600, 151936),
    Geometry("DeepSeek-R1-Distill-Qwen-32B", 64, 5120, 40, 8, 27648, 152064),
)


def _plain(name: str) -> str:
    word = name.lower().rsplit("/", maxsplit=1)[-1].removeprefix("meta-")
    for suffix in ("-hf", "-instruct"):
        word = word.removesuffix(suffix)
    return word


def geometry(name: str) -> Geometry:
    """Look up the shape of a model by its published name.

    Parameters
    ----------
    name : str
        Case, a vendor prefix and the suffixes ``-hf`` and ``-Instruct`` do not matter.

    Returns
    -------
    Geometry
        The shape.

    Raises
    ------
    InputError
        The model is not known; names the nearest one.

    Examples
    --------
    >>> geometry("CodeLlama-34b-Instruct-hf").layers
    48
    """
    known = {_plain(g.name): g for g in GEOMETRIES}
    if (found := known.get(_plain(name))) is None:
        names = {g.name.lower(): g.name for g in GEOMETRIES}
        raise InputError(
            f"model {name!r} is not among the known shapes{nearest(_plain(name), names)} "
            "(an own model: pass a llmq.calibrate.geometry.Geometry)",
            value=name,
        )
    return found


def kv_capacity(
    *,
    gpu_bytes: float,
    weight_bytes: float,
    kv_bytes: float,
    gpus: int = 1,
    utilisation: float = 0.9,
    block: int = 16,
) -> int:
    """Return the KV tokens that fit beside the weights.

    Parameters
    ----------
    gpu_bytes : float
        Memory of one GPU, bytes.
    weight_bytes : float
        Weights of the model, bytes, all GPUs together.
    kv_bytes : float
        Keys and values of one token, bytes, all GPUs together.
    gpus : int
        GPUs that share the model.
    utilisation : float
        Fraction of the memory the engine may use (vLLM ``gpu_memory_utilization``).
    block : int
        Tokens of a KV block; the capacity is a whole number of blocks.

    Returns
    -------
    int
        Tokens.

    Raises
    ------
    InputError
        Not even one block fits.

    Examples
    --------
    >>> shape = geometry("Llama-3.1-8B")
    >>> kv_capacity(gpu_bytes=80e9, weight_bytes=shape.weight_bytes, kv_bytes=shape.kv_bytes)
    426784
    """
    room = gpus * utilisation * gpu_bytes - weight_bytes
    tokens = int(room / kv_bytes) // block * block if kv_bytes > 0 else 0
    if tokens < block:
        raise InputError(
            f"{weight_bytes:.3g} bytes of weights leave no KV block in {gpus} GPUs of "
            f"{gpu_bytes:.3g} bytes at utilisation {utilisation}: use more GPUs",
            value=room,
        )
    return tokens
