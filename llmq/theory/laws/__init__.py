"""Closed-form laws of delay and occupancy; :mod:`llmq.theory.latency` is their front."""
