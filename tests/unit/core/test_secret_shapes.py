"""Secrets are found where they should not be; what only resembles one is left in peace."""

from __future__ import annotations

import base64
import json

import pytest

from evalhpc.core.secret_shapes import suspects

HEX = "4f9ad0c31b7e8826aa01"


@pytest.mark.parametrize(
    "line",
    [
        f"export OPENAI_API_KEY=sk-proj-{HEX}",
        f"export MY_API_KEY='{HEX}'",
        "MY_API_KEY=0123-4567-abcd",
        f"login_token: {HEX}",
        "token: 0b5c1a9e-7d1f-4a57-9c1e-0f2b3c4d5e6f",
        "X-Auth: Bearer aB3dE5gH7jK9mN1pQ3",
        "Authorization=basic dXNlcjpwYXNzd29yZA==",
        f'curl -H "Authorization: Bearer {HEX}" http://host/v1',
        f"--env=HF_TOKEN=hf_{HEX}",
        f"--api-key {HEX} \\",
        f"--api-key={HEX}",
        f'params: {json.dumps({"api_key": HEX})}',
        f"git clone https://me:{HEX}@git.example/x",
        "ftp://user:pass@host/file",
        "AKIAIOSFODNN7EXAMPLE",
        f"nvapi-{HEX}",
        f"ghp_{HEX}",
        "-----BEGIN OPENSSH PRIVATE KEY-----",
        f"password: {HEX}",
        f"eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.{HEX}",
    ],
)  # fmt: skip
def test_what_looks_like_a_secret_is_found(line: str) -> None:
    """By its shape, or by what it is called; the line is told, and not the value."""
    found = list(suspects(f"#!/bin/bash\n{line}\n"))
    assert any(suspect.certain for suspect in found)
    assert {suspect.line for suspect in found} == {2}
    assert not any(HEX in suspect.what for suspect in found)


@pytest.mark.parametrize(
    "line",
    [
        'export OPENAI_API_KEY="${EVALHPC_API_KEY:-none}"',
        'VLLM_API_KEY="$EVALHPC_SERVER_TOKEN"',
        "read_token /etc/token",
        "# EVALHPC_API_KEY is sent as bearer token, where the server wants one.",
        "--auth-env EVALHPC_API_KEY",
        'api_key_name: "OPENAI_API_KEY"',
        "max_tokens: 16384",
        "export TOKENIZERS_PARALLELISM=false",
        "url: http://localhost:8000/v1",
        "https://$USER:$TOKEN@host/x",
        "--token-file=/home/me/token",
        "secret: ~/.config/evalhpc/secrets.env",
        "eos_token: <|endoftext|>",
        "sha256:" + HEX * 3,
        "# basic /lustre/project/env/setup.sh",
        "# basic /lustre/Project1/env/setup.sh",
        "Basic multiple-choice/arithmetic",
        "think_end_token=im_end_2024",
        "stop_token: endofturn1x",
    ],
)
def test_what_only_resembles_one_is_not(line: str) -> None:
    """Names of variables, paths, prose, digests."""
    assert list(suspects(line)) == []


def test_a_token_that_may_be_a_word_is_a_doubt() -> None:
    """So that a submission can go on: nothing tells it from the name of a model."""
    (found,) = suspects("judge_token: model-7b-instruct")
    assert not found.certain


@pytest.mark.parametrize("lines", [["  --api-key", f"  {HEX}"], ["- --token", f"- '{HEX}'"]])
def test_an_option_and_its_value_on_two_lines_are_one(lines: list[str]) -> None:
    """As words of a command stand in scripts and in YAML."""
    assert [suspect.line for suspect in suspects("\n".join(["x", *lines]))] == [2]
    assert list(suspects("\n".join([lines[0], "  --next", lines[1]]))) == []


def test_the_value_of_a_secret_variable_is_found_in_any_form() -> None:
    """Whatever it looks like: it is set in this shell, under a telling name."""
    value = "correct horse battery"
    environ = {"MY_TOKEN": value, "GREETING": "a harmless sentence"}
    packed = base64.b64encode(b"user:" + value.encode()).decode()
    for text in (f"echo {value}", f"-H 'X: {packed}'"):
        assert [s.what for s in suspects(text, environ)] == ["the value of $MY_TOKEN"]
    assert list(suspects("echo a harmless sentence", environ)) == []
    assert list(suspects("echo default", {"MY_TOKEN": "default"})) == [], "too short to be sure"
