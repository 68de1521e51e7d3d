"""Profiles that must not be fitted: mixed units, contradictions, one-sided grids, other nodes."""

from __future__ import annotations

import gzip
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from llmq.calibrate._geometry import Geometry
from llmq.errors import FormatError, InputError
from llmq.io.profiles import read_profile

TINY = Geometry("Tiny", layers=3, hidden=256, heads=4, kv_heads=2, ffn=1024, vocabulary=512)
OPS = (
    "input_layernorm",
    "attn_pre_proj",
    "attn_rope",
    "attn_post_proj",
    "post_attention_layernorm",
    "mlp_up_proj",
    "mlp_act",
    "mlp_down_proj",
    "add",
    "emb",
)
TOKENS = (1, 30, 100, 1000, 4500)
CACHED = (0, 16, 8192)
Rows = list[list[object]]
Change = Callable[[Rows], object]


def save(path: Path, names: Sequence[str], rows: Rows) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "\n".join(",".join(map(str, row)) for row in [list(names), *rows]) + "\n"
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode(), mtime=0))
    else:
        path.write_text(text)
    return path


def nothing(rows: Rows) -> None:
    """Leave a table as it is."""


def vidur(folder: Path, table: str = "", change: Change = nothing) -> dict[str, object]:
    made: dict[str, tuple[list[str], Rows]] = {}
    names = [f"time_stats.{op}.median" for op in OPS]
    names += ["n_head", "n_kv_head", "n_embd", "n_expanded_embd"]
    names += ["num_tokens", "num_tensor_parallel_workers"]
    rows: Rows = [[0.01 + 1e-3 * n] * len(OPS) + [4, 2, 256, 1024, n, 2] for n in TOKENS]
    made["mlp.csv"] = names, rows
    names = [f"time_stats.attn_{s}.median" for s in ("input_reshape", "output_reshape")]
    names += [f"time_stats.attn_{s}.median" for s in ("decode", "prefill")]
    names += ["n_embd", "num_tensor_parallel_workers"]
    names += ["batch_size", "prefill_chunk_size", "kv_cache_size"]
    rows = [[0.001, 0.002, 0.01, "", 256, 2, b, 0, kv] for b in (1, 256) for kv in (32, 9000)]
    rows += [[0.001, 0.002, "", 0.02, 256, 2, 1, c, kv] for c in (1, 4096) for kv in (0, 9000)]
    made["attention.csv"] = names, rows
    names = ["time_stats.all_reduce.median", "num_workers", "devices_per_node", "size"]
    made["all_reduce.csv"] = (
        names,
        [[1e-3, 2, 2, 1], [0.1, 2, 2, 10_000_000], [9, 2, 1, 1], [9, 2, 1, 10_000_000]],
    )
    for name, (head, body) in made.items():
        if name == table:
            change(body)
        save(folder / name, head, body)
    return {"model": TINY, "tp": 2, "steps": 200}


def serving(folder: Path, table: str = "", change: Change = nothing) -> dict[str, object]:
    layer = (
        "layernorm",
        "qkv_proj",
        "rotary_emb",
        "o_proj",
        "gate_up_proj",
        "act_fn",
        "down_proj",
        "embedding",
        "final_layernorm",
    )
    made: dict[str, tuple[list[str], Rows]] = {}
    made["dense.csv"] = (
        ["layer", "tokens", "time_us"],
        [[op, n, 5 + 0.1 * n] for op in layer for n in TOKENS],
    )
    made["per_sequence.csv"] = (
        ["layer", "sequences", "time_us"],
        [[op, r, 50 + r] for op in ("lm_head", "sampler") for r in (1, 500)],
    )
    grid: Rows = [
        [c, kp, d, kd, 2 + 0.01 * c + 1e-4 * d * kd]
        for c, kp, d, kd in itertools.product((0, 16, 4096), CACHED, (0, 1, 256), CACHED)
        if (c or d) and (c or not kp) and bool(d) == bool(kd)
    ]
    names = ["prefill_chunk", "kv_prefill", "n_decode", "kv_decode", "time_us"]
    made["attention.csv"] = names, grid
    for name, (head, body) in made.items():
        if name == table:
            change(body)
        save(folder / "tp1" / name, head, body)
    return {"layers": 3, "steps": 200}


def kernels(folder: Path, table: str = "", change: Change = nothing) -> dict[str, object]:
    made: dict[str, tuple[list[str], Rows]] = {}
    made["gemm.csv"] = (
        ["gemm_dtype", "m", "n", "k", "latency"],
        [
            ["bfloat16", m, n, k, 1e-3 + 1e-9 * m * n]
            for n, k, m in itertools.product((128, 4096), (128, 4096), TOKENS)
        ],
    )
    names = ["batch_size", "isl", "step", "num_heads", "num_key_value_heads", "latency"]
    made["generation_attention.csv"] = (
        names,
        [[b, 1, s - 1, 2, 1, 0.01] for b in (1, 256) for s in (2, 9000)],
    )
    made["context_attention.csv"] = (
        names,
        [[b, s, 0, 2, 1, 0.02] for b in (1, 2) for s in (1, 5000)],
    )
    made["custom_allreduce.csv"] = (
        ["num_gpus", "message_size", "latency", "backend"],
        [[2, size, 1e-3 + 1e-8 * size, "vllm_graph"] for size in (128, 10_000_000)],
    )
    for name, (head, body) in made.items():
        if name == table:
            change(body)
        save(folder / name, head, body)
    return {"model": TINY, "tp": 2, "steps": 200}


def at(row: int, column: int, value: object) -> Change:
    def change(rows: Rows) -> None:
        rows[row][column] = value

    return change


def again(row: int, column: int, factor: float) -> Change:
    """Measure a grid point a second time, with another result."""

    def change(rows: Rows) -> None:
        copy = list(rows[row])
        copy[column] = factor * float(str(copy[column]))
        rows.append(copy)

    return change


def only(column: int, value: object) -> Change:
    def change(rows: Rows) -> None:
        rows[:] = [row for row in rows if row[column] == value]

    return change


MAKERS = {"vidur": vidur, "serving": serving, "kernels": kernels}
ONE_UNIT = r"a jump by a factor .* are two units mixed\?"
TWICE = r"the grid point .* is there 2 times \(first in line \d+\) and takes .* keep one"
ONE_SIDED = "one-sided grid: "


@pytest.mark.parametrize("maker", MAKERS)
def test_the_tables_are_good_as_they_are(maker: str, tmp_path: Path) -> None:
    assert len(read_profile(tmp_path, **MAKERS[maker](tmp_path))) > 100  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("maker", "table", "change", "line", "message"),
    [
        # A row in microseconds between rows in milliseconds, or the other way round.
        ("vidur", "mlp.csv", at(2, 1, 1e3 * 0.11), 4, ONE_UNIT),
        ("serving", "dense.csv", at(6, 2, 8e-3), 8, ONE_UNIT),
        ("serving", "per_sequence.csv", at(1, 2, 5e-3), 3, ONE_UNIT),
        ("kernels", "gemm.csv", at(3, 4, 1.5), 5, ONE_UNIT),
        ("kernels", "context_attention.csv", at(1, 5, 2e-5), 3, ONE_UNIT),
        ("kernels", "custom_allreduce.csv", at(1, 2, 1e-7), 3, ONE_UNIT),
        # One grid point, two results.
        ("vidur", "mlp.csv", again(1, 5, 30.0), 7, TWICE),
        ("vidur", "attention.csv", again(0, 2, 9.0), 10, TWICE),
        ("vidur", "all_reduce.csv", again(1, 0, 3.0), 6, TWICE),
        ("serving", "dense.csv", again(0, 2, 2.5), 47, TWICE),
        ("serving", "attention.csv", again(2, 4, 2.5), None, TWICE),
        ("kernels", "gemm.csv", again(7, 4, 0.4), 22, TWICE),
        ("kernels", "generation_attention.csv", again(3, 5, 2.1), 6, TWICE),
        # Nothing to interpolate along an axis.
        ("vidur", "attention.csv", only(6, 1), None, ONE_SIDED + "batch_size is 1"),
        ("serving", "attention.csv", only(2, 256), None, ONE_SIDED + "n_decode is 256"),
        ("serving", "per_sequence.csv", only(1, 1), None, ONE_SIDED + r"lm_head .* \[1\] seq"),
        ("kernels", "gemm.csv", only(1, 100), None, ONE_SIDED + r"products .* \[100\] tokens"),
        ("kernels", "generation_attention.csv", only(0, 1), None, ONE_SIDED + "batch_size is 1"),
        ("kernels", "context_attention.csv", only(1, 1), None, ONE_SIDED + r"isl \+ step is 1"),
        ("kernels", "gemm.csv", at(0, 4, 0), 2, "expected a finite time > 0, found 0"),
    ],
)
def test_tables_that_cannot_be_trusted_are_refused(
    maker: str, table: str, change: Change, line: int | None, message: str, tmp_path: Path
) -> None:
    options = MAKERS[maker](tmp_path, table, change)
    with pytest.raises(FormatError, match=message) as caught:
        read_profile(tmp_path, **options)  # type: ignore[arg-type]
    assert str(caught.value.path).endswith(table)
    if line is not None:
        assert caught.value.line == line


@pytest.mark.parametrize("factor", [0.6, 1.9])
def test_repeats_that_agree_are_averaged(factor: float, tmp_path: Path) -> None:
    plain = read_profile(tmp_path / "a", **kernels(tmp_path / "a"))  # type: ignore[arg-type]
    options = kernels(tmp_path / "b", "context_attention.csv", again(1, 5, factor))
    changed = read_profile(tmp_path / "b", **options)  # type: ignore[arg-type]
    filling = plain.mixed
    assert changed.seconds[~filling].tolist() == plain.seconds[~filling].tolist()
    # The longest prompt takes (1 + factor) / 2 of its time: linear below.
    share = (plain.prefill[filling] - 1) / 4999
    more = 3 * 0.02e-3 * ((1 + factor) / 2 - 1) * share
    assert changed.seconds[filling] - plain.seconds[filling] == pytest.approx(more, abs=1e-12)


def test_all_reduce_across_nodes_is_set_aside_and_said(tmp_path: Path) -> None:
    profile = read_profile(tmp_path, **vidur(tmp_path))  # type: ignore[arg-type]
    assert profile.notes == (
        "set aside: 2 rows of all_reduce.csv whose 2 workers span nodes (first in line 4)",
    )
    rest = vidur(tmp_path / "b", "all_reduce.csv", only(2, 1))
    with pytest.raises(InputError, match="no rows for 2 workers on one node"):
        read_profile(tmp_path / "b", **rest)  # type: ignore[arg-type]


STEPS = "tokens,seconds\n1,0.0058\n64,0.0062\n128,0.0071\n512,0.0120\n"


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (
            STEPS.replace("0.0062", "0.0031"),
            {},
            r"line 3, column seconds: 3\.1 ms for 64 tokens is "
            r"less than reading the weights of Llama-3\.1-8B takes \(4\.17 ms on 1 h100\)",
        ),
        (STEPS.replace(",0.", ",0.00000"), {}, r"line 2, column seconds: .* less than reading"),
        (STEPS.replace(",0.", ","), {}, r"line 2, column seconds: .* is 100 times what reading"),
        (STEPS.replace("0.0071", "7.1"), {}, r"line 4, column seconds: a jump by a factor "),
        (STEPS, {"model": "Llama-3.1-70B"}, r"less than reading the weights of Llama-3\.1-70B"),
        (STEPS, {"gpu": "a100"}, r"less than reading the weights .* on 1 a100"),
        (STEPS, {"model": "Lama-3.1-8B"}, r"not among the known shapes.*'llama-3\.1-8b'"),
    ],
)
def test_steps_that_no_gpu_can_take(
    text: str, options: dict[str, str], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "own.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_profile(path, **{"model": "Llama-3.1-8B", "gpu": "h100", **options})  # type: ignore[arg-type]


def test_steps_are_compared_with_the_bandwidth_where_it_is_known(tmp_path: Path) -> None:
    path = tmp_path / "own.csv"
    path.write_text(STEPS)
    assert read_profile(path, model="Llama-3.1-8B", gpu="h100").notes == ()
    assert read_profile(path, model="Llama-3.1-70B", gpu="h100", tp=8).tp == 8
    (note,) = read_profile(path, model="Llama-3.1-8B", gpu="homemade").notes
    assert note.startswith("times were not compared with the memory bandwidth")


def test_missing_parts_are_named_loosely(tmp_path: Path) -> None:
    options = vidur(tmp_path)
    bare = read_profile(tmp_path, **options)  # type: ignore[arg-type]
    full = read_profile(tmp_path, assume={"lm_head": 1e-3, "Engine overhead": 5e-4}, **options)  # type: ignore[arg-type]
    assert full.seconds == pytest.approx(bare.seconds + 1.5e-3, rel=1e-12)
    assert full.missing == ()
    assert full.assumed == {"LM head": 1e-3, "engine overhead": 5e-4}
