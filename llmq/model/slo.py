"""What "good" means: latency targets of a request or of the population."""

from __future__ import annotations

import math
from dataclasses import dataclass

from llmq._input.checked import checked
from llmq.errors import InputError
from llmq.units import format_seconds

__all__ = ["SLO"]


@checked
@dataclass(frozen=True, slots=True)
class SLO:
    """Latency targets.

    Without ``quantile`` a request is good if it meets *all* targets; the share of good requests is
    the attainment. With ``quantile`` each metric has its own population target: a share
    ``quantile`` of the requests must meet it. The two are never mixed silently.

    Parameters
    ----------
    ttft : float, optional
        Time to first visible token, seconds.
    tpot : float, optional
        Mean time per further visible token, seconds.
    e2e : float, optional
        Time to the last token, seconds.
    quantile : float, optional
        Between 0 and 1.

    Examples
    --------
    >>> print(SLO(ttft=0.5, tpot=0.05, quantile=0.99))
    p99 TTFT <= 500 ms and p99 TPOT <= 50 ms
    """

    ttft: float | None = None
    tpot: float | None = None
    e2e: float | None = None
    quantile: float | None = None

    def __post_init__(self) -> None:
        if not self.targets:
            raise InputError("an SLO needs at least one target: ttft=, tpot= or e2e= (seconds)")
        for name, value in self.targets.items():
            if not 0 < value < math.inf:
                raise InputError(
                    f"SLO: {name} must be positive and finite (seconds), got {value}",
                    field=name,
                    value=value,
                )
        if self.quantile is not None and not 0 < self.quantile < 1:
            raise InputError(
                f"SLO: quantile must lie between 0 and 1 (0.99 for p99), got {self.quantile}",
                field="quantile",
                value=self.quantile,
            )

    @property
    def targets(self) -> dict[str, float]:
        """The targets that are set, seconds, by metric."""
        found = {"ttft": self.ttft, "tpot": self.tpot, "e2e": self.e2e}
        return {name: value for name, value in found.items() if value is not None}

    def __str__(self) -> str:
        share = "" if self.quantile is None else f"p{100 * self.quantile:g} "
        return " and ".join(
            f"{share}{name.upper()} <= {format_seconds(value)}"
            for name, value in self.targets.items()
        )
