"""A site file is made from what a cluster says, and what nobody can know is asked for."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evalhpc import process
from evalhpc.config.schema import drop_blank
from evalhpc.config.sites import load_site
from evalhpc.config.validation import validate
from evalhpc.config.yaml_files import parse_yaml
from evalhpc.errors import ClusterError, UsageError
from evalhpc.models.site import Site
from evalhpc.process import Finished
from evalhpc.slurm.inventory import Association, Node, parse_associations, parse_nodes
from evalhpc.slurm.jobs import Limits, Partition
from evalhpc.workflow.site.container_survey import container_facts
from evalhpc.workflow.site.draft import Draft, draft
from evalhpc.workflow.site.init import refuse_overwriting, site_file, write_site
from evalhpc.workflow.site.survey import Folder, Survey, filesystem_of, survey
from tests.slurm_fakes import FakeSlurm, captured

CPU = Partition("cpu", default=True, max_seconds=1800, total_nodes=2)
GPU = Partition("gpu", max_seconds=2 * 3600, total_nodes=2, gres=("gpu:h100:8",))
NODES = (
    Node("cpu", "c1", 64, 256000, "(null)", "idle"),
    Node("gpu", "g1", 128, 2000000, "gpu:h100:8(S:0-1)", "mix"),
    Node("gpu", "g2", 112, 2000000, "gpu:h100:8(S:0-1)", "idle"),
    Node("gpu", "g3", 8, 2000000, "gpu:h100:1", "down*"),
)
NODES_TEXT = "batch*|n1|32|256000|gpu:h100:2|idle\nlow|n1|32|256000|gpu:h100:2|mix\n"


def made(
    partition: str | None = None,
    *,
    partitions: Sequence[Partition] = (CPU, GPU),
    nodes: Sequence[Node] = NODES,
    enforced: tuple[str, ...] = (),
    **found: Any,
) -> tuple[Draft, Site]:
    """The draft of such a cluster, and the site that it is."""
    limits = Limits(1001, 500, 10000, accounting=True, cluster="big", enforced=enforced)
    given = Survey("login1", "23.02.4", tuple(partitions), tuple(nodes), limits, "me", **found)
    drafted = draft(given, "mine", partition)
    data = drop_blank(Site, parse_yaml(drafted.text, "mine.yaml"))
    return drafted, validate(Site, data, "mine.yaml")


def test_gpus_decide_on_the_partition() -> None:
    """Shards go where the GPUs are, passes to the default, and no walltime is above a limit."""
    _, site = made(free_cpus={"g2": 104})
    assert (site.slurm.partition, site.slurm.cpu_partition) == ("gpu", "cpu")
    shard = site.resources.shard
    assert (shard.gpus_per_node, shard.cpus, shard.memory) == (8, 104, "0")
    assert shard.walltime == "2:00:00"
    assert site.resources.planning.walltime == "0:30:00"
    assert site.slurm.max_array_size == 500


def test_a_folder_for_staged_data_is_pointed_out() -> None:
    """No command tells whether nodes have internet, so both keys are shown, unset."""
    drafted, site = made()
    assert "evalhpc stage" in drafted.text
    assert (site.stage_dir, site.offline) == (None, False)


def test_a_partition_can_be_named() -> None:
    """It counts, and a misspelt one is answered with the nearest."""
    _, site = made("cpu")
    assert (site.slurm.partition, site.resources.shard.gpus_per_node) == ("cpu", 0)
    with pytest.raises(UsageError, match="perhaps you meant 'gpu'"):
        made("gpus")


def test_what_nobody_can_know_is_required() -> None:
    """Several accounts, several partitions with GPUs, several types of them."""
    other = Partition("gpu2", gres=("gpu:a100:4",))
    nodes = (*NODES, Node("gpu2", "a1", 64, 1000, "gpu:a100:4,gpu:h100:4", "idle"))
    accounts = (Association("bio"), Association("chem", qos=("long", "short")))
    drafted, site = made(partitions=(CPU, GPU, other), nodes=nodes, associations=accounts)
    assert site.slurm.required == ("partition", "account")
    assert site.slurm.partition is None
    assert "bio, chem" in drafted.text
    assert "long, short" in drafted.text
    assert any("--partition NAME" in left for left in drafted.open)
    _, site = made("gpu2", partitions=(CPU, GPU, other), nodes=nodes)
    assert site.slurm.required == ("gpu_type",)


def test_the_only_account_is_taken() -> None:
    """Of those that the partition takes; where accounts are enforced and none is found, one is
    asked for."""
    _, site = made(associations=(Association("bio"), Association("x", partition="cpu")))
    assert (site.slurm.account, site.slurm.required) == ("bio", ())
    closed = Partition("gpu", gres=("gpu:8",), allow_accounts="chem,phys")
    both = (Association("bio"), Association("chem"))
    _, site = made(partitions=(CPU, closed), associations=both)
    assert site.slurm.account == "chem"
    assert made(enforced=("associations",))[1].slurm.required == ("account",)
    assert made()[1].slurm.required == ()


def test_a_cluster_without_gpus_has_a_site_too() -> None:
    """With what is left to say."""
    drafted, site = made(partitions=(CPU,), nodes=NODES[:1])
    assert (site.slurm.partition, site.resources.shard.gpus_per_node) == ("cpu", 0)
    assert any("gpus_per_node" in left for left in drafted.open)


@pytest.mark.parametrize(
    ("found", "runtime"),
    [
        ({"pyxis": True, "programs": {"apptainer": "1.3"}}, "pyxis"),
        ({"programs": {"singularity": "3.8"}}, "apptainer"),
        ({"programs": {"bwrap": "0.8", "ch-run": "0.31"}}, "none"),
    ],
)
def test_the_container_runtime_is_what_was_found(found: dict[str, Any], runtime: str) -> None:
    """Pyxis before Apptainer; what may be there by chance is only mentioned."""
    drafted, site = made(**found)
    assert site.container.runtime == runtime
    assert all(f"type -p {name}: {said}" in drafted.text
               for name, said in found["programs"].items())  # fmt: skip


def test_runs_are_kept_where_every_node_sees_them() -> None:
    """A large shared folder before the home; a home that may be local is doubted."""
    home, scratch = Folder("~", "ext4"), Folder("$SCRATCH", "lustre")
    assert made(folders=(home, scratch))[1].run_root == "$SCRATCH/evalhpc-runs"
    assert made(folders=(Folder("~", "nfs4"),))[1].run_root == "~/evalhpc-runs"
    drafted, site = made(folders=(home,))
    assert site.run_root == "~/evalhpc-runs"
    assert "CHECK" in drafted.text
    assert any("run_root" in left for left in drafted.open)


def test_every_value_has_its_command() -> None:
    """Whoever reads the file can ask again."""
    drafted, _ = made(associations=(Association("bio"),))
    for key in ("account", "partition", "cpu_partition", "gpu_request", "max_array_size"):
        assert re.search(rf"^  {key}: .*  # (?:sinfo|scontrol|sacctmgr)", drafted.text, re.M), key


@settings(deadline=None)
@given(text=st.text(max_size=30))
def test_whatever_names_a_cluster_has_the_file_validates(text: str) -> None:
    """Names with quotes, colons and control characters stay values, or text of a comment."""
    partition = Partition(text or "x", default=True, gres=(text,))
    node = Node(partition.name, "n1", 4, 1000, "gpu:2", "idle")
    account = (Association(text or "y", qos=(text,)),)
    _, site = made(partitions=(partition,), nodes=(node,), associations=account,
                   programs={"bwrap": text}, missing={"pyxis": text})  # fmt: skip
    assert (site.slurm.partition, site.slurm.account) == (text or "x", text or "y")


def cluster(**answers: Any) -> FakeSlurm:
    """A cluster that answers as a real one did."""

    def sinfo(argv: Sequence[str]) -> str:
        return NODES_TEXT if "--Node" in argv else captured("22.05/sinfo.txt")

    given: dict[str, Any] = {
        "sinfo": sinfo,
        "scontrol_partition": captured("22.05/partitions.txt"),
        "scontrol_config": captured("22.05/config.txt"),
        "scontrol_n1": "NodeName=n1 CPUTot=32 CPUEfctv=30\n",
        "sacctmgr": "lab||normal,long\n",
        "sbatch": "slurm-wlm 22.05.8\n",
        "srun": "  --container-image=[USER@][REGISTRY#]IMAGE\n",
    }
    return FakeSlurm(**(given | answers))


def test_a_survey_asks_slurm_for_all_of_it(tmp_path: Path) -> None:
    """Partitions, nodes, limits, accounts, Pyxis: of a real cluster's words."""
    env = {"HOME": str(tmp_path), "USER": "me", "PATH": ""}
    found = survey(env, cluster().gate())
    assert [p.name for p in found.partitions] == ["batch", "low", "high", "tiny", "closed"]
    assert (found.limits.cluster, found.limits.enforced) == ("lab", ("associations", "limits",
                                                                     "qos"))  # fmt: skip
    assert found.associations == (Association("lab", "", ("normal", "long")),)
    assert (found.free_cpus, found.pyxis, found.programs) == ({"n1": 30}, True, {})
    assert found.folders[0].written == "~"
    site = draft(found, "lab").text
    assert "account: lab" in site
    assert "cpus: 30" in site


def test_probes_that_fail_are_said_and_leave_the_rest(tmp_path: Path) -> None:
    """An accounting that is down, or nodes that are not shown, are no reason to give up."""
    down = Finished(("sacctmgr",), 1, "", "sacctmgr: error: Access/permission denied")
    denied = Finished(("scontrol",), 1, "", "slurm_load_node error: Access/permission denied")
    env = {"HOME": str(tmp_path), "USER": "me", "PATH": ""}
    found = survey(env, cluster(sacctmgr=down, scontrol_n1=denied, srun=down).gate())
    assert set(found.missing) == {"associations", "free_cpus", "pyxis"}
    assert draft(found, "lab").text
    with pytest.raises(ClusterError):
        survey(env, cluster(scontrol_config=denied).gate())


class Programs:
    """A stand-in for `process.run`: what programs on a login node print."""

    def __init__(self, **said: Finished) -> None:
        self.said = said

    def __call__(self, argv: Sequence[str], **how: Any) -> Finished:
        assert how["timeout"]
        assert not how["check"]
        return self.said[argv[0]]


def finished(*, code: int = 0, out: str = "", error: str = "") -> Finished:
    return Finished(("x",), code, out, error)


@pytest.fixture
def login(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, str], Programs]:
    """A login node with enroot's folders, and programs that all can be found."""
    enroot = tmp_path / "enroot"
    (enroot / "hooks.d").mkdir(parents=True)
    (enroot / "enroot.conf").write_text(
        "#ENROOT_DATA_PATH ${XDG_DATA_HOME}/enroot\n"
        "ENROOT_CACHE_PATH /raid/cache-$(id -g)\nENROOT_RUNTIME_PATH=/run/enroot  \n"
    )
    programs = Programs(unshare=finished())
    monkeypatch.setattr(process, "run", programs)
    monkeypatch.setattr(shutil, "which", lambda name, **_: f"/usr/bin/{name}")
    return {"HOME": "/home/me", "PATH": "", "ENROOT_SYSCONF_PATH": str(enroot)}, programs


def test_enroots_folders_and_hooks_are_shown(login: tuple[dict[str, str], Programs]) -> None:
    """As configured, unexpanded: the environment before enroot.conf before its own defaults."""
    env, _ = login
    enroot = Path(env["ENROOT_SYSCONF_PATH"])
    facts = container_facts({**env, "ENROOT_RUNTIME_PATH": "/mine"}, ["enroot"])
    assert facts == (
        "unshare --user --map-root-user true: user namespaces work",
        "$ENROOT_RUNTIME_PATH: /mine",
        f"{enroot}/enroot.conf: ENROOT_CACHE_PATH /raid/cache-$(id -g)",
        f"{enroot}/enroot.conf has no ENROOT_DATA_PATH: ${{XDG_DATA_HOME}}/enroot",
        f"ls {enroot}/hooks.d: none",
        "without 98-nvidia.sh no GPU is seen in an image",
    )
    (enroot / "hooks.d" / "98-nvidia.sh").touch()
    facts = container_facts(env, ["enroot"])
    assert facts[1] == f"{enroot}/enroot.conf: ENROOT_RUNTIME_PATH /run/enroot"
    assert facts[-1] == f"ls {enroot}/hooks.d: 98-nvidia"


@pytest.mark.parametrize(
    ("setuid", "starter", "allowed", "said"),
    [
        ("1", 0o4755, "yes", "setuid: images run without user namespaces"),
        ("1", 0o4755, "no", "which .* does not allow: images run in user namespaces"),
        ("1", 0o755, "yes", "not setuid: images run in user namespaces"),
        ("1", None, "yes", "not setuid"),
        ("0", None, "yes", "not setuid"),
    ],
)
def test_apptainer_is_setuid_only_with_its_starter(
    setuid: str, starter: int | None, allowed: str, said: str,
    login: tuple[dict[str, str], Programs], tmp_path: Path,
) -> None:  # fmt: skip
    """What it was built for, the second package's program, and the administrator's consent."""
    env, programs = login
    path = tmp_path / "libexec" / "apptainer" / "bin" / "starter-suid"
    if starter is not None:
        path.parent.mkdir(parents=True)
        path.touch()
        path.chmod(starter)
    conf = tmp_path / "apptainer.conf"
    conf.write_text(f"# allow setuid = maybe\nallow setuid = {allowed}\n")
    programs.said["apptainer"] = finished(
        out=f"PACKAGE_NAME=apptainer\nLIBEXECDIR={tmp_path}/libexec\n"
        f"APPTAINER_CONF_FILE={conf}\nAPPTAINER_SUID_INSTALL={setuid}\n"
    )
    _, suid, cache = container_facts(env, ["apptainer"])
    assert re.search(f"^apptainer buildcfg: .*{said}", suid), suid
    assert cache == "$APPTAINER_CACHEDIR: not set, ${HOME}/.apptainer/cache"


def test_programs_that_say_nothing_leave_the_file_valid(
    login: tuple[dict[str, str], Programs],
) -> None:
    """No user namespaces, a program that hangs: said as such, in comments."""
    env, programs = login
    programs.said["unshare"] = finished(code=1, error="unshare: unshare failed: Not permitted\n")
    programs.said["singularity"] = finished(code=124)
    facts = container_facts({**env, "SINGULARITY_CACHEDIR": "/c\n- x"}, ["bwrap", "singularity"])
    assert "failed: Not permitted: only setuid programs can run images" in facts[0]
    assert "no answer, so whether it is setuid is unknown" in facts[1]
    assert container_facts(env, ["ch-convert"]) == ()
    drafted, _ = made(programs={"bwrap": "0.8"}, containers=facts)
    assert "# $SINGULARITY_CACHEDIR: /c - x\n" in drafted.text


def test_nodes_are_read_as_sinfo_prints_them() -> None:
    """The default's star, types and sockets of GPUs, states with a suffix."""
    first, second = parse_nodes(
        "a*|n1|32|1000|gpu:a:4(S:0-1),gpu:b:2,x:1|idle~\na|n2|8|9|(null)|down*"
    )
    assert (first.partition, first.gpus, first.usable) == ("a", {"a": 4, "b": 2}, True)
    assert (second.gpus, second.usable) == ({}, False)
    with pytest.raises(ClusterError, match="sinfo printed"):
        parse_nodes("slurm is having a day\n")
    with pytest.raises(ClusterError, match="sacctmgr printed"):
        parse_associations("one|two\n")


def test_the_longest_mount_point_tells_the_file_system(tmp_path: Path) -> None:
    """Blanks in its path are octal numbers there."""
    mounts = tmp_path / "mounts"
    spaced = str(tmp_path).replace(" ", "\\040")
    mounts.write_text(f"a / ext4 rw 0 0\nb {spaced}/x\\040y lustre rw 0 0\nbroken\n")
    inside = tmp_path / "x y" / "z"
    inside.mkdir(parents=True)
    assert filesystem_of(inside, mounts) == "lustre"
    assert filesystem_of(tmp_path, mounts) == "ext4"
    assert filesystem_of(tmp_path, tmp_path / "none") == ""


def test_no_file_is_overwritten_by_chance(tmp_path: Path) -> None:
    """And its name is the site's."""
    env = {"HOME": str(tmp_path)}
    path = site_file("mine", None, env)
    assert path == tmp_path / ".config/evalhpc/sites/mine.yaml"
    refuse_overwriting(path, force=False)
    write_site(path, made()[0])
    assert load_site("mine", env).site.slurm.partition == "gpu"
    with pytest.raises(UsageError, match="already"):
        refuse_overwriting(path, force=False)
    refuse_overwriting(path, force=True)
    with pytest.raises(UsageError, match="cannot be in the file"):
        site_file("mine", tmp_path / "other.yaml", env)
