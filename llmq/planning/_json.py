"""A capacity plan as plain JSON: the numbers, their intervals, units and kinds.

Times are seconds, rates requests per second. A number that does not exist (the interval of a
sample too small for one, the headroom of no load) is null, never infinity. Nothing depends on the
clock: equal plans give equal bytes. The curves and the facets of the regions are included, so that
every figure of the report can be drawn again from the file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from llmq import policies
from llmq.model.slo import SLO
from llmq.planning.plans import CandidatePlan, Plan, Probe
from llmq.result import Estimate
from llmq.sim.results._stats import Share
from llmq.theory.region import Region

__all__ = ["engine_text", "plan_to_dict", "plan_to_json"]


def engine_text(one: CandidatePlan) -> str:
    """Return the name of a candidate's engine."""
    return one.candidate.name or one.candidate.engine.name or "engine"


def plan_to_dict(plan: Plan) -> dict[str, Any]:
    """Return a plan as JSON values.

    Examples
    --------
    >>> from llmq.planning.capacity import plan_capacity
    >>> from llmq.model.time.batchtime import BatchTime
    >>> from llmq.model.engine import Engine
    >>> from llmq.model.request import RequestClass
    >>> from llmq.model.workload import Workload
    >>> chip = Engine(BatchTime.affine(base=0.01, per_token=1e-4), max_seqs=64, name="chip")
    >>> work = Workload.poisson(40.0, {"chat": RequestClass(512, 64)})
    >>> plan = plan_capacity(work, SLO(ttft=1.0, quantile=0.9), chip, requests=200)
    >>> found = plan_to_dict(plan)
    >>> found["verdict"], found["chosen"]["engine"], found["chosen"]["gpus_lower_bound"]
    ('feasible', 'chip', 3)
    """
    candidates = [
        _candidate(one, region) for one, region in zip(plan.candidates, plan.regions, strict=True)
    ]
    chosen = None if plan.chosen is None else candidates[plan.candidates.index(plan.chosen)]
    return {
        "verdict": plan.verdict,
        "traffic": plan.traffic,
        "window": plan.window or None,
        "rates": _numbers(plan.rates),
        "rates_unit": "requests/s",
        "slo": _slo(plan.slo),
        "target": plan.target,
        "chosen": chosen,
        "chosen_by": plan.chosen_by,
        "candidates": candidates,
        "kind": plan.kind.value,
        "assumptions": list(plan.assumptions),
        "provenance": {
            "version": plan.provenance.version,
            "arguments": dict(plan.provenance.arguments),
            "entropy": plan.provenance.entropy,
            "platform": plan.provenance.platform,
        },
    }


def plan_to_json(plan: Plan, *, indent: int | None = 2) -> str:
    """Return a plan as JSON text."""
    return json.dumps(plan_to_dict(plan), indent=indent, ensure_ascii=False, allow_nan=False)


def _candidate(one: CandidatePlan, region: Region) -> dict[str, Any]:
    per_engine = region.engine.gpus
    prices = _numbers(one.prices)
    return {
        "engine": engine_text(one),
        "label": one.candidate.label,
        "policy": policies.text(one.candidate.policy),
        "feasible": one.feasible,
        "finished": one.finished,
        "reason": one.reason,
        "decides": one.decides,
        "gpus_lower_bound": one.gpus_lower_bound,
        "lower_bound_kind": region.kind.value,
        "lower_bound_of": "these settings: with fewer no policy does",
        "hardware_lower_bound": one.hardware_lower_bound,
        "hardware_lower_bound_of": "the hardware: with fewer no scheduler does at any settings",
        "price_per_gpu_hour": one.candidate.price,
        "cost_per_hour": one.cost,
        "gpus": one.gpus,
        "gpus_point": one.gpus_point,
        "engines": one.engines,
        "gpus_per_engine": per_engine,
        "load": _number(one.load),
        "load_one": _number(one.load_one),
        "headroom": _number(one.headroom),
        "hardware_load_one": _number(one.hardware_load_one),
        "hardware_headroom": _number(one.hardware_headroom),
        "binding": {"resource": one.binding[0], "sentence": one.binding[1]},
        "prices": prices,
        "prices_unit": "engine-seconds/request",
        "prices_gpu": {name: p * per_engine if p is not None else p for name, p in prices.items()},
        "prices_gpu_unit": "GPU-seconds/request",
        "attainment": _share(one.attainment),
        "ttft": _latency(one.ttft),
        "tpot": _latency(one.tpot),
        "curves": {name: [_point(q, at) for q, at in c] for name, c in one.curves.items()},
        "curves_unit": "s",
        "probes": [_probe(probe) for probe in one.probes],
        "region": _region(region),
    }


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _numbers(values: Mapping[str, float]) -> dict[str, float | None]:
    return {name: _number(value) for name, value in values.items()}


def _share(share: Share | None) -> dict[str, Any] | None:
    if share is None:
        return None
    ends = {"value": share.value, "low": share.low, "high": share.high, "n": share.n}
    return {**ends, "by_metric": dict(share.by_metric)}


def _estimate(at: Estimate) -> dict[str, Any]:
    known = math.isfinite(at.half_width)
    # The symmetric interval of a small latency may reach below 0, where no latency is.
    low = _number(max(0.0, at.low)) if known else None
    ends = {"value": _number(at.mean), "low": low, "high": _number(at.high)}
    return {**ends, "n": at.n, "observations": at.observations, "method": at.method}


def _latency(quantiles: Mapping[str, Estimate]) -> dict[str, Any] | None:
    if not quantiles:
        return None
    return {"unit": "s", **{name: _estimate(at) for name, at in quantiles.items()}}


def _point(q: float, at: Estimate) -> dict[str, Any]:
    return {"q": q, **_estimate(at)}


def _probe(probe: Probe) -> dict[str, Any]:
    return {
        "engines": probe.engines,
        "gpus": probe.gpus,
        "load": _number(probe.load),
        "status": probe.status,
        "sentence": probe.sentence,
        "requests": probe.requests,
        "attainment": _share(probe.attainment),
    }


def _slo(slo: SLO) -> dict[str, Any]:
    targets = {f"{name}_s": value for name, value in slo.targets.items()}
    return {**targets, "quantile": slo.quantile, "text": str(slo)}


def _region(region: Region) -> dict[str, Any]:
    weights = [dict(zip(region.classes, facet.weights, strict=True)) for facet in region.active]
    return {
        "kind": region.kind.value,
        "source": region.source,
        "unit": "engine-seconds/request",
        "facets": [
            {"resource": facet.resource, "weights": row}
            for facet, row in zip(region.active, weights, strict=True)
        ],
    }
