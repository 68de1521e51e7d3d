"""Profiles of GPUs: one file a format."""

from __future__ import annotations

from llmq.io.profiles._format import Asked, ProfileFormat
from llmq.io.profiles._profiles import profile_formats, read_profile, register_profile_format

__all__ = [
    "Asked",
    "ProfileFormat",
    "profile_formats",
    "read_profile",
    "register_profile_format",
]
