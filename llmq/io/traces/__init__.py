"""Traces of requests: one file a format."""

from __future__ import annotations

from llmq.io.traces._traces import TRACE_FORMATS, WRITTEN_FORMATS, read_trace, write_trace

__all__ = ["TRACE_FORMATS", "WRITTEN_FORMATS", "read_trace", "write_trace"]
