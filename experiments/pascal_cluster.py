"""PASCAL against FCFS and round robin, on a single engine and on a cluster.

    python -m experiments.pascal_cluster [--full]

Cluster: eight engines of the substitute latency model (23.5 ms, 0.16 ms a sequence, 97.8 ns a KV
token, swaps 5.24 us a token), 90,000 KV tokens each, link 100 Gbit/s, the reconstructed workloads
``reasoning-alpaca`` (4,000 requests) and ``reasoning-arena`` (3,000) just beyond the capacity, so
that results depend on the number of requests. The law has one slope: a prompt token takes 0.16 ms,
0.03 ms more than in the model, 2 to 7 ms a request; decodes are exact. Tail TTFT by bins of 256
reasoning tokens: the maximum of 5 to 9 requests, P90 of 10 to 19, P95 of 20 to 99, P99 of more,
all seeds together.

Characterisation: one engine, 45,000 KV tokens, 300 requests with prompts of 128 and 128 to 2,048
reasoning tokens; mean reasoning latency over that with unlimited memory.

Cho et al., PASCAL, arXiv 2602.11530, sections III and V. Neither rates nor the number of requests
are published. QUOTED holds its largest cuts at its highest rate, EARLIER those of a simulation
with other code at the rates of CASES.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from experiments.speed_pascal import LINK, chip
from llmq import policies
from llmq.io.workloads import load_workload
from llmq.model.engine import Engine
from llmq.policies import Policy
from llmq.sim.ranked import RankedLog, run_ranked

__all__ = ["capacity", "characterise", "cluster", "compute", "main", "tail_by_bin"]

Floats = npt.NDArray[np.float64]

BIN = 256
GRID = (128, 256, 512, 1024, 2048)
# Requests per second: 1.05, 1.13 and 1.20 of what the fluid model carries (Alpaca; Arena two).
CASES = {"reasoning-alpaca": (4000, (14.0, 15.0, 16.0)), "reasoning-arena": (3000, (6.0, 6.5))}
# Largest cut of the tail TTFT against FCFS and round robin.
QUOTED = {"reasoning-alpaca": (0.61, 0.33), "reasoning-arena": (0.72, 0.29)}
EARLIER = {
    "reasoning-alpaca": ((0.27, 0.07), (0.57, 0.21), (0.64, 0.26)),
    "reasoning-arena": ((0.68, 0.17), (0.82, 0.40)),
}
POLICIES: dict[str, Policy] = {
    "FCFS": policies.FCFS(),
    "RR": policies.RR(),
    "PASCAL": policies.PASCAL(),
    "NonAdaptive": policies.PASCAL(adaptive=False),
    "NoMigration": policies.PASCAL(migrate=False),
}


@dataclass(frozen=True)
class Paths:
    """Requests of all replications, rate after rate."""

    arrival: Floats
    prompt: npt.NDArray[np.int64]
    output: npt.NDArray[np.int64]
    hidden: npt.NDArray[np.int64]

    def run(self, engines: list[Engine], policy: Policy) -> RankedLog:
        """Serve them."""
        log = run_ranked(engines, policy, self.arrival, self.prompt, self.output, self.hidden, LINK)
        assert not log.undone.any()
        return log


def draw(name: str, requests: int, rates: tuple[float, ...], seeds: int, rng: int) -> Paths:
    """Draw the requests; all rates see the same lengths."""
    traces = [
        load_workload(name, rate).sample(requests, one)
        for rate in rates
        for one in np.random.SeedSequence(rng).spawn(seeds)
    ]
    columns = ("arrival", "prompt", "output", "reasoning")
    return Paths(*(np.stack([getattr(t, c) for t in traces]) for c in columns))


def capacity(paths: Paths, engine: Engine, engines: int) -> float:
    """Return the requests per second of the fluid model whose batch fills the memory."""
    p, n = paths.prompt.mean(), paths.output.mean()
    per_row = float(np.mean(paths.prompt * paths.output + paths.output**2 / 2)) / n
    room = float(engine.kv_tokens or np.inf)
    batch = min(float(engine.max_seqs or np.inf), room / per_row)
    seconds = engine.law.token_time(1) + engine.law.per_token * (batch - 1)
    seconds += engine.law.per_kv * batch * per_row
    return float(engines / (n * seconds / batch + engine.law.per_token * p))


def tail_by_bin(hidden: npt.NDArray[np.int64], ttft: Floats) -> dict[int, tuple[float, int]]:
    """Tail TTFT of each bin of reasoning tokens that holds enough requests.

    Parameters
    ----------
    hidden : ndarray of int
        Reasoning tokens.
    ttft : ndarray
        Seconds.

    Returns
    -------
    dict of int to tuple
        Seconds and requests by bin.

    Examples
    --------
    >>> tail_by_bin(np.array([0, 1, 2, 3, 255, 256]), np.arange(6.0))
    {0: (4.0, 5)}
    """
    found = {}
    bins = hidden // BIN
    for one in np.unique(bins).tolist():
        mine = ttft[bins == one]
        n = len(mine)
        if n >= 5:
            percent = 100 if n < 10 else 90 if n < 20 else 95 if n < 100 else 99
            found[one] = float(np.percentile(mine, percent)), n
    return found


Tails = dict[int, tuple[float, int]]


def _against(mine: Tails, theirs: Tails) -> dict[str, float]:
    """Largest cut over bins, as a share and in seconds; largest loss, of well-filled bins too."""
    share = {b: 1 - mine[b][0] / theirs[b][0] for b in mine}
    return {
        "cut": max(share.values()),
        "seconds": max(theirs[b][0] - mine[b][0] for b in mine),
        "loss": -min(share.values()),
        "loss (100)": -min(x for b, x in share.items() if mine[b][1] >= 100),
    }


def cluster(
    name: str, *, requests: int, rates: tuple[float, ...], seeds: int, engines: int, kv_tokens: int,
    rng: int,
) -> list[dict[str, float]]:  # fmt: skip
    """Run one workload at several rates under all policies.

    Parameters
    ----------
    name : str
        The workload.
    requests : int
        Of each path.
    rates : tuple of float
        Requests per second.
    seeds : int
        Paths at each rate.
    engines, kv_tokens : int
        The fleet.
    rng : int
        Seed.

    Returns
    -------
    list of dict
        A row for each rate.
    """
    paths, engine = draw(name, requests, rates, seeds, rng), chip(kv_tokens)
    limit = capacity(paths, engine, engines)
    logs = {title: paths.run([engine] * engines, policy) for title, policy in POLICIES.items()}
    rows = []
    for i, rate in enumerate(rates):
        some = slice(i * seeds, (i + 1) * seeds)
        tails = {
            title: tail_by_bin(
                paths.hidden[some].ravel(), (log.first_token - paths.arrival)[some].ravel()
            )
            for title, log in logs.items()
        }
        row = {"rate": rate, "rho": rate / limit}
        for other in ("FCFS", "RR"):
            found = _against(tails["PASCAL"], tails[other])
            row |= {f"{key} vs {other}": value for key, value in found.items()}
        for title, log in logs.items():
            row[f"late {title}"] = float(np.mean(log.qoe[some] < 0.95))
            span = log.finish[some].max(axis=1) - paths.arrival[some, 0]
            row[f"tokens/s {title}"] = float(np.mean(paths.output[some].sum(axis=1) / span))
            wait = (log.resumed - log.boundary)[some]
            row[f"blocked {title}"] = float(np.nanpercentile(wait, 99))
        moved = logs["PASCAL"].transfer[some]
        row["moved"] = float(np.mean(np.isfinite(moved)))
        row["transfer"] = float(np.nanpercentile(moved, 99))
        e2e = {t: np.percentile((logs[t].finish - paths.arrival)[some], [50, 99]) for t in logs}
        median, tail = e2e["NonAdaptive"] / e2e["PASCAL"] - 1
        row |= {"e2e median NonAdaptive": float(median), "e2e tail NonAdaptive": float(tail)}
        rows.append(row)
    return rows


def characterise(*, rate: float, seeds: int, requests: int = 300, rng: int) -> dict[str, Floats]:
    """Mean reasoning latency on one engine over that with unlimited memory.

    Parameters
    ----------
    rate : float
        Requests per second.
    seeds, requests : int
        Paths and requests of each.
    rng : int
        Seed.

    Returns
    -------
    dict of str to ndarray
        Ratios at 128, 256, 512, 1,024 and 2,048 reasoning tokens, by policy.
    """
    source, shape = np.random.default_rng(rng), (seeds, requests)
    hidden = source.choice(GRID, shape)
    arrival = np.cumsum(source.exponential(1 / rate, shape), axis=1)
    paths = Paths(arrival, np.full(shape, 128), hidden + 1, hidden)
    roomy = chip().with_(kv_tokens=None, max_seqs=None)
    best = paths.run([roomy], policies.FCFS()).boundary - arrival

    def ratio(policy: Policy) -> Floats:
        took = paths.run([chip(45_000)], policy).boundary - arrival
        return np.array([took[hidden == n].mean() / best[hidden == n].mean() for n in GRID])

    return {title: ratio(POLICIES[title]) for title in ("FCFS", "RR", "PASCAL")}


def compute(*, scale: float = 1.0, rng: int = 7) -> dict[str, object]:
    """Compute all tables.

    Parameters
    ----------
    scale : float
        Share of the five (cluster) and ten (characterisation) seeds.
    rng : int
        Seed.

    Returns
    -------
    dict
        Rows of each workload, ratios at each rate.
    """
    seeds = max(1, round(5 * scale))
    table: dict[str, object] = {
        name: cluster(
            name, requests=requests, rates=rates, seeds=seeds, engines=8, kv_tokens=90_000, rng=rng
        )
        for name, (requests, rates) in CASES.items()
    }
    for rate in (3.0, 3.5):
        table[f"characterisation, {rate:g}/s"] = characterise(
            rate=rate, seeds=max(1, round(10 * scale)), rng=rng
        )
    return table


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--full", action="store_true", help="five seeds instead of one")
    table = compute(scale=1.0 if parser.parse_args().full else 0.2)
    for title, rows in table.items():
        print(f"\n{title}")
        if isinstance(rows, dict):
            print("  reasoning tokens  ", "".join(f"{n:8d}" for n in GRID))
            for name, ratios in rows.items():
                print(f"  {name:18s}", "".join(f"{x:8.2f}" for x in ratios))
        else:
            assert isinstance(rows, list)
            for key in rows[0]:
                print(f"  {key:24s}", "".join(f"{row[key]:10.4g}" for row in rows))
            for i, other in enumerate(("FCFS", "RR")):
                earlier = "".join(f"{row[i]:10.4g}" for row in EARLIER[title])
                print(f"  {'cut vs ' + other + ', earlier':24s}", earlier)
                print(f"  {'  published, highest rate':24s}{QUOTED[title][i]:10.4g}")


if __name__ == "__main__":
    main()
