"""The report: one page that fetches and runs nothing, whatever names the input holds."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import jinja2
import numpy as np
import pytest

import llmq.report._plan as report_plan
from llmq.errors import InputError
from llmq.model.engine import Engine
from llmq.model.request import RequestClass
from llmq.model.slo import SLO
from llmq.model.time.batchtime import BatchTime
from llmq.model.trace import Trace
from llmq.model.workload import Workload
from llmq.planning._json import plan_to_dict
from llmq.planning.capacity import Candidate, Plan, plan_capacity
from llmq.policies import Sarathi
from llmq.report import check_writable, plan_report, write_report
from llmq.report._html import inline_svg, markup, render
from llmq.units import format_seconds

LAW = BatchTime.affine(base=0.01, per_token=1e-4, per_kv=1e-7)
MIX = {"chat": RequestClass(512, 128), "code": RequestClass(2048, 256)}
CHIP = Engine(LAW, max_seqs=64, kv_tokens=60_000, name="chip")
SLOW = CHIP.with_(law=LAW.scaled(1.7), name="slow", gpus=2)
HOPELESS = CHIP.with_(law=LAW.scaled(30), name="hopeless")
TARGETS = SLO(ttft=1.0, tpot=0.2, quantile=0.9)


def make(mix=MIX, engines=(CHIP, SLOW, HOPELESS), slo=TARGETS, **options) -> Plan:
    rates = dict(zip(mix, (20.0, 2.0), strict=True))
    offers = [Candidate(engine, Sarathi(token_budget=256)) for engine in engines]
    work = Workload.poisson(rates, mix)
    return plan_capacity(work, slo, offers, requests=300, replications=4, rng=3, **options)


@pytest.fixture(scope="module")
def plan() -> Plan:
    return make()


@pytest.fixture(scope="module")
def html(plan: Plan) -> str:
    return plan_report(plan)


class Page(HTMLParser):
    """Elements with their text; fails on tags that do not match and on ids used twice."""

    VOID = frozenset({"meta", "br"})

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.open: list[str] = []
        self.ids: set[str] = set()
        self.feed(source)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), f"an attribute twice in <{tag}>"
        self.elements.append((tag, dict(attrs)))
        if name := dict(attrs).get("id"):
            assert name not in self.ids, name
            self.ids.add(name)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append((self.open[-1] if self.open else "", data))

    def handle_comment(self, data: str) -> None:
        pytest.fail(f"a comment: {data}")

    @property
    def words(self) -> str:
        return "".join(data for where, data in self.texts if where not in ("script", "style"))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.elements if name == tag]


def embedded(source: str) -> dict[str, object]:
    (data,) = (data for where, data in Page(source).texts if where == "script")
    found: dict[str, object] = json.loads(data)
    return found


KNOWN = """
html head meta title style body main section h1 h2 h3 p ul li strong span small br div
table caption thead tbody tr th td dl dt dd code figure figcaption script
svg defs g path use text clippath rect pattern
"""


# The page ----------------------------------------------------------------------------------------


def test_page_is_whole_and_accessible(plan: Plan, html: str) -> None:
    page = Page(html)
    assert html.startswith('<!DOCTYPE html>\n<html lang="en">')
    assert [name for name, _ in page.elements[:2]] == ["html", "head"]
    assert page.elements[2] == ("meta", {"charset": "utf-8"})
    assert plan.chosen is not None
    assert ("title", f"Capacity plan: {plan.chosen.gpus} GPUs") in page.texts
    assert len(page.all("h1")) == 1
    levels = [int(name[1]) for name, _ in page.elements if re.fullmatch("h[1-6]", name)]
    assert all(b <= a + 1 for a, b in itertools.pairwise(levels))
    for header in page.all("th"):
        assert header["scope"] in ("row", "col")
    assert len(page.all("caption")) == len(page.all("table")) == 5
    figures = page.all("svg")
    assert len(figures) == len(page.all("figure")) == 4
    for figure in figures:
        assert figure["role"] == "img"
        assert len(figure["aria-label"] or "") > 40
    for section in page.all("section"):
        assert section["aria-labelledby"] in page.ids


def test_page_fetches_nothing_and_runs_nothing(html: str) -> None:
    page = Page(html)
    assert "http:" not in html
    assert "https:" not in html
    assert "//" not in re.sub(r"<(script|style).*?</\1>", "", html, flags=re.S)
    known = set(re.findall(r"\w+", KNOWN))
    assert {name for name, _ in page.elements} <= known
    for name, attrs in page.elements:
        for key, value in attrs.items():
            assert not key.startswith("on"), (name, key)
            assert key not in ("src", "srcset", "action", "formaction", "background", "data")
            if key == "href":
                assert name == "use"
                assert value is not None
                assert value.removeprefix("#") in page.ids
            for target in re.findall(r"url\((.*?)\)", value or ""):
                assert target.removeprefix("#") in page.ids
    assert page.all("script") == [{"type": "application/json", "id": "plan"}]
    (style,) = (data for where, data in page.texts if where == "style")
    assert "url(" not in style
    assert "@import" not in style
    policy = [m["content"] for m in page.all("meta") if m.get("http-equiv")]
    assert policy[0] is not None
    assert policy[0].startswith("default-src 'none'; style-src 'unsafe-inline'")


def test_page_is_the_same_bytes_for_the_same_plan(html: str) -> None:
    assert plan_report(make()) == html


def test_embedded_json_is_the_plan(plan: Plan, html: str) -> None:
    assert embedded(html) == plan_to_dict(plan)


def test_answer_comes_first_with_its_reasons(plan: Plan, html: str) -> None:
    best = plan.chosen
    assert best is not None
    words = Page(html).words
    verdict = words.index(f"{best.gpus} GPUs ({best.engines} engines of chip, policy ")
    assert verdict < words.index("Why") < words.index("Candidates") < words.index("Assumptions")
    bounds = (
        f"{best.gpus_lower_bound} at these settings, {best.hardware_lower_bound} of the hardware"
    )
    assert f"Lower bound: {bounds} at any." in words
    assert f"The load is {best.load:.2f}; all rates may grow by" in words
    assert "before no policy is stable at these settings" in words
    assert "before no scheduler is at any" in words
    assert best.binding[1][1:] in words
    for line in plan.assumptions:
        assert line in words


def test_tables_hold_every_candidate_price_and_probe(plan: Plan, html: str) -> None:
    words = Page(html).words
    for one in plan.candidates:
        assert words.count(f"{one.candidate.title}sarathi:token_budget=256") >= 4
        if share := one.attainment:
            ends = f"[{100 * share.low:.2f}, {100 * share.high:.2f}] %, n = {share.n:,}"
            assert f"{100 * share.value:.2f} %{ends}" in words
        for name, price in one.prices.items():
            gpu = price * one.candidate.engine.gpus
            assert f"{format_seconds(price)}/request{format_seconds(gpu)}/request" in words, name
        for at in (*one.ttft.values(), *one.tpot.values()):
            ends = f"[{format_seconds(max(0.0, at.low))}, {format_seconds(at.high)}]"
            if not math.isfinite(at.half_width):
                ends = f"no interval ({at.lacking})"
            assert f"{format_seconds(at.mean)}{ends}" in words
    assert plan.candidates[1].candidate.engine.gpus == 2
    probes = sum(len(one.probes) for one in plan.candidates)
    assert sum(words.count(status) for status in ("stable", "undecided", "overloaded")) >= probes


def test_infeasible_plan_says_why_for_each_candidate() -> None:
    plan = make(engines=(HOPELESS,))
    assert plan.chosen is None
    page = Page(plan_report(plan))
    assert "Infeasible: no candidate meets p90 TTFT <= 1 s and p90 TPOT <= 200 ms." in page.words
    assert plan.candidates[0].reason in page.words
    assert "No count was simulated" in page.words
    assert len(page.all("svg")) == 1  # the region: nothing else is known
    assert embedded(plan_report(plan))["chosen"] is None


def test_targets_of_a_request_name_the_share_that_must_meet_them() -> None:
    plan = make(engines=(CHIP,), slo=SLO(e2e=60.0), attainment=0.8)
    page = Page(plan_report(plan))
    assert "meet E2E <= 60 s for 80 % of the requests" in page.words
    assert len(page.all("svg")) == 4


def test_a_trace_of_one_class() -> None:
    rng = np.random.default_rng(1)
    trace = Trace(np.cumsum(rng.exponential(0.05, 400)), 512, 64, source='<b a="1">.csv')
    plan = plan_capacity(trace, SLO(ttft=1.0, quantile=0.9), CHIP)
    words = Page(plan_report(plan)).words
    assert 'from <b a="1">.csv:' in words


def test_numbers_that_do_not_exist_are_said_in_words(plan: Plan) -> None:
    best = plan.candidates[0]
    at = dataclasses.replace(best.ttft["p50"], half_width=math.inf)
    none = dataclasses.replace(best.ttft["p90"], mean=math.nan)
    odd = dataclasses.replace(best, headroom=math.inf, ttft={"p50": at, "p90": none}, curves={})
    changed = dataclasses.replace(plan, candidates=(odd, *plan.candidates[1:]), chosen=odd)
    words = Page(plan_report(changed)).words
    assert f"no interval (n = {at.n})none" in words
    assert "grow by no limit" in words
    assert not re.search(r"\b(nan|inf)\b", words)


# Input -------------------------------------------------------------------------------------------

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onload='alert(1)",
    "</script><script>alert(1)</script>",
    "</title></style><!--",
    "]]>&lt;b&gt;&amp;",
    "$\\alpha$ $\\frac{",
    "a\x00b\nc\u2028d",
    "\ud800",
    'id="plan" url(#x) href',
]


def named(name: str) -> tuple[Page, dict[str, object]]:
    """Report of a plan in which everything that comes from input has this name."""
    mix = {name: MIX["chat"], "code": MIX["code"]}
    chip = CHIP.with_(name=name, source=name, assumptions=(name,))
    plan = make(mix, (chip, HOPELESS.with_(name=name)))
    plan = dataclasses.replace(plan, traffic=f"Trace(3 requests from {name}: 1 req/s)")
    source = plan_report(plan)
    source.encode("utf-8")
    return Page(source), embedded(source)


@pytest.fixture(scope="module")
def usual() -> Page:
    return named("plain")[0]


@pytest.mark.parametrize("name", HOSTILE)
def test_no_name_can_break_out(name: str, usual: Page) -> None:
    page, found = named(name)
    drawn = ("g", "path", "use", "text", "rect")  # ticks move with the width of labels

    def shape(of: Page) -> list[tuple[str, list[str]]]:
        return [(n, sorted(attrs)) for n, attrs in of.elements if n not in drawn]

    assert shape(page) == shape(usual)  # no element and no attribute more
    assert {n for n, _ in page.elements} == {n for n, _ in usual.elements}
    for where in drawn:
        keys = [{key for attrs in of.all(where) for key in attrs} for of in (page, usual)]
        assert keys[0] == keys[1]
    shown = re.sub(r"[\x00-\x1f\u2028\ud800]", "\N{REPLACEMENT CHARACTER}", name)
    assert page.words.count(shown) > 10
    assert list(found["rates"]) == [name, "code"]  # type: ignore[call-overload]


def test_markup_escapes_what_is_not_markup() -> None:
    assert markup('<p title="{}">{}</p>', '"<', "it's\x07") == (
        '<p title="&#34;&lt;">it&#39;s\N{REPLACEMENT CHARACTER}</p>'
    )
    assert markup("<td>{}</td>", markup("<b>{}</b>", "<i>")) == "<td><b>&lt;i&gt;</b></td>"


def test_data_block_cannot_be_ended_by_its_content() -> None:
    values = {"</script>": ["<!--", "&", "\u2028", "\ud800"]}
    page = render("page.html.j2", title="t", name="x", data=values)
    (block,) = re.findall('<script type="application/json" id="x">(.*)</script>', page)
    assert not set("<>&") & set(block)
    assert block.isascii()
    assert json.loads(block) == values


def test_a_value_that_a_template_lacks_is_an_error() -> None:
    with pytest.raises(jinja2.UndefinedError, match="'title' is undefined"):
        render("page.html.j2", name="x", data={})


def test_numbers_that_json_does_not_have_are_an_error() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        render("page.html.j2", title="t", name="x", data={"a": math.nan})


def test_inline_figures_keep_their_references_apart() -> None:
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        'viewBox="0 0 1 1" width="1pt"><defs><style>*{}</style><path id="m"/></defs>'
        '<g clip-path="url(#c)" style="fill: #1f2328"><use xlink:href="#m"/>'
        "<text>url(#c) &lt;b&gt;</text></g></svg>"
    )
    assert inline_svg(svg, "one", 'a "b" <c>') == (
        '<svg viewBox="0 0 1 1" role="img" aria-label="a &quot;b&quot; &lt;c&gt;"><defs>'
        '<path id="one-m" /></defs><g clip-path="url(#one-c)" style="fill: var(--ink)">'
        '<use href="#one-m" /><text>url(#c) &lt;b&gt;</text></g></svg>'
    )


# Files -------------------------------------------------------------------------------------------


def test_report_is_written_in_one_piece(plan: Plan, html: str, tmp_path: Path) -> None:
    place = tmp_path / "plan.html"
    write_report(plan, place)
    assert place.read_text(encoding="utf-8") == html
    assert [p.name for p in tmp_path.iterdir()] == ["plan.html"]


def test_bad_path_is_refused_before_anything_is_drawn(plan, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(report_plan, "plan_report", lambda plan: pytest.fail("drawn too early"))
    for path, why in (
        (tmp_path / "none" / "a.html", "there is no folder"),
        (tmp_path, "it is a folder, name a file in it"),
        (tmp_path / ("x" * 300), "too long"),
        (f"{tmp_path}/a\x00b", "null"),
    ):
        with pytest.raises(InputError, match=why):
            write_report(plan, path)
    assert list(tmp_path.iterdir()) == []


def test_check_writable_leaves_no_trace(tmp_path: Path) -> None:
    place = tmp_path / "plan.html"
    check_writable(place)
    assert not list(tmp_path.iterdir())
    place.write_text("old")
    check_writable(place)
    assert place.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_check_writable_does_not_wait_for_the_reader_of_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    check_writable(tmp_path / "pipe")
