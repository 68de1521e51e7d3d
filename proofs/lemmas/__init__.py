"""Lemmas: a proof in the docstring, its algebra beside it; ``python -m proofs.lemmas.NAME``."""

from __future__ import annotations

import sys

__all__ = ["holds", "says"]


def holds(claim: object, what: str) -> None:
    """Print what was checked; stop with exit code 1 if it fails."""
    says(f"{'holds' if bool(claim) else 'FAILS'}: {what}")
    if not bool(claim):
        sys.exit(1)


def says(what: str) -> None:
    """Print a line."""
    sys.stdout.write(f"{what}\n")
