"""A toy Megatron checkpoint, a one-node Ray, and on it what stands in for Export-Deploy's server.

They run in an environment of their own (`scripts/test` makes it), as in a container.
"""

from __future__ import annotations

import os
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from evalhpc import process
from tests.integration.model_servers import free_port

STANDINS = Path(__file__).parents[1] / "standins"
SCRIPT = STANDINS / "deploy_ray_inframework.py"
#: Loopback, and not 127.0.0.1: Ray replaces that by the machine's address on its network.
LOOPBACK = "127.0.0.2"


def interpreter() -> Path:
    """The Python that has Ray and Megatron-core; skips where nobody installed them."""
    python = Path(sys.prefix) / "harnesses" / "megatron" / "bin" / "python"
    if not python.is_file():
        reason = f"{python} is missing: scripts/test makes it"
        required = os.environ.get("EVALHPC_REQUIRE_HARNESSES") == "1"
        pytest.fail(reason) if required else pytest.skip(reason)
    return python


def make_checkpoint(out: Path, *options: str) -> Path:
    """A checkpoint with a tokenizer beside it, of 4,096 positions; some 8 seconds."""
    port = str(free_port())
    process.run(
        [str(interpreter()), str(STANDINS / "make_megatron_checkpoint.py"), str(out),
         "--tokenizer", "--context", "4096", "--port", port, *options],
        timeout=400,
    )  # fmt: skip
    return out


@contextmanager
def ray_node(log: Path, *, gpus: int) -> Iterator[dict[str, str]]:
    """The environment in which `address="auto"` finds a Ray of one node; it has no such GPUs."""
    folder = Path(tempfile.mkdtemp(prefix="ray", dir="/tmp"))  # sockets need a short path
    port = free_port()
    env = {
        **{key: value for key, value in os.environ.items() if not key.startswith("RAY_")},
        "RAY_ADDRESS": f"{LOOPBACK}:{port}",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
    }
    argv = [
        interpreter().with_name("ray"), "start", "--head", "--block", "--disable-usage-stats",
        "--node-ip-address", LOOPBACK, "--port", port, "--ray-client-server-port", free_port(),
        "--dashboard-agent-listen-port", free_port(),
        "--min-worker-port", 0, "--max-worker-port", 0,  # any, and none of the above
        "--num-gpus", gpus, "--num-cpus", 16, "--object-store-memory", 80_000_000,
        "--include-dashboard=false", "--include-log-monitor=false", "--temp-dir", folder,
    ]  # fmt: skip
    child = process.start([*map(str, argv)], log=log, env=env)
    try:
        for _ in range(4000):
            if b"Ray runtime started" in log.read_bytes():
                break
            assert child.poll() is None, log.read_text()[-2000:]
            time.sleep(0.1)
        else:
            raise AssertionError(log.read_text()[-2000:])
        yield env
    finally:
        process.stop(child, grace=1)  # its workers end with it
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def deployed(
    checkpoint: Path, log: Path, env: Mapping[str, str], *options: str
) -> Iterator[httpx.Client]:
    """A client of the server, which says that it is healthy; its model may still be loading."""
    url = f"http://127.0.0.1:{free_port()}"
    argv = [
        interpreter(), SCRIPT, "--megatron_checkpoint", checkpoint,
        "--host", "127.0.0.1", "--port", url.rpartition(":")[2], *options,
    ]  # fmt: skip
    child = process.start([*map(str, argv)], log=log, env=env)
    try:
        with httpx.Client(base_url=url, timeout=400) as client:
            _until_healthy(client, log)
            yield client
    finally:
        process.stop(child, grace=1)  # its own way of ending waits for each replica


def _until_healthy(client: httpx.Client, log: Path) -> None:
    for _ in range(4000):
        try:
            if client.get("/v1/health").status_code == 200:
                return
        except httpx.TransportError:
            pass  # nothing listens yet
        time.sleep(0.1)
    raise AssertionError(log.read_text()[-2000:])
