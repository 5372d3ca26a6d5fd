"""What the connections of one server share: handler, token, limits, and the words of a refusal."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from evalhpc.http.incoming import (
    BadMessage,
    BodyTooLarge,
    HeadTooLarge,
    Held,
    UpgradeAsked,
)
from evalhpc.http.messages import HttpReply, HttpRequest, error_reply

#: Seconds between two looks at all connections.
LOOK = 15.0
#: Looks until a connection ends: one whose client is slow to say what it wants (or holds no token),
#: and one on which nothing happens. Clients keep connections; what they find closed they open anew.
SLOW_LOOKS, QUIET_LOOKS = 8, 60
#: Connections on which nobody has said yet that he may ask; a further one ends the oldest.
MOST_STRANGERS = 8192
#: Bodies that are received at the same time, in units of the largest one.
_BODIES = 8

Handler = Callable[[HttpRequest], "HttpReply | Awaitable[HttpReply]"]


class Connection(Protocol):
    """What the server asks of its connections when it closes."""

    def wind_down(self) -> None:
        """End now if idle, else with the answer in progress."""

    def abort(self) -> None:
        """End at once."""

    def look(self) -> None:
        """End where the client has had its time; called every LOOK seconds."""


@dataclass(slots=True)
class Service:
    """What all connections of one server share."""

    handler: Handler
    loop: asyncio.AbstractEventLoop
    token: bytes | None
    max_body: int
    report: Callable[[HttpRequest, BaseException], None]
    most_strangers: int = MOST_STRANGERS
    connections: set[Connection] = field(default_factory=set)
    strangers: dict[Connection, None] = field(default_factory=dict)  # the oldest first
    closing: bool = False
    emptied: asyncio.Event = field(default_factory=asyncio.Event)
    held: Held = field(init=False)
    _next_look: asyncio.TimerHandle | None = None

    def __post_init__(self) -> None:
        self.held = Held(_BODIES * self.max_body)

    def meet(self, connection: Connection) -> None:
        """A client came; whoever floods us with connections ends his own, and not the others'."""
        self.connections.add(connection)
        self.strangers[connection] = None
        if len(self.strangers) > self.most_strangers:
            oldest = next(iter(self.strangers))
            del self.strangers[oldest]
            oldest.abort()

    def part(self, connection: Connection) -> None:
        """A client went."""
        self.connections.discard(connection)
        self.strangers.pop(connection, None)
        if not self.connections:
            self.emptied.set()

    def watch(self) -> None:
        """Look at the connections from now on, until `unwatch`.

        They count looks instead of seconds: a loop that was held up has not looked meanwhile.
        """
        self._next_look = self.loop.call_later(LOOK, self._look)

    def unwatch(self) -> None:
        """Look no more."""
        if self._next_look is not None:
            self._next_look.cancel()

    def _look(self) -> None:
        self.watch()
        for connection in tuple(self.connections):
            connection.look()


class Asked(NamedTuple):
    """A complete request that waits for its turn on its connection."""

    request: HttpRequest
    refusal: HttpReply | None  # decided already, without the handler
    keep: bool  # the client wants the connection to stay
    named: bool  # the client sent a Connection header: an HTTP/1.0 one needs the same back
    old: bool  # HTTP/1.0: no chunked transfer


def offered_token(fields: Mapping[bytes, bytes]) -> bytes:
    """The token that a request carries, as a bearer or in one of the usual key headers."""
    value = fields.get(b"authorization", b"")
    if value[:7].lower() == b"bearer ":
        return value[7:].strip()
    return fields.get(b"api-key") or fields.get(b"x-api-key") or b""


def refusal_of(error: BadMessage) -> HttpReply:
    """The last reply to a peer whose message cannot be read on."""
    if isinstance(error, BodyTooLarge):
        return error_reply(413, f"request body too large: {error}")
    if isinstance(error, HeadTooLarge):
        return error_reply(431, f"request head too large: {error}")
    if isinstance(error, UpgradeAsked):
        return error_reply(501, "only HTTP/1.1 without protocol upgrades is spoken here")
    return error_reply(400, f"malformed HTTP request: {error}")
