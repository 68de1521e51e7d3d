"""What a capacity plan says: candidates, simulated counts, and the answer with its reasons."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from llmq._input.checked import checked
from llmq.errors import InputError
from llmq.model.engine import Engine
from llmq.model.slo import SLO
from llmq.policies import Policy, text
from llmq.result import Estimate, Kind, Provenance
from llmq.sim.results._stats import Share
from llmq.theory.region import Region

__all__ = ["Candidate", "CandidatePlan", "Plan", "PlanInterrupted", "Probe"]


@checked
@dataclass(frozen=True, slots=True)
class Candidate:
    """An engine and how it is scheduled.

    Parameters
    ----------
    engine : Engine
        The engine; its budgets are part of the choice.
    policy : Policy
        The policy.
    name : str
        For reports; the engine's name if not given.
    max_gpus : int, optional
        Most GPUs of it.
    price : float, optional
        Of one GPU for an hour, in any one currency.

    Raises
    ------
    InputError
        An engine with a prefix cache: the planner's bounds count whole prompts. A policy that is
        none, or a price that is no positive number.
    """

    engine: Engine
    policy: Policy
    name: str = ""
    max_gpus: int | None = None
    price: float | None = None

    def __post_init__(self) -> None:
        if not hasattr(self.policy, "blocks"):  # a protocol, known by what it has
            raise InputError(
                f"the policy of a candidate must be an llmq policy, got {self.policy!r}: write "
                "policies.Sarathi() or policies.parse('sarathi:token_budget=512')",
                field="policy",
                value=self.policy,
            )
        if self.price is not None and not 0 < self.price < math.inf:
            raise InputError(
                f"price must be a positive number (of one GPU for an hour), got {self.price!r}",
                field="price",
                value=self.price,
            )
        if getattr(self.engine, "prefix_cache", False):  # a fleet is refused later, by name
            raise InputError(
                "a plan cannot count on a prefix cache: its bounds are for whole prompts. Plan "
                "with prefix_cache=False and simulate the answer with it",
                field="prefix_cache",
                value=True,
            )

    @property
    def label(self) -> str:
        """Engine with its GPUs, and the policy with what differs from its defaults."""
        return f"{self.title} with {text(self.policy)}"

    @property
    def title(self) -> str:
        """Name of the engine, with TP where it has several GPUs."""
        name = self.name or self.engine.name or "engine"
        size = f"TP{self.engine.gpus}"
        return name if self.engine.gpus == 1 or size in name else f"{name} ({size})"


@dataclass(frozen=True, slots=True)
class Probe:
    """One simulated count.

    Parameters
    ----------
    engines, gpus : int
        The count.
    load : float
        Load of the fleet (outer bound).
    attainment : Share
        Share of requests within the targets.
    status : str
        Stability verdict of the run.
    requests : int
        Simulated requests, all paths together.
    sentence : str
        The verdict in words.
    """

    engines: int
    gpus: int
    load: float
    attainment: Share
    status: str
    requests: int = 0
    sentence: str = ""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class CandidatePlan:
    """What a candidate needs.

    Parameters
    ----------
    candidate : Candidate
        Engine and policy.
    feasible : bool
        Whether some count up to the limit meets the targets.
    finished : bool
        Whether the search came to its end; otherwise time ran out, and fewer GPUs may do.
    reason : str
        Why this count, or why none.
    decides : str
        What keeps the answer from being smaller, in words; empty where there is none.
    gpus_lower_bound : int
        GPUs below which no policy does at these settings (token budget, slots, chunk).
    hardware_lower_bound : int
        GPUs below which no scheduler does at any settings.
    gpus, engines : int or None
        The answer.
    gpus_point : int or None
        Smallest simulated count whose point estimate meets the target and that is not seen to be
        overloaded: the answer of a longer simulation lies between the two.
    load_one, hardware_load_one : float
        Load of the traffic on one engine, at these settings and at any.
    load : float
        Load at these settings at the answer (at the lower bound where there is none).
    headroom, hardware_headroom : float
        Share by which all rates may grow at the answer before no policy at these settings is
        stable, and before no scheduler is at any.
    binding : tuple of str
        Resource that binds at these settings, and a sentence.
    prices : mapping of str to float
        Engine-seconds per request, by class.
    attainment : Share or None
        At the answer.
    ttft, tpot : mapping of str to Estimate
        p50, p90 and p99 at the answer, seconds.
    curves : mapping of str to tuple
        Quantiles of TTFT and TPOT: (probability, Estimate) pairs.
    probes : tuple of Probe
        Every simulated count, ascending.
    """

    candidate: Candidate
    feasible: bool
    finished: bool
    reason: str
    decides: str
    gpus_lower_bound: int
    hardware_lower_bound: int
    gpus: int | None
    engines: int | None
    gpus_point: int | None
    load_one: float
    hardware_load_one: float
    load: float
    headroom: float
    hardware_headroom: float
    binding: tuple[str, str]
    prices: Mapping[str, float]
    attainment: Share | None
    ttft: Mapping[str, Estimate]
    tpot: Mapping[str, Estimate]
    curves: Mapping[str, tuple[tuple[float, Estimate], ...]]
    probes: tuple[Probe, ...]

    @property
    def cost(self) -> float | None:
        """Price of the answer for an hour, where the candidate has a price and an answer."""
        price = self.candidate.price
        return None if price is None or self.gpus is None else price * self.gpus

    def __repr__(self) -> str:
        found = self.reason if self.gpus is None else f"{self.gpus} GPUs, load {self.load:.2f}"
        least = f"{self.gpus_lower_bound} at these settings, of the hardware"
        least += f" {self.hardware_lower_bound}"
        return f"CandidatePlan({self.candidate.label}: {found}; lower bound {least})"


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Plan:
    """The answer: the cheapest candidate, or the one with the fewest GPUs, beside all the others.

    Parameters
    ----------
    verdict : {"feasible", "infeasible", "unfinished"}
        Whether any candidate meets the targets; unfinished where time ran out before it was known.
    chosen : CandidatePlan or None
        The cheapest where every candidate has a price, else the fewest GPUs; the first of equals.
    chosen_by : {"price", "GPUs"}
        Which of the two.
    candidates : tuple of CandidatePlan
        In the order given; those that were not begun when time ran out are missing.
    slo : SLO
        The targets.
    target : float
        Share of requests that must meet them.
    traffic : str
        The traffic, in words.
    window : str
        The busiest window of a trace, from which bounds, loads, headroom and prices come; empty
        where they come from all of the traffic.
    regions : tuple of Region
        One for each candidate, of a single engine at its settings.
    rates : mapping of str to float
        Requests per second by class, in the window where there is one.
    kind, assumptions, provenance
        As in every result.
    """

    verdict: str
    chosen: CandidatePlan | None
    chosen_by: str
    candidates: tuple[CandidatePlan, ...]
    slo: SLO
    target: float
    traffic: str
    window: str
    regions: tuple[Region, ...]
    rates: Mapping[str, float]
    kind: Kind
    assumptions: tuple[str, ...]
    provenance: Provenance

    def __repr__(self) -> str:
        best = self.chosen
        found = "no candidate" if best is None else f"{best.gpus} GPUs, {best.candidate.label}"
        return f"Plan({self.verdict}: {found}; {len(self.candidates)} candidates for {self.slo})"


class PlanInterrupted(KeyboardInterrupt):
    """Ctrl-C while a plan was made.

    Parameters
    ----------
    plan : Plan or None
        What was finished by then; None where nothing was.
    """

    def __init__(self, plan: Plan | None) -> None:
        super().__init__("interrupted")
        self.plan = plan
