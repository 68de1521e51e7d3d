"""Profile readers: exact composition from small tables, and what a malformed file is told."""

from __future__ import annotations

import gzip
import itertools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest

from llmq.calibrate._geometry import Geometry
from llmq.calibrate.profile import Profile
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
)
# No point is a multiple of 64: times are linear everywhere, so composition must be exact.
TOKENS = (1, 30, 100, 1000, 4500)


def write(path: Path, names: Sequence[str], rows: Iterable[Sequence[object]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [",".join(names), *(",".join(str(cell) for cell in row) for row in rows)]
    text = "\n".join(lines) + "\n"
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode(), mtime=0))
    else:
        path.write_text(text, encoding="utf-8")
    return path


def parts(profile: Profile) -> tuple[np.ndarray, ...]:
    """Chunk, cached, decodes and context of composed steps, solved from their regressors."""
    chunk = profile.prefill
    decodes = profile.tokens - chunk
    cached = np.where(chunk > 0, profile.work / np.maximum(chunk, 1) - chunk / 2, 0)
    held = np.where(chunk > 0, cached + chunk, 0)
    return chunk, cached, decodes, (profile.kv - held) / np.maximum(decodes, 1)


# --- Vidur: milliseconds of one layer ------------------------------------------------------------


def vidur_mlp(path: Path, tokens: Sequence[object] = TOKENS, time: str = "") -> Path:
    stats = [f"time_stats.{op}.median" for op in (*OPS, "emb")]
    shape = ["n_head", "n_kv_head", "n_embd", "n_expanded_embd"]
    names = [*stats, *shape, "num_tokens", "num_tensor_parallel_workers"]

    def row(n: object, tp: int) -> list[object]:
        # Operation i takes (i + 1) (0.01 + 0.001 n / tp) ms; the embedding 0.5 ms.
        ms = [time or (i + 1) * (0.01 + 0.001 * int(str(n)) / tp) for i in range(len(OPS))]
        return [*ms, 0.5, 4, 2, 256, 1024, n, tp]

    return write(path, names, [row(n, tp) for tp in (1, 2) for n in tokens])


def vidur_layers(n: np.ndarray, tp: int) -> np.ndarray:
    return 3 * 45 * (0.01 + 0.001 * n / tp) * 1e-3 + 0.5e-3


def test_b14_an_all_reduce_is_never_counted_as_zero(tmp_path: Path) -> None:
    path = vidur_mlp(tmp_path / "a100" / "tiny-hf" / "mlp.csv")
    with pytest.raises(InputError, match="2 GPUs reduce twice in each layer, and no table"):
        read_profile(path.parent, model=TINY, tp=2)


def test_b18_a_misnamed_column_of_a_step_log_is_asked_about(tmp_path: Path) -> None:
    rows = [[n, 0.01 + 1e-5 * n, 8 * n] for n in (1, 8, 64, 128, 256)]
    file = write(tmp_path / "own.csv", ["tokens", "seconds", "kv_tokens"], rows)
    with pytest.raises(FormatError, match=r"column kv_tokens: .* did you mean 'kv'"):
        read_profile(file)
    file = write(tmp_path / "own.csv", ["tokens", "seconds", "host"], rows)
    assert len(read_profile(file)) == 5


def test_b8_a_step_log_in_milliseconds_is_asked_about(tmp_path: Path) -> None:
    rows = [[n, 10 + 1e-2 * n] for n in (1, 8, 64, 128, 256)]
    with pytest.raises(FormatError, match=r"iterations of 10 s to 12\.6 s: are the times in"):
        read_profile(write(tmp_path / "own.csv", ["tokens", "seconds"], rows))


def test_vidur_layers_alone(tmp_path: Path) -> None:
    path = vidur_mlp(tmp_path / "a100" / "tiny-hf" / "mlp.csv")
    profile = read_profile(path, layers=3)
    assert profile.tokens.tolist() == list(TOKENS)
    assert profile.seconds == pytest.approx(vidur_layers(profile.tokens, 1), rel=1e-12)
    assert not profile.kv.any()
    assert (profile.scope, profile.gpu, profile.model) == ("layers", "a100", "tiny-hf")
    assert profile.missing == ("attention", "LM head", "engine overhead")
    shared = read_profile(path.parent, model=TINY, tp=2, assume={"all-reduce": 0.5})
    assert shared.seconds == pytest.approx(0.5 + vidur_layers(shared.tokens, 2), rel=1e-12)
    assert shared.missing == ("attention", "LM head", "engine overhead")
    assert shared.model == "Tiny"


def vidur_attention(path: Path, width: int = 256) -> Path:
    stats = [f"time_stats.attn_{s}.median" for s in ("input_reshape", "output_reshape")]
    stats += [f"time_stats.attn_{s}.median" for s in ("decode", "prefill")]
    names = [*stats, "n_embd", "num_tensor_parallel_workers"]
    names += ["batch_size", "prefill_chunk_size", "kv_cache_size"]
    decode = [
        [0.001, 0.002, 0.01 + 1e-5 * b * kv, "", width, 2, b, 0, kv]
        for b, kv in itertools.product((1, 16, 256), (32, 9000))
    ]
    prefill = [
        [0.001, 0.002, "", 0.02 + 1e-6 * c * kv, width, 2, 1, c, kv]
        for c, kv in itertools.product((1, 4096), (0, 9000))
    ]
    return write(path, names, decode + prefill)


def vidur_network(path: Path) -> Path:
    names = ["time_stats.all_reduce.median", "num_workers", "devices_per_node", "size"]
    rows = [[1e-3 + 1e-8 * size, 2, 2, size] for size in (1, 10_000_000)]
    # Rows across nodes are slower and must not count.
    return write(path, names, rows + [[99, 2, 1, size] for size in (1, 10_000_000)])


def test_vidur_whole_iterations_are_exact_sums(tmp_path: Path) -> None:
    path = vidur_mlp(tmp_path / "mlp.csv")
    network = vidur_network(tmp_path / "elsewhere" / "all_reduce.csv")
    vidur_attention(tmp_path / "attention.csv")
    profile = read_profile(path, model=TINY, tp=2, network=network, steps=400)
    assert len(profile) == 400
    assert profile.missing == ("LM head", "engine overhead")
    chunk, cached, decodes, context = parts(profile)
    n = profile.tokens
    expected = vidur_layers(n, 2)
    expected += 3 * 2 * (1e-3 + 1e-8 * n * 256 * 2) * 1e-3
    decode = 0.01 + 1e-5 * decodes * context + 0.003
    prefill = 0.02 + 1e-6 * chunk * cached + 0.003
    expected += 3e-3 * (np.where(decodes > 0, decode, 0) + np.where(chunk > 0, prefill, 0))
    assert profile.seconds == pytest.approx(expected, rel=1e-9)
    assert cached.max() > 1000


# --- LLMServingSim: microseconds of one layer ----------------------------------------------------


def serving(folder: Path, model: str = "Mistral-7B") -> Path:
    layer = ("layernorm", "qkv_proj", "rotary_emb", "o_proj", "gate_up_proj", "act_fn", "down_proj")
    once = ("embedding", "final_layernorm")
    rows = [
        [op, n, (i + 1) * (1 + 0.1 * n)]
        for (i, op), n in itertools.product(enumerate(layer + once), TOKENS)
    ]
    place = folder / "tp1"
    write(place / "dense.csv", ["layer", "tokens", "time_us"], rows)
    head = [[op, r, t + 0.5 * r] for op, t in (("lm_head", 50), ("sampler", 9)) for r in (1, 500)]
    write(place / "per_sequence.csv", ["layer", "sequences", "time_us"], head)
    kv, grid = (0, 16, 8192), []
    for c, kp, d, kd in itertools.product((0, 16, 4096), kv, (0, 1, 256), kv):
        if (c or d) and (c or not kp) and bool(d) == bool(kd):
            grid.append([c, kp, d, kd, 2 + 0.01 * c + 1e-4 * d * kd + 1e-5 * c * kp])
    # A second grid that is not complete: its times are wrong and must not count.
    grid.append([615, 768, 4, 1152, 1e6])
    names = ["prefill_chunk", "kv_prefill", "n_decode", "kv_decode", "time_us"]
    write(place / "attention.csv.gz", names, grid)
    (folder / "meta.yaml").write_text(f"gpu: Big GPU\nmodel: org/{model}\nvllm_version: 0.19.0\n")
    return folder


def test_llmservingsim_is_an_exact_sum(tmp_path: Path) -> None:
    profile = read_profile(serving(tmp_path), steps=400)
    assert 350 < len(profile) < 400  # chunks over 4096 leave the attention table
    assert profile.prefill.max() <= 4096
    chunk, cached, decodes, context = parts(profile)
    layers = 32  # Mistral-7B, named by meta.yaml
    per_op = 1 + 0.1 * profile.tokens
    rows = decodes + (chunk > 0)
    expected = (layers * (2 * 1 + 2 + 3 + 4 + 5 + 6 + 7) + 8 + 9) * per_op + 59 + rows
    expected += layers * (2 + 0.01 * chunk + 1e-4 * decodes * context + 1e-5 * chunk * cached)
    # Chunks below the first grid point lie between it and a batch without prefill.
    inside = (chunk == 0) | (chunk >= 16)
    assert profile.seconds[inside] == pytest.approx(expected[inside] * 1e-6, rel=1e-9)
    assert (profile.gpu, profile.model, profile.missing) == (
        "Big GPU",
        "Mistral-7B",
        ("engine overhead",),
    )
    assert profile.notes == ("vLLM 0.19.0 kernels",)


def test_llmservingsim_asks_for_layers_it_cannot_know(tmp_path: Path) -> None:
    serving(tmp_path, model="unheard-of")
    with pytest.raises(InputError, match="say layers= or model="):
        read_profile(tmp_path)
    deep, shallow = (read_profile(tmp_path, layers=k, steps=60) for k in (64, 32))
    assert np.all(deep.seconds > 1.9 * shallow.seconds)
    with pytest.raises(FormatError, match="in this folder; it has tp1, tp=2 was asked for"):
        read_profile(tmp_path, layers=3, tp=2)


# --- AIConfigurator: milliseconds of one kernel call ---------------------------------------------


def kernels(folder: Path) -> Path:
    grid = (128, 512, 4096)
    names = ["gemm_dtype", "m", "n", "k", "latency"]
    rows = [
        ["bf16", m, n, k, 1e-3 + 1e-9 * m * n + 1e-8 * n * k + 1e-6 * k]
        for m, n, k in itertools.product(TOKENS, grid, grid)
    ]
    write(folder / "gemm_bf16.csv.gz", names, rows)
    names = ["batch_size", "isl", "step", "num_heads", "num_key_value_heads", "latency"]
    rows = [
        [b, 1, s - 1, 2, 1, 0.01 + 1e-6 * b * s]
        for b, s in itertools.product((1, 16, 256), (2, 9000))
    ]
    write(folder / "generation_attention.csv", names, rows)
    rows = [[1, s, 0, 2, 1, 0.02 + 1e-5 * s] for s in (1, 5000)]
    rows += [[2, s, 0, 2, 1, 99] for s in (1, 5000)] + [[1, s, 0, 4, 2, 99] for s in (1, 5000)]
    write(folder / "context_attention.csv", names, rows)
    names = ["num_gpus", "message_size", "latency", "backend"]
    rows = [
        [g, size, t * g * (1e-3 + 1e-9 * size), f"vllm_{backend}"]
        for g, size, (t, backend) in itertools.product(
            (2, 4), (128, 10_000_000), ((1, "graph"), (3, "eager"))
        )
    ]
    write(folder / "custom_allreduce.csv", names, rows)
    return folder


@pytest.mark.parametrize(("backend", "times"), [("graph", 1), ("eager", 3)])
def test_aiconfigurator_is_an_exact_sum(tmp_path: Path, backend: str, times: int) -> None:
    folder = kernels(tmp_path / "big_gpu")
    profile = read_profile(folder, model=TINY, tp=2, steps=400, all_reduce=backend)
    assert len(profile) == 400
    chunk, cached, decodes, context = parts(profile)
    assert not cached.any()
    n = profile.tokens

    def product(width: int, depth: int, m: np.ndarray = n) -> np.ndarray:
        return 1e-3 + 1e-9 * m * width + 1e-8 * width * depth + 1e-6 * depth

    # Two GPUs: 2 query heads and 1 KV head of 128 each; gate and up projection are one product.
    layer = product(512, 256) + product(256, 256) + product(1024, 256) + product(256, 512)
    layer = layer + 2 * times * 2 * (1e-3 + 1e-9 * n * 256)
    layer = layer + np.where(decodes > 0, 0.01 + 1e-6 * decodes * context, 0)
    layer = layer + np.where(chunk > 0, 0.02 + 1e-5 * chunk, 0)
    head = product(256, 256, decodes + (chunk > 0))
    assert profile.seconds == pytest.approx((3 * layer + head) * 1e-3, rel=1e-9)
    assert (profile.gpu, profile.model, profile.tp) == ("big_gpu", "Tiny", 2)


def test_aiconfigurator_needs_a_model_it_holds(tmp_path: Path) -> None:
    folder = kernels(tmp_path)
    with pytest.raises(InputError, match="say model="):
        read_profile(folder)
    with pytest.raises(InputError, match="Tiny cannot be shared by 3 GPUs"):
        read_profile(folder, model=TINY, tp=3)
    with pytest.raises(InputError, match="no attention with 1 query and 1 key-value heads"):
        read_profile(folder, model=TINY, tp=4)
    with pytest.raises(InputError, match="no attention with 32 query and 8 key-value heads"):
        read_profile(folder, model="Mistral-7B")
    (folder / "context_attention.csv").unlink()
    with pytest.raises(FormatError, match=r"expected one table context_attention\*\.csv"):
        read_profile(folder, model=TINY, tp=2)


# --- own steps -----------------------------------------------------------------------------------


def test_own_steps(tmp_path: Path) -> None:
    names = ["tokens", "seconds", "kv", "work", "prefill"]
    rows = [[1, 0.01, 5, 0, 0], [8, 0.02, 80, 32.0, 8], [9, 0.03, 90, 0, 0], [99, 0.1, 9, 0, 0]]
    profile = read_profile(write(tmp_path / "own.csv.gz", names, rows), gpu="G", tp=2)
    assert profile.kv.tolist() == [5, 80, 90, 9]
    assert profile.mixed.tolist() == [False, True, False, False]
    assert (profile.scope, profile.format, profile.tp) == ("iteration", "steps", 2)
    longer = read_profile(write(tmp_path / "own.csv", names, rows), format="steps")
    assert np.array_equal(longer.seconds, profile.seconds)


# --- what a malformed file is told ---------------------------------------------------------------


def cut(text: str) -> bytes:
    raw = gzip.compress(text.encode(), mtime=0)
    return raw[: len(raw) // 2]


STEPS = "tokens,seconds\n1,0.010\n64,0.011\n128,0.012\n256,0.018\n"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "", "a.csv: the file is empty: expected a header and rows"),
        ("a.csv", "tokens,seconds\n", "a.csv line 1: a header but no rows"),
        (
            "a.csv",
            STEPS.replace("seconds", "secnds"),
            "a.csv line 1, column seconds: no such column; did you mean 'secnds'?",
        ),
        (
            "a.csv",
            STEPS.replace("64", "6.4"),
            "a.csv line 3, column tokens: expected a whole number >= 0, found '6.4'; correct",
        ),
        (
            "a.csv",
            STEPS.replace("64", " ").replace("tokens", " tokens "),
            "a.csv line 3, column tokens: expected a whole number >= 0, the cell is empty; correct",
        ),
        ("a.csv", STEPS + '"5,1\n', "not CSV: unexpected end of data: a quotation mark is open"),
        (
            "a.csv",
            STEPS.replace("0.011", "fast"),
            "a.csv line 3, column seconds: expected a finite time >= 0, found 'fast'",
        ),
        (
            "a.csv",
            STEPS.replace("0.012", "-0.012"),
            "a.csv line 4, column seconds: expected a finite time >= 0, found '-0.012'",
        ),
        (
            "a.csv",
            STEPS.replace("0.018", "nan"),
            "a.csv line 5, column seconds: expected a finite time >= 0, found 'nan'",
        ),
        (
            "a.csv",
            STEPS.replace("0.018", "0"),
            "a.csv line 5, column seconds: must be positive, found 0.0: remove idle iterations",
        ),
        (
            "a.csv",
            STEPS.replace("128,0.012", "128"),
            "a.csv line 4: expected 2 columns, found 1; correct or remove the row",
        ),
        (
            "a.csv",
            STEPS.replace("256,0.018\n", ""),
            "a.csv: only 3 different token counts (1, 64, 128): a law needs at least 4",
        ),
        (
            "a.csv",
            "tokens,seconds\n" + 9 * "64,0.011\n",
            "a.csv: only 1 different token counts (64)",
        ),
        (
            "a.csv",
            STEPS.replace("seconds", "seconds,work").replace("\n6", ",0\n6"),
            "a.csv line 1, column work: attention work without prompt tokens: "
            "add the column prefill",
        ),
        (
            "a.csv",
            "time,price\n1,2\n",
            "a.csv line 1: expected a known profile, found the columns "
            "time, price; known formats: vidur, llmservingsim, aiconfigurator, steps",
        ),
        ("a.csv.gz", cut(STEPS * 50), "a.csv.gz: the gzip data end too early (truncated)"),
        ("a.csv.gz", b"\x1f\x8b\x09" + bytes(30), "a.csv.gz: damaged gzip data"),
        ("a.csv", b"tokens,seconds\n\xff,1\n", "a.csv line 2: byte 0xff is not UTF-8 text"),
    ],
)
def test_malformed_files(name: str, content: str | bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(FormatError) as caught:
        read_profile(path)
    assert message in str(caught.value)
    assert caught.value.path == str(path)


def without(column: str, path: Path) -> None:
    text = path.read_bytes()
    plain = gzip.decompress(text) if path.suffix == ".gz" else text
    changed = plain.replace(column.encode(), b"x_" + column.encode(), 1)
    path.write_bytes(gzip.compress(changed, mtime=0) if path.suffix == ".gz" else changed)


MAKERS: dict[str, tuple[Callable[[Path], Path], dict[str, object]]] = {
    "vidur": (lambda folder: vidur_mlp(folder / "mlp.csv"), {"layers": 3}),
    "attention": (lambda folder: vidur_mlp(folder / "mlp.csv"), {"layers": 3, "tp": 2}),
    "llmservingsim": (serving, {}),
    "aiconfigurator": (kernels, {"model": TINY, "tp": 2}),
}


@pytest.mark.parametrize(
    ("maker", "file", "column"),
    [
        ("vidur", "mlp.csv", "time_stats.mlp_act.median"),
        ("vidur", "mlp.csv", "num_tokens"),
        ("attention", "attention.csv", "time_stats.attn_decode.median"),
        ("attention", "all_reduce.csv", "devices_per_node"),
        ("llmservingsim", "tp1/dense.csv", "time_us"),
        ("llmservingsim", "tp1/per_sequence.csv", "sequences"),
        ("llmservingsim", "tp1/attention.csv.gz", "kv_decode"),
        ("aiconfigurator", "gemm_bf16.csv.gz", "latency"),
        ("aiconfigurator", "context_attention.csv", "isl"),
        ("aiconfigurator", "custom_allreduce.csv", "message_size"),
    ],
)
def test_every_table_says_which_column_is_missing(
    maker: str, file: str, column: str, tmp_path: Path
) -> None:
    make, options = MAKERS[maker]
    make(tmp_path)
    vidur_network(tmp_path / "all_reduce.csv")
    if maker == "attention":
        vidur_attention(tmp_path / "attention.csv")
    without(column, tmp_path / file)
    with pytest.raises(FormatError) as caught:
        read_profile(tmp_path, **options)  # type: ignore[arg-type]
    assert f"line 1, column {column}: no such column; did you mean 'x_{column}'?" in str(
        caught.value
    )


def test_vidur_says_what_does_not_fit(tmp_path: Path) -> None:
    path = vidur_mlp(tmp_path / "gpu" / "Llama-2-70b-hf" / "mlp.csv")
    with pytest.raises(InputError, match=r"say layers= or model= .*looks like layers=80"):
        read_profile(path)
    with pytest.raises(FormatError, match="column n_head: this is a model with heads = 4, but"):
        read_profile(path, model="Llama-2-70B")
    with pytest.raises(InputError, match="no rows for tp=4; profiled: 1, 2"):
        read_profile(path, layers=3, tp=4)
    other = vidur_attention(tmp_path / "attention.csv", width=512)
    with pytest.raises(FormatError, match="attention of width 512, but the layers are 256 wide"):
        read_profile(path, layers=3, tp=2, attention=other)
    bad = vidur_mlp(tmp_path / "mlp.csv", time="-1")
    with pytest.raises(
        FormatError, match=r"mlp\.csv line 2, column time_stats.input_layernorm.med"
    ):
        read_profile(bad, layers=3)


def test_arguments_are_checked(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", ["tokens", "seconds"], [[1, 0.1]])
    with pytest.raises(InputError, match="tp must be at least 1 GPU, got 0"):
        read_profile(path, tp=0)
    with pytest.raises(InputError, match="layers must be at least 1, got 0"):
        read_profile(path, layers=0)
    with pytest.raises(InputError, match="unknown profile format 'vidr'; did you mean 'vidur'"):
        read_profile(path, format="vidr")
    with pytest.raises(FormatError, match="expected columns of the format 'vidur', found the"):
        read_profile(path, format="vidur")
    with pytest.raises(InputError, match="all_reduce must be 'eager' or 'graph'"):
        read_profile(path, all_reduce="fast")
    with pytest.raises(FormatError, match="no such file or folder"):
        read_profile(tmp_path / "nothing")
    with pytest.raises(FormatError, match=r"no mlp\*.csv, dense\*.csv or gemm\*.csv in"):
        read_profile(tmp_path)
