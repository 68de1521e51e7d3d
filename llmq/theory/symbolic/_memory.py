r"""KV memory in symbols: what a request holds, what residents hold, what a memory carries.

A request with prompt ``s``, chunk ``h`` and ``d`` decode iterations computes :math:`v = s + d`
tokens in :math:`k = \lceil s/h \rceil + d` iterations. It holds, over these iterations,

.. math:: g = \frac{h}{2} \lfloor s/h \rfloor (\lfloor s/h \rfloor + 1)
          + s (\lceil s/h \rceil - \lfloor s/h \rfloor) + s d + \frac{d (d + 1)}{2}

token-iterations with full chunks first; the remainder first is the least of any policy,
:math:`n s - h n (n - 1) / 2` with :math:`n = \lceil s/h \rceil` in the place of the first two. In
whole blocks of :math:`\beta` tokens each of these numbers is rounded up
(:mod:`llmq.theory.needs._held`):

.. math:: \bar g = \beta \sum_{i < n} \lceil (s - i h) / \beta \rceil + B(s + d) - B(s), \qquad
          B(x) = \beta \sum_{i \le x} \lceil i / \beta \rceil
               = \beta (q + 1) (x - \tfrac{\beta}{2} q), \quad q = \lfloor x / \beta \rfloor .

Numeric twins: :func:`llmq.theory.needs.demand.demand`, :func:`llmq.latency.kv_occupancy`,
:func:`llmq.latency.nie`. Not covered: the whole law of the KV in use (a Fourier inverse).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmq.model.conventions import THEORY, Conventions
from llmq.result import Kind
from llmq.theory.symbolic._family import Formulas, family
from llmq.theory.symbolic._names import symbols

if TYPE_CHECKING:
    from sympy import Expr

__all__ = ["demands", "kv_occupancy", "nie", "request_demand"]


def request_demand(
    prompt: Expr, output: Expr, chunk: Expr, block: Expr, conventions: Conventions
) -> dict[str, Expr]:
    """Return what a request asks for."""
    import sympy

    steps = output - 1 + conventions.lag
    full, n = sympy.floor(prompt / chunk), sympy.ceiling(prompt / chunk)
    decode = prompt * steps + steps * (steps + 1) / 2
    first = chunk * full * (full + 1) / 2 + prompt * (n - full)
    least = n * prompt - chunk * n * (n - 1) / 2
    # Not a positive symbol, so that printing leaves its name alone.
    i = sympy.Symbol("i", integer=True)
    rounded = sympy.Sum(sympy.ceiling((prompt - i * chunk) / block), (i, 0, n - 1))
    if conventions.area != "chunked":
        first = least = prompt if conventions.area == "wait" else sympy.Integer(0)
        rounded = sympy.ceiling(least / block)
    ends, begins = (
        block * (q + 1) * (x - block * q / 2)
        for x in (prompt + steps, prompt)
        for q in (sympy.floor(x / block),)
    )
    return {
        "tokens": prompt + steps,
        "slots": n + steps,
        "area": first + decode,
        "least_area": least + decode,
        "held": block * rounded + ends - begins,
        "decodes": steps,
        "prompt": prompt,
        "work": prompt**2 / 2,
        "peak": prompt + steps,
    }


def demands() -> Formulas:
    """Return what a request asks for, under the conventions of the theory.

    Examples
    --------
    >>> demands().area.exact(prompt=2048, output=256, chunk=512)
    Fraction(562304, 1)
    """
    prompt, output, chunk, block = symbols("prompt", "output", "chunk", "kv_block")
    need = request_demand(prompt, output, chunk, block, THEORY)
    letters = {
        "tokens": "v",
        "slots": "k",
        "area": "g",
        "least_area": "g_{min}",
        "held": r"\bar g",
        "work": "W",
        "peak": "s_{max}",
    }
    return family(
        "demand",
        {name: (letter, need[name]) for name, letter in letters.items()},
        kind=Kind.EXACT,
        assumptions=("conventions: theory", "no prefix reuse"),
        source="theory core 2.4 [U1]",
    )


def kv_occupancy() -> Formulas:
    r"""Return mean and variance of the KV memory that independent decodes hold.

    Examples
    --------
    >>> law = kv_occupancy()
    >>> law.mean.exact(rate=0.5, prompt=4, output=6), law.variance.exact(
    ...     rate=0.5, prompt=4, output=6)
    (Fraction(45, 2), Fraction(355, 2))
    """
    import sympy

    lam, s, o, z = symbols("rate", "prompt", "output", "z")
    mean = lam * (s * o + o * (o + 1) / 2)
    variance = lam * (o * s**2 + s * o * (o + 1) + o * (o + 1) * (2 * o + 1) / 6)
    return family(
        "kv_occupancy",
        {
            "mean": ("E[K]", mean),
            "variance": (r"\mathrm{Var}[K]", variance),
            "safe_memory": ("M", mean + z * sympy.sqrt(variance), Kind.APPROXIMATION),
        },
        kind=Kind.EXACT,
        assumptions=(
            "Poisson arrivals per iteration, served at once",
            "fixed lengths",
            "unlimited memory, no prefix reuse",
        ),
        source="compound Poisson; theory core 5.3 [KV]",
    )


def nie() -> Formulas:
    """Return the rates that KV memory carries at a given iteration time.

    Examples
    --------
    >>> nie().rate(kv_tokens=60000, batch_time=0.03, mean_area=563110.4)
    3.5517014
    """
    import sympy

    lam, memory, time, area, peak = symbols("rate", "kv_tokens", "batch_time", "mean_area", "peak")
    rate, share = memory / (time * area), peak / memory
    return family(
        "nie",
        {
            "rate": (r"\mu", rate),
            "stable_rate": (r"\mu_{-}", rate * (1 - share)),
            "largest_share": (r"\delta", share),
            "replicas": ("N", sympy.floor(lam / (rate * (1 - share))) + 1),
        },
        kind=Kind.APPROXIMATION,
        assumptions=("one representative iteration time", "no prefix reuse"),
        source="Nie, Si and Zhou, arXiv 2605.04595, Theorems 4.1 and 4.2",
    )
