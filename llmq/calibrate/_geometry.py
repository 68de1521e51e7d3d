r"""Shapes of published models: facts that turn a kernel table into an iteration.

A decoder layer holds a QKV projection (``hidden x (heads + 2 kv_heads) head_dim``), an output
projection and a gated feed-forward block of three ``hidden x ffn`` matrices; a mixture of experts
has such a block for each expert and a ``hidden x experts`` router, and each token runs through
``active`` of them. Two ``vocabulary x hidden`` matrices (embedding, LM head) complete the model. In
16-bit precision a token of context keeps ``4 layers kv_heads head_dim`` bytes of keys and values;
GPUs beyond the number of KV heads hold copies. Norm weights and biases (under 0.01 % of the
parameters) are not counted. Not covered: latent attention, sliding windows, tied embeddings,
shared experts, other precisions.

The numbers are those of the models' published ``config.json`` files.
"""

from __future__ import annotations

from dataclasses import dataclass

from llmq.errors import InputError, nearest

__all__ = ["GEOMETRIES", "Geometry", "geometry", "kv_capacity"]

_BYTES = 2


@dataclass(frozen=True, slots=True)
class Geometry:
    """Shape of a decoder model with grouped-query attention.

    Examples
    --------
    >>> llama = geometry("meta-llama/Llama-3.1-8B-Instruct")
    >>> llama.parameters, llama.kv_bytes
    (8029995008, 131072)
    >>> mixtral = geometry("Mixtral-8x7B")
    >>> mixtral.parameters, mixtral.active_parameters
    (46702526464, 12879659008)
    """

    name: str  # published name
    layers: int  # decoder layers
    hidden: int  # width of the residual stream
    # heads, kv_heads: query heads and key-value heads
    heads: int
    kv_heads: int
    ffn: int  # width of the gated feed-forward block, or of one expert
    vocabulary: int  # rows of the embedding
    head_dim: int = 128  # width of a head
    # experts, active: experts of a layer and those each token runs through; 0 in a dense
    # model
    experts: int = 0
    active: int = 0

    def __post_init__(self) -> None:
        for name in ("layers", "hidden", "heads", "kv_heads", "ffn", "vocabulary", "head_dim"):
            if getattr(self, name) < 1:
                raise InputError(f"geometry: {name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.active <= self.experts or (self.experts > 0) != (self.active > 0):
            raise InputError(
                f"geometry: each token needs 1 to {self.experts} active experts, got {self.active}"
            )

    @property
    def qkv_width(self) -> int:
        """Columns of the fused QKV projection."""
        return (self.heads + 2 * self.kv_heads) * self.head_dim

    @property
    def parameters(self) -> int:
        """Weights in the matrices."""
        return self._parameters(max(self.experts, 1))

    @property
    def active_parameters(self) -> int:
        """Weights one token runs through."""
        return self._parameters(max(self.active, 1))

    def _parameters(self, blocks: int) -> int:
        attention = self.hidden * (self.qkv_width + self.heads * self.head_dim)
        layer = attention + self.hidden * self.experts + 3 * blocks * self.hidden * self.ffn
        return self.layers * layer + 2 * self.vocabulary * self.hidden

    @property
    def weight_bytes(self) -> int:
        """Bytes of the matrices in 16-bit precision."""
        return _BYTES * self.parameters

    @property
    def kv_bytes(self) -> int:
        """Bytes a token of context takes in 16-bit precision, all GPUs together."""
        return 2 * _BYTES * self.layers * self.kv_heads * self.head_dim

    def kv_heads_of(self, tp: int) -> int:
        """Return the KV heads each of some GPUs holds.

        Examples
        --------
        >>> [geometry("Qwen3-30B-A3B").kv_heads_of(tp) for tp in (1, 2, 4, 8)]
        [4, 2, 1, 1]
        """
        uneven = self.kv_heads % tp and tp % self.kv_heads
        if tp < 1 or uneven or self.heads % tp or self.ffn % tp:
            raise InputError(f"{self.name} cannot be shared by {tp} GPUs", value=tp)
        return max(self.kv_heads // tp, 1)


GEOMETRIES = (
    Geometry("Llama-2-7B", 32, 4096, 32, 32, 11008, 32000),
    Geometry("Llama-2-70B", 80, 8192, 64, 8, 28672, 32000),
    Geometry("CodeLlama-34B", 48, 8192, 64, 8, 22016, 32000),
    Geometry("Llama-3-8B", 32, 4096, 32, 8, 14336, 128256),
    Geometry("Llama-3.1-8B", 32, 4096, 32, 8, 14336, 128256),
    Geometry("Llama-3.1-70B", 80, 8192, 64, 8, 28672, 128256),
    Geometry("Llama-3.1-405B", 126, 16384, 128, 8, 53248, 128256),
    Geometry("Mistral-7B", 32, 4096, 32, 8, 14336, 32000),
    Geometry("Qwen3-8B", 36, 4096, 32, 8, 12288, 151936),
    Geometry("Qwen3-14B", 40, 5120, 40, 8, 17408, 151936),
    Geometry("Qwen3-32B", 64, 5120, 64, 8, 25600, 151936),
    Geometry("DeepSeek-R1-Distill-Qwen-32B", 64, 5120, 40, 8, 27648, 152064),
    Geometry("Mixtral-8x7B", 32, 4096, 32, 8, 14336, 32000, experts=8, active=2),
    Geometry("Mixtral-8x22B", 56, 6144, 48, 8, 16384, 32000, experts=8, active=2),
    Geometry("Qwen3-30B-A3B", 48, 2048, 32, 4, 768, 151936, experts=128, active=8),
    Geometry("Qwen3-235B-A22B", 94, 4096, 64, 4, 1536, 151936, experts=128, active=8),
)


def _plain(name: str) -> str:
    word = name.lower().rsplit("/", maxsplit=1)[-1].removeprefix("meta-")
    for suffix in ("-hf", "-instruct", "-v0.1", "-instruct"):
        word = word.removesuffix(suffix)
    return word


def geometry(name: str) -> Geometry:
    """Look up the shape of a model by its published name.

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
            "(an own model: pass a llmq.calibrate._geometry.Geometry)",
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
