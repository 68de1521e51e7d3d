"""Lengths of the reasoning-heavy sets (the paper's figure 14)."""

from __future__ import annotations

from functools import partial

from paper_figs.pascal_fig8 import curves

TABLE = "pascal_lengths"
GROUP = "PASCAL"
CAPTION = (
    "Figure 14, made, not measured: three sets that reason 4, 6 and 8 times as long as they "
    "answer; of the paper's sets only the largest ratio, 8.48, is known."
)
SIZE = (2.8, 2.6)
NAMES = {"heavy-4": "ratio 4", "heavy-6": "ratio 6", "heavy-8": "ratio 8.48, clipped: 8.1"}
PANELS = tuple(partial(curves, name=name, title=title) for name, title in NAMES.items())
