"""Stability of policies: drift, Lyapunov functions, agents, what evictions lose."""
