r"""Prefill on some GPUs, decode on the others: how to split them.

A prefill engine runs the most productive batch of at most ``token_budget`` tokens, ``n`` tokens in
``t(n)``, so it prefills :math:`\mu_p = 1 / (s\,t(n) / n + e g_p + w W)` requests per unit of time
(``g_p`` the prefill area, ``W`` the attention work). A decode engine holds ``B`` requests, as many
as memory, slots and budget allow, each with the mean context :math:`c = g_d / d` of its decode
iterations (``s + (o + 1) / 2`` for fixed lengths): :math:`B \le \lfloor M / c \rfloor`, and

.. math:: \mu_d = \max_B \frac{B}{d\,t(B, \kappa = B c)} .

With ``n`` prefill and ``N - n`` decode engines the rate is
:math:`\min(n \mu_p, (N - n) \mu_d)`; the best whole
``n`` and the best fraction, :math:`N \mu_p \mu_d / (\mu_p + \mu_d)`, are both given.

Not covered: the time of the KV transfer and the memory it holds; requests in whole KV blocks. ``B``
residents of mean context are a fluid picture: peaks of long requests need room (theory core 2.5).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TypeAlias

from llmq._input.checked import checked
from llmq.errors import InfeasibleError, InputError
from llmq.model.engine import Engine
from llmq.model.request import RequestClass
from llmq.result import Kind
from llmq.theory.needs._rates import Rates, rate_vector
from llmq.theory.needs.demand import demand, phase_peak
from llmq.theory.planning_lp._configurations import lower_hull
from llmq.theory.region._bounds import check_fits
from llmq.theory.region._pools import need_of
from llmq.units import as_fraction

__all__ = ["Disaggregation", "disaggregate"]

Mix: TypeAlias = Mapping[str, RequestClass]


@checked(record=True)
@dataclass(frozen=True, slots=True)
class Disaggregation:
    """The best split of GPUs into prefill and decode engines.

    Parameters
    ----------
    prefill, decode : int
        Engines of each kind.
    exact_rate : fractions.Fraction
        Requests per unit of time that they carry.
    exact_fractional_rate : fractions.Fraction
        The same if engines could be divided.
    prefill_rate, decode_rate : fractions.Fraction
        Requests per unit of time of one engine of each kind.
    residents : int
        Requests that decode together on one engine.
    kind : Kind
        ``exact`` where no KV memory has to be shared out, else ``approximation``: residents of mean
        context.
    assumptions : tuple of str
        What the rates rest on.
    source : str
        Where the formula is from.
    """

    prefill: int
    decode: int
    exact_rate: Fraction
    exact_fractional_rate: Fraction
    prefill_rate: Fraction
    decode_rate: Fraction
    residents: int
    kind: Kind
    assumptions: tuple[str, ...]
    source: str

    @property
    def rate(self) -> float:
        """Requests per unit of time that the split carries."""
        return float(self.exact_rate)

    @property
    def fractional_rate(self) -> float:
        """The same if engines could be divided."""
        return float(self.exact_fractional_rate)

    @property
    def ratio(self) -> float:
        """Prefill engines for each decode engine, if engines could be divided."""
        return float(self.decode_rate / self.prefill_rate)


@checked
def disaggregate(
    prefill: Engine,
    decode: Engine,
    mix: Mix,
    gpus: int,
    shares: Rates | None = None,
) -> Disaggregation:
    """Split GPUs into prefill and decode engines.

    Parameters
    ----------
    prefill, decode : Engine
        One engine of each kind.
    mix : mapping of str to RequestClass
        The classes.
    gpus : int
        GPUs in all.
    shares : mapping of str to float or Fraction, optional
        Part of each class in the requests; equal parts if not given.

    Returns
    -------
    Disaggregation
        The best whole split, and the bound of a fractional one.

    Raises
    ------
    InputError
        Something else than engines, empty mix, a class that does not fit, shares that are all 0.
    InfeasibleError
        Too few GPUs for one engine of each kind.

    Examples
    --------
    >>> from llmq.model.time.batchtime import BatchTime
    >>> from llmq.model.conventions import THEORY
    >>> first = Engine(BatchTime.affine(base=8, per_token=1 / 16), 4096, conventions=THEORY)
    >>> second = Engine(BatchTime.affine(base=12, per_token=1 / 50, per_kv=1 / 20000), 256,
    ...                 kv_tokens=120_000, conventions=THEORY)
    >>> split = disaggregate(first, second, {"x": RequestClass(1024, 256)}, gpus=16)
    >>> split.prefill, split.decode, split.exact_rate
    (9, 7, Fraction(3, 22))
    """
    for what, engine in (("prefill", prefill), ("decode", decode)):
        if not isinstance(engine, Engine):
            raise InputError(
                f"disaggregate takes one engine of each kind: {what} must be an llmq.Engine, got "
                f"{type(engine).__name__} (the engine of a pool is fleet.pools[name][0]; what a "
                "fleet with roles carries is llmq.stability_region(fleet, mix))",
                value=engine,
            )
    if not isinstance(mix, Mapping) or not mix:
        raise InputError("disaggregation needs at least one request class")
    part = _parts(mix, shares)
    mu_p = 1 / _prefill_time(prefill, mix, part)
    residents, mu_d = _decode_rate(decode, mix, part)
    splits = [
        (n, m)
        for n in range(1, gpus // prefill.gpus + 1)
        if (m := (gpus - n * prefill.gpus) // decode.gpus) >= 1
    ]
    if not splits:
        raise InfeasibleError(
            f"{gpus} GPUs do not hold a prefill engine of {prefill.gpus} and a decode engine of "
            f"{decode.gpus}; at least {prefill.gpus + decode.gpus} do",
            gpus=gpus,
            needed=prefill.gpus + decode.gpus,
        )
    best = max(splits, key=lambda s: min(s[0] * mu_p, s[1] * mu_d))
    whole = gpus / (prefill.gpus / mu_p + decode.gpus / mu_d)
    return Disaggregation(
        prefill=best[0],
        decode=best[1],
        exact_rate=min(best[0] * mu_p, best[1] * mu_d),
        exact_fractional_rate=whole,
        prefill_rate=mu_p,
        decode_rate=mu_d,
        residents=residents,
        kind=Kind.EXACT if _is_exact(prefill, decode) else Kind.APPROXIMATION,
        assumptions=(
            f"conventions {prefill.conventions.name}, {decode.conventions.name}; no prefix reuse",
            "the KV of a prompt moves in no time and takes no room on the way",
            "full prefill batches; as many residents of mean context as fit decode together",
        ),
        source="theory core 1.9 [DIS]",
    )


def _is_exact(prefill: Engine, decode: Engine) -> bool:
    """Whether tokens alone limit the prefill, and budget or slots the decodes."""
    reads = prefill.law.per_kv_mixed > 0 and prefill.conventions.area == "chunked"
    limits = (prefill.max_seqs, prefill.kv_tokens, decode.kv_tokens)
    return not reads and all(limit is None for limit in limits)


def _parts(mix: Mix, shares: Rates | None) -> dict[str, Fraction]:
    given = dict.fromkeys(mix, 1.0) if shares is None else shares
    rate_vector(given, tuple(mix), partial=True)
    part = {name: as_fraction(given.get(name, 0)) for name in mix}
    if not (total := sum(part.values())):
        raise InputError("shares are all 0: at least one class must arrive")
    return {name: value / total for name, value in part.items()}


def _prefill_time(engine: Engine, mix: Mix, part: Mapping[str, Fraction]) -> Fraction:
    """Engine time of a mean prompt in the most productive batches."""
    hull = lower_hull(engine.law, 1, engine.token_budget)
    per_token = min(t / n for n, t in hull)
    total = Fraction(0)
    for name, request in mix.items():
        peak = phase_peak(request, engine, "prefill")
        check_fits(engine, name, replace(demand(request, engine), peak=peak))
        need = need_of(request, engine, "prefill")
        total += part[name] * (need.tokens["prefill"] * per_token + need.seconds)
    return total


def _decode_rate(engine: Engine, mix: Mix, part: Mapping[str, Fraction]) -> tuple[int, Fraction]:
    """Residents and requests per unit of time of the best full decode batch."""
    steps = area = Fraction(0)
    for name, request in mix.items():
        need = replace(demand(request, engine), peak=phase_peak(request, engine, "decode"))
        check_fits(engine, name, need)
        area += part[name] * need.decode_area
        steps += part[name] * need.decodes
    if not steps:
        raise InputError("no class decodes: every output is one token, made by the prefill")
    context = area / steps
    cap = min(engine.token_budget, engine.max_seqs or engine.token_budget)
    if engine.kv_tokens is not None:
        cap = min(cap, int(engine.kv_tokens / context))
    read = as_fraction(engine.law.per_kv) * context
    rate, most = max((n / (t + read * n), n) for n, t in lower_hull(engine.law, 1, cap))
    return most, rate / steps
