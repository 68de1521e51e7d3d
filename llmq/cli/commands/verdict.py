"""``llmq verdict``."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from llmq._limits import REPLICATIONS
from llmq.cli._traffic import add_output, build_policy, count, print_json, real

if TYPE_CHECKING:
    from llmq.optimality.instability import Instability
    from llmq.optimality.verdict import StabilityTest

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options.

    Parameters
    ----------
    parser : argparse.ArgumentParser
        Of the command.
    """
    parser.add_argument("policy", metavar="POLICY", help="e.g. sarathi, rad:cycle=1")
    parser.add_argument(
        "--networks", type=count(1, REPLICATIONS), default=20, help="networks to test on (20)"
    )
    parser.add_argument(
        "--load", type=real, default=0.9, help="offered load, between 0 and 1 (0.9)"
    )
    parser.add_argument(
        "--any",
        action="store_true",
        help="search also where a full budget is not the most productive batch",
    )
    add_output(parser)


def run(args: argparse.Namespace) -> int:
    """Test, search for a counterexample, and print.

    Parameters
    ----------
    args : argparse.Namespace
        Parsed options.

    Returns
    -------
    int
        Exit code: 3 if a counterexample was found.
    """
    from llmq.optimality.instability import find_instability
    from llmq.optimality.networks import fitted, suited
    from llmq.optimality.verdict import stability_test, theorem

    policy, tests, entries = build_policy(args.policy), [], set[str | None]()
    found = find_instability(
        policy, load=args.load, tries=args.networks, tiles_divide=not args.any, rng=args.seed
    )
    for number in range(args.networks if found is None else 0):
        network = suited(policy, number)
        chosen = fitted(policy, network.engine)
        entries.add(theorem(chosen, network))
        tests.append(stability_test(chosen, network, args.load, rng=args.seed))
    proof = ", ".join(sorted(map(str, entries))) if entries and None not in entries else None
    if args.json:
        print_json(_facts(args.policy, args.load, tests, found, proof))
    else:
        sys.stdout.write(_text(args.policy, args.load, tests, found, proof))
    return 3 if found is not None or any(test.status == "grows" for test in tests) else 0


def _counts(tests: list[StabilityTest]) -> dict[str, int]:
    return {
        status: sum(test.status == status for test in tests)
        for status in ("stable", "grows", "undecided")
    }


def _verdict(tests: list[StabilityTest], found: Instability | None, proof: str | None) -> str:
    counts = _counts(tests)
    if found is not None or counts["grows"]:
        return "not optimal"
    if proof is not None:
        return f"proved [{proof}]"
    return "undecided" if counts["undecided"] else "tested optimal"


def _bound(tests: list[StabilityTest]) -> float | None:
    """Share of such networks on which the policy fails, at most, at 95 %."""
    from llmq.optimality.verdict import failure_bound

    if not tests:
        return None
    failed = len(tests) - _counts(tests)["stable"]
    return failure_bound(failed, len(tests), alpha=tests[0].alpha)


def _facts(
    policy: str,
    load: float,
    tests: list[StabilityTest],
    found: Instability | None,
    proof: str | None,
) -> dict[str, Any]:
    import json

    from llmq.result import to_json

    return {
        "policy": policy,
        "load": load,
        "verdict": _verdict(tests, found, proof),
        "tests": _counts(tests),
        "fails_on_at_most": _bound(tests),
        "theorem": proof,
        "counterexample": None if found is None else json.loads(to_json(found)),
    }


def _text(
    policy: str,
    load: float,
    tests: list[StabilityTest],
    found: Instability | None,
    proof: str | None,
) -> str:
    verdict = _verdict(tests, found, proof)
    lines = [f"{policy}: {verdict} at load {load:g}"]
    if found is not None:
        lines.append(f"  {found}")
    if (bound := _bound(tests)) is not None:
        said = ", ".join(f"{n} {status}" for status, n in _counts(tests).items() if n)
        lines += [
            f"  {len(tests)} networks: {said} (each wrong answer at most {tests[0].alpha:g})",
            f"  it fails on {100 * bound:.2g} % of such networks at most (95 %)",
        ]
    if proof is not None:
        lines.append(f"  proofs/THEOREMS.md, entry {proof}: its hypotheses hold on all of them")
    elif tests:
        lines.append("  tests refute; that nothing was found is evidence, not proof")
    return "\n".join(lines) + "\n"
