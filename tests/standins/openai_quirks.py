"""How Export-Deploy reads an OpenAI request and words its reply, faults included."""

from __future__ import annotations

import time
from typing import Any

Request = dict[Any, Any]


def inputs_of(request: Request, *, max_tokens: int, temperature: float = 0.0) -> dict[str, Any]:
    """What the engine is told; anything else in REQUEST is ignored."""
    result = {
        "max_tokens": request.get("max_tokens", max_tokens),
        "temperature": request.get("temperature", temperature),
        "top_k": request.get("top_k", 0),
        "top_p": request.get("top_p", 0.0),
        "logprobs": request.get("logprobs", 0),
        "echo": request.get("echo", False),
    }
    if request.get("temperature", 0.0) == 0.0 and result["top_p"] == 0.0:
        result["top_k"] = 1
    stop = request.get("stop") or []
    result["stop"] = [stop] if isinstance(stop, str) else stop
    return result


def reply(
    kind: str, model: str, choice: dict[str, Any], words: int, text: str, max_tokens: int
) -> dict[str, Any]:
    """The reply around CHOICE: its usage counts words, and characters are compared with tokens."""
    new = len(text.split())
    now = int(time.time())
    return {
        "id": f"{'chatcmpl' if 'message' in choice else 'cmpl'}-{now}",
        "object": kind,
        "created": now,
        "model": model,
        "choices": [
            {
                **choice,
                "index": 0,
                "finish_reason": "length" if len(text) >= max_tokens else "stop",
            }
        ],
        "usage": {"prompt_tokens": words, "completion_tokens": new, "total_tokens": words + new},
    }
