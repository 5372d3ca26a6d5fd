"""A checkpoint to scores without Slurm: the same scripts, through submitit's LocalExecutor."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from evalhpc.storage.samples import read_answered, read_metrics, read_samples, sample_tasks
from tests.integration.lm_eval_tasks import strict, without_catalogue, write_tasks
from tests.integration.model_servers import serving
from tests.models import tiny

pytestmark = pytest.mark.server

EVALHPC = Path(sys.executable).with_name("evalhpc")
GATEWAY_PORT = 18341
TASKS = ("tiny_mc", "tiny_gen")


def evalhpc(*words: object, timeout: float = 500) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [EVALHPC, *map(str, words)], capture_output=True, text=True, timeout=timeout, check=False
    )


def test_a_local_run_gives_the_bytes_of_a_plain_run_and_everything_a_reader_wants(
    tmp_path: Path,
) -> None:
    """Scores, samples, requests, provenance, certificate and report; then each is checked."""
    run_dir = tmp_path / "run"
    model = tiny.build(tmp_path / "tiny")
    tasks = write_tasks(tmp_path / "tasks", 24)
    python = without_catalogue(tmp_path / "lm-eval")
    done = evalhpc(
        "submit", "--site", "local", "--model", model, "--run-dir", run_dir, "--shards", 3,
        "--tasks", ",".join(f"lm-eval/{name}" for name in TASKS), "--set",
        f"params.include_path={tasks}", "--set", f"gateway.port={GATEWAY_PORT}",
        "--set", f"pythons.lm-eval={python}", "--wait",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr + done.stdout
    assert "acc_norm" in done.stdout
    assert "report.md" in done.stdout

    for name in TASKS:
        assert strict(run_dir / "results" / name) == _plain(run_dir, model, name)
    assert sample_tasks(run_dir / "results" / "samples.h5") == {name: [name] for name in TASKS}
    samples = list(read_samples(run_dir / "results" / "samples.h5", "tiny_mc", "tiny_mc"))
    scores = read_metrics(run_dir / "results" / "samples.h5", "tiny_mc", "tiny_mc")["acc"]
    results = json.loads(evalhpc("results", run_dir, "--json").stdout)
    mean = results["results"]["tasks"]["tiny_mc"]["metrics"]["acc"]["scores"]["acc"]["value"]
    assert len(samples) == 24
    assert scores.mean() == pytest.approx(mean)
    rows = list(read_answered(run_dir / "results" / "requests.h5"))
    assert len(rows) == 24 * 4 + 24
    assert {row.answer.status for row in rows} == {200}
    provenance = json.loads((run_dir / "provenance.json").read_text())
    assert provenance["model"]["fingerprint"]
    assert provenance["harnesses"]["tiny_mc"]["name"] == "lm-eval"
    certificate = json.loads((run_dir / "certificate.json").read_text())
    assert certificate["counts"]["planned"] == certificate["counts"]["answered"] == 120
    assert "120 of 120 requests answered" in (run_dir / "report.md").read_text()

    assert evalhpc("verify", run_dir).returncode == 0
    journal = next(p for p in (run_dir / "journals").glob("*.journal") if p.stat().st_size > 2000)
    content = bytearray(journal.read_bytes())
    content[-1] ^= 1
    journal.write_bytes(content)
    assert evalhpc("verify", run_dir).returncode == 10


def _plain(run_dir: Path, model: Path, name: str) -> dict[str, str]:
    """The run's own harness script against a model server, without our gateway."""
    output = run_dir.with_name(f"plain-{name}")
    log = run_dir.with_name("server.log")
    with serving("hf_server", model, "tiny", log, port=GATEWAY_PORT, token=None) as server:
        place = {"EVALHPC_BASE_URL": server.url, "EVALHPC_OUTPUT_DIR": str(output)}
        env = {**os.environ, **place}
        script = run_dir / "scripts" / f"harness-{name}.sh"
        subprocess.run(["bash", script], env=env, check=True, capture_output=True, timeout=400)
    return strict(output)
