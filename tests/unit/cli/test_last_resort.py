"""Every error of a command ends in one line and an exit code; nothing acts on the terminal."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from llmq.cli import main

ENGINE = ("--engine", "llama-3.1-8b/h100")
WORDS = ("region", *ENGINE, "--prompt", "100", "--output", "10", "--rate", "1")


def llmq(*words: str, **options) -> subprocess.CompletedProcess[bytes]:
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.run([sys.executable, "-m", "llmq", *words], check=False, **options)


def overflow() -> None:
    overflow()


def unwritable() -> None:
    raise PermissionError(13, "Permission denied", "a\x1b[31m.csv")


@pytest.mark.parametrize(
    ("name", "work"),
    [
        ("ZeroDivisionError", lambda: 1 / 0),
        ("RecursionError", overflow),
        ("KeyError", lambda: {}["a\x1b[31m\n"]),
        ("UnicodeEncodeError", lambda: "\udc80".encode()),
        ("ValueError", lambda: int("x")),
        ("AssertionError", lambda: (_ for _ in ()).throw(AssertionError("x" * 10**6))),
    ],
)
def test_c_an_unforeseen_error_is_one_line_and_a_report(name, work, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("llmq.cli.commands.region.run", lambda args: work())
    assert main(WORDS) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(
        rf"llmq: error: unforeseen {name}: .*\. This is a fault of llmq; please report it with the "
        rf"file {tmp_path}/llmq-error-\w+\.txt\n",
        err,
    )
    assert len(err) < 600
    assert "\x1b" not in err
    (report,) = tmp_path.iterdir()
    said = report.read_text()
    assert "Traceback" in said
    assert name in said
    assert "'--prompt' '100'" in said
    assert said.startswith("llmq 0.")


def test_c_without_a_place_for_the_report(monkeypatch, capsys):
    monkeypatch.setattr("tempfile.tempdir", "/nonexistent")
    monkeypatch.setattr("llmq.cli.commands.region.run", lambda args: 1 / 0)
    assert main(WORDS) == 1
    assert capsys.readouterr().err.endswith("please report it\n")


@pytest.mark.parametrize(
    ("work", "code", "words"),
    [
        (unwritable, 2, "a\\x1b[31m.csv: Permission denied"),
        (lambda: (_ for _ in ()).throw(MemoryError), 1, "not enough memory: use fewer requests"),
        (lambda: sys.exit(0), 0, ""),
    ],
)
def test_c_what_the_system_refuses(work, code, words, monkeypatch, capsys):
    monkeypatch.setattr("llmq.cli.commands.region.run", lambda args: work())
    assert main(WORDS) == code
    err = capsys.readouterr().err
    assert err.count("\n") == bool(words)
    assert words in err


@pytest.mark.parametrize("words", [("engines",), ("engines", "--json"), ("--help",), WORDS])
def test_c_a_full_disk_is_one_line(words):
    if not Path("/dev/full").exists():
        pytest.skip(reason="this system has no /dev/full to stand for a full disk")
    with Path("/dev/full").open("w") as full:
        done = llmq(*words, stdout=full)
    said = b"llmq: error: cannot write the output: No space left on device\n"
    assert (done.returncode, done.stderr) == (1, said)


@pytest.mark.parametrize("closed", [1, 2])
def test_c_a_closed_stream_is_no_error(closed):
    done = subprocess.run(
        ["/bin/sh", "-c", f'exec "$0" -m llmq engines {closed}>&-', sys.executable],
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert bool(done.stdout) == (closed == 2)


def test_c_names_do_not_act_on_the_terminal(tmp_path):
    """A class name with escape codes, a line break and a lone surrogate in a table and in JSON."""
    (tmp_path / "t.csv").write_bytes(
        b"arrival,prompt,output,class\n0,100,10,a\x1b[31mred\x9bb\n1,100,10,ok\n2,100,10,a\x07\n"
    )
    for more in ((), ("--json",)):
        done = llmq("region", *ENGINE, "--trace", str(tmp_path / "t.csv"), *more)
        for stream in (done.stdout, done.stderr):
            assert not re.search(rb"[\x00-\x08\x0b-\x1f\x7f]", stream)
        assert b"Traceback" not in done.stderr


def test_c_what_was_typed_is_repeated_in_short():
    done = llmq("region", "--" + "x" * 100_000, "\udc80\x1b[31m")
    assert done.returncode == 2
    assert len(done.stderr) < 1000
    assert done.stderr.count(b"\n") == 1
    assert b"\x1b" not in done.stderr


@pytest.mark.parametrize(
    "name", ["no\x1b[31m\nsuch.csv", "x" * 5000, "loop", "dir", "\udc80.csv", "/dev/null/x"]
)
def test_c_a_path_that_cannot_be_read_is_one_line(name, tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "dir").mkdir()
    done = llmq("region", *ENGINE, "--trace", name, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith(b"llmq: error: ")
    assert done.stderr.count(b"\n") == 1
    assert b"\x1b" not in done.stderr
    assert len(done.stderr) < 1000 + len(os.fsencode(name))


def test_c_a_nul_in_a_path_is_one_line(capsys):
    assert main(["region", *ENGINE, "--trace", "a\0b.csv"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "\0" not in err
