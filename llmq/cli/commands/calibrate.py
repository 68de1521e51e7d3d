"""``llmq calibrate``."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from typing import Any

from llmq.cli._traffic import count
from llmq.errors import InputError

__all__ = ["add_arguments", "run"]

_BUDGET = 2048  # of the engine that is saved, vLLM's default


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options.

    Parameters
    ----------
    parser : argparse.ArgumentParser
        Of the command.
    """
    parser.add_argument(
        "profile",
        help="file or folder: Vidur, LLMServingSim, aiconfigurator, steps; or "
        "aiconfigurator-core/GPU of the extra profiles",
    )
    parser.add_argument("--format", help="insist on a profile format")
    parser.add_argument(
        "--layers", type=count(1), help="layers of the model, for one-layer profiles"
    )
    parser.add_argument("--model", help="model, for kernel tables: llama-3.1-8b, ...")
    parser.add_argument("--tp", type=count(1), default=1, help="GPUs of one engine (1)")
    parser.add_argument("--gpu", help="GPU name, for the record")
    parser.add_argument("--attention", metavar="FILE", help="Vidur's attention.csv")
    parser.add_argument("--network", metavar="FILE", help="all-reduce table")
    parser.add_argument(
        "--assume",
        action="append",
        metavar="PART=TIME",
        default=[],
        help="time of a part that the profile lacks, e.g. lm_head=0.4ms",
    )
    parser.add_argument(
        "--form",
        default="auto",
        choices=["auto", "affine", "roofline", "tiled", "table"],
        help="law to fit; auto takes the smallest error on unseen rows",
    )
    parser.add_argument("--out", metavar="FILE.toml", help="save an engine that --engine accepts")
    parser.add_argument(
        "--report", metavar="FILE.html", help="fit, residuals, tiles and what to trust as one page"
    )
    parser.add_argument("--kv-tokens", type=count(1), help="KV capacity of that engine")
    parser.add_argument("--json", action="store_true", help="machine-readable output")


def run(args: argparse.Namespace) -> int:
    """Fit and print.

    Parameters
    ----------
    args : argparse.Namespace
        Parsed options.

    Returns
    -------
    int
        Exit code.
    """
    import llmq
    from llmq.calibrate.fit import calibrate
    from llmq.result import to_json

    if args.report:
        from llmq.report._file import check_writable

        check_writable(args.report)
    profile = llmq.read_profile(
        args.profile,
        format=args.format,
        layers=args.layers,
        model=args.model,
        tp=args.tp,
        gpu=args.gpu,
        assume=_assumed(args.assume),
        attention=args.attention,
        network=args.network,
    )
    fit = calibrate(profile, form=args.form)
    if args.out:
        try:
            llmq.write_engine(fit, args.out, kv_tokens=args.kv_tokens)
        except OSError as error:
            raise InputError(f"cannot write {args.out}: {error.strerror}") from error
        sys.stderr.write(f"llmq: wrote {args.out}\n")
        if beyond := fit.extrapolation(_BUDGET, args.kv_tokens or 0):
            sys.stderr.write(f"llmq: warning: a full engine extrapolates: {beyond}\n")
    if args.report:
        from llmq.report._calibration import write_calibration

        write_calibration(fit, profile, args.report)
        sys.stderr.write(f"llmq: wrote {args.report}\n")
    if args.json:
        # The residuals of thousands of rows would bury the answer.
        found = json.loads(to_json(dataclasses.replace(fit, residuals=fit.residuals[:0])))
        sys.stdout.write(json.dumps(_without(found, "residuals"), indent=2, ensure_ascii=False))
        sys.stdout.write("\n")
    else:
        sys.stdout.write(fit.summary() + "\n")
    return 0


def _without(found: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in found.items() if name != key}


def _assumed(items: list[str]) -> dict[str, float] | None:
    from llmq.units import parse_duration

    found = {}
    for item in items:
        name, equals, value = item.partition("=")
        if not equals:
            raise InputError(f"--assume {item!r}: write PART=TIME, e.g. lm_head=0.4ms", value=item)
        if name.strip() in found:
            raise InputError(f"--assume names {name.strip()!r} twice: give each part once")
        found[name.strip()] = parse_duration(value)
    return found or None
