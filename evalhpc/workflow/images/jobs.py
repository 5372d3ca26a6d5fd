"""An image import as a CPU job: its script, its submission, and waiting for its end."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from evalhpc.config.template_files import load_sources
from evalhpc.core.import_script import render_import
from evalhpc.errors import ClusterError, EvalhpcError
from evalhpc.models.image import ImportWish
from evalhpc.models.site import Site
from evalhpc.slurm.gate import Slurm
from evalhpc.slurm.states import UNKNOWN
from evalhpc.storage.atomic import storage_errors, write_json, write_text
from evalhpc.storage.images import ImageStore
from evalhpc.workflow.images.importing import Imported, import_image
from evalhpc.workflow.record.records import read_object, read_record
from evalhpc.workflow.record.signals import INTERRUPTED, Interrupted, interruptible
from evalhpc.workflow.submit.lint import lint, refuse_secrets

#: Between two questions to Slurm: the first pause, and the longest.
_PAUSES = (1.0, 15.0)
_TAIL = 15


@dataclass(frozen=True)
class ImportJob:
    """A submitted import; `folder` has its script, its wish, its log and at last its outcome."""

    job_id: int
    folder: Path
    wish: ImportWish


def submit_import(site: Site, wish: ImportWish, environ: Mapping[str, str]) -> ImportJob:
    """Render the script into the store and submit it; raises EvalhpcError.

    `site` has its paths expanded and was checked.
    """
    slurm = Slurm(env=environ)
    slurm.available()
    store = ImageStore(Path(wish.image_dir))
    store.make()
    folder = store.new_job(wish.name)
    script = folder / "import.sbatch"
    text = render_import(
        site, str(folder), str(_wish(folder)), wish.name,
        python=sys.executable,
        environment={name: environ[name] for name in site.environment.pass_through},
        sources=load_sources(Path(site.templates) if site.templates else None),
    )  # fmt: skip
    refuse_secrets({"import.sbatch": text}, environ)
    with storage_errors(folder):
        folder.mkdir()
    try:
        write_json(_wish(folder), wish.model_dump(mode="json"))
        write_text(script, text)
        lint([script])
        slurm.test_only(script)
        return ImportJob(slurm.submit(script, comment=site.slurm.comment), folder, wish)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def import_in_job(wish_file: Path) -> int:
    """What the job runs: the import, and `outcome.json` beside the wish; its exit code."""
    outcome = wish_file.with_name("outcome.json")
    try:
        with interruptible():
            done = import_image(read_record(wish_file, ImportWish), os.environ)
    except Interrupted:
        return INTERRUPTED
    except EvalhpcError as error:
        print(f"error: {error}", file=sys.stderr)
        said = {"what": error.what, "cause": error.cause, "hint": error.hint}
        write_json(outcome, {"exit_code": error.exit_code, **said})
        return error.exit_code
    print(f"{'imported' if done.fresh else 'was there already'}: {done.path}")
    write_json(outcome, {"exit_code": 0, "file": done.record.file, "fresh": done.fresh})
    return 0


def wait_for(
    job: ImportJob,
    environ: Mapping[str, str],
    *,
    sleep: Callable[[float], None] = time.sleep,
) -> Imported:
    """The image, once the job has ended; raises what the import raised, or ClusterError."""
    slurm = Slurm(env=environ)
    pause, longest = _PAUSES
    while not (job.folder / "outcome.json").exists():
        records = slurm.jobs([job.job_id])[job.job_id]
        if all(record.terminal or record.state == UNKNOWN for record in records):
            sleep(_PAUSES[0])  # what a node wrote last may be seen a little later here
            break
        sleep(pause)
        pause = min(pause * 1.5, longest)
    return _outcome(job)


def _outcome(job: ImportJob) -> Imported:
    try:
        said = read_object(job.folder / "outcome.json")
    except FileNotFoundError:
        raise ClusterError(
            f"import job {job.job_id} ended without a result: {_log_tail(job.folder)}",
            cause="it ran out of time or memory, was cancelled, or its node died",
            hint=f"sacct -j {job.job_id}; resources.planning in the site file is its size; run "
            "`evalhpc images import` again",
        ) from None
    if said["exit_code"] != 0:
        raise _as_raised(said, job)
    store = ImageStore(Path(job.wish.image_dir))
    record = next(record for record in store.records() if record.file == said["file"])
    return Imported(record, store.path(record), fresh=bool(said["fresh"]))


def _as_raised(said: Mapping[str, object], job: ImportJob) -> EvalhpcError:
    kinds = {kind.exit_code: kind for kind in EvalhpcError.__subclasses__()}
    kind = kinds.get(int(str(said["exit_code"])), EvalhpcError)
    what = f"import job {job.job_id}: {said['what']} (log in {job.folder})"
    return kind(what, cause=str(said["cause"]), hint=str(said["hint"]))


def _log_tail(folder: Path) -> str:
    logs = sorted(folder.glob("import-*.log"))
    if not logs:
        return "it wrote no log"
    lines = logs[-1].read_text(errors="replace").splitlines()[-_TAIL:]
    return "\n".join([f"its log {logs[-1]} ends with", *lines]) if lines else "its log is empty"


def _wish(folder: Path) -> Path:
    return folder / "wish.json"
