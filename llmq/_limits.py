"""How large input may be: every limit of the readers and of the commands stands here.

A file that goes on without end, a number of a million digits or a fleet of a thousand million
engines is a mistake far more often than a wish. Each is refused with an error that names the limit,
before memory or time run out. docs/limits.md lists them with the reasons.
"""

from __future__ import annotations

__all__ = [
    "CONFIG_BYTES",
    "ENGINES",
    "INT",
    "LENGTHS",
    "LINE",
    "NAME",
    "NESTING",
    "NUMBER",
    "RATE",
    "REPLICATIONS",
    "REQUESTS",
    "ROWS",
    "SERVERS",
    "TEXT_BYTES",
    "TOKENS",
    "WORKERS",
]

TEXT_BYTES = 256 * 2**20  # of a trace or profile, after unpacking
CONFIG_BYTES = 2**20  # of a configuration or an engine
LINE = 4 * 2**20  # characters of a JSON line or of a cell
ROWS = 2_000_000  # requests of a trace, rows of a profile
NUMBER = 64  # characters of a number: more digits than any clock has
NAME = 200  # characters of a class name
NESTING = 32  # tables inside tables
INT = 2**63 - 1  # whole numbers fit 64 bits
TOKENS = 2**32  # of a request
LENGTHS = 2**21  # token counts between the shortest and the longest of a law
RATE = 1e9  # requests per second
ENGINES = 100_000  # of a fleet
SERVERS = 10_000_000  # of a formula that goes from one server to the next
REQUESTS = 10_000_000  # simulated in one call: paths times requests of a path
REPLICATIONS = 100_000
WORKERS = 1024
