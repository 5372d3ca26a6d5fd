"""A judge beside the model, served from a checkpoint of its own or by a server that is up."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from evalhpc.storage.samples import read_answered
from tests.integration.model_servers import quick_endpoint
from tests.integration.quick_site import write_quick_site
from tests.integration.test_local_path import evalhpc
from tests.models import tiny

pytestmark = pytest.mark.server


@pytest.fixture
def site(tmp_path: Path) -> Path:
    folder = tmp_path / "site"
    folder.mkdir()
    return write_quick_site(folder, "local")


def submit(site: Path, tmp_path: Path, judge: str, *more: object) -> tuple[Path, str]:
    """A judged run, waited for; its directory and what it printed."""
    run_dir = tmp_path / "run"
    done = evalhpc(
        "submit", "--site", site, "--model", tiny.build(tmp_path / "tiny"), "--tasks",
        "lm-eval/judged", "--with", judge, "--run-dir", run_dir, "--shards", 2, *more, "--wait",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr + done.stdout
    return run_dir, done.stdout


def asked(run_dir: Path) -> dict[str, int]:
    """Endpoint → how many of its answers the run rests on."""
    counts: dict[str, int] = {}
    for row in read_answered(run_dir / "results" / "requests.h5"):
        counts[row.endpoint] = counts.get(row.endpoint, 0) + 1
    return counts


@pytest.mark.parametrize("plan", ["job", "inline"])
def test_a_judge_with_a_checkpoint_of_its_own_is_served_beside_the_model(
    plan: str, site: Path, tmp_path: Path
) -> None:
    """Eight questions to each; no shard loads the judge twice."""
    judge = tiny.build(tmp_path / "judge", seed=1)
    run_dir, _ = submit(
        site, tmp_path, f"judge={judge},kind=completions", "--set", f"run.plan={plan}"
    )
    assert asked(run_dir) == {"model": 8, "judge": 8}
    certificate = json.loads((run_dir / "certificate.json").read_text())
    assert certificate["counts"]["planned"] == certificate["counts"]["answered"] == 16
    assert set(certificate["endpoints"]) == {"judge"}
    assert 1 <= len(list((run_dir / "logs").glob("server-judge-*.log"))) <= 2
    replayed = evalhpc("verify", run_dir, "--replay")
    assert replayed.returncode == 0, replayed.stderr


@pytest.mark.parametrize("miss", ["stub", "forward"])
def test_a_judge_may_be_a_server_that_is_up(miss: str, site: Path, tmp_path: Path) -> None:
    """Its answers are journalled and merged like the model's, live or not."""
    with quick_endpoint() as url:
        run_dir, _ = submit(
            site, tmp_path, f"judge={url},model_id=outside,kind=completions", "--miss", miss
        )
    assert asked(run_dir) == {"model": 8, "judge": 8}
    assert not (run_dir / "scripts" / "server-judge.sh").exists()
    assert evalhpc("verify", run_dir, "--replay").returncode == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--with", "judge"), "NAME=WHERE"),
        (("--with", "Judge=/x"), "cannot name an endpoint"),
        (("--with", "model=/x"), "the name of the model under test"),
        (("--with", "judge=http://127.0.0.1:9/v1"), "needs model_id"),
        (("--with", "judge=http://127.0.0.1:9/v1,model_id=x"), "does not answer"),
        (("--with", "judge=/no/such/checkpoint"), "/no/such/checkpoint"),
        (("--with", "judge=/x,knid=chat"), "kind"),
        (("--with", "judge=/x", "--with", "judge=/y"), "given twice"),
    ],
)
def test_a_wrong_endpoint_is_refused_before_anything_is_written(
    words: tuple[str, ...], said: str, site: Path, tmp_path: Path
) -> None:
    """The error names what is wrong, and no run directory is left."""
    done = evalhpc(
        "submit", "--site", site, "--model", tiny.build(tmp_path / "tiny"), "--tasks",
        "lm-eval/judged", "--run-dir", tmp_path / "run", *words,
    )  # fmt: skip
    assert done.returncode not in (0, 1)
    assert said in done.stderr
    assert not (tmp_path / "run").exists()
