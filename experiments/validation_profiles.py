"""Which profile of a folder serves a measured run, and the laws made from it.

Nothing here looks at a run's times: a source is found by GPU, model and degree of tensor
parallelism, and composed from kernel tables alone. In order of preference: LLMServingSim's tables
(mixed batches, contexts that differ), AIConfigurator's, Vidur's with attention, and the catalogue's
closed form. AIConfigurator measures neither norms nor activations; where the folder holds Vidur's
tables of the same GPU, those kernels are taken from the model of the nearest width, and the result
says so. What stays missing is counted as zero and named.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

import llmq
from llmq.calibrate._compose import Kernels, compose, token_time
from llmq.calibrate._geometry import Geometry, geometry, kv_capacity
from llmq.calibrate.catalogue._kernel_time import KernelTime
from llmq.calibrate.forms import fit_form
from llmq.calibrate.profile import Profile
from llmq.errors import InputError
from llmq.io.measured import Settings
from llmq.io.profiles import read_profile
from llmq.io.profiles._aiconfigurator import aiconfigurator_kernels
from llmq.io.profiles._llmservingsim import llmservingsim_kernels, read_meta
from llmq.io.profiles._table import read_columns
from llmq.units import MILLISECOND

Curve = Callable[[np.ndarray], np.ndarray]
FORMS = ("table", "roofline", "affine")
STEPS = 3000
# Names that sources use for models of a known shape.
SAME = {
    "llama-7b": "Llama-2-7B",
    "llama2-7b": "Llama-2-7B",
    "llama2-70b": "Llama-2-70B",
    "llama-3-70b": "Llama-3.1-70B",
}
OWN = {"llama-13b": Geometry("Llama-13B", 40, 5120, 40, 40, 13824, 32000)}
OWN["llama-2-13b"] = OWN["llama-13b"]
# Memory as the driver reports it, MiB.
MEMORY = {
    "a100": 81_920,
    "h100": 81_559,
    "h200": 143_771,
    "b200": 183_359,
    "rtxpro6000": 97_887,
    "l40s": 46_068,
    "a40": 46_068,
    "a10": 23_028,
    "l4": 23_034,
    "rtx4090": 24_564,
    "rtx3090": 24_576,
    "rtx5090": 32_607,
    "rtx6000ada": 49_140,
    "v100": 32_768,
    "t4": 15_360,
}
WIDE = (
    "",
    "auto",
    "bfloat16",
    "bf16",
    "float16",
    "fp16",
    "half",
    "torch.bfloat16",
    "torch.float16",
)
# What vLLM keeps beside weights and KV on each GPU: a Llama-2-7B on one H100 has 7463 blocks of 16
# tokens (published with the BLIS runs), 0.9 GB less than the rest of 0.9 x 81,559 MiB.
MIB, RESERVE = 2**20, 0.9e9
_NORMS = ("input_layernorm", "post_attention_layernorm", "attn_rope", "mlp_act", "add")


@dataclass(frozen=True, slots=True)
class Source:
    """What is known of the iterations of one model on one GPU type.

    Parameters
    ----------
    label : str
        Where it comes from.
    laws : dict of str to BatchTime
        Closed forms, by name.
    timer : KernelTime, optional
        Kernel tables themselves.
    kv_tokens : int, optional
        KV capacity; None where the GPU's memory is not known.
    notes : tuple of str
        What it rests on.
    """

    label: str
    laws: dict[str, llmq.BatchTime]
    timer: KernelTime | None
    kv_tokens: int | None
    notes: tuple[str, ...]

    def slower(self, seconds: float) -> Source:
        """Return the source with a time added to every iteration."""
        timer = None if self.timer is None else replace(self.timer, overhead=seconds)
        return replace(self, timer=timer)


def plain(gpu: str) -> str:
    """Shorten a GPU's name: ``NVIDIA H100 SXM 80 GB``, ``h100_sxm`` and ``h100-80gb`` are one."""
    word = re.sub(r"[^a-z0-9]", "", gpu.lower())
    for extra in (
        "nvidia",
        "geforce",
        "blackwell",
        "serveredition",
        "server",
        "hbm3",
        "sxm4",
        "sxm5",
        "sxm",
        "pcie",
        "dgx",
    ):
        word = word.replace(extra, "")
    return re.sub(r"(16|24|32|40|48|80|96|141|180|288)gb$", "", word)


def shape_of(model: str) -> Geometry:
    """Look up the shape of a model by any name a source gives it.

    Raises
    ------
    InputError
        Not known.
    """
    word = model.lower().rsplit("/", maxsplit=1)[-1].removesuffix("-hf").removesuffix("-instruct")
    return OWN[word] if word in OWN else geometry(SAME.get(word, model))


class Profiles:
    """The profiles of a folder; sources are made when they are asked for, once."""

    def __init__(self, root: Path) -> None:
        self.root = root / "profiles"
        self.made: dict[tuple[str, str, int, str], Source | str] = {}

    def find(self, settings: Settings) -> Source | str:
        """Return the source for a run, or the reason why there is none."""
        wide = settings.precision.lower() in WIDE
        narrow = "" if wide else settings.precision
        key = (plain(settings.gpu), settings.model.lower(), settings.tp, narrow)
        if key not in self.made:
            self.made[key] = (
                self._make(settings)
                if wide
                else (f"{settings.precision} kernels; the profiles are of 16-bit ones")
            )
        made = self.made[key]
        if isinstance(made, str):
            return made
        # Runs of one engine may differ in their KV capacity.
        return replace(made, kv_tokens=_capacity(settings, shape_of(settings.model)))

    def _make(self, settings: Settings) -> Source | str:
        try:
            shape = shape_of(settings.model)
        except InputError as error:
            return f"the shape of {settings.model} is not known ({error})".split(";")[0]
        failed = []
        for look in (self._llmservingsim, self._aiconfigurator, self._vidur, self._catalogue):
            try:
                found = look(settings, shape)
            except InputError as error:
                failed.append(str(error))
                continue
            if found is not None:
                return found
        where = f"no profile of {shape.name} on {settings.gpu} with TP{settings.tp}"
        return "; ".join([where, *failed])

    # ------------------------------------------------------------------------------ the formats

    def _llmservingsim(self, settings: Settings, shape: Geometry) -> Source | None:
        for dense in sorted(self.root.glob("**/dense.csv*")):
            folder = dense.parent
            meta = read_meta(folder)
            degree = re.fullmatch(r"tp(\d+)", folder.name)
            place = folder.parent if degree else folder
            model = meta.get("model", place.name)
            names = {
                plain(meta.get("hardware", "")),
                plain(meta.get("gpu", "")),
                plain(place.parent.name),
            }
            same = plain(settings.gpu) in names and _same_model(model, shape)
            if same and (int(degree[1]) if degree else 1) == settings.tp:
                kernels, last = llmservingsim_kernels(folder, layers=shape.layers)
                lacks: tuple[str, ...] = ()
                if settings.tp > 1:
                    reduce, note = self._all_reduce(settings, shape)
                    kernels = replace(kernels, dense=_sum(kernels.dense, reduce))
                    lacks = (note,)
                skew = "" if kernels.spread is None else ", contexts that differ"
                return _source(f"LLMServingSim tables{skew}", kernels, lacks, chunk=last)
        return None

    def _all_reduce(self, settings: Settings, shape: Geometry) -> tuple[Curve, str]:
        """Return two all-reduces a layer, from any table of this GPU; refuses without one."""
        kinds = {"num_gpus": "count", "message_size": "count", "latency": "time"}
        for name, word, column in (
            ("custom_allreduce.csv", "vllm_graph", "backend"),
            ("nccl.csv", "all_reduce", "op_name"),
        ):
            for path in sorted(self.root.glob(f"**/{name}")):
                if plain(path.parent.name) != plain(settings.gpu):
                    continue
                table = read_columns(path, kinds | {column: "text"}, "Is this an all-reduce table?")
                rows = (table["num_gpus"] == settings.tp) & (table[column] == word)
                sizes, first = np.unique(table["message_size"][rows], return_index=True)
                if not sizes.size:
                    continue
                time = 2 * shape.layers * MILLISECOND * table["latency"][rows][first]
                width = shape.hidden  # sizes are numbers of values: docs/decisions/0020
                return (lambda n: np.interp(width * n, sizes, time)), f"all-reduce from {name}"  # noqa: B023
        # Counted as zero it would make two GPUs without a fast link a quarter too fast.
        raise InputError(
            f"{settings.tp} GPUs reduce twice in each layer, and no table of {settings.gpu} holds "
            "the time of it",
            value=settings.tp,
        )

    def _aiconfigurator(self, settings: Settings, shape: Geometry) -> Source | None:
        for gemm in sorted(self.root.glob("**/gemm*.csv*")):
            if plain(gemm.parent.name) != plain(settings.gpu):
                continue
            notes = []
            try:
                kernels = aiconfigurator_kernels(
                    gemm.parent, shape=shape, tp=settings.tp, all_reduce="graph"
                )
            except InputError:
                kernels, note = _heads_apart(gemm.parent, shape, settings.tp)
                notes.append(note)
            small, note = self._norms(settings, shape)
            if small is not None:
                kernels = replace(kernels, dense=_sum(kernels.dense, small))
            label = "AIConfigurator tables"
            return _source(label, kernels, (*notes, note), cached=False)
        return None

    def _norms(self, settings: Settings, shape: Geometry) -> tuple[Curve | None, str]:
        """Return norms, rotary embedding, activation and residual as Vidur measured them."""
        best: tuple[float, Path] | None = None
        columns = {f"time_stats.{op}.median": "time" for op in _NORMS}
        counts = ("num_tokens", "num_tensor_parallel_workers", "n_embd")
        kinds = columns | dict.fromkeys(counts, "count")
        tables = {}
        for path in sorted(self.root.glob("**/mlp.csv")):
            if plain(path.parent.parent.name) == plain(settings.gpu):
                tables[path] = read_columns(path, kinds, "Is this Vidur's mlp.csv?")
                width = int(tables[path]["n_embd"][0])
                gap = abs(math.log(width / shape.hidden))
                best = min(best or (math.inf, path), (gap, path))
        if best is None:
            return None, "norms and activations not in the profile: counted as 0"
        table = tables[best[1]]
        degrees = np.unique(table["num_tensor_parallel_workers"])
        degree = degrees[np.argmin(np.abs(np.log(degrees / settings.tp)))]
        rows = np.flatnonzero(table["num_tensor_parallel_workers"] == degree)
        rows = rows[np.argsort(table["num_tokens"][rows], kind="stable")]
        tokens, first = np.unique(table["num_tokens"][rows], return_index=True)
        parts = np.array([table[name][rows][first] for name in columns], dtype=float)
        time = parts.sum(axis=0) * MILLISECOND * shape.layers
        slope = (time[-1] - time[0]) / (tokens[-1] - tokens[0])

        def small(n: np.ndarray) -> np.ndarray:
            beyond = np.maximum(0, np.asarray(n) - tokens[-1])
            inside = token_time(np.minimum(n, tokens[-1]), tokens, time)
            return np.asarray(inside + slope * beyond)

        width = int(table["n_embd"][0])
        return small, f"norms and activations from Vidur's {best[1].parent.name} (width {width})"

    def _vidur(self, settings: Settings, shape: Geometry) -> Source | None:
        for path in sorted(self.root.glob("**/mlp.csv")):
            if plain(path.parent.parent.name) != plain(settings.gpu):
                continue
            if not _same_model(path.parent.name, shape):
                continue
            extra = _attention_of(self.root, settings, shape)
            if extra is None:
                raise InputError(f"Vidur's {path.parent.name} has no attention of this shape")
            network = sorted(self.root.glob(f"**/{plain(settings.gpu)}*/all_reduce.csv"))
            profile = read_profile(
                path,
                model=shape,
                tp=settings.tp,
                steps=STEPS,
                attention=extra,
                network=network[0] if network and settings.tp > 1 else None,
            )
            return Source(
                "Vidur tables",
                _laws(profile),
                None,
                None,
                tuple(f"{part}: counted as 0" for part in profile.missing),
            )
        return None

    def _catalogue(self, settings: Settings, shape: Geometry) -> Source | None:
        for entry in llmq.engines():
            same = plain(entry.gpu) == plain(settings.gpu) and _same_model(entry.model, shape)
            if same and entry.tp == settings.tp:
                engine = llmq.load_engine(entry.name, settings.tp)
                return Source(
                    f"catalogue {entry.name}",
                    {engine.law.form: engine.law},
                    None,
                    None,
                    engine.assumptions,
                )
        return None


def _sum(one: Curve, other: Curve) -> Curve:
    return lambda n: one(n) + other(n)


def _heads_apart(folder: Path, shape: Geometry, tp: int) -> tuple[Kernels, str]:
    """Return the kernels of a model with more KV heads than were measured.

    Attention works head by head: a batch of ``b`` with ``s k`` KV heads is a batch of ``s b`` with
    ``k`` of them.
    """
    from llmq.calibrate.catalogue._kernel_tables import KernelTable, kernels_of
    from llmq.io.profiles._aiconfigurator import _table

    heads, kv_heads = shape.heads // tp, shape.kv_heads // tp
    used = []

    def table(op: str) -> KernelTable:
        whole = _table(folder, op)
        part = whole.columns
        if "attention" not in op:
            return whole
        for s in range(2, kv_heads + 1):
            rows = (part["num_heads"] * s == heads) & (part["num_key_value_heads"] * s == kv_heads)
            rows &= part["batch_size"] % s == 0
            if rows.any():
                used.append(s)
                some = dict(whole.where(rows).columns)
                some["batch_size"] = some["batch_size"] // s
                some["num_heads"] = some["num_heads"] * s
                some["num_key_value_heads"] = some["num_key_value_heads"] * s
                return KernelTable(whole.path, some)
        raise InputError(f"no attention with {heads} query and {kv_heads} key-value heads")

    kernels = kernels_of(table, shape, tp, "graph")
    return kernels, f"attention of {kv_heads} KV heads as a batch {used[0]} times larger"


def _source(
    label: str, kernels: Kernels, notes: tuple[str, ...], *, chunk: int = 4096, cached: bool = True
) -> Source:
    profile = compose(kernels, steps=STEPS, max_chunk=chunk, cached=cached)
    return Source(label, _laws(profile), KernelTime(kernels), None, notes)


def _laws(profile: Profile) -> dict[str, llmq.BatchTime]:
    return {form: fit_form(form, profile) for form in FORMS}


def _same_model(name: str, shape: Geometry) -> bool:
    try:
        return shape_of(name) == shape
    except InputError:
        return False


def _attention_of(root: Path, settings: Settings, shape: Geometry) -> Path | None:
    """Find a Vidur attention table of the GPU with the width and the degree of the model."""
    for path in sorted(root.glob("**/attention.csv")):
        if plain(settings.gpu) not in {plain(part) for part in path.parts}:
            continue
        kinds = dict.fromkeys(("n_embd", "num_tensor_parallel_workers"), "count")
        table = read_columns(path, kinds, "Is this Vidur's attention.csv?")
        mine = table["num_tensor_parallel_workers"] == settings.tp
        if np.any(mine & (table["n_embd"] == shape.hidden)):
            return path
    return None


def _capacity(settings: Settings, shape: Geometry) -> int | None:
    if settings.kv_tokens is not None:
        return settings.kv_tokens
    memory = MEMORY.get(plain(settings.gpu))
    if memory is None:
        return None
    return kv_capacity(
        gpu_bytes=memory * MIB - RESERVE / settings.utilisation,
        weight_bytes=shape.weight_bytes,
        kv_bytes=shape.kv_bytes,
        gpus=settings.tp,
        utilisation=settings.utilisation,
        block=settings.kv_block,
    )
