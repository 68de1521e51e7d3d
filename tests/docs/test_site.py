"""The site: every public name has an entry in the reference, and no link leads out of the pages."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

import llmq

ROOT = Path(llmq.__file__).parents[1]


@pytest.fixture
def pages() -> ModuleType:
    spec = importlib.util.spec_from_file_location("pages", ROOT / "website" / "pages.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_public_name_has_one_entry(pages):
    text = "\n".join(pages.reference().values())
    entries = [line.split()[-1] for line in text.splitlines() if line.startswith(("::: ", "## "))]
    names = [entry.strip("`").rpartition(".")[2] for entry in entries]
    assert sorted(names) == sorted(llmq.__all__)


def test_modules_list_their_own_names(pages):
    modules = pages.reference()["reference/modules.md"]
    assert "::: llmq.theory.hindsight\n    options:\n      members: [" in modules
    assert "'volume_bound'" in modules
    assert "::: llmq.calibrate.fit.calibrate\n" in pages.reference()["reference/functions.md"]


def test_links_out_of_the_site_become_words(pages, tmp_path):
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "limits.md").touch()
    (tmp_path / "README.md").touch()
    text = "[a](limits.md#b) [c](../README.md) [d](https://x.org) [e](#f) [g](none.md) ![h](i.svg)"
    assert pages.within(text, folder, folder) == (
        "[a](limits.md#b) c [d](https://x.org) [e](#f) g ![h](i.svg)"
    )
