"""A little of scripts/fuzz that needs processes: rendered scripts, run in a sandbox, and HDF5."""

from __future__ import annotations

import pytest

from tests.fuzz import stores
from tests.fuzz.scripts import TARGETS
from tests.fuzz.target import Target, run

INPUTS = {"scripts": 40 * 24, "refused-scripts": 20, "words": 2000}


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_made_up_texts_reach_no_shell(target: Target) -> None:
    """Every word and variable of every script is the text itself, and nothing else runs."""
    outcome = run(target, INPUTS[target.name], 1)
    assert outcome.finding == ""
    assert outcome.inputs >= 20


def test_made_up_stores_do_not_take_the_process_down() -> None:
    """HDF5 reads them in a process of its own: read as they were written, or refused."""
    outcome = run(stores.TARGETS[0], 400, 1)
    assert outcome.finding == ""
    assert outcome.inputs == 400
