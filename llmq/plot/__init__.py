r"""Figures: what a region, a plan and a fit look like.

Every ``draw_*`` takes a result and returns the axes it drew on; it makes a figure only where no
axes are given, never shows one, and leaves the settings of matplotlib as they were. One vocabulary
throughout: theory is a line, simulation is points with 95 % intervals, measurement is crosses.
:func:`svg` writes a figure whose bytes depend on its content only.

Not covered: regions of fleets with pools that differ, interactive figures.
"""

from llmq.plot._backlog import draw_backlog
from llmq.plot._canvas import styled, svg
from llmq.plot._fit import draw_fit
from llmq.plot._plan import draw_attainment, draw_latency
from llmq.plot._region import draw_region
from llmq.plot._residuals import draw_residuals, draw_staircase

__all__ = [
    "draw_attainment",
    "draw_backlog",
    "draw_fit",
    "draw_latency",
    "draw_region",
    "draw_residuals",
    "draw_staircase",
    "styled",
    "svg",
]
