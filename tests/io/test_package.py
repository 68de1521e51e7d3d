"""Tables of aiconfigurator-core: synthetic ones always, parquet and the package where installed."""

from __future__ import annotations

import importlib.util
import itertools
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from llmq.calibrate._geometry import GEOMETRIES, Geometry, geometry
from llmq.calibrate.catalogue import _package as package
from llmq.calibrate.catalogue import engines, load_engine
from llmq.calibrate.catalogue._kernel_tables import KernelTable
from llmq.calibrate.catalogue.gpus import GPUS, find_gpu, gpu, least_seconds
from llmq.errors import FormatError, InputError, MissingDependencyError
from llmq.io.profiles import read_profile

ARROW = pytest.mark.skipif(
    importlib.util.find_spec("pyarrow") is None, reason="needs pyarrow (extra profiles)"
)
PACKAGE = pytest.mark.skipif(
    importlib.util.find_spec("aiconfigurator_core") is None or ARROW.args[0],
    reason="needs aiconfigurator-core (extra profiles)",
)
# No point is a multiple of 64: times are linear everywhere, so composition must be exact.
TOKENS = (1, 30, 100, 1000, 5000)
WIDTHS = (128, 512, 4096)
DENSE = Geometry("Tiny", layers=3, hidden=256, heads=4, kv_heads=2, ffn=1024, vocabulary=512)
SPARSE = Geometry(
    "Tiny-MoE",
    layers=3,
    hidden=256,
    heads=4,
    kv_heads=2,
    ffn=1024,
    vocabulary=512,
    experts=8,
    active=2,
)

Table = dict[str, Sequence[object]]
Write = Callable[[Path, Mapping[str, Sequence[object]]], None]


def columns(names: str, rows: Sequence[Sequence[object]]) -> Table:
    return dict(zip(names.split(), zip(*rows, strict=True), strict=True))


def product(m: object, n: object, k: object) -> object:
    return 1e-3 + 1e-9 * m * n + 1e-8 * n * k + 1e-6 * k  # type: ignore[operator]


def tables() -> dict[str, Table]:
    gemm = [
        (kind, m, n, k, scale * product(m, n, k))
        for kind, scale in (("bfloat16", 1.0), ("fp8", 1e-9))  # fp8 rows are of another precision
        for m, n, k in itertools.product(TOKENS, WIDTHS, WIDTHS)
    ]
    attention: dict[str, list[tuple[object, ...]]] = {"context": [], "generation": []}
    for kv, dim, window in (
        ("bfloat16", 128, 0),
        ("fp8", 128, 0),
        ("bfloat16", 64, 0),
        ("bfloat16", 128, 128),
    ):
        right = (kv, dim, window) == ("bfloat16", 128, 0)
        for heads, kv_heads in ((4, 2), (2, 1), (1, 1)):
            for b, s in itertools.product((1, 16, 256), (2, 9000)):
                t = 0.01 + 1e-6 * b * s if right else 7e-9
                attention["generation"].append((kv, dim, window, b, 1, s - 1, heads, kv_heads, t))
            for b, s in itertools.product((1, 2), (1, 5000)):
                t = 0.02 + 1e-5 * b * s if right else 7e-9
                attention["context"].append((kv, dim, window, b, s, 0, heads, kv_heads, t))
    names = "kv_cache_dtype head_dim window_size batch_size isl step num_heads "
    names += "num_key_value_heads latency"
    reduce = [
        (g, size, t * g * (1e-3 + 1e-9 * size), f"vllm_{backend}")
        for g, size, (t, backend) in itertools.product(
            (2, 4), (128, 10_000_000), ((1, "graph"), (3, "eager"))
        )
    ]
    experts = [
        ("bfloat16", m, 256, 1024, 2, 8, tp, 1, way, scale * (0.05 + 1e-4 * m / tp))
        for m, tp, (way, scale) in itertools.product(
            TOKENS, (1, 2), (("power_law_1.01", 1), ("power_law_1.2", 5))
        )
    ]
    return {
        "gemm": columns("gemm_dtype m n k latency", gemm),
        "context_attention": columns(names, attention["context"]),
        "generation_attention": columns(names, attention["generation"]),
        "custom_allreduce": columns("num_gpus message_size latency backend", reduce),
        "moe": columns(
            "moe_dtype num_tokens hidden_size inter_size topk num_experts moe_tp_size moe_ep_size "
            "distribution latency",
            experts,
        ),
    }


def install(root: Path, write: Write, gpu_type: str = "big_gpu", version: str = "0.10.0") -> Path:
    data = root / "systems" / "data"
    for op, table in tables().items():
        place = data / gpu_type / package._FAMILY[op] / "vllm" / version
        place.mkdir(parents=True, exist_ok=True)
        write(place / f"{op}_perf.parquet", table)
    about = "gpu:\n  mem_bw: 1\nnode:\n  num_gpus_per_node: 4  # of them\n"
    (data.parent / f"{gpu_type}.yaml").write_text(about)
    return data


def write_arrow(path: Path, table: Mapping[str, Sequence[object]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({name: pa.array(list(part)) for name, part in table.items()}), path)


def write_json(path: Path, table: Mapping[str, Sequence[object]]) -> None:
    path.write_text(json.dumps(table))


def read_json(path: Path) -> KernelTable:
    """Stand in for the parquet reader where pyarrow is not installed."""
    table = {name: np.array(part) for name, part in json.loads(path.read_text()).items()}
    table["seconds"] = table.pop("latency") * 1e-3
    return KernelTable(str(path), table | {"line": np.arange(1, len(table["seconds"]) + 1)})


@pytest.fixture(params=["tables", pytest.param("parquet", marks=ARROW)])
def writer(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Write:
    if request.param == "parquet":
        return write_arrow
    monkeypatch.setattr(package, "read_parquet", read_json)
    return write_json


@pytest.mark.parametrize(("shape", "tp"), [(DENSE, 1), (DENSE, 2), (SPARSE, 1), (SPARSE, 2)])
def test_composition_is_an_exact_sum(
    shape: Geometry, tp: int, writer: Write, tmp_path: Path
) -> None:
    folder = install(tmp_path, writer) / "big_gpu"
    profile = read_profile(folder, model=shape, tp=tp, steps=400)
    n, chunk = profile.tokens, profile.prefill
    decodes = n - chunk
    context = (profile.kv - chunk) / np.maximum(decodes, 1)
    inside = 512 // tp  # QKV of one GPU
    layer = product(n, 2 * inside, 256) + product(n, 256, inside)
    if shape.experts:
        # The router is narrower than the grid: the smallest product takes its place.
        layer = layer + product(n, 128, 256) + 0.05 + 1e-4 * n / tp
    else:
        layer = layer + product(n, 2048 // tp, 256) + product(n, 256, 1024 // tp)
    if tp > 1:
        layer = layer + 2 * tp * (1e-3 + 1e-9 * n * 256)
    layer = layer + np.where(decodes > 0, 0.01 + 1e-6 * decodes * context, 0)
    layer = layer + np.where(chunk > 0, 0.02 + 1e-5 * chunk, 0)
    head = product(decodes + (chunk > 0), 512 // tp, 256)
    assert profile.seconds == pytest.approx((3 * layer + head) * 1e-3, rel=1e-9)
    assert (profile.model, profile.tp, profile.format) == (shape.name, tp, "aiconfigurator")
    assert "kernels inside vLLM 0.10.0" in profile.notes
    assert any("routing" in note for note in profile.notes) == bool(shape.experts)
    assert {"norms and activations", "engine overhead"} <= set(profile.missing)


def test_gpus_beyond_the_kv_heads_hold_copies(writer: Write, tmp_path: Path) -> None:
    folder = install(tmp_path, writer) / "big_gpu"
    profile = read_profile(folder, model=DENSE, tp=4, steps=200)
    alone = profile.tokens == 1
    assert alone.any()
    layer = product(1, 128 + 2 * 128, 256) + product(1, 256, 128)
    layer += product(1, 512, 256) + product(1, 256, 256) + 2 * 4 * (1e-3 + 1e-9 * 256)
    layer += 0.01 + 1e-6 * profile.kv[alone]
    expected = (3 * layer + product(1, 128, 256)) * 1e-3
    decoding = alone & ~profile.mixed
    assert profile.seconds[decoding] == pytest.approx(expected[~profile.mixed[alone]], rel=1e-9)


def test_the_newest_version_counts_as_numbers(writer: Write, tmp_path: Path) -> None:
    data = install(tmp_path, writer)
    install(tmp_path, writer, version="0.9.0")
    (data / "big_gpu/comm/vllm/0.10.0/custom_allreduce_perf.parquet").unlink()
    notes = read_profile(data / "big_gpu", model=DENSE, tp=2, steps=100).notes
    assert notes == ("kernels inside vLLM 0.10.0", "all-reduce inside vLLM 0.9.0")


def test_what_the_tables_lack_is_said(writer: Write, tmp_path: Path) -> None:
    data = install(tmp_path, writer)
    with pytest.raises(InputError, match=r"experts of Tiny-MoE on 4 GPUs .*measured on 1, 2 GPUs"):
        read_profile(data / "big_gpu", model=SPARSE, tp=4)
    with pytest.raises(InputError, match="8 GPUs span nodes of 4"):
        read_profile(data / "big_gpu", model=DENSE, tp=8)
    with pytest.raises(
        InputError, match="no vLLM tables of the GPU 'big_gpo'; did you mean 'big_g"
    ):
        package.package_profile(DENSE, "big_gpo", folder=data)
    with pytest.raises(InputError, match="model 'Tiny' is not among the known shapes"):
        read_profile(data / "big_gpu", model="Tiny")
    wide = Geometry("T", 3, 256, heads=6, kv_heads=3, ffn=1024 * 3, vocabulary=512)
    with pytest.raises(InputError, match=r"no graph all-reduce of 3 GPUs \(measured: 2, 4\)"):
        read_profile(data / "big_gpu", model=wide, tp=3)
    with pytest.raises(InputError, match="the memory of big_gpu is not known"):
        package.engine_from_package("llama-3.1-8b/big_gpu", folder=data)
    with pytest.raises(InputError, match="name model and GPU"):
        package.engine_from_package("llama-3.1-8b", folder=data)
    with pytest.raises(FormatError, match="these are aiconfigurator tables, not 'vidur'"):
        read_profile(data / "big_gpu", model=DENSE, format="vidur")
    (data / "big_gpu/moe/vllm/0.10.0/moe_perf.parquet").unlink()
    with pytest.raises(InputError, match="big_gpu: the package has no vLLM table of moe"):
        read_profile(data / "big_gpu", model=SPARSE)


def change(path: Path, writer: Write, column: str, row: int, value: object) -> None:
    table = {
        name: list(part) for name, part in tables()[path.name.removesuffix("_perf.parquet")].items()
    }
    table[column][row] = value
    writer(path, table)


def test_tables_that_contradict_themselves_are_refused(writer: Write, tmp_path: Path) -> None:
    data = install(tmp_path, writer)
    gemm = data / "big_gpu/gemm/vllm/0.10.0/gemm_perf.parquet"
    row = len(WIDTHS) ** 2 * 2  # 100 tokens, 128 x 128
    change(gemm, writer, "m", row, 30)
    profile = read_profile(data / "big_gpu", model=DENSE, steps=60)  # within a factor 2: averaged
    assert len(profile) > 50
    attention = data / "big_gpu/attention/vllm/0.10.0/generation_attention_perf.parquet"
    change(attention, writer, "latency", 0, 11.0)  # us and not ms: 1000 times the neighbour
    with pytest.raises(FormatError, match=r"line 2, column latency: a jump .*two units mixed\?"):
        read_profile(data / "big_gpu", model=DENSE, steps=60)


@ARROW
@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("latency", -1.0, "line 5, column latency: expected a finite time > 0, found -1.0"),
        ("latency", float("nan"), "line 5, column latency: expected a finite time > 0, found nan"),
        ("m", -8, "line 5, column m: expected a whole number >= 0, found -8.0"),
    ],
)
def test_bad_cells_of_parquet_tables(
    column: str, value: object, message: str, tmp_path: Path
) -> None:
    data = install(tmp_path, write_arrow)
    gemm = data / "big_gpu/gemm/vllm/0.10.0/gemm_perf.parquet"
    change(gemm, write_arrow, column, 4, value)
    with pytest.raises(FormatError) as caught:
        read_profile(data / "big_gpu", model=DENSE)
    assert message in str(caught.value)
    assert caught.value.path == str(gemm)


@ARROW
def test_files_that_are_no_tables(tmp_path: Path) -> None:
    data = install(tmp_path, write_arrow)
    gemm = data / "big_gpu/gemm/vllm/0.10.0/gemm_perf.parquet"
    whole = gemm.read_bytes()
    for content in (b"", b"time,price\n1,2\n", whole[: len(whole) // 2]):
        gemm.write_bytes(content)
        with pytest.raises(FormatError, match="not a parquet file"):
            read_profile(data / "big_gpu", model=DENSE)
    write_arrow(gemm, {"m": [1], "n": [2], "k": [3]})
    with pytest.raises(FormatError, match="column latency: no such column"):
        read_profile(data / "big_gpu", model=DENSE)


@ARROW
def test_a_plain_folder_of_parquet_tables(tmp_path: Path) -> None:
    for op, table in tables().items():
        write_arrow(tmp_path / f"{op}.parquet", table)
    packed = read_profile(install(tmp_path / "p", write_arrow) / "big_gpu", model=SPARSE, steps=99)
    plain = read_profile(tmp_path, model=SPARSE, steps=99)
    assert np.array_equal(plain.seconds, packed.seconds)
    with pytest.raises(FormatError, match="parquet files hold aiconfigurator tables, not 'steps'"):
        read_profile(tmp_path / "gemm.parquet", model=SPARSE, format="steps")
    write_arrow(tmp_path / "moe.parquet", {"latency": [1.0], "num_tokens": [1]})
    with pytest.raises(FormatError, match="column distribution: no such column"):
        read_profile(tmp_path, model=SPARSE)


def roofline(path: Path, table: Mapping[str, Sequence[object]], write: Write) -> None:
    """Replace a table by the times of an ideal GPU: 80 % of an H100's bandwidth and 600 TFLOP/s."""
    kind = path.name.removesuffix("_perf.parquet")
    speed, flops = 0.8 * gpu("h100").bandwidth, 6e14
    if kind == "gemm":
        rows = [
            ("bfloat16", m, n, k, 1e3 * max(2 * n * k / speed, 2 * m * n * k / flops))
            for m, n, k in itertools.product(
                (1, 16, 100, 225, 500, 1000, 2000, 5000),
                (1024, 4096, 6144, 28672, 65536, 131072),
                (1024, 4096, 14336),
            )
        ]
        write(path, columns("gemm_dtype m n k latency", rows))
    elif kind == "generation_attention":
        rows = [
            (b, 1, s - 1, 32, 8, 1e3 * b * s * 4096 / speed)
            for b, s in itertools.product((1, 16, 256), (2, 9000))
        ]
        names = "batch_size isl step num_heads num_key_value_heads latency"
        write(path, columns(names, rows))
    elif kind == "context_attention":
        rows = [(1, s, 0, 32, 8, 1e3 * (1e-6 + 1e-9 * s)) for s in (1, 5000)]
        rows += [(2, s, 0, 32, 8, 1e3 * (1e-6 + 2e-9 * s)) for s in (1, 5000)]
        write(path, columns("batch_size isl step num_heads num_key_value_heads latency", rows))
    else:
        write(path, table)


def test_an_engine_of_an_ideal_gpu(writer: Write, tmp_path: Path) -> None:
    data = install(tmp_path, lambda path, table: roofline(path, table, writer), "h100_sxm")
    engine = package.engine_from_package("llama-3.1-8b/h100", folder=data)
    shape = geometry("Llama-3.1-8B")
    weights = 2 * (shape.parameters - shape.vocabulary * shape.hidden)
    floor = weights / (0.8 * 3.35e12)
    assert engine.law.form == "roofline"
    assert engine.law(1, 100) == pytest.approx(floor + 100 * shape.kv_bytes / 2.68e12, rel=0.01)
    assert engine.law.per_kv == pytest.approx(shape.kv_bytes / (0.8 * 3.35e12), rel=0.02)
    # 2 FLOP a weight and token; the LM head only for the rows that emit a token.
    layers = weights / 2 - shape.vocabulary * shape.hidden
    assert engine.law.per_token == pytest.approx(2 * layers / 6e14, rel=0.05)
    assert engine.kv_tokens == load_engine("llama-3.1-8b/h100").kv_tokens == 426_784
    assert (engine.name, engine.gpus, engine.token_budget) == ("llama-3.1-8b/h100", 1, 8192)
    assert "h100_sxm of aiconfigurator-core; MAPE" in engine.source


def test_gpus_are_known_by_every_name_of_theirs() -> None:
    for kind in GPUS:
        for name in filter(None, (kind.name, kind.system, kind.title, kind.title.upper())):
            assert find_gpu(name) is kind, name
    assert gpu("NVIDIA RTX PRO 6000 Blackwell Server Edition").name == "rtxpro6000"
    with pytest.raises(InputError, match="GPU 'h10' is not known; did you mean 'h100'"):
        gpu("h10")


def test_times_below_the_bandwidth_bound_are_refused(writer: Write, tmp_path: Path) -> None:
    def fast(path: Path, table: Mapping[str, Sequence[object]]) -> None:
        def write(where: Path, found: Mapping[str, Sequence[object]]) -> None:
            writer(where, {**found, "latency": [t / 1000 for t in found["latency"]]})  # type: ignore[operator]

        roofline(path, table, write)

    data = install(tmp_path, fast, "h100_sxm")
    with pytest.raises(FormatError, match=r"less than reading the weights of Llama-3\.1-8B takes"):
        read_profile(data / "h100_sxm", model="Llama-3.1-8B")


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"llmq-toolkit\[profiles\]"):
        load_engine("llama-3.1-8b/h100", source="profiles")
    with pytest.raises(MissingDependencyError, match="aiconfigurator-core"):
        read_profile("aiconfigurator-core/h100_sxm", model="Llama-3.1-8B")


# --- the package itself --------------------------------------------------------------------------


@PACKAGE
def test_the_package_holds_what_was_taken_from_it(data_dir: Path) -> None:
    for system, model, tp in (("h100_sxm", "Llama-3.1-8B", 1), ("a100_sxm", "Llama-3.1-70B", 4)):
        taken = read_profile(data_dir / "profiles/aiconfigurator" / system, model=model, tp=tp)
        whole = read_profile(f"aiconfigurator-core/{system}", model=model, tp=tp)
        assert whole.tokens.tolist() == taken.tokens.tolist()
        assert whole.seconds == pytest.approx(taken.seconds, rel=1e-12)


@PACKAGE
@pytest.mark.parametrize(
    ("name", "tp"), [("llama-3.1-8b/h200", 2), ("qwen3-30b-a3b/a100", 2), ("mixtral-8x7b/b200", 4)]
)
def test_the_catalogue_is_what_the_script_makes(name: str, tp: int) -> None:
    kept = load_engine(name, tp)
    start = time.process_time()
    made = load_engine(name, tp, source="profiles", max_seqs=64)
    spent = time.process_time() - start
    assert made.max_seqs == 64
    assert (made.law.form, made.kv_tokens, made.gpus) == (kept.law.form, kept.kv_tokens, tp)
    n, kv = np.arange(1, 2049), 3000.0
    assert made.law(n, kv) == pytest.approx(kept.law(n, kv), rel=1e-4)
    assert spent < 6.0  # about 1.5 s of one core; the first call imports SciPy and pyarrow too


@PACKAGE
def test_shapes_are_those_of_the_published_configurations() -> None:
    folder = package.package_folder().parents[1] / "model_configs"
    seen = 0
    for shape in GEOMETRIES:
        for path in folder.glob(f"*--*{shape.name}*_config.json"):
            word = path.name.removesuffix("_config.json").rsplit("--", 1)[-1].removeprefix("Meta-")
            if word.removesuffix("-v0.1") != shape.name:
                continue
            raw = json.loads(path.read_text())
            experts = raw.get("num_experts") or raw.get("num_local_experts") or 0
            assert shape.layers == raw["num_hidden_layers"]
            assert shape.hidden == raw["hidden_size"]
            assert (shape.heads, shape.kv_heads) == (
                raw["num_attention_heads"],
                raw["num_key_value_heads"],
            )
            assert shape.vocabulary == raw["vocab_size"]
            assert shape.ffn == raw.get("moe_intermediate_size", raw["intermediate_size"])
            assert (shape.experts, shape.active) == (
                experts,
                raw["num_experts_per_tok"] if experts else 0,
            )
            assert not raw.get("tie_word_embeddings")
            seen += 1
    assert seen >= 8


# --- the catalogue -------------------------------------------------------------------------------


def test_the_catalogue_covers_models_gpus_and_degrees() -> None:
    made = [entry for entry in engines() if find_gpu(entry.gpu)]
    pairs: dict[str, set[str]] = {}
    for entry in made:
        pairs.setdefault(entry.model, set()).add(entry.gpu)
    assert sum(len(gpus) >= 4 for gpus in pairs.values()) >= 6
    assert {entry.tp for entry in made} == {1, 2, 4, 8}
    assert len(made) >= 150


def test_every_law_of_the_catalogue_is_good_and_possible() -> None:
    for entry in engines():
        kind = find_gpu(entry.gpu)
        if entry.error is None or kind is None:
            continue  # stated engines: tested with the catalogue's other entries
        engine, shape = load_engine(entry.name, entry.tp), geometry(entry.model)
        # The published figure of the RTX PRO 6000 law, fitted by others.
        most = 0.033 if entry.name == "llama-3.1-8b/rtxpro6000" else 0.03
        assert entry.error <= most, entry
        times = engine.law(np.array([1, 64, 256, 1024, 2048]))
        assert np.all(np.diff(times) > 0), entry
        assert times[0] > least_seconds(shape, kind, entry.tp), entry
        room = 0.9 * kind.memory * entry.tp - shape.weight_bytes
        copies = max(1.0, entry.tp / shape.kv_heads)
        assert engine.kv_tokens is not None
        assert 0 <= room / (shape.kv_bytes * copies) - engine.kv_tokens < 16, entry


def test_more_and_faster_gpus_are_faster() -> None:
    for entry in engines():
        if entry.error is None or entry.tp == 1:
            continue
        try:
            half = load_engine(entry.name, entry.tp // 2)
        except InputError:
            continue
        engine = load_engine(entry.name, entry.tp)
        # L40S are joined by PCIe: on four the all-reduce eats what sharing 2048 tokens saves.
        if "l40s" in entry.name and entry.tp > 2:
            continue
        assert engine.law(2048, 50_000) < half.law(2048, 50_000), entry
    for model in ("llama-3.1-8b", "qwen3-32b", "mixtral-8x7b"):
        a100, h100, h200, b200 = (
            load_engine(f"{model}/{g}", 4).law(64, 64 * 1000)
            for g in ("a100", "h100", "h200", "b200")
        )
        assert a100 > h100 > h200 > b200
