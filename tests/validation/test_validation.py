"""Measured runs against simulation, nothing fitted: public data, and a folder made here.

The tolerances on the public runs are those that the project set itself: means of the vLLM run on
an RTX PRO 6000 within 3 % (E2E, TPOT) and 5 % (TTFT); TPOT of H100 closed loops of Llama-3.1-8B
within 6 % on one GPU and 12 % on two to four.
"""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import llmq
from experiments import validation, validation_tiles
from experiments.validation_profiles import Profiles, Source, plain, shape_of
from experiments.validation_report import as_text
from experiments.validation_runs import BUDGET, VARIANT, WAITED, Row, reading
from llmq import policies
from llmq.io.measured import Settings

ROOT = Path(validation.__file__).parent.parent


def mape(rows, metric, law="table"):
    return float(np.mean([abs(row.errors[law][metric]) for row in rows]))


# --- public data ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bench(data_dir):
    rows = validation.compute(data_dir, "vllm_bench")
    return next(row for row in rows if "RTXPRO6000_Llama-3.1-8B" in row.run)


def test_vllm_on_rtx_pro_6000_within_three_per_cent(bench):
    errors = bench.errors["table"]
    assert abs(errors["e2e mean"]) <= 0.03
    assert abs(errors["tpot mean"]) <= 0.03
    assert abs(errors["ttft mean"]) <= 0.05
    assert abs(errors["throughput"]) <= 0.03
    assert bench.measured["ttft mean"] == pytest.approx(7.097, rel=1e-3)
    assert bench.measured["tpot mean"] == pytest.approx(0.0325, rel=5e-3)


def test_contexts_that_differ_are_what_the_law_of_sums_lacks(bench, data_dir):
    # Closed forms know a batch's KV only; the tables know that unequal contexts take longer.
    for law in ("roofline", "affine"):
        assert bench.errors[law]["e2e mean"] < bench.errors["table"]["e2e mean"] < 0
        assert abs(bench.errors[law]["ttft mean"]) > 0.05
    # Half a millisecond an iteration on the CPU would explain the rest; it is not fitted.
    assert abs(bench.errors[VARIANT]["e2e mean"]) < 0.01


def test_published_errors_stand_beside_ours(bench):
    assert bench.published["LLMServingSim ttft mean"] == pytest.approx(-0.04)
    assert bench.published["LLMServingSim e2e mean"] == pytest.approx(-0.018)
    text = as_text([bench])
    assert "LLMServingSim" in text
    assert "requests present differ by" in text


def test_the_server_was_as_full_as_the_simulated_one(bench):
    note = next(note for note in bench.notes if note.startswith("requests present"))
    gap, mean = (float(word) for word in note.split() if word.replace(".", "").isdigit())
    assert gap < 0.05 * mean


@pytest.mark.slow
def test_closed_loops_on_h100(data_dir):
    rows = [r for r in validation.compute(data_dir, "silicon") if isinstance(r, Row)]
    llama = [r for r in rows if "Llama-3.1-8B" in r.settings.model]
    one = [r for r in llama if r.settings.tp == 1]
    assert len(one) == 42
    for law in ("table", "roofline"):
        assert mape(one, "tpot mean", law) <= 0.06
        for tp in (2, 4):
            some = [r for r in llama if r.settings.tp == tp]
            assert len(some) == 45
            assert mape(some, "tpot mean", law) <= 0.12
    # What TTFT lacks is the wait for a slot: with one completion more than half of the error goes.
    assert mape(one, WAITED) < 0.5 * mape(one, "ttft mean")
    # A server, a model and a degree the rule was not made on.
    qwen = [r for r in rows if "Qwen3-32B" in r.settings.model and r.settings.tp in (2, 4)]
    assert len(qwen) == 60
    assert mape(qwen, "tpot mean") <= 0.12


@pytest.mark.slow
def test_blis_and_llmpilot_are_reported_beside_blis(data_dir):
    means = validation.compute(data_dir, "blis means")
    assert len(means) == 4
    for row in means:
        assert row.published["BLIS e2e mean"] > 0
        assert abs(row.errors["table"]["e2e mean"]) < 0.2
    pilot = validation.compute(data_dir, "llmpilot")
    done = [row for row in pilot if isinstance(row, Row)]
    assert {row.settings.model for row in done} == {"llama-7b"}
    # TGIS spends 0.5 ms of CPU on every sequence of a step: our kernels are faster throughout.
    assert all(row.errors["table"]["ttft mean"] < 0 for row in done)
    text = as_text([*means, *pilot])
    assert "BLIS" in text
    assert "no attention with 40 query and 40 key-value heads" in text


def test_guidellm_stages(data_dir):
    rows = [r for r in validation.compute(data_dir, "blis_guidellm") if isinstance(r, Row)]
    alone = next(r for r in rows if r.run.endswith("synchronous"))
    assert alone.measured["tpot mean"] == pytest.approx(0.026, rel=0.05)
    assert abs(alone.errors["table"]["tpot mean"]) < 0.1
    assert len([r for r in rows if "jan20" in r.run]) == 5


def test_steps_of_2023_were_bound_by_the_cpu(data_dir):
    rows = {r.run: r for r in validation.compute(data_dir, "splitwise")}
    four, eight = (rows[f"splitwise_llama2_70b a100-80gb TP{tp}"].errors["table"] for tp in (4, 8))
    # Twice the GPUs halve our step and not the measured one.
    assert eight["decode bias"] < four["decode bias"] - 0.15
    assert abs(four["prefill bias"]) < abs(four["decode bias"])


# --- eight tokens more ----------------------------------------------------------------------------


@pytest.mark.slow
def test_tiles_cost_what_was_measured_and_smooth_laws_do_not_see_them(data_dir):
    steps = validation_tiles.compute(data_dir, replications=8, requests=800)
    table = {s.budgets: s for s in steps if s.law == "table"}
    smooth = [s for s in steps if s.law == "roofline"]
    for step in table.values():
        assert step.tpot.low > 0
        assert step.ttft.mean > 0
    # Published: +4 and +10 %, +5 and +15 %.
    assert table[256, 264].tpot.mean == pytest.approx(0.04, abs=0.02)
    assert table[256, 264].ttft.mean == pytest.approx(0.10, abs=0.04)
    assert table[384, 392].tpot.mean == pytest.approx(0.05, abs=0.02)
    assert table[384, 392].ttft.mean == pytest.approx(0.15, abs=0.04)
    for step in smooth:
        assert step.tpot.mean < 0.001
        assert step.ttft.mean < 0.005


# --- a folder nobody has seen ---------------------------------------------------------------------

LAW = llmq.BatchTime.affine(base=0.008, per_token=4e-5, per_kv=6e-8)
LAYERS = 36  # Qwen3-8B
GRID = [0, *(2**k for k in range(4, 12))]


def write_csv(path, header, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def write_profile(folder):
    """Kernel tables whose sum is the law: microseconds of one layer."""
    us = 1e6 / LAYERS
    (folder / "tp2").mkdir(parents=True)
    (folder / "meta.yaml").write_text("hardware: Z900\nmodel: Qwen/Qwen3-8B\n")
    kernels = (
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
    rows = [
        (name, n, us * (LAW.base + LAW.per_token * n) if name == "qkv_proj" else 0.0)
        for name in kernels
        for n in (1, 100, 500, 1000, 2100, 4300)
    ]
    write_csv(folder / "tp2/dense.csv", ("layer", "tokens", "time_us"), rows)
    heads = [(name, n, 0.0) for name in ("lm_head", "sampler") for n in (1, 300)]
    write_csv(folder / "tp2/per_sequence.csv", ("layer", "sequences", "time_us"), heads)
    cells = [
        (p, c, d, x, us * LAW.per_kv * (d * x + (p + c if p else 0)))
        for p in GRID
        for c in [0, *(2**k for k in range(4, 13))]
        for d in [0, *(2**k for k in range(8))]
        for x in [0, *(2**k for k in range(4, 14))]
        if (p or not c) and bool(d) == bool(x) and (p or d)
    ]
    header = ("prefill_chunk", "kv_prefill", "n_decode", "kv_decode", "time_us")
    write_csv(folder / "tp2/attention.csv", header, cells)
    # The law is the whole of it: reducing takes no time here.
    reduce = [("all_reduce", 2, size, 0.0) for size in (1, 10**9)]
    write_csv(
        folder.parent / "nccl.csv", ("op_name", "num_gpus", "message_size", "latency"), reduce
    )


def served(trace, engine):
    return llmq.simulate(engine, trace, policies.Sarathi(watermark=0.0), simulator="reference")


def write_run(folder, trace, run, **options):
    folder.mkdir(parents=True)
    times = run.requests
    rows = [
        {
            "request_id": f"r{i}",
            "input_toks": int(trace.prompt[i]),
            "output_toks": int(trace.output[i]),
            "arrival_time": 1.7e9 + times.arrival[0, i],
            "queued_ts": 500.0 + times.arrival[0, i],
            "scheduled_ts": 500.0,
            "first_token_ts": 500.0 + times.first_token[0, i],
            "last_token_ts": 500.0 + times.finish[0, i],
        }
        for i in np.random.default_rng(1).permutation(len(trace))
    ]
    text = "\n".join(json.dumps(row) for row in rows)
    (folder / "requests.jsonl").write_text(text + "\n")
    kwargs = {
        "tensor_parallel_size": 2,
        "max_num_seqs": 64,
        "max_num_batched_tokens": 512,
        "dtype": "bfloat16",
        "enable_prefix_caching": False,
    }
    meta = {"model": "Qwen/Qwen3-8B", "vllm_version": "0.99", "engine_kwargs": kwargs | options}
    (folder / "meta.json").write_text(json.dumps(meta))


@pytest.fixture(scope="module")
def unseen(tmp_path_factory):
    root = tmp_path_factory.mktemp("unseen")
    write_profile(root / "profiles/llmservingsim/Z900/Qwen3-8B")
    prompt = llmq.Lengths.lognormal(mean=400, sigma=0.8, low=4, high=1500)
    output = llmq.Lengths.lognormal(mean=120, sigma=0.7, low=2, high=400)
    mix = {"a": llmq.RequestClass(prompt, output)}
    trace = llmq.Workload.poisson(14.0, mix).sample(150, rng=3)
    engine = llmq.Engine(LAW, token_budget=512, max_seqs=64)
    bench = root / "measured/vllm_bench"
    write_run(
        bench / "Z900_Qwen3-8B", trace, served(trace, engine), num_gpu_blocks_override=100_000
    )
    tight = served(trace, engine.with_(kv_tokens=4000))
    assert tight.evictions > 3
    write_run(bench / "Z900_Qwen3-8B-tight", trace, tight, num_gpu_blocks_override=250)
    write_run(bench / "Q7_Qwen3-8B", trace, tight)
    write_run(bench / "Z900_Qwen3-8B-fp8", trace, tight, quantization="fp8")
    write_run(bench / "Z900_Unheard-9B", trace, tight, model="acme/Unheard-9B")
    write_run(bench / "Z900_small", trace, tight, num_gpu_blocks_override=10)
    write_run(bench / "Z900_copies", trace, tight, data_parallel_size=2)
    write_run(bench / "Z900_narrow", trace, tight, kv_cache_dtype="fp8_e4m3")
    write_run(bench / "Z900_broken", trace, tight)
    lines = (bench / "Z900_broken/requests.jsonl").read_text().splitlines()
    lines[6] = lines[6].replace('"output_toks"', '"outputs"')
    (bench / "Z900_broken/requests.jsonl").write_text("\n".join(lines))
    # A closed loop by its mean iteration: c decodes, and c / osl prompts are begun in each.
    columns = (
        "backend",
        "backend_version",
        "model_path",
        "system",
        "precision",
        "mode",
        "gemm_quant_mode",
        "pp_size",
        "attention_dp_size",
        "isl",
        "osl",
        "batch_size",
        "tp_size",
        "silicon_ttft_ms",
        "silicon_tpot_ms",
    )
    rows = []
    for c, isl, osl in ((4, 512, 200), (16, 256, 128), (32, 400, 256)):
        tokens, kv = c * (1 + isl / osl), c * (isl + osl / 2) + c / osl * isl
        step = 1e3 * (LAW.base + LAW.per_token * tokens + LAW.per_kv * kv)
        rows.append(
            (
                "vllm",
                "1",
                "Qwen/Qwen3-8B",
                "z900",
                "",
                "agg",
                "",
                1,
                "",
                isl,
                osl,
                c,
                2,
                2 * step,
                step,
            )
        )
    write_csv(root / "measured/silicon_z900.csv", columns, rows)
    return root


@pytest.fixture(scope="module")
def found(unseen):
    return validation.compute(unseen)


@pytest.mark.parametrize("name", ["Z900_Qwen3-8B", "Z900_Qwen3-8B-tight"])
def test_a_known_law_is_recovered(found, name):
    row = next(r for r in found if isinstance(r, Row) and r.run == f"vllm_bench/{name}")
    for metric in ("ttft mean", "tpot mean", "e2e mean", "e2e p99", "throughput"):
        assert abs(row.errors["table"][metric]) < 0.005, metric
        assert abs(row.errors["affine"][metric]) < 0.005, metric
    slow = row.errors[VARIANT]["tpot mean"]
    assert 0.01 < slow < 0.2  # 0.5 ms of about 10 ms is seen
    evicted = any("evictions" in note for note in row.notes)
    assert evicted == name.endswith("tight")


def test_a_law_that_is_five_per_cent_wrong_is_seen(unseen, tmp_path):
    profile = tmp_path / "profiles/llmservingsim/Z900/Qwen3-8B"
    write_profile(profile)
    dense = (profile / "tp2/dense.csv").read_text().splitlines()
    dense[1:] = [
        ",".join([*line.split(",")[:2], str(1.05 * float(line.split(",")[2]))])
        for line in dense[1:]
    ]
    (profile / "tp2/dense.csv").write_text("\n".join(dense) + "\n")
    (tmp_path / "measured").symlink_to(unseen / "measured")
    rows = validation.compute(tmp_path, "vllm_bench")
    row = next(r for r in rows if r.run == "vllm_bench/Z900_Qwen3-8B")
    assert 0.03 < row.errors["table"]["tpot mean"] < 0.2


def test_closed_loops_agree_with_the_mean_iteration(found):
    rows = [r for r in found if isinstance(r, Row) and r.kind == "silicon"]
    assert len(rows) == 3
    assert mape(rows, "tpot mean") < 0.03


def test_what_cannot_be_compared_is_listed_with_the_reason(found):
    left = {row.run: row.reason for row in found if not isinstance(row, Row)}
    assert "no profile of Qwen3-8B on Q7 with TP2" in left["vllm_bench/Q7_Qwen3-8B"]
    assert "fp8 kernels" in left["vllm_bench/Z900_Qwen3-8B-fp8"]
    assert "acme/Unheard-9B" in left["vllm_bench/Z900_Unheard-9B"]
    assert "line 7, column output_toks" in left["Z900_broken"]
    assert "cannot be simulated" in left["vllm_bench/Z900_small"]
    assert "2 data-parallel engines" in left["Z900_copies"]
    assert "KV in fp8" in left["vllm_bench/Z900_narrow"]
    text = as_text(found)
    assert all(reason in text for reason in left.values())


def test_the_command(unseen, tmp_path):
    command = [sys.executable, "-m", "experiments.validation", "--only", "silicon", "--json"]
    done = subprocess.run(
        [*command, "--data", str(unseen)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    runs = json.loads(done.stdout, parse_constant=pytest.fail)["runs"]
    assert len(runs) == 3
    assert runs[0]["settings"]["tp"] == 2
    assert abs(runs[0]["errors"]["table"]["tpot mean"]) < 0.05
    done = subprocess.run(
        [*command, "--data", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "has no folder measured/" in done.stderr


# --- pieces ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("NVIDIA H100 SXM 80 GB", "h100"),
        ("h100_sxm", "h100"),
        ("h100-80gb", "h100"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "rtxpro6000"),
        ("RTXPRO6000", "rtxpro6000"),
        ("NVIDIA GeForce RTX 4090", "rtx4090"),
        ("A100", "a100"),
        ("A10", "a10"),
        ("L40S", "l40s"),
        ("NVIDIA RTX 6000 Ada 48 GB", "rtx6000ada"),
    ],
)
def test_one_gpu_has_one_name(name, short):
    assert plain(name) == short


def test_models_by_the_names_of_the_sources():
    assert shape_of("llama2-70b").name == "Llama-2-70B"
    assert shape_of("llama-7b").name == "Llama-2-7B"
    assert shape_of("codellama/CodeLlama-34b-Instruct-hf").layers == 48
    assert shape_of("llama-13b").parameters / 1e9 == pytest.approx(13.02, rel=1e-3)


def test_kv_capacity_is_what_vllm_reported(data_dir):
    # Published with the BLIS runs: Llama-2-7B on one H100 has 7463 blocks of 16 tokens.
    served_by = Settings(gpu="H100", model="meta-llama/Llama-2-7b-hf")
    source = Profiles(data_dir).find(served_by)
    assert isinstance(source, Source)
    assert source.kv_tokens == pytest.approx(7463 * 16, rel=0.005)
    assert "attention of 32 KV heads as a batch 4 times larger" in source.notes


def test_all_reduces_of_the_same_gpu_are_added(unseen, tmp_path):
    (tmp_path / "measured").symlink_to(unseen / "measured")
    write_profile(tmp_path / "profiles/llmservingsim/Z900/Qwen3-8B")
    header = ("num_gpus", "message_size", "latency", "backend")
    rows = [(2, size, 0.01 + 1e-8 * size, "vllm_graph") for size in (1, 10**6, 10**8)]
    other = [(4, 1, 9.0, "vllm_graph"), (2, 1, 9.0, "vllm_eager")]
    table = tmp_path / "profiles/aiconfigurator/z900/custom_allreduce.csv"
    write_csv(table, header, rows + other)
    settings = Settings(gpu="Z900", model="Qwen/Qwen3-8B", tp=2)
    summed = Profiles(tmp_path).find(settings)
    assert summed.notes == ("all-reduce from custom_allreduce.csv",)
    free = [(2, size, 0.0, "vllm_graph") for size in (1, 10**8)]
    write_csv(table, header, free)
    without = Profiles(tmp_path).find(settings)
    # 36 layers, two each; a token has 4096 values.
    more = summed.timer([(300, 0)], [], 1) - without.timer([(300, 0)], [], 1)
    assert more == pytest.approx(72 * (1e-5 + 1e-11 * 300 * 4096), rel=1e-6)


def test_b14_a_run_whose_all_reduce_was_not_measured_is_left_out(tmp_path):
    write_profile(tmp_path / "profiles/llmservingsim/Z900/Qwen3-8B")
    (tmp_path / "profiles/llmservingsim/Z900/nccl.csv").unlink()
    found = Profiles(tmp_path).find(Settings(gpu="Z900", model="Qwen/Qwen3-8B", tp=2))
    assert "2 GPUs reduce twice in each layer, and no table of Z900 holds the time" in found


@pytest.mark.parametrize(
    "law",
    [
        llmq.BatchTime.affine(base=1.0, per_token=0.1, per_kv=0.01),
        llmq.BatchTime.roofline(floor=2.0, base=1.0, per_token=0.1, per_kv=0.01),
        llmq.BatchTime.table(tokens=[1, 10, 20], seconds=[1.0, 1.5, 4.0], per_kv=0.01),
    ],
)
def test_cached_tokens_are_read_by_every_row(law):
    for rows in (1, 7, 20):
        assert reading(law, 30)(rows, 50 * rows) == pytest.approx(law(rows, 80 * rows))
    assert reading(law, 0) is law
    assert BUDGET == 2048  # vLLM's default
