"""A node's facts beside what the site needs of it. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from evalhpc.models.base import Frozen
from evalhpc.models.node_check import NodeFacts, NodeLoaded
from evalhpc.models.site import Site
from evalhpc.workflow.site.checks import Check

#: Harnesses and images put their scratch files there.
_TMP_LEAST = 1 << 30
#: Names, and characters of a reason, that are shown.
_NAMES, _LONGEST = 5, 300
#: Slurm keeps some memory of a node for itself.
_UNITS = {"": 1 << 20, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


class Seen(Frozen):
    """The facts of a node, and when this machine saw them, by its own clock."""

    facts: NodeFacts
    at: float


def judge(site: Site, kind: str, seen: Seen, version: str) -> Iterator[Check]:
    """One check for each fact; `kind`: the job whose size counts; `version`: our own."""
    facts = seen.facts
    same = facts.version == version
    yield Check(
        name="python", ok=same, found=f"{facts.python} on {facts.host}, evalhpc {facts.version}",
        hint="" if same else f"{facts.python} -m pip install evalhpc=={version}, on the nodes",
    )  # fmt: skip
    # Its facts came through a file there.
    yield Check(name="run_root", ok=True, found=f"{site.run_root} is the same here and there")
    # Leases are files made once, so a run does without.
    yield Check(
        name="locks", ok=True,
        found="seen from node to node" if facts.lock_seen else "not seen: runs do without, but two "
        "`evalhpc stage` on two nodes are not told apart (mount with flock)",
    )  # fmt: skip
    yield from _files(facts)
    yield from _sizes(site, kind, facts)
    yield from _data(site, facts)
    yield from _loaded(site, facts.loaded)
    if facts.image is not None:
        yield Check(
            name="image starts", ok=not facts.image, found=facts.image or "yes",
            hint="docs/containers.md" if facts.image else "",
        )  # fmt: skip
    yield Check(name="network", ok=True, found=facts.network)
    yield Check(name="clock", ok=True, found=clock(facts.time - seen.at))


def clock(ahead: float) -> str:
    """A difference in words: no decision rests on it, and a few seconds are the job's own end."""
    if abs(ahead) < 5:
        return "within seconds of this machine's"
    return f"about {abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} this machine's"


def _files(facts: NodeFacts) -> Iterator[Check]:
    for lacking in facts.lacking:
        key, _, path = lacking.partition(": ")
        yield Check(
            name=key,
            ok=False,
            found=f"{path} is not on {facts.host}",
            hint=f"srun -N1 ls -ld {path}",
        )


def _sizes(site: Site, kind: str, facts: NodeFacts) -> Iterator[Check]:
    size = getattr(site.resources, kind)
    room = facts.tmp_free >= _TMP_LEAST
    yield Check(
        name="/tmp", ok=room, found=f"{facts.tmp_free / 1e9:.1f} GB free",
        hint="" if room else "srun -N1 df -h /tmp; TMPDIR in environment.variables, and "
        "container.node_dir, name another folder",
    )  # fmt: skip
    asked = size.memory or "0"
    wanted = int(asked.rstrip("KMGT")) * _UNITS[asked.lstrip("0123456789")]
    enough = facts.memory >= wanted
    yield Check(
        name="memory", ok=enough, found=f"{facts.memory / 1e9:.0f} GB, {facts.cpus} CPUs",
        hint="" if enough else f"--set resources.{kind}.memory=0 takes what the node has",
    )  # fmt: skip
    if kind == "shard" and size.gpus_per_node:
        there = len(facts.gpus) >= size.gpus_per_node
        found = f"{len(facts.gpus)}: {', '.join(sorted(set(facts.gpus))) or 'none'}"
        yield Check(
            name="GPUs", ok=there, found=found,
            hint="" if there else "srun -N1 --gpus-per-node=1 nvidia-smi; slurm.gpu_request",
        )  # fmt: skip


def _data(site: Site, facts: NodeFacts) -> Iterator[Check]:
    if facts.stage is None:
        return
    yield Check(
        name="staged data", ok=not facts.stage,
        found=facts.stage or f"{facts.staged} benchmarks, whole, in {site.stage_dir}",
        hint="evalhpc stage, into a folder that all nodes see (stage_dir)" if facts.stage else "",
    )  # fmt: skip


def _loaded(site: Site, loaded: Sequence[NodeLoaded]) -> Iterator[Check]:
    """One check for each benchmark that was tried, and one for the rest."""
    for one in loaded:
        if one.tried:
            where = "without a network" if one.isolated else "with the job's network"
            found = f"loaded {where}: {one.asked} requests seen, {one.seconds:.0f} s"
            yield Check(
                name=f"data of {one.benchmark}", ok=not one.why,
                found=one.why[:_LONGEST] or found, hint=one.hint[:_LONGEST],
            )  # fmt: skip
    left = [one.benchmark for one in loaded if not one.tried]
    if left:
        more = "" if len(left) <= _NAMES else f" and {len(left) - _NAMES} more"
        yield Check(
            name="data", ok=False, found=f"not tried: {', '.join(left[:_NAMES])}{more}",
            hint=f"there was no time left; evalhpc site check {site.name} --node --tasks A,B",
        )  # fmt: skip
