"""Costs are right in order before any measurement, and in seconds after."""

from __future__ import annotations

import json

import pytest

from evalhpc.core.costs import USUAL_LENGTH, Costs, Kind, estimate

CHAT = "/chat/completions"


def body(**fields: object) -> bytes:
    return json.dumps({"model": "m", "prompt": "short", **fields}).encode()


@pytest.mark.parametrize(
    ("dear", "cheap"),
    [
        ((CHAT, body(max_tokens=900)), (CHAT, body(max_tokens=30))),
        ((CHAT, body(max_tokens=30, n=4)), (CHAT, body(max_tokens=90))),
        ((CHAT, body(max_tokens=30)), ("/completions", body(max_tokens=0, echo=True))),
        (("/completions?x=1", body()), ("/completions", body(max_tokens=USUAL_LENGTH // 2))),
        ((CHAT, body(max_completion_tokens=2000)), (CHAT, body(max_tokens=None))),
        (("/completions", body(prompt="long " * 999, max_tokens=1)),
         ("/completions", body(max_tokens=1))),
        (("/responses", body(max_output_tokens=99)), ("/embeddings", body())),
    ],
)  # fmt: skip
def test_what_generates_or_reads_more_costs_more(
    dear: tuple[str, bytes], cheap: tuple[str, bytes]
) -> None:
    """Before any answer: by tokens to generate, copies, and the prompt's length."""
    assert estimate(*dear) > estimate(*cheap) >= 1


@pytest.mark.parametrize("odd", [b"", b"[]", b"{", b"\xff", b'{"max_tokens":"9"}', b'{"n":-1}'])
def test_any_body_has_a_cost(odd: bytes) -> None:
    """What is not as expected costs what is usual, or what reading it costs."""
    assert 1 <= estimate("/completions", odd) <= USUAL_LENGTH + 2


def test_measured_kinds_cost_their_mean_latency_and_others_their_estimate_in_seconds() -> None:
    """A measurement corrects its kind, and sets the scale for those without one."""
    known: Kind = ("b", "model", "/completions", b"1")
    other: Kind = ("b", "model", "/completions", b"2")
    costs = Costs()
    assert costs.cost(known, 100.0) == 100.0
    costs.measured(known, 100.0, 1.0)
    costs.measured(known, 100.0, 3.0)
    assert costs.cost(known, 999.0) == 2.0
    assert costs.cost(other, 50.0) == 1.0


def test_latencies_of_nothing_are_no_scale() -> None:
    """Answers without a latency (imported ones) leave the estimates as they are."""
    costs = Costs()
    costs.measured(("b", "model", "/completions", b"1"), 100.0, 0.0)
    assert costs.cost(("b", "model", "/completions", b"2"), 50.0) == 50.0
    assert costs.cost(("b", "model", "/completions", b"1"), 50.0) > 0
