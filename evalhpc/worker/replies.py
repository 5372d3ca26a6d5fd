"""Which replies are answers, which are worth another try, and which end the worker."""

from __future__ import annotations

from typing import Any, Literal

import orjson

from evalhpc.core.identity import parse_json

#: answer: recorded and replayed. transient: asked again. denied: no request will be served.
#: failed: this request cannot be served, and the reply is no answer either.
Kind = Literal["answer", "transient", "denied", "failed"]

#: What a server says of the request itself, the same however often it is asked (context too long).
DETERMINISTIC_REFUSALS = frozenset({400, 413, 422})
TRANSIENT = frozenset({408, 409, 425, 429})
DENIED = frozenset({401, 402, 403, 405, 407})
#: How some servers say in a 200 that a generation was cut off: they were asked to end.
_CUT_OFF = frozenset({"abort", "error", "cancelled"})


def classify(method: str, path: str, status: int, content_type: str, body: bytes) -> Kind:
    """What a reply to `path` (below the API root) is.

    A 2xx to a POST that is no JSON (a proxy's page), an error or a generation that was cut off
    is no answer.
    """
    generation = path.partition("?")[0].rstrip("/").endswith("completions")
    if 200 <= status < 300:
        if method != "POST" or _is_answer(content_type, body, generation):
            return "answer"
        return "transient"
    if status == 404:
        # Of an optional route that is what there is to know; a model server has completions.
        return "denied" if generation and method == "POST" else "answer"
    if status in DETERMINISTIC_REFUSALS:
        return "answer" if _is_json(body) else "failed"
    if status in TRANSIENT or status >= 500:
        return "transient"
    return "denied" if status in DENIED else "failed"


def _is_answer(content_type: str, body: bytes, generation: bool) -> bool:
    if content_type.startswith("text/event-stream"):
        return _is_whole_stream(body)
    try:
        value = parse_json(body)
    except (ValueError, RecursionError):
        return False
    if not isinstance(value, dict):
        return not generation
    # Some servers report a failed generation with status 200.
    if value.get("error"):
        return False
    return not generation or _has_choices(value)


def _has_choices(value: dict[str, Any]) -> bool:
    choices = value.get("choices") or ()
    return bool(choices) and all(
        isinstance(choice, dict) and choice.get("finish_reason") not in _CUT_OFF
        for choice in choices
    )


def _is_whole_stream(body: bytes) -> bool:
    """A stream that was cut off lacks its end mark; one that failed has an error for an event."""
    # The Responses API ends with an event of its own instead.
    if b"[DONE]" not in body[-64:] and b"event: response.completed" not in body:
        return False
    events = (line[5:].strip() for line in body.splitlines() if line.startswith(b"data:"))
    for event in events:
        if event == b"[DONE]":
            continue
        try:
            value = parse_json(event)
        except (ValueError, RecursionError):
            return False
        if isinstance(value, dict) and (value.get("error") or not _not_cut_off(value)):
            return False
    return True


def _not_cut_off(chunk: dict[str, Any]) -> bool:
    choices = chunk.get("choices") or ()
    return all(choice.get("finish_reason") not in _CUT_OFF for choice in choices)


def _is_json(body: bytes) -> bool:
    try:
        parse_json(body)
    except (ValueError, RecursionError):
        return False
    return True


def ignores_echo(request: bytes, reply: bytes) -> bool:
    """Whether a 2xx reply lacks the prompt's log-probabilities that the request asked for.

    llama.cpp, for one, ignores `echo` without a word; a log-likelihood made from such a reply
    would be that of other tokens.
    """
    if b'"echo"' not in request:
        return False
    try:
        asked, answer = parse_json(request), parse_json(reply)
    except (ValueError, RecursionError):
        return False  # a stream has the prompt in its first event
    if not isinstance(asked, dict) or asked.get("echo") is not True:
        return False
    if asked.get("logprobs") is None or not isinstance(answer, dict):
        return False
    choices = answer.get("choices") or [{}]
    usage = answer.get("usage") or {}
    # Only with the prompt's are there more log-probabilities than generated tokens.
    generated = usage.get("completion_tokens") or 0
    return any(_logprob_count(choice) * len(choices) <= generated for choice in choices)


def _logprob_count(choice: dict[str, Any]) -> int:
    return len((choice.get("logprobs") or {}).get("token_logprobs") or ())


def describe(status: int, body: bytes) -> str:
    """One line on a reply for people: the status and the server's own message."""
    try:
        value = orjson.loads(body)
        error = value.get("error", value) if isinstance(value, dict) else value
        message = error.get("message", error) if isinstance(error, dict) else error
    except orjson.JSONDecodeError:
        message = body.decode("utf-8", "replace")
    return f"HTTP {status}: {' '.join(str(message).split())[:300]}"
