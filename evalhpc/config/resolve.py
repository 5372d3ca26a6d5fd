"""The join: site < suite < command line, model, deployment and harnesses as one RunSpec. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import evalhpc
from evalhpc.config.checks import check_sharding, check_site, image_for, python_for
from evalhpc.config.expand import expand_site
from evalhpc.config.layers import Assignment, deep_merge, parse_sets
from evalhpc.config.schema import did_you_mean
from evalhpc.config.sites import SiteLayer
from evalhpc.config.suites import repeated
from evalhpc.config.validation import validate
from evalhpc.errors import UsageError
from evalhpc.models.checkpoint import Model
from evalhpc.models.deployment import Serving
from evalhpc.models.runspec import HarnessSpec, RunSpec, Served
from evalhpc.models.site import Site
from evalhpc.models.suite import Benchmark, Params, Suite

#: Longest name of a run; with the hash it stays below the 255 bytes of a file name.
_NAME_LENGTH = 100


@dataclass(frozen=True)
class Overrides:
    """What the command line says; None where it says nothing."""

    shards: int | None = None
    limit: int | None = None  # first N documents of each benchmark
    name: str | None = None
    sets: tuple[str, ...] = ()  # each KEY=VALUE


def merge_site(layer: SiteLayer, suite: Suite, overrides: Overrides) -> Site:
    """The site file under the suite's `run` under the command line; UsageError, ConfigError.

    Call it before `resolve` to choose a deployment: `deploy` and `resources` are final here.
    """
    data = deep_merge(layer.data, {"run": suite.run})
    assignments = _assignments(suite, overrides)
    for assignment in assignments:
        if not assignment.params:
            data = deep_merge(data, assignment.tree())
    flags = {"shards": overrides.shards, "limit": overrides.limit}
    for key, value in flags.items():
        if value is None:
            continue
        if any(not a.params and a.path == ("run", key) for a in assignments):
            raise UsageError(
                f"--{key} and --set run.{key} are both given", hint=f"keep --{key} {value}"
            )
        if value < 1:
            raise UsageError(f"--{key} {value}: must be at least 1", hint=f"--{key} 1")
        data = deep_merge(data, {"run": {key: value}})
    return validate(Site, data, str(layer.path))


def resolve(
    layer: SiteLayer,
    suite: Suite,
    model: Model,
    deployment: Serving,
    harnesses: Mapping[str, HarnessSpec],
    overrides: Overrides,
    *,
    endpoints: Mapping[str, Served] | None = None,
    stored: Mapping[str, str] | None = None,
    python: str,
    environ: Mapping[str, str],
) -> RunSpec:
    """The frozen run; raises UsageError or ConfigError for what would fail on the cluster.

    `harnesses`: the catalogue's entries by name, those that the suite uses at least.
    `endpoints`: those beside the model under test, by name.
    `stored`: name or reference of an image → absolute path of its file, where it is imported.
    `python`: absolute path of the interpreter, unless the site names one.
    """
    site = expand_site(merge_site(layer, suite, overrides), environ, stored)
    for error in check_site(site, environ):
        raise error
    benchmarks = merge_params(suite, site, overrides)
    used = {name: _harness(name, harnesses) for name in sorted({b.harness for b in benchmarks})}
    check_sharding(site.run, used, benchmarks)
    return RunSpec(
        evalhpc_version=evalhpc.__version__,
        name=run_name(overrides.name, suite.name, model.model_id),
        suite=suite.name,
        site=site,
        model=model,
        deployment=_in_image(deployment, site),
        endpoints={
            name: served.model_copy(update={"deployment": _in_image(served.deployment, site)})
            for name, served in sorted((endpoints or {}).items())
        },
        harnesses={
            name: spec.model_copy(
                update={
                    "image": image_for(name, site, _stored(spec.image, stored)),
                    "python": python_for(name, site),
                }
            )
            for name, spec in used.items()
        },
        benchmarks=benchmarks,
        run=site.run,
        python=site.python or python,
        environment={name: environ[name] for name in site.environment.pass_through},
    )


def _stored(image: str | None, stored: Mapping[str, str] | None) -> str | None:
    return image if image is None or stored is None else stored.get(image, image)


def _in_image(deployment: Serving, site: Site) -> Serving:
    if deployment.kind == "endpoint":
        return deployment
    image = image_for(deployment.kind, site, deployment.image)
    return deployment.model_copy(update={"image": image})


def merge_params(suite: Suite, site: Site, overrides: Overrides) -> tuple[Benchmark, ...]:
    """The benchmarks with their final parameters; each carries the limit that applies to it.

    limit: `--set params.<benchmark>.limit` > `--set params.limit` > `--limit` > the benchmark's
    own in the suite > `run.limit` of suite and site.
    """
    twice = repeated(benchmark.name for benchmark in suite.benchmarks)
    if twice:
        raise UsageError(
            f"two benchmarks of suite {suite.name!r} are called {twice!r}",
            cause="the name is the benchmark's folder in the run directory",
            hint="give one of them another name in a suite file",
        )
    assignments = _assignments(suite, overrides)
    given = overrides.limit is not None or any(
        not a.params and a.path == ("run", "limit") for a in assignments
    )
    # Those for one benchmark come last, so that they win wherever they stand.
    ordered = sorted((a for a in assignments if a.params), key=lambda a: a.benchmark is not None)
    return tuple(
        _with_params(benchmark, site.run.limit, given, ordered) for benchmark in suite.benchmarks
    )


def run_name(wanted: str | None, suite: str, model_id: str) -> str:
    """The name of the run: the one wanted, else `<suite>-<model_id>` in plain characters."""
    if wanted is None:
        plain = re.sub(r"[^A-Za-z0-9_.-]+", "-", f"{suite}-{model_id}")
        return plain.strip("-.")[:_NAME_LENGTH].strip("-.")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}", wanted):
        raise UsageError(
            f"--name {wanted}: a name of letters, digits, '_', '.' and '-' is needed, at most 100",
            hint=f"--name {run_name(None, suite, model_id)}",
        )
    return wanted


def _assignments(suite: Suite, overrides: Overrides) -> list[Assignment]:
    return parse_sets(overrides.sets, [benchmark.name for benchmark in suite.benchmarks])


def _with_params(
    benchmark: Benchmark, limit: int | None, given: bool, assignments: Iterable[Assignment]
) -> Benchmark:
    data: dict[str, Any] = benchmark.params.model_dump()
    if given or data["limit"] is None:
        data["limit"] = limit
    for assignment in assignments:
        if assignment.benchmark in (None, benchmark.name):
            data = deep_merge(data, assignment.tree())
    params = validate(Params, data, f"params of {benchmark.name}")
    if params.include_path is not None and not params.include_path.startswith("/"):
        raise UsageError(
            f"{benchmark.name}: include_path {params.include_path!r} is a relative path",
            cause="jobs run in other folders",
            hint=f"--set params.{benchmark.name}.include_path=/absolute/path",
        )
    return benchmark.model_copy(update={"params": params})


def _harness(name: str, harnesses: Mapping[str, HarnessSpec]) -> HarnessSpec:
    if name not in harnesses:
        raise UsageError(
            f"there is no harness {name!r}{did_you_mean(name, harnesses)}",
            cause=f"the harnesses are {', '.join(sorted(harnesses))}",
            hint="correct `harness:` in the suite file",
        )
    return harnesses[name]
