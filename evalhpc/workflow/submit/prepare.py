"""From what a user wishes to a run directory with every script in it, and nothing submitted."""

from __future__ import annotations

import os
import re
import socket
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from evalhpc.config.resolve import Overrides, merge_params, merge_site, resolve
from evalhpc.config.run_file import dump_run
from evalhpc.config.sites import SiteLayer, detect_site, load_site
from evalhpc.config.suites import adhoc_suite, load_suite
from evalhpc.config.template_files import load_sources
from evalhpc.core.exposure import refuse_exposed
from evalhpc.core.rendering import render_run
from evalhpc.deploy.dialect_probe import refuse_export_deploy
from evalhpc.deploy.inspection import find_model
from evalhpc.errors import UsageError
from evalhpc.harness.catalogue import harness_spec, lookup_task
from evalhpc.harness.staging import stage_tasks
from evalhpc.models.checkpoint import Model
from evalhpc.models.runspec import RunSpec
from evalhpc.models.suite import MODEL_ENDPOINT, Suite
from evalhpc.paths import RunPaths
from evalhpc.storage.atomic import storage_errors, write_text
from evalhpc.workflow.record.image_sites import stored_images
from evalhpc.workflow.record.image_use import image_warnings
from evalhpc.workflow.record.provenance import write_provenance
from evalhpc.workflow.record.run import Run
from evalhpc.workflow.submit.choice import choose_deployment, refuse_idle_nodes
from evalhpc.workflow.submit.endpoints import find_endpoints, find_subject
from evalhpc.workflow.submit.lint import lint, refuse_secrets
from evalhpc.workflow.submit.run_directory import Prepared, filling
from evalhpc.workflow.submit.wish import Wish
from evalhpc.workflow.watch.listing import ROOT_VARIABLE, expanded

DEMO_SUITE = "demo"


def prepare(wish: Wish, environ: Mapping[str, str]) -> Prepared:
    """Resolve the wish, create the run directory and render every script into it."""
    spec, warnings = resolve_wish(wish, environ)
    root = planned_dir(wish, spec, environ)
    if spec.site.scheduler == "local":
        _refuse_placeholders(root)
    run = Run(RunPaths(root), spec, spec.digest())
    with filling(run, warnings) as prepared:
        fill_run(run, warnings)
    return prepared


def resolve_wish(
    wish: Wish,
    environ: Mapping[str, str],
    stand_in: Callable[[Model | None], Model] | None = None,
) -> tuple[RunSpec, tuple[str, ...]]:
    """The frozen spec (site < suite < command line), and warnings about the checkpoint.

    With `stand_in` no model is asked: it gives what takes its place, for none as well.
    """
    layer = site_layer(wish, environ)
    suite = suite_of(wish, environ)
    overrides = Overrides(shards=wish.shards, limit=wish.limit, name=wish.name, sets=wish.sets)
    site = merge_site(layer, suite, overrides)
    benchmarks = merge_params(suite, site, overrides)
    if stand_in is None:
        model, warnings = find_subject(wish, benchmarks, environ)
    else:
        named = find_model(wish.model, model_id=wish.model_id)[0] if wish.model else None
        model, warnings = stand_in(named), ()
    endpoints, more = find_endpoints(suite, wish.others, site, environ)
    taken = sum(served.deployment.taken_gpus for served in endpoints.values())
    deployment = choose_deployment(model, site, taken=taken)
    refuse_idle_nodes(site, [deployment, *(served.deployment for served in endpoints.values())])
    harnesses = {b.harness: harness_spec(b.harness) for b in suite.benchmarks}
    spec = resolve(
        layer,
        suite,
        model,
        deployment,
        harnesses,
        overrides,
        endpoints=endpoints,
        stored=stored_images(site.container, [h.image for h in harnesses.values()], environ),
        python=sys.executable,
        environ=environ,
    )
    for name, served in spec.served().items():
        if name == MODEL_ENDPOINT and stand_in is not None:
            continue
        if served.model.url is not None and served.deployment.dialect == "openai":
            refuse_export_deploy(served.model.url, environ.get(served.model.api_key_env or ""))
    exposed = refuse_exposed(spec) if stand_in is None else ()
    return spec, (*warnings, *more, *image_warnings(spec), *exposed)


def site_layer(wish: Wish, environ: Mapping[str, str]) -> SiteLayer:
    """The site that the wish names, or that this machine's name says."""
    name = wish.site or detect_site(socket.gethostname(), environ)
    return load_site(name, environ)


def suite_of(wish: Wish, environ: Mapping[str, str]) -> Suite:
    """The suite that the wish names, or its tasks as one."""
    if wish.suite and wish.tasks:
        raise UsageError("--suite and --tasks are both given", hint="keep one of them")
    if wish.tasks:
        return adhoc_suite(wish.tasks, lookup_task)
    return load_suite(wish.suite or DEMO_SUITE, environ)


def planned_dir(wish: Wish, spec: RunSpec, environ: Mapping[str, str]) -> Path:
    """Where the run's directory is to be: `--run-dir`, or its id below the run root."""
    if wish.run_dir is not None:
        return wish.run_dir.expanduser().absolute()
    root = environ.get(ROOT_VARIABLE)
    return (expanded(root) if root else Path(spec.site.run_root)) / spec.run_id


def _refuse_placeholders(root: Path) -> None:
    # submitit fills these in wherever they stand in a path, and would write beside the run.
    found = re.search(r"%[A-Za-z]", str(root))
    if found:
        raise UsageError(
            f"{root} holds {found[0]!r}, which job runners replace by the number of a job",
            hint="choose another --run-dir",
        )


def fill_run(run: Run, warnings: tuple[str, ...]) -> None:
    """Make the folders of a run directory that is there, its scripts, and `run.yaml`."""
    spec, paths = run.spec, run.paths
    override = Path(spec.site.templates) if spec.site.templates else None
    scripts = render_run(spec, str(paths.root), load_sources(override))
    refuse_secrets({**scripts, "run.yaml": dump_run(spec)}, os.environ)
    with storage_errors(paths.root):
        for folder in paths.folders():
            folder.mkdir(parents=True, exist_ok=True)
    stage_tasks(spec.benchmarks, paths.tasks)
    for name, text in scripts.items():
        write_text(paths.scripts / name, text)
    lint(paths.scripts / name for name in scripts)
    write_provenance(run, warnings)
    # Last, because a directory with a run.yaml counts as a run.
    write_text(paths.spec, dump_run(spec))
