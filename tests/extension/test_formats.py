"""A trace format and a profile format that exist only here: readers, writers and command line."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

import llmq
from llmq.calibrate.profile import Profile
from llmq.cli import main
from llmq.errors import FormatError, InputError
from llmq.io import profiles, traces
from llmq.io.profiles import Asked, ProfileFormat, profile_formats, register_profile_format
from llmq.io.traces import (
    Column,
    How,
    Rows,
    TraceFormat,
    read_trace,
    register_trace_format,
    trace_formats,
    write_trace,
)


def read_tabs(text: str, path: str, how: How) -> Rows:
    """Lines of ``ms<TAB>ask<TAB>say`` below a header."""
    rows = [line.split("\t") for line in text.splitlines()[1:]]
    for number, row in enumerate(rows, start=2):
        if len(row) != 3:
            raise FormatError("wants three cells", path=path, line=number)
    at, ask, say = np.array(rows, dtype=np.int64).T
    return Rows(ask, say, range(2, len(rows) + 2), arrival=at / 1000, clock="ms")


def write_tabs(trace: llmq.Trace) -> str:
    rows = zip(trace.arrival, trace.prompt, trace.output, strict=True)
    return "ms,\task,\tsay\n" + "".join(f"{round(1000 * t)}\t{s}\t{o}\n" for t, s, o in rows)


TABS = TraceFormat(
    name="tabs",
    known_by="ms, ask and say",
    columns=(Column("ms"), Column("ask"), Column("say")),
    read=read_tabs,
    write=write_tabs,
    suffix=".tsv",
)


def read_log(file, asked: Asked) -> Profile:
    table = np.loadtxt(file, delimiter=",", skiprows=1)
    return Profile(
        tokens=table[:, 0].astype(np.int64),
        seconds=table[:, 1] / 1e6,
        tp=asked.tp,
        gpu=asked.gpu or "",
        format="log",
        source=asked.source,
    )


LOG = ProfileFormat(
    name="log",
    known_by="columns batch, us",
    number="us, one iteration",
    columns=lambda names: {"batch", "us"} <= set(names),
    read=read_log,
    tables=("log",),
)


@pytest.fixture(autouse=True)
def _registered(monkeypatch):
    monkeypatch.setattr(traces._traces.FORMATS, "registered", {})
    monkeypatch.setattr(profiles._profiles.FORMATS, "registered", {})
    register_trace_format(TABS)
    register_profile_format(LOG)


def test_a_trace_is_recognised_read_and_written(tmp_path):
    given = llmq.Trace([0.0, 0.25, 1.5], [512, 100, 7], [16, 8, 1])
    write_trace(given, tmp_path / "a.tsv")
    found = read_trace(tmp_path / "a.tsv")
    assert found.notes[0].startswith("read as tabs trace (format recognised)")
    for name in ("arrival", "prompt", "output"):
        np.testing.assert_array_equal(getattr(found, name), getattr(given, name))
    with pytest.raises(InputError, match="did you mean 'tabs'"):
        read_trace(tmp_path / "a.tsv", format="tab")


def test_the_command_line_knows_the_trace(tmp_path, capsys):
    source, target = tmp_path / "a.tsv", tmp_path / "b.csv"
    source.write_text("ms,\task,\tsay\n0\t512\t16\n250\t100\t8\n1500\t7\t1\n", encoding="utf-8")
    assert main(["convert", str(source), str(target)]) == 0
    assert target.read_text(encoding="utf-8").splitlines()[1].startswith("0.0,512,16")
    assert main(["convert", str(target), str(tmp_path / "c"), "--to", "tabs"]) == 0
    assert (tmp_path / "c").read_text(encoding="utf-8") == source.read_text(encoding="utf-8")
    engine = ["--engine", "llama-3.1-8b/h100"]
    assert main(["simulate", "--trace", str(source), *engine, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["verdict"]
    assert main(["region", "--trace", str(source), *engine]) == 0
    source.write_text("ms,\task,\tsay\n0\t512\n", encoding="utf-8")
    assert main(["convert", str(source), str(target)]) == 2
    said = capsys.readouterr().err
    assert "a.tsv" in said
    assert "line 2: wants three cells" in said


def test_what_a_format_cannot_hold_is_said(tmp_path):
    hidden = llmq.Trace([0.0], [9], [4], [2])
    with pytest.warns(llmq.errors.TraceWarning, match="the tabs format cannot hold the hidden"):
        write_trace(hidden, tmp_path / "a.tsv")


def test_a_profile_is_recognised_and_calibrated(tmp_path, capsys):
    file = tmp_path / "log.csv"
    rows = "".join(f"{n},{6000 + 20 * n}\n" for n in (1, 8, 32, 64, 128, 256, 512, 1024))
    file.write_text(f"batch,us\n{rows}", encoding="utf-8")
    for place in (file, tmp_path):
        profile = llmq.read_profile(place, gpu="mine")
        assert (profile.format, profile.seconds[0]) == ("log", pytest.approx(6.02e-3))
    law = llmq.calibrate(llmq.read_profile(file)).law
    assert float(law(tokens=100)) == pytest.approx(8e-3, rel=1e-3)
    assert main(["calibrate", str(file), "--format", "log"]) == 0
    said = capsys.readouterr().out
    assert "affine(base=0.006, per_token=2e-05)" in said
    assert "fitted to      a GPU without a name, TP1 (log profile log.csv)" in said
    file.write_text("batch,ns\n1,2\n", encoding="utf-8")
    with pytest.raises(FormatError, match="known formats: log, vidur, llmservingsim"):
        llmq.read_profile(file)


@pytest.mark.parametrize("record", [TABS, LOG])
def test_a_record_without_its_parts_is_refused(record):
    wrong = {"name": (" ", None), "known_by": ("", 3), "read": (None, "later")}
    for field, values in wrong.items():
        for value in values:
            with pytest.raises(InputError, match=rf"format .*: {field} must"):
                dataclasses.replace(record, **{field: value})
    columns = () if record is TABS else "us"
    with pytest.raises(InputError, match="columns must"):
        dataclasses.replace(record, columns=columns)


def test_a_name_is_taken_once():
    register_trace_format(TABS)
    register_profile_format(LOG)
    assert list(trace_formats()).count("tabs") == list(profile_formats()).count("log") == 1
    with pytest.raises(InputError, match="another trace format is called 'azure'"):
        register_trace_format(dataclasses.replace(TABS, name="azure"))
    with pytest.raises(InputError, match="another profile format is called 'vidur'"):
        register_profile_format(dataclasses.replace(LOG, name="vidur"))
    with pytest.raises(InputError, match="is a TraceFormat, got str"):
        register_trace_format("tabs")
    with pytest.raises(InputError, match="is a ProfileFormat, got str"):
        register_profile_format("log")
    with pytest.raises(InputError, match="write must be a function, got 'x'"):
        dataclasses.replace(TABS, write="x")


def test_a_reader_that_fails_is_named_with_the_file(tmp_path, capsys):
    """A reader of somebody's own may not check its cells: no traceback, no report of a fault."""
    trace, log = tmp_path / "a.tsv", tmp_path / "log.csv"
    trace.write_text("ms,\task,\tsay\n0\t5x\t16\n", encoding="utf-8")
    said = r"the reader of the trace format 'tabs' could not read it \(ValueError: .*5x.*\): check"
    with pytest.raises(FormatError, match=said):
        read_trace(trace)
    assert main(["convert", str(trace), str(tmp_path / "b.csv")]) == 2
    assert "a.tsv" in capsys.readouterr().err
    log.write_text("batch,us\n1,6020\n8,x\n", encoding="utf-8")
    with pytest.raises(FormatError, match=r"log.csv.*profile format 'log' could not read it"):
        llmq.read_profile(log)


def test_a_reader_returns_what_its_kind_does(tmp_path):
    register_trace_format(dataclasses.replace(TABS, name="nothing", read=lambda *_: None))
    file = tmp_path / "a.tsv"
    file.write_text("ms,\task,\tsay\n0\t5\t16\n", encoding="utf-8")
    with pytest.raises(InputError, match="'nothing' returned a NoneType; it must return Rows"):
        read_trace(file, format="nothing")


def test_what_a_user_registers_is_recognised_first(tmp_path):
    assert list(profile_formats())[:2] == ["log", "vidur"]
    own = dataclasses.replace(TABS, name="own", columns=trace_formats()["native"].columns)
    register_trace_format(own)
    write_trace(llmq.Trace([0.0], [5], [3]), tmp_path / "a.csv", format="native")
    with pytest.raises(FormatError, match="wants three cells"):
        read_trace(tmp_path / "a.csv")


def test_an_unforeseen_error_of_our_own_reader_stays_one(tmp_path, monkeypatch):
    """It is a fault of llmq, not of the file: the command line asks for a report."""
    write_trace(llmq.Trace([0.0], [5], [3]), tmp_path / "a.csv")
    native = trace_formats()["native"]
    broken = dataclasses.replace(native, read=lambda *_: 1 / 0)
    monkeypatch.setitem(traces._traces.FORMATS.ours, "native", broken)
    with pytest.raises(ZeroDivisionError):
        read_trace(tmp_path / "a.csv")
