"""Other simulators on the same trace: ``python -m experiments.speed_peers [--peers PYTHON]``.

They are no dependencies: ``--peers`` names an interpreter of an environment that has them
(``pip install ai-dynamo-runtime==1.6.1``, ``pip install --no-deps ai-dynamo==1.6.1``, ``pip install
--pre vllm-sr-sim``); one that is missing is said to be. All get ``bench/w10k.csv`` (10,000
requests, 6 per second) and every time is CPU-seconds of one process.

* Dynamo replay (Rust) times its own call; its law of iteration time is a built-in polynomial, and
  it does KV blocks and statistics of every token.
* vllm-sr-sim (Python) simulates requests, not iterations: it gets the rate and the lengths'
  distribution, and the whole process is timed.
* serQ runs programs in its own language; the wheel ships none for this workload, so it is not here.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import llmq
from experiments.plain_loop import BUDGET, KV, LAW, SLOTS

DYNAMO = """
import json, sys, time
from dynamo.replay import run_trace_replay
engine = json.loads(sys.argv[2])
start = time.process_time()
run_trace_replay([sys.argv[1]], extra_engine_args={"engine": engine}, trace_block_size=512)
print(time.process_time() - start)
"""
ENGINE = {
    "backend": "vllm",
    "num_gpu_blocks": KV // 16,
    "block_size": 16,
    "max_num_seqs": SLOTS,
    "max_num_batched_tokens": BUDGET,
    "enable_chunked_prefill": True,
    "enable_prefix_caching": False,
}


def ours(trace: llmq.Trace) -> float:
    """CPU-seconds of ``llmq.simulate``.

    Parameters
    ----------
    trace : Trace
        The requests.

    Returns
    -------
    float
        Seconds, the least of three.
    """
    chip = llmq.Engine(
        llmq.BatchTime.affine(**LAW), token_budget=BUDGET, max_seqs=SLOTS, kv_tokens=KV
    )
    times = []
    for _ in range(3):
        start = time.process_time()
        llmq.simulate(chip, trace, llmq.policies.Sarathi())
        times.append(time.process_time() - start)
    return min(times)


def dynamo(python: str, trace: llmq.Trace, folder: Path) -> float:
    """CPU-seconds of Dynamo's replay, as it measures itself.

    Parameters
    ----------
    python : str
        Interpreter that has it.
    trace : Trace
        The requests.
    folder : pathlib.Path
        For its input.

    Returns
    -------
    float
        Seconds.
    """
    path, first = folder / "trace.jsonl", 0
    with path.open("w", encoding="utf-8") as file:
        for at, n, out in zip(trace.arrival, trace.prompt, trace.output, strict=True):
            blocks = list(range(first, first := first + -(-int(n) // 512)))
            row = {"timestamp": int(at * 1e3), "input_length": int(n), "output_length": int(out)}
            file.write(json.dumps(row | {"hash_ids": blocks}) + "\n")
    done = subprocess.run(
        [python, "-c", DYNAMO, str(path), json.dumps(ENGINE)],
        check=True,
        capture_output=True,
        text=True,
    )
    return float(done.stdout.split()[-1])


def sr_sim(python: str, trace: llmq.Trace, folder: Path) -> float:
    """CPU-seconds of a vllm-sr-sim process with as many requests.

    Parameters
    ----------
    python : str
        Interpreter that has it.
    trace : Trace
        For rate and lengths.
    folder : pathlib.Path
        For its input.

    Returns
    -------
    float
        Seconds.
    """
    total = np.sort(trace.prompt + trace.output)
    marks = np.linspace(0.02, 1, 50)
    rows = sorted({int(np.quantile(total, q)): float(q) for q in marks}.items())
    path = folder / "cdf.json"
    path.write_text(json.dumps([list(row) for row in rows]), encoding="utf-8")
    before = os.times()
    subprocess.run(
        [
            str(Path(python).with_name("vllm-sr-sim")),
            "simulate",
            "--cdf",
            str(path),
            "--lam",
            f"{trace.rate:g}",
            "--n-s",
            "1",
            "--n-l",
            "1",
            "--n-req",
            str(len(trace)),
        ],
        check=True,
        capture_output=True,
    )
    after = os.times()
    return after.children_user + after.children_system - sum(before[2:4])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", default=sys.executable, help="interpreter that has the peers")
    args = parser.parse_args()
    trace = llmq.read_trace(Path(os.environ["LLMQ_DATA"]) / "bench" / "w10k.csv")
    mine = ours(trace)
    print(f"{'':34s} CPU-s      requests/CPU-s")
    print(f"{'llmq.simulate, KV blocks':34s} {mine:7.3f}  {len(trace) / mine:12,.0f}")
    with tempfile.TemporaryDirectory() as folder:
        for name, call in (("Dynamo replay, in process", dynamo), ("vllm-sr-sim, process", sr_sim)):
            try:
                seconds = call(args.peers, trace, Path(folder))
            except (OSError, subprocess.CalledProcessError) as error:
                reason = getattr(error, "stderr", None) or str(error)
                text = reason if isinstance(reason, str) else reason.decode()
                print(f"{name:34s} not here: {text.strip().splitlines()[-1][:90]}")
            else:
                print(f"{name:34s} {seconds:7.3f}  {len(trace) / seconds:12,.0f}")


if __name__ == "__main__":
    main()
