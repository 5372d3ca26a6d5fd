"""NeMo Evaluator: its own results.yml, which has the schema of ours.

OUTPUT/results.yml, run_config.yml, eval_factory_metrics.json, and the harness's own files
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from evalhpc.core.lines import lines_of
from evalhpc.core.results import HarnessOutput, Score, TaskScores
from evalhpc.errors import HarnessError
from evalhpc.harness.files import as_object, finite, is_finite, only_file, text_of, unknown_shape
from evalhpc.harness.lm_eval import samples_of

#: Characters of results.yml; PyYAML takes a second for a hundred thousand.
_MOST_TEXT = 4 << 20


def read(output: Path) -> HarnessOutput:
    """What one run left in `output`; raises HarnessError unless every score is a number."""
    path = only_file(output, "results.yml", "nemo-evaluator")
    try:
        document = as_object(path, _load(path))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise HarnessError(f"cannot read {path}: {error}", hint=f"less {path}") from error
    try:
        return _parse(path, document)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise unknown_shape(path, "nemo-evaluator", error) from error


def _load(path: Path) -> Any:
    """The YAML in it; raises ValueError where its aliases, written out, would fill the memory."""
    text = text_of(path)
    if len(text) > _MOST_TEXT or _size(yaml.compose(text, yaml.SafeLoader), {}) > _MOST_TEXT:
        raise ValueError(f"more than {_MOST_TEXT} characters or values: it is no list of scores")
    return yaml.safe_load(text)


def _size(node: Any, known: dict[int, int]) -> int:
    """Values of a node with its aliases written out; endless for one that stands in itself."""
    if id(node) not in known:
        known[id(node)] = _MOST_TEXT  # as long as it is open
        parts = node.value if isinstance(node, yaml.CollectionNode) else []
        if isinstance(node, yaml.MappingNode):
            parts = [part for pair in parts for part in pair]
        known[id(node)] = 1 + sum(_size(part, known) for part in parts)
    return known[id(node)]


def _count(samples: Path) -> int:
    with samples.open("rb") as file:
        return sum(1 for _ in lines_of(file))


def _parse(path: Path, document: dict[str, Any]) -> HarnessOutput:
    results = document["results"]
    samples = samples_of(path.parent)
    counts = {task: _count(file) for task, file in samples.items()}
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
