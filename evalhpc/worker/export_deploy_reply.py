"""Replies of an Export-Deploy server as OpenAI's: aligned, trimmed, cut, and put together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from evalhpc.core.identity import parse_json
from evalhpc.core.stubs.fields import dump
from evalhpc.core.stubs.streams import server_sent
from evalhpc.errors import EndpointError
from evalhpc.worker.export_deploy_request import Asked

#: Rounding between two ways in which the server prints the same log-probability.
_CLOSE = 1e-3


def joined_body(asked: Asked, bodies: Sequence[bytes]) -> tuple[str, bytes]:
    """(content type, body) of the answer made from the replies to each request sent, in order.

    Raises EndpointError for a reply whose log-probabilities cannot be told from padding.
    """
    replies = [parse_json(body) for body in bodies]
    choices: list[dict[str, Any]] = []
    for number, content in enumerate(asked.contents):
        sent = asked.sent_for_each
        own = [_choice(asked, content, r) for r in replies[number * sent : (number + 1) * sent]]
        choices += own * asked.copies if sent == 1 else own
    choices = [{"index": index, **choice} for index, choice in enumerate(choices)]
    head = {key: replies[0][key] for key in ("id", "created", "model") if key in replies[0]}
    if asked.stream:
        return "text/event-stream", _events(asked, head, choices)
    kind = "chat.completion" if asked.chat else "text_completion"
    # No `usage`: the server counts words.
    return "application/json", dump({**head, "object": kind, "choices": choices})


def generated_text(body: bytes) -> str:
    """The text of a reply's one choice, of either kind."""
    choice = parse_json(body)["choices"][0]
    return _text(choice["message"], "content") if "message" in choice else _text(choice, "text")


def _choice(asked: Asked, content: Any, reply: dict[str, Any]) -> dict[str, Any]:
    choice = reply["choices"][0]
    limit: int = asked.settings["max_tokens"]
    if asked.chat:
        text, cut = _until_stop(_text(choice.get("message"), "content"), asked.stop)
        message = {"role": "assistant", "content": text}
        return {"message": message, "logprobs": None, "finish_reason": _reason(text, limit, cut)}
    text = _text(choice, "text")
    # The server cuts a text at the end-of-text mark, in an echoed prompt too.
    prompt = content if asked.echo and text.startswith(content) else ""
    if asked.echo and not prompt and (asked.stop or asked.logprobs is None):
        raise _wrong("it echoed another prompt than it was sent")
    generated, cut = _until_stop(text[len(prompt) :], asked.stop)
    logprobs = None
    if "logprobs" in asked.settings:
        logprobs = _logprobs(choice.get("logprobs"), echo=asked.echo)
        if asked.logprobs is None:
            logprobs = None
        elif asked.logprobs == 0:
            logprobs["top_logprobs"] = None
    reason = _reason(generated, limit, cut)
    return {"text": prompt + generated, "logprobs": logprobs, "finish_reason": reason}


def _text(holder: Any, name: str) -> str:
    text = holder.get(name) if isinstance(holder, dict) else None
    if not isinstance(text, str):
        raise _wrong(f"its reply has no {name}")
    return text


def _until_stop(text: str, stop: Sequence[str]) -> tuple[str, bool]:
    """The text before the first stop word, as OpenAI gives it; and whether it had one."""
    places = [place for word in stop if (place := text.find(word)) >= 0]
    return (text[: min(places)], True) if places else (text, False)


def _reason(generated: str, limit: int, cut: bool) -> str | None:
    """`stop` where that is certain; the server's own word compares characters with tokens.

    A token is at least a byte of text, so that fewer bytes than `limit` were not cut off by it.
    """
    return "stop" if cut or len(generated.encode("utf-8", "replace")) < limit else None


def _logprobs(given: Any, *, echo: bool) -> dict[str, Any]:
    """Log-probabilities with one entry a token in both lists.

    In a batch, echoed ones are padded with zeros to the longest. The lists of alternatives are
    not: they have the true length, but no entry for the first token of an echoed prompt.
    """
    given = given if isinstance(given, dict) else {}
    tokens, tops = given.get("token_logprobs"), given.get("top_logprobs")
    if not isinstance(tokens, list) or not isinstance(tops, list):
        raise _wrong(
            "its log-probabilities have no `top_logprobs`, without which padding cannot be told "
            "from the log-probability 0"
        )
    while tops and not tops[-1]:
        tops = tops[:-1]
    if echo:  # neither list has a value for the first token, and one or both have no place for it
        tokens = tokens if tokens[:1] == [None] else [None, *tokens]
        tops = tops if tops and not tops[0] else [None, *tops]
    padding = tokens[len(tops) :]
    tokens = tokens[: len(tops)]
    if len(tokens) < len(tops) or any(value != 0 for value in padding):
        raise _wrong(
            f"its reply has {len(tokens) + len(padding)} log-probabilities for {len(tops)} tokens"
        )
    if echo and len(tokens) < 2:
        raise _wrong("it gave no log-probabilities of the prompt")
    _check_aligned(tokens[1:] if echo else tokens, tops[1:] if echo else tops)
    return {"token_logprobs": tokens, "top_logprobs": tops}


def _check_aligned(tokens: list[Any], tops: list[Any]) -> None:
    """No token can be likelier than the likeliest one at its place."""
    for value, top in zip(tokens, tops, strict=True):
        numbers = [value, *top.values()] if isinstance(top, dict) and top else [None]
        if not all(isinstance(number, (int, float)) for number in numbers):
            raise _wrong("its log-probabilities are no numbers")
        if value > max(top.values()) + _CLOSE:
            raise _wrong("its log-probabilities do not belong to the alternatives beside them")


def _events(asked: Asked, head: dict[str, Any], choices: list[dict[str, Any]]) -> bytes:
    """The answer as a stream would bring it: per choice its content, then its end."""
    kind = "chat.completion.chunk" if asked.chat else "text_completion"
    events: list[dict[str, Any]] = []
    for choice in choices:
        index, reason = choice["index"], choice["finish_reason"]
        if asked.chat:
            contents = [{"delta": choice["message"], "logprobs": None}, {"delta": {}}]
        else:
            contents = [
                {"text": choice["text"], "logprobs": choice["logprobs"]},
                {"text": "", "logprobs": None},
            ]
        for content, end in zip(contents, (None, reason), strict=True):
            part = {"index": index, **content, "finish_reason": end}
            events.append({**head, "object": kind, "choices": [part]})
    return server_sent(events)


def _wrong(what: str) -> EndpointError:
    return EndpointError(
        f"the Export-Deploy server's reply cannot be used: {what}",
        cause="a version of Export-Deploy that this one does not know",
        hint="serve with --max_batch_size 1, or serve the model with vllm",
    )
