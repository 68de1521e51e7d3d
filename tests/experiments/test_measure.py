"""The measures of the code: each is seen on a small tree, and those that are reached are kept."""

from __future__ import annotations

import pytest

from experiments.measure import circles, imports, main, measures


@pytest.fixture
def tree(tmp_path):
    """Three modules that import each other in a ring, one of them inside a function."""
    files = {
        "llmq/__init__.py": "",
        "llmq/a.py": '"""One line."""\nfrom llmq.sim import b\nx = 1  # why\ny = {}  # fmt: skip\n',
        "llmq/policies/__init__.py": "",
        "llmq/policies/rule.py": "class Policy: ...\nclass Rule(Policy): ...\n",
        "llmq/sim/__init__.py": "",
        "llmq/sim/b.py": "def f():\n"
        "    from llmq.sim.c import g\n    return isinstance(1, (Rule, int))\n",
        "llmq/sim/c.py": "import llmq.a\ndef g(x):\n    return isinstance(x, Policy)\n",
        "llmq/sim/d.py": "from llmq import a\n",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return tmp_path


def test_a_ring_of_imports_is_found_wherever_they_stand(tree):
    graph = imports(tree)
    assert graph["llmq.a"] == {"llmq.sim.b"}
    assert graph["llmq.sim.d"] == {"llmq.a"}
    assert circles(graph) == [["llmq.a", "llmq.sim.b", "llmq.sim.c"]]


def test_rings_apart_are_told_apart():
    graph = {"a": ["b"], "b": ["a", "c"], "c": ["d"], "d": ["e"], "e": ["c"], "f": ["f"]}
    assert circles(graph) == [["a", "b"], ["c", "d", "e"]]


def test_each_measure_of_a_small_tree(tree):
    found = {one.name: one for one in measures(tree)}
    assert found["files of a folder, the largest"].value == 4
    ring = found["circles of imports"]
    assert (ring.value, ring.met, ring.where) == (1, False, ("llmq.a llmq.sim.b llmq.sim.c",))
    # One line of documentation, 14 of code; one comment, one place without formatting.
    assert found["documentation over code, lines"].value == pytest.approx(1 / 12)
    assert found["comments, % of code"].value == pytest.approx(100 / 13)
    assert found["comments, % of code"].met
    assert found["places where formatting is switched off"].value == 1
    # `Policy` is what every policy is; only a class of one is asked for.
    named = found["simulators that ask for the class of a policy"]
    assert (named.value, named.where) == (1, ("llmq/sim/b.py:3",))


def test_what_was_reached_is_kept(capsys):
    assert main() == 0
    rows = {line[:48].rstrip(): line for line in capsys.readouterr().out.splitlines()}
    for name in ("files of a folder, the largest", "circles of imports"):
        assert not rows[name].endswith("*"), rows[name]
