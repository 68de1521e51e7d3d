"""Make the quantile tables of the named workloads from the public traces.

``python -m experiments.make_workloads FOLDER`` (or ``LLMQ_DATA``) reads ``FOLDER/traces`` and
writes ``llmq/io/workloads/*.toml``. A test makes them again and compares.

The reasoning workloads are not measured: no per-request data of that study is public. Means, clips
and the correlation are those of its reconstruction; it gives no spread of the prompts, so ours
(sigma 0.8, clip 4 to 4096) is a choice, which matters little beside 1,000 output tokens.
"""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from llmq._input.files import write_text
from llmq.io.traces import read_trace
from llmq.model.arrivals import Deterministic
from llmq.model.lengths import Lengths
from llmq.model.request import RequestClass
from llmq.model.trace import Trace

__all__ = ["main", "tables"]

Table: TypeAlias = list[tuple[float, int]]

DATE = "2026-11-22"

# Every percent, and finer where few requests carry much of the second moment.
PROBABILITIES = (
    0,
    1e-4,
    5e-4,
    0.001,
    0.002,
    0.005,
    *(k / 100 for k in range(1, 100)),
    0.992,
    0.994,
    0.995,
    0.996,
    0.997,
    0.998,
    0.999,
    0.9995,
    0.9999,
    1,
)


def quantile_table(lengths: npt.NDArray[np.int64]) -> Table:
    """Give tokens at each probability, to the nearest token."""
    tokens = np.rint(np.quantile(lengths, PROBABILITIES)).astype(int).tolist()
    return list(zip(PROBABILITIES, tokens, strict=True))


def score_correlation(trace: Trace) -> float:
    """Return the correlation of the normal scores of prompt and output (ties share a rank)."""
    from scipy.special import ndtri
    from scipy.stats import rankdata

    first, second = (
        ndtri((rankdata(values) - 0.5) / len(trace)) for values in (trace.prompt, trace.output)
    )
    return float(np.corrcoef(first, second)[0, 1])


def copula_correlation(trace: Trace, prompt: Table, output: Table) -> float:
    """Return the correlation of a Gaussian copula with the trace's mean of prompt times output."""
    from scipy.optimize import brentq

    laws = [Lengths.quantiles(dict(table)) for table in (prompt, output)]
    target = float(np.mean(trace.prompt.astype(float) * trace.output))

    def excess(correlation: float) -> float:
        joint = RequestClass.correlated(prompt=laws[0], output=laws[1], correlation=correlation)
        return float(np.mean(joint.prompt.values.astype(float) * joint.output.values)) - target

    return round(float(brentq(excess, -0.9, 0.9, xtol=1e-5)), 3)


def measured(trace: Trace, facts: dict[str, str], arrivals: dict[str, float]) -> str:
    """Write a workload counted from a trace."""
    prompt, output = quantile_table(trace.prompt), quantile_table(trace.output)
    lines = _head({**facts, "kind": "measured"}, len(trace))
    lines += [
        f"normal_score_correlation = {score_correlation(trace):.3f}",
        f"correlation = {copula_correlation(trace, prompt, output)}"
        "  # of the copula that keeps the mean of prompt x output",
        "",
    ]
    if arrivals:
        lines += ["[arrivals]", *(f"{key} = {value:.4g}" for key, value in arrivals.items()), ""]
    for name, table in (("prompt", prompt), ("output", output)):
        rows = (f"    [{probability:g}, {tokens}]," for probability, tokens in table)
        lines += [f"[{name}]  # tokens at probabilities", "quantiles = [", *rows, "]", ""]
    return "\n".join(lines[:-1]) + "\n"


def reconstructed(facts: dict[str, str], prompt: float, reasoning: int, answer: int) -> str:
    """Write a reasoning workload from its parameters; ``prompt`` is the median."""
    sigma = 0.8
    laws = {
        "prompt": (prompt * math.exp(sigma**2 / 2), sigma, 4, 4096),
        "reasoning": (reasoning, 1.0, 16, 15000),
        "answer": (answer, 0.7, 8, 6000),
    }
    lines = _head({**facts, "kind": "reconstructed"}, None)
    lines += ["correlation = 0.3  # of the logarithms of reasoning and answer", ""]
    for name, (mean, spread, low, high) in laws.items():
        lines.append(
            f"{name} = {{ mean = {mean:.6g}, sigma = {spread}, low = {low}, high = {high} }}"
        )
    return "\n".join(lines) + "\n"


def _head(facts: dict[str, str], requests: int | None) -> list[str]:
    known = {**facts, "date": DATE, "made_by": "experiments/make_workloads.py"}
    lines = [f'{key} = "{value}"' for key, value in known.items()]
    return lines if requests is None else [*lines, f"requests = {requests}"]


def tables(data: Path) -> dict[str, str]:
    """Make every workload.

    Parameters
    ----------
    data : Path
        Folder of the public data.

    Returns
    -------
    dict of str to str
        File name to text.
    """
    azure = read_trace(data / "traces" / "azure_llm_2023_conv.csv")
    gaps = np.diff(azure.arrival)
    openchat = read_trace(
        data / "traces" / "openchat_sharegpt4_lengths.csv", arrivals=Deterministic(1.0)
    )
    pascal = {
        "source": "lognormal reconstruction of the o4-mini lengths behind PASCAL "
        "(arXiv 2602.11530, figure 8); {} prompts",
        "licence": "Apache-2.0",
        "class": "reasoning",
    }
    sets = {"alpaca": ("AlpacaEval 2.0", 48, 560, 565), "arena": ("Arena-Hard", 160, 955, 821)}
    found = {
        "azure-conv": measured(
            azure,
            {
                "title": "Azure LLM inference service 2023, conversations",
                "source": "Azure LLM inference trace 2023, AzureLLMInferenceTrace_conv.csv "
                "(Patel et al., Splitwise, ISCA 2024)",
                "licence": "CC-BY-4.0",
                "class": "chat",
            },
            {"rate": azure.rate, "cv": float(gaps.std() / gaps.mean())},
        ),
        "openchat-sharegpt4": measured(
            openchat,
            {
                "title": "OpenChat ShareGPT4 conversations, at most 8,192 tokens",
                "source": "OpenChat ShareGPT4 lengths (Llama-2 tokeniser) as prepared by "
                "Sarathi-Serve and published with SLAI",
                "licence": "Apache-2.0",
                "class": "chat",
            },
            {},
        ),
    }
    for name, (title, prompt, reasoning, answer) in sets.items():
        facts = {"title": f"{title} with hidden reasoning", **pascal}
        facts["source"] = pascal["source"].format(title)
        found[f"reasoning-{name}"] = reconstructed(facts, prompt, reasoning, answer)
    return {f"{name}.toml": text for name, text in found.items()}


def main(arguments: list[str]) -> int:
    """Write the tables into the package.

    Parameters
    ----------
    arguments : list of str
        Folder of the public data; the environment variable ``LLMQ_DATA`` if empty.

    Returns
    -------
    int
        Exit code.
    """
    place = arguments[0] if arguments else os.environ.get("LLMQ_DATA", "")
    if not place:
        print("usage: python -m experiments.make_workloads FOLDER (or set LLMQ_DATA)")
        return 2
    folder = Path(__file__).parents[1] / "llmq" / "io" / "workloads"
    for name, text in tables(Path(place)).items():
        write_text(folder / name, text)
        print(folder / name)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
