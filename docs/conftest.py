"""Pages may register formats, policies and routers: the next page starts without them."""

import pytest

from llmq.io import profiles, traces
from llmq.policies._registry import POLICIES, ROUTERS


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    for table in (traces._traces.FORMATS, profiles._profiles.FORMATS, POLICIES, ROUTERS):
        monkeypatch.setattr(table, "registered", {})
