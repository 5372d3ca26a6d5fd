"""Model servers started as a run starts them: a process, its log, and its readiness."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from evalhpc import process
from evalhpc.deploy.access import TOKEN_VARIABLE
from evalhpc.deploy.readiness import Kind, wait_ready
from tests.integration.cluster import wait_until

TOKEN = "token-of-the-test"

_QUICK = Path(__file__).with_name("quick_server.py")


@dataclass(frozen=True)
class ModelServer:
    """A server that is ready; `client` sends the token and starts at the server's root."""

    url: str  # ends in /v1
    client: httpx.Client
    child: subprocess.Popen[bytes]
    log: Path


def free_port() -> int:
    """One of those below what the kernel gives out itself, lest another test gets it meanwhile."""
    for _ in range(100):
        port = random.randrange(10_000, 32_000)
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")


@contextmanager
def quick_endpoint(*mode: object) -> Iterator[str]:
    """`quick_server.py` with the model `outside`, once it listens; its base URL."""
    port = free_port()
    words = [sys.executable, _QUICK, "127.0.0.1", port, "outside", *mode]
    with subprocess.Popen([*map(str, words)]) as child:
        try:
            wait_until(lambda: _listens(port), timeout=20, what=f"port {port} listens", every=0.05)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            child.terminate()


def _listens(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def serving(
    module: str,
    model: Path,
    model_id: str,
    log: Path,
    *options: str,
    token: str | None = TOKEN,
    kind: Kind = "completions",
    port: int | None = None,
) -> Iterator[ModelServer]:
    """`python -m evalhpc.deploy.MODULE` on `port` or a free one, ready; ended with the block."""
    port = port or free_port()
    env = {key: value for key, value in os.environ.items() if key != TOKEN_VARIABLE}
    if token:
        env[TOKEN_VARIABLE] = token
    argv = [
        sys.executable, "-m", f"evalhpc.deploy.{module}", "--model", str(model),
        "--model-id", model_id, "--host", "127.0.0.1", "--port", str(port), *options,
    ]  # fmt: skip
    child = process.start(argv, log=log, env=env)
    url = f"http://127.0.0.1:{port}/v1"
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        wait_ready(url, model_id, kind=kind, token=token, deadline=400, alive=child.poll, log=log)
        with httpx.Client(base_url=url[:-3], headers=headers, timeout=400) as client:
            yield ModelServer(url, client, child, log)
    finally:
        process.stop(child)
