"""Certificates written by hand and sealed, for the tests of the checker: nothing of llmq."""

from __future__ import annotations

import copy
import hashlib
import json
import random
from fractions import Fraction as F
from typing import Any

import pytest

from proofs import check
from proofs.check_reading import Rejected


def ratio(value: F | int) -> str:
    exact = F(value)
    return f"{exact.numerator}/{exact.denominator}"


def digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return "sha256:" + hashlib.sha256(text.encode("ascii")).hexdigest()


def sealed(claim: str, problem: Any, load: F | int | None = None, **parts: Any) -> dict[str, Any]:
    body = {"format": "llmq-certificate-1", "claim": claim, "problem": problem, **parts}
    body["digest"] = digest(problem)
    if load is not None:
        body["load"] = ratio(load)
    return {**body, "seal": digest(body)}


def said(body: Any) -> str:
    return check.check(body if isinstance(body, str) else json.dumps(body))


def refused(body: Any) -> str:
    """Why a certificate is rejected."""
    with pytest.raises(Rejected) as caught:
        said(body)
    return str(caught.value)


def law(form: str = "affine", **given: Any) -> dict[str, Any]:
    names = (
        "base",
        "per_token",
        "floor",
        "floor_per_token",
        "per_tile",
        "per_kv",
        "per_kv_mixed",
        "per_work",
    )
    numbers = {k: ratio(given.get(k, 0)) for k in names}
    grid = {"tokens": given.get("tokens", []), "seconds": given.get("seconds", [])}
    return {"form": form, "tile": given.get("tile", 1), **numbers, **grid}


def need(prefill: F | int = 0, decode: F | int = 0, seconds: F | int = 0, **limits: Any) -> Any:
    tokens = {"prefill": ratio(prefill), "decode": ratio(decode)}
    return {
        "tokens": tokens,
        "seconds": ratio(seconds),
        "limits": {k: ratio(v) for k, v in limits.items()},
    }


def pool(
    needs: dict[str, Any],
    *,
    phases: str | None = "both",
    budget: int = 8,
    chunk: int | None = None,
    slots: int | None = None,
    limits: Any = None,
    engines: int = 1,
    lag: int = 0,
    area: str = "chunked",
    time: Any = None,
    block: int | None = None,
) -> dict[str, Any]:
    rules = (
        None
        if phases is None
        else {
            "chunk": chunk or budget,
            "lag": lag,
            "area": area,
            "phases": phases,
            **({} if block is None else {"block": block}),
        }
    )
    return {
        "engines": engines,
        "law": time or law(per_token=1),
        "limits": limits or {},
        "batches": {"kind": "two_phase", "token_budget": budget, "slots": slots},
        "needs": needs,
        "rules": rules,
    }


def link(needs: dict[str, Any], rate: F | int | None = 1, lag: int = 0) -> dict[str, Any]:
    rules = None if rate is None else {"seconds_per_token": ratio(rate), "lag": lag}
    found = {j: {"tokens": {}, "seconds": ratio(v), "limits": {}} for j, v in needs.items()}
    return {
        "engines": 1,
        "law": None,
        "batches": None,
        "limits": {},
        "needs": found,
        "rules": rules,
    }


def klass(
    rate: F | int,
    *routes: list[str],
    prompt: Any = (4,),
    output: Any = (3,),
    paired: bool = False,
    lengths: bool = True,
) -> dict[str, Any]:
    found: dict[str, Any] = {"rate": ratio(rate), "routes": list(routes)}
    if lengths:
        found["lengths"] = {"prompt": list(prompt), "output": list(output), "paired": paired}
    return found


def problem(classes: dict[str, Any], pools: dict[str, Any], scope: str | None = None) -> Any:
    found = {"classes": classes, "pools": pools}
    return found if scope is None else {**found, "scope": scope}


def dual(
    prices: dict[str, Any],
    weights: dict[str, Any],
    tokens: Any = None,
    limits: Any = None,
) -> dict[str, Any]:
    def texts(values: dict[str, Any]) -> dict[str, str]:
        return {k: ratio(v) for k, v in values.items()}

    return {
        "prices": texts(prices),
        "weights": texts(weights),
        "tokens": {h: texts((tokens or {}).get(h, {})) for h in weights},
        "limits": {h: texts((limits or {}).get(h, {})) for h in weights},
    }


# One token a second, prompts of 4 and 2 decodes: a request takes 6 seconds.
ONE = {"prefill": 1, "decode": 1}


def plain(rate: F | int = F(1, 4), **given: Any) -> dict[str, Any]:
    """``unstable``: a load of 6 rate."""
    one = klass(rate, ["e"], **{k: given.pop(k) for k in ("prompt", "output") if k in given})
    pools = {"e": pool({"x": need(4, 2)}, **given)}
    return sealed(
        "unstable",
        problem({"x": one}, pools),
        6 * F(rate),
        dual=dual({"x": 6}, {"e": 1}, {"e": ONE}),
    )


def carried(
    rate: F,
    one: dict[str, Any],
    pools: dict[str, Any],
    batches: list[Any],
    load: F,
    route: list[str] | None = None,
) -> dict[str, Any]:
    """``stable_rate`` of one class."""
    flows = [{"class": "x", "route": route or one["routes"][0], "rate": ratio(rate)}]
    runs = [{"pool": h, "tokens": list(x), "rate": ratio(u)} for h, x, u in batches]
    return sealed(
        "stable_rate", problem({"x": one}, pools), load, primal={"flows": flows, "batches": runs}
    )


def changed(body: dict[str, Any], *path: Any, value: Any) -> dict[str, Any]:
    """Change one entry and seal again."""
    copied = copy.deepcopy(body)
    place: Any = copied
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    rest = {k: v for k, v in copied.items() if k not in ("seal", "digest")}
    rest["digest"] = digest(rest["problem"])
    return {**rest, "seal": digest(rest)}


def random_law(draw: random.Random) -> dict[str, Any]:
    def number(most: int, parts: int) -> F:
        return F(draw.randint(0, most), draw.randint(1, parts))

    grid = sorted(draw.sample(range(1, 30), draw.randint(2, 4)))
    seconds = sorted(F(draw.randint(1, 30), draw.randint(1, 4)) for _ in grid)
    return law(
        draw.choice(["affine", "tiled", "roofline", "roofline", "table"]),
        base=number(12, 4),
        per_token=number(12, 4),
        floor=number(40, 3),
        floor_per_token=number(6, 6),
        per_tile=number(12, 4),
        tile=draw.randint(1, 9),
        tokens=grid,
        seconds=list(map(ratio, seconds)),
    )


def seconds_of(raw: dict[str, Any], n: int) -> F:
    """The law by its definition."""
    v = {k: F(x) for k, x in raw.items() if isinstance(x, str) and "/" in x}
    tiles = -(-n // raw["tile"])
    compute = v["base"] + v["per_token"] * tiles * raw["tile"]
    if raw["form"] == "affine":
        return compute
    if raw["form"] == "tiled":
        return v["base"] + v["per_tile"] * tiles + v["per_token"] * n
    if raw["form"] == "roofline":
        return max(compute, v["floor"] + v["floor_per_token"] * n)
    grid, times = raw["tokens"], list(map(F, raw["seconds"]))
    if n <= grid[0]:
        return times[0]
    i = next((i for i, g in enumerate(grid) if g >= n), len(grid) - 1)
    return times[i - 1] + (times[i] - times[i - 1]) * F(n - grid[i - 1], grid[i] - grid[i - 1])


def knapsack(buffers: int, rows: Any, budget: int = 6, steps: Any = None, **time: Any) -> Any:
    names = [f"b{i}" for i in range(buffers)]
    given = {
        "kind": "knapsack",
        "buffers": names,
        "steps": steps or [1] * buffers,
        "rows": [{"weights": w, "capacity": c} for w, c in rows],
        "token_budget": budget,
    }
    return {
        "engines": 1,
        "law": law(**(time or {"per_token": 1})),
        "batches": given,
        "limits": {},
        "needs": {},
        "rules": None,
    }
