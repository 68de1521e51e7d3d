"""Stability regions: loads, prices, bounds and certificates."""

from __future__ import annotations

from llmq.theory.region._certificate import Certificate, canonical_digest, load_certificate
from llmq.theory.region._certify import certify
from llmq.theory.region._region import Region, StabilityRegion, stability_region

__all__ = [
    "Certificate",
    "Region",
    "StabilityRegion",
    "canonical_digest",
    "certify",
    "load_certificate",
    "stability_region",
]
