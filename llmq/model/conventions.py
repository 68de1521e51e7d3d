r"""The one place where digits are decided.

Two communities count the same request differently, and exact numbers depend on it:

* **ENGINE** (the vLLM family): the iteration that finishes the prefill emits the first output
  token, so ``o`` output tokens need ``o - 1`` decode iterations.
* **THEORY** (Dai et al., WAIT, RAD, SLAI's code): the first token comes one iteration later, so
  ``o`` output tokens need ``o`` decode iterations.

Common to both: decode iteration ``j`` holds ``s + j`` tokens of KV; a chunk holds what is cached
plus itself; the KV *read* by an iteration is the sum of these over the rows it serves; an arrival
at the very instant of an iteration boundary takes part in the iteration that starts there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
import numpy.typing as npt

from llmq._input.checked import checked

__all__ = ["ENGINE", "THEORY", "Conventions"]

_Count = TypeVar("_Count", int, npt.NDArray[np.int64])


@checked
@dataclass(frozen=True, slots=True)
class Conventions:
    """How tokens, memory and slots are counted.

    Parameters
    ----------
    name : str
        Printed with every result.
    first_token : {"prefill_end", "next_iteration"}
        When the first output token exists.
    prefill_slots : {"per_request", "one"}
        Whether every request in prefill takes a slot, or all of them one together.
    area : {"chunked", "wait", "decode_only"}
        KV area of a request in token-iterations: over all chunks and decodes; with the prefill
        counted as one stage (WAIT); or over decodes alone (Dong-Cao, Kong).

    Examples
    --------
    >>> ENGINE.decode_iterations(128), THEORY.decode_iterations(128)
    (127, 128)
    """

    name: str
    first_token: Literal["prefill_end", "next_iteration"] = "prefill_end"
    prefill_slots: Literal["per_request", "one"] = "per_request"
    area: Literal["chunked", "wait", "decode_only"] = "chunked"

    @property
    def lag(self) -> int:
        """Iterations from the end of the prefill to the first token: 0 or 1."""
        return 0 if self.first_token == "prefill_end" else 1

    @checked
    def decode_iterations(self, output: _Count) -> _Count:
        """Decode iterations of a request with ``output`` tokens.

        Parameters
        ----------
        output : int or ndarray of int
            Output tokens.

        Returns
        -------
        int or ndarray of int
            ``output - 1`` or ``output``.
        """
        return output - 1 + self.lag


ENGINE = Conventions("engine", first_token="prefill_end", prefill_slots="per_request")
THEORY = Conventions("theory", first_token="next_iteration", prefill_slots="one")
