r"""The points of ``experiments.verdicts``: reach, tests of many networks, tests of known answers.

*Standard set* (``standard.json``, named ``standard-1``): 8 small networks in whole numbers of each
of five sorts, drawn once and kept. ``split``: the full budget is the most productive batch, prompts
of up to two budgets. ``short``: prompts of at most an eighth of the budget; ``long``: of up to the
budget; both for policies that do not split prompts. ``tiles``: prompts are multiples of the most
productive batch, for RAD. ``cut``: the most productive batch is smaller than the budget.

*Reach*: the load is bisected with the sequential test; the interval runs from the
highest load called stable to the lowest called growing (1 if none was). Policies that only the
reference simulator runs start at 0.95.

*Tests*: random networks drawn by number, those of :func:`llmq.optimality.networks.suited` and, for
MaxWeight, also those whose budget is larger than the most productive batch.

*Errors*: tests of systems whose answer is a theorem: full batches below and above load 1, exclusive
phases beside their exact cycle.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from experiments.runner import Point, Row
from llmq import policies
from llmq.optimality.instability import draw_sketch
from llmq.optimality.networks import Network, Sketch, draw_network, fitted, suited
from llmq.optimality.saturation import saturated_cycle
from llmq.optimality.verdict import stability_test, theorem
from llmq.policies import Policy
from llmq.theory.region.tiling import best_batch

SET = Path(__file__).parent / "standard.json"
ALPHA = 0.01
# Policies that the fast simulators run; the others get shorter paths.
FAST = ("sarathi", "orca", "fastertransformer", "rad", "maxweight")
STEPS = 5
# The classes of a drawn network, the last first: without names Priority is Sarathi. Of vLLM's two
# schedulers the old one: the new one is Sarathi where memory and slots do not bind.
SETTINGS = {"priority": "priority:classes=c+b+a", "vllm": "vllm:version=v0"}


def setting(name: str) -> Policy:
    """Return a policy by name, with parameters where its defaults say nothing."""
    return policies.parse(SETTINGS.get(name, name))


def effort(policy: Policy) -> tuple[dict[str, Any], float]:
    """Set the sequential test (each wrong answer at most ALPHA), and the highest load."""
    test = {"replications": 4, "looks": 7 if policy.name in FAST else 4, "alpha": ALPHA}
    # Where whole short prompts fill the engine with decodes, a path has to be longer at first.
    requests = None if policy.blocks.budget.whole else 40
    return {**test, "requests": requests}, 0.99 if policy.name in FAST else 0.95


def standard(sort: str) -> list[Network]:
    """Read the networks of one sort of the standard set."""
    known = json.loads(SET.read_text(encoding="utf-8"))
    return [
        Sketch(law, base, slope, step, budget, tuple((p, o) for p, o in classes)).network()
        for law, base, slope, step, budget, classes in known[sort]
    ]


def home(policy: Policy) -> tuple[str, str]:
    """Sort of networks that suits a policy, and one that does not."""
    if policy.name == "rad":
        return "tiles", "split"
    return ("short", "long") if policy.blocks.budget.whole else ("split", "cut")


def reach(point: Point, rng: np.random.SeedSequence) -> list[Row]:
    """Bisect the load that a policy carries on one network of the standard set."""
    policy = setting(point["policy"])
    network = standard(point["set"])[point["network"]]
    low, high = bisected(policy, network)
    proof = theorem(fitted(policy, network.engine), network) or ""
    return [{**point, "quantity": "reach", "value": low, "low": low, "high": high, "proof": proof}]


def bisected(policy: Policy, network: Network) -> tuple[float, float]:
    """Highest load called stable, lowest called growing; 1 is an end."""
    chosen, low, high = fitted(policy, network.engine), 0.0, 1.0
    test, most = effort(policy)
    top = high  # of what is searched: an undecided load bounds the search, not the reach
    for step in range(STEPS + 1):
        middle = most if step == 0 else (low + top) / 2
        status = stability_test(chosen, network, middle, rng=step, **test).status
        if status == "stable":
            low = middle
            if step == 0:
                break
        else:
            top = middle
            high = middle if status == "grows" else high
    return low, high


def tests(point: Point, rng: np.random.SeedSequence) -> list[Row]:
    """Count the answers at one load on networks drawn by number, and how many a theorem covers."""
    policy, said, proved = setting(point["policy"]), Counter[str](), 0
    test, _ = effort(policy)
    for number in range(point["first"], point["first"] + point["n"]):
        odd = point["set"] == "mismatched"
        network = draw_network(number, mismatched=True) if odd else suited(policy, number)
        chosen = fitted(policy, network.engine)
        seed = np.random.SeedSequence((6, number))
        said[stability_test(chosen, network, point["load"], rng=seed, **test).status] += 1
        proved += theorem(chosen, network) is not None
    return [{**point, "proved": proved, **{k: said[k] for k in ("stable", "grows", "undecided")}}]


def errors(point: Point, rng: np.random.SeedSequence) -> list[Row]:
    """Count the answers where the truth is a theorem, within 5 % of the boundary."""
    said: Counter[str] = Counter()
    for number in range(point["first"], point["first"] + point["n"]):
        if point["policy"] == "sarathi":
            policy: Policy = policies.Sarathi()
            rng_ = np.random.default_rng((number, 6))
            network, boundary = draw_sketch(rng_, tiles_divide=True).network(), 1.0
        else:
            policy = policies.FasterTransformer()
            network, boundary = one_class(number)
        said[stability_test(policy, network, point["load"] * boundary, rng=number).status] += 1
    return [
        {**point, "proved": point["n"], **{k: said[k] for k in ("stable", "grows", "undecided")}}
    ]


def one_class(number: int) -> tuple[Network, float]:
    """One class of fixed lengths, and the load at which exclusive phases become unstable."""
    sketch = draw_sketch(np.random.default_rng((number, 7)), tiles_divide=True)
    network = Sketch(
        sketch.law, sketch.base, sketch.slope, sketch.step, sketch.budget, sketch.classes[:1]
    ).network()
    (request,) = network.mix.values()
    work = request.prompt.low + network.engine.conventions.decode_iterations(request.output.low)
    cycle = saturated_cycle(policies.FasterTransformer(), network.engine, request)
    best = best_batch(network.engine.law, network.engine.token_budget)
    return network, float(cycle.exact_rate * work / best.exact_rate)
