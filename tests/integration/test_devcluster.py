"""The dev cluster behaves like a cluster, and leaves nothing behind."""

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.cluster import EX_NO_CLUSTER, REPO, DevCluster, DevClusterError, wait_until
from tests.integration.conftest import up_or_skip, with_accounting

pytestmark = pytest.mark.slurm


@pytest.fixture
def own() -> Iterator[DevCluster]:
    """One node of one's own, for tests that end or replace the whole cluster."""
    cluster = DevCluster(Path(tempfile.gettempdir()) / f"devcluster-own-{os.getpid()}")
    try:
        up_or_skip(cluster, nodes=1)
        yield cluster
    finally:
        cluster.script("down")


def inits(cluster: DevCluster) -> dict[str, tuple[int, int]]:
    """Pid and start time of every node's pid 1."""
    found = {}
    for file in cluster.state.glob("nodes/*/init"):
        pid, started = file.read_text().split()
        found[file.parent.name] = (int(pid), int(started))
    return found


def descendants(roots: set[int]) -> set[int]:
    """These processes and all that they have started, as this machine counts them."""
    parent = {}
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
        except OSError:  # it has just ended
            continue
        parent[int(status.parent.name)] = int(fields["PPid"])
    found = set(roots)
    while more := {pid for pid, by in parent.items() if by in found} - found:
        found |= more
    return found


def ended(pid: int) -> bool:
    """No such process, or only its entry, which is this machine's pid 1's to remove."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].startswith("Z")
    except OSError:
        return True


def submit(cluster: DevCluster, *options: str) -> str:
    """The job id that sbatch gives."""
    done = cluster.exec(["sbatch", "--parsable", *options], check=True)
    return done.stdout.strip()


def job_field(cluster: DevCluster, job: str, field: str) -> str:
    """A ``Field=value`` of ``scontrol show job``."""
    shown = cluster.exec(["scontrol", "show", "job", job], check=True).stdout
    return dict(word.partition("=")[::2] for word in shown.split()).get(field, "")


def test_a_second_up_changes_nothing(cluster: DevCluster) -> None:
    """`up` with the settings of the running cluster keeps every node as it is."""
    before = inits(cluster)
    cluster.up(nodes=4, accounting=with_accounting())
    assert inits(cluster) == before
    assert cluster.status()["up"]


def test_other_settings_start_afresh(own: DevCluster) -> None:
    """`up` with other settings replaces the cluster by one that has them."""
    own.up(nodes=2, gpus=3, cpus=5)
    shown = own.exec(["sinfo", "-h", "-o", "%D %c %G", "-p", "batch"], check=True).stdout
    assert shown.split() == ["2", "5", "gpu:h100:3"]


def test_srun_reaches_every_node(cluster: DevCluster) -> None:
    """The ordinary user's `srun -N4 hostname` gives four different names."""
    done = cluster.exec(["srun", "-N4", "hostname"], check=True)
    assert sorted(done.stdout.split()) == ["n1", "n2", "n3", "n4"]


def test_gpus_are_given_out(cluster: DevCluster) -> None:
    """A job that asks for three GPUs sees three."""
    argv = ["srun", "-n1", "--gres=gpu:3", "printenv", "CUDA_VISIBLE_DEVICES"]
    assert cluster.exec(argv, check=True).stdout.strip() == "0,1,2"


def test_an_array_job_runs(cluster: DevCluster) -> None:
    """Every task of an array runs, as the ordinary user, in the shared home."""
    wrap = "id -un > array.$SLURM_ARRAY_TASK_ID"
    submit(cluster, "--wait", "--array=0-19", "-o", "/dev/null", f"--wrap={wrap}")
    written = {file.name: file.read_text().strip() for file in cluster.home.glob("array.*")}
    assert written == {f"array.{task}": "evaluser" for task in range(20)}


def test_a_crashed_node_goes_down_and_comes_back(cluster: DevCluster) -> None:
    """Slurm calls a crashed node down by itself, and after `boot` jobs run on it again."""
    with cluster.crashed("n3"):
        assert cluster.script("status").returncode == 4
        wait_until(
            lambda: cluster.slurm_state("n3").startswith("down"), timeout=60, what="n3 is down"
        )
    assert cluster.slurm_state("n3") == "idle"
    assert cluster.exec(["srun", "-w", "n3", "hostname"], check=True).stdout == "n3\n"


def test_daemons_can_be_ended_one_by_one(cluster: DevCluster) -> None:
    """slurmd and slurmctld can be ended and started by themselves."""
    cluster.kill_slurmd("n2")
    with pytest.raises(DevClusterError, match="no slurmd runs on n2"):
        cluster.kill_slurmd("n2")
    cluster.start_slurmd("n2")
    cluster.restart_controller()
    wait_until(lambda: cluster.status()["up"], timeout=30, what="all nodes are up")


def test_a_preempted_job_runs_again_soon(cluster: DevCluster) -> None:
    """A job of partition low yields to one of high and starts anew without the usual 2 minutes."""
    whole = ("--exclusive", "-N1", "-w", "n1", "-o", "/dev/null")
    low = submit(cluster, "-p", "low", *whole, "--wrap=sleep 60")
    wait_until(
        lambda: job_field(cluster, low, "JobState") == "RUNNING", timeout=20, what="low runs"
    )
    submit(cluster, "-p", "high", *whole, "--wrap=sleep 1")
    try:
        wait_until(lambda: job_field(cluster, low, "Restarts") == "1", timeout=20, what="requeued")
        wait_until(
            lambda: job_field(cluster, low, "JobState") == "RUNNING", timeout=40, what="runs again"
        )
    finally:
        cluster.exec(["scancel", low])


def test_a_failed_dependency_ends_its_successor(cluster: DevCluster) -> None:
    """With --kill-on-invalid-dep a job after a failed one is cancelled, not left waiting."""
    first = submit(cluster, "-o", "/dev/null", "--wrap=exit 3")
    kill = "--kill-on-invalid-dep=yes"
    second = submit(cluster, kill, f"--dependency=afterok:{first}", "--wrap=true")
    wait_until(
        lambda: job_field(cluster, second, "JobState") == "CANCELLED",
        timeout=30,
        what="the successor is cancelled",
    )


@pytest.mark.parametrize("options", [["--array=0-10001"], ["-p", "tiny", "-t", "3"], ["-N5"]])
def test_impossible_jobs_are_refused(cluster: DevCluster, options: list[str]) -> None:
    """What no partition can run is refused at once instead of waiting for ever."""
    done = cluster.exec(["sbatch", *options, "--wrap=true"])
    assert done.returncode != 0
    assert "error" in done.stderr


def test_accounting_knows_the_job(cluster: DevCluster) -> None:
    """With accounting, sacct tells the state of a finished job."""
    if not with_accounting():
        pytest.skip("the cluster was started without accounting")
    job = submit(cluster, "--wait", "-o", "/dev/null", "--wrap=true")
    argv = ["sacct", "-n", "-X", "-j", job, "-o", "State"]
    wait_until(
        lambda: cluster.exec(argv).stdout.strip() == "COMPLETED", timeout=20, what="sacct tells"
    )


def test_exec_is_transparent(cluster: DevCluster) -> None:
    """Exit code, standard streams, folder and environment pass through `exec`."""
    script = 'read line; echo "$line $GREETING $PWD"; echo oops >&2; exit 9'
    done = cluster.exec(["bash", "-c", script], node="n2", stdin="hello\n", env={"GREETING": "you"})
    assert (done.returncode, done.stdout) == (9, f"hello you {cluster.home}\n")
    assert done.stderr == "oops\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_signals_reach_the_command(cluster: DevCluster, number: signal.Signals) -> None:
    """A signal to `exec` is one to the command, whose exit code then is that of `exec`."""
    script = f"trap 'exit 50' {number.name[3:]}; echo ready; while :; do sleep 0.05; done"
    environment = {**os.environ, "EVALHPC_DEVCLUSTER_DIR": str(cluster.state)}
    # Tests that run in the background of a script ignore SIGINT, and so would whatever they start.
    heed = ["env", f"--default-signal={number.name[3:]}"]
    argv = [*heed, str(REPO / "scripts/devcluster"), "exec", "--user", "evaluser", "--"]
    with subprocess.Popen(
        [*argv, "bash", "-c", script], stdout=subprocess.PIPE, text=True, env=environment, cwd=REPO
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        assert process.wait(timeout=100) == 50


def runs(cluster: DevCluster, node: str, argument: str) -> bool:
    """Does a command with this argument run on the node."""
    listed = cluster.exec(["ps", "-eo", "stat=,args="], node=node, user="root", check=True).stdout
    return any(argument in line and line[0] != "Z" for line in listed.splitlines())


def test_exec_that_takes_too_long_is_ended(cluster: DevCluster) -> None:
    """After its timeout, the command runs no more on the node either."""
    with pytest.raises(subprocess.TimeoutExpired):
        cluster.exec(["sleep", "54321"], node="n1", timeout=0.5)
    wait_until(lambda: not runs(cluster, "n1", "54321"), timeout=5, what="sleep ends")


def test_a_killed_exec_takes_its_command_along(cluster: DevCluster) -> None:
    """Even KILL, which nobody can hand on, does not leave the command behind."""
    if os.geteuid() != 0:
        pytest.skip("only root may kill what runs through sudo")
    environment = {**os.environ, "EVALHPC_DEVCLUSTER_DIR": str(cluster.state)}
    argv = [str(REPO / "scripts/devcluster"), "exec", "--node", "n1", "--", "sleep", "65432"]
    with subprocess.Popen(argv, env=environment) as process:
        wait_until(lambda: runs(cluster, "n1", "65432"), timeout=10, what="sleep runs")
        process.kill()
    wait_until(lambda: not runs(cluster, "n1", "65432"), timeout=5, what="sleep ends")


def test_tmp_is_the_nodes_own(cluster: DevCluster) -> None:
    """A file in /tmp or /dev/shm of one node is seen neither by another nor by this machine."""
    for folder in ("/tmp", "/dev/shm"):
        name = f"{folder}/devcluster-private"
        cluster.exec(["touch", name], node="n1", check=True)
        assert cluster.exec(["test", "-e", name], node="n1").returncode == 0
        assert cluster.exec(["test", "-e", name], node="n2").returncode == 1
        assert not Path(name).exists()


@pytest.mark.parametrize("inner", ["", "below/it"])
@pytest.mark.parametrize("base", ["/tmp", "/var/tmp"])  # the nodes' own, and shared
def test_a_checkout_in_a_closed_folder_can_be_read(base: str, inner: str) -> None:
    """The ordinary user can read a checkout in, or below, somebody's mode-700 folder."""
    with tempfile.TemporaryDirectory(dir=base) as closed:  # of mode 700
        checkout = Path(closed) / inner
        shutil.copytree(REPO / "scripts", checkout / "scripts")
        (checkout / "pyproject.toml").write_text("readable\n")
        cluster = DevCluster(Path(closed) / "state", checkout)
        try:
            up_or_skip(cluster, nodes=1)
            argv = ["srun", "cat", str(checkout / "pyproject.toml")]
            assert cluster.exec(argv, check=True).stdout == "readable\n"
        finally:
            cluster.script("down")


def test_down_leaves_nothing_behind(own: DevCluster) -> None:
    """After `down` no process, mount, network interface or file of the cluster is left."""
    mounts = Path("/proc/self/mountinfo").read_text()
    interfaces = sorted(Path("/sys/class/net").iterdir())
    own.up(nodes=2)
    job = submit(own, "-o", "/dev/null", "--wrap=sleep 1000")
    wait_until(lambda: job_field(own, job, "JobState") == "RUNNING", timeout=20, what="it runs")
    processes = descendants({pid for pid, _ in inits(own).values()})
    assert len(processes) >= 3 * 4
    own.down()
    wait_until(lambda: all(map(ended, processes)), timeout=10, what=f"all of {processes} end")
    assert not own.state.exists()
    assert Path("/proc/self/mountinfo").read_text() == mounts
    assert sorted(Path("/sys/class/net").iterdir()) == interfaces
    own.down()
    assert own.script("status").returncode == EX_NO_CLUSTER


def test_down_spares_a_stranger_with_a_known_pid(own: DevCluster) -> None:
    """A process that merely has the pid of a node that is gone is not killed."""
    with subprocess.Popen(["sleep", "100"]) as stranger:
        folder = own.state / "nodes" / "n9"
        record = f"mkdir {folder} && echo {stranger.pid} 1 > {folder}/init"
        own.exec(["sh", "-c", record], user="root", check=True)
        own.down()
        assert stranger.poll() is None
        stranger.kill()


def test_down_spares_a_folder_that_is_not_its_own(tmp_path: Path) -> None:
    """A state folder with somebody's files in it is left alone, with a word why."""
    precious = tmp_path / "thesis.tex"
    precious.write_text("years of work")
    done = DevCluster(tmp_path).script("down")
    if done.returncode == 77:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 1
    assert "left alone" in done.stderr
    assert precious.exists()


@pytest.mark.parametrize(
    "arguments", [[], ["fly"], ["up", "--nodes"], ["up", "--nodes", "0"], ["exec", "ls"], ["boot"]]
)
def test_wrong_usage_exits_with_2(arguments: list[str], tmp_path: Path) -> None:
    """A mistake on the command line is told as one, and nothing is started."""
    done = DevCluster(tmp_path / "none").script(*arguments)
    if done.returncode == 77:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 2
    assert not (tmp_path / "none").exists()


def test_help_shows_an_example() -> None:
    """`--help` needs no rights and shows how a cluster is used."""
    done = subprocess.run(
        [REPO / "scripts/devcluster", "--help"], capture_output=True, text=True, check=True
    )
    assert "example:" in done.stdout
    assert "srun -N4 hostname" in done.stdout
