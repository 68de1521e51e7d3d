"""Traces of requests: one file a format."""

from __future__ import annotations

from llmq.io.traces._format import TraceFormat
from llmq.io.traces._schema import Column, How, Rows
from llmq.io.traces._traces import read_trace, register_trace_format, trace_formats, write_trace

__all__ = [
    "Column",
    "How",
    "Rows",
    "TraceFormat",
    "read_trace",
    "register_trace_format",
    "trace_formats",
    "write_trace",
]
