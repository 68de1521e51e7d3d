"""Hits by memory: the judges can fail, and a small run is what the trace says."""

from __future__ import annotations

import math

from experiments import prefix_memory
from experiments.claim import Status
from experiments.table import Table


def table(*pairs, counted=0.4):
    rows = [{"kind": "simulated", "memory": m, "hits": h, "ttft": t, "n": 1} for m, h, t in pairs]
    rows.append({"kind": "theory", "memory": math.inf, "hits": counted, "ttft": math.nan, "n": 1})
    return Table.of("prefix_memory", rows)


def test_judges():
    good = table((1e6, 0.1, 3.0), (math.inf, 0.4, 1.0))
    assert prefix_memory.endless(good).status is Status.PROVED
    assert prefix_memory.rising(good).status is Status.DIRECTION
    assert prefix_memory.endless(table((math.inf, 0.4001, 1.0))).status is Status.NOT
    assert prefix_memory.endless(table((1e6, 0.4, 1.0))).status is Status.NOT
    fewer = table((1e6, 0.2, 3.0), (2e6, 0.1, 2.0), (math.inf, 0.4, 1.0))
    later = table((1e6, 0.1, 1.0), (math.inf, 0.4, 3.0))
    for wrong in (fewer, later):
        assert prefix_memory.rising(wrong).status is Status.NOT
