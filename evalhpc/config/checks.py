"""What a valid site may still lack for a run: required keys, images, mounts, variables. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from evalhpc.config.container_checks import check_container, check_image_name
from evalhpc.config.folders import user_config
from evalhpc.containers.runtime import takes_suffixes
from evalhpc.core.masking import is_secret_name
from evalhpc.core.walltime import walltime_seconds
from evalhpc.errors import ConfigError, EvalhpcError, UsageError
from evalhpc.models.runspec import HarnessSpec
from evalhpc.models.site import JobSize, RunSettings, Site
from evalhpc.models.suite import Benchmark

#: Seconds of silence that a worker which lives may need: two beats, and a file system that is busy.
SHORTEST_LEASE = 5.0


def check_site(site: Site, environ: Mapping[str, str]) -> list[EvalhpcError]:
    """Everything that would stop a run at this site, whatever its model and suite.

    `site` has its paths expanded (`expand.expand_site`).
    """
    return [
        *_required(site, environ),
        *_one_line(site),
        *_times(site),
        *_silence(site),
        *_variables(site, environ),
        *check_container(site, environ),
    ]


def check_sharding(
    run: RunSettings, harnesses: Mapping[str, HarnessSpec], benchmarks: Iterable[Benchmark]
) -> None:
    """Raises UsageError where `run.shard_by: samples` does not fit the rest."""
    if run.shard_by != "samples":
        return
    if run.miss != "stub" or run.plan != "job":
        other = f"--miss {run.miss}" if run.miss != "stub" else f"run.plan: {run.plan}"
        raise UsageError(
            f"--shard-by samples and {other} exclude each other",
            cause="pass 0 counts the documents before the array starts, and each shard then runs "
            "the harness live on its own",
            hint="keep one of them",
        )
    unable = [b for b in benchmarks if harnesses[b.harness].selection is None]
    if unable:
        names = ", ".join(f"{b.name} ({b.harness})" for b in unable)
        raise UsageError(
            f"--shard-by samples: {names} cannot be told which documents to run",
            cause="the harness has no selection of samples of its own, as far as the catalogue "
            "knows",
            hint="leave --shard-by out: by requests, every harness is sharded",
        )


def image_for(name: str, site: Site, default: str | None) -> str | None:
    """The image that `name` (a harness or a server) runs in here; None where none is used.

    The site's own choice comes before `default`. ConfigError unless the runtime can start it.
    """
    if site.container.runtime == "none":
        return None
    image = site.container.images.get(name, default)
    key = f"container.images.{name}"
    if image is None:
        suffix = takes_suffixes(site.container.runtime)[0]
        raise ConfigError(
            f"site {site.name!r} has no image for {name!r}",
            cause=f"container.runtime is {site.container.runtime}, and {key} is not set",
            hint=f"add --set {key}=/path/to/{name}{suffix}, or put it in the site file",
        )
    check_image_name(image, key, site)
    return image


def python_for(harness: str, site: Site) -> str | None:
    """The interpreter that `harness` is installed in here; None: the run's own, or an image's."""
    return site.pythons.get(harness) if site.container.runtime == "none" else None


def _required(site: Site, environ: Mapping[str, str]) -> Iterator[EvalhpcError]:
    missing = [key for key in site.slurm.required if not getattr(site.slurm, key)]
    if not missing:
        return
    folder = user_config(environ)
    file = f"{folder or '~/.config/evalhpc'}/sites/{site.name}.yaml"
    sets = " ".join(f"--set slurm.{key}=NAME" for key in missing)
    yield UsageError(
        f"site {site.name!r} needs {' and '.join(f'slurm.{key}' for key in missing)}",
        cause="it differs from user to user, so the site file leaves it open",
        hint=f"add {sets}, or put it in {file} below `extends: {site.name}`",
    )


def _one_line(site: Site) -> Iterator[EvalhpcError]:
    for key, value in site.slurm.model_dump().items():
        if isinstance(value, str) and not value.isprintable():
            yield ConfigError(
                f"slurm.{key}: {value!r} holds a line break or another control character",
                cause="it becomes one #SBATCH line",
                hint=f"write slurm.{key} in one line",
            )


def _silence(site: Site) -> Iterator[EvalhpcError]:
    if site.run.lease_timeout < SHORTEST_LEASE:
        yield UsageError(
            f"run.lease_timeout is {site.run.lease_timeout:g} s, less than {SHORTEST_LEASE:g}",
            cause="a worker gives a sign of life every 2 s; others would take it for dead, and its "
            "work away, again and again",
            hint="leave it out (60 s), or set it to ten times what the file system may stall",
        )


def _times(site: Site) -> Iterator[EvalhpcError]:
    """A shortest time that no job can have, and times in which none could do anything."""
    if site.scheduler != "slurm":
        return
    for name in ("planning", "shard", "collect"):
        job: JobSize = getattr(site.resources, name)
        key = f"resources.{name}"
        least = None if job.time_min is None else walltime_seconds(job.time_min)
        most = walltime_seconds(job.walltime)
        if least is not None and most is not None and least > most:
            yield ConfigError(
                f"{key}.time_min: {job.time_min} is longer than the walltime, {job.walltime}",
                cause="it is the least that Slurm may give, the walltime the most",
                hint=f"lower {key}.time_min, or raise {key}.walltime",
            )
            continue
        for field, seconds in (("time_min", least), ("walltime", most)):
            if seconds is not None and 0 < seconds <= site.slurm.signal_seconds:
                yield ConfigError(
                    f"{key}.{field}: {getattr(job, field)} is no longer than "
                    f"slurm.signal_seconds, {site.slurm.signal_seconds} s",
                    cause="such a job would be told to end as it begins",
                    hint=f"raise {key}.{field}: it has to hold the loading of the model, too",
                )


def _variables(site: Site, environ: Mapping[str, str]) -> Iterator[EvalhpcError]:
    named = {
        "environment.pass_through": site.environment.pass_through,
        "environment.variables": tuple(site.environment.variables),
    }
    for key, names in named.items():
        for name in names:
            if is_secret_name(name) or name in site.environment.secrets.names:
                yield ConfigError(
                    f"{key}: {name} looks like a secret",
                    cause="what stands there is written into the run directory in clear",
                    hint="have it read on the node instead: environment.secrets: "
                    f"{{file: ~/.config/evalhpc/secrets.env, names: [{name}]}} (mode 0600)",
                )
    secrets = site.environment.secrets
    if (secrets.file or secrets.command) and not secrets.names:
        yield ConfigError(
            "environment.secrets.names is empty",
            cause="jobs get those secrets alone that it lists",
            hint="environment.secrets.names: [HF_TOKEN]",
        )
    missing = [name for name in site.environment.pass_through if name not in environ]
    if missing:
        yield ConfigError(
            f"environment.pass_through: not set in this shell: {', '.join(missing)}",
            hint=f"export {missing[0]}=..., or take it off the list",
        )
