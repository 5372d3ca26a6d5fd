"""provenance.json: what made the numbers. Versions, git, model, seeds, settings, jobs."""

from __future__ import annotations

import json
import os
import platform
import socket
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import evalhpc
from evalhpc import process
from evalhpc.core.quoting import shell_word
from evalhpc.errors import EvalhpcError, UsageError
from evalhpc.paths import RunPaths
from evalhpc.slurm.gate import Slurm
from evalhpc.storage.atomic import write_text
from evalhpc.workflow.record.image_use import image_facts
from evalhpc.workflow.record.jobs import recorded_jobs
from evalhpc.workflow.record.records import read_object
from evalhpc.workflow.record.run import Run

#: Packages whose version can change a number or a byte of the results.
_PACKAGES = (
    "lm-eval", "transformers", "torch", "xllamacpp", "datasets", "numpy", "h5py", "orjson",
    "httptools", "uvloop", "pydantic", "jinja2", "submitit",
)  # fmt: skip


def write_provenance(run: Run, warnings: Sequence[str] = ()) -> None:
    """At submission: everything that is known before a job ran."""
    spec = run.spec
    record = {
        "run_id": spec.run_id,
        "run_hash": run.hash,
        "run_dir": str(run.paths.root),
        "submitted": _now(),
        "submitted_from": socket.gethostname(),
        "user": os.environ.get("USER", ""),
        "evalhpc": {"version": evalhpc.__version__, "git": _git(Path(evalhpc.__file__).parent)},
        "working_directory": {"path": str(Path.cwd()), "git": _git(Path.cwd())},
        "python": {"version": platform.python_version(), "executable": sys.executable},
        "packages": _versions(),
        "platform": platform.platform(),
        "model": spec.model.model_dump(mode="json"),
        "endpoints": {
            name: served.model.model_dump(mode="json") for name, served in spec.endpoints.items()
        },
        "images": image_facts(spec),
        "warnings": list(warnings),
        "seeds": {
            "run": spec.run.seed,
            **{b.name: b.params.seed for b in spec.benchmarks if b.params.seed is not None},
        },
        "spec": spec.model_dump(mode="json"),
    }
    write_text(run.paths.provenance, _text(record))


def complete_provenance(run: Run, **facts: Any) -> None:
    """At the end: add what only the run could tell, and the scheduler's records of its jobs."""
    record = read_provenance(run)
    record.update(facts)
    record["finished"] = _now()
    record["finished_on"] = socket.gethostname()
    record["jobs"] = [job.model_dump() for job in recorded_jobs(run.paths)]
    record["job_records"] = _job_records(run)
    write_text(run.paths.provenance, _text(record))


def read_provenance(run: Run) -> dict[str, Any]:
    """What was written at submission."""
    return read_object(run.paths.provenance)


def refuse_moved(run: Run) -> None:
    """Raises UsageError for a copied or moved run: its scripts work where it was submitted."""
    if home := moved_from(run):
        raise UsageError(
            f"{run.paths.root} was moved or copied from {home}: its scripts work there",
            cause="a run is resumed where it was submitted",
            hint=f"evalhpc resume {shell_word(home)}, or move the folder back",
        )


def refuse_copied(run: Run) -> None:
    """Raises UsageError for a copy of a run that is still there: its jobs are not the copy's."""
    home = moved_from(run)
    if home and RunPaths(Path(home)).spec.exists():
        raise UsageError(
            f"{run.paths.root} was copied from {home}: the jobs that it names are that run's",
            cause="a copy has no jobs of its own",
            hint=f"evalhpc cancel {shell_word(home)}",
        )


def moved_from(run: Run) -> str:
    """Where the run was submitted, if that is not where it is now; else ""."""
    if not run.paths.provenance.is_file():
        return ""
    home = read_provenance(run).get("run_dir")
    return "" if home is None or _same(Path(home), run.paths.root) else str(home)


def _same(one: Path, other: Path) -> bool:
    try:
        return other.samefile(one)
    except OSError:
        return False  # gone, or behind a folder that is closed to us


def _job_records(run: Run) -> list[dict[str, Any]] | str:
    """What Slurm says of the jobs; a cluster that does not answer must not cost the results."""
    ids = [job.id for job in recorded_jobs(run.paths) if job.scheduler == "slurm" and job.id]
    if not ids:
        return []
    try:
        found = Slurm(env=os.environ).jobs(ids)
    except EvalhpcError as error:
        return f"not available: {error.what}"
    return [_plain(record) for records in found.values() for record in records]


def _plain(record: Any) -> dict[str, Any]:
    names = getattr(record, "__dataclass_fields__", {})
    return {name: getattr(record, name) for name in names}


def _git(folder: Path) -> dict[str, Any] | None:
    """Commit and cleanliness of the checkout around `folder`; None outside of one."""
    git = ["git", "-C", str(folder)]
    head = process.run([*git, "rev-parse", "HEAD"], check=False, timeout=10)
    if head.returncode != 0:
        return None
    changes = process.run([*git, "status", "--porcelain"], check=False, timeout=10)
    return {"commit": head.stdout.strip(), "dirty": bool(changes.stdout.strip())}


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue  # an extra that is not installed here
    return found


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _text(record: dict[str, Any]) -> str:
    return json.dumps(record, indent=1, default=str, ensure_ascii=False) + "\n"
