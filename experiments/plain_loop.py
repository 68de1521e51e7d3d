"""The yardstick: a plain loop in Python, as a good programmer writes it in an afternoon.

One engine, decodes first, chunked prefill, no memory limit, any law that is a curve in the tokens
plus linear attention terms. All decodes advance by one token an iteration, so nobody looks at them
one by one: who starts to decode at iteration ``t`` with ``m`` tokens to go is filed under ``t + m``
in a dict, and the KV that is read grows by the number of decodes. An iteration costs a few
additions whatever the batch. Speeds of llmq's simulators are quoted as multiples of this loop on
the same requests, where both do the same work: the event times agree.
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


def plain_loop(
    arrival: Sequence[float],
    prompt: Sequence[int],
    output: Sequence[int],
    *,
    curve: Sequence[float],
    per_kv: float,
    per_kv_mixed: float,
    per_work: float,
    max_seqs: int,
) -> tuple[list[float], list[float], int]:
    """Simulate one engine, iteration by iteration.

    Parameters
    ----------
    arrival : sequence of float
        Seconds, ascending.
    prompt, output : sequence of int
        Tokens.
    curve : sequence of float
        Seconds of an iteration of 0, 1, 2, ... tokens; the last is the token budget.
    per_kv, per_kv_mixed : float
        Seconds per KV token read, in decode-only iterations and beside a prefill.
    per_work : float
        Seconds per token^2 of prefill attention.
    max_seqs : int
        Slots.

    Returns
    -------
    tuple
        First-token times, finish times and the number of iterations.
    """
    n, token_budget = len(arrival), len(curve) - 1
    first, finish = [0.0] * n, [0.0] * n
    waiting: deque[int] = deque()
    prefilling: deque[int] = deque()
    left = list(prompt)
    ends: dict[int, list[int]] = {}
    clock, arrived, done, tick, decoding, context = 0.0, 0, 0, 0, 0, 0
    while done < n:
        if not (decoding or prefilling or waiting) and arrival[arrived] > clock:
            clock = arrival[arrived]
        while arrived < n and arrival[arrived] <= clock:
            waiting.append(arrived)
            arrived += 1
        budget, read, work = token_budget - decoding, context + decoding, 0.0
        started: list[int] = []
        while budget > 0:
            if not prefilling:
                if not waiting or decoding + len(started) >= max_seqs:
                    break
                prefilling.append(waiting.popleft())
            i = prefilling[0]
            chunk = min(left[i], budget)
            work += chunk * (prompt[i] - left[i] + chunk / 2)
            left[i] -= chunk
            budget -= chunk
            read += prompt[i] - left[i]
            if left[i] == 0:
                started.append(prefilling.popleft())
        tokens = token_budget - budget
        each = per_kv if tokens == decoding else per_kv_mixed
        clock += curve[tokens] + each * read + per_work * work
        tick += 1
        context += decoding
        for i in ends.pop(tick, ()):
            finish[i] = clock
            done += 1
            decoding -= 1
            context -= prompt[i] + output[i] - 1
        for i in started:
            first[i] = clock
            if output[i] == 1:
                finish[i] = clock
                done += 1
            else:
                ends.setdefault(tick + output[i] - 1, []).append(i)
                decoding += 1
                context += prompt[i]
    return first, finish, tick
