"""The pickle within a file of `torch.save`, as plain data; its tensors are not read."""

from __future__ import annotations

import io
import zipfile
import zlib
from pathlib import Path
from typing import Any, BinaryIO

from evalhpc.deploy import safe_pickle
from evalhpc.errors import ModelError

#: The pickle holds names and shapes; values lie beside it.
MAX_PICKLE = 64 * 1024 * 1024
_PICKLE = "/data.pkl"


def read_archive(path: Path) -> Any:
    """What `torch.save` wrote to `path`; raises ModelError."""
    with path.open("rb") as stream:
        return _read(stream, str(path))


def read_archive_bytes(data: bytes, source: str) -> Any:
    """What `torch.save` wrote into a buffer; raises ModelError, whose text names `source`."""
    return _read(io.BytesIO(data), source)


def _read(stream: BinaryIO, source: str) -> Any:
    try:
        with zipfile.ZipFile(stream) as archive:
            data = _pickle(archive, source)
    except (
        # All that zipfile raises for damaged, encrypted and unknown kinds of archives.
        EOFError,
        LookupError,
        NotImplementedError,
        RuntimeError,
        ValueError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise _damaged(source, str(error)) from error
    return safe_pickle.load(data, source)


def _pickle(archive: zipfile.ZipFile, source: str) -> bytes:
    entries = [entry for entry in archive.infolist() if entry.filename.endswith(_PICKLE)]
    if len(entries) != 1:
        raise _damaged(source, f"{len(entries)} entries are named data.pkl")
    size = entries[0].file_size
    if size > MAX_PICKLE or entries[0].compress_type != zipfile.ZIP_STORED:
        raise _damaged(source, f"a pickle of {size} bytes, or a compressed one")
    return archive.read(entries[0])


def _damaged(source: str, why: str) -> ModelError:
    return ModelError(
        f"{source} is no archive of torch.save: {why}",
        cause="a copy or a save that did not finish, or a file older than torch 1.6",
        hint="copy the file again, and compare its size with the original's",
    )
