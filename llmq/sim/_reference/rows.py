"""The rows of one engine: what is known of each request, and the view of all of them."""

from __future__ import annotations

import math

import numpy as np

from llmq.policies.contract.view import View
from llmq.sim.results._log import Job, Tally

__all__ = ["Row", "view_of"]


class Row:
    """The state of one request; ``rem`` is what it must process before its next token."""

    __slots__ = (
        "boundary",
        "first",
        "generated",
        "held",
        "hidden",
        "host",
        "index",
        "kv",
        "landed",
        "mark",
        "output",
        "prompt",
        "queued",
        "served",
    )

    def __init__(self, index: int, job: Job, queued: int) -> None:
        self.index, self.queued = index, queued
        self.prompt, self.output = job.prompt[index], job.output[index]
        self.hidden = job.hidden[index]
        self.kv = self.host = self.held = self.generated = 0
        self.mark = job.arrival[index]
        self.boundary = self.first = math.nan
        # Served by the last iteration; came from another engine and was not looked at since.
        self.served = self.landed = False

    def rem(self, lag: int) -> int:
        """Tokens to process before the next output token (a decode of its own if none is left)."""
        missing = self.prompt + self.generated - self.kv - self.host
        return missing if missing > 0 else lag

    def footprint(self) -> int:
        """KV tokens that a router counts."""
        return self.prompt + self.generated if self.held or self.kv or self.host else 0

    def decoding(self, lag: int) -> bool:
        """Whether the next token takes one decode."""
        missing = self.prompt + self.generated - self.kv - self.host
        return missing == 0 if lag else self.generated > 0 and missing == 1


def view_of(
    rows: list[Row],
    job: Job,
    tally: Tally,
    *,
    time: float,
    free: float,
    started: int,
    prefilled: bool,
) -> View:
    """Show the rows of an engine."""
    engine, lag = job.engine, job.engine.conventions.lag
    whole = (
        np.array(
            [
                (
                    r.index,
                    r.queued,
                    r.prompt,
                    job.klass[r.index],
                    r.kv,
                    r.host,
                    r.generated,
                    min(r.generated, r.hidden),
                    r.rem(lag),
                    r.held,
                    r.output,
                )
                for r in rows
            ],
            dtype=np.int64,
        )
        .reshape(-1, 11)
        .T
    )
    real = np.array([(job.arrival[r.index], r.mark, r.boundary, r.first) for r in rows])
    real = real.reshape(-1, 4).T
    whole.flags.writeable = real.flags.writeable = False
    index, queued, prompt, klass, kv, host, generated, thought, rem, held, output = whole
    return View(
        time=time,
        row=index,
        arrival=real[0],
        queued=queued,
        prompt=prompt,
        klass=klass,
        kv=kv,
        host=host,
        generated=generated,
        thought=thought,
        rem=rem,
        held=held,
        decoding=np.array([r.decoding(lag) for r in rows], dtype=bool),
        resident=held > 0,
        answering=np.array([r.generated >= r.hidden for r in rows], dtype=bool),
        mark=real[1],
        boundary=real[2],
        first=real[3],
        output=output if "output" in job.policy.sees else None,
        classes=job.classes,
        free=free,
        total=engine.kv_blocks,
        block=engine.kv_block,
        tokens=engine.token_budget,
        slots=engine.max_seqs or math.inf,
        one_prefill_slot=engine.conventions.prefill_slots == "one",
        law=engine.law,
        iterations=tally.iterations,
        busy=tally.busy,
        started=started,
        prefilled=prefilled,
        present=np.ones(len(rows), dtype=bool),
    )
