"""The report of a capacity plan: how many GPUs, why, at what price, and how sure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

from llmq import policies
from llmq._input.files import PathLike, write_text
from llmq.planning._json import plan_to_dict
from llmq.planning.plans import CandidatePlan, Plan
from llmq.report._file import check_writable
from llmq.report._html import inline_svg, markup, render, sentence
from llmq.result import Estimate, Kind
from llmq.sim.results._stats import Share
from llmq.theory.region import Region
from llmq.units import format_count, format_rate, format_seconds

if TYPE_CHECKING:
    from markupsafe import Markup

__all__ = ["plan_report", "write_report"]

_Rows: TypeAlias = list[tuple[object, ...]]

_MEASURED = "<span>{}</span><small>{}</small>"
_SHOWN = ("p50", "p90", "p99")
_KINDS = {
    Kind.EXACT: "exact: these rates can be served, and no more, whatever the policy",
    Kind.OUTER_BOUND: "outer bound: beyond it no policy is stable at these settings; just inside "
    "one may not be",
}
_NO_ANSWER = {
    "infeasible": ("Infeasible", "no candidate meets"),
    "unfinished": ("Not finished", "time ran out before a candidate was known to meet"),
}
_HARDWARE = (
    "outer bound with token budget, slots and prefill chunk free; memory, compute, tiles and links "
    "stay: beyond it no scheduler is stable"
)


def write_report(plan: Plan, path: PathLike) -> None:
    """Write the report of a plan, in one piece.

    Parameters
    ----------
    plan : Plan
        The plan.
    path : str or path
        An HTML file; replaced if it exists.

    Raises
    ------
    InputError
        The file cannot be written; said before anything is drawn.
    MissingDependencyError
        matplotlib is not installed.
    """
    check_writable(path)
    write_text(path, plan_report(plan))


def plan_report(plan: Plan) -> str:
    """Return the report of a plan as an HTML page.

    Parameters
    ----------
    plan : Plan
        The plan.

    Returns
    -------
    str
        A whole page that fetches nothing and runs nothing; equal plans give equal text.

    Raises
    ------
    MissingDependencyError
        matplotlib is not installed.
    """
    best = plan.chosen
    count = "infeasible" if best is None else _gpus(best.gpus)
    return render(
        "plan.html.j2",
        title=f"Capacity plan: {count}",
        answered=best is not None,
        verdict=_verdict(plan),
        traffic=f"Traffic: {plan.traffic}. {_busiest(plan)}Target: {_goal(plan)}.",
        why=_why(plan),
        candidates=_candidates(plan),
        shown=["Candidate", *(f"{name} {q}" for name in ("TTFT", "TPOT") for q in _SHOWN)],
        latencies=_latencies(plan),
        prices=_prices(plan),
        drawn=list(_figures(plan)),
        probes=_probes(plan),
        kinds=_kinds(plan),
        engines=_engines(plan),
        assumptions=plan.assumptions or ("none beyond the model",),
        made=_provenance(plan),
        name="plan",
        data=plan_to_dict(plan),
    )


# Words -------------------------------------------------------------------------------------------


def _gpus(n: int | None) -> str:
    return "no answer" if n is None else f"{format_count(n)} GPU{'s' * (n != 1)}"


def _fleet(one: CandidatePlan) -> str:
    """Say what the GPUs form, e.g. ``2 engines of x (TP4)``."""
    per = one.candidate.engine.gpus
    size = f" with {per} GPUs each" if per > 1 else ""
    n = one.engines or 0
    return f"{format_count(n)} engine{'s' * (n != 1)} of {one.candidate.title}{size}"


def _goal(plan: Plan) -> str:
    if plan.slo.quantile is not None:
        return str(plan.slo)
    return f"{plan.slo} for {_percent(plan.target)} of the requests"


def _busiest(plan: Plan) -> str:
    if not plan.window:
        return ""
    return f"Bounds, load, headroom and prices are those of its busiest window: {plan.window}. "


def _percent(share: float, digits: int = 4) -> str:
    return f"{100 * share:.{digits}g} %" if math.isfinite(share) else "no limit"


def _share(share: Share | None) -> object:
    if share is None:
        return "none"
    low, high = (f"{100 * x:.2f}" for x in (share.low, share.high))
    ends = f"[{low}, {high}] %, n = {format_count(share.n)}"
    return markup(_MEASURED, f"{100 * share.value:.2f} %", ends)


def _time(at: Estimate | None) -> object:
    if at is None or not math.isfinite(at.mean):
        return "none"
    ends = f"[{format_seconds(max(0.0, at.low))}, {format_seconds(at.high)}]"
    if not math.isfinite(at.half_width):
        ends = f"no interval ({at.lacking})"
    return markup(_MEASURED, format_seconds(at.mean), ends)


def _name(plan: Plan, one: CandidatePlan) -> Markup:
    chosen = ' <small class="chosen">chosen</small>' if one is plan.chosen else ""
    form = f"<span>{{}}<br><small>{{}}</small>{chosen}</span>"
    return markup(form, one.candidate.title, policies.text(one.candidate.policy))


# Sections ----------------------------------------------------------------------------------------


def _verdict(plan: Plan) -> tuple[str, str]:
    best = plan.chosen
    if best is None:
        what, says = _NO_ANSWER[plan.verdict]
        if any(probe.status == "undecided" for one in plan.candidates for probe in one.probes):
            says = says.replace("meets", "is shown to meet")
        return what, f": {says} {_goal(plan)}."
    policy = policies.text(best.candidate.policy)
    verb = "meets" if best.gpus == 1 else "meet"
    cost = "" if best.cost is None else f", for {best.cost:.4g} an hour,"
    return (
        _gpus(best.gpus),
        f" ({_fleet(best)}, policy {policy}){cost} {verb} {_goal(plan)}. Lower bound: "
        f"{format_count(best.gpus_lower_bound)} at these settings, "
        f"{format_count(best.hardware_lower_bound)} of the hardware at any. The load is "
        f"{best.load:.2f}; all rates may grow by {_percent(best.headroom, 3)} before no policy is "
        f"stable at these settings, by {_percent(best.hardware_headroom, 3)} before no scheduler "
        "is at any.",
    )


def _why(plan: Plan) -> list[str]:
    best = plan.chosen
    if best is None:
        return [
            f"{one.candidate.label}: {one.reason}. {sentence(one.binding[1])}."
            for one in plan.candidates
        ]
    lines = [f"{sentence(one)}." for one in (best.decides, best.reason, best.binding[1])]
    gap = (best.gpus or 0) - best.gpus_lower_bound
    if gap > 0:
        lines.append(
            f"The lower bound at these settings is {_gpus(best.gpus_lower_bound)}: the other "
            f"{format_count(gap)} {'are' if gap > 1 else 'is'} for the policy, the latency targets "
            "and the confidence in them."
        )
    else:
        lines.append("This is the lower bound: no policy can do with fewer at these settings.")
    if best.hardware_lower_bound < best.gpus_lower_bound:
        free = f"With other budgets, slots or chunks {_gpus(best.hardware_lower_bound)}"
        lines.append(f"{free} are not ruled out: below that no scheduler can do.")
    if best.gpus_point is not None and best.gpus_point < (best.gpus or 0):
        lines.append(
            f"The point estimate meets the target from {_gpus(best.gpus_point)} on, its 95 % "
            f"interval only from {_gpus(best.gpus)} on: a longer simulation may settle on fewer."
        )
    others = [one for one in plan.candidates if one is not best]
    lines += [f"{one.candidate.label}: {one.reason}." for one in others]
    return lines


def _candidates(plan: Plan) -> _Rows:
    return [
        (
            _name(plan, one),
            "none" if one.gpus is None else format_count(one.gpus),
            f"{one.load:.3f}",
            _percent(one.headroom, 3),
            _share(one.attainment),
            format_count(one.gpus_lower_bound),
            format_count(one.hardware_lower_bound),
            "none" if one.gpus_point is None else format_count(one.gpus_point),
            _percent(one.hardware_headroom, 3),
            "not given" if one.cost is None else f"{one.cost:.4g}",
            one.binding[0],
        )
        for one in plan.candidates
    ]


def _latencies(plan: Plan) -> _Rows:
    return [
        (_name(plan, one), *(_time(part.get(q)) for part in (one.ttft, one.tpot) for q in _SHOWN))
        for one in plan.candidates
        if one.ttft or one.tpot
    ]


def _prices(plan: Plan) -> _Rows:
    return [
        (
            _name(plan, one),
            name,
            format_rate(plan.rates.get(name, 0.0)),
            f"{format_seconds(price)}/request",
            f"{format_seconds(price * one.candidate.engine.gpus)}/request",
            _percent(plan.rates.get(name, 0.0) * price / one.load_one if one.load_one else 0.0, 3),
        )
        for one in plan.candidates
        for name, price in one.prices.items()
    ]


def _probes(plan: Plan) -> _Rows:
    return [
        (
            _name(plan, one),
            probe.status,
            format_count(probe.engines),
            format_count(probe.gpus),
            f"{probe.load:.3f}",
            _share(probe.attainment),
            format_count(probe.requests),
        )
        for one in plan.candidates
        for probe in one.probes
    ]


# Figures -----------------------------------------------------------------------------------------


def _figures(plan: Plan) -> Iterator[tuple[Markup, str]]:
    from llmq.plot import draw_attainment, draw_latency, draw_region, svg

    best = plan.chosen or min(plan.candidates, key=lambda one: one.gpus_lower_bound)
    region = _fleet_region(plan, best)
    drawn = svg(draw_region(region, plan.rates))
    yield _figure(drawn, "region", _about_region(best, region, plan.rates))
    if any(one.probes for one in plan.candidates):
        drawn = svg(draw_attainment(plan.candidates, plan.target))
        about = (
            f"Share of the requests within the targets against GPUs, target "
            f"{_percent(plan.target)}: simulated, with 95 % intervals, on a scale of nines. The "
            "numbers are under “Simulated counts”."
        )
        yield _figure(drawn, "attainment", about)
    for name in best.curves if plan.chosen else ():
        limit = plan.slo.targets.get(name)
        target = None if limit is None else plan.target
        drawn = svg(draw_latency(best, name, limit=limit, target=target))
        yield _figure(drawn, name, _about_latency(best, name, limit))


def _fleet_region(plan: Plan, best: CandidatePlan) -> Region:
    region = plan.regions[plan.candidates.index(best)]
    per = best.candidate.engine.gpus
    return replace(region, engines=best.engines or max(1, best.gpus_lower_bound // per))


def _about_region(best: CandidatePlan, region: Region, rates: Mapping[str, float]) -> str:
    size = f"{format_count(region.engines)} engine{'s' * (region.engines > 1)}"
    margin = region.margin(rates)
    where = "inside" if margin > 1 else "outside"
    return (
        f"Rates that {size} of {best.candidate.title} can carry. The offered rates (star) lie "
        f"{where} the bound for every policy at these settings: all of them times {margin:.3g} "
        "reach it."
    )


def _about_latency(best: CandidatePlan, name: str, limit: float | None) -> str:
    quantiles = best.ttft if name == "ttft" else best.tpot
    words = ", ".join(f"{q} {format_seconds(at.mean)}" for q, at in quantiles.items())
    aim = (
        ""
        if limit is None
        else f" The curve meets the target ({format_seconds(limit)}) if it "
        "passes above and to the left of where the two target lines cross."
    )
    return (
        f"Distribution of {name.upper()} on {_gpus(best.gpus)}: simulated quantiles with 95 % "
        f"intervals; {words}.{aim}"
    )


def _figure(drawn: str, name: str, about: str) -> tuple[Markup, str]:
    return inline_svg(drawn, f"fig-{name}", about), about


# Basis -------------------------------------------------------------------------------------------


def _kinds(plan: Plan) -> dict[str, str]:
    kinds = dict.fromkeys(region.kind for region in plan.regions)
    source = ", ".join(dict.fromkeys(region.source for region in plan.regions))
    bound = "; ".join(_KINDS.get(kind, kind.value) for kind in kinds)
    intervals = (
        "95 % intervals from independent replications, or from batches of a single path (a given "
        "trace: the interval is about this traffic, had it come in another order)"
    )
    return {
        "Lower bound, load, headroom, prices": f"{bound} ({source})",
        "Lower bound and headroom of the hardware": _HARDWARE,
        "GPUs, attainment, latencies": f"{plan.kind.value}: {intervals}",
    }


def _engines(plan: Plan) -> _Rows:
    return [
        (
            _name(plan, one),
            str(region.engine),
            format_count(region.engine.gpus),
            region.engine.source or "given",
        )
        for one, region in zip(plan.candidates, plan.regions, strict=True)
    ]


def _provenance(plan: Plan) -> dict[str, object]:
    made = plan.provenance
    return {
        "llmq": made.version,
        "platform": made.platform,
        "seed": made.entropy,
        **made.arguments,
    }
