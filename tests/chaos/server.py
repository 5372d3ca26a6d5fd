"""A model server that never says the same twice, and takes as long as a model.

`server.py HOST PORT MODEL SECONDS COUNTS`: a request takes between a third of SECONDS and SECONDS,
by its prompt. Each answered prompt is a line in a file of this process in the folder COUNTS.

An answer is twelve hex digits that follow from the prompt; above temperature 0, a tail that is
another one each time comes behind them. The harness scores the digits, which can be compared with
those of a calm run, and asks its second question about the whole answer: one that takes the place
of another leads to questions that nobody has planned.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

#: What asks whether a server is ready.
PROBE = "Hello"
#: Begins the tail of an answer.
TAIL = "~"


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    model = ""
    seconds = 0.0
    counts = Path()
    token: str | None = None

    def do_GET(self) -> None:
        """The list of models."""
        self._send(200, {"object": "list", "data": [{"id": self.model, "object": "model"}]})

    def do_POST(self) -> None:
        """A completion."""
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.token and self.headers.get("Authorization") != f"Bearer {self.token}":
            self._send(401, {"error": {"message": "wrong key"}})
            return
        asked = json.loads(body)
        prompt = asked["prompt"]
        digest = hashlib.sha256(prompt.partition(TAIL)[0].encode()).digest()
        tail = TAIL + secrets.token_hex(4) if asked.get("temperature", 1) else ""
        time.sleep(self.seconds * (1 + digest[0] / 128) / 3)
        if prompt != PROBE:
            with (self.counts / str(os.getpid())).open("a") as lines:
                lines.write(f"{prompt}\n")
        choice = {"index": 0, "text": digest.hex()[:12] + tail, "finish_reason": "stop"}
        self._send(200, {"object": "text_completion", "model": self.model, "choices": [choice]})

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""

    def _send(self, status: int, value: object) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


class Server(ThreadingHTTPServer):
    """Threads of it end with it; a burst of connections may wait."""

    daemon_threads = True
    request_queue_size = 256


def main(host: str, port: str, model: str, seconds: str, counts: str) -> None:
    """Serve until killed."""
    Handler.model, Handler.seconds, Handler.counts = model, float(seconds), Path(counts)
    Handler.token = os.environ.get("EVALHPC_SERVER_TOKEN")
    Server((host, int(port)), Handler).serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
