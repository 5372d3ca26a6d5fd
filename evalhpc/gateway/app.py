"""What the gateway answers: from the store, or a stub that is written to the plan."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote_to_bytes

import orjson

from evalhpc.core.identity import (
    Answer,
    Request,
    at_temperature_zero,
    make_key,
    parse_json,
    request_hash,
)
from evalhpc.core.planning import Occurrences
from evalhpc.core.stubs import carries_stub, make_stub
from evalhpc.http.messages import HttpReply, HttpRequest

API_ROOT = "/v1"
#: Answers a request while the harness waits; None for one that was given up.
Forward = Callable[[Request], Awaitable[Answer | None]]


@dataclass
class PassCounts:
    """What has come up in this pass so far."""

    asked: int = 0
    answered: int = 0
    misses: int = 0
    dependents: int = 0
    live: int = 0  # answered by the model while the harness waited
    repeats: int = 0  # of a miss whose one answer will serve them too, so not planned
    failed: int = 0  # given up for good: the harness got an error


@dataclass
class PassGateway:
    """The handler of one benchmark's pass: one endpoint, one store, one list of misses.

    With `share_at_zero`, identical requests at temperature 0 are one, whose answer serves all;
    otherwise the n-th of them gets the n-th answer. See `Occurrences` on retries of a stub.
    With `forward` a miss is asked live, and every request that is answered is recorded like a
    miss: the plan then holds all that the pass rests on.
    """

    benchmark: str
    endpoint: str
    model_id: str
    lookup: Callable[[bytes], Answer | None]
    record_miss: Callable[[Request], object]
    volatile: Collection[str] = ()
    share_at_zero: bool = False
    forward: Forward | None = None
    failed: Mapping[bytes, str] = field(default_factory=dict)  # key → why it was given up
    counts: PassCounts = field(default_factory=PassCounts)
    used: set[bytes] = field(default_factory=set)
    _occurrences: Occurrences = field(default_factory=Occurrences)
    #: With `forward`: the answers that serve further requests too, since no stub may.
    _shared: dict[bytes, asyncio.Future[Answer | None]] = field(default_factory=dict)

    def __call__(self, request: HttpRequest) -> HttpReply | Awaitable[HttpReply]:
        """Answer one call of the harness."""
        path = _api_path(request.target)
        if request.method in ("GET", "HEAD"):
            known = self._probe(path)
            if known is not None:
                return known
        else:
            self.counts.asked += 1
        if carries_stub(request.body) or carries_stub(request.target.encode()):
            # Its text depends on an answer that we lack; it comes up complete in a later pass.
            self.counts.dependents += 1
            return _stub(request, path)
        hash_ = request_hash(
            self.benchmark, self.endpoint, request.method, path, request.body, self.volatile
        )
        return self._answer(request, path, hash_)

    def _answer(
        self, request: HttpRequest, path: str, hash_: bytes
    ) -> HttpReply | Awaitable[HttpReply]:
        if self._occurrences.count(hash_):
            first = make_key(hash_, 0)
            known = self.lookup(first)
            shared = self.share_at_zero and at_temperature_zero(request.body)
            # A harness retries a refusal; a retry is not a new sample.
            if known is not None and (shared or 400 <= known.status < 500):
                return self._from_store(first, known)
            if shared and first in self.failed:
                return self._give_up(self.failed[first])
            if shared and first in self._shared:
                wanted = Request(
                    first, self.benchmark, self.endpoint, request.method, path, request.body
                )
                return self._live(self._shared[first], request, wanted)
            if shared:
                self.counts.repeats += 1
                return _stub(request, path)
        key = self._occurrences.next_key(hash_)
        wanted = Request(key, self.benchmark, self.endpoint, request.method, path, request.body)
        answer = self.lookup(key)
        if answer is not None:
            if self.forward is not None:
                self.record_miss(wanted)
            return self._from_store(key, answer)
        if self.failed and (reason := self._why_failed(key, hash_)) is not None:
            return self._give_up(reason)
        self.record_miss(wanted)
        if self.forward is not None:
            asking = asyncio.ensure_future(self.forward(wanted))
            if self.share_at_zero and at_temperature_zero(request.body):
                self._shared[key] = asking
            return self._live(asking, request, wanted)
        self.counts.misses += 1
        return _stub(request, path)

    async def _live(
        self, asking: asyncio.Future[Answer | None], request: HttpRequest, wanted: Request
    ) -> HttpReply:
        # Shielded: an answer is journalled even if the harness has hung up.
        answer = await asyncio.shield(asking)
        if answer is None:
            self.counts.misses += 1
            return _stub(request, wanted.path)
        self.counts.live += 1
        self.used.add(wanted.key)
        return HttpReply(answer.status, answer.body, answer.content_type)

    def _why_failed(self, key: bytes, hash_: bytes) -> str | None:
        """The reason of a request that was given up; asked again, it is the harness's retry."""
        return self.failed.get(key, self.failed.get(make_key(hash_, 0)))

    def _give_up(self, reason: str) -> HttpReply:
        """An error that clients do not retry: 400, in the shape of OpenAI's."""
        self.counts.failed += 1
        message = f"evalhpc: no answer to this request could be had ({reason})"
        error = {"message": message, "type": "invalid_request_error", "code": "request_failed"}
        return _json({"error": error}, status=400)

    def _from_store(self, key: bytes, answer: Answer) -> HttpReply:
        self.counts.answered += 1
        self.used.add(key)
        return HttpReply(answer.status, answer.body, answer.content_type)

    def _probe(self, path: str) -> HttpReply | None:
        """`/models` is ours to answer: the name is the run's, whichever replica serves it."""
        path = _as_text(path)
        entry = {"id": self.model_id, "object": "model", "created": 0, "owned_by": "evalhpc"}
        if path == "/models":
            return _json({"object": "list", "data": [entry]})
        if path == f"/models/{self.model_id}":
            return _json(entry)
        if path == "/health":
            return _json({"status": "ok"})
        return None


def _api_path(target: str) -> str:
    """`target` from the API root on, without a trailing slash: `/chat/completions?x=1`."""
    path, mark, query = target.partition("?")
    path = path.removeprefix(API_ROOT).rstrip("/") or "/"
    return f"{path}{mark}{query}"


def _as_text(path: str) -> str:
    """A path as people write it: clients send other letters than ASCII as bytes, or as %C3%A9."""
    return unquote_to_bytes(path.encode("latin-1", "replace")).decode("utf-8", "replace")


def _stub(request: HttpRequest, path: str) -> HttpReply:
    try:
        value = parse_json(request.body) if request.body else None
    except (ValueError, RecursionError):
        value = None
    stub = make_stub(request.method, path.partition("?")[0], value)
    return HttpReply(stub.status, stub.body, stub.content_type)


def _json(value: object, status: int = 200) -> HttpReply:
    return HttpReply(status, orjson.dumps(value), "application/json")
