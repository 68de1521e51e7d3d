"""What a simulation can hold: numbers of requests, and times fine enough for iterations."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from llmq._limits import REPLICATIONS, REQUESTS
from llmq.errors import InputError, nearest, shown
from llmq.model.engine import Engine
from llmq.model.trace import Trace
from llmq.model.workload import Workload
from llmq.policies.contract.blocks import Policy
from llmq.units import format_seconds

__all__ = ["check_amount", "check_classes", "check_clock"]

_FINE = 1024  # steps of the clock in an iteration, at least


def check_amount(requests: int, replications: int, *, kept: bool) -> None:
    """Refuse simulations that memory cannot hold.

    Examples
    --------
    >>> check_amount(10**12, 8, kept=True)
    Traceback (most recent call last):
    ...
    llmq.errors.InputError: requests: 1,000,000,000,000 in a path are more than the 10,000,000 ...
    """
    if requests > REQUESTS:
        raise InputError(
            f"requests: {requests:,} in a path are more than the {REQUESTS:,} that one holds: ask "
            "for more paths (replications) instead",
            value=requests,
        )
    if replications > REPLICATIONS:
        raise InputError(
            f"replications: {replications:,} paths are more than the limit of {REPLICATIONS:,}: "
            "ask for longer ones (requests) instead",
            value=replications,
        )
    if kept and requests * replications > REQUESTS:
        raise InputError(
            f"{replications:,} paths of {requests:,} requests are {requests * replications:,} "
            f"requests, more than the {REQUESTS:,} that are kept in one call: ask for fewer, or "
            'keep sums only with record="summary"',
            value=requests * replications,
        )


def check_classes(policy: Policy, traffic: Workload | Trace) -> None:
    """Refuse a policy that names a class nobody is of."""
    known = traffic.classes if isinstance(traffic, Trace) else tuple(traffic.mix)
    for name, _ in getattr(policy, "deadlines", ()) or ():
        if name not in known:
            raise InputError(
                f"policy {policy.name}: a deadline is given for the class {shown(name)}, which the "
                f"traffic does not have{nearest(name, known)}",
                value=name,
            )


def check_clock(trace: Trace, fleet: Sequence[Engine]) -> None:
    """Refuse arrival times whose floats are too coarse for the iterations of a fleet."""
    step = float(np.spacing(np.abs(trace.arrival[[0, -1]]).max()))
    least = min(float(engine.law(1)) for engine in fleet)
    if step * _FINE > least > 0:
        raise InputError(
            f"arrival times near {trace.arrival[-1]:.6g} s have steps of {format_seconds(step)}, "
            f"coarser than a thousandth of an iteration ({format_seconds(least)}): they are epoch "
            "times, perhaps in another unit; read_trace(file, time_unit='us') subtracts the first "
            "exactly, an own array starts near 0",
            step=step,
        )
