"""Search for the smallest network on which a policy is unstable inside the region."""

from __future__ import annotations

from llmq.optimality.instability._instability import (
    Instability,
    draw_sketch,
    find_instability,
    replay,
)

__all__ = ["Instability", "draw_sketch", "find_instability", "replay"]
