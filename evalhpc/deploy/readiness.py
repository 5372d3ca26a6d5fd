"""Whether a model server answers: proved by a real completion of one token, never by /health.

Health routes say yes before the weights are loaded and after the model has died.
"""

from __future__ import annotations

import difflib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import httpx
import tenacity

from evalhpc.containers.explain import explain
from evalhpc.core.masking import Mask
from evalhpc.deploy.access import TOKEN_VARIABLE, is_loopback
from evalhpc.errors import EndpointError

Kind = Literal["completions", "chat", "embeddings", "rerank"]

#: What a reply of each kind has: the name of its list, and a field of the list's items.
_SHAPES: dict[Kind, tuple[str, str]] = {
    "completions": ("choices", "text"),
    "chat": ("choices", "message"),
    "embeddings": ("data", "embedding"),
    "rerank": ("results", "index"),
}

_FIRST_PAUSE = 0.1  # seconds between two attempts, doubling up to the longest
_LONGEST_PAUSE = 3.0
_LONGEST_REQUEST = 300.0  # seconds for one attempt, so that a hung server is asked again
_LOG_LINES = 20
_LOG_BYTES = 16_384
_SHOWN = 400  # characters of a reply that an error shows
_MOST_BYTES = 16 << 20  # of a reply; a completion of one token, or a list of models


@dataclass(frozen=True)
class _Target:
    """The server asked, and how."""

    client: httpx.Client
    url: str  # ends in /v1
    model_id: str
    kind: Kind
    token_variable: str


class _NotReady(Exception):
    """An attempt that may go well later; the text says what came."""


def wait_ready(
    base_url: str,
    model_id: str,
    *,
    kind: Kind,
    token: str | None,
    deadline: float,
    alive: Callable[[], int | None] = lambda: None,
    log: Path | None = None,
    token_variable: str = TOKEN_VARIABLE,
) -> float:
    """Ask `base_url` (ends in /v1) until it completes one token; returns the seconds that took.

    `deadline` is in seconds from now; `alive` returns the server's exit code, or None while it
    runs. Raises EndpointError, early where waiting cannot help: the server's process ended (with
    the end of `log`), access is denied, the request or the model's name is refused.
    """
    begin = time.monotonic()

    def attempt() -> None:
        code = alive()
        if code is not None:
            raise server_ended(base_url, code, log, token, when="before it answered")
        left = max(1.0, begin + deadline - time.monotonic())
        with client_for(base_url, token) as client:
            target = _Target(client, base_url.rstrip("/"), model_id, kind, token_variable)
            _complete(target, min(left, _LONGEST_REQUEST))

    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(_NotReady),
        wait=tenacity.wait_exponential(_FIRST_PAUSE, max=_LONGEST_PAUSE),
        stop=tenacity.stop_after_delay(deadline),
        reraise=True,
    )
    try:
        retrying(attempt)
    except _NotReady as error:
        raise EndpointError(
            f"{base_url} completed nothing within {deadline:g} s: {error}" + _tail(log, token),
            cause="the model is still loading, or the server hangs",
            hint="raise run.ready_timeout, or read the server's log"
            + (f": less {log}" if log else ""),
            transient=True,
        ) from error
    return time.monotonic() - begin


def probe_endpoint(
    url: str,
    model_id: str,
    token: str | None,
    *,
    kind: Kind = "completions",
    token_variable: str = "OPENAI_API_KEY",
    timeout: float = 60.0,
) -> None:
    """Prove an endpoint that is already up with one completion of one token.

    Raises EndpointError when it refuses the connection, denies access, does not know the model
    (the text lists those it has) or does not speak OpenAI's protocol.
    """
    with client_for(url, token) as client:
        target = _Target(client, url.rstrip("/"), model_id, kind, token_variable)
        try:
            _complete(target, timeout)
        except _NotReady as error:
            raise EndpointError(
                f"{url} does not answer a completion: {error}",
                cause="no server there, one still loading, or one that is not OpenAI-compatible"
                + ("" if target.url.endswith("/v1") else "; the URL does not end in /v1"),
                hint=f"curl -i {target.url}/models",
                transient=True,
            ) from error


def refuse_open(url: str, model_id: str, kind: Kind) -> None:
    """Raises EndpointError for a server that answers a request without the token it was given."""
    path, body = smallest_request(kind, model_id)
    with client_for(url, None) as client:
        try:
            reply = client.post(url.rstrip("/") + path, json=body, timeout=60)
        except httpx.HTTPError as error:
            raise EndpointError(
                f"{url} failed as soon as it was ready: {error}", transient=True
            ) from error
    if reply.is_success:
        raise EndpointError(
            f"{url} answers without the token that it was started with: every user of its node "
            "could ask the model",
            cause="this version of the server, or a template of the site, ignores "
            f"{TOKEN_VARIABLE}",
            hint="have it check the token, or give jobs their nodes alone: "
            "--set 'slurm.extra=[--exclusive]'",
        )


def client_for(url: str, token: str | None) -> httpx.Client:
    """A client for the control requests of one server; raises EndpointError for what is no URL."""
    try:
        host = httpx.URL(url).host
    except httpx.InvalidURL as error:
        raise EndpointError(f"{url!r} is not a URL: {error}", hint="http://HOST:PORT/v1") from error
    # A site's http_proxy often lacks a no_proxy for loopback: never ask a proxy for this machine.
    return _Client(
        trust_env=not is_loopback(host),
        follow_redirects=True,
        event_hooks={"response": [_bound]},
        headers={
            "Accept-Encoding": "identity",
            **({"Authorization": f"Bearer {token}"} if token else {}),
        },
    )


class _Client(httpx.Client):
    """Bounds the time of a whole exchange; httpx waits as long as anything comes, if but a byte.

    One that was late is closed for good.
    """

    def send(self, request: httpx.Request, **options: Any) -> httpx.Response:
        """As httpx's; raises ReadTimeout where head and body take longer than may pass without."""
        asked = request.extensions.get("timeout", {}).get("read")
        limit = min(asked or _LONGEST_REQUEST, _LONGEST_REQUEST)
        late = threading.Event()

        def give_up() -> None:
            late.set()
            self.close()

        timer = threading.Timer(limit, give_up)
        timer.daemon = True
        timer.start()
        try:
            return super().send(request, **options)
        except (httpx.HTTPError, OSError, RuntimeError, ValueError) as error:
            if not late.is_set():
                raise
            what = f"no whole reply within {limit:g} s"
            raise httpx.ReadTimeout(what, request=request) from error
        finally:
            timer.cancel()


class _Bounded(httpx.SyncByteStream):
    """The body of a reply, within _MOST_BYTES."""

    def __init__(self, stream: httpx.SyncByteStream) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[bytes]:
        read = 0
        for piece in self._stream:
            read += len(piece)
            if read > _MOST_BYTES:
                raise httpx.ReadError(f"a reply without end: {read} bytes so far")
            yield piece

    def close(self) -> None:
        self._stream.close()


def _bound(reply: httpx.Response) -> None:
    """Before a body is read: httpx itself reads for as long as a server sends, and unpacks."""
    if reply.headers.get("content-encoding", "identity") != "identity":
        raise httpx.DecodingError("it sends an encoded body, which was not asked for")
    assert isinstance(reply.stream, httpx.SyncByteStream)
    reply.stream = _Bounded(reply.stream)


def _complete(target: _Target, timeout: float) -> None:
    """One attempt; raises _NotReady where another may go better, else EndpointError."""
    path, body = smallest_request(target.kind, target.model_id)
    try:
        reply = target.client.post(target.url + path, json=body, timeout=timeout)
    except httpx.UnsupportedProtocol as error:
        raise EndpointError(
            f"{target.url} cannot be asked: {error}", hint="http://HOST:PORT/v1"
        ) from error
    except httpx.TransportError as error:
        raise _NotReady(f"{type(error).__name__}: {error}") from error
    except httpx.HTTPError as error:
        raise EndpointError(f"{target.url}{path} cannot be asked: {error}") from error
    if reply.status_code in (401, 403):
        raise _denied(target, reply)
    if reply.status_code == 404:
        _check_model(target)
    if reply.status_code in (400, 422):
        raise EndpointError(
            f"{target.url}{path} refuses a plain request: {_shown(reply)}",
            cause="the server takes other fields than OpenAI's, or serves no such endpoint",
            hint=f"choose benchmarks for another endpoint than {target.kind!r}",
        )
    if reply.status_code != 200:
        raise _NotReady(_shown(reply))
    _check_shape(target, path, reply)


def smallest_request(kind: Kind, model_id: str) -> tuple[str, dict[str, Any]]:
    """(path below the API root, body) of a real request that costs a server least."""
    body: dict[str, Any] = {"model": model_id, "max_tokens": 1, "temperature": 0}
    if kind == "chat":
        return "/chat/completions", {**body, "messages": [{"role": "user", "content": "Hello"}]}
    if kind == "embeddings":
        return "/embeddings", {"model": model_id, "input": "Hello"}
    if kind == "rerank":
        documents = ["Hello", "Goodbye"]
        return "/rerank", {"model": model_id, "query": "Hello", "documents": documents}
    return "/completions", {**body, "prompt": "Hello"}


def _check_shape(target: _Target, path: str, reply: httpx.Response) -> None:
    """Raises EndpointError unless the first item of the reply has what such a reply is for."""
    items, field = _SHAPES[target.kind]
    try:
        reply.json()[items][0][field]
    except (ValueError, KeyError, IndexError, TypeError, RecursionError) as error:
        raise EndpointError(
            f"{target.url}{path} is not OpenAI-compatible: {_shown(reply)}",
            cause=f"the reply has no {items}[0].{field}",
            hint=f"curl -i {target.url}/models",
        ) from error


def _check_model(target: _Target) -> None:
    """After a 404: raises EndpointError when the server lists its models without ours."""
    try:
        listed = target.client.get(f"{target.url}/models", timeout=30).json()["data"]
        ids = sorted(str(entry["id"]) for entry in listed)
    except (httpx.HTTPError, ValueError, KeyError, TypeError, RecursionError):
        return  # no list: the 404 may be of a server that is still starting
    if not ids or target.model_id in ids:
        return
    near = difflib.get_close_matches(target.model_id, ids, n=1, cutoff=0.0)[0]
    raise EndpointError(
        f"{target.url} does not serve the model {target.model_id!r}",
        cause=f"it serves: {', '.join(ids)}",
        hint=f"perhaps you meant --model-id {near}",
    )


def _denied(target: _Target, reply: httpx.Response) -> EndpointError:
    name = target.token_variable
    if "authorization" in target.client.headers:
        cause, hint = "the key that was sent is wrong", f"correct the value of {name}"
    else:
        cause = "no key was sent"
        hint = f"put the key in an environment variable and name that: --api-key-env {name}"
    return EndpointError(
        f"{target.url} denies access ({reply.status_code}): {_shown(reply)}", cause=cause, hint=hint
    )


def server_ended(
    url: str, code: int, log: Path | None, token: str | None, *, when: str
) -> EndpointError:
    """The error for a server whose process ended, with its exit code and the end of its log."""
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    tail = _tail(log, token)
    cause = "see the last lines of its log; signal 9 is most often a lack of memory"
    hint = f"less {log}" if log else "run the rendered scripts/server.sh by hand"
    in_image = explain(tail.replace("\n  | ", "\n"))
    if in_image:
        said, why, step = in_image
        cause, hint = f"the image did not start: {why or said}", step or hint
    return EndpointError(
        f"the model server for {url} ended ({how}) {when}{tail}", cause=cause, hint=hint
    )


def _shown(reply: httpx.Response) -> str:
    """Status and the beginning of the text, without the key, which some servers send back."""
    sent = reply.request.headers.get("authorization", "").removeprefix("Bearer ")
    text = Mask([sent]).text(reply.text.strip())
    return f"HTTP {reply.status_code} {text[:_SHOWN]}"


def _tail(log: Path | None, token: str | None) -> str:
    """The end of the log as lines of an error's text, without the token."""
    if log is None or not log.is_file():
        return ""
    with log.open("rb") as stream:
        stream.seek(max(0, log.stat().st_size - _LOG_BYTES))
        text = stream.read().decode(errors="replace")
    text = Mask([token or ""]).text(text)
    lines = [line for line in text.splitlines() if line.strip()][-_LOG_LINES:]
    return "".join(f"\n  | {line}" for line in lines)
