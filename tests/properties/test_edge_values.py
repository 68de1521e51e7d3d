"""Edge values at every public constructor and verb: a value or an llmq error, nothing else."""

from __future__ import annotations

import importlib
import inspect
import math
import random
import resource
import signal
import warnings
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import llmq
from llmq import policies
from llmq.errors import LlmqError, LlmqWarning
from llmq.model.arrivals import Arrivals, Poisson

MODULES = (
    "policies",
    "policies.contract.routers",
    "theory.latency",
    "theory.stability.lyapunov",
    "theory.chains",
    "theory.fluid",
    "theory.hindsight",
    "theory.symbolic",
    "theory.region.tiling",
    "theory.region.routing",
    "theory.stability.drift",
    "calibrate.catalogue",
    "model.arrivals",
    "model.closed",
)
LAW = llmq.BatchTime.affine(base=0.01, per_token=1e-4)
ENGINE = llmq.Engine(LAW, token_budget=256, max_seqs=16, kv_tokens=64_000)
KIND = llmq.RequestClass(40, 8)
MIX = {"chat": KIND, "code": llmq.RequestClass(80, 4)}
WORK = llmq.Workload.poisson(2.0, MIX)
AGENTS = {"a": llmq.Agent({"x": llmq.Call("a", KIND)})}
NOT_OURS = (policies.Policy, llmq.Kind, Arrivals)  # a protocol, an enum and an abstract class
EDGE = (
    True,
    "3",
    Decimal(3),
    Decimal("NaN"),
    Fraction(1, 3),
    math.nan,
    math.inf,
    -math.inf,
    -1,
    0,
    0.0,
    1,
    2.5,
    10**30,
    10**400,
    2**63,
    2**31,
    1e300,
    1e-300,
    None,
    "",
    (),
    [],
    {},
    object(),
    "chat",
    "a\x1b[31m",
    "\udc80",
    b"x",
    [1, 2],
    (1, 2),
    {"chat": 1},
    {"chat": "3"},
    {"chat": math.nan},
    {"chat": -1},
    {"other": 1},
    {1: 2},
    [[]],
    [None],
    [math.nan],
    ["a"],
    [True],
    np.int64(3),
    np.float32(0.5),
    np.array([]),
    np.array([1, 2]),
    np.array("x"),
    np.array([[1.0]]),
    1j,
    int,
    lambda *_, **__: 1,
    ENGINE,
    MIX,
    WORK,
    KIND,
    LAW,
    [[[[[1]]]]],
)
# Arguments that work, by their names; those of one callable below.
USUAL: dict[str, Any] = {
    "law": LAW,
    "engine": ENGINE,
    "engine_or_fleet": ENGINE,
    "system": ENGINE,
    "mix": MIX,
    "engines": {"a": ENGINE},
    "prefill": ENGINE,
    "decode": ENGINE,
    "workload": WORK,
    "workload_or_trace": WORK,
    "policy": policies.Sarathi(),
    "slo": llmq.SLO(ttft=1.0),
    "policies": [policies.Sarathi(), policies.Orca()],
    "rate": 0.1,
    "request": KIND,
    "rates": {"chat": 0.1, "code": 0.1},
    "shares": {"chat": 0.5, "code": 0.5},
    "requests": 60,
    "weights": {"chat": 0.5, "code": 0.5},
    "replications": 2,
    "rng": 1,
    "prompt": 40,
    "output": 8,
    "reasoning": 0,
    "agents": AGENTS,
    "arrival": [0.0, 1.0],
    "candidates": ENGINE,
    "probes": 2,
    "users": 3,
    "load": 0.5,
    "servers": 3,
    "base": 0.01,
    "per_token": 1e-4,
    "per_item": 1e-4,
    "token_budget": 128,
    "tokens": [1, 2, 3],
    "seconds": [0.1, 0.2, 0.3],
    "tile": 4,
    "low": 1,
    "per_tile": 0.01,
    "floor": 0.02,
    "high": 9,
    "mean": 4.0,
    "sigma": 0.5,
    "table": {0: 1, 1: 9},
    "values": [1, 2],
    "cv": 1.0,
    "switch": (1.0, 1.0),
    "calls": {"x": llmq.Call("a", KIND)},
    "pools": {"a": (ENGINE, 2)},
    "jobs": [(2, 3), (1, 1)],
    "memory": 12,
    "station": "a",
    "name": "x",
    "text": "sarathi",
    "tp": 1,
    "lengths": False,
    "classes": ("chat",),
    "gpus": 4,
    "max_seqs": 8,
    "max_gpus": 4,
    "stages": 2,
    "first_hop": (1, 2),
    "second_hop": (2, 1),
    "d": 2,
    "tries": 1,
    "path": "/nonexistent/file",
    "trace": llmq.Trace([0.0, 1.0], 8, 4),
    "batch": 3,
    "duration": 1.0,
    "second_moment": 20.0,
    "d0": 0.01,
    "d1": 0.001,
    "thresholds": [3.0],
    "horizon": 100.0,
    "overflow": 0.01,
    "n1": 3,
    "n2": 2,
    "p": 0.5,
    "arrivals": 0.3,
    "c": 0.5,
    "queue": 3,
    "kv_tokens": 4000,
    "batch_time": 0.02,
    "chunk": 64,
    "service_rate": 1.0,
    "accessible": True,
    "mean_arrivals": 1.0,
    "mean_output": 8,
    "rows": 100,
    "columns": 100,
    "processors": 4,
    "capacity": 4,
    "budget": 2,
    "ids": [1, 2],
    "offsets": [0, 1, 2],
    "block": 16,
    "answer": 4,
    "correlation": 0.2,
    "points": 64,
    "time_limit": 2.0,
    "span": 10.0,
}
OWN: dict[str, dict[str, Any]] = {
    "waves": {"tile": (16, 16)},
    "mmpp": {"rates": (1.0, 2.0)},
    "AgentTrace.draw": {"klass": [0, 0]},
    "Prefix.of": {"rows": [[1], [2]]},
    "clockwork": {"rates": {"a": 1.0}},
    "agent_load": {"rates": {"a": 0.1}},
    "AgentWorkload": {"weights": {"a": 1.0}},
    "AgentWorkload.poisson": {"weights": None},
    "Lengths": {"weights": None},
    "find_instability": {"policy": lambda network: policies.Sarathi()},
    "llmq.Workload": {"arrivals": Poisson(1.0)},
    "llmq.AgentWorkload": {"arrivals": Poisson(1.0)},
    "two_station": {
        "station": {"a": 1, "b": 2},
        "mean_service": {"a": 1, "b": 1},
        "successor": {"a": "b"},
        "arrivals": {"a": 0.3},
    },
    "stationary": {"P": [[Fraction(1, 2), Fraction(1, 2)], [1, 0]]},
    "optimal_cost": {"choices": [[(1, {0: 1.0})]]},
    "qbd": {"up": [[0.2]], "local": [[0.5]], "down": [[0.3]]},
    "drift.maxweight": {"arrivals": {"chat": (0.1, 8)}},
    "simulate_agents": {"agents": 20, "workload_or_trace": llmq.AgentWorkload.poisson(1.0, AGENTS)},
}


def callables() -> dict[str, Callable[..., Any]]:
    """Every public constructor, classmethod and verb once, by its full name."""
    found: dict[object, tuple[str, Any]] = {}
    for home in (llmq, *(importlib.import_module(f"llmq.{name}") for name in MODULES)):
        for name in home.__all__:
            thing = getattr(home, name)
            wanted = callable(thing) and not inspect.ismodule(thing) and thing not in NOT_OURS
            if not wanted or (inspect.isclass(thing) and issubclass(thing, Exception)):
                continue
            full = f"{home.__name__}.{name}"
            found.setdefault(id(thing), (full, thing))
            for method, raw in vars(thing).items() if inspect.isclass(thing) else ():
                if isinstance(raw, classmethod) and not method.startswith("_"):
                    found[id(thing), method] = f"{full}.{method}", getattr(thing, method)
    return dict(found.values())


THINGS = callables()
NAMES = sorted(THINGS)


def usual(name: str, parameter: inspect.Parameter) -> Any:
    for end, own in OWN.items():
        if name.endswith(end) and parameter.name in own:
            return own[parameter.name]
    return USUAL.get(parameter.name, inspect.Parameter.empty)


def arguments(name: str, draw: random.Random) -> tuple[list[Any], dict[str, Any]]:
    """Arguments of which one to three are edge values."""
    empty = inspect.Parameter.empty
    parameters = list(inspect.signature(THINGS[name]).parameters.values())
    count = min(len(parameters), draw.choice((1, 1, 1, 2, 3)))
    wrong = set(draw.sample(range(len(parameters)), count))
    before: list[Any] = []
    more: list[Any] = []
    named: dict[str, Any] = {}
    for place, parameter in enumerate(parameters):
        good = usual(name, parameter)
        if parameter.kind is parameter.VAR_KEYWORD:
            continue
        if place in wrong:
            value = draw.choice(EDGE)
        elif good is not empty and (parameter.default is empty or draw.random() < 0.3):
            value = good
        elif parameter.default is not empty or parameter.kind is parameter.VAR_POSITIONAL:
            continue
        else:
            value = draw.choice(EDGE)
        if parameter.kind is parameter.VAR_POSITIONAL:
            # What stands before cannot be named then.
            before, named = list(named.values()), {}
            more = [value]
        else:
            named[parameter.name] = value
    return before + more, named


class Late(BaseException):
    """The call took too long."""


def late(*_: object) -> None:
    raise Late


def limited(function: Callable[..., Any], given: tuple[list[Any], dict[str, Any]]) -> str:
    """Call with 20 s, 4 GB more than now, and warnings of others as errors."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    old = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 2**32, old[1]))
    before = signal.signal(signal.SIGPROF, late)
    signal.setitimer(signal.ITIMER_PROF, 20)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.simplefilter("ignore", LlmqWarning)
            function(*given[0], **given[1])
    except LlmqError as error:
        return str(error)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
        resource.setrlimit(resource.RLIMIT_AS, old)
    return ""


def harmless(message: str) -> None:
    assert len(message) < 2000
    assert "\x1b" not in message
    assert "\udc80" not in message


@pytest.fixture(scope="module")
def loaded() -> None:
    """What the calls import, so that its time is not theirs."""
    for name in ("scipy.optimize", "scipy.special", "sympy", "cvxpy"):
        importlib.import_module(name)


def test_c_the_list_is_complete():
    assert len(NAMES) > 170
    for name in ("llmq.simulate", "llmq.Workload.poisson", "llmq.max_rate"):
        assert name in NAMES


@pytest.mark.parametrize("start", range(0, 200, 20))
def test_c_200_calls_with_edge_values(start, loaded):
    for seed in range(start, start + 20):
        draw = random.Random(seed)
        name = draw.choice(NAMES)
        harmless(limited(THINGS[name], arguments(name, draw)))


@pytest.mark.slow
@settings(max_examples=2000)
@given(name=st.sampled_from(NAMES), seed=st.integers(0, 2**32))
def test_c_2000_calls_with_edge_values(name, seed, loaded):
    harmless(limited(THINGS[name], arguments(name, random.Random(seed))))
