"""What is said of a run directory that cannot be read."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from evalhpc.errors import ConfigError, StorageError
from evalhpc.workflow.record.run import open_run


def test_a_run_file_that_cannot_be_read_is_not_called_edited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file system that fails is named as the cause, so that nobody throws the run away."""
    (tmp_path / "run.yaml").write_text("spec: [")

    def fails(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", fails)
        with pytest.raises(StorageError, match="Input/output error") as failed:
            open_run(tmp_path)
    assert failed.value.cause == "the storage or its network is failing"
    with pytest.raises(ConfigError) as edited:
        open_run(tmp_path)
    assert edited.value.cause.startswith("the file was edited")
