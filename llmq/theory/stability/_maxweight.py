r"""MaxWeight on one engine: the mean backlog is bounded by second moments over twice the slack.

Each buffer i has its own Poisson arrivals, :math:`r_i` requests per second of :math:`v_i` tokens,
and every token is served once: :math:`\ell_i = r_i E[v_i]`. At each decision MaxWeight runs a batch
x with the largest :math:`Q \cdot x / t(x)` for :math:`t(x)` seconds; where tokens are missing they
are padding. If batches at rates u, :math:`\sum u\,t \le 1`, serve every :math:`\ell_i + \delta`,
then :math:`Q \cdot x / t(x) \ge Q \cdot (\ell + \delta)` for the batch that is run. With
:math:`T = t(x)` and A the tokens that arrive meanwhile,

.. math:: (\max(Q - x, 0) + A)^2 \le (Q - x)^2 + 2 A Q + A^2

in each buffer, and :math:`E|A|^2 = T \sum r_i E[v_i^2] + T^2 \sum \ell_i^2`, so over a batch

.. math:: E[\Delta |Q|^2] \le T (B - 2 \delta \textstyle\sum Q), \qquad
   B = \max_x \left( \frac{|x|^2}{t(x)} + t(x) \sum \ell_i^2 \right) + \sum r_i E[v_i^2].

The batches have different lengths, and this is why T stays on the right: summing gives the mean of
:math:`\sum Q` at decisions *weighted by the length of the batch*, at most :math:`B / (2 \delta)`.
Between decisions at most :math:`\max t \sum \ell_i / 2` more arrives on average, so the long-run
time average is at most the sum of both. An engine that waits for the next arrival when Q = 0 meets
the same inequality. Nothing is assumed stationary.

Not covered: prefill that turns into decode (the backlog of decodes comes from inside), several
engines, attention time. Reference: Tassiulas and Ephremides 1992 (slots of one length); the
constants for batches of different length are derived above.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from llmq._input.checked import checked
from llmq.errors import InfeasibleError, InputError, UnstableError
from llmq.model.lengths import Lengths
from llmq.model.time.batchtime import BatchTime
from llmq.result import Kind
from llmq.theory.linear._exact import solve_exact
from llmq.theory.linear._lp import LinearProgram
from llmq.theory.planning_lp._configurations import Configuration, Knapsack
from llmq.theory.region._certificate_record import (
    Certificate,
    batches_record,
    law_record,
    ratio,
    seal,
)
from llmq.theory.stability._moments import length_moments
from llmq.units import as_fraction

__all__ = ["MaxWeight", "maxweight"]

_ONE = Fraction(1)


@checked(record=True)
@dataclass(frozen=True, slots=True, kw_only=True)
class MaxWeight:
    """Bound of the mean backlog under MaxWeight.

    Parameters
    ----------
    slack : fractions.Fraction
        Tokens per second by which every buffer can be served faster than it fills.
    second_moment : fractions.Fraction
        The constant B, tokens^2 per second.
    at_decisions : fractions.Fraction
        Bound of the mean backlog at decisions, weighted by the length of batches, tokens.
    backlog : fractions.Fraction
        Bound of the long-run mean backlog over time, tokens.
    batches : mapping of tuple of int to Fraction
        Batches per second that leave the slack.
    problem : mapping of str to object
        Data of the certificate.
    kind, assumptions, source
        As in every result.
    """

    slack: Fraction
    second_moment: Fraction
    at_decisions: Fraction
    backlog: Fraction
    batches: Mapping[Configuration, Fraction] = field(repr=False)
    problem: Mapping[str, Any] = field(repr=False)
    kind: Kind
    assumptions: tuple[str, ...]
    source: str

    def certificate(self) -> Certificate:
        """Return the bound with the data it follows from (C6).

        Returns
        -------
        Certificate
            Claim ``quadratic_maxweight``.
        """
        runs = [{"tokens": list(x), "rate": ratio(u)} for x, u in self.batches.items()]
        names = ("slack", "second_moment", "at_decisions", "backlog")
        numbers = {name: ratio(getattr(self, name)) for name in names}
        return seal("quadratic_maxweight", self.problem, maxweight={"batches": runs, **numbers})


@checked
def maxweight(
    law: BatchTime, batches: Knapsack, arrivals: Mapping[str, tuple[float, Lengths | int]]
) -> MaxWeight:
    """Bound the mean backlog of an engine under MaxWeight.

    Parameters
    ----------
    law : BatchTime
        Seconds of a batch by its tokens.
    batches : Knapsack
        Which batches the engine can run.
    arrivals : mapping of str to (float, Lengths or int)
        For each buffer the requests per second and the tokens of a request.

    Returns
    -------
    MaxWeight
        With the largest slack there is.

    Raises
    ------
    InputError
        Not one arrival stream for each buffer, attention time, or more than 200,000 batches.
    UnstableError
        The rates leave no slack.

    Examples
    --------
    >>> law = BatchTime.affine(base=0.01, per_token=0.001)
    >>> batches = Knapsack(8, ("short", "long"), (1, 4))
    >>> found = maxweight(law, batches, {"short": (30, 4), "long": (10, 16)})
    >>> found.slack, float(found.backlog)
    (Fraction(740, 9), 47.0065)
    """
    if law.per_kv or law.per_kv_mixed or law.per_work:
        raise InputError("the bound needs a law without attention time: it depends on tokens alone")
    if set(arrivals) != set(batches.buffers):
        raise InputError(
            f"give one arrival stream for each of the buffers {batches.buffers}, got "
            f"{tuple(arrivals)}",
            value=tuple(arrivals),
        )
    streams = {name: _stream(name, *arrivals[name]) for name in batches.buffers}
    rates = [rate * mean for rate, mean, _ in streams.values()]
    columns = batches.columns(law)
    slack, used = _largest_slack(columns, rates)
    squares = sum(rate * rate for rate in rates)
    second = max(sum(x * x for x in batch) / t + t * squares for batch, t in columns)
    second += sum(rate * square for rate, _, square in streams.values())
    ends = second / (2 * slack)
    written = {
        name: {"rate": ratio(rate), "tokens": ratio(mean), "tokens_squared": ratio(square)}
        for name, (rate, mean, square) in streams.items()
    }
    return MaxWeight(
        slack=slack,
        second_moment=second,
        at_decisions=ends,
        backlog=ends + max(t for _, t in columns) * sum(rates) / 2,
        batches=used,
        problem={"law": law_record(law), "batches": batches_record(batches), "arrivals": written},
        kind=Kind.OUTER_BOUND,
        assumptions=(
            "Poisson arrivals from outside to each buffer, independent of each other",
            "batches maximise Q . x / t(x), missing tokens are padding",
        ),
        source="quadratic Lyapunov function with frames of different length",
    )


def _stream(name: str, rate: float, tokens: Lengths | int) -> tuple[Fraction, Fraction, Fraction]:
    law = tokens if isinstance(tokens, Lengths) else Lengths.fixed(tokens)
    mean, square = length_moments(law)
    if not rate >= 0 or law.low < 1:
        raise InputError(
            f"arrivals of {name!r} need a rate >= 0 and requests of at least one token, got "
            f"{rate!r} and {law.low}",
            value=rate,
        )
    return as_fraction(rate), mean, square


def _largest_slack(
    columns: tuple[tuple[Configuration, Fraction], ...], rates: list[Fraction]
) -> tuple[Fraction, dict[Configuration, Fraction]]:
    """Maximise the slack: a column for each batch and one for the slack."""
    n = len(rates)
    entries = [
        {i: Fraction(x) for i, x in enumerate(batch) if x} | {n: -time} for batch, time in columns
    ]
    program = LinearProgram(
        columns=(*entries, dict.fromkeys(range(n), -_ONE)),
        costs=(*[Fraction(0)] * len(entries), -_ONE),
        bounds=(*rates, -_ONE),
    )
    try:
        solved = solve_exact(program)
    except InfeasibleError as error:
        raise UnstableError("no batches serve these rates: lower them") from error
    used = {b: u for (b, _), u in zip(columns, solved.primal, strict=False) if u}
    # One buffer may be served faster than the others: the slack is the least.
    slack = min(sum(u * b[i] for b, u in used.items()) - rate for i, rate in enumerate(rates))
    if slack <= 0:
        raise UnstableError("the rates leave no slack: MaxWeight has no bound here; lower them")
    return Fraction(slack), used
