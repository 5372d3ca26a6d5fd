"""What is left by a harness that was killed is bounded as well, before anything of it is read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from evalhpc.paths import RunPaths
from evalhpc.workflow.passes.redacting import redact_interrupted
from evalhpc.workflow.record.run import Run
from tests.factories import make_spec

SECRET = "hf_0123456789ABCDEF"


def _nest(folder: Path, count: int) -> None:
    here = os.open(folder, os.O_RDONLY)
    for _ in range(count):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)


@pytest.mark.parametrize("kind", ["hole", "deep", "small"])
def test_what_a_killed_harness_left_is_looked_through_or_removed(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file without end, or folders thousands deep, neither fill memory nor end the job."""
    monkeypatch.setenv("HF_TOKEN", SECRET)
    spec = make_spec()
    output = tmp_path / "output"
    output.mkdir()
    (output / "log").write_text(SECRET)
    if kind == "hole":
        (output / "data").touch()
        os.truncate(output / "data", 1 << 40)
    if kind == "deep":
        _nest(output, 3000)
    redact_interrupted(Run(RunPaths(tmp_path), spec, spec.digest()), tmp_path)
    left = {path.name for path in output.iterdir()}
    assert left == ({"log"} if kind == "small" else set())
    if kind == "small":
        assert (output / "log").read_text() == "*" * len(SECRET)
