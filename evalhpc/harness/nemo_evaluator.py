"""NeMo Evaluator: its own results.yml, which has the schema of ours.

OUTPUT/results.yml, run_config.yml, eval_factory_metrics.json, and the harness's own files
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from evalhpc.core.results import HarnessOutput, Score, TaskScores
from evalhpc.errors import HarnessError
from evalhpc.harness.files import as_object, finite, is_finite, only_file, unknown_shape
from evalhpc.harness.lm_eval import samples_of


def read(output: Path) -> HarnessOutput:
    """What one run left in `output`; raises HarnessError unless every score is a number."""
    path = only_file(output, "results.yml", "nemo-evaluator")
    try:
        document = as_object(path, yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise HarnessError(f"cannot read {path}: {error}", hint=f"less {path}") from error
    try:
        return _parse(path, document)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise unknown_shape(path, "nemo-evaluator", error) from error


def _parse(path: Path, document: dict[str, Any]) -> HarnessOutput:
    results = document["results"]
    samples = samples_of(path.parent)
    counts = {task: file.read_bytes().count(b"\n") for task, file in samples.items()}
    parts = {
        kind: {
            name: _scores(path, name, entry, counts.get(name))
            for name, entry in (results.get(kind) or {}).items()
        }
        for kind in ("tasks", "groups")
    }
    if not any(parts.values()):
        raise HarnessError(f"{path} reports no task", hint=f"less {path}")
    versions = (document.get("metadata") or {}).get("versioning") or {}
    return HarnessOutput(
        harness="nemo-evaluator",
        version=str(versions.get("nemo-evaluator", "")),
        git_hash=document.get("git_hash"),
        tasks=parts["tasks"],
        groups=parts["groups"],
        config=dict(document["config"]),
        results=path,
        samples=dict(samples),
    )


def _scores(path: Path, name: str, entry: dict[str, Any], count: int | None) -> TaskScores:
    metrics: dict[str, Score] = {}
    for metric in entry["metrics"].values():
        for key, score in metric["scores"].items():
            stats = score.get("stats") or {}
            stderr = stats.get("stderr")
            count = stats.get("count") or count
            metrics[key] = Score(
                finite(path, name, key, score["value"]),
                float(stderr) if is_finite(stderr) else None,
            )
    return TaskScores(metrics, count)
