"""What is wrong with a trace file is named: file, line, column, value and remedy."""

from __future__ import annotations

import gzip

import pytest

from llmq.errors import FormatError, InputError
from llmq.io.traces import read_trace

AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
VIDUR = "arrived_at,num_prefill_tokens,num_decode_tokens\n"
NATIVE = "arrival,prompt,output\n"
STAMP = "2023-11-16 18:15:46.6805900"
WHOLE = "expected a whole number of tokens >= 1, "
TIME = "expected a finite time >= 0, "
REMEDY = "; correct or remove the row"
UTC = "expected a UTC time such as 2023-11-16 18:15:46.6805900, "


def mooncake(**values):
    import json

    row = {"timestamp": 0, "input_length": 9, "output_length": 9} | values
    return json.dumps({key: value for key, value in row.items() if value != "none"})


CASES = {
    "empty": ("", None, None, "the file is empty"),
    "blank": (" \n\n", None, None, "the file is empty"),
    "header only": (AZURE, 1, None, "there is a header but no request below it"),
    "unknown": ("a;b;c\n1;2;3\n", 1, None, "the trace format is not recognised from 'a;b;c'"),
    "unknown json": ('{"a": 1}\n', 1, None, "the trace format is not recognised"),
    "missing column": (
        f"TIMESTAMP,ContextToken,GeneratedTokens\n{STAMP},1,1\n",
        1,
        "ContextTokens",
        "the column is missing; did you mean 'ContextToken'?",
    ),
    "missing key": (
        mooncake() + "\n" + mooncake(output_length="none", output=3) + "\n",
        2,
        "output_length",
        "the key is missing; did you mean 'output'?",
    ),
    "missing key, no stranger": (
        mooncake(output_length="none"),
        1,
        "output_length",
        "the key is missing; found: timestamp, input_length; or give one length for all requests",
    ),
    "column twice": (
        "arrival,prompt,output,prompt\n0,1,1,1\n",
        1,
        "prompt",
        "the column is there twice",
    ),
    "fraction of a token": (
        AZURE + f"{STAMP},9,9\n{STAMP},9,4.5\n",
        3,
        "GeneratedTokens",
        WHOLE + "found '4.5'" + REMEDY,
    ),
    "word": (VIDUR + "0,abc,9\n", 2, "num_prefill_tokens", WHOLE + "found 'abc'" + REMEDY),
    "negative": (NATIVE + "0,-5,9\n", 2, "prompt", WHOLE + "found '-5'" + REMEDY),
    "nan": (NATIVE + "0,9,nan\n", 2, "output", WHOLE + "found 'nan'" + REMEDY),
    "nan json": (
        mooncake(input_length=float("nan")),
        1,
        "input_length",
        WHOLE + "found 'NaN'" + REMEDY,
    ),
    "null": (mooncake(input_length=None), 1, "input_length", WHOLE + "found 'null'" + REMEDY),
    "true": (mooncake(output_length=True), 1, "output_length", WHOLE + "found 'true'" + REMEDY),
    "float json": (mooncake(output_length=4.5), 1, "output_length", WHOLE + "found '4.5'" + REMEDY),
    "list": (mooncake(output_length=[1]), 1, "output_length", WHOLE + "found '[\"1\"]'" + REMEDY),
    "empty cell": (NATIVE + "0,9,\n", 2, "output", WHOLE + "the cell is empty" + REMEDY),
    "zero output": (NATIVE + "0,9,0\n", 2, None, "1 of 1 requests have no output tokens"),
    "zero prompt": (VIDUR + "0,0,9\n", 2, "num_prefill_tokens", WHOLE + "found '0'" + REMEDY),
    "underscore": (NATIVE + "0,1_000,9\n", 2, "prompt", WHOLE + "found '1_000'" + REMEDY),
    "huge": (
        NATIVE + "0,1,9999999999999999999\n",
        2,
        "output",
        WHOLE + "found '9999999999999999999'" + REMEDY,
    ),
    "time word": (NATIVE + "now,9,9\n", 2, "arrival", TIME + "found 'now'" + REMEDY),
    "time negative": (VIDUR + "-1,9,9\n", 2, "arrived_at", TIME + "found '-1'" + REMEDY),
    "time nan": (VIDUR + "0,9,9\nnan,9,9\n", 3, "arrived_at", TIME + "found 'nan'" + REMEDY),
    "time inf": (mooncake(timestamp=float("inf")), 1, "timestamp", TIME + "found 'Infinity'"),
    "time too big": (NATIVE + "1e999,9,9\n", 2, "arrival", TIME + "found '1e999'" + REMEDY),
    "date only": (AZURE + "2023-11-16,9,9\n", 2, "TIMESTAMP", UTC + "found '2023-11-16'" + REMEDY),
    "day 31": (
        AZURE + f"{STAMP},9,9\n2023-11-31 00:00:00,9,9\n",
        3,
        "TIMESTAMP",
        UTC + "found '2023-11-31 00:00:00'" + REMEDY,
    ),
    "other zone": (
        AZURE + "2023-11-16 18:15:46+02:00,9,9\n",
        2,
        "TIMESTAMP",
        UTC[:-2] + " (not in the zone +02:00: write all times in UTC), found",
    ),
    "ten digits": (
        AZURE + "2023-11-16 18:15:46.1234567890,9,9\n",
        2,
        "TIMESTAMP",
        UTC + "found '2023-11-16 18:15:46.1234567890'" + REMEDY,
    ),
    "short row": (VIDUR + "0,9,9\n1,9\n", 3, None, "expected 3 columns, found 2" + REMEDY),
    "long row": (VIDUR + "0,9,9,9\n", 2, None, "expected 3 columns, found 4" + REMEDY),
    "names before rows": (
        "\n\narrival,prompt,outputs\n0,9\n",
        3,
        "output",
        "the column is missing; did you mean 'outputs'?",
    ),
    "blank lines above the names": (
        "\n\narrival,prompt,output,output\n0,9,9,9\n",
        3,
        "output",
        "the column is there twice",
    ),
    "blank lines count": (NATIVE + "\n\n0,9,9\n\n1,9,x\n", 6, "output", WHOLE + "found 'x'"),
    "quoted lines count": (
        'arrival,prompt,output,why\n0,9,9,"a\nb"\n1,x,9,c\n',
        4,
        "prompt",
        WHOLE + "found 'x'",
    ),
    "open quote": (
        'arrival,prompt,output,class\n0,9,9,"a\n1,9,9,b\n2,9,9,c\n',
        4,
        None,
        "not CSV: unexpected end of data: a quotation mark is open",
    ),
    "quote closed two rows later": (
        'arrival,prompt,output,class\n0,9,9,"a\n1,9,9,b"\n2,9,9,c\n',
        3,
        "class",
        "expected a name without control characters (an open quotation mark?), found ",
    ),
    "broken json": (
        mooncake() + '\n{"timestamp": 1,\n',
        2,
        None,
        "not JSON: ",
    ),
    "json of another kind": (mooncake() + "\n[1]\n", 2, None, "expected one JSON object"),
    "no answer": (
        "arrival,prompt,output,reasoning\n0,9,9,9\n",
        2,
        "reasoning",
        "expected fewer tokens than the output (9), found '9'" + REMEDY,
    ),
    "some reasoning": (
        '{"arrival": 0, "prompt": 9, "output": 9, "reasoning": 1}\n'
        '{"arrival": 1, "prompt": 9, "output": 9}\n',
        2,
        "reasoning",
        "the key is missing",
    ),
    "huge field": (NATIVE + "0,9," + "9" * 200_000, 2, None, "not CSV: field larger than"),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("zipped", [False, True])
def test_bad_rows_are_named(tmp_path, case, zipped):
    text, line, column, message = CASES[case]
    file = tmp_path / ("bad.csv.gz" if zipped else "bad.csv")
    raw = text.encode()
    file.write_bytes(gzip.compress(raw, mtime=0) if zipped else raw)
    with pytest.raises(FormatError) as caught:
        read_trace(file)
    where = str(file) + (f" line {line}" if line else "") + (f", column {column}" if column else "")
    assert str(caught.value).startswith(f"{where}: {message}")
    assert (caught.value.line, caught.value.column) == (line, column)
    assert [p.name for p in tmp_path.iterdir()] == [file.name]


def bad(tmp_path, raw, name="bad.csv"):
    (tmp_path / name).write_bytes(raw)
    with pytest.raises(FormatError) as caught:
        read_trace(tmp_path / name)
    return str(caught.value).removeprefix(str(tmp_path) + "/")


def test_truncated_gzip(tmp_path):
    whole = gzip.compress((VIDUR + "0,9,9\n" * 500).encode(), mtime=0)
    for cut in (len(whole) - 1, len(whole) // 2, 12):
        message = bad(tmp_path, whole[:cut], "bad.csv.gz")
        assert message.startswith("bad.csv.gz: the gzip data end too early (truncated)")


def test_damaged_gzip(tmp_path):
    whole = bytearray(gzip.compress((VIDUR + "0,9,9\n" * 500).encode(), mtime=0))
    whole[-6] ^= 0xFF  # checksum
    assert bad(tmp_path, bytes(whole), "bad.gz").startswith("bad.gz: damaged gzip data (")


def test_text_of_another_encoding(tmp_path):
    raw = b"arrival,prompt,output,class\n0,9,9,chat\n1,9,9,f\xfcr\n"
    message = "bad.csv line 3: byte 0xfc is not UTF-8 text: save the file as UTF-8"
    assert bad(tmp_path, raw) == message
    assert "this is UTF-16 text: save" in bad(tmp_path, VIDUR.encode("utf-16"))
    assert "line 1: a NUL byte: this is binary" in bad(tmp_path, VIDUR.encode("utf-16-le"))


def test_files_that_are_not_there(tmp_path):
    (tmp_path / "trace.csv").write_text(VIDUR)
    with pytest.raises(InputError, match=r"no such file: .*trce\.csv; did you mean 'trace\.csv'\?"):
        read_trace(tmp_path / "trce.csv")
    with pytest.raises(InputError, match=r"no such file: .*; there is no folder .*none"):
        read_trace(tmp_path / "none" / "trace.csv")
    with pytest.raises(InputError, match="is a folder: name a file in it"):
        read_trace(tmp_path)
    with pytest.raises(InputError, match=r"cannot read .*Not a directory"):
        read_trace(tmp_path / "trace.csv" / "x")


def test_words_that_are_not_known(tmp_path):
    (tmp_path / "t.csv").write_text(VIDUR + "0,9,9\n")
    with pytest.raises(InputError, match="unknown trace format 'azur'; did you mean 'azure'"):
        read_trace(tmp_path / "t.csv", format="azur")
    with pytest.raises(InputError, match="jitter must be 'uniform' or None, got 'normal'"):
        read_trace(tmp_path / "t.csv", jitter="normal")


def test_a_format_that_is_insisted_on_names_its_columns(tmp_path):
    (tmp_path / "t.csv").write_text(VIDUR + "0,9,9\n")
    with pytest.raises(FormatError, match="column TIMESTAMP: the column is missing; found: "):
        read_trace(tmp_path / "t.csv", format="azure")
    with pytest.raises(FormatError, match="line 1: not JSON: Expecting value at character 1"):
        read_trace(tmp_path / "t.csv", format="mooncake")
