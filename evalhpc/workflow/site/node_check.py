"""`evalhpc site check --node`: a short job, as the site's jobs are, tells what its node has."""

from __future__ import annotations

import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import evalhpc
from evalhpc import process
from evalhpc.config.template_files import load_sources
from evalhpc.containers.mounts import parse_mount
from evalhpc.core.site_script import SiteJob, render_site_job
from evalhpc.core.walltime import walltime_seconds
from evalhpc.errors import ClusterError, EvalhpcError
from evalhpc.models.node_check import NodeFacts, NodeLoads, NodeWish
from evalhpc.models.site import Site
from evalhpc.slurm.gate import Slurm
from evalhpc.slurm.states import UNKNOWN
from evalhpc.storage.atomic import storage_errors, write_json, write_text
from evalhpc.storage.locks import exclusive
from evalhpc.workflow.record.records import read_record
from evalhpc.workflow.site.checks import Check, failed
from evalhpc.workflow.site.loads import write_loads
from evalhpc.workflow.site.node_judgement import Seen, judge
from evalhpc.workflow.site.node_probe import FACTS, HELD
from evalhpc.workflow.submit.lint import lint
from evalhpc.workflow.submit.wish import Wish

#: Minutes that the job asks for, unless the site's jobs are shorter.
_MINUTES = 10
#: Of its time, what loading data may take; the rest is for the node's own start and end.
_LOADING = 0.8
_PAUSES = (0.5, 5.0)
#: Between the end of a job and its last file being seen here.
_LATE_SECONDS = 5.0
_TAIL = 8


def check_node(
    site: Site,
    asked: Wish,
    environ: Mapping[str, str],
    *,
    wait: float,
    sleep: Callable[[float], None] = time.sleep,
) -> list[Check]:
    """What a node of each partition that the site uses has; `site` has its paths expanded.

    `asked`: the benchmarks whose data nodes load; where it names none, those that are staged.
    `wait`: seconds for a job to start and end, beside the time for loading; it is cancelled then.
    """
    checks: list[Check] = []
    for kind in _kinds(site):
        try:
            seen, unmade = _ask(site, asked, kind, environ, wait, sleep)
            found = [*judge(site, kind, seen, evalhpc.__version__), *unmade]
            checks += [_named(kind, check) for check in found]
        except EvalhpcError as error:
            checks.append(_named(kind, failed("job", error)))
    return checks


def _kinds(site: Site) -> tuple[str, ...]:
    """`shard`, and `planning` where such jobs have nodes of their own."""
    other = site.slurm.cpu_partition not in (None, site.slurm.partition)
    return ("planning", "shard") if other and site.scheduler == "slurm" else ("shard",)


def _named(kind: str, check: Check) -> Check:
    return check.model_copy(update={"name": f"{kind} node: {check.name}"})


def _ask(
    site: Site,
    asked: Wish,
    kind: str,
    environ: Mapping[str, str],
    wait: float,
    sleep: Callable[[float], None],
) -> tuple[Seen, list[Check]]:
    with _folder(Path(site.run_root)) as folder:
        wish = folder / "wish.json"
        loads, unmade = write_loads(asked, site.stage_dir, folder, environ)
        minutes = _minutes(site, kind)
        told = _wish(site, loads, _LOADING * 60 * minutes)
        write_json(wish, told.model_dump(mode="json"))
        script = folder / "check.sbatch"
        write_text(script, _script(site, kind, minutes, folder, wish, environ))
        lint([script])
        wait += told.load_seconds
        with exclusive(folder / HELD, "another check of this site is at work"):
            if site.scheduler == "local":
                done = process.run(["bash", str(script)], env=environ, timeout=wait, check=False)
                write_text(folder / "check-local.log", done.stdout + done.stderr)
            else:
                _run_job(Slurm(env=environ), script, site, wait, sleep)
            return _seen(folder, told.token), unmade


@contextmanager
def _folder(root: Path) -> Iterator[Path]:
    """A folder for the job below the run root; nothing of it is left."""
    made = [path for path in (root, *root.parents) if not path.exists()]
    with storage_errors(root):
        root.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=".check-", dir=root))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        for path in made:
            if not any(path.iterdir()):
                path.rmdir()


def _minutes(site: Site, kind: str) -> int:
    seconds = walltime_seconds(getattr(site.resources, kind).walltime)
    return _MINUTES if seconds is None else max(1, min(_MINUTES, seconds // 60))


def _wish(site: Site, loads: tuple[NodeLoads, ...], seconds: float) -> NodeWish:
    images = [path for path in site.container.images.values() if path.startswith("/")]
    runs = site.container.runtime != "none"
    programs = {f"pythons.{name}": path for name, path in site.pythons.items()}
    folders = {f"image {name}": path for name, path in site.container.images.items() if runs}
    mounts = [parse_mount(text).source for text in site.container.mounts]
    folders |= {f"mount {path}": path for path in mounts}
    return NodeWish(
        token=secrets.token_hex(16),
        programs=programs,
        folders=folders,
        stage_dir=site.stage_dir,
        container=site.container,
        image=images[0] if images and runs else None,
        loads=loads,
        load_seconds=seconds if loads else 0,
        # Steps of Slurm, which Pyxis needs, are started through the network.
        isolate=site.stage_dir is not None and site.container.runtime != "pyxis",
    )


def _script(
    site: Site, kind: str, minutes: int, folder: Path, wish: Path, environ: Mapping[str, str]
) -> str:
    size = getattr(site.resources, kind).model_copy(
        update={"nodes": 1, "walltime": str(minutes), "time_min": None}
    )
    partition = site.slurm.partition
    if kind == "planning":
        partition = site.slurm.cpu_partition or partition
        size = size.model_copy(update={"gpus_per_node": 0})
    return render_site_job(
        site,
        SiteJob("check", f"evalhpc-check-{kind}", str(folder), partition, size),
        {"wish": str(wish)},
        python=sys.executable,
        environment={name: environ[name] for name in site.environment.pass_through},
        sources=load_sources(Path(site.templates) if site.templates else None),
    )


def _run_job(
    slurm: Slurm, script: Path, site: Site, wait: float, sleep: Callable[[float], None]
) -> None:
    """Submit it and wait for its end; whatever happens, it is not left behind."""
    job = slurm.submit(script, comment=site.slurm.comment)
    deadline, (pause, longest) = time.monotonic() + wait, _PAUSES
    try:
        while True:
            sleep(pause)
            record = slurm.jobs([job])[job][0]
            if (script.parent / FACTS).exists() or record.terminal or record.state == UNKNOWN:
                return
            if time.monotonic() > deadline:
                raise ClusterError(
                    f"job {job} has not ended within {wait:.0f} s: it is {record.state}",
                    cause=record.reason or "the partition is busy",
                    hint="squeue --start; evalhpc site check SITE --node --wait SECONDS",
                )
            pause = min(pause * 1.5, longest)
    finally:
        slurm.cancel([job])


def _seen(folder: Path, token: str) -> Seen:
    facts, deadline = folder / FACTS, time.monotonic() + _LATE_SECONDS
    while not facts.exists() and time.monotonic() < deadline:
        list(folder.iterdir())  # makes a network file system look again
        time.sleep(0.2)
    at = time.time()
    if not facts.exists():
        raise ClusterError(
            f"the job told nothing: {_log_tail(folder)}",
            cause="its node lacks the interpreter, evalhpc in it, or the run root",
            hint="python and environment.setup in the site file; run_root must be on a file system "
            "that all nodes share",
        )
    found = read_record(facts, NodeFacts)
    if found.token != token:
        raise ClusterError("the node read another file than this machine wrote")
    return Seen(facts=found, at=at)


def _log_tail(folder: Path) -> str:
    logs = sorted(folder.glob("check-*.log"))
    text = logs[-1].read_text(errors="replace").strip() if logs else ""
    return " / ".join(text.splitlines()[-_TAIL:]) or "its log is empty, or not on a shared folder"
