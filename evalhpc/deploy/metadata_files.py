"""The small JSON and YAML files of a checkpoint, read within bounds and trusted in nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import yaml

from evalhpc.errors import ModelError

#: An index of 100 k tensors takes some 10 MB.
MAX_JSON = 32 * 1024 * 1024
MAX_YAML = 1024 * 1024


def read_json(path: Path) -> Any:
    """The JSON value of a file; raises ModelError when it is too large or no JSON."""
    try:
        return orjson.loads(_bounded(path, MAX_JSON))
    except orjson.JSONDecodeError as error:
        raise ModelError(
            f"{path} is not valid JSON: {error}",
            cause="a file that was cut, or edited by hand",
            hint=f"python -m json.tool {path}",
        ) from error


def read_mapping(path: Path) -> dict[str, Any]:
    """A JSON file that must hold an object; raises ModelError."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise ModelError(
            f"{path} holds no JSON object", cause="a damaged file", hint=f"head -c 300 {path}"
        )
    return value


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping of a YAML file, without any tag that would run code; raises ModelError."""
    try:
        value = yaml.safe_load(_bounded(path, MAX_YAML))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise ModelError(f"{path} is not plain YAML: {error}", hint=f"head {path}") from error
    return value if isinstance(value, dict) else {}


def whole_number(values: Any, *names: str) -> int | None:
    """The first of `names` in a mapping that holds a whole number of 63 bits."""
    for name in names:
        value = values.get(name) if isinstance(values, dict) else None
        if type(value) is int and 0 <= value < 1 << 63:
            return value
    return None


def text(values: Any, *names: str) -> str | None:
    """The first of `names` in a mapping that holds text."""
    for name in names:
        value = values.get(name) if isinstance(values, dict) else None
        if isinstance(value, str) and value:
            return value
    return None


def _bounded(path: Path, limit: int) -> bytes:
    with path.open("rb") as stream:
        data = stream.read(limit + 1)
    if len(data) > limit:
        raise ModelError(
            f"{path} is larger than {limit} bytes",
            cause="another file under this name",
            hint=f"ls -l {path}",
        )
    return data
