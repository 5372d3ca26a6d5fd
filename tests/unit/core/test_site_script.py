"""Batch scripts that belong to a site: the check of a node."""

from __future__ import annotations

from evalhpc.config.template_files import load_sources
from evalhpc.core.site_script import SiteJob, render_site_job
from evalhpc.models.site import JobSize, Site


def test_the_check_of_a_node_is_a_job_as_the_sites_are() -> None:
    """The site's header, GPUs, environment and interpreter; without that it says so itself."""
    site = Site.model_validate(
        {"name": "here", "python": "/site/python",
         "slurm": {"account": "a", "gpu_type": "h100", "extra": ["--exclusive"]},
         "environment": {"setup": ["module load python"]}}
    )  # fmt: skip
    job = SiteJob("check", "check-shard", "/r/.check-1", "gpu", JobSize(gpus_per_node=8))
    text = render_site_job(
        site, job, {"wish": "/r/.check-1/wish.json"}, python="/p/python", environment={},
        sources=load_sources(None),
    )  # fmt: skip
    lines = text.splitlines()
    for line in (
        "#SBATCH --account=a", "#SBATCH --partition=gpu", "#SBATCH --gres=gpu:h100:8",
        "#SBATCH --exclusive", "#SBATCH --output=/r/.check-1/check-%j.log", "module load python",
        "export EVALHPC_PYTHON=/site/python", "if [[ ! -x $EVALHPC_PYTHON ]]; then",
        'exec "$EVALHPC_PYTHON" -m evalhpc node check --wish /r/.check-1/wish.json',
    ):  # fmt: skip
        assert line in lines
