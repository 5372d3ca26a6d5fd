"""A run's token: in the user's home, theirs alone, gone with the run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from evalhpc.paths import RunPaths
from evalhpc.workflow.record.run import Run
from evalhpc.workflow.record.tokens import drop_token, make_token, read_token
from tests.factories import make_spec


def test_a_token_is_a_private_file_outside_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the umask: 0600 in a folder of 0700; the run directory has only its name."""
    monkeypatch.setenv("HOME", str(tmp_path))
    spec = make_spec()
    run = Run(RunPaths(tmp_path / "run"), spec, spec.digest())
    run.paths.endpoints.mkdir(parents=True)
    before = os.umask(0)
    try:
        assert make_token(run)
    finally:
        os.umask(before)
    folder = tmp_path / ".local" / "state" / "evalhpc" / "tokens"
    (file,) = folder.iterdir()
    assert folder.stat().st_mode & 0o777 == 0o700
    assert file.stat().st_mode & 0o777 == 0o600
    token = read_token(run)
    assert len(token) == 48
    assert token not in "".join(p.read_text() for p in run.paths.root.rglob("*") if p.is_file())
    drop_token(run)
    assert list(folder.iterdir()) == []
