"""Options that say what serves: an engine, or a fleet with a pool for each ``--engine``."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from llmq._limits import ENGINES
from llmq.cli._traffic import count
from llmq.errors import InputError

if TYPE_CHECKING:
    from llmq.model.engine import Engine
    from llmq.model.fleet import Fleet

# Said by every command that takes a policy.
POLICY = (
    "vllm (the default: the scheduler of vLLM v1), vllm:version=v0 (that of 2023), sarathi, "
    "slai:order=spf, ...; `llmq policies` lists all, --import adds your own"
)

__all__ = ["add_engine", "add_fleet", "build_engine", "build_fleet", "override_engine"]


def add_engine(
    parser: argparse.ArgumentParser,
    *,
    several: bool = False,
    tps: bool = False,
    policy: bool = True,
    cache: bool = False,
) -> None:
    """Add the options that say what serves."""
    group = parser.add_argument_group("engine")
    how: Any = {"action": "append"} if several else {}
    group.add_argument(
        "--engine",
        metavar="NAME",
        help="catalogue name (`llmq engines`) or engine TOML file",
        **how,
    )
    if policy:
        group.add_argument("--policy", metavar="P", help=POLICY, **how)
    every: Any = {"action": "append"} if tps else {}
    group.add_argument(
        "--tp", type=count(1), help="GPUs of one engine (tensor parallelism)", **every
    )
    group.add_argument("--token-budget", type=count(1), help="tokens per iteration")
    group.add_argument("--max-seqs", type=count(1), help="resident requests")
    group.add_argument("--kv-tokens", type=count(1), help="KV capacity in tokens")
    if cache:
        group.add_argument(
            "--prefix-cache",
            action="store_true",
            default=None,
            help="find KV blocks again that a trace names (Mooncake), as vLLM does",
        )


def build_engine(name: str | None, args: argparse.Namespace, tp: int | None = None) -> Engine:
    """Load an engine and apply the overriding options."""
    import llmq

    if not name:
        raise InputError("say what serves with --engine NAME; `llmq engines` lists the names")
    return override_engine(llmq.load_engine(name, args.tp if tp is None else tp), args)


def override_engine(engine: Engine, args: argparse.Namespace) -> Engine:
    """Apply the options that replace fields of an engine."""
    names = ("token_budget", "max_seqs", "kv_tokens", "prefix_cache")
    given = {key: getattr(args, key, None) for key in names}
    changes: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    made: Engine = engine.with_(**changes)
    return made


def add_fleet(parser: argparse.ArgumentParser, *, policy: bool = True, cache: bool = False) -> None:
    """Add the options that say which engines serve, and how many of each."""
    add_engine(parser, several=True, policy=False, cache=cache)
    parser.add_argument(
        "--engines",
        type=count(1, ENGINES),
        action="append",
        metavar="N",
        help="how many of it (1); once for each --engine of a fleet of several kinds",
    )
    if policy:
        parser.add_argument("--policy", metavar="P", help=POLICY)


def build_fleet(args: argparse.Namespace) -> Fleet:
    """Make a pool of each ``--engine``, with its ``--engines``."""
    import llmq

    names, counts = args.engine or [None], args.engines or []
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"--engine {twice} is given twice: say how many of it with --engines")
    if counts and len(counts) != len(names):
        raise InputError(
            f"{len(args.engine or [])} times --engine, but {len(counts)} times --engines: give a "
            "count for each engine, or none"
        )
    pairs = zip(names, counts or [1] * len(names), strict=True)
    return llmq.Fleet({name or "": (build_engine(name, args), n) for name, n in pairs})
