"""A survey of a cluster as a site file: each value with the command that tells it. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from evalhpc.core.walltime import walltime_seconds
from evalhpc.models.site import JobSize, Resources
from evalhpc.slurm.inventory import Node
from evalhpc.slurm.jobs import Partition
from evalhpc.workflow.site.choice import Choice
from evalhpc.workflow.site.survey import Survey

_PLAIN = re.compile(r"[A-Za-z$/][\w$./-]*")
_WORDS = frozenset({"true", "false", "null"})
#: CPUs of a harness with its gateway: more would idle.
_PASS_CPUS = 8
_LISTED = 8  # partitions, accounts, … that a comment lists


@dataclass(frozen=True)
class Draft:
    """The text of a site file, and what a person still has to decide."""

    text: str
    open: tuple[str, ...]


def draft(found: Survey, name: str, partition: str | None = None) -> Draft:
    """The site file; raises UsageError for a `partition` that does not exist."""
    chosen = Choice(found, partition)
    cluster, host = _clean(found.limits.cluster) or name, _clean(found.host)
    lines = [
        f"# {cluster}, as `evalhpc site init` found it on {host} (Slurm {found.version}).",
        "# Each comment names the command that told the value. `#key:` shows what was not set.",
        f"# docs/sites.md explains every key. Then: evalhpc site check {name}",
        "",
        *_entry("name", name),
        *_entry("description", f"the Slurm cluster {cluster}"),
        *_entry("source", "evalhpc site init"),
        *_entry("hostnames", [found.host], "hostname; a pattern such as login* takes them all"),
        *_run_root(found, chosen),
        "#stage_dir: null  # a folder like run_root: evalhpc stage fetches data sets into it",
        "#offline: false  # true where nodes have no internet: srun -N1 curl -sI HUB",
        "#resubmit: true  # false where jobs may not call sbatch: srun -N1 sbatch --version",
        "",
        *_section("slurm", _slurm(found, chosen)),
        *_section("resources", _resources(found, chosen)),
        *_section("container", _container(found, chosen)),
        *_section("deploy", _deploy(chosen)),
    ]
    return Draft("\n".join(lines).rstrip("\n") + "\n", tuple(chosen.open))


def _run_root(found: Survey, chosen: Choice) -> Iterator[str]:
    large = [folder for folder in found.folders if folder.shared and folder.written != "~"]
    shared = large or [folder for folder in found.folders if folder.shared]
    for folder in found.folders:
        yield (
            f"# {folder.written} is on {_clean(folder.filesystem) or 'an unknown file system'}"
            + ("" if folder.shared else ", which other machines may not see")
        )
    if shared:
        folder = shared[0]
        how = f"df -T {folder.written}: {folder.filesystem}; every node must see it"
        yield from _entry("run_root", f"{folder.written}/evalhpc-runs", how)
        return
    chosen.open.append("run_root: a folder that every node sees")
    yield from _entry(
        "run_root", "~/evalhpc-runs", "CHECK: srun -N1 df -T ~; every node must see it"
    )


def _slurm(found: Survey, chosen: Choice) -> Iterator[str]:
    yield from _accounts(found, chosen)
    for partition in found.partitions[:_LISTED]:
        yield f"# {_clean(partition.summary())}"
    if len(found.partitions) > _LISTED:
        yield f"# and {len(found.partitions) - _LISTED} more: sinfo --summarize"
    main, passes = chosen.main, chosen.passes
    if main is None:
        yield "#partition: null  # sinfo: choose one of the above"
    else:
        why = "the default" if main is chosen.default else "has GPUs" if chosen.gpus(main) else ""
        yield from _entry("partition", main.name, ", ".join(filter(None, ["sinfo", why])))
    if passes is not None:
        yield from _entry("cpu_partition", passes.name, "sinfo: the default, without GPUs")
    yield from _gpu_keys(chosen)
    tasks = "scontrol show config: MaxArraySize, max_array_tasks"
    yield from _entry("max_array_size", found.limits.max_array_tasks, tasks)
    if main is not None and main.exclusive:
        yield "#extra: []  # scontrol show partition: OverSubscribe=EXCLUSIVE, nodes are not shared"
    else:
        yield "#extra: []  # [--exclusive] where a shard is to have its nodes alone"
    if chosen.required:
        yield from _entry("required", chosen.required, "each user says, or fill them in above")


def _accounts(found: Survey, chosen: Choice) -> Iterator[str]:
    how = f"sacctmgr show associations user={_clean(found.user) or '$USER'}"
    fitting = [
        entry for entry in found.associations
        if chosen.main is None or entry.partition in ("", chosen.main.name)
    ]  # fmt: skip
    accounts = list(dict.fromkeys(entry.account for entry in fitting))
    allowed = chosen.main.allow_accounts if chosen.main is not None else "ALL"
    if allowed not in ("ALL", "(null)", ""):
        accounts = [account for account in accounts if account in allowed.split(",")]
    if len(accounts) == 1:
        yield from _entry("account", accounts[0], how)
    elif accounts or "associations" in found.limits.enforced:
        chosen.required.append("account")
        chosen.open.append("slurm.account: it differs from user to user")
        yield f"#account: null  # {how}: {_listed(accounts) or 'none was found'}"
    else:
        why = _clean(found.missing.get("associations", "none, and none is needed"))
        yield f"#account: null  # {how}: {why}"
    names = dict.fromkeys(qos for entry in fitting for qos in entry.qos)
    yield f"#qos: null  # {how}: {_listed(names) or 'none named'}"


def _gpu_keys(chosen: Choice) -> Iterator[str]:
    if chosen.main is None:
        return
    types = chosen.gpu_types(chosen.main)
    if chosen.gpus(chosen.main):
        yield from _entry("gpu_request", "gres", f"sinfo -p {chosen.main.name} -o %G")
    else:
        yield "#gpu_request: gres  # sinfo -o %G shows none; none where GPUs come with the node"
    if len(types) > 1:
        chosen.required.append("gpu_type")
        chosen.open.append(f"slurm.gpu_type: one of {', '.join(map(_clean, types))}")
        yield f"#gpu_type: null  # sinfo -o %G: {_listed(types)}"
    elif types:
        yield f"#gpu_type: {_flow(types[0])}  # sinfo -o %G: the only type"


def _resources(found: Survey, chosen: Choice) -> Iterator[str]:
    default = Resources()
    passes = chosen.passes or chosen.main
    for name, size in (("planning", default.planning), ("collect", default.collect)):
        yield from _job(name, _pass_size(size, found, chosen, passes))
    main = chosen.main
    if main is None:
        yield "#shard: {}  # choose a partition first"
        return
    whole: dict[str, Any]
    gpus = sum(chosen.gpus(main).values())
    members = [node for node in chosen.nodes(main) if bool(node.gpus) == bool(gpus)]
    yield f"# sinfo -p {_clean(main.name)} -N -o '%N %c %m %G': {_sizes(members)}"
    walltime = _walltime(default.shard.walltime, main)
    if gpus:
        cpus = min(found.free_cpus.get(node.name, node.cpus) for node in members)
        whole = {"walltime": walltime, "cpus": cpus, "memory": "0", "gpus_per_node": gpus}
        yield "# A whole node for each shard; the walltime is at most the partition's MaxTime."
    else:
        chosen.open.append("resources.shard: gpus_per_node, if the model needs GPUs")
        cpus = min([default.shard.cpus, *(node.cpus for node in members)])
        whole = {"walltime": walltime, "cpus": cpus}
        yield "# No GPUs were found: gpus_per_node is 0."
    yield from _job("shard", whole)


def _pass_size(
    size: JobSize, found: Survey, chosen: Choice, partition: Partition | None
) -> dict[str, Any]:
    if partition is None:
        return {"walltime": size.walltime, "cpus": size.cpus}
    members = chosen.nodes(partition)
    cpus = [found.free_cpus.get(node.name, node.cpus) for node in members]
    return {"walltime": _walltime(size.walltime, partition), "cpus": min([_PASS_CPUS, *cpus])}


def _walltime(wanted: str, partition: Partition) -> str:
    limit, asked = partition.max_seconds, walltime_seconds(wanted)
    if limit is None or (asked is not None and asked <= limit):
        return wanted
    return f"{limit // 3600}:{limit // 60 % 60:02}:{limit % 60:02}"


def _sizes(nodes: Sequence[Node]) -> str:
    """How many nodes there are of each size."""
    counts: dict[str, int] = {}
    for node in nodes:
        gpus = "+".join(f"{count} {kind or 'GPU'}" for kind, count in node.gpus.items())
        size = f"{node.cpus} CPUs, {node.memory // 1024} GiB" + (f", {gpus}" if gpus else "")
        counts[size] = counts.get(size, 0) + 1
    return "; ".join(f"{count} x {_clean(size)}" for size, count in list(counts.items())[:_LISTED])


def _container(found: Survey, chosen: Choice) -> Iterator[str]:
    for name, version in found.programs.items():
        yield f"# type -p {name}: {_clean(version)} (on {_clean(found.host)})"
    for fact in found.containers:
        yield f"# {_clean(fact)}"
    apptainer = [name for name in ("apptainer", "singularity") if name in found.programs]
    if found.pyxis:
        yield from _entry("runtime", "pyxis", "srun --help: --container-image")
    elif apptainer:
        yield from _entry("runtime", "apptainer", f"type -p {apptainer[0]}; the nodes need it too")
    else:
        why = _clean(found.missing.get("pyxis", "srun --help has no --container-image"))
        yield f"#runtime: none  # {why}; charliecloud or bwrap where the nodes have it"
    if found.pyxis or apptainer:
        chosen.open.append("container.images: one for the harness, one for the server")
    yield "#image_dir: null  # a folder of image files that every node sees"
    yield "#images: {}  # {lm-eval: lm-eval.sqsh, vllm: vllm.sqsh}: evalhpc images import"


def _deploy(chosen: Choice) -> Iterator[str]:
    if chosen.main is not None and chosen.gpus(chosen.main):
        chosen.open.append("deploy.gpu_memory: with it, parallel sizes are worked out")
        yield "#gpu_memory: null  # srun -N1 nvidia-smi: memory of one GPU, such as 80G"
    yield "#servers: {}  # {hf: vllm} where the model is served by vLLM"


def _section(name: str, lines: Iterable[str]) -> list[str]:
    return [f"{name}:", *(f"  {line}" for line in lines), ""]


def _job(name: str, size: dict[str, Any]) -> Iterator[str]:
    yield f"{name}: {{{', '.join(f'{key}: {_flow(value)}' for key, value in size.items())}}}"


def _entry(key: str, value: Any, comment: str = "") -> Iterator[str]:
    yield f"{key}: {_flow(value)}" + (f"  # {_clean(comment)}" if comment else "")


def _flow(value: Any) -> str:
    """`value` as YAML within a line: JSON, with the quotes left off where none are needed."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_flow, value))}]"
    if isinstance(value, str) and _PLAIN.fullmatch(value) and value.lower() not in _WORDS:
        return value
    text = json.dumps(value, ensure_ascii=False)
    # JSON's \\u would write characters beyond U+FFFF as two halves, which YAML does not join.
    return "".join(char if char.isprintable() else f"\\U{ord(char):08X}" for char in text)


def _listed(names: Iterable[str]) -> str:
    known = [_clean(name) for name in names]
    more = f" and {len(known) - _LISTED} more" if len(known) > _LISTED else ""
    return ", ".join(known[:_LISTED]) + more


def _clean(text: str) -> str:
    """For a comment: one line of printable characters."""
    return "".join(char if char.isprintable() else " " for char in text).strip()
