"""What is searched for secrets before it is written."""

from __future__ import annotations

import logging

import pytest

from evalhpc.errors import ConfigError
from evalhpc.workflow.submit.lint import refuse_secrets

WORD = "judge_token: model-7b-instruct"


def test_a_doubt_is_a_warning_and_told_once(caplog: pytest.LogCaptureFixture) -> None:
    """Scripts and record hold the same words; the value is not shown."""
    with caplog.at_level(logging.WARNING):
        refuse_secrets({"a.sh": f"x\n{WORD}", "run.yaml": WORD}, {})
    (message,) = caplog.messages
    assert message.startswith("a.sh, line 2 has a value of judge_token")
    assert "7b" not in message


def test_a_secret_behind_a_doubt_is_refused() -> None:
    """Wherever it stands."""
    with pytest.raises(ConfigError, match=r"run\.yaml, line 3, would hold a value of api_key"):
        refuse_secrets({"a.sh": WORD, "run.yaml": f"{WORD}\n\napi_key: 0123456789abcdef"}, {})
