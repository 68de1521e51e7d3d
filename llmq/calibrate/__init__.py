"""Calibration: from GPU profiles to a law of iteration time, and the catalogue of engines.

``llmq.calibrate`` is both this package and the verb ``llmq.calibrate(profile)``.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

__all__: list[str] = []


class _CallableModule(ModuleType):
    """A package that can be called."""

    # Importing any submodule binds the name ``calibrate`` of ``llmq`` to this package and
    # would hide a function of that name, depending on who imports first. So the package
    # itself is the verb.

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Forward to :func:`llmq.calibrate.fit.calibrate`."""
        from llmq.calibrate.fit import calibrate

        return calibrate(*args, **options)


sys.modules[__name__].__class__ = _CallableModule
