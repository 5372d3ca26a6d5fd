"""Settings for the tests of inspection."""

import pytest


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second look at fresh files comes at once."""
    monkeypatch.setattr("evalhpc.deploy.inspection._SETTLE", 0.0)
