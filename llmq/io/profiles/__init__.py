"""Profiles of GPUs: one file a format."""

from __future__ import annotations

from llmq.io.profiles._profiles import FORMATS, read_profile

__all__ = ["FORMATS", "read_profile"]
