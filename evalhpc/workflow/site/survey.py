"""What a login node tells of its cluster: Slurm's answers, container programs, file systems."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from evalhpc import process
from evalhpc.errors import ClusterError
from evalhpc.slurm.gate import Slurm
from evalhpc.slurm.inventory import Association, Node
from evalhpc.slurm.jobs import Limits, Partition
from evalhpc.workflow.site.container_survey import container_facts

#: Program → how it is asked for its version.
_PROGRAMS = {
    "enroot": ("version",),
    "apptainer": ("--version",),
    "singularity": ("--version",),
    "ch-run": ("--version",),
    "bwrap": ("--version",),
}
#: Types of file systems that several machines see; any other may be this machine's own.
SHARED = frozenset(
    {"nfs", "nfs4", "lustre", "gpfs", "beegfs", "ceph", "fuse.ceph", "wekafs", "panfs", "pvfs2",
     "cifs", "smb3", "fuse.glusterfs", "gfs2", "ocfs2", "afs", "virtiofs"}
)  # fmt: skip
#: Variables in which clusters name a user's large folders.
_FOLDERS = ("SCRATCH", "WORK", "PROJECT", "WORKSPACE")
_MOUNTS = Path("/proc/self/mounts")


@dataclass(frozen=True)
class Folder:
    """A folder as a site file would write it, and the type of its file system."""

    written: str  # ~ or $SCRATCH
    filesystem: str

    @property
    def shared(self) -> bool:
        """Whether other machines surely see it."""
        return self.filesystem in SHARED


@dataclass(frozen=True)
class Survey:
    """What was found; `missing` says of a probe why it found nothing."""

    host: str
    version: str
    partitions: tuple[Partition, ...]
    nodes: tuple[Node, ...]
    limits: Limits
    user: str = ""
    associations: tuple[Association, ...] = ()
    free_cpus: Mapping[str, int] = field(default_factory=dict)  # of the nodes that were asked
    pyxis: bool = False
    programs: Mapping[str, str] = field(default_factory=dict)  # program → version
    containers: tuple[str, ...] = ()  # what else is known of them, a line each
    folders: tuple[Folder, ...] = ()  # the home first
    missing: Mapping[str, str] = field(default_factory=dict)


def survey(env: Mapping[str, str], slurm: Slurm | None = None) -> Survey:
    """Ask Slurm and this machine; raises ClusterError where Slurm does not say what it has."""
    gate = slurm or Slurm(env=env)
    missing: dict[str, str] = {}
    programs = _programs(env)
    limits, nodes = gate.limits(), tuple(gate.nodes())
    user = env.get("USER") or env.get("LOGNAME") or ""
    return Survey(
        host=os.uname().nodename,
        version=gate.version(),
        partitions=tuple(gate.partitions()),
        nodes=nodes,
        limits=limits,
        user=user,
        associations=_associations(gate, limits, user, missing),
        free_cpus=_free_cpus(gate, nodes, missing),
        pyxis=_pyxis(gate, missing),
        programs=programs,
        containers=container_facts(env, programs),
        folders=_folders(env),
        missing=missing,
    )


def _associations(
    gate: Slurm, limits: Limits, user: str, missing: dict[str, str]
) -> tuple[Association, ...]:
    if not limits.accounting:
        missing["associations"] = "the cluster keeps no accounts"
    elif not user:
        missing["associations"] = "neither USER nor LOGNAME is set"
    else:
        try:
            return tuple(gate.associations(user))
        except ClusterError as error:
            missing["associations"] = error.what
    return ()


def _free_cpus(gate: Slurm, nodes: tuple[Node, ...], missing: dict[str, str]) -> dict[str, int]:
    """Of the smallest usable node of each partition, which is what a job can count on."""
    smallest: dict[str, Node] = {}
    for node in filter(lambda node: node.usable, nodes):
        known = smallest.get(node.partition)
        if known is None or node.cpus < known.cpus:
            smallest[node.partition] = node
    try:
        return gate.free_cpus(sorted({node.name for node in smallest.values()}))
    except ClusterError as error:
        missing["free_cpus"] = error.what
        return {}


def _pyxis(gate: Slurm, missing: dict[str, str]) -> bool:
    try:
        return gate.has_pyxis()
    except ClusterError as error:
        missing["pyxis"] = error.what
        return False


def _programs(env: Mapping[str, str]) -> dict[str, str]:
    found = {}
    for name, question in _PROGRAMS.items():
        if shutil.which(name, path=env.get("PATH", "")) is not None:
            done = process.run([name, *question], env=env, timeout=20, check=False)
            said = (done.stdout or done.stderr).strip().splitlines()
            found[name] = said[0] if said else "version unknown"
    return found


def _folders(env: Mapping[str, str]) -> tuple[Folder, ...]:
    named = [("~", env.get("HOME", ""))] + [(f"${name}", env.get(name, "")) for name in _FOLDERS]
    return tuple(
        Folder(written, filesystem_of(Path(path)))
        for written, path in named
        if path and Path(path).is_dir()
    )


def filesystem_of(path: Path, mounts: Path = _MOUNTS) -> str:
    """The type of the file system that holds `path`, as mount(8) names it; "" where unknown."""
    real = str(path.resolve())
    best, kind = "", ""
    try:
        lines = mounts.read_text(errors="replace").splitlines()
    except OSError:
        return ""
    for line in lines:
        fields = line.split()
        if len(fields) < 3:
            continue
        # The kernel writes blanks and backslashes in paths as octal numbers.
        point = fields[1].replace("\\040", " ").replace("\\134", "\\")
        inside = real == point or real.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, fields[2]
    return kind
