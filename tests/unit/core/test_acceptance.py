"""A pass counts only if its numbers rest on real answers, and on all of them."""

from __future__ import annotations

from typing import Any

import pytest

from evalhpc.core.acceptance import Outcome, failure_reason, verdict

GOOD: dict[str, Any] = {
    "benchmark": "gsm8k",
    "number": 1,
    "exit_code": 0,
    "asked": 10,
    "answered": 10,
    "misses": 0,
    "dependents": 0,
}


def test_a_pass_over_answers_alone_is_final() -> None:
    """Exit 0, asked, answered, nothing else: that is the result."""
    assert verdict(Outcome(**GOOD)) == "final"


def test_a_pass_with_misses_wants_another_round() -> None:
    """A miss is work, not a failure, whatever depends on it."""
    assert verdict(Outcome(**{**GOOD, "misses": 2, "dependents": 3})) == "misses"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"exit_code": 1, "log_tail": ("KeyError: x",)}, "KeyError: x"),
        ({"exit_code": 1, "misses": 4}, "exited with code 1"),
        ({"exit_code": 153, "log_tail": ("a", "it left more than 16 GiB")}, "more than 16 GiB"),
        ({"asked": 0}, "asked nothing"),
        ({"dependents": 1}, "made of stubs"),
        ({"stub_files": ("samples.jsonl",)}, "samples.jsonl"),
        ({"unused": 5}, "5 recorded answers unused"),
    ],
)
def test_anything_else_fails_with_its_reason(change: dict[str, Any], said: str) -> None:
    """Each way in which a pass can be worth nothing is named."""
    outcome = Outcome(**{**GOOD, **change})
    assert verdict(outcome) == "failed"
    what, cause, hint = failure_reason(outcome)
    assert said in what
    assert cause
    assert hint


@pytest.mark.parametrize("code", [-9, 137])
def test_a_harness_that_a_signal_ended_is_not_blamed_for_its_task(code: int) -> None:
    """Killed for its memory, most often, as its own child or as its shell's."""
    what, cause, _ = failure_reason(Outcome(**{**GOOD, "exit_code": code}))
    assert "ended (signal 9)" in what
    assert "memory" in cause
