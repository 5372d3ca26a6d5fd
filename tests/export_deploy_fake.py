"""What an Export-Deploy server does to one request or to a batch of them, in memory.

Its tokens are the words of a text, its log-probabilities a function of the token; as the real
one, it knows few fields, pads echoed log-probabilities to the longest of a batch, and fails with
500 on what it was not made for.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from typing import Any

from evalhpc.core.identity import Answer, Request

#: The only fields that it reads; whatever else it is sent changes nothing there.
KNOWN = frozenset({
    "model", "prompt", "messages", "max_tokens", "temperature", "top_k", "top_p", "logprobs",
    "echo", "stop",
})  # fmt: skip


def logprob(word: str) -> float:
    """What every occurrence of this word is worth."""
    return -(1 + zlib.crc32(word.encode()) % 400) / 64


def generated(prompt: str, fields: dict[str, Any]) -> str:
    """A continuation that shows what the server understood."""
    seen = {k: fields[k] for k in ("temperature", "top_p", "top_k", "max_tokens") if k in fields}
    return f" <{prompt[::-1]}> {json.dumps(seen, sort_keys=True)}"


def serve(batch: Sequence[Request]) -> list[Answer]:
    """Answer requests that arrived together, all with the settings of the first."""
    fields = [json.loads(request.body) for request in batch]
    first = fields[0]
    if not all(request.path in ("/completions/", "/chat/completions/") for request in batch):
        return [Answer(307, "text/plain", b"") for _ in batch]
    if first.get("echo") and not first.get("logprobs"):
        return [_error("'NoneType' object has no attribute 'insert'") for _ in batch]
    if not all(isinstance(f.get("prompt", ""), str) for f in fields):
        return [_error("expected string") for _ in batch]
    if first.get("temperature", 0) == 0 and first.get("top_p", 0) != 0:
        return [_error("top_p at temperature 0: division by zero") for _ in batch]
    replies = [_reply(request, own, first) for request, own in zip(batch, fields, strict=True)]
    _pad(replies)
    return [Answer(200, "application/json", json.dumps(r).encode(), 0.25, 1) for r in replies]


def _reply(request: Request, own: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    chat = "messages" in own
    prompt = own["messages"][-1]["content"] if chat else own["prompt"]
    text = generated(prompt, settings)
    choice: dict[str, Any] = {"index": 0, "finish_reason": "length", "logprobs": None}
    if chat:
        choice["message"] = {"role": "assistant", "content": text}
    else:
        choice["text"] = prompt + text if settings.get("echo") else text
        if settings.get("logprobs"):
            choice["logprobs"] = _logprobs(prompt, settings)
    usage = {"prompt_tokens": len(prompt.split()), "completion_tokens": len(text.split())}
    head = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "m"}
    return {**head, "choices": [choice], "usage": usage}


def _logprobs(prompt: str, settings: dict[str, Any]) -> dict[str, Any]:
    words = [*(prompt.split()[1:] if settings.get("echo") else ()), "generated"]
    values: list[float | None] = [logprob(word) for word in words]
    tops = [{"likeliest": -1 / 64, word: logprob(word)} for word in words]
    return {
        "token_logprobs": [None, *values] if settings.get("echo") else values,
        "top_logprobs": tops,
    }


def _pad(replies: Sequence[dict[str, Any]]) -> None:
    lists = [choice["logprobs"]["token_logprobs"] for r in replies
             if (choice := r["choices"][0])["logprobs"]]  # fmt: skip
    longest = max(map(len, lists), default=0)
    for values in lists:
        values += [0.0] * (longest - len(values))


def _error(what: str) -> Answer:
    body = json.dumps({"detail": f"Error during inference: {what}"}).encode()
    return Answer(500, "application/json", body)
