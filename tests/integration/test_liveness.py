"""A server that dies or hangs in mid-run costs its shard, at once and with the cause in status."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.integration.quick_site import write_quick_site
from tests.integration.test_local_path import evalhpc
from tests.models.checkpoints import write_hf


def failed_shard(folder: Path, mode: str) -> tuple[dict[str, Any], str]:
    """What status says, as data and as text, of the shard that failed in a run that did not."""
    run, server = folder / "run", f"{mode},{folder / 'once'}"
    done = evalhpc(
        "submit", "--site", write_quick_site(folder, "local"), "--model",
        write_hf(folder / "tiny", tokenizer=False), "--tasks", "lm-eval/ok", "--run-dir", run,
        "--shards", 2, "--set", f"deploy.extra_args=[{server}]", "--set", "run.unit_size=1",
        "--set", "run.concurrency=1", "--set", "run.canary=0.5",
        "--set", "run.request_timeout=2", "--wait",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    certificate = json.loads((run / "certificate.json").read_text())
    assert certificate["counts"]["answered"] == certificate["counts"]["planned"] == 8
    assert not (run / "failures.jsonl").exists()
    status = json.loads(evalhpc("status", run, "--json").stdout)
    failed = [shard for shard in status["failed_shards"] if shard["round"] == 1]
    assert len(failed) == 1
    return failed[0], evalhpc("status", run).stdout


@pytest.mark.parametrize(
    ("mode", "causes"),
    [
        ("mortal", ["ended (", "at work", "device-side assert triggered"]),
        ("zombie", ["completes nothing", "asked for one token in vain", "no reply within 2 s"]),
    ],
)
def test_a_dead_server_ends_its_shard_and_not_the_run(
    tmp_path: Path, mode: str, causes: list[str]
) -> None:
    """Killed by a signal, or alive for its health route only: the other shard does its work."""
    failed, text = failed_shard(tmp_path, mode)
    assert (failed["shard"], failed["attempt"]) == (0, 0)
    assert failed["node"]
    for cause in causes:
        assert cause in failed["what"]
        assert cause in text
    assert f"shard 0    failed in round 1 on {failed['node']}" in text
