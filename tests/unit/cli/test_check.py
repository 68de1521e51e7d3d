"""``llmq check``: exit codes, text and JSON, and that the checker runs alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import llmq
from llmq.cli import main
from llmq.cli.commands import check

SHIPPED = sorted((Path(llmq.__file__).parent.parent / "proofs" / "certificates").glob("*.json"))


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)

    def call(*words: str) -> tuple[int, str, str]:
        code = main(["check", *words])
        return code, *capsys.readouterr()

    return call


@pytest.fixture
def good(tmp_path):
    return Path(shutil.copy(SHIPPED[0], tmp_path / "good.json"))


@pytest.fixture
def false(good):
    path = good.with_name("false.json")
    path.write_text(good.read_text(encoding="utf-8").replace("/", "1/", 1), encoding="utf-8")
    return path


def test_every_shipped_claim_is_accepted(run):
    seen, files = set(), []
    for path in SHIPPED:
        claim = json.loads(path.read_text(encoding="utf-8"))["claim"]
        if claim not in seen:
            seen.add(claim)
            files.append(str(path))
    code, out, err = run(*files)
    assert (code, err, len(seen)) == (0, "", 10)
    assert out.count(": accepted: ") == 10


def test_text_and_json(run, good):
    code, out, _ = run("good.json")
    claim = json.loads(good.read_text(encoding="utf-8"))["claim"]
    assert code == 0
    assert out.startswith(f"good.json: accepted: {claim}, ")
    code, out, _ = run("good.json", "--json")
    (one,) = json.loads(out)["files"]
    assert (code, one["file"], one["verdict"]) == (0, "good.json", "accepted")
    assert one["reason"].startswith(claim)


def test_exit_codes(run, good, false, tmp_path):
    (tmp_path / "bad.json").write_text('{"format": ', encoding="utf-8")
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe\x00")
    assert run("false.json")[0] == 4
    assert "false.json: rejected: " in run("false.json")[1]
    for name, reason in (
        ("none.json", "No such file"),
        ("bad.json", "not JSON"),
        ("bytes.json", "utf-8"),
        (".", "Is a directory"),
    ):
        code, out, err = run("good.json", name)
        assert (code, err) == (2, "")
        assert f"{name}: unreadable: " in out
        assert reason in out
        assert "good.json: accepted: " in out
    # A false proof outweighs a file that cannot be read.
    code, out, _ = run("none.json", "false.json", "good.json", "--json")
    verdicts = [one["verdict"] for one in json.loads(out)["files"]]
    assert (code, verdicts) == (4, ["unreadable", "rejected", "accepted"])


def test_names_that_look_like_something_else(run, good, tmp_path):
    for name in ("a: accepted: b.json", "ümlaut.json", "-I.json"):
        shutil.copy(good, tmp_path / name)
    code, out, _ = run("a: accepted: b.json", "ümlaut.json", "--", "-I.json")
    assert (code, out.count("good"), len(out.splitlines())) == (0, 0, 3)


def test_the_checker_runs_alone(run, good, tmp_path, monkeypatch):
    """Neither the working folder nor the environment reaches it."""
    (tmp_path / "json.py").write_text("raise SystemExit(0)\n", encoding="utf-8")
    (tmp_path / "proofs.py").write_text("raise SystemExit(0)\n", encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("PYTHONSTARTUP", str(tmp_path / "json.py"))
    code, out, _ = run("good.json")
    assert code == 0
    assert "accepted" in out


def test_the_installed_copy_is_preferred(tmp_path, monkeypatch):
    package = tmp_path / "llmq"
    (package / "cli" / "commands").mkdir(parents=True)
    monkeypatch.setattr(check, "__file__", str(package / "cli" / "commands" / "check.py"))
    with pytest.raises(llmq.InputError, match="missing from this installation"):
        check._program()
    for folder in (tmp_path / "proofs", package / "_check"):
        folder.mkdir()
        for name in ("check.py", "check_reading.py"):
            (folder / name).touch()
        assert check._program() == folder / "check.py"


def test_a_checker_that_breaks(run, good, tmp_path, monkeypatch):
    broken = tmp_path / "check.py"
    broken.write_text("raise SystemExit('lost')\n", encoding="utf-8")
    monkeypatch.setattr(check, "_program", lambda: broken)
    code, _, err = run("good.json")
    assert code == 2
    assert "the checker ended with code 1 on good.json: lost" in err


def test_help_and_wrong_calls(run):
    code, out, _ = run("--help")
    assert code == 0
    assert "4: a certificate is rejected" in out
    assert run()[0] == 2


# A5: the problem of the user. ------------------------------

OWN = ("--engine", "llama-3.1-8b/h100", "--prompt", "1000", "--output", "100", "--rate", "20")


@pytest.fixture
def own(tmp_path):
    from llmq.theory.region._certify import certify

    engine = llmq.load_engine("llama-3.1-8b/h100")
    certify(engine, {"x": llmq.RequestClass(1000, 100)}, {"x": 20}).save(tmp_path / "own.json")
    return "own.json"


def test_a5_the_problem_is_made_again_from_the_users_input(run, own):
    code, out, err = run(own, *OWN)
    assert (code, err) == (0, "")
    assert "it is the problem of your own input" in out
    code, out, _ = run(own)
    assert code == 0
    assert "your own input" not in out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--rate", "21"), "problem.classes.x.rate is '20/1' in the certificate, '21/1'"),
        (("--prompt", "1001"), "lengths.prompt is [1000] in the certificate, [1001] by your input"),
        (("--output", "99"), "lengths.output"),
        (("--kv-tokens", "100000"), "limits.memory"),
        (("--max-seqs", "7"), "limits.slots"),
        (("--token-budget", "77"), "token_budget"),
        (("--engines", "2"), "engines is 1 in the certificate, 2 by your input"),
        (("--engine", "llama-3.1-8b/a100"), "law.base"),
        (("--policy", "vllm:token_budget=77"), "token_budget"),
    ],
)
def test_a5_a_difference_is_named(run, own, options, words):
    given = dict(zip(OWN[::2], OWN[1::2], strict=True)) | {options[0]: options[1]}
    code, out, _ = run(own, *[text for pair in given.items() for text in pair])
    assert code == 4
    assert "rejected: another problem than yours" in out
    assert words in out


def test_a5_the_scope_is_that_of_the_certificate(run, tmp_path):
    from llmq.theory.region._certify import certify

    engine = llmq.load_engine("llama-3.1-8b/h100")
    made = certify(engine, {"x": llmq.RequestClass(1000, 100)}, {"x": 20}, limits="hardware")
    made.save(tmp_path / "hard.json")
    code, out, _ = run("hard.json", *OWN, "--max-seqs", "7")
    assert code == 0
    assert "on this hardware, whatever the token budget, slots and chunk" in out
    assert run("hard.json", *OWN, "--kv-tokens", "100000")[0] == 4


def test_a5_fleets_are_compared_pool_by_pool(run, tmp_path):
    from llmq.theory.region._certify import certify

    names = ("llama-3.1-8b/h100", "llama-3.1-8b/a100")
    fleet = llmq.Fleet(
        {name: (llmq.load_engine(name), n) for name, n in zip(names, (2, 3), strict=True)}
    )
    certify(fleet, {"requests": llmq.RequestClass(1000, 100)}, {"requests": 20}).save(
        tmp_path / "fleet.json"
    )
    words = ["--engine", names[0], "--engine", names[1], *OWN[2:]]
    assert run("fleet.json", *words, "--engines", "2", "--engines", "3")[0] == 0
    code, out, _ = run("fleet.json", *words, "--engines", "3", "--engines", "2")
    assert code == 4
    assert out.count("engines is") == 2
    assert run("fleet.json", *OWN)[0] == 4


def test_a5_other_claims_are_not_compared(run, tmp_path):
    drift = next(path for path in SHIPPED if path.stem == "drift-sarathi")
    code, _, err = run(str(drift), *OWN)
    assert code == 2
    assert "is not about a planning problem" in err
    assert run(str(drift), "--engine", OWN[1])[0] == 2


def test_c27_a_checker_that_runs_on_is_ended(run, good, monkeypatch):
    monkeypatch.setattr(check, "_LIMIT", 0.001)
    code, out, _ = run("good.json")
    assert code == 4
    assert "rejected: not checked within 0.001 seconds" in out
