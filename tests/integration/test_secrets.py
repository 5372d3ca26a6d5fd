"""Secrets on one machine: refused where they would be written, masked where they come back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from evalhpc import process
from evalhpc.core.masking import Mask, MaskedStream
from evalhpc.errors import ConfigError
from evalhpc.models.site import Secrets
from evalhpc.storage.scan import files_below, stream_has
from evalhpc.workflow.record.secrets import read_secrets
from tests.integration.quick_site import write_quick_site
from tests.integration.test_local_path import EVALHPC
from tests.models.checkpoints import write_hf

KEY = "endpoint-key/7d1f+0a9c=42"


def evalhpc(
    *words: object, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [EVALHPC, *map(str, words)], capture_output=True, text=True, timeout=400, check=False,
        env={**os.environ, **(env or {})},
    )  # fmt: skip


def secrets_left(folder: Path, *values: str) -> list[Path]:
    """Files below the folder that hold one of the values in any form, packed or not."""
    mask = Mask(values)
    longest = max(map(len, mask.forms))
    return [path for path in files_below(folder) if stream_has(path, mask.found_in, longest)]


class Parrot(BaseHTTPRequestHandler):
    """Answers a prompt, and sends the key back with it; denies it from the third prompt on."""

    protocol_version = "HTTP/1.1"
    asked = 0
    denies = True

    def do_GET(self) -> None:
        self._send(200, {"data": [{"id": "m"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        heard = self.headers.get("Authorization", "")
        if body.get("prompt") != "Hello":
            type(self).asked += 1
        if self.denies and self.asked > 2:
            self._send(401, {"error": {"message": f"Incorrect API key provided: {heard}"}})
            return
        text = f"{len(str(body.get('prompt')))} {heard}"
        self._send(200, {"choices": [{"index": 0, "text": text, "finish_reason": "stop"}]})

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""

    def _send(self, status: int, value: object) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@contextmanager
def parrot(*, denies: bool, asked: int = 0) -> Iterator[str]:
    kind = type("AParrot", (Parrot,), {"asked": asked, "denies": denies})
    with ThreadingHTTPServer(("127.0.0.1", 0), kind) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
        server.shutdown()


@pytest.mark.parametrize("denies", [True, False])
def test_a_key_that_a_server_sends_back_is_written_nowhere(tmp_path: Path, denies: bool) -> None:
    """In a 401 on the way, or in every answer: neither failures, journals nor logs have it."""
    run = tmp_path / "run"
    with parrot(denies=denies) as url:
        done = evalhpc(
            "submit", "--site", write_quick_site(tmp_path, "local"), "--endpoint", url,
            "--model-id", "m", "--api-key-env", "JUDGE_LOGIN", "--tasks", "lm-eval/ok",
            "--run-dir", run, "--shards", 1, "--set", "run.request_retries=0",
            "--set", "environment.variables.EVALHPC_LOG=debug", "--wait",
            env={"JUDGE_LOGIN": KEY},
        )  # fmt: skip
    assert done.returncode == (9 if denies else 0) or denies, done.stderr
    assert (done.returncode != 0) is denies
    assert secrets_left(run, KEY) == []
    assert not Mask([KEY]).found_in((done.stdout + done.stderr).encode())
    if denies:
        assert "Incorrect API key provided: Bearer ***" in done.stderr
    else:
        samples = json.loads(
            next((run / "results" / "ok").glob("samples*")).read_text().split("\n")[0]
        )
        assert samples["resps"] == [["4 Bearer ***"]]


def test_a_submission_denied_at_once_does_not_show_the_key(tmp_path: Path) -> None:
    """The probe before a run gets the same 401."""
    with parrot(denies=True, asked=9) as url:
        done = evalhpc(
            "submit", "--endpoint", url, "--model-id", "m", "--api-key-env", "JUDGE_LOGIN",
            "--tasks", "lm-eval/ok", "--site", write_quick_site(tmp_path, "local"),
            "--run-dir", tmp_path / "run", env={"JUDGE_LOGIN": KEY},
        )  # fmt: skip
    assert done.returncode == 7, done.stderr
    assert "Incorrect API key provided: Bearer ***" in done.stderr
    assert KEY not in done.stdout + done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("--set", f"environment.variables.GREETING={KEY}"),
        ("--set", f"environment.setup=['curl -H \"X-Mine: {KEY}\" http://host']"),
        ("--set", f"deploy.extra_args=[--mine, '{KEY}']"),
        ("--set", "environment.setup=['git clone https://me:pa55word@git.example/x']"),
        ("--set", "deploy.extra_args=[--api-key, 0123456789abcdef]"),
        ("--set", "container.options=['--env=HF_TOKEN=hf_0123456789abcdef0123']"),
        ("--set", f"params.model_args={{\"header\": \"{KEY}\"}}"),
    ],
)  # fmt: skip
def test_nothing_with_a_secret_in_it_is_rendered(tmp_path: Path, words: tuple[str, ...]) -> None:
    """By its shape, by its name, or as the value of a variable of this shell: code 3, no folder."""
    done = evalhpc(
        "render", "--site", write_quick_site(tmp_path, "local"), "--model",
        write_hf(tmp_path / "tiny", tokenizer=False), "--tasks", "lm-eval/ok",
        "--run-dir", tmp_path / "run", *words, env={"MY_API_KEY": KEY},
    )  # fmt: skip
    assert done.returncode == 3, done.stdout + done.stderr
    assert "would hold" in done.stderr
    assert "environment.secrets" in done.stderr
    assert not (tmp_path / "run").exists()
    for secret in (KEY, "pa55word", "0123456789abcdef"):
        assert secret not in done.stdout + done.stderr


def test_a_run_whose_file_of_secrets_others_can_read_does_not_begin(tmp_path: Path) -> None:
    """It is refused with the command that mends it; without the short check its jobs end so."""
    file = tmp_path / "secrets.env"
    file.write_text(f"HF_TOKEN={KEY}\n")
    file.chmod(0o644)
    words = (
        "submit", "--site", write_quick_site(tmp_path, "local"), "--model",
        write_hf(tmp_path / "tiny", tokenizer=False), "--tasks", "lm-eval/ok", "--shards", 1,
        "--run-dir", tmp_path / "run", "--set", "environment.secrets.names=[HF_TOKEN]",
        "--set", f"environment.secrets.file={file}", "--wait",
    )  # fmt: skip
    done = evalhpc(*words)
    assert done.returncode == 3
    assert f"chmod 600 {file}" in done.stderr
    assert not (tmp_path / "run").exists()
    done = evalhpc(*words, "--no-preflight")
    assert done.returncode != 0
    logs = "".join(
        path.read_text("utf-8", "replace") for path in files_below(tmp_path / "run/logs")
    )
    assert f"chmod 600 {file}" in logs
    assert secrets_left(tmp_path / "run", KEY) == []


def test_a_server_that_ignores_its_token_is_not_used_on_a_shared_node(tmp_path: Path) -> None:
    """Whoever else is on the node could ask it; with the node to itself, the run goes on."""
    words = (
        "submit", "--site", write_quick_site(tmp_path, "local"), "--model",
        write_hf(tmp_path / "tiny", tokenizer=False), "--tasks", "lm-eval/ok", "--shards", 1,
        "--set", "deploy.extra_args=[open]", "--wait", "--run-dir",
    )  # fmt: skip
    done = evalhpc(*words, tmp_path / "shared")
    assert done.returncode != 0
    logs = "".join(p.read_text("utf-8", "replace") for p in files_below(tmp_path / "shared/logs"))
    assert "answers without the token that it was started with" in logs
    done = evalhpc(*words, tmp_path / "alone", "--set", "slurm.extra=[--exclusive]")
    assert done.returncode == 0, done.stderr


def test_a_helper_says_secrets_and_its_failure_shows_none(tmp_path: Path) -> None:
    """Its output is read like a file; its last complaint is shown without what it printed."""
    helper = tmp_path / "helper"
    helper.write_text(f"echo A_TOKEN={KEY}; [ $# = 0 ] || {{ echo no {KEY} for you >&2; exit 4; }}")
    secrets = Secrets(command=("bash", str(helper)), names=("A_TOKEN",))
    assert read_secrets(secrets, {}) == {"A_TOKEN": KEY}
    failing = secrets.model_copy(update={"command": (*secrets.command, "x")})
    with pytest.raises(ConfigError, match="ended with code 4: no \\*\\*\\* for you") as refused:
        read_secrets(failing, {})
    assert KEY not in str(refused.value)


def test_the_output_of_a_command_is_masked_and_complete_when_it_has_ended(tmp_path: Path) -> None:
    """Also what it printed last, and a secret that came in two writes."""
    code = f"""
import os, sys
os.write(1, b"first {KEY[:9]}"); os.write(1, b"{KEY[9:]} second")
os.write(2, b"x" * 200_000 + b" last {KEY}"); os._exit(7)
"""

    class Slow(MaskedStream):
        def end(self) -> bytes:
            time.sleep(0.3)  # the command has ended long before
            return super().end() + b"."

    log = tmp_path / "log"
    child = process.start(
        [sys.executable, "-c", code], log=log, through=Slow(Mask([KEY])), tied=True
    )
    assert child.wait(60) == 7
    text = log.read_text()
    assert text == "first *** second" + "x" * 200_000 + " last ***."
    assert process.stop(child) == 7


def test_a_full_disk_does_not_stop_a_command_whose_output_is_masked() -> None:
    """What it prints is lost, as it would be without a mask; the command goes on."""
    code = "import sys\nfor _ in range(100): sys.stdout.write('x' * 10_000)\nsys.exit(5)"
    words = [sys.executable, "-c", code]
    child = process.start(words, log=Path("/dev/full"), through=MaskedStream(Mask([KEY])))
    assert child.wait(60) == 5


def test_no_script_leaves_a_core_file(tmp_path: Path) -> None:
    """The limit is set before anything else, in every script."""
    done = evalhpc(
        "render", "--site", write_quick_site(tmp_path, "local"), "--model",
        write_hf(tmp_path / "tiny", tokenizer=False), "--tasks", "lm-eval/ok",
        "--run-dir", tmp_path / "run", "--json",
    )  # fmt: skip
    scripts = json.loads(done.stdout)["scripts"]
    assert len(scripts) == 5
    assert all("\numask 077\nulimit -c 0 " in text for text in scripts.values())
