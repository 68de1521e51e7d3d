"""The guides keep what they promise: every block runs, every number counts, every link leads on.

Markdown is executed by pytest itself (``--doctest-glob``, ``testpaths``); nothing runs twice.
These tests make sure that no block escapes it and that a wrong number could not pass.
"""

from __future__ import annotations

import doctest
import re
import subprocess
import sys
from pathlib import Path

import pytest
from _pytest.doctest import _get_checker  # the checker that understands NUMBER; no public name

ROOT = Path(__file__).parents[2]
GUIDES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
THEORY = ROOT / "docs" / "theory.md"
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NUMBER = re.compile(r"(?<![\w.])\d+(?:\.\d*)?")

each_guide = pytest.mark.parametrize("path", GUIDES, ids=lambda path: path.name)


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def prose(path: Path) -> str:
    """The text without fenced blocks and code spans."""
    return re.sub(r"`[^`\n]+`", "code", FENCE.sub("", text_of(path)))


def outputs(path: Path) -> list[tuple[int, str]]:
    """What the examples of a guide print, with the line of each."""
    found = doctest.DocTestParser().get_examples(text_of(path))
    return [(e.lineno + 1, e.exc_msg or e.want) for e in found if e.want]


def mutants(want: str) -> list[str]:
    """The output with one of its numbers changed in the first digit that counts."""
    changed = []
    for match in NUMBER.finditer(want):
        i = match.start() + (re.search("[1-9]", match[0]) or re.match("", match[0])).start()
        digit = str(int(want[i]) % 9 + 1)
        changed.append(want[:i] + digit + want[i + 1 :])
    return changed


def test_pytest_executes_the_guides(request: pytest.FixtureRequest) -> None:
    config = request.config
    assert {"README.md", "docs"} <= set(config.getini("testpaths"))
    assert config.getoption("doctestglob") == ["*.md"]


def test_a_wrong_number_in_a_guide_fails(tmp_path: Path) -> None:
    guide = tmp_path / "guide.md"
    guide.write_text("```python\n>>> 1 / 3\n0.3343\n\n```\n")
    call = [sys.executable, "-m", "pytest", "-q", "-c", ROOT / "pyproject.toml", guide]
    done = subprocess.run([*call, "-p", "no:cacheprovider"], capture_output=True, text=True)
    assert done.returncode == pytest.ExitCode.TESTS_FAILED, done.stdout
    assert "0.3343" in done.stdout


@each_guide
def test_every_python_block_is_executed(path: Path) -> None:
    for language, block in FENCE.findall(text_of(path)):
        if language == "python":
            assert block.startswith(">>> "), block
        else:
            assert language in ("console", "math", "toml", "json", "text"), language
            assert ">>>" not in block
        assert "doctest:" not in block
    assert text_of(path).count("```") == 2 * len(FENCE.findall(text_of(path)))


@each_guide
def test_every_printed_number_is_compared(path: Path, request: pytest.FixtureRequest) -> None:
    names = request.config.getini("doctest_optionflags")
    flags = sum(doctest.OPTIONFLAGS_BY_NAME[name] for name in names)
    checker = _get_checker()
    for line, want in outputs(path):
        assert checker.check_output(want, want, flags)
        for mutant in mutants(want):
            assert not checker.check_output(mutant, want, flags), f"{path.name}:{line}: {mutant}"


def test_the_theory_guide_prints_many_numbers() -> None:
    assert sum(len(mutants(want)) for _, want in outputs(THEORY)) > 150


def test_a_call_stands_below_every_formula() -> None:
    for section in re.split(r"^## ", text_of(THEORY), flags=re.MULTILINE)[1:]:
        kinds = [language for language, _ in FENCE.findall(section)]
        assert "math" not in kinds or kinds[-1] == "python", section.splitlines()[0]
        # Two formulas may share a call, not three.
        assert ["math"] * 3 not in [kinds[i : i + 3] for i in range(len(kinds))]


@each_guide
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(path)):
        if not target.startswith(("http", "#")):
            assert (path.parent / target.split("#")[0]).exists(), target


@each_guide
def test_inline_formulas_render(path: Path) -> None:
    """GitHub reads Markdown first: these are the characters it would take out of a formula."""
    for paragraph in re.split(r"\n\s*\n", prose(path)):
        parts = paragraph.split("$")
        assert len(parts) % 2, f"a single $ in: {paragraph}"
        for formula, after in zip(parts[1::2], parts[2::2], strict=True):
            assert formula == formula.strip(), formula
            assert "\n" not in formula, formula
            assert not re.search(r"\*|\\[,;{}!]|[)}]_|\|", formula), formula
            assert not re.match(r"\w", after), formula + "$" + after


def test_braces_of_formulas_match() -> None:
    formulas = [block for language, block in FENCE.findall(text_of(THEORY)) if language == "math"]
    inline = prose(THEORY).split("$")[1::2]
    assert len(formulas) > 15
    assert len(inline) > 150
    for formula in formulas + inline:
        assert formula.count("{") == formula.count("}"), formula
        assert formula.count("(") == formula.count(")"), formula


def test_levels_are_those_of_the_ledger() -> None:
    ledger = text_of(ROOT / "proofs" / "THEOREMS.md")
    level = dict(re.findall(r"^### ([\w-]+)\. .*\n- level: (.+)$", ledger, re.MULTILINE))
    text = " ".join(re.sub(r"\$[^$]+\$", "", prose(THEORY)).split())
    entries = re.findall(r"(\w+(?:[- ]\w+)?)?,?\s\[([\w-]+)\](?!\()", text)
    assert len(entries) > 40
    for said, entry in entries:
        assert entry in level, entry
        stated = said.lower()
        if any(word in stated for word in ("certified", "checked", "proof", "cited", "tested")):
            assert stated.endswith(level[entry]), f"{entry}: {stated}, not {level[entry]}"


def test_sources_are_listed_and_cited() -> None:
    body, listed = text_of(THEORY).split("## Bibliography")
    entries = re.findall(r"^\* (.+?)(?=^\* |\Z)", listed, re.MULTILINE | re.DOTALL)
    assert len(entries) > 15
    for entry in entries:
        names = re.findall(r"[A-Z][A-Za-z]{2,}", entry.split("arXiv")[0])
        assert any(re.search(rf"\b{name}\b", body) for name in names), entry
    modules = "".join(text_of(path) for path in sorted((ROOT / "llmq").rglob("*.py")))
    for number in re.findall(r"\d{4}\.\d{5}", listed):
        assert number in modules or number in text_of(ROOT / "README.md"), number
