r"""Kernel tables of the PyPI package aiconfigurator-core (extra ``profiles``).

It holds one folder for each GPU type and in it ``family/framework/version/op_perf.parquet``
with times in milliseconds of one kernel call. Here the tables measured inside vLLM are read: matrix
products of the newest version that has them, and the other kernels of the same version, or of the
newest where it has none. 16-bit weights, activations and KV only.

:func:`engine_from_package` makes an engine of them: whole iterations are composed, and the law is a
roofline where it is within 3 % on unseen steps (closed forms read off), otherwise what
:func:`~llmq.calibrate.fit.calibrate` finds best, with the reason. The KV capacity is what nominal
GPU memory leaves beside the weights.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from llmq._input.yaml_text import read_yaml
from llmq.calibrate._compose import DEFAULT_SEED, compose
from llmq.calibrate._geometry import Geometry, geometry, kv_capacity
from llmq.calibrate.catalogue._kernel_tables import MISSING, KernelTable, kernels_of
from llmq.calibrate.catalogue._parquet import read_parquet
from llmq.calibrate.catalogue._plausible import check_bound
from llmq.calibrate.catalogue.gpus import Gpu, find_gpu, server_defaults
from llmq.calibrate.fit import Fit, calibrate
from llmq.calibrate.profile import Profile
from llmq.errors import InputError, MissingDependencyError, nearest
from llmq.model.engine import Engine
from llmq.rng import RngLike

__all__ = [
    "GOOD",
    "engine_from_package",
    "fit_for_catalogue",
    "kv_tokens_of",
    "package_folder",
    "package_profile",
    "systems",
]

PACKAGE = "aiconfigurator_core"
GOOD = 0.03  # what a closed form must reach on unseen steps
# vLLM V1's defaults (max_num_batched_tokens, max_num_seqs, gpu_memory_utilization).
UTILISATION = 0.9
_FAMILY = {
    "gemm": "gemm",
    "context_attention": "attention",
    "generation_attention": "attention",
    "custom_allreduce": "comm",
    "moe": "moe",
}


def package_folder() -> Path:
    """Find the data of the installed package, without importing it."""
    found = importlib.util.find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise MissingDependencyError(
            "kernel tables need the package aiconfigurator-core: "
            "pip install 'llmq-toolkit[profiles]'"
        )
    return Path(next(iter(found.submodule_search_locations))) / "systems" / "data"


def systems(folder: Path | None = None) -> tuple[str, ...]:
    """List the GPU types that were measured inside vLLM."""
    place = package_folder() if folder is None else folder
    return tuple(sorted({p.parents[3].name for p in place.glob("*/gemm/vllm/*/gemm_perf.parquet")}))


def package_profile(
    model: str | Geometry,
    gpu: str,
    tp: int = 1,
    *,
    folder: Path | None = None,
    all_reduce: str = "graph",
    steps: int = 6000,
    rng: RngLike = DEFAULT_SEED,
) -> Profile:
    """Compose whole iterations of a model from the package's tables."""
    shape = geometry(model) if isinstance(model, str) else model
    place, kind = _system(gpu, folder)
    _check_node(place, tp)
    table, versions = _tables(place)
    kernels = kernels_of(table, shape, tp, all_reduce)
    notes = [f"kernels inside vLLM {versions['gemm']}"]
    if tp > 1 and versions["custom_allreduce"] != versions["gemm"]:
        notes.append(f"all-reduce inside vLLM {versions['custom_allreduce']}")
    if shape.experts:
        notes.append("experts with the uneven routing power_law_1.01, weights cut over all GPUs")
    profile = compose(
        kernels,
        steps=steps,
        rng=rng,
        cached=False,
        format="aiconfigurator",
        tp=tp,
        units=f"milliseconds of one kernel call, {shape.layers} layers",
        missing=MISSING,
        gpu=kind.title if kind else place.name,
        model=shape.name,
        notes=tuple(notes),
        source=f"{place.name} of {_release(place)}",
    )
    if kind is not None:
        check_bound(profile, shape, kind, place)
    return profile


def fit_for_catalogue(profile: Profile) -> Fit:
    """Fit a roofline where it is good, and the best form where it is not."""
    fit = calibrate(profile, enough=GOOD)
    roofs = [trial.out_of_sample.mape for trial in fit.tried if trial.form == "roofline"]
    if fit.form == "roofline" or not roofs or min(roofs) <= GOOD:
        return fit
    reason = f"{fit.reason}; the best roofline has {100 * min(roofs):.1f} %"
    if fit.out_of_sample.mape > GOOD:
        reason += f"; above {100 * GOOD:g} %: {_worst(fit, profile)}"
    return replace(fit, reason=reason)


def _worst(fit: Fit, profile: Profile) -> str:
    """Say in which iterations a law errs most."""
    error = np.abs(fit.residuals) / profile.seconds
    alone = profile.prefill == profile.tokens
    kinds = {
        "decodes alone": ~profile.mixed,
        "prefills alone": alone,
        "prefills with decodes": profile.mixed & ~alone,
    }
    means = {name: float(error[rows].mean()) for name, rows in kinds.items() if rows.any()}
    worst = max(means, key=means.__getitem__)
    few = kinds[worst] & (profile.tokens <= np.median(profile.tokens[kinds[worst]]))
    side = "few" if error[few].mean() > means[worst] else "many"
    return f"the mean error is {100 * means[worst]:.1f} % in {worst}, most with {side} tokens"


def kv_tokens_of(shape: Geometry, kind: Gpu, tp: int) -> int:
    """Return the KV capacity of an engine with nominal memory."""
    copies = shape.kv_heads_of(tp) * tp / shape.kv_heads
    return kv_capacity(
        gpu_bytes=kind.memory,
        weight_bytes=shape.weight_bytes,
        kv_bytes=shape.kv_bytes * copies,
        gpus=tp,
        utilisation=UTILISATION,
    )


def engine_from_package(name: str, tp: int | None = None, *, folder: Path | None = None) -> Engine:
    """Make an engine of a model and a GPU type from the package's tables."""
    model, slash, system = name.partition("/")
    if not slash or not model or not system:
        raise InputError(f"{name!r}: name model and GPU, e.g. 'llama-3.1-8b/h200'", value=name)
    shape = geometry(model)
    place, kind = _system(system, folder)
    if kind is None:
        raise InputError(f"the memory of {place.name} is not known: calibrate a profile instead")
    degree = _smallest(shape, kind) if tp is None else tp
    kv_tokens = kv_tokens_of(shape, kind, degree)
    profile = package_profile(shape, system, degree, folder=folder)
    fit = fit_for_catalogue(profile)
    budget, seqs = server_defaults(kind)
    error = f"MAPE {100 * fit.out_of_sample.mape:.1f} % out of sample"
    return Engine(
        fit.law,
        token_budget=budget,
        max_seqs=seqs,
        kv_tokens=kv_tokens,
        gpus=degree,
        name=f"{shape.name.lower()}/{kind.name}",
        source=f"{fit.form} fitted to whole iterations composed from {profile.source}; {error}",
        assumptions=(
            *fit.assumptions,
            f"form: {fit.reason}",
            f"KV capacity from nominal GPU memory, utilisation {UTILISATION} and 16-bit weights "
            "and KV",
        ),
    )


def _smallest(shape: Geometry, kind: Gpu) -> int:
    for tp in (1, 2, 4):
        try:
            kv_tokens_of(shape, kind, tp)
        except InputError:
            continue
        return tp
    return 8


def _system(name: str, folder: Path | None) -> tuple[Path, Gpu | None]:
    data = package_folder() if folder is None else folder
    kind = find_gpu(name)
    place = data / (kind.system if kind and kind.system else name)
    known = systems(data)
    if place.name not in known:
        words = [one.name for w in known if (one := find_gpu(w))]
        raise InputError(
            f"no vLLM tables of the GPU {name!r}{nearest(name, [*known, *words])}; "
            f"measured: {', '.join(known)}",
            value=name,
        )
    return place, kind or find_gpu(place.name)


def _check_node(place: Path, tp: int) -> None:
    """Refuse engines that span nodes: their all-reduce is another one."""
    about = place.parents[1] / f"{place.name}.yaml"
    node = read_yaml(about).get("node", {}) if about.is_file() else {}
    most = node.get("num_gpus_per_node")
    if most and tp > int(most):
        raise InputError(
            f"{tp} GPUs span nodes of {most} ({about.name}): their all-reduce is set aside",
            value=tp,
        )


def _release(place: Path) -> str:
    info = sorted(place.parents[2].parent.glob(f"{PACKAGE}-*.dist-info"))
    version = info[-1].name.removeprefix(f"{PACKAGE}-").removesuffix(".dist-info") if info else ""
    return f"aiconfigurator-core {version}".strip()


def _tables(place: Path) -> tuple[Callable[[str], KernelTable], dict[str, str]]:
    """Reader of a GPU's tables, and the version of each kernel's."""
    found: dict[str, dict[str, Path]] = {}
    for op, family in _FAMILY.items():
        files = place.glob(f"{family}/vllm/*/{op}_perf.parquet")
        found[op] = {path.parent.name: path for path in files}
    newest = max(found["gemm"], key=_order)
    versions = {
        op: newest if newest in files else max(files, key=_order, default="")
        for op, files in found.items()
    }

    def table(op: str) -> KernelTable:
        if not versions[op]:
            raise InputError(f"{place.name}: the package has no vLLM table of {op}")
        return read_parquet(found[op][versions[op]])

    return table, versions


def _order(version: str) -> tuple[int, ...]:
    return tuple(int(word) for word in re.findall(r"\d+", version))
