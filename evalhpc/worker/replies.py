"""Which replies are answers, which are worth another try, and which end the worker."""

from __future__ import annotations

import json
import re
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
#: Characters of a Content-Type; a store keeps each different one in memory.
_LONGEST_TYPE = 255
#: How some servers say in a 200 that a generation was cut off: they were asked to end.
_CUT_OFF = ("abort", "error", "cancelled")
_MANY_PROMPTS = re.compile(rb'"prompt"\s*:\s*\[')
#: A body beyond so many bytes is not parsed for a message; and so much of one is shown.
_MOST_PARSED, _MOST_SHOWN = 64 * 1024, 300


def classify(method: str, path: str, status: int, content_type: str, body: bytes) -> Kind:
    """What a reply to `path` (below the API root) is.

    A 2xx to a POST that is no JSON (a proxy's page), an error or a generation that was cut off
    is no answer; nor is one with a Content-Type beyond all measure.
    """
    generation = _is_generation(path)
    if len(content_type) > _LONGEST_TYPE:
        return "failed"
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


def _is_generation(path: str) -> bool:
    return path.partition("?")[0].rstrip("/").endswith("completions")


def _is_answer(content_type: str, body: bytes, generation: bool) -> bool:
    if content_type.startswith("text/event-stream"):
        return _is_whole_stream(body)
    try:
        value = _parse_reply(body)
    except ValueError:
        return False
    if not isinstance(value, dict):
        return not generation
    # Some servers report a failed generation with status 200.
    if value.get("error"):
        return False
    return not generation or (bool(value.get("choices")) and _none_cut_off(value))


def _parse_reply(body: bytes) -> Any:
    """JSON as `parse_json` reads it, but for NaN, which no score can be made of."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        pass
    try:
        return json.loads(body.decode("utf-8", "surrogatepass"), parse_constant=_not_nan)
    except RecursionError as error:
        raise ValueError("JSON that is nested too deeply") from error


def _not_nan(name: str) -> float:
    number = float(name)
    if number != number:
        raise ValueError("NaN in a reply")
    return number


def _none_cut_off(value: dict[str, Any]) -> bool:
    """Whether every choice, if there are any, is an object and was not cut off."""
    choices = value.get("choices") or []
    return isinstance(choices, list) and all(
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
            value = _parse_reply(event)
        except ValueError:
            return False
        if isinstance(value, dict) and (value.get("error") or not _none_cut_off(value)):
            return False
    return True


def _is_json(body: bytes) -> bool:
    try:
        parse_json(body)
    except ValueError:
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
    except ValueError:
        return False  # a stream has the prompt in its first event
    if not isinstance(asked, dict) or asked.get("echo") is not True:
        return False
    if asked.get("logprobs") is None or not isinstance(answer, dict):
        return False
    choices = answer.get("choices") or [{}]
    # Only with the prompt's are there more log-probabilities than generated tokens.
    generated = _object(answer, "usage").get("completion_tokens")
    if not isinstance(generated, (int, float)):
        generated = 0
    return any(_logprob_count(choice) * len(choices) <= generated for choice in choices)


def _logprob_count(choice: Any) -> int:
    given = _object(choice, "logprobs").get("token_logprobs")
    return len(given) if isinstance(given, list) else 0


def _object(holder: Any, name: str) -> dict[str, Any]:
    """The object that `holder` has under this name; an empty one for anything else."""
    value = holder.get(name) if isinstance(holder, dict) else None
    return value if isinstance(value, dict) else {}


def misfit(path: str, request: bytes, content_type: str, reply: bytes) -> str:
    """Why a 2xx reply is none to this very request; "" if it may be one.

    A server that ignores `n`, or answers one prompt of several, would have what it left out
    scored as something else, or another prompt's answer in its place.
    """
    streamed = content_type.startswith("text/event-stream")
    if streamed and b'"stream"' not in request:
        return "it is a stream, and none was asked for"
    if streamed or not (b'"n"' in request or _MANY_PROMPTS.search(request)):
        return ""
    try:
        asked = parse_json(request)
        wanted = _choices_wanted(asked) if _is_generation(path) and isinstance(asked, dict) else 0
        answer = parse_json(reply) if wanted else None
    except ValueError:
        return ""  # whoever sent what is no JSON knows what it gets
    choices = answer.get("choices") if isinstance(answer, dict) else None
    given = len(choices) if isinstance(choices, list) else 0
    return "" if given == wanted else f"it has {given} choices, and {wanted} were asked for"


def _choices_wanted(asked: dict[str, Any]) -> int:
    """The choices that a request must get; 0 where that is not certain."""
    copies = asked.get("n", 1)
    if copies is None:
        copies = 1
    if not isinstance(copies, int) or copies < 1:
        return 0
    prompts = asked.get("prompt")
    if not isinstance(prompts, list) or "messages" in asked:
        return copies
    single = all(isinstance(part, int) for part in prompts)  # one prompt, of token ids
    return copies if single else copies * len(prompts)


def describe(status: int, body: bytes) -> str:
    """One line on a reply for people: the status and the server's own message."""
    message: Any = body[: 8 * _MOST_SHOWN].decode("utf-8", "replace")
    try:
        value = orjson.loads(body) if len(body) <= _MOST_PARSED else None
        error = value.get("error", value) if isinstance(value, dict) else value
        told = error.get("message", error) if isinstance(error, dict) else error
        message = message if told is None else str(told)
    except (orjson.JSONDecodeError, RecursionError):
        pass
    # What a server says must not steer the terminal that shows it.
    plain = "".join(char if char.isprintable() else " " for char in message[: 8 * _MOST_SHOWN])
    return f"HTTP {status}: {' '.join(plain.split())[:_MOST_SHOWN]}"
