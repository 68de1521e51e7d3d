"""Stability regions: loads, prices, bounds and certificates."""

from __future__ import annotations

from llmq.theory.region._region import Region, StabilityRegion, stability_region

__all__ = ["Region", "StabilityRegion", "stability_region"]
