"""Reading and writing traces: golden rows, round trips, order, equal times, the real files."""

from __future__ import annotations

import gzip
import warnings
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmq.errors import FormatError, InputError, TraceWarning
from llmq.io.traces import read_trace, trace_formats, write_trace
from llmq.model.arrivals import Poisson
from llmq.model.trace import Trace

AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens\r
2023-11-16 18:15:46.6805900,374,44\r
2023-11-16 18:15:50.9951690,396,109\r
2023-11-17 00:00:00.0000001,879,55"""
MOONCAKE = """{"timestamp":0,"input_length":675,"output_length":500,"hash_ids":[0,1]}
{"timestamp":1500.1,"input_length":732,"output_length":490,"hash_ids":[0,14]}
"""
VIDUR = "arrived_at,num_prefill_tokens,num_decode_tokens\n0.021644,655,128\n0.058107,324,59\n"
LENGTHS = """num_prefill_tokens,num_decode_tokens,num_total_tokens,pd_ratio
74,918,992,0.08
290,905,1195,0.3
"""
NATIVE = "arrival,prompt,output,reasoning,class\n0.5,512,128,0,chat\n0.75,48,600,500,maths\n"
NATIVE_JSON = """{"arrival": 0.5, "prompt": 512, "output": 128, "class": "chat"}
{"arrival": 0.75, "prompt": 48, "output": 600, "class": "maths"}
"""


def put(folder: Path, text: str, name: str = "trace.txt") -> Path:
    file = folder / name
    file.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return file


@pytest.mark.parametrize(
    ("text", "kind", "arrival", "prompt", "output"),
    [
        # 5.7 h after the first: 20,653.3194101 s, all seven digits.
        (AZURE, "azure", [0, 4.314579, 20653.3194101], [374, 396, 879], [44, 109, 55]),
        (MOONCAKE, "mooncake", [0, 1.5001], [675, 732], [500, 490]),
        (VIDUR, "vidur", [0.021644, 0.058107], [655, 324], [128, 59]),
        (NATIVE, "native", [0.5, 0.75], [512, 48], [128, 600]),
        (NATIVE_JSON, "native", [0.5, 0.75], [512, 48], [128, 600]),
    ],
)
@pytest.mark.parametrize("name", ["trace.csv", "trace.gz"])
def test_golden_rows(tmp_path, text, kind, arrival, prompt, output, name):
    file = put(tmp_path, text, name)
    unit = "ms" if kind == "mooncake" else None  # a fraction of a millisecond is asked about
    trace = read_trace(file, time_unit=unit)
    assert trace.arrival.tolist() == arrival  # to the last bit
    assert trace.prompt.tolist() == prompt
    assert trace.output.tolist() == output
    assert trace.source == str(file)
    said = {"azure": "times are dates", "mooncake": "times in ms, as asked"}.get(kind, "times in s")
    assert trace.notes[0] == f"read as {kind} trace (format recognised), {said}"
    assert f"{trace.notes[0]}: " in repr(trace)  # the unit stands on the traffic line
    insisted = read_trace(file, format=kind, time_unit=unit)
    assert insisted.notes[0] == f"read as {kind} trace, {said}"
    assert insisted.arrival.tolist() == arrival


def test_native_keeps_classes_and_reasoning(tmp_path):
    trace = read_trace(put(tmp_path, NATIVE))
    assert trace.classes == ("chat", "maths")
    assert trace.klass.tolist() == [0, 1]
    assert trace.reasoning.tolist() == [0, 500]


def test_klass_names_all_requests_of_a_file_without_classes(tmp_path):
    assert read_trace(put(tmp_path, VIDUR), klass="code").classes == ("code",)
    with pytest.raises(InputError, match="has a class column: leave klass='code' out"):
        read_trace(put(tmp_path, NATIVE), klass="code")


@pytest.mark.parametrize("fraction", ["", ".5", ".6805900", ".680590012", ".123456789"])
@pytest.mark.parametrize("zone", ["", "Z", "+00:00"])
def test_every_fractional_digit_counts(tmp_path, fraction, zone):
    rows = ["TIMESTAMP,ContextTokens,GeneratedTokens", "2024-02-28 23:59:59,1,1"]
    rows.append(f"2024-03-01T00:00:01{fraction}{zone},1,1")  # over a leap day
    trace = read_trace(put(tmp_path, "\n".join(rows)))
    assert trace.arrival[1] == float(86402 + Fraction(f"0{fraction}"))


def test_azure_images_are_noted(tmp_path):
    text = "TIMESTAMP,ContextTokens,GeneratedTokens,NumImages\n2025-01-01 00:00:00,9,9,2\n"
    assert read_trace(put(tmp_path, text)).notes[1] == "NumImages not used: 1 requests have images"


def test_further_columns_are_noted(tmp_path):
    text = "arrived_at,num_prefill_tokens,num_decode_tokens,user\n0,1,1,me\n"
    assert read_trace(put(tmp_path, text)).notes[1] == "columns not used: user"


def test_a_byte_order_mark_is_skipped(tmp_path):
    assert len(read_trace(put(tmp_path, "\ufeff" + VIDUR))) == 2


def test_whole_numbers_may_be_written_as_pandas_does(tmp_path):
    text = "arrived_at,num_prefill_tokens,num_decode_tokens\n1,512.0,128.\n"
    assert read_trace(put(tmp_path, text)).prompt.tolist() == [512]


# --- order and equal times ------------------------------------------------------------------------


def test_rows_out_of_order_are_sorted_and_counted(tmp_path):
    text = "arrival,prompt,output\n3,30,1\n1,10,1\n2,20,1\n4,40,1\n"
    file = put(tmp_path, text)
    message = r"trace.txt: 2 of 4 requests were out of time order \(the first on line 3\): sorted"
    with pytest.warns(TraceWarning, match=message):
        trace = read_trace(file)
    assert trace.prompt.tolist() == [10, 20, 30, 40]
    assert "sorted by arrival" in trace.notes[1]


def test_equal_times_stay_in_file_order_and_are_counted(tmp_path):
    text = "arrival,prompt,output\n1,10,1\n1,20,1\n1,30,1\n2,40,1\n"
    with pytest.warns(
        TraceWarning, match="4 requests have only 2 distinct times.*jitter='uniform'"
    ):
        trace = read_trace(put(tmp_path, text))
    assert trace.prompt.tolist() == [10, 20, 30, 40]
    assert trace.arrival.tolist() == [1, 1, 1, 2]
    assert trace.notes[1] == "4 requests have only 2 distinct times"


def test_jitter_spreads_each_group_until_the_next(tmp_path):
    rows = [f"{t},{k + 1},1" for t in (0, 3, 9) for k in range(2000)] + ["12,7,1", "18,7,1"]
    file = put(tmp_path, "arrival,prompt,output\n" + "\n".join(rows))
    trace = read_trace(file, jitter="uniform", rng=7)
    for first, last in ((0, 3), (3, 9), (9, 12)):
        inside = trace.arrival[(trace.arrival >= first) & (trace.arrival < last)]
        assert len(inside) == 2000
        share = np.sort((inside - first) / (last - first))
        # Kolmogorov-Smirnov distance to the uniform law; 1.95/sqrt(n) has probability 0.001.
        assert np.max(np.abs(share - (np.arange(2000) + 0.5) / 2000)) < 1.95 / 2000**0.5
    assert trace.arrival[-2:].tolist() == [12, 18]  # alone at their times: not moved
    assert trace.prompt[:3].tolist() == [1, 2, 3]  # the order of the file stays
    assert trace.notes[1].endswith("spread uniformly until the next (seed 7)")
    assert read_trace(file, jitter="uniform", rng=7).arrival.tolist() == trace.arrival.tolist()
    assert read_trace(file, jitter="uniform", rng=8).arrival.tolist() != trace.arrival.tolist()


def test_jitter_of_one_time_only_is_refused(tmp_path):
    file = put(tmp_path, "arrival,prompt,output\n1,10,1\n1,20,1\n")
    with pytest.raises(InputError, match="all 2 requests have the same time"):
        read_trace(file, jitter="uniform")


def test_jitter_leaves_distinct_times_alone(tmp_path):
    trace = read_trace(put(tmp_path, VIDUR), jitter="uniform", rng=1)
    assert trace.arrival.tolist() == [0.021644, 0.058107]


# --- lengths without times ------------------------------------------------------------------------


def test_lengths_need_an_arrival_process(tmp_path):
    file = put(tmp_path, LENGTHS)
    with pytest.raises(FormatError, match=r"no arrival times.*arrivals=llmq\.Poisson"):
        read_trace(file)
    trace = read_trace(file, arrivals=Poisson(6.0), rng=7)
    assert trace.prompt.tolist() == [74, 290]
    assert trace.notes[1].startswith("arrival times drawn from Poisson(rate=6.0)")
    assert trace.arrival.tolist() == read_trace(file, arrivals=Poisson(6.0), rng=7).arrival.tolist()


def test_a_file_with_times_takes_no_arrival_process(tmp_path):
    with pytest.raises(InputError, match=r"has arrival times \(arrived_at\)"):
        read_trace(put(tmp_path, VIDUR), arrivals=Poisson(6.0))


# --- writers --------------------------------------------------------------------------------------

tokens = st.integers(1, 10**6)
times = st.floats(0, 1e9, allow_subnormal=False)


@st.composite
def traces(draw, clock=times):
    n = draw(st.integers(1, 6))
    arrival = sorted(draw(st.lists(clock, min_size=n, max_size=n, unique=True)))
    size = st.lists(tokens, min_size=n, max_size=n)
    prompt, output = draw(size), draw(size)
    reasoning = [draw(st.integers(0, o - 1)) for o in output]
    klass = draw(
        st.lists(st.sampled_from(["chat", "a,b", 'say "hi"', "ü"]), min_size=n, max_size=n)
    )
    return Trace(arrival, prompt, output, reasoning, klass)


def again(trace, folder, kind, name):
    file = folder / name
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TraceWarning)
        write_trace(trace, file, format=kind)
    return read_trace(file)


def check_same(one, two, *more):
    assert one.arrival.tolist() == two.arrival.tolist()
    for name in ("prompt", "output", *more):
        assert getattr(one, name).tolist() == getattr(two, name).tolist()


@given(traces())
def test_native_round_trip(tmp_path_factory, trace):
    back = again(trace, tmp_path_factory.mktemp("t"), "native", "t.csv.gz")
    check_same(back, trace, "reasoning")
    names = [trace.classes[code] for code in trace.klass]
    assert [back.classes[code] for code in back.klass] == names


@pytest.mark.parametrize("kind", ["vidur", "mooncake"])
@given(trace=traces())
def test_round_trip_of_times_to_the_last_bit(tmp_path_factory, kind, trace):
    check_same(again(trace, tmp_path_factory.mktemp("t"), kind, "t.txt"), trace)


@given(traces(st.integers(0, 10**13).map(lambda ticks: ticks / 10**7)))
def test_azure_round_trip_of_ticks(tmp_path_factory, trace):
    back = again(trace, tmp_path_factory.mktemp("t"), "azure", "t.csv")
    ticks = np.rint(trace.arrival * 10**7) - np.rint(trace.arrival[0] * 10**7)
    assert back.arrival.tolist() == (ticks / 10**7).tolist()
    assert back.prompt.tolist() == trace.prompt.tolist()
    assert back.output.tolist() == trace.output.tolist()


@pytest.mark.parametrize("kind", [n for n, one in trace_formats().items() if one.write])
def test_what_a_format_cannot_hold_is_said(tmp_path, kind):
    trace = Trace([0, 1], [9, 9], [9, 9], [3, 0], ["chat", "code"])
    if kind == "native":
        write_trace(trace, tmp_path / "t.csv", format=kind)
    else:
        message = r"hidden reasoning tokens of 1 requests and the classes \(chat, code\)"
        with pytest.warns(TraceWarning, match=message):
            write_trace(trace, tmp_path / "t.csv", format=kind)


def test_the_name_chooses_the_format_to_write(tmp_path):
    trace = Trace([0, 1], [9, 9], [9, 9])
    for name, kind in (("t.csv", "native"), ("t.jsonl", "mooncake"), ("t.jsonl.gz", "mooncake")):
        write_trace(trace, tmp_path / name)
        assert read_trace(tmp_path / name).notes[0].startswith(f"read as {kind}")


def test_equal_traces_give_equal_bytes(tmp_path):
    trace = Trace([0, 1], [9, 9], [9, 9])
    for name in ("a.csv.gz", "b.csv.gz"):
        write_trace(trace, tmp_path / name)
    assert (tmp_path / "a.csv.gz").read_bytes() == (tmp_path / "b.csv.gz").read_bytes()


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    file = tmp_path / "t.csv"
    file.write_text("old")

    def full(self, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(InputError, match=r"cannot write .*t\.csv: No space left on device"):
        write_trace(Trace([0], [9], [9]), file)
    assert file.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["t.csv"]


def test_unwritable_paths_are_refused(tmp_path):
    trace = Trace([0], [9], [9])
    with pytest.raises(InputError, match="there is no folder"):
        write_trace(trace, tmp_path / "none" / "t.csv")
    with pytest.raises(InputError, match="it is a folder"):
        write_trace(trace, tmp_path)
    with pytest.raises(InputError, match="unknown trace format 'vidu'; did you mean 'vidur'"):
        write_trace(trace, tmp_path / "t.csv", format="vidu")
    with pytest.raises(InputError, match=r"the first request comes at -1\.0 s"):
        write_trace(Trace([-1], [9], [9]), tmp_path / "t.csv")
    with pytest.raises(InputError, match=r"cannot span 1e\+10 s"):
        write_trace(Trace([0, 1e10], [9, 9], [9, 9]), tmp_path / "t.csv", format="azure")
    assert not list(tmp_path.iterdir())


def test_a_device_is_written_to_not_replaced(tmp_path):
    write_trace(Trace([0], [9], [9]), "/dev/null")
    assert not Path("/dev/null").is_file()


# --- the real files -------------------------------------------------------------------------------


def cv(values):
    return values.std() / values.mean()


def test_azure_conversation(data_dir):
    file = data_dir / "traces" / "azure_llm_2023_conv.csv"
    trace = read_trace(file)
    assert len(trace) == 19366
    # calibration notes, section 7
    assert trace.rate == pytest.approx(5.53, abs=0.005)
    assert cv(np.diff(trace.arrival)) == pytest.approx(1.09, abs=0.005)
    assert trace.prompt.mean() == pytest.approx(1155, abs=0.5)
    assert trace.output.mean() == pytest.approx(211, abs=0.5)
    assert np.quantile(trace.prompt, [0.5, 0.99]).tolist() == [1020, 4142]
    assert np.quantile(trace.output, [0.5, 0.99]).tolist() == [129, 601]
    # Independent clock: whole ticks of 100 ns by string arithmetic.
    rows = file.read_text().splitlines()[1:]
    ticks = []
    for row in (rows[0], rows[777], rows[-1]):
        hours, minutes, seconds = row.split(",")[0].split(" ")[1].split(":")
        ticks.append((int(hours) * 60 + int(minutes)) * 60 + Fraction(seconds))
    assert trace.arrival[[777, -1]].tolist() == [float(t - ticks[0]) for t in ticks[1:]]


def test_mooncake_conversation(data_dir):
    file = data_dir / "traces" / "mooncake_conversation.jsonl.gz"
    message = "12,031 requests have only 1,180 distinct times"
    with pytest.warns(TraceWarning, match=message):
        trace = read_trace(file)
    assert trace.rate == pytest.approx(3.40, abs=0.005)
    assert cv(np.diff(trace.arrival)) == pytest.approx(3.03, abs=0.005)
    assert trace.prompt.mean() == pytest.approx(12035, abs=0.5)
    assert trace.output.mean() == pytest.approx(343, abs=0.5)
    smooth = read_trace(file, jitter="uniform", rng=1)
    assert cv(np.diff(smooth.arrival)) == pytest.approx(1.0, abs=0.05)
    assert message in smooth.notes[2]


def test_openchat_lengths(data_dir):
    file = data_dir / "traces" / "openchat_sharegpt4_lengths.csv"
    trace = read_trace(file, arrivals=Poisson(6.0), rng=1)
    assert len(trace) == 30731
    assert trace.prompt.mean() == pytest.approx(2340, abs=0.5)
    assert trace.output.mean() == pytest.approx(439, abs=0.5)


def test_bench_workloads(data_dir):
    for name, n in (("w1k", 1000), ("w10k", 10000)):
        trace = read_trace(data_dir / "bench" / f"{name}.csv")
        assert len(trace) == n
        assert trace.notes == ("read as vidur trace (format recognised), times in s",)
