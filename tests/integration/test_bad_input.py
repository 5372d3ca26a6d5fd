"""Bad input on the local site: one clear message, the documented exit code, nothing left behind."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest

from evalhpc.cli.main import main
from evalhpc.config.run_file import read_run
from tests.integration.quick_server import Handler
from tests.integration.quick_site import write_quick_site
from tests.models.checkpoints import write_hf

EVALHPC = Path(sys.executable).with_name("evalhpc")


@dataclass(frozen=True)
class Said:
    """What a command ended with."""

    code: int
    out: str
    err: str


Command = Callable[..., Said]


@dataclass(frozen=True)
class Place:
    """A quick site, a small checkpoint, and the folder where runs would go."""

    folder: Path

    @property
    def site(self) -> Path:
        return self.folder / "quick.yaml"

    @property
    def model(self) -> Path:
        return self.folder / "tiny"

    @property
    def runs(self) -> Path:
        return self.folder / "runs"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("bad")
    write_quick_site(folder, "local")
    write_hf(folder / "tiny", tokenizer=False)
    for path in (folder / "tiny").iterdir():
        os.utime(path, (1, 1))  # at rest, or inspection warns
    shutil.copytree(folder / "tiny", folder / ODD)
    (folder / "runs").mkdir()
    return Place(folder)


@pytest.fixture
def evalhpc(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """The command line in this process, which is quick; any other exception fails the test."""
    monkeypatch.setenv("EVALHPC_RUN_ROOT", str(place.runs))
    monkeypatch.setenv("HOME", str(place.folder))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.chdir(place.folder)

    def run(*words: object) -> Said:
        monkeypatch.setattr(sys, "argv", ["evalhpc", *map(str, words)])
        code: object = 0
        try:
            main()
        except SystemExit as ended:
            code = ended.code
        out, err = capsys.readouterr()
        return Said(int(str(code or 0)), out, err)

    return run


def submit(place: Place, evalhpc: Command, *words: object) -> Said:
    """A submission that must not succeed: afterwards there is no run and no process."""
    given = [str(word) for word in words]
    defaults = {"--site": place.site, "--model": place.model, "--tasks": "lm-eval/ok"}
    if "--suite" in given:
        del defaults["--tasks"]
    if "--endpoint" in given:
        del defaults["--model"]
    extra = [str(w) for k, v in defaults.items() if k not in given for w in (k, v)]
    said = evalhpc("submit", *extra, *given)
    assert said.code != 0, said.out
    assert list(place.runs.iterdir()) == []
    assert processes_of(place.runs) == []
    return said


def assert_clear(said: Said, code: int, *parts: str) -> None:
    """One error of the documented code, whose text has `parts`."""
    assert said.code == code, said.err
    lines = said.err.splitlines()
    assert sum(line.lower().startswith("error: ") for line in lines) == 1, said.err
    assert "Traceback" not in said.err
    for part in parts:
        assert part in said.err, said.err


def processes_of(folder: Path) -> list[int]:
    """Processes whose command line or environment names the folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            if os.fsencode(folder) in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue  # it has ended, or is another user's
    return found


WORDS: list[tuple[list[str], int, str]] = [
    (["--site", "lcoal"], 2, "did you mean 'local'"),
    (["--set", "run.shard=3"], 2, "did you mean 'run.shards'"),
    (["--set", "speed=3"], 2, "unknown key"),
    (["--set", "run.shards"], 2, "KEY=VALUE"),
    (["--set", "run.concurrency=many"], 2, "a whole number"),
    (["--set", "run.concurrency=0"], 2, "at least 1"),
    (["--set", "params.nope.limit=3"], 2, "no such key or benchmark"),
    (["--set", "params.num_fewshot=-1"], 2, "at least 0"),
    (["--set", "resources.shard.walltime=soon"], 2, "walltime"),
    (["--set", "params.include_path=/nowhere"], 2, "/nowhere"),
    (["--tasks", "gsm8k_dem"], 2, "perhaps you meant 'gsm8k_demo'"),
    (["--tasks", "nohar/x"], 2, "unknown harness 'nohar'"),
    (["--tasks", "lm-eval/a,lm-eval/a"], 2, "named twice"),
    (["--tasks", ","], 2, "a name is missing"),
    (["--suite", "demoo"], 2, "did you mean 'demo'"),
    (["--suite", "demo", "--tasks", "lm-eval/a"], 2, "both given"),
    (["--shards", "0"], 2, "--shards"),
    (["--shards", "many"], 2, "--shards"),
    (["--limit", "0"], 2, "--limit"),
    (["--shards", "2", "--set", "run.shards=3"], 2, "both given"),
    (["--nmae", "x"], 2, "--name"),
    (["--name", "../up"], 2, "letters"),
    (["word"], 2, "unexpected extra argument"),
    (["--model", ""], 2, "is a shell variable not set"),
    (["--tasks", ""], 2, "is a shell variable not set"),
    (["--run-dir", ""], 2, "is a shell variable not set"),
    (["--api-key-env", "KEY"], 2, "--endpoint"),
    (["--endpoint", "localhost:8000", "--model-id", "m"], 2, "http://"),
    (["--endpoint", "http://u:secret@localhost:8000", "--model-id", "m"], 2, "user"),
    (["--endpoint", "http://localhost:8000"], 2, "--model-id"),
]


@pytest.mark.parametrize(("words", "code", "part"), WORDS, ids=lambda value: str(value)[:40])
def test_words_that_make_no_sense_are_refused(
    place: Place, evalhpc: Command, words: list[str], code: int, part: str
) -> None:
    """Unknown names say what comes close, values of the wrong type what is expected."""
    assert_clear(submit(place, evalhpc, *words), code, part)


SITES = {
    "keys": ("name: keys\nspeed: 1\nslurm: {partion: x}\n", "partition"),
    "types": ("name: types\nrun: {shards: many}\n", "run.shards"),
    "yaml": ("name: yaml\n  bad: [1\n", ":2:"),
    "twice": ("name: twice\nname: twice\n", "stands twice"),
    "empty": ("", "empty"),
    "list": ("- a\n", "`key: value`"),
    "circle": ("name: circle\nextends: circle\n", "extends"),
}


@pytest.mark.parametrize("name", SITES)
def test_site_files_that_do_not_validate(
    place: Place, evalhpc: Command, tmp_path: Path, name: str
) -> None:
    """The message has the file and the key or line."""
    text, part = SITES[name]
    path = tmp_path / f"{name}.yaml"
    path.write_text(text)
    assert_clear(submit(place, evalhpc, "--site", path), 3, part, path.name)


SUITES: dict[str, tuple[str, int, str]] = {
    "harness": ("benchmarks: [{name: a, harness: lmeval, task: x}]", 2, "meant 'lm-eval'"),
    "key": ("benchmarks: [{name: a, harness: lm-eval, task: x, fewshot: 1}]", 3, "'fewshot'"),
    "none": ("benchmarks: []", 3, "must not be empty"),
    "name": ("benchmarks: [{name: ../a, harness: lm-eval, task: x}]", 3, "benchmarks[0].name"),
    "twice": (
        "benchmarks: [{name: a, harness: lm-eval, task: x}, {name: a, harness: lm-eval, task: y}]",
        3,
        "'a'",
    ),
    "run": ("run: {shard: 2}\nbenchmarks: [{name: a, harness: lm-eval, task: x}]", 3, "'shards'"),
}


@pytest.mark.parametrize("name", SUITES)
def test_suite_files_that_do_not_validate(
    place: Place, evalhpc: Command, tmp_path: Path, name: str
) -> None:
    """Unknown harnesses and keys, bad and repeated names."""
    text, code, part = SUITES[name]
    path = tmp_path / f"{name}.yaml"
    path.write_text(f"name: {name}\n{text}\n")
    assert_clear(submit(place, evalhpc, "--suite", path), code, part)


def _half_written(folder: Path) -> None:
    write_hf(folder, shards=3)
    (folder / "model-00002-of-00003.safetensors").unlink()


def _cut(folder: Path) -> None:
    path = write_hf(folder) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])


def _zero(folder: Path) -> None:
    (write_hf(folder) / "model.safetensors").write_bytes(b"")


def _with(name: str, content: bytes) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        folder.mkdir()
        (folder / name).write_bytes(content)

    return make


MODELS: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda folder: None, "no model"),
    "empty": (lambda folder: folder.mkdir(), "is empty"),
    "half-written": (_half_written, "model-00002-of-00003.safetensors"),
    "cut": (_cut, "cut short"),
    "zero": (_zero, "empty files: model.safetensors"),
    "nemo": (_with("model.nemo", b"x"), "NeMo 1"),
    "unknown": (_with("readme.txt", b"hello"), "known format"),
    "download": (_with("model.safetensors.part", b"x"), "download"),
    "link": (lambda folder: folder.symlink_to("nowhere"), "link to nothing"),
    "gguf": (_with("broken.gguf", b"GGUX" + bytes(60)), "GGUF"),
}


@pytest.mark.parametrize("name", MODELS)
def test_checkpoints_that_are_not_whole(
    place: Place, evalhpc: Command, tmp_path: Path, name: str
) -> None:
    """Exit code 4 before anything starts, from the checkpoint's files alone."""
    make, part = MODELS[name]
    make(tmp_path / name)
    assert_clear(submit(place, evalhpc, "--model", tmp_path / name), 4, part)


def test_a_checkpoint_that_is_still_written_is_warned_of(
    place: Place, evalhpc: Command, tmp_path: Path
) -> None:
    """On stderr and in the provenance; the run goes on."""
    model = write_hf(tmp_path / "fresh", tokenizer=False)
    said = evalhpc(
        "render", "--site", place.site, "--model", model, "--tasks", "lm-eval/ok",
        "--run-dir", tmp_path / "run",
    )  # fmt: skip
    assert said.code == 0
    assert "warning: model.safetensors changed within the last 10 s" in said.err
    provenance = json.loads((tmp_path / "run" / "provenance.json").read_text())
    assert any("still being written" in warning for warning in provenance["warnings"])


@pytest.fixture(scope="module")
def servers() -> Iterator[Callable[[str], str]]:
    """Starts a quick server of a mode in a thread; returns its base URL."""
    started: list[ThreadingHTTPServer] = []

    def start(mode: str) -> str:
        token = "right" if mode == "locked" else None
        handler = type("H", (Handler,), {"model": "m", "mode": mode, "token": token})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        started.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_address[1]}/v1"

    yield start
    for server in started:
        server.shutdown()
        server.server_close()


def test_endpoints_that_cannot_be_used(
    place: Place,
    evalhpc: Command,
    servers: Callable[[str], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Refused, denied, another model, no OpenAI server: all before anything is submitted."""
    monkeypatch.setenv("MY_KEY", "wrong")
    good, locked = servers("ok"), servers("locked")
    closed = "http://127.0.0.1:9/v1"
    asked = [
        ([closed, "--model-id", "m"], "Connection refused"),
        ([servers("html"), "--model-id", "m"], "not OpenAI-compatible"),
        ([good, "--model-id", "n"], "perhaps you meant --model-id m"),
        ([locked, "--model-id", "m"], "--api-key-env"),
        ([locked, "--model-id", "m", "--api-key-env", "MY_KEY"], "correct the value of MY_KEY"),
    ]
    for words, part in asked:
        assert_clear(submit(place, evalhpc, "--endpoint", *words), 7, part)
    said = submit(
        place, evalhpc, "--endpoint", good, "--model-id", "m", "--api-key-env", "sk-123 456"
    )
    assert_clear(said, 2, "the key itself was given")
    assert "sk-123" not in said.err


def test_run_directories_that_cannot_be_used(
    place: Place, evalhpc: Command, tmp_path: Path
) -> None:
    """A file, a folder with other files, a folder below a file, another run; none is touched."""
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "notes").write_text("mine")
    for name, part in (
        ("file", "no run directory"),
        ("folder", "no run directory"),
        ("file/below", "not a folder"),
    ):
        assert_clear(submit(place, evalhpc, "--run-dir", tmp_path / name), 6, part)
    assert (tmp_path / "file").read_text() == "mine"
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["notes"]
    said = submit(place, evalhpc, "--run-dir", tmp_path / "new", "--set", "environment.setup=[if]")
    assert_clear(said, 3, "bash cannot parse")
    assert not (tmp_path / "new").exists()
    (tmp_path / "empty").mkdir()
    submit(place, evalhpc, "--run-dir", tmp_path / "empty", "--set", "environment.setup=[if]")
    assert list((tmp_path / "empty").iterdir()) == []
    assert_clear(submit(place, evalhpc, "--run-dir", tmp_path / "%j"), 2, "'%j'")


def test_run_directories_that_others_may_change(
    place: Place, evalhpc: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder that everybody may write to, or another user's, never gets our scripts."""
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o777)
    said = submit(place, evalhpc, "--run-dir", tmp_path / "shared")
    assert_clear(said, 6, "everybody may write", "chmod o-w")
    (tmp_path / "theirs").mkdir()
    own = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: own + 1)
    assert_clear(submit(place, evalhpc, "--run-dir", tmp_path / "theirs"), 6, "another user's")
    assert [list(folder.iterdir()) for folder in tmp_path.iterdir()] == [[], []]


#: What a name may hold, and still be a name.
NAMES = [
    "a b", "it's", 'say "hi"', "two\nlines", "$(touch gone)", "`touch gone`", "日本 é", "-rf",
    "--help", "a;b&c|d>e", "back\\slash", "é" * 127, "a" * 255, "a,b", "a=b", "{{ 7*7 }}",
    "x\x1b[2J", "a#b", "~", "*", " ", "a\tb", "a\rb", "\u202egnp", "\u2028", "\x85", "..a",
    "'\"$\\`\n",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_names_of_any_text_are_used_as_they_are(
    place: Place, evalhpc: Command, tmp_path: Path, name: str
) -> None:
    """As model, model id, run directory and folder of tasks: each stands in the run as given."""
    for kind in ("model", "run", "tasks"):
        (tmp_path / kind).mkdir()
    model, run, tasks = (tmp_path / kind / name for kind in ("model", "run", "tasks"))
    shutil.copytree(place.model, model)
    tasks.mkdir()
    (tasks / name).write_text("")
    words = ["--site", place.site, "--model", model, "--tasks", "lm-eval/ok", "--run-dir", run]
    identified = ["--model-id", name] if name.strip() else []
    quoted = f"params.include_path={json.dumps(str(tasks))}"  # as YAML: blanks at its end count
    said = evalhpc("render", *words, *identified, "--set", quoted)
    assert said.code == 0, said.err
    spec = read_run(run / "run.yaml")
    assert spec.model.path == str(model)
    assert spec.model.model_id == name or not identified
    assert (run / "tasks" / "ok" / name).exists()
    assert [path.name for path in (tmp_path / "run").iterdir()] == [name]
    assert not (place.folder / "gone").exists()


@pytest.mark.parametrize("name", ["a b", "..", "a/b", "$(touch gone)", "é", "-a", "a\n", "a" * 101])
def test_names_of_suites_and_runs_are_plain(
    place: Place, evalhpc: Command, tmp_path: Path, name: str
) -> None:
    """They become parts of job names and URLs, so any other is refused before anything is made."""
    suite = tmp_path / "plain.yaml"
    benchmarks = "benchmarks: [{name: a, harness: lm-eval, task: x}]\n"
    suite.write_text(f"name: {json.dumps(name)}\n{benchmarks}")
    assert_clear(submit(place, evalhpc, "--suite", suite), 3, "name")
    assert submit(place, evalhpc, f"--name={name}").code == 2
    if "/" not in name:
        other = tmp_path / f"{name}.yaml"
        other.write_text(benchmarks)
        assert_clear(submit(place, evalhpc, "--suite", other), 3, "name")


@pytest.mark.parametrize(
    "words", [["--model"], ["--run-dir"], ["--site"], ["--suite"], ["--model-id"], ["--set"]]
)
def test_words_that_are_no_text(place: Place, evalhpc: Command, words: list[str]) -> None:
    """Bytes that are not UTF-8 could stand in no script, wherever they are given."""
    said = evalhpc("render", *words, "params.include_path=\udcff/x.yaml")
    assert_clear(said, 2, "is not UTF-8", "\\udcff")


def test_names_that_no_folder_can_have(place: Place, evalhpc: Command, tmp_path: Path) -> None:
    """Too long for the file system, above its own folder, a link to itself: said before a write."""
    (tmp_path / "loop").symlink_to("loop")
    for name, code in (("a" * 256, 6), ("b/" + "a" * 256, 6), ("..", 6), ("loop", 6)):
        assert_clear(submit(place, evalhpc, "--run-dir", tmp_path / name), code)
    assert_clear(submit(place, evalhpc, "--model", tmp_path / "loop"), 4, "link")
    for option in ("--site", "--suite"):
        (tmp_path / "loop.yaml").unlink(missing_ok=True)
        (tmp_path / "loop.yaml").symlink_to("loop.yaml")
        assert_clear(submit(place, evalhpc, option, tmp_path / "loop.yaml"), 3, "no such file")
    suite = tmp_path / "suite.yaml"
    suite.write_text(
        "benchmarks: [{name: a, harness: lm-eval, task: ok, params: {include_path: loop}}]\n"
    )
    assert_clear(submit(place, evalhpc, "--suite", suite), 2, "include_path is not a folder")


def test_tasks_that_hold_the_run_itself(place: Place, evalhpc: Command, tmp_path: Path) -> None:
    """A copy of a folder into itself would have no end."""
    (tmp_path / "link").symlink_to(tmp_path)
    for folder in (tmp_path, tmp_path / "link"):
        said = submit(
            place, evalhpc, "--run-dir", tmp_path / "run", "--set", f"params.include_path={folder}"
        )
        assert_clear(said, 2, "holds the run directory")
        assert not (tmp_path / "run").exists()
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff")).write_text("")
    said = submit(place, evalhpc, "--set", f"params.include_path={tmp_path}")
    assert_clear(said, 2, "not UTF-8")


@pytest.mark.parametrize("option", ["--site", "--suite"])
@pytest.mark.parametrize(
    "kind", ["pipe", "device", "folder", "huge", "nul", "latin", "bomb", "deep"]
)
def test_configuration_that_is_no_text_of_ours(
    place: Place, evalhpc: Command, tmp_path: Path, option: str, kind: str
) -> None:
    """Nobody waits for a pipe or reads a device; what is huge, or grows when read, is refused."""
    path = tmp_path / "x.yaml"
    bomb = b"a: &a [x,x,x,x,x,x,x,x,x]\n" + b"".join(
        b"%c: &%c [%b]\n" % (c, c, b",".join([b"*%c" % (c - 1)] * 9)) for c in range(98, 112)
    )
    contents = {
        "nul": b"name: x\0\n",
        "latin": b"name: \xe9\n",
        "bomb": bomb,
        "deep": b"[" * 90_000,
    }
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    elif kind == "huge":
        with path.open("wb") as file:
            file.truncate(100 << 20)
    else:
        path.write_bytes(contents[kind])
    assert_clear(submit(place, evalhpc, option, path), 3, "x.yaml")


def test_slurm_that_is_not_there(
    place: Place, evalhpc: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 5 with the way out, and no run directory; a run's scores need no Slurm."""
    (tmp_path / "bash").symlink_to(shutil.which("bash") or "/bin/bash")
    monkeypatch.setenv("PATH", str(tmp_path))
    said = submit(place, evalhpc, "--site", "devcluster")
    assert_clear(said, 5, "sbatch", "--site local")


@pytest.mark.parametrize(
    "verb", ["status", "results", "verify", "merge", "resume", "cancel", "logs"]
)
def test_what_is_no_run(place: Place, evalhpc: Command, tmp_path: Path, verb: str) -> None:
    """Every verb says so: an unknown id, an empty folder, a file, no word at all."""
    (tmp_path / "file").write_text("")
    assert_clear(evalhpc(verb, "nosuchrun"), 2, "there is no run 'nosuchrun'", "evalhpc ls runs")
    assert_clear(evalhpc(verb, tmp_path), 6, "is not a run directory")
    assert_clear(evalhpc(verb, tmp_path / "file"), 6)
    assert_clear(evalhpc(verb, ""), 2)
    assert_clear(evalhpc(verb), 2, "RUN")


def test_a_rendered_run_has_no_score(place: Place, evalhpc: Command, tmp_path: Path) -> None:
    """results and verify exit 9 and print no score; merge has nothing to merge."""
    run = tmp_path / "run"
    words = ("--site", place.site, "--model", place.model, "--tasks", "lm-eval/ok")
    assert evalhpc("render", *words, "--run-dir", run).code == 0
    for verb in ("results", "verify"):
        said = evalhpc(verb, run)
        assert_clear(said, 9, "there is no score yet: the run is rendered")
        assert said.out == ""
    assert_clear(evalhpc("merge", run), 6, "nothing to merge")
    assert "no log yet" in evalhpc("logs", run).err
    assert "rendered" in evalhpc("status", run).out


# --- whole runs, all at the same time because each mostly waits for Python to start ---------------

#: name → (task, server mode, further words, exit code, parts of the message)
RUNS: dict[str, tuple[str, str, list[str], int, list[str]]] = {
    "good": ("ok", "", ["--shards", "2", "--set", "run.unit_size=1"], 0, []),
    "fails": ("fails", "", [], 8, ["exited with code 3", "Tasks not found", "--kind harness"]),
    "silent": ("silent", "", [], 8, ["asked nothing"]),
    "absent": ("absent", "", [], 8, ["not installed", "evalhpc ls harnesses"]),
    "hangs": ("hangs", "", ["--set", "run.harness_timeout=1"], 8, ["ran out of time"]),
    "restless": ("restless", "", [], 10, ["does not settle"]),
    "endless": (
        "turns", "", ["--set", "run.max_rounds=1"], 9,
        ["still has new questions (8 of turns)", "more turns than run.max_rounds"],
    ),
    "tricks": ("tricks", "", [], 0, []),
    "linked": ("linked", "", [], 8, ["no file of its own"]),
    "hoards": ("hoards", "", [], 8, ["it left more than 16 GiB", "--set run.max_output"]),
    "asks": (
        "asks", "", ["--set", "run.max_output=0.01"], 8,
        ["questions of more than 0.01 GiB", "--set run.max_output"],
    ),
    "packs": (
        "packs", "", ["--set", "run.max_output=0.03"], 8,
        ["unpack to more than 32212254 bytes", "--set run.max_output"],
    ),
    "die": ("ok", "die", [], 7, ["OutOfMemoryError", "no score", "server-1-0.log"]),
    "hang": ("ok", "hang", ["--set", "run.ready_timeout=1"], 7, ["run.ready_timeout"]),
    "deaf": ("loglikelihood", "deaf", [], 7, ["ignores `echo`", "generation tasks"]),
    "broken": ("ok", "broken", [], 9, ["CUDA error", "no score"]),
    "fragile": ("ok", "fragile", ["--shards", "2", "--set", "run.unit_size=1"], 0, []),
}  # fmt: skip
AT_ONCE = 4
#: Names of the run `good` and of its model: none of this may reach a shell.
ODD = "a b'c\"d $(touch gone) `id`\n%%é;#"


@pytest.fixture(scope="module")
def ended(place: Place, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Said]]:
    """Every run of RUNS with `--wait`, and what it ended with."""
    folder = tmp_path_factory.mktemp("whole")
    waiting, running = list(RUNS), dict[str, subprocess.Popen[str]]()
    done: dict[str, tuple[Path, Said]] = {}
    deadline = time.monotonic() + 500
    while waiting or running:
        while waiting and len(running) < AT_ONCE:
            name = waiting.pop()
            running[name] = _start(place, _run_dir(folder, name), name)
        for name, process in list(running.items()):
            if process.poll() is not None:
                out, err = process.communicate()
                done[name] = (_run_dir(folder, name), Said(process.returncode, out, err))
                del running[name]
        assert time.monotonic() < deadline, f"{list(running)} do not end"
        time.sleep(0.05)
    return done


def _run_dir(folder: Path, name: str) -> Path:
    return folder / "odd" / ODD if name == "good" else folder / name


def _start(place: Place, run: Path, name: str) -> subprocess.Popen[str]:
    task, mode, words, _, _ = RUNS[name]
    if mode:
        words = [*words, "--set", f"deploy.extra_args=[{mode}]"]
    model = place.folder / ODD if name == "good" else place.model
    command: list[object] = [
        EVALHPC, "submit", "--site", place.site, "--model", model, "--tasks",
        f"lm-eval/{task}", "--run-dir", run, "--shards", 1, *words, "--wait",
    ]  # fmt: skip
    return subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize("name", [name for name, run in RUNS.items() if run[3]])
def test_runs_that_fail(ended: dict[str, tuple[Path, Said]], evalhpc: Command, name: str) -> None:
    """The reason in one message, at the end of --wait, in status and in results; no process."""
    run, said = ended[name]
    _, _, _, code, parts = RUNS[name]
    assert_clear(said, code, *parts)
    assert "length" not in said.out
    assert processes_of(run) == []
    assert parts[0] in evalhpc("status", run).out
    results = evalhpc("results", run)
    assert_clear(results, 9, "there is no score", parts[0])
    assert results.out == ""


def test_a_harness_publishes_its_own_files_only(ended: dict[str, tuple[Path, Said]]) -> None:
    """Neither what it links to outside of its folder, nor pipes and devices; nobody waits."""
    run, said = ended["tricks"]
    assert said.code == 0, said.err
    published = {path.name for path in (run / "results" / "tricks").iterdir()}
    own = {"own", "two\nlines $(touch gone)"}
    assert {name for name in published if not name.startswith(("results_", "samples_"))} == own
    files = json.loads((run / "certificate.json").read_text())["files"]
    assert {f"tricks/{name}" for name in own} <= set(files)


@pytest.mark.parametrize("name", ["good", "fragile", "tricks"])
def test_runs_that_complete(
    ended: dict[str, tuple[Path, Said]], evalhpc: Command, name: str
) -> None:
    """A replica that dies in the middle costs nothing: others, or the next round, finish."""
    run, said = ended[name]
    assert said.code == 0, said.err
    assert "length" in said.out
    assert evalhpc("verify", run).code == 0
    assert processes_of(run) == []
    for verb in ("resume", "cancel"):
        assert_clear(evalhpc(verb, run), 2, "the run is complete")


def test_an_odd_name_of_the_run_directory_reaches_no_shell(
    ended: dict[str, tuple[Path, Said]],
) -> None:
    """Spaces, quotes, `$()`, a newline and Unicode: the run completed, and made nothing else."""
    run, said = ended["good"]
    assert said.code == 0
    assert [path.name for path in run.parent.iterdir()] == [ODD]
    assert list(Path.cwd().glob("gone")) == []


def _edit(path: Path, old: bytes, new: bytes) -> None:
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new, 1))


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 4
    path.write_bytes(content)


def _truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _journal(run: Path) -> Path:
    return max((run / "journals").glob("*.journal"), key=lambda path: path.stat().st_size)


DAMAGE: dict[str, tuple[Callable[[Path], object], dict[str, int], str]] = {
    "run.yaml edited": (
        lambda run: _edit(run / "run.yaml", b"seed: 1234", b"seed: 1235"),
        dict.fromkeys(("status", "results", "verify", "merge", "resume", "cancel", "logs"), 10),
        "does not match its hash",
    ),
    "run.yaml cut": (lambda run: (run / "run.yaml").write_text(""), {"status": 3}, "run.yaml"),
    "results edited": (
        lambda run: _edit(run / "results" / "results.yml", b"length", b"strength"),
        {"results": 10, "verify": 10},
        "results.yml",
    ),
    "results removed": (
        lambda run: (run / "results" / "results.yml").unlink(),
        {"results": 10, "verify": 10},
        "results.yml",
    ),
    "journal removed": (
        lambda run: _journal(run).unlink(), {"verify": 10}, "missing from the journals"
    ),
    "journal flipped": (
        lambda run: _flip(_journal(run)), {"verify": 10}, "missing from the journals"
    ),
    "plan cut": (
        lambda run: _truncate(run / "plan" / "1" / "requests.frames"),
        {"verify": 10, "merge": 10},
        "plan",
    ),
    "units cut": (
        lambda run: _truncate(run / "plan" / "1" / "units.json"), {"status": 10}, "is damaged"
    ),
    "certificate cut": (
        lambda run: _truncate(run / "certificate.json"),
        {"results": 10, "verify": 10},
        "is damaged",
    ),
    "jobs edited": (
        lambda run: (run / "jobs.jsonl").write_text('{"kind": 4}\n'), {"status": 10}, "jobs.jsonl"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_runs(
    ended: dict[str, tuple[Path, Said]], evalhpc: Command, tmp_path: Path, name: str
) -> None:
    """The damaged file is named, by every verb that needs it."""
    damage, verbs, part = DAMAGE[name]
    run = tmp_path / "run"
    shutil.copytree(ended["good"][0], run)
    damage(run)
    for verb, code in verbs.items():
        said = evalhpc(verb, run)
        assert_clear(said, code, part)
        assert said.out == ""


def test_who_only_looks_at_a_run_opens_no_store(
    ended: dict[str, tuple[Path, Said]], evalhpc: Command, tmp_path: Path
) -> None:
    """HDF5 gets no bytes of a run directory that somebody sent."""
    run = tmp_path / "run"
    shutil.copytree(ended["good"][0], run)
    (run / "store.h5").unlink()
    os.mkfifo(run / "store.h5")  # who opens it waits for ever
    for verb in ("status", "results", "verify", "logs"):
        assert evalhpc(verb, run).code == 0


@pytest.mark.parametrize("what", ["store", "journal"])
def test_answers_of_another_run_are_refused(
    ended: dict[str, tuple[Path, Said]], evalhpc: Command, tmp_path: Path, what: str
) -> None:
    """A store or journal that was copied from another run is told by the run's hash."""
    run, other = tmp_path / "run", ended["fragile"][0]
    shutil.copytree(ended["good"][0], run)
    if what == "store":
        shutil.copy(other / "store.h5", run / "store.h5")
        verbs = ["merge"]
    else:
        shutil.copy(_journal(other), run / "journals" / "0001-00007-000.journal")
        verbs = ["merge", "verify"]
    for verb in verbs:
        assert_clear(evalhpc(verb, run), 10, "another run", str(run))


def test_a_harness_that_does_not_settle_is_shown_its_questions(
    ended: dict[str, tuple[Path, Said]],
) -> None:
    """The closest pair where it parts, in the message, and whole in a file that it names."""
    run, said = ended["restless"]
    lines = said.err.splitlines()
    shown = next(at for at, line in enumerate(lines) if line.startswith("  | pass 0: "))
    assert lines[shown + 1].startswith("  | pass 1: ")
    assert lines[shown + 2].strip(" |") == "^"
    path = run / "passes" / "1" / "restless" / "unsettled.txt"
    assert str(path) in said.err
    assert '"prompt": "0.' in path.read_text()


def test_an_incomplete_run_is_never_a_score(
    ended: dict[str, tuple[Path, Said]], evalhpc: Command, tmp_path: Path
) -> None:
    """Without its certificate a run has no score, though the numbers lie there."""
    run = tmp_path / "run"
    shutil.copytree(ended["good"][0], run)
    (run / "certificate.json").unlink()
    for verb in ("results", "verify"):
        said = evalhpc(verb, run)
        assert_clear(said, 9, "there is no score yet", "evalhpc status")
        assert said.out == ""
    assert_clear(evalhpc("resume", run), 2, "moved or copied from", str(ended["good"][0]))


def test_a_directory_that_holds_a_run_is_not_used_again(
    place: Place, evalhpc: Command, ended: dict[str, tuple[Path, Said]]
) -> None:
    """The same run, or another one, is refused with the command that looks at the first."""
    run, _ = ended["good"]
    assert_clear(submit(place, evalhpc, "--run-dir", run), 6, "submitted before", "evalhpc status")
    assert evalhpc("results", run).code == 0
