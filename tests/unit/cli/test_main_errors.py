"""What becomes of errors that no room has made one of ours."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import NoReturn

import pytest

from evalhpc.cli import main as entry
from evalhpc.errors import StorageError


def failing(number: int, *names: str) -> Callable[..., NoReturn]:
    def command(**_: object) -> NoReturn:
        raise OSError(number, os.strerror(number), *names)

    return command


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EDQUOT, errno.ENOTCONN])
def test_a_failing_file_system_is_no_bug_of_ours(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    """Wherever it fails, the cause and the next command are said, with storage's exit code."""
    monkeypatch.setattr(entry, "mask_streams", lambda _: None)
    monkeypatch.setattr(entry, "cli", failing(number, "/gpfs/run/plan"))
    with pytest.raises(SystemExit) as ended:
        entry.main()
    assert ended.value.code == StorageError.exit_code
    said = capsys.readouterr().err
    assert f"cannot use /gpfs/run/plan: {os.strerror(number)}" in said
    assert "likely cause: " in said
    assert "next: " in said


@pytest.mark.parametrize(("number", "names"), [(errno.ENOENT, ("/gpfs/run",)), (errno.EIO, ())])
def test_any_other_error_keeps_its_traceback(
    monkeypatch: pytest.MonkeyPatch, number: int, names: tuple[str, ...]
) -> None:
    """A file that is missing, or no file at all, is not the file system's fault."""
    monkeypatch.setattr(entry, "mask_streams", lambda _: None)
    monkeypatch.setattr(entry, "cli", failing(number, *names))
    with pytest.raises(OSError, match=os.strerror(number)):
        entry.main()
