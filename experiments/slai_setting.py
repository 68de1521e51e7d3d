r"""The setting of SLAI's evaluation: engine, traffic, policies; no experiment of its own.

Bari, Hegde and de Veciana (arXiv 2508.01002): Mistral-7B on one RTX 6000 Ada, lengths of OpenChat
conversations, token budget 512, 128 rows, 235,728 KV tokens in blocks of 16, 5 % of the requests
pay for 0.1 s between tokens, the others have 0.5 s. An iteration of ``n`` tokens takes

.. math:: \max(22.5, 7.35 + 0.0869\,n)\;\mathrm{ms} + k_p \sum c (k + c / 2) + k_d \sum \kappa,

:math:`k_p = 3.57\cdot 10^{-9}` s, :math:`k_d = 131072 / (\mathrm{eff} \cdot 960\cdot 10^9)` s per
KV token of the served rows. The published law charges decodes only; ours charges the chunks for
their KV too, about 1 % of a mixed iteration. ``eff`` is not identified by published data.

Gaps between arrivals are exponential; in the authors' code they are cut at three times their
nominal mean, so that the true rate is 1.0524 times the nominal one (``cut``). Lengths are drawn
from the named workload ``openchat-sharegpt4``, quantiles of the authors' file.

Sarathi with any order of the queue is SLAI with an infinite offset: every decode is critical.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

import llmq
from llmq.sim._fast.vector.engine import Lanes

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

SOURCE = "Bari et al., arXiv 2508.01002; setting and scripts as read in agrimUT/SLAI"
WORKLOAD = "openchat-sharegpt4"
BUDGET, ROWS, MEMORY, BLOCK = 512, 128, 235_728, 16
EFFICIENCIES = (0.6, 0.7, 0.8)
PAYING, CUT = 0.05, 3.0
CLASSES, DEADLINES = ("free", "paying"), {"free": 0.5, "paying": 0.1}
ALWAYS = np.inf
FCFS, SPF = "Sarathi FCFS", "Sarathi SPF"
FIXED, DYNAMIC = "SLAI SPF fixed", "SLAI SPF dynamic"
FIRST = "SLAI paying first"
VLLM = "vLLM"
# The seven of the authors' scripts; vLLM is run by its own rule.
POLICIES = {
    FCFS: llmq.policies.SLAI(order="fcfs", deadlines=DEADLINES, below=ALWAYS, above=ALWAYS),
    SPF: llmq.policies.SLAI(order="spf", deadlines=DEADLINES, below=ALWAYS, above=ALWAYS),
    "SLAI FCFS fixed": llmq.policies.SLAI(order="fcfs", deadlines=DEADLINES, below=10, above=10),
    FIXED: llmq.policies.SLAI(deadlines=DEADLINES, below=10, above=10),
    DYNAMIC: llmq.policies.SLAI(deadlines=DEADLINES),
    FIRST: llmq.policies.SLAI(order="paying", deadlines=DEADLINES),
}
SEVEN = (VLLM, *POLICIES)


def engine(efficiency: float, *, budget: int = BUDGET) -> llmq.Engine:
    """Return the engine for a share of the memory bandwidth that reading KV attains."""
    law = llmq.BatchTime.roofline(
        floor=0.0225,
        base=0.00735,
        per_token=8.69e-5,
        per_work=3.57e-9,
        per_kv=131_072 / (efficiency * 960e9),
    )
    later = llmq.Conventions("slai", first_token="next_iteration")
    return llmq.Engine(
        law,
        token_budget=budget,
        max_seqs=ROWS,
        kv_tokens=MEMORY,
        kv_block=BLOCK,
        conventions=later,
        name=f"Mistral-7B on RTX 6000 Ada, eff {efficiency:g}",
    )


def traffic(
    requests: int, seeds: list[np.random.SeedSequence], loads: Floats, *, cut: bool = True
) -> tuple[Lanes, Ints]:
    """Draw the lanes, all loads of a seed together, and the classes.

    Seeds share lengths and gaps across loads, and with every policy that is given the same seeds.
    """
    chat = llmq.load_workload(WORKLOAD, rate=1.0).mix["chat"]
    columns = []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        gaps = rng.exponential(size=requests)
        paying = rng.random(requests) < PAYING
        prompt, output = chat.sample(requests, rng)[:2]
        clock = np.minimum(gaps, CUT).cumsum() if cut else gaps.cumsum()
        columns += [(clock / load, prompt, output, paying) for load in loads]
    arrival, prompt, output, paying = (np.stack(x) for x in zip(*columns, strict=True))
    return Lanes(arrival, prompt, output), paying.astype(np.int64)


def crossings(curve: Floats, level: float, loads: Floats) -> Floats:
    """Load at which a curve first exceeds a level, by linear interpolation, seed by seed.

    Infinite where it never does; the first load where it starts above.
    """
    above = curve > level
    after = above.argmax(axis=1)
    found = np.full(len(curve), np.inf)
    for seed, i in enumerate(after):
        if above[seed, i]:
            y = curve[seed, max(i - 1, 0) : i + 1]
            found[seed] = loads[0] if i == 0 else np.interp(level, y, loads[i - 1 : i + 1])
    return found


def interval(values: Floats) -> dict[str, float | int]:
    """Mean over seeds with its 95 % interval, as the cells of a row."""
    from llmq.sim.results._stats import student

    mean, half = float(np.mean(values)), student(np.asarray(values, dtype=np.float64))
    return {"value": mean, "low": mean - half, "high": mean + half, "n": len(values)}


def shared(rng: np.random.SeedSequence, n: int) -> list[np.random.SeedSequence]:
    """Seeds of the paths: the same for all points of an experiment (common random numbers)."""
    key = rng.spawn_key[:-1]
    return np.random.SeedSequence(rng.entropy, spawn_key=key).spawn(n)
