"""Which partitions a new site file takes, and what is left for a person to decide. Pure."""

from __future__ import annotations

from difflib import get_close_matches

from evalhpc.errors import UsageError
from evalhpc.slurm.inventory import Node
from evalhpc.slurm.jobs import Partition, default_partition
from evalhpc.workflow.site.survey import Survey


class Choice:
    """Which partitions a run would use, why, and what is left open."""

    def __init__(self, found: Survey, wanted: str | None) -> None:
        self.open: list[str] = []
        self.required: list[str] = []
        self._nodes = found.nodes
        known = {partition.name: partition for partition in found.partitions}
        if wanted is not None and wanted not in known:
            near = get_close_matches(wanted, known, n=1)
            raise UsageError(
                f"there is no partition {wanted!r} here"
                + (f"; perhaps you meant {near[0]!r}?" if near else ""),
                cause=f"the partitions are {', '.join(sorted(known)) or 'none'}",
                hint="sinfo --summarize",
            )
        self.default = default_partition(found.partitions)
        self.with_gpus = [p for p in found.partitions if p.state == "UP" and self.gpus(p)]
        self.main = known[wanted] if wanted is not None else self._main()
        self.passes = self._passes()
        if self.main is None:
            self.required.append("partition")
            self.open.append("slurm.partition: or run again with --partition NAME")

    def _main(self) -> Partition | None:
        """The default where it has GPUs or none has; the only one with GPUs; else nobody knows."""
        if self.default is not None and (self.gpus(self.default) or not self.with_gpus):
            return self.default
        return self.with_gpus[0] if len(self.with_gpus) == 1 else None

    def _passes(self) -> Partition | None:
        """A default without GPUs, where the shards' partition has some."""
        if self.main is None or not self.gpus(self.main) or self.default is None:
            return None
        return None if self.gpus(self.default) else self.default

    def nodes(self, partition: Partition) -> list[Node]:
        """Those of the partition that take jobs; all of them where none does now."""
        members = [node for node in self._nodes if node.partition == partition.name]
        return [node for node in members if node.usable] or members

    def gpus(self, partition: Partition) -> dict[str, int]:
        """GPUs by type of the smallest node that has any."""
        offers = [node.gpus for node in self.nodes(partition) if node.gpus]
        return min(offers, key=lambda gpus: sum(gpus.values()), default={})

    def gpu_types(self, partition: Partition) -> list[str]:
        """Every named type of GPU of the partition's nodes."""
        return sorted({kind for node in self.nodes(partition) for kind in node.gpus if kind})
