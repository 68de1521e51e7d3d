"""What a saturated engine serves: all cycles that it can reach."""

from __future__ import annotations

from llmq.optimality.saturation._saturation import SaturatedCycle, has_cycle, saturated_cycle

__all__ = ["SaturatedCycle", "has_cycle", "saturated_cycle"]
