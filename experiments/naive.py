"""The yardstick: a plain per-slot loop, as one would write it in an afternoon.

One engine, decodes first, chunked prefill, no memory limit, affine law. Every iteration touches
every resident. Speeds of llmq's engines are quoted as multiples of this loop in the same run; the
engine that most of them serve has the constants that stand here.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

LAW: dict[str, Any] = {"base": 0.011, "per_token": 4e-5, "per_kv": 2.9e-7}
BUDGET, SLOTS, KV = 512, 128, 131_072


def cpu(call: Callable[[], object]) -> float:
    """CPU-seconds of one call."""
    start = time.process_time()
    call()
    return time.process_time() - start


def simulate_naive(
    arrival: Sequence[float],
    prompt: Sequence[int],
    output: Sequence[int],
    *,
    base: float,
    per_token: float,
    per_kv: float,
    token_budget: int,
    max_seqs: int,
) -> tuple[list[float], list[float], int]:
    """Simulate request by request, iteration by iteration.

    Parameters
    ----------
    arrival : sequence of float
        Seconds, ascending.
    prompt, output : sequence of int
        Tokens.
    base, per_token, per_kv : float
        The affine law.
    token_budget, max_seqs : int
        Budgets of the engine.

    Returns
    -------
    tuple
        First-token times, finish times and the number of iterations.
    """
    n = len(arrival)
    first, finish = [0.0] * n, [0.0] * n
    left = list(prompt)
    more = [tokens - 1 for tokens in output]
    waiting: deque[int] = deque()
    prefilling: deque[int] = deque()
    decoding: list[int] = []
    clock, arrived, done, iterations, context = 0.0, 0, 0, 0, 0
    while done < n:
        if not (decoding or prefilling or waiting) and arrival[arrived] > clock:
            clock = arrival[arrived]
        while arrived < n and arrival[arrived] <= clock:
            waiting.append(arrived)
            arrived += 1
        budget = token_budget - len(decoding)
        context += len(decoding)
        chunks = 0
        started: list[int] = []
        while budget > 0:
            if not prefilling:
                if not waiting or len(decoding) + len(started) >= max_seqs:
                    break
                prefilling.append(waiting.popleft())
            i = prefilling[0]
            chunk = min(left[i], budget)
            left[i] -= chunk
            budget -= chunk
            chunks += prompt[i] - left[i]
            if left[i] == 0:
                started.append(prefilling.popleft())
        clock += base + per_token * (token_budget - budget) + per_kv * (context + chunks)
        iterations += 1
        running = []
        for i in decoding:
            more[i] -= 1
            if more[i] == 0:
                finish[i] = clock
                done += 1
                context -= prompt[i] + output[i] - 1
            else:
                running.append(i)
        for i in started:
            first[i] = clock
            if more[i] == 0:
                finish[i] = clock
                done += 1
            else:
                running.append(i)
                context += prompt[i]
        decoding = running
    return first, finish, iterations
