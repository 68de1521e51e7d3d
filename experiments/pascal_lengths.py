"""Reasoning and answer lengths of the workloads that stand for PASCAL's.

The paper counts tokens of OpenAI's o4-mini and prints distributions, no data: lognormal laws with
its means replace them (reasoning: sigma 1, 16 to 15,000 tokens; answers: sigma 0.7, 8 to 6,000;
correlation of the logarithms 0.3). Of the three reasoning-heavy sets only the largest ratio of
reasoning to answer, 8.48, is known; ours have 4, 6 and 8.48 and answers of 350 tokens, a choice.
Values are those of the lists from which requests are drawn, so nothing is random.

Means are read off the figures by others, to about a per cent.

Cho et al., PASCAL, arXiv 2602.11530, figures 8 and 14.
"""

from __future__ import annotations

import numpy as np

from experiments.claim import Band, Claim, Finding, Status
from experiments.pascal_cluster import HEAVY, SOURCE, workload
from experiments.runner import PLAIN, Row, Runner, Scale
from experiments.table import Table
from llmq.rng import RngLike

TITLE = "PASCAL: lengths of reasoning and answers"
SEED = 7
SETS = ("alpaca", "arena", *HEAVY)
PROBABILITIES = (0.001, 0.01, *(k / 20 for k in range(1, 20)), 0.99, 0.999)
PRINTED = {
    ("alpaca", "reasoning"): 558.0,
    ("alpaca", "answer"): 566.0,
    ("arena", "reasoning"): 950.0,
    ("arena", "answer"): 824.0,
}
MOST_RATIO = 8.48


def compute(*, scale: Scale = "small", rng: RngLike = SEED, runner: Runner = PLAIN) -> Table:
    """Tabulate quantiles, means, and the share below 1,000 tokens; both scales are the same.

    Parameters
    ----------
    scale, rng, runner
        Not used.

    Returns
    -------
    Table
        ``p`` is the probability of a quantile, NaN in other rows.
    """
    rows: list[Row] = []
    for name in SETS:
        (kind,) = workload(name).mix.values()
        hidden, answer = kind.reasoning.values, kind.output.values - kind.reasoning.values
        for part, tokens in (("reasoning", hidden), ("answer", answer)):
            labels = {"set": name, "part": part, "kind": "theory"}
            quantiles = np.quantile(tokens, PROBABILITIES)
            rows += [
                {**labels, "metric": "quantile", "p": p, "value": q}
                for p, q in zip(PROBABILITIES, quantiles, strict=True)
            ]
            found = {"mean": tokens.mean(), "below 1000": np.mean(tokens < 1000)}
            rows += [{**labels, "metric": m, "p": np.nan, "value": v} for m, v in found.items()]
    rows += [
        {
            "set": name,
            "part": part,
            "kind": "printed",
            "metric": "mean",
            "p": np.nan,
            "value": value,
        }
        for (name, part), value in PRINTED.items()
    ]
    about = {
        "source": f"{SOURCE}, figures 8 and 14; lognormal reconstructions",
        "value": "tokens, or a share in the rows below 1000",
    }
    return Table.of("pascal_lengths", rows, units={"value": "by row"}, about=about)


def _value(table: Table, name: str, part: str, metric: str) -> float:
    rows = table.where(set=name, part=part, metric=metric, kind="theory")
    return float(rows["value"][0])


def light(table: Table) -> Finding:
    """Judge: means within 5 % of the printed, more than 70 % reason for less than 1,000 tokens."""
    good, parts = True, []
    for (name, part), printed in PRINTED.items():
        mean = _value(table, name, part, "mean")
        good &= abs(mean / printed - 1) <= 0.05
        parts.append(f"{name} {part} {mean:.0f} (printed {printed:.0f})")
    for name in ("alpaca", "arena"):
        share = _value(table, name, "reasoning", "below 1000")
        good &= share > 0.7
        parts.append(f"{name} {share:.1%} below 1000")
    return Finding(Status.BAND if good else Status.NOT, "; ".join(parts))


def heavy(table: Table) -> Finding:
    """Judge: every ratio of means in 4 to 8.5 and the largest 8.48, to 5 %."""
    ratios = {
        name: _value(table, name, "reasoning", "mean") / _value(table, name, "answer", "mean")
        for name in HEAVY
    }
    values = list(ratios.values())
    inside = all(4 / 1.05 <= ratio <= 8.5 * 1.05 for ratio in values)
    good = inside and abs(max(values) / MOST_RATIO - 1) <= 0.05
    words = ", ".join(f"{name} {ratio:.2f}" for name, ratio in ratios.items())
    return Finding(Status.BAND if good else Status.NOT, words)


CLAIMS = (
    Claim(
        id="PASCAL-8",
        band=Band.NOTES,
        text="Mean reasoning and answer lengths are 558 and 566 tokens (AlpacaEval 2.0), 950 and "
        "824 (Arena-Hard), and more than 70 % reason for less than 1000; band: means within 5 %.",
        source=f"{SOURCE}, figure 8",
        judge=light,
        figure="pascal_fig8",
        least=Status.BAND,
        test="test_pascal.py::test_judges_can_fail",
    ),
    Claim(
        id="PASCAL-14",
        band=Band.NOTES,
        text="Reasoning-heavy sets reason 4 to 8.48 times as long as they answer (our sets are "
        "made so; their means are a choice); band: 5 %.",
        source=f"{SOURCE}, figure 14",
        judge=heavy,
        figure="pascal_fig14",
        least=Status.BAND,
        test="test_pascal.py::test_judges_can_fail",
    ),
)
