"""SLAI on OpenChat's conversations in many replications; :mod:`experiments.speed` times it.

Lengths of OpenChat conversations (mean prompt 2340, mean output 439), Mistral-7B on an RTX 6000
Ada, 1.4 requests/s, one request in twenty pays for a deadline of 0.1 s, the others have 0.5 s.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

import llmq
from llmq.sim._fast.vector.engine import Lanes

RATE, PAYING = 1.4, 0.05
POLICY = llmq.policies.SLAI(deadlines={"paying": 0.1, "free": 0.5})


def openchat(path: Path, lanes: int, requests: int, rate: float, seed: int = 1) -> Lanes:
    """Draw requests with the lengths of the file."""
    rng = np.random.default_rng(seed)
    lengths = np.loadtxt(path, delimiter=",", skiprows=1, usecols=(0, 1), dtype=np.int64)
    rows = lengths[rng.integers(0, len(lengths), (lanes, requests))]
    arrival = rng.exponential(1 / rate, (lanes, requests)).cumsum(axis=1)
    return Lanes(arrival, rows[..., 0], rows[..., 1])
