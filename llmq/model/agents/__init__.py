"""Agents: programs that call the model again and again, and traces of them."""

from __future__ import annotations

from llmq.model.agents._trace import AgentTrace
from llmq.model.agents._workload import (
    Agent,
    AgentWorkload,
    Call,
    call_class,
    check_agents,
    check_stations,
)

__all__ = [
    "Agent",
    "AgentWorkload",
    "Call",
    "call_class",
    "check_agents",
    "check_stations",
    "AgentTrace",
]
