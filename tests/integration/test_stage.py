"""`evalhpc stage`: what a harness loads is fetched once, proved without a network, and used."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from evalhpc.storage.stage import StageFolder
from evalhpc.workflow.record.signals import INTERRUPTED
from tests.integration.cluster import DevCluster, wait_until
from tests.integration.harness_image import build_root, pack
from tests.integration.lm_eval_tasks import without_catalogue
from tests.models.checkpoints import write_dist, write_hf

EVALHPC = str(Path(sys.executable).with_name("evalhpc"))
HUB = Path(__file__).parents[1] / "standins" / "data_hub.py"
QUICK = Path(__file__).with_name("quick_stage.py")
SERVER = Path(__file__).with_name("quick_server.py")
TASK = """\
task: tiny_sums
dataset_path: tiny/sums
test_split: test
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["\\n"], max_gen_toks: 8}
metric_list: [{metric: exact_match}]
"""


def write_hub(root: Path) -> Path:
    """A hub's files: `tiny/sums` as lm-eval reads it, others as the quick harness does."""
    rows = [{"question": f"What is {n} + {n}?", "answer": str(2 * n)} for n in range(12)]
    sums = root / "datasets" / "tiny" / "sums"
    sums.mkdir(parents=True)
    (sums / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name in ("plain", "phones", "fewer", "token"):
        (sums.parent / name).mkdir()
        (sums.parent / name / "data").write_text("one\ntwo\nthree\n")
    return root


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[str]:
    """The URL of a hub on loopback."""
    root = write_hub(tmp_path / "hub")
    with subprocess.Popen([sys.executable, HUB, root, "127.0.0.1", "0"]) as server:
        wait_until((root / "port").exists, timeout=10, what="the hub has a port", every=0.05)
        wait_until(lambda: bool((root / "port").read_text()), timeout=1, what="its number")
        try:
            yield f"http://127.0.0.1:{(root / 'port').read_text()}"
        finally:
            server.kill()


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A local site with a stage folder and the quick harness."""
    template = tmp_path / "templates" / "harness" / "lm-eval.sh.j2"
    template.parent.mkdir(parents=True)
    template.write_text(
        f'exec "$EVALHPC_PYTHON" {QUICK} {{{{ benchmark.task }}}} '
        '"$EVALHPC_BASE_URL" {{ model.model_id }}\n'
    )
    path = tmp_path / "here.yaml"
    path.write_text(
        f"name: here\nextends: local\nhostnames: []\nrun_root: {tmp_path}/runs\n"
        f"templates: {tmp_path}/templates\nstage_dir: {tmp_path}/stage\noffline: true\n"
    )
    return path


def run(*words: object, **variables: str) -> subprocess.CompletedProcess[str]:
    """An evalhpc command, with these variables."""
    return subprocess.run(
        [EVALHPC, *map(str, words)], capture_output=True, text=True, timeout=120, check=False,
        env={**os.environ, **variables},
    )  # fmt: skip


def stage(site: Path, hub: str, task: str, *words: str, **variables: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of staging a task."""
    command = ["stage", "--site", site, "--tasks", f"lm-eval/{task}", *words]
    done = run(*command, HF_ENDPOINT=hub, **variables)
    return done.returncode, done.stdout, done.stderr


def test_what_was_fetched_once_is_proved_and_serves_later_runs(site: Path, hub: str) -> None:
    """A record tells what there is and what was asked; no work folder or log is left."""
    code, out, err = stage(site, hub, "plain", "--json")
    assert code == 0, err
    (record,) = json.loads(out)
    assert (record["requests"], record["same"]) == (3, True)
    assert record["isolated"] == (subprocess.run(["unshare", "-rn", "true"]).returncode == 0)
    assert [e["name"] for e in record["entries"]] == ["huggingface/hub/datasets--tiny--plain"]
    assert record["fetched_bytes"] == 14
    root = site.parent / "stage"
    assert list((root / "work").iterdir()) == list((root / "logs").iterdir()) == []

    code, out, err = stage(site, "http://127.0.0.1:9", "plain", "--offline", "--json")
    assert (code, json.loads(out)[0]["fetched_bytes"]) == (0, 0), err
    (root / "huggingface/hub/datasets--tiny--plain/data").unlink()
    code, _, err = stage(site, hub, "plain", "--offline")
    assert code == 8
    assert "the stage folder lacks what the harness loads" in err
    assert "LocalEntryNotFoundError" in next((root / "logs").iterdir()).read_text()


def test_a_record_names_what_its_own_harness_read(site: Path, hub: str) -> None:
    """Data of another benchmark may go; what staged before the removal stays staged."""
    root = site.parent / "stage"
    for task in ("plain", "token"):
        assert stage(site, hub, task)[0] == 0
    records = {r.task: r for r in StageFolder(root).all_records()}
    for task, record in records.items():
        names = [entry.name for entry in record.entries]
        assert (names, record.whole) == ([f"huggingface/hub/datasets--tiny--{task}"], False)
    shutil.rmtree(root / "huggingface/hub/datasets--tiny--plain")
    now = StageFolder(root).by_name()
    assert [bool(records[task].lost(now)) for task in ("plain", "token")] == [True, False]


def checked(site: Path, *words: str) -> tuple[int, dict[str, Any]]:
    """Exit code and rows of asking a node (here: this machine) for data alone."""
    done = run("site", "check", site, "--node", "--json", *words)
    assert done.stdout, done.stderr
    rows = {row["name"]: row for row in json.loads(done.stdout)}
    return done.returncode, {k.rpartition("data of ")[2]: v for k, v in rows.items() if "data" in k}


def test_a_node_loads_what_is_staged_and_says_of_each_whether_it_could(
    site: Path, hub: str
) -> None:
    """By the harness itself over stubs, as it was staged; nothing of it is left."""
    for task in ("plain", "token"):
        assert stage(site, hub, task)[0] == 0
    code, rows = checked(site)
    assert code == 0
    assert all(": 3 requests seen" in rows[task]["found"] for task in ("plain", "token"))
    (site.parent / "stage/huggingface/hub/datasets--tiny--token/data").write_text("")
    code, rows = checked(site)
    assert code == 3
    assert rows["plain"]["ok"]
    assert (rows["token"]["ok"], rows["token"]["found"][:23]) == (False, "its harness asked nothi")
    assert "evalhpc stage --site here --tasks lm-eval/token" in rows["token"]["hint"]
    assert [*(site.parent / "runs").glob(".*")] == []


def test_tasks_that_are_named_are_loaded_as_well(site: Path, hub: str) -> None:
    """Not staged, they fail with the hub's words and the command that fetches them."""
    code, rows = checked(site, "--tasks", "lm-eval/plain")
    assert code == 3
    assert "LocalEntryNotFoundError: plain" in rows["plain"]["found"]
    assert "evalhpc stage --site here --tasks lm-eval/plain" in rows["plain"]["hint"]
    assert stage(site, hub, "plain")[0] == 0
    assert checked(site, "--tasks", "lm-eval/plain")[0] == 0
    done = run("site", "check", site, "--tasks", "lm-eval/plain")
    assert done.returncode == 2


def test_a_tokenizer_that_a_checkpoint_only_names_is_staged(
    site: Path, hub: str, tmp_path: Path
) -> None:
    """Small files, not the weights; servers of an offline site find them, and no half of them."""
    for repo in ("base", "tokenizer"):
        folder = tmp_path / "hub/models/org" / repo
        folder.mkdir(parents=True)
        for name in ("tokenizer.json", "config.json", "weights.safetensors"):
            (folder / name).write_text("{}")
    words = ("plain", "--model", str(write_dist(tmp_path / "step", bridge=True)))
    code, _, err = stage(site, hub, *words, "--offline")
    assert (code, "is not staged" in err) == (8, True), err
    code, _, err = stage(site, hub, *words)
    assert code == 0, err
    staged = tmp_path / "stage/huggingface/hub/models--org--tokenizer"
    files = {path.name for path in staged.rglob("*") if path.is_symlink()}
    assert files == {"tokenizer.json", "config.json"}
    assert stage(site, hub, *words, "--offline")[0] == 0
    next((staged / "blobs").iterdir()).unlink()
    assert stage(site, hub, *words, "--offline")[0] == 8


def test_a_submission_without_staged_data_is_refused_and_leaves_nothing(site: Path) -> None:
    """The error has the command; scripts can be looked at all the same."""
    words = ("--site", site, "--tasks", "lm-eval/plain", "--run-dir", site.parent / "run")
    done = run("submit", *words, "--model", _model(site.parent))
    assert done.returncode == 3
    assert f"evalhpc stage --site {site} --tasks lm-eval/plain" in done.stderr
    assert not (site.parent / "run").exists()
    dry = run("submit", *words, "--model", _model(site.parent), "--dry-run")
    assert f"staged={site.parent}/stage" in dry.stdout


def _model(folder: Path) -> Path:
    if not (folder / "tiny").exists():
        write_hf(folder / "tiny")
    return folder / "tiny"


@pytest.mark.parametrize(
    ("task", "said"),
    [
        ("phones", "the harness asks the hub each time"),
        ("fewer", "3 requests with internet and 2 without"),
        ("absent", "the hub cannot be reached from here"),
    ],
)
def test_what_does_not_work_offline_is_not_recorded(
    site: Path, hub: str, task: str, said: str
) -> None:
    """A hub that is asked each time, data that are fewer offline, and none at all."""
    code, _, err = stage(site, hub, task)
    assert code == 8
    assert said in err
    assert not list((site.parent / "stage" / "records").iterdir())


def test_a_token_fetches_and_is_nowhere_afterwards(site: Path, hub: str) -> None:
    """The harness has it with internet only, and no file of the stage folder does."""
    folder, token = site.parent / "stage", {"HF_TOKEN": "hf_distinctive"}
    code, _, err = stage(site, hub, "token", **token)
    assert code == 0, err
    (site.parent / "hub" / "datasets" / "tiny" / "token" / "data").unlink()
    assert stage(site, hub, "token", **token)[0] == 8  # so its log is kept
    assert "with a token" in next((folder / "logs").iterdir()).read_text()
    (folder / "huggingface/hub/datasets--tiny--token/data").unlink()
    assert stage(site, hub, "token", "--offline", **token)[0] == 8
    assert "without a token" in next((folder / "logs").iterdir()).read_text()
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert not [path for path in files if b"hf_distinctive" in path.read_bytes()]


def test_an_interrupted_staging_ends_what_it_started(site: Path, tmp_path: Path) -> None:
    """A second one waits for it; then there is no process, no lock and no work folder."""
    slow = tmp_path / "slow.sh"
    slow.write_text("sleep 77\n")
    (tmp_path / "templates/harness/lm-eval.sh.j2").write_text(f"exec bash {slow}\n")
    command = [EVALHPC, "stage", "--site", str(site), "--tasks", "lm-eval/plain"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as child:
        wait_until(lambda: bool(_commands(str(slow))), timeout=20, what="the harness runs")
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as second:
            assert "another `evalhpc stage` works in" in _first_line(second)
            second.terminate()
        child.terminate()
        _, err = child.communicate(timeout=60)
    assert child.returncode == INTERRUPTED
    assert "what was fetched is kept" in err
    assert not _commands(str(slow))
    assert list((tmp_path / "stage" / "work").iterdir()) == []


def test_a_staging_that_is_killed_leaves_no_process_and_no_record(
    site: Path, hub: str, tmp_path: Path
) -> None:
    """It cannot say so; its harness ends all the same, and the next one tidies up and goes on."""
    script = tmp_path / "templates/harness/lm-eval.sh.j2"
    quick, mark = script.read_text(), str(tmp_path / "mark")
    script.write_text(f"exec python3 -c 'import time; time.sleep(600)' {mark}\n")
    command = [EVALHPC, "stage", "--site", str(site), "--tasks", "lm-eval/plain"]
    try:
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as child:
            wait_until(lambda: bool(_commands(mark)), timeout=60, what="the harness runs")
            child.kill()
        wait_until(lambda: not _commands(mark), timeout=60, what="the harness has ended")
    finally:
        for number in _commands(mark):
            os.kill(int(number), signal.SIGKILL)
    folder = tmp_path / "stage"
    assert len([*(folder / "work").iterdir()]) == 1
    assert list((folder / "records").iterdir()) == []
    script.write_text(quick)
    assert stage(site, hub, "plain")[0] == 0
    assert list((folder / "work").iterdir()) == []


@pytest.mark.parametrize("size", ["64k", "700k"])
def test_a_full_disk_is_said_and_nothing_counts_as_staged(
    site: Path, hub: str, tmp_path: Path, size: str
) -> None:
    """Full by the scripts already, so that no log could be written, or by the data set."""
    folder = tmp_path / "stage"
    folder.mkdir()
    (tmp_path / "hub/datasets/tiny/plain/data").write_text("a question\n" * 100_000)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "t", folder]).returncode:
        pytest.skip("needs the right to mount")
    try:
        code, _, err = stage(site, hub, "plain")
        assert code == 6, err
        assert "No space left" in err
        assert f"df -h {folder};" in err
        assert list((folder / "records").iterdir()) == []
        assert list((folder / "work").iterdir()) == []
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.mark.skipif(
    not (shutil.which("mksquashfs") and shutil.which("ch-run")), reason="needs Charliecloud"
)
def test_a_harness_in_an_image_is_staged_from_inside_it(
    site: Path, hub: str, tmp_path: Path
) -> None:
    """A login node has no Pyxis: what it has starts the same image, which sees the stage folder."""
    root = build_root(tmp_path / "root")
    shutil.copy(QUICK, root / "opt" / "harness")
    image = pack(root, tmp_path / "lm-eval.sqsh")
    (tmp_path / "templates/harness/lm-eval.sh.j2").write_text(
        'exec python3 /opt/harness/quick_stage.py {{ benchmark.task }} "$EVALHPC_BASE_URL" m\n'
    )
    text = site.read_text().replace("offline: true", "offline: true\ncontainer:")
    site.write_text(
        f"{text}  runtime: pyxis\n  node_dir: {tmp_path}\n  images: {{lm-eval: {image}}}\n"
    )
    code, out, err = stage(site, hub, "plain", "--json")
    assert code == 0, err
    assert json.loads(out)[0]["requests"] == 3
    site.write_text(site.read_text().replace("runtime: pyxis", "runtime: charliecloud"))
    code, rows = checked(site)
    assert code == 0, rows
    assert ": 3 requests seen" in rows["plain"]["found"]


def _first_line(child: subprocess.Popen[str]) -> str:
    assert child.stderr is not None
    return child.stderr.readline()


def _commands(word: str) -> list[str]:
    """Processes that were started with this word."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue  # it has ended
        if word.encode() in words:
            found.append(path.parent.name)
    return found


def test_a_node_without_internet_loads_what_the_login_node_staged(cluster: DevCluster) -> None:
    """Unmodified lm-eval and its libraries: fetched on the login node, run on others, scored.

    The hub listens on the login node's loopback, which no other node reaches.
    """
    home = cluster.home
    tasks = home / "staged-tasks"
    write_hub(home / "hub")
    tasks.mkdir()
    (tasks / "tiny_sums.yaml").write_text(TASK)
    python = without_catalogue(home / "lm-eval")
    sites = home / ".config" / "evalhpc" / "sites"
    sites.mkdir(parents=True, exist_ok=True)
    (sites / "away.yaml").write_text(
        f"extends: devcluster\nname: away\nhostnames: []\nstage_dir: {home}/stage\n"
        f"offline: true\nrun_root: {home}/away\npythons: {{lm-eval: {python}}}\n"
    )
    for path in (home / "hub", tasks, home / "lm-eval", home / ".config"):
        subprocess.run(["chown", "-R", "20001:20001", str(path)], check=True)
    wish = f"--site away --tasks lm-eval/tiny_sums --set params.include_path={tasks}"
    script = f"""
    cd ~
    {sys.executable} {HUB} hub 127.0.0.1 0 & hub=$!
    python3 {SERVER} 0.0.0.0 18777 m & server=$!
    trap 'kill $hub $server' EXIT
    until [ -s hub/port ]; do sleep 0.1; done
    address=$(hostname -I | cut -d' ' -f1)
    submit="{EVALHPC} submit {wish} --endpoint http://$address:18777/v1 --model-id m --shards 1"
    $submit 2>refused && exit 1
    grep -q 'evalhpc stage' refused || exit 2
    HF_ENDPOINT=http://127.0.0.1:$(cat hub/port) {EVALHPC} stage {wish} || exit 3
    kill $hub
    $submit --run-dir ~/away/run --wait || exit 4
    {EVALHPC} site check away --node --json >checks.json || exit 5
    """
    env = {"PATH": f"{Path(EVALHPC).parent}:/usr/bin:/bin"}
    done = cluster.exec(["bash", "-c", script], env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads(
        cluster.exec([EVALHPC, "results", "away/run", "--json"], env=env, check=True).stdout
    )
    metrics = results["results"]["tasks"]["tiny_sums"]["metrics"]
    # The quick server answers with the length of the prompt, 14 of which is right once.
    assert metrics["exact_match"]["scores"]["exact_match"]["value"] == pytest.approx(1 / 12)
    assert not [p for p in (home / "away").iterdir() if p.name != "run"]
    checks = {c["name"]: c for c in json.loads((home / "checks.json").read_text())}
    assert "1 benchmarks, whole" in checks["shard node: staged data"]["found"]
    loaded = checks["shard node: data of tiny_sums"]["found"]
    assert loaded.startswith("loaded without a network: 2 requests seen")
    assert checks["shard node: locks"]["found"] == "seen from node to node"
    assert "no default route" in checks["shard node: network"]["found"]


def test_a_node_that_lacks_the_run_root_or_the_interpreter_is_found(cluster: DevCluster) -> None:
    """From the first nothing comes back, of the second the job says it; nothing is left."""
    home = cluster.home
    sites = home / ".config" / "evalhpc" / "sites"
    sites.mkdir(parents=True, exist_ok=True)
    (sites / "local-root.yaml").write_text(
        "extends: devcluster\nname: local-root\nhostnames: []\nrun_root: /tmp/alone\n"
    )
    cluster.exec(["cp", "/bin/true", "/tmp/python"], check=True)  # on the login node alone
    (sites / "no-python.yaml").write_text(
        f"extends: devcluster\nname: no-python\nhostnames: []\nrun_root: {home}/checked\n"
        "python: /tmp/python\n"
    )
    env = {"PATH": f"{Path(EVALHPC).parent}:/usr/bin:/bin"}
    found = {}
    for name in ("local-root", "no-python"):
        done = cluster.exec([EVALHPC, "site", "check", name, "--node", "--json"], env=env)
        assert done.returncode == 3, done.stderr
        found[name] = {c["name"]: c for c in json.loads(done.stdout) if not c["ok"]}
    assert "not on a shared folder" in found["local-root"]["shard node: job"]["found"]
    assert "run_root" in found["local-root"]["shard node: job"]["hint"]
    assert "/tmp/python is no program on n" in found["no-python"]["shard node: job"]["found"]
    assert not (home / "checked").exists()
    assert cluster.exec(["ls", "-A", "/tmp/alone"]).stdout == ""
    deadline = time.monotonic() + 30
    while cluster.exec(["squeue", "-h"]).stdout and time.monotonic() < deadline:
        time.sleep(0.2)
    assert cluster.exec(["squeue", "-h"]).stdout == ""
