"""Request classes from configuration tables.

A length is a whole number, ``{ mean, sigma, low, high }`` (lognormal, clipped), ``{ uniform = [a,
b] }`` or ``{ quantiles = [[0, 2], [0.5, 129], [1, 1000]] }`` (tokens at probabilities; in JSON also
``{"0.5": 129}``). A class has ``prompt`` and ``output`` and either ``correlation`` (of their normal
scores) or ``reasoning`` (hidden tokens, part of the output); or ``prompt``, ``reasoning`` and
``answer`` with ``correlation`` of the last two.
"""

from __future__ import annotations

from collections.abc import Mapping

from llmq._input.numbers import parse_real
from llmq._input.tables import Table
from llmq._limits import TOKENS
from llmq.model.lengths import Lengths
from llmq.model.request import RequestClass

__all__ = ["CLASS_KEYS", "read_class", "read_lengths"]

CLASS_KEYS = ("prompt", "output", "reasoning", "answer", "correlation")

_SHAPES = (
    "a whole number of tokens, { mean, sigma, low, high }, { uniform = [a, b] } or "
    "{ quantiles = [[0, a], ..., [1, b]] }"
)


def read_lengths(table: Table, key: str) -> Lengths:
    """Read a law of token counts.

    Examples
    --------
    >>> read_lengths(Table("plan.toml", "chat", {"prompt": {"uniform": [1, 3]}}), "prompt").mean
    2.0
    """
    value = table.raw.get(key)
    with table.located(key):
        if isinstance(value, int) and not isinstance(value, bool):
            return Lengths.fixed(value)
        if isinstance(value, Mapping):
            inner = table.table(key)
            if "quantiles" in value:
                inner.only(["quantiles"])
                return Lengths.quantiles(_quantiles(inner))
            if "uniform" in value:
                inner.only(["uniform"])
                return _uniform(inner)
            if value:
                inner.only(["mean", "sigma", "low", "high", "uniform", "quantiles"])
                return Lengths.lognormal(
                    mean=inner.real("mean"),
                    sigma=inner.real("sigma"),
                    low=inner.whole("low", 1),
                    high=inner.whole("high"),
                )
    raise table.error(key, _SHAPES)


def _uniform(table: Table) -> Lengths:
    pair = table.raw["uniform"]
    if not isinstance(pair, list) or len(pair) != 2 or any(type(x) is not int for x in pair):
        raise table.error("uniform", "[low, high], whole numbers of tokens")
    return Lengths.uniform(*pair)


def _quantiles(table: Table) -> dict[float, float]:
    raw = table.raw["quantiles"]
    pairs = [list(pair) for pair in raw.items()] if isinstance(raw, Mapping) else raw
    found: dict[float, float] = {}
    for pair in pairs if isinstance(pairs, list) else [None]:
        if not isinstance(pair, list) or len(pair) != 2:
            break
        if isinstance(pair[1], Mapping):  # TOML reads 0.5 = 10 as 0 = { 5 = 10 }
            break
        # In JSON a probability is a key, so a text.
        probability, tokens = (parse_real(x) if isinstance(x, str) else x for x in pair)
        row = Table(table.path, table.name, {"probability": probability, "tokens": tokens})
        at = row.real("probability", least=0.0, most=1.0)
        if at in found:
            raise table.mistake(f"quantiles give the probability {at:g} twice; keep one")
        found[at] = row.real("tokens", least=0.0, most=float(TOKENS))
    else:
        return found
    raise table.error("quantiles", "pairs [probability, tokens] from [0, low] to [1, high]")


def read_class(table: Table) -> RequestClass:
    """Read a request class.

    Examples
    --------
    >>> read_class(Table("plan.toml", "classes.chat", {"prompt": 512, "output": 128})).peak
    640
    """
    if "answer" in table:
        if "output" in table or "reasoning" not in table:
            raise table.error(
                "answer", "tokens after the reasoning: with reasoning, without output"
            )
        prompt, reasoning, answer = (
            read_lengths(table, key) for key in ("prompt", "reasoning", "answer")
        )
        with table.located():
            return RequestClass.with_reasoning(
                prompt=prompt,
                reasoning=reasoning,
                answer=answer,
                correlation=table.real("correlation", 0.0),
            )
    prompt, output = read_lengths(table, "prompt"), read_lengths(table, "output")
    if "correlation" not in table:
        hidden = read_lengths(table, "reasoning") if "reasoning" in table else 0
        with table.located():
            return RequestClass(prompt, output, hidden)
    if "reasoning" in table:
        raise table.error(
            "correlation", "a number only without reasoning, or with reasoning and answer"
        )
    with table.located():
        return RequestClass.correlated(
            prompt=prompt, output=output, correlation=table.real("correlation")
        )
