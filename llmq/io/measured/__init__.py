"""Measured runs of servers: one file a format."""

from __future__ import annotations

from llmq.io.measured._measured import (
    ClosedMeans,
    OpenRun,
    PublishedMeans,
    Settings,
    read_object,
)

__all__ = ["ClosedMeans", "OpenRun", "PublishedMeans", "Settings", "read_object"]
