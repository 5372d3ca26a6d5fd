"""What a cluster has and whom it lets in: nodes and associations, as sinfo and sacctmgr say."""

from __future__ import annotations

import re
from dataclasses import dataclass

from evalhpc.errors import ClusterError
from evalhpc.slurm.commands import ASSOCIATION_FIELDS, NODE_FORMAT

#: The end of a node's state in sinfo: `idle*` does not answer, `idle~` is powered down, ….
_SUFFIX = re.compile(r"[*~#!%$@^-]+$")
_AWAY = frozenset({"down", "drain", "drained", "draining", "drng", "fail", "failing", "unk",
                   "unknown", "maint", "inval"})  # fmt: skip
#: `gpu:8`, `gpu:h100:8`, `gpu:h100:8(S:0-1)`: what a node offers, as sinfo prints it.
_GPUS = re.compile(r"^gpu:(?:(?P<type>[^:()]+):)?(?P<count>\d+)(?:\(.*\))?$")


@dataclass(frozen=True)
class Node:
    """A node as a member of one partition; `memory` in MiB."""

    partition: str
    name: str
    cpus: int
    memory: int
    gres: str
    state: str

    @property
    def usable(self) -> bool:
        """Whether jobs are started there, now or when it is powered up."""
        return _SUFFIX.sub("", self.state).lower() not in _AWAY and not self.state.endswith("*")

    @property
    def gpus(self) -> dict[str, int]:
        """GPUs by type; "" is the type of those without one."""
        found: dict[str, int] = {}
        for item in re.split(r",(?![^(]*\))", self.gres):
            match = _GPUS.match(item)
            if match:
                kind = match["type"] or ""
                found[kind] = found.get(kind, 0) + int(match["count"])
        return found


@dataclass(frozen=True)
class Association:
    """What the accounting lets a user submit under: `partition` "" for any."""

    account: str
    partition: str = ""
    qos: tuple[str, ...] = ()


def parse_nodes(stdout: str) -> list[Node]:
    """Nodes of `commands.sinfo_nodes`, once for each of their partitions."""
    nodes = []
    for line in filter(str.strip, stdout.splitlines()):
        values = line.split("|", NODE_FORMAT.count("|"))
        if len(values) != NODE_FORMAT.count("|") + 1 or not values[2].isdigit():
            raise ClusterError(f"sinfo printed {line!r} where a node belongs")
        partition, name, cpus, memory, gres, state = values
        nodes.append(
            Node(partition.removesuffix("*"), name, int(cpus), int(memory), gres, state.strip())
        )
    return nodes


def parse_associations(stdout: str) -> list[Association]:
    """Associations of `commands.associations`."""
    found = []
    for line in filter(str.strip, stdout.splitlines()):
        values = line.split("|")
        if len(values) != len(ASSOCIATION_FIELDS):
            raise ClusterError(f"sacctmgr printed {line!r} where an association belongs")
        account, partition, qos = values
        found.append(Association(account, partition, tuple(filter(None, qos.split(",")))))
    return found
