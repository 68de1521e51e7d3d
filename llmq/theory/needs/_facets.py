r"""Facets and vertices of the capacity polytope of one engine (Theorem U, general token curves).

Let one second of the engine hold ``N`` iterations and let ``B = sum rate_j v_j``. With the pieces
:math:`(c_i, a_i)` of the token curve (:mod:`llmq.theory.needs._envelope`) the engine time is at
least

.. math:: \rho = \min_N \max_i (c_i N + a_i B) + \sum_j \lambda_j (e\,g_j + w\,W_j),
          \qquad N \ge \sum_j \lambda_j n_j^f \ \text{ for each resource } f,

where a request needs so many iterations because an iteration has so many tokens, slots and KV:
:math:`n^{tokens} = v / b_{max}`, :math:`n^{slots} = k / k_{max}`, :math:`n^{memory} = g / M`. The
maximum over ``i`` is convex in ``N``, so the minimum is explicit, and :math:`\rho(\lambda)` is the
largest of :math:`\sum_j \lambda_j w_j` over

* a piece with :math:`c_i > 0` and a resource: :math:`w_j = a_i v_j + e g_j + w W_j + c_i n_j^f`;
* "compute", where batches below the budget are the most productive: no iteration count binds,
  :math:`w_j = a^* v_j + e g_j + w W_j` with :math:`a^* = \min_n f(n) / n`.

Where all prompts share one slot the bounds are dual vertices of the batches instead
(:func:`llmq.theory.region._bounds.shared_facets`): a decode may then cost more than a prompt token.

Affine laws have one piece: these are the three facets of Theorem U. Its special cases: tokens with
``e = 0`` is Dai et al.; compute is RAD; memory with ``a = e = w = 0`` is Nie et al. (``c`` the mean
batch time) and Dong-Cao (``c = 1``); memory with ``a = 0`` and area "wait" is WAIT.

References: theory core 2.4; Dai, Deng, Li and Peng, arXiv 2504.07347; Nie, Si and Zhou, arXiv
2605.04595; Ao et al., arXiv 2504.11320; Bari, Hegde and de Veciana, arXiv 2508.01002.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from operator import mul

from llmq.theory.needs._envelope import Envelope

__all__ = [
    "Bound",
    "Facet",
    "Prices",
    "Weights",
    "bottleneck",
    "bottleneck_of_pool",
    "build_facets",
    "facet",
    "heaviest",
    "split_dominated",
    "weigh",
]

Weights = tuple[Fraction, ...]
_ZERO = Fraction(0)


@dataclass(frozen=True, slots=True)
class Prices:
    """Something for each of the four things that a request brings to its iterations."""

    # prompt, decode: for a prompt token, for a decode token
    prompt: Fraction
    decode: Fraction
    chunk: Fraction = _ZERO  # for an iteration with prompt tokens of it
    area: Fraction = _ZERO  # for a KV token-iteration

    def __matmul__(self, other: Prices) -> Fraction:
        # Most terms are 0, and products of fractions are slow.
        total = _ZERO
        for name in self.__slots__:
            one, two = getattr(self, name), getattr(other, name)
            if one and two:
                total += one * two
        return total

    def plus(self, factor: Fraction, other: Prices) -> Prices:
        """Add a multiple of another."""
        return Prices(
            *(
                one + factor * two if (two := getattr(other, name)) else one
                for name in self.__slots__
                for one in (getattr(self, name),)
            )
        )


_WORDS = {
    "memory": (
        "KV memory binds",
        "more KV memory, quantised KV or shorter requests raise the capacity",
    ),
    "slots": ("the slots bind", "a larger max_seqs raises the capacity"),
    "tokens": ("the token budget binds", "a larger token_budget or a faster GPU raises it"),
    "compute": ("compute binds", "no budget limits it: only a faster GPU raises the capacity"),
    "link": ("the link between pools binds", "a faster link raises the capacity"),
}


@dataclass(frozen=True, slots=True)
class Bound:
    """One linear bound ``sum_j rate_j * weights_j <= engines``."""

    resource: str  # what the bound prices beside the work itself
    weights: tuple[float, ...]  # engine-seconds per request, classes in the order of the region
    exact: Weights  # the same, exactly

    def exactly(self, rates: Sequence[Fraction]) -> Fraction:
        """Weigh rates in rationals."""
        return sum(map(mul, self.exact, rates), Fraction(0))


@dataclass(frozen=True, slots=True)
class Facet(Bound):
    """A bound of one engine, with what it charges for a token."""

    # part of each weight that pays for the resource: iterations that only the resource makes
    # necessary, or token time for "compute"
    share: tuple[float, ...]
    prices: Prices  # seconds for each thing that a request brings, attention aside


def build_facets(
    curve: Envelope,
    needs: Sequence[Prices],
    attention: Weights,
    iterations: Mapping[str, Prices],
) -> tuple[Facet, ...]:
    """Return the bounds of an engine."""
    n, time = curve.best
    pieces = curve.pieces
    found = []
    if n < curve.tokens[-1]:
        each = Prices(time / n, time / n)
        found.append(facet("compute", each, each, needs, attention))
    for c, a in pieces:
        if c > 0:
            for resource, counts in iterations.items():
                # At full batches the last piece is the highest.
                if resource != "tokens" or (c, a) == pieces[-1]:
                    part, tokens = Prices(_ZERO, _ZERO).plus(c, counts), Prices(a, a)
                    found.append(facet(resource, tokens.plus(c, counts), part, needs, attention))
    return tuple(found)


def facet(
    resource: str, prices: Prices, part: Prices, needs: Sequence[Prices], attention: Weights
) -> Facet:
    """Return the bound with given prices."""
    exact = tuple(prices @ need + t for need, t in zip(needs, attention, strict=True))
    weights = tuple(map(float, exact))
    paid = [float(part @ need) for need in needs]
    share = tuple(min(1.0, p / w) if w else 0.0 for p, w in zip(paid, weights, strict=True))
    return Facet(resource, weights, exact, share, prices)


def split_dominated(facets: Sequence[Facet]) -> tuple[tuple[Facet, ...], tuple[Facet, ...]]:
    """Separate the bounds that another one implies class by class."""
    kept: list[Facet] = []
    dropped: list[Facet] = []
    # A heavier facet cannot be dominated by a lighter one; the sort is stable.
    for facet in sorted(facets, key=lambda f: -sum(f.exact)):
        implied = any(all(map(Fraction.__le__, facet.exact, other.exact)) for other in kept)
        (dropped if implied else kept).append(facet)
    order = {id(facet): i for i, facet in enumerate(facets)}
    return (
        tuple(sorted(kept, key=lambda f: order[id(f)])),
        tuple(sorted(dropped, key=lambda f: order[id(f)])),
    )


def bottleneck(resource: str, share: float, kind: str = "") -> str:
    """Say in words what binds and what to buy.

    Examples
    --------
    >>> bottleneck("slots", 0.85, "chat")
    'the slots bind: 85 % of the price of a chat request; a larger max_seqs raises the capacity'
    """
    what, then = _WORDS[resource]
    whose = f"{kind} request" if kind else "request"
    return f"{what}: {100 * share:.0f} % of the price of a {whose}; {then}"


def bottleneck_of_pool(resource: str, share: float, where: str, idle: Sequence[str]) -> str:
    """Say in words what binds in a fleet.

    Examples
    --------
    >>> bottleneck_of_pool("compute", 1.0, " in pool a", ["b"])
    'compute binds in pool a: 100 % of the price; no budget limits it: only a faster GPU raises the
     capacity; b has time to spare'
    """
    what, then = _WORDS[resource]
    spare = f"; {', '.join(idle)} {'have' if len(idle) > 1 else 'has'} time to spare" * bool(idle)
    return f"{what}{where}: {100 * share:.0f} % of the price; {then}{spare}"


def weigh(weights: Sequence[float], vector: Sequence[float]) -> float:
    """Sum of products."""
    return float(sum(map(mul, weights, vector)))


def heaviest(facets: Sequence[Facet], vector: Sequence[float]) -> float:
    """Load of some rates: the largest facet."""
    return max(weigh(facet.weights, vector) for facet in facets)
