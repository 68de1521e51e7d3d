"""What eight tokens more cost: token budgets x and x + 8 at the edges of GPU tiles.

    python -m experiments.validation_tiles [--data DIR]

The RTX PRO 6000 runs Llama-3.1-8B at 3.4 requests/s with the lengths of the measured ShareGPT run;
both budgets and all laws see the same requests (common random numbers). Published, from a
simulation with other code on the same table: 256 -> 264 costs TPOT +4 % and mean TTFT +10 %,
384 -> 392 +5 % and +15 %, 512 -> 520 +1 % and +4 %, 1024 -> 1040 +1 % and +4 %. A law without
tiles shows no loss: a larger budget can only help it.

The table here is the fitted table law, which keeps the measured edges, so that many replications
fit into seconds.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from pathlib import Path

import llmq
from experiments.validation_profiles import Profiles, Source
from llmq.io.measured._vllm import read_vllm_bench
from llmq.model.trace import Trace
from llmq.policies import Sarathi
from llmq.result import Estimate
from llmq.rng import RngLike
from llmq.sim.results.run import Run

PAIRS = ((256, 264), (384, 392), (512, 520), (1024, 1040))
RATE = 3.4
RUN = "measured/vllm_bench/RTXPRO6000_Llama-3.1-8B"


@dataclass(frozen=True, slots=True)
class Step:
    """Relative change from one budget to the other, with 95 % intervals."""

    law: str
    budgets: tuple[int, int]
    tpot: Estimate
    ttft: Estimate


def compute(
    root: Path, replications: int = 16, requests: int = 1500, rng: RngLike = 7
) -> list[Step]:
    """Measure the change at every edge.

    Parameters
    ----------
    root : Path
        The data.
    replications, requests : int
        Size of the simulation.
    rng : Generator, SeedSequence, int or None
        Randomness, the same for every budget and law.

    Returns
    -------
    list of Step
        By law and pair.
    """
    run = read_vllm_bench(root / RUN)
    source = Profiles(root).find(run.settings)
    if not isinstance(source, Source):
        raise llmq.InputError(source)
    mix = Trace(run.arrival, run.prompt, run.output).mix()
    work = llmq.Workload.poisson(RATE, mix)
    found = []
    for name in ("table", "roofline"):
        engine = llmq.Engine(
            source.laws[name], max_seqs=run.settings.max_seqs, kv_tokens=source.kv_tokens
        )
        for pair in PAIRS:
            below, above = (
                llmq.simulate(
                    engine.with_(token_budget=budget),
                    work,
                    Sarathi(),
                    replications=replications,
                    requests=requests,
                    rng=rng,
                    warmup=requests // 10,
                )
                for budget in pair
            )
            found.append(
                Step(name, pair, _change(below, above, "tpot"), _change(below, above, "ttft"))
            )
    return found


def _change(below: Run, above: Run, metric: str) -> Estimate:
    """Paired relative change of a mean, by replication."""
    from llmq.sim.results._stats import student

    means = [run.metric(metric, allow_unstable=True).values.mean(axis=1) for run in (below, above)]
    ratio = means[1] / means[0] - 1
    return Estimate(float(ratio.mean()), student(ratio), len(ratio), "paired replications")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    place = os.environ.get("LLMQ_DATA")
    parser.add_argument("--data", type=Path, default=place, required=place is None)
    print(f"{'law':<10}{'budgets':<16}{'TPOT, %':<18}{'mean TTFT, %':<18}")
    for step in compute(Path(parser.parse_args().data)):
        cells = (f"{100 * x.mean:+.2f} ± {100 * x.half_width:.2f}" for x in (step.tpot, step.ttft))
        budgets = f"{step.budgets[0]} -> {step.budgets[1]}"
        print(f"{step.law:<10}{budgets:<16}" + "".join(f"{cell:<18}" for cell in cells))


if __name__ == "__main__":
    main()
