"""One engine for bound, verdict and simulation: an engine as a policy runs it.

A policy may bring a token budget of its own, and some policies never cut a prompt. This module is
the only place where that meets the engine's settings, so that a bound, a verdict and a simulation
of one policy are about one engine. It reads the policy's blocks, not its name.

Not covered: chunks, rows and decodes that a policy limits by itself (RAD's chunk, SLAI's decodes):
they are its schedule, and a bound for every policy at these settings does not count them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import overload

from llmq.model.engine import Engine
from llmq.model.fleet import Fleet
from llmq.policies.contract.blocks import Policy

__all__ = ["effective", "priced"]


@overload
def effective(system: Engine, policy: Policy) -> Engine: ...
@overload
def effective(system: Fleet, policy: Policy) -> Fleet: ...
@overload
def effective(system: Engine | Fleet, policy: Policy) -> Engine | Fleet: ...
def effective(system: Engine | Fleet, policy: Policy) -> Engine | Fleet:
    """Return what serves with the settings under which a policy runs it.

    Parameters
    ----------
    system : Engine or Fleet
        As it was configured.
    policy : Policy
        How it is scheduled.

    Returns
    -------
    Engine or Fleet
        With the policy's token budget, where it has one; a policy that raises the budget is obeyed
        and ``assumptions`` say so. Without ``prefill_chunk`` where the policy processes prompts in
        one piece, which ``assumptions`` say as well. The same object where nothing changes.

    Examples
    --------
    >>> from llmq.model.time.batchtime import BatchTime
    >>> from llmq.policies.orca import Orca
    >>> chip = Engine(BatchTime.affine(base=1, per_token=0.01), token_budget=64, prefill_chunk=16)
    >>> found = effective(chip, Orca(token_budget=1024))
    >>> found.token_budget, found.prefill_chunk
    (1024, None)
    >>> found.assumptions
    ('policy orca raises the token budget from 64 to 1024',
     'policy orca does not cut prompts: prefill_chunk 16 is not used')
    """
    if isinstance(system, Fleet):
        pools = {name: (effective(one, policy), n) for name, (one, n) in system.pools.items()}
        same = all(pools[name][0] is one for name, (one, _) in system.pools.items())
        return system if same else replace(system, pools=pools)
    return _engine(system, policy)


def _engine(engine: Engine, policy: Policy) -> Engine:
    """One engine as a policy runs it."""
    changes: dict[str, int | None] = {}
    said: list[str] = []
    budget = policy.token_budget
    if budget is not None and budget != engine.token_budget:
        changes["token_budget"] = budget
        if budget > engine.token_budget:
            said.append(
                f"policy {policy.name} raises the token budget from {engine.token_budget} to "
                f"{budget}"
            )
    if engine.prefill_chunk is not None and policy.blocks.budget.whole:
        changes["prefill_chunk"] = None
        said.append(
            f"policy {policy.name} does not cut prompts: prefill_chunk {engine.prefill_chunk} is "
            "not used"
        )
    return engine.with_(**changes, assumptions=(*engine.assumptions, *said)) if changes else engine


@overload
def priced(system: Engine, policy: Policy) -> Engine: ...
@overload
def priced(system: Fleet, policy: Policy) -> Fleet: ...
@overload
def priced(system: Engine | Fleet, policy: Policy) -> Engine | Fleet: ...
def priced(system: Engine | Fleet, policy: Policy) -> Engine | Fleet:
    """Return what a bound for a policy counts: a chunk only where no prompt ever passes it.

    Parameters
    ----------
    system : Engine or Fleet
        As it was configured.
    policy : Policy
        How it is scheduled.

    Returns
    -------
    Engine or Fleet
        As :func:`effective` says. Without ``prefill_chunk`` also where the policy cuts prompts by
        it, but not that of a request that is alone: there the chunk is no limit.

    Examples
    --------
    >>> from llmq.model.time.batchtime import BatchTime
    >>> from llmq.policies.vllm import VLLM
    >>> chip = Engine(BatchTime.affine(base=1, per_token=0.01), token_budget=64, prefill_chunk=16)
    >>> effective(chip, VLLM()).prefill_chunk, priced(chip, VLLM()).prefill_chunk
    (16, None)
    """
    if isinstance(system, Fleet):
        pools = {name: (priced(one, policy), n) for name, (one, n) in system.pools.items()}
        return replace(system, pools=pools)
    engine = _engine(system, policy)
    if engine.prefill_chunk is None or not policy.blocks.budget.alone:
        return engine
    said = f"policy {policy.name} does not cut the prompt of a request that is alone"
    return engine.with_(
        prefill_chunk=None, assumptions=(*engine.assumptions, f"{said}: no bound by the chunk")
    )
