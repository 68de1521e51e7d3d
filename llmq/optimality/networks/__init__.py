"""Systems on which policies are tried: one engine, fleets, limited memory."""

from __future__ import annotations

from llmq.optimality.networks._networks import (
    Burst,
    Network,
    Sketch,
    below,
    draw_network,
    fitted,
    suited,
)

__all__ = ["Burst", "Network", "Sketch", "below", "draw_network", "fitted", "suited"]
