"""One kind of request: the joint law of its prompt, output and hidden reasoning tokens."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from llmq._input.checked import checked
from llmq._input.checking import whole
from llmq.errors import InputError
from llmq.model.lengths import Lengths
from llmq.rng import RngLike, generator

__all__ = ["RequestClass"]


def _lengths(name: str, value: Lengths | int, least: int) -> Lengths:
    law = value if isinstance(value, Lengths) else Lengths.fixed(value)
    if law.low < least:
        raise InputError(
            f"{name} must be at least {least} token{'s' * (least != 1)}, got {law.low}",
            field=name,
            value=law.low,
        )
    return law


@checked
@dataclass(frozen=True, slots=True)
class RequestClass:
    """A kind of request.

    Parameters
    ----------
    prompt : Lengths or int
        Prompt tokens, at least 1.
    output : Lengths or int
        Output tokens, at least 1, hidden reasoning tokens included.
    reasoning : Lengths or int
        How many of the first output tokens are hidden; fewer than the output.
    paired : bool
        The three laws list the same requests: value i of one goes with value i of the others.
        Otherwise they are independent.

    Examples
    --------
    >>> RequestClass(prompt=512, output=128).output.mean
    128.0
    """

    prompt: Lengths
    output: Lengths
    reasoning: Lengths
    paired: bool

    def __init__(
        self,
        prompt: Lengths | int,
        output: Lengths | int,
        reasoning: Lengths | int = 0,
        *,
        paired: bool = False,
    ) -> None:
        laws = _lengths("prompt", prompt, 1), _lengths("output", output, 1)
        hidden = _lengths("reasoning", reasoning, 0)
        if paired and hidden.is_fixed:
            hidden = Lengths(np.full(len(laws[0].values), hidden.low), laws[0].weights)
        for name, value in zip(("prompt", "output"), laws, strict=True):
            object.__setattr__(self, name, value)
        object.__setattr__(self, "reasoning", hidden)
        object.__setattr__(self, "paired", paired)
        self._check()

    def _check(self) -> None:
        laws = (self.prompt, self.output, self.reasoning)
        if self.paired:
            if len({len(law.values) for law in laws}) > 1:
                raise InputError("paired lengths need as many prompts as outputs and reasoning")
            if any(
                not np.array_equal(law.weights, self.prompt.weights)  # type: ignore[arg-type]
                for law in laws
                if law.weights is not None or self.prompt.weights is not None
            ):
                raise InputError("paired lengths need the same weights")
            least = int((self.output.values - self.reasoning.values).min())
        else:
            least = self.output.low - self.reasoning.high
        if least < 1:
            raise InputError(
                "reasoning tokens are part of the output: at least one output token must be an "
                f"answer, here the smallest answer has {least}. For independent laws of reasoning "
                "and answer use RequestClass.with_reasoning(...)",
                field="reasoning",
                value=least,
            )

    @classmethod
    @checked
    def with_reasoning(
        cls,
        *,
        prompt: Lengths | int,
        reasoning: Lengths | int,
        answer: Lengths | int,
        correlation: float = 0.0,
        points: int = 4096,
    ) -> RequestClass:
        """Return a class of hidden reasoning followed by a visible answer.

        Parameters
        ----------
        prompt, reasoning, answer : Lengths or int
            Tokens of each part; output = reasoning + answer.
        correlation : float
            Correlation of the normal scores of reasoning and answer.
        points : int
            Requests in the list that stands for the joint law (a low-discrepancy set).

        Returns
        -------
        RequestClass
            Paired.

        Examples
        --------
        >>> RequestClass.with_reasoning(prompt=48, reasoning=560, answer=565).output.mean
        1125.0
        """
        p, r, a = (
            _coupled(law, u)
            for law, u in zip(
                (
                    _lengths("prompt", prompt, 1),
                    _lengths("reasoning", reasoning, 0),
                    _lengths("answer", answer, 1),
                ),
                _scores(points, correlation),
                strict=True,
            )
        )
        return cls(
            Lengths.empirical(p), Lengths.empirical(r + a), Lengths.empirical(r), paired=True
        )

    @classmethod
    @checked
    def correlated(
        cls, *, prompt: Lengths, output: Lengths, correlation: float, points: int = 4096
    ) -> RequestClass:
        """Return a class whose prompt and output lengths are correlated.

        Parameters
        ----------
        prompt, output : Lengths
            Their laws.
        correlation : float
            Correlation of their normal scores (Gaussian copula).
        points : int
            Requests in the list that stands for the joint law.

        Returns
        -------
        RequestClass
            Paired.
        """
        _, first, second = _scores(points, correlation)
        return cls(
            Lengths.empirical(_coupled(prompt, first)),
            Lengths.empirical(_coupled(output, second)),
            paired=True,
        )

    @property
    def peak(self) -> int:
        """Largest KV need of one request, tokens."""
        if self.paired:
            return int((self.prompt.values + self.output.values).max())
        return self.prompt.high + self.output.high

    @checked
    def sample(self, n: int, rng: RngLike = None) -> tuple[npt.NDArray[np.int64], ...]:
        """Draw requests.

        Parameters
        ----------
        n : int
            How many.
        rng : Generator, SeedSequence, int or None
            Source of randomness.

        Returns
        -------
        tuple of ndarray, each of shape (n,)
            Prompt, output and reasoning tokens.
        """
        stream = generator(rng)
        laws = (self.prompt, self.output, self.reasoning)
        if self.paired:
            index = self.prompt.draw(n, stream)
            return tuple(law.values[index] for law in laws)
        return tuple(law.sample(n, stream) for law in laws)


def _scores(points: int, correlation: float) -> npt.NDArray[np.float64]:
    """Three uniform score rows, the last two coupled: a Kronecker lattice, then a copula."""
    if not -1 <= correlation <= 1:
        raise InputError(f"correlation must lie in [-1, 1], got {correlation}")
    whole("points", points, least=1, most=2**23)
    from scipy.special import ndtr, ndtri

    # Powers of the root of x**4 = x + 1: the lattice of least discrepancy in 3 dimensions.
    root = 1.2207440846057596
    grid = (0.5 + np.outer(root ** -np.arange(1.0, 4.0), np.arange(points))) % 1.0
    normal = ndtri(np.clip(grid, 1e-12, 1 - 1e-12))
    rho = float(correlation)
    grid[2] = ndtr(rho * normal[1] + math.sqrt(1 - rho**2) * normal[2])
    return np.asarray(grid, dtype=np.float64)


def _coupled(law: Lengths, score: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Quantiles of a law at given uniform scores."""
    order = np.argsort(law.values, kind="stable")
    m = len(order)
    weights = law.weights if law.weights is not None else np.full(m, 1 / m)
    index = np.searchsorted(np.cumsum(weights[order]), score, side="left")
    return law.values[order[np.minimum(index, m - 1)]]
