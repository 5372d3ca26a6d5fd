"""Which requests a server may be asked together that takes one's settings for all."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalhpc.core.sampling import CONFIG_BYTES, CONTENT, sampling_config

CHAT = "/chat/completions"
PLAIN: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "1+1?"}]}


STEERING = """
max_tokens max_completion_tokens temperature top_p top_k min_p stop echo logprobs top_logprobs seed
n best_of presence_penalty frequency_penalty repetition_penalty logit_bias stream response_format
tools tool_choice unheard_of
"""


def config(fields: dict[str, Any], path: str = CHAT) -> bytes:
    """The configuration of a small chat with further fields."""
    return sampling_config(path, json.dumps({**PLAIN, **fields}).encode())


@given(st.sampled_from(sorted(CONTENT)), st.text() | st.lists(st.text(), max_size=3))
def test_content_does_not_count(field: str, content: str | list[str]) -> None:
    """Prompts, chats and the model's name differ within one configuration."""
    asked: dict[str, Any] = {"temperature": 0.5, "stop": ["\n"]}
    assert config({**asked, field: content}) == config(asked)


@pytest.mark.parametrize("field", STEERING.split())
def test_whatever_may_steer_counts(field: str) -> None:
    """Settings make another configuration, those of which nothing is known included."""
    values = [config({}), *(config({field: value}) for value in (1, 2, [1]))]
    assert len(set(values)) == len(values)
    assert {len(value) for value in values} == {CONFIG_BYTES}


def test_the_path_counts() -> None:
    """Completions and chats are never one batch."""
    assert config({}, "/completions") != config({})


@given(st.permutations(["temperature", "max_tokens", "top_p", "messages"]))
def test_the_order_of_fields_does_not_count(names: list[str]) -> None:
    """The same settings written otherwise are the same configuration."""
    bodies = (json.dumps(dict.fromkeys(order, 1)) for order in (names, sorted(names)))
    assert len({sampling_config(CHAT, body.encode()) for body in bodies}) == 1


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[1]", b'"\\ud800"', b'{"stop": "\\ud800"}'])
def test_any_body_has_a_configuration(body: bytes) -> None:
    """What is no JSON object, or no UTF-8, is told from everything else."""
    assert sampling_config(CHAT, body) not in {sampling_config(CHAT, b"{}"), config({})}


def test_ids_that_never_change_an_answer_do_not_count() -> None:
    """Tracing ids differ with every request."""
    assert config({"user": "a", "request_id": "1"}) == config({"user": "b"})
