"""``llmq check``: run the independent checker on certificates.

The checker (``proofs/check.py`` of the source tree, also inside the installed package) imports
nothing of llmq. It runs in a process of its own, under ``python -I -S``: no site packages, no
environment variables, so that what this command says is what the checker says. A process that takes
longer than the checker allows is ended: the certificate is not accepted.

The checker knows that a claim follows from the problem in the file, not whose problem that is. With
``--engine`` and traffic the planning problem is made again from the user's own input, at the scope
that the certificate names (these settings, or the hardware), and compared: a difference is named
and the certificate is not accepted. Names of pools and classes are labels where there is one.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from llmq.cli._fleet import add_fleet, build_fleet
from llmq.cli._traffic import add_traffic, build_policy, build_traffic, count, print_json
from llmq.errors import InputError, printable, shown

__all__ = ["add_arguments", "run"]

# Seconds: a little more than the checker gives itself.
_LIMIT = 75
_SHOWN = 6  # differences that are listed
_VERDICTS = {0: "accepted", 2: "unreadable", 4: "rejected"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options.

    Parameters
    ----------
    parser : argparse.ArgumentParser
        Of the command.
    """
    parser.add_argument("files", nargs="+", metavar="FILE", help="certificates")
    parser.add_argument("--json", action="store_true", help="machine-readable answer")
    add_traffic(parser)
    add_fleet(parser)
    parser.add_argument("--seed", type=count(0), default=0, help="of --jitter (default 0)")
    parser.epilog = (
        f"{parser.epilog}\nhere 4: a certificate is rejected, it does not prove its claim, "
        "or it is about another problem than that of --engine and the traffic"
    )


def run(args: argparse.Namespace) -> int:
    """Check certificates.

    Parameters
    ----------
    args : argparse.Namespace
        Parsed options.

    Returns
    -------
    int
        Exit code: 0 if all are accepted, 2 if one cannot be read as JSON, 4 if one is rejected or
        is not about the problem given.
    """
    program = _program()
    own = _own_problem(args)
    found = [_check(program, path) for path in args.files]
    if own is not None:
        found = [_compare(one, own) for one in found]
    if args.json:
        print_json({"checker": "python -I -S check.py", "files": [one for _, one in found]})
    else:
        for _, one in found:
            sys.stdout.write(f"{one['file']}: {one['verdict']}: {one['reason']}\n")
    return max(code for code, _ in found)


def _program() -> Path:
    """Find the checker: inside an installed package, or beside it in the source tree."""
    package = Path(__file__).parents[2]
    for folder in (package / "_check", package.parent / "proofs"):
        if (folder / "check.py").is_file() and (folder / "check_reading.py").is_file():
            return folder / "check.py"
    raise InputError(
        "the checker is missing from this installation: take proofs/check*.py from the source "
        "tree and run 'python -I -S proofs/check.py FILE'"
    )


def _check(program: Path, path: str) -> tuple[int, dict[str, str]]:
    # Absolute, so that no file name looks like an option.
    target = str(Path(path).absolute())
    command = [sys.executable, "-I", "-S", "-X", "utf8", str(program), target]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            check=False,
            encoding="utf-8",
            errors="replace",
            timeout=_LIMIT,
        )
    except subprocess.TimeoutExpired:
        reason = f"not checked within {_LIMIT} seconds"
        return 4, {"file": path, "verdict": _VERDICTS[4], "reason": reason}
    code = done.returncode
    if code not in _VERDICTS:
        raise InputError(f"the checker ended with code {code} on {path}: {done.stderr.strip()}")
    said = done.stdout.removeprefix(f"{target}: ").strip()
    reason = said.removeprefix("accepted: ").removeprefix("rejected: ")
    return code, {"file": path, "verdict": _VERDICTS[code], "reason": reason}


def _own_problem(args: argparse.Namespace) -> Callable[[str], dict[str, Any]] | None:
    """Make the planning problem of the options at a scope; none if there are no options."""
    given = [args.engine, args.trace, args.workload, args.prompt, args.output]
    if not any(given):
        return None
    import llmq
    from llmq.policies.contract.settings import effective
    from llmq.theory.region._certificate import problem_record
    from llmq.theory.region.routing import fleet_region

    traffic = build_traffic(args)
    fleet = build_fleet(args)
    if args.policy:
        fleet = effective(fleet, build_policy(args.policy))
    mix = traffic.mix() if isinstance(traffic, llmq.Trace) else traffic.mix
    rates = traffic.rates

    @cache
    def make(scope: str) -> dict[str, Any]:
        limits: Any = scope
        return problem_record(fleet_region(fleet, mix, limits).at(rates))

    return make


def _compare(
    one: tuple[int, dict[str, str]], own: Callable[[str], dict[str, Any]]
) -> tuple[int, dict[str, str]]:
    """Compare the problem of an accepted certificate with the user's own."""
    from llmq.theory.region._certificate_record import load_certificate

    code, said = one
    if code:
        return one
    body = load_certificate(said["file"]).body
    stated = body["problem"]
    if "pools" not in stated or "classes" not in stated:
        raise InputError(
            f"{shown(said['file'])}: the claim {shown(body['claim'])} is not about a planning "
            "problem, so there is nothing to compare with --engine and the traffic: leave them out"
        )
    scope = str(stated.get("scope", "settings"))
    mine = _relabelled(own(scope), stated)
    found = list(_differences({**stated, "scope": scope}, mine, "problem"))
    if not found:
        return 0, {**said, "reason": f"{said['reason']}; it is the problem of your own input"}
    more = f"; and {len(found) - _SHOWN} more" * (len(found) > _SHOWN)
    reason = f"another problem than yours: {'; '.join(found[:_SHOWN])}{more}"
    reason = printable(reason)
    return 4, {**said, "verdict": _VERDICTS[4], "reason": reason}


def _relabelled(mine: dict[str, Any], stated: Mapping[str, Any]) -> dict[str, Any]:
    """Give a single pool and a single class the names of the certificate."""
    text = mine
    for kind in ("pools", "classes"):
        if len(mine[kind]) == len(stated[kind]) == 1:
            (old,), (new,) = mine[kind], stated[kind]
            text = _renamed(text, kind, old, new)
    return text


def _renamed(problem: dict[str, Any], kind: str, old: str, new: str) -> dict[str, Any]:
    classes, pools = problem["classes"], problem["pools"]
    if kind == "classes":
        pools = {h: {**p, "needs": {new: p["needs"][old]}} for h, p in pools.items()}
        return {**problem, "classes": {new: classes[old]}, "pools": pools}
    routes = {n: [[new] for _ in one["routes"]] for n, one in classes.items()}
    classes = {n: {**one, "routes": routes[n]} for n, one in classes.items()}
    return {**problem, "classes": classes, "pools": {new: pools[old]}}


def _differences(stated: object, mine: object, where: str) -> Iterator[str]:
    """Say where two JSON values differ."""
    if isinstance(stated, dict) and isinstance(mine, dict):
        for key in sorted({*stated, *mine}):
            if key not in mine or key not in stated:
                who = "the certificate" if key in stated else "your input"
                yield f"{where}.{key} only in {who}"
            else:
                yield from _differences(stated[key], mine[key], f"{where}.{key}")
    elif stated != mine or type(stated) is not type(mine):
        yield f"{where} is {shown(stated)} in the certificate, {shown(mine)} by your input"
