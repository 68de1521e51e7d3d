"""What a request costs on each GPU, and what it pays for: prompt, decodes, slots, memory.

The price of a class is what one more request per second adds to the load (GPU-seconds a request,
by duality the least that any schedule can spend at the margin). It splits exactly into what the
binding facet charges for prompt tokens, decode tokens, chunks in slots and scarce KV memory, and
what attention takes: the work of the prefill and the reading of KV.

Setting: Llama-3.1-8B on one GPU of each type of the catalogue, vLLM's default limits; chat (512,
128), code (2048, 256) and reasoning (200, 2000) requests, equally many.
"""

from __future__ import annotations

import numpy as np

import llmq
from experiments.claim import Claim, Finding, Status
from experiments.runner import PLAIN, Point, Row, Runner, Scale
from experiments.table import Table
from llmq.rng import RngLike
from llmq.theory.needs._held import read_rates
from llmq.theory.needs.demand import demand
from llmq.units import as_fraction

TITLE = "Prices of requests on seven GPUs, taken apart"
SEED = 7
SOURCE = "llmq catalogue (fitted laws), Theorem U; prices are dual values"
GPUS = ("l40s", "a100", "rtxpro6000", "h100", "h200", "gb200", "b200")
MIX = {
    "chat": llmq.RequestClass(512, 128),
    "code": llmq.RequestClass(2048, 256),
    "reasoning": llmq.RequestClass(200, 2000),
}
PARTS = ("prompt", "attention", "decode", "KV reads", "slots", "memory")


def one(point: Point, _: np.random.SeedSequence) -> list[Row]:
    """Take the prices on one GPU apart."""
    engine = llmq.load_engine(f"llama-3.1-8b/{point['gpu']}")
    law = engine.law
    first, then = map(as_fraction, read_rates(law))
    region = llmq.stability_region(engine, MIX)
    rates = dict.fromkeys(MIX, 1.0)
    binds = region.binding(rates)[0]
    facet = next(facet for facet in region.facets() if facet.resource == binds)
    rows: list[Row] = []
    for (name, request), whole in zip(MIX.items(), facet.exact, strict=True):
        need, price = demand(request, engine), facet.prices
        parts = {
            "prompt": need.prompt * price.prompt,
            "attention": need.work * as_fraction(law.per_work),
            "decode": need.decodes * price.decode,
            "KV reads": need.prefill_area * first + need.decode_area * then,
            "slots": need.chunks * price.chunk,
            "memory": need.memory * price.area,
        }
        for part, value in parts.items():
            rows.append(
                {
                    "gpu": point["gpu"],
                    "klass": name,
                    "kind": "theory",
                    "binds": binds,
                    "part": part,
                    "price": float(value),
                    "whole": float(whole),
                    "rest": float(whole - sum(parts.values())),
                }
            )
    return rows


def compute(*, scale: Scale = "small", rng: RngLike = SEED, runner: Runner = PLAIN) -> Table:
    """Compute prices on every GPU.

    Parameters
    ----------
    scale : {"small", "full"}
        Two GPUs or all.
    rng : Generator, SeedSequence, int or None
        Not used.
    runner : Runner
        How points are computed.

    Returns
    -------
    Table
        GPU-seconds of each part of each price.
    """
    some = ("a100", "h100") if scale == "small" else GPUS
    rows = runner.run(one, [{"gpu": gpu} for gpu in some], rng)
    units = dict.fromkeys(("price", "whole", "rest"), "GPU-s a request")
    return Table.of("price_gpus", rows, units=units, about={"source": SOURCE})


def adds_up(table: Table) -> Finding:
    """Judge: the parts are the price."""
    total: dict[tuple[str, str], float] = {}
    for row in table.rows():
        key = row["gpu"], row["klass"]
        total[key] = total.get(key, 0.0) + row["price"]
    gaps = [
        abs(total[row["gpu"], row["klass"]] / row["whole"] - 1) + abs(row["rest"])
        for row in table.rows()
    ]
    good = max(gaps) < 1e-4  # the table keeps six digits
    return Finding(Status.PROVED if good else Status.NOT, f"largest gap {max(gaps):.1g}")


CLAIMS = (
    Claim(
        id="OURS-PRICE-1",
        text="A price is the sum of what the binding facet charges for prompt, decodes, slots and "
        "memory, and what attention takes, exactly.",
        source=SOURCE,
        judge=adds_up,
        figure="price_gpus",
        least=Status.PROVED,
        test="test_ours.py::test_prices_can_fail",
    ),
)
