"""How an exchange with a model server fails below HTTP's own status codes."""

from __future__ import annotations

from typing import Literal

from evalhpc.errors import EndpointError

FailureKind = Literal["refused", "unreachable", "tls", "timeout", "reset", "protocol", "too_large"]

_CAUSES: dict[FailureKind, str] = {
    "refused": "no server listens there: it has not started yet, or it died",
    "unreachable": "the host name or the network route is wrong",
    "tls": "the server's certificate is not trusted here, or it does not speak TLS",
    "timeout": "the server is overloaded or hangs, or the request is longer than the time limit",
    "reset": "the server died, restarted or ran out of memory while it answered",
    "protocol": "what listens there is not an HTTP/1.1 server, or a proxy garbled its reply",
    "too_large": "the server sends without end, or the request asks for far too much",
}


class TransportError(EndpointError):
    """No complete reply came; `kind` says how.

    Transient, but for an untrusted certificate and a body beyond the limit.
    """

    def __init__(self, kind: FailureKind, what: str, *, transient: bool = True) -> None:
        super().__init__(
            what,
            cause=_CAUSES[kind],
            hint="read the model server's log, and ask it for one completion by hand (curl)",
            transient=transient,
        )
        self.kind: FailureKind = kind
