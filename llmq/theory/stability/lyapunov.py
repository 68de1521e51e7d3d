r"""Networks of agents: stability under every work-conserving policy, and how fast it can fail.

:func:`two_station` (:mod:`llmq.theory.stability._lyapunov_lp`) decides by a linear programme
whether all work-conserving policies are stable. Here: two types of agents that call two engines in
opposite order, first with a short and then with a long hop (Dai et al., 2504.07347, section 5.4).

A hop of ``v`` tokens takes :math:`m = v / b_{max}` full iterations. Under priority to the last hop
the two second hops are never served together while a queue lasts, as if they shared one (virtual)
station: all work-conserving policies are stable if and only if :math:`2 \lambda m_2 < 1`, which is
at load :math:`(m_1 + m_2) / (2 m_2)` of each engine, or at 1 if the second hop is the shorter one.
A queue ``Q`` of first hops at one engine keeps the other busy with second hops for
:math:`T = (Q + \lambda T) m_2`, while :math:`\lambda T` first hops queue there: the peak grows by

.. math:: \gamma = \frac{\lambda m_2}{1 - \lambda m_2}

per half-cycle, above 1 if and only if :math:`2 \lambda m_2 > 1`.

Not covered: unequal rates of the types, batches that are not full.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from llmq._input.checked import checked
from llmq.errors import InputError
from llmq.result import Kind
from llmq.theory.stability._lyapunov_lp import TwoStation, two_station
from llmq.units import as_fraction

__all__ = ["CyclicAgents", "TwoStation", "cyclic_agents", "two_station"]


@checked(record=True)
@dataclass(frozen=True, slots=True, kw_only=True)
class CyclicAgents:
    """Two types of agents that call two engines in opposite order.

    Parameters
    ----------
    first_work, second_work : fractions.Fraction
        Iterations that the first and the second hop of an agent take.
    critical_load : fractions.Fraction
        Load of an engine up to which every work-conserving policy is stable.
    kind, assumptions, source
        As in every result.
    """

    first_work: Fraction
    second_work: Fraction
    critical_load: Fraction
    kind: Kind
    assumptions: tuple[str, ...]
    source: str

    @checked
    def rate(self, load: float | Fraction) -> Fraction:
        """Return the arrivals of each type in an iteration at a load.

        Parameters
        ----------
        load : float or Fraction
            Share of time that an engine must work, between 0 and 1.

        Returns
        -------
        fractions.Fraction
            Agents per iteration.

        Raises
        ------
        InputError
            The load is not between 0 and 1.
        """
        if not 0 < load < 1:
            raise InputError(
                f"load must lie between 0 and 1 (beyond, an engine is overloaded by itself), "
                f"got {load!r}",
                value=load,
            )
        return as_fraction(load) / (self.first_work + self.second_work)

    @checked
    def growth(self, load: float | Fraction) -> Fraction:
        """Return by what factor the peak grows per half-cycle under priority to the last hop.

        Parameters
        ----------
        load : float or Fraction
            Share of time that an engine must work, between 0 and 1.

        Returns
        -------
        fractions.Fraction
            Above 1 the oscillation diverges.

        Raises
        ------
        InputError
            The load is not between 0 and 1, or the second hop is the shorter one: then the first
            hop holds the queue back and there is no such cycle.
        """
        if self.second_work < self.first_work:
            raise InputError(
                f"the cycle needs a second hop at least as long as the first, got "
                f"{self.second_work} and {self.first_work} iterations: no work-conserving policy "
                "diverges here below load 1",
                value=self.second_work,
            )
        busy = self.rate(load) * self.second_work
        return busy / (1 - busy)

    @checked
    def lyapunov(self, load: float | Fraction) -> TwoStation:
        """Return the Lyapunov function of the network at a load.

        Parameters
        ----------
        load : float or Fraction
            Share of time that an engine must work, between 0 and 1.

        Returns
        -------
        TwoStation
            With ``epsilon > 0`` exactly below the critical load.
        """
        rate, work = self.rate(load), (self.first_work, self.second_work)
        return two_station((1, 2, 2, 1), work * 2, (1, None, 3, None), (rate, 0, rate, 0))


@checked
def cyclic_agents(
    token_budget: int, first_hop: tuple[int, int], second_hop: tuple[int, int]
) -> CyclicAgents:
    """Return the stability of agents that call two engines in opposite order.

    Parameters
    ----------
    token_budget : int
        Tokens of a full iteration of each engine.
    first_hop, second_hop : tuple of int
        Prompt and output tokens of each call.

    Returns
    -------
    CyclicAgents
        ``critical_load`` and ``growth(load)``.

    Raises
    ------
    InputError
        A count that is not a whole number of tokens, at least 1.

    Examples
    --------
    >>> agents = cyclic_agents(768, first_hop=(32, 32), second_hop=(512, 32))
    >>> agents.critical_load, agents.growth(0.9)
    (Fraction(19, 34), Fraction(153, 37))
    """
    work = []
    for name, hop in (("first_hop", first_hop), ("second_hop", second_hop)):
        if len(hop) != 2:
            raise InputError(f"{name} must be (prompt, output) tokens, got {hop!r}", value=hop)
        work.append(sum(_tokens(name, part) for part in hop))
    first, second = (Fraction(tokens, _tokens("token_budget", token_budget)) for tokens in work)
    # The second hops of both types form a virtual station: 2 lambda m2 < 1.
    critical = min(Fraction(1), (first + second) / (2 * second))
    return CyclicAgents(
        first_work=first,
        second_work=second,
        critical_load=critical,
        kind=Kind.EXACT,
        assumptions=(
            "fluid model, full iterations of one length, both types at one rate",
            "priority to the last hop for growth(load)",
        ),
        source="Dai et al., 2504.07347, section 5.4 (theory core O15) [G1] [PL]",
    )


def _tokens(name: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InputError(
            f"{name} must be whole tokens, at least 1, got {value!r}", field=name, value=value
        )
    return value
