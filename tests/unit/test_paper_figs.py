"""Figures of the documentation: the same bytes each time, small, and not out of date."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from llmq.capacity import Plan

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def plan() -> Plan:
    from paper_figs.readme import compute

    return compute()


def words(path: Path) -> list[str]:
    root = ET.fromstring(path.read_text(encoding="utf-8"))
    return [element.text or "" for element in root.iter() if element.tag.endswith("}text")]


def test_twice_the_same_bytes_and_small(plan: Plan, tmp_path: Path) -> None:
    from paper_figs.__main__ import save
    from paper_figs.readme import draw

    first = save(draw(plan), tmp_path / "one")
    second = save(draw(plan), tmp_path / "two")
    for one, two in zip(first, second, strict=True):
        assert one.read_bytes() == two.read_bytes()
        assert 10_000 < one.stat().st_size < 100_000


def test_committed_figure_says_what_the_plan_says_today(plan: Plan, tmp_path: Path) -> None:
    from paper_figs.__main__ import save
    from paper_figs.readme import draw

    fresh = words(save(draw(plan), tmp_path / "plan")[0])
    # After a change of the numbers: make figures.
    assert words(ROOT / "docs" / "img" / "plan.svg") == fresh
    assert plan.chosen is not None
    assert f"what {plan.chosen.gpus} GPUs carry: llama-3.1-8b/h100" in fresh
