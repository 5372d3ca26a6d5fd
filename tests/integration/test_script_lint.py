"""Every golden script is good shell, and whatever a spec holds, bash reads it back verbatim."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from evalhpc.config.template_files import load_sources
from evalhpc.core.quoting import Words
from evalhpc.core.rendering import render_run
from evalhpc.core.template_environment import Templates
from evalhpc.errors import ConfigError
from evalhpc.workflow.submit.lint import lint
from tests.factories import make_spec
from tests.golden_variants import GOLDEN

SOURCES = load_sources(None)
any_text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30)
AWKWARD = [
    "$(touch broken)",
    "`id`",
    "'; exit 1; '",
    '"',
    "\\",
    "a\nb",
    "\r",
    "!",
    "~",
    "*",
    "",
    "☃",
]


def scripts() -> list[Path]:
    """Every golden script."""
    return sorted(path for path in GOLDEN.rglob("*") if path.suffix in (".sh", ".sbatch"))


def test_bash_parses_every_golden_script() -> None:
    """What is submitted has passed the same check."""
    lint(scripts())


def test_shellcheck_finds_nothing_in_golden_scripts() -> None:
    """Every site and variant, in one call."""
    # The one that scripts/install brings, before one of the machine's.
    places = f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}"
    shellcheck = shutil.which("shellcheck", path=places)
    if shellcheck is None:
        pytest.skip("shellcheck is not installed")
    # A site's setup lines may source files that are not here (SC1091), and a value may hold a
    # dollar sign that is meant literally (SC2016).
    command = [shellcheck, "--shell=bash", "--exclude=SC1091,SC2016", *map(str, scripts())]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_a_script_that_bash_cannot_parse_is_not_submitted(tmp_path: Path) -> None:
    """The error names the script, the line, and where such lines come from."""
    broken = tmp_path / "shard.sbatch"
    broken.write_text("echo ok\nif true; then\n")
    with pytest.raises(ConfigError, match=r"shard\.sbatch.*line 3"):
        lint([broken])


@settings(max_examples=100, deadline=None)
@given(st.lists(any_text, max_size=8))
@example(AWKWARD)
def test_bash_reads_rendered_words_back_verbatim(texts: list[str]) -> None:
    """One by one and as Words, among literal text, beside comments that hold the same text."""
    template = (
        "{% for text in texts %}\n# {{ text }}\nprintf '%s\\0' --x={{ text }}\n{% endfor %}\n"
        "{% if texts %}\nprintf '%s\\0' {{ words }}\n{% endif %}\n"
    )
    variables = {"texts": texts, "words": Words(texts)}
    script = Templates({"t": template}, names=variables).render("t", variables)
    done = subprocess.run(["bash", "-u"], input=script.encode(), capture_output=True, check=True)
    assert done.stderr == b""
    expected = [f"--x={text}" for text in texts] + texts
    assert done.stdout.decode().split("\0")[:-1] == expected


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(any_text)
@example("$(touch broken) `touch broken` '\"\n#\\")
def test_a_server_gets_what_the_spec_says(tmp_path: Path, text: str) -> None:
    """The whole server script, run by bash with a Python that only prints its arguments."""
    python = tmp_path / "python $x'"
    python.write_text('#!/bin/bash\nprintf \'%s\\0\' "$@" "$VALUE"\n')
    python.chmod(0o700)
    spec = make_spec(
        model={"model_id": text, "format": "hf", "path": f"/m/{text}", "url": None},
        deployment={"kind": "hf", "extra_args": [text]},
        site={"scheduler": "local", "environment": {"variables": {"VALUE": text}}},
        python=str(python),
    )
    script = tmp_path / "server.sh"
    script.write_bytes(render_run(spec, str(tmp_path), SOURCES)["server.sh"].encode())
    env = {"PATH": "/usr/bin:/bin", "EVALHPC_HOST": "127.0.0.1", "EVALHPC_PORT": "8000"}
    done = subprocess.run(["bash", str(script)], env=env, capture_output=True, check=True)
    assert done.stdout.decode().split("\0")[:-1] == [
        "-m", "evalhpc.deploy.hf_server", f"--model=/m/{text}", f"--model-id={text}",
        "--host=127.0.0.1", "--port=8000", "--threads=1", text, text,
    ]  # fmt: skip
    assert not list(tmp_path.rglob("broken"))


def test_setup_lines_run_once_in_a_run(tmp_path: Path) -> None:
    """A shard that starts the server script does not load the site's modules twice."""
    python = tmp_path / "python"
    python.write_text(f'#!/bin/bash\n[[ $* == *hf_server* ]] || bash "{tmp_path}/server.sh"\n')
    python.chmod(0o700)
    spec = make_spec(
        model={"model_id": "tiny", "format": "hf", "path": "/m", "url": None},
        deployment={"kind": "hf"},
        site={
            "scheduler": "local",
            "environment": {"setup": ['echo "loaded $UNSET_IS_FINE"', "export MODULE=1"]},
        },
        python=str(python),
    )
    for name, text in render_run(spec, str(tmp_path), SOURCES).items():
        (tmp_path / name).write_text(text)
    env = {"PATH": "/usr/bin:/bin", "EVALHPC_HOST": "127.0.0.1", "EVALHPC_PORT": "8000"}
    command = ["bash", str(tmp_path / "shard.sbatch"), "1"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    assert done.stdout == "loaded \n"
