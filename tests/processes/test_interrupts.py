"""Ctrl-C, kills and resumption: nothing is lost, repeated, left behind or half done."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="children are looked up in /proc, which only Linux has"
)

PLAN = (sys.executable, "-m", "llmq", "plan", "chat.toml")
CHAT = """
[traffic]
rate = "60/s"
[classes.chat]
prompt = 512
output = 256
[slo]
ttft = "500ms"
tpot = "50ms"
quantile = 0.99
[[candidates]]
engine = "llama-3.1-8b/h100"
"""
FOREVER = """
    import llmq
    engine = llmq.Engine(llmq.BatchTime.affine(base=0.01, per_token=1e-4), max_seqs=64)
    work = llmq.Workload.poisson(5.0, {"chat": llmq.RequestClass(500, 200)})
    print("ready", flush=True)
    llmq.simulate(engine, work, replications=64, requests=20_000, simulator="reference", workers=2)
"""


def as_in_a_terminal() -> None:
    """Let SIGINT end the process: what a shell runs in the background ignores it, and so do we."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def start(script: str, *arguments: str) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", textwrap.dedent(script), *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(
        words, **pipes, text=True, start_new_session=True, preexec_fn=as_in_a_terminal
    )


def children(pid: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == pid and fields[0] != "Z":
                found.append(int(entry.name))
    return found


def wait_for_children(pid: int, count: int) -> list[int]:
    for _ in range(600):
        if len(found := children(pid)) >= count:
            return found
        time.sleep(0.1)
    raise AssertionError(f"{len(found)} of {count} workers came")


def alive(pids: list[int]) -> list[int]:
    found = []
    for pid in pids:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
                found.append(pid)
        except OSError:
            continue
    return found


@pytest.mark.parametrize("twice", [False, True])
@pytest.mark.parametrize(
    ("after", "more"), [(1.0, ()), (2.5, ()), (5.0, ()), (5.0, ("--workers", "2"))]
)
def test_b6_an_interrupted_plan_ends_at_once_with_130(tmp_path, after, more, twice):
    """While modules are imported, in the search, in the simulations, with processes."""
    (tmp_path / "chat.toml").write_text(CHAT)
    words = (*PLAN, "--requests", "200000", *more)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(
        words, cwd=tmp_path, **pipes, start_new_session=True, preexec_fn=as_in_a_terminal
    ) as process:
        time.sleep(after)
        assert process.poll() is None, process.communicate()
        since = time.monotonic()
        os.killpg(process.pid, signal.SIGINT)
        if twice:
            time.sleep(0.05)
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate()
        took = time.monotonic() - since
    assert (process.returncode, out, err) == (130, b"", b"llmq: error: interrupted\n")
    assert took < 1.0
    assert [path.name for path in tmp_path.iterdir()] == ["chat.toml"]


THREAD = (
    FOREVER.replace("    llmq.simulate(", "    import threading\n    run = lambda: llmq.simulate(")
    + "    thread = threading.Thread(target=run)\n    thread.start()\n    thread.join()\n"
)


@pytest.mark.parametrize("script", [FOREVER, THREAD], ids=["kernel", "watch"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_c_no_worker_outlives_its_parent(number, script):
    """From the main thread the kernel tells of the end; from another one the workers look."""
    with start(script) as process:
        assert process.stdout.readline() == "ready\n"
        workers = wait_for_children(process.pid, 2)
        process.send_signal(number)
        process.wait()
        time.sleep(2)
        left = alive(workers)
        for pid in left:
            os.kill(pid, signal.SIGKILL)
    assert not left


def test_c_a_killed_worker_is_one_error():
    script = FOREVER.replace("    llmq.simulate", "    try: llmq.simulate") + (
        "    except llmq.LlmqError as error: print(error, flush=True)\n"
    )
    with start(script) as process:
        assert process.stdout.readline() == "ready\n"
        os.kill(wait_for_children(process.pid, 2)[0], signal.SIGKILL)
        out, err = process.communicate(timeout=60)
    assert out.startswith("one of 2 worker processes was ended from outside")
    assert "Traceback" not in err
    assert process.returncode == 0


KEEPS = """
    import sys, time
    from pathlib import Path
    sys.path.insert(0, sys.argv[1])
    from experiments.runner import Runner
    import marks
    keep, log, workers = Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
    points = [{"x": i, "log": log} for i in range(int(sys.argv[5]))]
    rows = Runner(workers, keep).run(marks.mark, points, 7)
    print(sum(row["x"] for row in rows), flush=True)
"""
MARKS = """
import os, time
def mark(point, rng):
    time.sleep(0.05)
    file = os.open(point["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, f"{point['x']}\\n".encode())
    os.close(file)
    return [{"x": point["x"], "draw": int(rng.generate_state(1)[0])}]
"""


def kept(keep: Path) -> list[int]:
    lines = keep.read_text().splitlines() if keep.exists() else []
    return [json.loads(line)["rows"][0]["x"] for line in lines if line.endswith("}")]


def rounds(tmp_path: Path, workers: int, kills: int, points: int) -> None:
    """Kill again and again while points are computed; then let it finish."""
    (tmp_path / "marks.py").write_text(MARKS)
    keep, log = tmp_path / "keep.jsonl", tmp_path / "log"
    root = str(Path(__file__).parents[2])
    os.environ["PYTHONPATH"] = os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])
    words = (str(tmp_path), str(keep), str(log), str(workers), str(points))
    before: list[int] = []
    for turn in range(kills):
        with start(KEEPS, *words) as process:
            for _ in range(600):  # until it has added some points, or is through
                if len(kept(keep)) >= len(before) + 1 + turn % 3 or process.poll() is not None:
                    break
                time.sleep(0.02)
            process.send_signal((signal.SIGKILL, signal.SIGINT, signal.SIGTERM)[turn % 3])
            process.wait()
        time.sleep(0.1)
        after = kept(keep)
        assert after[: len(before)] == before  # what was finished stays
        before = after
    with start(KEEPS, *words) as process:
        out, err = process.communicate(timeout=120)
    assert out == f"{sum(range(points))}\n", err
    assert sorted(kept(keep)) == list(range(points))  # each once: none lost, none repeated
    # What was in hand at a kill may have been begun again, once for each worker and kill.
    marks = log.read_text().split()
    assert len(marks) <= points + workers * kills
    finished_twice = len(marks) - len(set(marks))
    assert finished_twice <= kills // 5, finished_twice  # only what died between mark and line


@pytest.mark.parametrize("workers", [1, 2])
def test_b6_killed_runs_go_on_where_they_were(tmp_path, workers, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.environ.get("PYTHONPATH", ""))
    rounds(tmp_path, workers, kills=3, points=24)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_b6_fifty_kills_lose_and_repeat_nothing(tmp_path, workers, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.environ.get("PYTHONPATH", ""))
    rounds(tmp_path, workers, kills=50, points=240)


STORED = """
    import sys
    from pathlib import Path
    sys.path.insert(0, sys.argv[1])
    from experiments.runner import Runner
    import stored
    print("ready", flush=True)
    Runner(1, Path(sys.argv[2])).run(stored.point, [{"x": 1}], 7)
"""
POINT = """
import llmq
def point(p, rng):
    engine = llmq.Engine(llmq.BatchTime.affine(base=0.01, per_token=1e-4), max_seqs=64)
    work = llmq.Workload.poisson(5.0, {"chat": llmq.RequestClass(500, 400)})
    run = llmq.simulate(engine, work, requests=400, replications=60, simulator="reference", rng=rng)
    return [{"replications": run.ttft.n}]
"""


def test_b6_an_interrupted_point_is_not_stored(tmp_path, monkeypatch):
    root = str(Path(__file__).parents[2])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([root, os.environ.get("PYTHONPATH", "")]))
    (tmp_path / "stored.py").write_text(POINT)
    keep = tmp_path / "keep.jsonl"
    with start(STORED, str(tmp_path), str(keep)) as process:
        assert process.stdout.readline() == "ready\n"
        time.sleep(3)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        process.wait()
    assert process.returncode != 0
    assert not keep.exists()
