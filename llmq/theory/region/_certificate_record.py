r"""Certificates as JSON: a claim about a problem, with the numbers that prove it.

Rationals are ``"p/q"`` in lowest terms, there are no floats; ``digest`` is the SHA-256 of the
problem in canonical JSON (sorted keys, no spaces, ASCII), ``seal`` that of all the rest with the
digest. The checker ``proofs/check.py`` shares no code with this package.

=======================  ===============================================  =======================
claim                    what is proved                                   made by
=======================  ===============================================  =======================
``unstable`` (C1)        no policy is stable at these rates               ``certify``
``stable_rate`` (C2)     batches serve the rates within all engine time   ``certify``
``optimal_load`` (C3)    the least load of the planning problem           ``certify``
``linear_foster`` (C4)   drift of the backlog, and bounds                 ``drift.constants``
``pl_lyapunov`` (C5)     two stations are stable if work-conserving       ``certify_network``
``quadratic_maxweight``  a bound of the backlog under MaxWeight (C6)      ``maxweight``
``finite_chain`` (C7)    the stationary law of a chain                    ``certify_chain``
``tile_inequality``      a full batch has the highest token rate (C8)     ``certify_tiles``
``tile_counterexample``  it has not: the best batch (C8)                  ``certify_tiles``
=======================  ===============================================  =======================

Not covered here: whether a certificate is right. Reading one only checks that the file is whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, NoReturn

from llmq.errors import FormatError
from llmq.model.time.batchtime import BatchTime
from llmq.theory.planning_lp._configurations import Knapsack, TwoPhase
from llmq.units import as_fraction

__all__ = [
    "Certificate",
    "batches_record",
    "canonical_digest",
    "law_record",
    "load_certificate",
    "ratio",
    "ratios",
    "seal",
]

FORMAT = "llmq-certificate-1"
_SECONDS = ("base", "per_token", "floor", "floor_per_token", "per_tile")
_ATTENTION = ("per_kv", "per_kv_mixed", "per_work")


@dataclass(frozen=True, slots=True)
class Certificate:
    """A claim about a problem with its proof.

    Parameters
    ----------
    claim : str
        What is proved, see :mod:`llmq.theory.region._certificate_record`.
    load : fractions.Fraction or None
        Least load of a planning problem or a bound of it, load of an engine; None where the claim
        is not about a load.
    body : mapping of str to object
        The JSON object.
    """

    claim: str
    load: Fraction | None
    body: Mapping[str, Any]

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical problem."""
        return str(self.body["digest"])

    def text(self) -> str:
        """Return the JSON text.

        Returns
        -------
        str
            What :meth:`save` writes.
        """
        return json.dumps(self.body, indent=1, sort_keys=True) + "\n"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the certificate; check it with ``python -I -S proofs/check.py PATH``.

        Parameters
        ----------
        path : path-like
            Where to; replaced at once or not at all.
        """
        target = Path(path)
        # Beside the target, so that the last step is a rename.
        draft = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            draft.write_text(self.text(), encoding="utf-8")
            draft.replace(target)
        finally:
            draft.unlink(missing_ok=True)


def load_certificate(path: str | os.PathLike[str]) -> Certificate:
    """Read a certificate; this does not check it, ``proofs/check.py`` does.

    Parameters
    ----------
    path : path-like
        A file written by :meth:`Certificate.save`.

    Returns
    -------
    Certificate
        As it was saved.

    Raises
    ------
    FormatError
        Not JSON, not a certificate, a float, a rational with denominator 0, or digest or seal do
        not match.
    """

    def refuse(text: str) -> NoReturn:
        raise FormatError(
            f"number {text} is a float: a certificate holds rationals 'p/q'", path=path
        )

    try:
        text = Path(path).read_text(encoding="utf-8")
        body = json.loads(text, parse_float=refuse, parse_constant=refuse)
    except FormatError:
        raise
    except (ValueError, RecursionError) as error:
        raise FormatError(f"not JSON: {error}", path=path) from error
    if not isinstance(body, dict) or body.get("format") != FORMAT:
        raise FormatError(f"not a certificate of format {FORMAT!r}", path=path)
    if missing := [key for key in ("claim", "digest", "problem", "seal") if key not in body]:
        raise FormatError(f"{missing[0]!r} is missing", path=path)
    if zero := _zero_denominator(body):
        raise FormatError(f"zero denominator in {zero!r}", path=path)
    rest = {key: value for key, value in body.items() if key != "seal"}
    if body["digest"] != canonical_digest(body["problem"]):
        raise FormatError(
            "the digest does not match: this is the certificate of another problem", path=path
        )
    if body["seal"] != canonical_digest(rest):
        raise FormatError("the seal does not match: the file was changed", path=path)
    return Certificate(str(body["claim"]), _load(body.get("load"), path), body)


def _zero_denominator(value: object) -> str:
    """First rational with denominator 0; empty if there is none."""
    if isinstance(value, str):
        return value if re.fullmatch(r"-?[0-9]+/0+", value) else ""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return next(filter(None, map(_zero_denominator, inner)), "")


def _load(value: object, path: str | os.PathLike[str]) -> Fraction | None:
    if value is None:
        return None
    if not isinstance(value, str) or not re.fullmatch(r"[0-9]+/[0-9]+", value):
        raise FormatError(f"load: {value!r} is not a rational 'p/q'", path=path)
    return Fraction(value)


def seal(
    claim: str, problem: Mapping[str, Any], load: Fraction | None = None, **parts: object
) -> Certificate:
    """Return a certificate with digest and seal.

    Examples
    --------
    >>> seal("unstable", {"rate": ratio(0.5)}, Fraction(3, 2)).body["load"]
    '3/2'
    """
    body = {
        "format": FORMAT,
        "claim": claim,
        "digest": canonical_digest(problem),
        "problem": problem,
        **parts,
    }
    if load is not None:
        body["load"] = ratio(load)
    return Certificate(claim, load, {**body, "seal": canonical_digest(body)})


def canonical_digest(value: object) -> str:
    """Return the SHA-256 of canonical JSON.

    Parameters
    ----------
    value : object
        What :func:`json.dumps` takes.

    Returns
    -------
    str
        ``"sha256:"`` and 64 hexadecimal digits.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return "sha256:" + hashlib.sha256(text.encode("ascii")).hexdigest()


def ratio(value: Fraction | float) -> str:
    """Write a rational.

    Examples
    --------
    >>> ratio(0.025), ratio(3)
    ('1/40', '3/1')
    """
    exact = as_fraction(value)
    return f"{exact.numerator}/{exact.denominator}"


def ratios(values: Mapping[str, Fraction]) -> dict[str, str]:
    """Write several rationals."""
    return {key: ratio(value) for key, value in values.items()}


def law_record(law: BatchTime) -> dict[str, Any]:
    """Write a law of iteration time."""
    numbers = {name: ratio(getattr(law, name)) for name in (*_SECONDS, *_ATTENTION)}
    grid = {"tokens": list(law.tokens), "seconds": [ratio(t) for t in law.seconds]}
    return {"form": law.form, "tile": law.tile, **numbers, **grid}


def batches_record(batches: TwoPhase | Knapsack) -> dict[str, Any]:
    """Write which batches an engine can run."""
    if isinstance(batches, TwoPhase):
        kind: dict[str, Any] = {"kind": "two_phase", "slots": batches.slots}
    else:
        rows = [{"weights": list(w), "capacity": c} for w, c in batches.rows]
        kind = {"kind": "knapsack", "buffers": list(batches.buffers), "rows": rows}
        kind["steps"] = list(batches.steps)
    return {**kind, "token_budget": batches.token_budget}
