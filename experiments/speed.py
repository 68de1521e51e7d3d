"""How fast: requests per CPU-second of each simulator, beside a plain loop on the same requests.

    LLMQ_DATA=... python -m experiments.speed [--repeat 5]

Five workloads: one path (``bench/w10k.csv``: 10,000 requests, Poisson 6/s, affine law, token budget
512, 128 slots); requests of the same laws drawn anew in each replication, under the affine law,
under tiles and under a measured staircase (:mod:`experiments.speed_vector`); OpenChat's lengths
(:mod:`experiments.speed_slots`); a reasoning workload on eight engines
(:mod:`experiments.speed_pascal`). For each the yardstick is :mod:`experiments.plain_loop` on some
10,000 of the very requests, timed in turn with the others, so that a machine that slows down slows
them all. A ratio stands only where both do the same work: decodes first, no memory limit that
binds, the same event times. SLAI, PASCAL, RAD and runs that count KV blocks do more than the loop,
so they get a rate and no ratio. Also: memory per live request, and what an import costs.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import llmq
from experiments import speed_pascal, speed_slots, speed_vector
from experiments.plain_loop import BUDGET, KV, LAW, SLOTS, cpu, plain_loop
from llmq.planning.max_rate import MaxRate
from llmq.sim._fast.calendar.engine import CalendarEngine
from llmq.sim._fast.slots.engine import run_slots
from llmq.sim._fast.vector.engine import Lanes
from llmq.sim.results._log import Job, Log

YARDSTICK = "plain loop: "
SARATHI = llmq.policies.Sarathi()
CHIP = speed_vector.CHIP


@dataclass(frozen=True, slots=True)
class Case:
    """A call to be timed.

    Parameters
    ----------
    name : str
        What runs.
    requests : int
        Requests it serves.
    call : callable
        The call.
    same_as : str
        The workload whose plain loop does the same work; empty if none does.
    target : float
        Requests per CPU-second that the project set itself on its own machine; NaN if none.
    """

    name: str
    requests: int
    call: Callable[[], object]
    same_as: str = ""
    target: float = float("nan")


def plain(engine: llmq.Engine, lanes: Lanes) -> Callable[[], list[tuple[list[float], ...]]]:
    """Return the plain loop over all lanes, one after the other.

    Parameters
    ----------
    engine : Engine
        Its law, token budget and slots; its memory is not looked at.
    lanes : Lanes
        The requests.

    Returns
    -------
    callable
        Returns first-token and finish times, by lane.
    """
    law, budget = engine.law, engine.token_budget
    curve = [0.0, *law(np.arange(1, budget + 1)).tolist()]
    columns = [
        [x.tolist() for x in row]
        for row in zip(
            lanes.arrival, lanes.prompt.astype(int), lanes.output.astype(int), strict=True
        )
    ]

    def call() -> list[tuple[list[float], ...]]:
        return [
            plain_loop(
                *column,
                curve=curve,
                per_kv=law.per_kv,
                per_kv_mixed=law.per_kv_mixed,
                per_work=law.per_work,
                max_seqs=engine.max_seqs or sys.maxsize,
            )[:2]
            for column in columns
        ]

    return call


def yardsticks(data: Path, short: bool = False) -> Iterator[tuple[str, llmq.Engine, Lanes]]:
    """Name each workload, its engine without a memory limit, and some 10,000 of its requests.

    Parameters
    ----------
    data : Path
        Folder with ``bench/`` and ``traces/``.
    short : bool
        A few hundred requests of each, for a test.

    Yields
    ------
    tuple of str, Engine and Lanes
        The lanes are the first ones that the timed calls serve.
    """
    yield "one path", CHIP, _lane(llmq.read_trace(data / "bench" / "w10k.csv"), 300 if short else 0)
    drawn = _first(speed_vector.draw(1024, 500), 1 if short else 20)
    yield "drawn", CHIP, drawn
    yield "staircase", speed_vector.STAIRS, drawn
    yield "tiled", speed_vector.TILED.with_(conventions=llmq.ENGINE), drawn
    chat = _openchat(data)
    yield "OpenChat", ada().with_(kv_tokens=None), _first(chat, 1 if short else 25)
    work = speed_pascal.draw("reasoning-alpaca", 10.0, 1 if short else 10, 1000, seed=7)
    chip = speed_pascal.chip().with_(kv_tokens=None, token_budget=4096)
    dealt = [
        Lanes(*(work[name][:, i::8].astype(float) for name in ("arrival", "prompt", "output")))
        for i in range(1 if short else 8)
    ]
    columns = ("arrival", "prompt", "output")
    yield (
        "eight engines",
        chip,
        Lanes(*(np.vstack([getattr(x, c) for x in dealt]) for c in columns)),
    )


def ada() -> llmq.Engine:
    """Return the engine of the SLAI paper, with the budget of its setting."""
    return llmq.load_engine("mistral-7b/rtx6000ada")


def _lane(trace: llmq.Trace, head: int) -> Lanes:
    """Make a lane of a trace."""
    some = trace.head(head) if head else trace
    return Lanes(
        some.arrival[None], some.prompt[None].astype(float), some.output[None].astype(float)
    )


def _first(lanes: Lanes, n: int) -> Lanes:
    """Keep the first lanes."""
    return Lanes(lanes.arrival[:n], lanes.prompt[:n], lanes.output[:n])


def _openchat(data: Path) -> Lanes:
    """Draw OpenChat's requests."""
    path = data / "traces" / "openchat_sharegpt4_lengths.csv"
    lanes = speed_slots.openchat(path, 256, 400, speed_slots.RATE)
    return Lanes(lanes.arrival, lanes.prompt.astype(float), lanes.output.astype(float))


def calendar(chip: llmq.Engine, trace: llmq.Trace) -> CalendarEngine:
    """Return the calendar engine with all requests queued, not yet run."""
    lists = [x.tolist() for x in (trace.arrival, trace.prompt, trace.output, trace.reasoning)]
    server = CalendarEngine(Job(chip, SARATHI, *lists), Log.empty(len(trace)))
    server.queue.extend(range(len(trace)))
    return server


def cases(data: Path) -> list[Case]:
    """List the calls to be timed, yardsticks first."""
    found = []
    for name, engine, lanes in yardsticks(data):
        found.append(Case(YARDSTICK + name, lanes.arrival.size, plain(engine, lanes)))
    return [*found, *_one_path(data), *_drawn(), *_others(data)]


def _one_path(data: Path) -> list[Case]:
    """List the simulators of a single path."""
    trace = llmq.read_trace(data / "bench" / "w10k.csv")
    limited, n, short = CHIP.with_(kv_tokens=KV), len(trace), trace.head(500)

    def path(chip: llmq.Engine, what: llmq.Trace, engine: str) -> Callable[[], object]:
        return lambda: llmq.simulate(chip, what, SARATHI, simulator=engine)  # type: ignore[call-overload]

    return [
        Case("simulate, one path", n, path(CHIP, trace, "calendar"), "one path", 200_000),
        Case("simulate, one path, KV blocks", n, path(limited, trace, "calendar")),
        Case(
            "calendar alone, one path",
            n,
            lambda: calendar(CHIP, trace).advance(float("inf")),
            "one path",
        ),
        Case("reference, row by row (500 requests)", 500, path(limited, short, "reference")),
    ]


def _drawn() -> list[Case]:
    """List the simulators of many replications of the drawn workload."""
    many, some = speed_vector.draw(1024, 500), speed_vector.draw(256, 500)
    run, tiled = speed_vector.vector, speed_vector.TILED
    work, chip = capacity_case()
    return [
        Case("lockstep, R = 1024", 512_000, run(CHIP, SARATHI, many), "drawn", 1_000_000),
        Case(
            "lockstep, R = 1024, KV blocks", 512_000, run(CHIP.with_(kv_tokens=KV), SARATHI, many)
        ),
        Case(
            "lockstep, R = 1024, staircase",
            512_000,
            run(speed_vector.STAIRS, SARATHI, many),
            "staircase",
        ),
        Case(
            "lockstep, R = 1024, tiled",
            512_000,
            run(tiled.with_(conventions=llmq.ENGINE), SARATHI, many),
            "tiled",
        ),
        Case("lockstep, R = 256", 128_000, run(CHIP, SARATHI, some), "drawn", 350_000),
        Case(
            "RAD, R = 1024, tiled",
            512_000,
            run(tiled, llmq.policies.RAD(tile=speed_vector.TILE), many),
            target=600_000,
        ),
        Case(
            "simulate, R = 1024, all of it",
            512_000,
            lambda: llmq.simulate(chip, work, SARATHI, replications=1024, requests=500, rng=7),
            "drawn",
        ),
    ]


def _others(data: Path) -> list[Case]:
    """List SLAI on OpenChat's lengths and PASCAL on eight engines, with Sarathi on the same."""
    chat, engine = _openchat(data), ada()
    paying = np.random.default_rng(2).random(chat.arrival.shape) < speed_slots.PAYING
    klass, names, policy = paying.astype(np.int64), ("free", "paying"), speed_slots.POLICY
    free = engine.with_(kv_tokens=None)
    found = [
        Case(
            "lockstep, OpenChat, R = 256",
            chat.arrival.size,
            speed_vector.vector(free, SARATHI, chat),
            "OpenChat",
        ),
        Case(
            "SLAI, OpenChat, R = 256",
            chat.arrival.size,
            lambda: run_slots(engine, policy, chat, klass, names),
            target=45_000,
        ),
    ]
    fleet = llmq.Fleet({"all": (speed_pascal.chip().with_(kv_tokens=None, token_budget=4096), 8)})
    work = llmq.load_workload("reasoning-alpaca", 10.0)
    found.append(
        Case(
            "simulate, eight engines, R = 64",
            64_000,
            lambda: llmq.simulate(fleet, work, SARATHI, replications=64, requests=1000, rng=7),
            "eight engines",
        )
    )
    for rate, target in ((10.0, 20_000.0), (15.0, float("nan"))):
        call = speed_pascal.lockstep(llmq.policies.PASCAL(), rate, 64, 1000)
        found.append(Case(f"PASCAL, eight engines, {rate:g}/s, R = 64", 64_000, call, "", target))
    return found


def capacity_case() -> tuple[llmq.Workload, llmq.Engine]:
    """Return the workload of w10k as laws of lengths, and its engine."""
    law = llmq.RequestClass(
        llmq.Lengths.lognormal(mean=500, sigma=0.9, low=4, high=2048),
        llmq.Lengths.lognormal(mean=260, sigma=0.8, low=4, high=1024),
    )
    return llmq.Workload.poisson(6.0, {"chat": law}), CHIP


def capacity_search() -> MaxRate:
    """Find the highest rate with p99 TTFT <= 1 s and p99 TPOT <= 50 ms."""
    work, chip = capacity_case()
    return llmq.max_rate(chip, work, llmq.SLO(ttft=1.0, tpot=0.05, quantile=0.99), rng=1)


def process_cost(code: str, repeat: int = 5) -> float:
    """CPU-seconds of a fresh interpreter that runs some code, the best of several."""
    best = float("inf")
    for _ in range(repeat):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        best = min(best, used)
    return best


def import_cost(repeat: int = 5) -> float:
    """CPU-seconds of ``import llmq`` in a process that has NumPy already, the best of several."""
    code = (
        "import numpy, time; start = time.process_time(); import llmq; "
        "print(time.process_time() - start)"
    )
    runs = [
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
        for _ in range(repeat)
    ]
    return min(float(run.stdout) for run in runs)


def peak_memory(data: Path, requests: int) -> float:
    """Peak bytes while the calendar runs, beyond the times that it keeps of each request."""
    base = llmq.read_trace(data / "bench" / "w1k.csv")
    copies = -(-requests // len(base))
    shift = np.repeat(np.arange(copies) * (base.span + 1), len(base))
    trace = llmq.Trace(
        np.tile(base.arrival, copies) + shift,
        np.tile(base.prompt, copies),
        np.tile(base.output, copies),
    )
    chip = llmq.Engine(
        llmq.BatchTime.affine(**LAW), token_budget=BUDGET, max_seqs=SLOTS, kv_tokens=KV
    )
    server = calendar(chip, trace)
    tracemalloc.start()
    server.advance(float("inf"))
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return float(peak - kept)


def plan_azure(path: Path) -> None:
    """Plan the Azure conversation trace for p99 targets, from the file to the answer."""
    slo = llmq.SLO(ttft=0.5, tpot=0.05, quantile=0.99)
    trace = llmq.read_trace(path).scaled(factor=10)
    llmq.plan_capacity(trace, slo, llmq.load_engine("llama-3.1-8b/h100"))


def rates(data: Path, repeat: int) -> list[tuple[Case, float]]:
    """Time every case in turn.

    Parameters
    ----------
    data : Path
        Folder with ``bench/w10k.csv``.
    repeat : int
        Rounds; the best of each case counts.

    Returns
    -------
    list of Case and float
        Requests per CPU-second, the yardsticks first.
    """
    table = cases(data)
    best = dict.fromkeys((case.name for case in table), float("inf"))
    for _ in range(repeat):
        for case in table:
            best[case.name] = min(best[case.name], cpu(case.call))
    return [(case, case.requests / best[case.name]) for case in table]


def ratio(case: Case, found: dict[str, float]) -> float:
    """Return the multiple of the plain loop on the same requests; NaN where none does the same."""
    return found[case.name] / found.get(YARDSTICK + case.same_as, float("nan"))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--repeat", type=int, default=5, help="rounds; the best of each counts")
    parser.add_argument("--data", default=os.environ.get("LLMQ_DATA"), help="folder of the data")
    args = parser.parse_args()
    if not args.data:
        parser.exit(2, "speed: set LLMQ_DATA or give --data: the folder with bench/w10k.csv\n")
    data = Path(args.data)
    azure = data / "traces" / "azure_llm_2023_conv.csv"
    timed = rates(data, args.repeat)
    found = {case.name: rate for case, rate in timed}
    print(f"{'':42s} {'req/CPU-s':>10s} {'x loop':>8s} {'target':>10s}")
    for case, rate in timed:
        times, target = ratio(case, found), case.target
        shown = "" if np.isnan(times) else f"{times:.2f}"
        print(
            f"{case.name:42s} {rate:10,.0f} {shown:>8s} "
            f"{'' if np.isnan(target) else f'{target:,.0f}':>10s}"
        )
    search = min(cpu(capacity_search) for _ in range(args.repeat))
    print(f"capacity search, 8 probes x 2000 requests with an interval: {search:.2f} CPU-s (0.3)")
    small, large = peak_memory(data, 1_000), peak_memory(data, 20_000)
    print(
        f"calendar's own peak memory: {small / 1e3:.0f} kB for 1,000 requests, "
        f"{large / 1e3:.0f} kB for 20,000"
    )
    seconds = min(cpu(lambda: llmq.read_trace(azure)) for _ in range(args.repeat))
    plan = min(cpu(lambda: plan_azure(azure)) for _ in range(2))
    print(f"read the Azure trace: {seconds:.2f} CPU-s; plan it: {plan:.2f} CPU-s")
    helped = process_cost("from llmq.cli import main; main(['--help'])")
    print(
        f"import llmq beyond NumPy: {1e3 * import_cost():.1f} ms CPU; "
        f"llmq --help: {helped:.2f} CPU-s"
    )


if __name__ == "__main__":
    main()
