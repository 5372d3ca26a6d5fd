"""Where models are served: several copies as one endpoint, jobs that all shards share, limits."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.integration.model_servers import quick_endpoint
from tests.integration.quick_site import write_quick_site
from tests.models.checkpoints import write_dist, write_hf

pytestmark = pytest.mark.server

EVALHPC = str(Path(sys.executable).with_name("evalhpc"))
_SERVER = Path(__file__).with_name("quick_server.py")


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A quick site, with a checkpoint and a judge's beside it."""
    write_quick_site(tmp_path, "local")
    for name in ("tiny", "judge"):
        write_hf(tmp_path / name, tokenizer=False)
        for path in (tmp_path / name).iterdir():
            os.utime(path, (1, 1))
    return tmp_path


def evalhpc(site: Path, *words: object) -> subprocess.CompletedProcess[str]:
    """The command line at that site, with a home of its own."""
    return subprocess.run(
        [EVALHPC, *map(str, words)],
        env={**os.environ, "HOME": str(site / "home")},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def submitted(site: Path, run: str, task: str, *words: object) -> Path:
    """A run of two shards that was waited for, and completed."""
    done = evalhpc(
        site, "submit", "--site", site / "quick.yaml", "--tasks", f"lm-eval/{task}",
        "--run-dir", site / run, "--shards", 2, "--wait", *words,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr + done.stdout
    return site / run


def scores(run: Path) -> Any:
    return yaml.safe_load((run / "results" / "results.yml").read_text())["results"]


def counted(folder: Path) -> list[list[float]]:
    """When each server was asked, by its own count."""
    return [
        [float(line.split()[0]) for line in path.read_text().splitlines()]
        for path in folder.iterdir()
    ]


def no_token_left(site: Path) -> bool:
    return not list((site / "home").glob(".local/state/evalhpc/tokens/*"))


def test_requests_are_spread_over_the_copies_of_an_allocation(site: Path) -> None:
    """Two copies a shard, each with a log of its own, and each with its part of the work."""
    (site / "counts").mkdir()
    run = submitted(
        site, "copies", "plain", "--model", site / "tiny", "--shards", 1,
        "--set", "deploy.replicas=2", "--set", f"deploy.extra_args=[counts, {site / 'counts'}]",
    )  # fmt: skip
    asked = sorted(len(times) for times in counted(site / "counts"))
    assert asked == [5, 5]  # half of the eight questions, and the proof of each
    assert len(list((run / "logs").glob("server-1-0*.log"))) == 2


def test_a_shared_deployment_gives_the_results_of_a_replica_for_each_shard(site: Path) -> None:
    """Model and judge behind one port; no shard starts a server, and no token is left."""
    words = ("--model", site / "tiny", "--with", f"judge={site / 'judge'},kind=completions")
    own = submitted(site, "own", "judged", *words)
    shared = submitted(site, "shared", "judged", *words, "--set", "deploy.topology=job")
    assert scores(shared) == scores(own)
    roots = [
        json.loads((run / "certificate.json").read_text())["merkle_root"] for run in (own, shared)
    ]
    assert roots[0] == roots[1]
    servers = sorted(path.name for path in (shared / "logs").glob("server*"))
    assert servers == ["server-0-0.log", "server-judge-0-0.log"]
    assert (shared / "logs" / "deploy-0.log").is_file()
    assert no_token_left(site)


@pytest.mark.parametrize("words", [("--miss", "wait"), ("--shard-by", "samples")])
def test_passes_that_need_the_model_find_the_shared_one(words: tuple[str, ...], site: Path) -> None:
    """However the first pass is run, with turns that follow from answers."""
    run = submitted(
        site, "run", "turns", "--model", site / "tiny", "--set", "deploy.topology=job", *words
    )
    counts = json.loads((run / "certificate.json").read_text())["counts"]
    assert counts["planned"] == counts["answered"] == 24
    assert no_token_left(site)


def test_a_deployment_that_never_gets_ready_ends_the_run_with_its_reason(site: Path) -> None:
    """Its shards do not wait for the deadline; log, exit code and cause are named; no token."""
    done = evalhpc(
        site, "submit", "--site", site / "quick.yaml", "--tasks", "lm-eval/plain", "--model",
        site / "tiny", "--run-dir", site / "run", "--wait", "--set", "deploy.topology=job",
        "--set", "deploy.extra_args=[die]", "--set", "run.ready_timeout=600",
    )  # fmt: skip
    assert done.returncode == 7, done.stderr
    assert "OutOfMemoryError: tried to allocate 80 GiB" in done.stderr
    assert no_token_left(site)
    shown = evalhpc(site, "logs", site / "run", "--kind", "deploy")
    assert "ended (exit code 1) before it answered" in shown.stdout


def test_all_shards_together_keep_to_an_endpoints_limit(site: Path) -> None:
    """By the server's count no second has more than its part; no deployment job is made for it."""
    (site / "counts").mkdir()
    with quick_endpoint("counts", site / "counts") as url:
        run = submitted(
            site, "run", "plain", "--endpoint", url, "--model-id", "outside",
            "--set", "deploy.rate_limit=240", "--set", "deploy.topology=job",
        )  # fmt: skip
    (times,) = counted(site / "counts")
    times = sorted(times)
    assert len(times) == 11  # submit's proof, that of each shard, and eight questions
    # Four a second, and one of each shard that came late.
    assert all(late - early > 1 for early, late in zip(times, times[6:], strict=False))
    assert not (run / "scripts" / "deploy.sbatch").exists()


BAD: dict[str, tuple[tuple[str, ...], int, str]] = {
    "a server that nobody knows": (("deploy.servers.hf=vlm",), 3, "the deployments are"),
    "a command that is missing": (("deploy.servers.hf=generic",), 3, "has no command"),
    "heads that cannot be cut": (
        ("deploy.servers.hf=vllm", "resources.shard.gpus_per_node=8", "deploy.tensor_parallel=3"),
        4, "does not divide",
    ),
    "more GPUs than the machine has": (
        ("deploy.servers.hf=vllm", "resources.shard.gpus_per_node=2", "deploy.tensor_parallel=4"),
        3, "one machine",
    ),
    "copies that do not fit": (
        ("deploy.servers.hf=vllm", "resources.shard.gpus_per_node=2", "deploy.replicas=3"),
        3, "3 copies of 1 GPUs do not fit",
    ),
    "an option with a typo": (("deploy.options.vllm.pyton=python3",), 3, "did you mean 'python'?"),
    "options of nobody": (("deploy.options.vlm.python=python3",), 3, "did you mean 'vllm'?"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_sizes_and_servers_that_do_not_fit_are_refused_before_submission(
    name: str, site: Path
) -> None:
    """Exit code, what is wrong and the next step; no run directory and no token."""
    sets, code, said = BAD[name]
    words = [word for setting in sets for word in ("--set", setting)]
    done = evalhpc(
        site, "submit", "--site", site / "quick.yaml", "--tasks", "lm-eval/plain", "--model",
        site / "tiny", "--run-dir", site / "run", *words,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not (site / "run").exists()
    assert no_token_left(site)


def test_a_checkpoint_that_would_run_code_is_refused_unread(site: Path) -> None:
    """`submit --model`: the pickle of its index is data, or nothing at all."""
    proof = site / "proof"
    checkpoint = write_dist(site / "megatron")
    (index,) = checkpoint.rglob(".metadata")

    class Attack:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {proof}",)

    index.write_bytes(pickle.dumps(Attack()))
    os.utime(index, (1, 1))
    done = evalhpc(
        site, "submit", "--site", site / "quick.yaml", "--tasks", "lm-eval/plain", "--model",
        checkpoint, "--run-dir", site / "run",
    )  # fmt: skip
    assert done.returncode == 4, done.stderr
    assert "Traceback" not in done.stderr
    assert not proof.exists()
    assert not (site / "run").exists()
