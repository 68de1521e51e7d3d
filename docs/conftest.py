"""Pages may register formats of their own: the next page starts without them."""

import pytest

from llmq.io import profiles, traces


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (traces._traces, profiles._profiles):
        monkeypatch.setattr(module.FORMATS, "registered", {})
