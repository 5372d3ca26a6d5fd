"""From what a user wishes to a run directory with every script in it, and nothing submitted."""

from __future__ import annotations

import os
import re
import shutil
import socket
import stat
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from evalhpc.config.resolve import Overrides, merge_params, merge_site, resolve
from evalhpc.config.run_file import dump_run
from evalhpc.config.sites import SiteLayer, detect_site, load_site
from evalhpc.config.suites import adhoc_suite, load_suite
from evalhpc.config.template_files import load_sources
from evalhpc.core.exposure import refuse_exposed
from evalhpc.core.quoting import shell_word
from evalhpc.core.rendering import render_run
from evalhpc.deploy.dialect_probe import refuse_export_deploy
from evalhpc.deploy.inspection import find_model
from evalhpc.errors import StorageError, UsageError
from evalhpc.harness.catalogue import harness_spec, lookup_task
from evalhpc.harness.staging import stage_tasks
from evalhpc.models.checkpoint import Model
from evalhpc.models.runspec import RunSpec
from evalhpc.models.suite import MODEL_ENDPOINT, Suite
from evalhpc.paths import RunPaths
from evalhpc.slurm.chain import LeftBehind
from evalhpc.storage.atomic import is_there, storage_errors, sync_folder, write_text
from evalhpc.storage.locks import exclusive
from evalhpc.workflow.record.image_sites import stored_images
from evalhpc.workflow.record.image_use import image_warnings
from evalhpc.workflow.record.provenance import write_provenance
from evalhpc.workflow.record.run import Run, open_run
from evalhpc.workflow.submit.choice import choose_deployment, refuse_idle_nodes
from evalhpc.workflow.submit.endpoints import find_endpoints, find_subject
from evalhpc.workflow.submit.lint import lint, refuse_secrets
from evalhpc.workflow.submit.wish import Wish
from evalhpc.workflow.watch.listing import ROOT_VARIABLE, expanded

DEMO_SUITE = "demo"
#: The directory itself was made, or filled, or it was rendered before.
Undo = Literal["folder", "contents", "nothing"]
_BUSY = "another evalhpc command is at work on this run"


@dataclass(frozen=True)
class Prepared:
    """A run directory that is ready to be submitted."""

    run: Run
    undo: Undo  # what goes again when the submission fails
    warnings: tuple[str, ...] = ()  # of the checkpoint: what does not stop a run

    @contextmanager
    def submitting(self) -> Iterator[None]:
        """Within the block, the one submission that this directory ever has; undone if it fails.

        StorageError for a second one at the same time, which undoes nothing.
        """
        paths = self.run.paths
        _begin_submission(self.run)
        try:
            with self.undone_on_failure(), exclusive(paths.control_lock, _BUSY, wait=60):
                _refuse_mixed(self.run)
                yield
        except LeftBehind:
            raise
        except BaseException:
            paths.jobs.unlink(missing_ok=True)  # it is only rendered again
            raise

    @contextmanager
    def undone_on_failure(self) -> Iterator[None]:
        """Removes what this call made of the directory if the block fails.

        Not where jobs may have been left in the queue: the directory is how they are found.
        """
        try:
            yield
        except LeftBehind as error:
            word = self.run.word
            error.hint = (
                f"once Slurm answers (scontrol ping): evalhpc cancel {word}, which finds them, "
                f"then evalhpc resume {word}"
            )
            raise
        except BaseException as error:
            self._undo()
            if isinstance(error, StorageError):
                # What it says to look at is gone.
                root = self.run.paths.root
                error.hint = re.sub(rf"{re.escape(str(root))}[^\s;]*", str(root.parent), error.hint)
            raise

    def _undo(self) -> None:
        root = self.run.paths.root
        if self.undo == "folder":
            shutil.rmtree(root, ignore_errors=True)
        elif self.undo == "contents":
            _empty(root)


def prepare(wish: Wish, environ: Mapping[str, str]) -> Prepared:
    """Resolve the wish, create the run directory and render every script into it."""
    spec, warnings = resolve_wish(wish, environ)
    root = planned_dir(wish, spec, environ)
    if spec.site.scheduler == "local":
        _refuse_placeholders(root)
    undo = _claim(root, spec)
    prepared = Prepared(Run(RunPaths(root), spec, spec.digest()), undo, warnings)
    with prepared.undone_on_failure(), exclusive(prepared.run.paths.control_lock, _BUSY):
        if is_there(prepared.run.paths.jobs):
            raise _submitted(prepared.run, same=True)
        fill_run(prepared.run, warnings)
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


def _claim(root: Path, spec: RunSpec) -> Undo:
    """Make the directory ours; what to undo of it. A run that was submitted is never reused."""
    with storage_errors(root):
        _make_parents(root.parent)
        try:
            root.mkdir(mode=0o700)
            return "folder"
        except FileExistsError:
            _refuse_others(root)
        if root.is_dir() and not any(root.iterdir()):
            return "contents"
    if not RunPaths(root).spec.is_file():
        raise StorageError(
            f"{root} exists and is no run directory",
            cause="a folder with other files in it, or a submission that was killed at its start",
            hint=f"ls -la {shell_word(str(root))}; choose another --run-dir, or remove it",
        )
    other = open_run(root)
    if is_there(other.paths.jobs):
        raise _submitted(other, same=other.hash == spec.digest())
    return "nothing"  # rendered only: this submission takes it over


def _begin_submission(run: Run) -> None:
    """Make the record of jobs, which nobody else can from now on; StorageError if it is there."""
    with storage_errors(run.paths.jobs):
        try:
            run.paths.jobs.open("x").close()
            sync_folder(run.paths.root)
        except FileExistsError:
            raise _submitted(run, same=True) from None


def _refuse_mixed(run: Run) -> None:
    """Raises StorageError where another wish was rendered here between our scripts and our jobs."""
    if open_run(run.paths.root).hash != run.hash:
        raise StorageError(
            f"{run.paths.root} was rendered anew meanwhile, for another run",
            cause="two submissions with the same --run-dir",
            hint="choose another --run-dir",
        )


def _submitted(run: Run, *, same: bool) -> StorageError:
    root = run.paths.root
    return StorageError(
        f"{root} holds {'this very run' if same else 'another run'}, submitted before",
        cause="same model, suite and settings" if same else "--run-dir was used before",
        hint=f"evalhpc status {run.word}"
        + (f", evalhpc resume {run.word}, or --name for a second run" if same else ""),
    )


def _refuse_others(root: Path) -> None:
    """Raises StorageError for a folder into which somebody else could put links or scripts."""
    status = root.stat()
    if status.st_uid != os.geteuid() or status.st_mode & stat.S_IWOTH:
        raise StorageError(
            f"{root} is another user's, or everybody may write to it",
            cause="whoever can change its files decides what the jobs of this run do",
            hint=f"ls -ld {shell_word(str(root))}; choose another --run-dir, or: "
            f"chmod o-w {shell_word(str(root))}",
        )


def _refuse_placeholders(root: Path) -> None:
    # submitit fills these in wherever they stand in a path, and would write beside the run.
    found = re.search(r"%[A-Za-z]", str(root))
    if found:
        raise UsageError(
            f"{root} holds {found[0]!r}, which job runners replace by the number of a job",
            hint="choose another --run-dir",
        )


def _make_parents(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise StorageError(
            f"cannot create {folder}: a part of the path is not a folder",
            cause="a file, or a link to nothing, is in the way",
            hint=f"namei -l {folder}",
        ) from error


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


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
