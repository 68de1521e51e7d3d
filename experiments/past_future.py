"""Past-Future: the peak of memory that lies ahead, exact and predicted.

A running row holds ``a`` tokens and will generate ``b`` more, one an iteration. With rows in
falling order of ``b`` the largest memory ever held is ``max_i (a_1 + ... + a_i + i b_i)``, exact
for exact ``b`` (policy catalogue 3.8, LightLLM's Past-Future scheduler). A candidate is admitted if
the peak with it stays below ``C (1 - reserve)``.

Rows: ``peak`` the formula against brute force (step by step); ``wrong`` how often it differs, also
from llmq's simulator, which must run the batch undisturbed in that memory and in no less; ``cover``
the share of admissions whose predicted peak covers the true one, and the mean ratio of the two,
against the length ``W`` of the history; ``rule`` output tokens per iteration, relative to admission
that knows the lengths, and evictions per 100 requests, of admission rules on one
saturated stream (``now``: the memory of now, with a share kept free).

Prediction as in the catalogue: lengths drawn from the last ``W`` finished ones, given that they
exceed what is generated; five draws, the largest peak; the limit on new tokens before there is a
history. Reconstructed: prompts uniform on 50..450, outputs lognormal (median 200, sigma 0.7) cut at
1,024, C = 24,000 tokens. Differs: iterations have no length and prefill is free, so no goodput is
claimed; an evicted row comes back with what it had generated as its prompt.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from experiments.claim import Band, Claim, Finding, Status
from experiments.runner import PLAIN, Point, Row, Runner, Scale
from experiments.table import Table
from llmq.model.conventions import THEORY
from llmq.model.engine import Engine
from llmq.model.time.batchtime import BatchTime
from llmq.model.trace import Trace
from llmq.policies import Sarathi
from llmq.sim.simulate import simulate

if TYPE_CHECKING:
    from llmq.rng import RngLike

Ints: TypeAlias = npt.NDArray[np.int64]

TITLE = "Past-Future: prediction of the memory peak"
SEED = 23
CAPACITY, LIMIT, RESERVE = 24_000, 1024, 0.05
HISTORY = {"small": (20, 200), "full": (5, 10, 20, 50, 100, 200, 500, 1000)}
RULES = (
    "knows the lengths",
    "Past-Future",
    "Past-Future, no reserve",
    "limit",
    "now, 5 %",
    "now, 1 %",
)


def peak(held: npt.ArrayLike, left: npt.ArrayLike) -> int:
    """Return the largest memory that rows will hold.

    Parameters
    ----------
    held, left : array_like of int, shape (n,)
        Tokens held now, and tokens still to come, of each row.

    Returns
    -------
    int
        Tokens.

    Examples
    --------
    >>> peak([5, 3], [2, 1])  # (5 + 1) + (3 + 1), then 7 alone
    10
    """
    a, b = np.asarray(held, dtype=np.int64), np.asarray(left, dtype=np.int64)
    if not len(a):
        return 0
    order = np.argsort(-b, kind="stable")
    return int((np.cumsum(a[order]) + np.arange(1, len(a) + 1) * b[order]).max())


def brute(held: Sequence[int], left: Sequence[int]) -> int:
    """Return the same by letting the rows grow, one token an iteration.

    Parameters
    ----------
    held, left : sequence of int
        As in :func:`peak`.

    Returns
    -------
    int
        Tokens.
    """
    rows, most = list(zip(held, left, strict=True)), 0
    while rows:
        most = max(most, sum(a for a, _ in rows))
        rows = [(a + 1, b - 1) for a, b in rows if b > 0]
    return most


def confirmed(held: Sequence[int], left: Sequence[int], tokens: int) -> bool:
    """Whether llmq's simulator runs a batch undisturbed in this memory, but not in a token less.

    Parameters
    ----------
    held, left : sequence of int
        Prompts and outputs.
    tokens : int
        The memory, KV tokens.

    Returns
    -------
    bool
        True where it is the peak.
    """
    batch = Trace([0.0] * len(held), list(held), list(left))

    def ends(memory: int | None) -> list[float]:
        chip = Engine(
            BatchTime.affine(base=1.0, per_token=0.0),
            token_budget=sum(held) + sum(left),
            kv_tokens=memory,
            kv_block=1,
            conventions=THEORY,
        )
        return list(simulate(chip, batch, Sarathi(watermark=0.0)).requests.finish[0])

    undisturbed = ends(None)
    # In less than its longest request needs, the simulator refuses the batch.
    tight = tokens <= max(a + b for a, b in zip(held, left, strict=True))
    return ends(tokens) == undisturbed and (tight or ends(tokens - 1) != undisturbed)


def compute(*, scale: Scale = "small", rng: RngLike = SEED, runner: Runner = PLAIN) -> Table:
    """Compute the table.

    Parameters
    ----------
    scale : {"small", "full"}
        Seconds, or two minutes.
    rng : Generator, SeedSequence, int or None
        Source of randomness; all rules see the same requests.
    runner : Runner
        Who computes.

    Returns
    -------
    Table
        Columns part, kind, name, x, y, low, high, n.
    """
    small = scale == "small"
    paths, steps = (2, 1500) if small else (6, 5000)
    size = {"paths": paths, "steps": steps}
    rows = runner.run(compare_peaks, [{"cases": 300 if small else 3000}], rng)
    rows += runner.run(cover, [{"history": w, **size} for w in HISTORY[scale]], rng)
    rows += runner.run(rules, [size], rng)
    return Table.of(
        "past_future",
        rows,
        units={"x": "KV tokens, requests, or evictions/100 requests", "y": "KV tokens or 1"},
        about={
            "source": "LightLLM's Past-Future scheduler (policy catalogue 3.8)",
            "setting": f"C = {CAPACITY} tokens, reserve {RESERVE:g}, limit {LIMIT} new tokens",
            "replications": f"{paths} of {steps} iterations, the first quarter left out",
        },
    )


def compare_peaks(point: Point, rng: np.random.SeedSequence) -> list[Row]:
    """Compare the formula with brute force and with the simulator on random batches.

    Parameters
    ----------
    point : mapping
        Number of cases.
    rng : SeedSequence
        Source of randomness.

    Returns
    -------
    list of dict
        Cases to be drawn, and how many of all differ.
    """
    draw = np.random.default_rng(rng)
    rows: list[Row] = []
    wrong = {"formula": 0, "simulator": 0}
    few = min(point["cases"] // 10, 100)
    for i in range(point["cases"]):
        n = int(draw.integers(1, 30))
        held, left = draw.integers(1, 400, n).tolist(), draw.integers(1, 300, n).tolist()
        exact = brute(held, left)
        value = peak(held, left)
        wrong["formula"] += value != exact
        if i < few:
            wrong["simulator"] += not confirmed(held, left, value)
            rows.append(
                {"part": "peak", "kind": "theory", "name": "formula", "x": exact, "y": value}
            )
    for name, n in (("formula", point["cases"]), ("simulator", few)):
        base = {"part": "wrong", "kind": "theory", "name": name}
        rows.append({**base, "y": wrong[name], "n": n})
    return rows


@dataclass(slots=True)
class Batch:
    """Rows that run: prompt, generated and final tokens, in order of admission."""

    prompt: list[int]
    done: list[int]
    output: list[int]

    def held(self) -> Ints:
        """KV tokens of each row."""
        return np.array(self.prompt, dtype=np.int64) + np.array(self.done, dtype=np.int64)


Predict: TypeAlias = Callable[[Batch, deque[int], np.random.Generator], list[Ints]]


def past_future(rows: Batch, history: deque[int], draw: np.random.Generator) -> list[Ints]:
    """Draw what rows may still generate, five times.

    Parameters
    ----------
    rows : Batch
        The rows, the candidate last.
    history : deque of int
        Lengths of the requests that finished last.
    draw : numpy.random.Generator
        Source of randomness.

    Returns
    -------
    list of ndarray
        Tokens left of each row; the limit where no finished request was as long.
    """
    done = np.array(rows.done)
    known = np.sort(np.array(history))
    if not len(known):
        return [LIMIT - done]
    first = np.searchsorted(known, done, "right")  # those that exceed what is generated
    room = len(known) - first
    pick = first + np.floor(draw.random((5, len(done))) * np.maximum(room, 1)).astype(int)
    length = np.where(room > 0, known[np.minimum(pick, len(known) - 1)], LIMIT)
    return list(length - done)


PREDICT: dict[str, tuple[Predict, float]] = {
    "knows the lengths": (lambda rows, *_: [np.array(rows.output) - np.array(rows.done)], 0.0),
    "Past-Future": (past_future, RESERVE),
    "Past-Future, no reserve": (past_future, 0.0),
    "limit": (lambda rows, *_: [LIMIT - np.array(rows.done)], 0.0),
    "now, 5 %": (lambda rows, *_: [np.ones(len(rows.done), dtype=np.int64)], RESERVE),
    "now, 1 %": (lambda rows, *_: [np.ones(len(rows.done), dtype=np.int64)], 0.01),
}


@dataclass(slots=True)
class Tally:
    """Sums of a run: tokens, iterations, evictions, admissions, covered ones, and ratios."""

    tokens: int = 0
    steps: int = 0
    evictions: int = 0
    admitted: int = 0
    covered: int = 0
    ratio: float = 0.0


def run(rule: str, window: int, steps: int, rng: np.random.SeedSequence) -> Tally:
    """Run a saturated engine under an admission rule.

    Parameters
    ----------
    rule : str
        Of ``RULES``.
    window : int
        Length of the history.
    steps : int
        Iterations; the first quarter is not counted.
    rng : SeedSequence
        Source of randomness: one child for the requests, one for the predictions.

    Returns
    -------
    Tally
        Sums.
    """
    stream, guess = (np.random.default_rng(one) for one in rng.spawn(2))
    predict, reserve = PREDICT[rule]
    rows, tally = Batch([], [], []), Tally()
    waiting: deque[tuple[int, int, int]] = deque()
    history: deque[int] = deque(maxlen=window)
    for step in range(steps):
        counts = step >= steps // 4
        while True:
            if not waiting:
                waiting.append(_request(stream))
            prompt, done, output = waiting[0]
            more = Batch([*rows.prompt, prompt], [*rows.done, done], [*rows.output, output])
            held = more.held()
            ahead = max(peak(held, left) for left in predict(more, history, guess))
            if ahead > CAPACITY * (1 - reserve):
                break
            waiting.popleft()
            rows = more
            if counts:
                true = peak(held, np.array(rows.output) - np.array(rows.done))
                tally.admitted += 1
                tally.covered += ahead >= true
                tally.ratio += ahead / true
        rows.done = [done + 1 for done in rows.done]
        while rows.held().sum() > CAPACITY:
            waiting.appendleft((rows.prompt.pop(), rows.done.pop(), rows.output.pop()))
            tally.evictions += counts
        tally.tokens += counts * len(rows.done)
        tally.steps += counts
        for i in [i for i, done in enumerate(rows.done) if done >= rows.output[i]][::-1]:
            history.append(rows.output[i])
            del rows.prompt[i], rows.done[i], rows.output[i]
    return tally


def _request(stream: np.random.Generator) -> tuple[int, int, int]:
    prompt = int(stream.integers(50, 451))
    return prompt, 0, int(min(LIMIT, math.ceil(200 * math.exp(0.7 * stream.standard_normal()))))


def _row(part: str, name: str, x: float, values: Sequence[float]) -> Row:
    mean, half = float(np.mean(values)), 1.96 * float(np.std(values, ddof=1)) / len(values) ** 0.5
    return {
        "part": part,
        "kind": "simulated",
        "name": name,
        "x": x,
        "y": mean,
        "low": mean - half,
        "high": mean + half,
        "n": len(values),
    }


def cover(point: Point, rng: np.random.SeedSequence) -> list[Row]:
    """Measure how often the predicted peak covers the true one.

    Parameters
    ----------
    point : mapping
        History, paths and steps.
    rng : SeedSequence
        Source of randomness.

    Returns
    -------
    list of dict
        Share covered, and mean ratio of predicted to true.
    """
    name = "Past-Future, no reserve"
    found = [run(name, point["history"], point["steps"], s) for s in rng.spawn(point["paths"])]
    return [
        _row("cover", "share", point["history"], [t.covered / t.admitted for t in found]),
        _row("cover", "ratio", point["history"], [t.ratio / t.admitted for t in found]),
    ]


def rules(point: Point, rng: np.random.SeedSequence) -> list[Row]:
    """Measure throughput and evictions of the admission rules.

    Parameters
    ----------
    point : mapping
        Paths and steps.
    rng : SeedSequence
        Source of randomness.

    Returns
    -------
    list of dict
        One row a rule: x evictions per 100 admissions, y throughput relative to known lengths.
    """
    speeds: dict[str, list[float]] = {name: [] for name in RULES}
    lost = dict.fromkeys(RULES, 0.0)
    for seed in rng.spawn(point["paths"]):
        for name in RULES:
            # The same seed again: spawning counts children, so each rule gets a copy.
            copy = np.random.SeedSequence(seed.entropy, spawn_key=seed.spawn_key)
            tally = run(name, 1000, point["steps"], copy)
            speeds[name].append(tally.tokens / tally.steps)
            lost[name] += 100 * tally.evictions / tally.admitted / point["paths"]
    best = np.array(speeds[RULES[0]])
    return [_row("rule", name, lost[name], list(np.array(speeds[name]) / best)) for name in RULES]


def _exact(table: Table) -> Finding:
    rows = {row["name"]: row for row in table.where(part="wrong").rows()}
    wrong = sum(row["y"] for row in rows.values())
    words = ", ".join(f"{row['y']:.0f} of {row['n']:.0f} {name}" for name, row in rows.items())
    return Finding(Status.VERIFIED if rows and wrong == 0 else Status.NOT, f"differ: {words}")


def _between(table: Table) -> Finding:
    rows = {row["name"]: row for row in table.where(part="rule").rows()}
    ours, limit, now = (rows[name] for name in ("Past-Future", "limit", "now, 1 %"))
    good = ours["low"] > limit["high"] and ours["x"] < now["x"] / 2 and ours["y"] > 0.8
    words = "; ".join(
        f"{name}: {100 * row['y']:.1f} % of the throughput, {row['x']:.1f} evictions per 100"
        for name, row in rows.items()
    )
    return Finding(Status.DIRECTION if good else Status.NOT, words)


CLAIMS = (
    Claim(
        id="PF-PEAK",
        text="The peak formula is exact when the lengths are known",
        source="policy catalogue 3.8 (LightLLM, Past-Future)",
        judge=_exact,
        figure="past_future",
        least=Status.VERIFIED,
        test="test_theory_papers.py::test_past_future_can_fail",
    ),
    Claim(
        id="PF-RULE",
        band=Band.SOURCE,
        text="Admission by the predicted peak serves more than by the limit on new tokens, and "
        "evicts less than by the memory of now",
        source="LightLLM, Past-Future (headline 2-3x goodput is not tested here)",
        judge=_between,
        figure="past_future",
        least=Status.DIRECTION,
        test="test_theory_papers.py::test_past_future_can_fail",
    ),
)
