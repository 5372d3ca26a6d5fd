"""Rendering: a frozen RunSpec and the template sources give every script of a run, as text.

The same spec, run directory and sources give the same bytes. `docs/templates.md` describes the
variables that the templates get; `Batch` is the one called `job`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from evalhpc.containers.runtime import wrap
from evalhpc.core.quoting import SbatchOption, Verbatim, sbatch_path
from evalhpc.core.template_environment import Templates
from evalhpc.errors import ConfigError
from evalhpc.models.runspec import RunSpec, Served
from evalhpc.models.site import JobSize, Slurm
from evalhpc.models.suite import MODEL_ENDPOINT, Benchmark

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True)
class Batch:
    """What the #SBATCH lines of one kind of job say; None leaves a line out."""

    kind: str
    name: str
    comment: str
    partition: str | None
    size: JobSize
    gpus: str | None  # `8` or `h100:8`, per node
    array: str | None  # `0-7%4`
    log: str  # sbatch's pattern of the log's path
    extra: tuple[SbatchOption, ...]


def render_run(spec: RunSpec, run_dir: str, sources: Mapping[str, str]) -> dict[str, str]:
    """Script name → text, for everything in RUN/scripts; `sources` is template name → text.

    Raises ConfigError for a template that does not fit the run, and for values that no script
    or no #SBATCH line can carry.
    """
    common = _common_variables(spec, run_dir)
    per_script = (
        "script",
        "job",
        "threads",
        "benchmark",
        "harness",
        "container",
        "nodes",
        "tasks_per_node",
        "tidies_up",
        "reasons",
        "endpoints",
    )
    templates = Templates(sources, names=(*common, *per_script))
    scripts: dict[str, str] = {}

    def add(script: str, template: str, **variables: Any) -> None:
        scripts[script] = templates.render(template, {**common, "script": script, **variables})

    for kind in batch_kinds(spec):
        job = batch_job(spec, run_dir, kind)
        add(f"{kind}.sbatch", f"{kind}.sbatch.j2", job=job, threads=job.size.cpus)
    for name, served in spec.served().items():
        if served.deployment.kind != "endpoint":
            script = "server.sh" if name == MODEL_ENDPOINT else f"server-{name}.sh"
            add(script, "server.sh.j2", **_server_variables(spec, run_dir, served))
    others = {name: served.model.model_id for name, served in sorted(spec.endpoints.items())}
    for benchmark in spec.benchmarks:
        add(f"harness-{benchmark.name}.sh", "harness.sh.j2",
            endpoints=others, **_harness_variables(spec, run_dir, benchmark))  # fmt: skip
    return scripts


def batch_kinds(spec: RunSpec) -> tuple[str, ...]:
    """The kinds of job that a run has; `deploy` where all shards share deployment jobs."""
    shared = spec.shares_deployment
    return ("planning", *(("deploy",) if shared else ()), "shard", "collect")


def batch_job(spec: RunSpec, run_dir: str, kind: str) -> Batch:
    """What a job of `kind` (one of `batch_kinds`) asks of Slurm; raises ConfigError."""
    slurm, arrays = spec.site.slurm, {"shard": _array(spec), "deploy": _jobs(spec)}
    size = job_size(spec, kind)
    cpu_partition = None if _holds_model(spec, kind) else slurm.cpu_partition
    return Batch(
        kind=kind,
        name=f"{spec.run_id}.{kind}",
        comment=spec.run_id if slurm.comment is None else slurm.comment,
        partition=cpu_partition or slurm.partition,
        size=size,
        gpus=gpus_asked(slurm, size),
        array=arrays.get(kind),
        log=_log_pattern(spec, run_dir, f"{kind}-{'%A_%a' if kind in arrays else '%j'}.log"),
        extra=tuple(map(SbatchOption, slurm.extra)),
    )


def job_size(spec: RunSpec, kind: str) -> JobSize:
    """What one job of `kind` gets: as many nodes as its servers span; CPUs alone for clients."""
    resources = spec.site.resources
    if _holds_model(spec, kind):
        nodes = max(served.deployment.nodes for served in spec.served().values())
        return resources.shard.model_copy(update={"nodes": max(nodes, resources.shard.nodes)})
    if kind == "shard":
        times = {"walltime": resources.shard.walltime, "time_min": resources.shard.time_min}
        return resources.planning.model_copy(update=times)
    size: JobSize = getattr(resources, kind)
    return size


def _holds_model(spec: RunSpec, kind: str) -> bool:
    """Whether jobs of this kind start model servers."""
    if all(served.deployment.kind == "endpoint" for served in spec.served().values()):
        return False
    return kind == ("deploy" if spec.shares_deployment else "shard")


def _log_pattern(spec: RunSpec, run_dir: str, name: str) -> str:
    literal = sbatch_path(run_dir) if spec.site.scheduler == "slurm" else run_dir
    return f"{literal}/logs/{name}"


def gpus_asked(slurm: Slurm, size: JobSize) -> str | None:
    """`8` or `h100:8`, per node; None where none are asked for."""
    if slurm.gpu_request == "none" or size.gpus_per_node == 0:
        return None
    return ":".join(filter(None, (slurm.gpu_type, str(size.gpus_per_node))))


def _array(spec: RunSpec) -> str:
    slurm, shards = spec.site.slurm, min(spec.run.shards, spec.site.slurm.max_array_size)
    throttle = "" if slurm.array_throttle is None else f"%{slurm.array_throttle}"
    return f"0-{shards - 1}{throttle}"


def _jobs(spec: RunSpec) -> str:
    return f"0-{spec.site.deploy.jobs - 1}"


def _common_variables(spec: RunSpec, run_dir: str) -> dict[str, Any]:
    site = spec.site
    variables = {**site.environment.variables, **spec.environment}
    for name in variables:
        _check_variable(name)
    return {
        "spec": spec,
        "site": site,
        "slurm": site.slurm,
        "model": spec.model,
        "deployment": spec.deployment,
        "run_id": spec.run_id,
        "run_dir": run_dir,
        "python": spec.python,
        "setup": tuple(map(Verbatim, site.environment.setup)),
        "secret_names": _secret_names(spec),
        "variables": dict(sorted(variables.items())),
    }


def _secret_names(spec: RunSpec) -> tuple[str, ...]:
    """Variables whose values logs must not show, whatever they are called."""
    keys = {served.model.api_key_env for served in spec.served().values()}
    return tuple(sorted({*spec.site.environment.secrets.names, *filter(None, keys)}))


def _check_variable(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"{name!r} cannot be the name of an environment variable",
            hint="use letters, digits and underscores in environment.variables",
        )


def _server_variables(spec: RunSpec, run_dir: str, served: Served) -> dict[str, Any]:
    model, deployment = served.model, served.deployment
    container = wrap(
        spec.site.container,
        deployment.image,
        writable=[run_dir, *_absolute(spec.site.stage_dir if spec.site.offline else None)],
        read_only=_absolute(model.path, model.tokenizer),
    )
    return {
        "model": model,
        "deployment": deployment,
        "container": container,
        "nodes": deployment.nodes,
        "tasks_per_node": deployment.tasks_per_node,
        "tidies_up": deployment.uses_ray,
        "reasons": tuple(map(Verbatim, deployment.reasons)),
        "threads": deployment.threads,
    }


def _harness_variables(spec: RunSpec, run_dir: str, benchmark: Benchmark) -> dict[str, Any]:
    try:
        harness = spec.harnesses[benchmark.harness]
    except KeyError:
        raise ConfigError(
            f"benchmark {benchmark.name} names the harness {benchmark.harness!r}, "
            f"and the run knows: {', '.join(sorted(spec.harnesses))}"
        ) from None
    params = benchmark.params
    container = wrap(
        spec.site.container,
        harness.image,
        # Programs lock what they read of the staged files.
        writable=[run_dir, *_absolute(spec.site.stage_dir)],
        read_only=_absolute(spec.model.tokenizer, params.tokenizer, params.include_path),
    )
    return {
        "benchmark": benchmark,
        "harness": harness,
        "container": container,
        "nodes": 1,
        "tasks_per_node": 1,
        "tidies_up": False,
        "threads": spec.site.resources.planning.cpus,
    }


def _absolute(*paths: str | None) -> list[str]:
    # A tokenizer may also be a hub name, which is no path.
    return [path for path in paths if path and path.startswith("/")]
