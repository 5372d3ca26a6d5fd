"""What the command line must not import before it knows what to do; wall time is no test."""

import json
import subprocess
import sys

import pytest

HEAVY = (
    {"asyncio", "concurrent", "http", "multiprocessing", "socket", "ssl", "subprocess"}
    | {"h5py", "httptools", "httpx", "jinja2", "numpy", "orjson", "pydantic", "rich", "submitit"}
    | {"tenacity", "uvloop", "yaml"}
    | {"lm_eval", "torch", "transformers", "xllamacpp"}
)
#: Runs the command in this very process, and says on stderr what it has imported.
PROBE = """
import json, sys
from evalhpc.cli.main import cli
try:
    cli(sys.argv[1:], prog_name="evalhpc")
finally:
    json.dump(sorted({name.partition(".")[0] for name in sys.modules}), sys.stderr)
"""


def imported_by(*arguments: str) -> frozenset[str]:
    """Top-level names that `evalhpc ARGUMENTS` has imported when it ends."""
    command = [sys.executable, "-c", PROBE, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    assert "Usage: evalhpc" in done.stdout
    return frozenset(json.loads(done.stderr))


@pytest.mark.parametrize(
    "arguments",
    [
        ("--help",),
        ("submit", "--help"),
        ("render", "--help"),
        ("status", "--help"),
        ("results", "--help"),
        ("ls", "--help"),
        ("node", "shard", "--help"),
    ],
    ids=" ".join,
)
def test_help_needs_nothing_but_click(arguments: tuple[str, ...]) -> None:
    """Asking for help imports click and the standard library's small modules only."""
    assert imported_by(*arguments) & HEAVY == set()


def test_probe_sees_imports() -> None:
    """The other tests are worth something: the probe does notice a heavy module."""
    done = subprocess.run(
        [sys.executable, "-c", f"import numpy\n{PROBE}", "--help"],
        capture_output=True, text=True, timeout=300, check=True,
    )  # fmt: skip
    assert "numpy" in json.loads(done.stderr)
