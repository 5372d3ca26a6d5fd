"""Harness and server in images on a real cluster, through each runtime that can be had here.

Charliecloud and Bubblewrap are the real ones. Pyxis is `tests/standins/spank_pyxis.c`, a plugin of
the real Slurm with Pyxis's options and errors. Apptainer is not in Debian.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from evalhpc.containers.explain import explain
from tests.integration.cluster import REPO, DevCluster
from tests.integration.conftest import DEFAULT_STATE
from tests.integration.harness_image import FOLDER, MARK, build_root, pack
from tests.models.checkpoints import write_hf

pytestmark = pytest.mark.slurm

EVALHPC = str(Path(sys.executable).with_name("evalhpc"))
NODES = ("n1", "n2")
#: Inside, Python and the programs are the image's; the server says where it runs.
_HARNESS = f"""\
{{% if container %}}
echo "harness: ${MARK}, $HOME"
exec python3 {FOLDER}/quick_harness.py {{% else %}}
exec "$EVALHPC_PYTHON" {REPO}/tests/integration/quick_harness.py {{% endif %}}\
 {{{{ benchmark.task }}}} "$EVALHPC_OUTPUT_DIR" "$EVALHPC_BASE_URL" {{{{ model.model_id }}}}
"""
_SERVER = f"""\
{{% if container %}}
echo "server: ${MARK}, $HOME"
server=(python3 {FOLDER}/quick_server.py)
{{% else %}}
server=("$EVALHPC_PYTHON" {REPO}/tests/integration/quick_server.py)
{{% endif %}}
server+=("$EVALHPC_HOST" "$EVALHPC_PORT" {{{{ model.model_id }}}})
"""


@dataclass(frozen=True)
class Desk:
    """The ordinary user's home with a site and an image, and their command line."""

    cluster: DevCluster
    home: Path
    image: Path

    def evalhpc(self, *words: object) -> CompletedProcess[str]:
        command = [EVALHPC, *map(str, words)]
        return self.cluster.exec(command, cwd=self.home, timeout=300)

    def submit(self, name: str, *sets: str) -> CompletedProcess[str]:
        """A run of two shards with harness and server in the image, waited for."""
        images = f"container.images={{lm-eval: {self.image}, hf: {self.image}}}"
        words = [word for text in (images, *sets) for word in ("--set", text)]
        return self.evalhpc(
            "submit", "--site", self.home / "quick.yaml", "--model", self.home / "tiny",
            "--tasks", "lm-eval/ok", "--shards", 2, "--run-dir", self.home / name, *words,
            "--wait",
        )  # fmt: skip

    def results(self, name: str) -> dict[str, str]:
        folder = self.home / name / "results" / "ok"
        return {path.name: path.read_text() for path in folder.iterdir()}

    def logs(self, name: str, pattern: str) -> str:
        return "".join(path.read_text() for path in (self.home / name).glob(pattern))


def _plugin(folder: Path) -> Path:
    built = folder / "spank_pyxis.so"
    source = REPO / "tests" / "standins" / "spank_pyxis.c"
    subprocess.run(
        ["cc", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o", built, source], check=True
    )
    return built


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    missing = [name for name in ("ch-run", "bwrap", "mksquashfs", "cc") if not shutil.which(name)]
    if missing or not Path("/usr/include/slurm/spank.h").exists():
        assert os.environ.get("EVALHPC_REQUIRE_CLUSTER") != "1", missing
        pytest.skip("scripts/devcluster install --containers")
    folder = tmp_path_factory.mktemp("image")
    cluster = DevCluster(Path(f"{DEFAULT_STATE}-containers-{os.getpid()}"))
    try:
        up = cluster.script("up", "--nodes", "2", "--spank", str(_plugin(folder)), timeout=120)
        assert up.returncode == 0, up.stderr
        yield _desk(cluster, build_root(folder / "root"))
    finally:
        cluster.script("down")


def _desk(cluster: DevCluster, root: Path) -> Desk:
    home = cluster.home
    for name, text in (("harness/lm-eval.sh.j2", _HARNESS), ("deploy/hf.sh.j2", _SERVER)):
        (home / "templates" / name).parent.mkdir(parents=True, exist_ok=True)
        (home / "templates" / name).write_text(text)
    (home / "quick.yaml").write_text(
        f"name: quick\nextends: devcluster\ntemplates: {home}/templates\nhostnames: []\n"
        "run: {ready_timeout: 100, request_retries: 1}\n"
    )
    write_hf(home / "tiny", tokenizer=False)
    for path in (home / "tiny").iterdir():
        os.utime(path, (1, 1))
    return Desk(cluster, home, pack(root, home / "harness.sqsh"))


#: The login node has these images; of the nodes, none has the first, and a damaged one the second.
GONE, DAMAGED = "/tmp/gone.sqsh", "/tmp/damaged.sqsh"
#: Name of a run → what it sets.
RUNS = {
    "none": [],
    "pyxis": ["container.runtime=pyxis"],
    "bwrap": ["container.runtime=bwrap"],
    "charliecloud": ["container.runtime=charliecloud"],
    "image-gone": ["container.runtime=pyxis", f"container.images.lm-eval={GONE}"],
    "server-damaged": ["container.runtime=pyxis", f"container.images.hf={DAMAGED}"],
    "disk-full": [
        "container.runtime=pyxis",
        "environment.variables={ENROOT_DATA_PATH: /tmp/small/data}",
    ],
}


@pytest.fixture(scope="module")
def finished(desk: Desk) -> dict[str, CompletedProcess[str]]:
    """All runs, at the same time."""
    for image in (GONE, DAMAGED):
        desk.cluster.exec(["cp", str(desk.image), image], check=True)
    for node in NODES:
        script = (
            f"head -c 4096 /dev/zero > {DAMAGED}; chmod 644 {DAMAGED}; mkdir /tmp/small;"
            "mount -t tmpfs -o size=8m,mode=1777 small /tmp/small"
        )
        desk.cluster.exec(["bash", "-c", script], node=node, user="root", check=True)
    with ThreadPoolExecutor(len(RUNS)) as pool:
        runs = {name: pool.submit(desk.submit, name, *sets) for name, sets in RUNS.items()}
    return {name: run.result() for name, run in runs.items()}


@pytest.mark.parametrize("name", ["pyxis", "bwrap", "charliecloud"])
def test_a_run_in_images_gives_the_results_of_a_run_without(
    name: str, desk: Desk, finished: dict[str, CompletedProcess[str]]
) -> None:
    """Harness and server, both in a squashfs image; no home of the user's."""
    for run in ("none", name):
        assert finished[run].returncode == 0, finished[run].stdout + finished[run].stderr
    assert len(desk.results("none")) == 2
    assert desk.results(name) == desk.results("none")
    harness = desk.logs(name, "passes/*/ok/harness.log")
    server = desk.logs(name, "logs/server-*.log")
    home = desk.home if name == "pyxis" else "/evalhpc-home"
    assert harness.count(f"harness: from the image, {home}\n") == 2
    assert f"server: from the image, {home}\n" in server
    assert "from the image" not in desk.logs("none", "**/*.log")


@pytest.mark.parametrize(
    ("name", "code", "words", "cause"),
    [
        ("image-gone", 8, f"No such file or directory: {GONE}", "not on the compute node"),
        ("disk-full", 8, "No space left on device", "data path is full"),
        ("server-damaged", 7, f"Invalid image format: {DAMAGED}", "not a squashfs image"),
    ],
)
def test_a_run_whose_image_does_not_start_says_why(
    name: str, code: int, words: str, cause: str, finished: dict[str, CompletedProcess[str]]
) -> None:
    """In the words of Pyxis, or of whatever it called, and what they mean."""
    assert finished[name].returncode == code, finished[name].stdout + finished[name].stderr
    said = finished[name].stderr
    assert words in said
    assert re.search(rf"likely cause: .*the image did not start: .*{cause}", said)


@pytest.mark.parametrize("runtime", ["pyxis", "bwrap"])
def test_a_node_loads_data_by_the_harness_in_its_image(runtime: str, desk: Desk) -> None:
    """As `site check --node` asks it to; Pyxis needs the network to start an image at all."""
    site = desk.home / f"{runtime}.yaml"
    site.write_text(
        f"name: {runtime}\nextends: devcluster\nhostnames: []\n"
        f"templates: {desk.home}/templates\nrun_root: {desk.home}/{runtime}-checks\n"
        f"stage_dir: {desk.home}/stage\n"
        f"container: {{runtime: {runtime}, images: {{lm-eval: {desk.image}}}}}\n"
    )
    desk.cluster.exec(["mkdir", "-p", f"{desk.home}/stage"], check=True)
    done = desk.evalhpc("site", "check", site, "--node", "--tasks", "lm-eval/ok", "--json")
    assert done.stdout, done.stderr
    rows = {row["name"]: row for row in json.loads(done.stdout)}
    how = "with the job's network" if runtime == "pyxis" else "without a network"
    assert rows["shard node: data of ok"]["found"].startswith(f"loaded {how}: 8 requests"), rows
    assert done.returncode == 0, rows


def test_nothing_is_left_on_the_nodes(
    desk: Desk, finished: dict[str, CompletedProcess[str]]
) -> None:
    """Each image was unpacked once a node; no container of Pyxis's is left, and no mount."""
    assert finished
    kept = []
    for node in NODES:
        script = "ls /tmp/enroot-data-*/; ls /tmp/evalhpc-*/images; grep squash /proc/mounts"
        kept += desk.cluster.exec(["bash", "-c", script], node=node).stdout.splitlines()
    names = [name.rpartition("-")[0] for name in kept]
    assert set(names) == {"harness"}
    assert len(names) <= len(NODES)


def test_slurm_itself_knows_the_flags_that_are_rendered(desk: Desk, finished: object) -> None:
    """The plugin's options are srun's."""
    assert finished
    help_ = desk.cluster.exec(["srun", "--help"], check=True).stdout
    script = (desk.home / "pyxis" / "scripts" / "server.sh").read_text()
    flags = set(re.findall(r"--(?:no-)?container-[a-z-]+", script))
    assert "--container-image" in flags
    assert all(flag in help_ for flag in flags)


@pytest.mark.parametrize(
    ("flags", "words", "cause"),
    [
        (["--container-imagine=IMAGE"], "unrecognized option", "no Pyxis"),
        (["--container-image=harness.sqsh"], "importing docker image", "registry's name"),
        (["--container-image=/etc/hosts"], "Invalid image format: /etc/hosts", "not a squashfs"),
        (["--container-image=IMAGE", "--container-mounts=/a"],
         "Invalid --container-mounts argument: /a", "not SRC:DST"),
        (["--container-image=IMAGE", "--container-mounts=/nowhere:/data"],
         "--container-mounts: source path does not exist: /nowhere", "not on the compute node"),
        (["--container-image=IMAGE", "--container-workdir=/nowhere"],
         "couldn't chdir to /nowhere", "not in the image"),
    ],
)  # fmt: skip
def test_mistakes_that_srun_or_its_plugin_refuse_are_explained(
    flags: list[str], words: str, cause: str, desk: Desk
) -> None:
    """None of these gets through the checks before submission; by hand, they do."""
    argv = ["srun", *(flag.replace("IMAGE", str(desk.image)) for flag in flags), "true"]
    done = desk.cluster.exec(argv)
    assert done.returncode != 0
    assert words in done.stderr
    explained = explain(done.stderr)
    assert explained is not None
    assert cause in explained[1]


def test_mounts_without_an_image_run_on_the_host(desk: Desk) -> None:
    """Why an image is required: Slurm and its plugin say nothing, and exit with 0."""
    done = desk.cluster.exec(["srun", "--container-mounts=/tmp:/data", "test", "-e", "/data"])
    assert "pyxis" not in done.stderr
    done = desk.cluster.exec(["srun", "--container-mounts=/tmp:/data", "test", "-e", str(REPO)])
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("words", "code", "cause"),
    [
        (["bwrap", "IMAGE", "--mount=/nowhere:/data"], 3, "does not exist here"),
        (["bwrap", DAMAGED], 6, "interrupted import"),
        (["bwrap", GONE], 3, "does not see"),
        (["bwrap", "IMAGE", "--node-dir=/tmp/small"], 6, "disk is full"),
        (["charliecloud", "IMAGE", "--no-unpack", "--mount=/tmp:/nowhere"], 1, "no such mount"),
        (["bwrap", "IMAGE", "--option=--bind", "--option=/nowhere", "--option=/tmp"], 1, "folder"),
    ],
)
def test_mistakes_of_the_other_runtimes_are_explained(
    words: list[str], code: int, cause: str, desk: Desk, finished: object
) -> None:
    """Whether we find them or the runtime does."""
    assert finished
    done = _enter(desk, *words, command=["true"])
    assert done.returncode == code, done.stderr
    explained = explain(done.stderr)
    assert explained is not None
    assert cause in explained[1]


def test_charliecloud_can_mount_the_file_itself(desk: Desk) -> None:
    """Through FUSE, without unpacking; with an empty home that nobody else sees."""
    inside = f"echo ${MARK}; pwd; mkdir $HOME/mine; exec id -u"
    done = _enter(
        desk, "charliecloud", "IMAGE", "--no-unpack",
        command=["bash", "-c", inside],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1:] == ["/", str(desk.cluster.home.stat().st_uid)]
    assert re.search(rf"ch-run [^\n]*{desk.image} -- bash", done.stderr)


def _enter(desk: Desk, runtime: str, image: str, *options: str, command: list[str]) -> Any:
    """`evalhpc node enter` on a compute node."""
    place = str(desk.image) if image == "IMAGE" else image
    words = [f"--runtime={runtime}", f"--image={place}", *options, "--", *command]
    return desk.cluster.exec([EVALHPC, "node", "enter", *words], node="n1")
