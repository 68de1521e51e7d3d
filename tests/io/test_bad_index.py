"""The index of malformed input: one row, one case, with what is wanted of it.

"refuse": exit code 2 and one message that names the place and the remedy, at once, in bounded
memory, and nothing is written. "accept": it works. "any": no traceback and no hang. Files that are
too large, or that no archive can hold (links in a circle, folders, devices), are built here.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from llmq.cli import main
from llmq.errors import LlmqError
from llmq.io.profiles import read_profile
from tests.io import test_bad_profiles as profiles

DATA = os.environ.get("LLMQ_DATA")
FOLDER = Path(DATA or "none") / "cases" / "bad"
SECONDS, BYTES = 5.0, 2**30
ANSWERS = (0, 3)  # yes, and a valid no
# Cases that take more than two seconds here run with the long tests.
SLOW = {"C49", "E03", "O89", "O93", "O104", "O112", "P82", "P90", "P01", "S01"}


PLAN = """[traffic]
rate = {rate}
[classes.chat]
prompt = 100
output = 10
[slo]
ttft = "2s"
[[candidates]]
engine = "llama-3.1-8b/h100"
[simulation]
requests = 400
replications = 2
"""
TRACE = "arrival,prompt,output\n0,9,9\n1,9,9\n"
STEPS = "tokens,seconds\n1,0.0058\n64,0.0062\n128,0.0071\n512,0.0120\n"


def rows() -> list[dict[str, str]]:
    if not (FOLDER / "INDEX.csv").is_file():
        return []
    with (FOLDER / "INDEX.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


INDEX = {row["id"]: row for row in rows()}


def certificate(change: Callable[[dict[str, object]], object]) -> str:
    """A certificate of the folder with one part changed."""
    body = json.loads((FOLDER / "C16.json").read_text(encoding="utf-8"))
    change(body)
    return json.dumps(body)


def deep(levels: int) -> str:
    return '{"a":' * levels + "1" + "}" * levels


# What the folder leaves out, by name.
MADE: dict[str, Callable[[], str | bytes]] = {
    "C19.json": lambda: '{"kind": ' + "9" * 10**6 + "}",
    "C22.json": lambda: (
        (FOLDER / "C16.json")
        .read_text(encoding="utf-8")
        .replace('"problem"', f'"problem_": {deep(100_000)}, "problem"', 1)
    ),
    "C43.json": lambda: certificate(lambda body: body.update({"note": "x" * 2**20})),
    "C49.json": lambda: bytes(100 * 2**20),
    "S24.csv": lambda: STEPS + "700," + "1" * 100_000 + "!\n",
    "T87.csv": lambda: "arrival,prompt,output\n" + "1" * 100_000 + "!,9,9\n",
    "W22.toml": lambda: PLAN.format(rate=f'"{"1" * 100_000}!"'),
    "W71.json": lambda: deep(100_000),
    "t.csv": lambda: TRACE,
    "e.csv": lambda: STEPS,
    "E.toml": lambda: (FOLDER / "T48.E.toml").read_bytes(),
    "b.csv.gz": lambda: gzip.compress(bytes(100 * 2**20), mtime=0),
}


def build(case: str, place: Path, words: list[str]) -> None:
    """Put the files of a case into an empty folder."""
    for file in FOLDER.glob(f"{case}.*"):
        shutil.copyfile(file, place / file.name)
    if case in ("E67", "O107", "S33"):
        (place / ("d.toml" if case == "E67" else "d")).mkdir()
    if case == "O91":  # links that lead in a circle
        (place / "a").symlink_to("b")
        (place / "b").symlink_to("a")
    if case == "O100":
        (place / "a").symlink_to("nowhere")
    if case == "O96":
        (place / "o.csv").symlink_to("/dev/full")
    for word in words:
        if word in MADE and not (place / word).exists():
            made = MADE[word]()
            raw = made if isinstance(made, bytes) else made.encode()
            (place / word).write_bytes(raw)
    if case == "O104":
        (place / "e.csv").chmod(0)


def words_of(case: str) -> list[str]:
    """The arguments, as the index writes them."""
    line = INDEX[case]["llmq arguments"]
    words = ["a\x1b[31m\nSTABLE.csv" if w == "\0" else w for w in _split(line)]
    if case in ("O76", "O77"):
        digits = "0." + "1" * 5000 if case == "O76" else "1" * 100_000 + "!"
        words[-1] = digits
    if case == "O93":
        words[-1] = "a" * 250
    return words


def _split(line: str) -> list[str]:
    # One file name holds an escape sequence and a line break; blanks split all the others.
    return re.sub(r"a\x1b?\[31m\s+STABLE\.csv", "\0", line).split(" ")


def check_message(text: str, row: dict[str, str]) -> None:
    """One line that names the place and the remedy, without control characters."""
    lines = [line for line in text.splitlines() if line.startswith("llmq: error: ")]
    assert len(lines) == 1, text
    assert text.splitlines()[-1] == lines[0]
    assert len(lines[0]) < 1000
    assert lines[0].isprintable(), lines[0]


@pytest.fixture
def late() -> object:
    """A limit of time that also ends what loops in C."""

    def ring(*_: object) -> None:
        raise TimeoutError

    old = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, 20 * SECONDS)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, old)


def in_process(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = main(words)
    out, err = capsys.readouterr()
    return code, out, err


def as_process(words: list[str], place: Path) -> tuple[int, str, str, int]:
    """Run a command by itself, and measure its memory."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    done = subprocess.run(
        words,
        cwd=place,
        capture_output=True,
        text=True,
        check=False,
        timeout=10 * SECONDS,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return done.returncode, done.stdout, done.stderr, 1024 * max(before, after)


def cases(which: Callable[[str], bool]) -> list[object]:
    return [
        pytest.param(case, marks=[pytest.mark.slow] if case in SLOW else [], id=case)
        for case in INDEX
        if which(case)
    ]


def is_profile(case: str) -> bool:
    return case.startswith("P")


def is_loader(case: str) -> bool:
    return INDEX[case]["llmq arguments"].startswith("python -c")


def by_itself(case: str) -> bool:
    """Cases of another user, and those that must not take memory."""
    return case in ("O104", "O112", "O57", "O59", "C49")


@pytest.mark.skipif(not INDEX, reason="LLMQ_DATA is not set: the index is among the public data")
@pytest.mark.parametrize(
    "case", cases(lambda c: not (is_profile(c) or is_loader(c) or by_itself(c)))
)
def test_row(case, tmp_path, monkeypatch, capsys, late):
    words = words_of(case)
    build(case, tmp_path, words)
    monkeypatch.chdir(tmp_path)
    before = sorted(p.name for p in tmp_path.rglob("*"))
    begin = time.process_time()
    code, out, err = in_process(words, capsys)
    taken = time.process_time() - begin
    judge(case, code, out, err, taken)
    if INDEX[case]["wanted"] == "refuse":
        assert sorted(p.name for p in tmp_path.rglob("*")) == before


def judge(case: str, code: int, out: str, err: str, taken: float) -> None:
    row = INDEX[case]
    assert "Traceback" not in out + err
    assert "\x1b" not in out + err
    assert taken < 2 * SECONDS, f"{taken:.1f} s"  # machines of the tests are shared
    if row["wanted"] == "accept":
        assert code in ANSWERS, err
    elif row["wanted"] == "refuse":
        assert code == 2, err or out
        # The answer may stand before a file that cannot be written: it was asked for.
        assert out == "" or case == "O89"
        check_message(err, row)
    else:
        assert code in (0, 2, 3, 4), err or out


@pytest.mark.skipif(not INDEX, reason="LLMQ_DATA is not set: the index is among the public data")
@pytest.mark.parametrize("case", cases(by_itself))
def test_row_by_itself(case, tmp_path):
    words = words_of(case)
    tmp_path.chmod(0o755)
    if case == "O104":
        # Root reads everything: another user runs the command, where there is setpriv.
        if os.geteuid() != 0 or not Path(words[0]).exists():
            pytest.skip(reason="only root can become another user, with setpriv")
        if any(p.stat().st_mode & 0o5 != 0o5 for p in (tmp_path, *tmp_path.parents)):
            place = Path("/tmp") / f"llmq-{os.getpid()}"
            place.mkdir(mode=0o755)
        else:
            place = tmp_path
        build(case, place, words)
        command = [sys.executable if word == "python" else word for word in words]
    else:
        place = tmp_path
        build(case, place, words)
        command = [sys.executable, "-m", "llmq", *words]
    try:
        begin = time.perf_counter()
        code, out, err, memory = as_process(command, place)
        judge(case, code, out, err, (time.perf_counter() - begin) / 2)
        assert memory < BYTES
    finally:
        if place != tmp_path:
            shutil.rmtree(place)


@pytest.mark.skipif(not INDEX, reason="LLMQ_DATA is not set: the index is among the public data")
@pytest.mark.parametrize("case", cases(is_loader))
def test_row_of_the_loader(case, tmp_path, late):
    from llmq.theory.region import _certificate_record as certificate_record

    build(case, tmp_path, [f"{case}.json"])
    with contextlib.suppress(LlmqError):
        certificate_record.load_certificate(tmp_path / f"{case}.json")


# --- profiles -------------------------------------------------------------------------------------


def damage(case: str, folder: Path) -> dict[str, object]:
    """Make a good profile and spoil it as the index says."""
    kind = INDEX[case]["llmq arguments"].split()[2]
    table, _, what = INDEX[case]["what"].partition(": ")
    name = table.split("/", 1)[1]
    options = profiles.MAKERS[kind](folder)
    if (FOLDER / case).is_dir():
        shutil.rmtree(folder)
        shutil.copytree(FOLDER / case, folder)
        return options
    found = list(folder.rglob(Path(name).name))
    spoil(found[0] if found else folder / name, what)
    return options


def spoil(file: Path, what: str) -> None:
    if what == "control":
        return
    if what == "meta.yaml directory":
        file.mkdir()
        return
    if what == "skew.csv zero rows":
        names = "n,pc,kvs,kv_big,kv_mean,t_mean_us,t_max_us,t_skew_us"
        (file.parent / "tp1").mkdir(exist_ok=True)
        (file.parent / Path(file).name).write_text(names + "\n")
        return
    lines = file.read_text().splitlines()
    header, first = lines[0].split(","), lines[1].split(",")
    time_at = next(i for i, n in enumerate(header) if "time" in n or n == "latency")
    count_at = next(
        i
        for i, n in enumerate(header)
        if n
        in (
            "num_tokens",
            "batch_size",
            "size",
            "tokens",
            "sequences",
            "prefill_chunk",
            "m",
            "message_size",
        )
    )
    cells = {
        "time 1e400": (time_at, "1e400"),
        "time nan": (time_at, "nan"),
        "time arabic digits": (time_at, "٥.١"),
        "count 10^30": (count_at, "1" + "0" * 30),
        "count 5000 digits": (count_at, "1" * 5000),
        "count underscore 1_0": (count_at, "1_0"),
    }
    if what in cells:
        place, value = cells[what]
        first[place] = value
        lines[1] = ",".join(first)
    elif what == "empty":
        lines = []
    elif what == "header only":
        lines = lines[:1]
    elif what == "header twice (cat)":
        lines = lines + lines
    elif what == "renamed column":
        lines[0] = lines[0].replace(header[time_at], header[time_at] + "s")
    elif what == "latin-1":
        file.write_bytes("\n".join([*lines, "für"]).encode("latin-1"))
        return
    elif what == "CRLF":
        file.write_bytes("\r\n".join([*lines, ""]).encode())
        return
    else:
        raise AssertionError(f"the test does not know how to make: {what}")
    file.write_text("\n".join(lines) + "\n" if lines else "")


@pytest.mark.skipif(not INDEX, reason="LLMQ_DATA is not set: the index is among the public data")
@pytest.mark.parametrize("case", cases(is_profile))
def test_row_of_a_profile(case, tmp_path, late):
    from llmq.calibrate.fit import calibrate

    place = tmp_path / "profile"
    options = damage(case, place)
    if INDEX[case]["wanted"] == "accept":
        assert len(calibrate(read_profile(place, **options)).residuals) > 100
        return
    begin = time.perf_counter()
    with pytest.raises(LlmqError) as caught:
        read_profile(place, **options)
    assert time.perf_counter() - begin < 4 * SECONDS
    assert len(str(caught.value)) < 500 + len(str(tmp_path))
    assert str(caught.value).isprintable()
