"""The short check before a submission."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

import evalhpc
from evalhpc import process
from evalhpc.errors import ConfigError, StorageError
from evalhpc.models.runspec import RunSpec
from evalhpc.models.stage import StagedEntry, StageRecord, stage_key
from evalhpc.paths import RunPaths
from evalhpc.process import Finished
from evalhpc.slurm.gate import Slurm
from evalhpc.storage.stage import StageFolder
from evalhpc.workflow.record.run import Run
from evalhpc.workflow.submit import preflight as checks
from evalhpc.workflow.submit.wish import Wish
from tests.factories import make_spec
from tests.slurm_fakes import FakeSlurm, captured


def run_of(folder: Path, **site: Any) -> Run:
    """A run in `folder` at a site without Slurm."""
    spec = make_spec(
        site={"scheduler": "local", "run_root": str(folder), **site}, python=sys.executable
    )
    return Run(RunPaths(folder), spec, spec.digest())


def staged(spec: RunSpec, **changes: Any) -> None:
    """Its first benchmark is staged."""
    (benchmark,) = spec.benchmarks
    folder = StageFolder(Path(str(spec.site.stage_dir)))
    folder.make()
    record = StageRecord(
        benchmark=benchmark.name, harness=benchmark.harness, task=benchmark.task,
        key=stage_key(benchmark), requests=9, params=benchmark.params,
        model_id="m", tokenizer=None, endpoints={}, whole=False, digest="",
        same=True, isolated=True, entries=folder.entries(), fetched_bytes=0, staged="",
        staged_by="", evalhpc_version="", seconds=0,
    )  # fmt: skip
    folder.write(benchmark, record.model_copy(update=changes))


def test_without_a_stage_folder_nothing_is_said_of_data(tmp_path: Path) -> None:
    """A site whose users keep caches of their own goes on as before."""
    assert checks.preflight(run_of(tmp_path), {}) == []


def test_data_that_is_not_staged_is_a_warning_with_the_command(tmp_path: Path) -> None:
    """The command repeats what the run was asked for, so that it stages the same."""
    run = run_of(tmp_path, stage_dir=str(tmp_path / "stage"))
    wish = Wish(site="s", tasks="lm-eval/arc_easy", sets=("params.include_path=/a b",))
    (warning,) = checks.preflight(run, {}, wish)
    assert warning == (
        "the data sets of arc are not staged on site testsite: evalhpc stage --site s "
        "--tasks lm-eval/arc_easy --set 'params.include_path=/a b'"
    )
    staged(run.spec)
    assert checks.preflight(run, {}, wish) == []


def test_where_nodes_have_no_internet_it_is_an_error(tmp_path: Path) -> None:
    """Also where the folder is not set at all, and where the staged data have gone since."""
    with pytest.raises(ConfigError, match="no folder for staged data"):
        checks.preflight(run_of(tmp_path, offline=True), {})
    run = run_of(tmp_path, offline=True, stage_dir=str(tmp_path / "stage"))
    with pytest.raises(ConfigError, match="not staged") as caught:
        checks.preflight(run, {})
    assert "--no-preflight" in caught.value.hint
    data = tmp_path / "stage" / "huggingface" / "hub" / "datasets--x"
    data.mkdir(parents=True)
    staged(run.spec)
    assert checks.preflight(run, {}) == []
    data.rmdir()
    with pytest.raises(ConfigError, match="datasets--x is gone"):
        checks.preflight(run, {})


def test_what_another_staging_fetched_anew_stops_nothing(tmp_path: Path) -> None:
    """A record has all of the folder, and most of that is of other benchmarks: one warning."""
    run = run_of(tmp_path, offline=True, stage_dir=str(tmp_path / "stage"))
    main = tmp_path / "stage" / "huggingface" / "hub" / "datasets--x" / "refs" / "main"
    main.parent.mkdir(parents=True)
    main.write_text("c1")
    staged(run.spec)
    main.write_text("c2")
    (warning,) = checks.preflight(run, {})
    assert "datasets--x is of another version than when arc was staged" in warning
    assert "evalhpc stage" in warning


def test_the_stage_folder_is_walked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has a million files, and a suite a hundred benchmarks."""
    run = run_of(tmp_path, stage_dir=str(tmp_path / "stage"))
    (arc,) = run.spec.benchmarks
    hard = arc.model_copy(update={"name": "hard"})
    staged(run.spec)
    walks: list[StageFolder] = []
    found = StageFolder.entries

    def counted(folder: StageFolder) -> tuple[StagedEntry, ...]:
        walks.append(folder)
        return found(folder)

    monkeypatch.setattr(StageFolder, "entries", counted)
    both = run.spec.model_copy(update={"benchmarks": (arc, hard)})
    assert checks.preflight(Run(run.paths, both, run.hash), {}) == []
    assert len(walks) == 1


def test_data_that_the_run_brings_along_needs_no_staging(tmp_path: Path) -> None:
    """The demo tasks run at an offline site as they are."""
    run = run_of(tmp_path, offline=True, stage_dir=str(tmp_path / "stage"))
    demo = {"name": "gsm8k", "harness": "lm-eval", "task": "gsm8k_demo"}
    spec = RunSpec.model_validate({**run.spec.model_dump(), "benchmarks": [demo]})
    assert checks.preflight(Run(run.paths, spec, run.hash), {}) == []


def test_what_a_run_needs_grows_with_its_requests(tmp_path: Path) -> None:
    """A staged benchmark tells how many there are, and a limit caps them."""
    run = run_of(tmp_path, stage_dir=str(tmp_path / "stage"))
    staged(run.spec, requests=100_000)
    records = {"arc": StageFolder(tmp_path / "stage").read(run.spec.benchmarks[0])}
    many, files = checks.needed(run.spec, records)
    unknown, _ = checks.needed(run.spec, {})
    assert many > 10 * unknown
    assert files > 200
    limited = make_spec(
        benchmarks=[{**run.spec.benchmarks[0].model_dump(), "params": {"limit": 1}}]
    )
    assert checks.needed(limited, records)[0] < unknown


def test_too_little_space_or_too_few_inodes_stop_a_submission(tmp_path: Path) -> None:
    """The error says which of the two, and how to look."""
    checks.refuse_no_space(tmp_path, 1, 1)
    with pytest.raises(StorageError, match="MiB free"):
        checks.refuse_no_space(tmp_path, 1 << 60, 1)
    with pytest.raises(StorageError, match="inodes") as caught:
        checks.refuse_no_space(tmp_path, 1, 1 << 60)
    assert "df -i" in caught.value.hint


def test_another_interpreter_must_run_the_same_evalhpc(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A version of its own, none at all, and no such program are told apart."""
    python = tmp_path / "python"
    with pytest.raises(ConfigError, match="no program on this machine"):
        checks.refuse_other_python(str(python), {})
    python.touch(mode=0o755)

    def told(code: int, out: str, err: str) -> None:
        def fake(words: list[str], **_: object) -> Finished:
            return Finished(tuple(words), code, out, err)

        monkeypatch.setattr(process, "run", fake)

    told(0, f"{evalhpc.__version__}\n", "")
    assert checks.refuse_other_python(str(python), {}) == evalhpc.__version__
    told(0, "9.9\n", "")
    with pytest.raises(ConfigError, match=r"has evalhpc 9\.9"):
        checks.refuse_other_python(str(python), {})
    told(1, "", "ModuleNotFoundError: No module named 'evalhpc'\n")
    with pytest.raises(ConfigError, match="No module named 'evalhpc'"):
        checks.refuse_other_python(str(python), {})


def test_an_interpreter_of_a_harness_must_be_there(tmp_path: Path) -> None:
    """`pythons` names one for each harness that has an environment of its own."""
    run = run_of(tmp_path)
    harness = run.spec.harnesses["lm-eval"].model_copy(update={"python": str(tmp_path / "none")})
    spec = run.spec.model_copy(update={"harnesses": {"lm-eval": harness}})
    with pytest.raises(ConfigError, match=r"pythons\.lm-eval"):
        checks.preflight(Run(run.paths, spec, run.hash), {})


def test_a_partition_that_starts_nothing_is_named(tmp_path: Path) -> None:
    """Its jobs would wait, which is no reason to refuse them."""
    shown = captured("22.05/partitions.txt")
    spec = make_spec(site={"slurm": {"partition": "batch"}})
    run = Run(RunPaths(tmp_path), spec, spec.digest())

    def said(text: str) -> list[str]:
        fake = FakeSlurm(scontrol_partition=text, sinfo=captured("22.05/sinfo.txt"))
        return list(checks.waiting(run, Slurm(fake, {})))

    assert said(shown) == []
    (warning,) = said(shown.replace("State=UP", "State=DRAIN"))
    assert warning == "partition batch is DRAIN: jobs wait; sinfo -p batch"


def test_a_folder_that_each_node_has_of_its_own_is_a_warning(tmp_path: Path) -> None:
    """It may be shared all the same, which only a node can tell."""
    spec = make_spec()
    fake = FakeSlurm(scontrol_partition="", sinfo=captured("22.05/sinfo.txt"))
    for root, warned in (("/tmp/runs/r", True), ("/lustre/tmp/r", False)):
        run = Run(RunPaths(Path(root)), spec, spec.digest())
        found = [text for text in checks.of_cluster(run, Slurm(fake, {})) if "is in /tmp" in text]
        assert bool(found) == warned
        assert all("evalhpc site check testsite --node" in text for text in found)


def test_a_file_of_secrets_that_no_node_would_take_is_refused_at_once(tmp_path: Path) -> None:
    """One that is not here may be on the nodes, whose word counts."""
    path = tmp_path / "secrets.env"
    run = run_of(tmp_path, environment={"secrets": {"file": str(path), "names": ["HF_TOKEN"]}})
    assert checks.preflight(run, {}) == []
    path.write_text("HF_TOKEN=hf_0123456789\n")
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="has mode 0644"):
        checks.preflight(run, {})
    path.chmod(0o600)
    assert checks.preflight(run, {}) == []
