"""The matrix of exactness: sharded, each harness leaves what its own plain run leaves.

`pytest -m exactness` runs it. The endpoint is scripted: its answers are a function of the request,
so that any difference is ours. Each cell compares whole outputs, not only scores.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

import tests.harness_tasks
from evalhpc import process
from evalhpc.storage.samples import read_samples, sample_tasks
from tests.harness_tasks.lm_eval_group import write_group
from tests.integration import harness_outputs
from tests.integration.model_servers import free_port
from tests.integration.test_local_path import evalhpc
from tests.models import tiny
from tests.scripted_server import MODEL_ID

pytestmark = [pytest.mark.server, pytest.mark.exactness]

TASKS = Path(tests.harness_tasks.__file__).parent
SHARDS = 3
UNIT = 1  # request: the shards work on all of a benchmark


@dataclass(frozen=True)
class Cell:
    """One harness on one task, and what its run must come to."""

    harness: str
    task: str
    compare: Callable[[Path], dict[str, Any]]
    requests: int  # that the model was asked
    passes: int  # the longest chain of dependent requests, and one
    samples: dict[str, int]  # task → lines in samples.h5
    settings: tuple[str, ...] = ()
    layer: str | None = None  # its own environment, below harnesses/ in ours
    long: bool = False  # for `scripts/test --long`: minutes of starting interpreters


CELLS = [
    Cell(
        "lm-eval", "every_kind", harness_outputs.lm_eval, requests=16 + 8 + 8 + 8 + 3 * 8,
        passes=2,
        samples={"every_choice": 8, "every_corpus": 8, "every_filter": 16,
                 "every_perplexity": 8, "every_sampled": 8},
        settings=("params.include_path={group}", "params.tokenizer={tokenizer}"),
    ),
    Cell(
        "nemo-evaluator", "lm-evaluation-harness.every_filter", harness_outputs.nemo_evaluator,
        requests=8, passes=2, samples={"every_filter": 16}, layer="nemo-evaluator",
        settings=("params.include_path={group}", "params.endpoint=chat"),
    ),
    Cell(
        "nemo-evaluator", "mtbench.mtbench", harness_outputs.mtbench,
        requests=2 * 4 + 1, passes=4, samples={}, layer="nemo-evaluator", long=True,
        settings=(
            "params.endpoint=chat", "params.limit=2", "run.max_rounds=5",
            # It finds its own results only when the judge has this name.
            "params.model_args={{judge: {{model_id: gpt-4, api_key_name: OPENAI_API_KEY}}}}",
        ),
    ),
    Cell(
        "inspect-ai", "turns_and_judges.py", harness_outputs.inspect_ai,
        requests=32 + 10 + 18, passes=5, samples={"judged": 8, "agent": 5, "two_turns": 6},
        layer="inspect",
        settings=(f"params.include_path={TASKS}", "params.endpoint=chat", "run.max_rounds=6"),
    ),
    Cell(
        "lucebench", "gsm8k", harness_outputs.lucebench, requests=20, passes=2,
        samples={"gsm8k": 20}, settings=("params.endpoint=chat", "params.limit=20"),
    ),
    Cell(
        "command", "own_harness.py", harness_outputs.as_is, requests=7 * 8, passes=3,
        samples={"own_harness.py": 7},
        settings=(f"params.include_path={TASKS}", "params.endpoint=chat"),
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    "cell",
    [
        pytest.param(
            cell, id=f"{cell.harness}-{cell.task}", marks=[pytest.mark.long] if cell.long else []
        )
        for cell in CELLS
    ],
)
def test_shards_leave_what_a_plain_run_leaves(cell: Cell, tmp_path: Path) -> None:
    """Results and samples are equal, and come from as many passes and requests as are needed."""
    run_dir, plain = tmp_path / "run", tmp_path / "plain"
    with scripted(tmp_path / "sharded.log", SHARDS) as url:
        words = [word for setting in _settings(cell, tmp_path) for word in ("--set", setting)]
        done = evalhpc(
            "submit", "--site", "local", "--endpoint", url, "--model-id", MODEL_ID, "--shards",
            SHARDS, "--tasks", f"{cell.harness}/{cell.task}", "--run-dir", run_dir, *words,
            "--wait",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr + done.stdout
    benchmark = next(path.name for path in (run_dir / "passes" / "0").iterdir())
    with scripted(tmp_path / "plain.log", 1) as url:
        place = {"EVALHPC_BASE_URL": url, "EVALHPC_OUTPUT_DIR": str(plain)}
        script = run_dir / "scripts" / f"harness-{benchmark}.sh"
        subprocess.run(["bash", script], env=os.environ | place, check=True, capture_output=True)
    sharded = cell.compare(run_dir / "results" / benchmark)
    unsharded = cell.compare(plain)
    assert sharded.keys() == unsharded.keys()
    for name, content in unsharded.items():
        assert sharded[name] == content, name
    assert unsharded

    _check_run(cell, run_dir, benchmark)


def _check_run(cell: Cell, run_dir: Path, benchmark: str) -> None:
    certificate = json.loads((run_dir / "certificate.json").read_text())
    assert certificate["counts"]["planned"] == certificate["counts"]["answered"] == cell.requests
    assert certificate["final_pass"] + 1 == cell.passes
    packed = run_dir / "results" / "samples.h5"
    assert sample_tasks(packed).get(benchmark, []) == sorted(cell.samples)
    for task, lines in cell.samples.items():
        assert len(list(read_samples(packed, benchmark, task))) == lines
    worked = {path.name.split("-")[1] for path in (run_dir / "journals").glob("0001-*.journal")}
    assert len(worked) == SHARDS


def _settings(cell: Cell, tmp_path: Path) -> Iterator[str]:
    places = {"group": tmp_path / "group", "tokenizer": tmp_path / "tokenizer"}
    for setting in cell.settings:
        yield setting.format_map(places)
    if any("{group}" in setting for setting in cell.settings):
        write_group(places["group"], 8)
    if any("{tokenizer}" in setting for setting in cell.settings):
        tiny.build_tokenizer(places["tokenizer"])
    yield f"run.unit_size={UNIT}"
    if cell.layer is not None:
        yield f"pythons.{cell.harness}={_interpreter(cell)}"


def _interpreter(cell: Cell) -> Path:
    """The interpreter of a harness's own environment; skips where nobody made it."""
    python = Path(sys.prefix) / "harnesses" / str(cell.layer) / "bin" / "python"
    if not python.is_file():
        required = os.environ.get("EVALHPC_REQUIRE_HARNESSES") == "1"
        reason = f"{python} is missing: scripts/test makes it"
        pytest.fail(reason) if required else pytest.skip(reason)
    return python


@contextmanager
def scripted(log: Path, clients: int) -> Iterator[str]:
    """A fresh scripted endpoint: it counts sampled requests from zero, once `clients` are there."""
    port = free_port()
    argv = [sys.executable, "-m", "tests.scripted_server", str(port), str(clients)]
    child = process.start(argv, log=log)
    url = f"http://127.0.0.1:{port}/v1"
    try:
        transport = httpx.HTTPTransport(retries=6)  # 0.5 s, doubling
        with httpx.Client(transport=transport, trust_env=False) as client:
            client.get(f"{url}/models").raise_for_status()
        yield url
    finally:
        process.stop(child)
