"""The batch script of an image import, as text: the same header and environment as a run's jobs."""

from __future__ import annotations

from collections.abc import Mapping

from evalhpc.core.quoting import SbatchOption, Verbatim, sbatch_path
from evalhpc.core.rendering import Batch
from evalhpc.core.template_environment import Templates
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
    size = site.resources.planning.model_copy(update={"nodes": 1, "gpus_per_node": 0})
    title = f"import-{name}"
    job = Batch(
        kind="import",
        name=title,
        comment=title if site.slurm.comment is None else site.slurm.comment,
        partition=site.slurm.cpu_partition or site.slurm.partition,
        size=size,
        gpus=None,
        array=None,
        log=f"{sbatch_path(folder)}/import-%j.log",
        extra=tuple(map(SbatchOption, site.slurm.extra)),
    )
    variables = {
        "site": site,
        "slurm": site.slurm,
        "job": job,
        "run_id": title,
        "run_dir": folder,
        "wish": wish,
        "python": site.python or python,
        "threads": size.cpus,
        "setup": tuple(map(Verbatim, site.environment.setup)),
        "secret_names": site.environment.secrets.names,
        "variables": dict(sorted({**site.environment.variables, **environment}.items())),
    }
    return Templates(sources, names=tuple(variables)).render("import.sbatch.j2", variables)
