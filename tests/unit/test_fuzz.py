"""A little of scripts/fuzz, the same inputs each time; what needs a shell is tested elsewhere."""

from __future__ import annotations

import pytest

from tests.fuzz import configuration, http_messages, stored_files
from tests.fuzz.target import Target, run

TARGETS = [*configuration.TARGETS, *stored_files.TARGETS, *http_messages.TARGETS]
INPUTS = 250


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_made_up_input_does_no_harm(target: Target) -> None:
    """It is used or refused with an error of ours, within time and memory."""
    outcome = run(target, max(10, int(INPUTS * target.share)), 1)
    assert outcome.finding == ""
    assert outcome.inputs >= 10
