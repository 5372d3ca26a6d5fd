"""Importing images for real: processes that race, die and run out of space; a stand-in registry."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from click.testing import CliRunner

from evalhpc.cli.main import cli
from evalhpc.errors import EvalhpcError
from tests.integration.cluster import REPO, DevCluster, wait_until
from tests.integration.model_servers import quick_endpoint

if not shutil.which("mksquashfs"):
    assert os.environ.get("EVALHPC_REQUIRE_CLUSTER") != "1", "squashfs-tools is not installed"
    pytest.skip("squashfs-tools is not installed", allow_module_level=True)

STANDINS = REPO / "tests" / "standins"
EVALHPC = [sys.executable, "-m", "evalhpc"]
REFERENCE = "team/lm-eval:25.09"
HOST = "registry.example"


@dataclass
class Said:
    """What a command came to; `stderr` has the text of its error."""

    returncode: int
    stdout: str
    stderr: str


def invoke(words: list[str], env: dict[str, str]) -> Said:
    with pytest.MonkeyPatch.context() as patch:
        for key, value in env.items():
            patch.setenv(key, value)
        done = CliRunner().invoke(cli, words)
    error = done.exception
    if isinstance(error, EvalhpcError):
        return Said(error.exit_code, done.stdout, f"{done.stderr}{error}")
    if error is not None and not isinstance(error, SystemExit):
        raise error
    return Said(done.exit_code, done.stdout, done.stderr)


@dataclass
class Rig:
    """A store, a site that uses it, and a registry that is a folder."""

    root: Path
    env: dict[str, str] = field(default_factory=dict)

    @property
    def store(self) -> Path:
        return self.root / "store"

    @property
    def site(self) -> Path:
        return self.root / "rig.yaml"

    def write_site(self, text: str = "scheduler: local") -> None:
        self.site.write_text(
            f"name: rig\n{text}\ncontainer:\n  runtime: pyxis\n  image_dir: {self.store}\n"
            f"  registry: {HOST}\n  images: {{lm-eval: {REFERENCE}}}\n"
        )

    def publish(self, content: str = "an image", tag: str = "25.09") -> None:
        folder = self.root / "registry" / HOST / "team" / "lm-eval" / tag
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "content").write_text(content)

    def argv(self, *words: str) -> list[str]:
        return [*EVALHPC, "images", words[0], "--site", str(self.site), *words[1:]]

    def run(self, *words: str) -> Said:
        """The command within this process, which has the Python modules loaded."""
        return invoke(self.argv(*words)[len(EVALHPC) :], self.env)

    def pulls(self) -> list[str]:
        path = self.root / "registry" / "pulls"
        return path.read_text().splitlines() if path.exists() else []

    def names(self) -> list[str]:
        return sorted(path.name for path in self.store.iterdir())

    def images(self) -> list[Path]:
        return sorted(self.store.glob("*.sqsh"))


def make_rig(root: Path) -> Rig:
    variables = {
        "ENROOT_STANDIN": str(root / "registry"),
        "ENROOT_CACHE_PATH": str(root),
        "ENROOT_TEMP_PATH": str(root),
        "PATH": f"{STANDINS}:{os.environ['PATH']}",
    }
    rig = Rig(root, {**os.environ, **variables})
    rig.write_site()
    rig.publish()
    return rig


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return make_rig(tmp_path)


@pytest.fixture
def shared(cluster: DevCluster) -> Iterator[Rig]:
    """A rig that the nodes of the cluster see, made by their ordinary user."""
    root = cluster.home / f"images-{os.getpid()}-{time.monotonic_ns()}"
    root.mkdir(mode=0o777)
    root.chmod(0o777)
    rig = make_rig(root)
    for path in (root, *root.rglob("*")):
        path.chmod(0o777 if path.is_dir() else 0o666)
    yield rig
    cluster.exec(["rm", "-rf", str(root)], user="root", check=True)


def test_an_import_is_digest_named_recorded_and_done_once(rig: Rig) -> None:
    """The second import of a reference fetches nothing; a further name links to the same bytes."""
    first = rig.run("import", REFERENCE, "--need", "1M", "--json")
    assert first.returncode == 0, first.stderr
    record = json.loads(first.stdout)[0]
    assert record["file"] == f"lm-eval-25.09+{record['sha256'][:16]}.sqsh"
    assert record["reference"] == f"{HOST}#{REFERENCE}"
    again = rig.run("import", REFERENCE, "--need", "1M", "--name", "lm-eval", "--json")
    named = json.loads(again.stdout)[0]
    assert (named["sha256"], named["fresh"], len(rig.pulls())) == (record["sha256"], False, 1)
    assert Path(record["path"]).samefile(named["path"])
    assert rig.names() == sorted(
        f"{one['file']}{suffix}" for one in (record, named) for suffix in ("", ".json")
    )


def test_ls_finds_a_changed_image_and_prune_what_nobody_names(rig: Rig) -> None:
    """A flipped bit is exit code 10; a re-imported tag leaves the old image for prune to remove."""
    assert rig.run("import", "--all", "--need", "1M").returncode == 0
    old = rig.images()[0]
    rig.publish("the tag has moved on")
    assert rig.run("import", "--all", "--need", "1M", "--again").returncode == 0
    new = next(path for path in rig.images() if path != old)
    shown = json.loads(rig.run("prune", "--older-than", "0", "--json").stdout)
    assert [item["path"] for item in shown["items"]] == [str(old)]
    assert old.exists()
    assert rig.run("prune", "--older-than", "0", "--yes").returncode == 0
    assert rig.names() == [new.name, f"{new.name}.json"]
    rows = json.loads(rig.run("ls", "--verify", "--json").stdout)
    assert rows[0]["used_by"] == ["lm-eval"]
    assert rows[0]["state"].startswith("verified")
    data = bytearray(new.read_bytes())
    data[len(data) // 2] ^= 1
    new.chmod(0o644)
    new.write_bytes(data)
    done = rig.run("ls", "--verify")
    assert done.returncode == 10
    assert "changed: sha256 is now" in done.stderr


@pytest.mark.parametrize(
    ("status", "code", "advice"),
    [
        ("401 Unauthorized", 3, "credentials"),
        ("429 Too Many Requests", 1, "limit on downloads"),
        ("404 Not Found", 3, "no such image or tag"),
    ],
)
def test_a_registrys_refusal_is_explained(rig: Rig, status: str, code: int, advice: str) -> None:
    """The registry's answer is shown with its cause, and nothing is left in the store."""
    (rig.root / "registry" / HOST / "team" / "lm-eval" / "1.status").write_text(status)
    done = rig.run("import", "team/lm-eval:1", "--need", "1M")
    assert done.returncode == code
    assert f"returned error code: {status}" in done.stderr
    assert advice in done.stderr
    assert rig.names() == []


def test_a_killed_import_leaves_no_half_image(rig: Rig) -> None:
    """After kill -9 in mid-copy there is no image; who waited for it imports, and tidies up."""
    argv = rig.argv("import", REFERENCE, "--need", "1M")
    victim = subprocess.Popen(argv, env={**rig.env, "ENROOT_STANDIN_SECONDS": "3"})
    try:
        wait_until(lambda: any(rig.store.glob(".import-*/image")), timeout=30, what="half an image")
        waiting = subprocess.Popen(argv, env=rig.env)
        with pytest.raises(subprocess.TimeoutExpired):
            waiting.wait(1)
        assert rig.images() == []
    finally:
        victim.send_signal(signal.SIGKILL)
        victim.wait()
    assert waiting.wait(30) == 0
    assert len(rig.pulls()) == 2
    (image,) = rig.images()
    assert rig.names() == [image.name, f"{image.name}.json"]
    assert subprocess.run(["unsquashfs", "-l", image], capture_output=True).returncode == 0


def test_an_interrupted_import_ends_its_tool_and_tidies_up(rig: Rig) -> None:
    """SIGTERM ends the tool too, and the store is as it was."""
    rig.env["ENROOT_STANDIN_SECONDS"] = "20"
    child = subprocess.Popen(
        rig.argv("import", REFERENCE, "--need", "1M"), env=rig.env, stderr=subprocess.DEVNULL
    )
    wait_until(lambda: any(rig.store.glob(".import-*/image")), timeout=30, what="half an image")
    child.terminate()
    assert child.wait(15) == 75
    assert rig.names() == []


_DISK = """
mount -t tmpfs -o size=2m none "$1" || exit 77
shift
"$@"; code=$?
ls -A "$0" >&2
exit $code
"""


@pytest.mark.parametrize("need", ["40G", "1k"])
def test_a_full_disk_is_an_error_and_leaves_nothing(rig: Rig, need: str) -> None:
    """Too little space is refused at once; where it runs out on the way, half an image goes."""
    folder = rig.root / "registry" / HOST / "team" / "lm-eval" / "25.09"
    (folder / "noise").write_bytes(os.urandom(6_000_000))
    rig.store.mkdir()
    unshare = ["unshare", "--user", "--map-root-user", "--mount"]
    probe = subprocess.run([*unshare, "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True)
    if probe.returncode:
        pytest.skip("this kernel lets nobody mount a tmpfs of their own")
    done = subprocess.run(
        [*unshare, "sh", "-c", _DISK, str(rig.store), str(rig.store),
         *rig.argv("import", REFERENCE, "--need", need)],
        env=rig.env, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 6, done.stderr
    said = "no space for importing" if need == "40G" else "FATAL ERROR: Failed to write"
    assert said in done.stderr
    assert "import-" not in done.stderr.splitlines()[-1]
    assert ".sqsh" not in done.stderr.splitlines()[-1]
    assert len(rig.pulls()) == (need == "1k")


def test_a_run_refers_to_the_digest_and_records_it(rig: Rig) -> None:
    """Scripts name the imported file, and provenance its digest; before that it is refused."""
    with quick_endpoint() as url:
        words = ["--endpoint", url, "--model-id", "outside", "--tasks", "gsm8k_demo"]
        run = ["--run-dir", str(rig.root / "run"), "--json"]
        render = ["render", "--site", str(rig.site), *words, *run]
        refused = invoke(render, rig.env)
        record = json.loads(rig.run("import", "--all", "--need", "1M", "--json").stdout)[0]
        done = invoke(render, rig.env)
    assert refused.returncode == 3, refused.stderr
    assert "is not imported" in refused.stderr
    assert f"evalhpc images import --site rig {REFERENCE}" in refused.stderr
    assert done.returncode == 0, done.stderr
    scripts = json.loads(done.stdout)["scripts"]
    assert f"--container-image={record['path']}" in scripts["harness-gsm8k_demo.sh"]
    provenance = json.loads((rig.root / "run" / "provenance.json").read_text())
    assert provenance["images"]["lm-eval"]["sha256"] == record["sha256"]
    assert not any("digest" in warning for warning in provenance["warnings"])


@pytest.mark.slurm
def test_two_nodes_that_import_at_once_fetch_once(cluster: DevCluster, shared: Rig) -> None:
    """The second one waits for the first, then takes its image."""
    env = {**{k: shared.env[k] for k in ("ENROOT_STANDIN", "PATH")}, "ENROOT_STANDIN_SECONDS": "2"}
    env |= {"ENROOT_CACHE_PATH": str(shared.root), "ENROOT_TEMP_PATH": str(shared.root)}
    argv = shared.argv("import", REFERENCE, "--need", "1M", "--json")
    with ThreadPoolExecutor() as pool:
        each = pool.map(lambda node: cluster.exec(argv, node=node, env=env), ("n1", "n2"))
        done = list(each)
    assert [one.returncode for one in done] == [0, 0], [one.stderr for one in done]
    records = [json.loads(one.stdout)[0] for one in done]
    assert len(shared.pulls()) == 1
    assert records[0]["path"] == records[1]["path"]
    assert sorted(record["fresh"] for record in records) == [False, True]
    assert len(shared.names()) == 2


@pytest.mark.slurm
def test_an_import_can_be_a_job(cluster: DevCluster, shared: Rig) -> None:
    """Where the site wants it a CPU job imports; --wait gives its image."""
    variables = {k: shared.env[k] for k in ("ENROOT_STANDIN", "PATH")}
    variables |= {"ENROOT_CACHE_PATH": str(shared.root), "ENROOT_TEMP_PATH": str(shared.root)}
    shared.write_site(f"extends: devcluster\nenvironment:\n  variables: {json.dumps(variables)}")
    words = ["--need", "1M", "--job", "--wait", "--json"]
    done = cluster.exec(shared.argv("import", REFERENCE, *words))
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)[0]
    assert record["fresh"]
    assert Path(record["path"]).is_file()
    assert record["imported_by"].startswith("evaluser@n")
