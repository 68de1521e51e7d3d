r"""Tiles, RAD's bounds, and a static split against dynamic allocation, in symbols.

**Tiles.** With :math:`c + \alpha \lceil b / b_0 \rceil + a b` the best batch is all whole tiles of
the budget or the ragged whole of it; without ``a`` the ragged one wins if and only if its last
tile is fuller than :math:`\alpha q / (c + \alpha q)`, ``q`` the whole tiles.

**RAD** (Bari, Hegde and de Veciana, arXiv 2508.01002; the paper was not available: reconstructed
from secondary sources, no attention terms). A request takes
:math:`\bar d = E[v] (\alpha / b_0 + a)`; no planner and scheduler is stable for
:math:`\lambda \bar d > N`. Cycles of ``n_c`` prefills waste at most
:math:`W = o_{max} \alpha` each, so :math:`\lambda < N n_c / (n_c \bar d + W)` suffices.

**Static planning of one engine** (batches of ``B`` tokens with at most ``M`` decodes): the dual
prices a prefill and a decode token. L1, batch time a function of the tokens alone:
:math:`b / (t E[v])`. L2, affine with a cap on decodes:
:math:`1 / (c \max(E[v] / B, E[o] / M) + a E[v])`. L3, whole tiles without a constant.

**Static split.** ``N`` engines share a prefill time :math:`d_p` and a decode time :math:`d_d` per
request. Shared dynamically they carry :math:`N / (d_p + d_d)`. A split gives :math:`N_p` engines to
prefill, :math:`\min(N_p / d_p, (N - N_p) / d_d)`; this rises, then falls in :math:`N_p` with the
top at :math:`x = N d_p / (d_p + d_d)`, so the best whole split is next to it. With
:math:`y = N - x`

.. math:: \text{loss} = 1 - \max\Bigl(\frac{\lfloor x \rfloor}{x}, \frac{\lfloor y \rfloor}{y}\Bigr)
          \le \frac1N,

zero if and only if ``x`` is whole. (The fractional parts of ``x`` and ``y`` add up to 1, and the
smaller of two fractions is at most their mediant.) That is a split that knows the traffic: a
``fixed`` one loses :math:`1 - \min(N_p / x, (N - N_p) / y)`, up to everything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmq.result import Kind
from llmq.theory.symbolic._family import Formulas, family
from llmq.theory.symbolic._names import symbols

if TYPE_CHECKING:
    from sympy import Expr

__all__ = ["rad", "rad_lp", "static_split", "tile"]

_SECONDARY = "2508.01002, reconstructed from secondary sources"


def tile() -> Formulas:
    """Return the token rates of batches under tiles, beside a constant.

    Examples
    --------
    >>> law = tile()
    >>> at = {"base": 2, "per_tile": 10, "tile": 64, "token_budget": 100, "per_token": 0}
    >>> law.best.exact(**at), law.filled.exact(**at), law.loss.exact(**at)
    (Fraction(16, 3), Fraction(50, 11), Fraction(13, 88))
    """
    import sympy

    c, a, step, width = symbols("base", "per_token", "per_tile", "tile")
    b, budget = symbols("batch_tokens", "token_budget")

    def rate(tokens: Expr) -> Expr:
        return tokens / (c + step * sympy.ceiling(tokens / width) + a * tokens)

    q = sympy.floor(budget / width)
    whole = q * width / (c + step * q + a * q * width)
    filled = rate(budget)
    best = sympy.Max(whole, filled)
    return family(
        "tile",
        {
            "rate": (r"\mu(b)", rate(b)),
            "whole": (r"\mu_{whole}", whole),
            "filled": (r"\mu(b_{max})", filled),
            "best": (r"\mu^{*}", best),
            "loss": (r"1 - \mu(b_{max}) / \mu^{*}", 1 - filled / best),
            "ragged_pays": (r"\Delta", (budget - q * width) / width - step * q / (c + step * q)),
        },
        kind=Kind.EXACT,
        assumptions=("only the token budget binds", "at least one tile in the budget"),
        source="Lemma T1; theory core 2.3; 2504.07347 [T1]",
    )


def rad() -> Formulas:
    """Return RAD's bounds on the rate.

    Examples
    --------
    >>> at = {"per_tile": 4000, "tile": 128, "per_token": 5, "mean_tokens": 760, "engines": 1}
    >>> rad().request_time.exact(**at)
    Fraction(27550, 1)
    """
    lam, v, engines, o = symbols("rate", "mean_tokens", "engines", "max_output")
    step, width, a, cycle = symbols("per_tile", "tile", "per_token", "prefills")
    token = step / width + a
    time = v * token
    return family(
        "rad",
        {
            "token_time": ("u", token),
            "request_time": (r"\bar{d}", time),
            "load": (r"\rho", lam * time / engines),
            "capacity": (r"\lambda^{*}", engines / time),
            "cycle_capacity": (
                r"\lambda_{n_c}",
                engines * cycle / (cycle * time + o * step),
                Kind.INNER_BOUND,
            ),
        },
        kind=Kind.OUTER_BOUND,
        assumptions=(
            "no attention terms, no constant term",
            "prompts are whole tiles",
            "memory for a tile of requests",
            "requests split at random",
        ),
        source=_SECONDARY,
    )


def rad_lp() -> Formulas:
    """Return throughput and token prices of one engine that mixes prefill and decode.

    Examples
    --------
    >>> law = rad_lp()
    >>> at = {"base": 20, "per_token": 0.1, "token_budget": 500, "max_seqs": 50,
    ...       "mean_prompt": 100, "mean_output": 100}
    >>> law.affine.exact(**at), law.prefill_price.exact(**at), law.decode_price.exact(**at)
    (Fraction(1, 60), Fraction(1, 600), Fraction(1, 120))
    """
    import sympy

    s, o, c, a = symbols("mean_prompt", "mean_output", "base", "per_token")
    budget, cap, n, time = symbols("token_budget", "max_seqs", "batch_tokens", "batch_time")
    step, width = symbols("per_tile", "tile")
    v = s + o
    capped = 1 / (c * o / cap + a * v)
    return family(
        "rad_lp",
        {
            "full_batch": (r"\Lambda_{1}", n / (time * v)),
            "token_price": ("y", 1 / v),
            "affine": (r"\Lambda_{2}", 1 / (c * sympy.Max(v / budget, o / cap) + a * v)),
            "capped": (r"\Lambda_{2}", capped),
            "prefill_price": ("y_{p}", a * capped),
            "decode_price": ("y_{d}", (c / cap + a) * capped),
            "tiles": (r"\Lambda_{3}", 1 / ((step / width + a) * v)),
        },
        kind=Kind.EXACT,
        assumptions=(
            "fluid: batches of any composition",
            "no attention terms",
            "L1 and L3: no cap on decodes binds",
        ),
        source="static planning, L1 to L3 of the RAD notes [SP]",
    )


def static_split() -> Formulas:
    r"""Return what a static split of engines into prefill and decode loses.

    Examples
    --------
    Three engines and equal phases: one engine in three is idle half of the time.

    >>> law = static_split()
    >>> at = {"engines": 3, "prefill_work": 1, "decode_work": 1}
    >>> law.dynamic.exact(**at), law.static.exact(**at), law.loss.exact(**at)
    (Fraction(3, 2), Fraction(1, 1), Fraction(1, 3))

    With two thirds of the work in decode the split is even, and nothing is lost:

    >>> law.loss.exact(engines=3, prefill_work=1, decode_work=2)
    Fraction(0, 1)

    until the traffic turns to long prompts:

    >>> law.fixed_loss.exact(engines=3, prefill_engines=1, prefill_work=2, decode_work=1)
    Fraction(1, 2)
    >>> print(law.loss_bound.latex())
    \ell_{max} = \frac{1}{N}
    """
    import sympy

    n, n_p, d_p, d_d = symbols("engines", "prefill_engines", "prefill_work", "decode_work")
    dynamic = n / (d_p + d_d)
    x, y = n * d_p / (d_p + d_d), n * d_d / (d_p + d_d)
    fixed = sympy.Min(n_p / d_p, (n - n_p) / d_d)
    best = sympy.Max(sympy.floor(x) / d_p, sympy.floor(y) / d_d)
    return family(
        "static_split",
        {
            "dynamic": (r"\lambda_{dynamic}", dynamic),
            "fixed": (r"\lambda_{static}(N_{p})", fixed),
            "fixed_loss": (r"\ell(N_{p})", 1 - fixed / dynamic),
            "balance": ("x", x),
            "static": (r"\lambda_{static}", best),
            "loss": (r"\ell", 1 - sympy.Max(sympy.floor(x) / x, sympy.floor(y) / y)),
            "loss_bound": (r"\ell_{max}", 1 / n, Kind.OUTER_BOUND),
        },
        kind=Kind.EXACT,
        assumptions=(
            "equal engines, either phase on any",
            "work that can be divided",
            "no cost of a transfer",
        ),
        source="section 4 of the RAD notes; theory core 1.9 [SP]",
    )
