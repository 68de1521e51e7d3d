"""Figures of the documentation: the same bytes each time, small, and not out of date."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

from paper_figs.book import draw, write

ROOT = Path(__file__).parents[2]


def words(path: Path) -> list[str]:
    root = ET.fromstring(path.read_text(encoding="utf-8"))
    return [element.text or "" for element in root.iter() if element.tag.endswith("}text")]


def test_twice_the_same_bytes_and_small(tmp_path: Path) -> None:
    for kind in ("svg", "png"):
        one, two = tmp_path / f"one.{kind}", tmp_path / f"two.{kind}"
        write(draw("plan"), one)
        write(draw("plan"), two)
        assert one.read_bytes() == two.read_bytes()
        assert 10_000 < one.stat().st_size < 100_000


def test_the_readme_shows_what_the_plan_says_today(tmp_path: Path) -> None:
    # That the table is that of today's plan: tests/experiments/test_frame.py.
    write(draw("plan"), tmp_path / "plan.svg")
    fresh = words(tmp_path / "plan.svg")
    # After a change of the numbers: make figures.
    assert words(ROOT / "docs" / "img" / "plan.svg") == fresh
    assert "what 3 GPUs carry: llama-3.1-8b/h100" in fresh
