"""The command line: ``llmq plan | region | simulate | calibrate | convert | engines | workloads``.

Text on stdout, ``--json`` for machines, messages and progress on stderr. Exit codes: 0 ok,
1 internal error, 2 bad input, 3 a valid negative answer (infeasible, overloaded, outside the
region), 4 certificate not accepted, 130 interrupted.
"""

from __future__ import annotations

from llmq.cli._main import main

__all__ = ["main"]
