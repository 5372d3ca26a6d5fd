"""Nodes that failed twice: the next round's array does without them (`--exclude`)."""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pydantic import Field

from evalhpc.core.common_fault import bad_nodes
from evalhpc.core.extra_options import extra_options
from evalhpc.core.rendering import batch_job
from evalhpc.errors import ClusterError, EndpointError
from evalhpc.models.base import Frozen
from evalhpc.slurm.gate import Slurm
from evalhpc.slurm.jobs import default_partition
from evalhpc.storage.atomic import write_json
from evalhpc.workflow.faults.early_stop import fatal_records, fault_of_round
from evalhpc.workflow.faults.shard_failures import unended
from evalhpc.workflow.record.jobs import resumes
from evalhpc.workflow.record.records import read_record
from evalhpc.workflow.record.rounds import planned_rounds
from evalhpc.workflow.record.run import Run

log = logging.getLogger(__name__)

#: What leaves a job fewer nodes than its partition has.
_NARROWING = frozenset(
    {"nodelist", "nodefile", "constraint", "reservation", "gres", "gpus-per-node"}
)


class ExcludedNodes(Frozen):
    """`excluded_nodes.json`: counts for the rounds since the run was resumed `resumes` times."""

    resumes: int = 0
    nodes: dict[str, tuple[str, ...]]  # node → what failed there
    #: Those of them that come from before that resume.
    carried: dict[str, tuple[str, ...]] = Field(default={})


def excluded_nodes(run: Run) -> dict[str, tuple[str, ...]]:
    """Node → why the next round does without it; a resumed run begins with all nodes again."""
    known = _known(run)
    return known.nodes if known.resumes == resumes(run.paths) else {}


@contextmanager
def carried_over(run: Run) -> Iterator[None]:
    """Around the record of a resume: where jobs may not submit, it is only how a run that goes
    well gets its next round, which is to do without the nodes that the collector chose."""
    settled = run.paths.failure.exists() or run.paths.cancelled.exists()
    nodes = {} if run.spec.site.resubmit or settled else excluded_nodes(run)
    yield
    if nodes:
        _write(run, ExcludedNodes(resumes=resumes(run.paths), nodes=nodes, carried=nodes))


def choose_excluded(run: Run) -> None:
    """In the collector, whose round has ended: write down which nodes failed twice so far.

    None where too few would be left, and where nobody can say how many there are.
    """
    if run.spec.site.scheduler != "slurm":
        return
    known = _known(run)
    carried = known.carried if known.resumes == resumes(run.paths) else {}
    before = [(node, what) for node, whats in carried.items() for what in whats]
    failures = [*before, *node_failures(run)]
    names = [node for node, _ in failures]
    bad: tuple[str, ...] = ()
    if candidates := bad_nodes(names, frozenset(names), needed=0):
        size = batch_job(run.spec, str(run.paths.root), "shard")
        bad = bad_nodes(names, _nodes_of(size.partition), needed=size.size.nodes)
        bad = bad if bad and _leaves_enough(run, bad) else ()
        if not bad:
            log.warning("%s failed twice, and too few nodes are left without", candidates)
    if not bad and not run.paths.excluded_nodes.exists():
        return
    why = {node: tuple(what for where, what in failures if where == node) for node in bad}
    _write(run, ExcludedNodes(resumes=resumes(run.paths), nodes=why, carried=carried))
    for node, what in why.items():
        log.warning("the next round does without %s: %s", node, "; ".join(what))


def excluding(run: Run) -> tuple[str, ...]:
    """What a round's sbatch is told of nodes, with what the site itself excludes."""
    nodes = excluded_nodes(run)
    return (_option(run, nodes),) if nodes else ()


def one_bad_node(run: Run) -> bool:
    """Whether all shards that failed did so on one node, which is excluded now.

    Were there several, or were it the second one in turn, the next would fare no better.
    """
    found = {node for node, _ in node_failures(run) if node}
    return len(found) == 1 and found <= excluded_nodes(run).keys()


def node_failures(run: Run) -> Iterator[tuple[str, str]]:
    """(node, what failed there) of every shard since the last resume, by round.

    What shards on several nodes failed of, all alike, in one round or the next, is not the fault
    of any of them.
    """
    # Answers of slices are journalled for round 1 before that is planned.
    rounds = sorted({0, 1, *planned_rounds(run)})
    faults = {round_: fault_of_round(run, round_) for round_ in rounds}
    nodes_of: dict[object, set[str]] = defaultdict(set)
    for known in filter(None, faults.values()):
        nodes_of[known.death.likeness].update(known.nodes)
    for round_, fault in faults.items():
        if fault is None or len(nodes_of[fault.death.likeness]) < 2:
            for node, what in _failures_of(run, round_):
                yield node, f"round {round_}: {what}"


def _failures_of(run: Run, round_: int) -> Iterator[tuple[str, str]]:
    """Shards that died without an answer, whose server died, or that were silenced."""
    for shard, record in fatal_records(run, round_):
        if "lost" in record:
            yield record["lost"], f"shard {shard} was cut off without a word"
        elif _is_of_node(run, record):
            yield record.get("node", ""), f"shard {shard}: {_first_line(record['fatal'])}"
    now = resumes(run.paths)
    # The array has ended: who has not said so cannot any more.
    for shard, said in unended(run, round_):
        if said.get("resumes", 0) == now:
            yield said.get("node", ""), f"shard {shard} was cut off without a word"


def _is_of_node(run: Run, record: Mapping[str, Any]) -> bool:
    """Of a server that ended, its node; of one that runs elsewhere, not the node that asks it."""
    if record["exit_code"] == EndpointError.exit_code:
        here = any(served.model.url is None for served in run.spec.served().values())
        return here and not run.spec.shares_deployment
    return not record.get("answered")


def _known(run: Run) -> ExcludedNodes:
    try:
        return read_record(run.paths.excluded_nodes, ExcludedNodes)
    except FileNotFoundError:
        return ExcludedNodes(nodes={})


def _write(run: Run, chosen: ExcludedNodes) -> None:
    write_json(run.paths.excluded_nodes, chosen.model_dump(mode="json"))


def _option(run: Run, nodes: Iterable[str]) -> str:
    """sbatch's, which replaces the one that the site may have: it names those nodes, too."""
    own = extra_options(run.spec.site.slurm).get("exclude")
    return "--exclude=" + ",".join([*filter(None, [own]), *sorted(nodes)])


def _leaves_enough(run: Run, bad: Iterable[str]) -> bool:
    """Whether Slurm would take the array without these nodes: it alone can tell what a
    constraint, a reservation or a list of nodes leaves of a partition.

    Jobs that may not submit cannot ask it: there, a site with one of these keeps all its nodes.
    """
    site = run.spec.site
    if not site.resubmit:
        given = extra_options(site.slurm).keys()
        return not (site.slurm.constraint or site.slurm.reservation or given & _NARROWING)
    script, option = run.paths.script("shard"), _option(run, bad)
    try:
        Slurm(env=os.environ).test_only(script, "1", extra=(option,))
    except ClusterError as error:
        log.warning("Slurm would not take the array with %s: %s", option, error.what)
        return False
    return True


def _first_line(text: str) -> str:
    return text.partition("\n")[0]


def _nodes_of(partition: str | None) -> frozenset[str]:
    """The nodes of a partition that jobs are started on; none where Slurm does not say."""
    try:
        slurm = Slurm(env=os.environ)
        default = None if partition else default_partition(slurm.partitions())
        name = partition or (default.name if default else "")
        return frozenset(
            node.name
            for node in slurm.nodes()
            if node.usable and node.partition.rstrip("*") in name.split(",")
        )
    except ClusterError as error:
        log.warning("no node is excluded, since Slurm does not list them: %s", error.what)
        return frozenset()
