"""Hypothesis strategies for small networks that shrink to smaller ones."""

from __future__ import annotations

from hypothesis import strategies as st

from llmq.optimality.networks import Sketch
from llmq.optimality.networks.fleet import FleetSketch
from llmq.optimality.networks.memory import MemorySketch


@st.composite
def sketches(
    draw: st.DrawFn, *, whole: bool = False, tiles_divide: bool = True, fill: bool = False
) -> Sketch:
    """Networks in whole numbers; by default the full budget is the most productive batch."""
    kinds = ["affine", "tiled"] if tiles_divide else ["affine", "tiled", "hinge"]
    step = draw(st.integers(1, 8))
    budget = step * draw(st.integers(1, 3))
    if not tiles_divide:
        budget += draw(st.integers(0, 2))
    unit = budget if fill else 1
    most = max(budget // 8, 1) if whole else 2 * budget // unit
    prompts, outputs = st.integers(1, most).map(lambda n: n * unit), st.integers(1, 12)
    classes = draw(st.lists(st.tuples(prompts, outputs), min_size=1, max_size=2))
    return Sketch(
        draw(st.sampled_from(kinds)),
        draw(st.integers(1, 16)),
        draw(st.integers(0, 16)),
        step,
        budget,
        tuple(classes),
    )


@st.composite
def memory_sketches(draw: st.DrawFn, *, classes: int = 2) -> MemorySketch:
    """Engines with a memory of at least the largest request; whether it binds is for the test."""
    pairs = draw(
        st.lists(st.tuples(st.integers(1, 8), st.integers(1, 12)), min_size=1, max_size=classes)
    )
    memory = max(map(sum, pairs)) + draw(st.integers(0, 16))
    base, slope, read = draw(st.integers(1, 8)), draw(st.integers(0, 8)), draw(st.integers(0, 2))
    return MemorySketch(base, slope, read, draw(st.integers(1, 12)), memory, tuple(pairs))


@st.composite
def fleet_sketches(draw: st.DrawFn, *, attention: bool = True) -> FleetSketch:
    """Two engines and two classes; without attention work the speed does not depend on both."""
    engine = st.tuples(
        st.integers(1, 8),
        st.integers(0, 2),
        st.integers(0, 8) if attention else st.just(0),
        st.integers(1, 12),
    )
    pair = st.tuples(st.integers(1, 12), st.integers(1, 8))
    return FleetSketch((draw(engine), draw(engine)), (draw(pair), draw(pair)))
