"""No secret stays behind on a real cluster: files, job records, argument lists, logs, ports."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from evalhpc.core.masking import Mask
from evalhpc.storage.scan import files_below, stream_has
from tests.integration.cluster import DevCluster, wait_until
from tests.integration.leaky import TOKENS
from tests.integration.login_desk import EVALHPC, PATH, Desk, desk_in

pytestmark = pytest.mark.slurm

LEAKY = Path(__file__).with_name("leaky.py")
#: In the file of secrets, from the helper, set by a line of setup: none of them may stay anywhere.
SECRETS = {
    "HF_TOKEN": "hub/tok+en=7Q9zX2vB4nM1kL8p",
    "JUDGE_LOGIN": 'quo"te\\d ünd 5pAced 93jd',
    "SITE_LOGIN": "helper-4kd8ZZ-0193-abcdef",
    "SETUP_API_KEY": "setup-77ab3f-kk29-xyzw",
}
_LEAK = f"""\
"$EVALHPC_PYTHON" {LEAKY} print
"$EVALHPC_PYTHON" {LEAKY} capture HOME/captured
"""
_HARNESS = f"""\
{_LEAK}
"$EVALHPC_PYTHON" {LEAKY} files "$EVALHPC_OUTPUT_DIR"
{{% if benchmark.task == "raises" %}}
"$EVALHPC_PYTHON" -c 'import os; raise RuntimeError("key " + os.environ["HF_TOKEN"])'
{{% elif benchmark.task == "held" %}}
until [[ -e HOME/go ]]; do sleep 0.1; done
{{% endif %}}
"""
_SITE = """\
environment:
  setup: [". HOME/setup.env"]
  variables: {EVALHPC_LOG: debug}
  secrets:
    file: HOME/secrets.env
    command: [bash, HOME/helper.sh]
    names: [HF_TOKEN, JUDGE_LOGIN, SITE_LOGIN]
"""
#: Asks as another user: without a token, with a wrong one, and for the list of models.
_ATTACK = """
import json, sys, urllib.error, urllib.request
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
body = json.dumps({"model": "m", "prompt": "mine", "max_tokens": 1}).encode()
for path, data, headers in (
    ("/completions", body, {}),
    ("/completions", body, {"Authorization": "Bearer wrong"}),
    ("/completions", body, {"Authorization": "Bearer " + sys.argv[2]}),
    ("/models", None, {}),
):
    try:
        print(opener.open(urllib.request.Request(sys.argv[1] + path, data, headers)).status)
    except urllib.error.HTTPError as error:
        print(error.code)
"""
STRANGER = 20_777


@dataclass(frozen=True)
class Leaky:
    """A desk whose harness and server tell everybody what they know."""

    desk: Desk

    def submit(self, name: str, *words: object) -> CompletedProcess[str]:
        """Under a lax umask."""
        run = ["--run-dir", self.desk.home / name, "--model", self.desk.home / "tiny"]
        command = [
            EVALHPC,
            "submit",
            "--site",
            self.desk.home / "quick.yaml",
            *run,
            *words,
            "--wait",
        ]
        return self.desk.cluster.exec(
            ["bash", "-c", 'umask 000; exec "$@"', "_", *map(str, command)],
            cwd=self.desk.home, env={"PATH": PATH}, timeout=400,
        )  # fmt: skip

    def captured(self) -> list[dict[str, str]]:
        """What every server and harness so far knew: tokens, ports, the node."""
        path = self.desk.home / "captured"
        lines = path.read_text().splitlines() if path.exists() else []
        return [json.loads(line) for line in lines]

    def mask(self) -> Mask:
        """Everything that must not be found."""
        tokens = [record[name] for record in self.captured() for name in TOKENS if name in record]
        return Mask([*SECRETS.values(), *tokens])

    def attack(self, node: str, url: str, token: str) -> list[int]:
        """The status of each request of another user's process on that node."""
        user = [f"--reuid={STRANGER}", f"--regid={STRANGER}", "--clear-groups"]
        python = [sys.executable, "-c", _ATTACK, url, token]
        done = self.desk.cluster.script("exec", "--node", node, "--", "setpriv", *user, *python)
        assert done.returncode == 0, done.stderr
        return list(map(int, done.stdout.split()))


@pytest.fixture(scope="module")
def leaky(cluster: DevCluster) -> Iterator[Leaky]:
    with desk_in(cluster, "secrets") as desk:
        _make_leaky(desk.home)
        yield Leaky(desk)


def _make_leaky(home: Path) -> None:
    def text(source: str) -> str:
        return source.replace("HOME", str(home))

    for name, first in (("harness/lm-eval.sh.j2", _HARNESS), ("deploy/hf.sh.j2", _LEAK)):
        template = home / "templates" / name
        template.write_text(text(first) + template.read_text())
    site = home / "quick.yaml"
    site.write_text(site.read_text() + text(_SITE))
    ours = {
        "secrets.env": "".join(f"{name}={SECRETS[name]}\n" for name in ("HF_TOKEN", "JUDGE_LOGIN")),
        "helper.sh": f"echo SITE_LOGIN={SECRETS['SITE_LOGIN']}\n",
        "setup.env": f"export SETUP_API_KEY={SECRETS['SETUP_API_KEY']}\n",
    }
    for name, content in ours.items():
        (home / name).write_text(content)
        (home / name).chmod(0o600)
        os.chown(home / name, home.stat().st_uid, home.stat().st_gid)


@contextmanager
def sampled_arguments() -> Iterator[set[bytes]]:
    """The argument lists of all processes of this machine, the cluster's too, again and again."""
    seen, over = set[bytes](), threading.Event()

    def sample() -> None:
        while not over.wait(0.05):
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    seen.add(path.read_bytes())
                except OSError:
                    continue  # it has ended

    sampling = threading.Thread(target=sample)
    sampling.start()
    try:
        yield seen
    finally:
        over.set()
        sampling.join()


Ended = dict[str, CompletedProcess[str]]


@pytest.fixture(scope="module")
def ended(leaky: Leaky) -> tuple[Ended, set[bytes]]:
    """Runs side by side: a whole one, one whose server dies, one whose harness raises."""
    runs: dict[str, list[object]] = {
        "whole": ["--tasks", "lm-eval/ok", "--shards", 2],
        "die": ["--tasks", "lm-eval/ok", "--shards", 2, "--set", "deploy.extra_args=[die]"],
        "raises": ["--tasks", "lm-eval/raises"],
    }
    with sampled_arguments() as seen, ThreadPoolExecutor() as pool:
        waiting = {name: pool.submit(leaky.submit, name, *words) for name, words in runs.items()}
        return {name: future.result() for name, future in waiting.items()}, seen


def test_the_runs_ended_as_they_had_to(leaky: Leaky, ended: tuple[Ended, set[bytes]]) -> None:
    """A score, no score, no score; every process had its secrets and told them."""
    done, _ = ended
    assert done["whole"].returncode == 0, done["whole"].stdout + done["whole"].stderr
    assert done["die"].returncode not in (0, 3), done["die"].stderr
    assert done["raises"].returncode == 8, done["raises"].stderr
    # Not every shard comes in time to start a server.
    log = next((leaky.desk.home / "whole" / "logs").glob("server-1-*.log")).read_text()
    for name in SECRETS:
        assert f"{name}=***" in log
    assert len({record.get("EVALHPC_API_KEY") for record in leaky.captured()}) > 3
    assert "DEBUG" in "".join(p.read_text() for p in (leaky.desk.home / "whole/logs").glob("*.log"))


def test_no_file_of_a_run_holds_a_secret(leaky: Leaky, ended: tuple[Ended, set[bytes]]) -> None:
    """Logs, journals, stores, the harness's own files, packed ones too; in no encoding."""
    mask = leaky.mask()
    longest = max(map(len, mask.forms))
    found = []
    for name in ended[0]:
        files = list(files_below(leaky.desk.home / name))
        assert len(files) > 20
        found += [path for path in files if stream_has(path, mask.found_in, longest)]
    assert found == []
    for done in ended[0].values():
        assert not mask.found_in((done.stdout + done.stderr).encode())
    output = leaky.desk.home / "whole" / "results" / "ok"
    assert "HF_TOKEN=***" in (output / "env.txt").read_text(), "the harness did write them"


def test_no_argument_list_held_a_secret(leaky: Leaky, ended: tuple[Ended, set[bytes]]) -> None:
    """What `ps` shows to everybody, of all processes while the runs went on."""
    mask, (_, seen) = leaky.mask(), ended
    assert any(b"quick_server.py" in words for words in seen), "the sampling saw the servers"
    assert [words for words in seen if mask.found_in(words)] == []


def test_slurm_knows_no_secret(leaky: Leaky, ended: tuple[Ended, set[bytes]]) -> None:
    """The records of all jobs, their scripts, their accounting, and whatever its daemons wrote."""
    mask, cluster = leaky.mask(), leaky.desk.cluster
    jobs = [
        str(json.loads(line)["id"])
        for name in ended[0]
        for line in (leaky.desk.home / name / "jobs.jsonl").read_text().splitlines()
    ]
    assert len(jobs) >= 9
    said = [cluster.exec(["scontrol", "show", "job", "-dd", job]).stdout for job in jobs]
    assert any("Comment=" in one for one in said)
    scripts = [cluster.exec(["scontrol", "write", "batch_script", job, "-"]).stdout for job in jobs]
    assert any("evalhpc node" in one for one in scripts)
    accounts = cluster.exec(["sacct", "-P", "--format=ALL", "-j", ",".join(jobs)]).stdout
    assert not any(mask.found_in(one.encode()) for one in (*said, *scripts, accounts))
    longest = max(map(len, mask.forms))
    daemons = [path for path in files_below(cluster.state) if cluster.home not in path.parents]
    assert [path for path in daemons if stream_has(path, mask.found_in, longest)] == []


def test_a_run_directory_is_its_users_alone(leaky: Leaky, ended: tuple[Ended, set[bytes]]) -> None:
    """Whatever the umask: nobody else gets in, and tokens are files of mode 0600."""
    for name in ended[0]:
        assert (leaky.desk.home / name).stat().st_mode & 0o777 == 0o700
    attack = ["setpriv", f"--reuid={STRANGER}", "--clear-groups", "ls", leaky.desk.home / "whole"]
    done = leaky.desk.cluster.script("exec", "--", *map(str, attack))
    assert done.returncode != 0
    assert "Permission denied" in done.stderr


def test_another_user_of_the_node_is_refused_and_the_run_goes_on(leaky: Leaky) -> None:
    """Requests to the gateway and to the model server, from a process of another user."""
    before = len(leaky.captured())
    with ThreadPoolExecutor() as pool:
        running = pool.submit(
            leaky.submit, "held", "--tasks", "lm-eval/held", "--shards", 1,
            "--set", "deploy.extra_args=[slow]", "--set", "run.concurrency=1",
            "--set", "run.adaptive=false",
        )  # fmt: skip
        gateway = _next(leaky, before, "EVALHPC_BASE_URL")
        token = gateway["EVALHPC_API_KEY"]
        assert leaky.attack(gateway["node"], gateway["EVALHPC_BASE_URL"], "x") == [401] * 4
        (leaky.desk.home / "go").touch()
        server = _next(leaky, before, "EVALHPC_PORT")
        url = f"http://127.0.0.1:{server['EVALHPC_PORT']}/v1"
        wait_until(
            lambda: _listens(leaky, server["node"], url), timeout=30, what="the server is up"
        )
        assert leaky.attack(server["node"], url, token) == [401] * 4
        done = running.result()
    assert done.returncode == 0, done.stdout + done.stderr
    counts = json.loads((leaky.desk.home / "held" / "certificate.json").read_text())["counts"]
    assert (counts["planned"], counts["answered"], counts["failed"]) == (8, 8, 0)


def _next(leaky: Leaky, before: int, name: str) -> dict[str, str]:
    """What the first process after the `before`-th captured that has this variable."""

    def found() -> list[dict[str, str]]:
        return [record for record in leaky.captured()[before:] if name in record]

    wait_until(lambda: bool(found()), timeout=60, what=f"a process with {name}")
    return found()[0]


def _listens(leaky: Leaky, node: str, url: str) -> bool:
    code = "import sys, urllib.request as u; u.build_opener(u.ProxyHandler({})).open(sys.argv[1])"
    words = [sys.executable, "-c", code, f"{url}/models"]
    done = leaky.desk.cluster.script("exec", "--node", node, "--", *words)
    return "401" in done.stderr
