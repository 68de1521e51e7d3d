"""Files that are no traces of requests, and what to do with each."""

from __future__ import annotations

import re

__all__ = ["explain"]

_SIZE = 65_536  # characters that tell what a file is

_TEXT = (
    "it holds the text of requests, and llmq needs numbers of tokens: count them with the "
    "tokenizer of the model and write a CSV with the columns prompt and output, or run "
    "`vllm bench serve --save-result --save-detailed` on it, whose result is read"
)
# A pattern of the first characters, and what it means.
_KNOWN = (
    (r'"conversations"\s*:', f"this is a ShareGPT data set: {_TEXT}"),
    (r'"messages"\s*:\s*\[', f"these are chat requests: {_TEXT}"),
    (r'"prompt"\s*:\s*"[^"]{0,40}[A-Za-z]', f"this is a custom data set: {_TEXT}"),
    (
        r'"benchmarks"\s*:\s*\[',
        "this is a report of guidellm: write the prompt and output tokens and the start times of "
        "its requests as a CSV with the columns arrival, prompt and output",
    ),
    (
        r'"(?:benchmark_id|x_request_id|request_start_ns|time_to_first_token)"\s*:',
        "this is a record of aiperf: write the tokens and request_start_ns of its requests as a "
        "CSV with the columns arrival, prompt and output, and give time_unit='ns'",
    ),
    (
        r'"(?:load_summary|successes|stages)"\s*:',
        "this is a report of inference-perf: its per_request_lifecycle_metrics hold the requests; "
        "write them as a CSV with the columns arrival, prompt and output",
    ),
    (r"(?i)^\s*<(?:!doctype|html|\?xml)", "this is a web page, not data: download the file itself"),
    (r"^\s*\[traffic\]", "this is a configuration: `llmq plan FILE` reads it"),
    (r"(?m)^tokens,.*seconds|^seconds,.*tokens", "this is a step log: `llmq calibrate` reads it"),
)


def explain(text: str) -> str | None:
    """Say what a file is that is no trace.

    Examples
    --------
    >>> explain('[{"id": "1", "conversations": []}]')[:29]
    'this is a ShareGPT data set: '
    """
    start = text[:_SIZE]
    if re.search(r"(?m)^# (?:HELP|TYPE) \w+:?\w+", start):
        return _prometheus(text)
    if re.search(r"GPU KV cache size|Avg prompt throughput", start):
        return _server_log(text)
    return next((words for pattern, words in _KNOWN if re.search(pattern, start)), None)


def _prometheus(text: str) -> str:
    means = []
    for option, name in (("prompt", "prompt"), ("output", "generation")):
        total, count = (_sum_of(text, f"vllm:request_{name}_tokens_{x}") for x in ("sum", "count"))
        if count > 0:
            means.append(f"--{option} {round(total / count)}")
    known = f" (its means: {' '.join(means)})" if means else ""
    return (
        "these are metrics of a server (Prometheus text): they count requests and hold none; plan "
        f"with means, --prompt and --output with --rate{known}, or with a trace of the requests"
    )


def _server_log(text: str) -> str:
    found = re.search(r"GPU KV cache size: ([0-9,]{1,20}) tokens", text)
    memory = f" Its KV cache: --kv-tokens {found[1].replace(',', '')}." if found else ""
    return (
        "this is the log of a vLLM server: it says how busy the server was and holds no requests; "
        f"plan with a trace, or with --prompt, --output and --rate.{memory}"
    )


def _sum_of(text: str, name: str) -> float:
    found = re.findall(rf"(?m)^{name}(?:{{[^}}\n]*}})? ([0-9]+(?:\.[0-9]*)?)$", text)
    return sum(map(float, found))
