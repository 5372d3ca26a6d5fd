"""A little of scripts/fuzz: rendered scripts with any text in any field, run in a sandbox."""

from __future__ import annotations

import pytest

from tests.fuzz.scripts import TARGETS
from tests.fuzz.target import Target, run

INPUTS = {"scripts": 40 * 24, "refused-scripts": 20, "words": 2000}


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_made_up_texts_reach_no_shell(target: Target) -> None:
    """Every word and variable of every script is the text itself, and nothing else runs."""
    outcome = run(target, INPUTS[target.name], 1)
    assert outcome.finding == ""
    assert outcome.inputs >= 20
