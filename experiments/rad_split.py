r"""Dynamic allocation against every static split of engines into prefill and decode.

``N = 4`` equal engines, Eq. (7) without attention (36.25 us per token in a full tile), prompts of
``P`` and outputs of ``D`` tokens, ``P + D = 320``; prefill brings the share ``x = P / (P + D)`` of
the work. Any engine doing either phase, four engines carry :math:`4 / (d_p + d_d)`; a split with
:math:`N_p` engines for prefill carries :math:`\min(N_p / d_p, (4 - N_p) / d_d)`
(:func:`llmq.theory.symbolic.symbolic`, "static_split"). Whatever the split, it fits one traffic.

Simulated: the fluid laws against engines that run. Prefill engines serve the prompts alone, decode
engines one row per request of ``D`` tokens, dynamic ones whole requests under Sarathi, all
saturated with a batch of requests present at time 0; the pools are those of the slower phase. The
lengths vary (uniform, half to three halves of the mean), and the interval is over replications.

Derived from the statement of the paper's section 4 in secondary sources; the paper has no such
figure that we know.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

import llmq
from experiments.claim import Claim, Finding, Status
from experiments.intervals import standard_errors
from experiments.runner import PLAIN, Point, Row, Runner, Scale
from experiments.table import Table
from llmq.policies import Sarathi
from llmq.rng import RngLike
from llmq.sim.results._stats import student
from llmq.sim.simulate import simulate
from llmq.theory.symbolic._rad import static_split

TITLE = "RAD: dynamic allocation against static splits"
SEED = 7
SOURCE = "Bari et al., arXiv 2508.01002, section 4, reconstructed; the laws are derived"

ENGINES, TOKENS, TILE, BUDGET, PATHS = 4, 320, 16, 64, 8
LAW = llmq.BatchTime.tiled(base=0.0, per_tile=0.0005, tile=TILE, per_token=5e-6)
ENGINE = llmq.Engine(LAW, token_budget=BUDGET)
EACH = float(LAW(TILE)) / TILE
SIMULATED = (0.1, 0.25, 0.4, 0.5, 0.6, 0.75, 0.9)


@cache
def laws(share: float) -> dict[str, float]:
    """Rates of dynamic allocation, each split, and the best one, requests per second."""
    split = _formulas()
    work = {"prefill_work": share * TOKENS * EACH, "decode_work": (1 - share) * TOKENS * EACH}
    found = {"dynamic": float(split.dynamic(engines=ENGINES, **work))}
    for n in range(1, ENGINES):
        found[f"{n} + {ENGINES - n}"] = float(
            split.fixed(engines=ENGINES, prefill_engines=n, **work)
        )
    found["best split"] = float(split.static(engines=ENGINES, **work))
    return found


_formulas = cache(static_split)


def lengths(mean: int, n: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Draw lengths between half and three halves of a mean."""
    return rng.integers(mean // 2, mean + mean // 2 + mean % 2, n, endpoint=True)


def saturated(prompt: Any, output: Any) -> float:
    """Measure the requests per second of one engine that starts with all of them.

    Counted from the first third of the ends to the last ninth: full batches only.
    """
    n = len(prompt)
    run = simulate(ENGINE, llmq.Trace(np.zeros(n), prompt, output), Sarathi(), rng=0)
    ends = np.sort(run.requests.finish[0])
    first, last = n // 3, n - n // 9
    return float(np.polyfit(ends[first:last], np.arange(first, last), 1)[0])


def one(point: Point, rng: np.random.SeedSequence) -> list[Row]:
    """Rates of all allocations at one share of prefill, simulated."""
    share, n = point["share"], point["requests"]
    prompt = round(share * TOKENS)
    rates: dict[str, list[float]] = {}
    for seed in rng.spawn(PATHS):
        draw = np.random.default_rng(seed)
        prompts, outputs = lengths(prompt, n, draw), lengths(TOKENS - prompt, n, draw)
        single = np.ones(n, dtype=np.int64)
        # The simulator's first token comes with the prefill: an output of D + 1 takes D decodes,
        # and a prompt of one token and D outputs take D tokens of decode rows.
        whole = saturated(prompts, outputs + 1)
        prefill, decode = saturated(prompts, single), saturated(single, outputs)
        rates.setdefault("dynamic", []).append(ENGINES * whole)
        for k in range(1, ENGINES):
            pools = k * prefill, (ENGINES - k) * decode
            rates.setdefault(f"{k} + {ENGINES - k}", []).append(min(pools))
    top = laws(prompt / TOKENS)["dynamic"]
    rows = []
    for name, values in rates.items():
        mean, half = float(np.mean(values)), student(np.array(values))
        rows.append(
            {
                "allocation": name,
                "kind": "simulated",
                "share": prompt / TOKENS,
                "rate": mean,
                "of_dynamic": mean / top,
                "low": (mean - half) / top,
                "high": (mean + half) / top,
                "n": PATHS,
            }
        )
    return rows


def compute(*, scale: Scale = "small", rng: RngLike = SEED, runner: Runner = PLAIN) -> Table:
    """Compute laws and saturated rates by the share of prefill in the work.

    Parameters
    ----------
    scale : {"small", "full"}
        3 shares with 240 requests an engine, or 7 with 3000.
    rng : Generator, SeedSequence, int or None
        Source of randomness.
    runner : Runner
        How points are computed.

    Returns
    -------
    Table
        ``of_dynamic`` is the rate over that of dynamic allocation by the law; ``share`` is prefill
        work over all work.
    """
    # The crossings of neighbouring splits lie on the grid: 1/3, 2/3 and the quarters.
    grid = np.linspace(1, 23, 23 if scale == "small" else 45) / 24
    rows: list[Row] = []
    for share in grid.tolist():
        rates = laws(share)
        rows += [
            {
                "allocation": name,
                "kind": "theory",
                "share": share,
                "rate": rate,
                "of_dynamic": rate / rates["dynamic"],
                "low": rate / rates["dynamic"],
                "high": rate / rates["dynamic"],
                "n": 1,
            }
            for name, rate in rates.items()
        ]
    shares, n = (SIMULATED[1::2], 240) if scale == "small" else (SIMULATED, 3000)
    rows += runner.run(one, [{"share": x, "requests": n} for x in shares], rng)
    return Table.of(
        "rad_split",
        rows,
        units={"rate": "requests/s"},
        about={
            "source": SOURCE,
            "engines": str(ENGINES),
            "request": f"{TOKENS} tokens on average",
            "law": "500 us per tile of 16 tokens, 5 us per token",
            "saturated": f"{n} requests an engine, {PATHS} replications",
        },
    )


def never_better(table: Table) -> Finding:
    """Judge: no split carries more; each loses a lot at some traffic; the best at most 1 / N."""
    law = table.where(kind="theory")
    best = law.where(allocation="best split")
    most = float(law["of_dynamic"].max())
    loss = {name: 1 - float(law.where(allocation=name)["of_dynamic"].min()) for name in _splits()}
    worst = 1 - float(best["of_dynamic"].min())
    good = most <= 1 + 1e-6 and worst <= 1 / ENGINES + 1e-6 and min(loss.values()) > 0.4
    words = ", ".join(f"{name} up to {100 * x:.0f} %" for name, x in loss.items())
    return Finding(
        Status.PROVED if good else Status.NOT,
        f"a split that knows the traffic loses up to {100 * worst:.1f} % (bound 1/{ENGINES}); "
        f"fixed ones: {words}",
    )


def _splits() -> list[str]:
    return [f"{n} + {ENGINES - n}" for n in range(1, ENGINES)]


def simulated(table: Table) -> Finding:
    """Judge: simulated rates are those of the laws, to four standard errors and half a per cent."""
    rows = table.where(kind="simulated")
    expected = []
    for row in rows.rows():
        rates = laws(row["share"])
        expected.append(rates[row["allocation"]] / rates["dynamic"])
    off = np.abs(rows["of_dynamic"] - expected)
    error = standard_errors(rows)
    good = bool(np.all(off <= 4 * error + 0.005))
    return Finding(
        Status.VERIFIED if good else Status.NOT,
        f"largest difference {100 * off.max():.1f} % of the dynamic rate over {len(rows)} points",
    )


CLAIMS = (
    Claim(
        id="RAD-SPLIT-1",
        text="No static split of engines carries more than dynamic allocation; each fixed split "
        "loses over 40 % at some traffic, and one that knows the traffic up to 1/N.",
        source=SOURCE,
        judge=never_better,
        figure="rad_split",
        least=Status.PROVED,
        test="test_rad.py::test_split_can_fail",
    ),
    Claim(
        id="RAD-SPLIT-2",
        text="Saturated engines serve at the rates of these laws, to 0.5 %.",
        source="derived here",
        judge=simulated,
        figure="rad_split",
        least=Status.VERIFIED,
        test="test_rad.py::test_split_can_fail",
    ),
)
