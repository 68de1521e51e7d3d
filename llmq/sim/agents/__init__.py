"""Agents: a few programs that call the model in turns, simulated."""

from __future__ import annotations

from llmq.sim.agents._simulate import AgentRun, peaks, simulate_agents

__all__ = ["AgentRun", "peaks", "simulate_agents"]
