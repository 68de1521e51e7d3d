r"""Twelve broken policies, and whether the test of optimality catches each.

    python -m experiments.faults [--tries 40]

Each looks like Sarathi-Serve, RAD or MaxWeight, claims optimality and loses capacity by one slip:
an iteration in ``k`` half empty, a capped batch, a wrong switch of mode, priorities the wrong way
round, a time that is left out. Networks are drawn one after the other, those on which the sound
policies are optimal (for a MaxWeight without time, those on which a full budget is not the most
productive batch); a fault is caught where the sequential test says that the backlog grows at load
0.9. The sound policies pass on the same networks.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from llmq.model.time.batchtime import BatchTime
from llmq.optimality.networks import Network, draw_network, fitted
from llmq.optimality.verdict import StabilityTest, stability_test
from llmq.policies import RAD, Blocks, MaxWeight, Policy, RoundRobin, Sarathi
from llmq.policies.contract.blocks import Admit, Budget, Together, View
from llmq.policies.maxweight import heaviest
from llmq.policies.vllm import OneKind


@dataclass(frozen=True, slots=True)
class Broken:
    """A policy with a fault.

    Parameters
    ----------
    made : Blocks
        What it does.
    fault : str
        What is wrong.
    """

    made: Blocks
    fault: str
    token_budget: int | None = None
    route: RoundRobin = field(default_factory=RoundRobin)
    name: ClassVar[str] = "broken"
    sees: ClassVar[frozenset[str]] = frozenset({"prompt", "output"})

    @property
    def blocks(self) -> Blocks:
        """The composition."""
        return self.made


def _every_third_small(view: View) -> int:
    return 1 if view.iterations % 3 == 2 else view.tokens


def _half_while_decoding(view: View) -> int:
    return max(view.tokens // 2, 1) if view.decoding.any() else view.tokens


def _waste_when_crowded(view: View) -> int:
    return max(view.tokens // 2, 1) if len(view.row) > 20 else view.tokens


def _only_decodes_first(view: View) -> tuple[np.ndarray, None]:
    some = view.decoding.any()
    return (view.decoding if some else np.ones(view.row.shape, bool)), None


def _one_started(view: View) -> tuple[np.ndarray, None]:
    """Nobody starts while two or more are here."""
    busy = np.count_nonzero(view.resident) >= 2
    return (view.resident if busy else np.ones(view.row.shape, bool)), None


def _one_kind(until: float, rows: float = 1, cycle: float = np.inf) -> Blocks:
    together = Together(mixed=False, until=until, rows=rows, cycle=cycle)
    return Blocks(gate=OneKind(Admit(), False, together), together=together)


def _lower_pressure(view: View) -> tuple[np.ndarray, None]:
    """MaxWeight the wrong way round: the kind with the lower pressure, alone."""
    group = heaviest(view, Admit()).group
    decodes = view.decoding.all() or (group[view.decoding] == 2).any()  # prompts weigh more
    return view.decoding if decodes else ~view.decoding, None


def _timeless(view: View) -> int:
    """MaxWeight for the most worth, not the most worth per second."""
    return heaviest(view._replace(law=BatchTime.affine(base=1.0, per_token=1e-12)), Admit()).tokens


FAULTS: dict[str, Callable[[int], Blocks]] = {
    "one iteration in three takes one token": lambda b: Blocks(
        budget=Budget(tokens=_every_third_small)
    ),
    "half a budget while anybody decodes": lambda b: Blocks(
        budget=Budget(tokens=_half_while_decoding)
    ),
    "half a budget in a long queue": lambda b: Blocks(budget=Budget(tokens=_waste_when_crowded)),
    "batches capped at two thirds": lambda b: Blocks(budget=Budget(tokens=max(2 * b // 3, 1))),
    "at most two rows in a batch": lambda b: Blocks(budget=Budget(rows=2)),
    "a chunk of one token": lambda b: Blocks(budget=Budget(chunk=1, rows=3)),
    "decodes stop all prefills": lambda b: Blocks(gate=_only_decodes_first),
    "nobody starts beside two others": lambda b: Blocks(gate=_one_started),
    "RAD switches to decodes at half a tile": lambda b: _one_kind(max(b // 2, 1)),
    "RAD drains after every two prompts": lambda b: _one_kind(b, cycle=2),
    "MaxWeight serves the kind with the lower pressure": lambda b: Blocks(gate=_lower_pressure),
    "MaxWeight forgets to divide by the time": lambda b: Blocks(budget=Budget(tokens=_timeless)),
}
# Where a fault shows only if the full budget is not the most productive batch.
MISMATCHED = ("MaxWeight forgets to divide by the time",)


def drawn(fault: str, number: int) -> Network:
    """Network on which to look for a fault."""
    return (
        draw_network(number, mismatched=True)
        if fault in MISMATCHED
        else draw_network(number, fill=True)
    )


def caught(fault: str, tries: int = 40) -> tuple[int, Network, StabilityTest] | None:
    """Return number and network on which a fault shows, and the test; None if on none."""
    for number in range(tries):
        network = drawn(fault, number)
        policy = Broken(FAULTS[fault](network.engine.token_budget), fault)
        test = stability_test(
            policy, network, 0.9, replications=4, requests=40, looks=5, rng=number
        )
        if test.status == "grows":
            return number, network, test
    return None


def sound(number: int) -> bool:
    """Whether the sound policies pass on networks of the same kinds."""
    network, odd = (drawn(fault, number) for fault in ("", *MISMATCHED))
    chosen: list[tuple[Policy, Network]] = [
        (Sarathi(), network),
        (fitted(RAD(), network.engine), network),
        (MaxWeight(), network),
        (MaxWeight(), odd),
    ]
    return all(
        stability_test(one, where, 0.9, rng=number).status == "stable" for one, where in chosen
    )


def main() -> None:
    """Print who is caught, and where."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tries", type=int, default=40)
    args = parser.parse_args()
    for fault in FAULTS:
        found = caught(fault, args.tries)
        print(f"{fault}: {'MISSED' if found is None else f'network {found[0]}, {found[2]}'}")
    passed = sum(sound(number) for number in range(args.tries))
    print(f"sound policies stable on {passed} of {args.tries}")


if __name__ == "__main__":
    main()
