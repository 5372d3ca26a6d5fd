"""When a failure is everybody's: the same cause, in shard after shard, before any answer."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass

#: So many shards must have failed alike (all, where a round has fewer).
ALIKE = 3
#: A node on which so many shards failed is a bad one.
FAILURES_OF_A_NODE = 2
_NUMBER = re.compile(r"\b(0x)?[0-9a-fA-F]*\d[0-9a-fA-F]*\b")


@dataclass(frozen=True)
class Death:
    """An attempt of a shard that failed before it answered anything."""

    shard: int
    node: str
    exit_code: int
    what: str
    cause: str = ""
    hint: str = ""

    @property
    def likeness(self) -> tuple[int, str, str]:
        """What is the same where shards fail alike: ports, process ids and nodes may differ."""
        return self.exit_code, self._plain(self.what.partition("\n")[0]), self._plain(self.cause)

    def _plain(self, text: str) -> str:
        named = text.replace(self.node, "NODE") if self.node else text
        return _NUMBER.sub("#", named)


@dataclass(frozen=True)
class CommonFault:
    """What shards of a round failed of, all alike; `death` is the first of them."""

    death: Death
    shards: tuple[int, ...]
    nodes: tuple[str, ...]

    def __str__(self) -> str:
        where = f" on {', '.join(self.nodes)}" if self.nodes else ""
        return f"{len(self.shards)} shards failed alike{where} before any request was answered"


def common_fault(
    deaths: Sequence[Death], *, shards: int, other_nodes: Set[str] = frozenset()
) -> CommonFault | None:
    """What makes a further shard of a round of `shards` futile; None where it may do better.

    `deaths` are those of a round in which nobody has answered. A bad node takes one task after
    another, while good ones still load the model: where shards were seen on `other_nodes` too,
    those that failed alike must have done so on two.
    """
    if not deaths:
        return None
    kinds = Counter({death.likeness for death in deaths})
    if len(kinds) > 1:
        return None
    failed = tuple(sorted({death.shard for death in deaths}))
    nodes = tuple(sorted({death.node for death in deaths if death.node}))
    if len(failed) < min(ALIKE, shards):
        return None
    if len(nodes) < 2 and other_nodes - set(nodes):
        return None
    return CommonFault(deaths[0], failed, nodes)


def bad_nodes(failures: Iterable[str], known: Set[str], needed: int = 1) -> tuple[str, ...]:
    """The nodes to do without, by name; `failures` has one node for each shard that failed.

    None where fewer than `needed` of the `known` nodes would be left: it is not the node then.
    """
    counts = Counter(node for node in failures if node)
    bad = {node for node, count in counts.items() if count >= FAILURES_OF_A_NODE}
    return tuple(sorted(bad)) if len(known - bad) >= needed else ()
