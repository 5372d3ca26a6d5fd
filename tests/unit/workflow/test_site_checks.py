"""`evalhpc site check`: a site's settings beside what a cluster answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from evalhpc.models.site import Site
from evalhpc.slurm.jobs import Limits, Partition
from evalhpc.slurm.quotas import Allowed, Queued, Quotas
from evalhpc.workflow.site.check import check_site
from evalhpc.workflow.site.checks import Check, compare

GPU = Partition(
    "gpu", default=True, max_seconds=4 * 3600, total_nodes=9, gres=("gpu:h100:8(S:0-1)",)
)
CPU = Partition("cpu", max_seconds=1800, total_nodes=2)


def compared(
    partitions: tuple[Partition, ...] = (GPU, CPU), *, tasks: int = 1001, **sections: Any
) -> dict[str, Check]:
    """The checks by name of a site with these sections."""
    site = Site.model_validate({"name": "mine", **sections})
    limits = Limits(tasks, tasks, 10000, accounting=True, cluster="c")
    return {check.name: check for check in compare(site, partitions, limits)}


def shard(**size: Any) -> dict[str, Any]:
    return {"shard": {"gpus_per_node": 8, **size}}


def test_a_site_that_fits_its_cluster_passes() -> None:
    """Every line is ok, says what there is, and asks for nothing."""
    checks = compared(slurm={"partition": "gpu"}, resources=shard())
    assert set(checks) == {"partition", "GPUs", "arrays"}
    assert all(check.ok and not check.hint for check in checks.values())
    assert checks["partition"].found == "gpu (default): up, 9 nodes, 240 min, gpu:h100:8(S:0-1)"


def test_a_misspelt_partition_is_answered_with_the_nearest() -> None:
    """And with all that there are."""
    check = compared(slurm={"partition": "gpus", "cpu_partition": "xyz"})["partition"]
    assert (check.ok, check.hint) == (False, "--set slurm.partition=gpu")
    assert "'gpus'; there are cpu, gpu" in check.found


def test_without_a_partition_the_default_counts() -> None:
    """A cluster without a default needs one to be named."""
    assert compared()["partition"].ok
    check = compared((CPU,))["partition"]
    assert (check.ok, check.hint) == (False, "--set slurm.partition=NAME")


def test_a_partition_that_is_down_is_said() -> None:
    """Jobs would be queued there without a word."""
    down = Partition("gpu", default=True, state="DRAIN")
    assert not compared((down,))["partition"].ok


def test_a_walltime_above_the_partitions_limit_fails() -> None:
    """Passes are measured by their own partition; a job without a limit is above any."""
    slurm = {"partition": "gpu", "cpu_partition": "cpu"}
    check = compared(slurm=slurm)["walltime"]
    assert not check.ok
    assert check.found == "collect asks for 1:00:00; cpu ends at 30 minutes"
    fits = {job: {"walltime": "30"} for job in ("planning", "collect")}
    assert "walltime" not in compared(slurm=slurm, resources=fits)
    check = compared(resources=shard(walltime="0"))["walltime"]
    assert (check.ok, check.hint) == (False, "--set resources.shard.walltime=240")


@pytest.mark.parametrize(
    ("gres", "slurm", "ok", "says"),
    [
        (("gpu:8",), {}, True, "offer 8"),
        (("gpu:a100:4", "gpu:h100:8"), {"gpu_type": "h100"}, True, "offer 8"),
        (("gpu:a100:8",), {"gpu_type": "h100"}, False, "8 h100 GPUs a node wanted"),
        (("gpu:a40:4,gpu:a100:4,nvme:1",), {}, True, "offer 8"),
        (("gpu:a100:4",), {}, False, "offer 4"),
        (("(null)",), {}, False, "offer none"),
        ((), {"gpu_request": "none"}, True, "without asking"),
    ],
)
def test_gpus_are_counted_for_one_node(
    gres: tuple[str, ...], slurm: dict[str, Any], ok: bool, says: str
) -> None:
    """As sinfo prints them: with or without type, sockets, and other kinds of gres."""
    check = compared((Partition("p", default=True, gres=gres),), slurm=slurm, resources=shard())[
        "GPUs"
    ]
    assert check.ok is ok
    assert says in check.found
    assert bool(check.hint) is not ok


def test_a_partition_for_other_accounts_fails() -> None:
    """Where AllowAccounts names some, the site's must be among them."""
    closed = Partition("p", default=True, allow_accounts="bio,chem")
    assert compared((closed,))["account"].hint == "--set slurm.account=bio"
    assert compared((closed,), slurm={"account": "chem"})["account"].ok


def test_more_tasks_than_the_cluster_allows_fail() -> None:
    """`max_array_size` is the cluster's, or below it."""
    assert not compared(tasks=1000)["arrays"].ok
    assert compared(tasks=1000, slurm={"max_array_size": 500})["arrays"].ok


def found(tmp_path: Path, text: str, **env: str) -> dict[str, Check]:
    """The checks of a site file without Slurm."""
    path = tmp_path / "mine.yaml"
    path.write_text(f"scheduler: local\n{text}")
    environment = {"HOME": str(tmp_path), "PATH": "", **env}
    return {check.name: check for check in check_site(str(path), environment)}


def test_a_variable_that_is_not_set_fails_with_its_name(tmp_path: Path) -> None:
    """It would otherwise be a folder called `$WORK`."""
    check = found(tmp_path, "run_root: $WORK/runs\n")["paths"]
    assert not check.ok
    assert "needs the variable WORK" in check.found
    assert found(tmp_path, "run_root: $WORK/runs\n", WORK=str(tmp_path))["run_root"].ok


def test_what_a_run_would_lack_is_listed(tmp_path: Path) -> None:
    """Required keys, secrets among the variables: what submit would refuse first."""
    text = "slurm: {required: [account]}\n"
    check = found(tmp_path, text)["settings"]
    assert not check.ok
    assert "needs slurm.account" in check.found
    assert "--set slurm.account=NAME" in check.hint
    assert found(tmp_path, "")["settings"].ok


def test_images_are_looked_up_in_their_folder(tmp_path: Path) -> None:
    """A relative name is a file of `image_dir`; with containers, no image at all is an error."""
    text = f"container: {{runtime: pyxis, image_dir: {tmp_path}, images: {{lm-eval: a.sqsh}}}}\n"
    assert str(tmp_path / "a.sqsh") in found(tmp_path, text)["image lm-eval"].found
    assert not found(tmp_path, text)["image lm-eval"].ok
    squashfs = b"hsqs" + bytes(24) + (4).to_bytes(2, "little") + bytes(10)
    (tmp_path / "a.sqsh").write_bytes(squashfs + (96).to_bytes(8, "little") + bytes(48))
    assert found(tmp_path, text)["image lm-eval"].ok
    assert not found(tmp_path, "container: {runtime: pyxis}\n")["images"].ok


def test_the_program_of_a_runtime_is_looked_for(tmp_path: Path) -> None:
    """Singularity counts as Apptainer; Pyxis is no program, and is asked of srun."""
    text = "container: {runtime: apptainer}\n"
    check = found(tmp_path, text)["apptainer"]
    assert (check.ok, check.found) == (False, "no apptainer or singularity")
    program = tmp_path / "singularity"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    assert found(tmp_path, text, PATH=str(tmp_path))["apptainer"].found == str(program)
    assert "pyxis" not in found(tmp_path, "container: {runtime: pyxis}\n")


def test_what_the_account_may_have_is_compared_too() -> None:
    """Places in the queue, and MaxWall, which Slurm would let a job wait for."""
    site = Site.model_validate({"name": "mine", "slurm": {"partition": "gpu"}})
    limits = Limits(1001, 1001, 10000, accounting=True, cluster="c", enforced=("limits",))

    def checks(queued: int, seconds: int) -> dict[str, Check]:
        quotas = Quotas(
            default_account="lab",
            associations=(Allowed("lab", max_submit=10, max_seconds=seconds),),
            queued=(Queued("lab", "gpu", "normal", queued),),
        )
        return {check.name: check for check in compare(site, (GPU,), limits, quotas)}

    fits = checks(7, 4 * 3600)
    assert fits["jobs"].ok
    assert fits["jobs"].found == "MaxSubmitJobs of account lab is 10; 7 are in the queue"
    assert "walltime" not in fits
    tight = checks(8, 3 * 3600)
    assert not tight["jobs"].ok
    assert "squeue --me" in tight["jobs"].hint
    assert tight["walltime"].hint == "--set resources.shard.walltime=180"
