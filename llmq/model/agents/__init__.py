"""Agents: programs that call the model again and again, and traces of them."""

from __future__ import annotations

from llmq.model.agents._agent import (
    Agent,
    Call,
    call_class,
    check_agents,
    check_stations,
)
from llmq.model.agents._trace import AgentTrace
from llmq.model.agents._workload import AgentWorkload

__all__ = [
    "Agent",
    "AgentWorkload",
    "Call",
    "call_class",
    "check_agents",
    "check_stations",
    "AgentTrace",
]
