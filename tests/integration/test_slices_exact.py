"""lm-eval on slices of its documents: exact where prompts stand alone, refused where not."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.harness_tasks.lm_eval_group import write_group
from tests.integration import harness_outputs
from tests.integration.lm_eval_tasks import write_tasks
from tests.integration.test_exactness import scripted
from tests.integration.test_local_path import evalhpc
from tests.models import tiny
from tests.scripted_server import MODEL_ID

pytestmark = [pytest.mark.server, pytest.mark.exactness]

DOCUMENTS, LIMIT, SHARDS = 8, 5, 2
#: Subtasks whose prompts depend on their own document alone.
ZERO_SHOT = ["every_filter", "every_sampled", "every_perplexity"]


def submit(
    tmp_path: Path, url: str, task: str, *more: object
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A run by samples over the tasks written here; its directory, and how it ended."""
    folder = write_group(tmp_path / "group", DOCUMENTS)
    write_tasks(folder / "few_shot", DOCUMENTS)
    group = {"group": "zero_shot", "task": ZERO_SHOT}
    (folder / "zero_shot.yaml").write_text(json.dumps(group))  # JSON is YAML
    tokenizer = tmp_path / "tokenizer"
    tiny.build_tokenizer(tokenizer)
    run_dir = tmp_path / "run"
    done = evalhpc(
        "submit", "--site", "local", "--endpoint", url, "--model-id", MODEL_ID, "--shards", SHARDS,
        "--tasks", f"lm-eval/{task}", "--run-dir", run_dir, "--shard-by", "samples", *more,
        "--set", f"params.include_path={folder}", "--set", f"params.tokenizer={tokenizer}",
        "--wait",
    )  # fmt: skip
    return run_dir, done


def test_slices_of_a_group_leave_what_a_plain_run_leaves(tmp_path: Path) -> None:
    """Three subtasks, with filters and repeats; of a limit, its first documents are cut."""
    with scripted(tmp_path / "sliced.log", 1) as url:
        run_dir, done = submit(tmp_path, url, "zero_shot", "--limit", LIMIT)
    assert done.returncode == 0, done.stderr + done.stdout
    plain = tmp_path / "plain"
    with scripted(tmp_path / "plain.log", 1) as url:
        place = {"EVALHPC_BASE_URL": url, "EVALHPC_OUTPUT_DIR": str(plain)}
        script = run_dir / "scripts" / "harness-zero_shot.sh"
        subprocess.run(["bash", script], env=os.environ | place, check=True, capture_output=True)
    assert harness_outputs.lm_eval(run_dir / "results" / "zero_shot") == harness_outputs.lm_eval(
        plain
    )

    certificate = json.loads((run_dir / "certificate.json").read_text())
    asked = LIMIT * (1 + 3 + 1)
    assert certificate["counts"]["planned"] == certificate["counts"]["answered"] == asked
    assert certificate["counts"]["rounds"] == 1
    cut = [json.loads(path.read_text()) for path in run_dir.glob("slices/zero_shot/*.json")]
    assert len(cut) == SHARDS
    for task in ZERO_SHOT:
        assert sorted(n for slice_ in cut for n in slice_[task]) == list(range(LIMIT))


def test_few_shot_examples_drawn_in_the_order_of_documents_are_refused(tmp_path: Path) -> None:
    """Three-shot prompts of a slice differ: counted and refused before the array starts."""
    with scripted(tmp_path / "sliced.log", 1) as url:
        run_dir, done = submit(tmp_path, url, "tiny_mc")
    assert done.returncode == 10, done.stderr + done.stdout
    failure = json.loads((run_dir / "failure.json").read_text())
    assert failure["error"] == "IntegrityError"
    # Four choices for each of four documents.
    assert re.search(r"\b\d+ of 16 requests of tiny_mc", failure["what"])
    assert "few-shot" in failure["cause"]
    assert "--shard-by requests" in failure["hint"]
    assert not list((run_dir / "journals").iterdir())
    assert not (run_dir / "results" / "results.yml").exists()
