"""The JSON that a run writes about itself, read back; a damaged file is named, not a traceback."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from evalhpc.core.identity import parse_json
from evalhpc.errors import IntegrityError
from evalhpc.storage.atomic import read_whole, storage_error

Record = TypeVar("Record", bound=BaseModel)


def read_record(path: Path, kind: type[Record]) -> Record:
    """The file as a `kind`; raises FileNotFoundError, StorageError, IntegrityError."""
    try:
        return kind.model_validate_json(_content(path))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        if first["type"] == "extra_forbidden" or first["loc"] == ("format_version",):
            raise _newer(path, ".".join(map(str, first["loc"]))) from error
        raise _damaged(path, first["msg"]) from error


def read_object(path: Path) -> dict[str, Any]:
    """The file as a JSON object; raises as `read_record`."""
    try:
        value = parse_json(_content(path))
    except ValueError as error:
        raise _damaged(path, str(error)) from error
    if not isinstance(value, dict):
        raise _damaged(path, "it holds no object")
    return value


def _content(path: Path) -> bytes:
    try:
        return read_whole(path)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise storage_error(path, error) from error


def _newer(path: Path, what: str) -> IntegrityError:
    return IntegrityError(
        f"{path} was written by another version of evalhpc: this one does not know its {what!r}",
        cause="a newer version went on with the run, or finished it",
        hint="use that version: certificate.json or provenance.json names it",
    )


def _damaged(path: Path, why: str) -> IntegrityError:
    return IntegrityError(
        f"{path} is damaged: {why}",
        cause="it was cut short or edited; evalhpc writes such files whole",
        hint=f"head -c 300 {path}  # restore it from a copy, or submit the run again",
    )
