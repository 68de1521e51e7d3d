"""What holds for every table, experiment, claim and figure, and the machinery below them."""

from __future__ import annotations

import ast
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from experiments import plan_example
from experiments.book import claims_page, compute, experiment, experiments
from experiments.claim import Status
from experiments.runner import Runner
from experiments.table import TABLES, Table, read_table, write_table
from llmq.cli import main
from llmq.errors import FormatError, InputError
from paper_figs.book import GALLERY, IMAGES, draw, figure, figures, gallery, write

ROOT = Path(__file__).parents[2]
NAMES = sorted(experiments())
# Tables that a command of its own writes, with a page of the documents beside it.
OF_THEIR_OWN = ["coverage_saturation"]
PATHS = sorted(TABLES.glob("*.csv"))
DRAWN = sorted(name for name, table in figures().items() if (TABLES / f"{table}.csv").exists())
MOST = 60_000  # bytes of a table
# Experiments whose small scale takes less than two seconds; the others run in `make check`.
QUICK = (
    "bracket",
    "dai_rate",
    "dai_region",
    "oracle_gap",
    "pascal_exact",
    "pascal_lengths",
    "pascal_qoe",
    "price_gpus",
    "rad_tiling",
    "slai_parameters",
    "speed_table",
    "wait_equilibrium",
    "yang_clipping",
)
SMALL = [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in NAMES]

# Tables.


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_table_is_readable_small_and_says_where_it_comes_from(path: Path, tmp_path: Path) -> None:
    table = read_table(path)
    assert table.name == path.stem in [*NAMES, *OF_THEIR_OWN]
    assert len(table)
    assert path.stat().st_size <= MOST
    assert {"source", "command", "seed", "scale", "llmq"} <= set(table.about)
    assert table.about["scale"] == "full"
    write_table(table, tmp_path / "again.csv")
    assert (tmp_path / "again.csv").read_bytes() == path.read_bytes()
    if "kind" in table.columns and {"low", "high"} <= set(table.columns):
        simulated = table.where(kind="simulated")
        finite = np.isfinite(simulated["low"].astype(float))
        assert np.all(simulated["low"][finite] <= simulated["high"][finite])


def test_a_table_comes_back_as_it_was(tmp_path: Path) -> None:
    rows = [
        {"policy": "a, b", "n": 3, "wait": 1 / 3, "low": -np.inf, "ok": True},
        {"policy": '"c"', "n": -4, "wait": float("nan"), "low": 1e-12, "ok": False},
    ]
    about = {"source": "nobody,\n  nowhere: p. 3", "seed": "7"}
    table = Table.of("waits", rows, units={"wait": "s"}, about=about)
    write_table(table, tmp_path / "waits.csv")
    again = read_table(tmp_path / "waits.csv")
    assert again.name == "waits"
    assert dict(again.units) == {"policy": "text", "n": "1", "wait": "s", "low": "1", "ok": "1"}
    assert dict(again.about) == {"source": "nobody, nowhere: p. 3", "seed": "7"}
    for key in table.columns:
        np.testing.assert_array_equal(again[key], table[key])
        assert again[key].dtype == table[key].dtype
    assert again["wait"][0] == 0.333333
    assert again["ok"].tolist() == [1, 0]


def test_rows_are_chosen_by_value() -> None:
    table = Table.of("t", [{"x": i / 3, "name": "ab"[i % 2], "y": i} for i in range(6)])
    assert table.where(name="b", x=1 / 3)["y"].tolist() == [1]
    assert table.where(y=[1, 2], name="a")["y"].tolist() == [2]
    assert len(table.where(name=1)) == len(table.where(y=[])) == 0
    assert [row["y"] for row in table.where(name="a").rows()] == [0, 2, 4]
    with pytest.raises(InputError, match="did you mean 'name'"):
        table.where(nam="a")
    with pytest.raises(ValueError, match="read-only"):
        table["y"][0] = 1


@pytest.mark.parametrize(
    ("columns", "units", "words"),
    [
        ({"x": [1], "y": [1, 2]}, {}, "differ in length: x 1, y 2"),
        ({"x": [1, "a"]}, {}, "mixes texts and numbers"),
        ({"x y": [1]}, {}, "named like a variable"),
        ({"x": [[1, 2]]}, {}, "numbers or texts"),
        ({"x": [1]}, {"z": "s"}, "which is no column"),
    ],
)
def test_bad_tables(columns: dict, units: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        Table("t", columns, units)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("# a: b\n", "no heading"),
        ("x [s],y\n1,2\n", "'y' has no unit"),
        ("# a: b\nx [s],y [1]\n1\n", "line 3: 1 cells for 2 columns"),
        ("x [s]\n1\ntwo\n", "line 3, column x: expected a number, found 'two'"),
    ],
)
def test_bad_files(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(FormatError, match=words):
        read_table(tmp_path / "t.csv")


# Runner.


def noisy(point: dict, rng: np.random.SeedSequence) -> list[dict]:
    return [{**point, "draw": np.random.default_rng(rng).random()}]


def stops_at_two(point: dict, rng: np.random.SeedSequence) -> list[dict]:
    if point["x"] == 2 and not Path(point["allow"]).exists():
        raise KeyboardInterrupt
    with Path(point["log"]).open("a") as log:
        log.write(f"{point['x']}\n")
    return noisy({"x": point["x"]}, rng)


def test_results_do_not_depend_on_who_computes() -> None:
    points = [{"x": i} for i in range(5)]
    alone = Runner().run(noisy, points, 3)
    with ThreadPoolExecutor(2) as pool:
        for workers in (2, map, pool.map):
            assert Runner(workers).run(noisy, points, 3) == alone
    assert [row["x"] for row in alone] == [0, 1, 2, 3, 4]
    assert len({row["draw"] for row in alone}) == 5
    # A point draws from its place, so policies compared inside it see the same requests.
    assert Runner().run(noisy, points[:2], 3) == alone[:2]
    assert Runner().run(noisy, points, 4) != alone


def test_an_interrupted_run_goes_on_where_it_was(tmp_path: Path) -> None:
    log, allow, keep = tmp_path / "log", tmp_path / "allow", tmp_path / "k" / "keep.jsonl"
    points = [{"x": i, "log": str(log), "allow": str(allow)} for i in range(4)]
    with pytest.raises(KeyboardInterrupt):
        Runner(keep=keep).run(stops_at_two, points, 3)
    with keep.open("a") as file:
        file.write('{"key": "half a li')  # the machine went down while writing
    allow.touch()
    rows = Runner(keep=keep).run(stops_at_two, points, 3)
    assert log.read_text().split() == ["0", "1", "2", "3"]  # none twice
    assert [row["draw"] for row in rows] == [r["draw"] for r in Runner().run(noisy, points, 3)]
    assert Runner(2, keep).run(stops_at_two, points, 3) == rows  # nothing is left to do
    Runner(keep=keep).run(stops_at_two, points, 8)
    assert log.read_text().split() == ["0", "1", "2", "3"] * 2  # another seed, other points


# Experiments and claims.


@pytest.mark.parametrize("name", SMALL)
def test_experiment_at_small_scale(name: str, request: pytest.FixtureRequest) -> None:
    module = experiment(name)
    if getattr(module, "NEEDS_DATA", False):
        request.getfixturevalue("data_dir")
    table = compute(name, "small")
    assert len(table)
    assert table.about["source"]
    for claim in module.CLAIMS:
        finding = claim.judge(table)
        assert finding.status.reaches(claim.least), f"{claim.id}: {finding}"
        assert finding.measured


@pytest.mark.parametrize("name", NAMES)
def test_experiment_has_its_full_table(name: str) -> None:
    assert (TABLES / f"{name}.csv").exists()  # python -m experiments NAME
    columns = list(read_table(TABLES / f"{name}.csv").columns)
    assert columns


@pytest.mark.parametrize("name", NAMES)
def test_no_judge_accepts_what_it_does_not_see(name: str) -> None:
    table = read_table(TABLES / f"{name}.csv")
    column, values = next(iter(table.columns.items()))
    nothing = table.where(**{column: "none such" if values.dtype.kind == "U" else -1.5e300})
    assert not len(nothing)
    for claim in experiment(name).CLAIMS:
        try:
            finding = claim.judge(nothing)
        except (LookupError, ValueError, TypeError, RuntimeWarning):
            continue
        assert finding.status is Status.NOT, f"{claim.id}: {finding}"


def test_claims_are_named_once_and_point_to_what_exists() -> None:
    claims = [claim for name in NAMES for claim in experiment(name).CLAIMS]
    ids = [claim.id for claim in claims]
    assert len(ids) == len(set(ids))
    for claim in claims:
        assert not claim.figure or claim.figure in DRAWN, claim.id
        file, _, test = claim.test.partition("::")
        if file:
            tree = ast.parse((Path(__file__).parent / file).read_text(encoding="utf-8"))
            known = {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)}
            assert not test or test in known, claim.test


def test_page_of_claims_is_current() -> None:
    # After new tables: python -m experiments --claims.
    assert (ROOT / "experiments" / "CLAIMS.md").read_text(encoding="utf-8") == claims_page()


def test_statuses_have_an_order() -> None:
    order = [Status.PROVED, Status.VERIFIED, Status.BAND, Status.DIRECTION, Status.NOT]
    assert list(Status) == order
    for i, one in enumerate(order):
        assert [one.reaches(other) for other in order] == [j >= i for j in range(5)]


def test_the_plan_in_the_readme_is_that_of_today(tmp_path: Path) -> None:
    write_table(compute("plan_example", "full"), tmp_path / "plan_example.csv")
    fresh = (tmp_path / "plan_example.csv").read_bytes()
    # After a change of the numbers: python -m experiments plan_example; make figures.
    assert fresh == (TABLES / "plan_example.csv").read_bytes()
    shown = words((IMAGES / "plan.svg").read_text(encoding="utf-8"))
    assert "what 3 GPUs carry: llama-3.1-8b/h100" in shown


def test_the_plan_judge_fails_on_a_doctored_table() -> None:
    table = read_table(TABLES / "plan_example.csv")
    (claim,) = plan_example.CLAIMS
    assert claim.judge(table).status is Status.BAND
    for kind, x in (("answer", 9.0), ("lower_bound", 4.0)):
        rows = list(table.rows())
        for row in rows:
            if row["part"] == "plan" and row["kind"] == kind:
                row["x"] = x
        doctored = Table.of("plan_example", rows, about=table.about)
        assert claim.judge(doctored).status is Status.NOT


# Figures.


def words(svg: str) -> list[str]:
    """Texts of a figure, in order."""
    import xml.etree.ElementTree as ET

    return [e.text or "" for e in ET.fromstring(svg).iter() if e.tag.endswith("}text")]


@pytest.mark.parametrize("name", DRAWN)
def test_figure_is_drawn_labelled_and_committed(name: str, tmp_path: Path) -> None:
    made = draw(name)
    write(made, tmp_path / "f.svg")
    fresh = (tmp_path / "f.svg").read_text(encoding="utf-8")
    # After new tables: python -m paper_figs NAME.
    assert words(fresh) == words((IMAGES / f"{name}.svg").read_text(encoding="utf-8"))
    assert (IMAGES / f"{name}.png").exists()
    for ax in made.axes:
        if ax.axison:
            assert ax.get_xlabel() or ax.get_xticklabels(), "an axis says what it shows"
            assert ax.get_ylabel() or ax.get_yticklabels(), "an axis says what it shows"
        hidden = covered(ax)
        assert not hidden, f"the legend covers {hidden}"


def covered(ax: object) -> list[str]:
    """Data that lie under the legend of axes, and the edge of the figure if it is cut there."""
    found = ax.get_legend()
    if found is None:
        return []
    box, page = found.get_window_extent(), ax.figure.bbox
    if box.x1 > page.x1 + 1 or box.y1 > page.y1 + 1 or box.x0 < -1 or box.y0 < -1:
        return ["the edge of the figure"]
    lines = [
        line.get_label()
        for line in ax.lines
        if line.get_path().transformed(line.get_transform()).intersects_bbox(box, filled=False)
        and ax.get_window_extent().overlaps(box)
    ]
    points = [c.get_label() for c in ax.collections if len(c.get_offsets()) and covers(c, box)]
    return lines + points


def covers(collection: object, box: object) -> bool:
    offsets = collection.get_offset_transform().transform(np.asarray(collection.get_offsets()))
    # Lines and areas have the single offset (0, 0) of no marker at all.
    return len(offsets) > 1 and any(box.contains(x, y) for x, y in offsets)


def test_the_legend_check_sees() -> None:
    from matplotlib.figure import Figure

    ax = Figure().subplots()
    ax.plot([0, 1], [0, 1], label="line")
    ax.legend(loc="upper right")
    assert covered(ax) == ["line"]
    ax.legend(loc="upper left")
    assert covered(ax) == []
    ax.legend(loc="upper left", bbox_to_anchor=(1.2, 1.0))
    assert covered(ax) == ["the edge of the figure"]


@pytest.mark.parametrize("name", [*DRAWN[:2], *DRAWN[-1:]])
def test_figure_has_the_same_bytes_each_time(name: str, tmp_path: Path) -> None:
    for kind in ("svg", "png"):
        one, two = tmp_path / f"one.{kind}", tmp_path / f"two.{kind}"
        write(draw(name), one)
        write(draw(name), two)
        assert one.read_bytes() == two.read_bytes()
        assert 5_000 < one.stat().st_size < 250_000


def test_every_figure_has_its_table_and_a_reading() -> None:
    assert sorted(figures()) == DRAWN
    for name in DRAWN:
        module = figure(name)
        assert 20 < len(" ".join(module.CAPTION.split())) < 400
        assert module.TABLE in NAMES


def test_gallery_is_current() -> None:
    # After new figures: python -m paper_figs --gallery.
    assert GALLERY.read_text(encoding="utf-8") == gallery()


def test_a_figure_is_svg_or_png(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"written as \.svg or \.png, not 'plan\.gif'"):
        write(draw("plan"), tmp_path / "plan.gif")


# Commands.


def run(*words_: str, cwd: Path = ROOT) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", *words_], cwd=cwd, capture_output=True, text=True, check=False
    )


def test_unknown_names_are_refused_with_the_nearest() -> None:
    for tool in ("experiments", "paper_figs"):
        known = "plan_example" if tool == "experiments" else "plan"
        found = run(tool, f"{known}x")
        assert found.returncode == 2
        assert f"did you mean '{known}'?" in found.stderr
        assert known in run(tool, "--list").stdout


def test_experiments_write_the_committed_table_again(tmp_path: Path) -> None:
    found = run("experiments", "pascal_qoe", "--out", str(tmp_path))
    assert found.returncode == 0, found.stderr
    assert found.stdout == "pascal_qoe.csv: 31 rows\n"
    table = read_table(tmp_path / "pascal_qoe.csv")
    assert table.about["command"] == "python -m experiments pascal_qoe --scale full"
    assert (tmp_path / "pascal_qoe.csv").read_bytes() == (TABLES / "pascal_qoe.csv").read_bytes()


def test_llmq_figure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # beside the package, wherever one is
    assert main(["figure", "plan", "--out", "a.png"]) == 0
    assert main(["figure", "plan"]) == 0
    assert capsys.readouterr().out.split() == ["a.png", "plan.svg"]
    assert Path("a.png").read_bytes()[:4] == b"\x89PNG"
    assert Path("plan.svg").read_bytes() == (IMAGES / "plan.svg").read_bytes()
    assert main(["figure", "plam"]) == main(["figure"]) == main(["figure", "plan", "-o"]) == 2
    errors = capsys.readouterr().err
    assert "no figure 'plam'; did you mean 'plan'?" in errors
    assert "name a figure; `llmq figure --list` shows them" in errors
    assert main(["figure", "--list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(figures())


def test_llmq_figure_without_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from llmq.cli.commands import figure as command

    monkeypatch.setattr(command, "__file__", str(tmp_path / "a" / "b" / "figure.py"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="in the folder of a checkout"):
        command._book()
