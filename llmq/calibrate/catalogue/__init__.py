"""The catalogue of engines: their files, kernel tables and the defaults of servers."""

from __future__ import annotations

from llmq.calibrate.catalogue._catalogue import (
    EngineEntry,
    engines,
    load_engine,
    read_engine,
    write_engine,
)

__all__ = ["EngineEntry", "engines", "load_engine", "read_engine", "write_engine"]
