"""As SGLang's: reads sys.argv, spawns a process, and asks for the key that it was given."""

from __future__ import annotations

import argparse
import multiprocessing
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path


def _worker(queue: multiprocessing.Queue[str]) -> None:
    queue.put(Path("/proc/self/cmdline").read_text())


def _main(words: list[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--host")
    parser.add_argument("--port", type=int)
    parser.add_argument("--api-key")
    options, _ = parser.parse_known_args(words)
    context = multiprocessing.get_context("spawn")
    queue: multiprocessing.Queue[str] = context.Queue()
    child = context.Process(target=_worker, args=(queue,))
    child.start()
    seen = queue.get()
    child.join()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            good = self.headers.get("authorization") == f"Bearer {options.api_key}"
            self.send_response(200 if good else 401)
            self.end_headers()
            self.wfile.write(seen.encode())

    HTTPServer((options.host, options.port), Handler).serve_forever()


if __name__ == "__main__":
    _main(sys.argv[1:])
