"""A model server of a few lines, which answers a prompt with its length; its mode says how it errs.

`quick_server.py HOST PORT MODEL [MODE [ONCE]]`. Modes: `hang` never answers, `die` ends while it
loads, `html` is another kind of server, `locked` wants another key, `open` none, `deaf` ignores
`echo`, `broken` fails on all but the readiness probe, `poison` and `teapot` on one prompt (500,
418), `teapots` on two, `slow` takes half a second a request, `fragile`
ends after three requests when it is shard 0's. `mortal` does so with the first one, and `zombie`
then answers GETs only; they do it where the file ONCE is not there, and make it. `counts` adds
a line for each request, with the time that it came, to a file of its own in the folder ONCE.
`needs` ends while it loads unless the file ONCE is there; `cursed` does so on the node that
started the first of them, whose name it leaves in ONCE.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

PROBE = "Hello"


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    model = ""
    mode = ""
    once = Path()
    token: str | None = None
    answered = 0
    hangs = False
    turn = threading.Lock()

    def do_GET(self) -> None:
        """The list of models."""
        self._answer(b"")

    def do_POST(self) -> None:
        """A completion, of either kind."""
        self._answer(self.rfile.read(int(self.headers.get("Content-Length") or 0)))

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""

    def _answer(self, body: bytes) -> None:
        if self.mode == "html":
            self._send(200, "<html>It works!</html>", "text/html")
        elif self.token and self.headers.get("Authorization") != f"Bearer {self.token}":
            self._send(401, {"error": {"message": "wrong key"}})
        elif not body:
            self._send(200, {"object": "list", "data": [{"id": self.model, "object": "model"}]})
        else:
            self._complete(json.loads(body))

    def _complete(self, request: dict[str, Any]) -> None:
        if request["model"] != self.model:
            self._send(404, {"error": {"message": "no such model"}})
            return
        prompt = request.get("prompt", PROBE)
        if self.mode == "counts":
            with (self.once / str(os.getpid())).open("a") as lines:
                lines.write(f"{time.monotonic()} {prompt}\n")
        if prompt != PROBE:
            self._err()
            if self._never(prompt):
                status = 500 if self.mode == "poison" else 418
                self._send(status, {"error": {"message": "not this one"}})
                return
            if self.mode == "broken":
                self._send(500, {"error": {"message": "CUDA error: an illegal memory access"}})
                return
        if self.hangs:
            time.sleep(600)
        choice: dict[str, Any] = {"index": 0, "text": str(len(prompt)), "finish_reason": "stop"}
        if "messages" in request:
            choice["message"] = {"role": "assistant", "content": "yes"}
        self._send(200, {"object": "text_completion", "model": self.model, "choices": [choice]})

    def _never(self, prompt: str) -> bool:
        """Whether this prompt is one that the server always fails on."""
        ends = {"poison": (" 3",), "teapot": (" 3",), "teapots": (" 3", " 5")}
        return self.mode in ends and prompt.endswith(ends[self.mode])

    def _err(self) -> None:
        if self.mode == "slow":
            time.sleep(0.5)
        with self.turn:  # what ends the server is answered by no other thread in between
            Handler.answered += 1
            if self.mode == "fragile" and Handler.answered > 3 and _shard() == "0":
                os._exit(9)
            if self.mode in ("mortal", "zombie") and _shard() == "0" and not self.once.exists():
                self.once.touch()
                if self.mode == "mortal":
                    print("CUDA error: device-side assert triggered", flush=True)
                    os.kill(os.getpid(), signal.SIGKILL)
                Handler.hangs = True
        if self.mode in ("mortal", "zombie") and _shard() != "0":
            time.sleep(0.5)  # so that there is work for shard 0 as well

    def _send(self, status: int, value: object, kind: str = "application/json") -> None:
        data = value.encode() if isinstance(value, str) else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def _shard() -> str:
    return os.environ.get("SLURM_ARRAY_TASK_ID") or os.environ.get("EVALHPC_SHARD", "")


def main(host: str, port: str, model: str, mode: str = "", once: str = "") -> None:
    """Serve until killed."""
    if mode == "die":
        print("loading 3 of 9 shards")
        sys.exit("OutOfMemoryError: tried to allocate 80 GiB")
    if mode == "needs":
        print(f"process {os.getpid()} looks for its weights")
        if not Path(once).exists():
            sys.exit("OSError: the weights are not there")
    if mode == "cursed":
        try:
            Path(once).symlink_to(os.uname().nodename)
        except FileExistsError:
            pass
        if str(Path(once).readlink()) == os.uname().nodename:
            sys.exit("RuntimeError: the driver is not loaded")
    if mode == "hang":
        time.sleep(600)
    Handler.model, Handler.mode, Handler.once = model, mode, Path(once)
    Handler.token = "another" if mode == "locked" else os.environ.get("EVALHPC_SERVER_TOKEN")
    if mode == "open":
        Handler.token = None
    ThreadingHTTPServer((host, int(port)), Handler).serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
