"""Queueing analysis of LLM serving: what a fleet can carry, at what price, with what latency.

Everything below is imported when it is first used; ``import llmq`` alone loads nothing heavy.
"""

from __future__ import annotations

from llmq._starting import early

early()  # an interrupt may come while the rest is imported

import importlib  # noqa: E402
from typing import Any  # noqa: E402

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

__all__ = [*_HOME, "__version__"]

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
