r"""XB. Exclusive phases can be unstable at a twentieth of the capacity (oracle O5).

``t(b) = 11.28 + 35.47 ceil(b / 128)`` ms, ``b <= 512``, every request (128, 112). If anybody
decodes, a batch is one token of each decoder, else prompts in order of arrival (FasterTransformer).

**Claim.** Unstable if ``rate > 4 / 5389.16`` per ms, while a policy that fills its batches is
stable up to ``512 / (240 t(512))``: the ratio is 0.0533.

*Proof.* Prompts of 128 tokens fill a batch of 512 four at a time, and none is cut: every cycle
starts with ``1 <= m <= 4`` prompts and ends after their 112 decodes, in ``t(128 m) + 112 t(m)``.
Per request that is least for ``m = 4``. So at most ``4 T / 5389.16`` (plus one cycle) requests end
by ``T``, and the queue grows at rate ``rate - 4 / 5389.16`` if that is positive. The other side is
T1 with S1.
"""

from __future__ import annotations

from fractions import Fraction

from proofs.lemmas import holds


def time(b: int) -> Fraction:
    """Duration of an iteration of ``b`` tokens, milliseconds."""
    return Fraction(1128, 100) + Fraction(3547, 100) * -(-b // 128)


def main() -> None:
    """Check the cycles and both rates in rationals."""
    each = {m: (time(128 * m) + 112 * time(m)) / m for m in range(1, 5)}
    holds(
        min(each, key=lambda m: each[m]) == 4,
        "a cycle with four prompts is the fastest per request",
    )
    holds(4 * each[4] == Fraction(134729, 25), "it lasts 134729/25 = 5389.16 ms")
    full = Fraction(512, 240) / time(512)
    holds(max(b / time(b) for b in range(1, 513)) == 512 / time(512), "512 tokens fill the tiles")
    holds(abs(float(full) - 13.9287890659e-3) < 1e-12, "full batches: 13.9287890659 requests per s")
    holds(abs(float(1 / each[4] / full) - 0.0532875253) < 1e-9, "ratio 0.0532875253")


if __name__ == "__main__":
    main()
