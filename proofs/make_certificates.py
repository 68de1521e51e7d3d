"""Write the shipped certificates: ``python -m proofs.make_certificates [FOLDER]``.

Instances are the oracles of the theory tests (O1-O4, O6, O13, O15, O16, O24, O25) and small engines
for the drift bounds. The checker does not need this file; it is here so that anyone can make the
certificates again.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

from llmq.model.conventions import THEORY
from llmq.model.engine import Engine
from llmq.model.fleet import Fleet
from llmq.model.lengths import Lengths
from llmq.model.request import RequestClass
from llmq.model.time.batchtime import BatchTime
from llmq.optimality.saturation.fluid import Stations, certify_fluid, fluid_cycle
from llmq.theory.chains._examples import decode_first, slot_engine
from llmq.theory.planning_lp._configurations import Knapsack
from llmq.theory.planning_lp._static import Need, PlanningProblem, Pool
from llmq.theory.region._certificate import Certificate, certify_problem
from llmq.theory.region._certify import certify
from llmq.theory.stability.drift import constants, maxweight
from llmq.theory.stability.finite import certify_chain, certify_network, certify_tiles

FOLDER = Path(__file__).parent / "certificates"
DAI = BatchTime.tiled(base=11.28, per_tile=35.47, tile=128)  # milliseconds


def certificates() -> Iterator[tuple[str, Certificate]]:
    """Yield name and certificate of each instance.

    Yields
    ------
    tuple of str and Certificate
        Rates per millisecond (O1, O2, O4, O6, O24), per second elsewhere.
    """
    one = Engine(DAI, token_budget=512, conventions=THEORY)
    dai = {"x": RequestClass(129, 112)}
    yield "o1-optimal", certify(one, {"x": RequestClass(100, 100)}, {"x": 0.01})
    # A tenth above the capacity of 12800 / 3829 tokens per millisecond.
    above = Fraction(11, 10) * Fraction(12_800, 3829) / 200
    yield "o1-unstable", certify(one, {"x": RequestClass(100, 100)}, {"x": above})
    slots = one.with_(max_seqs=100)
    yield "o2-optimal", certify(slots, dai, {"x": 0.01})
    yield "o2-unstable", certify(slots, dai, {"x": 0.013})
    yield "o2-stable", certify(slots.with_(token_budget=1024), dai, {"x": 0.012}, "stable_rate")
    rad = BatchTime.tiled(base=0, per_tile=4000e-6, tile=128, per_token=5e-6)
    yield (
        "o3-unstable",
        certify(
            Engine(rad, token_budget=1024, conventions=THEORY),
            {"x": RequestClass(500, 260)},
            {"x": 37},
        ),
    )
    tile = Engine(BatchTime.tiled(base=2, per_tile=10, tile=64), 100, conventions=THEORY)
    yield "o4-optimal", certify(tile, {"x": RequestClass(4, 4)}, {"x": 0.5})
    yield from _fleets()
    yield "o13-optimal", certify_problem(_small(Fraction(1)), "optimal_load")
    yield "o13-unstable", certify_problem(_small(Fraction(1)), "unstable")
    yield "o13-stable", certify_problem(_small(Fraction(1, 3)), "stable_rate")
    yield from _drifts()
    yield from _finite()


def _fleets() -> Iterator[tuple[str, Certificate]]:
    fast = Engine(BatchTime.affine(base=10, per_token=1 / 20), 2048, conventions=THEORY)
    slow = Engine(BatchTime.affine(base=16, per_token=1 / 8), 512, conventions=THEORY)
    o6 = Fleet({"fast": (fast, 2), "slow": (slow, 3)}, eligible={"rag": ("fast",)})
    mix = {"chat": RequestClass(200, 200), "rag": RequestClass(2000, 100)}
    yield "o6-optimal", certify(o6, mix, {"chat": 0.03, "rag": 0.005})
    yield "o6-unstable", certify(o6, mix, {"chat": 0.03, "rag": 0.018})
    yield "o6-stable", certify(o6, mix, {"chat": 0.03, "rag": 0.005}, "stable_rate")
    prefill = Engine(BatchTime.affine(base=8, per_token=1 / 16), 4096, conventions=THEORY)
    decode = Engine(
        BatchTime.affine(base=12, per_token=1 / 50, per_kv=1 / 20_000),
        256,
        kv_tokens=120_000,
        conventions=THEORY,
    )
    o24 = Fleet({"p": (prefill, 9), "d": (decode, 7)}, roles={"p": "prefill", "d": "decode"})
    yield "o24-unstable", certify(o24, {"x": RequestClass(1024, 256)}, {"x": 0.15})
    law = BatchTime.affine(base=0.012, per_token=2.5e-5, per_kv=1e-8)
    o25 = Engine(
        law,
        token_budget=2048,
        max_seqs=128,
        kv_tokens=120_000,
        kv_block=1,
        prefill_chunk=512,
    )
    pair = {"one": RequestClass(512, 129), "two": RequestClass(2048, 257)}
    yield "o25-optimal", certify(o25, pair, {"one": 10, "two": 2})
    yield "o25-unstable", certify(o25, pair, {"one": 21, "two": 4.2})


def _drifts() -> Iterator[tuple[str, Certificate]]:
    """C4 and C6, per second."""
    law = BatchTime.tiled(base=0.01128, per_tile=0.03547, tile=128)
    chat = {"chat": RequestClass(Lengths.uniform(50, 150), Lengths.uniform(80, 120))}
    yield "drift-sarathi", constants(Engine(law, 512), chat, {"chat": 15}).certificate()
    skewed = {"x": RequestClass(Lengths.lognormal(mean=300, sigma=1, low=4, high=2048), 64)}
    room = Engine(law, 256, max_seqs=256, kv_tokens=600_000)
    yield "drift-sarathi-weighted", constants(room, skewed, {"x": 7}).certificate()
    rad = BatchTime.tiled(base=0, per_tile=4000e-6, tile=128, per_token=5e-6)
    mean = {"x": RequestClass(512, 248)}
    engine = Engine(rad, token_budget=1024, conventions=THEORY)
    yield "o3-drift-rad", constants(engine, mean, {"x": 33}, policy="rad").certificate()
    batches = Knapsack(16, ("short", "long"), (1, 4), (((1, 2), 24),))
    streams: dict[str, tuple[float, Lengths | int]] = {}
    streams["short"], streams["long"] = (30.0, Lengths.uniform(1, 7)), (10.0, 16)
    affine = BatchTime.affine(base=0.01, per_token=0.001)
    yield "maxweight", maxweight(affine, batches, streams).certificate()


def _finite() -> Iterator[tuple[str, Certificate]]:
    """C5, C7, C8 and fluid cycles."""
    for name, first, second in (("a", 0.1, 0.4), ("b", 0.1, 0.49), ("c", 0.55, 0.44)):
        classes = {
            "station": ("s1", "s2", "s2", "s1"),
            "mean_service": (first, second) * 2,
            "successor": (1, None, 3, None),
            "arrivals": (1, 0, 1, 0),
        }
        yield f"o15-agents-{name}", certify_network(**classes)
    for name, station, order in (
        ("two-types", (0, 1, 1, 0), (1, 3, 0, 2)),
        ("one-type", (0, 1, 1, 0), (3, 1, 0, 2)),
    ):
        after = (1, None, 3, None) if name == "two-types" else (1, 2, 3, None)
        arrivals = tuple(map(Fraction, (1, 0, 1, 0) if name == "two-types" else (1, 0, 0, 0)))
        work = (Fraction(2), Fraction(3)) * 2
        net = Stations(station, work, after, arrivals, order).scaled(Fraction(9, 10))
        found = fluid_cycle(net)
        assert found is not None
        yield f"fluid-{name}", certify_fluid(net, found)
    slots = slot_engine(Fraction(3, 10), capacity=4)
    present = {"present": slots.present}
    yield "o16-chain", certify_chain(slots.chain(decode_first), present)
    yield "o1-tiles", certify_tiles(BatchTime.tiled(base=0.01128, per_tile=0.03547, tile=128), 512)
    yield "o4-tiles", certify_tiles(BatchTime.tiled(base=2, per_tile=10, tile=64), 100)


def _small(scale: Fraction) -> PlanningProblem:
    buffers = ("A.prefill", "A.decode", "B.prefill", "B.decode")
    batches = Knapsack(16, buffers, (4, 1, 4, 1), (((1, 10, 1, 24), 96),))
    needs = {
        "A": Need({"A.prefill": Fraction(8), "A.decode": Fraction(6)}),
        "B": Need({"B.prefill": Fraction(16), "B.decode": Fraction(12)}),
    }
    pool = Pool(1, BatchTime.tiled(base=3, per_tile=2, tile=4), batches, {}, needs)
    rates = {"A": scale / 10, "B": scale / 20}
    return PlanningProblem({"engine": pool}, rates, {"A": (("engine",),), "B": (("engine",),)})


def main(arguments: list[str]) -> None:
    """Write all certificates into a folder.

    Parameters
    ----------
    arguments : list of str
        The folder; the shipped one if empty.
    """
    folder = Path(arguments[0]) if arguments else FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    for name, certificate in certificates():
        certificate.save(folder / f"{name}.json")


if __name__ == "__main__":
    main(sys.argv[1:])
