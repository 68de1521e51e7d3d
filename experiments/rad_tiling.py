r"""Tiles: what a batch takes and how much of it is useful work.

Eq. (7) of Bari, Hegde and de Veciana without its attention terms, with the constants of serQ's
formalisation (not measured): a column tile of 128 tokens passes the linear layers in 4000 us and a
token takes 5 us beside them,

.. math:: T(n) = 4000 \lceil n / 128 \rceil + 5 n \;\mathrm{us}, \qquad
          \eta(n) = \frac{n u}{T(n)}, \quad u = \frac{4000}{128} + 5 = 36.25\;\mathrm{us}.

``theory`` is the law; ``simulated`` is the length of the one iteration in which the simulator
prefills a prompt of ``n`` tokens (deterministic: the interval is the value). Beside it the waves
of one matrix product, 14,336 rows in tiles of 128 x 128 on the 142 multiprocessors of an RTX 6000
Ada (derived, not in the paper): tile and wave optima differ.

Reconstructed from secondary sources: the paper's tile sizes and the attention terms were not found.
"""

from __future__ import annotations

import numpy as np

import llmq
from experiments.claim import Claim, Finding, Status
from experiments.runner import PLAIN, Runner, Scale
from experiments.table import Table
from llmq.rng import RngLike
from llmq.sim.simulate import simulate
from llmq.theory.region.tiling import best_batch, waves

TITLE = "RAD: tiles, batch time and tiling efficiency"
SEED = 7
SOURCE = "Bari et al., arXiv 2508.01002, Eq. (7) and section 4.2, reconstructed from serQ"

TILE, MOST = 128, 640
LAW = llmq.BatchTime.tiled(base=0.0, per_tile=0.004, tile=TILE, per_token=5e-6)
ENGINE = llmq.Engine(LAW, token_budget=MOST)
EDGES = (
    1,
    32,
    64,
    96,
    127,
    128,
    129,
    192,
    255,
    256,
    257,
    320,
    383,
    384,
    385,
    448,
    511,
    512,
    513,
    576,
    639,
    640,
)
ROWS, PROCESSORS = 14_336, 142


def efficiency(tokens: int, time: float) -> float:
    """Share of a batch's time that full tiles would need for its tokens."""
    return float(tokens * LAW(TILE) / TILE / time)


def alone(tokens: int) -> float:
    """Time in which the simulator prefills one prompt, seconds."""
    trace = llmq.Trace([0.0], [tokens], [1])
    return float(simulate(ENGINE, trace, rng=0).requests.prefill_end[0, 0])


def compute(*, scale: Scale = "small", rng: RngLike = SEED, runner: Runner = PLAIN) -> Table:
    """Tabulate the law and the simulated iterations; nothing is random.

    Parameters
    ----------
    scale : {"small", "full"}
        Grid of the law: every 16 tokens, or every 4.
    rng, runner
        Not used.

    Returns
    -------
    Table
        ``quantity`` is ``tiles`` or ``waves``.
    """
    step = 16 if scale == "small" else 4
    grid = sorted({*range(step, MOST + 1, step), *EDGES})
    rows = [_row("tiles", "theory", n, float(LAW(n))) for n in grid]
    rows += [_row("tiles", "simulated", n, alone(n)) for n in EDGES]
    for n in grid:
        rounds = waves(ROWS, n, (TILE, TILE), PROCESSORS)
        rows.append(
            {
                "quantity": "waves",
                "kind": "theory",
                "tokens": n,
                "efficiency": rounds.efficiency,
                "n": 1,
            }
        )
    best = best_batch(LAW, MOST)
    return Table.of(
        "rad_tiling",
        rows,
        units={"tokens": "tokens", "time": "s", "low": "s", "high": "s", "throughput": "tokens/s"},
        about={
            "source": SOURCE,
            "law": "4000 us per tile of 128 tokens and 5 us per token (illustrative, serQ)",
            "most productive batch": f"{best.tokens} tokens, {best.rate:.6g} tokens/s",
        },
    )


def _row(quantity: str, kind: str, tokens: int, time: float) -> dict[str, object]:
    return {
        "quantity": quantity,
        "kind": kind,
        "tokens": tokens,
        "time": time,
        "low": time,
        "high": time,
        "throughput": tokens / time,
        "efficiency": efficiency(tokens, time),
        "n": 1,
    }


def _at(table: Table, tokens: int, column: str, **where: object) -> float:
    found = table.where(tokens=tokens, quantity="tiles", **where)[column]
    return float(found[0]) if len(found) else float("nan")


def staircase(table: Table) -> Finding:
    """Judge: T(128) = 4640 us, T(129) = 8645 us, relative throughput 0.54092."""
    worst, parts = 0.0, []
    for kind in ("theory", "simulated"):
        times = [_at(table, n, "time", kind=kind) for n in (128, 129)]
        share = 129 / times[1] / (128 / times[0])
        pairs = zip((*times, share), (0.00464, 0.008645, 0.54092), strict=True)
        errors = [abs(got / want - 1) for got, want in pairs]
        worst = max(worst, *errors) if np.isfinite(errors).all() else float("inf")
        parts.append(f"{kind} {times[0]:.6g} s, {times[1]:.6g} s, ratio {share:.5f}")
    # Tables keep six digits.
    return Finding(Status.PROVED if worst < 1e-5 else Status.NOT, "; ".join(parts))


def agree(table: Table) -> Finding:
    """Judge: the simulator's iterations are the law's, and no size beats a full tile."""
    simulated = table.where(kind="simulated")
    law = [_at(table, n, "time", kind="theory") for n in simulated["tokens"]]
    off = float(np.abs(simulated["time"] / law - 1).max())
    best = float(table.where(quantity="tiles")["efficiency"].max())
    full = _at(table, TILE, "efficiency", kind="theory")
    good = off < 2e-6 and best <= full + 1e-6
    return Finding(
        Status.PROVED if good else Status.NOT,
        f"largest difference {off:.1g} over {len(simulated)} sizes; best efficiency {best:.5g}, "
        f"that of {TILE} tokens {full:.5g}",
    )


CLAIMS = (
    Claim(
        id="RAD-TILE-1",
        text="A token beyond a full tile of 128 costs a tile: T(128) = 4640 us, T(129) = 8645 us, "
        "and 129 tokens are served at 0.54092 of the rate of 128.",
        source=SOURCE,
        judge=staircase,
        figure="rad_tiling",
        least=Status.PROVED,
        test="test_rad.py::test_staircase_can_fail",
    ),
    Claim(
        id="RAD-TILE-2",
        text="No batch size beats full tiles, and the simulator runs every size in the law's time.",
        source=SOURCE,
        judge=agree,
        figure="rad_tiling",
        least=Status.PROVED,
        test="test_rad.py::test_staircase_can_fail",
    ),
)
