"""What readers of harness output share: JSON files, finite numbers, samples as JSON lines."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeGuard

from evalhpc.errors import HarnessError

#: Bytes of a file of results, which is read at once; logs with all samples have some hundred MB.
MOST_RESULTS = 1 << 30


def load_object(path: Path) -> dict[str, Any]:
    """The JSON object in `path`; raises HarnessError."""
    try:
        value = json.loads(text_of(path))
    except (OSError, ValueError, RecursionError) as error:
        raise HarnessError(
            f"cannot read {path}: {error}", cause="a full disk or an interrupted write",
            hint=f"df -h {path.parent}",
        ) from error  # fmt: skip
    return as_object(path, value)


def text_of(path: Path) -> str:
    """The UTF-8 text of a file of results; raises ValueError for a larger one than any is."""
    with path.open("rb") as file:
        data = file.read(MOST_RESULTS + 1)
    if len(data) > MOST_RESULTS:
        raise ValueError(f"it has more than {MOST_RESULTS} bytes")
    return data.decode("utf-8")


def as_object(path: Path, value: Any) -> dict[str, Any]:
    """`value`, read from `path`, if it is an object; else raises HarnessError."""
    if not isinstance(value, dict):
        raise HarnessError(f"{path} is not a JSON object", hint=f"less {path}")
    return value


def only_file(output: Path, pattern: str, harness: str) -> Path:
    """The one file below `output` that fits `pattern`; raises HarnessError for none or several."""
    found = sorted(output.rglob(pattern))
    if not found:
        raise HarnessError(
            f"{harness} wrote no {pattern} into {output}",
            cause="it failed, or it could not write",
            hint="read the harness's log",
        )
    if len(found) > 1:
        raise HarnessError(
            f"{output} holds results of {len(found)} runs: {', '.join(p.name for p in found)}",
            cause="an earlier run wrote into the same folder",
            hint="give each run an empty output folder",
        )
    return found[0]


def is_finite(value: Any) -> TypeGuard[float]:
    """Whether `value` is a number that a score can be; a boolean is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer of hundreds of digits
        return False


def finite(path: Path, name: str, key: str, value: Any) -> float:
    """`value` as a score of `name`; raises HarnessError for anything but a finite number."""
    if is_finite(value):
        return float(value)
    raise HarnessError(
        f"{path}: {name} has no number for {key}: {value!r}",
        cause="the metric is not defined for these answers, or none was scored",
        hint="see the samples that the harness wrote",
    )


def unknown_shape(path: Path, harness: str, error: Exception) -> HarnessError:
    """The error for results that lack what this reader looks for."""
    return HarnessError(
        f"{path} does not look like results of {harness}: {error!r}",
        cause="a version of the harness that this reader does not know",
        hint=f"less {path}",
    )


def sample_lines(samples: Iterable[tuple[Mapping[str, Any], Mapping[str, float]]]) -> bytes:
    """(what the harness wrote of a document, metric → value) as JSON lines, numbered from 0."""
    return b"".join(
        json.dumps({"doc_id": number, **sample, **metrics, "metrics": list(metrics)}).encode()
        + b"\n"
        for number, (sample, metrics) in enumerate(samples)
    )
