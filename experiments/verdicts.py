r"""The verdict on every policy: how much of the region it reaches, counterexamples, error rates.

    python -m experiments.verdicts [--networks 10] [--errors 200] [--many 1000] [--write docs]

*Reach*: on each network of a standard set (drawn by number; the full budget is the most productive
batch, prompts suit the policy) the load is bisected with the sequential test; the interval runs
from the highest load called stable to the lowest called growing.
*Counterexamples* are searched,
shrunk, confirmed and written as JSON. *Errors*: tests of systems whose answer is a theorem
(Sarathi-Serve below and above load 1; exclusive phases beside their exact cycle). *Many*: the
test at load 0.9 and 1.05 on many networks.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from pathlib import Path

import numpy as np

from llmq import policies
from llmq.instability import Instability, draw_sketch, find_instability
from llmq.networks import Network, fitted, suited
from llmq.policies import Policy
from llmq.result import to_json
from llmq.saturation import saturated_cycle
from llmq.theory.tiling import best_batch
from llmq.verdict import stability_test

# Row of proofs/THEOREMS.md under whose hypotheses the standard set lies.
PROVED = {"sarathi": "S1", "orca": "S1", "rad": "RAD2"}
# What breaks a policy that carries the standard set: filling what does not pay, short cycles.
VARIANTS: dict[str, tuple[Policy, bool]] = {
    "sarathi-mismatched": (policies.Sarathi(), False),
    "rad-cycle-1": (policies.RAD(cycle=1), True),
    "maxweight-overfull": (policies.MaxWeight(), False),
}
TEST = {"replications": 4, "requests": 40, "looks": 4}


def standard(policy: Policy, number: int) -> Network:
    """Draw a network of the standard set, as the policy needs it."""
    rng = np.random.default_rng((number, 6))
    whole = policy.blocks.budget.whole
    return draw_sketch(rng, whole=whole, tiles_divide=True, fill=policy.name == "rad").network()


def reach(policy: Policy, network: Network, steps: int = 4) -> tuple[float, float]:
    """Bisect the load: the highest called stable, the lowest called growing; 1 is an end."""
    chosen, low, high = fitted(policy, network.engine), 0.0, 1.0
    top = high  # of what is searched: an undecided load bounds the search, not the reach
    for step in range(steps):
        middle = 0.95 if step == 0 else (low + top) / 2
        test = stability_test(chosen, network, middle, rng=step, **TEST)
        if test.status == "stable":
            low = middle
            if step == 0:
                break
        else:
            top = middle
            high = middle if test.status == "grows" else high
    return low, high


def table(policy: Policy, networks: int) -> str:
    """Row of the table: mean reach with its interval."""
    begun = time.process_time()
    pairs = [reach(policy, standard(policy, number)) for number in range(networks)]
    low, high = (float(np.mean([pair[i] for pair in pairs])) for i in (0, 1))
    worst = min(low for low, _ in pairs)
    return (
        f"{policy.name:18s} reaches [{low:.3f}, {high:.3f}] in the mean of {networks}, at worst "
        f"{worst:.3f}  ({time.process_time() - begun:.0f} s)"
    )


def counterexample(policy: Policy, tiles_divide: bool) -> Instability | None:
    """Search one."""
    return find_instability(
        policy, tries=10 if policy.name == "maxweight" else 30, tiles_divide=tiles_divide, rng=1
    )


def errors(n: int) -> dict[str, Counter[str]]:
    """Count answers where the truth is a theorem; loads within 5 % of the boundary."""
    found: dict[str, Counter[str]] = {}
    for name, load in (("stable at 0.95", 0.95), ("grows at 1.05", 1.05)):
        found[f"sarathi, {name}"] = Counter(
            stability_test(policies.Sarathi(), standard(policies.Sarathi(), i), load, rng=i).status
            for i in range(n)
        )
    exclusive = policies.FasterTransformer()
    for name, factor in (("stable at 0.95", 0.95), ("grows at 1.05", 1.05)):
        said: Counter[str] = Counter()
        for i in range(n):
            network, boundary = _one_class(i)
            said[stability_test(exclusive, network, factor * boundary, rng=i).status] += 1
        found[f"exclusive phases, {name} of the cycle"] = said
    return found


def _one_class(number: int) -> tuple[Network, float]:
    """One class of fixed lengths, and the load at which exclusive phases become unstable."""
    rng = np.random.default_rng((number, 7))
    sketch = draw_sketch(rng, tiles_divide=True)
    network = type(sketch)(
        sketch.law, sketch.base, sketch.slope, sketch.step, sketch.budget, sketch.classes[:1]
    ).network()
    (request,) = network.mix.values()
    work = request.prompt.low + network.engine.conventions.decode_iterations(request.output.low)
    cycle = saturated_cycle(policies.FasterTransformer(), network.engine, request)
    best = best_batch(network.engine.law, network.engine.token_budget)
    return network, float(cycle.exact_rate * work / best.exact_rate)


def many(policy: Policy, n: int) -> dict[float, Counter[str]]:
    """Test on many networks at load 0.9 and 1.05."""
    found: dict[float, Counter[str]] = {}
    for load in (0.9, 1.05):
        said: Counter[str] = Counter()
        for number in range(n):
            network = suited(policy, number)
            chosen = fitted(policy, network.engine)
            said[stability_test(chosen, network, load, rng=number).status] += 1
        found[load] = said
    return found


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--networks", type=int, default=10)
    parser.add_argument("--errors", type=int, default=200)
    parser.add_argument("--many", type=int, default=1000)
    parser.add_argument("--write", type=Path)
    parser.add_argument("--only", nargs="*", help="names of policies")
    args = parser.parse_args()
    for name, said in (errors(args.errors) if args.errors else {}).items():
        print(f"{name}: {dict(said)}", flush=True)
    chosen = [kind() for kind in policies.ALL if not args.only or kind.name in args.only]
    for policy in chosen if args.networks else []:
        print(table(policy, args.networks), flush=True)
    for policy in chosen if args.many else []:
        print(policy.name, {k: dict(v) for k, v in many(policy, args.many).items()}, flush=True)
    if args.write is None:
        return
    searched = {p.name: (p, True) for p in chosen} | (VARIANTS if not args.only else {})
    for name, (policy, divide) in searched.items():
        begun = time.process_time()
        found = counterexample(policy, divide)
        print(f"{name}: {found} ({time.process_time() - begun:.0f} s)", flush=True)
        if found is not None:
            path = args.write / f"{name}.json"
            path.write_text(to_json(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
