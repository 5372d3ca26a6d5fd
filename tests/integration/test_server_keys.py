"""A server's key reaches it, and no list of processes."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

from evalhpc.config.template_files import load_sources
from evalhpc.core.rendering import render_run
from tests.factories import make_spec
from tests.integration.cluster import wait_until
from tests.integration.model_servers import free_port

KEY = "0123456789abcdef-key"
STANDINS = Path(__file__).parents[1] / "standins"


def _asked(port: int, key: str) -> tuple[int, str]:
    """(status, body) of a GET with this key; 0 while nobody listens."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/models", headers={"authorization": f"Bearer {key}"}
    )
    try:
        with urllib.request.urlopen(request) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, ""
    except OSError:
        return 0, ""


def _script(folder: Path, kind: str) -> Path:
    """The server script of a deployment, at a site without Slurm and images."""
    spec = make_spec(
        site={"name": "s", "scheduler": "local"},
        model={"model_id": "m", "format": "hf", "path": "/m", "url": None},
        deployment={"kind": kind, "python": sys.executable},
        python=sys.executable,
    )
    script = folder / "server.sh"
    script.write_text(render_run(spec, str(folder), load_sources(None))["server.sh"])
    return script


def test_sglang_asks_for_its_key_which_stands_in_no_argument_list(tmp_path: Path) -> None:
    """Neither of the server nor of the processes that it spawns."""
    script = _script(tmp_path, "sglang")
    port = free_port()
    env = {
        **os.environ, "PYTHONPATH": str(STANDINS), "EVALHPC_SERVER_TOKEN": KEY,
        "EVALHPC_HOST": "127.0.0.1", "EVALHPC_PORT": str(port),
    }  # fmt: skip
    server = subprocess.Popen(["bash", str(script)], env=env, cwd=tmp_path)
    try:
        wait_until(lambda: _asked(port, KEY)[0] == 200, timeout=60, what="the server answers")
        assert _asked(port, "another")[0] == 401
        of_its_own = _asked(port, KEY)[1]
        assert "spawn_main" in of_its_own
        assert KEY not in of_its_own
        line = Path(f"/proc/{server.pid}/cmdline").read_text()
        assert "sglang.launch_server" in line
        assert KEY not in line
    finally:
        server.kill()
        server.wait()


#: Stands in for vLLM: applies its middleware as vLLM does, and says what each route answers.
_VLLM = """#!{python}
import asyncio, importlib, os, sys
option = [word for word in sys.argv if word.startswith("--middleware=")]
assert os.environ["VLLM_API_KEY"] not in " ".join(sys.argv)
module, name = option[0].partition("=")[2].rsplit(".", 1)

async def app(scope, receive, send):
    await send({{"type": "http.response.start", "status": 200, "headers": []}})

guarded = getattr(importlib.import_module(module), name)(app)

async def status(path, header, kind="http"):
    sent = []
    async def send(message):
        sent.append(message.get("status", message["type"]))
    headers = [(b"authorization", header.encode())] if header else []
    await guarded({{"type": kind, "path": path, "headers": headers}}, None, send)
    return sent[0]

for path in ("/v1/completions", "/invocations", "/health"):
    for header in ("", "Bearer no", "Bearer " + os.environ["VLLM_API_KEY"]):
        print(path, asyncio.run(status(path, header)))
print(asyncio.run(status("/v1/realtime", "", "websocket")))
"""


def test_every_route_of_vllm_asks_for_its_key(tmp_path: Path) -> None:
    """Its own check leaves out what is not below /v1, some of which generates."""
    vllm = tmp_path / "bin" / "vllm"
    vllm.parent.mkdir()
    vllm.write_text(_VLLM.format(python=sys.executable))
    vllm.chmod(0o755)
    env = {
        **os.environ, "PATH": f"{vllm.parent}:{os.environ['PATH']}", "EVALHPC_SERVER_TOKEN": KEY,
        "EVALHPC_HOST": "127.0.0.1", "EVALHPC_PORT": "1",
    }  # fmt: skip
    done = subprocess.run(
        ["bash", str(_script(tmp_path, "vllm"))],
        env=env, cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout.splitlines() == [
        *(f"{path} {status}" for path in ("/v1/completions", "/invocations")
          for status in (401, 401, 200)),
        *["/health 200"] * 3,
        "websocket.close",
    ], done.stderr  # fmt: skip
    assert [path.name for path in (tmp_path / "endpoints" / "guard").glob("*.py")] == [
        "evalhpc_guard.py"
    ]
    assert not list((tmp_path / "endpoints" / "guard").glob("part.*"))
