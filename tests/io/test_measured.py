"""Readers of measured runs: units, what counts as what, and errors that name file and line."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from llmq.errors import FormatError, InputError
from llmq.io.measured import read_object
from llmq.io.measured._blis import read_blis_means, read_guidellm, read_otel
from llmq.io.measured._closed import read_llmpilot, read_silicon
from llmq.io.measured._splitwise import read_splitwise
from llmq.io.measured._vllm import read_vllm_bench

REQUEST = {
    "input_toks": 10,
    "output_toks": 3,
    "queued_ts": 100.5,
    "first_token_ts": 100.75,
    "last_token_ts": 101.25,
}
META = {
    "model": "m/Llama-3.1-8B",
    "vllm_version": "0.19.0",
    "engine_kwargs": {
        "tensor_parallel_size": 2,
        "max_num_seqs": 128,
        "max_num_batched_tokens": 2048,
        "max_model_len": None,
        "dtype": "bfloat16",
    },
}


def bench(folder: Path, rows, meta=META) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "requests.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    (folder / "meta.json").write_text(json.dumps(meta))
    return folder


# --- vllm_bench ---------------------------------------------------------------------------------


def test_vllm_bench_counts_from_the_first_arrival(tmp_path):
    late = REQUEST | {"queued_ts": 100.625, "input_toks": 20}
    run = read_vllm_bench(bench(tmp_path / "GPU9_model", [late, REQUEST]))
    assert run.arrival.tolist() == [0.0, 0.125]
    assert run.first_token.tolist() == [0.25, 0.25]
    assert run.finish.tolist() == [0.75, 0.75]
    assert run.prompt.tolist() == [10, 20]
    assert run.settings.gpu == "GPU9"
    assert (run.settings.tp, run.settings.max_seqs, run.settings.token_budget) == (2, 128, 2048)
    assert run.settings.kv_tokens is None
    assert run.settings.prefix_caching
    assert run.published == {}


def test_vllm_bench_settings_that_limit_memory(tmp_path):
    options = META["engine_kwargs"] | {
        "num_gpu_blocks_override": 500,
        "block_size": 32,
        "gpu_memory_utilization": 0.8,
        "enable_prefix_caching": False,
        "quantization": "fp8",
    }
    run = read_vllm_bench(bench(tmp_path / "G_m", [REQUEST], META | {"engine_kwargs": options}))
    assert (run.settings.kv_tokens, run.settings.kv_block) == (16_000, 32)
    assert run.settings.utilisation == 0.8
    assert not run.settings.prefix_caching
    assert run.settings.precision == "fp8"


def test_vllm_bench_summary_and_series(tmp_path):
    folder = bench(tmp_path / "G_m", [REQUEST])
    (folder / "summary.txt").write_text(
        "Metric vLLM Sim\nTTFT Mean  7097.2  6815.7  -4.0%\nLatency P99  10.0  11.0  +10.0%\n"
    )
    (folder / "timeseries.csv").write_text("t,running,waiting\n1.0,3,0\n2.0,4,1\n")
    run = read_vllm_bench(folder)
    assert run.published["LLMServingSim ttft mean"] == pytest.approx(-0.04)
    assert run.published["LLMServingSim e2e p99"] == pytest.approx(0.10)
    assert run.series["running"].tolist() == [3.0, 4.0]
    (folder / "summary.txt").write_text("nothing here")
    with pytest.raises(FormatError, match=r"summary\.txt: no line such as"):
        read_vllm_bench(folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"queued_ts": "x"}, r"line 2, column queued_ts: expected a number, found 'x'"),
        ({"queued_ts": float("nan")}, r"line 2, column queued_ts"),
        ({"output_toks": 0}, r"line 2: token counts must be whole and >= 1"),
        ({"input_toks": 1.5}, r"line 2: token counts"),
        ({"last_token_ts": 100.6}, r"line 2: queued, first and last token must ascend"),
    ],
)
def test_vllm_bench_bad_requests(tmp_path, change, words):
    with pytest.raises(FormatError, match=words):
        read_vllm_bench(bench(tmp_path / "G_m", [REQUEST, REQUEST | change]))


def test_vllm_bench_bad_files(tmp_path):
    folder = bench(tmp_path / "G_m", [REQUEST], {"engine_kwargs": {}})
    with pytest.raises(FormatError, match="column model"):
        read_vllm_bench(folder)
    bench(folder, [REQUEST], META | {"engine_kwargs": {"max_num_seqs": "many"}})
    with pytest.raises(FormatError, match=r"meta\.json, column max_num_seqs: .*found 'many'"):
        read_vllm_bench(folder)
    (folder / "meta.json").write_text('{"model": ')
    with pytest.raises(FormatError, match=r"meta\.json line 1: not JSON"):
        read_vllm_bench(folder)
    bench(folder, [])
    with pytest.raises(FormatError, match="holds no request"):
        read_vllm_bench(folder)
    (folder / "meta.json").unlink()
    with pytest.raises(InputError, match="no such file"):
        read_vllm_bench(folder)
    (tmp_path / "list.json").write_text("[1]\n[")
    with pytest.raises(FormatError, match="line 2"):
        read_object(tmp_path / "list.json")


# --- closed loops -------------------------------------------------------------------------------

SILICON = (
    "backend,backend_version,model_path,system,precision,mode,isl,osl,gemm_quant_mode,batch_size,"
    "tp_size,pp_size,attention_dp_size,silicon_ttft_ms,silicon_tpot_ms\n"
)


def test_silicon(tmp_path):
    path = tmp_path / "silicon_x.csv"
    path.write_text(
        SILICON
        + "vllm,0.12,m/A,h100_sxm,,agg,1024,128,,8.0,2.0,1.0,,250.0,16.5\n"
        + "vllm,0.12,m/A,h100_sxm,,disagg,1024,128,,8.0,2.0,1.0,,,\n"
        + "trtllm,1,m/A,h100_sxm,fp8,agg,1024,128,fp8,8.0,2.0,2.0,,250.0,16.5\n"
    )
    one, two = read_silicon(path)
    assert (one.ttft, one.tpot) == (0.25, 0.0165)
    assert (one.users, one.prompt, one.output, one.settings.tp) == (8, 1024, 128, 2)
    assert one.settings.server == "vllm 0.12"
    assert two.settings.precision == "fp8"
    assert two.settings.server == "trtllm 1, pp 2"
    path.write_text(SILICON + "vllm,0.12,m/A,h100_sxm,,agg,1024,128,,8.0,2.0,1.0,,,16.5\n")
    with pytest.raises(FormatError, match=r"line 2, column silicon_ttft_ms: must be positive"):
        read_silicon(path)


PILOT = "model,num_users,n_gpus,gpu_type,start_timestamp,n_input_tokens,n_output_tokens"


def test_llmpilot_takes_the_second_entry_as_the_first_token(tmp_path):
    path = tmp_path / "m_gpu1_x.csv.gz"
    text = (
        f"{PILOT},timestamps_per_token\n"
        'm,2,1,X,1000500,39.0,3.0,"[1000510, 1000600, 1000625, 1000650]"\n'
        'm,2,1,X,1000000,9.0,2.0,"[1000005, 1000100, 1000125]"\n'
        'm,1,1,X,1000000,9.0,1.0,"[1000005, 1000100]"\n'
        'm,1,1,X,1000200,9.0,0.0,"[1000205]"\n'
    )
    path.write_bytes(gzip.compress(text.encode()))
    one, two = read_llmpilot(path)
    assert (one.users, two.users) == (1, 2)
    assert len(one.arrival) == 1  # a request without a token tells nothing
    assert two.arrival == pytest.approx([0.0, 0.5])  # in the order of sending
    assert two.first_token == pytest.approx([0.1, 0.6])
    assert two.finish == pytest.approx([0.125, 0.65])
    assert two.prompt.tolist() == [9, 39]
    path.write_bytes(gzip.compress(text.replace("1000625, 1000650", "x, y").encode()))
    with pytest.raises(FormatError, match=r"line 2, column timestamps_per_token"):
        read_llmpilot(path)


# --- BLIS ---------------------------------------------------------------------------------------

CONFIG = (
    "# settings\nmodel: 'm/A'\ntensor_parallelism: 2\nmax_num_batched_tokens: 4096\n"
    "max_num_seqs: 256\n"
)
STAGES = "bench,strategy,rate,status,start_s,end_s,input_tokens,output_tokens,ttft_ms\n"


def test_guidellm(tmp_path):
    path = tmp_path / "x_requests.csv"
    path.write_text(
        STAGES
        + "4,constant,2.5,successful,1010.0,1011.0,30,5.0,200.0\n"
        + "0,synchronous,,successful,1000.0,1001.5,20,4.0,250.0\n"
        + "4,constant,2.5,errored,1012.0,1013.0,30,,\n"
    )
    (tmp_path / "x_exp-config.yaml").write_text(CONFIG)
    run = read_guidellm(path)
    assert run.stages == ("synchronous", "constant 2.50/s")
    assert run.stage.tolist() == [0, 1]
    assert run.arrival.tolist() == [0.0, 10.0]
    assert run.first_token.tolist() == [0.25, 10.2]
    assert run.finish.tolist() == [1.5, 11.0]
    assert run.notes == ("1 requests failed and are left out",)
    assert (run.settings.tp, run.settings.token_budget, run.settings.max_seqs) == (2, 4096, 256)
    assert run.behind(16).shared_prefix == 16
    (tmp_path / "x_exp-config.yaml").write_text(CONFIG.replace("256", "many"))
    with pytest.raises(FormatError, match=r"x_exp-config\.yaml, column max_num_seqs.*'many'"):
        read_guidellm(path)
    (tmp_path / "x_exp-config.yaml").write_text(CONFIG + "  nested: 1\n")
    with pytest.raises(FormatError, match=r"x_exp-config\.yaml line 6: not YAML: .* \(at column 9"):
        read_guidellm(path)
    (tmp_path / "x_exp-config.yaml").write_text(CONFIG.replace("model:", "model: [a]\n#"))
    with pytest.raises(FormatError, match="column model: the model is missing"):
        read_guidellm(path)
    (tmp_path / "x_exp-config.yaml").write_text(CONFIG)
    path.write_text(STAGES + "4,constant,2.5,errored,1012.0,1013.0,30,,\n")
    with pytest.raises(FormatError, match="no successful request"):
        read_guidellm(path)


def test_otel(tmp_path):
    path = tmp_path / "y_otel.csv"
    path.write_text(
        "latency.time_to_first_token,latency.e2e,usage.prompt_tokens,usage.completion_tokens,"
        "start_ns\n0.5,2.0,30,5,3000000000\n0.25,1.5,20,4,1000000000\n0.25,1.5,20,0,2000000000\n"
    )
    (tmp_path / "y_exp-config.yaml").write_text(CONFIG)
    run = read_otel(path)
    assert run.arrival == pytest.approx([0.0, 2.0])
    assert run.first_token == pytest.approx([0.25, 2.5])
    assert run.finish == pytest.approx([1.5, 4.0])
    assert run.output.tolist() == [4, 5]


def preset(requests):
    text = {
        "system_prompt_len": 100,
        "question_len": 466,
        "output_len": 247,
        "num_unique_system_prompts": 11,
        "num_users_per_system_prompt": 4,
    }
    load = {"shared_prefix": text, "stages": [{"rate": 5.0}, {"rate": 10.0}]}
    return {
        "max_num_seqs": 128,
        "max_num_batched_tokens": 2048,
        "workload": {"inference_perf": load, "num_requests": requests},
    }


def test_blis_means(tmp_path):
    path = tmp_path / "blis_h100_means.csv"
    path.write_text(
        "experiment,model,workload,tp,gt_e2e_ms,gt_ttft_ms,e2e_error,ttft_error\n"
        "e,m,general,4,5023.0,103.0,0.016,0.07\ne,m,other,4,5023.0,103.0,0.016,0.07\n"
    )
    (tmp_path / "blis_h100_configs.json").write_text(json.dumps([preset(9000)]))
    one, two = read_blis_means(path)
    assert (one.prompt, one.output, one.rates, one.cached) == (566, 247, (5.0, 10.0), 565)
    assert one.tpot == pytest.approx((5.023 - 0.103) / 246)
    assert one.published == {"BLIS e2e mean": 0.016, "BLIS ttft mean": 0.07}
    assert (two.prompt, two.tpot, two.rates) == (None, None, ())
    # 44 different prompts in 100 requests: most are new, only the system prompt is shared.
    (tmp_path / "blis_h100_configs.json").write_text(json.dumps([preset(100)]))
    assert read_blis_means(path)[0].cached == 100
    (tmp_path / "blis_h100_configs.json").write_text("[{}]")
    with pytest.raises(FormatError, match=r"configs\.json: a run without 'workload'"):
        read_blis_means(path)


def test_splitwise_takes_medians_of_the_repeats(tmp_path):
    path = tmp_path / "splitwise_m.csv"
    path.write_text(
        "model,hardware,prompt_size,batch_size,token_size,prompt_time,token_time,tensor_parallel\n"
        + "".join(f"m,a100,512,1,128,{p},{t},4\n" for p, t in ((100, 40), (300, 41), (110, 90)))
        + "m,h100,512,1,128,50,30,8\nm,a100,512,2,128,210,42,4\n"
    )
    a100, h100 = read_splitwise(path)
    assert a100.prefill.tolist() == [0.11, 0.21]
    assert a100.decode.tolist() == [0.041, 0.042]
    assert (h100.gpu, h100.tp, h100.batch.tolist()) == ("h100", 8, [1])


# --- the public files ---------------------------------------------------------------------------


def test_public_runs_are_what_their_description_says(data_dir):
    run = read_vllm_bench(data_dir / "measured/vllm_bench/RTXPRO6000_Llama-3.1-8B")
    assert (run.prompt.sum(), run.output.sum()) == (257_239, 195_753)
    assert np.mean(run.finish - run.arrival) == pytest.approx(28.2007, rel=1e-4)
    silicon = read_silicon(data_dir / "measured/silicon_h100_dense.csv")
    assert len(silicon) == 579
    pilot = read_llmpilot(data_dir / "measured/llmpilot/llama-7b_gpu1_h100.csv.gz")
    assert [r.users for r in pilot] == [1, 2, 4, 8, 16, 32, 64, 128]
    # Published: TTFT mean 28 ms at one user, 833 ms at 128.
    ttft = [float(np.mean(r.first_token - r.arrival)) for r in pilot]
    assert ttft[0] == pytest.approx(0.028, abs=5e-4)
    assert ttft[-1] == pytest.approx(0.833, abs=1e-3)
    stages = read_guidellm(
        data_dir / "measured/blis_guidellm/jan20-prefill-llama7b-tp1-1_requests.csv"
    )
    alone = stages.stage == 0
    assert np.mean((stages.first_token - stages.arrival)[alone]) == pytest.approx(0.221, abs=1e-3)
    assert np.mean((stages.finish - stages.arrival)[alone]) == pytest.approx(0.993, abs=1e-3)
    means = {r.name: r for r in read_blis_means(data_dir / "measured/blis_h100_means.csv")}
    assert means["blis llama-2-70b TP4 general"].tpot == pytest.approx(0.0211, rel=0.01)
