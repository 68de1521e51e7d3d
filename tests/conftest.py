"""What the tests share: where the measured data are, and hypothesis profiles."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# No deadline (the machines are shared), no database (tests leave no files). A commit passes or
# fails for good: the examples are a function of the test. `make explore` draws new ones.
settings.register_profile(
    "llmq",
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("explore", settings.get_profile("llmq"), derandomize=False)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "llmq"))


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of public profiles, traces and runs (``LLMQ_DATA``)."""
    place = os.environ.get("LLMQ_DATA")
    if place:
        return Path(place)
    if os.environ.get("LLMQ_DATA_REQUIRED"):
        pytest.fail("LLMQ_DATA is not set, but LLMQ_DATA_REQUIRED says that no test may skip")
    pytest.skip(reason="LLMQ_DATA is not set: it names the folder of public profiles and traces")
