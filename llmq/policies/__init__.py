"""How work is ordered: one file per system, each a composition of blocks.

``docs/policies.md`` says how to write one; :func:`register_policy` and :func:`register_router` let
one's own be named like those of the library.
"""

from __future__ import annotations

from llmq.policies._registry import (
    ALL,
    parse,
    policy_kinds,
    register_policy,
    register_router,
    router_kinds,
    text,
)
from llmq.policies.contract.blocks import Blocks, Policy
from llmq.policies.contract.routers import (
    LeastKV,
    LeastWork,
    PowerOfD,
    PriceWeighted,
    Random,
    RoundRobin,
    Router,
    ShortestQueue,
)
from llmq.policies.fastertransformer import FasterTransformer
from llmq.policies.maxweight import MaxWeight
from llmq.policies.orca import Orca
from llmq.policies.pascal import PASCAL
from llmq.policies.priority import Priority
from llmq.policies.rad import RAD
from llmq.policies.ranked import FCFS, RR
from llmq.policies.sarathi import Sarathi
from llmq.policies.simple_chunking import SimpleChunking
from llmq.policies.slai import SLAI
from llmq.policies.trail import TRAIL
from llmq.policies.vllm import VLLM

__all__ = [
    "ALL",
    "Blocks",
    "FCFS",
    "FasterTransformer",
    "LeastKV",
    "LeastWork",
    "MaxWeight",
    "Orca",
    "PASCAL",
    "Policy",
    "PowerOfD",
    "PriceWeighted",
    "Priority",
    "RAD",
    "RR",
    "Random",
    "RoundRobin",
    "Router",
    "SLAI",
    "Sarathi",
    "ShortestQueue",
    "SimpleChunking",
    "TRAIL",
    "VLLM",
    "parse",
    "policy_kinds",
    "register_policy",
    "register_router",
    "router_kinds",
    "text",
]
