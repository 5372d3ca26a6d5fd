"""inspect-ai: reading its logs, one per task.

    OUTPUT/<date>_<task>_<id>.json   or .eval, a zip archive of header.json and samples/*.json

A task whose samples failed has a log too, with another status than `success`.
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

from evalhpc.core.results import HarnessOutput, Score, TaskScores
from evalhpc.errors import HarnessError
from evalhpc.harness.files import (
    MOST_RESULTS,
    as_object,
    finite,
    is_finite,
    load_object,
    sample_lines,
    unknown_shape,
)

#: What inspect-ai's own metrics make of a scorer's verdict.
_VERDICTS = {"C": 1.0, "P": 0.5, "I": 0.0, "N": 0.0}
_SAMPLE_FIELDS = ("id", "epoch", "input", "target", "messages", "output", "scores")


def read(output: Path) -> HarnessOutput:
    """What one run left in `output`; raises HarnessError unless every task came to its end."""
    logs = {path: _load(path) for path in sorted(output.iterdir()) if _is_log(path)}
    if not logs:
        raise HarnessError(
            f"inspect-ai wrote no log into {output}",
            cause="it found no task, or could not write",
            hint="read the harness's log",
        )
    tasks: dict[str, TaskScores] = {}
    samples: dict[str, Path | bytes] = {}
    for path, log in logs.items():
        try:
            name = str(log["eval"]["task"])
            if name in tasks:
                raise HarnessError(f"{output} holds more than one log of {name}: {path.name}")
            tasks[name] = _scores(path, name, log)
            samples[name] = sample_lines((_kept(s), _verdicts(s)) for s in _samples(path, log))
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise unknown_shape(path, "inspect-ai", error) from error
    first, log = next(iter(logs.items()))
    return HarnessOutput(
        harness="inspect-ai",
        version=str(log["eval"]["packages"]["inspect_ai"]),
        git_hash=None,
        tasks=tasks,
        groups={},
        config=dict(log["eval"]["config"]),
        results=first,
        samples=samples,
    )


def _is_log(path: Path) -> bool:
    return path.suffix in (".json", ".eval") and "_" in path.name


def _load(path: Path) -> dict[str, Any]:
    if path.suffix == ".json":
        return load_object(path)
    try:
        with zipfile.ZipFile(path) as archive:
            # A member is never read beyond the size that its entry says.
            if sum(entry.file_size for entry in archive.infolist()) > MOST_RESULTS:
                raise ValueError(f"it unpacks to more than {MOST_RESULTS} bytes")
            log = as_object(path, json.loads(archive.read("header.json")))
            names = [name for name in archive.namelist() if name.startswith("samples/")]
            log["samples"] = [json.loads(archive.read(name)) for name in names]
    except (OSError, ValueError, KeyError, RecursionError, zipfile.BadZipFile) as error:
        raise HarnessError(f"cannot read {path}: {error}", hint="read the harness's log") from error
    return log


def _scores(path: Path, task: str, log: dict[str, Any]) -> TaskScores:
    if log["status"] != "success":
        message = (log.get("error") or {}).get("message", "")
        raise HarnessError(
            f"{path}: the task {task} ended with status {log['status']}: {message}",
            cause="a sample failed",
            hint=f"inspect view --log-dir {path.parent}",
        )
    scorers = log["results"]["scores"]
    metrics: dict[str, Score] = {}
    for scorer in scorers:
        found = {name: metric["value"] for name, metric in scorer["metrics"].items()}
        stderr = found.pop("stderr", None)
        for name, value in found.items():
            key = name if len(scorers) == 1 else f"{scorer['name']}/{name}"
            metrics[key] = Score(
                finite(path, task, key, value), float(stderr) if is_finite(stderr) else None
            )
    if not metrics:
        raise HarnessError(f"{path} has no metric for {task}", hint=f"less {path}")
    count = max(int(scorer.get("scored_samples") or 0) for scorer in scorers)
    return TaskScores(metrics, count, version=str(log["eval"].get("task_version", "")))


def _samples(path: Path, log: dict[str, Any]) -> list[dict[str, Any]]:
    samples: list[dict[str, Any]] = log.get("samples") or []
    expected = log["results"]["total_samples"]
    if len(samples) != expected:
        raise HarnessError(
            f"{path} holds {len(samples)} samples; its results claim {expected}",
            cause="--no-log-samples, or an interrupted write",
            hint=f"less {path}",
        )
    return sorted(samples, key=lambda sample: (str(sample["id"]).zfill(12), sample["epoch"]))


def _kept(sample: dict[str, Any]) -> dict[str, Any]:
    return {field: sample.get(field) for field in _SAMPLE_FIELDS}


def _verdicts(sample: dict[str, Any]) -> dict[str, float]:
    scores = {name: score["value"] for name, score in (sample.get("scores") or {}).items()}
    known = {name: _VERDICTS.get(v, v) if isinstance(v, str) else v for name, v in scores.items()}
    return {name: float(value) for name, value in known.items() if isinstance(value, int | float)}
