"""What a compute node finds out for `evalhpc site check --node`; it runs there."""

from __future__ import annotations

import fcntl
import os
import platform
import re
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import evalhpc
from evalhpc import process
from evalhpc.containers.runtime import wrap
from evalhpc.errors import EvalhpcError
from evalhpc.models.node_check import NodeFacts, NodeWish
from evalhpc.storage.atomic import write_json
from evalhpc.storage.stage import StageFolder
from evalhpc.workflow.record.records import read_record
from evalhpc.workflow.site.node_loads import load_all

HELD, FACTS = "held.lock", "facts.json"
_IMAGE_SECONDS = 300.0
_SAYS = "the image starts"


def probe(wish_file: Path) -> None:
    """Answer the wish: `facts.json` beside it. Raises StorageError where that cannot be written."""
    begun = time.monotonic()
    wish = read_record(wish_file, NodeWish)
    folder = wish_file.parent
    stage, staged = _stage(wish.stage_dir)
    facts = NodeFacts(
        token=wish.token,
        host=platform.node(),
        python=sys.executable,
        version=evalhpc.__version__,
        lock_seen=_locked(folder / HELD),
        lacking=tuple(_lacking(wish)),
        stage=stage,
        staged=staged,
        image=_image(wish),
        loaded=load_all(wish, begun + wish.load_seconds),
        tmp_free=shutil.disk_usage("/tmp").free,
        memory=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        cpus=len(os.sched_getaffinity(0)),
        gpus=gpus_seen(os.environ.get("CUDA_VISIBLE_DEVICES")),
        network=network(Path("/proc/net/dev"), Path("/proc/net/route")),
        time=time.time(),
    )
    write_json(folder / FACTS, facts.model_dump(mode="json"))


def gpus_seen(visible: str | None) -> tuple[str, ...]:
    """The GPUs that the driver shows, or else those that Slurm gave."""
    done = process.run(["nvidia-smi", "-L"], timeout=30, check=False)
    if done.returncode == 0:
        return tuple(re.findall(r"^GPU \d+: (.*?) \(UUID", done.stdout, flags=re.MULTILINE))
    return tuple(f"number {name}" for name in (visible or "").split(",") if name.strip())


def network(interfaces: Path, routes: Path) -> str:
    """Interfaces of this network namespace, and whether it has a way out."""
    names = re.findall(r"^\s*([^\s:]+):", interfaces.read_text(), flags=re.MULTILINE)
    lines = [line.split() for line in routes.read_text().splitlines()[1:]]
    out = any(line[1:2] == ["00000000"] for line in lines)
    return f"{', '.join(names)}; {'a' if out else 'no'} default route"


def _locked(path: Path) -> bool:
    """Whether somebody else's lock on the file is seen here."""
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False  # no locks on this file system
    return False


def _lacking(wish: NodeWish) -> Iterator[str]:
    for key, path in wish.programs.items():
        if not os.access(path, os.X_OK):
            yield f"{key}: {path}"
    for key, path in wish.folders.items():
        if not Path(path).exists():
            yield f"{key}: {path}"


def _stage(root: str | None) -> tuple[str | None, int]:
    """What is wrong with the stage folder as this node sees it, and how many records are whole."""
    if root is None:
        return None, 0
    if not Path(root).is_dir():
        return f"{root} is not there", 0
    try:
        folder = StageFolder(Path(root))
        records = list(folder.all_records())
        now = folder.by_name()
        lost = [f"{r.benchmark}: {names[0]}" for r in records if (names := r.lost(now))]
    except EvalhpcError as error:
        return error.what, 0
    return "; ".join(lost), len(records) - len(lost)


def _image(wish: NodeWish) -> str | None:
    """Start a shell in the image, as harness and server are started."""
    if wish.image is None:
        return None
    inside = wrap(wish.container, wish.image)
    words = ["srun", "--overlap", "--nodes=1", "--ntasks=1", *inside.srun_options]
    if inside.prefix:
        words = [sys.executable, "-m", "evalhpc", "node", "enter", *inside.prefix]
    done = process.run([*words, "bash", "-c", f"echo {_SAYS}"], timeout=_IMAGE_SECONDS, check=False)
    if done.returncode == 0 and _SAYS in done.stdout:
        return ""
    said = (done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}").split(
        "\n"
    )
    return said[-1]
