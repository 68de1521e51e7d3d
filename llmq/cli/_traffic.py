"""Options that several commands share: who arrives, what serves, how it is shown."""

from __future__ import annotations

import argparse
import json
import re
import sys
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from llmq._input.numbers import parse_real, parse_whole
from llmq._limits import INT, LENGTHS, NUMBER, TOKENS
from llmq.errors import InputError, shown

if TYPE_CHECKING:
    from llmq.model.slo import SLO
    from llmq.model.trace import Trace
    from llmq.model.workload import Workload
    from llmq.policies import Policy
    from llmq.result import Estimate

__all__ = [
    "add_output",
    "add_slo",
    "add_traffic",
    "build_policy",
    "build_slo",
    "build_traffic",
    "count",
    "interval",
    "print_json",
    "real",
    "teller",
]


def count(least: int, most: int = INT) -> Callable[[str], int]:
    """Return a reader of whole numbers, for options.

    Examples
    --------
    >>> count(1)("64"), count(1)("77,088")
    (64, 77088)
    """

    def read(text: str) -> int:
        grouped = re.fullmatch(r"[0-9]{1,3}(,[0-9]{3})+", text) if len(text) <= NUMBER else None
        value = parse_whole(text.replace(",", "") if grouped else text)
        if value is None or value < least or "." in text:
            if re.fullmatch(r"[0-9]{19,}", text):
                raise argparse.ArgumentTypeError(f"{shown(text)} is beyond the limit of {most:,}")
            raise argparse.ArgumentTypeError(
                f"expected a whole number >= {least}, found {shown(text)}"
            )
        if value > most:
            raise argparse.ArgumentTypeError(f"{shown(text)} is beyond the limit of {most:,}")
        return value

    return read


def real(text: str) -> float:
    """Read a number, for options.

    Examples
    --------
    >>> real("0.99"), real("-1e3")
    (0.99, -1000.0)
    """
    sign = -1.0 if text.startswith("-") else 1.0
    value = parse_real(text.removeprefix("-"))
    if value is None:
        raise argparse.ArgumentTypeError(f"expected a finite number, found {shown(text)}")
    return sign * value


def add_traffic(parser: argparse.ArgumentParser) -> None:
    """Add the options that say who arrives."""
    group = parser.add_argument_group(
        "traffic (one of --trace, --workload, --prompt with --output)"
    )
    group.add_argument(
        "--trace",
        metavar="FILE",
        help="Azure, BurstGPT, Mooncake, Vidur, native, or a result of vllm bench serve; .gz too",
    )
    add_reading(group)
    group.add_argument("--workload", metavar="NAME", help="a named workload, see `llmq workloads`")
    group.add_argument(
        "--prompt", type=count(1, TOKENS), metavar="TOKENS", help="prompt tokens of each request"
    )
    group.add_argument(
        "--output",
        type=count(1, TOKENS),
        metavar="TOKENS",
        help="output tokens of each request; also for a trace without output lengths",
    )
    group.add_argument("--rate", metavar="R", help="requests per second; scales a trace")
    group.add_argument("--cv", type=real, help="coefficient of variation of the gaps (1: Poisson)")
    group.add_argument(
        "--head", type=count(1), metavar="N", help="only the first N requests of a trace"
    )


def add_reading(group: Any, *, insist: str = "--format") -> None:
    """Add the options that say how a trace is read."""
    group.add_argument(insist, dest="format", help="insist on a trace format")
    group.add_argument("--jitter", choices=["uniform"], help="spread equal time stamps")
    group.add_argument(
        "--time-unit", metavar="U", help="unit of the trace's times: s, ms, us or ns"
    )
    group.add_argument(
        "--hash-block",
        type=count(1, LENGTHS),
        metavar="N",
        help="prompt tokens behind one hash id (Mooncake 512, Dynamo 64, Bailian 16)",
    )
    empty = group.add_mutually_exclusive_group()
    empty.add_argument(
        "--drop-failed", action="store_true", help="leave out requests without output tokens"
    )
    empty.add_argument(
        "--prefill-only", action="store_true", help="keep their prompts, with one output token"
    )


def build_traffic(args: argparse.Namespace) -> Trace | Workload:
    """Make the traffic that the options name."""
    import llmq
    from llmq.units import parse_rate

    # With a trace, --output is the length that the file lacks.
    fixed = args.prompt is not None or (args.output is not None and not args.trace)
    if sum((bool(args.trace), bool(args.workload), fixed)) != 1:
        raise InputError(
            "say who arrives with exactly one of --trace FILE, --workload NAME, or --prompt and "
            "--output with --rate"
        )
    rate = None if args.rate is None else parse_rate(args.rate)
    if args.trace:
        return _trace(args, rate)
    if args.workload:
        workload = llmq.load_workload(args.workload, rate)
        return (
            workload
            if args.cv is None
            else llmq.Workload.renewal(workload.rate, workload.mix, workload.weights, cv=args.cv)
        )
    if args.prompt is None or args.output is None or rate is None:
        raise InputError("--prompt, --output and --rate belong together")
    mix = {"requests": llmq.RequestClass(args.prompt, args.output)}
    return llmq.Workload.renewal(rate, mix, cv=1.0 if args.cv is None else args.cv)


# The readers name remedies in the words of the library.
_OPTIONS = (
    (r"jitter='uniform'", "--jitter uniform"),
    (
        r"give an arrival process, e\.g\. read_trace\(path, arrivals=llmq\.Poisson\(6\.0\), "
        r"rng=7\)",
        "draw them with --rate 6 --cv 1",
    ),
    (
        r"leave arrivals= out, or change the rate with Trace\.scaled\(rate=\.\.\.\)",
        "leave --cv out; --rate alone scales the trace",
    ),
    (r"name it with format=", "name it with --format"),
    (r"time_unit='(\w+)'", r"--time-unit \1"),
    (r"time_unit= ", "--time-unit "),
    (r"\btime_unit\b", "--time-unit"),
    (r"hash_block=", "--hash-block "),
    (r"failed='drop'", "--drop-failed"),
    (r"failed='prefill'", "--prefill-only"),
    (r"\boutput=(\d+)", r"--output \1"),
    (r"leave output= out", "leave --output out"),
)


def _trace(args: argparse.Namespace, rate: float | None) -> Trace:
    import llmq
    from llmq.errors import TraceWarning
    from llmq.model.arrivals import Renewal

    drawn = None
    if args.cv is not None:
        if rate is None:
            raise InputError("--cv draws arrival times for a file without them: give --rate too")
        drawn = Renewal(rate, args.cv)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", TraceWarning)
        try:
            trace = llmq.read_trace(
                args.trace,
                format=args.format,
                jitter=args.jitter,
                rng=args.seed,
                arrivals=drawn,
                time_unit=args.time_unit,
                hash_block=args.hash_block,
                output=args.output,
                failed=_failed(args),
            )
        except InputError as error:
            raise InputError(_as_options(str(error))) from error
    said = [str(warning.message) for warning in caught]
    said += [f"{args.trace}: {note}" for note in trace.notes if not any(note in w for w in said)]
    for note in said:
        sys.stderr.write(f"llmq: note: {_as_options(note)}\n")
    if args.head is not None:
        trace = trace.head(args.head)
    if rate is None or drawn is not None:
        return trace
    scaled, factor = trace.scaled(rate=rate), rate / trace.rate
    sys.stderr.write(
        f"llmq: note: --rate {args.rate} runs the clock of the trace {factor:.4g} times as fast, "
        "bursts and lulls too\n"
    )
    return scaled


def _failed(args: argparse.Namespace) -> str | None:
    return "drop" if args.drop_failed else "prefill" if args.prefill_only else None


def _as_options(text: str) -> str:
    for words, option in _OPTIONS:
        text = re.sub(words, option, text)
    return text


def build_policy(text: str | None) -> Policy:
    """Read a policy option."""
    from llmq import policies

    return policies.parse(text or "vllm")


def add_slo(parser: argparse.ArgumentParser) -> None:
    """Add the options of the targets."""
    group = parser.add_argument_group("targets")
    for name, words in (
        ("ttft", "time to first token"),
        ("tpot", "time per further token"),
        ("e2e", "time to the last token"),
    ):
        group.add_argument(f"--{name}", metavar="T", help=f"{words}, with its unit: 500ms")
    group.add_argument(
        "--quantile", type=real, metavar="Q", help="each metric must be met by this share (0.99)"
    )


def build_slo(args: argparse.Namespace) -> SLO | None:
    """Make the targets."""
    from llmq.model.slo import SLO
    from llmq.units import parse_duration

    given = {name: getattr(args, name) for name in ("ttft", "tpot", "e2e")}
    targets = {name: parse_duration(text) for name, text in given.items() if text is not None}
    if not targets:
        if args.quantile is not None:
            raise InputError("--quantile needs a target: --ttft, --tpot or --e2e")
        return None
    return SLO(**targets, quantile=args.quantile)


def add_output(parser: argparse.ArgumentParser) -> None:
    """Add the options of the output and the seed."""
    parser.add_argument("--seed", type=count(0), default=0, help="of everything random (default 0)")
    parser.add_argument("--json", action="store_true", help="machine-readable output")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress on stderr")


def teller(args: argparse.Namespace) -> Callable[[str], None] | None:
    """Return what shows progress: one line on a terminal, overwritten as work goes on."""
    if args.quiet or not sys.stderr.isatty():
        return None

    import shutil

    width = shutil.get_terminal_size().columns - 1

    def tell(text: str) -> None:
        sys.stderr.write(f"\r\x1b[2K{text[:width]}")
        sys.stderr.flush()

    return tell


def print_json(value: object) -> None:
    """Print JSON: the same input gives the same bytes."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def interval(estimate: Estimate) -> str:
    """Write a time with its interval."""
    import math

    from llmq.units import format_seconds

    if not math.isfinite(estimate.half_width):
        return f"{format_seconds(estimate.mean)} (no interval: {estimate.lacking})"
    return f"{format_seconds(estimate.mean)} ± {format_seconds(estimate.half_width, 2)}"
