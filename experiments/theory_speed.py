"""How fast the theory answers, in CPU-seconds: regions, column generation, certificates.

    python -m experiments.theory_speed [--repeat 5]

Three figures, each the median of some repeats after one that is not counted (imports):

* *region*: three classes on three GPU types of the catalogue: region, prices and certificate; and
  its facets and vertices;
* *columns*: column generation for five classes on a table of times on up to 2048 tokens (those of a
  catalogue engine, with steps): prefill and decode of an engine, and a knapsack of ten buffers with
  a budget by context, of which the gap between bound and load is printed too;
* *checks*: ``proofs/check.py`` on all certificates of the repository.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np

import llmq
from llmq.theory.planning_lp._configurations import Knapsack
from llmq.theory.planning_lp._pricing import generate_columns
from llmq.theory.planning_lp._static import Need, PlanningProblem, Pool
from llmq.theory.region._pools import planning_problem

ROOT = Path(__file__).parents[1]
GPUS = ("llama-3.1-8b/h100", "llama-3.1-8b/a100", "llama-3.1-8b/rtxpro6000")
MIX = {
    "chat": llmq.RequestClass(512, 128),
    "code": llmq.RequestClass(2048, 256),
    "long": llmq.RequestClass(6000, 100),
    "story": llmq.RequestClass(100, 700),
    "mail": llmq.RequestClass(300, 300),
}
RATES = {"chat": 30, "code": 5, "long": 1, "story": 3, "mail": 5}


def three() -> tuple[llmq.Fleet, dict[str, llmq.RequestClass], dict[str, float]]:
    """Three classes on three GPU types."""
    pools = {name: (llmq.load_engine(name), n) for name, n in zip(GPUS, (2, 3, 1), strict=True)}
    names = list(MIX)[:3]
    return llmq.Fleet(pools), {n: MIX[n] for n in names}, {n: float(RATES[n]) for n in names}


def table_engine(tokens: int = 2048) -> llmq.Engine:
    """Engine of the catalogue with times from a table, in steps of 64 tokens as in profiles."""
    engine = llmq.load_engine(GPUS[0])
    ends = np.arange(64, tokens + 1, 64)
    grid = np.unique(np.concatenate(([1, 8, 16, 32], ends, ends[:-1] + 1)))
    # All of a step takes nearly as long as its end.
    seconds = 0.9 * engine.law.curve(-(-grid // 64) * 64) + 0.1 * engine.law.curve(grid)
    law = llmq.BatchTime.table(tokens=grid.tolist(), seconds=seconds.tolist())
    return engine.with_(law=law, token_budget=tokens)


def two_phases() -> PlanningProblem:
    """Five classes on the engine: prefill and decode tokens, with memory and slots."""
    exactly = {name: Fraction(rate) for name, rate in RATES.items()}
    return planning_problem(table_engine(), MIX, exactly)


def ten_buffers() -> PlanningProblem:
    """Five classes, a buffer for each phase; KV memory inside the configurations, by context."""
    engine = table_engine()
    buffers = tuple(f"{name}.{phase}" for name in MIX for phase in ("prefill", "decode"))
    needs, weights = {}, []
    for name, request in MIX.items():
        prompt, steps = int(request.prompt.low), int(request.output.low) - 1
        needs[name] = Need({f"{name}.prefill": Fraction(prompt), f"{name}.decode": Fraction(steps)})
        weights += [1, prompt + steps // 2]
    batches = Knapsack(
        2048, buffers, (16, 1) * len(MIX), ((tuple(weights), engine.kv_tokens or 0),)
    )
    rates = {name: Fraction(rate) for name, rate in RATES.items()}
    pool = Pool(1, engine.law, batches, {}, needs)
    return PlanningProblem({"e": pool}, rates, dict.fromkeys(MIX, (("e",),)))


def cpu(call: Callable[[], object], repeat: int) -> float:
    """Median CPU-seconds of a call after a first one."""
    call()
    seconds = []
    for _ in range(repeat):
        start = time.process_time()
        call()
        seconds.append(time.process_time() - start)
    return statistics.median(seconds)


def check_all() -> float:
    """CPU-seconds of a new interpreter that checks all certificates."""
    files = sorted(str(path) for path in (ROOT / "proofs" / "certificates").rglob("*.json"))
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, "-I", "-S", str(ROOT / "proofs" / "check.py"), *files],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def compute(repeat: int = 5) -> dict[str, float]:
    """Return CPU-seconds by figure, and the gap of the ten buffers."""
    fleet, mix, rates = three()

    def answer() -> None:
        region = llmq.stability_region(fleet, mix)
        region.prices(rates)
        region.certificate(rates)

    region = llmq.stability_region(fleet, mix)
    phases, buffers = two_phases(), ten_buffers()
    made = generate_columns(buffers)
    return {
        "region, prices and certificate": cpu(answer, repeat),
        "facets": cpu(region.facets, repeat),
        "vertices": cpu(region.vertices, repeat),
        "columns, two phases": cpu(lambda: generate_columns(phases), repeat),
        "columns, ten buffers": cpu(lambda: generate_columns(buffers), 1),
        "gap of the ten buffers": float(1 - made.bound / made.optimum.load),
        "check.py on all certificates": check_all(),
    }


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeat", type=int, default=5)
    for name, value in compute(parser.parse_args().repeat).items():
        unit = "of the load" if name.startswith("gap") else "CPU-s"
        sys.stdout.write(f"{name:32} {value:.4f} {unit}\n")


if __name__ == "__main__":
    main()
