r"""The capacity region of two classes, and how much of it four schedulers reach.

One node, Eq. (7) of Bari, Hegde and de Veciana without attention: an iteration of ``n`` tokens
takes :math:`t \lceil n / b \rceil + a n` with ``b = 16``, ``t = 500`` us, ``a = 5`` us (a
scaled-down copy of the law of ``rad_tiling``: the same 36.25 us per token in a full tile), budget
and slots 128. A class takes :math:`d_k = (P_k + D_k) \cdot 36.25` us at least, and Theorem 1 says
that no policy is stable above :math:`\sum_k \lambda_k d_k = 1`.

* ``aligned``: prompts are whole tiles (assumption A3), short (16, 48), long (128, 16);
* ``ragged``: they are not, short (24, 40), long (120, 24). RAD and vLLM pay for tiles that are
  partly empty, Sarathi fills them with decodes.

Simulated boundary: a path starts with a backlog and goes on at 1.3 times the bound; while requests
wait, a policy that serves in order of arrival works at a rate of its own, and is stable below it
and unstable above (saturation rule; :mod:`llmq.optimality.verdict`). The rate, as a share of the
bound, is the mean over replications with its 95 % interval. vLLM is not throughput-optimal in
general; with slots and whole tiles nothing shows it.

Theorems 1 and 2 are reconstructed from secondary sources; that the paper has such a figure is not
known.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

import llmq
from experiments.claim import Claim, Finding, Status
from experiments.intervals import standard_errors
from experiments.runner import PLAIN, Point, Row, Runner, Scale
from experiments.table import Table
from llmq.model.arrivals import Poisson
from llmq.model.conventions import Conventions
from llmq.optimality.networks import Burst
from llmq.policies import RAD, VLLM, FasterTransformer, Sarathi
from llmq.rng import RngLike, seed_sequence
from llmq.sim.results._stats import student
from llmq.sim.results.run import Run
from llmq.sim.simulate import simulate
from llmq.theory.region import stability_region

TITLE = "RAD: capacity region of two classes and what schedulers reach of it"
SEED = 7
SOURCE = "Bari et al., arXiv 2508.01002, Theorems 1 and 2, reconstructed from serQ"

TILE, BUDGET, LOAD, PATHS = 16, 128, 1.3, 8
LAW = llmq.BatchTime.tiled(base=0.0, per_tile=0.0005, tile=TILE, per_token=5e-6)
LATER = Conventions("rad", first_token="next_iteration")
ENGINE = llmq.Engine(LAW, token_budget=BUDGET, max_seqs=BUDGET, conventions=LATER)
MIXES = {
    "aligned": {"short": (16, 48), "long": (128, 16)},
    "ragged": {"short": (24, 40), "long": (120, 24)},
}
POLICIES: dict[str, llmq.policies.Policy] = {
    "RAD": RAD(tile=TILE),
    "Sarathi": Sarathi(),
    "FasterTransformer": FasterTransformer(),
    "vLLM": VLLM(version="v0", token_budget=BUDGET),
}


def corner(mix: Mapping[str, tuple[int, int]]) -> dict[str, float]:
    """Largest rate of each class alone under Theorem 1, requests per second."""
    classes = {name: llmq.RequestClass(*lengths) for name, lengths in mix.items()}
    region = stability_region(ENGINE.with_(max_seqs=None), classes)
    return {name: region.boundary({name: 1.0})[name] for name in mix}


def reached(
    policy: llmq.policies.Policy,
    mix: Mapping[str, tuple[int, int]],
    share: float,
    requests: int,
    rng: np.random.SeedSequence,
) -> npt.NDArray[np.float64]:
    """Saturated rate of a policy as a share of the bound, on each path.

    ``share`` is the part of the load that the short requests bring.
    """
    top = corner(mix)
    parts = {"short": share, "long": 1 - share}
    rates = {name: LOAD * top[name] * part for name, part in parts.items() if part > 0}
    classes = {name: llmq.RequestClass(*mix[name]) for name in rates}
    work = sum(rate * sum(mix[name]) for name, rate in rates.items())
    found = []
    for path, seed in enumerate(rng.spawn(PATHS)):
        # Different backlogs, so that cycles do not fall in step.
        first = requests // 2 + requests * path // (4 * PATHS)
        arrivals = Burst(Poisson(sum(rates.values())), first)
        traffic = llmq.Workload(arrivals, classes, rates)
        run = simulate(ENGINE, traffic, policy, requests=first + requests, rng=seed)
        found.append(LOAD * throughput(run) / work)
    return np.array(found)


def throughput(run: Run) -> float:
    """Tokens per second of the requests that end in the last two thirds of the arrivals.

    The slope of the straight line through the work completed: requests in progress at either end
    would count as up to a whole batch in a difference of two counts, here far less.
    """
    ended, last = run.requests.finish[0], float(run.requests.arrival[0, -1])
    order = np.argsort(ended, kind="stable")
    work = np.cumsum((run.prompt + run.requests.output)[0][order])
    grid = np.linspace(last / 3, last, 400)
    done = np.concatenate(([0], work))[np.searchsorted(ended[order], grid, side="right")]
    return float(np.polyfit(grid, done, 1)[0])


def one(point: Point, rng: np.random.SeedSequence) -> list[Row]:
    """Rows of all policies at one direction of a mix; they share the arrivals."""
    mix = MIXES[point["mix"]]
    top, share = corner(mix), point["share"]
    rows = []
    for name, policy in POLICIES.items():
        values = reached(policy, mix, share, point["requests"], seed_sequence(rng))
        mean, half = float(values.mean()), student(values, 0.95)
        rows.append(
            {
                "mix": point["mix"],
                "policy": name,
                "kind": "simulated",
                "share": share,
                "short": mean * share * top["short"],
                "long": mean * (1 - share) * top["long"],
                "reached": mean,
                "low": mean - half,
                "high": mean + half,
                "n": PATHS,
            }
        )
    return rows


def compute(*, scale: Scale = "small", rng: RngLike = SEED, runner: Runner = PLAIN) -> Table:
    """Compute the bound and what each policy reaches along several directions.

    Parameters
    ----------
    scale : {"small", "full"}
        3 directions and 1200 requests a path, or 7 and 6000.
    rng : Generator, SeedSequence, int or None
        Source of randomness.
    runner : Runner
        How points are computed.

    Returns
    -------
    Table
        ``reached`` is the rate over Theorem 1's bound, low and high its interval.
    """
    shares = np.linspace(0, 1, 3 if scale == "small" else 7).round(4).tolist()
    requests = 1200 if scale == "small" else 6000
    rows: list[Row] = []
    for name, mix in MIXES.items():
        top = corner(mix)
        rows += [
            {
                "mix": name,
                "policy": "bound",
                "kind": "theory",
                "share": x,
                "short": x * top["short"],
                "long": (1 - x) * top["long"],
                "reached": 1.0,
                "low": 1.0,
                "high": 1.0,
                "n": 1,
            }
            for x in (0.0, 1.0)
        ]
    points = [{"mix": m, "share": x, "requests": requests} for m in MIXES for x in shares]
    rows += runner.run(one, points, rng)
    return Table.of(
        "rad_region",
        rows,
        units={"short": "requests/s", "long": "requests/s"},
        about={
            "source": SOURCE,
            "law": "500 us per tile of 16 tokens, 5 us per token",
            "budget and slots": str(BUDGET),
            "paths": f"{PATHS} of {requests} arrivals",
            "mixes": str(MIXES),
        },
    )


def _words(table: Table, mix: str, policies: tuple[str, ...]) -> str:
    parts = []
    for name in policies:
        values = table.where(mix=mix, policy=name)["reached"]
        parts.append(f"{name} {values.min():.3f} to {values.max():.3f}")
    return ", ".join(parts)


# What the requests in progress do to a slope, beside its noise: at most a hundredth of the bound in
# the short paths of the small scale, and a tenth of the smallest loss that a claim names.
EDGE = 0.01


def inside(table: Table) -> Finding:
    """Judge: no policy works faster than the bound, by four standard errors."""
    simulated = table.where(kind="simulated")
    error = standard_errors(simulated)
    over = float(np.max((simulated["reached"] - 1.0 - EDGE) - 4 * error))
    top = float(simulated["reached"].max())
    return Finding(
        Status.VERIFIED if over <= 0 else Status.NOT,
        f"highest of {len(simulated)} points: {top:.4f} of the bound",
    )


def optimal(table: Table) -> Finding:
    """Judge: RAD reaches the bound in every direction where prompts are whole tiles."""
    rows = table.where(mix="aligned", policy="RAD")
    gap = 1 - rows["reached"]
    good = len(rows) > 0 and bool(np.all(gap - 4 * standard_errors(rows) <= EDGE))
    return Finding(
        Status.VERIFIED if good else Status.NOT,
        f"of the bound: {_words(table, 'aligned', ('RAD', 'Sarathi', 'vLLM'))}",
    )


def wasteful(table: Table) -> Finding:
    """Judge: FasterTransformer loses everywhere, RAD and vLLM on ragged prompts, at four SE."""
    rows = table.where(policy="FasterTransformer")
    lose = bool(np.all(rows["reached"] + 4 * standard_errors(rows) < 1 - 10 * EDGE))
    ragged = table.where(mix="ragged", policy=["RAD", "vLLM"])
    lose &= bool(np.all(ragged["reached"] + 4 * standard_errors(ragged) < 1))
    lose &= len(rows) > 0 and len(ragged) > 0
    return Finding(
        Status.VERIFIED if lose else Status.NOT,
        f"aligned: {_words(table, 'aligned', ('FasterTransformer',))}; ragged: "
        f"{_words(table, 'ragged', tuple(POLICIES))} of the bound",
    )


CLAIMS = (
    Claim(
        id="RAD-REGION-1",
        text="No scheduler is stable outside sum(rate d) = g (Theorem 1); four schedulers on two "
        "mixes stay inside, to 1 % (requests in progress at the ends of a path).",
        source=SOURCE,
        judge=inside,
        figure="rad_region",
        least=Status.VERIFIED,
        test="test_rad.py::test_region_can_fail",
    ),
    Claim(
        id="RAD-REGION-2",
        text="RAD with N = infinity is stable up to the bound where prompts are whole tiles "
        "(Theorem 2), to 1 %; so is Sarathi with a budget of whole tiles.",
        source=SOURCE,
        judge=optimal,
        figure="rad_region",
        least=Status.VERIFIED,
        test="test_rad.py::test_region_can_fail",
    ),
    Claim(
        id="RAD-REGION-3",
        text="FasterTransformer is far inside the region; on prompts that are no whole tiles RAD "
        "and vLLM lose too.",
        source="derived here; order as in Dai et al., arXiv 2504.07347",
        judge=wasteful,
        figure="rad_region",
        least=Status.VERIFIED,
        test="test_rad.py::test_region_can_fail",
    ),
)
