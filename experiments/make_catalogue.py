"""The engine catalogue, made from the kernel tables of aiconfigurator-core (extra ``profiles``).

    python -m experiments.make_catalogue [FOLDER] [--only NAME]

One file for each model and GPU type, with every tensor-parallel degree whose weights fit and whose
kernels were measured inside vLLM; a comment says why the others are absent. The law is a roofline
where it is within 3 % on unseen steps, otherwise the best form. Laws of one GPU that were published
before (``PUBLISHED``) keep their coefficients, and the degree that was published first (``USUAL``)
stays the default of its file. Equal packages give equal files.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from llmq.calibrate._geometry import Geometry, geometry
from llmq.calibrate.catalogue import _package as package
from llmq.calibrate.catalogue._package import UTILISATION
from llmq.calibrate.catalogue.gpus import SERVER, Gpu, gpu, server_defaults
from llmq.calibrate.fit import Fit
from llmq.errors import InputError
from llmq.model.time.batchtime import BatchTime
from llmq.units import format_count

FOLDER = Path(__file__).parents[1] / "llmq" / "calibrate" / "catalogue"
DATE = "2026-11-22"
MODELS = (
    "Llama-3.1-8B",
    "Llama-3.1-70B",
    "Llama-3.1-405B",
    "Mistral-7B",
    "Qwen3-8B",
    "Qwen3-14B",
    "Qwen3-32B",
    "Mixtral-8x7B",
    "Qwen3-30B-A3B",
    "Qwen3-235B-A22B",
)
SYSTEMS = ("a100", "h100", "h200", "b200", "gb200", "l40s")
DEGREES = (1, 2, 4, 8)
KEYS = ("floor", "floor_per_token", "base", "per_token", "per_kv", "per_kv_mixed", "per_work")
# Rooflines published with the first catalogue: coefficients, then MAPE in and out of sample.
PUBLISHED = {
    ("Llama-3.1-8B", "a100", 1): (
        0.011,
        1.02e-5,
        0.00858,
        4.73e-5,
        8.51e-8,
        8.11e-8,
        5.29e-9,
        0.024,
        0.024,
    ),
    ("Llama-3.1-8B", "h100", 1): (
        0.00603,
        9.51e-6,
        0.00113,
        1.82e-5,
        4.12e-8,
        4.36e-8,
        7.31e-10,
        0.024,
        0.024,
    ),
}
USUAL = {"Llama-3.1-8B": 1, "Qwen3-32B": 2, "Llama-3.1-70B": 4}  # degree, on the first two GPUs
VERSION = {"a100": "0.14.0", "h100": "0.24.0"}
ASSUMPTIONS = (
    "GPU kernel times, summed: no overlap, launch gaps or CPU time (an engine adds roughly 0.3-1 ms"
    " per iteration on small models)",
    "norm and activation kernels are not in the profile; on several GPUs two all-reduces in each"
    " layer are",
    f"KV capacity from nominal GPU memory, utilisation {UTILISATION} and 16-bit weights and KV",
)


def number(value: float) -> str:
    """Write five significant digits, far below any error of fit."""
    return repr(float(f"{value:.5g}"))


def text(value: str) -> str:
    """Write a TOML string."""
    return json.dumps(value, ensure_ascii=False)


def law_lines(law: BatchTime) -> list[str]:
    """Return the keys of a law."""
    names = [*KEYS, "per_tile"]
    lines = [f'form = "{law.form}"']
    if law.form == "table":
        lines += [f"tokens = {list(law.tokens)}"]
        lines += [f"seconds = [{', '.join(number(t) for t in law.seconds)}]"]
        names = ["per_kv", "per_kv_mixed", "per_work"]
    elif law.form != "roofline":
        names = [name for name in names if name not in ("floor", "floor_per_token")]
    if law.form != "tiled":
        names = [name for name in names if name != "per_tile"]
    lines += [f"{name} = {number(getattr(law, name))}" for name in names]
    return [*lines, f"tile = {law.tile}"] if law.tile > 1 else lines


def published(key: tuple[str, str, int]) -> list[str]:
    """Return the lines of a degree that was published."""
    *values, inside, outside = PUBLISHED[key]
    tp = key[2]
    return [
        f"[tp.{tp}]",
        "",
        f"[tp.{tp}.fit]",
        f"in_sample = {inside}",
        f"out_of_sample = {outside}",
        "",
        f"[tp.{tp}.law]",
        'form = "roofline"',
        *(f"{name} = {value!r}" for name, value in zip(KEYS, values, strict=True)),
        "",
    ]


def fitted(shape: Geometry, kind: Gpu, tp: int, source: str) -> list[str]:
    """Fit a degree; ``source`` is the one of the file."""
    kv_tokens = package.kv_tokens_of(shape, kind, tp)
    profile = package.package_profile(shape, kind.name, tp)
    fit: Fit = package.fit_for_catalogue(profile)
    counts = format_count(profile.tokens.max()), format_count(profile.kv.max())
    notes = [
        f"fitted up to {counts[0]} tokens and {counts[1]} KV tokens; beyond, the law extrapolates",
        f"form: {fit.reason}",
        *profile.notes,
    ]
    if tp > 1 and kind.name == "l40s":
        notes.append("GPUs joined by PCIe: the measured all-reduce takes most of a large batch")
    own = origin(profile.source)
    copies = tp > shape.kv_heads
    return [
        f"[tp.{tp}]",
        *([] if own == source else [f"source = {text(own)}"]),
        *([f"kv_tokens = {kv_tokens}  # with copies of the KV heads"] if copies else []),
        f"assumptions = [{', '.join(map(text, notes))}]",
        "",
        f"[tp.{tp}.fit]",
        f"in_sample = {fit.in_sample.mape:.4f}",
        f"out_of_sample = {fit.out_of_sample.mape:.4f}",
        "",
        f"[tp.{tp}.law]",
        *law_lines(fit.law),
        "",
    ]


def origin(tables: str) -> str:
    """Say where a fitted law comes from."""
    return f"fitted to whole iterations composed from {tables}, {DATE}"


def entry(shape: Geometry, kind: Gpu) -> tuple[list[str], list[str]]:
    """Return the lines of a file, none without any degree, and why degrees are absent."""
    old = [tp for tp in DEGREES if (shape.name, kind.name, tp) in PUBLISHED]
    source = (
        "roofline fitted to whole iterations composed from AIConfigurator kernel tables "
        f"(vLLM {VERSION[kind.name]}), 2026"
        if old
        else None
    )
    usual = USUAL.get(shape.name)
    parts: list[str] = []
    absent = []
    for tp in DEGREES:
        if tp in old:
            parts += published((shape.name, kind.name, tp))
            continue
        try:
            package.kv_tokens_of(shape, kind, tp)  # no room is the better reason
            if source is None:
                source = origin(package.package_profile(shape, kind.name, tp, steps=200).source)
            parts += fitted(shape, kind, tp, source)
        except InputError as error:
            absent.append(f"tp {tp}: {str(error).rsplit('/', 1)[-1]}")
    if not parts:
        return [], absent
    budget, seqs = server_defaults(kind)
    top = [
        "# Made by experiments/make_catalogue.py. Times in seconds, sizes in tokens or bytes.",
        *(f"# Absent {line}" for line in absent),
        f'name = "{shape.name.lower()}/{kind.name}"',
        f'gpu = "{kind.title}"',
        f'model = "{shape.name}"',
        f"# Defaults of the server on this GPU: {SERVER}.",
        f"token_budget = {budget}  # max_num_batched_tokens",
        f"max_seqs = {seqs}  # max_num_seqs",
        "kv_block = 16        # vLLM default",
        f"source = {text(source or '')}",
        f"assumptions = [{', '.join(map(text, ASSUMPTIONS))}]",
        *([f"default_tp = {usual}"] if usual and kind.name in VERSION else []),
        "",
        "[memory]",
        f"gpu_bytes = {int(kind.memory)}",
        f"utilisation = {UTILISATION}  # vLLM gpu_memory_utilization",
        f"weight_bytes = {shape.weight_bytes}  # matrices of the model, 2 bytes a parameter",
        f"kv_bytes = {shape.kv_bytes}  # 2 x 2 bytes x {shape.layers} layers x {shape.kv_heads} "
        f"KV heads x {shape.head_dim}",
        "",
    ]
    return [*top, *parts], absent


def main() -> None:
    """Write the files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=FOLDER)
    parser.add_argument("--only", default="", help="names that contain this")
    args = parser.parse_args()
    for model in MODELS:
        for system in SYSTEMS:
            shape, kind = geometry(model), gpu(system)
            name = f"{model.lower()}_{system}"
            if args.only not in name:
                continue
            lines, absent = entry(shape, kind)
            if lines:
                (args.folder / f"{name}.toml").write_text("\n".join(lines).rstrip() + "\n")
            print(name, "written" if lines else "not written", *absent, sep="; ", flush=True)


if __name__ == "__main__":
    main()
