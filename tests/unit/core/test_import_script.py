"""The batch script of an image import."""

from __future__ import annotations

import pytest

from evalhpc.config.template_files import load_sources
from evalhpc.core.import_script import render_import
from evalhpc.errors import ConfigError
from evalhpc.models.site import Site


def script(folder: str = "/i/.job-x", **data: object) -> str:
    """The script at a site of two partitions whose passes have four CPUs."""
    planning = {"walltime": "2:00:00", "cpus": 4, "gpus_per_node": 8, "nodes": 2}
    site = Site.model_validate(
        {"name": "here", "slurm": {"partition": "gpu", "cpu_partition": "cpu"},
         "resources": {"planning": planning}, **data}
    )  # fmt: skip
    return render_import(
        site, folder, f"{folder}/wish.json", "x", python="/p/python",
        environment={"https_proxy": "http://proxy:3128"}, sources=load_sources(None),
    )  # fmt: skip


def test_it_is_one_cpu_job_that_runs_the_import() -> None:
    """The size of a pass on one node without GPUs, in the partition of such jobs."""
    lines = script().splitlines()
    for line in (
        "#SBATCH --job-name=import-x", "#SBATCH --partition=cpu", "#SBATCH --nodes=1",
        "#SBATCH --cpus-per-task=4", "#SBATCH --time=2:00:00", "#SBATCH --chdir=/i/.job-x",
        "#SBATCH --output=/i/.job-x/import-%j.log",
        "export https_proxy=http://proxy:3128",
        'exec "$EVALHPC_PYTHON" -m evalhpc node import --wish /i/.job-x/wish.json',
    ):  # fmt: skip
        assert line in lines
    assert not any("gres" in line or "gpus" in line or "array" in line for line in lines)


def test_the_sites_environment_is_set_first() -> None:
    """`module load enroot` is a line of the site."""
    text = script(environment={"setup": ["module load enroot"], "variables": {"A": "b c"}})
    assert text.index("module load enroot") < text.index("export A='b c'") < text.index("exec ")


def test_a_store_that_slurm_cannot_write_a_log_to_is_refused() -> None:
    """sbatch has no way to write a backslash."""
    with pytest.raises(ConfigError, match="backslash"):
        script("/i\\x/.job")
