"""Queueing analysis of LLM serving: what a fleet can carry, at what price, with what latency.

Everything below is imported when it is first used; ``import llmq`` alone loads nothing heavy.
"""

from __future__ import annotations

from llmq._starting import early

early()  # an interrupt may come while the rest is imported

import importlib  # noqa: E402
from typing import TYPE_CHECKING, Any  # noqa: E402

from llmq._version import __version__  # noqa: E402

# Public name -> module that defines it; a name that is a module maps to itself.
_HOME = {
    "Agent": "llmq.model.agents",
    "AgentTrace": "llmq.model.agents",
    "AgentWorkload": "llmq.model.agents",
    "BatchTime": "llmq.model.time.batchtime",
    "Call": "llmq.model.agents",
    "Candidate": "llmq.planning.plans",
    "Conventions": "llmq.model.conventions",
    "ENGINE": "llmq.model.conventions",
    "Engine": "llmq.model.engine",
    "Estimate": "llmq.result",
    "Fleet": "llmq.model.fleet",
    "FormatError": "llmq.errors",
    "InfeasibleError": "llmq.errors",
    "InputError": "llmq.errors",
    "Kind": "llmq.result",
    "Lengths": "llmq.model.lengths",
    "LlmqError": "llmq.errors",
    "PolicyError": "llmq.errors",
    "Prefix": "llmq.model.prefix",
    "RequestClass": "llmq.model.request",
    "SLO": "llmq.model.slo",
    "THEORY": "llmq.model.conventions",
    "Trace": "llmq.model.trace",
    "UndecidedError": "llmq.errors",
    "UnstableError": "llmq.errors",
    "Workload": "llmq.model.workload",
    "agent_load": "llmq.theory.stability.agents",
    "calibrate": "llmq.calibrate",
    "chains": "llmq.theory.chains",
    "compare": "llmq.sim.compare",
    "drift": "llmq.theory.stability.drift",
    "engines": "llmq.calibrate.catalogue",
    "find_instability": "llmq.optimality.instability",
    "fluid": "llmq.theory.fluid",
    "fluid_model": "llmq.theory.fluid._engine",
    "hindsight": "llmq.theory.hindsight",
    "latency": "llmq.theory.latency",
    "load_engine": "llmq.calibrate.catalogue",
    "load_workload": "llmq.io.workloads",
    "lyapunov": "llmq.theory.stability.lyapunov",
    "max_rate": "llmq.planning.max_rate",
    "plan_capacity": "llmq.planning.capacity",
    "plot": "llmq.plot",
    "policies": "llmq.policies",
    "read_profile": "llmq.io.profiles",
    "read_trace": "llmq.io.traces",
    "routing": "llmq.theory.region.routing",
    "simulate": "llmq.sim.simulate",
    "simulate_agents": "llmq.sim.agents",
    "stability_region": "llmq.theory.region",
    "symbolic": "llmq.theory.symbolic",
    "tiling": "llmq.theory.region.tiling",
    "tiling_lp": "llmq.theory.region._tiling_lp",
    "workloads": "llmq.io.workloads",
    "write_engine": "llmq.calibrate.catalogue",
    "write_trace": "llmq.io.traces",
}

__all__ = [
    "Agent",
    "AgentTrace",
    "AgentWorkload",
    "BatchTime",
    "Call",
    "Candidate",
    "Conventions",
    "ENGINE",
    "Engine",
    "Estimate",
    "Fleet",
    "FormatError",
    "InfeasibleError",
    "InputError",
    "Kind",
    "Lengths",
    "LlmqError",
    "PolicyError",
    "Prefix",
    "RequestClass",
    "SLO",
    "THEORY",
    "Trace",
    "UndecidedError",
    "UnstableError",
    "Workload",
    "agent_load",
    "calibrate",
    "chains",
    "compare",
    "drift",
    "engines",
    "find_instability",
    "fluid",
    "fluid_model",
    "hindsight",
    "latency",
    "load_engine",
    "load_workload",
    "lyapunov",
    "max_rate",
    "plan_capacity",
    "plot",
    "policies",
    "read_profile",
    "read_trace",
    "routing",
    "simulate",
    "simulate_agents",
    "stability_region",
    "symbolic",
    "tiling",
    "tiling_lp",
    "workloads",
    "write_engine",
    "write_trace",
    "__version__",
]

_MODULES = {"calibrate", "chains", "drift", "fluid", "hindsight", "latency", "lyapunov", "plot"}
_MODULES |= {"policies", "routing", "symbolic", "tiling"}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'llmq' has no attribute {name!r}")
    module = importlib.import_module(_HOME[name])
    value = module if name in _MODULES else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


if TYPE_CHECKING:
    from llmq import plot, policies
    from llmq.calibrate.catalogue import engines, load_engine, write_engine
    from llmq.calibrate.fit import calibrate
    from llmq.errors import (
        FormatError,
        InfeasibleError,
        InputError,
        LlmqError,
        PolicyError,
        UndecidedError,
        UnstableError,
    )
    from llmq.io.profiles import read_profile
    from llmq.io.traces import read_trace, write_trace
    from llmq.io.workloads import load_workload, workloads
    from llmq.model.agents import Agent, AgentTrace, AgentWorkload, Call
    from llmq.model.conventions import ENGINE, THEORY, Conventions
    from llmq.model.engine import Engine
    from llmq.model.fleet import Fleet
    from llmq.model.lengths import Lengths
    from llmq.model.prefix import Prefix
    from llmq.model.request import RequestClass
    from llmq.model.slo import SLO
    from llmq.model.time.batchtime import BatchTime
    from llmq.model.trace import Trace
    from llmq.model.workload import Workload
    from llmq.optimality.instability import find_instability
    from llmq.planning.capacity import plan_capacity
    from llmq.planning.max_rate import max_rate
    from llmq.planning.plans import Candidate
    from llmq.result import Estimate, Kind
    from llmq.sim.agents import simulate_agents
    from llmq.sim.compare import compare
    from llmq.sim.simulate import simulate
    from llmq.theory import chains, fluid, hindsight, latency, symbolic
    from llmq.theory.fluid._engine import fluid_model
    from llmq.theory.region import routing, stability_region, tiling
    from llmq.theory.region._tiling_lp import tiling_lp
    from llmq.theory.stability import drift, lyapunov
    from llmq.theory.stability.agents import agent_load
