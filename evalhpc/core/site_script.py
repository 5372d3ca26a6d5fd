"""Batch scripts of jobs that belong to a site, not to a run: a run's header and environment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from evalhpc.core.quoting import SbatchOption, Verbatim, sbatch_path
from evalhpc.core.rendering import Batch, gpus_asked
from evalhpc.core.template_environment import Templates
from evalhpc.models.site import JobSize, Site


@dataclass(frozen=True)
class SiteJob:
    """What a job of a site is, beside what the site says of all jobs."""

    kind: str  # of its template and its log: `import`, `check`
    title: str
    folder: str  # where it works and logs
    partition: str | None
    size: JobSize


def render_site_job(
    site: Site,
    job: SiteJob,
    own: Mapping[str, str],
    *,
    python: str,
    environment: Mapping[str, str],
    sources: Mapping[str, str],
) -> str:
    """The script of the job; `own`: the variables that only its template has.

    `environment`: the site's pass_through variables. `site` has its paths expanded. Raises
    ConfigError for values that no script can carry.
    """
    batch = Batch(
        kind=job.kind,
        name=job.title,
        comment=job.title if site.slurm.comment is None else site.slurm.comment,
        partition=job.partition,
        size=job.size,
        gpus=gpus_asked(site.slurm, job.size),
        array=None,
        log=f"{sbatch_path(job.folder)}/{job.kind}-%j.log",
        extra=tuple(map(SbatchOption, site.slurm.extra)),
    )
    variables = {
        "site": site,
        "slurm": site.slurm,
        "job": batch,
        "run_id": job.title,
        "run_dir": job.folder,
        "python": site.python or python,
        "threads": job.size.cpus,
        "setup": tuple(map(Verbatim, site.environment.setup)),
        "secret_names": site.environment.secrets.names,
        "variables": dict(sorted({**site.environment.variables, **environment}.items())),
        **own,
    }
    return Templates(sources, names=tuple(variables)).render(f"{job.kind}.sbatch.j2", variables)
