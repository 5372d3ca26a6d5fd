"""`evalhpc node enter` with what the node has installed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from evalhpc import process
from evalhpc.workflow.node.enter import enter


class Replaced(Exception):
    """This process would now be another command."""


@pytest.mark.parametrize(
    ("installed", "started"),
    [
        (("apptainer", "singularity"), "apptainer"),
        (("singularity",), "singularity"),
        ((), "apptainer"),
    ],
)
def test_singularity_serves_where_there_is_no_apptainer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, installed: tuple[str, ...], started: str
) -> None:
    """By the same words; without either, the error names the one that is meant."""
    for name in installed:
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "image.sif").touch()
    monkeypatch.setenv("PATH", str(tmp_path))
    commands = []

    def replace(argv: Sequence[str], _: Mapping[str, str]) -> None:
        commands.append(list(argv))
        raise Replaced

    monkeypatch.setattr(process, "replace", replace)
    with pytest.raises(Replaced):
        enter("apptainer", tmp_path / "image.sif", ["true"], node_dir=str(tmp_path))
    assert commands[0][:2] == [started, "exec"]
    assert commands[0][-2:] == [str(tmp_path / "image.sif"), "true"]
