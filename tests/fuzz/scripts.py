"""Targets: any text in any field of a run; its scripts are run, and say only what they may.

Each script ends in a program, for which a stub stands that writes down its words and its
environment. A run with plain words in the fields shows where each goes; with hostile texts in the
same fields the words must be the same ones with the texts in their places, byte for byte. Nothing
else may have run: a `touch` of the texts would be seen, and so would a file where they work.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from pydantic import ValidationError

from evalhpc.config.template_files import load_sources
from evalhpc.core.quoting import shell_word
from evalhpc.core.rendering import render_run
from evalhpc.errors import ConfigError
from tests.factories import make_spec
from tests.fuzz.bytes_of import texts, wild_texts
from tests.fuzz.target import Target, scratch

_SOURCES = load_sources(None)
#: Programs that the scripts end in, and those that a hostile text would run.
_STUBS = ("python3", "vllm", "srun", "inspect", "nemo-evaluator", "lucebench", "trtllm-serve")
_STUB = """\
#!/bin/bash
# One file a call: the words, then the environment.
record=$FUZZ_RECORD/$FUZZ_SCRIPT
printf '%s\\0' "$@" >"$record.words"
if [[ ${1-} == run_eval ]]; then cp "$3" "$record.config"; fi
exec /usr/bin/env -0 >"$record.environment"
"""
_MKTEMP = '#!/bin/bash\nmkdir -p "$TMPDIR/scratch" && echo "$TMPDIR/scratch"\n'
_TOUCH = '#!/bin/bash\n: >"$FUZZ_RECORD/CANARY"\n'
_RUN = """\
cd "$1" || exit 9
for script in "$2"/*; do
  export FUZZ_SCRIPT="${script##*/}"
  (bash "$script" </dev/null >/dev/null 2>"$FUZZ_RECORD/$FUZZ_SCRIPT.errors")
  echo $? >"$FUZZ_RECORD/$FUZZ_SCRIPT.code"
done
"""
#: Variables that differ from call to call, or that bash keeps for itself.
_VOLATILE = frozenset({"_", "ADAPTER_PORT", "HF_DATASETS_CACHE", "XDG_DATA_HOME", "XDG_CACHE_HOME",
                       "EVALHPC_ENVIRONMENT", "FUZZ_RECORD", "PWD", "OLDPWD", "SHLVL"})  # fmt: skip
#: Fields of a run that take any text; those of sbatch, text without control characters.
_FIELDS = ("python", "path", "model_id", "tokenizer", "word", "other", "site", "shell", "mount",
           "target", "image", "task", "argument", "name", "option", "node", "command")  # fmt: skip
_SBATCH = ("account", "partition", "qos", "constraint", "reservation", "comment", "extra")


@dataclass(frozen=True)
class Ran:
    """What one script came to: exit code, words of its program, and what that was given."""

    code: str
    words: list[str]
    environment: dict[str, str]
    config: str = ""


@cache
def _bench() -> Path:
    """A folder with the stubs, where all runs take place."""
    folder = scratch("scripts")
    (folder / "bin").mkdir()
    for name in _STUBS:
        _write_program(folder / "bin" / name, _STUB)
    _write_program(folder / "bin" / "touch", _TOUCH)
    _write_program(folder / "bin" / "mktemp", _MKTEMP)
    return folder


def _write_program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


@cache
def _jail() -> tuple[str, ...]:
    """What keeps a script without network, and off every file but the bench's; where it can."""
    bench = str(_bench())
    words = ("bwrap", "--ro-bind", "/", "/", "--dev", "/dev", "--bind", bench, bench,
             "--unshare-net", "--unshare-pid", "--die-with-parent", "--")  # fmt: skip
    if shutil.which("bwrap") is None:
        return ()
    works = subprocess.run([*words, "true"], capture_output=True, check=False).returncode == 0
    return words if works else ()


# --- runs -----------------------------------------------------------------------------------------


def _file_name(field: str, text: str) -> str:
    """`text` as the name of a file."""
    return f"{field}-{text}".replace("/", "_")[:80]


def _spec_of(kind: str, v: Mapping[str, str], sandbox: Path) -> Any:
    """The run of one kind whose fields hold these texts."""
    container = {
        "bwrap": "bwrap", "pyxis": "pyxis", "apptainer": "apptainer", "charliecloud": "charliecloud"
    }.get(kind, "none")  # fmt: skip
    image = f"/images/{v['image']}" if container != "none" else None
    served = {"endpoint": "endpoint", "vllm": "vllm", "sglang": "sglang", "nim": "nim",
              "generic": "generic", "llamacpp": "llamacpp"}.get(kind, "hf")  # fmt: skip
    model = {"model_id": v["model_id"], "path": f"/models/m{v['path']}", "url": None,
             "format": "gguf" if served == "llamacpp" else "hf",
             "tokenizer": f"/models/t{v['tokenizer']}"}  # fmt: skip
    deployment: dict[str, Any] = {"kind": served, "image": image, "extra_args": [v["word"], "-x"]}
    if served == "endpoint":
        model = {"model_id": v["model_id"], "format": "endpoint", "path": None,
                 "url": "http://127.0.0.1:8000/v1"}  # fmt: skip
        deployment = {"kind": "endpoint"}
    if served == "nim":
        deployment["command"] = str(_bench() / "bin" / "vllm")
    if served == "generic":
        deployment["command"] = 'exec vllm "$EVALHPC_MODEL" "$@"'
    harness = (
        kind if kind in ("inspect-ai", "lucebench", "nemo-evaluator", "command") else "lm-eval"
    )
    task = f"lm-evaluation-harness.{v['task']}" if harness == "nemo-evaluator" else f"t{v['task']}"
    if harness == "command":
        task = "vllm"
    python = str(sandbox / _file_name("python", v["python"]))
    return make_spec(
        model=model,
        deployment=deployment,
        python=python,
        site={
            "slurm": {name: v[name] for name in _SBATCH[:-1]} | {"extra": [f"--x={v['extra']}"]},
            "environment": {"variables": {"OF_SITE": v["site"]}},
            "container": {
                "runtime": container,
                "mounts": [f"/from{v['mount']}:/to{v['target']}:ro"] if image else [],
                "options": [v["option"]],
                "node_dir": v["node"],
            },
        },
        environment={"OF_SHELL": v["shell"]},
        harnesses={harness: {"name": harness, "template": f"{harness}.sh.j2", "results": harness,
                             "image": image if container != "none" else None,
                             "python": python}},
        benchmarks=[{
            "name": "b", "harness": harness, "task": task,
            "params": {"extra_args": [v["other"], "--y"], "model_args": {"k": v["argument"]},
                       "include_path": "/own", "temperature": 0.5, "endpoint": "completions"},
        }],
    )  # fmt: skip


_KINDS = ("endpoint", "vllm", "sglang", "nim", "generic", "llamacpp", "hf", "bwrap", "pyxis",
          "apptainer", "charliecloud", "inspect-ai", "lucebench", "nemo-evaluator",
          "command")  # fmt: skip


def _run_scripts(kind: str, values: Mapping[str, str]) -> dict[str, Ran]:
    """Script → what came of it; ConfigError where the run is refused."""
    sandbox = _bench() / "run"
    shutil.rmtree(sandbox, ignore_errors=True)
    run, work, scripts, record, out = (
        sandbox / name
        for name in (_file_name("name", values["name"]), "work", "scripts", "record", "out")
    )
    rendered = render_run(_spec_of(kind, values, sandbox), str(run), _SOURCES)
    for folder in (run / "tasks" / "b", work, scripts, record, sandbox / "tmp"):
        folder.mkdir(parents=True)
    _write_program(sandbox / _file_name("python", values["python"]), _STUB)
    for name, text in rendered.items():
        (scripts / name).write_text(text, encoding="utf-8")
    environment = {
        "PATH": f"{_bench() / 'bin'}:/usr/bin:/bin", "HOME": str(work), "LANG": "C.UTF-8",
        "TMPDIR": str(sandbox / "tmp"), "FUZZ_RECORD": str(record),
        "EVALHPC_HOST": "127.0.0.1", "EVALHPC_PORT": "8000",
        "EVALHPC_BASE_URL": "http://127.0.0.1:9/v1", "EVALHPC_OUTPUT_DIR": str(out),
    }  # fmt: skip
    subprocess.run(
        [*_jail(), "bash", "-c", _RUN, "run", str(work), str(scripts)],
        env=environment, check=True, timeout=60,
    )  # fmt: skip
    assert not (record / "CANARY").exists(), "an injected command ran"
    assert list(work.iterdir()) == [], f"something wrote {list(work.iterdir())}"
    made = {
        run.name,
        "work",
        "scripts",
        "record",
        "out",
        "tmp",
        _file_name("python", values["python"]),
    }
    assert {path.name for path in sandbox.iterdir()} <= made
    return {name: _ran(record / name) for name in rendered}


def _ran(record: Path) -> Ran:
    def read(suffix: str) -> str:
        path = record.with_name(f"{record.name}.{suffix}")
        return path.read_bytes().decode("utf-8", "surrogateescape") if path.exists() else ""

    pairs = (line.partition("=") for line in read("environment").split("\0")[:-1])
    environment = {name: value for name, _, value in pairs if name not in _VOLATILE}
    return Ran(read("code").strip(), read("words").split("\0")[:-1], environment, read("config"))


_PLAIN = {name: f"zq{number:02d}plain" for number, name in enumerate((*_FIELDS, *_SBATCH))}


@cache
def _plain_run(kind: str) -> dict[str, Ran]:
    ran = _run_scripts(kind, _PLAIN)
    assert all(script.code == "0" and script.words for script in ran.values()), ran
    return ran


def _placed(text: str, values: Mapping[str, str]) -> str:
    """A plain run's text, with the hostile texts in their places."""
    for name, plain in _PLAIN.items():
        value = values[name]
        if name in ("python", "name"):
            text = text.replace(_file_name(name, plain), _file_name(name, value))
        text = text.replace(plain, value)
    return text


def _same_word(plain: str, found: str, values: Mapping[str, str]) -> bool:
    if plain.startswith("{"):
        return bool(_placed_json(json.loads(plain), values) == json.loads(found))
    return _placed(plain, values) == found


def _placed_json(value: Any, values: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {name: _placed_json(item, values) for name, item in value.items()}
    if isinstance(value, list):
        return [_placed_json(item, values) for item in value]
    return _placed(value, values) if isinstance(value, str) else value


def _scripts(made: tuple[str, dict[str, str]]) -> None:
    """The scripts of a run with these texts say nothing else than with plain words."""
    kind, values = made
    plain = _plain_run(kind)
    try:
        ran = _run_scripts(kind, values)
    except (ConfigError, ValidationError):
        return
    for name, script in ran.items():
        expected = plain[name]
        assert script.code == "0", (name, script)
        assert len(script.words) == len(expected.words), (name, script.words)
        for word, found in zip(expected.words, script.words, strict=True):
            assert _same_word(word, found, values), (name, word, found)
        assert script.environment == {
            variable: _placed(value, values) for variable, value in expected.environment.items()
        }, name
        if expected.config:
            _check_config(json.loads(expected.config), json.loads(script.config), values)


def _check_config(plain: Any, found: Any, values: Mapping[str, str]) -> None:
    """A run configuration, whose `args` NeMo Evaluator hands to a shell."""
    before, after = (config["config"]["params"]["extra"].pop("args") for config in (plain, found))
    assert [_placed(word, values) for word in shlex.split(before)] == shlex.split(after)
    assert _placed_json(plain, values) == found


_one_line = texts.map(lambda text: "".join(char for char in text if char.isprintable()))
_any_values = st.fixed_dictionaries(
    {name: st.one_of(st.just(_PLAIN[name]), texts) for name in _FIELDS}
    | {name: st.one_of(st.just(_PLAIN[name]), _one_line) for name in _SBATCH}
)
_refused = st.fixed_dictionaries(dict.fromkeys((*_FIELDS, *_SBATCH), wild_texts))


# --- words ----------------------------------------------------------------------------------------


def _words(values: list[str]) -> None:
    """Bash reads each quoted text back, byte for byte, and runs nothing."""
    quoted = []
    for value in values:
        with suppress(ConfigError):
            quoted.append((value, shell_word(value)))
    work = _bench() / "words"
    work.mkdir(exist_ok=True)
    script = "printf '%s\\0' . " + " ".join(word for _, word in quoted)
    assert "\n" not in script
    done = subprocess.run(
        ["bash", "--norc", "-s"], input=script.encode(), capture_output=True, check=False, cwd=work,
        env={"PATH": f"{_bench() / 'bin'}:/usr/bin:/bin", "FUZZ_RECORD": str(work)}, timeout=60,
    )  # fmt: skip
    assert done.stdout == b"".join(os.fsencode(v) + b"\0" for v in [".", *(v for v, _ in quoted)])
    assert list(work.iterdir()) == []


TARGETS = [
    Target("scripts", st.tuples(st.sampled_from(_KINDS), _any_values), _scripts,
           weight=len(_PLAIN), share=0.6),
    Target("refused-scripts", st.tuples(st.sampled_from(_KINDS), _refused), _scripts, share=0.05),
    Target("words", st.lists(wild_texts, min_size=50, max_size=50), _words, weight=50),
]  # fmt: skip
