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


def test_sglang_asks_for_its_key_which_stands_in_no_argument_list(tmp_path: Path) -> None:
    """Neither of the server nor of the processes that it spawns."""
    spec = make_spec(
        site={"name": "s", "scheduler": "local"},
        model={"model_id": "m", "format": "hf", "path": "/m", "url": None},
        deployment={"kind": "sglang", "python": sys.executable},
        python=sys.executable,
    )
    script = tmp_path / "server.sh"
    script.write_text(render_run(spec, str(tmp_path), load_sources(None))["server.sh"])
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
