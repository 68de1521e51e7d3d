"""The limits of input are written down as they are, and each is named where it is passed."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import pytest

import llmq
from llmq import _limits as limits
from llmq._input.files import read_text
from llmq.cli import main
from llmq.errors import FormatError, InputError
from llmq.io.traces import read_trace

PAGE = Path(__file__).parents[2] / "docs" / "limits.md"


def test_the_page_lists_every_limit():
    rows = re.findall(r"^\| `(\w+)` \| (\d+) \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert {name: int(value) for name, value in rows} == {
        name: int(getattr(limits, name)) for name in limits.__all__
    }


def test_c_a_gzip_bomb_is_unpacked_up_to_the_limit_only(tmp_path):
    (tmp_path / "b.csv.gz").write_bytes(gzip.compress(b"0,9,9\n" * 500_000, mtime=0))
    with pytest.raises(FormatError, match="more than 1,000,000 bytes of text, the most that is"):
        read_text(tmp_path / "b.csv.gz", 1_000_000)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--engines", "1000000000"], "is beyond the limit of 100,000"),
        (["--replications", "1000000000"], "is beyond the limit of 100,000"),
        (["--requests", "1000000000000"], "is beyond the limit of 10,000,000"),
        (["--requests", "1000000", "--replications", "1000"], "more than the 10,000,000"),
        (["--rate", "1e15"], "beyond 1,000,000,000 requests per second"),
        (["--workers", "9" * 40], "is beyond the limit of 1,024"),
        (["--prompt", "9" * 15], "is beyond the limit of 4,294,967,296"),
    ],
)
def test_c_sizes_without_limit_are_refused(words, message, capsys):
    base = ["simulate", "--engine", "llama-3.1-8b/h100", "--output", "9"]
    base += [] if "--prompt" in words else ["--prompt", "9"]
    assert main([*base, *([] if "--rate" in words else ["--rate", "1"]), *words]) == 2
    assert message in capsys.readouterr().err


def test_c_laws_of_lengths_without_limit_are_refused():
    for make in (
        lambda: llmq.Lengths.uniform(1, 10**18),
        lambda: llmq.Lengths.quantiles({0: 5, 1: 1e9}),
        lambda: llmq.Lengths.lognormal(mean=9, sigma=1, high=10**12),
    ):
        with pytest.raises(InputError, match="too far apart: a law has at most 2,097,152 values"):
            make()


def test_c_a_pipe_without_a_writer_is_an_empty_file(tmp_path):
    import os

    os.mkfifo(tmp_path / "p.csv")
    with pytest.raises(FormatError, match="the file is empty"):
        read_trace(tmp_path / "p.csv")
