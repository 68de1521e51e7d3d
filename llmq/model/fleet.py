"""Several engines: pools of identical ones, and who may use which."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from llmq._input.checked import checked
from llmq.errors import InputError, nearest
from llmq.model.engine import Engine

__all__ = ["Fleet"]

_ROLES = ("both", "prefill", "decode")


@checked
@dataclass(frozen=True, slots=True)
class Fleet:
    """Pools of engines.

    Parameters
    ----------
    pools : mapping of str to (Engine, int)
        Engine and how many of it, by pool name.
    eligible : mapping of str to tuple of str
        Pools that may serve a class; all of them for a class that is not named.
    roles : mapping of str to {"both", "prefill", "decode"}
        What a pool does; both if not named.
    link : float
        Tokens of KV per second from one engine to another (prefill to decode pool, migration).

    Examples
    --------
    >>> from llmq.model.time.batchtime import BatchTime
    >>> engine = Engine(BatchTime.affine(base=0.01, per_token=1e-4))
    >>> Fleet({"fast": (engine, 2)}).gpus
    2
    """

    pools: Mapping[str, tuple[Engine, int]]
    eligible: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    roles: Mapping[str, str] = field(default_factory=dict)
    link: float = math.inf

    def __post_init__(self) -> None:
        if not self.pools:
            raise InputError("a fleet needs at least one pool")
        for name, pool in self.pools.items():
            if pool[1] < 1:
                raise InputError(f"pool {name!r} needs at least 1 engine, got {pool[1]}")
        for klass, names in self.eligible.items():
            if not names:
                raise InputError(f"class {klass!r} may be served by no pool")
            for name in names:
                self._known(name)
        for name, role in self.roles.items():
            self._known(name)
            if role not in _ROLES:
                raise InputError(f"role of pool {name!r} must be one of {_ROLES}, got {role!r}")
        if not self.link > 0:
            raise InputError(f"link must be positive (KV tokens per second), got {self.link}")
        for own, copy in (  # the caller's dict may change
            ("pools", dict(self.pools)),
            ("eligible", dict(self.eligible)),
            ("roles", dict(self.roles)),
        ):
            object.__setattr__(self, own, copy)

    def _known(self, name: str) -> None:
        if name not in self.pools:
            raise InputError(f"no pool {name!r}{nearest(name, self.pools)}")

    @property
    def engines(self) -> tuple[Engine, ...]:
        """Every engine, pool by pool."""
        return tuple(engine for engine, count in self.pools.values() for _ in range(count))

    @property
    def gpus(self) -> int:
        """GPUs of all pools."""
        return sum(engine.gpus * count for engine, count in self.pools.values())
