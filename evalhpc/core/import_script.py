"""The batch script of an image import, as text."""

from __future__ import annotations

from collections.abc import Mapping

from evalhpc.core.site_script import SiteJob, render_site_job
from evalhpc.models.site import Site


def render_import(
    site: Site,
    folder: str,
    wish: str,
    name: str,
    *,
    python: str,
    environment: Mapping[str, str],
    sources: Mapping[str, str],
) -> str:
    """The script that imports what the file `wish` says; it works and logs in `folder`.

    `environment`: the site's pass_through variables. `site` has its paths expanded. Raises
    ConfigError for values that no script can carry.
    """
    job = SiteJob(
        kind="import",
        title=f"import-{name}",
        folder=folder,
        partition=site.slurm.cpu_partition or site.slurm.partition,
        size=site.resources.planning.model_copy(update={"nodes": 1, "gpus_per_node": 0}),
    )
    return render_site_job(
        site, job, {"wish": wish}, python=python, environment=environment, sources=sources
    )
