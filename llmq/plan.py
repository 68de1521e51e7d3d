"""What a capacity plan says: candidates, simulated counts, and the answer with its reasons."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from llmq.errors import InputError
from llmq.model.engine import Engine
from llmq.model.slo import SLO
from llmq.policies import Policy, text
from llmq.result import Estimate, Kind, Provenance
from llmq.sim.stats import Share
from llmq.theory.region import Region

__all__ = ["Candidate", "CandidatePlan", "Plan", "Probe"]


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
        An engine with a prefix cache: the planner's bounds count whole prompts. A price that is no
        positive number.
    """

    engine: Engine
    policy: Policy
    name: str = ""
    max_gpus: int | None = None
    price: float | None = None

    def __post_init__(self) -> None:
        if self.price is not None and not 0 < self.price < math.inf:
            raise InputError(
                f"price must be a positive number (of one GPU for an hour), got {self.price!r}",
                field="price", value=self.price,
            )  # fmt: skip
        if getattr(self.engine, "prefix_cache", False):  # a fleet is refused later, by name
            raise InputError(
                "a plan cannot count on a prefix cache: its bounds are for whole prompts. Plan "
                "with prefix_cache=False and simulate the answer with it",
                field="prefix_cache", value=True,
            )  # fmt: skip

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
    """

    engines: int
    gpus: int
    load: float
    attainment: Share
    status: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidatePlan:
    """What a candidate needs.

    Parameters
    ----------
    candidate : Candidate
        Engine and policy.
    feasible : bool
        Whether some count up to the limit meets the targets.
    reason : str
        Why this count, or why none.
    gpus_lower_bound : int
        GPUs below which no policy is stable.
    gpus, engines : int or None
        The answer.
    gpus_point : int or None
        Smallest simulated count whose point estimate meets the target: the answer of a longer
        simulation lies between the two.
    load_one : float
        Load of the traffic on one engine.
    load : float
        Load at the answer (at the lower bound where there is none).
    headroom : float
        Share by which all rates may grow at the answer before no policy is stable.
    binding : tuple of str
        Resource that binds, and a sentence.
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
    reason: str
    gpus_lower_bound: int
    gpus: int | None
    engines: int | None
    gpus_point: int | None
    load_one: float
    load: float
    headroom: float
    binding: tuple[str, str]
    prices: Mapping[str, float]
    attainment: Share | None
    ttft: Mapping[str, Estimate]
    tpot: Mapping[str, Estimate]
    curves: Mapping[str, tuple[tuple[float, Estimate], ...]]
    probes: tuple[Probe, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The answer: the candidate with the fewest GPUs, and all the others beside it.

    Parameters
    ----------
    verdict : {"feasible", "infeasible"}
        Whether any candidate meets the targets.
    chosen : CandidatePlan or None
        Fewest GPUs; the first of equals.
    candidates : tuple of CandidatePlan
        In the order given.
    slo : SLO
        The targets.
    target : float
        Share of requests that must meet them.
    traffic : str
        The traffic, in words.
    regions : tuple of Region
        One for each candidate, of a single engine.
    rates : mapping of str to float
        Requests per second by class.
    kind, assumptions, provenance
        As in every result.
    """

    verdict: str
    chosen: CandidatePlan | None
    candidates: tuple[CandidatePlan, ...]
    slo: SLO
    target: float
    traffic: str
    regions: tuple[Region, ...]
    rates: Mapping[str, float]
    kind: Kind
    assumptions: tuple[str, ...]
    provenance: Provenance
